"""What the input is, as values: files, the cells they are cut into, and the table both are kept in on disk."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.fingerprint import canonical_json
from mosaic_ray.io.shapes import Shape

Format = Literal["jsonl", "json", "parquet"]
Compression = Literal["gzip", "zstd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The smallest piece of a file that a task reads.

    row: number of its first row in the file.
    rows: how many rows follow from there; in JSONL every line is a row, blank ones too.
    records: how many of the rows are not blank.
    offset, length: where its bytes are: in a plain JSONL file, or in the staged copy of a file. In Parquet ``offset``
        is the first row inside the row group and ``length`` is 0; both are 0 where the file is read from its start.
    group: the Parquet row group, else 0.
    digest: 16 hexadecimal digits of the BLAKE2b digest of its bytes; empty where ``length`` is 0.
    """

    row: int
    rows: int
    records: int
    offset: int = 0
    length: int = 0
    group: int = 0
    digest: str = ""


STAGED: Final = "_mosaic/staged"

GROUP_CELLS: Final = 1 << 16
"""An inventory is written and read by so many cells at a time: a few MB."""

_ROW: Final = np.dtype(
    [("row", "<i8"), ("rows", "<i4"), ("records", "<i4"), ("offset", "<i8"), ("length", "<i8"), ("group", "<i4"),
     ("digest", "<u8")]
)  # fmt: skip
"""A cell as a table holds it; the names are those of :class:`Cell`."""


class CellTable(Sequence[Cell]):
    """The cells of one file in row order, 44 bytes a cell: one array, because a run may have 100,000 files."""

    __slots__ = ("_rows",)

    def __init__(self, cells: Iterable[Cell] = ()) -> None:
        made = [(c.row, c.rows, c.records, c.offset, c.length, c.group, int(c.digest or "0", 16)) for c in cells]
        self._rows: npt.NDArray[Any] = np.array(made, dtype=_ROW)

    @classmethod
    def of_columns(cls, columns: Mapping[str, npt.NDArray[Any]]) -> CellTable:
        """A table of the arrays given, one for each field of :class:`Cell` and of one length."""
        rows = np.empty(len(columns["row"]), dtype=_ROW)
        for name in _ROW.names or ():
            rows[name] = columns[name]
        return cls._of_array(rows)

    @classmethod
    def of_bytes(cls, data: bytes) -> CellTable:
        """A table from its pickle."""
        return cls._of_array(np.frombuffer(data, dtype=_ROW))

    @classmethod
    def _of_array(cls, rows: npt.NDArray[Any]) -> CellTable:
        table = cls.__new__(cls)
        table._rows = rows
        return table

    def __reduce__(self) -> Any:
        return CellTable.of_bytes, (self._rows.tobytes(),)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One field of all cells."""
        return self._rows[name]

    def pick(self, indices: npt.NDArray[Any]) -> tuple[Cell, ...]:
        """The cells at these indices."""
        return tuple(map(_cell, self._rows[indices].tolist()))

    def covering(self, first: int, end: int) -> range:
        """The indices of the cells that hold rows of [first, end)."""
        if first >= end or not len(self):
            return range(0)
        starts = self._rows["row"]
        start = int(np.searchsorted(starts, first, side="right")) - 1
        return range(max(start, 0), int(np.searchsorted(starts, end, side="left")))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return CellTable._of_array(self._rows[index])
        return _cell(self._rows[index].item())

    def __iter__(self) -> Iterator[Cell]:
        return map(_cell, self._rows.tolist())

    def __eq__(self, other: object) -> bool:
        return np.array_equal(self._rows, other._rows) if isinstance(other, CellTable) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"CellTable({len(self)} cells)"


def _cell(values: tuple[int, int, int, int, int, int, int]) -> Cell:
    row, rows, records, offset, length, group, digest = values
    mark = f"{digest:016x}" if length else ""
    return Cell(row=row, rows=rows, records=records, offset=offset, length=length, group=group, digest=mark)


class FoundFile(NamedTuple):
    """A file that is part of the input, before anything of it was read.

    name: its address relative to its ``--input``; unique in the run, and what lineage names.
    uri_index: which ``--input`` it came from, counted from 0.
    path: relative to the root of that input's storage; empty where the input is this one file.
    size, etag, modified: as in :class:`mosaic_ray.io.storage.FileInfo`.
    """

    name: str
    uri_index: int
    path: str
    size: int
    etag: str | None
    modified: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One file of the input, read through once.

    format: ``json`` is an array of objects.
    digest: SHA-256 of the file's bytes, hexadecimal; None where the store has an ETag and not all of it was read.
    rows: of the whole file; in JSONL every line. records: those that are not blank; the cells hold them all.
    staged: its cells are read from the copy at :attr:`staged_path` of the output, because the file can only be read
        from its start (or, Parquet, in row groups much larger than a cell).
    """

    name: str
    uri_index: int
    path: str
    format: Format
    compression: Compression | None
    size: int
    etag: str | None
    modified: str | None
    digest: str | None
    shape: Shape
    rows: int
    records: int
    staged: bool
    cells: CellTable

    @property
    def staged_path(self) -> str:
        """Where a staged copy lies, relative to the root of the output."""
        return staged_path(self)


