"""The one door to file systems: everything the package reads or publishes goes through :class:`Storage`.

A failure of the store becomes one sentence with the full address and the remedy; one that may pass is tried again
first (:mod:`mosaic_ray.io.patience`). A file is published whole or not at all: on a local disk by renaming a finished
sibling, elsewhere by one upload, which stores show only once it is complete.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, BinaryIO, Final, cast

import fsspec

from mosaic_ray.errors import MosaicError, SettingsError
from mosaic_ray.io.failures import S3, ChangedError, cause_of, endpoint, explain
from mosaic_ray.io.local import LocalStore
from mosaic_ray.io.patience import PATIENCE, Patience
from mosaic_ray.io.remote import RemoteStore
from mosaic_ray.io.s3 import S3Store
from mosaic_ray.io.store import BULK, FileInfo, Store
from mosaic_ray.io.traffic import count_read
from mosaic_ray.pulse import beat

__all__ = ["RANGE_LIMIT", "ChangedError", "FileInfo", "Storage", "refuse_credentials"]

RANGE_LIMIT: Final = 8 << 20
"""Touching ranges are fetched as one up to this many bytes: long enough to hide a round trip, short enough to be
fetched beside others."""

_CREDENTIAL_NAME = re.compile(r"key|secret|token|passw|credential|connection_string|signature", re.IGNORECASE)
_CREDENTIAL_IN_ADDRESS = re.compile(
    r"^[\w+.-]+://[^/@]*:[^/@]*@|^(https?|ftp|sftp)://[^/@]*@|"
    r"[?&][^=&]*(signature|sig|token|secret|key|credential|passw|pwd|auth)[^=&]*=",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Storage:
    """One file system, reached under a root address; picklable, and opened anew in every process.

    The pickle carries the address and the options, never a connection or a secret: those are found in each process
    by the file system's own means (environment, profile, instance role). Paths given to the methods are relative to
    the root, with ``/`` between their parts; the empty path is the root itself.

    protocol: fsspec's name of the file system (``file``, ``memory``, ``s3``...).
    root: the root as that file system writes it, without the protocol.
    error: what a failure of the store is raised as.
    patience: seconds for which a request that fails is made again.

    Every method raises ``error``; with ``passing`` set where the store stayed unavailable until patience ended.
    """

    protocol: str
    root: str
    options: tuple[tuple[str, str | bool], ...]
    error: type[MosaicError]
    patience: float = PATIENCE

    @classmethod
    def at(
        cls,
        uri: str,
        options: Mapping[str, str | bool] | None = None,
        *,
        error: type[MosaicError],
        patience: float = PATIENCE,
    ) -> Storage:
        """The store under ``uri``; nothing is contacted yet.

        options: storage options of the file system, such as ``endpoint_url``, ``anon`` or ``profile``.
        error: :class:`InputError` for what is read, :class:`StorageError` for what is written.

        Raises SettingsError for credentials in the address or the options, ``error`` for an unknown protocol.
        """
        refuse_credentials(uri, options or {})
        protocol, _, rest = uri.partition("://") if "://" in uri else ("file", "", uri)
        try:
            kind = fsspec.get_filesystem_class(protocol)
        except (ImportError, ValueError) as failure:
            raise error(
                f"{uri}: no file system for {protocol}:// is installed; install the fsspec implementation "
                f"of it (pip install {_PACKAGES.get(protocol, 'its package')}) or correct the address."
            ) from failure
        if protocol in ("file", "local"):
            protocol, root = "file", os.path.abspath(os.path.expanduser(rest))
        elif protocol in S3:
            root = rest.strip("/")
        else:
            root = str(kind._strip_protocol(uri)).rstrip("/")
        return cls(protocol, root, tuple(sorted((options or {}).items())), error, patience)

    @property
    def pins(self) -> bool:
        """Whether an ``etag`` keeps a read to the file that is meant; elsewhere only looking again tells."""
        return self.protocol in S3

    @property
    def local(self) -> bool:
        return self.protocol == "file"

    def under(self, path: str) -> Storage:
        """The same store with ``path`` as its root."""
        return Storage(self.protocol, self._full(path), self.options, self.error, self.patience)

    def uri(self, path: str = "") -> str:
        """The full address of a path, as a user would write it."""
        full = self._full(path)
        return full if self.local or "://" in full else f"{self.protocol}://{full.lstrip('/')}"

    def real(self, path: str = "") -> str:
        """An address that two ways to the same file have in common: links followed, protocols of one kind alike."""
        if self.local:
            return os.path.realpath(self._full(path))
        return f"{'s3' if self.protocol in S3 else self.protocol}://{self._full(path).strip('/')}"

    def info(self, path: str) -> FileInfo:
        with self._explained(path):
            return self._store.info(self._full(path))

    def require(self) -> None:
        """Raise unless there is a file or a directory at the root."""
        with self._explained(""):
            self._store.require(self.root)

    def exists(self, path: str) -> bool:
        """Whether there is a file (not a directory) at ``path``."""
        with self._explained(path):
            return self._store.exists(self._full(path))

    def listing(self, prefix: str = "") -> Iterator[tuple[str, FileInfo]]:
        """Every file below the directory ``prefix``, sorted by path; where ``prefix`` is a file, that file.

        Unfinished files of :meth:`publish` are left out. A directory that does not exist holds no files; a bucket
        that does not exist is an error.
        """
        found = self._store.listing(self._full(prefix))
        while True:
            with self._explained(prefix):
                entry = next(found, None)
            if entry is None:
                return
            yield self._relative(entry[0]), entry[1]

    def folders(self, prefix: str = "") -> list[str]:
        """The directories directly below the directory ``prefix``, sorted by path; none where nothing is there."""
        with self._explained(prefix):
            return sorted(self._relative(name) for name in self._store.folders(self._full(prefix)))

    def glob(self, pattern: str) -> Iterator[tuple[str, FileInfo]]:
        """Every file whose path matches (``*``, ``?``, ``[...]``, and ``**`` for any folders), sorted by path.

        Where only directories match, every file below them.
        """
        with self._explained(pattern):
            found = self._store.glob(self._full(pattern))
        files = {self._relative(name): info for name, info in found.items() if info is not None}
        if not files:
            for name in found:
                files.update(self.listing(self._relative(name)))
        yield from sorted(files.items())

    def read(self, path: str) -> bytes:
        """The whole content of a small file."""
        with self._explained(path):
            data = self._store.read(self._full(path))
        count_read(len(data))
        return data

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]], *, etag: str | None = None) -> list[bytes]:
        """The bytes of each range (start, end), in the order given.

        Ranges that touch are fetched as one up to RANGE_LIMIT, and several fetches run at once where the store
        allows it. A range that runs over the end of the file comes back short.

        etag: of the file that is meant; where the store has such marks, another file is an error whose cause is a
            :class:`ChangedError`.
        """
        spans, span_of = _merge(ranges)
        with self._explained(path):
            blocks = self._store.read_spans(self._full(path), spans, etag)
        count_read(sum(map(len, blocks)))
        cut = []
        for start, end in ranges:
            index = span_of.get((start, end))
            origin = spans[index][0] if index is not None else 0
            cut.append(bytes(blocks[index][start - origin : end - origin]) if index is not None else b"")
        return cut

    def open(self, path: str, *, etag: str | None = None) -> BinaryIO:
        """The file for reading from its start to its end, with a few MiB read ahead. etag: as in read_ranges."""
        return self._open(path, random=False, etag=etag)

    def open_random(self, path: str, *, etag: str | None = None) -> BinaryIO:
        """The file for reading here and there, as Parquet is: each read fetches what it asks for and no more."""
        return self._open(path, random=True, etag=etag)

    def publish(self, path: str, data: bytes) -> None:
        """Put a file in place, whole or not at all; an existing one is replaced."""
        with self._explained(path):
            self._store.put(self._full(path), data, exclusive=False)

    def create(self, path: str, data: bytes) -> bool:
        """Put a file in place where there is none; whether it was. Of several who try at once, one succeeds.

        That holds on local disks and where the store honours conditional writes (S3's ``If-None-Match``).
        """
        with self._explained(path):
            try:
                self._store.put(self._full(path), data, exclusive=True)
            except FileExistsError:  # perhaps by an earlier try of this very call, whose answer was lost
                return self._store.read(self._full(path)) == data
            return True

    def publish_file(self, path: str, made: str) -> None:
        """As :meth:`publish`, from the finished local file ``made``, in bounded memory; ``made`` stays."""
        with self._explained(path):
            self._store.put_file(self._full(path), made, exclusive=False)

    def create_file(self, path: str, made: str) -> bool:
        """As :meth:`create`, from the finished local file ``made``."""
        with self._explained(path):
            try:
                self._store.put_file(self._full(path), made, exclusive=True)
            except FileExistsError:
                with open(made, "rb") as file:
                    return self._store.read(self._full(path)) == file.read()
            return True

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._explained(path), suppress(FileNotFoundError):
            self._store.delete(self._full(path))

    def delete_all(self, paths: Sequence[str]) -> None:
        """Remove files, BULK of them by one request where the store can; those that are not there are no error."""
        for start in range(0, len(paths), BULK):
            with self._explained(paths[start]):
                self._store.delete_all([self._full(path) for path in paths[start : start + BULK]])

    def remove_empty(self) -> None:
        """Remove the root and the directories below it as far as no file is in them; only local disks have such."""
        with self._explained(""):
            self._store.remove_empty(self.root)

    def try_upload(self, path: str) -> bool:
        """Begin an upload in parts, as of a large file, and abort it; False where the store has no such uploads."""
        store = self._store
        if not isinstance(store, S3Store):
            return False
        with self._explained(path):
            store.try_upload(self._full(path))
        return True

    def clock(self) -> datetime | None:
        """What time it is by the store, to the second; None where it does not tell."""
        store = self._store
        if not isinstance(store, S3Store):
            return None
        with self._explained(""):
            return store.clock(self.root)

    def free_bytes(self) -> int | None:
        """Free on the local disk that the root is on, or will be; None for any other store."""
        if not self.local:
            return None
        place = self.root
        while not os.path.exists(place):
            place = os.path.dirname(place)
        return shutil.disk_usage(place).free

    def remove_unfinished(self, prefix: str = "") -> list[str]:
        """Remove what killed writers left below ``prefix``, and return the paths it was meant for.

        On a local disk those are files not yet renamed, on S3 uploads in parts that were not completed.
        """
        with self._explained(prefix):
            return [self._relative(name) for name in self._store.remove_unfinished(self._full(prefix))]

    def _full(self, path: str) -> str:
        if not path:
            return self.root
        return f"{self.root.rstrip('/')}/{path}" if self.root else path

    def _relative(self, full: str) -> str:
        """Of a name from the file system; it may have lost or gained a leading slash."""
        return full.lstrip("/")[len(self.root.lstrip("/")) :].removeprefix("/")

    @property
    def _store(self) -> Store:
        """The connection of this process: one must not cross a fork."""
        held = self.__dict__.get("_held")
        if held is None or held[0] != os.getpid():
            held = (os.getpid(), self._connect())
            self.__dict__["_held"] = held
        return cast(Store, held[1])

    def _connect(self) -> Store:
        if self.local:
            return LocalStore()
        patience = self._shared_patience
        patience.answered |= self.__dict__.get("_answered", False)
        if self.protocol in S3:
            return S3Store(dict(self.options), patience)
        return RemoteStore(self.protocol, dict(self.options), patience)

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "_held"}
        return state if self.local or not self._shared_patience.answered else {**state, "_answered": True}

    @property
    def _shared_patience(self) -> Patience:
        """That of all storages of one store: if it has answered one of them, it is there."""
        key = (self.protocol, self.options, endpoint(dict(self.options)), self.patience)
        return _PATIENCES.setdefault(key, Patience(self.patience))

    def _open(self, path: str, *, random: bool, etag: str | None) -> BinaryIO:
        with self._explained(path):
            raw = self._store.open(self._full(path), random=random, etag=etag)
        return cast(BinaryIO, _Explaining(raw, lambda: self._explained(path)))

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
            beat()
        except (MosaicError, MemoryError):
            raise
        except Exception as failure:  # each store has its own classes, many of them not OSError
            error = self.error(explain(failure, self.uri(path), self.protocol, dict(self.options), self._probe))
            error.passing = cause_of(failure) is not None
            raise error from failure

    def _probe(self) -> Exception | None:
        store = self._store
        return store.probe(self.root) if isinstance(store, S3Store) else None


_PATIENCES: Final[dict[object, Patience]] = {}
_PACKAGES: Final = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs",
                    "hf": "huggingface_hub"}  # fmt: skip


def refuse_credentials(uri: str, options: Mapping[str, object]) -> None:
    """Raise SettingsError for a secret in an address or an option: both end up in plans, logs and manifests."""
    remedy = "put credentials into the environment or a profile (for S3: AWS_ACCESS_KEY_ID, AWS_PROFILE)."
    for name, value in options.items():
        if _CREDENTIAL_NAME.search(name) or (isinstance(value, str) and _CREDENTIAL_IN_ADDRESS.search(value)):
            raise SettingsError(f"The storage option {name!r} would carry a credential; {remedy}")
    if _CREDENTIAL_IN_ADDRESS.search(uri):
        raise SettingsError(f"An address under {uri.partition('://')[0]}:// carries a credential; {remedy}")


def without_credentials(address: str) -> str:
    """An address fit to be shown, whatever it is."""
    return re.sub(r"://[^/@\s]*@", "://", address.partition("?")[0])


class _Explaining(io.RawIOBase):
    """A file whose failures while reading are explained as those of its storage."""

    def __init__(self, raw: IO[bytes], explained: Callable[[], Any]) -> None:
        self._raw = raw
        self._explained = explained

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        with self._explained():
            data = self._raw.read(-1 if size is None else size)
        count_read(len(data))
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def close(self) -> None:
        self._raw.close()
        super().close()


def _merge(ranges: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], dict[tuple[int, int], int]]:
    """Spans to fetch, and for each range that is not empty the index of the span that holds it."""
    spans: list[tuple[int, int]] = []
    span_of: dict[tuple[int, int], int] = {}
    for start, end in sorted({(start, end) for start, end in ranges if start < end}):
        if spans and start <= spans[-1][1] and end - spans[-1][0] <= RANGE_LIMIT:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
        span_of[start, end] = len(spans) - 1
    return spans, span_of
