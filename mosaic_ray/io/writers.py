"""Parquet parts as bytes: the same bytes for the same rows, in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.errors import MosaicError
from mosaic_ray.fingerprint import SCHEME

DICTIONARIES: Final = ("strategy", "kind", "file", "role", "reason", "epoch", "tiles")
"""Columns of few different values. Other columns would be tried with a dictionary and written without one."""

ROWS_PER_GROUP: Final = 1000
"""Rows a row group: the smallest number at which Parquet files stay compact, so that loaders can still skip."""


class Part(NamedTuple):
    """A finished Parquet file, not yet published.

    sha256: of the file's bytes, hexadecimal.
    content_digest: of the rows, independent of how a version of pyarrow lays them out.
    """

    data: bytes
    rows: int
    sha256: str
    content_digest: str


def to_parquet(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> Part:
    """The rows as one Parquet file of exactly this schema.

    Raises MosaicError that names row and column, and shows value and schema, where a row does not fit the schema.
    """
    sink = pa.BufferOutputStream()
    declared = set(schema.names)
    try:
        if any(row.keys() - declared for row in rows):
            raise ValueError("a column that is not declared")
        table = pa.Table.from_pylist(list(rows), schema=schema).combine_chunks()
        with pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            compression_level=3,
            write_page_checksum=True,
            use_dictionary=_repetitive(schema),
        ) as writer:
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
    except (ValueError, TypeError, OverflowError) as error:  # Arrow's own errors are among these
        raise MosaicError(
            f"rows do not fit the schema they are declared to have: {_misfit(rows, schema) or error}. "
            f"Declared:\n{schema}"
        ) from error
    data = sink.getvalue().to_pybytes()
    return Part(data, len(rows), hashlib.sha256(data).hexdigest(), content_digest(rows, schema))


def _repetitive(schema: pa.Schema) -> list[str]:
    """The paths of those leaf columns, as Parquet writes them, whose names are among DICTIONARIES."""
    paths = []
    stack = [(field.name, field.type) for field in schema]
    while stack:
        path, kind = stack.pop()
        if pa.types.is_list(kind):
            stack.append((f"{path}.list.element", kind.value_type))
        elif pa.types.is_struct(kind):
            stack += [(f"{path}.{kind.field(i).name}", kind.field(i).type) for i in range(kind.num_fields)]
        elif path.rpartition(".")[2] in DICTIONARIES:
            paths.append(path)
    return paths


def _misfit(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> str | None:
    """Which value does not fit; Arrow alone tells neither row nor column."""
    for number, row in enumerate(rows):
        for name in row:
            if name not in schema.names:
                return f"row {number} has the column {name!r}, which is not declared"
        for field in schema:
            value = row.get(field.name)
            if value is None and not field.nullable:
                return f"row {number}, column {field.name!r}: null, where {field.type} is declared"
            try:
                pa.array([value], field.type)
            except (ValueError, TypeError, OverflowError):
                return f"row {number}, column {field.name!r}: {repr(value)[:100]}, where {field.type} is declared"
    return None


def content_digest(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> str:
    """A digest of the column names and of every row as JSON with sorted keys, one a line."""
    state = hashlib.blake2b(digest_size=16)
    state.update(orjson.dumps(schema.names) + b"\n")
    for row in rows:
        state.update(orjson.dumps(row, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
    return f"{SCHEME}:{state.hexdigest()}"
