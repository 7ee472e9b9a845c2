"""Recording the metrics of a run: counts at every receipt, workers and what they cost every few seconds too."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Final, Self

from mosaic_ray.runtime import metrics
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.metrics import METRICS, RUN_CHARACTERS, Metric, Reading
from mosaic_ray.runtime.receipt import Receipt

LOOK_SECONDS: Final = 5.0
"""How often workers are counted: also while no task ends, which is when their number matters most."""


class Meter:
    """Tells the engine the figures of a run's tasks, inside a ``with`` block.

    run: the run's fingerprint. output: its address.
    tasks, done: tasks of the run, and those that were done before this process.
    retries: the requests that the driver made again, by cause, a mapping that grows; those of tasks are in receipts.
    """

    def __init__(
        self, engine: Engine, *, run: str, output: str, tasks: int, done: int, retries: Mapping[str, int]
    ) -> None:
        self._engine = engine
        self._labels = {"run": run[:RUN_CHARACTERS]}
        self._output = output
        self._tasks = tasks
        self._remaining = tasks - done
        self._retries = retries
        self._told: Counter[str] = Counter()
        self._looked = time.monotonic()
        self._looking = Lock()
        self._over = Event()
        self._thread = Thread(target=self._watch, name="meter", daemon=True)

    def __enter__(self) -> Self:
        counters = [metric for metric in METRICS if metric.kind == "counter"]
        self._engine.record(
            [
                *(self._reading(metric, 0, value) for metric in counters for value in metric.values or ("",)),
                self._reading(metrics.START_TIME, time.time(), self._output),
                self._reading(metrics.PLANNED_TASKS, self._tasks),
                self._reading(metrics.REMAINING_TASKS, self._remaining),
            ]
        )
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        # Gauges keep their last value for as long as the process lives, and it may still make views.
        self._engine.record([self._reading(metrics.WORKERS, 0, state) for state in metrics.WORKERS.values])

    def add(self, receipt: Receipt) -> None:
        """Count a task that has just ended."""
        self._remaining -= 1
        written = [*receipt.parts, *filter(None, [receipt.rejects_part])]
        counts = {
            metrics.TASKS: 1,
            metrics.RECORDS: receipt.records,
            metrics.SAMPLES: sum(part["rows"] for part in receipt.parts),
            metrics.TOKENS: sum(part["totals"]["tokens"] for part in receipt.parts),
            metrics.READ_BYTES: receipt.read_bytes,
            metrics.WRITTEN_BYTES: sum(part["bytes"] for part in written),
        }
        split: dict[Metric, Mapping[str, float]] = {
            metrics.REJECTS: receipt.rejects,
            metrics.RETRIES: receipt.retries,
            metrics.TASK_SECONDS: receipt.seconds,
        }
        self._engine.record(
            [
                *(self._reading(metric, value) for metric, value in counts.items()),
                *(self._reading(metric, value, name) for metric, by in split.items() for name, value in by.items()),
                self._reading(metrics.REMAINING_TASKS, self._remaining),
            ]
        )
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        with self._looking:
            workers, now = self._engine.workers, time.monotonic()
            elapsed, self._looked = now - self._looked, now
            retries = Counter(dict(self._retries))
            more, self._told = retries - self._told, retries
        states = {"busy": workers.busy, "idle": workers.alive - workers.busy, "pending": workers.pending}
        self._engine.record(
            [
                *(self._reading(metrics.WORKERS, count, state) for state, count in states.items()),
                *(self._reading(metrics.RETRIES, count, cause) for cause, count in more.items()),
                self._reading(metrics.WORKER_SECONDS, workers.alive * elapsed),
            ]
        )

    def _reading(self, metric: Metric, value: float, label: str = "") -> Reading:
        labels = self._labels if metric.label is None else {**self._labels, metric.label: label}
        return Reading(metric, value, labels)
