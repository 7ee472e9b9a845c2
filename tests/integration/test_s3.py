"""The job on S3: the same data set as on a local disk, published whole, and errors that a user can act on."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner

from mosaic_ray.cli import app
from mosaic_ray.errors import StorageError
from mosaic_ray.io.storage import FileInfo, Storage
from tests.conftest import job_command, job_environment
from tests.integration.conftest import KEY_ID, SECRET, STAGED, Request, S3Server

Job = Callable[..., "subprocess.CompletedProcess[str]"]
OPTIONS = ("--tokenizer", "embedded", "--task-records", "512", "--max-tokens", "512", "--epochs", "2")
ALONE = ("--engine", "in-process")
INPUT = "s3://lake/sft/"


@pytest.fixture(scope="module")
def server(start_s3: Callable[[], S3Server], corpus: Path) -> S3Server:
    """A server with the corpus in one bucket and another bucket for data sets."""
    server = start_s3()
    server.upload(corpus, server.bucket("lake"), "sft")
    server.bucket("sets")
    return server


@pytest.fixture(scope="module")
def other(start_s3: Callable[[], S3Server]) -> S3Server:
    """A server with nothing but an empty bucket for data sets."""
    server = start_s3()
    server.bucket("elsewhere")
    return server


@pytest.fixture(scope="module")
def job(run_job: Job, clean_environment: None) -> Job:  # noqa: ARG001 - the job inherits it
    """Run the job as a user of ``on``; whatever comes of it, no secret and no traceback is shown."""

    def run(*arguments: str, on: S3Server | None = None, **variables: str) -> Any:
        done = run_job(*arguments, env={**(on.environment if on else {}), **variables}, timeout=60)
        assert SECRET not in done.stdout + done.stderr
        assert KEY_ID not in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return run


@dataclass(frozen=True)
class Made:
    """What a data set consists of: its digest, and the SHA-256 of every file of data and rejects."""

    digest: str
    files: Mapping[str, str]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, corpus: Path, job: Job) -> Made:
    """What a run from disk to disk makes."""
    output = tmp_path_factory.mktemp("expected") / "out"
    done = job("--input", str(corpus), "--output", str(output), *OPTIONS, *ALONE)
    assert done.returncode == 0, done.stderr
    made = on_disk(output)
    assert any(name.startswith("rejects/") for name in made.files)
    return made


def on_disk(output: Path) -> Made:
    files = {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}
    return made_of(files)


def on_server(server: S3Server, bucket: str, prefix: str) -> Made:
    return made_of({key: server.read(bucket, f"{prefix}{key}") for key in server.objects(bucket, prefix)})


def made_of(files: Mapping[str, bytes]) -> Made:
    manifest = json.loads(files["manifest.json"])
    data = {name: hashlib.sha256(held).hexdigest() for name, held in files.items() if name[:5] in ("data/", "rejec")}
    return Made(manifest["dataset_digest"], data)


@dataclass(frozen=True)
class Finished:
    """A finished run on S3 that tests look at and leave as it is, with the requests it took."""

    uri: str
    prefix: str
    asked: list[Request]


@pytest.fixture(scope="module")
def finished(server: S3Server, job: Job) -> Finished:
    before = len(server.requests)
    done = job("--input", INPUT, "--output", "s3://sets/finished", *OPTIONS, *ALONE, on=server)
    assert done.returncode == 0, done.stderr
    return Finished("s3://sets/finished", "finished/", server.requests[before:])


def test_every_format_gives_the_same_bytes_as_on_disk(finished: Finished, server: S3Server, expected: Made) -> None:
    assert on_server(server, "sets", finished.prefix) == expected


def test_each_object_is_written_once_and_the_manifest_last(finished: Finished) -> None:
    writes = [request for request in finished.asked if request.writes]
    assert all(request.path.startswith("/sets/finished/") for request in writes)
    lease = Request("PUT", "/sets/finished/_mosaic/leases/00001.json", 200)
    assert (writes[0], writes[-1]) == (lease, lease)
    written = [request for request in writes if request.path != lease.path]
    assert {request.status for request in written} <= {200, 204}
    assert written[-1] == Request("PUT", "/sets/finished/manifest.json", 200)
    puts = Counter(request.path for request in written if request.method == "PUT")
    assert set(puts.values()) == {1}
    staged = sorted(path for path in puts if "/_mosaic/staged/" in path)
    assert len(staged) == STAGED
    assert sorted(request.path for request in written if request.method == "DELETE") == staged


def test_nothing_is_left_over(finished: Finished, server: S3Server) -> None:
    names = set(server.objects("sets", finished.prefix))
    folders = Counter(name.rpartition("/")[0] for name in names)
    assert folders.keys() == {"", "data", "rejects", "_mosaic", "_mosaic/receipts", "_mosaic/leases"}
    assert {name for name in names if "/" not in name} == {"README.md", "manifest.json", "report.html"}
    assert server.pending_uploads("sets") == []


def test_no_secret_is_published(finished: Finished, server: S3Server) -> None:
    for name in server.objects("sets", finished.prefix):
        data = server.read("sets", finished.prefix + name)
        assert SECRET.encode() not in data, name
        assert KEY_ID.encode() not in data, name


def test_a_finished_run_is_left_as_it_is(finished: Finished, server: S3Server, job: Job) -> None:
    before = server.objects("sets", finished.prefix)
    asked = len(server.requests)
    done = job("--input", INPUT, "--output", finished.uri, *OPTIONS, *ALONE, on=server)
    assert done.returncode == 0, done.stderr
    assert f"{finished.uri} is finished already; nothing to do" in done.stderr
    assert server.objects("sets", finished.prefix) == before
    assert not [request for request in server.requests[asked:] if request.writes]


def test_plan_writes_nothing(server: S3Server, job: Job) -> None:
    asked = len(server.requests)
    done = job("plan", "--input", INPUT, "--output", "s3://sets/planned", *OPTIONS, *ALONE, on=server)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^records +1,863 in \d+ cells", done.stdout, re.MULTILINE)
    assert not [request for request in server.requests[asked:] if request.writes]


def test_verify_and_explain(finished: Finished, server: S3Server, job: Job) -> None:
    asked = len(server.requests)
    done = job("verify", finished.uri, "--recompute", "2", *ALONE, on=server)
    assert done.returncode == 0, done.stderr
    assert f"verified {finished.uri}: 8 parts" in done.stdout
    assert "2 parts were rebuilt from the source" in done.stdout
    shown = job("explain", f"{finished.uri}/data/train-00000-of-00008.parquet:3", on=server)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^(\S+) is s3://lake/sft/\1$", shown.stdout, re.MULTILINE)
    assert not [request for request in server.requests[asked:] if request.writes]


def test_verify_sees_an_object_that_was_changed(server: S3Server, job: Job) -> None:
    done = job("--input", "s3://lake/sft/short*.jsonl", "--output", "s3://sets/spoilt", *OPTIONS, *ALONE, on=server)
    assert done.returncode == 0, done.stderr
    part = "spoilt/data/train-00001-of-00002.parquet"
    data = bytearray(server.read("sets", part))
    data[100] ^= 1
    server.client.put_object(Bucket="sets", Key=part, Body=bytes(data))
    done = job("verify", "s3://sets/spoilt", *ALONE, on=server)
    assert done.returncode == 6
    assert "data/train-00001-of-00002.parquet: its sha256 is not the manifest's" in done.stderr


class Witness(threading.Thread):
    """Lists a data set over and over while it is made."""

    def __init__(self, server: S3Server, bucket: str, prefix: str) -> None:
        super().__init__(daemon=True)
        self._server, self._where = server, (bucket, prefix)
        self._over = threading.Event()
        self.listings: list[dict[str, tuple[str, str]]] = []

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.listings.append(self._server.objects(*self._where))

    def stop(self) -> None:
        self._over.set()
        self.join()


def test_on_ray_no_object_is_ever_seen_unfinished(server: S3Server, job: Job, expected: Made) -> None:
    witness = Witness(server, "sets", "ray/")
    witness.start()
    done = job("--input", INPUT, "--output", "s3://sets/ray", *OPTIONS, "--workers", "2", on=server)
    witness.stop()
    assert done.returncode == 0, done.stderr
    assert on_server(server, "sets", "ray/") == expected
    last = server.objects("sets", "ray/")
    for listing in witness.listings:
        seen = {name for name in listing if not name.startswith(("_mosaic/staged/", "_mosaic/leases/"))}
        assert all(listing[name] == last[name] for name in seen)
        assert "manifest.json" not in listing or listing.keys() == last.keys()
    assert any(0 < sum(name.startswith("data/") for name in listing) < 8 for listing in witness.listings)
    assert server.pending_uploads("sets") == []


@pytest.fixture
def begin(tmp_path: Path, clean_environment: None) -> Iterator[Callable[..., subprocess.Popen[str]]]:  # noqa: ARG001
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, on: S3Server) -> subprocess.Popen[str]:
        with (tmp_path / "log").open("w") as log:
            command, environment = job_command(*arguments), job_environment(**on.environment)
            started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_a_killed_run_goes_on_where_it_stood(
    server: S3Server, job: Job, begin: Callable[..., subprocess.Popen[str]], expected: Made
) -> None:
    asked = len(server.requests)
    command = ("--input", INPUT, "--output", "s3://sets/killed", *OPTIONS, *ALONE)
    process = begin(*command, on=server)
    while len(server.objects("sets", "killed/_mosaic/receipts/")) < 2:
        assert process.poll() is None, "the job ended before its second receipt"
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = server.objects("sets", "killed/_mosaic/receipts/")
    assert "manifest.json" not in server.objects("sets", "killed/")
    done = job(*command, on=server)
    assert done.returncode == 0, done.stderr
    assert f"{len(kept)} of 4 tasks are done already" in done.stderr
    assert on_server(server, "sets", "killed/") == expected
    assert kept.items() <= server.objects("sets", "killed/_mosaic/receipts/").items()
    staged = [r for r in server.requests[asked:] if r.method == "PUT" and "/sets/killed/_mosaic/staged/" in r.path]
    assert len(staged) == STAGED, "a staged copy was made again"


def test_memory_gives_the_same_data_set(corpus: Path, expected: Made, clean_environment: None) -> None:  # noqa: ARG001
    memory = fsspec.filesystem("memory")
    memory.put(str(corpus) + "/", "/lake/sft/", recursive=True)
    try:
        arguments = ("--input", "memory://lake/sft", "--output", "memory://sets/v1", *OPTIONS, *ALONE)
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        root = "/sets/v1/"
        assert made_of({name.removeprefix(root): memory.cat_file(name) for name in memory.find(root)}) == expected
    finally:
        memory.store.clear()


def test_input_and_output_on_different_servers(server: S3Server, other: S3Server, job: Job, expected: Made) -> None:
    asked = len(server.requests), len(other.requests)
    options = ("--input-options", f"endpoint_url={server.address}")
    output = "s3://elsewhere/v1"
    done = job("--input", INPUT, "--output", output, *options, *OPTIONS, *ALONE, on=other)
    assert done.returncode == 0, done.stderr
    assert on_server(other, "elsewhere", "v1/") == expected
    assert not [r for r in server.requests[asked[0] :] if r.writes or not r.path.startswith("/lake")]
    assert not [r for r in other.requests[asked[1] :] if r.path.startswith("/lake")]
    done = job("verify", output, "--recompute", "1", *ALONE, on=other)
    assert done.returncode == 0, done.stderr
    place = f"{output}/data/train-00000-of-00008.parquet:0"
    reached = ("--output-options", f"endpoint_url={other.address}")
    done = job("explain", place, *reached, on=server)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def public(start_s3: Callable[[], S3Server], corpus: Path) -> S3Server:
    """A server whose bucket ``lake`` anyone may read, and ``private`` only who has credentials."""
    server = start_s3()
    server.upload(corpus, server.bucket("lake"), "sft", ACL="public-read")
    server.upload(corpus, server.bucket("private"), "sft")
    return server


def test_a_public_bucket_is_read_without_credentials(
    public: S3Server, job: Job, expected: Made, tmp_path: Path
) -> None:
    anonymous = ("--input-options", f"anon=true,endpoint_url={public.address}")
    done = job("--input", INPUT, "--output", str(tmp_path / "out"), *anonymous, *OPTIONS, *ALONE)
    assert done.returncode == 0, done.stderr
    assert on_disk(tmp_path / "out") == expected


def test_anonymous_is_meant(public: S3Server, job: Job, tmp_path: Path) -> None:
    """With credentials in the environment that would open the bucket, they are not sent."""
    private = ("--input", "s3://private/sft", "--output", str(tmp_path / "out"), *OPTIONS, *ALONE)
    refuses(
        job(*private, "--input-options", "anon=true", on=public),
        "s3://private/sft/groups.parquet: the credentials in use do not permit this; ask for the permission, or use "
        "other credentials.",
    )
    assert job(*private, on=public).returncode == 0


def refuses(done: subprocess.CompletedProcess[str], message: str) -> None:
    """The job ended with the status of a store's failure and this one line, and nothing else."""
    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"error: {message}\n")


