"""Reading rows: those of the cells that a task was given, or any rows of a file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from mosaic_ray.errors import InputError
from mosaic_ray.io.cells import Cell, InputFile
from mosaic_ray.io.parquet import Group, batch_rows, parquet
from mosaic_ray.io.patience import retried
from mosaic_ray.io.shapes import excerpt
from mosaic_ray.io.staging import unpack
from mosaic_ray.io.storage import RANGE_LIMIT, Storage
from mosaic_ray.io.streams import Refusal, chunks, elements, lines, opening, parse, sha256
from mosaic_ray.records import Reject, Source

Row = tuple[Source, Mapping[str, Any] | Reject]

_AT_ONCE: Final = 4 * RANGE_LIMIT
"""Bytes fetched at a time, and unpacked bytes of Parquet row groups."""

FETCHES: Final = 3
"""How often bytes that are not those of the inventory are fetched: a transfer may be garbled, a changed file stays."""


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
    if file.staged:
        if stage is None:
            raise ValueError(f"{file.name} is staged, and no stage was given")
        _unchanged(file, source)
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


def _unchanged(file: InputFile, source: Storage) -> str | None:
    """The mark that the file has now, None on a local disk; raises InputError unless it is what the inventory saw.

    A file whose mark differs (touched, copied to another store) is read to know.
    """
    now = source.info(file.path)
    if now.size == file.size:
        marked = (now.etag, file.etag) if file.etag is not None else (now.modified, file.modified)
        if marked[0] is not None and marked[0] == marked[1]:
            return now.etag
        if file.digest is not None and sha256(source, file.path, etag=now.etag) == file.digest:
            return now.etag
    raise _changed(file, source)


def _changed(file: InputFile, source: Storage) -> InputError:
    return InputError(
        f"{source.uri(file.path)}: the file has changed since this run took its inventory; "
        "put the old file back, or start again with a new output."
    )


def _ranges(file: InputFile, cells: Sequence[Cell], storage: Storage, path: str) -> Iterator[Row]:
    if not file.staged and storage.info(path).size != file.size:
        raise _changed(file, storage)
    for batch in _batches(cells):
        for cell, block in zip(batch, _blocks(file, batch, storage, path), strict=True):
            for number, line in enumerate(io.BytesIO(unpack(block) if file.staged else block), cell.row):
                if not line.isspace():
                    yield _row(Source(file.name, number), line)


def _blocks(file: InputFile, cells: Sequence[Cell], storage: Storage, path: str) -> list[bytes]:
    """The bytes of the cells, each held against its digest; what is not right is fetched again to know why."""
    blocks: dict[Cell, bytes] = {}
    for attempt in range(FETCHES):
        missing = [cell for cell in cells if cell not in blocks]
        if attempt:
            retried("garbled")
        fetched = storage.read_ranges(path, [(cell.offset, cell.offset + cell.length) for cell in missing])
        for cell, block in zip(missing, fetched, strict=True):
            if hashlib.blake2b(block, digest_size=8).hexdigest() == cell.digest:
                blocks[cell] = block
        if len(blocks) == len(cells):
            return [blocks[cell] for cell in cells]
    if not file.staged:
        raise _changed(file, storage)
    raise storage.error(
        f"{storage.uri(path)}: the staged copy of {file.name} is not what the inventory wrote; "
        "start again with a new output."
    )


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
    etag = _unchanged(file, source)
    yield from (_parquet if file.format == "parquet" else _elements)(file, spans, source, etag)
    if not source.pins:  # nothing kept the file from being replaced in the meantime
        _unchanged(file, source)


def _elements(file: InputFile, spans: Sequence[tuple[int, int]], source: Storage, etag: str | None) -> Iterator[Row]:
    where = source.uri(file.path)
    _, content, skipped = opening(chunks(source, file.path, file.compression, etag=etag), where)
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


def _parquet(file: InputFile, spans: Sequence[tuple[int, int]], source: Storage, etag: str | None) -> Iterator[Row]:
    """Row group by row group, as many at a time as fit into _AT_ONCE; of a group larger than that, batch by batch."""
    with parquet(source, file.path, etag=etag) as opened:
        columns = opened.choose(frozenset(file.shape.columns.values()))
        for groups in _group_runs(columns.groups(), spans, size=columns.unpacked):
            for row, batch in columns.batches(groups):
                for first, end in spans:
                    low, high = max(first, row), min(end, row + batch.num_rows)
                    if low < high:
                        for number, value in enumerate(batch_rows(batch.slice(low - row, high - low)), low):
                            place = Source(file.name, number)
                            yield place, _refused(place, value, "") if isinstance(value, Refusal) else value


def _group_runs(
    groups: Iterable[Group], spans: Sequence[tuple[int, int]], *, size: Callable[[Group], int]
) -> Iterator[list[Group]]:
    """Runs of neighbouring row groups that hold rows of the spans."""
    run: list[Group] = []
    held = 0
    for group in groups:
        wanted = any(first < group.start + group.rows and group.start < end for first, end in spans)
        more = size(group) if wanted else 0
        if run and (not wanted or held + more > _AT_ONCE):
            yield run
            run, held = [], 0
        if wanted:
            run.append(group)
            held += more
    if run:
        yield run


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
