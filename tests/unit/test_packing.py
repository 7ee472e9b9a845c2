"""Packing: every item once, no bin too full, and exactly what a plain best-fit decreasing gives."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import SettingsError
from mosaic_ray.packing import pack


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[int], int]:
    capacity = draw(st.integers(1, 60))
    return draw(st.lists(st.integers(1, capacity), max_size=60)), capacity


def naive(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing as a textbook has it: look at every bin for every item."""
    bins: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rooms = [capacity - sum(lengths[i] for i in members) for members in bins]
        fitting = [(room, number) for number, room in enumerate(rooms) if room >= lengths[index]]
        if fitting:
            bins[min(fitting)[1]].append(index)
        else:
            bins.append([index])
    return sorted((sorted(members) for members in bins), key=lambda members: members[0])


@given(corpora())
def test_every_item_once_in_the_bins_of_best_fit_decreasing(corpus: tuple[list[int], int]) -> None:
    lengths, capacity = corpus
    bins = pack(lengths, capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in members) <= capacity for members in bins)
    assert all(members == sorted(members) for members in bins)
    assert [members[0] for members in bins] == sorted(members[0] for members in bins)
    assert bins == naive(lengths, capacity)
    assert bins == pack(np.array(lengths, dtype=np.int32), capacity)


def test_the_bins_of_a_small_case() -> None:
    # 7+2, 6+4, 5+2: the 4 goes where it leaves no room, the first 2 to the fuller of the two bins left.
    assert pack([4, 2, 7, 5, 2, 6], 10) == [[0, 5], [1, 2], [3, 4]]
    assert pack([], 10) == []
    assert pack([10, 10], 10) == [[0], [1]]


def test_a_length_over_the_capacity_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"item 1 has 4097 tokens, and a sequence holds 4096: give .* 4097 or more"):
        pack([4096, 4097, 9000], 4096)
    with pytest.raises(SettingsError, match="item 2 has 0 tokens"):
        pack([1, 2, 0], 4096)


@pytest.mark.parametrize("capacity", [2048, 131072])
def test_a_hundred_thousand_items_are_quick(capacity: int) -> None:
    lengths = np.random.default_rng(0).integers(1, capacity // 3, size=100_000)
    start = time.process_time()
    bins = pack(lengths, capacity)
    assert time.process_time() - start < 5  # quadratic work would take minutes
    assert len(bins) <= 1.001 * int(lengths.sum()) / capacity + 1
