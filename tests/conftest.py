"""What the tests share: corpora made on the spot, and the job as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import s3fs
from hypothesis import settings

from tests.forked import run_forked

ROOT = Path(__file__).resolve().parent.parent
JOB = ROOT / "jobs" / "mosaic_corpus.py"

settings.register_profile("project", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("project")

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


SLOWEST_FIRST = ("integration", "benchmarks", "recipes", "experiments", "browser", "conformance", "chaos", "infra")
"""Rooms whose files take long, so that at the end no processor waits for one of them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {room: rank for rank, room in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path.relative_to(ROOT / "tests").parts[0], len(ranks)))


@pytest.fixture(scope="module", autouse=True)
def no_stores_of_other_modules() -> Iterator[None]:
    """s3fs keeps file systems by their arguments, with the address and the keys that the environment had then."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def job_command(*arguments: str) -> list[str]:
    return [sys.executable, str(JOB), *arguments]


def job_environment(**extra: str) -> dict[str, str]:
    """The environment of a user who has no cluster and no store in it."""
    dropped = ("RAY_ADDRESS", "AWS_ENDPOINT_URL")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "PYTHONPATH": str(ROOT), "MOSAIC_RAY_LOG_FORMAT": "text", **extra}


@pytest.fixture(scope="session")
def run_job() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the job script to its end: ``run_job("--input", ..., env={...})``.

    Without Ray it is run in a fork, which starts at once.
    """

    def run(*arguments: str, env: Mapping[str, str] | None = None, timeout: float = 240) -> Any:
        if "in-process" in arguments:
            with tempfile.TemporaryDirectory() as folder:
                ended = run_forked(list(arguments), job_environment(**(env or {})), Path(folder), limit=timeout)
            assert ended.status is not None, f"still running after {timeout} s"
            return subprocess.CompletedProcess(arguments, ended.status, ended.stdout, ended.stderr)
        return subprocess.run(
            job_command(*arguments),
            env=job_environment(**(env or {})),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def sorted_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6,000 records in 20 files, each file one task: a corpus that lies sorted by source, as real ones do."""
    folder = tmp_path_factory.mktemp("corpus")
    for task in range(20):
        last = 4 + task % 5
        rows = [
            {
                "prompt": f"Task {task}: count from {n} to {n + last}, then name the {'sum' if n % 2 else 'last'}.",
                "completion": " ".join(str(n + i) for i in range(last + 1)) + f"\nDone {task}/{n}.",
            }
            for n in range(300)
        ]
        write_jsonl(folder / f"task_{task:02d}.jsonl", rows)
    return folder
