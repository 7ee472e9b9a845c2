"""The doctor before a real S3 server, a full disk and a real Ray cluster, each with something wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest
import s3fs

from infra.local.servers import clean_environment, free_ports, serving, short_directory
from mosaic_ray.config import Job, job_from
from mosaic_ray.errors import StorageError
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.catalog import METHODS
from mosaic_ray.runtime.doctor import Finding
from mosaic_ray.runtime.doctor import checks as doctor
from tests.conftest import ROOT, write_jsonl
from tests.integration.conftest import S3Server
from tests.integration.test_disk_full import Disk, disk

__all__ = ["disk"]

ALLOWED: Final = {
    "bucket": ["s3:ListBucket", "s3:ListBucketMultipartUploads"],
    "objects": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
}
"""What a run needs of its output."""


def of_output(address: str, *, patience: float = 10) -> dict[str, Finding]:
    output = Storage.at(address, error=StorageError, patience=patience)
    return {finding.check: finding for finding in doctor.check_output(output)}


def not_ok(findings: Mapping[str, Finding]) -> dict[str, str]:
    return {check: finding.mark for check, finding in findings.items() if finding.mark != "ok"}


@pytest.fixture(scope="module")
def server(start_s3: Callable[[], S3Server], corpus: Path) -> S3Server:
    server = start_s3()
    server.upload(corpus, server.bucket("lake"), "sft")
    server.bucket("sets")
    return server


@pytest.fixture
def user(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Go on with the environment of a user of the server."""

    def become(**variables: str) -> None:
        for name, value in {**server.environment, **variables}.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()

    become()
    yield become
    server.enforce_permissions(False)


@pytest.fixture
def without(server: S3Server, user: Callable[..., None]) -> Callable[[str], None]:
    """Become a user who may do all that a run does, but for one thing."""

    def become(action: str) -> None:
        iam, name = server.connect("iam"), f"without-{action.partition(':')[2]}"
        statements = [
            {"Effect": "Allow", "Action": [one for one in allowed if one != action], "Resource": resource}
            for allowed, resource in (
                (ALLOWED["bucket"], "arn:aws:s3:::sets"),
                (ALLOWED["objects"], "arn:aws:s3:::sets/*"),
            )
        ]
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="some", PolicyDocument=document)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        server.enforce_permissions(True)
        user(AWS_ACCESS_KEY_ID=key["AccessKeyId"], AWS_SECRET_ACCESS_KEY=key["SecretAccessKey"])

    return become


