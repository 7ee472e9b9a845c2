"""Making a view of a finished data set: a data set of its own, under ``views/`` of the other.

Part by part on the engines of a run, and by its rules: each part is published whole, then its receipt, the manifest
last; the same command goes on where it stopped. Nothing is composed again. A view names the data set it was made of by
its digest, and is refused beside another.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray import __version__
from mosaic_ray.config import TOKEN_VIEWS, ViewSpec
from mosaic_ray.errors import ConcurrentRunError, DriftError, SettingsError, StorageError, TaskError, VerificationError
from mosaic_ray.fingerprint import canonical_json, fingerprint
from mosaic_ray.io.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    VIEWS,
    compared,
    dataset_digest,
    publish_manifest,
    read_manifest,
)
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.writers import to_parquet
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.lease import Lease, remove_unfinished
from mosaic_ray.runtime.progress import Progress
from mosaic_ray.runtime.run import LIBRARIES, Run
from mosaic_ray.tokens import TokenizerSpec
from mosaic_ray.views import DerivedView, ViewSchema, derived_view

log = logging.getLogger("mosaic_ray")

VIEW: Final = "_mosaic/view.json"
RECEIPTS: Final = "_mosaic/receipts"
_READERS: Final = 16
_TOKENS: Final = ("tokens", "trained_tokens")
_PART: Final = ("name", "rows", "bytes", "sha256", "content_digest", "samples", *_TOKENS, "epoch", "task")

FinishView = Callable[[Storage, Mapping[str, Any]], None]


def view_path(spec: ViewSpec) -> str:
    """Where a view of a data set is, under the data set's root."""
    return f"{VIEWS}/{spec.name}"


@dataclass(kw_only=True)
class ViewWork:
    """Makes parts of a view; one a worker, which keeps the tokenizer.

    run: fingerprint of the view. samples: the data set it is made of. output: the root of the view.
    """

    run: str
    spec: ViewSpec
    source: ViewSchema
    tokenizer: TokenizerSpec
    samples: Storage
    output: Storage

    def prepare(self) -> None:
        _ = self.view

    @cached_property
    def view(self) -> DerivedView:
        return derived_view(self.spec, source=self.source, tokenizer=self.tokenizer)

    def __call__(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """Make one part of the view, of one part of the data set, and return its receipt."""
        started = time.perf_counter()
        made = self.view.make(read_part(self.samples, part))
        written = to_parquet(made.table)
        self.output.publish(part["name"], written.data)
        receipt = {
            "run": self.run,
            "name": part["name"],
            "rows": written.rows,
            "bytes": len(written.data),
            "sha256": written.sha256,
            "content_digest": written.content_digest,
            "epoch": part["epoch"],
            "task": part["task"],
            "samples": made.samples,
            "tokens": made.tokens,
            "trained_tokens": made.trained,
            "left_out": dict(made.left_out),
            "seconds": round(time.perf_counter() - started, 3),
            "packing_seconds": round(made.packing, 4),
        }
        self.output.publish(_receipt_path(part["name"]), canonical_json(receipt).encode())
        return receipt


def read_part(storage: Storage, part: Mapping[str, Any]) -> pa.Table:
    """A part as the manifest lists it. Raises VerificationError where it is missing, or not what was written."""
    name = part["name"]
    if not storage.exists(name):
        raise VerificationError(
            f"{storage.uri(name)}: missing. The command that made the data set makes it again, from the same input"
        )
    data = storage.read(name)
    if hashlib.sha256(data).hexdigest() != part["sha256"]:
        raise VerificationError(
            f"{storage.uri(name)}: its SHA-256 is not that of the manifest, so it is damaged or of another data set. "
            "Delete it and run the command that made it again"
        )
    return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)


