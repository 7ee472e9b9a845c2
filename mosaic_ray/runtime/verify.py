"""Is a published data set what its manifest says, and what its source says?

Task by task, on the same engines as the run: the parts are read back and every row is held against the records it
claims to be made of. Nothing of what is checked is taken from the receipts.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.errors import VerificationError
from mosaic_ray.io.cells import InputFile
from mosaic_ray.io.manifest import dataset_digest, read_manifest
from mosaic_ray.io.writers import content_digest
from mosaic_ray.records import Message, Record, Source
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.plan import Part
from mosaic_ray.runtime.progress import Progress
from mosaic_ray.runtime.run import Run
from mosaic_ray.runtime.stock import stored_inventory
from mosaic_ray.runtime.task import Loaded, TaskItem, TaskWork, rejects_path, task_item
from mosaic_ray.seeding import Key
from mosaic_ray.views import REJECT_SCHEMA

log = logging.getLogger("mosaic_ray")

SHOWN: Final = 20
"""Problems listed before the rest is only counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyItem:
    """A task, what the manifest says of its parts and rejects, and the epochs to rebuild."""

    item: TaskItem
    parts: tuple[Mapping[str, Any], ...]
    rejects: Mapping[str, Any] | None
    recompute: frozenset[int]

    def __str__(self) -> str:
        return f"verification of {self.item}"


@dataclass(slots=True)
class Findings:
    """What a verification saw: how much, and what was wrong."""

    parts: int = 0
    rows: int = 0
    recomputed: int = 0
    tokens: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        self.parts += other.parts
        self.rows += other.rows
        self.recomputed += other.recomputed
        self.tokens += other.tokens
        self.problems += other.problems


@dataclass(kw_only=True)
class VerifyWork:
    """Verifies one task; run by an engine's workers."""

    work: TaskWork

    def prepare(self) -> None:
        self.work.prepare()

    def __call__(self, wanted: VerifyItem) -> Findings:
        findings = Findings()
        loaded = self.work.load(wanted.item)
        for part, stated in zip(wanted.item.parts, wanted.parts, strict=True):
            findings.parts += 1
            data = self._bytes(stated, findings)
            if data is None:
                continue
            table = self._table(data, stated, self.work.view.schema, findings)
            if table is None:
                continue
            rows = table.to_pylist()
            findings.rows += len(rows)
            findings.tokens += sum(row["token_count"] for row in rows)
            findings.problems += [f"{part.name}: {problem}" for problem in self._rows(rows, part, loaded)]
            if part.epoch in wanted.recompute:
                findings.recomputed += 1
                if self.work.build(loaded, part)[0].data != data:
                    findings.problems.append(f"{part.name}: rebuilt from its source it has other bytes")
        findings.problems += self._rejects(wanted, loaded, findings)
        return findings

    def _bytes(self, stated: Mapping[str, Any], findings: Findings) -> bytes | None:
        name = stated["name"]
        if not self.work.output.exists(name):
            findings.problems.append(f"{name}: missing")
            return None
        data = self.work.output.read(name)
        if hashlib.sha256(data).hexdigest() != stated["sha256"]:
            findings.problems.append(
                f"{name}: its sha256 is not the manifest's ({len(data)} bytes, {stated['bytes']} stated)"
            )
            return None
        return data

    def _table(self, data: bytes, stated: Mapping[str, Any], schema: pa.Schema, findings: Findings) -> pa.Table | None:
        table = pq.read_table(pa.BufferReader(data))
        if not table.schema.equals(schema):
            findings.problems.append(f"{stated['name']}: schema\n{table.schema}\nwhere the run declares\n{schema}")
            return None
        if table.num_rows != stated["rows"] or content_digest(table.to_pylist(), schema) != stated["content_digest"]:
            findings.problems.append(f"{stated['name']}: its rows are not the manifest's")
            return None
        return table

    def _rows(self, rows: Sequence[Mapping[str, Any]], part: Part, loaded: Loaded) -> Iterator[str]:
        records = loaded.by_source
        placed: Counter[Source] = Counter()
        conversations = []
        for row in rows:
            sources = [Source(source["file"], source["row"]) for source in row["sources"]]
            placed.update(sources)
            messages = self.work.view.messages(dict(row))
            conversations.append(messages)
            unknown = [source for source in sources if source not in records]
            if unknown:
                yield f"{row['mosaic_id']}: {unknown[0].file} row {unknown[0].row} is no record of this task"
                continue
            if row["tiles"] != len(sources) or row["epoch"] != part.epoch:
                yield f"{row['mosaic_id']}: tiles or epoch do not agree with its sources and its part"
            problem = self._sample(row, messages, [records[source] for source in sources])
            if problem is not None:
                yield f"{row['mosaic_id']}: {problem}"
        counts = self.work.counter.count_batch(conversations)
        budget = self.work.settings.max_tokens
        for row, count in zip(rows, counts, strict=True):
            if count != row["token_count"] or count > budget:
                yield f"{row['mosaic_id']}: {count} tokens counted, {row['token_count']} stated, budget {budget}"
        for source, times in placed.items():
            if times > 1:
                yield f"{source.file} row {source.row} is in {times} samples of epoch {part.epoch}"
        for source in records.keys() - placed.keys():
            yield f"{source.file} row {source.row} is in no sample of epoch {part.epoch}"

    def _sample(self, row: Mapping[str, Any], messages: Sequence[Message], tiles: Sequence[Record]) -> str | None:
        if row["strategy"] == "pass":
            same = len(tiles) == 1 and tuple(messages) == tiles[0].messages
            return None if same else "a record passed through whole is not the record"
        try:
            params = orjson.loads(row["params"])
        except orjson.JSONDecodeError as error:
            return f"params are not JSON: {error}"
        sample = {
            "strategy": row["strategy"],
            "kind": row["kind"],
            "params": params,
            "instruction": messages[0].content,
            "response": messages[-1].content,
        }
        return self.work.method.check(sample, tiles)

    def _rejects(self, wanted: VerifyItem, loaded: Loaded, findings: Findings) -> Iterator[str]:
        name = rejects_path(wanted.item.index)
        expected = [(r.source.file, r.source.row, r.reason) for r in loaded.rejects]
        if wanted.rejects is None:
            if expected:
                yield f"{name}: {len(expected)} records are rejected by the source, and the manifest lists no such file"
            return
        data = self._bytes(wanted.rejects, findings)
        table = None if data is None else self._table(data, wanted.rejects, REJECT_SCHEMA, findings)
        if table is not None and [(r["file"], r["row"], r["reason"]) for r in table.to_pylist()] != expected:
            yield f"{name}: not the records that the source has rejected"