def staged_path(file: FoundFile | InputFile) -> str:
    """Where the staged copy of a file lies, relative to the root of the output: elsewhere once the file has changed."""
    seen = canonical_json([file.name, file.size, file.etag or file.modified])
    return f"{STAGED}/{hashlib.blake2b(seen.encode(), digest_size=16).hexdigest()}.jsonl.zst"


def same_content(a: InputFile, b: InputFile) -> bool:
    """Whether two inventories saw the same bytes: by digest where both have one, else by size and ETag.

    Two files without a digest and without an ETag are never known to be the same.
    """
    if a.digest is not None and b.digest is not None:
        return a.digest == b.digest
    return a.size == b.size and a.etag is not None and a.etag == b.etag


_PLAIN: Final = tuple(f.name for f in fields(InputFile) if f.name not in ("shape", "cells"))

INVENTORY_SCHEMA: Final = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("uri_index", pa.int32(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),
        pa.field("compression", pa.string()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("modified", pa.string()),
        pa.field("digest", pa.string()),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("records", pa.int64(), nullable=False),
        pa.field("staged", pa.bool_(), nullable=False),
        pa.field("shape_kind", pa.string(), nullable=False),
        pa.field("shape_columns", pa.map_(pa.string(), pa.string()), nullable=False),
        *(
            pa.field(f"cell_{name}", pa.list_(pa.from_numpy_dtype(_ROW[name])), nullable=False)
            for name in _ROW.names or ()
        ),
    ]
)
"""One row a file; its cells are columns of lists."""


def to_arrow(files: Sequence[InputFile]) -> pa.Table:
    """The files in the order given, as a table of INVENTORY_SCHEMA."""
    columns: dict[str, Any] = {name: [getattr(file, name) for file in files] for name in _PLAIN}
    columns["shape_kind"] = [file.shape.kind for file in files]
    columns["shape_columns"] = [sorted(file.shape.columns.items()) for file in files]
    offsets = pa.array(np.cumsum([0, *(len(file.cells) for file in files)], dtype=np.int32))
    for name in _ROW.names or ():
        values = np.concatenate([np.empty(0, _ROW[name]), *(file.cells.column(name) for file in files)])
        columns[f"cell_{name}"] = pa.ListArray.from_arrays(offsets, pa.array(values))
    return pa.table([pa.array(columns[field.name], field.type) if isinstance(columns[field.name], list)
                     else columns[field.name] for field in INVENTORY_SCHEMA], schema=INVENTORY_SCHEMA)  # fmt: skip


def from_arrow(table: pa.Table) -> list[InputFile]:
    """What :func:`to_arrow` was given.

    Raises ValueError that shows both schemas where the table has another one.
    """
    if not table.schema.equals(INVENTORY_SCHEMA):
        raise ValueError(f"The inventory has the schema\n{table.schema}\nwhere this version needs\n{INVENTORY_SCHEMA}")
    plain = table.select([*_PLAIN, "shape_kind", "shape_columns"]).to_pylist()
    lists = {name: table.column(f"cell_{name}").combine_chunks() for name in _ROW.names or ()}
    counts = lists["row"].value_lengths().to_numpy()
    cells = CellTable.of_columns({name: column.flatten().to_numpy() for name, column in lists.items()})
    shapes: dict[str, Shape] = {}
    files = []
    end = 0
    for row, count in zip(plain, counts, strict=True):
        shape = Shape(kind=row.pop("shape_kind"), columns=dict(row.pop("shape_columns")))
        shape = shapes.setdefault(repr(shape), shape)
        files.append(InputFile(shape=shape, cells=cells[end : end + int(count)], **row))
        end += int(count)
    return files


def to_parquet(files: Iterable[InputFile]) -> bytes:
    """The files in the order given, as a Parquet file whose row groups each hold about GROUP_CELLS cells."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, INVENTORY_SCHEMA, compression="zstd", use_dictionary=False) as writer:
        group: list[InputFile] = []
        cells = 0
        for file in files:
            group.append(file)
            cells += len(file.cells)
            if cells >= GROUP_CELLS:
                writer.write_table(to_arrow(group))
                group, cells = [], 0
        if group:
            writer.write_table(to_arrow(group))
    return sink.getvalue()


def from_parquet(data: bytes) -> list[InputFile]:
    """What :func:`to_parquet` was given, read group by group. Raises ValueError or OSError where it is damaged."""
    # Not read_table: the threads it leaves behind abort the process at its end (pyarrow 26).
    file = pq.ParquetFile(pa.BufferReader(data))
    groups = (file.read_row_group(group, use_threads=False) for group in range(file.num_row_groups))
    return [found for group in groups for found in from_arrow(group)]
