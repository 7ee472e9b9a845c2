"""What training on a data set costs, beside training on the records it was made of.

Cost is counted in optimizer steps and in tokens computed over, padding included, for three ways to make batches. All
that the figures need of a corpus is how many rows there are of each length, and into how many sequences they pack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.errors import SettingsError, VerificationError
from mosaic_ray.io.manifest import read_manifest
from mosaic_ray.io.storage import Storage
from mosaic_ray.packing import pack
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.progress import Progress
from mosaic_ray.runtime.run import Run
from mosaic_ray.runtime.stock import kept_inventory
from mosaic_ray.runtime.task import TaskItem, TaskWork, task_item
from mosaic_ray.tokens import MiscountError

Histogram = npt.NDArray[np.int64]
"""(longest + 1,): the number of rows of each length in tokens."""

REGIMES: Final = ("padded_to_max", "padded_to_batch", "packed")
_REMEDY: Final = "'mosaic-ray verify' says what is wrong with the data set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """The rows of one epoch, or of one task in it, by length.

    packed: sequences of the maximum length that they fill, packed task by task.
    """

    histogram: Histogram
    packed: int

    @classmethod
    def of(cls, counts: npt.NDArray[np.integer], max_length: int) -> Lengths:
        """counts: (rows,), tokens of each. Raises SettingsError for one over ``max_length``."""
        return cls(histogram=np.bincount(counts).astype(np.int64), packed=len(pack(counts, max_length)))

    @property
    def rows(self) -> int:
        return int(self.histogram.sum())

    @property
    def tokens(self) -> int:
        return int(self.histogram @ np.arange(len(self.histogram)))

    def __add__(self, other: Lengths) -> Lengths:
        short, long = sorted((self.histogram, other.histogram), key=len)
        total = long.copy()
        total[: len(short)] += short
        return Lengths(histogram=total, packed=self.packed + other.packed)


@dataclass(frozen=True, slots=True)
class Regime:
    """One way to make batches.

    rows: that the trainer draws. steps: of the optimizer. computed: tokens that it computes over, padding included;
        where batches are drawn at random, the mean over all draws.
    """

    rows: int = 0
    steps: int = 0
    computed: float = 0.0

    def __add__(self, other: Regime) -> Regime:
        return Regime(self.rows + other.rows, self.steps + other.steps, self.computed + other.computed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expense:
    """What training on all epochs of one corpus costs.

    rows, tokens: without any padding.
    padded_to_max: every row padded to the maximum length.
    padded_to_batch: every row padded to the longest of its step; steps are drawn at random from an epoch. A trainer
        that pads each of many small batches of a step by itself pads less.
    packed: best-fit decreasing into sequences of the maximum length, each of which is padded to it. A trainer that
        computes over no padding has ``tokens`` instead.
    """

    rows: int
    tokens: int
    padded_to_max: Regime
    padded_to_batch: Regime
    packed: Regime


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Training on the records and on the data set, each for as many epochs as the data set has.

    batch_size: rows a step, over all ranks and accumulated batches; the last step of an epoch may have fewer.
    max_length: tokens a row or packed sequence may have.
    """

    batch_size: int
    max_length: int
    epochs: int
    records: Expense
    data_set: Expense

    def to_dict(self) -> dict[str, Any]:
        """As JSON. ``saved`` has shares of what the records cost; a negative one is a loss."""
        made = asdict(self)
        for side in (made["records"], made["data_set"]):
            for name in REGIMES:
                side[name]["computed"] = round(side[name]["computed"])
        made["saved"] = {
            "rows": saved(self.records.rows, self.data_set.rows),
            "tokens": saved(self.records.tokens, self.data_set.tokens),
            **{name: self._saved(name) for name in REGIMES},
        }
        return made

    def _saved(self, name: str) -> dict[str, float]:
        before, after = getattr(self.records, name), getattr(self.data_set, name)
        return {what: saved(getattr(before, what), getattr(after, what)) for what in ("rows", "steps", "computed")}


def saved(before: float, after: float) -> float:
    """The share of ``before`` that ``after`` does without; negative where it is more."""
    return 1.0 - after / before if before else 0.0


