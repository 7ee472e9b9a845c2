"""What a second start finds: the run finished, half done, damaged, moved, or another one."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import write_jsonl

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Job = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def job(tmp_path: Path, run_job: Run) -> Job:
    """The job over two files of 60 records, in eight tasks of one process."""
    for name in ("a", "b"):
        rows = [{"prompt": f"{name}: say {n}.", "completion": f"{n}"} for n in range(60)]
        write_jsonl(tmp_path / "in" / name / f"{name}.jsonl", rows)

    def run(*more: str, inputs: tuple[str, ...] = ("in/a", "in/b")) -> subprocess.CompletedProcess[str]:
        sources = [word for path in inputs for word in ("--input", str(tmp_path / path))]
        options = ("--tokenizer", "embedded", "--engine", "in-process", "--task-records", "15", "--epochs", "2")
        return run_job(*sources, "--output", str(tmp_path / "out"), *options, *more)

    return run


def digest(output: Path) -> str:
    return str(json.loads((output / "manifest.json").read_text())["dataset_digest"])


def test_lost_parts_of_a_finished_run_are_made_again(job: Job, tmp_path: Path) -> None:
    assert job().returncode == 0
    expected, parts = digest(tmp_path / "out"), sorted((tmp_path / "out" / "data").iterdir())
    before = [part.read_bytes() for part in parts]
    written = {part: part.stat().st_mtime_ns for part in parts[1:8]}
    parts[0].unlink()
    done = job()
    assert done.returncode == 0, done.stderr
    assert "1 parts are lost" in done.stderr
    assert "7 of 8 tasks are done already" in done.stderr
    assert digest(tmp_path / "out") == expected
    assert [part.read_bytes() for part in parts] == before
    assert {part: part.stat().st_mtime_ns for part in parts[1:8]} == written


def test_a_finished_run_is_left_alone(job: Job, tmp_path: Path) -> None:
    assert job().returncode == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    done = job()
    assert done.returncode == 0
    assert "finished already; nothing to do" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_the_same_input_under_other_addresses(job: Job, tmp_path: Path, run_job: Run) -> None:
    assert job().returncode == 0
    expected = digest(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "data" / "train-00003-of-00016.parquet").unlink()
    done = job(inputs=("in/b", "in/a/a.jsonl"))
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == expected
    shutil.move(tmp_path / "in", tmp_path / "moved")
    moved = ("--input", str(tmp_path / "moved" / "b"), "--input", str(tmp_path / "moved" / "a"))
    checked = run_job("verify", str(tmp_path / "out"), "--recompute", "3", "--engine", "in-process", *moved)
    assert checked.returncode == 0, checked.stderr
    fewer = run_job("verify", str(tmp_path / "out"), "--engine", "in-process", *moved[:2])
    assert fewer.returncode == 3
    assert "a.jsonl (1 of 2 files) is not found under --input" in fewer.stderr


def test_a_damaged_inventory_is_taken_again(job: Job, tmp_path: Path) -> None:
    assert job().returncode == 0
    expected = digest(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    kept = tmp_path / "out" / "_mosaic" / "inventory.parquet"
    kept.write_bytes(kept.read_bytes()[:-40])
    done = job()
    assert done.returncode == 0, done.stderr
    assert "8 of 8 tasks are done already" in done.stderr
    assert digest(tmp_path / "out") == expected


def test_the_inventory_of_another_run_is_not_believed(job: Job, tmp_path: Path) -> None:
    """A start that replaced this run and died before its settings were in place, though this one has receipts."""
    assert job().returncode == 0
    expected = digest(tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "kept")
    assert job("--task-records", "60").returncode == 0
    other = (tmp_path / "out" / "_mosaic" / "inventory.parquet").read_bytes()
    shutil.rmtree(tmp_path / "out")
    shutil.move(tmp_path / "kept", tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "_mosaic" / "inventory.parquet").write_bytes(other)
    (tmp_path / "out" / "data" / "train-00001-of-00016.parquet").unlink()
    done = job()
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "out") == expected


def test_a_start_that_died_while_another_run_was_replaced(job: Job, tmp_path: Path) -> None:
    """Settings of one run beside the inventory of another must never be taken for one run."""
    assert job().returncode == 0
    expected = digest(tmp_path / "out")
    settings = (tmp_path / "out" / "_mosaic" / "settings.json").read_bytes()
    shutil.rmtree(tmp_path / "out")
    assert job("--task-records", "60").returncode == 0
    for path in ("data", "_mosaic/receipts"):
        shutil.rmtree(tmp_path / "out" / path)
    for path in ("manifest.json", "README.md", "report.html"):
        (tmp_path / "out" / path).unlink()
    (tmp_path / "out" / "_mosaic" / "settings.json").write_bytes(settings)
    done = job()
    assert done.returncode == 0, done.stderr
    assert "with nothing done; it is replaced" in done.stderr
    assert digest(tmp_path / "out") == expected


def test_input_mended_before_anything_was_done(job: Job, tmp_path: Path) -> None:
    source = tmp_path / "in" / "a" / "a.jsonl"
    good = source.read_bytes()
    source.write_bytes(good + json.dumps({"prompt": "word " * 3000, "completion": "y"}).encode() + b"\n")
    assert job("--overlong", "fail", "--task-records", "500").returncode == 3
    source.write_bytes(good)
    done = job("--overlong", "fail", "--task-records", "500")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("_mosaic/settings.json", 3, "settings.json: damaged"),
        ("manifest.json", 6, "manifest.json: damaged"),
    ],
)
def test_what_is_kept_is_damaged(path: str, status: int, words: str, job: Job, tmp_path: Path) -> None:
    assert job().returncode == 0
    kept = tmp_path / "out" / path
    kept.write_bytes(kept.read_bytes()[:-40])
    done = job()
    assert done.returncode == status, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_damaged_receipt_costs_its_task(job: Job, tmp_path: Path) -> None:
    assert job().returncode == 0
    expected = digest(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    receipt = tmp_path / "out" / "_mosaic" / "receipts" / "task-00002.json"
    values = json.loads(receipt.read_bytes())
    del values["parts"][0]["bytes"]
    receipt.write_text(json.dumps(values))
    done = job()
    assert done.returncode == 0, done.stderr
    assert "7 of 8 tasks are done already" in done.stderr
    assert digest(tmp_path / "out") == expected


def test_another_tokenizer_in_the_output_is_noticed(job: Job, tmp_path: Path, run_job: Run) -> None:
    assert job().returncode == 0
    kept = tmp_path / "out" / "_mosaic" / "tokenizer.json"
    kept.write_bytes(kept.read_bytes()[:-40])
    done = run_job("verify", str(tmp_path / "out"), "--engine", "in-process")
    assert done.returncode == 6
    assert "not the tokenizer that the run was made with" in done.stderr


def test_a_finished_one_without_receipts_is_not_replaced(job: Job, tmp_path: Path) -> None:
    assert job("--seed", "1").returncode == 0
    shutil.rmtree(tmp_path / "out" / "_mosaic" / "receipts")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    done = job("--seed", "2")
    assert done.returncode == 4
    assert "holds a run with other settings. They differ in settings.seed: 1 there, 2 here" in done.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert "finished already" in job("--seed", "1").stderr


def begun(tmp_path: Path, *, ended: bool) -> None:
    """What a run leaves that kept its settings, did nothing, and is gone."""
    for path in (tmp_path / "out" / "_mosaic" / "receipts").iterdir():
        path.unlink()
    (tmp_path / "out" / "manifest.json").unlink()
    lease = tmp_path / "out" / "_mosaic" / "leases" / "00001.json"
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "ended": ended}))


def test_a_run_that_ended_with_nothing_done_may_be_replaced(job: Job, tmp_path: Path) -> None:
    assert job("--seed", "1").returncode == 0
    begun(tmp_path, ended=True)
    done = job("--seed", "2")
    assert done.returncode == 0, done.stderr
    assert "the start of a run with nothing done; it is replaced" in done.stderr


def test_a_run_that_did_not_end_is_continued_and_never_replaced(job: Job, tmp_path: Path) -> None:
    """Its workers may still be writing."""
    assert job("--seed", "1").returncode == 0
    expected = digest(tmp_path / "out")
    begun(tmp_path, ended=False)
    done = job("--seed", "2")
    assert done.returncode == 4
    assert "that did not end in order, so its workers may still write. They differ in settings.seed: 1" in done.stderr
    begun_again = tmp_path / "out" / "_mosaic" / "leases" / "00002.json"
    assert json.loads(begun_again.read_text())["ended"]
    assert job("--seed", "3").returncode == 4
    assert job("--seed", "1").returncode == 0
    assert digest(tmp_path / "out") == expected
