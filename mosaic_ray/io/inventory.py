"""Finding the input files, and taking stock of one: its rows, its shape, and the cells it can be cut into.

A file that can only be read from its start (packed, a JSON array, or Parquet with row groups much larger than a cell)
would be read once for each of its cells. Up to MAX_REREADS cells that is what happens; a file of more cells is
*staged*: rewritten once, while the inventory reads it, as one frame of zstd for each cell, beside the output.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from mosaic_ray.errors import InputError, SettingsError
from mosaic_ray.io.cells import (
    INVENTORY_SCHEMA,
    Cell,
    CellTable,
    Compression,
    FoundFile,
    InputFile,
    from_arrow,
    same_content,
    to_arrow,
)
from mosaic_ray.io.cutting import Piece, cut_lines
from mosaic_ray.io.parquet import Columns, batch_rows, json_line, parquet, schema_row
from mosaic_ray.io.patience import PATIENCE
from mosaic_ray.io.shapes import Shape, recognise
from mosaic_ray.io.staging import Frames
from mosaic_ray.io.storage import FileInfo, Storage, refuse_credentials
from mosaic_ray.io.streams import CHUNK, Refusal, chunks, elements, opening, parse, sha256

__all__ = [
    "CELL_BYTES",
    "INVENTORY_SCHEMA",
    "MAX_REREADS",
    "Cell",
    "CellTable",
    "Findings",
    "FoundFile",
    "InputFile",
    "find_inputs",
    "from_arrow",
    "input_storage",
    "same_content",
    "take_inventory",
    "to_arrow",
]

MAX_REREADS: Final = 8
"""How often a file, or a Parquet row group, is at most read again from its start."""

CELL_BYTES: Final = 1 << 20
"""A cell is at most this long, unless it is a single record."""

SAMPLE_RECORDS: Final = 100
"""The shape of a file is decided by its first objects, this many."""

SAMPLE_BYTES: Final = 4 << 20
"""Or by as many as there are in so many bytes, for they are held until it is decided."""

_NAME: Final = re.compile(r"\.(?:(parquet)|(?:json|jsonl|ndjson)(\.gz|\.zst)?)$", re.IGNORECASE)
_WILDCARD: Final = re.compile(r"[*?\[]")
_COMPRESSION: Final[Mapping[str, Compression | None]] = {"": None, ".gz": "gzip", ".zst": "zstd"}
_NO_SHAPE: Final = Shape(kind="columns", columns={})
"""Of a file without records."""


class Findings(NamedTuple):
    """files: sorted by name. ignored: full addresses of what lies there and is no input."""

    files: list[FoundFile]
    ignored: list[str]


def input_storage(uri: str, options: Mapping[str, str | bool] | None = None, *, patience: float = PATIENCE) -> Storage:
    """The storage of one ``--input``: rooted at the file or directory, or before the first wildcard of a glob."""
    refuse_credentials(uri, options or {})  # all of it: the "?" of a query is a wildcard
    fixed = _fixed_part(uri)
    if fixed.endswith("://") and fixed != "memory://":
        raise InputError(f"{uri}: the name of a bucket cannot be a wildcard; write it out.")
    return Storage.at(fixed, options, error=InputError, patience=patience)


def find_inputs(
    uris: Sequence[str], options: Mapping[str, str | bool] | None = None, *, patience: float = PATIENCE
) -> Findings:
    """The files under the addresses: files, directories with all below them, and globs.

    Taken are .json, .jsonl, .ndjson (each also .gz or .zst) and .parquet; ignored are other names, and those with a
    part that starts with ``.`` or ``_``. A glob that matches directories alone stands for all below them. A file is
    named by its path below its directory or glob, or by its own name; if two names are the same, every name gets the
    index of its ``--input`` in front.

    Raises InputError for an address that is not there or under which there is nothing to read, and for a file whose
    name is not UTF-8; SettingsError for a file that two addresses lead to.
    """
    files: list[FoundFile] = []
    ignored: list[str] = []
    led_to: dict[str, tuple[str, str]] = {}
    for index, uri in enumerate(uris):
        storage = input_storage(uri, options, patience=patience)
        known = len(files), len(ignored)
        for path, info in _look_up(uri, storage):
            name = path or storage.root.rpartition("/")[2]
            full = storage.uri(path)
            if _NAME.search(name) and not (path and any(part[:1] in (".", "_") for part in path.split("/"))):
                _check_utf8(full)
                real = storage.real(path)
                if real in led_to:
                    other, its_name = led_to[real]
                    ways = f"{uri} twice" if other == uri else f"both {other} and {uri}"
                    names = full if its_name == full else f"{its_name} and {full}, which are one file,"
                    raise SettingsError(
                        f"--input gives {ways}, and so {names} twice; each of its records would be read twice: "
                        "give it once."
                    )
                led_to[real] = uri, full
                files.append(FoundFile(name, index, path, *info))
            else:
                ignored.append(full.encode("utf-8", "backslashreplace").decode())
        if len(files) == known[0]:
            others = len(ignored) - known[1]
            raise InputError(
                f"{uri}: nothing to read was found ({others} other files are there); looked for .json, .jsonl and "
                ".ndjson (also .gz or .zst) and .parquet, in folders whose names do not start with '.' or '_'; "
                "correct --input."
            )
    if len({file.name for file in files}) < len(files):
        files = [file._replace(name=f"{file.uri_index}/{file.name}") for file in files]
    return Findings(sorted(files), ignored)


def take_inventory(
    found: FoundFile,
    *,
    source: Storage,
    cell_records: int,
    columns: Mapping[str, str] | None = None,
    stage: Storage | None = None,
) -> InputFile:
    """Read one file through once, in bounded memory, and cut it into cells.

    source: of the ``--input`` the file was found under (:func:`input_storage`).
    cell_records: records a cell has at most; at least 1.
    columns: role -> column, as the user gave it; see :func:`mosaic_ray.io.shapes.recognise`.
    stage: the root of the output, where a file that needs it is staged; None counts the same cells and writes nothing.

    Raises InputError for a file that is unreadable, damaged, not what its name says, or of no known shape.
    """
    match = _NAME.search(found.path or source.root)
    if match is None:
        raise InputError(f"{source.uri(found.path)}: the name does not say what kind of file this is; rename it.")
    with Frames(found, stage) as frames:
        if match[1]:
            return _parquet_file(found, source, cell_records, columns, frames)
        return _text_file(found, source, cell_records, columns, frames, _COMPRESSION[(match[2] or "").lower()])


def _text_file(
    found: FoundFile,
    source: Storage,
    cell_records: int,
    columns: Mapping[str, str] | None,
    frames: Frames,
    compression: Compression | None,
) -> InputFile:
    where = source.uri(found.path)
    digest = _Digest()
    first, content, skipped = opening(chunks(source, found.path, compression, etag=found.etag, digest=digest), where)
    array = first == b"["
    plain = not array and compression is None
    sample = _Sample(where, columns)
    blocks = _joined(elements(content, where, skipped=skipped)) if array else content
    cells: list[Cell] = []
    row, offset = 0, skipped
    for data, count, records in sample.watch(cut_lines(blocks, where, records=cell_records, size=CELL_BYTES)):
        if records:
            if plain:
                mark = hashlib.blake2b(data, digest_size=8).hexdigest()
                cells.append(Cell(row=row, rows=count, records=records, offset=offset, length=len(data), digest=mark))
            else:
                cells.append(frames.add(data, row=row, rows=count, records=records))
        row, offset = row + count, offset + len(data)
    if digest.size != found.size:
        raise InputError(
            f"{where}: it had {found.size} bytes when it was found and {digest.size} when it was read; "
            "let its writer finish, and start again."
        )
    staged = not plain and len(cells) > MAX_REREADS
    if staged:
        frames.publish()
    elif not plain:
        cells = [Cell(row=cell.row, rows=cell.rows, records=cell.records) for cell in cells]
    return InputFile(
        **found._asdict(),
        format="json" if array else "jsonl",
        compression=compression,
        digest=digest.sha.hexdigest(),
        shape=sample.shape,
        rows=row,
        records=sum(cell.records for cell in cells),
        staged=staged,
        cells=CellTable(cells),
    )


def _parquet_file(
    found: FoundFile, source: Storage, cell_records: int, columns: Mapping[str, str] | None, frames: Frames
) -> InputFile:
    where = source.uri(found.path)
    with parquet(source, found.path, etag=found.etag) as file:
        total = file.rows
        shape = _NO_SHAPE
        if total:
            shape = recognise(file.names, [schema_row(file.schema)], mapping=columns, file=where)
        cells = _group_cells(file.choose(frozenset(shape.columns.values())), cell_records)
    staged = max(Counter(cell.group for cell in cells).values(), default=0) > MAX_REREADS
    if staged and frames.wanted:
        cells = list(_staged_cells(cells, source, found, shape, frames))
        frames.publish()
    return InputFile(
        **found._asdict(),
        format="parquet",
        compression=None,
        digest=None if found.etag else sha256(source, found.path),
        shape=shape,
        rows=total,
        records=total,
        staged=staged,
        cells=CellTable(cells),
    )


def _group_cells(columns: Columns, cell_records: int) -> list[Cell]:
    """Cells of even length in each row group, of at most CELL_BYTES unpacked by the footer's average."""
    cells = []
    for group in columns.groups():
        at_most = max(1, min(cell_records, CELL_BYTES * group.rows // max(columns.unpacked(group), 1)))
        count = -(-group.rows // at_most)
        cuts = [group.rows * i // count for i in range(count + 1)] if count else []
        for first, end in pairwise(cuts):
            length = end - first
            cells.append(Cell(row=group.start + first, rows=length, records=length, offset=first, group=group.number))
    return cells


def _staged_cells(
    cells: Sequence[Cell], source: Storage, found: FoundFile, shape: Shape, frames: Frames
) -> Iterator[Cell]:
    with parquet(source, found.path, etag=found.etag) as file:
        columns = file.choose(frozenset(shape.columns.values()))
        batches = columns.batches(list(columns.groups()))
        held: list[bytes] = []
        for cell in cells:
            while len(held) < cell.rows:
                held += map(json_line, batch_rows(next(batches)[1]))
            yield frames.add(b"".join(held[: cell.rows]), row=cell.row, rows=cell.rows, records=cell.records)
            del held[: cell.rows]


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that are worth a call each."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= CHUNK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


class _Sample:
    """Looks at the first objects of a file as its cells pass, and decides its shape as soon as there are enough."""

    def __init__(self, where: str, mapping: Mapping[str, str] | None) -> None:
        self.shape = _NO_SHAPE
        self._where = where
        self._mapping = mapping

    def watch(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        objects: list[dict[str, Any]] = []
        refused = ""
        first = size = 0
        for piece in pieces:
            for number, line in enumerate(io.BytesIO(piece.data if piece.records else b""), first):
                if len(objects) < SAMPLE_RECORDS and size < SAMPLE_BYTES and not line.isspace():
                    row = parse(line)
                    if not isinstance(row, Refusal):
                        objects.append(row)
                        size += len(line)
                    elif not refused:
                        refused = f"row {number}: {row.detail}"
            first += piece.lines
            yield piece
            if len(objects) == SAMPLE_RECORDS or size >= SAMPLE_BYTES:
                break
        if objects:
            columns = {name: None for row in objects for name in row}
            self.shape = recognise(columns, objects, mapping=self._mapping, file=self._where)
        elif refused:
            raise InputError(
                f"{self._where}: not one of its rows is a JSON object ({refused}); write one object a line, "
                "or an array of objects, or leave the file out."
            )
        yield from pieces


class _Digest:
    """SHA-256 and length of what passes."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.size = 0

    def update(self, data: bytes, /) -> None:
        self.sha.update(data)
        self.size += len(data)


def _look_up(uri: str, storage: Storage) -> list[tuple[str, FileInfo]]:
    pattern = uri[len(_fixed_part(uri)) :]
    found = list(storage.listing(pattern))  # a name may hold a bracket
    if pattern and not found:
        found = list(storage.glob(pattern))
    if not found:
        storage.require()
    return found


def _check_utf8(full: str) -> None:
    """Lineage, logs and the inventory name the file, and they are UTF-8."""
    try:
        full.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"{full!r}: this name is not valid UTF-8, so nothing that is written could name it; "
            "rename the file or folder."
        ) from None


def _fixed_part(uri: str) -> str:
    """All of an address without wildcards, else its folders before the first."""
    wildcard = _WILDCARD.search(uri)
    return uri[: uri.rfind("/", 0, wildcard.start()) + 1] if wildcard else uri
