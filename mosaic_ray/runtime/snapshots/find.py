"""Where a record of the input went: every sample, row of a view and reject that holds something of it.

Receipts say which rows each task read, so only the parts of tasks that may hold the record are read, of those only the
columns of lineage, a row group at a time. What no receipt answers for is read too: parts of a task that was killed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mosaic_ray.config import TOKEN_VIEWS, ViewSpec
from mosaic_ray.errors import MosaicError, SettingsError
from mosaic_ray.io.cells import STAGED, FoundFile, staged_path
from mosaic_ray.io.manifest import VIEWS
from mosaic_ray.io.parquet import ParquetInput, parquet
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.writers import content_digest
from mosaic_ray.records import Source
from mosaic_ray.runtime.receipt import RECEIPTS, Receipt
from mosaic_ray.runtime.run import Run
from mosaic_ray.runtime.snapshots.chain import run_of
from mosaic_ray.runtime.snapshots.since import INVENTORY
from mosaic_ray.runtime.verify_view import kept_view
from mosaic_ray.runtime.viewing import source_view
from mosaic_ray.views import DerivedView, derived_view

log = logging.getLogger("mosaic_ray")

Kind = Literal["sample", "view", "reject", "staged"]
Reopen = Callable[[Storage], Run]
"""Opens the run of a data set again, with its tokenizer."""

_READERS: Final = 16
_AT_ONCE: Final = 1024
_NEAR: Final = 3
_REMEDY: Final = "what it holds cannot be told; make the data set again, or delete it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One place that holds something of a record.

    kind: ``sample`` a row of data/, ``view`` a row of a view, ``reject`` a row of rejects/ with its excerpt,
        ``staged`` a copy of the whole file that an unfinished run keeps.
    path: of the file under ``data_set``, an address. row: in it; None where it holds all of the file, or where which
        row it is cannot be told, because what the file was made of is gone or was made otherwise.
    records: which of those looked for, in the order of the tiles; none named where all of a file is meant.
    """

    data_set: str
    kind: Kind
    path: str
    row: int | None
    records: tuple[Source, ...]
    mosaic_id: str | None = None
    epoch: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**told, "records": [{"file": file, "row": row} for file, row in self.records]}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A record of a file; all of them where ``row`` is None."""

    file: str
    row: int | None

    def __str__(self) -> str:
        return self.file if self.row is None else f"{self.file}:{self.row}"

    @property
    def records(self) -> tuple[Source, ...]:
        """Where one record is meant."""
        return () if self.row is None else (Source(self.file, self.row),)

    def read_by(self, receipt: Receipt) -> bool:
        """Whether a task has read it."""
        return any(name == self.file and (self.row is None or start <= self.row < end)
                   for name, start, end in receipt.inputs)  # fmt: skip

    def among(self, files: pa.Array, rows: pa.Array) -> pa.Array:
        """Which of the sources given by these columns it is."""
        same = pc.equal(files, pa.scalar(self.file, files.type))
        return same if self.row is None else pc.and_(same, pc.equal(rows, pa.scalar(self.row, rows.type)))


def find(text: str, data_sets: Sequence[Storage], *, reopen: Reopen) -> Iterator[Found]:
    """Every place in these data sets, finished or not, that holds a record, data set by data set.

    text: ``FILE:ROW`` as lineage names it, or ``FILE`` for every record of it.

    Raises SettingsError, before anything is read, where no inventory has such a file or row; the storage's error where
    something cannot be read, so that nothing is passed over in silence.
    """
    known = [_inventory(place) for place in data_sets]
    names: dict[str, int] = {}
    for files in known:
        names.update((name, max(rows, names.get(name, 0))) for name, rows in files.items())
    wanted = _wanted(text, names)
    chosen = [place for place, files in zip(data_sets, known, strict=True) if not files or wanted.file in files]
    return (found for place in chosen for found in _Search(place, wanted, reopen).all())


def _wanted(text: str, names: Mapping[str, int]) -> Wanted:
    """names: rows of every file, by its name."""
    file, _, digits = text.rpartition(":")
    of_row = text not in names and file and digits.isdecimal()
    wanted = Wanted(file, int(digits)) if of_row else Wanted(text, None)
    if wanted.file not in names:
        near = [name for name in names if wanted.file.endswith(f"/{name}")]
        near += [name for name in get_close_matches(wanted.file, names, n=_NEAR) if name not in near]
        hint = f"; near it are {', '.join(near[:_NEAR])}" if near else f", of {len(names)} files"
        raise SettingsError(
            f"{wanted.file}: no inventory has a file of this name{hint}. Give it as lineage does, relative to the "
            "--input it was found under"
        )
    if wanted.row is not None and wanted.row >= names[wanted.file]:
        raise SettingsError(f"{wanted}: the file has {names[wanted.file]} rows (they count from 0)")
    return wanted


def _inventory(place: Storage) -> dict[str, int]:
    """Rows of each file that a data set has taken; none where a run has not yet taken stock, or is being deleted."""
    if not place.exists(INVENTORY):
        return {}
    rows: dict[str, int] = {}
    with parquet(place, INVENTORY, remedy=_REMEDY) as file:
        for _, batch in _columns(file, ("name", "rows")):
            rows.update(zip(batch.column("name").to_pylist(), batch.column("rows").to_pylist(), strict=True))
    return rows


@dataclass(frozen=True, slots=True)
class _View:
    """A view of the data set. spec: None where what it is is gone, as where its deletion was interrupted."""

    home: str
    storage: Storage
    spec: ViewSpec | None
    parts: frozenset[str]

    @property
    def names_sources(self) -> bool:
        return self.spec is not None and self.spec.view not in TOKEN_VIEWS


class _Search:
    """The search for one record in one data set."""

    def __init__(self, place: Storage, wanted: Wanted, reopen: Reopen) -> None:
        self._place = place
        self._wanted = wanted
        self._reopen = reopen
        self._makers: dict[str, DerivedView] = {}

    def all(self) -> Iterator[Found]:
        clear = self._clear()
        views = self._views()
        seen: set[str] = set()
        for path, info in self._place.listing("data"):
            seen.add(path)
            if clear.get(path) != info.size:
                yield from self._part(path, views)
        for view in views:  # parts whose samples are gone
            for path in sorted(view.parts - seen - clear.keys()):
                if view.names_sources:
                    yield from self._text_rows(view, path)
                else:
                    yield self._found("view", f"{view.home}/{path}", None, self._wanted.records)
        for path, info in self._place.listing("rejects"):
            if clear.get(path) != info.size:
                yield from self._rejects(path)
        staged = [path for path, _ in self._place.listing(STAGED)]
        others = self._staged_of_others() if staged else set()
        for path in staged:
            if path not in others:
                yield self._found("staged", path, None, self._wanted.records)

    def _clear(self) -> dict[str, int]:
        """Files of tasks that have not read the record, by their receipts, with the size that the receipts state."""
        run = run_of(self._place)
        clear: dict[str, int] = {}
        paths = (path for path, _ in self._place.listing(RECEIPTS))
        with ThreadPoolExecutor(_READERS) as pool:
            while batch := list(islice(paths, _AT_ONCE)):
                for data in pool.map(self._place.read, batch):
                    try:
                        receipt = Receipt.from_json(data)
                    except ValueError:
                        continue
                    if receipt.run == run and not self._wanted.read_by(receipt):
                        made = (*receipt.parts, *filter(None, [receipt.rejects_part]))
                        clear.update((part["name"], part["bytes"]) for part in made)
        return clear

    def _part(self, path: str, views: Sequence[_View]) -> Iterator[Found]:
        rows: dict[int | None, Found] = {}
        for found in self._samples(self._place, path, "sample"):
            rows[found.row] = found
            yield found
        for view in views:
            if path not in view.parts:
                continue
            if view.names_sources:
                yield from self._text_rows(view, path)
            elif rows:
                yield from self._token_rows(view, path, rows)

    def _text_rows(self, view: _View, path: str) -> Iterator[Found]:
        return self._samples(view.storage, path, "view", home=view.home)

    def _samples(self, storage: Storage, path: str, kind: Kind, home: str = "") -> Iterator[Found]:
        """The rows of a part that name the record among their sources."""
        with parquet(storage, path, remedy=_REMEDY) as file:
            if not {"sources", "mosaic_id", "epoch"} <= set(file.names):
                log.warning("%s: no part that this tool has written; it was not looked into", storage.uri(path))
                return
            for first, batch in _columns(file, ("sources", "mosaic_id", "epoch")):
                sources = batch.column("sources")
                flat = sources.flatten()
                held = self._wanted.among(pc.struct_field(flat, "file"), pc.struct_field(flat, "row"))
                rows: dict[int, list[Source]] = {}
                for place, one in zip(
                    pc.list_parent_indices(sources).filter(held).to_pylist(), flat.filter(held).to_pylist(), strict=True
                ):
                    rows.setdefault(place, []).append(Source(one["file"], one["row"]))
                for row, records in rows.items():
                    yield self._found(
                        kind,
                        f"{home}/{path}" if home else path,
                        first + row,
                        tuple(records),
                        mosaic_id=batch.column("mosaic_id")[row].as_py(),
                        epoch=batch.column("epoch")[row].as_py(),
                    )

    def _token_rows(self, view: _View, path: str, samples: Mapping[int | None, Found]) -> Iterator[Found]:
        """The rows of a view of tokens, which names no sources, that hold samples: by making the part again."""
        where = f"{view.home}/{path}"
        there = _table(view.storage, path)
        try:
            made = self._maker(view.spec).make(_table(self._place, path)) if view.spec else None
        except MosaicError as error:
            log.warning("%s: which of its rows hold the record cannot be told: %s", self._place.uri(where), error)
            made = None
        if made is None or content_digest(made.table) != content_digest(there):
            yield self._found("view", where, None, tuple(r for found in samples.values() for r in found.records))
            return
        for row, origins in enumerate(made.origins):
            held = [samples[sample] for sample in origins if sample in samples]
            if held:
                epoch = held[0].epoch
                yield self._found("view", where, row, tuple(r for found in held for r in found.records), epoch=epoch)

    def _rejects(self, path: str) -> Iterator[Found]:
        with parquet(self._place, path, remedy=_REMEDY) as file:
            if not {"file", "row"} <= set(file.names):
                log.warning("%s: no file of rejects; it was not looked into", self._place.uri(path))
                return
            for first, batch in _columns(file, ("file", "row")):
                held = self._wanted.among(batch.column("file"), batch.column("row"))
                for number in pc.indices_nonzero(held).to_pylist():
                    source = Source(self._wanted.file, batch.column("row")[number].as_py())
                    yield self._found("reject", path, first + number, (source,))

    def _views(self) -> list[_View]:
        """The views of the data set, finished or not."""
        views = []
        for home in self._place.folders(VIEWS):
            storage = self._place.under(home)
            spec = kept_view(storage)
            views.append(_View(home, storage, spec, frozenset(path for path, _ in storage.listing("data"))))
        return views

    @cached_property
    def _run(self) -> Run:
        return self._reopen(self._place)

    def _maker(self, spec: ViewSpec) -> DerivedView:
        if spec.name not in self._makers:
            view = derived_view(spec, source=source_view(self._run), tokenizer=self._run.tokenizer)
            self._makers[spec.name] = view
        return self._makers[spec.name]

    def _staged_of_others(self) -> set[str]:
        """Where copies of other files of the input lie."""
        names = ("name", "uri_index", "path", "size", "etag", "modified")
        with parquet(self._place, INVENTORY, remedy=_REMEDY) as file:
            files = [FoundFile(**row) for _, batch in _columns(file, names) for row in batch.to_pylist()]
        return {staged_path(found) for found in files if found.name != self._wanted.file}

    def _found(self, kind: Kind, path: str, row: int | None, records: tuple[Source, ...], **more: Any) -> Found:
        return Found(data_set=self._place.uri(), kind=kind, path=path, row=row, records=records, **more)


def _columns(file: ParquetInput, names: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Some columns of all rows: the number of the first row of each batch, and the batch."""
    columns = file.choose(names)
    return columns.batches(list(columns.groups()))


def _table(storage: Storage, path: str) -> pa.Table:
    try:
        return pq.ParquetFile(pa.BufferReader(storage.read(path))).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise storage.error(f"{storage.uri(path)}: damaged ({error}); {_REMEDY}") from error
