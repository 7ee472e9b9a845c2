"""What a run asks of an object store, as a formula of its files, cells, tasks and parts."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from mosaic_ray.runtime.lease import RENEW_SECONDS
from tests.conftest import write_jsonl
from tests.integration.conftest import Request, S3Server

CONSTANT = 80
"""Requests of any run: settings, inventory, plan, the pages and the 12 parts they look into, the manifest."""


def leased(request: Request) -> bool:
    """Whether it is about who holds the output."""
    return "/_mosaic/leases" in request.path


def kind(request: Request) -> str:
    return "LIST" if "list-type=" in request.path else request.method


@pytest.mark.parametrize(("files", "records"), [(4, 2000), (16, 250)])
def test_requests_follow_the_formula(
    start_s3: Callable[[], S3Server],
    run_job: Callable[..., CompletedProcess[str]],
    tmp_path: Path,
    files: int,
    records: int,
) -> None:
    server = start_s3()
    for n in range(files):
        rows = [{"prompt": f"Task {n}, item {row}.", "completion": f"{n}:{row}"} for row in range(records)]
        write_jsonl(tmp_path / f"{n}.jsonl", rows)
    server.upload(tmp_path, server.bucket("lake"), "sft")
    server.bucket("sets")
    places = ("--input", "s3://lake/sft/", "--output", "s3://sets/out", "--tokenizer", "embedded")
    limits = ("--engine", "in-process", "--task-records", "512", "--epochs", "2")
    started = time.monotonic()
    asked = server.asked_for(lambda: run_job(*places, *limits, env=server.environment).check_returncode())
    seconds = time.monotonic() - started
    plan = json.loads(server.read("sets", "out/manifest.json"))["plan"]
    assert (plan["cells"], plan["parts"]) == (files * -(-records // 8), 2 * plan["tasks"])

    inputs = Counter(kind(request) for request in asked if request.path.startswith("/lake"))
    outputs = Counter(kind(request) for request in asked if request.path.startswith("/sets") and not leased(request))
    leases = Counter(kind(request) for request in asked if leased(request))
    assert inputs.keys() <= {"LIST", "HEAD", "GET"}
    assert inputs["LIST"] <= 2 + files // 1000
    assert files <= inputs["GET"] <= files + plan["cells"]
    assert inputs["HEAD"] <= 1 + files + plan["cells"]
    assert outputs["PUT"] == plan["parts"] + plan["tasks"] + 7
    assert outputs["LIST"] + outputs["HEAD"] + outputs["GET"] <= CONSTANT + plan["parts"] // 500
    assert outputs["DELETE"] + outputs["POST"] == 0
    assert leases["PUT"] + leases["HEAD"] + leases["GET"] <= 12 + 4 * seconds / RENEW_SECONDS
