"""The driver: inventory, plan, tasks, receipts, manifest, in this order, and again from wherever a run stopped."""

from __future__ import annotations

import logging
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from mosaic_ray import __version__
from mosaic_ray.config import EMBEDDED, Job, Settings, job_from
from mosaic_ray.embedded import corpus_path, tokenizer_path
from mosaic_ray.errors import DriftError, InputError, SettingsError, StorageError, VerificationError
from mosaic_ray.fingerprint import fingerprint
from mosaic_ray.io.cells import FoundFile, InputFile, from_arrow, same_content, to_arrow
from mosaic_ray.io.inventory import find_inputs, input_storage, take_inventory
from mosaic_ray.io.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    dataset_digest,
    inventory_entry,
    publish_manifest,
    read_manifest,
)
from mosaic_ray.io.shapes import check_mapping
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.ledger import Ledger
from mosaic_ray.runtime.plan import Plan, cell_records
from mosaic_ray.runtime.progress import Progress
from mosaic_ray.runtime.stats import perfect_shuffle_share
from mosaic_ray.runtime.task import RECEIPTS, TaskWork, task_item
from mosaic_ray.tokens import TokenizerSpec, load_tokenizer

log = logging.getLogger("mosaic_ray")

SETTINGS: Final = "_mosaic/settings.json"
TOKENIZER: Final = "_mosaic/tokenizer.json"
INVENTORY: Final = "_mosaic/inventory.parquet"
PLAN: Final = "_mosaic/plan.json"
NAMED_FILES: Final = 50
"""Files whose shape is logged one by one; the inventory names it for every file."""

