"""Which rank gets which sample, by integer arithmetic. Pure: numbers in, numbers out.

The samples of an epoch stand at the positions 0 to N - 1. Where a position lies depends on the seed, the epoch, the
sizes of the blocks (parts) and the number of *lanes*, and on nothing else: not on ranks, batch sizes or workers.

**Order.** The blocks stand in a seeded order, and so do the rows of each block. That is shuffled enough without a
buffer: the samples of a block are drawn from across the corpus already.

**Lanes.** This sequence is cut into L contiguous lanes of nearly equal length, and the positions are dealt to them in
turn: position p is sample p div L of lane p mod L. If the number of ranks W divides L, each rank stays in L / W lanes
of its own and reads only its share of the blocks. With any other W the order is the same, and ranks read more.

**Ranks.** From a position q on, rank r takes the positions q + r, q + r + W, q + r + 2W, ... A *round* is one sample
for every rank, so all ranks have equally many. What is consumed is one number, which holds for any later W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from mosaic_ray.seeding import Key

Ints = npt.NDArray[np.int64]
Remainder = Literal["drop", "repeat"]


@dataclass(frozen=True, slots=True)
class Shuffle:
    """The drawn order of one epoch; ``on`` False leaves blocks and rows as they are."""

    seed: int
    epoch: int
    on: bool = True

    def blocks(self, count: int) -> Ints:
        """The order of ``count`` blocks."""
        return _permutation(count, self.seed, self.epoch, "blocks") if self.on else np.arange(count)

    def rows(self, block: int, count: int) -> Ints:
        """The order of the ``count`` rows of a block."""
        return _permutation(count, self.seed, self.epoch, "rows", block) if self.on else np.arange(count)


@lru_cache(maxsize=256)  # of a few thousand rows each: the blocks that the lanes of a rank stand in
def _permutation(count: int, seed: int, epoch: int, *names: str | int) -> Ints:
    return Key(seed, "load", "epoch", epoch, *names).permutation(count)


class Order:
    """Where the positions of one epoch lie.

    sizes: rows of each block. total: samples of the epoch, N.
    """

    def __init__(self, sizes: Sequence[int] | Ints, shuffle: Shuffle, *, lanes: int = 1) -> None:
        self.lanes = lanes
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._shuffle = shuffle
        self._sequence = shuffle.blocks(len(self._sizes))
        self._ends = np.cumsum(self._sizes[self._sequence])
        self.total = int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, positions: Ints) -> tuple[Ints, Ints]:
        """Block and row of each position in range(total)."""
        length, longer = divmod(self.total, self.lanes)
        place, lane = np.divmod(positions, self.lanes)
        index = lane * length + np.minimum(lane, longer) + place
        at = np.searchsorted(self._ends, index, side="right")
        blocks = self._sequence[at]
        rows = index - self._ends[at] + self._sizes[blocks]
        for block in np.unique(blocks):
            here = blocks == block
            rows[here] = self._shuffle.rows(int(block), int(self._sizes[block]))[rows[here]]
        return blocks, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one of ``world_size`` ranks takes: batches of at most ``batch_size`` samples.

    remainder: what becomes of the end of an epoch where fewer samples than ranks are left. ``drop`` leaves them out of
        this epoch (they are others in every epoch), ``repeat`` fills the round from the start of the epoch.
    """

    rank: int
    world_size: int
    batch_size: int
    remainder: Remainder = "drop"

    @property
    def stride(self) -> int:
        """Positions of one batch of all ranks."""
        return self.batch_size * self.world_size

    def rounds(self, first: int, end: int) -> int:
        """Samples of a rank's batch that begins at the position ``first``, where samples stand up to ``end``."""
        left = max(0, min(end - first, self.stride))
        return -(-left // self.world_size) if self.remainder == "repeat" else left // self.world_size

    def positions(self, first: int, rounds: int) -> Ints:
        """This rank's positions in that batch; with ``repeat`` the last may lie beyond the end of the epoch."""
        return first + self.rank + self.world_size * np.arange(rounds, dtype=np.int64)

    def batches(self, total: int) -> int:
        """Batches of an epoch of ``total`` samples, on every rank."""
        whole, left = divmod(total, self.stride)
        return whole + (self.rounds(0, left) > 0)
