"""From an inventory and settings to an ordered list of tasks. Pure, and blind to workers and methods.

**Mixing without a shuffle.** Corpora lie sorted by source, so a task must not be a stretch of one file. The input is
cut into cells of at most ``task_records / CELLS_PER_TASK`` records; all cells are put into one seeded order, and each
task takes the next few: about CELLS_PER_TASK pieces from anywhere in the corpus, which it then shuffles record by
record. Two records of a sample come from one cell with probability 1/CELLS_PER_TASK at most, which bounds how far this
can fall behind a perfect global shuffle.

**One task, all epochs.** A task reads and counts its records once and tiles them anew for every epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mosaic_ray.errors import SettingsError
from mosaic_ray.fingerprint import fingerprint
from mosaic_ray.io.cells import Cell, InputFile
from mosaic_ray.seeding import Key

CELLS_PER_TASK: Final = 64

TASK_BYTES: Final = 256 << 20
"""Tasks get smaller than ``task_records`` where records are so long that a task would hold more than about this."""


def cell_records(task_records: int) -> int:
    """The largest number of records a cell may hold."""
    return max(1, task_records // CELLS_PER_TASK)


class Part(NamedTuple):
    """One output file: what task ``task`` makes in epoch ``epoch``."""

    epoch: int
    task: int
    number: int
    name: str


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What one task reads: for each file (an index into the inventory, ascending) its cells in row order."""

    index: int
    cells: tuple[tuple[int, tuple[Cell, ...]], ...]

    @property
    def records(self) -> int:
        return sum(cell.records for _, cells in self.cells for cell in cells)


class Plan:
    """The tasks of a run, each made when asked for, so that a plan of millions of cells stays a few arrays."""

    def __init__(
        self, files: Sequence[InputFile], *, seed: int, epochs: int, task_records: int, world_size: int = 1
    ) -> None:
        """world_size: what the number of tasks is a multiple of. Raises SettingsError where some would be empty."""
        self.files = files
        self.epochs = epochs
        self._first_cell = np.cumsum([0, *(len(file.cells) for file in files)], dtype=np.int64)
        records = np.concatenate([np.empty(0, np.int32), *(file.cells.column("records") for file in files)])
        self.records = int(records.sum(dtype=np.int64))
        self.tasks = -(-_task_count(files, self.records, task_records) // world_size) * world_size
        self._order = Key(seed, "plan").permutation(len(records))
        self._bounds = _bounds(records[self._order], self.tasks)
        if world_size > 1 and not np.diff(self._bounds).all():
            raise SettingsError(
                f"world_size = {world_size}: an epoch would have {self.tasks} parts, some of them empty: the "
                f"{self.records} records of the input stand in {len(records)} cells of at most "
                f"{cell_records(task_records)}, which are not cut. Give fewer --task-records than {task_records}, or a "
                "smaller --world-size"
            )

    def __len__(self) -> int:
        return self.tasks

    def task(self, index: int) -> TaskSpec:
        chosen = np.sort(self._order[self._bounds[index] : self._bounds[index + 1]])
        files = np.searchsorted(self._first_cell, chosen, side="right") - 1
        groups = []
        for owner, start, count in zip(*np.unique(files, return_index=True, return_counts=True), strict=True):
            numbers = chosen[start : start + count] - self._first_cell[owner]
            groups.append((int(owner), self.files[owner].cells.pick(numbers)))
        return TaskSpec(index, tuple(groups))

    def __iter__(self) -> Iterator[TaskSpec]:
        return (self.task(index) for index in range(self.tasks))

    @property
    def cells(self) -> int:
        return len(self._order)

    def parts(self, task: int) -> list[Part]:
        return [self.part(epoch, task) for epoch in range(self.epochs)]

    def part(self, epoch: int, task: int) -> Part:
        """Parts are numbered epoch by epoch, so that reading them in order is training epoch after epoch."""
        number = epoch * self.tasks + task
        return Part(epoch, task, number, f"data/train-{number:05d}-of-{self.epochs * self.tasks:05d}.parquet")

    def number(self, name: str) -> int | None:
        """The number of the part of this name; None where the plan has no such part."""
        digits = name.removeprefix("data/train-").partition("-")[0]
        number = int(digits) if digits.isdecimal() else -1
        planned = 0 <= number < self.epochs * self.tasks and self.part(*divmod(number, self.tasks)).name == name
        return number if planned else None

    @cached_property
    def digest(self) -> str:
        """Of everything that decides which task reads what: what a resumed run must find unchanged."""
        return fingerprint([self.tasks, self.epochs, self.records, _array_digest(self._order, self._bounds)])


def _task_count(files: Sequence[InputFile], records: int, task_records: int) -> int:
    """Enough tasks for the records and for their bytes; a compressed or Parquet file counts four times its size."""
    size = sum(f.size * (4 if f.compression or f.format == "parquet" else 1) for f in files)
    return max(1, -(-records // task_records), -(-size // TASK_BYTES)) if records else 0


def _bounds(records: npt.NDArray[np.int32], tasks: int) -> npt.NDArray[np.int64]:
    """Where each task's stretch of ordered cells starts, so that all tasks have nearly equally many records.

    Task t of T takes the cells before which at least t/T and less than (t+1)/T of all records lie.
    """
    before = np.cumsum(records, dtype=np.int64) - records
    total = int(records.sum(dtype=np.int64))
    wanted = [-(-task * total // tasks) for task in range(tasks)]
    return np.append(np.searchsorted(before, wanted, side="left"), len(records)).astype(np.int64)


def _array_digest(*arrays: npt.NDArray[np.int64]) -> list[str]:
    return [hashlib.blake2b(array.astype("<i8", copy=False).data, digest_size=16).hexdigest() for array in arrays]
