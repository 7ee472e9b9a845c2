"""Disks that are full: a clear end that keeps what is done, and the right bytes once there is room.

Each test has a small disk of its own: a tmpfs in a namespace of mounts, for which nobody needs to be root.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import job_command, job_environment, write_jsonl

OPTIONS: Final = ("--tokenizer", "embedded", "--task-records", "256", "--max-tokens", "512", "--epochs", "2")
TASKS: Final = 4
"""Of the file that is read where it lies."""
ALONE: Final = ("--engine", "in-process")
ROWS: Final = 1000
SMALL: Final = 270
DISK_KIB: Final = 16 << 10


class Disk:
    """A disk of 16 MiB, which is there for what is run through it and for nobody else.

    folder: where it lies; a short path, for Ray's sockets.
    seen: the same folder as the test reaches it from outside.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))
        script = f'mount -t tmpfs -o size={DISK_KIB}k tmpfs "$0" && echo there && exec cat'
        self._holder = subprocess.Popen(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._holder.stdout is not None
        said = self._holder.stdout.readline()
        assert said == "there\n", f"user namespaces are needed to give a test a disk of its own: {said}"
        self.seen = Path(f"/proc/{self._holder.pid}/root{self.folder}")

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command that has this disk."""
        enter = ["nsenter", "--target", str(self._holder.pid), "--user", "--mount", "--preserve-credentials", "--"]
        return subprocess.Popen([*enter, *command], text=True, **options)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the job to its end."""
        command, pipe = job_command(*arguments), subprocess.PIPE
        with self.start(*command, env=job_environment(**variables), stdout=pipe, stderr=pipe) as process:
            out, err = process.communicate(timeout=180)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def leave(self, kib: int) -> None:
        """Fill the disk so that this much is free."""
        with (self.seen / "ballast").open("wb") as file:
            room = os.statvfs(self.seen)
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize - (kib << 10))

    def clear(self) -> None:
        (self.seen / "ballast").unlink()

    def end(self) -> None:
        self._holder.communicate(timeout=10)
        self.folder.rmdir()


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk()
    yield disk
    disk.end()


