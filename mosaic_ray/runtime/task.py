"""One task: from cells of the input to finished parts and a receipt.

Plain Python and a pure function of its description and the input's bytes; an engine's worker is a shell around it. It
knows no method by name. What a method returns is checked here, sample by sample, before anything is published.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeVar

import pyarrow as pa

from mosaic_ray.config import Overlong, Settings
from mosaic_ray.errors import InputError, TaskError
from mosaic_ray.fingerprint import canonical_json
from mosaic_ray.io.cells import Cell, CellTable, InputFile
from mosaic_ray.io.patience import retries_counted
from mosaic_ray.io.readers import read_cells, read_rows
from mosaic_ray.io.shapes import to_record
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.traffic import bytes_read
from mosaic_ray.io.writers import Part as ParquetPart
from mosaic_ray.io.writers import to_parquet, to_table
from mosaic_ray.logs import on_task
from mosaic_ray.methods.base import Method
from mosaic_ray.pulse import beat
from mosaic_ray.records import EXCERPT_CHARACTERS, Message, Record, Reject, Sample, Source
from mosaic_ray.runtime.plan import Part, Plan, TaskSpec
from mosaic_ray.runtime.receipt import Receipt, receipt_path, rejects_path
from mosaic_ray.runtime.stats import Totals
from mosaic_ray.seeding import Key
from mosaic_ray.tokens import MiscountError, TokenCounter, TokenizerSpec
from mosaic_ray.views import REJECT_SCHEMA, ViewSchema

T = TypeVar("T")

COUNT_BATCH = 4096
"""Conversations counted in one call: enough to pay for the call, few enough to hold."""

COUNT_CHARACTERS = 1 << 22
"""Text counted in one call at most, but for a single record. A text without spaces takes 150 bytes a character."""

TOKEN_CHARACTERS = 256
"""No token of a known vocabulary stands for more than half as many. So a record with more for every token of its budget
is over it, and is not counted to know by how much: 60 MB without a space take 8 GB and four minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItem:
    """A task as a worker gets it: its cells, each with its file, and the parts it makes."""

    index: int
    cells: tuple[tuple[InputFile, tuple[Cell, ...]], ...]
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        names = [f"{file.name} rows {_ranges(cells)}" for file, cells in self.cells[:3]]
        more = f" and {len(self.cells) - 3} files more" if len(self.cells) > 3 else ""
        return f"task {self.index} ({', '.join(names)}{more})"


def task_item(plan: Plan, spec: TaskSpec) -> TaskItem:
    """The description of a task; files travel without their tables of cells."""
    return TaskItem(
        index=spec.index,
        cells=tuple((replace(plan.files[n], cells=CellTable()), cells) for n, cells in spec.cells),
        parts=tuple(plan.parts(spec.index)),
    )


@dataclass
class Loaded:
    """The records of a task: plain ones to compose, whole ones to pass through, and what cannot be used."""

    plain: list[Record] = field(default_factory=list)
    whole: list[Record] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    trimmed: int = 0
    escaped: int = 0

    @cached_property
    def by_source(self) -> dict[Source, Record]:
        """Only once all are loaded."""
        return {record.source: record for record in (*self.plain, *self.whole)}

    @property
    def tokens(self) -> int:
        """Of all records, each rendered alone."""
        return sum([record.tokens for record in (*self.plain, *self.whole)])