class TestStore:
    @pytest.mark.usefixtures("user")
    def test_all_is_well_and_nothing_stays(self, server: S3Server) -> None:
        findings: dict[str, Finding] = {}
        asked = server.asked_for(lambda: findings.update(of_output("s3://sets/fine")))
        assert len(asked) < 20
        assert not_ok(findings) == {}
        assert findings["output: upload"].found == "begun and aborted"
        assert findings["output: condition"].found == "conditional writes are honoured"
        assert findings["clock"].found.startswith("that of the store is ")
        assert server.objects("sets", "fine") == {}
        assert server.pending_uploads("sets") == []

    @pytest.mark.parametrize(
        ("action", "wrong"),
        [
            ("s3:PutObject", {"output: put": "failed", "output: get": "unknown", "output: condition": "unknown",
                              "output: upload": "unknown", "output: delete": "unknown"}),
            ("s3:GetObject", {"output: list": "failed", "output: state": "failed", "output: get": "failed",
                              "output: condition": "failed"}),
            ("s3:AbortMultipartUpload", {"output: upload": "failed"}),
            ("s3:DeleteObject", {"output: delete": "failed"}),
            ("s3:ListBucket", {"output: list": "failed", "output: state": "failed", "clock": "failed"}),
        ],
    )  # fmt: skip
    def test_a_missing_permission_is_named(
        self, action: str, wrong: dict[str, str], server: S3Server, without: Callable[[str], None]
    ) -> None:
        without(action)
        home = f"s3://sets/{action.partition(':')[2]}"
        findings = of_output(home)
        assert not_ok(findings) == wrong
        first = next(finding for finding in findings.values() if finding.mark == "failed")
        assert "the credentials in use do not permit this; ask for the permission" in first.found
        assert action in first.remedy
        assert first.remedy.startswith("Allow s3:")
        server.enforce_permissions(False)
        left = server.objects("sets", home.removeprefix("s3://sets/"))
        assert len(left) == (action == "s3:DeleteObject")

    @pytest.mark.usefixtures("user")
    def test_a_bucket_that_is_not_there(self, server: S3Server) -> None:
        findings = of_output("s3://nonesuch/v1")
        message = f"there is no bucket 'nonesuch' at {server.address}; create it, or correct the address."
        assert {check for check, mark in not_ok(findings).items() if mark == "failed"} == {
            "output: list", "output: state", "output: put", "clock",
        }  # fmt: skip
        assert findings["output: list"].found == f"s3://nonesuch/v1: {message}"

    def test_nobody_answers(self, user: Callable[..., None]) -> None:
        user(AWS_ENDPOINT_URL="http://127.0.0.1:1")
        found = of_output("s3://sets/v1", patience=0.5)["output: put"]
        assert "http://127.0.0.1:1 cannot be reached" in found.found

    def test_a_store_that_ignores_conditions_and_has_another_time(
        self, server: S3Server, user: Callable[..., None]
    ) -> None:
        with careless(server.address, ahead=timedelta(seconds=-90)) as address:
            user(AWS_ENDPOINT_URL=address)
            findings = of_output("s3://sets/careless")
        assert not_ok(findings) == {"output: condition": "warning", "clock": "warning"}
        assert "the store does not honour conditional writes (If-None-Match)" in findings["output: condition"].found
        assert "s behind that of this machine" in findings["clock"].found
        assert "NTP" in findings["clock"].remedy
        assert server.objects("sets", "careless") == {}

    @pytest.mark.usefixtures("user")
    def test_the_input_is_listed_and_read(self, without: Callable[[str], None]) -> None:
        job = job_of("s3://lake/sft/", "s3://sets/v1")
        output = Storage.at(job.places.output, error=StorageError, patience=10)
        (fine,) = doctor.check_input(job, output, [])
        assert fine.found.startswith("s3://lake/sft/: 13 files, ")
        without("s3:none")  # who may use another bucket
        (refused,) = doctor.check_input(job, output, [])
        assert refused.mark == "failed"
        assert refused.remedy == "Allow s3:ListBucket and s3:GetObject there"


def job_of(source: str, output: str) -> Job:
    return job_from({"input": [source], "output": output, "tokenizer": "embedded"}, METHODS["mosaic-it"])


@contextmanager
def careless(address: str, *, ahead: timedelta) -> Iterator[str]:
    """The same server, but it takes no notice of If-None-Match, and its clock is ahead by so much."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            dropped = ("if-none-match", "expect")
            kept = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            there = HTTPConnection(address.removeprefix("http://"))
            there.request(self.command, self.path, body, kept)
            answer = there.getresponse()
            data = answer.read()
            self.send_response_only(answer.status)
            self.send_header("Date", format_datetime(datetime.now(UTC) + ahead, usegmt=True))
            for name, value in answer.getheaders():
                if name.lower() not in ("date", "transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on

        def log_message(self, *_: object) -> None: ...

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def test_a_disk_with_next_to_nothing_free(disk: Disk, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": "one", "completion": "two"}])
    places = ("--input", str(tmp_path / "a.jsonl"), "--output", str(disk.folder / "out"), "--tokenizer", "embedded")
    disk.leave(1 << 10)
    ended = disk.run("doctor", *places, "--engine", "in-process")
    disk.clear()
    assert ended.returncode == 9, ended.stderr
    assert "\nfailed   space: output      " in ended.stdout
    assert f"{disk.folder}/out: 1.0 MB free" in ended.stdout
    assert "-> Free some space, or choose another --output, or fewer --epochs" in ended.stdout
    assert not (disk.seen / "out").exists()


ASK_THE_CLUSTER: Final = """
import json, sys
from mosaic_ray.cli.doctor import make_cluster
from mosaic_ray.config import Execution
from mosaic_ray.runtime.doctor.cluster import check_cluster