LIBRARIES: Final = ("pyarrow", "tokenizers", "jinja2")
"""Libraries whose version can change a byte of the output; a run is not resumed with another one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job with its places opened and its tokenizer loaded.

    addresses, inputs: of each ``--input``, what the user gave and the storage rooted at it or before its wildcard.
    kept: the identity of a run that was opened again, possibly of another version.
    """

    job: Job
    addresses: tuple[str, ...]
    inputs: tuple[Storage, ...]
    output: Storage
    tokenizer: TokenizerSpec
    kept: dict[str, Any] | None = None

    @property
    def settings(self) -> Settings:
        return self.job.settings

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the bytes, beside the input itself, as JSON."""
        return self.kept or {
            "format_version": FORMAT_VERSION,
            "mosaic_ray": __version__,
            "libraries": {name: version(name) for name in LIBRARIES},
            "method": dict(self.job.method.identity),
            "settings": self.settings.model_dump(mode="json"),
            "tokenizer": {
                "digest": self.tokenizer.digest,
                "special_tokens": dict(self.tokenizer.special_tokens),
                "chat_template": self.tokenizer.chat_template,
            },
        }

    def fingerprint(self, files: Sequence[InputFile]) -> str:
        contents = [[f.name, f.size, f.etag, f.digest, f.shape.kind, f.records] for f in files]
        return fingerprint({"identity": self.identity, "inventory": contents})

    def plan(self, files: Sequence[InputFile]) -> Plan:
        s = self.settings
        return Plan(files, seed=s.seed, epochs=s.epochs, task_records=s.task_records)

    def work(self, run: str) -> TaskWork:
        return TaskWork(
            run=run,
            settings=self.settings,
            method=self.job.method,
            tokenizer=self.tokenizer,
            inputs=self.inputs,
            output=self.output,
        )


def open_run(job: Job) -> Run:
    """Open the places of a job and load its tokenizer; nothing is written."""
    places = job.places
    if job.settings.columns:
        check_mapping({str(role): column for role, column in job.settings.columns.items()})
    addresses = [str(corpus_path()) if uri == EMBEDDED else uri for uri in places.input]
    tokenizer = str(tokenizer_path()) if places.tokenizer == EMBEDDED else places.tokenizer
    return Run(
        job=job,
        addresses=tuple(addresses),
        inputs=tuple(input_storage(uri, places.input_options) for uri in addresses),
        output=Storage.at(places.output, places.output_options, error=StorageError),
        tokenizer=load_tokenizer(tokenizer, chat_template=places.chat_template),
    )


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
    fresh = [file for file in found if not _unchanged(earlier.get(file.name), file)]
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


def _inventory_work(run: Run, stage: Storage | None) -> InventoryWork:
    return InventoryWork(
        inputs=run.inputs,
        stage=stage,
        cell_records=cell_records(run.settings.task_records),
        columns={str(role): column for role, column in run.settings.columns.items()},
    )


def run_job(
    job: Job, make_engine: Callable[[], Engine], *, finish: Callable[[Run, Mapping[str, Any]], None]
) -> dict[str, Any]:
    """Run a job to its manifest, or resume it, and return the manifest.

    make_engine: called once the settings are known to be good, because a cluster takes seconds to start.
    finish: writes what people read (card, report) from the manifest, before the manifest itself is published.

    Raises a MosaicError for everything that can go wrong; what is done by then stays and is not done again.
    """
    run = open_run(job)
    resumed = _begun(run)
    if run.output.exists(MANIFEST):
        manifest = read_manifest(run.output)
        _confirm_finished(run, manifest)
        log.info("%s is finished already; nothing to do", run.output.uri())
        return manifest
    started = datetime.now(UTC)
    with make_engine() as engine:
        files = take_stock(run, engine, known=stored_inventory(run.output) if resumed else [], stage=run.output)
        name = run.fingerprint(files)
        plan = run.plan(files)
        _publish_json(run.output, SETTINGS, {"places": _places(run), "identity": run.identity})
        run.output.publish(TOKENIZER, run.tokenizer.definition.encode("utf-8"))
        run.output.publish(INVENTORY, _table_bytes(to_arrow(files)))
        _publish_json(run.output, PLAN, plan_entry(plan, name))
        ledger = Ledger(plan, run=name, max_reject_share=job.execution.max_reject_share)
        ledger.resume(run.output)
        if ledger.done:
            log.info("%d of %d tasks are done already", len(ledger.done), len(plan))
        _run_tasks(run, engine, plan, ledger)
    manifest = _manifest(run, files, plan, ledger, name, started)
    finish(run, manifest)
    _clean_up(run, files, manifest)
    publish_manifest(run.output, manifest)
    return manifest


def _run_tasks(run: Run, engine: Engine, plan: Plan, ledger: Ledger) -> None:
    todo = (index for index in range(len(plan)) if index not in ledger.done)
    items = (task_item(plan, plan.task(index)) for index in todo)
    remaining = len(plan) - len(ledger.done)
    before = ledger.total()
    with Progress("compose", plan.records, unit="records", done=ledger.records, quiet=remaining == 0) as progress:
        for _, receipt in engine.map(run.work(ledger.run), items, describe=str):
            ledger.add(receipt)
            now = ledger.total()
            progress.update(
                ledger.records,
                f"task {len(ledger.done)} of {len(plan)}, workers {engine.workers}",
                samples=now.samples - before.samples,
                tokens=now.tokens - before.tokens,
            )


def plan_entry(plan: Plan, run: str) -> dict[str, Any]:
    return {
        "run": run,
        "digest": plan.digest,
        "tasks": plan.tasks,
        "epochs": plan.epochs,
        "parts": plan.tasks * plan.epochs,
        "cells": plan.cells,
        "records": plan.records,
    }


def _manifest(
    run: Run, files: Sequence[InputFile], plan: Plan, ledger: Ledger, name: str, started: datetime
) -> dict[str, Any]:
    accounting = ledger.accounting()
    totals = ledger.total()
    if totals.samples == 0:
        raise InputError(f"no record of {ledger.records} could be used; rejects/ in {run.output.uri()} says why")
    finished = datetime.now(UTC)
    return {
        "format_version": FORMAT_VERSION,
        "dataset_digest": dataset_digest(ledger.parts, ledger.rejects_parts),
        "run": name,
        **{key: run.identity[key] for key in ("mosaic_ray", "method", "settings")},
        "libraries": {
            **run.identity["libraries"],
            **{n: version(n) for n in ("ray", "transformers", "fsspec", "s3fs")},
        },
        "python": platform.python_version(),
        "tokenizer": {"name": run.tokenizer.name, **run.identity["tokenizer"], "counted": _counted(run)},
        "places": _places(run),
        "created": {
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "seconds": round((finished - started).total_seconds(), 1),
            "worker_seconds": {key: round(value, 1) for key, value in sorted(ledger.seconds.items())},
            "slowest_tasks": [{"task": task, "seconds": round(seconds, 1)} for seconds, task in ledger.slowest],
        },
        "plan": plan_entry(plan, name),
        "accounting": accounting,
        "rejects": {
            "records": ledger.rejected,
            "by_reason": dict(sorted(ledger.rejects.items())),
            "parts": ledger.rejects_parts,
        },
        "policies": {"passed_whole": ledger.whole, "first_turn_only": ledger.trimmed, "special_tokens": ledger.escaped},
        "totals": totals.to_dict(),
        "mixing": {
            "several": totals.several,
            "mixed": totals.mixed,
            "share": totals.mixed / max(1, totals.several),
            "perfect_shuffle": perfect_shuffle_share(totals.tile_counts, [file.records for file in files]),
        },
        "epochs": [epoch.to_dict() for epoch in ledger.totals],
        "parts": ledger.parts,
        "inventory": [inventory_entry(file) for file in files],
    }


def _counted(run: Run) -> str:
    if run.tokenizer.chat_template is None:
        return "instruction + newline + response + eos_token, with the special tokens the tokenizer adds"
    return "the conversation rendered by chat_template, no further special tokens"


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


def _begun(run: Run) -> bool:
    """Whether the output holds this very run. Raises DriftError where it holds another one, or something else."""
    if not run.output.exists(SETTINGS):
        stranger = next((path for path, _ in run.output.listing() if not path.startswith("_mosaic/")), None)
        if stranger is not None:
            raise DriftError(
                f"{run.output.uri()} is not empty ({stranger}) and holds no run of this tool. Give an empty or new "
                "--output"
            )
        return False
    stored = orjson.loads(run.output.read(SETTINGS))["identity"]
    differences = [
        f"{field}: {_short(old)} there, {_short(new)} here" for field, old, new in _differences(stored, run.identity)
    ]
    if not differences:
        return True
    if next(run.output.listing(RECEIPTS), None) is None:
        log.info("%s holds the start of a run with other settings and nothing done; it is replaced", run.output.uri())
        return False
    raise DriftError(
        f"{run.output.uri()} holds a run with other settings. They differ in {'; '.join(differences)}. Give another "
        "--output, or the settings of that run to resume it"
    )


def _confirm_finished(run: Run, manifest: Mapping[str, Any]) -> None:
    """That the input is still what the finished run read; a file whose mark has changed is read again to know."""
    known = {file.name: file for file in stored_inventory(run.output)}
    work = _inventory_work(run, stage=None)
    now = {
        found.name: known[found.name] if _unchanged(known.get(found.name), found) else work(found)
        for found in _find(run)
    }
    log.info("finished %s", manifest["created"]["finished"])
    _refuse_other_input(run, known, list(now.values()))


def _differences(old: Any, new: Any, field: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            found
            for key in sorted({*old, *new})
            for found in _differences(old.get(key), new.get(key), f"{field}.{key}" if field else key)
        ]
    return [] if old == new else [(field, old, new)]


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _places(run: Run) -> dict[str, Any]:
    return {
        "input": [_absolute(uri) for uri in run.addresses],
        "output": run.output.uri(),
        "tokenizer": run.tokenizer.name,
        "input_options": run.job.places.input_options,
        "output_options": run.job.places.output_options,
    }


def _absolute(uri: str) -> str:
    """An address that means the same in another working directory."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))