@dataclass(kw_only=True)
class TaskWork:
    """Runs tasks; one a worker, which keeps the tokenizer.

    run: fingerprint of the run, written into every receipt.
    inputs: the storage of each ``--input``, by its index.
    staged: whether the staged copies are still in place; after the run they are gone, and such files are read again
        from their start.
    """

    run: str
    settings: Settings
    method: Method
    tokenizer: TokenizerSpec
    inputs: Sequence[Storage]
    output: Storage
    staged: bool = True

    def prepare(self) -> None:
        """Load the tokenizer."""
        _ = self.counter

    def __call__(self, item: TaskItem) -> Receipt:
        """Run a task and publish its parts, its rejects and, last, its receipt.

        A task in which a count by pieces proves wrong is done again from its start, every text counted whole.
        """
        read = bytes_read()
        with retries_counted() as retries, on_task(self.run, item.index):
            return self._counted(lambda whole_because: self._run(item, whole_because, retries, read))

    def table(self, item: TaskItem, part: Part) -> pa.Table:
        """The rows that a run writes into the part of this task and epoch; nothing is published."""
        return self._counted(lambda _: self._table(self.samples(self.load(item), part), part))

    def _counted(self, work: Callable[[str | None], T]) -> T:
        """What ``work`` gives, which is told why texts are counted whole, if they are."""
        self.counter.start()
        with _no_collections():
            try:
                return work(self.counter.whole_because)
            except MiscountError as error:
                self.counter.start(whole=True)
                return work(f"a check found {error}")

    def _run(self, item: TaskItem, whole_because: str | None, retries: Mapping[str, int], read: int) -> Receipt:
        """retries: made again for the task so far. read: bytes that this process had read before it."""
        started = time.perf_counter()
        loaded = self.load(item)
        seconds = {"load": time.perf_counter() - started, "compose": 0.0, "write": 0.0}
        parts = []
        for part in item.parts:
            started = time.perf_counter()
            made, totals = self.build(loaded, part)
            beat()
            composed = time.perf_counter()
            self.output.publish(part.name, made.data)
            parts.append({**_describe(part.name, made), "epoch": part.epoch, "totals": totals.to_dict()})
            seconds["compose"] += composed - started
            seconds["write"] += time.perf_counter() - composed
        rejects_part = None
        if loaded.rejects:
            made = to_parquet(to_table([_reject_row(reject) for reject in loaded.rejects], REJECT_SCHEMA))
            self.output.publish(rejects_path(item.index), made.data)
            rejects_part = _describe(rejects_path(item.index), made)
        receipt = Receipt(
            task=item.index,
            run=self.run,
            inputs=[(file.name, *span) for file, cells in item.cells for span in row_spans(cells)],
            records=len(loaded.plain) + len(loaded.whole) + len(loaded.rejects),
            whole=len(loaded.whole),
            trimmed=loaded.trimmed,
            escaped=loaded.escaped,
            rejects=dict(sorted(Counter(reject.reason for reject in loaded.rejects).items())),
            parts=parts,
            rejects_part=rejects_part,
            seconds={name: round(value, 3) for name, value in seconds.items()},
            whole_because=whole_because,
            retries=dict(sorted(retries.items())),
            read_bytes=bytes_read() - read,
        )
        self.output.publish(receipt_path(item.index), receipt.to_json())
        return receipt

    def load(self, item: TaskItem) -> Loaded:
        """Read, normalise and count the records of a task, in the order of the input."""
        loaded = Loaded()
        batch: list[Record] = []
        size = 0
        for record in self._usable(item, loaded):
            batch.append(record)
            size += _characters(record)
            if len(batch) == COUNT_BATCH or size >= COUNT_CHARACTERS:
                self._count(batch, loaded)
                batch, size = [], 0
        self._count(batch, loaded)
        found = len(loaded.plain) + len(loaded.whole) + len(loaded.rejects)
        expected = sum(cell.records for _, cells in item.cells for cell in cells)
        if found != expected:
            raise InputError(
                f"{item}: {found} records were read where the inventory counted {expected}. The input has changed "
                "since; start again with a new --output"
            )
        return loaded

    def build(self, loaded: Loaded, part: Part) -> tuple[ParquetPart, Totals]:
        """One epoch of a task as a Parquet file, with its counts."""
        samples = self.samples(loaded, part)
        totals = Totals()
        totals.add(samples, loaded.tokens)
        return to_parquet(self._table(samples, part)), totals

    def _table(self, samples: Sequence[Sample], part: Part) -> pa.Table:
        ids = [mosaic_id(part, index) for index in range(len(samples))]
        return self.view.table(samples, ids, epoch=part.epoch)

    def samples(self, loaded: Loaded, part: Part) -> list[Sample]:
        """What the method makes of the records, with the whole ones strewn among it; every promise checked."""
        key = Key(self.settings.seed, "epoch", part.epoch, "task", part.task)
        composed = _beating(self.method.compose(loaded.plain, key=key.child(self.method.name), measure=self.counter))
        samples = [*composed, *(_passed(record) for record in loaded.whole)]
        if loaded.whole:
            samples = [samples[i] for i in key.child("strew").draw().shuffle(len(samples))]
        sources = list(chain.from_iterable(sample.sources for sample in samples))
        if len(sources) != len(loaded.by_source) or loaded.by_source.keys() != set(sources):
            placed, usable = Counter(sources), Counter(loaded.by_source.keys())
            wrong = next(iter((placed - usable) or (usable - placed)))
            raise TaskError(
                f"method {self.method.name}: {wrong.file} row {wrong.row} is in {placed[wrong]} samples of epoch "
                f"{part.epoch} where it must be in {usable[wrong]}. This is a fault of the method; please report it"
            )
        for sample in samples:
            if sample.token_count > self.settings.max_tokens:
                raise TaskError(
                    f"method {self.method.name}: a sample of {sample.sources[0].file} row {sample.sources[0].row} has "
                    f"{sample.token_count} tokens of {self.settings.max_tokens}. This is a fault of the method; "
                    "please report it"
                )
        return samples

    @cached_property
    def counter(self) -> TokenCounter:
        return TokenCounter(self.tokenizer, max_tokens=self.settings.max_tokens)

    @cached_property
    def view(self) -> ViewSchema:
        return ViewSchema(self.settings.view, self.tokenizer.chat_template is not None)

    def _usable(self, item: TaskItem, loaded: Loaded) -> Iterator[Record]:
        for file, cells in item.cells:
            for place, row in self._rows(file, cells):
                if isinstance(row, Reject):
                    loaded.rejects.append(row)
                    continue
                record = to_record(row, file.shape, place, multi_turn=self.settings.multi_turn)
                if isinstance(record, Record):
                    record = self._admit(record, loaded)
                if isinstance(record, Reject):
                    loaded.rejects.append(record)
                    continue
                loaded.trimmed += record.trimmed
                yield record

    def _rows(self, file: InputFile, cells: Sequence[Cell]) -> Iterator[tuple[Source, Mapping[str, Any] | Reject]]:
        source = self.inputs[file.uri_index]
        if file.staged and not self.staged:
            return read_rows(file, row_spans(cells), source=source)
        return read_cells(file, cells, source=source, stage=self.output)

    def _admit(self, record: Record, loaded: Loaded) -> Record | Reject:
        """The record if view and chat template can show it, with no control token left in it."""
        limit = self.settings.max_tokens
        if (size := _characters(record)) > TOKEN_CHARACTERS * limit:
            detail = f"{size} characters, more than {TOKEN_CHARACTERS} for each of {limit} tokens"
            return _overlong(record, detail, self.settings.overlong)
        if not self.view.holds(record.messages):
            return _refuse(record, "not_in_view", f"{len(record.messages)} turns in view {self.settings.view}")
        if record.whole and (words := self.counter.refusal(record.messages)) is not None:
            return _refuse(record, "bad_messages", f"the chat template refuses it: {words}")
        spelt = [message for message in record.messages if self.counter.spells_control(message.content)]
        if not spelt:
            return record
        if self.settings.special_tokens == "reject":
            return _refuse(record, "special_token", f"in the text of the {spelt[0].role}")
        strip = self.settings.special_tokens == "strip"
        messages = tuple(
            Message(role, _trim(role, self.counter.without_control(content, strip=strip)))
            for role, content in record.messages
        )
        for role, content in messages:
            if not content.strip() and role != "system":
                return _refuse(
                    record, f"empty_{'response' if role == 'assistant' else 'instruction'}", "only special tokens"
                )
            if self.counter.spells_control(content):
                return _refuse(record, "special_token", f"in the normalised text of the {role}")
        loaded.escaped += 1
        return replace(record, messages=messages)

    def _count(self, batch: list[Record], loaded: Loaded) -> None:
        counts = self.counter.count_batch([record.messages for record in batch])
        beat()
        for record, tokens in zip(batch, counts, strict=True):
            if tokens > self.settings.max_tokens:
                detail = f"{tokens} tokens of {self.settings.max_tokens}"
                loaded.rejects.append(_overlong(record, detail, self.settings.overlong))
            else:
                (loaded.whole if record.whole else loaded.plain).append(record.counted(tokens))


