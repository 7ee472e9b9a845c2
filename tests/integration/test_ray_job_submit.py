"""The job as `ray job submit` runs it: a cluster that asks for tokens, a copy of the code, a corpus on S3."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.servers import Cluster, Submitted, clean_environment, cluster, short_directory
from tests.integration.conftest import KEY_ID, SECRET, S3Server

OPTIONS = ("--tokenizer", "embedded", "--task-records", "512", "--max-tokens", "512", "--epochs", "2")
SMALL_TASKS = ("--tokenizer", "embedded", "--task-records", "128", "--max-tokens", "512", "--epochs", "2")


@pytest.fixture(scope="module")
def server(start_s3: Callable[[], S3Server], corpus: Path) -> S3Server:
    server = start_s3()
    server.upload(corpus, server.bucket("lake"), "sft")
    server.bucket("sets")
    return server


@pytest.fixture(scope="module")
def head(server: S3Server) -> Iterator[Cluster]:
    """A cluster of one node, in a home directory of its own."""
    environment = {**clean_environment(), **server.environment, "MOSAIC_RAY_LOG_FORMAT": "text"}
    with short_directory() as home, cluster(home, environment, head_cpus=2) as running:
        yield running


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, f"90 s, and not yet: {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def finished(head: Cluster) -> Submitted:
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
    finished: Submitted, head: Cluster, server: S3Server, expected: Callable[[tuple[str, ...]], str]
) -> None:
    assert finished.status == 0, finished.output
    assert head.ask(f"jobs/{finished.job}")["status"] == "SUCCEEDED"
    assert digest_of(server, "v1") == expected(OPTIONS)


def test_the_log_tells_progress_and_the_result(finished: Submitted, head: Cluster, server: S3Server) -> None:
    log = head.ask(f"jobs/{finished.job}/logs")["logs"]
    assert "packed/long.jsonl.gz: 240 records, jsonl, shape prompt" in log
    assert re.search(r"^compose: 1,863 of 1,863 records \(100%\), task 4 of 4, workers .*, eta 0 s$", log, re.MULTILINE)
    assert digest_of(server, "v1") in log


def test_no_secret_is_shown(finished: Submitted, head: Cluster) -> None:
    told = [finished.output, json.dumps(head.ask("jobs/")), head.ask(f"jobs/{finished.job}/logs")["logs"]]
    assert all(told)
    for secret in (SECRET, KEY_ID, head.token):
        assert secret not in "".join(told)


def test_submitted_again_it_is_found_finished(finished: Submitted, head: Cluster, server: S3Server) -> None:
    assert finished.status == 0, finished.output
    before = server.objects("sets", "v1/")
    again = head.submit("--input", "s3://lake/sft/", "--output", "s3://sets/v1", *OPTIONS)
    assert again.status == 0, again.output
    assert "s3://sets/v1 is finished already; nothing to do" in again.output
    assert server.objects("sets", "v1/") == before


def test_a_stopped_job_is_resumed_by_submitting_it_again(
    head: Cluster, server: S3Server, expected: Callable[[tuple[str, ...]], str]
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


def test_a_wrong_input_fails_the_job(head: Cluster, server: S3Server) -> None:
    failed = head.submit("--input", "s3://nonesuch/sft/", "--output", "s3://sets/none", *OPTIONS)
    assert failed.status != 0
    state = head.ask(f"jobs/{failed.job}")
    assert (state["status"], state["driver_exit_code"]) == ("FAILED", 3)
    log = head.ask(f"jobs/{failed.job}/logs")["logs"]
    message = f"there is no bucket 'nonesuch' at {server.address}; create it, or correct the address."
    assert f"\nerror: s3://nonesuch/sft: {message}\n" in log
    assert "Traceback" not in log
    assert server.objects("sets", "none/") == {}


def test_the_workers_run_the_code_that_was_submitted(head: Cluster, tmp_path: Path) -> None:
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
def test_without_the_token_nothing_is_accepted(token: dict[str, str], words: str, head: Cluster) -> None:
    before = head.ask("jobs/")
    refused = head.submit("--input", "s3://lake/sft/", "--output", "s3://sets/refused", *OPTIONS, env=token)
    assert refused.status != 0
    assert words in refused.output
    assert head.token not in refused.output
    assert head.ask("jobs/") == before