def _clean_up(run: Run, files: Sequence[InputFile], manifest: Mapping[str, Any]) -> None:
    """Remove what a data set does not need: staged copies, files of killed writers, rejects of a task that has none."""
    for file in files:
        if file.staged:
            run.output.delete(file.staged_path)
    for folder in ("data", "rejects", "_mosaic"):
        run.output.remove_strays(folder)
    known = {part["name"] for part in (*manifest["parts"], *manifest["rejects"]["parts"])}
    for folder in ("data", "rejects"):
        for path, _ in run.output.listing(folder):
            if path not in known:
                run.output.delete(path)


def _publish_json(output: Storage, path: str, value: Mapping[str, Any]) -> None:
    output.publish(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _table_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())


def reopen(
    output: Storage,
    methods: Mapping[str, type[BaseModel]],
    *,
    inputs: Sequence[str] = (),
    input_options: Mapping[str, str | bool] | None = None,
) -> Run:
    """The run that is kept in an output, with its tokenizer; nothing but the output is needed to open it.

    methods: the class of each method by name. inputs, input_options: where the input is now and how to reach it, if
        that is not as it was.

    Raises VerificationError where there is no run, or one of a method that this version does not know.
    """
    if not output.exists(SETTINGS):
        raise VerificationError(
            f"{output.uri()}: no {SETTINGS}, so no run of this tool is kept here. Check the address"
        )
    stored = orjson.loads(output.read(SETTINGS))
    identity, kept = stored["identity"], stored["places"]
    options = {key: value for key, value in identity["method"].items() if key not in ("name", "version")}
    if identity["method"]["name"] not in methods:
        raise VerificationError(
            f"{output.uri()}: made by method {identity['method']['name']!r}, unknown to this version"
        )
    if identity["mosaic_ray"] != __version__:
        log.warning("made by mosaic_ray %s, read by %s: rebuilt bytes may differ", identity["mosaic_ray"], __version__)
    spec = TokenizerSpec(
        name=kept["tokenizer"],
        definition=output.read(TOKENIZER).decode("utf-8"),
        special_tokens=identity["tokenizer"]["special_tokens"],
        chat_template=identity["tokenizer"]["chat_template"],
    )
    places = {key: kept[key] for key in ("output", "tokenizer", "input_options", "output_options")}
    if input_options is not None:
        places["input_options"] = dict(input_options)
    job = job_from(
        {**identity["settings"], **places, "input": list(inputs) or kept["input"], **options},
        methods[identity["method"]["name"]],
    )
    return Run(
        job=job,
        addresses=job.places.input,
        inputs=tuple(input_storage(uri, job.places.input_options) for uri in job.places.input),
        output=output,
        tokenizer=spec,
        kept=identity,
    )