@contextmanager
def _no_collections() -> Iterator[None]:
    """Without Python's search for cycles, of which a task makes none: a tenth of its time, measured."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _beating(samples: Iterable[Sample]) -> Iterator[Sample]:
    for sample in samples:
        beat()
        yield sample


def mosaic_id(part: Part, index: int) -> str:
    """Unique in a data set and the same in every run of it."""
    return f"e{part.epoch}-t{part.task:05d}-s{index:06d}"


def _passed(record: Record) -> Sample:
    return Sample(
        messages=record.messages,
        sources=(record.source,),
        strategy="pass",
        kind=None,
        params={},
        token_count=record.tokens,
    )


def _characters(record: Record) -> int:
    return sum([len(message.content) for message in record.messages])


def _overlong(record: Record, detail: str, policy: Overlong) -> Reject:
    if policy == "fail":
        raise InputError(
            f"{record.source.file} row {record.source.row}: the record alone has {detail}. Raise --max-tokens, or "
            "set --overlong reject to leave such records out and list them"
        )
    return _refuse(record, "overlong", detail)


def _refuse(record: Record, reason: str, detail: str) -> Reject:
    excerpt = canonical_json([list(message) for message in record.messages])[:EXCERPT_CHARACTERS]
    return Reject(source=record.source, reason=reason, detail=detail, excerpt=excerpt)


def _reject_row(reject: Reject) -> dict[str, Any]:
    return {
        "file": reject.source.file,
        "row": reject.source.row,
        "reason": reject.reason,
        "detail": reject.detail,
        "excerpt": reject.excerpt,
    }


def _describe(name: str, made: ParquetPart) -> dict[str, Any]:
    return {
        "name": name,
        "rows": made.rows,
        "bytes": len(made.data),
        "sha256": made.sha256,
        "content_digest": made.content_digest,
    }


def _trim(role: str, text: str) -> str:
    return text.rstrip() if role == "assistant" else text.strip()


def row_spans(cells: Sequence[Cell]) -> list[tuple[int, int]]:
    """Stretches of rows, touching ones joined."""
    spans: list[tuple[int, int]] = []
    for cell in cells:
        if spans and spans[-1][1] == cell.row:
            spans[-1] = (spans[-1][0], cell.row + cell.rows)
        else:
            spans.append((cell.row, cell.row + cell.rows))
    return spans


def _ranges(cells: Sequence[Cell]) -> str:
    spans = row_spans(cells)
    shown = ", ".join(f"{start}-{end - 1}" for start, end in spans[:3])
    return shown + (f" and {len(spans) - 3} ranges more" if len(spans) > 3 else "")
