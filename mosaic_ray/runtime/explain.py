"""One sample taken apart: its tiles, where each came from, and what was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.errors import SettingsError, VerificationError
from mosaic_ray.io.cells import Cell, CellTable
from mosaic_ray.io.manifest import read_manifest
from mosaic_ray.io.storage import without_credentials
from mosaic_ray.records import Message, Record, Source
from mosaic_ray.runtime.run import Run
from mosaic_ray.runtime.stock import kept_inventory
from mosaic_ray.runtime.task import TaskItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A sample and the records it is made of, in the order of its tiles.

    addresses: the full address of each file named. verdict: what the checker says, None where the sample obeys.
    """

    part: str
    row: Mapping[str, Any]
    messages: tuple[Message, ...]
    tiles: tuple[Record, ...]
    addresses: Mapping[str, str]
    params: Mapping[str, Any]
    verdict: str | None


def split_place(place: str) -> tuple[str, str, int]:
    """``OUT/data/train-....parquet:7`` as output, part and row. Raises SettingsError for anything else."""
    path, _, row = place.rpartition(":")
    output, _, name = path.rpartition("/data/") if "/data/" in path else (".", "", path.removeprefix("data/"))
    if not row.isdigit() or not name or (output == "." and not path.startswith("data/")):
        raise SettingsError(
            f"{without_credentials(place)!r} is not PART:ROW, as in OUT/data/train-00000-of-00004.parquet:7 (rows "
            "count from 0)"
        )
    return output, f"data/{name}", int(row)


def explain(run: Run, part: str, row: int) -> Explanation:
    """Read one row of a part, and its records from the source.

    Raises VerificationError where there is no such part, row or source row; InputError where the source has changed.
    """
    stated = {entry["name"]: entry for entry in read_manifest(run.output)["parts"]}
    if part not in stated:
        raise VerificationError(f"{run.output.uri(part)}: not a part of this data set, which has {len(stated)}")
    if row >= stated[part]["rows"]:
        raise VerificationError(f"{run.output.uri(part)}: row {row} of {stated[part]['rows']} (they count from 0)")
    try:
        table = pq.ParquetFile(pa.BufferReader(run.output.read(part))).read(use_threads=False)
    except (ValueError, OSError) as error:
        raise VerificationError(f"{run.output.uri(part)}: damaged ({error})") from error
    found = table.slice(row, 1).to_pylist()[0]
    work = run.work("explain")
    work.staged = False
    sources = [Source(source["file"], source["row"]) for source in found["sources"]]
    item, addresses = _cells_of(run, sources)
    work.counter.start(whole=True)
    records = work.load(item).by_source
    missing = [source for source in sources if source not in records]
    if missing:
        raise VerificationError(f"{missing[0].file} row {missing[0].row} is no usable record of the source any more")
    tiles = [records[source] for source in sources]
    messages = work.view.messages(found)
    params = orjson.loads(found["params"])
    verdict = None
    if found["strategy"] != "pass":
        sample = {**found, "params": params, "instruction": messages[0].content, "response": messages[-1].content}
        verdict = run.job.method.check(sample, tiles)
    return Explanation(
        part=part,
        row=found,
        messages=messages,
        tiles=tuple(tiles),
        addresses=addresses,
        params=params,
        verdict=verdict,
    )


def _cells_of(run: Run, sources: Sequence[Source]) -> tuple[TaskItem, dict[str, str]]:
    """A task of just the cells that hold these records."""
    files = {file.name: file for file in kept_inventory(run)}
    wanted: dict[str, set[int]] = {}
    for source in sources:
        if source.file not in files:
            raise VerificationError(f"{source.file}: not in the inventory kept under _mosaic/")
        covering = files[source.file].cells.covering(source.row, source.row + 1)
        wanted.setdefault(source.file, set()).update(covering)
    cells: list[tuple[Any, tuple[Cell, ...]]] = [
        (replace(files[name], cells=CellTable()), tuple(files[name].cells[i] for i in sorted(indices)))
        for name, indices in sorted(wanted.items())
    ]
    addresses = {name: run.inputs[files[name].uri_index].uri(files[name].path) for name in wanted}
    return TaskItem(index=0, cells=tuple(cells), parts=()), addresses
