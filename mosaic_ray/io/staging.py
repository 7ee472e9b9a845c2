"""The staged copy of a file: its rows as lines of JSON, an independent zstd frame for each cell."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from types import TracebackType
from typing import IO, Final

import zstandard

from mosaic_ray.errors import StorageError
from mosaic_ray.io.cells import Cell, FoundFile, staged_path
from mosaic_ray.io.storage import Storage

_LEVEL: Final = 3
_COPY: Final = "a copy of an input file"


class Frames:
    """Collects frames in a temporary file and publishes them together; without a stage it only counts.

    A context manager: the temporary file (in TMPDIR) goes when it ends, published or not.
    """

    def __init__(self, found: FoundFile, stage: Storage | None) -> None:
        self._path = staged_path(found)
        self._stage = stage
        self._file: IO[bytes] | None = None
        self._end = 0
        self._packer = zstandard.ZstdCompressor(level=_LEVEL)

    @property
    def wanted(self) -> bool:
        """Whether anything will be written."""
        return self._stage is not None

    def add(self, data: bytes, *, row: int, rows: int, records: int) -> Cell:
        """Append the lines of one cell, and say where they are."""
        if self._stage is None:
            return Cell(row=row, rows=rows, records=records)
        frame = self._packer.compress(data)
        try:
            if self._file is None:
                self._file = tempfile.NamedTemporaryFile(prefix="mosaic-stage-")  # noqa: SIM115 - closed by __exit__
            self._file.write(frame)
        except OSError as failure:
            raise no_room(_COPY, failure) from failure
        offset = self._end
        self._end += len(frame)
        digest = hashlib.blake2b(frame, digest_size=8).hexdigest()
        return Cell(row=row, rows=rows, records=records, offset=offset, length=len(frame), digest=digest)

    def publish(self) -> None:
        if self._stage is not None and self._file is not None:
            try:
                self._file.flush()
            except OSError as failure:
                raise no_room(_COPY, failure) from failure
            self._stage.publish_file(self._path, self._file.name)

    def __enter__(self) -> Frames:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):  # where there was no room to write to, closing tries once more
                self._file.close()


def unpack(frame: bytes) -> bytes:
    """The lines of one cell."""
    return zstandard.ZstdDecompressor().decompress(frame)


def require_temporary_folder() -> None:
    """Raise StorageError where no temporary file can be made at all: libraries fail on it as they are imported."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as failure:
        raise StorageError(f"{failure.strerror}; free some space, or set TMPDIR to a place that has it.") from failure


def no_room(what: str, failure: OSError) -> StorageError:
    """What to raise where a temporary file cannot be written."""
    return StorageError(
        f"{tempfile.gettempdir()}: {what} cannot be written here ({failure.strerror}); "
        "free some space, or set TMPDIR to a place that has it."
    )
