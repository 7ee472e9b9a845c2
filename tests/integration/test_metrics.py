"""A run on a cluster as Prometheus sees it: every figure held against the manifest, every query of ours asked."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from infra.local.servers import clean_environment, cluster, free_ports, serving, short_directory
from mosaic_ray.runtime.metrics import METRICS
from tests.conftest import job_command
from tests.infra.monitoring import copied, dashboard, expanded, program, queries, rules

OPTIONS = (
    "--tokenizer",
    "embedded",
    "--task-records",
    "256",
    "--max-tokens",
    "512",
    "--epochs",
    "30",
    "--workers",
    "1",
)
AT_THE_END = {"RAY_metrics_report_interval_ms": "600000"}
"""A process with this hands its figures over when it leaves the cluster, and never before."""

Label = tuple[str, ...]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, f"90 s, and not yet: {what}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Prometheus:
    address: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = requests.get(f"{self.address}/api/v1/{path}", params=parameters, timeout=30).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, query: str, *, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of each series. at: the time, in seconds since 1970."""
        moment = {} if at is None else {"time": str(at)}
        data = self.ask("query", query=query, **moment)
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(entry["metric"], float(entry["value"][1])) for entry in data["result"]]

    def total(self, query: str) -> float:
        return sum(value for _, value in self.query(query))


@dataclass(frozen=True)
class Watched:
    """A run that went through, and whose lost parts a second process then made again.

    amid, ended: times while the first process was at work, and after the second had left.
    redone: receipts of the tasks of the second.
    """

    prometheus: Prometheus
    manifest: dict[str, Any]
    receipts: list[dict[str, Any]]
    redone: list[dict[str, Any]]
    amid: float
    ended: float

    def values(self, exported: str, process: int) -> dict[Label, float]:
        """What the first or the second process had told of a figure in the end, by its further label."""
        (metric,) = [metric for metric in METRICS if metric.exported == exported]
        found = self.prometheus.query(f"last_over_time({exported}[10m])", at=self.ended)
        assert all(labels["run"] == self.manifest["run"][:12] for labels, _ in found)
        processes = sorted({labels["WorkerId"] for labels, _ in found})
        assert len(processes) == 2  # Ray numbers jobs as they come
        return {
            tuple(labels[name] for name in metric.labels[1:]): value
            for labels, value in found
            if labels["WorkerId"] == processes[process]
        }

    def counts(self, exported: str, process: int) -> dict[str, float]:
        """The same of a counter with a further label, without zeros."""
        return {label: value for (label,), value in self.values(exported, process).items() if value}


@pytest.fixture(scope="module")
def watched(corpus: Path) -> Iterator[Watched]:
    (web,) = free_ports(1)
    with ExitStack() as running:
        home, folder = (running.enter_context(short_directory()) for _ in range(2))
        # A gauge stays for two report intervals of the node, here until all is asked.
        head = running.enter_context(cluster(home, {**clean_environment(), **AT_THE_END}, head_cpus=2))
        config = copied(folder, discovery=head.folder / "prom_metrics_service_discovery.json", interval="1s")
        listen = [
            f"--config.file={config}",
            f"--web.listen-address=127.0.0.1:{web}",
            f"--storage.tsdb.path={folder}/data",
        ]
        command = [program("prometheus"), *listen]
        running.enter_context(serving("prometheus", command, environment=os.environ, log=folder / "log"))
        prometheus = Prometheus(f"http://127.0.0.1:{web}")
        until(lambda: ready(prometheus), "Prometheus answers")

        output = folder / "out"
        command = job_command("--input", str(corpus), "--output", str(output), *OPTIONS)
        joined = {**head.environment, "RAY_ADDRESS": (head.folder / "ray_current_cluster").read_text().strip()}
        first = subprocess.Popen(
            command, env={**joined, "RAY_metrics_report_interval_ms": "1000"}, stderr=subprocess.PIPE, text=True
        )
        until(lambda: prometheus.total("rate(ray_mosaic_ray_tasks_total[1m])") > 0, "a task has ended")
        amid = time.time()
        _, said = first.communicate(timeout=120)
        assert first.returncode == 0, said

        manifest = json.loads((output / "manifest.json").read_bytes())
        receipts = [json.loads(path.read_bytes()) for path in sorted((output / "_mosaic/receipts").iterdir())]
        for receipt in receipts[1:3]:
            (output / receipt["parts"][0]["name"]).unlink()
        second = subprocess.run(
            command, env={**joined, **AT_THE_END}, capture_output=True, text=True, timeout=120, check=False
        )
        assert second.returncode == 0, second.stderr
        assert json.loads((output / "manifest.json").read_bytes())["dataset_digest"] == manifest["dataset_digest"]
        redone = [json.loads((output / f"_mosaic/receipts/task-{n:05d}.json").read_bytes()) for n in (1, 2)]
        until(lambda: len(prometheus.query("ray_mosaic_ray_tasks_total")) == 2, "the second process is seen")
        yield Watched(prometheus, manifest, receipts, redone, amid, time.time())


