"""A real S3 server, and a corpus in every format for it."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import zstandard

KEY_ID: Final = "AKIA4711471147114711"
SECRET: Final = "a-secret-that-nobody-may-see"

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_ADDRESS = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
_REQUEST = re.compile(r'"([A-Z]+) (/\S*) HTTP/[\d.]+" (\d+)')


class Request(NamedTuple):
    """One request that the server has answered. ``path`` is ``/bucket/key?query`` as it came over the wire."""

    method: str
    path: str
    status: int

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")


class Store:
    """An S3 server that is a process of its own on 127.0.0.1, and what a test does with one.

    address: ``http://127.0.0.1:PORT``.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], address: str, *, key_id: str = KEY_ID, secret: str = SECRET
    ) -> None:
        self._process = process
        self.address = address
        self.key_id = key_id
        self.secret = secret
        self.client = self.connect("s3")

    def connect(self, service: str) -> Any:
        """A client of Amazon's own library."""
        return boto3.client(
            service,
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
        )

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
        }

    def bucket(self, name: str) -> str:
        self.client.create_bucket(Bucket=name)
        return name

    def upload(self, folder: Path, bucket: str, prefix: str, **options: str) -> None:
        """Every file below ``folder``, one object each."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder).as_posix()}"
                self.client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes(), **options)

    def objects(self, bucket: str, prefix: str = "") -> dict[str, tuple[str, str]]:
        """ETag and time of the last change of each object, by its key below the prefix."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        found = [entry for page in pages for entry in page.get("Contents", ())]
        return {e["Key"].removeprefix(prefix): (e["ETag"], e["LastModified"].isoformat()) for e in found}

    def read(self, bucket: str, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def pending_uploads(self, bucket: str) -> list[Any]:
        """Multipart uploads that were begun and neither completed nor aborted."""
        return list(self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ()))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)


class S3Server(Store):
    """Moto's server, with the log of what it was asked."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with log.open("w") as out:
            command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", "0"]
            process = subprocess.Popen(command, stdout=out, stderr=out)
        super().__init__(process, announced(process, log, _ADDRESS))

    @property
    def requests(self) -> list[Request]:
        """All that were answered so far, in the order of their answers."""
        text = _COLOUR.sub("", self._log.read_text())
        return [Request(method, path, int(status)) for method, path, status in _REQUEST.findall(text)]

    def asked_for(self, work: Callable[[], object]) -> list[Request]:
        """What was asked while ``work`` ran."""
        before = len(self.requests)
        work()
        return self.requests[before:]

    def enforce_permissions(self, enforced: bool) -> None:
        """From now on accept only credentials that IAM knows, for what their policies allow; or accept any."""
        answer = requests.post(f"{self.address}/moto-api/reset-auth", data="0" if enforced else "inf", timeout=10)
        assert answer.ok, answer.text


def announced(process: subprocess.Popen[bytes], log: Path, address: re.Pattern[str]) -> str:
    """What a server that has just been started writes of its address: the first group of the pattern in its log."""
    deadline = time.monotonic() + 60
    while (found := address.search(log.read_text())) is None:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, "the S3 server did not start"
        time.sleep(0.05)
    return found[1]


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No credentials, profiles or clusters of the machine the tests run on; and none are looked for elsewhere."""
    nowhere = str(tmp_path_factory.mktemp("home") / "none")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("AWS_", "RAY_ADDRESS", "RAY_AUTH", "RAY_API")) and name != "AWS_CA_BUNDLE":
                patch.delenv(name)
        patch.setenv("AWS_CONFIG_FILE", nowhere)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", nowhere)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield


@pytest.fixture(scope="module")
def start_s3(
    tmp_path_factory: pytest.TempPathFactory,
    clean_environment: None,  # noqa: ARG001 - servers and users inherit it
) -> Iterator[Callable[[], S3Server]]:
    """Start a server with no buckets. Each has its own; all end with the module."""
    started: list[S3Server] = []

    def start() -> S3Server:
        started.append(S3Server(tmp_path_factory.mktemp("s3") / "log"))
        return started[-1]

    yield start
    for server in started:
        server.stop()


LONG: Final = 240
"""Rows of a file that is staged if it can only be read from its start, at the 512 records a task of these tests."""
SHORT: Final = 30
"""Rows of a file that is read again instead."""
STAGED: Final = 5
"""Files of the corpus that are staged."""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,863 rows: every format, each in a long and a short file; three of the rows cannot be used."""
    folder = tmp_path_factory.mktemp("corpus")
    tasks = iter(range(100))
    for size, rows in (("long", LONG), ("short", SHORT)):
        made = {
            f"{size}.jsonl": _lines(_rows(next(tasks), rows)),
            f"{size}.json": _array(_rows(next(tasks), rows)),
            f"packed/{size}.jsonl.gz": gzip.compress(_lines(_rows(next(tasks), rows)), mtime=0),
            f"packed/{size}.jsonl.zst": zstandard.compress(_lines(_rows(next(tasks), rows))),
            f"packed/{size}.json.gz": gzip.compress(_array(_rows(next(tasks), rows)), mtime=0),
            f"{size}.parquet": _parquet(_rows(next(tasks), rows)),
        }
        for name, data in made.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data)
    (folder / "groups.parquet").write_bytes(_parquet(_rows(next(tasks), LONG), row_group_size=4))
    with (folder / "long.jsonl").open("a") as file:
        file.write('{"prompt": "no answer", "completion": ""}\nnot json\n{"prompt": 1, "completion": "a number"}\n')
    return folder


def _rows(task: int, rows: int) -> list[dict[str, str]]:
    return [
        {
            "prompt": f"Task {task}: count from {n} to {n + 5}.",
            "completion": " ".join(str(i) for i in range(n, n + 6)) + f"\nDone {task}/{n}.",
        }
        for n in range(rows)
    ]


def _lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _array(rows: list[dict[str, str]]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def _parquet(rows: list[dict[str, str]], **options: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, **options)
    return sink.getvalue()
