"""The recipe for a loop of one's own: two processes read a data set over S3, are killed, and go on."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import boto3
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from moto.server import ThreadedMotoServer

RANKS: Final = 2
EPOCHS: Final = 2
SAVE_EVERY: Final = 3
VIEW: Final = "views/packed-2048/data"


class Line(NamedTuple):
    """What a rank wrote of a step. seen: checksum of the token ids."""

    loss: float
    seen: int


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, compose: Callable[..., None]) -> Path:
    """180 records, two epochs."""
    out = tmp_path_factory.mktemp("lake") / "v1"
    compose(out, "code.jsonl", "lookup.jsonl", "sorting.jsonl", also="packed", epochs=EPOCHS)
    return out


@pytest.fixture(scope="module")
def environment(data: Path) -> Iterator[dict[str, str]]:
    """That of a process which finds the data set in the bucket of the recipe, over HTTP on this machine."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
        store = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_EC2_METADATA_DISABLED": "true", **keys}
        client = boto3.client(
            "s3",
            endpoint_url=store["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )
        client.create_bucket(Bucket="lake")
        for path in data.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "lake", f"mosaic/v1/{path.relative_to(data).as_posix()}")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        yield {**kept, **store, "PATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    finally:
        server.stop()


class Job:
    """The recipe in a directory of its own, started as its first line says."""

    def __init__(self, folder: Path, recipe: str, model: Path, environment: dict[str, str]) -> None:
        command = re.match(r"# train\.py: (.+)\n", recipe)
        assert command is not None
        folder.mkdir()
        (folder / "train.py").write_text(recipe, encoding="utf-8")
        (folder / "model").symlink_to(model, target_is_directory=True)
        self.folder = folder
        self._command = shlex.split(command[1])
        self._environment = environment

    def start(self) -> subprocess.Popen[bytes]:
        out = (self.folder / "output").open("ab")
        return subprocess.Popen(self._command, cwd=self.folder, env=self._environment, stdout=out, stderr=out)

    def finish(self) -> None:
        assert self.start().wait(timeout=120) == 0, self.output

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text(encoding="utf-8")

    def lines(self, rank: int) -> list[dict[str, Any]]:
        """What the rank wrote of its steps, whole lines only."""
        log = self.folder / f"log-{rank}.jsonl"
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def steps(self) -> dict[tuple[int, int], Line]:
        """What counts of each step and rank: a job that goes on after a checkpoint does the steps since then again."""
        return {
            (line["step"], rank): Line(line["loss"], line["seen"]) for rank in range(RANKS) for line in self.lines(rank)
        }

    def weights(self) -> bytes:
        return (self.folder / "trained" / "loop" / "model.safetensors").read_bytes()


def kill(process: subprocess.Popen[bytes]) -> None:
    """All at once, as the end of a machine would. torchrun's workers are in sessions of their own."""
    everything = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in everything:
        one.kill()
    process.wait(timeout=30)
    psutil.wait_procs(everything, timeout=30)


def test_a_killed_job_goes_on_and_sees_every_row_once(
    tmp_path: Path, recipes: dict[str, str], data: Path, model: Path, environment: dict[str, str]
) -> None:
    whole, killed = (Job(tmp_path / name, recipes["train.py"], model, environment) for name in ("whole", "killed"))
    whole.finish()

    process = killed.start()
    try:
        deadline = time.monotonic() + 120
        while len(killed.lines(0)) < 5 or len(killed.lines(1)) < 4:  # a checkpoint is at 3
            assert process.poll() is None, killed.output
            assert time.monotonic() < deadline, killed.output
            time.sleep(0.01)
    finally:
        kill(process)
    assert not (killed.folder / "trained").exists()
    before = len(killed.lines(0))
    killed.finish()

    again = killed.lines(0)[before]["step"]
    assert again % SAVE_EVERY == 1
    assert SAVE_EVERY < again <= before + 1
    assert killed.steps() == whole.steps()
    assert killed.weights() == whole.weights()
    assert_every_row_once(killed.steps(), data)


def assert_every_row_once(steps: dict[tuple[int, int], Line], data: Path) -> None:
    """In each epoch, which is one part here; a row that is left when there is none for the other rank is left out."""
    parts = [pq.read_table(path)["input_ids"].to_pylist() for path in sorted((data / VIEW).glob("*.parquet"))]
    done = 0
    for rows in parts:
        there = {zlib.crc32(torch.tensor(ids).numpy().tobytes()) for ids in rows}
        count = len(rows) // RANKS
        seen = [steps[done + step, rank].seen for step in range(1, count + 1) for rank in range(RANKS)]
        assert len(there) == len(rows) > 4
        assert set(seen) <= there
        assert len(set(seen)) == len(seen) == count * RANKS
        done += count
    assert len(parts) == EPOCHS
    assert len(steps) == done * RANKS
