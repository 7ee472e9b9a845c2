"""One data set from every way of running: however many workers, kills, resumes and lost nodes."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import job_command, job_environment

Run = Callable[..., "subprocess.CompletedProcess[str]"]
OPTIONS = ("--tokenizer", "embedded", "--task-records", "96", "--max-tokens", "512")


def digests(output: Path) -> tuple[str, dict[str, str]]:
    """The data set's digest, and the SHA-256 of every file of data and rejects."""
    manifest = json.loads((output / "manifest.json").read_text())
    files = sorted([*output.glob("data/*"), *output.glob("rejects/*")])
    return manifest["dataset_digest"], {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def arguments(corpus: Path, output: Path, *more: str) -> list[str]:
    return ["--input", str(corpus), "--output", str(output), *OPTIONS, *more]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, sorted_corpus: Path) -> Path:
    """The sorted corpus, with two records more that cannot be used."""
    folder = tmp_path_factory.mktemp("input")
    for file in sorted_corpus.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with (folder / "task_00.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"prompt": "no answer", "completion": ""}\nnot json\n')
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, corpus: Path, run_job: Run) -> tuple[str, dict[str, str]]:
    """What an undisturbed run in one process makes."""
    output = tmp_path_factory.mktemp("expected") / "out"
    done = run_job(*arguments(corpus, output, "--engine", "in-process"))
    assert done.returncode == 0, done.stderr
    return digests(output)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_any_number_of_workers(workers: str, tmp_path: Path, corpus: Path, expected: object, run_job: Run) -> None:
    done = run_job(*arguments(corpus, tmp_path / "out", "--workers", workers))
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "out") == expected


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the job in the background; what is left of it at the end is killed, its Ray included."""
    started: list[subprocess.Popen[str]] = []

    def begin(*args: str) -> subprocess.Popen[str]:
        log = (tmp_path / f"log-{len(started)}").open("w")
        process = subprocess.Popen(job_command(*args), env=job_environment(), stdout=log, stderr=log, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.wait()


def receipts(output: Path) -> int:
    return len(list(output.glob("_mosaic/receipts/*.json")))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"the job ended before {what}"
        assert time.monotonic() < deadline, f"no {what} in two minutes"
        time.sleep(0.02)


def test_driver_killed_three_times(
    tmp_path: Path, corpus: Path, expected: object, start: Callable[..., subprocess.Popen[str]], run_job: Run
) -> None:
    output, moments = tmp_path / "out", random.Random(20260)
    for _ in range(3):
        before = receipts(output)
        process = start(*arguments(corpus, output, "--workers", "2"))
        goal = before + moments.randint(2, 10)
        wait_for(lambda goal=goal: receipts(output) >= goal, process, f"{goal} receipts")  # type: ignore[misc]
        time.sleep(moments.random() * 0.2)
        process.kill()
        process.wait()
        assert not (output / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in output.glob("_mosaic/receipts/*.json")}
    done = run_job(*arguments(corpus, output, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    assert "tasks are done already" in done.stderr
    assert digests(output) == expected
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items()), "a finished task ran again"
    assert not list(output.rglob("*.tmp"))


def test_actors_killed_while_they_work(
    tmp_path: Path, corpus: Path, expected: object, start: Callable[..., subprocess.Popen[str]]
) -> None:
    output = tmp_path / "out"
    process = start(*arguments(corpus, output, "--workers", "2"))
    killed = 0
    for goal in (3, 12):
        wait_for(lambda goal=goal: receipts(output) >= goal, process, f"{goal} receipts")  # type: ignore[misc]
        crew = [p for p in psutil.Process(process.pid).children(recursive=True) if _is_actor(p)]
        assert crew, "no actor process was found"
        crew[0].kill()
        killed += 1
    assert process.wait(timeout=240) == 0, (tmp_path / "log-0").read_text()
    assert killed == 2
    assert digests(output) == expected


def _is_actor(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return command.startswith("ray::Worker")


def test_a_cluster_of_three_nodes_loses_one(
    tmp_path: Path, corpus: Path, expected: object, start: Callable[..., subprocess.Popen[str]]
) -> None:
    from ray.cluster_utils import Cluster

    output = tmp_path / "out"
    cluster = Cluster(shutdown_at_exit=False)
    try:
        nodes = [
            cluster.add_node(
                num_cpus=1, node_ip_address="127.0.0.1", include_dashboard=False, object_store_memory=80 << 20
            )
            for _ in range(3)
        ]
        process = start(*arguments(corpus, output, "--workers", "3", "--ray-address", cluster.address))
        wait_for(lambda: receipts(output) >= 5, process, "5 receipts")
        assert process.poll() is None
        cluster.remove_node(nodes[1], allow_graceful=False)
        assert process.wait(timeout=240) == 0, (tmp_path / "log-0").read_text()
    finally:
        cluster.shutdown()
    assert digests(output) == expected


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_cleanly_and_says_how_to_go_on(
    name: str, tmp_path: Path, corpus: Path, expected: object, start: Callable[..., subprocess.Popen[str]], run_job: Run
) -> None:
    import signal

    number = getattr(signal, name)
    output = tmp_path / "out"
    process = start(*arguments(corpus, output, "--workers", "2"))
    wait_for(lambda: receipts(output) >= 3, process, "3 receipts")
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    log = (tmp_path / "log-0").read_text()
    assert f"error: stopped by {name}. Finished tasks are kept; the same command goes on from there" in log
    assert "Traceback" not in log
    assert not (output / "manifest.json").exists()
    done = run_job(*arguments(corpus, output, "--engine", "in-process"))
    assert done.returncode == 0, done.stderr
    assert digests(output) == expected