execution = Execution(**json.loads(sys.argv[1]))
print(json.dumps(list(check_cluster(execution, lambda: make_cluster(execution), copies=0))))
"""


class TestCluster:
    """A head that asks for a token, with two CPUs and less memory than a worker is given."""

    @pytest.fixture(scope="class")
    @staticmethod
    def head() -> Iterator[dict[str, str]]:
        """The environment of a user of the cluster."""
        port, client, metrics, autoscaler = free_ports(4)
        with short_directory() as home:
            environment = {
                **clean_environment(),
                "PYTHONPATH": str(ROOT),
                "HOME": str(home),
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN": "ab" * 32,
                "DASHBOARD_METRIC_PORT": str(metrics),
                "AUTOSCALER_METRIC_PORT": str(autoscaler),
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray replaces 127.0.0.1 by the host's own address
            }
            flags = {
                "node-ip-address": "127.0.0.1",
                "port": port,
                "ray-client-server-port": client,
                "dashboard-agent-listen-port": 0,
                "include-dashboard": "false",
                "num-cpus": 2,
                "memory": 600 << 20,
                "object-store-memory": 80 << 20,
                "temp-dir": home / "ray",
            }
            command = ["ray", "start", "--head", "--block", *(f"--{name}={value}" for name, value in flags.items())]
            with serving("head", command, environment=environment, log=home / "log") as running:
                running.announced("will now block forever")
                yield {**environment, "RAY_ADDRESS": f"127.0.0.1:{port}"}

    @pytest.fixture
    def of_cluster(self, head: dict[str, str]) -> Callable[..., dict[str, Finding]]:
        """What the doctor finds out about it."""

        def ask(*execution: str, **variables: str) -> dict[str, Finding]:
            options = json.dumps(dict(pair.split("=") for pair in execution))
            done = subprocess.run(
                [sys.executable, "-c", ASK_THE_CLUSTER, options],
                env={**head, **variables},
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            return {entry[1]: Finding(*entry) for entry in json.loads(done.stdout)}

        return ask

    def test_all_is_well(self, of_cluster: Callable[..., Any], head: dict[str, str]) -> None:
        findings = of_cluster("workers=2")
        assert not_ok(findings) == {"memory": "warning"}
        assert findings["ray"].found.startswith(
            f"the cluster at {head['RAY_ADDRESS']} was joined with the token; it has Ray "
        )
        assert findings["cpus"].found == "2 in the cluster, 2 free; --workers asks for 2 at least"
        assert "has none for each of its CPUs" in findings["memory"].found
        assert "started and answered" in findings["worker"].found
        assert "0 s from that of this machine" in findings["clock"].found

    def test_too_little_memory_and_too_few_cpus(self, of_cluster: Callable[..., Any]) -> None:
        findings = of_cluster("workers=3:4", "worker_memory=1GiB")
        assert not_ok(findings) == {"cpus": "warning", "memory": "failed", "worker": "unknown"}
        assert findings["memory"].found.startswith("0.59 GiB on the largest node; room for 0 workers")
        assert findings["memory"].remedy == "Give --worker-memory 600MiB or less, or larger nodes"
        assert findings["worker"].found == "not tried, since no node has room for one now"

    def test_a_token_that_is_not_accepted(self, of_cluster: Callable[..., Any]) -> None:
        findings = of_cluster(RAY_AUTH_TOKEN="cd" * 32, RAY_NUM_REDIS_GET_RETRIES="2")
        assert not_ok(findings) == {"ray": "failed", "cpus": "unknown", "memory": "unknown", "worker": "unknown"}
        assert "cannot join the Ray cluster at" in findings["ray"].found
        assert "give its token by RAY_AUTH_TOKEN or in ~/.ray/auth_token" in findings["ray"].found
        assert "cd" * 32 not in findings["ray"].found
