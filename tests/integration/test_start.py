"""What goes wrong while Ray starts and the tokenizer is loaded beside it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import job_command, job_environment, write_jsonl

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def of(folder: Path) -> list[str]:
    """The processes that know the folder: the job's own, its Ray's, and the one that loads the tokenizer."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == str(folder):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def gone(folder: Path) -> bool:
    deadline = time.monotonic() + 10
    while of(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_tokenizer_that_cannot_be_loaded_ends_the_run_and_its_ray(tmp_path: Path, run_job: Run) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"prompt": "a", "completion": "b"}])
    done = run_job(
        *("--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--tokenizer", str(tmp_path / "none")),
        env={"HF_HUB_OFFLINE": "1", "MARK": str(tmp_path)},
    )
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: tokenizer '{tmp_path / 'none'}' could not be loaded: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    assert gone(tmp_path), of(tmp_path)


@pytest.mark.parametrize("seconds", [0.2, 1.0, 2.0])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_all_starts_leaves_nothing(name: str, seconds: float, tmp_path: Path) -> None:
    import signal

    number = getattr(signal, name)
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            job_command("--output", str(tmp_path / "out")),
            env=job_environment(MARK=str(tmp_path)),
            stdout=out,
            stderr=out,
        )
    deadline = time.monotonic() + 60
    while "starting a private Ray" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(seconds)
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number, log.read_text()
    assert f"error: stopped by {name}." in log.read_text()
    assert "Traceback" not in log.read_text()
    assert gone(tmp_path), of(tmp_path)
