"""Cutting a text into pieces of whole lines, at the speed of a few passes of numpy over its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mosaic_ray.io import streams

_LINE_FEED = ord("\n")
_SPACE = ord(" ")
_SOLID = np.array([not bytes([byte]).isspace() for byte in range(256)])
"""Byte -> whether a line that holds it is not blank."""


class Piece(NamedTuple):
    """Neighbouring lines: their bytes, how many they are, and how many of them are not blank."""

    data: bytes
    lines: int
    records: int


def cut_lines(content: Iterator[bytes], where: str, *, records: int, size: int) -> Iterator[Piece]:
    """The content in pieces, each of as many lines as are at most ``records`` not blank and ``size`` bytes.

    A line longer than ``size`` is a piece of its own. The cuts depend on the content alone, not on how it arrives.

    Raises InputError for a line longer than MAX_RECORD.
    """
    held: list[bytes] = []
    length = tail = number = 0  # bytes held, those after their last line feed, and lines cut off before them
    for chunk in content:
        first, end = chunk.find(b"\n") + 1, chunk.rfind(b"\n") + 1
        if tail + (first or len(chunk)) > streams.MAX_RECORD:
            number += sum(data.count(b"\n") for data in held) + 1
            raise streams.too_long(f"{where}: line {number}")
        held.append(chunk)
        length += len(chunk)
        tail = len(chunk) - end if end else tail + len(chunk)
        if end and length - tail > size:
            block = b"".join(held)
            done = 0
            for piece in _pieces(block[: length - tail], records, size, more=True):
                yield piece
                number += piece.lines
                done += len(piece.data)
            held, length = [block[done:]], length - done
    yield from _pieces(b"".join(held), records, size, more=False)


def _pieces(block: bytes, records: int, size: int, *, more: bool) -> Iterator[Piece]:
    """more: whether lines may follow that would still belong to the last piece, which is then left out."""
    text = np.frombuffer(block, dtype=np.uint8)
    ends = np.flatnonzero(text == _LINE_FEED) + 1
    if text.size and text[-1] != _LINE_FEED:
        ends = np.append(ends, text.size)
    starts = np.concatenate([[0], ends[:-1]]) if ends.size else ends
    filled = text[starts] > _SPACE
    if not filled.all():  # seldom, for a record starts with a brace; and then by millions
        filled = np.logical_or.reduceat(_SOLID[text], starts)
    counts = np.cumsum(filled)
    line = start = before = 0
    while line < ends.size:
        by_size = int(ends.searchsorted(start + size, "right"))
        by_records = int(counts.searchsorted(before + records, "right"))
        last = max(line + 1, min(by_size, by_records)) - 1
        if more and last == ends.size - 1:
            return
        end, seen = int(ends[last]), int(counts[last])
        yield Piece(block[start:end], last + 1 - line, seen - before)
        line, start, before = last + 1, end, seen
