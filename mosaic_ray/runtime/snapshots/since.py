"""Going on from an earlier data set: what it has taken of the input already, so that a run takes only the rest.

A data set made so is a *snapshot*: an ordinary data set of the files that are new or changed since its parent, which it
names. It keeps what the chain up to it knows of the input (:data:`KNOWN`), so the next one needs no other than it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.errors import ConcurrentRunError, SettingsError, StorageError
from mosaic_ray.io.cells import FoundFile, InputFile, from_parquet
from mosaic_ray.io.manifest import MANIFEST
from mosaic_ray.io.skim import head
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.snapshots.listing import Finished, finished_under, newest_finished, newest_of, open_data_set

KNOWN: Final = "_mosaic/known.parquet"
SINCE: Final = "_mosaic/since.json"
INVENTORY: Final = "_mosaic/inventory.parquet"
NAMED: Final = 1000
"""Changed and gone files that a manifest names."""


class Mark(NamedTuple):
    """What tells a file from its other versions; the fields are those of :class:`mosaic_ray.io.cells.InputFile`."""

    name: str
    size: int
    etag: str | None
    modified: str | None
    digest: str | None


KNOWN_SCHEMA: Final = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("modified", pa.string()),
        pa.field("digest", pa.string()),
    ]
)


@dataclass(frozen=True)
class Since:
    """What a run goes on from.

    parent: the data set; None for the first of a chain. run, dataset_digest: its own.
    root: the directory that the snapshots of the chain lie in; None where the parent was named itself.
    settled: what the run takes is known to be its own: it was finished once, or a later snapshot goes on from it.
    """

    parent: Storage | None
    run: str | None
    dataset_digest: str | None
    root: Storage | None
    settled: bool = False

    @cached_property
    def marks(self) -> dict[str, Mark]:
        """What the parent, and those before it, have taken, by name. Raises StorageError where that is damaged."""
        return {} if self.parent is None else _known(self.parent)

    def confirm_newest(self, output: Storage) -> None:
        """Raises ConcurrentRunError where another snapshot has taken what this run takes too."""
        if self.root is None or self.settled:
            return
        newest = newest_finished(self.root, but=output.uri())
        if newest is not None and newest.manifest["run"] != self.run:
            raise ConcurrentRunError(
                f"{newest.storage.uri()} was finished after {output.uri()} was begun, and both take the same files of "
                f"the input. Delete one of them (mosaic-ray delete), and start again"
            )

    def entry(self, marks: Mapping[str, Mark], taken: Iterable[str]) -> dict[str, Any]:
        """What the manifest says of it. marks: what is known now. taken: names of the files of this run."""
        names = set(taken)
        changed = sorted(names & self.marks.keys())
        gone = sorted(self.marks.keys() - marks.keys())
        place = self.parent or self.root
        return {
            "output": place.uri() if place else "",
            "run": self.run,
            "dataset_digest": self.dataset_digest,
            "files": {
                "new": len(names) - len(changed),
                "changed": len(changed),
                "carried": len(marks) - len(names),
                "gone": len(gone),
            },
            "changed": changed[:NAMED],
            "gone": gone[:NAMED],
        }


def find_since(address: str, options: Mapping[str, str | bool], *, output: Storage) -> Since:
    """What ``--since`` means: a finished data set, or the newest one of a directory of them.

    output: of the run, which keeps what it went on from if it is settled.

    Raises SettingsError where there is no finished data set, unless ``output`` is to be the first of the directory.
    """
    place = open_data_set(address, options)
    if place.exists(MANIFEST):
        manifest = head(place)
        return Since(place, manifest["run"], manifest["dataset_digest"], None)
    finished = {found.manifest["run"]: found for found in finished_under(place, but=output.uri())}
    newest = newest_of(finished.values())
    kept = kept_since(output)
    if kept is not None and (output.exists(MANIFEST) or _goes_on_from(newest, kept["of"], finished)):
        parent = open_data_set(kept["output"], options) if kept["run"] else None
        return Since(parent, kept["run"], kept["dataset_digest"], place, settled=True)
    if newest is not None:
        return Since(newest.storage, newest.manifest["run"], newest.manifest["dataset_digest"], place)
    home = output.uri().rpartition("/")[0]
    if place.uri() != home:
        raise SettingsError(
            f"--since {address}: no finished data set there, nor in a directory under it. Correct the address; for the "
            f"first snapshot of a chain give the directory that --output lies in, {home}"
        )
    return Since(None, None, None, place)


def kept_since(output: Storage) -> dict[str, Any] | None:
    """What an output keeps of what its run goes on from: the :meth:`Since.entry`, and ``of``, the name of the run."""
    if not output.exists(SINCE):
        return None
    try:
        return {"of": "", "output": "", **orjson.loads(output.read(SINCE))}
    except (orjson.JSONDecodeError, TypeError) as error:
        raise StorageError(f"{output.uri(SINCE)}: damaged ({error}). Give another --output") from error


def _goes_on_from(found: Finished | None, run: str, finished: Mapping[str, Finished]) -> bool:
    """Whether a data set goes on from a run, or from one that does."""
    while found is not None:
        parent = found.manifest.get("since", {}).get("run") or ""
        if parent == run:
            return True
        found = finished.get(parent)
    return False


def known_now(since: Since, found: Iterable[FoundFile], read: Iterable[InputFile]) -> dict[str, Mark]:
    """What is known once a run is done: the files that were read as they are now, the others as they were known."""
    marks = {file.name: mark_of(file) for file in read}
    for file in found:
        if file.name not in marks and file.name in since.marks:
            marks[file.name] = since.marks[file.name]
    return marks


def marks_to_parquet(marks: Iterable[Mark]) -> bytes:
    """Sorted by name, as a table of KNOWN_SCHEMA."""
    rows = sorted(marks)
    columns = [pa.array([row[place] for row in rows], field.type) for place, field in enumerate(KNOWN_SCHEMA)]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=KNOWN_SCHEMA), sink, compression="zstd")
    return sink.getvalue()


def _known(parent: Storage) -> dict[str, Mark]:
    chained = "since" in head(parent)
    path = KNOWN if chained else INVENTORY
    try:
        data = parent.read(path)
        if not chained:
            return {file.name: mark_of(file) for file in from_parquet(data)}
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        if not table.schema.equals(KNOWN_SCHEMA):
            raise ValueError(f"it has the columns {', '.join(table.schema.names)}")
        return {mark.name: mark for mark in map(Mark._make, zip(*table.to_pydict().values(), strict=True))}
    except (ValueError, OSError) as error:
        raise StorageError(
            f"{parent.uri(path)}: damaged ({error}), so what it has taken is not known. Give --since an earlier one"
        ) from error


def mark_of(file: InputFile) -> Mark:
    return Mark(file.name, file.size, file.etag, file.modified, file.digest)
