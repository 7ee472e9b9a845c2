"""What a billion records ask of the driver, and how the work grows with workers.

    python tests/benchmarks/scale.py           # plans of 10^6, 10^8 and 10^9 records; nothing is read or composed
    python tests/benchmarks/scale.py --weak    # the real job: a corpus on one worker, twice as much on two

The plans are made over an inventory that is made up: files of equal length, with the cells that they would be cut into.
What the driver does with it is the code of a real run, each start in a process of its own that is joined to a private
Ray as a driver is. Only the listing of files and the answers of workers are made up. Peak memory is the kernel's
high-water mark (VmHWM), set back before each step: Linux only.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar
from zlib import crc32

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from mosaic_ray.config import job_from
from mosaic_ray.io.cells import CellTable, FoundFile, InputFile
from mosaic_ray.io.manifest import MANIFEST, publish_manifest, read_manifest
from mosaic_ray.io.shapes import Shape
from mosaic_ray.io.storage import FileInfo, Storage
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.pages.card import card
from mosaic_ray.pages.report import report
from mosaic_ray.runtime import driver, stock
from mosaic_ray.runtime.ledger import Ledger
from mosaic_ray.runtime.plan import Plan, cell_records
from mosaic_ray.runtime.ray_engine import RayEngine
from mosaic_ray.runtime.receipt import RECEIPTS, Receipt, receipt_path
from mosaic_ray.runtime.run import Run, open_run
from mosaic_ray.runtime.stats import TOKEN_BUCKET, Totals
from mosaic_ray.runtime.task import task_item

T = TypeVar("T")

SIZES: Final = ((10**6, 10**2), (10**8, 10**4), (10**9, 10**5))
RECORD_BYTES: Final = 450
"""Of a record of the made-up files, about as in published instruction corpora."""
DESCRIBED: Final = 1000
"""Tasks whose descriptions are made and pickled."""
ONE_TASK: Final = "one task"
"""The step whose seconds are of a single task; a run spreads them over its length."""


@dataclass(slots=True)
class Step:
    """memory: MB that the process holds after the step; peak: at most while it ran."""

    name: str
    seconds: float
    memory: float
    peak: float


@dataclass(slots=True)
class Measures:
    """Of one size. mb: lengths of what is written, and of one task's description."""

    records: int
    files: int
    cells: int = 0
    tasks: int = 0
    parts: int = 0
    mb: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    @classmethod
    def of_json(cls, data: bytes) -> Measures:
        made = cls(**orjson.loads(data))
        made.steps = [Step(**step) for step in orjson.loads(data)["steps"]]
        return made

    @property
    def peak(self) -> float:
        return max(step.peak for step in self.steps)

    @property
    def planning(self) -> float:
        """Seconds from the answers of the workers to the first task."""
        names = [step.name for step in self.steps]
        return sum(step.seconds for step in self.steps[: names.index(ONE_TASK)])

    def step(self, name: str, work: Callable[[], T], *, times: int = 1) -> T:
        """times: how often ``work`` does what the step is named after."""
        Path("/proc/self/clear_refs").write_text("5")
        started = time.perf_counter()
        result = work()
        seconds = (time.perf_counter() - started) / times
        self.steps.append(Step(name, seconds, _megabytes("VmRSS"), _megabytes("VmHWM")))
        return result


def measure(made: Measures, phase: str, folder: str) -> None:
    """All that the driver of a run of four epochs does, and that grows with the input, in this process."""
    logging.getLogger("mosaic_ray").setLevel(logging.ERROR)
    with RayEngine(max_workers=1):
        PHASES[phase](made, open_run(job_from({"output": folder}, MosaicMethod)))


