"""Reading rows: those of the cells that a task was given, or any rows of a file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow.parquet as pq

from mosaic_ray.errors import InputError
from mosaic_ray.io.cells import Cell, InputFile
from mosaic_ray.io.shapes import excerpt
from mosaic_ray.io.staging import unpack
from mosaic_ray.io.storage import RANGE_LIMIT, Storage
from mosaic_ray.io.streams import Refusal, batch_rows, chunks, elements, lines, opening, parquet, parse, sha256
from mosaic_ray.records import Reject, Source

Row = tuple[Source, Mapping[str, Any] | Reject]

_AT_ONCE: Final = 4 * RANGE_LIMIT
"""Bytes fetched at a time, and unpacked bytes of Parquet row groups."""

_BATCH_ROWS: Final = 1024


def read_cells(
    file: InputFile, cells: Iterable[Cell], *, source: Storage, stage: Storage | None = None
) -> Iterator[Row]:
    """The rows of the cells in row order: each an object, or a Reject that says why it is none; blank lines left out.

    source: of the ``--input`` the file came from. stage: the root of the output; needed for a staged file.

    A Parquet row has only the columns of the file's shape. Memory is bounded by the cells asked for.

    Raises InputError where the file is not what it was when the inventory was taken, or is damaged.
    """
    wanted = sorted(cells, key=lambda cell: cell.row)
    if not wanted:
        return
    _check_unchanged(file, source)
    if file.staged:
        if stage is None:
            raise ValueError(f"{file.name} is staged, and no stage was given")
        yield from _ranges(file, wanted, stage, file.staged_path)
    elif _plain(file):
        yield from _ranges(file, wanted, source, file.path)
    else:
        yield from _spans(file, _joined((cell.row, cell.row + cell.rows) for cell in wanted), source)


def read_rows(file: InputFile, ranges: Iterable[tuple[int, int]], *, source: Storage) -> Iterator[Row]:
    """The rows of the ranges (first, end) in row order, always from the file itself, never from a staged copy.

    Raises as :func:`read_cells` does.
    """
    spans = _joined(ranges)
    if not spans:
        return
    _check_unchanged(file, source)
    if not _plain(file):
        yield from _spans(file, spans, source)
        return
    cells = [file.cells[i] for i in sorted({i for first, end in spans for i in file.cells.covering(first, end)})]
    held = iter(spans)
    first, end = next(held)
    for place, row in _ranges(file, cells, source, file.path):
        while place.row >= end:
            first, end = next(held, (file.rows, file.rows + 1))
        if place.row >= first:
            yield place, row


def _plain(file: InputFile) -> bool:
    """Whether the cells are ranges of the file's own bytes."""
    return file.format == "jsonl" and file.compression is None


def _check_unchanged(file: InputFile, source: Storage) -> None:
    """By size and the store's mark. A file whose mark differs (touched, copied to another store) is read to know,
    unless its cells have digests of their own."""
    now = source.info(file.path)
    if now.size == file.size:
        marked = (now.etag, file.etag) if file.etag is not None else (now.modified, file.modified)
        if _plain(file) or (marked[0] is not None and marked[0] == marked[1]):
            return
        if file.digest is not None and sha256(source, file.path) == file.digest:
            return
    raise _changed(file, source)


def _changed(file: InputFile, source: Storage) -> InputError:
    return InputError(
        f"{source.uri(file.path)}: the file has changed since this run took its inventory; "
        "put the old file back, or start again with a new output."
    )


def _ranges(file: InputFile, cells: Sequence[Cell], storage: Storage, path: str) -> Iterator[Row]:
    for batch in _batches(cells):
        blocks = storage.read_ranges(path, [(cell.offset, cell.offset + cell.length) for cell in batch])
        for cell, block in zip(batch, blocks, strict=True):
            if hashlib.blake2b(block, digest_size=8).hexdigest() != cell.digest:
                if not file.staged:
                    raise _changed(file, storage)
                raise storage.error(
                    f"{storage.uri(path)}: the staged copy of {file.name} is not what the inventory wrote; "
                    "start again with a new output."
                )
            for number, line in enumerate(io.BytesIO(unpack(block) if file.staged else block), cell.row):
                if not line.isspace():
                    yield _row(Source(file.name, number), line)


def _batches(cells: Sequence[Cell]) -> Iterator[list[Cell]]:
    """Runs of cells that are fetched together."""
    batch: list[Cell] = []
    size = 0
    for cell in cells:
        if batch and size + cell.length > _AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(cell)
        size += cell.length
    if batch:
        yield batch


def _spans(file: InputFile, spans: Sequence[tuple[int, int]], source: Storage) -> Iterator[Row]:
    if file.format == "parquet":
        yield from _parquet(file, spans, source)
        return
    where = source.uri(file.path)
    _, content, skipped = opening(chunks(source, file.path, file.compression), where)
    array = file.format == "json"
    rows = enumerate(elements(content, where, skipped=skipped) if array else lines(content, where))
    for first, end in spans:
        for number, line in rows:
            if number >= first and not line.isspace():
                yield _row(Source(file.name, number), line)
            if number == end - 1:
                break
        else:
            raise _changed(file, source)


def _parquet(file: InputFile, spans: Sequence[tuple[int, int]], source: Storage) -> Iterator[Row]:
    """Row group by row group, as many at a time as fit into _AT_ONCE; of a group larger than that, batch by batch."""
    names = sorted(set(file.shape.columns.values()))
    with parquet(source, file.path, ahead=not file.staged) as opened:
        for groups, start in _group_runs(opened.metadata, spans):
            row = start
            for batch in opened.iter_batches(_BATCH_ROWS, row_groups=groups, columns=names, use_threads=False):
                for first, end in spans:
                    low, high = max(first, row), min(end, row + batch.num_rows)
                    if low < high:
                        for number, value in enumerate(batch_rows(batch.slice(low - row, high - low)), low):
                            place = Source(file.name, number)
                            yield place, _refused(place, value, "") if isinstance(value, Refusal) else value
                row += batch.num_rows


def _group_runs(metadata: pq.FileMetaData, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[list[int], int]]:
    """Runs of neighbouring row groups that hold rows of the spans, and the first row of each run."""
    run: list[int] = []
    run_start = size = start = 0
    for group in range(metadata.num_row_groups):
        about = metadata.row_group(group)
        end = start + about.num_rows
        wanted = any(first < end and start < last for first, last in spans)
        if run and (not wanted or size + about.total_byte_size > _AT_ONCE):
            yield run, run_start
            run, size = [], 0
        if wanted:
            run_start = run_start if run else start
            run.append(group)
            size += about.total_byte_size
        start = end
    if run:
        yield run, run_start


def _row(place: Source, line: bytes) -> Row:
    parsed = parse(line)
    return place, _refused(place, parsed, excerpt(line)) if isinstance(parsed, Refusal) else parsed


def _refused(place: Source, refusal: Refusal, start: str) -> Reject:
    return Reject(source=place, reason=refusal.reason, detail=refusal.detail, excerpt=start)


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted, and without overlap."""
    spans: list[tuple[int, int]] = []
    for first, end in sorted(ranges):
        if spans and first <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        elif first < end:
            spans.append((first, end))
    return spans
