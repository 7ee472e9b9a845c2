"""Parquet files from other people: opened with care, and their rows as objects or refusals.

A footer may claim anything, and a page may unpack to anything. What is checked before it is believed: the length of the
footer, the number of its entries and of its rows, where each column chunk lies, and how many rows came out of each row
group; and the checksum of a page where the writer left one. Not bounded by any of this is a single page, which by the
format may unpack to 2 GiB.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.io.fetching import Fetching, NoContent, NoContentError, coalesced
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.streams import CHUNK, MAX_RECORD, Refusal

MAX_FOOTER: Final = 64 << 20
"""No footer is longer; in memory it takes about ten times its length."""

MAX_ENTRIES: Final = 1 << 18
"""The most columns, and the most row groups, of a file: 400 MB of memory for the schema alone."""

BATCH_ROWS: Final = 128
BATCH_BYTES: Final = 8 << 20
"""Rows made into objects at a time, and their bytes by the footer's average. A dictionary makes many of few bytes."""

FREE_ROWS: Final = 1 << 20
ROWS_A_BYTE: Final = 16
"""A file may claim FREE_ROWS rows and, beyond, so many for each of its bytes. Cells are planned by that claim."""

AT_ONCE: Final = 32 << 20
"""Bytes of column chunks that are fetched ahead, and unpacked bytes of the row groups that they are of."""

_TAIL: Final = 64 << 10
"""Bytes read to find the footer, and mostly the footer itself."""

_READING: Final[Mapping[str, Any]] = {"buffer_size": CHUNK, "page_checksum_verification": True, "pre_buffer": False}
"""pre_buffer would read in a thread, which can abort a process that is ending (pyarrow 26)."""


class Group(NamedTuple):
    """A row group: its number, its first row, and how many rows it has."""

    number: int
    start: int
    rows: int


class ParquetInput:
    """An open Parquet file. What is wrong with its content is raised as the error of its store.

    names: of the columns. rows: as the footer counts them; not checked before :meth:`Columns.groups`. bare: the footer
    alone, as a file whose content cannot be read.
    """

    def __init__(self, source: Storage, path: str, raw: BinaryIO, etag: str | None, remedy: str) -> None:
        self._where = source.uri(path)
        self._error = source.error
        self._remedy = remedy
        with self.explained():
            self._file = Fetching(source, path, raw, etag)
            self.metadata = self._footer()
            self.bare = pq.ParquetFile(NoContent(self._file.size), metadata=self.metadata, **_READING)
            self.schema: pa.Schema = self.bare.schema_arrow
            self.names: Sequence[str] = self.schema.names
        self.rows: int = self.metadata.num_rows
        self.size = self._file.size

    def choose(self, columns: Collection[str]) -> Columns:
        """For reading these columns. Raises for one that is there twice."""
        double = [name for name, times in Counter(self.names).items() if times > 1 and name in columns]
        if double:
            raise self._error(
                f"{self._where}: it has more than one column {double[0]!r}, and which is meant cannot be known; "
                "write the file again with one, or leave it out."
            )
        return Columns(self, self._file, sorted(columns))

    def damaged(self, what: str) -> Exception:
        return self._error(
            f"{self._where}: this is no Parquet file that can be read ({what}); it may be damaged or cut off: "
            f"{self._remedy}."
        )

    def encrypted(self) -> Exception:
        return self._error(f"{self._where}: it is encrypted; write it again in the clear, or leave it out.")

    def too_long(self, row: int, rows: int = 1) -> Exception:
        which = f"row {row} is" if rows == 1 else f"rows {row} to {row + rows - 1} are on average"
        return self._error(
            f"{self._where}: {which} longer than {MAX_RECORD >> 20} MiB, the limit of a record; write the file again "
            "without such rows, or leave it out."
        )

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, UnicodeDecodeError) as failure:
            said = str(failure).strip().partition("\n")[0].rstrip(".")
            raise (self.encrypted() if "decrypt" in said else self.damaged(said)) from failure

    def _footer(self) -> pq.FileMetaData:
        size = self._file.size
        tail = self._file.range(max(0, size - _TAIL), size)
        mark = tail[-4:]
        if mark == b"PARE":
            raise self.encrypted()
        if mark != b"PAR1" or size < 12:
            raise self.damaged("it does not end as one")
        length = int.from_bytes(tail[-8:-4], "little")
        if length > MAX_FOOTER:
            raise self._error(
                f"{self._where}: its footer has {length:,} bytes, and the limit is {MAX_FOOTER >> 20} MiB; "
                "write it again with fewer columns or larger row groups, or leave it out."
            )
        if length + 12 > size:
            raise self.damaged(f"its footer would have {length:,} bytes, and the file has {size:,}")
        if length + 8 > len(tail):
            tail = self._file.range(size - length - 8, size)
        try:
            content = pa.BufferReader(tail[-length - 8 :])
            return pq.ParquetFile(content, thrift_container_size_limit=MAX_ENTRIES).metadata
        except OSError as failure:
            if "Exceeded size limit" not in str(failure):
                raise
            raise self._error(
                f"{self._where}: its footer claims more than {MAX_ENTRIES:,} columns or row groups, the limit; write "
                "it again with fewer, or copy it again if it may be damaged."
            ) from failure