def verify(run: Run, engine: Engine, *, recompute: int = 0) -> Findings:
    """Verify a finished run against its source.

    recompute: that many parts, drawn by the seed of the run, are rebuilt and compared byte by byte.

    Raises VerificationError that lists what is wrong; InputError where the source is gone or has changed.
    """
    manifest = read_manifest(run.output)
    files = stored_inventory(run.output)
    findings = Findings(problems=list(_manifest_problems(run, manifest, files)))
    plan = run.plan(files)
    chosen = Key(run.settings.seed, "recompute").permutation(len(manifest["parts"]))[:recompute]
    epochs: dict[int, set[int]] = {}
    for index in chosen:
        epochs.setdefault(int(index) % plan.tasks, set()).add(int(index) // plan.tasks)
    stated = {part["name"]: part for part in manifest["parts"]}
    rejects = {part["name"]: part for part in manifest["rejects"]["parts"]}
    if sorted(stated) != sorted(plan.part(e, t).name for e in range(plan.epochs) for t in range(plan.tasks)):
        findings.problems.append("the parts in the manifest are not those of its plan")
    else:
        items = (
            VerifyItem(
                item=task_item(plan, spec),
                parts=tuple(stated[part.name] for part in plan.parts(spec.index)),
                rejects=rejects.get(rejects_path(spec.index)),
                recompute=frozenset(epochs.get(spec.index, ())),
            )
            for spec in plan
        )
        work = run.work(manifest["run"])
        work.staged = False
        with Progress("verify", plan.tasks, unit="tasks") as progress:
            for done, (_, found) in enumerate(engine.map(VerifyWork(work=work), items, describe=str), 1):
                findings.add(found)
                progress.update(done, f"{findings.rows:,} rows")
        if not findings.problems and findings.tokens != manifest["totals"]["tokens"]:
            findings.problems.append(
                f"{findings.tokens} tokens in the parts, {manifest['totals']['tokens']} in the manifest"
            )
    if findings.problems:
        shown = "\n".join(f"- {problem}" for problem in findings.problems[:SHOWN])
        more = len(findings.problems) - SHOWN
        raise VerificationError(
            f"{run.output.uri()}: {len(findings.problems)} problem{'s' * (len(findings.problems) > 1)}\n{shown}"
            + (f"\nand {more} more" if more > 0 else "")
        )
    return findings


def _manifest_problems(run: Run, manifest: Mapping[str, Any], files: Sequence[InputFile]) -> Iterator[str]:
    """Whether the manifest agrees with itself, with the stored inventory, and with the directory."""
    digest = dataset_digest(manifest["parts"], manifest["rejects"]["parts"])
    if digest != manifest["dataset_digest"]:
        yield f"dataset_digest {manifest['dataset_digest']} is not that of the parts listed ({digest})"
    if run.fingerprint(files) != manifest["run"]:
        yield f"run {manifest['run']} is not that of the settings and inventory kept under _mosaic/"
    records = sum(file.records for file in files)
    for epoch in manifest["accounting"]["epochs"]:
        placed = epoch["composed"] + epoch["passed"] + epoch["rejected"]
        if placed != records:
            yield f"epoch {epoch['epoch']} accounts for {placed} of {records} records"
    listed = {part["name"] for part in (*manifest["parts"], *manifest["rejects"]["parts"])}
    for folder in ("data", "rejects"):
        for path, _ in run.output.listing(folder):
            if path not in listed:
                yield f"{path}: not in the manifest"
