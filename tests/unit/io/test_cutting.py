"""Pieces of whole lines, held against a cut line by line."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import InputError
from mosaic_ray.io import streams
from mosaic_ray.io.cutting import cut_lines

lines = st.sampled_from(
    [b"\n", b" \n", b"\r\n", b" \t\x0b\x0c\r\n", b"  {}\n", b"\x00\n", b"\x1c\n", b"\xe2\x80\xa8\n"]
)
texts = st.lists(lines | st.binary(max_size=30), max_size=30).map(b"".join)


def chunked(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def one_by_one(data: bytes, records: int, size: int) -> list[tuple[bytes, int, int]]:
    runs: list[tuple[bytes, int, int]] = []
    held: list[bytes] = []
    for line in io.BytesIO(data):
        more = [*held, line]
        filled = sum(not part.isspace() for part in more)
        if held and (sum(map(len, more)) > size or filled > records):
            runs.append((b"".join(held), len(held), sum(not part.isspace() for part in held)))
            more = [line]
        held = more
    return [*runs, (b"".join(held), len(held), sum(not part.isspace() for part in held))] if held else runs


@given(data=texts, chunk=st.integers(1, 40), records=st.integers(1, 5), size=st.integers(1, 60))
def test_pieces_hold_as_many_lines_as_they_may(data: bytes, chunk: int, records: int, size: int) -> None:
    pieces = list(cut_lines(chunked(data, chunk), "f", records=records, size=size))
    assert [tuple(piece) for piece in pieces] == one_by_one(data, records, size)


def test_a_line_without_end_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD", 3 << 20)
    short = b'{"a": 1}\n' * 1000

    def endless() -> Iterator[bytes]:
        yield short * 2
        yield from iter(lambda: b"x" * 100_000, b"")

    with pytest.raises(InputError, match=r"^f: line 2001 is longer than 3 MiB, the limit of a record"):
        list(cut_lines(endless(), "f", records=128, size=4096))
    long = (b"x" * (1 << 20) + b"\n") * 8
    assert [piece.lines for piece in cut_lines(chunked(long, 1 << 18), "f", records=128, size=1 << 20)] == [1] * 8
