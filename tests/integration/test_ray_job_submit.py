"""The job as `ray job submit` runs it: a cluster that asks for tokens, a copy of the code, a corpus on S3."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from tests.conftest import ROOT, job_environment
from tests.integration.conftest import KEY_ID, SECRET, S3Server

OPTIONS = ("--tokenizer", "embedded", "--task-records", "512", "--max-tokens", "512", "--epochs", "2")
SMALL_TASKS = ("--tokenizer", "embedded", "--task-records", "128", "--max-tokens", "512", "--epochs", "2")
BIN = Path(sys.executable).parent
RAY = str(BIN / "ray")


@pytest.fixture(scope="module")
def server(start_s3: Callable[[], S3Server], corpus: Path) -> S3Server:
    server = start_s3()
    server.upload(corpus, server.bucket("lake"), "sft")
    server.bucket("sets")
    return server


@dataclass(frozen=True)
class Submitted:
    """What a call of ``ray job submit`` came to: its exit status and everything it printed, the job's log included."""

    status: int
    output: str

    @property
    def job(self) -> str:
        return str(re.findall(r"Job '(\w+)' submitted", self.output)[0])


@dataclass(frozen=True)
class Head:
    """A cluster of one node, and a user of it."""

    address: str
    token: str
    environment: dict[str, str]
    code: Path

    def submit(
        self, *arguments: str, code: Path | None = None, wait: bool = True, env: Mapping[str, str] | None = None
    ) -> Submitted:
        place = ["--address", self.address, "--working-dir", str(code or self.code), *([] if wait else ["--no-wait"])]
        command = [RAY, "job", "submit", *place, "--", "python", "jobs/mosaic_corpus.py", *arguments]
        environment = {**self.environment, **(env or {})}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        return Submitted(done.returncode, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr))

    def ask(self, path: str, *, method: str = "GET") -> Any:
        """The answer of the cluster's HTTP interface."""
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = requests.request(method, f"{self.address}/api/{path}", headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json()


@pytest.fixture(scope="module")
def head(server: S3Server) -> Iterator[Head]:
    """Started with the commands that the README gives, in a home directory of its own."""
    home = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))  # short, for the paths of Ray's sockets
    kept = {name: value for name, value in job_environment().items() if name != "PYTHONPATH"}
    environment = {
        **kept,
        **server.environment,
        "HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray replaces 127.0.0.1 by the host's own address
    }
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, capture_output=True, timeout=60, check=True)
    code = home / "code"
    for folder in ("mosaic_ray", "jobs"):
        shutil.copytree(ROOT / folder, code / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    dashboard, agent, client = free_ports(3)
    flags = {
        "node-ip-address": "127.0.0.1",
        "port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
        "num-cpus": 2,
        "object-store-memory": 80 << 20,
        "temp-dir": home / "ray",
    }
    log = home / "log"
    with log.open("w") as out:
        command = [RAY, "start", "--head", "--block", *(f"--{name}={value}" for name, value in flags.items())]
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        token = (home / ".ray" / "auth_token").read_text().strip()
        running = Head(f"http://127.0.0.1:{dashboard}", token, environment, code)
        until(lambda: "Ray runtime started" in log.read_text(), "the cluster runs", process)
        yield running
    finally:
        end(process)
        shutil.rmtree(home, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


def until(condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert process is None or process.poll() is None, f"ended before {what}"
        assert time.monotonic() < deadline, f"90 s, and not yet: {what}"
        time.sleep(0.1)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the cluster of this process, and no other on the machine (as ``ray stop`` would)."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    for survivor in psutil.wait_procs(family, timeout=20)[1]:  # a driver that hangs, say
        survivor.kill()
    process.wait(timeout=20)


@pytest.fixture(scope="module")
def finished(head: Head) -> Submitted:
    return head.submit("--input", "s3://lake/sft/", "--output", "s3://sets/v1", *OPTIONS)


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, corpus: Path, run_job: Callable[..., Any]
) -> Callable[[tuple[str, ...]], str]:
    """The digest of the data set that a local run makes, by its options."""

    def digest(options: tuple[str, ...]) -> str:
        output = tmp_path_factory.mktemp("expected") / "out"
        done = run_job("--input", str(corpus), "--output", str(output), *options, "--engine", "in-process")
        assert done.returncode == 0, done.stderr
        return str(json.loads((output / "manifest.json").read_text())["dataset_digest"])

    return digest


def digest_of(server: S3Server, key: str) -> str:
    return str(json.loads(server.read("sets", f"{key}/manifest.json"))["dataset_digest"])


def test_the_same_data_set_as_a_local_run(
    finished: Submitted, head: Head, server: S3Server, expected: Callable[[tuple[str, ...]], str]
) -> None:
    assert finished.status == 0, finished.output
    assert head.ask(f"jobs/{finished.job}")["status"] == "SUCCEEDED"
    assert digest_of(server, "v1") == expected(OPTIONS)


def test_the_log_tells_progress_and_the_result(finished: Submitted, head: Head, server: S3Server) -> None:
    log = head.ask(f"jobs/{finished.job}/logs")["logs"]
    assert "packed/long.jsonl.gz: 240 records, jsonl, shape prompt" in log
    assert re.search(r"^compose: 1,863 of 1,863 records \(100%\), task 4 of 4, workers .*, eta 0 s$", log, re.MULTILINE)
    assert digest_of(server, "v1") in log


def test_no_secret_is_shown(finished: Submitted, head: Head) -> None:
    told = [finished.output, json.dumps(head.ask("jobs/")), head.ask(f"jobs/{finished.job}/logs")["logs"]]
    assert all(told)
    for secret in (SECRET, KEY_ID, head.token):
        assert secret not in "".join(told)


def test_submitted_again_it_is_found_finished(finished: Submitted, head: Head, server: S3Server) -> None:
    assert finished.status == 0, finished.output
    before = server.objects("sets", "v1/")
    again = head.submit("--input", "s3://lake/sft/", "--output", "s3://sets/v1", *OPTIONS)
    assert again.status == 0, again.output
    assert "s3://sets/v1 is finished already; nothing to do" in again.output
    assert server.objects("sets", "v1/") == before


def test_a_stopped_job_is_resumed_by_submitting_it_again(
    head: Head, server: S3Server, expected: Callable[[tuple[str, ...]], str]
) -> None:
    arguments = ("--input", "s3://lake/sft/", "--output", "s3://sets/stopped", *SMALL_TASKS)
    job = head.submit(*arguments, wait=False).job
    until(lambda: len(server.objects("sets", "stopped/_mosaic/receipts/")) >= 3, "three receipts")
    head.ask(f"jobs/{job}/stop", method="POST")
    until(lambda: head.ask(f"jobs/{job}")["status"] == "STOPPED", "the job is stopped")
    log = head.ask(f"jobs/{job}/logs")["logs"]
    assert "error: stopped by SIGTERM. Finished tasks are kept; the same command goes on from there" in log
    assert "Traceback" not in log
    kept = server.objects("sets", "stopped/_mosaic/receipts/")
    assert "manifest.json" not in server.objects("sets", "stopped/")
    again = head.submit(*arguments)
    assert again.status == 0, again.output
    assert f"{len(kept)} of 15 tasks are done already" in again.output
    assert kept.items() <= server.objects("sets", "stopped/_mosaic/receipts/").items()
    assert digest_of(server, "stopped") == expected(SMALL_TASKS)


def test_a_wrong_input_fails_the_job(head: Head, server: S3Server) -> None:
    failed = head.submit("--input", "s3://nonesuch/sft/", "--output", "s3://sets/none", *OPTIONS)
    assert failed.status != 0
    state = head.ask(f"jobs/{failed.job}")
    assert (state["status"], state["driver_exit_code"]) == ("FAILED", 3)
    log = head.ask(f"jobs/{failed.job}/logs")["logs"]
    message = f"there is no bucket 'nonesuch' at {server.address}; create it, or correct the address."
    assert f"\nerror: s3://nonesuch/sft: {message}\n" in log
    assert "Traceback" not in log
    assert server.objects("sets", "none/") == {}


def test_the_workers_run_the_code_that_was_submitted(head: Head, tmp_path: Path) -> None:
    """A task that fails there fails the job, and the traceback points into the copy."""
    shutil.copytree(head.code, tmp_path / "code")
    with (tmp_path / "code" / "mosaic_ray" / "runtime" / "task.py").open("a") as file:
        file.write("\n\ndef _refuse(self):\n    raise ValueError(__file__)\n\n\nTaskWork.prepare = _refuse\n")
    broken = ("--input", "s3://lake/sft/short.jsonl", "--output", "s3://sets/broken", *OPTIONS)
    failed = head.submit(*broken, code=tmp_path / "code")
    assert failed.status != 0
    assert head.ask(f"jobs/{failed.job}")["driver_exit_code"] == 7
    log = head.ask(f"jobs/{failed.job}/logs")["logs"]
    assert re.search(r"ValueError: \S+/working_dir_files/\S+/mosaic_ray/runtime/task\.py", log)


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "Authentication required: Unauthorized"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "Authentication failed: Forbidden"),
    ],
    ids=["no token", "wrong token"],
)
def test_without_the_token_nothing_is_accepted(token: dict[str, str], words: str, head: Head) -> None:
    before = head.ask("jobs/")
    refused = head.submit("--input", "s3://lake/sft/", "--output", "s3://sets/refused", *OPTIONS, env=token)
    assert refused.status != 0
    assert words in refused.output
    assert head.token not in refused.output
    assert head.ask("jobs/") == before
