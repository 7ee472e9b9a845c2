"""Views on S3, made by Ray: the same bytes as on a disk by one process, also after a kill, and by a later command."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import job_command, job_environment
from tests.integration.conftest import S3Server

VIEWS = ("--also", "tokenized,packed,alpaca", "--sequence-length", "1024")
OPTIONS = (
    "--tokenizer",
    "embedded",
    "--task-records",
    "512",
    "--max-tokens",
    "512",
    "--epochs",
    "2",
    "--world-size",
    "2",
)


@pytest.fixture(scope="module")
def server(start_s3: Callable[[], S3Server], corpus: Path) -> S3Server:
    server = start_s3()
    server.upload(corpus, server.bucket("lake"), "sft")
    server.bucket("sets")
    return server


@pytest.fixture(scope="module")
def expected(
    run_job: Any,
    corpus: Path,
    tmp_path_factory: pytest.TempPathFactory,
    clean_environment: None,  # noqa: ARG001
) -> Mapping[str, bytes]:
    output = tmp_path_factory.mktemp("expected") / "out"
    done = run_job("--input", str(corpus), "--output", str(output), *OPTIONS, *VIEWS, "--engine", "in-process")
    assert done.returncode == 0, done.stderr
    return parts({p.relative_to(output).as_posix(): p.read_bytes() for p in output.rglob("*.parquet")})


def parts(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if "data/" in name}


def on_server(server: S3Server, prefix: str) -> dict[str, bytes]:
    keys = server.objects("sets", prefix)
    return parts({key: server.read("sets", f"{prefix}{key}") for key in keys if key.endswith(".parquet")})


def test_beside_a_run_that_is_killed_and_resumed(server: S3Server, expected: Mapping[str, bytes], run_job: Any) -> None:
    command = ("--input", "s3://lake/sft/", "--output", "s3://sets/killed", *OPTIONS, *VIEWS, "--workers", "2")
    first = subprocess.Popen(
        job_command(*command),
        env=job_environment(**server.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not server.objects("sets", "killed/views/packed-1024/data/"):
        assert first.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(30)
    done = run_job(*command, env=server.environment)
    assert done.returncode == 0, done.stderr
    assert on_server(server, "killed/") == expected
    assert server.pending_uploads("sets") == []


def test_later_by_a_command_of_its_own(server: S3Server, expected: Mapping[str, bytes], run_job: Any) -> None:
    alone = ("--engine", "in-process")
    made = run_job("--input", "s3://lake/sft/", "--output", "s3://sets/later", *OPTIONS, *alone, env=server.environment)
    assert made.returncode == 0, made.stderr
    for view in ("tokenized", "alpaca", "packed"):
        options = ("--sequence-length", "1024") if view == "packed" else ()
        done = run_job("view", "s3://sets/later", "--view", view, *options, *alone, env=server.environment)
        assert done.returncode == 0, done.stderr
    assert "samples a row; 9" in done.stdout, "the packing is told"
    assert on_server(server, "later/") == expected
    checked = run_job("verify", "s3://sets/later/views/packed-1024/", *alone, env=server.environment)
    assert checked.returncode == 0, checked.stderr
    assert "verified s3://sets/later/views/packed-1024: 8 parts" in checked.stdout
    refused = run_job(
        "view", "s3://sets/later", "--view", "tokenized", "--sequence-length", "9", *alone, env=server.environment
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(
        "error: --sequence-length is for --view packed; tokenized has rows of one sample each"
    )
