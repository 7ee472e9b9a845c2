"""Taking stock of the input before anything is planned: each file read through once, by the engine's workers."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.errors import DriftError, InputError, SettingsError
from mosaic_ray.io.cells import FoundFile, InputFile, from_arrow, same_content
from mosaic_ray.io.inventory import find_inputs, take_inventory
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.plan import cell_records
from mosaic_ray.runtime.progress import Progress
from mosaic_ray.runtime.run import Run

log = logging.getLogger("mosaic_ray")

INVENTORY: Final = "_mosaic/inventory.parquet"
NAMED_FILES: Final = 50
"""Files whose shape is logged one by one; the inventory names it for every file."""


@dataclass(frozen=True, kw_only=True)
class InventoryWork:
    """Takes stock of one file; run by an engine's workers."""

    inputs: Sequence[Storage]
    stage: Storage | None
    cell_records: int
    columns: Mapping[str, str]

    def prepare(self) -> None: ...

    def __call__(self, found: FoundFile) -> InputFile:
        return take_inventory(
            found,
            source=self.inputs[found.uri_index],
            stage=self.stage,
            cell_records=self.cell_records,
            columns=self.columns,
        )


def take_stock(run: Run, engine: Engine, *, known: Sequence[InputFile], stage: Storage | None) -> list[InputFile]:
    """The inventory of the input, by name.

    known: what an earlier start of this run found; a file that the store says is unchanged is not read again.
    stage: where to put copies of what can only be read from its start; None only counts.

    Raises DriftError where an earlier start saw other files, InputError where there is nothing to do.
    """
    found = _find(run)
    earlier = {file.name: file for file in known}
    fresh = [file for file in found if not _usable(earlier.get(file.name), file, stage)]
    work = _inventory_work(run, stage)
    taken = dict(earlier)
    with Progress("inventory", len(fresh), unit="files", quiet=len(fresh) <= NAMED_FILES) as progress:
        for done, (_, file) in enumerate(engine.map(work, fresh, describe=lambda f: f.name), 1):
            taken[file.name] = file
            progress.update(done, file.name)
            if done <= NAMED_FILES:
                log.info("%s: %d records, %s, shape %s", file.name, file.records, file.format, file.shape.kind)
    files = [taken[file.name] for file in found]
    if known:
        _refuse_other_input(run, earlier, files)
    if run.settings.columns and not any(file.shape.kind == "columns" for file in files):
        pairs = ",".join(f"{role}={column}" for role, column in run.settings.columns.items())
        raise InputError(
            f"--columns {pairs}: no file of the input has these columns; correct the names, or leave it out"
        )
    shapes = Counter(file.shape.kind for file in files if file.records)
    log.info("%d files; by shape: %s", len(files), ", ".join(f"{kind} {count}" for kind, count in shapes.most_common()))
    empty = [file.name for file in files if file.records == 0]
    if empty:
        log.warning(
            "%d files hold no records: %s", len(empty), ", ".join(empty[:5]) + (" ..." if len(empty) > 5 else "")
        )
    if not any(file.records for file in files):
        raise InputError(f"no records at all in {', '.join(run.addresses)}: nothing to do")
    return files


def confirm_unchanged(run: Run) -> None:
    """Raise DriftError unless the input is what a finished run read; a file whose mark has changed is read to know."""
    known = {file.name: file for file in stored_inventory(run.output)}
    work = _inventory_work(run, stage=None)
    now = {
        found.name: known[found.name] if _unchanged(known.get(found.name), found) else work(found)
        for found in _find(run)
    }
    _refuse_other_input(run, known, list(now.values()))


def _inventory_work(run: Run, stage: Storage | None) -> InventoryWork:
    return InventoryWork(
        inputs=run.inputs,
        stage=stage,
        cell_records=cell_records(run.settings.task_records),
        columns={str(role): column for role, column in run.settings.columns.items()},
    )


def _find(run: Run) -> list[FoundFile]:
    found = find_inputs(run.addresses, run.job.places.input_options)
    if found.ignored:
        shown = ", ".join(found.ignored[:5])
        log.info("not input: %s%s", shown, f" and {len(found.ignored) - 5} more" if len(found.ignored) > 5 else "")
    home = run.output.uri().rstrip("/") + "/"
    for file in found.files:
        address = run.inputs[file.uri_index].uri(file.path)
        if address.startswith(home):
            raise SettingsError(
                f"--input {run.inputs[file.uri_index].uri()} holds the output {home} ({address} would be read as "
                "input). Give an --output outside of the input"
            )
    return found.files


def _usable(known: InputFile | None, found: FoundFile, stage: Storage | None) -> bool:
    """Whether what an earlier start found still serves: the file is the same, and its staged copy is in place."""
    if known is None or not _unchanged(known, found):
        return False
    return not known.staged or (stage is not None and stage.exists(known.staged_path))


def _unchanged(known: InputFile | None, found: FoundFile) -> bool:
    """As far as the store tells without reading."""
    if known is None or known.size != found.size:
        return False
    if found.etag is not None or known.etag is not None:
        return found.etag == known.etag
    return found.modified is not None and found.modified == known.modified


def stored_inventory(output: Storage) -> list[InputFile]:
    if not output.exists(INVENTORY):
        return []
    return from_arrow(pq.read_table(pa.BufferReader(output.read(INVENTORY))))


def _refuse_other_input(run: Run, known: Mapping[str, InputFile], files: Sequence[InputFile]) -> None:
    now = {file.name: file for file in files}
    changes = [f"{name} is gone" for name in known if name not in now]
    changes += [f"{name} is new" for name in now if name not in known]
    changes += [f"{name} has changed" for name in now if name in known and not same_content(known[name], now[name])
                and known[name] is not now[name]]  # fmt: skip
    if changes:
        more = f" and {len(changes) - 5} differences more" if len(changes) > 5 else ""
        raise DriftError(
            f"{run.output.uri()} holds a run over other input: {', '.join(changes[:5])}{more}. Give another --output, "
            "or restore the input"
        )
