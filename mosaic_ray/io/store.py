"""What a kind of store must be able to do; :mod:`mosaic_ray.io.storage` has the one door to all of them.

Paths are full: as the store writes them, without a protocol. Failures are raised as the store's own exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any, Final, NamedTuple, Protocol

READ_AHEAD: Final = 4 << 20
"""Bytes fetched ahead of a sequential read of a remote file."""

BULK: Final = 1000
"""Files deleted by one call: as many as a request to S3 may name."""


class FileInfo(NamedTuple):
    """What a store says of a file without reading it.

    size: bytes.
    etag: the store's mark of the content, without quotes; None where the store keeps none (local disks).
    modified: time of the last change, ISO 8601 in UTC; None where unknown.
    """

    size: int
    etag: str | None
    modified: str | None


class Store(Protocol):
    """One file system in one process."""

    def info(self, full: str) -> FileInfo:
        """Raises FileNotFoundError, and IsADirectoryError for a directory."""
        ...

    def exists(self, full: str) -> bool:
        """Whether there is a file, not a directory."""
        ...

    def require(self, full: str) -> None:
        """Raises FileNotFoundError unless there is a file or a directory."""
        ...

    def listing(self, full: str) -> Iterator[tuple[str, FileInfo]]:
        """The files below a directory, or the file itself, sorted; none where nothing is there."""
        ...

    def folders(self, full: str) -> Iterator[str]:
        """The directories directly below one, each by its full path; none where nothing is there."""
        ...

    def glob(self, pattern: str) -> dict[str, FileInfo | None]:
        """What matches; None for a directory."""
        ...

    def read(self, full: str) -> bytes: ...

    def read_spans(self, full: str, spans: Sequence[tuple[int, int]], etag: str | None) -> list[bytes]:
        """Each range of bytes; raises ChangedError where the store's mark is another than ``etag``."""
        ...

    def open(self, full: str, *, random: bool, etag: str | None) -> IO[bytes]:
        """For reading from start to end, or here and there; raises FileNotFoundError at once, and ChangedError."""
        ...

    def put(self, full: str, data: bytes, *, exclusive: bool) -> None:
        """exclusive: raise FileExistsError rather than replace a file."""
        ...

    def put_file(self, full: str, made: str, *, exclusive: bool) -> None:
        """As :meth:`put`, from a local file, in bounded memory."""
        ...

    def delete(self, full: str) -> None:
        """Raises FileNotFoundError where the store tells."""
        ...

    def delete_all(self, full: Sequence[str]) -> None:
        """Files of one directory and below, at most BULK; those that are not there are no error."""
        ...

    def remove_empty(self, full: str) -> None:
        """Remove a directory and those below it, as far as no file is in them; a store that has none does nothing."""
        ...

    def remove_unfinished(self, full: str) -> list[str]:
        """Remove what killed writers left below a directory, and say of which files it was."""
        ...


def file_info(entry: Mapping[str, Any]) -> FileInfo:
    """Of an entry as fsspec and S3 give it."""
    etag = entry.get("ETag") or entry.get("etag")
    when = next((entry[name] for name in ("LastModified", "mtime", "last_modified", "updated", "created")
                 if entry.get(name) is not None), None)  # fmt: skip
    if isinstance(when, int | float):
        when = datetime.fromtimestamp(when, UTC)
    if isinstance(when, datetime):
        when = (when if when.tzinfo else when.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return FileInfo(
        int(entry["size"] or 0), str(etag).strip('"') if etag else None, None if when is None else str(when)
    )