def expense(epochs: Sequence[Lengths], *, batch_size: int, max_length: int) -> Expense:
    """What training on these epochs costs, one after the other; no batch has rows of two epochs."""
    to_max = to_batch = packed = Regime()
    for epoch in epochs:
        steps = -(-epoch.rows // batch_size)
        to_max += Regime(epoch.rows, steps, epoch.rows * max_length)
        to_batch += Regime(epoch.rows, steps, expected_padded(epoch.histogram, batch_size))
        packed += Regime(epoch.packed, -(-epoch.packed // batch_size), epoch.packed * max_length)
    return Expense(
        rows=to_max.rows,
        tokens=sum(epoch.tokens for epoch in epochs),
        padded_to_max=to_max,
        padded_to_batch=to_batch,
        packed=packed,
    )


def expected_padded(histogram: Histogram, batch_size: int) -> float:
    """Tokens of an epoch whose batches are padded to their longest row, on average over all orders of its rows."""
    batches, rest = divmod(int(histogram.sum()), batch_size)
    full = batches * batch_size * expected_longest(histogram, batch_size) if batches else 0.0
    return full + (rest * expected_longest(histogram, rest) if rest else 0.0)


def expected_longest(histogram: Histogram, drawn: int) -> float:
    """The mean length of the longest of ``drawn`` rows, drawn at random without replacement.

    Exact: of n rows, F(t) have at most t tokens, and all that are drawn are among those with probability
    F(t) (F(t)-1) ... (F(t)-drawn+1) / (n (n-1) ... (n-drawn+1)). The mean is the sum over t >= 0 of the rest to one.
    """
    rows = int(histogram.sum())
    longest = int(np.flatnonzero(histogram)[-1])
    within = np.cumsum(histogram[:longest])
    chance = np.ones(longest)
    for taken in range(drawn):
        chance *= np.maximum(within - taken, 0) / (rows - taken)
    return float(np.sum(1.0 - chance))


@dataclass(frozen=True, slots=True)
class TaskLengths:
    """Of one task: the lengths of its usable records, and of its samples by epoch."""

    records: Lengths
    samples: dict[int, Lengths]


@dataclass(kw_only=True)
class CostWork:
    """Counts the records of a task again and reads the counts of its samples; run by an engine's workers."""

    work: TaskWork
    max_length: int

    def prepare(self) -> None:
        self.work.prepare()

    def __call__(self, item: TaskItem) -> TaskLengths:
        self.work.counter.start()
        try:
            loaded = self.work.load(item)
        except MiscountError:
            self.work.counter.start(whole=True)
            loaded = self.work.load(item)
        counts = np.array([record.tokens for record in (*loaded.plain, *loaded.whole)], dtype=np.int64)
        return TaskLengths(
            records=Lengths.of(counts, self.max_length),
            samples={
                part.epoch: Lengths.of(_token_counts(self.work.output, part.name), self.max_length)
                for part in item.parts
            },
        )


def _token_counts(output: Storage, name: str) -> npt.NDArray[np.int64]:
    """Of each row of a part, (rows,); nothing but that column is read."""
    try:
        # Without pre_buffer, which reads in a thread of its own: such threads can abort a process that is ending.
        with output.open_random(name) as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            column = parquet.read(columns=["token_count"], use_threads=False).column(0)
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise VerificationError(f"{output.uri(name)}: damaged ({error}). {_REMEDY}") from error
    return np.asarray(column.to_numpy(), dtype=np.int64)


def cost(run: Run, engine: Callable[[], Engine], *, batch_size: int, max_length: int | None = None) -> Cost:
    """What training on a finished run costs; its records are counted again, since their counts are kept nowhere.

    engine: called once the arguments are known to be sound. batch_size: rows a step of the optimizer. max_length: of
        the trainer; the run's ``max_tokens`` where None.

    Raises SettingsError for a ``max_length`` that the samples do not fit; VerificationError where records or samples
    are not those that the manifest counts; InputError where the source is gone or has changed.
    """
    budget = run.settings.max_tokens
    length = budget if max_length is None else max_length
    if length < budget:
        raise SettingsError(
            f"--max-length {length}: the samples were composed with up to {budget} tokens, and a trainer would cut the "
            f"longer ones. Give {budget} or more, or compose again with --max-tokens {length}"
        )
    totals = read_manifest(run.output)["totals"]
    plan = run.plan(kept_inventory(run))
    nothing = Lengths(histogram=np.zeros(1, np.int64), packed=0)
    records, samples = nothing, [nothing] * plan.epochs
    work = run.work(run.fingerprint(plan))
    work.staged = False
    counting = CostWork(work=work, max_length=length)
    items = (task_item(plan, spec) for spec in plan)
    with engine() as workers, Progress("cost", plan.tasks, unit="tasks") as progress:
        for done, (_, found) in enumerate(workers.map(counting, items, describe=str), 1):
            records += found.records
            for epoch, lengths in found.samples.items():
                samples[epoch] += lengths
            progress.update(done, f"{records.rows:,} records")
    made = Cost(
        batch_size=batch_size,
        max_length=length,
        epochs=plan.epochs,
        records=expense([records] * plan.epochs, batch_size=batch_size, max_length=length),
        data_set=expense(samples, batch_size=batch_size, max_length=length),
    )
    for what, name, counted in (
        ("samples", "samples", made.data_set.rows),
        ("tokens of samples", "tokens", made.data_set.tokens),
        ("records in them", "tiles", made.records.rows),
        ("tokens of these records", "tile_tokens", made.records.tokens),
    ):
        if totals[name] != counted:
            raise VerificationError(
                f"{run.output.uri()}: {counted:,} {what} were counted, and the manifest has {totals[name]:,}. {_REMEDY}"
            )
    return made