def nobody_listens() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("s3://nonesuch/sft", "s3://sets/e", "s3://nonesuch/sft: there is no bucket 'nonesuch' at {server}; create it, "
         "or correct the address."),
        (INPUT, "s3://nonesuch/e", "s3://nonesuch/e: there is no bucket 'nonesuch' at {server}; create it, or correct "
         "the address."),
        ("s3://lake/typo/", "s3://sets/e", "s3://lake/typo: there is no such file or folder; correct the address."),
        ("s3://lake/sft/long.jsonI", "s3://sets/e", "s3://lake/sft/long.jsonI: there is no such file or folder; "
         "correct the address."),
    ],
    ids=["input bucket", "output bucket", "prefix", "key"],
)  # fmt: skip
def test_what_is_not_there(source: str, output: str, message: str, server: S3Server, job: Job) -> None:
    asked = len(server.requests)
    done = job("--input", source, "--output", output, *OPTIONS, *ALONE, on=server)
    refuses(done, message.format(server=server.address))
    assert not [request for request in server.requests[asked:] if request.writes]


def test_an_endpoint_that_nobody_listens_at(server: S3Server, job: Job, tmp_path: Path) -> None:
    address = nobody_listens()
    refuses(
        job("--input", INPUT, "--output", str(tmp_path), *OPTIONS, *ALONE, on=server, AWS_ENDPOINT_URL=address),
        f"s3://lake/sft: {address} cannot be reached (EndpointConnectionError); check the address, the network and "
        "AWS_ENDPOINT_URL.",
    )


