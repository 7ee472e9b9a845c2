"""What must hold for any bytes whatever: the targets of the fuzzer, each a function that raises where it does not.

An InputError is a clear refusal and always allowed. Everything else that comes out is a defect.
"""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zstandard

from mosaic_ray.errors import InputError
from mosaic_ray.io import streams, unpacking
from mosaic_ray.io.cutting import cut_lines
from mosaic_ray.io.inventory import FoundFile, InputFile, take_inventory
from mosaic_ray.io.readers import Row, read_cells, read_rows
from mosaic_ray.io.shapes import excerpt, recognise, to_record
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.streams import Refusal, elements, lines, opening, parse
from mosaic_ray.io.unpacking import unpacked
from mosaic_ray.records import EXCERPT_CHARACTERS, REASONS, Record, Reject, Source

LONGEST_DETAIL = 300
LONGEST_MESSAGE = 3000


FOLDER = Path(tempfile.gettempdir())
"""Where :func:`file` writes its files; set by whoever runs it."""


def checked(error: InputError, *, named: str = "f") -> str:
    """The words of a refusal: they name the file, and are not many."""
    text = str(error)
    assert text.startswith(f"{named}: "), text
    assert len(text) < LONGEST_MESSAGE
    return text


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def jsonl(data: bytes) -> None:
    """Lines: none lost, the same however they arrive, cut into cells alike, and each an object or refused alike."""
    size, data = 1 + (data[0] if data else 0), data[1:]
    got = list(lines(pieces(data, size), "f"))
    assert b"".join(got) == data
    assert all(b"\n" not in line[:-1] for line in got)
    cut = list(cut_lines(pieces(data, size), "f", records=2, size=16))
    assert b"".join(piece.data for piece in cut) == data
    assert sum(piece.lines for piece in cut) == len(got)
    assert sum(piece.records for piece in cut) == sum(not line.isspace() for line in got)
    for line in got[:30]:
        check_row(parse(line), line)


def check_row(row: dict[str, Any] | Refusal, line: bytes) -> None:
    """Against the standard library's reading of the same line."""
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_int=float)
    except UnicodeDecodeError:
        value = "not_utf8"
    except json.JSONDecodeError:
        value = "not_json"
    except RecursionError:
        value = "too_complex"
    if isinstance(row, Refusal):
        assert row.reason in REASONS
        assert len(row.detail) <= LONGEST_DETAIL
        assert row.reason in (value, "too_complex") or not isinstance(value, dict), (row, value)
    else:
        assert isinstance(value, dict), (row, value)
        assert repr(_floats(row)) == repr(value), (row, value)
    shown = excerpt(line)
    assert len(shown) <= EXCERPT_CHARACTERS
    shown.encode()


def _floats(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_floats(item) for item in value]
    return float(value) if type(value) is int else value


def array(data: bytes) -> None:
    """A JSON array: its elements are those of the standard library, and the same however it arrives."""
    size, small, data = 1 + (data[0] if data else 0), 1 + 8 * (data[1] if data[1:] else 0), data[2:]
    outcomes = {repr(_elements(data, size, small)), repr(_elements(data, 1 << 20, small))}
    assert len(outcomes) == 1, outcomes
    got = _elements(data, 1 << 20, 1 << 20)
    try:
        values = json.loads(data.decode("utf-8"), parse_int=float)
    except (ValueError, RecursionError):
        values = None
    if isinstance(got, list):
        for line in got:
            assert line.endswith(b"\n")
            assert b"\n" not in line[:-1]
            parse(line)
    if isinstance(values, list):
        assert isinstance(got, list), got
        assert [repr(_floats(json.loads(line))) for line in got] == [repr(value) for value in values]


def _elements(data: bytes, size: int, small: int) -> list[bytes] | str:
    with small_numbers(CHUNK=size, SMALL=small):
        try:
            return list(elements(pieces(data, size), "f"))
        except InputError as error:
            return checked(error)