def rows(seed: int, count: int = ROWS) -> list[dict[str, str]]:
    """They do not compress well, so that files fill a disk."""
    draw = random.Random(seed)
    return [{"prompt": f"Count {n}.", "completion": f"{n} {draw.random()} {draw.random()}"} for n in range(count)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is read where it lies, and in ``packed/`` two that can only be read from their start.

    The staged copy of the small one fits into the buffer of a file.
    """
    folder = tmp_path_factory.mktemp("source")
    write_jsonl(folder / "plain.jsonl", rows(1))
    (folder / "packed").mkdir()
    for name, made in (("large", rows(2)), ("small", rows(3, SMALL))):
        text = "".join(json.dumps(row) + "\n" for row in made)
        (folder / "packed" / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    source: Path, tmp_path_factory: pytest.TempPathFactory, run_job: Callable[..., Any]
) -> dict[str, bytes]:
    """What a run makes of the plain file."""
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    done = run_job("--input", str(source / "plain.jsonl"), "--output", str(output), *OPTIONS, *ALONE)
    assert done.returncode == 0, done.stderr
    return content_of(output)


def content_of(output: Path) -> dict[str, bytes]:
    """Every file of samples and rejects, and the digest."""
    files = {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}
    made = {name: path.read_bytes() for name, path in files.items() if name.startswith(("data/", "rejects/"))}
    return {**made, "digest": json.loads(files["manifest.json"].read_bytes())["dataset_digest"].encode()}


def times(folder: Path) -> dict[str, int]:
    """When each file was written, in nanoseconds."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def refused(done: subprocess.CompletedProcess[str], status: int = 3) -> str:
    """The reason of a run that ended for want of space."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert re.findall("^error: ", done.stderr, re.MULTILINE) == ["error: "]
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    return last.removeprefix("error: ")


def test_a_full_output_ends_the_run_and_room_lets_it_finish(
    disk: Disk, source: Path, undisturbed: dict[str, bytes]
) -> None:
    output, seen = disk.folder / "out", disk.seen / "out"
    command = ("--input", str(source / "plain.jsonl"), "--output", str(output), *OPTIONS)
    disk.leave(60)
    remedy = "no space is left on the disk; free some, or choose another place."
    assert refused(disk.run(*command, *ALONE)) == f"{output}/_mosaic/tokenizer.json: {remedy}"
    disk.leave(200)
    reason = refused(disk.run(*command, "--workers", "2"))
    assert re.fullmatch(rf"{re.escape(str(output))}/data/train-\d+-of-\d+\.parquet: {re.escape(remedy)}", reason)
    assert not list(seen.rglob(".*")), "half a file"
    assert not (seen / "manifest.json").exists()
    kept = {name: when for name, when in times(seen).items() if name.startswith(("data/", "_mosaic/receipts/"))}
    assert kept
    disk.clear()
    done = disk.run(*command, *ALONE)
    assert done.returncode == 0, done.stderr
    assert content_of(seen) == undisturbed
    receipts = {name for name in kept if name.startswith("_mosaic/receipts/")}
    assert f"{len(receipts)} of {TASKS} tasks are done already" in done.stderr
    assert {name: times(seen)[name] for name in receipts} == {name: kept[name] for name in receipts}


@pytest.mark.parametrize("name", ["small.jsonl.gz", "large.jsonl.gz"])
def test_no_room_for_a_staged_copy(name: str, disk: Disk, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    disk.leave(4)
    command = ("--input", str(source / "packed" / name), "--output", str(output), *OPTIONS, *ALONE)
    assert refused(disk.run(*command, TMPDIR=str(disk.folder))) == (
        f"{disk.folder}: a copy of an input file cannot be written here (No space left on device); free some space, or "
        "set TMPDIR to a place that has it."
    )
    assert not list(output.rglob("*.zst"))
    disk.clear()
    assert not list(disk.seen.iterdir()), "a temporary file is left over"


def test_no_room_for_the_manifest_keeps_all_that_is_done(
    disk: Disk, source: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    place, output = str(disk.folder), tmp_path / "out"
    command = ("--input", str(source / "plain.jsonl"), "--output", str(output), *OPTIONS, *ALONE)
    disk.leave(4)
    assert refused(disk.run(*command, TMPDIR=place)) == (
        f"{place}: the manifest cannot be written here (No space left on device); free some space, or set TMPDIR to a "
        "place that has it."
    )
    assert not (output / "manifest.json").exists()
    kept = times(output / "data")
    disk.clear()
    done = disk.run(*command, TMPDIR=place)
    assert done.returncode == 0, done.stderr
    assert content_of(output) == undisturbed
    assert times(output / "data") == kept


def test_no_room_for_ray_to_start_is_said_at_once(disk: Disk, source: Path, tmp_path: Path) -> None:
    disk.leave(100)
    command = ("--input", str(source / "plain.jsonl"), "--output", str(tmp_path / "out"), *OPTIONS)
    assert refused(disk.run(*command, RAY_TMPDIR=str(disk.folder)), status=2) == (
        f"{disk.folder}/ray, where Ray keeps its logs and sockets: 100 KiB are free, and it takes 4096; free some "
        "space, or set RAY_TMPDIR to a place that has it (a short path)"
    )
    assert not (tmp_path / "out").exists()


def test_a_disk_of_ray_that_fills_up_while_it_runs_does_no_harm(
    disk: Disk, source: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    command = job_command("--input", str(source / "plain.jsonl"), "--output", str(output), *OPTIONS)
    environment = job_environment(RAY_TMPDIR=str(disk.folder))
    with log.open("w") as out, disk.start(*command, env=environment, stdout=out, stderr=out) as process:
        while not list(output.glob("_mosaic/receipts/*")):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        disk.leave(0)
        assert process.wait(timeout=60) == 0, log.read_text()
    assert content_of(output) == undisturbed
