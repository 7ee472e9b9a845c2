"""The content of a packed file, in bounded memory whatever the file says of itself.

A packed file may become 32,768 times as long, ask for 2 GiB of memory, or be a million members of one byte. Here it
comes in blocks of one size, and at most about 200 MiB are held for it, most of that the window of zstd.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import zstandard

from mosaic_ray.errors import InputError
from mosaic_ray.io.cells import Compression

BLOCK: Final = 1 << 20
"""Bytes of every block but the last."""

_STEP: Final[Mapping[str, int]] = {"gzip": 1 << 14, "zstd": 1 << 10}
"""Packed bytes unpacked at a time. They become at most 1,032 and 32,768 times as many, so 16 and 32 MiB."""

_WINDOW: Final = 1 << 27
"""Bytes of the longest window of zstd: that of ``zstd --long``, and of the highest level without it."""

_MAGIC: Final[Mapping[str, bytes]] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_SKIPPABLE: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")


def unpacked(raw: Iterator[bytes], compression: Compression, where: str) -> Iterator[bytes]:
    """The content of a packed file; zero bytes after the last gzip member are padding.

    raw: the file's bytes, in pieces of any length.

    Raises InputError where they are cut off, damaged or not packed at all, or need a window of more than 128 MiB.
    """
    held = bytearray()
    for data in _members(raw, compression, where):
        held += data
        while len(held) >= BLOCK:
            yield bytes(held[:BLOCK])
            del held[:BLOCK]
    if held:
        yield bytes(held)


def _members(raw: Iterator[bytes], compression: Compression, where: str) -> Iterator[bytes]:
    """One gzip member or zstd frame after the other, as they come."""
    step = _STEP[compression]
    read = size = 0
    unpacker: Any = None
    for data in raw:
        if read == 0 and not data.startswith(_MAGIC[compression]) and not _SKIPPABLE.match(data):
            raise InputError(
                f"{where}: this is not packed with {compression}; correct its name, or leave the file out."
            )
        at = 0
        while at < len(data):
            if unpacker is None:
                if compression == "gzip" and data[at] == 0 and not data[at:].strip(b"\0"):
                    break
                unpacker = zlib.decompressobj(31) if compression == "gzip" else _zstd()
            try:
                out = unpacker.decompress(data[at : at + step])
            except (zlib.error, zstandard.ZstdError) as failure:
                raise InputError(_refused(str(failure), f"{where}: the {compression} data", read + at, size)) from None
            at = min(at + step, len(data))
            size += len(out)
            if out:
                yield out
            if unpacker.eof:
                at -= len(unpacker.unused_data)
                unpacker = None
        read += len(data)
    if unpacker is not None or read == 0:
        raise InputError(
            f"{where}: the {compression} data is cut off at byte {read} ({size} bytes unpacked); "
            "copy the file again, or leave it out."
        )


def _zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()


def _refused(failure: str, what: str, byte: int, size: int) -> str:
    """What to say when the library gave up."""
    if "too much memory" in failure:
        return (
            f"{what} near byte {byte} needs a window of more than {_WINDOW >> 20} MiB, which is the limit; "
            "pack the file again with no more than zstd --long=27, or leave it out."
        )
    return (
        f"{what} is damaged near byte {byte} ({failure}; {size} bytes unpacked before it); "
        "copy the file again, or leave it out."
    )
