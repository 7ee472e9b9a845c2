"""What a run tells a monitoring system while it goes on: every figure's name, unit, labels and meaning, as data.

The recording rules, alerts and the dashboard of ``infra/monitoring`` are held against this list by the tests. Names
follow the conventions of Prometheus (https://prometheus.io/docs/practices/naming/); Ray puts ``ray_`` in front.

Every figure has the label ``run``, the first RUN_CHARACTERS of the run's fingerprint. Counters count what this process
did, never what an earlier one had done, so the sum over all processes of a run is right however often it was resumed.
They cover the tasks: neither the inventory before them nor further views after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from mosaic_ray.io.failures import CAUSES
from mosaic_ray.records import REASONS

RUN_CHARACTERS: Final = 12

PHASES: Final = ("load", "compose", "write")
"""Of a task, as its receipt names them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One figure.

    label: the label it has beside ``run``, if any. values: all that may have, where they are known: a counter begins
        at 0 for each of them, since a monitoring system sees only the steps after the first value.
    """

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    label: str | None = None
    values: tuple[str, ...] = ()

    @property
    def exported(self) -> str:
        """The name under which Prometheus has it."""
        return f"ray_{self.name}"

    @property
    def labels(self) -> tuple[str, ...]:
        return ("run",) if self.label is None else ("run", self.label)


class Reading(NamedTuple):
    """A value of a figure: what to add to a counter, what to set a gauge to. labels: a value for each label."""

    metric: Metric
    value: float
    labels: Mapping[str, str]


TASKS: Final = Metric(
    name="mosaic_ray_tasks_total", kind="counter", unit="tasks", description="Tasks finished, each with all its epochs."
)
RECORDS: Final = Metric(
    name="mosaic_ray_records_total",
    kind="counter",
    unit="records",
    description="Records read, the rejected among them.",
)
REJECTS: Final = Metric(
    name="mosaic_ray_rejects_total",
    kind="counter",
    unit="records",
    description="Records that could not be used, by reason.",
    label="reason",
    values=tuple(REASONS),
)
SAMPLES: Final = Metric(
    name="mosaic_ray_samples_total", kind="counter", unit="samples", description="Samples written, over all epochs."
)
TOKENS: Final = Metric(
    name="mosaic_ray_tokens_total", kind="counter", unit="tokens", description="Tokens of the samples written."
)
READ_BYTES: Final = Metric(
    name="mosaic_ray_read_bytes_total",
    kind="counter",
    unit="bytes",
    description="Bytes that tasks read from stores, those of staged copies and of second readings among them.",
)
WRITTEN_BYTES: Final = Metric(
    name="mosaic_ray_written_bytes_total",
    kind="counter",
    unit="bytes",
    description="Bytes of the parts and of the files of rejects that tasks wrote.",
)
RETRIES: Final = Metric(
    name="mosaic_ray_retries_total",
    kind="counter",
    unit="requests",
    description="Requests to stores that had to be made again, by cause; of the driver too.",
    label="cause",
    values=CAUSES,
)
TASK_SECONDS: Final = Metric(
    name="mosaic_ray_task_seconds_total",
    kind="counter",
    unit="seconds",
    description="Seconds that workers spent in tasks that finished, by phase.",
    label="phase",
    values=PHASES,
)
WORKER_SECONDS: Final = Metric(
    name="mosaic_ray_worker_seconds_total",
    kind="counter",
    unit="seconds",
    description="Seconds that ready workers were held, idle ones too: what the run costs.",
)
PLANNED_TASKS: Final = Metric(
    name="mosaic_ray_planned_tasks", kind="gauge", unit="tasks", description="Tasks of the whole run."
)
REMAINING_TASKS: Final = Metric(
    name="mosaic_ray_remaining_tasks", kind="gauge", unit="tasks", description="Tasks of the run that are not done yet."
)
WORKERS: Final = Metric(
    name="mosaic_ray_workers",
    kind="gauge",
    unit="workers",
    description="Workers by state: busy, idle, or pending, which is asked for and not ready yet.",
    label="state",
    values=("busy", "idle", "pending"),
)
START_TIME: Final = Metric(
    name="mosaic_ray_start_time_seconds",
    kind="gauge",
    unit="seconds",
    description="When this process began with the run's tasks, in seconds since 1970; output says where it writes.",
    label="output",
)

METRICS: Final = (
    TASKS,
    RECORDS,
    REJECTS,
    SAMPLES,
    TOKENS,
    READ_BYTES,
    WRITTEN_BYTES,
    RETRIES,
    TASK_SECONDS,
    WORKER_SECONDS,
    PLANNED_TASKS,
    REMAINING_TASKS,
    WORKERS,
    START_TIME,
)
