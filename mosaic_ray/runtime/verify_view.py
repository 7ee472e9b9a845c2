"""Is a view what its manifest says, and what it would be if it were made of its data set again?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from mosaic_ray.config import ViewSpec
from mosaic_ray.errors import MosaicError, VerificationError
from mosaic_ray.io.manifest import dataset_digest, read_manifest
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.writers import content_digest
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.findings import Findings
from mosaic_ray.runtime.progress import Progress
from mosaic_ray.runtime.run import Run
from mosaic_ray.runtime.viewing import VIEW, ViewWork, packing, read_part, source_view, view_path
from mosaic_ray.views import derived_view


@dataclass(kw_only=True)
class VerifyViewWork:
    """Verifies parts of a view; run by an engine's workers."""

    work: ViewWork

    def prepare(self) -> None:
        w = self.work
        self._view = derived_view(w.spec, source=w.source, tokenizer=w.tokenizer, check_all=True)

    def __call__(self, pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Findings:
        """pair: the part of the data set and that of the view, as their manifests list them."""
        source, stated = pair
        findings = Findings()
        try:
            table = read_part(self.work.output, stated)
            made = self._view.make(read_part(self.work.samples, source))
        except MosaicError as error:
            findings.report(str(error))
            return findings
        findings.parts, findings.rows = 1, len(table)
        name = stated["name"]
        if not table.schema.equals(made.table.schema):
            findings.report(f"{name}: schema\n{table.schema}\nwhere the view has\n{made.table.schema}")
        elif content_digest(table) != stated["content_digest"]:
            findings.report(f"{name}: its rows do not have the content_digest of the manifest")
        elif content_digest(table) != content_digest(made.table):
            findings.report(f"{name}: made again of {self.work.samples.uri(name)} it has other rows")
        counts = {"rows": len(made.table), "samples": made.samples}
        counts |= {"tokens": made.tokens or 0, "trained_tokens": made.trained or 0}
        for key, count in counts.items():
            if (stated[key] or 0) != count:
                findings.report(f"{name}: {stated[key]} {key} in the manifest, {count} by the part")
        return findings


def kept_view(output: Storage) -> ViewSpec | None:
    """What view is kept at an address; None where there is none. Raises VerificationError where that is damaged."""
    if not output.exists(VIEW):
        return None
    try:
        kept = orjson.loads(output.read(VIEW))["view"]
        return ViewSpec(view=kept["name"], sequence_length=kept["sequence_length"])
    except (ValueError, KeyError, TypeError) as error:
        raise VerificationError(f"{output.uri(VIEW)}: damaged ({error}). Delete the view and make it again") from error


def samples_of(run: Run, spec: ViewSpec, part: str, row: int) -> list[int]:
    """The rows of the data set's part of the same name that a row of a view holds.

    Raises VerificationError where the view has no such part or row.
    """
    output = run.output.under(view_path(spec))
    sources, stated = ({p["name"]: p for p in read_manifest(home)["parts"]} for home in (run.output, output))
    if part not in stated or part not in sources:
        raise VerificationError(f"{output.uri(part)}: not a part of this view, which has {len(stated)}")
    if row >= stated[part]["rows"]:
        raise VerificationError(f"{output.uri(part)}: row {row} of {stated[part]['rows']} (they count from 0)")
    view = derived_view(spec, source=source_view(run), tokenizer=run.tokenizer)
    return view.make(read_part(run.output, sources[part])).origins[row]


def _stated(view: Mapping[str, Any], samples: Mapping[str, Any], spec: ViewSpec) -> Iterator[str]:
    """What the manifest of a view says otherwise than the data set, the view's settings and its own sums."""
    totals, accounting = view["totals"], view["accounting"]
    left_out = sum(accounting["left_out"].values())
    expected = {
        "view": {"name": spec.view, "sequence_length": spec.sequence_length},
        "tokenizer": samples["tokenizer"],
        "settings": samples["settings"],
        "accounting": {
            **accounting, "samples": samples["totals"]["samples"], "in_view": samples["totals"]["samples"] - left_out
        },
    }  # fmt: skip
    if spec.sequence_length is not None:
        expected["packing"] = {**(view["packing"] or {}), **packing(totals, spec.sequence_length)}
    yield from (
        f"{key} of the manifest is {view[key]}, not {value}" for key, value in expected.items() if view[key] != value
    )
    if accounting["in_view"] != totals["samples"]:
        yield f"accounting.in_view is {accounting['in_view']}, and the parts hold {totals['samples']} samples"
    places = {part["name"]: (part["epoch"], part["task"]) for part in samples["parts"]}
    for part in view["parts"]:
        if places.get(part["name"], (part["epoch"], part["task"])) != (part["epoch"], part["task"]):
            yield f"{part['name']}: epoch {part['epoch']}, task {part['task']}, not those of the data set's part"


def verify_view(run: Run, engine: Engine, spec: ViewSpec) -> Findings:
    """Verify a finished view: every part is made again of the data set, and every row's labels are decoded.

    Raises VerificationError that lists what is wrong.
    """
    output = run.output.under(view_path(spec))
    samples, view = read_manifest(run.output), read_manifest(output)
    findings = Findings()
    if view["of"]["dataset_digest"] != samples["dataset_digest"]:
        findings.report(
            f"made of {view['of']['dataset_digest']}, where the data set is {samples['dataset_digest']} now. Delete "
            "the view and make it again"
        )
    if dataset_digest(view["parts"], []) != view["dataset_digest"]:
        findings.report("the dataset_digest of the manifest is not that of its parts")
    for problem in _stated(view, samples, spec):
        findings.report(problem)
    for path in {path for path, _ in output.listing("data")} - {part["name"] for part in view["parts"]}:
        findings.report(f"{path}: no part of the view, and what loads data/*.parquet would read it")
    sources, stated = ({part["name"]: part for part in manifest["parts"]} for manifest in (samples, view))
    for name in sorted(sources.keys() ^ stated.keys()):
        findings.report(f"{name}: in one of the two manifests only")
    totals: dict[str, int] = {key: sum(part[key] or 0 for part in view["parts"]) for key in view["totals"]}
    if totals != view["totals"]:
        findings.report(f"the totals of the manifest are {view['totals']}, and its parts sum up to {totals}")
    work = ViewWork(
        run=view["run"],
        spec=spec,
        source=source_view(run),
        tokenizer=run.tokenizer,
        samples=replace(run.output, error=VerificationError),
        output=replace(output, error=VerificationError),
    )
    pairs = [(sources[name], stated[name]) for name in sorted(sources.keys() & stated.keys())]
    with Progress("verify", len(pairs), unit="parts") as progress:
        for done, (_, found) in enumerate(
            engine.map(VerifyViewWork(work=work), pairs, describe=lambda pair: f"verification of {pair[1]['name']}"), 1
        ):
            findings.add(found)
            progress.update(done, f"{findings.rows:,} rows")
    findings.raise_for(output)
    return findings
