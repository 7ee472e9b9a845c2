"""What a verification saw, added up over tasks, and the manifest held against it and against the run kept beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from mosaic_ray.errors import VerificationError
from mosaic_ray.io.cells import InputFile
from mosaic_ray.io.manifest import dataset_digest, inventory_entry
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.driver import plan_entry
from mosaic_ray.runtime.plan import Plan
from mosaic_ray.runtime.receipt import rejects_path
from mosaic_ray.runtime.run import Run
from mosaic_ray.runtime.stats import Totals

SHOWN: Final = 20
"""Problems kept in words; any more are only counted."""

PART_FIELDS: Final[Mapping[str, type]] = {
    "name": str, "rows": int, "bytes": int, "sha256": str, "content_digest": str,
}  # fmt: skip

_UNCHECKED: Final = ("places", "created", "python", "libraries")
"""Of a run's circumstances, which nothing that was read can confirm; that they are stated is all that is asked."""


@dataclass(slots=True)
class Findings:
    """What a verification saw, of one task or of many; its size does not grow with their number.

    parts, rows, recomputed: parts and rows read, parts rebuilt.
    records, whole, trimmed, escaped, rejects: of the source, as in a receipt.
    epochs: the totals of the rows read, by epoch.
    problems, wrong: what is wrong, the first SHOWN in words, and how much is wrong in all.
    """

    parts: int = 0
    rows: int = 0
    recomputed: int = 0
    records: int = 0
    whole: int = 0
    trimmed: int = 0
    escaped: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    epochs: dict[int, Totals] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    wrong: int = 0

    @property
    def tokens(self) -> int:
        return sum(totals.tokens for totals in self.epochs.values())

    def report(self, problem: str) -> None:
        self.wrong += 1
        if len(self.problems) < SHOWN:
            self.problems.append(problem)

    def add(self, other: Findings) -> None:
        for name in ("parts", "rows", "recomputed", "records", "whole", "trimmed", "escaped", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.rejects.update(other.rejects)
        for epoch, totals in other.epochs.items():
            self.epochs.setdefault(epoch, Totals()).merge(totals.to_dict())
        self.problems += other.problems[: SHOWN - len(self.problems)]

    def raise_for(self, output: Storage) -> None:
        """Raise VerificationError that lists what is wrong, if anything is."""
        if not self.wrong:
            return
        shown = "\n".join(f"- {problem}" for problem in self.problems)
        more = self.wrong - len(self.problems)
        raise VerificationError(
            f"{output.uri()}: {self.wrong} problem{'s' * (self.wrong > 1)}\n{shown}"
            + (f"\nand {more} more" if more > 0 else "")
        )


def listed(manifest: Mapping[str, Any], findings: Findings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The entries of the parts and of the files of rejects; one without its fields is reported and left out."""
    rejects = manifest.get("rejects")
    return (
        _entries("parts", manifest.get("parts"), findings),
        _entries("rejects.parts", rejects.get("parts") if isinstance(rejects, dict) else None, findings),
    )


def _entries(name: str, stated: Any, findings: Findings) -> list[dict[str, Any]]:
    if not isinstance(stated, list):
        findings.report(f"manifest.json: {name} is missing, or no list")
        return []
    good = []
    for number, entry in enumerate(stated):
        found = entry if isinstance(entry, dict) else {}
        lacking = [key for key, kind in PART_FIELDS.items() if not isinstance(found.get(key), kind)]
        if lacking:
            findings.report(f"manifest.json: {name}[{number}].{lacking[0]} is missing or of another type")
        else:
            good.append(found)
    return good


def kept_problems(
    run: Run,
    manifest: Mapping[str, Any],
    files: Sequence[InputFile],
    plan: Plan,
    parts: Sequence[Mapping[str, Any]],
    rejects: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    """Where the manifest is not what the run kept under ``_mosaic/``, its plan, and the directory make it."""
    name = run.fingerprint(plan)
    tokenizer = run.identity["tokenizer"]
    kept = {
        "run": name,
        **{key: run.identity[key] for key in ("mosaic_ray", "method", "settings")},
        "tokenizer": {key: tokenizer[key] for key in ("digest", "special_tokens", "chat_template")},
        "plan": plan_entry(plan, name),
        "inventory": [inventory_entry(file) for file in files],
        "dataset_digest": dataset_digest(parts, rejects),
    }
    kept = orjson.loads(orjson.dumps(kept))
    stated = {key: manifest[key] for key in kept if key in manifest}
    if isinstance(stated.get("tokenizer"), dict):
        stated["tokenizer"] = {key: stated["tokenizer"][key] for key in kept["tokenizer"] if key in stated["tokenizer"]}
    yield from differences("", stated, kept, why="by the run kept under _mosaic/")
    if run.tokenizer.digest != tokenizer["digest"]:
        yield (
            f"_mosaic/tokenizer.json: its digest is {run.tokenizer.digest}, and tokenizer.digest in the settings kept "
            f"beside it is {tokenizer['digest']}"
        )
    libraries = manifest.get("libraries")
    for key, version in run.identity["libraries"].items():
        if isinstance(libraries, dict):
            yield from differences(f"libraries.{key}", libraries.get(key), version, why="by the run kept")
    yield from (f"manifest.json: {key} is missing" for key in _UNCHECKED if key not in manifest)
    yield from _names(plan, parts, rejects)
    known = {entry["name"] for entry in (*parts, *rejects)}
    for folder in ("data", "rejects"):
        for path, _ in run.output.listing(folder):
            if path not in known:
                yield f"{path}: not in the manifest"


def _names(plan: Plan, parts: Sequence[Mapping[str, Any]], rejects: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    stated = [entry["name"] for entry in parts]
    planned = [plan.part(epoch, task).name for epoch in range(plan.epochs) for task in range(plan.tasks)]
    if stated != planned:
        yield from (f"{name}: no part of the plan" for name in sorted(set(stated) - set(planned)))
        yield from (f"{name}: not among the parts of the manifest" for name in sorted(set(planned) - set(stated)))
        if set(stated) == set(planned):
            yield "manifest.json: parts lists a part twice, or in another order than the plan"
    stated = [entry["name"] for entry in rejects]
    possible = {rejects_path(task) for task in range(plan.tasks)}
    yield from (f"{name}: no file of rejects of the plan" for name in stated if name not in possible)
    if stated != sorted(set(stated)):
        yield "manifest.json: rejects.parts lists a file twice, or out of order"


def count_problems(
    manifest: Mapping[str, Any], found: Findings, files: Sequence[InputFile], plan: Plan
) -> Iterator[str]:
    """Where the manifest's counts are not those of the parts and of the source, once all of both has been read."""
    epochs = [found.epochs.get(epoch, Totals()) for epoch in range(plan.epochs)]
    totals = Totals()
    for epoch in epochs:
        totals.merge(epoch.to_dict())
    rejected = sum(found.rejects.values())
    accounts = []
    for number, epoch in enumerate(epochs):
        passed = epoch.strategies["pass"]
        entry = {"composed": epoch.tiles - passed, "passed": passed, "rejected": rejected}
        accounts.append({"epoch": number, **entry, "sum": sum(entry.values())})
    counts = {
        "accounting": {
            "records": found.records,
            "balanced": all(entry["sum"] == found.records for entry in accounts),
            "epochs": accounts,
        },
        "rejects": {"records": rejected, "by_reason": dict(found.rejects)},
        "policies": {
            "passed_whole": found.whole,
            "first_turn_only": found.trimmed,
            "special_tokens": found.escaped,
        },
        "totals": totals.to_dict(),
        "mixing": totals.mixing([file.records for file in files]),
        "epochs": [epoch.to_dict() for epoch in epochs],
    }
    stated = {key: manifest[key] for key in counts if key in manifest}
    if isinstance(stated.get("rejects"), dict):
        stated["rejects"] = {key: value for key, value in stated["rejects"].items() if key != "parts"}
    yield from differences("", stated, counts, why="by the parts and the source")


def differences(name: str, stated: Any, found: Any, *, why: str) -> Iterator[str]:
    """Every field of the manifest that is not what it should be, by its name."""
    if isinstance(stated, dict) and isinstance(found, dict):
        for key in (*found, *(key for key in stated if key not in found)):
            field = f"{name}.{key}" if name else str(key)
            if key not in stated:
                yield f"manifest.json: {field} is missing; {_short(found[key])} {why}"
            elif key not in found:
                yield f"manifest.json: {field} is {_short(stated[key])}, and nothing of that name {why}"
            else:
                yield from differences(field, stated[key], found[key], why=why)
    elif isinstance(stated, list) and isinstance(found, list) and len(stated) == len(found):
        for number, (one, other) in enumerate(zip(stated, found, strict=True)):
            yield from differences(f"{name}[{number}]", one, other, why=why)
    elif stated != found or isinstance(stated, bool) != isinstance(found, bool):
        yield f"manifest.json: {name} is {_short(stated)}, and {_short(found)} {why}"


def _short(value: Any) -> str:
    text = f"a list of {len(value)}" if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
