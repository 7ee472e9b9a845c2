"""What is done: receipts in the output, and their sum.

A ledger only grows. It keeps one line of a table for each part and folds the rest into totals, so that a driver of a
hundred thousand tasks stays small.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mosaic_ray.errors import RejectShareError, StorageError, TaskError
from mosaic_ray.io.manifest import Entries
from mosaic_ray.io.storage import Storage
from mosaic_ray.records import REASONS
from mosaic_ray.runtime.plan import Plan
from mosaic_ray.runtime.receipt import RECEIPTS, Receipt, receipt_path
from mosaic_ray.runtime.stats import Totals

_READERS: Final = 16
_PART: Final = np.dtype(
    [("rows", "i8"), ("bytes", "i8"), ("sha256", "S64"), ("content_digest", "S40"), ("tokens", "i8"), ("there", "?")]
)
"""What is kept of a part; its name, epoch and task follow from its number."""
_REJECTS_FIELDS: Final = ("name", "rows", "bytes", "sha256", "content_digest")
_READ_AT_ONCE: Final = 1024
"""Receipts: what is read ahead of the counting stays in memory."""


class Ledger:
    """The receipts of one run.

    run: the run's fingerprint; a receipt of another run is never counted.
    """

    def __init__(self, plan: Plan, *, run: str, max_reject_share: float) -> None:
        self.run = run
        self.done: set[int] = set()
        self.records = self.rejected = self.whole = self.trimmed = self.escaped = 0
        self.rejects: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.totals = [Totals() for _ in range(plan.epochs)]
        self.seconds: dict[str, float] = {}
        self.slowest: list[tuple[float, int]] = []
        self._plan = plan
        self._share = max_reject_share
        # Of the share as it is written: 0.57 of 100 records is 57, while the product of the floats is less.
        self._allowed = int(Fraction(str(max_reject_share)) * plan.records)
        self._parts = np.zeros(plan.epochs * plan.tasks, dtype=_PART)
        self._rejects_parts: dict[int, tuple[Any, ...]] = {}

    def add(self, receipt: Receipt) -> None:
        """Count a receipt. Raises RejectShareError once more records are rejected than the whole run may have."""
        self.done.add(receipt.task)
        self.records += receipt.records
        self.rejected += receipt.rejected
        self.whole += receipt.whole
        self.trimmed += receipt.trimmed
        self.escaped += receipt.escaped
        self.rejects.update(receipt.rejects)
        self.retries.update(receipt.retries)
        for name, value in receipt.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        self.slowest = sorted([*self.slowest, (sum(receipt.seconds.values()), receipt.task)], reverse=True)[:10]
        for part in receipt.parts:
            self.totals[part["epoch"]].merge(part["totals"])
            number = self._plan.part(part["epoch"], receipt.task).number
            tokens = part["totals"]["tokens"]
            self._parts[number] = (part["rows"], part["bytes"], part["sha256"], part["content_digest"], tokens, True)
        if receipt.rejects_part is not None:
            self._rejects_parts[receipt.task] = tuple(receipt.rejects_part[name] for name in _REJECTS_FIELDS)
        if self.rejected > self._allowed:
            raise RejectShareError(self._too_many())

    def resume(self, output: Storage) -> None:
        """Count every receipt of this run whose parts are all in place."""
        sizes = np.full(len(self._parts), -1)
        for path, info in output.listing("data"):
            number = self._plan.number(path)
            if number is not None:
                sizes[number] = info.size
        rejects = {path: info.size for path, info in output.listing("rejects")}
        paths = (path for path, _ in output.listing(RECEIPTS))
        with ThreadPoolExecutor(_READERS) as pool:
            while batch := list(islice(paths, _READ_AT_ONCE)):
                for data in pool.map(output.read, batch):
                    receipt = _receipt(data)
                    if receipt is not None and receipt.run == self.run and self._in_place(receipt, sizes, rejects):
                        self.add(receipt)

    def _in_place(self, receipt: Receipt, sizes: npt.NDArray[np.int64], rejects: Mapping[str, int]) -> bool:
        """sizes: of the parts that are there, by number."""
        parts = {self._plan.part(part["epoch"], receipt.task).number: part["bytes"] for part in receipt.parts}
        refused = receipt.rejects_part
        return all(sizes[number] == size for number, size in parts.items()) and (
            refused is None or rejects.get(refused["name"]) == refused["bytes"]
        )

    def total(self) -> Totals:
        """The sum over all epochs."""
        totals = Totals()
        for epoch in self.totals:
            totals.merge(epoch.to_dict())
        return totals

    @property
    def parts(self) -> Entries:
        """The parts that are done, as the manifest lists them."""
        numbers = np.flatnonzero(self._parts["there"])
        return Entries(len(numbers), lambda index: self._part(int(numbers[index])))

    @property
    def rejects_parts(self) -> Entries:
        """The files of rejects, as the manifest lists them."""
        tasks = sorted(self._rejects_parts)
        return Entries(
            len(tasks), lambda index: dict(zip(_REJECTS_FIELDS, self._rejects_parts[tasks[index]], strict=True))
        )

    def _part(self, number: int) -> dict[str, Any]:
        rows, size, sha256, content_digest, tokens, _ = self._parts[number].item()
        epoch, task = divmod(number, self._plan.tasks)
        return {
            "name": self._plan.part(epoch, task).name,
            "rows": rows,
            "bytes": size,
            "sha256": sha256.decode("ascii"),
            "content_digest": content_digest.decode("ascii"),
            "tokens": tokens,
            "epoch": epoch,
            "task": task,
        }

    def accounting(self) -> dict[str, Any]:
        """Where every record of every epoch went. Raises TaskError where that is not everywhere once."""
        epochs = []
        for epoch, totals in enumerate(self.totals):
            passed = totals.strategies["pass"]
            entry = {"composed": totals.tiles - passed, "passed": passed, "rejected": self.rejected}
            epochs.append({"epoch": epoch, **entry, "sum": sum(entry.values())})
        wrong = [entry for entry in epochs if entry["sum"] != self._plan.records]
        if wrong or self.records != self._plan.records:
            raise TaskError(
                f"the accounting does not balance: the inventory holds {self._plan.records} records, the tasks read "
                f"{self.records}, and epochs came out as {wrong}. Nothing was published as finished; please report it"
            )
        return {"records": self._plan.records, "balanced": True, "epochs": epochs}

    def _too_many(self) -> str:
        total = self._plan.records
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejects.most_common())
        main = self.rejects.most_common(1)[0][0]
        return (
            f"{self.rejected} of {total} records ({self.rejected / total:.1%}) were rejected so far, and "
            f"--max-reject-share {self._share} allows {self._allowed}: {reasons} ({main}: {REASONS[main]}). "
            "The files under rejects/ in the output name each; mend the input or the settings and give a "
            "new --output, or raise the share"
        )


def _receipt(data: bytes) -> Receipt | None:
    try:
        return Receipt.from_json(data)
    except ValueError:
        return None


def read_receipt(output: Storage, task: int) -> Receipt:
    """Raises StorageError where it is damaged."""
    try:
        return Receipt.from_json(output.read(receipt_path(task)))
    except ValueError as error:
        raise StorageError(f"{output.uri(receipt_path(task))}: {error}") from error
