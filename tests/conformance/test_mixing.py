"""Records of a sample come from all over the corpus, though every file holds one task and tasks see few records."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import write_jsonl

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 files of 40 records, one task a file."""
    folder = tmp_path_factory.mktemp("tasks")
    for task in range(200):
        rows = [{"prompt": f"Task {task}, item {n}.", "completion": f"{task}:{n}"} for n in range(40)]
        write_jsonl(folder / f"task_{task:03d}.jsonl", rows)
    return folder


@pytest.mark.parametrize("tiles", [("uniform", "10"), ("fix_max", "2")])
def test_nearly_as_well_as_a_perfect_shuffle(
    tiles: tuple[str, str], corpus: Path, tmp_path: Path, run_job: Run
) -> None:
    mode, most = tiles
    done = run_job(
        *("--input", str(corpus), "--output", str(tmp_path / "out"), "--tokenizer", "embedded", "--epochs", "1"),
        *("--engine", "in-process", "--task-records", "512", "--tiles", mode, "--max-tiles", most),
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["plan"]["tasks"] == 16
    several = mixed = 0
    for part in (tmp_path / "out" / "data").iterdir():
        for sources in pq.read_table(part, columns=["sources"])["sources"].to_pylist():
            several += len(sources) > 1
            mixed += len({source["file"] for source in sources}) > 1
    mixing = manifest["mixing"]
    assert mixing["share"] == mixed / several
    assert mixing["share"] >= 0.95 * mixing["perfect_shuffle"]
    assert 0.99 < mixing["perfect_shuffle"] < 1.0
    assert f"{mixing['share']:.1%} of the samples of several records hold more than one file" in done.stdout