def _run(made: Measures, run: Run) -> None:
    """From the answers of the workers that took stock to the manifest."""
    made.step("start, joined to Ray", lambda: None)
    answers: Any = _Answers(cell_records(run.settings.task_records))
    found = _found(made.records, made.files)
    files = made.step("inventory", lambda: stock.take_stock(run, answers, found, known=[], stage=None))
    plan = made.step("plan", lambda: run.plan(files))
    name = made.step("fingerprint", lambda: run.fingerprint(plan))
    made.step("keep inventory and plan", lambda: driver.keep(run, plan, name, None))
    made.cells, made.tasks, made.parts = plan.cells, plan.tasks, plan.tasks * plan.epochs
    some = range(0, plan.tasks, -(-plan.tasks // DESCRIBED))
    sent = made.step(
        ONE_TASK, lambda: sum(len(pickle.dumps(task_item(plan, plan.task(i)))) for i in some), times=len(some)
    )
    made.mb["description of a task"] = sent / len(some) / 1e6
    ledger = Ledger(plan, run=name, max_reject_share=0.1)
    made.step("receipts of all tasks", lambda: _add_all(ledger, plan, name))
    manifest = made.step("manifest", lambda: driver.make_manifest(run, plan, ledger, name, datetime.now(UTC)))
    made.step("card and report", lambda: (card(manifest), report(manifest, [], [], {})))
    output = _full(run, plan, name)
    assert made.step("all parts in place", lambda: driver.compared(output, manifest)) == ([], [])
    made.step("write manifest", lambda: publish_manifest(run.output, manifest))
    for path in (stock.INVENTORY, MANIFEST):
        made.mb[path] = run.output.info(path).size / 1e6


def _resume(made: Measures, run: Run) -> None:
    """What a run that was stopped just before its end does before its first task."""
    known = made.step("resume: inventory", lambda: driver.known_inventory(run.output))
    plan = run.plan(known)
    name = run.fingerprint(plan)
    output, ledger = _full(run, plan, name), Ledger(plan, run=name, max_reject_share=0.1)
    made.step("resume: receipts", lambda: ledger.resume(output))
    assert len(ledger.done) == plan.tasks


def _finished(made: Measures, run: Run) -> None:
    """What the same command does on a data set that is finished."""
    made.step("finished: manifest", lambda: read_manifest(run.output))


PHASES: Final[dict[str, Callable[[Measures, Run], None]]] = {"run": _run, "resume": _resume, "finished": _finished}
"""Each in a process of its own, over what the one before it left."""


class _Answers:
    """An engine whose workers have taken stock already; answers come pickled, as they do from workers."""

    def __init__(self, cell_records: int) -> None:
        self._cell_records = cell_records

    def map(
        self, _: object, items: Iterable[Sequence[FoundFile]], **__: object
    ) -> Iterator[tuple[Sequence[FoundFile], tuple[list[InputFile], dict[str, int]]]]:
        for batch in items:
            yield batch, (pickle.loads(pickle.dumps([_input_file(found, self._cell_records) for found in batch])), {})


@dataclass(frozen=True, kw_only=True)
class _FullOutput(Storage):
    """An output in which every part and every receipt of a run is in place."""

    plan: Plan
    run: str

    def listing(self, prefix: str = "") -> Iterator[tuple[str, FileInfo]]:
        if prefix == RECEIPTS:
            yield from ((receipt_path(task), FileInfo(0, None, None)) for task in range(self.plan.tasks))
        elif prefix == "data":
            numbers = ((epoch, task) for epoch in range(self.plan.epochs) for task in range(self.plan.tasks))
            for epoch, task in numbers:
                yield self.plan.part(epoch, task).name, FileInfo(_part_bytes(task), None, None)

    def read(self, path: str) -> bytes:
        return orjson.dumps(_receipt(self.plan, int(path.rpartition("-")[2].removesuffix(".json")), self.run))


def _found(records: int, files: int) -> list[FoundFile]:
    size = records // files * RECORD_BYTES
    names = [f"source-{n % 40:02d}/part-{n:06d}-of-{files:06d}.jsonl" for n in range(files)]
    return [FoundFile(name, 0, name, size, _hex(name, 32), "2026-01-01T00:00:00+00:00") for name in sorted(names)]


def _input_file(found: FoundFile, per_cell: int) -> InputFile:
    records = found.size // RECORD_BYTES
    row = np.arange(0, records, per_cell, dtype=np.int64)
    counts = np.minimum(per_cell, records - row)
    digests = np.random.default_rng(crc32(found.name.encode())).integers(0, 1 << 63, len(row), dtype=np.uint64)
    columns = {"row": row, "rows": counts, "records": counts, "digest": digests, "group": row * 0}
    return InputFile(
        **found._asdict(),
        format="jsonl",
        compression=None,
        digest=_hex(found.name, 64),
        shape=Shape(kind="instruction", columns={"instruction": "instruction", "input": "input", "response": "output"}),
        rows=records,
        records=records,
        staged=False,
        cells=CellTable.of_columns({**columns, "offset": row * RECORD_BYTES, "length": counts * RECORD_BYTES}),
    )


def _add_all(ledger: Ledger, plan: Plan, run: str) -> None:
    for task in range(plan.tasks):
        ledger.add(_receipt(plan, task, run))


def _receipt(plan: Plan, task: int, run: str) -> Receipt:
    """Of a task that composed all its records, with histograms as full as those of a real one."""
    records = plan.records * (task + 1) // plan.tasks - plan.records * task // plan.tasks
    samples = records // 5
    totals = Totals(samples=samples, tiles=records, tokens=records * 110, tile_tokens=records * 100, longest=2048)
    totals.several = totals.mixed = samples
    totals.strategies.update(dict.fromkeys(("format", "permute", "maskout"), samples // 3))
    totals.kinds.update({f"{name}/{n}": samples // 12 for name in ("permute", "maskout") for n in range(6)})
    totals.tile_counts.update({str(n): samples // 30 for n in range(1, 31)})
    totals.token_histogram.update({str(n): samples // 32 for n in range(0, 2049, TOKEN_BUCKET)})
    parts = [
        {
            "name": part.name,
            "rows": samples,
            "bytes": _part_bytes(task),
            "sha256": _hex(part.name, 64),
            "content_digest": f"v1:{_hex(part.name, 32)}",
            "epoch": part.epoch,
            "totals": totals.to_dict(),
        }
        for part in plan.parts(task)
    ]
    return Receipt(
        task=task,
        run=run,
        inputs=[(f"source-{n:02d}/part-{task:06d}-of-000000.jsonl", 128 * n, 128 * n + 128) for n in range(64)],
        records=records,
        whole=0,
        trimmed=0,
        escaped=0,
        rejects={},
        parts=parts,
        rejects_part=None,
        seconds={"load": 5.0, "compose": 3.0, "write": 1.0},
    )


def _part_bytes(task: int) -> int:
    return 1_000_000 + task


def _hex(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def _full(run: Run, plan: Plan, name: str) -> _FullOutput:
    place = {item.name: getattr(run.output, item.name) for item in fields(Storage)}
    return _FullOutput(**place, plan=plan, run=name)


def _megabytes(line: str) -> float:
    found = next(text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(line))
    return int(found.split()[1]) * 1024 / 1e6


def show(all_made: Sequence[Measures], console: Console) -> None:
    """One table: a column a size; seconds, and MB at the peak of each step."""
    table = Table(title="The driver of a plan: seconds, and MB at the peak")
    table.add_column("")
    for made in all_made:
        table.add_column(f"{made.records:.0e}".replace("e+0", "e"), justify="right")
    table.add_column("growth per 10x", justify="right")
    for name in ("files", "cells", "tasks", "parts"):
        table.add_row(name, *(f"{getattr(made, name):,}" for made in all_made), "")
    for name in all_made[0].mb:
        table.add_row(f"{name}, MB", *(f"{made.mb[name]:,.2f}" for made in all_made), "")
    table.add_section()
    for row in zip(*(made.steps for made in all_made), strict=True):
        table.add_row(row[0].name, *(f"{step.seconds:.3g} s  {step.peak:,.0f}" for step in row), _growth(all_made, row))
    table.add_section()
    table.add_row("planned in", *(f"{made.planning:.3g} s" for made in all_made), "")
    table.add_row("peak, MB", *(f"{made.peak:,.0f}" for made in all_made), "")
    console.print(table)


def _growth(all_made: Sequence[Measures], row: Sequence[Step]) -> str:
    """Of the seconds, from the last size but one to the last, for ten times the records."""
    tens = np.log10(all_made[-1].records / all_made[-2].records) if len(row) > 1 else 0
    if tens == 0 or row[-2].seconds < 0.01:
        return ""
    return f"{(row[-1].seconds / row[-2].seconds) ** (1 / tens):.1f}"


def weak(megabytes: float, cache: Path, repeats: int, console: Console) -> None:
    """One worker on a corpus and two on twice as much, in turn; what the command takes for a few records is taken off.

    Perfect scaling takes the same time, and twice the records a second.
    """
    from corpus import generated, slice_of
    from rows import Places, job

    table = Table(title="Weak scaling: the whole job")
    for head in ("workers", "text MB", "seconds", "records/s", "actor MB", "driver MB"):
        table.add_column(head, justify="right")
    corpora = {1: generated(cache, megabytes=megabytes), 2: generated(cache, megabytes=2 * megabytes)}
    tiny = str(slice_of(corpora[1], 40).folder)
    places = Places(
        corpus="", slice="", larger="", tiny=tiny, tokenizer="embedded", scratch=str(cache), epochs=4, max_tokens=2048
    )
    figures: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for _ in range(repeats):
        for workers, corpus in corpora.items():
            cold = job(places, workers=workers, corpus=tiny)["seconds"]
            done = job(places, workers=workers, corpus=str(corpus.folder))
            figures[workers].append({**done, "seconds": done["seconds"] - cold})
    rates = {}
    for workers, runs in figures.items():
        seconds = median(run["seconds"] for run in runs)
        rates[workers] = runs[0]["records"] / seconds
        memory = (max(run[name] for run in runs) / 1e6 for name in ("worker_rss", "driver_rss"))
        shown = (f"{value:,.0f}" for value in (runs[0]["text"] / 1e6, seconds, rates[workers], *memory))
        table.add_row(str(workers), *shown)
    console.print(table)
    console.print(f"two workers do {rates[2] / rates[1]:.2f} times the work of one")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", metavar="RECORDS:FILES", help="for example 1e6:1e2 1e9:1e5")
    parser.add_argument("--weak", action="store_true", help="run the job on one worker and on two")
    parser.add_argument("--size", type=float, default=48, metavar="MB", help="of text for one worker, with --weak")
    parser.add_argument("--repeats", type=int, default=3, help="with --weak")
    parser.add_argument("--cache", type=Path, default=Path(".bench"), help="where the corpus of --weak is kept")
    parser.add_argument("--json", type=Path, help="write all figures of the plans here")
    parser.add_argument("--phase", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.phase:
        made = Measures.of_json(sys.stdin.buffer.read())
        measure(made, *given.phase)
        sys.stdout.buffer.write(orjson.dumps(made))
        return
    console = Console(width=120)
    if given.weak:
        weak(given.size, given.cache.resolve(), given.repeats, console)
        return
    sizes = [_size(text) for text in given.sizes] if given.sizes else SIZES
    all_made = [measured_apart(records, files) for records, files in sizes]
    if given.json:
        given.json.write_bytes(orjson.dumps(all_made, option=orjson.OPT_INDENT_2))
    show(all_made, console)


def measured_apart(records: int, files: int) -> Measures:
    """:func:`measure` of each phase in a process of its own."""
    made = Measures(records, files)
    with tempfile.TemporaryDirectory() as folder:
        for phase in PHASES:
            command = [sys.executable, __file__, "--phase", phase, folder]
            done = subprocess.run(command, input=orjson.dumps(made), stdout=subprocess.PIPE, check=True)
            made = Measures.of_json(done.stdout)
    return made


def _size(text: str) -> tuple[int, int]:
    records, _, files = text.partition(":")
    return int(float(records)), int(float(files))


if __name__ == "__main__":
    main()