@contextmanager
def small_numbers(**values: int) -> Iterator[None]:
    """Limits of :mod:`mosaic_ray.io.streams` for a while, so that a small input can reach them."""
    before = {name: getattr(streams, name) for name in values}
    for name, value in values.items():
        setattr(streams, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(streams, name, value)


def packing(data: bytes) -> None:
    """Packed bytes: the same as the libraries make of them in one go, in blocks of one size, or refused."""
    size, data = 1 + 16 * (data[0] if data else 0), data[1:]
    kind = "zstd" if data[:1] in b"\x28\x50" else "gzip"
    blocks: list[bytes] = []
    try:
        for block in unpacked(pieces(data, size), kind, "f"):
            blocks.append(block)
            assert 0 < len(block) <= unpacking.BLOCK
        got = b"".join(blocks)
    except InputError as error:
        checked(error)
        got = None
    if kind == "gzip" and got is not None:
        assert got == gzip.decompress(data)


def shapes(data: bytes) -> None:
    """Rows of any JSON: each a record that can be written and tokenized, or rejected with a reason."""
    mapping, data = MAPPINGS[data[0] % len(MAPPINGS) if data else 0], data[1:]
    rows = [row for row in map(parse, data.split(b"\n")[:20]) if not isinstance(row, Refusal)]
    try:
        shape = recognise({name: None for row in rows for name in row}, rows, mapping=mapping, file="f")
    except InputError as error:
        checked(error)
        return
    for number, row in enumerate(rows):
        for policy in ("pass", "first", "reject"):
            check_record(to_record(row, shape, Source("f", number), multi_turn=policy))


MAPPINGS: tuple[Mapping[str, str] | None, ...] = (
    None,
    {"instruction": "prompt", "response": "completion"},
    {"instruction": "a", "response": "b", "system": "c"},
    {"messages": "messages"},
    {"messages": "a"},
)


def check_record(made: Record | Reject) -> None:
    if isinstance(made, Reject):
        assert made.reason in REASONS
        assert len(made.detail) <= LONGEST_DETAIL, made.detail
        assert len(made.excerpt) <= EXCERPT_CHARACTERS
        (made.detail + made.excerpt).encode()
        return
    assert made.messages
    assert made.messages[-1].role == "assistant"
    for message in made.messages:
        message.content.encode()
        assert message.content.strip()


KINDS = (".jsonl", ".json", ".jsonl.gz", ".jsonl.zst")


def file(data: bytes) -> None:
    """A whole file of text: what is read of its cells is what is read of the file, and the counts agree."""
    kind, records, data = KINDS[data[0] % len(KINDS) if data else 0], data[1] if data[1:] else 0, data[2:]
    if kind == ".jsonl.gz" and data[:2] != b"\x1f\x8b":
        data = gzip.compress(data, 1, mtime=0)
    elif kind == ".jsonl.zst" and data[:1] not in (b"\x28", b"\x50"):
        data = zstandard.compress(data, 1)
    whole_file(data, kind, cell_records=1 + records)


def parquet(data: bytes) -> None:
    """The same of a Parquet file."""
    whole_file(data[1:], ".parquet", cell_records=1 + (data[0] if data else 0))


def whole_file(data: bytes, kind: str, *, cell_records: int) -> list[Row] | None:
    """The rows of a file with this content and ending; None where it is refused."""
    name = "f" + kind
    (FOLDER / name).write_bytes(data)
    source = Storage.at(str(FOLDER), error=InputError)
    try:
        info = source.info(name)
        found = FoundFile(name, 0, name, info.size, info.etag, info.modified)
        stage = Storage.at(str(FOLDER / "out"), error=InputError)
        taken = take_inventory(found, source=source, cell_records=cell_records, stage=stage)
        by_cells = list(read_cells(taken, taken.cells, source=source, stage=stage))
        by_rows = list(read_rows(taken, [(0, taken.rows)], source=source))
    except InputError as error:
        checked(error, named=str(FOLDER / name))
        return None
    _check_rows(taken, by_cells)
    assert repr(by_cells) == repr(by_rows)
    return by_cells


def _check_rows(taken: InputFile, rows: list[Row]) -> None:
    assert len(rows) == taken.records == sum(cell.records for cell in taken.cells)
    places = [place for place, _ in rows]
    assert places == sorted(set(places))
    assert all(0 <= place.row < taken.rows for place in places)
    for place, row in rows:
        check_record(row if isinstance(row, Reject) else to_record(row, taken.shape, place, multi_turn="pass"))


def start(data: bytes) -> None:
    """The start of a text: nothing of it is lost but the byte order mark."""
    size, data = 1 + (data[0] if data else 0), data[1:]
    try:
        first, content, skipped = opening(pieces(data, size), "f")
    except InputError:
        return
    rest = b"".join(content)
    assert data[skipped:] == rest
    assert first == rest.lstrip()[:1]


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "jsonl": jsonl,
    "array": array,
    "packing": packing,
    "shapes": shapes,
    "file": file,
    "parquet": parquet,
    "start": start,
}