def test_no_credentials(server: S3Server, job: Job, tmp_path: Path) -> None:
    refuses(
        job("--input", INPUT, "--output", str(tmp_path), *OPTIONS, *ALONE, AWS_ENDPOINT_URL=server.address),
        "s3://lake/sft: no usable credentials were found (NoCredentialsError); set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or the storage option anon=true for a public bucket.",
    )


@pytest.fixture(scope="module")
def guarded(start_s3: Callable[[], S3Server], corpus: Path) -> tuple[S3Server, dict[str, str]]:
    """A server that checks credentials and permissions, and those of a user who may read and not write."""
    server = start_s3()
    server.upload(corpus, server.bucket("lake"), "sft")
    server.bucket("sets")
    iam = server.connect("iam")
    iam.create_user(UserName="reader")
    policy = {"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [policy]})
    iam.put_user_policy(UserName="reader", PolicyName="reads", PolicyDocument=document)
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    server.enforce_permissions(True)
    return server, {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_wrong_credentials(wrong: str, guarded: tuple[S3Server, dict[str, str]], job: Job, tmp_path: Path) -> None:
    server, reader = guarded
    given = server.environment if wrong == "key" else {**reader, "AWS_SECRET_ACCESS_KEY": SECRET}
    code = "InvalidAccessKeyId" if wrong == "key" else "SignatureDoesNotMatch"
    words = (
        f"{server.address} does not accept the credentials ({code}); correct AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or the profile named by AWS_PROFILE."
    )
    for output, failed in (
        (str(tmp_path / "out"), "s3://lake/sft"),
        ("s3://sets/e", "s3://sets/e/_mosaic/settings.json"),
    ):
        done = job("--input", INPUT, "--output", output, *OPTIONS, *ALONE, on=server, **given)
        refuses(done, f"{failed}: {words}")
        assert given["AWS_ACCESS_KEY_ID"] not in done.stderr


def test_a_user_who_may_read_and_not_write(
    guarded: tuple[S3Server, dict[str, str]], job: Job, expected: Made, tmp_path: Path
) -> None:
    server, reader = guarded
    local = tmp_path / "out"
    done = job("--input", INPUT, "--output", str(local), *OPTIONS, *ALONE, on=server, **reader)
    assert done.returncode == 0, done.stderr
    assert on_disk(local) == expected
    done = job("--input", INPUT, "--output", "s3://sets/e", *OPTIONS, *ALONE, on=server, **reader)
    assert done.returncode == 3
    assert re.search(
        r"^error: s3://sets/e/_mosaic/\S+: the credentials in use do not permit this; ask for the permission, or use "
        r"other credentials\.$",
        done.stderr,
        re.MULTILINE,
    )
    assert reader["AWS_SECRET_ACCESS_KEY"] not in done.stderr


def test_a_long_listing_is_read_page_by_page(start_s3: Callable[[], S3Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = start_s3()
    server.bucket("many")
    for n in range(1005):
        server.client.put_object(Bucket="many", Key=f"in/data/{n:04d}", Body=b"x" * (n % 3))
    server.client.put_object(Bucket="many", Key="in/database", Body=b"")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    storage = Storage.at("s3://many/in", error=StorageError)
    listing = storage.listing("data")
    assert len(server.asked_for(lambda: next(listing))) == 1
    found: list[tuple[str, FileInfo]] = []
    assert len(server.asked_for(lambda: found.extend(storage.listing("data")))) == 2
    assert [(path, info.size) for path, info in found] == [(f"data/{n:04d}", n % 3) for n in range(1005)]
    assert all(info.etag and info.modified for _, info in found)
    assert [path for path, _ in storage.listing("database")] == ["database"]
    assert [path for path, _ in storage.listing("data/0007")] == ["data/0007"]
    assert list(storage.listing("dat")) == []
    assert len(list(storage.listing())) == 1006
    with pytest.raises(StorageError, match="s3://nowhere"):
        list(Storage.at("s3://nowhere", error=StorageError).listing())
