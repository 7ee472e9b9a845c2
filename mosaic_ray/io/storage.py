"""The one door to file systems: everything the package reads or publishes goes through :class:`Storage`.

A failure of the store becomes one sentence with the full address and the remedy. A file is published whole or not at
all: on a local disk by renaming a finished sibling, elsewhere by one upload, which stores show only once it is
complete.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, BinaryIO, Final, NamedTuple, cast

import fsspec

from mosaic_ray.errors import MosaicError, SettingsError
from mosaic_ray.io.failures import S3, explain

READ_AHEAD: Final = 4 << 20
"""Bytes fetched ahead of a sequential read of a remote file."""

RANGE_LIMIT: Final = 8 << 20
"""Touching ranges are fetched as one up to this many bytes: long enough to hide a round trip, short enough to be
fetched beside others."""

_CREDENTIAL_NAME = re.compile(r"key|secret|token|passw|credential|connection_string|signature", re.IGNORECASE)
_CREDENTIAL_IN_ADDRESS = re.compile(
    r"^[\w+.-]+://[^/@]*:[^/@]*@|[?&][^=]*(signature|sig|token|secret|key)=", re.IGNORECASE
)
_STRAY = re.compile(r"^\..+\.\d+\.[0-9a-f]{8}\.tmp$")


class FileInfo(NamedTuple):
    """What a store says of a file without reading it.

    size: bytes.
    etag: the store's mark of the content, without quotes; None where the store keeps none (local disks).
    modified: time of the last change, ISO 8601 in UTC; None where unknown.
    """

    size: int
    etag: str | None
    modified: str | None


@dataclass(frozen=True)
class Storage:
    """One file system, reached under a root address; picklable, and opened anew in every process.

    The pickle carries the address and the options, never a connection or a secret: those are found in each process
    by the file system's own means (environment, profile, instance role). Paths given to the methods are relative to
    the root, with ``/`` between their parts; the empty path is the root itself.

    protocol: fsspec's name of the file system (``file``, ``memory``, ``s3``...).
    root: the root as that file system writes it, without the protocol.
    error: what a failure of the store is raised as.
    """

    protocol: str
    root: str
    options: tuple[tuple[str, str | bool], ...]
    error: type[MosaicError]

    @classmethod
    def at(cls, uri: str, options: Mapping[str, str | bool] | None = None, *, error: type[MosaicError]) -> Storage:
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
        else:
            root = str(kind._strip_protocol(uri)).rstrip("/")
        return cls(protocol, root, tuple(sorted((options or {}).items())), error)

    @property
    def local(self) -> bool:
        return self.protocol == "file"

    def under(self, path: str) -> Storage:
        """The same store with ``path`` as its root."""
        return Storage(self.protocol, self._full(path), self.options, self.error)

    def uri(self, path: str = "") -> str:
        """The full address of a path, as a user would write it."""
        full = self._full(path)
        return full if self.local else f"{self.protocol}://{full.lstrip('/')}"

    def info(self, path: str) -> FileInfo:
        with self._explained(path):
            entry = self._fs.info(self._full(path))
            if entry["type"] == "directory":
                raise IsADirectoryError(path)
            return _file_info(entry)

    def require(self) -> None:
        """Raise unless there is a file or a directory at the root."""
        with self._explained(""):
            self._fs.info(self.root)

    def exists(self, path: str) -> bool:
        """Whether there is a file (not a directory) at ``path``."""
        with self._explained(path):
            try:
                return bool(self._fs.info(self._full(path))["type"] != "directory")
            except (FileNotFoundError, NotADirectoryError):
                return False

    def listing(self, prefix: str = "") -> Iterator[tuple[str, FileInfo]]:
        """Every file below the directory ``prefix``, sorted by path; where ``prefix`` is a file, that file.

        Unfinished files of :meth:`publish` are left out. A directory that does not exist holds no files; a bucket
        that does not exist is an error.
        """
        full = self._full(prefix)
        if self.local:
            found: Iterable[tuple[str, Mapping[str, Any]]] = self._walked(full)
        else:
            found = self._pages(full) if self.protocol in S3 else self._find(full)
        for name, entry in found:
            if not _STRAY.match(name.rpartition("/")[2]):
                yield self._relative(name), _file_info(entry)

    def glob(self, pattern: str) -> Iterator[tuple[str, FileInfo]]:
        """Every file whose path matches (``*``, ``?``, ``[...]``, and ``**`` for any folders), sorted by path.

        Where only directories match, every file below them.
        """
        with self._explained(pattern):
            found = self._fs.glob(self._full(pattern), detail=True)
            if self.local:
                found = {name: _local_entry(name) for name in found}
        files = {self._relative(name): _file_info(at) for name, at in found.items() if at["type"] != "directory"}
        if not files:
            for name in found:
                files.update(self.listing(self._relative(name)))
        yield from sorted(files.items())

    def read(self, path: str) -> bytes:
        """The whole content of a small file."""
        with self._explained(path):
            return bytes(self._fs.cat_file(self._full(path)))

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of each range (start, end), in the order given.

        Ranges that touch are fetched as one up to RANGE_LIMIT, and several fetches run at once where the store
        allows it. A range that runs over the end of the file comes back short.
        """
        spans, span_of = _merge(ranges)
        with self._explained(path):
            full = self._full(path)
            if self.local:
                with open(full, "rb") as file:
                    blocks = [os.pread(file.fileno(), end - start, start) for start, end in spans]
            else:
                names = [full] * len(spans)
                starts, ends = [start for start, _ in spans], [end for _, end in spans]
                blocks = self._fs.cat_ranges(names, starts, ends, on_error="raise")
        cut = []
        for start, end in ranges:
            index = span_of.get((start, end))
            origin = spans[index][0] if index is not None else 0
            cut.append(bytes(blocks[index][start - origin : end - origin]) if index is not None else b"")
        return cut

    def open(self, path: str) -> BinaryIO:
        """The file for reading from its start to its end, with a few MiB read ahead."""
        return self._open(path, block_size=READ_AHEAD, cache_type="readahead")

    def open_random(self, path: str) -> BinaryIO:
        """The file for reading here and there, as Parquet is: each read fetches what it asks for and no more."""
        return self._open(path, cache_type="none")

    def publish(self, path: str, data: bytes) -> None:
        """Put a file in place, whole or not at all; an existing one is replaced."""
        with self._explained(path):
            if self.local:
                _replace(self._full(path), lambda file: _write_all(file, data))
            else:
                self._fs.pipe_file(self._full(path), data)

    def publish_file(self, path: str, made: str) -> None:
        """As :meth:`publish`, from the finished local file ``made``, in bounded memory; ``made`` stays."""
        with self._explained(path):
            if self.local:
                with open(made, "rb") as source:
                    _replace(self._full(path), lambda file: shutil.copyfileobj(source, file, READ_AHEAD))
            elif self.protocol in S3:
                self._fs.put_file(made, self._full(path), chunksize=16 << 20, max_concurrency=4)
            else:
                self._fs.put_file(made, self._full(path))

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._explained(path), suppress(FileNotFoundError):
            self._fs.rm_file(self._full(path))

    def remove_strays(self, prefix: str = "") -> list[str]:
        """Remove the unfinished files that killed writers left below ``prefix``, and return their paths.

        Only a local disk has any: other stores show nothing of an upload that was not completed.
        """
        if not self.local:
            return []
        with self._explained(prefix):
            strays = [name for name in sorted(_walk(self._full(prefix))) if _STRAY.match(os.path.basename(name))]
            for name in strays:
                with suppress(FileNotFoundError):
                    os.unlink(name)
        return [self._relative(name) for name in strays]

    def _full(self, path: str) -> str:
        if not path:
            return self.root
        return f"{self.root.rstrip('/')}/{path}" if self.root else path

    def _relative(self, full: str) -> str:
        """Of a name from the file system; it may have lost or gained a leading slash."""
        return full.lstrip("/")[len(self.root.lstrip("/")) :].lstrip("/")

    @property
    def _fs(self) -> Any:
        """The file system of this process: a connection must not cross a fork."""
        held = self.__dict__.get("_held")
        if held is None or held[0] != os.getpid():
            defaults: dict[str, Any] = {"use_listings_cache": False}
            if self.protocol in S3:
                defaults.update(default_cache_type="none", default_fill_cache=False)
            held = (os.getpid(), fsspec.filesystem(self.protocol, **{**defaults, **dict(self.options)}))
            self.__dict__["_held"] = held
        return held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_held"}

    def _walked(self, full: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        with self._explained(self._relative(full)):
            for name in sorted(_walk(full)):
                yield name, _local_entry(name)

    def _pages(self, full: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """What S3 lists, a page at a time: the whole listing of a million files would take a gigabyte."""
        bucket, _, key = full.partition("/")
        request = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
        nothing = True
        while True:
            with self._explained(self._relative(full)):
                page = self._fs.call_s3("list_objects_v2", **request)
            for entry in page.get("Contents", ()):
                nothing = False
                if not entry["Key"].endswith("/"):
                    yield f"{bucket}/{entry['Key']}", {**entry, "size": entry["Size"]}
            if not page.get("IsTruncated"):
                break
            request["ContinuationToken"] = page["NextContinuationToken"]
        if nothing and key:  # it may be one file
            yield from self._find(full)

    def _find(self, full: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        with self._explained(self._relative(full)):
            found = self._fs.find(full, detail=True)
        for name in sorted(found):
            if found[name]["type"] == "file" and not name.endswith("/"):
                yield name, found[name]

    def _open(self, path: str, **caching: Any) -> BinaryIO:
        full = self._full(path)
        with self._explained(path):
            if self.local:
                raw: IO[bytes] = open(full, "rb")  # noqa: SIM115 - handed to the caller
            elif self.protocol == "memory":  # its open() hands every reader the one shared position
                raw = io.BytesIO(self._fs.cat_file(full))
            else:
                raw = self._fs.open(full, "rb", **caching)
        return cast(BinaryIO, _Explaining(raw, lambda: self._explained(path)))

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except MosaicError:
            raise
        except Exception as failure:  # each store has its own classes, many of them not OSError
            raise self.error(
                explain(failure, self.uri(path), self.protocol, dict(self.options), self._probe)
            ) from failure

    def _probe(self) -> Exception | None:
        """What S3 says of the bucket itself: a failed HEAD has no body, hence no reason."""
        try:
            self._fs.call_s3("list_objects_v2", Bucket=self.root.partition("/")[0], MaxKeys=1)
        except Exception as failure:
            return failure
        return None


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
            return self._raw.read(-1 if size is None else size)

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


def _file_info(entry: Mapping[str, Any]) -> FileInfo:
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


def _walk(root: str) -> list[str]:
    """Files below a local directory. Links are followed, except back up and to a directory that is walked anyway."""
    if os.path.isfile(root):
        return [root]
    found: list[str] = []
    visited: set[str] = set()
    folders, links = [root], deque[str]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()  # a directory goes by its own name before a link's
        here = os.path.realpath(folder)
        if here in visited:
            continue
        visited.add(here)
        try:
            names = sorted(os.listdir(folder))
        except FileNotFoundError:
            continue
        for name in names:
            full = os.path.join(folder, name)
            if not os.path.isdir(full):
                found.append(full)
            elif not os.path.islink(full):
                folders.append(full)
            elif not _leads_up(full, here + "/"):
                links.append(full)
    return found


def _leads_up(link: str, here: str) -> bool:
    return here.startswith(os.path.realpath(link) + "/")


def _local_entry(full: str) -> dict[str, Any]:
    """Of a link that leads nowhere: an empty file, so that reading it says what is wrong."""
    try:
        state = os.stat(full)
    except FileNotFoundError:
        return {"type": "file", "size": 0}
    return {"type": "directory" if os.path.isdir(full) else "file", "size": state.st_size, "mtime": state.st_mtime}


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


def _write_all(file: IO[bytes], data: bytes) -> None:
    file.write(data)


def _replace(target: str, write: Callable[[IO[bytes]], None]) -> None:
    """Write a sibling and rename it: the rename is atomic only within one file system."""
    folder, name = os.path.split(target)
    os.makedirs(folder, exist_ok=True)
    unfinished = os.path.join(folder, f".{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with open(unfinished, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise
