"""From the bytes of a file to its rows, in bounded memory: lines, JSON arrays, objects.

A row is handed on as one line of JSON or as what it parsed to; what is wrong with a single row is a
:class:`Refusal`, what is wrong with the file as such is an InputError.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Final, NamedTuple, Protocol

import orjson

from mosaic_ray.errors import InputError
from mosaic_ray.io.cells import Compression
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.unpacking import unpacked

CHUNK: Final = 1 << 20
"""Bytes read at a time."""

MAX_RECORD: Final = 64 << 20
"""No record is longer than this many bytes; what is longer is not lines of JSON, and would not fit into memory."""

MAX_DEPTH: Final = 256
"""No row is nested deeper: whether a parser takes a thousand levels depends on what called it."""

MAX_VALUES: Final = 1_000_000
"""No row holds more values: each is some 80 bytes in memory, and may be 3 bytes of the file."""

SMALL: Final = 1 << 20
"""Bytes of a row, or of an element of an array, that are parsed without a look at what they would become."""

_FOREIGN: Final[Mapping[bytes, str]] = {
    b"\x1f\x8b": "is packed with gzip; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "is packed with zstd; add .zst to its name",
    b"PAR1": "is a Parquet file; name it .parquet",
    b"\xff\xfe\0\0": "is UTF-32 text; convert it to UTF-8",
    b"\0\0\xfe\xff": "is UTF-32 text; convert it to UTF-8",
    b"\xff\xfe": "is UTF-16 text; convert it to UTF-8",
    b"\xfe\xff": "is UTF-16 text; convert it to UTF-8",
}
_WIDE: Final[Mapping[bytes, str]] = {
    b"\1\0\1\0": "UTF-16", b"\0\1\0\1": "UTF-16", b"\1\0\0\0": "UTF-32", b"\0\0\0\1": "UTF-32"
}  # fmt: skip
"""Which of the first four bytes are not zero where JSON is written without a byte order mark."""
_BOM: Final = codecs.BOM_UTF8
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_MARKS: Final = re.compile(r'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+(")?|[\[\]{},]')
"""A bracket, a comma, or a string; group 1 is there if the string ends. Possessive, so of any length without memory."""


class Refusal(NamedTuple):
    """Why a row is no object: a reason of :data:`mosaic_ray.records.REASONS`, and what exactly was wrong."""

    reason: str
    detail: str


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def chunks(
    source: Storage,
    path: str,
    compression: Compression | None,
    *,
    etag: str | None = None,
    digest: Hash | None = None,
) -> Iterator[bytes]:
    """The unpacked content of a file from its start to its end.

    etag: of the file that is meant, where the store keeps such marks; another file is an error.
    digest: is fed the bytes as they lie in the store.

    Raises InputError for a packed file that is cut off, damaged or not packed at all.
    """
    where = source.uri(path)
    with source.open(path, etag=etag) as file:
        raw = iter(lambda: file.read(CHUNK), b"")
        if digest is not None:
            raw = _fed(raw, digest)
        yield from raw if compression is None else unpacked(raw, compression, where)


def sha256(source: Storage, path: str, *, etag: str | None = None) -> str:
    """Of a whole file, hexadecimal. etag: as in :func:`chunks`."""
    digest = hashlib.sha256()
    for _ in chunks(source, path, None, etag=etag, digest=digest):
        pass
    return digest.hexdigest()


def opening(content: Iterator[bytes], where: str) -> tuple[bytes, Iterator[bytes], int]:
    """What a text file starts with: its first byte that is no white space, its content again, the length of its BOM.

    The byte order mark is taken off the content. The byte is empty for a file of white space alone.

    Raises InputError where the content is not UTF-8 text.
    """
    head = b""
    while len(head) < 4 and (more := next(content, b"")):
        head += more
    meaning = next((meaning for magic, meaning in _FOREIGN.items() if head.startswith(magic)), None)
    if wide := _WIDE.get(bytes(map(bool, head[:4]))):
        meaning = f"is {wide} text; convert it to UTF-8"
    if meaning:
        raise InputError(f"{where}: this {meaning}, or leave the file out.")
    text = head.removeprefix(_BOM)
    first, seen, size = text.lstrip()[:1], [text], len(text)
    while not first and size < MAX_RECORD and (more := next(content, b"")):
        first = more.lstrip()[:1]
        seen.append(more)
        size += len(more)
    return first, chain(seen, content), len(head) - len(text)


def lines(content: Iterator[bytes], where: str) -> Iterator[bytes]:
    """The lines, each with its line feed; a carriage return before it counts as white space of the line.

    Raises InputError for a line longer than MAX_RECORD.
    """
    pieces: list[bytes] = []
    held, number = 0, 1
    for chunk in content:
        for line in io.BytesIO(chunk):
            ended = line.endswith(b"\n")
            if pieces or not ended:
                pieces.append(line)
                held += len(line)
                if held > MAX_RECORD:
                    raise too_long(f"{where}: line {number}")
                if not ended:
                    continue
                line = b"".join(pieces)
                pieces, held = [], 0
            number += 1
            yield line
    if pieces:
        yield b"".join(pieces)


def too_long(what: str) -> InputError:
    """What to raise for a record longer than MAX_RECORD."""
    return InputError(
        f"{what} is longer than {MAX_RECORD >> 20} MiB, the limit of a record; "
        "write one JSON object a line, or leave the file out."
    )


def elements(content: Iterator[bytes], where: str, *, skipped: int = 0) -> Iterator[bytes]:
    """The elements of a JSON array, each as one line of JSON.

    skipped: bytes of the file before the content, for the places in errors.

    An element with bytes that are not UTF-8, or too long or too deep to be parsed here, is handed on as it stands, for
    :func:`parse` to refuse it alone.

    Raises InputError, with the byte, where the array is broken or cut off, or an element is longer than MAX_RECORD.
    """
    text = _ArrayText(content, where, skipped)
    text.take("[")
    if text.peek() == "]":
        text.take("]")
    else:
        while True:
            line = text.value().replace("\n", " ").replace("\r", " ") + "\n"
            yield line.encode("latin-1")
            if text.peek() != ",":
                break
            text.take(",")
        text.take("]")
    if text.peek():
        raise text.broken("something follows the end of the JSON array")


class _ArrayText:
    """A growing window over the text of a JSON array, a character for each byte."""

    def __init__(self, content: Iterator[bytes], where: str, skipped: int) -> None:
        self._content = content
        self._where = where
        self._parse = json.JSONDecoder(parse_int=len, parse_float=len).raw_decode  # only the extent counts
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
            if not self._grow():
                return ""

    def take(self, expected: str) -> None:
        found = self.peek()
        if not found:
            raise self.broken("the JSON array is cut off")
        if found != expected:
            shown = repr(found) if found.isascii() else f"{ord(found):#04x}"
            raise self.broken(f"{expected!r} should stand here, not {shown}")
        self._at += 1

    def value(self) -> str:
        """The text of the next value."""
        if not self.peek():
            raise self.broken("the JSON array is cut off")
        start, end = self._dropped + self._at, self._end()
        text = self._window[self._at : end]
        if len(text) >= MAX_RECORD:
            raise too_long(f"{self._where}: the element at byte {start}, after {self.count} whole ones,")
        self._at = end
        self.count += 1
        return text

    def broken(self, what: str) -> InputError:
        return InputError(
            f"{self._where}: {what}, at byte {self._dropped + self._at}, after {self.count} whole elements; "
            "repair the file or copy it again, or leave it out."
        )

    def _end(self) -> int:
        """Where the next value ends, found by parsing it; what is wrong in its first SMALL bytes is wrong here."""
        while True:
            held = len(self._window) - self._at
            try:
                _, end = self._parse(self._window, self._at)
            except json.JSONDecodeError as error:
                # Of a value that is merely not all here yet, the error lies at the end or in an open string.
                unterminated = error.msg.startswith("Unterminated string")
                if unterminated or error.pos > len(self._window) - 16:
                    if held < SMALL + 32 and self._grow():
                        continue
                    if held < SMALL + 32:
                        self._at = error.pos
                        cut_off = unterminated or self._at >= len(self._window.rstrip())
                        raise self.broken("the JSON array is cut off" if cut_off else _broken(error.msg)) from None
                elif error.pos - self._at <= SMALL:
                    self._at = error.pos
                    raise self.broken(_broken(error.msg)) from None
                return self._end_by_brackets()
            except RecursionError:
                return self._end_by_brackets()
            # A number may go on: 12 of 12e+5.
            if end <= len(self._window) - 3 or held >= MAX_RECORD or not self._grow():
                return end

    def _end_by_brackets(self) -> int:
        """The same of a value that is a string, an array or an object, in little memory; what it holds may be wrong."""
        depth = done = 0
        while True:
            for mark in _MARKS.finditer(self._window, self._at + done):
                first = self._window[mark.start()]
                if first in "[{":
                    depth += 1
                elif first in "]}":
                    depth -= 1
                elif first == '"' and not mark.lastindex:
                    if mark.end() < len(self._window) - 1:
                        self._at = mark.end()
                        raise self.broken(_broken("Invalid control character"))
                    break
                done = mark.end() - self._at
                if not depth:
                    return mark.end()
            if len(self._window) - self._at >= MAX_RECORD:
                return len(self._window)
            if not self._grow():
                self._at = len(self._window)
                raise self.broken("the JSON array is cut off")

    def _grow(self) -> bool:
        """Read on, as much again as is held, and drop what was taken; False, and nothing moved, at the end."""
        pieces: list[bytes] = []
        wanted = max(CHUNK, len(self._window) - self._at)
        while wanted > 0 and not self._ended:
            data = next(self._content, b"")
            self._ended = not data
            pieces.append(data)
            wanted -= len(data)
        data = b"".join(pieces)
        if data:
            self._window = self._window[self._at :] + data.decode("latin-1")
            self._dropped += self._at
            self._at = 0
        return bool(data)


def _broken(message: str) -> str:
    return f"the JSON is broken ({message})"


def parse(line: bytes) -> dict[str, Any] | Refusal:
    """A line of JSON as an object.

    NaN and infinities are taken, and so is a byte order mark, which stands inside of files that were put together.
    Whole numbers beyond 64 bits may lose digits. Of equal keys the last counts.
    """
    # Two bytes for each level: a short row needs no look, and most are short.
    if len(line) > 2 * MAX_DEPTH and (len(line) > SMALL or line.count(b"[") + line.count(b"{") > MAX_DEPTH):
        excess = _excess(line)
        if excess:
            return Refusal("too_complex", excess)
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        line = line.removeprefix(_BOM)
        try:
            value = _PARSE(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return Refusal("not_utf8", f"byte {error.start} of the row is {line[error.start]:#04x}")
        except json.JSONDecodeError as error:
            return Refusal("not_json", f"{error.msg} at character {error.pos} of the row")
    if isinstance(value, dict):
        return value
    return Refusal("not_an_object", f"it is {'null' if value is None else 'of type ' + type(value).__name__}")


def _excess(line: bytes) -> str:
    """What a row has too much of, if anything."""
    text = line.decode("latin-1")
    depth = values = 0
    for mark in _MARKS.finditer(text):
        first = text[mark.start()]
        if first in "[{":
            depth += 1
            values += 1
        elif first in "]}":
            depth -= 1
        elif first == ",":
            values += 1
        if depth > MAX_DEPTH:
            return f"it is nested more than {MAX_DEPTH} levels deep"
        if values > MAX_VALUES:
            return f"it holds more than {MAX_VALUES:,} values"
    return ""


def _whole_number(text: str) -> float:
    """As orjson takes it; int() refuses 4,301 digits."""
    return int(text) if len(text) < 20 else float(text)


_PARSE: Final = json.JSONDecoder(parse_int=_whole_number).decode


def _fed(raw: Iterator[bytes], digest: Hash) -> Iterator[bytes]:
    for data in raw:
        digest.update(data)
        yield data
