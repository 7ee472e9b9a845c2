"""One epoch as the batches of one rank, read block by block."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from mosaic_ray.errors import SettingsError
from mosaic_ray.handoff.partition import Ints, Order, Share, Shuffle

Row = dict[str, Any]


class Blocks(Protocol):
    """The blocks of one epoch of a data set; picklable, and opened in the process that reads.

    count: their number. sizes: the rows of each, or None where only reading a block tells.
    """

    @property
    def count(self) -> int: ...

    @property
    def sizes(self) -> Ints | None: ...

    def read(self, block: int) -> pa.Table: ...


class Cursor(NamedTuple):
    """Where to go on in an epoch whose sizes are not known before: at the start of a block.

    turn: of the block in the order of the epoch, from 0. start: position of its first sample.
    """

    turn: int = 0
    start: int = 0


class Batch(NamedTuple):
    """What a rank gets at once, and where the epoch stands after it: the same on every rank."""

    rows: list[Row]
    position: int
    cursor: Cursor


class Epoch(Protocol):
    """The samples of one epoch by position."""

    def until(self, position: int) -> int:
        """How far samples stand: ``position``, or the end of the epoch if that comes before."""
        ...

    def rows(self, positions: Ints) -> list[Row]:
        """The samples at ascending positions; those beyond the end of the epoch stand for its start."""
        ...

    def cursor(self, position: int) -> Cursor: ...


def open_epoch(blocks: Blocks, shuffle: Shuffle, *, lanes: int, cursor: Cursor) -> Epoch:
    """Lanes need sizes: without these there is one lane."""
    if blocks.sizes is None:
        return FoundEpoch(blocks, shuffle, cursor)
    return KnownEpoch(blocks, Order(blocks.sizes, shuffle, lanes=lanes))


def batches(epoch: Epoch, share: Share, *, start: int, worker: int = 0, workers: int = 1) -> Iterator[Batch]:
    """The batches of a rank from the position ``start``; of several workers, the share of one.

    Raises SettingsError where the epoch has fewer samples than there are ranks.
    """
    if start == 0 and (total := epoch.until(share.world_size)) < share.world_size:
        raise too_few(total, share)
    first = start + worker * share.stride
    while rounds := share.rounds(first, epoch.until(first + share.stride)):
        position = first + rounds * share.world_size
        yield Batch(epoch.rows(share.positions(first, rounds)), position, epoch.cursor(position))
        first += workers * share.stride


def too_few(total: int, share: Share) -> SettingsError:
    return SettingsError(
        f"world_size {share.world_size}: the epoch has only {total} samples, fewer than one for every rank. Start "
        f"at most {total} ranks, or make a larger data set"
    )


class KnownEpoch:
    """An epoch whose sizes are known: any position is found at once, and a block is read when its turn comes."""

    def __init__(self, blocks: Blocks, order: Order) -> None:
        self._blocks = blocks
        self._order = order
        self._block_of: dict[int, int] = {}
        self._open: dict[int, pa.Table] = {}

    def until(self, position: int) -> int:
        return min(position, self._order.total)

    def rows(self, positions: Ints) -> list[Row]:
        positions = positions % self._order.total
        blocks, rows = self._order.locate(positions)
        for block in dict.fromkeys(blocks.tolist()):
            if block not in self._open:
                self._open[block] = self._blocks.read(block)
        found = _take(self._open, blocks, rows)
        self._block_of.update(zip((positions % self._order.lanes).tolist(), blocks.tolist(), strict=True))
        self._open = {block: self._open[block] for block in set(self._block_of.values())}
        return found

    def cursor(self, position: int) -> Cursor:  # noqa: ARG002 - any position is found without one
        return Cursor()


class _Held(NamedTuple):
    """A block that was read: its turn in the order of the epoch, its number, and the position it starts at."""

    turn: int
    block: int
    start: int
    table: pa.Table

    @property
    def end(self) -> int:
        return self.start + int(self.table.num_rows)


class FoundEpoch:
    """An epoch whose sizes show as its blocks are read, one after the other; its end is found by looking ahead."""

    def __init__(self, blocks: Blocks, shuffle: Shuffle, cursor: Cursor) -> None:
        self._blocks = blocks
        self._shuffle = shuffle
        self._sequence = shuffle.blocks(blocks.count)
        self._next, self._end = cursor
        self._held: deque[_Held] = deque()

    def until(self, position: int) -> int:
        while self._end < position and self._next < len(self._sequence):
            block = int(self._sequence[self._next])
            self._held.append(_Held(self._next, block, self._end, self._blocks.read(block)))
            self._next += 1
            self._end = self._held[-1].end
        return min(position, self._end)

    def rows(self, positions: Ints) -> list[Row]:
        beyond = positions[positions >= self._end] - self._end
        positions = positions[: len(positions) - len(beyond)]
        while self._held and len(positions) and self._held[0].end <= positions[0]:
            self._held.popleft()
        found: list[Row] = []
        for held in self._held:
            here = positions[(positions >= held.start) & (positions < held.end)] - held.start
            rows = self._shuffle.rows(held.block, held.table.num_rows)[here]
            found += held.table.take(pa.array(rows)).to_pylist()
        if len(beyond):
            first = FoundEpoch(self._blocks, self._shuffle, Cursor())
            first.until(int(beyond[-1]) + 1)
            found += first.rows(beyond)
        return found

    def cursor(self, position: int) -> Cursor:
        for held in self._held:
            if position < held.end:
                return Cursor(held.turn, held.start)
        return Cursor(self._next, self._end)


def _take(tables: Mapping[int, pa.Table], blocks: Ints, rows: Ints) -> list[Row]:
    found: list[Row] = [{}] * len(blocks)
    for block in np.unique(blocks):
        here = np.flatnonzero(blocks == block)
        for at, row in zip(here.tolist(), tables[int(block)].take(pa.array(rows[here])).to_pylist(), strict=True):
            found[at] = row
    return found