def make_view(
    run: Run,
    engine: Engine,
    lease: Lease,
    manifest: Mapping[str, Any],
    spec: ViewSpec,
    *,
    finish: FinishView,
) -> dict[str, Any]:
    """Make a view of a finished run, or what is left of it, and return its manifest.

    lease: of the run's output. manifest: of the run. finish: writes what people read, before the manifest itself is
        published.

    Raises what :func:`finished_view` does, and TokenizerError where the chat template hides what is trained.
    """
    finished = finished_view(run, manifest, spec)
    if finished is not None:
        return finished
    output = run.output.under(view_path(spec))
    identity = _identity(manifest, spec)
    name = fingerprint(identity)
    started = datetime.now(UTC)
    source = source_view(run)
    view = derived_view(spec, source=source, tokenizer=run.tokenizer)  # refused, if it is, before anything is written
    if spec.view in TOKEN_VIEWS and view.ends_turn is None:
        log.warning(
            "the chat template writes no special token behind an answer, so nothing in view %s teaches a model to stop",
            spec.name,
        )
    work = ViewWork(run=name, spec=spec, source=source, tokenizer=run.tokenizer, samples=run.output, output=output)
    if output.exists(MANIFEST):  # of parts that are lost
        lease.confirm()
        output.delete(MANIFEST)
    output.publish(VIEW, orjson.dumps(identity, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    parts = manifest["parts"]
    done = {receipt["name"]: receipt for receipt in _receipts(output, name)}
    todo = [part for part in parts if part["name"] not in done]
    with Progress(f"view {spec.name}", len(parts), unit="parts", done=len(done), quiet=not todo) as progress:
        for _, receipt in engine.map(work, todo, describe=lambda part: f"view {spec.name} of {part['name']}"):
            lease.check()
            done[receipt["name"]] = receipt
            progress.update(len(done), f"workers {engine.workers}")
    made = _manifest(run, manifest, identity, [done[part["name"]] for part in parts], started, view.ends_turn)
    finish(output, made)
    remove_unfinished(output)
    lost, _ = compared(output, made)
    if lost:
        raise StorageError(
            f"{output.uri(lost[0])} is not in place, though it was written. The same command makes it again"
        )
    lease.confirm()
    if not publish_manifest(output, made):
        raise ConcurrentRunError(
            f"{output.uri(MANIFEST)}: another run has published the view in the meantime; it is whole, and there is "
            "nothing to do here"
        )
    return made


def source_view(run: Run) -> ViewSchema:
    """The view of text that a run has written."""
    return ViewSchema(run.settings.view, run.tokenizer.chat_template is not None)


def finished_view(run: Run, manifest: Mapping[str, Any], spec: ViewSpec) -> dict[str, Any] | None:
    """The manifest of a view that is there already, None where it is still to be made, or to be finished.

    Raises SettingsError for the view that the run itself wrote and where sequences are shorter than a sample,
    DriftError where there is one of another data set, or of another version.
    """
    if spec.view == run.settings.view:
        raise SettingsError(f"view = {spec.view}: {run.output.uri('data')} holds that already")
    longest = manifest["totals"]["longest"]
    if spec.sequence_length is not None and longest > spec.sequence_length:
        raise SettingsError(
            f"sequence_length = {spec.sequence_length}: the longest sample has {longest} tokens, and the view packed "
            f"holds whole samples. Give --sequence-length {longest} or more"
        )
    output = run.output.under(view_path(spec))
    if not output.exists(VIEW):
        return None
    try:
        kept = orjson.loads(output.read(VIEW))
    except orjson.JSONDecodeError:
        kept = None
    identity = orjson.loads(orjson.dumps(_identity(manifest, spec)))
    if kept != identity:
        differing = sorted(key for key in identity if not isinstance(kept, dict) or kept.get(key) != identity[key])
        raise DriftError(
            f"{output.uri()} holds a view that was made otherwise; it differs in {', '.join(differing)}. Delete it, "
            "and the same command makes it anew"
        )
    if not output.exists(MANIFEST):
        return None
    made = read_manifest(output)
    if compared(output, made)[0]:
        log.warning("%s: parts are lost; they are made again", output.uri())
        return None
    return made


def _identity(manifest: Mapping[str, Any], spec: ViewSpec) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "mosaic_ray": __version__,
        "libraries": {name: version(name) for name in LIBRARIES},
        "view": {"name": spec.view, "sequence_length": spec.sequence_length},
        "of": {"run": manifest["run"], "dataset_digest": manifest["dataset_digest"]},
    }


def _receipts(output: Storage, run: str) -> Iterator[dict[str, Any]]:
    """What is done of a view: receipts of it whose part is in place."""
    sizes = {path: info.size for path, info in output.listing("data")}
    with ThreadPoolExecutor(_READERS) as pool:
        for data in pool.map(output.read, [path for path, _ in output.listing(RECEIPTS)]):
            try:
                receipt = orjson.loads(data)
                mine = receipt["run"] == run and sizes.get(receipt["name"]) == receipt["bytes"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
            if mine:
                yield receipt


def _manifest(
    run: Run,
    manifest: Mapping[str, Any],
    identity: Mapping[str, Any],
    receipts: Sequence[Mapping[str, Any]],
    started: datetime,
    ends_turn: str | None,
) -> dict[str, Any]:
    """Raises TaskError where samples are neither in the view nor left out for a reason."""
    finished = datetime.now(UTC)
    left_out: Counter[str] = Counter()
    for receipt in receipts:
        left_out.update(receipt["left_out"])
    totals = {key: sum(receipt[key] or 0 for receipt in receipts) for key in ("rows", "samples", *_TOKENS)}
    wanted = manifest["totals"]["samples"]
    if totals["samples"] + left_out.total() != wanted:
        raise TaskError(
            f"the accounting does not balance: of {wanted} samples {totals['samples']} are in the view, and "
            f"{left_out.total()} are left out. Nothing was published as finished; please report it"
        )
    length = identity["view"]["sequence_length"]
    packed = round(sum(receipt["packing_seconds"] for receipt in receipts), 3)
    seconds = sum(receipt["seconds"] for receipt in receipts)
    return {
        "format_version": identity["format_version"],
        "dataset_digest": dataset_digest(receipts, []),
        "run": fingerprint(identity),
        **{key: identity[key] for key in ("mosaic_ray", "libraries", "view", "of")},
        "tokenizer": manifest["tokenizer"],
        "settings": manifest["settings"],
        "places": {"output": run.output.uri(), "samples": "../.."},
        "created": {
            "started": started.isoformat(timespec="seconds"),
            "finished": finished.isoformat(timespec="seconds"),
            "seconds": round((finished - started).total_seconds(), 1),
            "worker_seconds": round(seconds, 1),
        },
        "accounting": {
            "samples": wanted,
            "in_view": totals["samples"],
            "left_out": dict(sorted(left_out.items())),
            "balanced": True,
        },
        "totals": totals,
        "ends_turn": ends_turn,
        "packing": {**packing(totals, length), "seconds": packed} if length else None,
        "rejects": {"records": 0, "parts": []},
        "parts": [{key: receipt[key] for key in _PART} for receipt in receipts],
    }


def packing(totals: Mapping[str, int], length: int) -> dict[str, Any]:
    """How full the sequences are: ``least_rows`` is what no packing can go below."""
    rows, tokens = totals["rows"], totals["tokens"]
    return {
        "sequence_length": length,
        "samples_per_row": round(totals["samples"] / max(1, rows), 3),
        "efficiency": round(tokens / max(1, rows * length), 6),
        "empty_tokens": rows * length - tokens,
        "least_rows": -(-tokens // length),
    }


def _receipt_path(name: str) -> str:
    return f"{RECEIPTS}/{name.removeprefix('data/').removesuffix('.parquet')}.json"
