"""Cold start: how long a small run takes to its first sample, beside what Ray itself takes.

    python tests/benchmarks/cold_start.py [--tokenizer NAME_OR_DIR] [--repeats 5]

Every row is a fresh process, timed from the moment it is started. The rows are run in turn, round after round, and the
table shows medians; the spread says how quiet the machine was.

Ray alone: a script that imports Ray, starts it by ``ray.init`` with the arguments that the engine gives it, and waits
    for the first answer of one actor.
Ray alone, bare: the same, less what the engine leaves out of a private Ray by ways that are not public.
The job: the command on the corpus and the tokenizer that come with the package, or another tokenizer. *started* is
    when it has its imports and asks for Ray; *inventory* when it has Ray, the tokenizer and a worker, and every file
    was read once; *first sample* when the first part is in place; *end* when the process has ended.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[2]
ALLOWED_SECONDS: Final = 2.0
"""What the first sample may take beyond Ray alone."""

_RAY_ALONE: Final = """
import logging, os, secrets, sys
from contextlib import nullcontext

import ray

if sys.argv[1] == "bare":
    sys.path.insert(0, sys.argv[2])
    from mosaic_ray.runtime.joining import bare

os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # or it would not listen on 127.0.0.1 only
with bare(ray._private) if sys.argv[1] == "bare" else nullcontext():
    ray.init(
        address="local",
        num_cpus=None,
        object_store_memory=128 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


class Actor:
    def answer(self):
        return 42


actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Actor).remote()
assert ray.get(actor.answer.remote()) == 42
print("answered", flush=True)
"""

_STAGES: Final = {"starting a private Ray": "started", "8 files; by shape": "inventory"}
"""Lines of the job's log, by what they begin with, and the stage that each ends."""

Stages = dict[str, float]
"""Seconds since the process was started, by stage."""


def ray_alone(kind: str) -> Stages:
    """Time to the first answer of an actor; kind is ``public`` or ``bare``."""
    began = time.time()
    with subprocess.Popen(
        [sys.executable, "-c", _RAY_ALONE, kind, str(ROOT)], env=_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        answered = time.time() - began
    if line != "answered\n" or process.returncode != 0:
        raise SystemExit(f"Ray alone ({kind}) ended with status {process.returncode}")
    return {"first sample": answered, "end": time.time() - began}


def job(tokenizer: str | None) -> Stages:
    """Times of a run of the command."""
    chosen = [] if tokenizer is None else ["--tokenizer", tokenizer]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        command = [sys.executable, str(ROOT / "jobs" / "mosaic_corpus.py"), "--output", str(output), *chosen]
        stages, log = {}, []
        began = time.time()
        with subprocess.Popen(
            command, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                log.append(line)
                for start, stage in _STAGES.items():
                    if line.startswith(start):
                        stages[stage] = time.time() - began
        ended = time.time() - began
        if process.returncode != 0:
            raise SystemExit(f"the job ended with status {process.returncode}:\n{''.join(log)}")
        first = min(part.stat().st_mtime for part in output.glob("data/*.parquet")) - began
    return {**stages, "first sample": first, "end": ended}


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**kept, "PYTHONPATH": str(ROOT), "MOSAIC_RAY_LOG_FORMAT": "text"}


def measure(rows: Mapping[str, Callable[[], Stages]], repeats: int) -> dict[str, list[Stages]]:
    """The stages of every row in every round, the rows in turn."""
    taken: dict[str, list[Stages]] = {name: [] for name in rows}
    for _ in range(repeats):
        for name, row in rows.items():
            taken[name].append(row())
    return taken


def over(job: Sequence[Stages], ray: Sequence[Stages]) -> float:
    """Median over the rounds of what the job's first sample took beyond Ray's first answer in the same round."""
    return statistics.median(j["first sample"] - r["first sample"] for j, r in zip(job, ray, strict=True))


def show(taken: Mapping[str, Sequence[Stages]], console: Console) -> None:
    """The table, and the difference that counts."""
    columns = ("started", "inventory", "first sample", "end")
    table = Table(title=f"Cold start, seconds since the process was started, median of {len(taken['Ray alone'])}")
    table.add_column("")
    for column in (*columns, "first sample, least to most"):
        table.add_column(column, justify="right")
    for name, rounds in taken.items():
        cells = [_median(rounds, column) for column in columns]
        firsts = [stages["first sample"] for stages in rounds]
        table.add_row(name, *cells, f"{min(firsts):.2f} to {max(firsts):.2f}")
    console.print(table)
    for name, rounds in taken.items():
        if not name.startswith("Ray"):
            public, bare = over(rounds, taken["Ray alone"]), over(rounds, taken["Ray alone, bare"])
            console.print(
                f"{name}: the first sample comes {public:+.2f} s after Ray alone ({ALLOWED_SECONDS:g} s allowed), "
                f"{bare:+.2f} s after a bare one"
            )


def _median(rounds: Sequence[Stages], stage: str) -> str:
    return f"{statistics.median(r[stage] for r in rounds):.2f}" if all(stage in r for r in rounds) else ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the cold start.")
    parser.add_argument("--tokenizer", action="append", default=[], help="measure the job with this one too")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    chosen = parser.parse_args(arguments)
    rows: dict[str, Callable[[], Stages]] = {
        "Ray alone": lambda: ray_alone("public"),
        "Ray alone, bare": lambda: ray_alone("bare"),
        "the job": lambda: job(None),
    }
    for name in chosen.tokenizer:
        rows[f"the job, {name}"] = lambda name=name: job(name)  # type: ignore[misc]
    show(measure(rows, chosen.repeats), Console(width=140))


if __name__ == "__main__":
    main()
