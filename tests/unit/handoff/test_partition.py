"""The arithmetic of who gets what: every sample once, whatever the lanes, and equally many for every rank."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.handoff.partition import Order, Remainder, Share, Shuffle

SIZES = st.lists(st.integers(0, 9), max_size=12)
LANES = st.integers(1, 7)


def located(order: Order) -> list[tuple[int, int]]:
    blocks, rows = order.locate(np.arange(order.total))
    return list(zip(blocks.tolist(), rows.tolist(), strict=True))


@given(SIZES, LANES, st.integers(0, 3), st.integers(0, 3), st.booleans())
def test_every_row_stands_at_one_position(sizes: list[int], lanes: int, seed: int, epoch: int, on: bool) -> None:
    order = Order(sizes, Shuffle(seed, epoch, on), lanes=lanes)
    assert order.total == sum(sizes)
    assert sorted(located(order)) == [(block, row) for block, size in enumerate(sizes) for row in range(size)]


def test_without_shuffle_and_lanes_the_order_is_that_of_the_parts() -> None:
    assert located(Order([2, 0, 3], Shuffle(0, 0, on=False))) == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]


def test_lanes_deal_stretches_of_the_sequence_in_turn() -> None:
    """Seven samples in three lanes: 0 1 2, 3 4, 5 6."""
    order = Order([4, 3], Shuffle(0, 0, on=False), lanes=3)
    assert located(order) == [(0, 0), (0, 3), (1, 1), (0, 1), (1, 0), (1, 2), (0, 2)]


@pytest.mark.parametrize("changed", [Shuffle(1, 0), Shuffle(0, 1)])
def test_seeds_and_epochs_draw_other_orders_of_parts_and_of_rows(changed: Shuffle) -> None:
    sizes = [50] * 20
    first, second = located(Order(sizes, Shuffle(0, 0))), located(Order(sizes, changed))
    assert first == located(Order(sizes, Shuffle(0, 0)))
    assert list(dict.fromkeys(block for block, _ in first)) != list(dict.fromkeys(block for block, _ in second))
    assert [row for block, row in first if block == 0] != [row for block, row in second if block == 0]
    assert [row for block, row in first if block == 0] != list(range(50))


def test_the_drawn_order_never_changes() -> None:
    """A state saved by one version must mean the same samples to the next."""
    order = Order([3, 4, 2], Shuffle(7, 2), lanes=2)
    assert located(order) == [(1, 0), (0, 0), (1, 3), (0, 1), (1, 1), (2, 1), (1, 2), (2, 0), (0, 2)]


@given(st.lists(st.integers(1, 9), min_size=6, max_size=30), st.integers(1, 3), st.integers(1, 4))
def test_where_ranks_divide_the_lanes_each_reads_its_share_of_the_blocks(
    sizes: list[int], per_rank: int, world_size: int
) -> None:
    lanes = per_rank * world_size
    order = Order(sizes, Shuffle(0, 0), lanes=lanes)
    reads = 0
    for rank in range(world_size):
        blocks, _ = order.locate(np.arange(rank, order.total, world_size))
        reads += len(np.unique(blocks))
    assert reads <= len(sizes) + lanes - 1, "only the blocks that two lanes share are read twice"


@given(
    st.integers(0, 60), st.integers(1, 9), st.integers(1, 9), st.sampled_from(["drop", "repeat"]), st.integers(0, 60)
)
def test_ranks_have_equal_batches_that_cover_the_epoch(
    total: int, world_size: int, batch_size: int, remainder: Remainder, start: int
) -> None:
    start = min(start, total)
    taken = []
    for rank in range(world_size):
        share = Share(rank=rank, world_size=world_size, batch_size=batch_size, remainder=remainder)
        mine, first = [], start
        while rounds := share.rounds(first, total):
            mine.append(share.positions(first, rounds).tolist())
            first += share.stride
        assert start or len(mine) == share.batches(total)
        assert all(len(batch) == batch_size for batch in mine[:-1])
        taken.append(mine)
    assert len({tuple(map(len, mine)) for mine in taken}) == 1, "all ranks have the same batches"
    positions = sorted(position for mine in taken for batch in mine for position in batch)
    assert positions == list(range(start, start + len(positions)))
    over = start + len(positions) - total
    assert (0 <= over < world_size) if remainder == "repeat" else (-world_size < over <= 0)
