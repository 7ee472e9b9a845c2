"""infra/monitoring as Prometheus' own tools see it, and held against the metrics that runs record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mosaic_ray.runtime.metrics import METRICS
from tests.conftest import ROOT
from tests.infra.monitoring import ALERTS, MONITORING, dashboard, expanded, mistakes, program, queries, rules

CASES = ROOT / "tests" / "infra" / "alerts.yml"
DAMAGE = {
    "a driver that died": (
        "last_over_time(ray_mosaic_ray_remaining_tasks[1h])) > 0",
        "ray_mosaic_ray_remaining_tasks) > 0",
    ),
    "the share of rejects": ("> 0.05", "> 0.09"),
    "retries for each task": ("50 + 10 *", "50 + 30 *"),
    "a run that has ended": ("and on (run) ray_mosaic_ray_remaining_tasks > 0", ""),
    "a metric": ("ray_mosaic_ray_workers", "ray_mosaic_ray_worker"),
}


def promtool(*arguments: str | Path) -> str:
    """What promtool says; fails where it does."""
    command = [program("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "config", MONITORING / "prometheus.yml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", CASES)


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    fired = {check["alertname"] for case in cases for check in case.get("alert_rule_test", ()) if check["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


@pytest.mark.parametrize(("old", "new"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_alert_is_noticed(tmp_path: Path, old: str, new: str) -> None:
    assert old in ALERTS.read_text()
    (tmp_path / "alerts.yml").write_text(ALERTS.read_text().replace(old, new))
    (tmp_path / "cases.yml").write_text(CASES.read_text().replace("../../infra/monitoring/", ""))
    with pytest.raises(AssertionError, match="FAILED"):
        promtool("test", "rules", tmp_path / "cases.yml")


def test_the_operator_gets_the_same_rules() -> None:
    custom = yaml.safe_load((MONITORING / "prometheusrule.yaml").read_text())
    assert (custom["apiVersion"], custom["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert custom["spec"] == yaml.safe_load(ALERTS.read_text())


def test_the_operator_scrapes_as_often_as_prometheus_does() -> None:
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    plain = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint == {"port": "metrics", "interval": plain["global"]["scrape_interval"]}


@pytest.mark.parametrize("rule", [rule for rule in rules() if "alert" in rule], ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_what_it_means_and_where_help_is(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("MosaicRay")
    assert re.fullmatch(r"[1-9]\d*m", rule["for"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    assert "{{ $labels.run }}" in rule["annotations"]["summary"]
    place, _, anchor = rule["annotations"]["runbook"].partition("#")
    page = (ROOT / place).read_text()
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]
    assert anchor in [*anchors, *re.findall(r'<a (?:id|name)="([^"]+)"', page)]


def test_queries_name_only_what_runs_record() -> None:
    asked = [*queries(dashboard()), *((rule.get("alert", ""), rule["expr"]) for rule in rules())]
    assert len(asked) > 20
    assert {where: mistakes(query) for where, query in asked if mistakes(query)} == {}


def test_every_metric_is_on_the_dashboard() -> None:
    asked = " ".join(query for _, query in queries(dashboard()))
    assert [metric.exported for metric in METRICS if not re.search(rf"\b{metric.exported}\b", asked)] == []


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("sum(ray_mosaic_ray_record_total)", ["ray_mosaic_ray_record_total"]),
        ('mosaic_ray_workers{state="busy"}', ["mosaic_ray_workers"]),
        ('ray_mosaic_ray_workers{status="busy"}', ["ray_mosaic_ray_workers{status}"]),
        ("sum by (run, reason) (ray_mosaic_ray_retries_total)", ["by (reason)"]),
        ("scalar(mosaic_ray:budget)", ["mosaic_ray:budget"]),
    ],
)
def test_a_damaged_query_is_noticed(query: str, wrong: list[str]) -> None:
    assert mistakes(query) == wrong


def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    asked = [expanded(query, run=".+") for _, query in queries(dashboard())]
    assert not [query for query in asked if "$" in query]
    made = [{"record": f"query{number}", "expr": query} for number, query in enumerate(asked)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": made}]}))
    promtool("check", "rules", file)
    broken = [{"record": "query", "expr": asked[0].removesuffix(")") + "("}]
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": broken}]}))
    with pytest.raises(AssertionError, match="parse error"):
        promtool("check", "rules", file)


def test_panels_are_told_apart_described_and_do_not_overlap() -> None:
    board = dashboard()
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["description"], panel["title"]
            sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
            assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert [variable["name"] for variable in board["templating"]["list"]] == ["datasource", "run"]


def test_prometheus_missing_is_a_failure_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(pytest.fail.Exception, match="apt-get install -y --no-install-recommends prometheus"):
        program("promtool")
