"""The batches of all ranks are one stream, cut in any way: by ranks, batch sizes, workers and interruptions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import SettingsError
from mosaic_ray.handoff.partition import Ints, Order, Remainder, Share, Shuffle
from mosaic_ray.handoff.stream import Batch, Cursor, batches, open_epoch

Place = tuple[int, int]


@dataclass
class Tables:
    """Blocks in memory, with the list of what was read."""

    rows: list[int]
    known: bool = True
    reads: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> Ints | None:
        return np.array(self.rows, dtype=np.int64) if self.known else None

    def read(self, block: int) -> pa.Table:
        self.reads.append(block)
        return pa.table({"block": [block] * self.rows[block], "row": range(self.rows[block])})


class Leg(NamedTuple):
    """A stretch of training: how it runs, and after how many batches it is interrupted."""

    world_size: int
    batch_size: int
    workers: int
    batches: int


LEGS = st.lists(
    st.builds(Leg, st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 4)), min_size=1, max_size=4
)
SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=9).filter(lambda sizes: sum(sizes) >= 5)


def of_rank(
    blocks: Tables, shuffle: Shuffle, lanes: int, share: Share, workers: int, start: int, cursor: Cursor
) -> list[Batch]:
    """What a rank gets of the workers, asked in turn."""
    made = [
        list(
            batches(
                open_epoch(blocks, shuffle, lanes=lanes, cursor=cursor),
                share,
                start=start,
                worker=worker,
                workers=workers,
            )
        )
        for worker in range(workers)
    ]
    return [made[turn % workers][turn // workers] for turn in range(sum(map(len, made)))]


@given(SIZES, st.integers(1, 4), LEGS, st.sampled_from(["drop", "repeat"]), st.booleans(), st.booleans())
def test_interrupted_in_any_way_the_stream_is_the_same(
    sizes: list[int], lanes: int, legs: list[Leg], remainder: Remainder, known: bool, on: bool
) -> None:
    shuffle = Shuffle(3, 1, on)
    order = Order(sizes, shuffle, lanes=lanes if known else 1)
    wanted = list(zip(*(places.tolist() for places in order.locate(np.arange(order.total))), strict=True))
    seen: list[Place] = []
    position, cursor = 0, Cursor()
    for number, leg in enumerate(legs):
        last = number == len(legs) - 1
        ranks = []
        for rank in range(leg.world_size):
            share = Share(rank=rank, world_size=leg.world_size, batch_size=leg.batch_size, remainder=remainder)
            blocks = Tables(sizes, known)
            got = of_rank(blocks, shuffle, lanes, share, leg.workers, position, cursor)
            if not known and len(got) and position + leg.world_size * sum(len(b.rows) for b in got) <= order.total:
                assert set(blocks.reads) <= set(shuffle.blocks(len(sizes))[cursor.turn :].tolist()), "nothing before"
            ranks.append(got if last else got[: leg.batches])
        assert len({tuple((len(b.rows), b.position, b.cursor) for b in got) for got in ranks}) == 1, "ranks agree"
        for together in zip(*ranks, strict=True):
            rows = [row for round_ in zip(*(b.rows for b in together), strict=True) for row in round_]
            seen += [(row["block"], row["row"]) for row in rows]
            position, cursor = together[0].position, together[0].cursor
        if not known and cursor.start < position < order.total:
            assert position - cursor.start < sizes[shuffle.blocks(len(sizes))[cursor.turn]], "no block is read in vain"
    over = len(seen) - order.total
    whole = seen[: order.total]
    assert whole == wanted[: len(whole)]
    assert seen[order.total :] == wanted[: max(0, over)], "a round is filled from the start of the epoch"
    world_size = legs[-1].world_size
    assert (0 <= over < max(leg.world_size for leg in legs)) if remainder == "repeat" else (-world_size < over <= 0)


def test_blocks_are_read_once_and_only_those_in_use_are_kept() -> None:
    for known in (True, False):
        blocks = Tables([4, 4, 4, 4], known)
        epoch = open_epoch(blocks, Shuffle(0, 0), lanes=1, cursor=Cursor())
        for batch in batches(epoch, Share(rank=0, world_size=1, batch_size=3), start=0):
            assert len(batch.rows) in (1, 3)
        assert sorted(blocks.reads) == [0, 1, 2, 3]
        held = epoch._open if known else epoch._held  # type: ignore[attr-defined]
        assert len(held) == 1


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("remainder", ["drop", "repeat"])
def test_more_ranks_than_samples_are_refused(known: bool, remainder: Remainder) -> None:
    epoch = open_epoch(Tables([2, 1], known), Shuffle(0, 0), lanes=1, cursor=Cursor())
    share = Share(rank=0, world_size=4, batch_size=1, remainder=remainder)
    with pytest.raises(SettingsError, match=r"world_size 4: the epoch has only 3 samples.*at most 3 ranks"):
        list(batches(epoch, share, start=0))
