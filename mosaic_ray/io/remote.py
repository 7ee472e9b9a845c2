"""Any other file system that fsspec knows: memory, Google's and Azure's stores, the Hub."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

import fsspec

from mosaic_ray.io.patience import Patience
from mosaic_ray.io.store import READ_AHEAD, FileInfo, file_info


class RemoteStore:
    """See :class:`mosaic_ray.io.store.Store`. fsspec has no way to pin a read, so ``etag`` means nothing."""

    def __init__(self, protocol: str, options: Mapping[str, str | bool], patience: Patience) -> None:
        self._fs = fsspec.filesystem(protocol, **{"use_listings_cache": False, **options})
        self._memory = protocol == "memory"
        self._patience = patience

    def info(self, full: str) -> FileInfo:
        entry = self._patience.persist(full, lambda: self._fs.info(full))
        if entry["type"] == "directory":
            raise IsADirectoryError(full)
        return file_info(entry)

    def exists(self, full: str) -> bool:
        try:
            self.info(full)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False
        return True

    def require(self, full: str) -> None:
        self._patience.persist(full, lambda: self._fs.info(full))

    def listing(self, full: str) -> Iterator[tuple[str, FileInfo]]:
        found: Mapping[str, Any] = self._patience.persist(full, lambda: self._fs.find(full, detail=True))
        for name in sorted(found):
            if found[name]["type"] == "file" and not name.endswith("/"):
                yield name, file_info(found[name])

    def folders(self, full: str) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            entries = self._patience.persist(full, lambda: self._fs.ls(full, detail=True))
            yield from [entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory"]

    def glob(self, pattern: str) -> dict[str, FileInfo | None]:
        found = self._patience.persist(pattern, lambda: self._fs.glob(pattern, detail=True))
        return {name: None if entry["type"] == "directory" else file_info(entry) for name, entry in found.items()}

    def read(self, full: str) -> bytes:
        return self._patience.persist(full, lambda: bytes(self._fs.cat_file(full)))

    def read_spans(self, full: str, spans: Sequence[tuple[int, int]], etag: str | None) -> list[bytes]:  # noqa: ARG002
        starts, ends = [start for start, _ in spans], [end for _, end in spans]
        return self._patience.persist(
            full, lambda: list(self._fs.cat_ranges([full] * len(spans), starts, ends, on_error="raise"))
        )

    def open(self, full: str, *, random: bool, etag: str | None) -> IO[bytes]:  # noqa: ARG002
        if self._memory:  # its open() hands every reader the one shared position
            return io.BytesIO(self._fs.cat_file(full))
        caching = {"cache_type": "none"} if random else {"block_size": READ_AHEAD, "cache_type": "readahead"}
        file: IO[bytes] = self._patience.persist(full, lambda: self._fs.open(full, "rb", **caching))
        return file

    def put(self, full: str, data: bytes, *, exclusive: bool) -> None:
        mode = {"mode": "create"} if exclusive else {}
        self._patience.persist(full, lambda: self._fs.pipe_file(full, data, **mode))

    def put_file(self, full: str, made: str, *, exclusive: bool) -> None:
        mode = {"mode": "create"} if exclusive else {}
        self._patience.persist(full, lambda: self._fs.put_file(made, full, **mode))

    def delete(self, full: str) -> None:
        self._patience.persist(full, lambda: self._fs.rm_file(full))

    def delete_all(self, full: Sequence[str]) -> None:
        for name in full:
            with suppress(FileNotFoundError):
                self.delete(name)

    def remove_empty(self, full: str) -> None: ...

    def remove_unfinished(self, full: str) -> list[str]:  # noqa: ARG002 - such a store shows none
        return []
