"""Is a published data set what its manifest says, and what its source says?

Task by task, on the same engines as the run: the parts are read back and every row is held against the records it
claims to be made of. Nothing of what is checked is taken from the receipts.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mosaic_ray.errors import VerificationError
from mosaic_ray.io.manifest import read_manifest
from mosaic_ray.io.writers import content_digest
from mosaic_ray.records import Message, Record, Sample, Source
from mosaic_ray.runtime.engine import Engine
from mosaic_ray.runtime.findings import Findings, count_problems, differences, kept_problems, listed
from mosaic_ray.runtime.plan import Part
from mosaic_ray.runtime.progress import Progress
from mosaic_ray.runtime.receipt import rejects_path
from mosaic_ray.runtime.run import Run
from mosaic_ray.runtime.stats import Totals
from mosaic_ray.runtime.stock import kept_inventory, stored_inventory
from mosaic_ray.runtime.task import Loaded, TaskItem, TaskWork, mosaic_id, task_item
from mosaic_ray.seeding import Key
from mosaic_ray.views import REJECT_SCHEMA

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyItem:
    """A task, what the manifest says of its parts (None: nothing) and rejects, and the epochs to rebuild."""

    item: TaskItem
    parts: tuple[Mapping[str, Any] | None, ...]
    rejects: Mapping[str, Any] | None
    recompute: frozenset[int]

    def __str__(self) -> str:
        return f"verification of {self.item}"


@dataclass(kw_only=True)
class VerifyWork:
    """Verifies one task; run by an engine's workers."""

    work: TaskWork

    def prepare(self) -> None:
        self.work.prepare()

    def __call__(self, wanted: VerifyItem) -> Findings:
        self.work.counter.start(whole=True)  # nothing here may rest on the pieces that the run was counted by
        loaded = self.work.load(wanted.item)
        findings = Findings(
            records=len(loaded.plain) + len(loaded.whole) + len(loaded.rejects),
            whole=len(loaded.whole),
            trimmed=loaded.trimmed,
            escaped=loaded.escaped,
            rejects=Counter(reject.reason for reject in loaded.rejects),
        )
        for part, stated in zip(wanted.item.parts, wanted.parts, strict=True):
            if stated is not None:
                self._part(part, stated, loaded, findings, rebuild=part.epoch in wanted.recompute)
        for problem in self._rejects(wanted, loaded, findings):
            findings.report(problem)
        return findings

    def _part(
        self, part: Part, stated: Mapping[str, Any], loaded: Loaded, findings: Findings, *, rebuild: bool
    ) -> None:
        data = self._bytes(stated, findings)
        rows = None if data is None else self._table(data, stated, self.work.view.schema, findings)
        if rows is None:
            return
        totals = Totals()
        for problem in self._rows(rows, part, loaded, totals):
            findings.report(f"{part.name}: {problem}")
        findings.parts += 1
        findings.rows += len(rows)
        findings.epochs.setdefault(part.epoch, Totals()).merge(totals.to_dict())
        for name, value in (("tokens", totals.tokens), ("epoch", part.epoch), ("task", part.task)):
            for problem in differences(name, stated.get(name), value, why="by the part"):
                findings.report(f"{part.name}: {problem}")
        if rebuild:
            findings.recomputed += 1
            if self.work.build(loaded, part)[0].data != data:
                findings.report(f"{part.name}: rebuilt from its source it has other bytes")

    def _bytes(self, stated: Mapping[str, Any], findings: Findings) -> bytes | None:
        name = stated["name"]
        if not self.work.output.exists(name):
            findings.report(f"{name}: missing")
            return None
        data = self.work.output.read(name)
        if len(data) != stated["bytes"]:
            findings.report(f"{name}: {len(data)} bytes, {stated['bytes']} in the manifest")
            return None
        if hashlib.sha256(data).hexdigest() != stated["sha256"]:
            findings.report(f"{name}: its sha256 is not the manifest's")
            return None
        return data

    def _table(self, data: bytes, stated: Mapping[str, Any], schema: pa.Schema, findings: Findings) -> Rows | None:
        name = stated["name"]
        try:
            # Not pq.read_table: the threads of the dataset reader can abort a process that is ending.
            table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
            rows: Rows = table.to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            findings.report(f"{name}: not a readable Parquet file: {error}")
            return None
        if not table.schema.equals(schema):
            findings.report(f"{name}: schema\n{table.schema}\nwhere the run declares\n{schema}")
            return None
        if len(rows) != stated["rows"]:
            findings.report(f"{name}: {len(rows)} rows, {stated['rows']} in the manifest")
            return None
        if content_digest(table) != stated["content_digest"]:
            findings.report(f"{name}: its rows do not have the content_digest of the manifest")
            return None
        return rows

    def _rows(self, rows: Rows, part: Part, loaded: Loaded, totals: Totals) -> Iterator[str]:
        """What is wrong with the rows of a part, which are added to the totals."""
        records = loaded.by_source
        placed: Counter[Source] = Counter()
        sound: list[tuple[dict[str, Any], tuple[Message, ...]]] = []
        for index, row in enumerate(rows):
            sources = [Source(source["file"], source["row"]) for source in row["sources"]]
            placed.update(sources)
            tiles = [records[source] for source in sources if source in records]
            totals.add([_sample(row, sources)], sum(tile.tokens for tile in tiles))
            if row["mosaic_id"] != mosaic_id(part, index):
                yield f"row {index} has the mosaic_id {row['mosaic_id']!r}, where {mosaic_id(part, index)!r} belongs"
            if row["tiles"] != len(sources) or row["epoch"] != part.epoch:
                yield f"row {index}: tiles or epoch do not agree with its sources and its part"
            unknown = [source for source in sources if source not in records]
            if unknown or not sources:
                yield f"row {index}: " + (
                    f"{unknown[0].file} row {unknown[0].row} is no record of this task" if unknown else "no sources"
                )
                continue
            messages = self._messages(row)
            problem = "its text is no conversation of its view" if not messages else self._check(row, messages, tiles)
            if problem is not None:
                yield f"row {index}: {problem}"
            else:
                sound.append((row, messages))
        counts = self.work.counter.count_whole([messages for _, messages in sound])
        budget = self.work.settings.max_tokens
        for (row, _), count in zip(sound, counts, strict=True):
            if count != row["token_count"] or count > budget:
                yield f"{row['mosaic_id']}: {count} tokens counted, {row['token_count']} stated, budget {budget}"
        for source, times in placed.items():
            if times > 1:
                yield f"{source.file} row {source.row} is in {times} samples of epoch {part.epoch}"
        for source in records.keys() - placed.keys():
            yield f"{source.file} row {source.row} is in no sample of epoch {part.epoch}"

    def _messages(self, row: dict[str, Any]) -> tuple[Message, ...]:
        """The conversation of a row; empty where its columns are not exactly those of one."""
        try:
            messages = self.work.view.messages(row)
            columns = self.work.view.columns(messages)
        except (VerificationError, TypeError, IndexError):
            return ()
        return messages if all(row[name] == value for name, value in columns.items()) else ()

    def _check(self, row: Mapping[str, Any], messages: Sequence[Message], tiles: Sequence[Record]) -> str | None:
        if row["strategy"] == "pass":
            same = len(tiles) == 1 and tuple(messages) == tiles[0].messages
            plain = row["kind"] is None and row["params"] == "{}"
            return None if same and plain else "a record passed through whole is not the record"
        if [message.role for message in messages] != ["user", "assistant"]:
            return "a composed sample is not one message of the user and one of the assistant"
        try:
            params = orjson.loads(row["params"])
        except orjson.JSONDecodeError as error:
            return f"params are not JSON: {error}"
        sample = {
            "strategy": row["strategy"],
            "kind": row["kind"],
            "params": params,
            "instruction": messages[0].content,
            "response": messages[1].content,
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
        rows = None if data is None else self._table(data, wanted.rejects, REJECT_SCHEMA, findings)
        if rows is not None and [(row["file"], row["row"], row["reason"]) for row in rows] != expected:
            yield f"{name}: not the records that the source has rejected"


def _sample(row: Mapping[str, Any], sources: Sequence[Source]) -> Sample:
    """A row as it counts in the totals."""
    return Sample(
        messages=(),
        sources=tuple(sources),
        strategy=row["strategy"],
        kind=row["kind"],
        params={},
        token_count=row["token_count"],
    )


def verify(run: Run, engine: Engine, *, recompute: int = 0) -> Findings:
    """Verify a finished run against its source.

    recompute: that many parts, drawn by the seed of the run, are rebuilt and compared byte by byte.

    Raises VerificationError that lists what is wrong; InputError where the source is gone or has changed.
    """
    manifest = read_manifest(run.output)
    files = kept_inventory(run)
    plan = run.plan(files)
    findings = Findings()
    parts, rejects = listed(manifest, findings)
    for problem in kept_problems(run, manifest, stored_inventory(run.output), plan, parts, rejects):
        findings.report(problem)
    chosen = Key(run.settings.seed, "recompute").permutation(plan.tasks * plan.epochs)[:recompute]
    epochs: dict[int, set[int]] = {}
    for index in chosen:
        epochs.setdefault(int(index) % plan.tasks, set()).add(int(index) // plan.tasks)
    part_entries = {entry["name"]: entry for entry in parts}
    reject_entries = {entry["name"]: entry for entry in rejects}
    items = (
        VerifyItem(
            item=task_item(plan, spec),
            parts=tuple(part_entries.get(part.name) for part in plan.parts(spec.index)),
            rejects=reject_entries.get(rejects_path(spec.index)),
            recompute=frozenset(epochs.get(spec.index, ())),
        )
        for spec in plan
    )
    work = run.work(run.fingerprint(plan))
    work.staged = False
    with Progress("verify", plan.tasks, unit="tasks") as progress:
        for done, (_, found) in enumerate(engine.map(VerifyWork(work=work), items, describe=str), 1):
            findings.add(found)
            progress.update(done, f"{findings.rows:,} rows")
    if findings.parts == plan.tasks * plan.epochs:  # else they cannot agree, and why is said already
        for problem in count_problems(manifest, findings, files, plan):
            findings.report(problem)
    findings.raise_for(run.output)
    return findings
