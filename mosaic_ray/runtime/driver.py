"""The driver: inventory, plan, tasks, receipts, manifest, in this order, and again from wherever a run stopped."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Final

import orjson

from mosaic_ray.config import Job
from mosaic_ray.errors import ConcurrentRunError, DriftError, InputError, StorageError
from mosaic_ray.io.cells import STAGED, InputFile, to_parquet
from mosaic_ray.io.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Entries,
    compared,
    dataset_digest,
    inventory_entry,
    publish_manifest,
    read_manifest,
)
from mosaic_ray.io.patience import retries_counted
from mosaic_ray.io.staging import require_temporary_folder
from mosaic_ray.io.storage import Storage
from mosaic_ray.logs import name_run
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.lease import Lease, hold, remove_unfinished
from mosaic_ray.runtime.ledger import Ledger
from mosaic_ray.runtime.metering import Meter
from mosaic_ray.runtime.plan import Plan
from mosaic_ray.runtime.progress import Progress
from mosaic_ray.runtime.receipt import RECEIPTS
from mosaic_ray.runtime.run import SETTINGS, TOKENIZER, Run, kept_settings, open_run, places_entry
from mosaic_ray.runtime.snapshots.since import INVENTORY, KNOWN, SINCE, kept_since, known_now, marks_to_parquet
from mosaic_ray.runtime.stock import (
    Intake,
    confirm_unchanged,
    find_intake,
    stored_inventory,
    take_stock,
    without_touched,
)
from mosaic_ray.runtime.task import task_item
from mosaic_ray.runtime.viewing import FinishView, finished_view, make_view

log = logging.getLogger("mosaic_ray")

PLAN: Final = "_mosaic/plan.json"
TOLD_REASONS: Final = 5
"""Reasons for counting texts whole that are logged; each receipt has its own."""


def run_job(
    job: Job,
    make_engine: Callable[[], Engine],
    *,
    finish: Callable[[Run, Mapping[str, Any]], None],
    finish_view: FinishView = lambda *_: None,
) -> dict[str, Any] | None:
    """Run a job to its manifest, or resume it, make the further views it asks for, and return the manifest.

    None where nothing is new since the data set that the job goes on from: then nothing is written.

    make_engine: called once the settings are known to be good, because a cluster takes seconds to start.
    finish, finish_view: write what people read (card, report) from a manifest, before the manifest itself is published.

    Raises a MosaicError for everything that can go wrong; what is done by then stays and is not done again.
    """
    require_temporary_folder()
    run = open_run(job)
    views = job.further_views()
    begun = _begun(run)
    manifest = _finished(run) if begun else None
    if manifest is not None and all(finished_view(run, manifest, view) for view in views):
        log.info("%s is finished already; nothing to do", run.output.uri())
        return manifest
    started = datetime.now(UTC)
    intake = find_intake(run) if manifest is None else Intake(found=(), taken=())
    if manifest is None and not begun and not intake.taken:
        _say_nothing_is_new(run)
        return None
    with make_engine() as engine:
        _ = run.tokenizer  # an error of it comes before anything is written
        if manifest is None:
            intake = without_touched(run, engine, intake)
            if not begun and not intake.taken:
                _say_nothing_is_new(run)
                return None
        with hold(run.output) as lease:
            # Another run may have come in between.
            resumed = _begun(run, orderly=lease.orderly)
            manifest = _finished(run) if resumed else None
            if manifest is not None:
                log.info("%s is finished already; nothing to do", run.output.uri())
            else:
                manifest = _compose(run, engine, lease, intake, started, finish, resumed=resumed)
            for view in views:
                make_view(run, engine, lease, manifest, view, finish=finish_view)
    return manifest


def _finished(run: Run) -> dict[str, Any] | None:
    """The manifest of a run that is finished already, and has all its parts.

    Raises DriftError where its input has changed since.
    """
    if not run.output.exists(MANIFEST):
        return None
    manifest = read_manifest(run.output)
    if not run.takes_part:  # else what has changed since belongs to the next
        confirm_unchanged(run)
    lost, _ = compared(run.output, manifest)
    if not lost:
        return manifest
    log.warning("%s: %d parts are lost (%s); they are made again", run.output.uri(), len(lost), lost[0])
    return None


def _compose(
    run: Run,
    engine: Engine,
    lease: Lease,
    intake: Intake,
    started: datetime,
    finish: Callable[[Run, Mapping[str, Any]], None],
    *,
    resumed: bool,
) -> dict[str, Any]:
    """From the inventory to the published manifest."""
    with retries_counted() as retries:
        known = known_inventory(run.output) if resumed else []
        if resumed and run.since:  # what came meanwhile belongs to the next
            if not known:
                raise StorageError(
                    f"{run.output.uri(INVENTORY)}: damaged, or of another start, so what this snapshot takes is not "
                    f"known. Delete it (mosaic-ray delete {run.output.uri()}), and start again"
                )
            names = {file.name for file in known}
            intake = replace(intake, taken=[file for file in intake.found if file.name in names])
        plan = run.plan(take_stock(run, engine, intake.taken, known=known, stage=run.output))
        name = run.fingerprint(plan)
        name_run(name)
        lease.confirm()
        if run.output.exists(MANIFEST):  # of parts that are lost
            run.output.delete(MANIFEST)
        keep(run, plan, name, None if known else intake)
        ledger = Ledger(plan, run=name, max_reject_share=run.job.execution.max_reject_share)
        ledger.resume(run.output)
        if ledger.done:
            log.info("%d of %d tasks are done already", len(ledger.done), len(plan))
        run_tasks(run, engine, lease, plan, ledger, retries)
        ledger.retries.update(dict(retries))
    manifest = make_manifest(run, plan, ledger, name, started)
    lease.confirm()
    finish(run, manifest)
    lease.confirm()
    _clean_up(run, plan, manifest)
    if run.since is not None:
        run.since.confirm_newest(run.output)
    lease.confirm()
    if not publish_manifest(run.output, manifest):
        raise ConcurrentRunError(
            f"{run.output.uri(MANIFEST)}: another run has published the data set in the meantime; it is whole, and "
            "there is nothing to do here"
        )
    return manifest


def keep(run: Run, plan: Plan, name: str, intake: Intake | None) -> None:
    """Keep what resuming needs, and what the next snapshot needs. The settings come last and name the inventory.

    intake: of the first start; None of a run that is resumed.
    """
    inventory = to_parquet(plan.files)
    if run.since is not None and intake is not None:
        known = known_now(run.since, intake.found, [*plan.files, *intake.touched])
        run.output.publish(KNOWN, marks_to_parquet(known.values()))
        entry = run.since.entry(known, [file.name for file in plan.files])
        _publish_json(run.output, SINCE, {"of": name, **entry})
    run.output.publish(TOKENIZER, run.tokenizer.definition.encode("utf-8"))
    run.output.publish(INVENTORY, inventory)
    _publish_json(run.output, PLAN, plan_entry(plan, name))
    kept = {"places": places_entry(run), "identity": run.identity, "inventory": sha256(inventory).hexdigest()}
    _publish_json(run.output, SETTINGS, kept)


def known_inventory(output: Storage) -> list[InputFile]:
    """The inventory of the run that is resumed; none where a start that died left that of another run."""
    return stored_inventory(output, digest=kept_settings(output).get("inventory", ""))


def run_tasks(run: Run, engine: Engine, lease: Lease, plan: Plan, ledger: Ledger, retries: Mapping[str, int]) -> None:
    """Run every task that the ledger does not have yet. Raises ConcurrentRunError where the lease is lost.

    retries: the requests that this process makes again, by cause; it grows meanwhile.
    """
    todo = (index for index in range(len(plan)) if index not in ledger.done)
    items = (task_item(plan, plan.task(index)) for index in todo)
    remaining = len(plan) - len(ledger.done)
    before = ledger.total()
    told: set[str] = set()
    with (
        Progress("compose", plan.records, unit="records", done=ledger.records, quiet=remaining == 0) as progress,
        Meter(
            engine,
            run=ledger.run,
            output=run.output.uri(),
            tasks=len(plan),
            done=len(ledger.done),
            retries=retries,
        ) as meter,
    ):
        for _, receipt in engine.map(run.work(ledger.run), items, describe=str):
            meter.add(receipt)
            lease.check()
            ledger.add(receipt)
            if receipt.whole_because is not None and receipt.whole_because not in told and len(told) < TOLD_REASONS:
                told.add(receipt.whole_because)
                log.warning("texts are counted whole, which is exact and slower: %s", receipt.whole_because)
            progress.update(
                ledger.records,
                f"task {len(ledger.done)} of {len(plan)}, workers {engine.workers}",
                samples=sum(epoch.samples for epoch in ledger.totals) - before.samples,
                tokens=sum(epoch.tokens for epoch in ledger.totals) - before.tokens,
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


def make_manifest(run: Run, plan: Plan, ledger: Ledger, name: str, started: datetime) -> dict[str, Any]:
    """The manifest of a run that has all its tasks done; its long lists are :class:`Entries`.

    Raises TaskError where the accounting does not balance, InputError where no record could be used.
    """
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
        "places": places_entry(run),
        **_since_entry(run),
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
        "retries": dict(sorted(ledger.retries.items())),
        "policies": {"passed_whole": ledger.whole, "first_turn_only": ledger.trimmed, "special_tokens": ledger.escaped},
        "totals": totals.to_dict(),
        "mixing": totals.mixing([file.records for file in plan.files]),
        "epochs": [epoch.to_dict() for epoch in ledger.totals],
        "parts": ledger.parts,
        "inventory": Entries(len(plan.files), lambda index: inventory_entry(plan.files[index])),
    }


def _since_entry(run: Run) -> dict[str, Any]:
    kept = kept_since(run.output) if run.since is not None else None
    return {} if kept is None else {"since": {key: value for key, value in kept.items() if key != "of"}}


def _counted(run: Run) -> str:
    if run.tokenizer.chat_template is None:
        return "instruction + newline + response + eos_token, with the special tokens the tokenizer adds"
    return "the conversation rendered by chat_template, no further special tokens"


def _say_nothing_is_new(run: Run) -> None:
    parent = run.since.parent if run.since else None
    log.info("nothing is new since %s; nothing was written", parent.uri() if parent else "the start")


def _begun(run: Run, *, orderly: bool = True) -> bool:
    """Whether the output holds this very run. Raises DriftError where it holds another one, or something else.

    orderly: whether the run that was begun there ended in order; if so, and if nothing of it is done, it is replaced.
    """
    if not run.output.exists(SETTINGS):
        stranger = next((path for path, _ in run.output.listing() if not path.startswith("_mosaic/")), None)
        if stranger is not None:
            raise DriftError(
                f"{run.output.uri()} is not empty ({stranger}) and holds no run of this tool. Give an empty or new "
                "--output"
            )
        return False
    done = run.output.exists(MANIFEST) or next(run.output.listing(RECEIPTS), None) is not None
    stored = kept_settings(run.output)["identity"]
    differences = [
        f"{field}: {_short(old)} there, {_short(new)} here" for field, old, new in _differences(stored, run.identity)
    ]
    if not done and orderly:
        log.info("%s holds the start of a run with nothing done; it is replaced", run.output.uri())
        return False
    if not differences:
        return True
    if run.since is not None and run.since.parent is not None and stored.get("since", run.since.run) != run.since.run:
        raise DriftError(
            f"{run.output.uri()} was begun before {run.since.parent.uri()} was finished, so both would take the same "
            f"files of the input. Delete it (mosaic-ray delete {run.output.uri()}), and start again"
        )
    if not done:
        raise DriftError(
            f"{run.output.uri()} holds a run with other settings that did not end in order, so its workers may still "
            f"write. They differ in {'; '.join(differences)}. Give another --output, or delete this one"
        )
    raise DriftError(
        f"{run.output.uri()} holds a run with other settings. They differ in {'; '.join(differences)}. Give another "
        "--output, or the settings of that run to resume it"
    )


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


def _clean_up(run: Run, plan: Plan, manifest: Mapping[str, Any]) -> None:
    """Remove what a data set does not need: staged copies, files of killed writers, parts that no task claims.

    Raises StorageError where a part is not in place, so that no manifest names what is not there.
    """
    lost, strangers = compared(run.output, manifest)
    if lost:
        raise StorageError(
            f"{run.output.uri(lost[0])} ({len(lost)} of {len(manifest['parts'])} parts) is not in place, though its "
            "task finished. If --output is a local disk, every node of the cluster must see the same one. The same "
            "command makes again what is missing"
        )
    staged = {path for path, _ in run.output.listing(STAGED)}  # also of files that have changed; may be stale
    for path in sorted(staged.union(file.staged_path for file in plan.files if file.staged)):
        run.output.delete(path)
    remove_unfinished(run.output)
    for path in strangers:
        run.output.delete(path)


def _publish_json(output: Storage, path: str, value: Mapping[str, Any]) -> None:
    output.publish(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
