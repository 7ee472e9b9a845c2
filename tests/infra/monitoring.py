"""Prometheus' programs, and the queries of infra/monitoring held against the list of metrics."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from mosaic_ray.runtime.metrics import METRICS
from tests.conftest import ROOT

MONITORING: Final = ROOT / "infra" / "monitoring"
ALERTS: Final = MONITORING / "alerts.yml"
DASHBOARD: Final = MONITORING / "grafana-dashboard.json"

_NAME: Final = re.compile(r"\b(?:ray_)?mosaic_ray[_:]\w+")
_SELECTOR: Final = re.compile(r"\b(ray_mosaic_ray_\w+)(?:\{([^}]*)\})?")
_LABEL: Final = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_GROUPING: Final = re.compile(r"\bby \(([^)]*)\)")
_VARIABLES: Final = {"$__rate_interval": "1m", "$__range": "10m"}
"""What Grafana puts in for a dashboard of the last ten minutes."""


def program(name: str) -> str:
    """The path of ``prometheus`` or ``promtool``."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: apt-get install -y --no-install-recommends prometheus", pytrace=False)
    return found


def rules() -> list[dict[str, Any]]:
    """The recording rules and alerts."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def queries(board: dict[str, Any]) -> list[tuple[str, str]]:
    """Every query of a dashboard, with the title of its panel."""
    return [(panel["title"], target["expr"]) for panel in board["panels"] for target in panel.get("targets", ())]


def expanded(query: str, *, run: str) -> str:
    """A query of the dashboard as Grafana sends it, for this choice of runs."""
    for variable, value in {**_VARIABLES, "$run": run}.items():
        query = query.replace(variable, value)
    return query


def mistakes(query: str) -> list[str]:
    """Names and labels in a query that no metric and no recording rule has."""
    metrics = {metric.exported: metric for metric in METRICS}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    found = [name for name in _NAME.findall(query) if name not in metrics and name not in recorded]
    used = [(metrics[name], matchers) for name, matchers in _SELECTOR.findall(query) if name in metrics]
    for metric, matchers in used:
        found += [f"{metric.exported}{{{name}}}" for name in _LABEL.findall(matchers) if name not in metric.labels]
    known = {label for metric, _ in used for label in metric.labels}
    grouped = [name.strip() for names in _GROUPING.findall(query) for name in names.split(",")]
    return [*found, *(f"by ({name})" for name in grouped if name not in known)]


def copied(folder: Path, *, discovery: Path, interval: str) -> Path:
    """prometheus.yml and alerts.yml in a folder, for the cluster that writes ``discovery``; the first one's path."""
    text = (MONITORING / "prometheus.yml").read_text()
    for old, new in {
        "/tmp/ray/prom_metrics_service_discovery.json": str(discovery),
        "_interval: 10s": f"_interval: {interval}",
    }.items():
        assert old in text
        text = text.replace(old, new)
    shutil.copy(ALERTS, folder)
    (folder / "prometheus.yml").write_text(text)
    return folder / "prometheus.yml"
