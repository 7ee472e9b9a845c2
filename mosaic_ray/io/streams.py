"""From the bytes of a file to its rows, in bounded memory: unpacking, lines, JSON arrays, Parquet batches.

A row is handed on as one line of JSON or as what it parsed to; what is wrong with a single row is a
:class:`Refusal`, what is wrong with the file as such is an InputError.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from mosaic_ray.errors import InputError
from mosaic_ray.io.cells import Compression
from mosaic_ray.io.storage import Storage

CHUNK: Final = 1 << 20
"""Bytes read at a time."""

MAX_RECORD: Final = 64 << 20
"""No record is longer than this many bytes; what is longer is not lines of JSON, and would not fit into memory."""

_PACKED_STEP: Final = 1 << 14
"""Packed bytes unpacked at a time; they can become a thousand times as many."""

_MAGIC: Final[Mapping[str, bytes]] = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
_SKIPPABLE: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_FOREIGN: Final[Mapping[bytes, str]] = {
    b"\x1f\x8b": "is packed with gzip; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "is packed with zstd; add .zst to its name",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"\xff\xfe": "is UTF-16 text; convert it to UTF-8",
    b"\xfe\xff": "is UTF-16 text; convert it to UTF-8",
}
_BOM: Final = codecs.BOM_UTF8
_SPACE: Final = re.compile(r"[ \t\r\n]*")


class Refusal(NamedTuple):
    """Why a row is no object: a reason of :data:`mosaic_ray.records.REASONS`, and what exactly was wrong."""

    reason: str
    detail: str


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def chunks(
    source: Storage, path: str, compression: Compression | None, *, digest: Hash | None = None
) -> Iterator[bytes]:
    """The unpacked content of a file from its start to its end.

    digest: is fed the bytes as they lie in the store.

    Raises InputError for a packed file that is cut off, damaged or not packed at all.
    """
    where = source.uri(path)
    with source.open(path) as file:
        raw = iter(lambda: file.read(CHUNK), b"")
        if digest is not None:
            raw = _fed(raw, digest)
        yield from raw if compression is None else _unpacked(raw, compression, where)


def sha256(source: Storage, path: str) -> str:
    """Of a whole file, hexadecimal."""
    digest = hashlib.sha256()
    for _ in chunks(source, path, None, digest=digest):
        pass
    return digest.hexdigest()


def opening(content: Iterator[bytes], where: str) -> tuple[bytes, Iterator[bytes], int]:
    """What a text file starts with: its first byte that is no white space, its content again, the length of its BOM.

    The byte order mark is taken off the content. The byte is empty for a file of white space alone.

    Raises InputError where the content is not UTF-8 text.
    """
    head = b""
    while len(head) < 4 or (head.removeprefix(_BOM).isspace() and len(head) < MAX_RECORD):
        more = next(content, b"")
        head += more
        if not more:
            break
    for magic, meaning in _FOREIGN.items():
        if head.startswith(magic):
            raise InputError(f"{where}: this {meaning}, or leave the file out.")
    text = head.removeprefix(_BOM)
    return text.lstrip()[:1], chain([text], content), len(head) - len(text)


def lines(content: Iterator[bytes], where: str) -> Iterator[bytes]:
    """The lines, each with its line feed; a carriage return before it counts as white space of the line."""
    pieces: list[bytes] = []
    held, number = 0, 0
    for chunk in content:
        for line in io.BytesIO(chunk):
            if not line.endswith(b"\n"):
                pieces.append(line)
                held += len(line)
                if held > MAX_RECORD:
                    raise InputError(
                        f"{where}: line {number + 1} is longer than {MAX_RECORD >> 20} MiB, the limit of a record; "
                        "write one JSON object a line."
                    )
                continue
            number += 1
            if pieces:
                pieces.append(line)
                yield b"".join(pieces)
                pieces, held = [], 0
            else:
                yield line
    if pieces:
        yield b"".join(pieces)


def elements(content: Iterator[bytes], where: str, *, skipped: int = 0) -> Iterator[bytes]:
    """The elements of a JSON array, each as one line of JSON.

    skipped: bytes of the file before the content, for the places in errors.

    The text is decoded with invalid bytes escaped and encoded back, so that an invalid element is refused alone.

    Raises InputError, with the byte, where the array is broken or cut off.
    """
    text = _ArrayText(content, where, skipped)
    text.take("[")
    if text.peek() == "]":
        text.take("]")
    else:
        while True:
            line = text.value().replace("\n", " ").replace("\r", " ") + "\n"
            yield line.encode("utf-8", "surrogateescape")
            if text.peek() != ",":
                break
            text.take(",")
        text.take("]")
    if text.peek():
        raise text.broken("something follows the end of the JSON array")


class _ArrayText:
    """A growing window over the text of a JSON array; offsets in errors are bytes of the unpacked content."""

    def __init__(self, content: Iterator[bytes], where: str, skipped: int) -> None:
        self._content = content
        self._where = where
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._scan = json.JSONDecoder(parse_int=len).raw_decode  # only the extent counts; int() refuses 4,301 digits
        self._window = ""
        self._at = 0
        self._dropped = skipped
        self._ended = False
        self.count = 0

    def peek(self) -> str:
        """The next character that is no white space, not taken; empty at the end."""
        while True:
            self._at = _SPACE.match(self._window, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._grow(CHUNK):
                return ""

    def take(self, expected: str) -> None:
        found = self.peek()
        if not found:
            raise self.broken("the JSON array is cut off")
        if found != expected:
            raise self.broken(f"{expected!r} should stand here, not {found!r}")
        self._at += 1

    def value(self) -> str:
        """The text of the next value."""
        if not self.peek():
            raise self.broken("the JSON array is cut off")
        while True:
            wanted = max(CHUNK, len(self._window) - self._at)
            try:
                _, end = self._scan(self._window, self._at)
            except json.JSONDecodeError as error:
                # Of a value that is merely not all here yet, the error lies at the end or in an open string.
                unterminated = error.msg.startswith("Unterminated string")
                open_end = unterminated or error.pos > len(self._window) - 16
                if open_end and len(self._window) - self._at < MAX_RECORD and self._grow(wanted):
                    continue
                self._at = error.pos
                cut_off = self._ended and (unterminated or self._at >= len(self._window.rstrip()))
                what = "the JSON array is cut off" if cut_off else f"the JSON is broken ({error.msg})"
                raise self.broken(what) from None
            except RecursionError:
                raise self.broken("the JSON is nested too deeply") from None
            if end > len(self._window) - 3 and self._grow(wanted):
                continue  # a number may go on: 12 of 12e+5
            text = self._window[self._at : end]
            self._at = end
            self.count += 1
            return text

    def broken(self, what: str) -> InputError:
        byte = self._dropped + len(self._window[: self._at].encode("utf-8", "surrogateescape"))
        return InputError(
            f"{self._where}: {what}, at byte {byte}, after {self.count} whole elements; "
            "repair the file or copy it again, or leave it out."
        )

    def _grow(self, size: int) -> bool:
        """Read on by about ``size`` characters and drop those taken; False, and nothing moved, at the end."""
        pieces: list[str] = []
        got = 0
        while got < size and not self._ended:
            data = next(self._content, b"")
            self._ended = not data
            pieces.append(self._decode(data, final=not data))
            got += len(pieces[-1])
        text = "".join(pieces)
        if text:
            self._dropped += len(self._window[: self._at].encode("utf-8", "surrogateescape"))
            self._window = self._window[self._at :] + text
            self._at = 0
        return bool(text)


def parse(line: bytes) -> dict[str, Any] | Refusal:
    """A line of JSON as an object. NaN and infinities are taken; whole numbers beyond 64 bits may lose digits."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return Refusal("not_utf8", f"byte {error.start} of the row is {line[error.start]:#04x}")
        except json.JSONDecodeError as error:
            return Refusal("not_json", f"{error.msg} at character {error.pos} of the row")
        except (RecursionError, ValueError) as error:
            return Refusal(
                "not_json", "nested too deeply" if isinstance(error, RecursionError) else "a number is too long"
            )
    if isinstance(value, dict):
        return value
    return Refusal("not_an_object", f"it is {'null' if value is None else 'of type ' + type(value).__name__}")


@contextmanager
def parquet(source: Storage, path: str, *, ahead: bool = True) -> Iterator[pq.ParquetFile]:
    """An open Parquet file; what goes wrong with its content while it is open is an InputError.

    ahead: fetch the columns of the row groups asked for in few large reads; else stream them in small ones.
    """
    where = source.uri(path)
    with source.open_random(path) as file:
        try:
            yield pq.ParquetFile(file, pre_buffer=ahead, buffer_size=0 if ahead else CHUNK)
        except (pa.ArrowException, OSError) as failure:
            text = str(failure).partition("\n")[0].rstrip(".")
            raise InputError(
                f"{where}: this is no Parquet file that can be read ({text}); it may be damaged or cut off: "
                "copy it again, or leave it out."
            ) from failure


def batch_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any] | Refusal]:
    """The rows of an Arrow batch or table; a row with text that is not UTF-8 (Arrow lets it in) is refused."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        if batch.num_rows > 1:
            half = batch.num_rows // 2
            return batch_rows(batch.slice(0, half)) + batch_rows(batch.slice(half))
        return [Refusal("not_utf8", "a text column of the row")]


def json_line(row: dict[str, Any] | Refusal) -> bytes:
    """A Parquet row as a line of JSON that parses to the same record, or is refused for the same reason."""
    if isinstance(row, Refusal):
        return b"\xff\n"
    return orjson.dumps(row, default=_as_object, option=orjson.OPT_PASSTHROUGH_DATETIME) + b"\n"


def _as_object(value: object) -> dict[str, str]:
    """A date or bytes must not come back as a string, which would be a text."""
    return {type(value).__name__: str(value)}


def _fed(raw: Iterator[bytes], digest: Hash) -> Iterator[bytes]:
    for data in raw:
        digest.update(data)
        yield data


def _unpacked(raw: Iterator[bytes], compression: Compression, where: str) -> Iterator[bytes]:
    """One gzip member or zstd frame after the other; zero bytes after the last gzip member are padding."""
    read, unpacked = 0, 0
    unpacker: Any = None
    for data in raw:
        if read == 0 and not data.startswith(_MAGIC[compression]) and not _SKIPPABLE.match(data):
            raise InputError(
                f"{where}: this is not packed with {compression}; correct its name, or leave the file out."
            )
        at = 0
        while at < len(data):
            if unpacker is None:
                if compression == "gzip" and not data[at:].strip(b"\0"):
                    break
                unpacker = zlib.decompressobj(31) if compression == "gzip" else _zstd()
            try:
                out = unpacker.decompress(data[at : at + _PACKED_STEP])
            except (zlib.error, zstandard.ZstdError) as failure:
                raise InputError(
                    f"{where}: the {compression} data is damaged near byte {read + at} "
                    f"({unpacked} bytes unpacked before it); copy the file again, or leave it out."
                ) from failure
            at = min(at + _PACKED_STEP, len(data))
            unpacked += len(out)
            if out:
                yield out
            if unpacker.eof:
                at -= len(unpacker.unused_data)
                unpacker = None
        read += len(data)
    if unpacker is not None or read == 0:
        raise InputError(
            f"{where}: the {compression} data is cut off at byte {read} ({unpacked} bytes unpacked); "
            "copy the file again, or leave it out."
        )


def _zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