def ready(prometheus: Prometheus) -> bool:
    try:
        return requests.get(f"{prometheus.address}/-/ready", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_every_figure_is_there_with_its_labels(watched: Watched) -> None:
    for metric in METRICS:
        for process in (0, 1):
            labels = set(watched.values(metric.exported, process))
            assert labels, metric.exported
            assert not metric.values or labels == {(value,) for value in metric.values}


def test_the_first_process_told_what_the_manifest_says(watched: Watched) -> None:
    manifest, totals = watched.manifest, watched.manifest["totals"]
    parts = [*manifest["parts"], *manifest["rejects"]["parts"]]
    assert {name: watched.values(f"ray_mosaic_ray_{name}", 0)[()] for name in (
        "tasks_total", "records_total", "samples_total", "tokens_total", "read_bytes_total", "written_bytes_total",
        "planned_tasks", "remaining_tasks",
    )} == {
        "tasks_total": manifest["plan"]["tasks"],
        "records_total": manifest["accounting"]["records"],
        "samples_total": totals["samples"],
        "tokens_total": totals["tokens"],
        "read_bytes_total": sum(receipt["read_bytes"] for receipt in watched.receipts),
        "written_bytes_total": sum(part["bytes"] for part in parts),
        "planned_tasks": manifest["plan"]["tasks"],
        "remaining_tasks": 0,
    }  # fmt: skip
    assert watched.counts("ray_mosaic_ray_rejects_total", 0) == manifest["rejects"]["by_reason"]
    assert len(manifest["rejects"]["by_reason"]) == 3
    assert watched.counts("ray_mosaic_ray_retries_total", 0) == manifest["retries"]
    spent = watched.counts("ray_mosaic_ray_task_seconds_total", 0)
    assert spent == pytest.approx(manifest["created"]["worker_seconds"], abs=0.1)
    held = watched.values("ray_mosaic_ray_worker_seconds_total", 0)[()]
    assert sum(spent.values()) * 0.5 < held < manifest["created"]["seconds"]
    began = watched.values("ray_mosaic_ray_start_time_seconds", 0)[manifest["places"]["output"],]
    assert watched.amid - 90 < began < watched.amid


def test_the_second_told_what_itself_had_done_and_lost_nothing_of_it(watched: Watched) -> None:
    """Though it handed its figures over only when it left."""
    assert watched.values("ray_mosaic_ray_tasks_total", 1)[()] == 2
    for name in ("records", "read_bytes"):
        assert watched.values(f"ray_mosaic_ray_{name}_total", 1)[()] == sum(entry[name] for entry in watched.redone)
    parts = [part for receipt in watched.redone for part in receipt["parts"]]
    assert watched.values("ray_mosaic_ray_samples_total", 1)[()] == sum(part["rows"] for part in parts)
    assert watched.values("ray_mosaic_ray_remaining_tasks", 1)[()] == 0


def test_prometheus_evaluates_every_rule(watched: Watched) -> None:
    until(lambda: all(rule["health"] == "ok" for rule in evaluated(watched.prometheus)), "the rules are evaluated")
    assert sorted(rule["name"] for rule in evaluated(watched.prometheus)) == sorted(
        str(rule.get("alert") or rule["record"]) for rule in rules()
    )
    assert watched.prometheus.ask("alerts")["alerts"] == []


def evaluated(prometheus: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", [rule for rule in rules() if "alert" in rule], ids=lambda rule: str(rule["alert"]))
def test_what_an_alert_compares_is_there(rule: dict[str, Any], watched: Watched) -> None:
    """At work, the left side of its comparison has a value for the run."""
    left = rule["expr"].partition(">")[0]
    assert left != rule["expr"]
    (found,) = watched.prometheus.query(left, at=watched.amid)
    assert found[0] == {"run": watched.manifest["run"][:12]}


@pytest.mark.parametrize("number", range(len(queries(dashboard()))), ids=lambda n: queries(dashboard())[n][0])
def test_every_query_of_the_dashboard_has_an_answer(number: int, watched: Watched) -> None:
    query = expanded(queries(dashboard())[number][1], run=".+")
    found = watched.prometheus.query(query, at=watched.amid)
    if "rejects_total" not in query:  # the file with the rejects may still be to come
        assert found, query
    assert watched.prometheus.query(query, at=watched.ended), query


def test_the_dashboard_is_right_at_the_end(watched: Watched) -> None:
    def shown(title: str, at: float) -> float:
        query = next(expr for where, expr in queries(dashboard()) if where == title)
        ((_, value),) = watched.prometheus.query(expanded(query, run=watched.manifest["run"][:12]), at=at)
        return value

    assert shown("Alerts", watched.ended) == 0
    assert 0 < shown("Progress", watched.amid) < 1
    assert shown("Progress", watched.ended) == 1
    assert 0 < shown("Time left", watched.amid) < 600
    rejected = watched.manifest["rejects"]["records"] / watched.manifest["accounting"]["records"]
    assert shown("Rejected", watched.ended) == pytest.approx(rejected, rel=0.5)
    assert 0 < shown("Budget spent", watched.ended) < 0.01
