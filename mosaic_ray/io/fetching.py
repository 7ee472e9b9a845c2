"""A file of a store as a library reads it, here and there, with what it will read fetched ahead in few requests."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import BinaryIO, Final

from mosaic_ray.io.storage import Storage

_HOLE: Final = 64 << 10
"""Bytes between two column chunks that are fetched with them, to save a request."""


class NoContentError(Exception):
    """Something was to be read where nothing is."""


class NoContent(io.RawIOBase):
    """A file of a size and without content."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, _size: int | None = -1, /) -> bytes:
        raise NoContentError


class Fetching(NoContent):
    """A file that reads from what was fetched ahead of it, elsewhere from the store just what it is asked for."""

    def __init__(self, source: Storage, path: str, raw: BinaryIO, etag: str | None) -> None:
        super().__init__(raw.seek(0, os.SEEK_END))
        self._source = source
        self._path = path
        self._raw = raw
        self._etag = etag
        self._starts: list[int] = []
        self._blocks: list[bytes] = []

    def fetch(self, spans: Sequence[tuple[int, int]]) -> None:
        """Hold these spans, which are sorted, and no others."""
        self._starts = [start for start, _ in spans]
        self._blocks = []
        self._blocks = self._source.read_ranges(self._path, spans, etag=self._etag) if spans else []

    def range(self, start: int, end: int) -> bytes:
        """From the store; short at the end of the file."""
        self._raw.seek(start)
        pieces = []
        while start < end and (piece := self._raw.read(end - start)):
            pieces.append(piece)
            start += len(piece)
        return b"".join(pieces)

    def read(self, size: int | None = -1, /) -> bytes:
        end = self.size if size is None or size < 0 else min(self.size, self._at + size)
        held = bisect_right(self._starts, self._at) - 1
        begin = self._at - self._starts[held] if held >= 0 else 0
        if held >= 0 and begin + end - self._at <= len(self._blocks[held]):
            data = self._blocks[held][begin : begin + end - self._at]
        else:
            data = self.range(self._at, end)
        self._at += len(data)
        return data


def coalesced(chunks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that hold all the chunks, those near each other in one."""
    spans: list[tuple[int, int]] = []
    for start, end in sorted(chunks):
        if spans and start - spans[-1][1] <= _HOLE:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans
