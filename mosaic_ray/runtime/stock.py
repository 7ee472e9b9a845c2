"""Taking stock of the input before anything is planned: each file read through once, by the engine's workers."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from mosaic_ray.errors import DriftError, InputError, SettingsError, StorageError
from mosaic_ray.io.cells import FoundFile, InputFile, from_parquet, same_content
from mosaic_ray.io.inventory import Findings, find_inputs, take_inventory
from mosaic_ray.io.patience import retried, retries_counted
from mosaic_ray.io.shapes import Shape
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.plan import cell_records
from mosaic_ray.runtime.progress import Progress
from mosaic_ray.runtime.run import Run
from mosaic_ray.runtime.snapshots.since import INVENTORY, Mark

log = logging.getLogger("mosaic_ray")

NAMED_FILES: Final = 50
"""Files whose shape is logged one by one; the inventory names it for every file."""


BATCH_FILES: Final = 64
BATCH_BYTES: Final = 8 << 20
"""A worker is given so many small files at once: of 100,000 files, the calls would cost more than the reading."""

_READERS: Final = 8
"""Files of a batch that are read from a remote store at once, which hides the time it takes to answer."""


@dataclass(frozen=True, kw_only=True)
class InventoryWork:
    """Takes stock of a few files; run by an engine's workers."""

    inputs: Sequence[Storage]
    stage: Storage | None
    cell_records: int
    columns: Mapping[str, str]

    def prepare(self) -> None: ...

    def __call__(self, batch: Sequence[FoundFile]) -> tuple[list[InputFile], dict[str, int]]:
        """The files in their order, and the requests that were made again, by cause."""
        with retries_counted() as retries:
            if len(batch) == 1 or all(storage.local for storage in self.inputs):
                return [self.take(found) for found in batch], dict(retries)
            with ThreadPoolExecutor(_READERS) as pool:
                return list(pool.map(self.take, batch)), dict(retries)

    def take(self, found: FoundFile) -> InputFile:
        return take_inventory(
            found,
            source=self.inputs[found.uri_index],
            stage=self.stage,
            cell_records=self.cell_records,
            columns=self.columns,
        )


@dataclass(frozen=True, kw_only=True)
class Intake:
    """The files of the input, and those of them that a run takes.

    touched: not taken, because they hold the same as when the parent of the run took them, though their marks differ.
    """

    found: Sequence[FoundFile]
    taken: Sequence[FoundFile]
    touched: Sequence[InputFile] = ()


def find_intake(run: Run) -> Intake:
    """All of the input; of a run with ``--since``, what has another mark than its parent knows.

    Raises as :func:`find_input` does.
    """
    found = find_input(run)
    if run.since is None or run.since.settled:
        return Intake(found=found, taken=found)
    marks = run.since.marks
    return Intake(found=found, taken=[f for f in found if f.size and not _unchanged(marks.get(f.name), f)])


def without_touched(run: Run, engine: Engine, intake: Intake) -> Intake:
    """The same without files that hold what the parent of the run took; those that may are read to know."""
    if run.since is None or run.since.settled:
        return intake
    marks = run.since.marks
    alike = [f for f in intake.taken if (mark := marks.get(f.name)) and mark.digest and mark.size == f.size]
    read = engine.map(_inventory_work(run, None), _batches(alike), describe=_names)
    touched = [file for _, (files, _) in read for file in files if file.digest == marks[file.name].digest]
    names = {file.name for file in touched}
    return replace(intake, taken=[f for f in intake.taken if f.name not in names], touched=touched)


def take_stock(
    run: Run, engine: Engine, found: Sequence[FoundFile], *, known: Sequence[InputFile], stage: Storage | None
) -> list[InputFile]:
    """The inventory of the input, by name.

    found: the files to take, of what :func:`find_input` found.
    known: what an earlier start of this run found; a file that the store says is unchanged is not read again.
    stage: where to put copies of what can only be read from its start; None only counts.

    Raises DriftError where an earlier start saw other files, InputError where there is nothing to do.
    """
    earlier = {file.name: file for file in known}
    fresh = [file for file in found if not _usable(earlier.get(file.name), file, stage)]
    work = _inventory_work(run, stage)
    taken = {file.name: _placed(earlier[file.name], file) for file in found if file.name in earlier}
    shapes: dict[str, Shape] = {}
    done = 0
    with Progress("inventory", len(fresh), unit="files", quiet=len(fresh) <= NAMED_FILES) as progress:
        for _, (files, retries) in engine.map(work, _batches(fresh), describe=_names):
            for cause, times in retries.items():
                retried(cause, times)
            for file in files:
                done += 1
                # Many files are of one shape, and each came with its own copy of it.
                taken[file.name] = replace(file, shape=shapes.setdefault(repr(file.shape), file.shape))
                if done <= NAMED_FILES:
                    log.info("%s: %d records, %s, shape %s", file.name, file.records, file.format, file.shape.kind)
            progress.update(done, files[-1].name)
    files = [taken[file.name] for file in found]
    if known:
        _refuse_other_input(run, earlier, files)
    if run.settings.columns and not any(file.shape.kind == "columns" for file in files):
        pairs = ",".join(f"{role}={column}" for role, column in run.settings.columns.items())
        raise InputError(
            f"--columns {pairs}: no file of the input has these columns; correct the names, or leave it out"
        )
    kinds = Counter(file.shape.kind for file in files if file.records)
    log.info("%d files; by shape: %s", len(files), ", ".join(f"{kind} {count}" for kind, count in kinds.most_common()))
    empty = [file.name for file in files if file.records == 0]
    if empty:
        log.warning(
            "%d files hold no records: %s", len(empty), ", ".join(empty[:5]) + (" ..." if len(empty) > 5 else "")
        )
    if not any(file.records for file in files):
        raise InputError(f"no records at all in {', '.join(run.addresses)}: nothing to do")
    return files


def _batches(files: Iterable[FoundFile]) -> Iterator[tuple[FoundFile, ...]]:
    """The files in their order: small ones several at a time, one of BATCH_BYTES and more alone."""
    batch: list[FoundFile] = []
    size = 0
    for file in files:
        if batch and (len(batch) == BATCH_FILES or size + file.size > BATCH_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield tuple(batch)


def _names(batch: Sequence[FoundFile]) -> str:
    return batch[0].name + (f" and {len(batch) - 1} files more" if len(batch) > 1 else "")


def confirm_unchanged(run: Run) -> None:
    """Raise DriftError unless the input is what a finished run read; a file whose mark has changed is read to know.

    Of a run with ``--since`` only the files that it took count.
    """
    known = {file.name: file for file in stored_inventory(run.output)}
    work = _inventory_work(run, stage=None)
    now = {
        found.name: _placed(known[found.name], found) if _unchanged(known.get(found.name), found) else work.take(found)
        for found in find_input(run)
        if found.name in known or not run.takes_part
    }
    _refuse_other_input(run, known, list(now.values()))


def _inventory_work(run: Run, stage: Storage | None) -> InventoryWork:
    return InventoryWork(
        inputs=run.inputs,
        stage=stage,
        cell_records=cell_records(run.settings.task_records),
        columns={str(role): column for role, column in run.settings.columns.items()},
    )


def find_input(run: Run) -> list[FoundFile]:
    """The files of the input. Raises InputError where there are none, SettingsError where some lie in the output."""
    _refuse_output_inside(run)
    found = _found(run)
    home = run.output.real() + "/"
    for file in found.files:
        source = run.inputs[file.uri_index]
        if source.real(file.path).startswith(home):
            raise SettingsError(
                f"--input {run.addresses[file.uri_index]} leads to {source.uri(file.path)}, which lies in the output "
                f"{run.output.uri()}. Give an --output outside of the input"
            )
    if found.ignored:
        shown = ", ".join(found.ignored[:5])
        log.info("not input: %s%s", shown, f" and {len(found.ignored) - 5} more" if len(found.ignored) > 5 else "")
    return found.files


def _found(run: Run) -> Findings:
    return find_inputs(run.addresses, run.job.places.input_options, patience=run.output.patience)


def _refuse_output_inside(run: Run) -> None:
    """Raise SettingsError where an ``--input`` is a directory, or a glob of any depth, that the output lies in."""
    home = run.output.real() + "/"
    for address, storage in zip(run.addresses, run.inputs, strict=True):
        deep = "**" in address or not any(sign in address for sign in "*?[")
        if deep and home.startswith(storage.real().rstrip("/") + "/"):
            raise SettingsError(
                f"--input {address} holds the output {run.output.uri()}, which the next start would read as input. "
                "Give an --output outside of the input"
            )


def _usable(known: InputFile | None, found: FoundFile, stage: Storage | None) -> bool:
    """Whether what an earlier start found still serves: the file is the same, and its staged copy is in place."""
    if known is None or not _unchanged(known, found):
        return False
    return not known.staged or (stage is not None and stage.exists(known.staged_path))


def _unchanged(known: InputFile | Mark | None, found: FoundFile) -> bool:
    """As far as the store tells without reading."""
    if known is None or known.size != found.size:
        return False
    if found.etag is not None or known.etag is not None:
        return found.etag == known.etag
    return found.modified is not None and found.modified == known.modified


def stored_inventory(output: Storage, *, digest: str | None = None) -> list[InputFile]:
    """What an output keeps of its run's inventory; empty where there is none.

    digest: its SHA-256 if known; one of another digest is none.

    Raises StorageError where it is damaged.
    """
    if not output.exists(INVENTORY):
        return []
    data = output.read(INVENTORY)
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        return []
    try:
        return from_parquet(data)
    except (ValueError, OSError) as error:
        raise StorageError(f"{output.uri(INVENTORY)}: damaged ({error}). Give another --output") from error


def kept_inventory(run: Run) -> list[InputFile]:
    """The inventory of a run that was opened again, its files where they are now.

    Raises InputError where a file is not found under the addresses given.
    """
    files = stored_inventory(run.output)
    if not run.moved:
        return files
    found = {file.name: file for file in _found(run).files}
    missing = [file.name for file in files if file.name not in found]
    if missing:
        raise InputError(
            f"{missing[0]} ({len(missing)} of {len(files)} files) is not found under --input "
            f"{', '.join(run.addresses)}. Give every --input of the run, as they are now"
        )
    return [_placed(file, found[file.name]) for file in files]


def _placed(file: InputFile, found: FoundFile) -> InputFile:
    return replace(file, uri_index=found.uri_index, path=found.path)


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