class Columns:
    """Some columns of a Parquet file, to be read row group by row group."""

    def __init__(self, file: ParquetInput, content: Fetching, names: Sequence[str]) -> None:
        self._file = file
        self._content = content
        self._names = names
        self._sound: set[int] = set()
        with file.explained():
            self._opened = pq.ParquetFile(content, metadata=file.metadata, **_READING)
            schema = file.metadata.schema
            self._leaves = [leaf for leaf in range(len(schema)) if _is_of(schema.column(leaf).path, names)]
            self._flat = [schema.column(leaf).max_repetition_level == 0 for leaf in self._leaves]

    def groups(self) -> Iterator[Group]:
        """The row groups in order. Raises where their rows cannot be, or are not together the footer's."""
        total, size = self._file.rows, self._file.size
        if total > FREE_ROWS + ROWS_A_BYTE * size:
            raise self._file.damaged(f"its footer claims {total:,} rows in {size:,} bytes")
        start = 0
        for number in range(self._file.metadata.num_row_groups):
            rows = self._file.metadata.row_group(number).num_rows
            if not 0 <= rows <= total - start:
                raise self._file.damaged(f"row group {number} has {rows:,} of its {total:,} rows, {start:,} before it")
            yield Group(number, start, rows)
            start += rows
        if start != total:
            raise self._file.damaged(f"its footer counts {total:,} rows, and its row groups together {start:,}")

    def unpacked(self, group: Group) -> int:
        """Unpacked bytes of a row group by its footer, at least 0. Raises where records are longer than MAX_RECORD."""
        size: int = max(0, sum(chunk.total_uncompressed_size for chunk in self._chunks(group)))
        if size > 2 * MAX_RECORD * max(1, group.rows):
            raise self._file.too_long(group.start, group.rows)
        return size

    def batches(self, groups: Sequence[Group]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """The rows of the groups in order, at most BATCH_ROWS at a time: the number of the first, and the batch.

        Column chunks of AT_ONCE bytes together are fetched in few requests, more than that in small steps.
        """
        with self._file.explained():
            self._fetch(groups)
            for group in groups:
                row = group.start
                rows = max(1, min(BATCH_ROWS, BATCH_BYTES * group.rows // max(1, self.unpacked(group))))
                for batch in self._batches(self._opened, group, rows):
                    if batch.nbytes > MAX_RECORD:
                        self._check_records(batch, row)
                    yield row, batch
                    row += batch.num_rows
                if row != group.start + group.rows:
                    raise self._file.damaged(
                        f"row group {group.number} holds {row - group.start:,} rows, and its footer says {group.rows:,}"
                    )

    def _batches(self, opened: pq.ParquetFile, group: Group, rows: int) -> Iterator[pa.RecordBatch]:
        yield from opened.iter_batches(rows, row_groups=[group.number], columns=self._names, use_threads=False)

    def _chunks(self, group: Group) -> list[pq.ColumnChunkMetaData]:
        """The footer's entries of the columns.

        Where an entry contradicts itself, asking for it ends the process (pyarrow 26), but opening the column to read
        it raises an error: that is done first, on a file from which nothing can be read. This also finds columns that
        would lie beyond the end of the file.
        """
        with self._file.explained():
            if group.number not in self._sound and self._leaves:
                with suppress(NoContentError):
                    next(self._batches(self._file.bare, group, 1), None)
                self._sound.add(group.number)
            about = self._file.metadata.row_group(group.number)
            chunks = [about.column(leaf) for leaf in self._leaves]
        if any(chunk.num_values > group.rows for chunk, flat in zip(chunks, self._flat, strict=True) if flat):
            raise self._file.damaged(f"a column of row group {group.number} has more rows than its {group.rows:,}")
        return chunks

    def _fetch(self, groups: Sequence[Group]) -> None:
        spans = []
        for group in groups:
            for chunk in self._chunks(group):
                start, dictionary = chunk.data_page_offset, chunk.dictionary_page_offset
                if dictionary and 0 < dictionary < start:
                    start = dictionary
                spans.append((start, start + chunk.total_compressed_size))
        ahead = sum(end - start for start, end in spans) <= AT_ONCE
        self._content.fetch(coalesced(spans) if ahead else ())

    def _check_records(self, batch: pa.RecordBatch, first: int) -> None:
        for row in range(batch.num_rows):
            if batch.slice(row, 1).nbytes > MAX_RECORD:
                raise self._file.too_long(first + row)


@contextmanager
def parquet(
    source: Storage, path: str, *, etag: str | None = None, remedy: str = "copy it again, or leave it out"
) -> Iterator[ParquetInput]:
    """An open Parquet file. Raises the error of the store, InputError for an input, where it cannot be read.

    etag: of the file that is meant, as in :meth:`Storage.read_ranges`. remedy: what to do about a damaged one.
    """
    with source.open_random(path, etag=etag) as raw:
        yield ParquetInput(source, path, raw, etag, remedy)


def batch_rows(batch: pa.RecordBatch | pa.Table) -> list[dict[str, Any] | Refusal]:
    """The rows of an Arrow batch or table, of values that JSON has too; others become objects, which are no texts.

    A row with text that is not UTF-8 (Arrow lets it in) is refused.
    """
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        if batch.num_rows > 1:
            half = batch.num_rows // 2
            return batch_rows(batch.slice(0, half)) + batch_rows(batch.slice(half))
        rows = [_row_alone(batch)]
    if not all(map(_in_json, batch.schema.types)):
        return [row if isinstance(row, Refusal) else _plain(row) for row in rows]
    return list(rows)


def json_line(row: dict[str, Any] | Refusal) -> bytes:
    """A Parquet row as a line of JSON that parses to the same record, or is refused for the same reason."""
    if isinstance(row, Refusal):
        return b"\xff\n"
    return orjson.dumps(row) + b"\n"


def schema_row(schema: pa.Schema) -> dict[str, Any]:
    """A row as the schema has it, as far as the shape depends on it: of lists, one element with its keys."""
    row: dict[str, Any] = {}
    for field in schema:
        kind = field.type
        if any(is_kind(kind) for is_kind in _LISTS):
            inner = kind.value_type
            names = [inner.field(i).name for i in range(inner.num_fields)] if pa.types.is_struct(inner) else []
            row[field.name] = [dict.fromkeys(names)]
        else:
            row[field.name] = ""
    return row


_SCALARS: Final = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
)
_LISTS: Final = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)


def _is_of(path: str, columns: Collection[str]) -> bool:
    """Whether a stored column is among those that pyarrow reads where it is asked for these."""
    return path in columns or any(path.startswith(f"{column}.") for column in columns)


def _row_alone(batch: pa.RecordBatch | pa.Table) -> dict[str, Any] | Refusal:
    """The one row of a batch; a value that Python has no form for, such as a date after the year 9999, is an object."""
    row: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = column[0].as_py()
        except UnicodeDecodeError:
            return Refusal("not_utf8", "a text column of the row")
        except (ValueError, OverflowError) as failure:
            row[name] = {str(column.type): str(failure)}
    return row


def _in_json(kind: pa.DataType) -> bool:
    """Whether the values of a type come out of Arrow as what JSON reads back."""
    if any(is_kind(kind) for is_kind in _LISTS) or pa.types.is_dictionary(kind):
        return _in_json(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_in_json(kind.field(i).type) for i in range(kind.num_fields))
    return any(is_kind(kind) for is_kind in _SCALARS)


def _plain(value: Any) -> Any:
    """A date or bytes must not come back from JSON as a string, which would be a text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else {type(value).__name__: str(value)}
