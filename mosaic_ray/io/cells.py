"""What the input is, as values: files, the cells they are cut into, and the table both are kept in on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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


_COLUMNS: Final[dict[str, Any]] = {
    "row": np.int64, "rows": np.int32, "records": np.int32, "offset": np.int64, "length": np.int64,
    "group": np.int32, "digest": np.uint64,
}  # fmt: skip


class CellTable(Sequence[Cell]):
    """The cells of one file in row order, 44 bytes a cell."""

    __slots__ = tuple(_COLUMNS)

    row: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    records: npt.NDArray[np.int32]
    offset: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]
    group: npt.NDArray[np.int32]
    digest: npt.NDArray[np.uint64]

    def __init__(self, cells: Iterable[Cell] = ()) -> None:
        made = [(c.row, c.rows, c.records, c.offset, c.length, c.group, int(c.digest or "0", 16)) for c in cells]
        columns = zip(*made, strict=True) if made else [()] * len(_COLUMNS)
        for (name, kind), values in zip(_COLUMNS.items(), columns, strict=True):
            setattr(self, name, np.array(values, dtype=kind))

    @classmethod
    def of_columns(cls, columns: dict[str, npt.NDArray[Any]]) -> CellTable:
        """A table over the arrays given, one for each field of :class:`Cell` and of one length."""
        table = cls.__new__(cls)
        for name, kind in _COLUMNS.items():
            setattr(table, name, np.asarray(columns[name], dtype=kind))
        return table

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, in the order of the fields of :class:`Cell`."""
        return {name: getattr(self, name) for name in _COLUMNS}

    def covering(self, first: int, end: int) -> range:
        """The indices of the cells that hold rows of [first, end)."""
        if first >= end or not len(self):
            return range(0)
        start = int(np.searchsorted(self.row, first, side="right")) - 1
        return range(max(start, 0), int(np.searchsorted(self.row, end, side="left")))

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return CellTable.of_columns({name: values[index] for name, values in self.columns().items()})
        length = int(self.length[index])
        return Cell(
            row=int(self.row[index]),
            rows=int(self.rows[index]),
            records=int(self.records[index]),
            offset=int(self.offset[index]),
            length=length,
            group=int(self.group[index]),
            digest=f"{int(self.digest[index]):016x}" if length else "",
        )

    def __iter__(self) -> Iterator[Cell]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CellTable):
            return NotImplemented
        return all(np.array_equal(values, other.columns()[name]) for name, values in self.columns().items())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"CellTable({len(self)} cells)"


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
        return staged_path(self.name)


def staged_path(name: str) -> str:
    """Where the staged copy of the file ``name`` lies, relative to the root of the output."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return f"_mosaic/staged/{digest}.jsonl.zst"


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
            pa.field(f"cell_{name}", pa.list_(pa.from_numpy_dtype(kind)), nullable=False)
            for name, kind in _COLUMNS.items()
        ),
    ]
)
"""One row a file; its cells are columns of lists."""


def to_arrow(files: Sequence[InputFile]) -> pa.Table:
    """The files in the order given, as a table of INVENTORY_SCHEMA."""
    columns: dict[str, Any] = {name: [getattr(file, name) for file in files] for name in _PLAIN}
    columns["shape_kind"] = [file.shape.kind for file in files]
    columns["shape_columns"] = [sorted(file.shape.columns.items()) for file in files]
    offsets = np.cumsum([0, *(len(file.cells) for file in files)], dtype=np.int32)
    for name, kind in _COLUMNS.items():
        values = np.concatenate([np.empty(0, kind), *(getattr(file.cells, name) for file in files)])
        columns[f"cell_{name}"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    return pa.table([pa.array(columns[field.name], field.type) if isinstance(columns[field.name], list)
                     else columns[field.name] for field in INVENTORY_SCHEMA], schema=INVENTORY_SCHEMA)  # fmt: skip


def from_arrow(table: pa.Table) -> list[InputFile]:
    """What :func:`to_arrow` was given.

    Raises ValueError that shows both schemas where the table has another one.
    """
    if not table.schema.equals(INVENTORY_SCHEMA):
        raise ValueError(f"The inventory has the schema\n{table.schema}\nwhere this version needs\n{INVENTORY_SCHEMA}")
    table = table.combine_chunks()
    plain = table.select([*_PLAIN, "shape_kind", "shape_columns"]).to_pylist()
    lists = {name: table.column(f"cell_{name}") for name in _COLUMNS}
    files = []
    for index, row in enumerate(plain):
        shape = Shape(kind=row.pop("shape_kind"), columns=dict(row.pop("shape_columns")))
        cells = CellTable.of_columns(
            {name: column[index].values.to_numpy(zero_copy_only=False) for name, column in lists.items()}
        )
        files.append(InputFile(shape=shape, cells=cells, **row))
    return files
