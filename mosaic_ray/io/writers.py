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

    Raises MosaicError that names the column and shows both types where a row does not fit the schema.
    """
    try:
        table = pa.Table.from_pylist(list(rows), schema=schema).combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise MosaicError(
            f"rows do not fit the schema they are declared to have: {error}. Declared:\n{schema}"
        ) from error
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema, compression="zstd", compression_level=3, write_page_checksum=True) as writer:
        writer.write_table(table, row_group_size=ROWS_PER_GROUP)
    data = sink.getvalue().to_pybytes()
    return Part(data, len(rows), hashlib.sha256(data).hexdigest(), content_digest(rows, schema))


def content_digest(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> str:
    """A digest of the column names and of every row as JSON with sorted keys, one a line."""
    state = hashlib.blake2b(digest_size=16)
    state.update(orjson.dumps(schema.names) + b"\n")
    for row in rows:
        state.update(orjson.dumps(row, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE))
    return f"{SCHEME}:{state.hexdigest()}"
