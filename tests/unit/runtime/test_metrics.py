"""What a run tells its engine of itself, and that it counts what this process did and nothing else."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from mosaic_ray.config import job_from
from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.errors import InputError
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.traffic import bytes_read
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.runtime import metering
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.engine import InProcessEngine, Workers
from mosaic_ray.runtime.metering import Meter
from mosaic_ray.runtime.metrics import METRICS, Reading
from mosaic_ray.runtime.receipt import Receipt
from mosaic_ray.runtime.stats import Totals
from tests.conftest import write_jsonl

RUN = "v1:0123456789abcdef"


class Listening(InProcessEngine):
    """An engine that keeps what it is told: the sum of a counter, the last value of a gauge, by name and label."""

    def __init__(self, *, busy: int = 0, alive: int = 0, pending: int = 0) -> None:
        super().__init__()
        self.values: dict[tuple[str, ...], float] = Counter()
        self.now = Workers(busy, alive, pending)

    @property
    def workers(self) -> Workers:
        return self.now

    def record(self, readings: Iterable[Reading]) -> None:
        for metric, value, labels in readings:
            assert set(labels) == set(metric.labels)
            assert labels["run"] == "v1:012345678"
            key = (metric.name.removeprefix("mosaic_ray_"), *(labels[name] for name in metric.labels[1:]))
            self.values[key] = value + (self.values[key] if metric.kind == "counter" else 0)

    def told(self) -> dict[tuple[str, ...], float]:
        """Without zeros."""
        return {key: value for key, value in self.values.items() if value}


def receipt(task: int, **fields: Any) -> Receipt:
    made: dict[str, Any] = {
        "records": 10, "whole": 0, "trimmed": 0, "escaped": 0, "rejects": {}, "parts": [part(3, 40, 900)],
        "rejects_part": None, "read_bytes": 700, "seconds": {"load": 2.0, "compose": 1.0, "write": 0.5},
    }  # fmt: skip
    return Receipt(task=task, run=RUN, inputs=[], **{**made, **fields})


def part(rows: int, tokens: int, size: int) -> dict[str, Any]:
    totals = Totals(samples=rows, tokens=tokens).to_dict()
    return {"name": "p", "rows": rows, "bytes": size, "sha256": "", "content_digest": "", "epoch": 0, "totals": totals}


def meter(engine: Listening, *, tasks: int = 5, done: int = 2, retries: Counter[str] | None = None) -> Meter:
    return Meter(engine, run=RUN, output="s3://sets/v1", tasks=tasks, done=done, retries=retries or Counter())


def test_names_follow_the_conventions_of_prometheus() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"mosaic_ray(_[a-z]+)+", metric.name)
        assert metric.exported == f"ray_{metric.name}"
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.description.endswith(".")
        if metric.unit in ("seconds", "bytes"):
            assert metric.name.removesuffix("_total").endswith(f"_{metric.unit}")
        if metric.label is not None and metric.kind == "counter":
            assert metric.values, f"{metric.name} would begin above 0"


def test_every_counter_begins_at_zero_for_each_of_its_labels() -> None:
    engine = Listening()
    with meter(engine):
        pass
    expected = {
        (metric.name.removeprefix("mosaic_ray_"), *label)
        for metric in METRICS
        if metric.kind == "counter"
        for label in ([(value,) for value in metric.values] or [()])
    }
    assert expected <= engine.values.keys()
    assert engine.told().keys() == {("planned_tasks",), ("remaining_tasks",), ("start_time_seconds", "s3://sets/v1")}


def test_receipts_are_counted_and_those_of_earlier_processes_are_not() -> None:
    engine = Listening()
    before = time.time()
    with meter(engine) as counting:
        counting.add(receipt(2, rejects={"not_json": 2, "overlong": 1}, rejects_part=part(3, 0, 50)))
        counting.add(receipt(4, retries={"throttled": 4}, parts=[part(3, 40, 900), part(4, 60, 1000)]))
    told = engine.told()
    assert before <= told.pop(("start_time_seconds", "s3://sets/v1")) <= time.time()
    assert told == {
        ("tasks_total",): 2,
        ("records_total",): 20,
        ("rejects_total", "not_json"): 2,
        ("rejects_total", "overlong"): 1,
        ("samples_total",): 10,
        ("tokens_total",): 140,
        ("read_bytes_total",): 1400,
        ("written_bytes_total",): 900 + 50 + 900 + 1000,
        ("retries_total", "throttled"): 4,
        ("task_seconds_total", "load"): 4,
        ("task_seconds_total", "compose"): 2,
        ("task_seconds_total", "write"): 1,
        ("planned_tasks",): 5,
        ("remaining_tasks",): 1,
    }


def test_workers_and_their_cost_are_told_while_no_task_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "LOOK_SECONDS", 0.01)
    engine = Listening(busy=2, alive=3, pending=4)
    retries = Counter({"timeout": 5})
    started = time.monotonic()
    with meter(engine, retries=retries):
        until(lambda: engine.values["worker_seconds_total",] > 0.3)
        assert [engine.values["workers", state] for state in ("busy", "idle", "pending")] == [2, 1, 4]
        retries["timeout"] += 2
        until(lambda: engine.values["retries_total", "timeout"] == 7)
        engine.now = Workers(busy=0, alive=0, pending=0)
        spent = time.monotonic() - started
    assert 0.3 < engine.values["worker_seconds_total",] <= 3 * spent
    assert engine.values["retries_total", "timeout"] == 7
    assert ("workers", "busy") not in engine.told()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_run_that_fails_tells_what_was_done_and_what_is_left() -> None:
    engine = Listening(busy=1, alive=1)
    with pytest.raises(InputError), meter(engine) as counting:  # noqa: PT012
        counting.add(receipt(3))
        raise InputError("the input has gone")
    assert engine.values["tasks_total",] == 1
    assert engine.values["remaining_tasks",] == 2
    assert engine.values["workers", "busy"] == 0


def test_bytes_are_counted_however_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(200)))
    storage = Storage.at(str(tmp_path), error=InputError)
    before = bytes_read()
    storage.read("file")
    assert bytes_read() - before == 200
    storage.read_ranges("file", [(0, 10), (10, 20), (150, 300)])
    assert bytes_read() - before == 270
    with storage.open("file") as file:
        assert len(file.read(30)) == 30
    with storage.open_random("file") as file:
        file.seek(190)
        assert file.readinto(bytearray(40)) == 10
    assert bytes_read() - before == 310


def test_a_task_says_how_much_it_read(tmp_path: Path) -> None:
    """Of plain lines it is each byte once; a receipt of before this was counted says 0."""
    rows = [{"prompt": f"Count to {n}.", "completion": str(n)} for n in range(300)]
    size = write_jsonl(tmp_path / "in" / "a.jsonl", rows).stat().st_size
    places = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "tokenizer": str(tokenizer_path())}
    run_job(job_from({**places, "task_records": 128}, MosaicMethod), InProcessEngine, finish=lambda *_: None)
    receipts = [json.loads(path.read_bytes()) for path in (tmp_path / "out/_mosaic/receipts").iterdir()]
    assert len(receipts) == 3
    assert sum(entry["read_bytes"] for entry in receipts) == size
    del receipts[0]["read_bytes"]
    assert Receipt.from_json(json.dumps(receipts[0]).encode()).read_bytes == 0
