"""The local disk: a file is written beside its place and renamed, so it is there whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Final

import fsspec

from mosaic_ray.io.failures import NoFileError
from mosaic_ray.io.store import READ_AHEAD, FileInfo, file_info

_STRAY: Final = re.compile(r"^\..+\.\d+\.[0-9a-f]{8}\.tmp$")
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalStore:
    """See :class:`mosaic_ray.io.store.Store`. A local disk keeps no mark of the content, so ``etag`` means nothing."""

    def info(self, full: str) -> FileInfo:
        if os.path.isdir(full):
            raise IsADirectoryError(full)
        state = os.stat(full)
        return file_info({"size": state.st_size, "mtime": state.st_mtime})

    def exists(self, full: str) -> bool:
        try:
            return not stat.S_ISDIR(os.stat(full).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def require(self, full: str) -> None:
        os.stat(full)

    def listing(self, full: str) -> Iterator[tuple[str, FileInfo]]:
        for name in sorted(_walk(full)):
            if not _STRAY.match(os.path.basename(name)):
                yield name, _linked_info(name)

    def folders(self, full: str) -> Iterator[str]:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(full) as entries:
            yield from [entry.path for entry in entries if entry.is_dir()]

    def glob(self, pattern: str) -> dict[str, FileInfo | None]:
        found = fsspec.filesystem("file").glob(pattern)
        return {name: None if os.path.isdir(name) else _linked_info(name) for name in found}

    def read(self, full: str) -> bytes:
        with _open(full) as file:
            return file.read()

    def read_spans(self, full: str, spans: Sequence[tuple[int, int]], etag: str | None) -> list[bytes]:  # noqa: ARG002
        with _open(full) as file:
            return [os.pread(file.fileno(), end - start, start) for start, end in spans]

    def open(self, full: str, *, random: bool, etag: str | None) -> IO[bytes]:  # noqa: ARG002
        return _open(full)

    def put(self, full: str, data: bytes, *, exclusive: bool) -> None:
        _put(full, lambda file: file.write(data), exclusive=exclusive)

    def put_file(self, full: str, made: str, *, exclusive: bool) -> None:
        with open(made, "rb") as source:
            _put(full, lambda file: shutil.copyfileobj(source, file, READ_AHEAD), exclusive=exclusive)

    def delete(self, full: str) -> None:
        os.unlink(full)

    def delete_all(self, full: Sequence[str]) -> None:
        for name in full:
            with suppress(FileNotFoundError):
                os.unlink(name)

    def remove_empty(self, full: str) -> None:
        for folder, _, _ in os.walk(full, topdown=False):
            with suppress(OSError):  # something is in it, or it is gone
                os.rmdir(folder)

    def remove_unfinished(self, full: str) -> list[str]:
        strays = [name for name in sorted(_walk(full)) if _STRAY.match(os.path.basename(name))]
        for name in strays:
            with suppress(FileNotFoundError):
                os.unlink(name)
        return strays


def _open(full: str) -> IO[bytes]:
    """Raises NoFileError for a pipe, which could be waited for without end, and its like."""
    mode = os.stat(full).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a directory raises what is to be said of it
        raise NoFileError(full)
    return open(full, "rb")


def _put(target: str, write: Callable[[IO[bytes]], object], *, exclusive: bool) -> None:
    """Write a sibling and rename it: the rename is atomic only within one file system."""
    folder, name = os.path.split(target)
    os.makedirs(folder, exist_ok=True)
    # A name may have 255 bytes, and the sibling's is longer.
    unfinished = os.path.join(
        folder, f".{os.fsencode(name)[:200].decode('utf-8', 'ignore')}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
    )
    try:
        with open(unfinished, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            _link(unfinished, target)
        else:
            os.replace(unfinished, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)


def _link(made: str, target: str) -> None:
    """Give a finished file its name unless that is taken: the one call that does both at once."""
    try:
        os.link(made, target)
    except OSError as failure:
        if failure.errno not in _NO_LINKS:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL))  # a disk without links: the name first, then the content
        os.replace(made, target)


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


def _linked_info(full: str) -> FileInfo:
    """Of a link that leads nowhere: an empty file, so that reading it says what is wrong."""
    try:
        state = os.stat(full)
    except OSError:
        return FileInfo(0, None, None)
    return file_info({"size": state.st_size, "mtime": state.st_mtime})
