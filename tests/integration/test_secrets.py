"""What is secret stays secret: planted keys are looked for in every byte that a run writes or says."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import psutil
import pytest
from click.testing import CliRunner
from s3fs import S3FileSystem

from infra.local.servers import free_ports
from mosaic_ray.cli import app
from mosaic_ray.errors import MosaicError
from tests.conftest import job_command, job_environment
from tests.integration.conftest import S3Server

Job = Callable[..., "subprocess.CompletedProcess[str]"]
OPTIONS: Final = ("--tokenizer", "embedded", "--max-tokens", "512", "--epochs", "1", "--workers", "2")

ALONE: Final = ("--tokenizer", "embedded", "--engine", "in-process", "--store-patience", "10")

PLANTED: Final = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEYID4711",
    "AWS_SECRET_ACCESS_KEY": "planted/Secret+of/the+environment",
    "AWS_SESSION_TOKEN": "PlantedSessionTokenThatIsLong==",
    "HF_TOKEN": "hf_PlantedTokenOfTheHub",
    "RAY_AUTH_TOKEN": "5ec2e7" * 10,
}
"""As the environment of a user has them."""

PROFILE: Final = {"aws_access_key_id": "AKIAPLANTEDPROFILE47", "aws_secret_access_key": "planted/Secret+of/a+profile"}
PASSWORD: Final = "planted-password"
"""In the address of a store or of a file."""

SECRETS: Final = (*PLANTED.values(), *PROFILE.values(), PASSWORD)

TALKATIVE: Final = {
    "S3FS_LOGGING_LEVEL": "DEBUG",
    "FSSPEC_LOGGING_LEVEL": "DEBUG",
    "RAY_BACKEND_LOG_LEVEL": "debug",
    "TRANSFORMERS_VERBOSITY": "debug",
    "HF_DEBUG": "1",
}
"""What makes the libraries log all they can."""


def leaks(data: bytes) -> list[str]:
    """The secrets in some bytes."""
    return [secret for secret in SECRETS if secret.encode() in data]


def leaking(folder: Path) -> dict[str, list[str]]:
    """The files of a folder that hold secrets, and which."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    found = {str(path.relative_to(folder)): leaks(path.read_bytes()) for path in files}
    return {name: secrets for name, secrets in found.items() if secrets}


@pytest.fixture(scope="module")
def server(start_s3: Callable[[], S3Server], corpus: Path) -> S3Server:
    server = start_s3()
    server.upload(corpus, server.bucket("lake"), "sft")
    server.bucket("sets")
    return server


@pytest.fixture
def session() -> Iterator[Path]:
    """Where Ray keeps its logs and sockets: a short path."""
    folder = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A file of credentials with the profile ``writer``."""
    path = tmp_path_factory.mktemp("aws") / "credentials"
    path.write_text("[writer]\n" + "".join(f"{name} = {value}\n" for name, value in PROFILE.items()))
    return {"AWS_SHARED_CREDENTIALS_FILE": str(path)}


def test_a_run_on_ray_that_logs_all_it_can(
    server: S3Server, session: Path, profiles: dict[str, str], run_job: Job
) -> None:
    environment = {**PLANTED, **TALKATIVE, **profiles, "RAY_TMPDIR": str(session), "AWS_ENDPOINT_URL": server.address}
    command = ("--input", "s3://lake/sft/", "--output", "s3://sets/v1", "--output-options", "profile=writer")
    done = run_job(*command, *OPTIONS, "--task-records", "512", "--also", "packed", env=environment)
    assert done.returncode == 0, done.stderr
    assert "s3fs" in done.stderr
    assert leaks((done.stdout + done.stderr).encode()) == []
    names = server.objects("sets", "v1/")
    assert {"manifest.json", "README.md", "report.html", "views/packed-512/manifest.json"} <= names.keys()
    assert any(name.startswith("rejects/") for name in names)
    assert {name: leaks(server.read("sets", f"v1/{name}")) for name in names} == {name: [] for name in names}
    assert list(session.glob("ray/session_2*/logs/worker-*.err"))
    assert leaking(session) == {}


def test_a_worker_that_dies_and_a_run_that_is_stopped(
    server: S3Server,
    session: Path,
    tmp_path: Path,
    clean_environment: None,  # noqa: ARG001 - the job inherits it
) -> None:
    log = tmp_path / "log"
    command = job_command(
        *("--input", "s3://lake/sft/long.jsonl", "--output", "s3://sets/stopped", *OPTIONS), "--task-records", "16"
    )
    environment = job_environment(**PLANTED, RAY_TMPDIR=str(session), AWS_ENDPOINT_URL=server.address)
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        for receipts in (1, 3):
            deadline = time.monotonic() + 60
            while len(server.objects("sets", "stopped/_mosaic/receipts/")) < receipts:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            if receipts == 1:
                busy = [child for child in psutil.Process(process.pid).children(recursive=True) if at_work(child)]
                busy[0].kill()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143, log.read_text()
    finally:
        process.kill()
        process.wait()
    assert "lost its worker and is done again" in log.read_text()
    assert "error: stopped by SIGTERM" in log.read_text()
    assert leaks(log.read_bytes()) == []
    names = server.objects("sets", "stopped/")
    assert {name: leaks(server.read("sets", f"stopped/{name}")) for name in names} == {name: [] for name in names}
    assert leaking(session) == {}


def at_work(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith("ray::Worker.run")
    except psutil.Error:
        return False


class _Refusing(BaseHTTPRequestHandler):
    """Refuses every request with the code that its bucket is named by, and repeats all it was shown, as S3 does."""

    def _refuse(self) -> None:
        code = self.path.lstrip("/").partition("/")[0].partition("?")[0]
        shown = self.headers.get("Authorization", "") + str(self.headers.get("X-Amz-Security-Token"))
        body = (
            f"<Error><Code>{'' if code == 'none' else code}</Code><Message>Refused: {shown}</Message>"
            f"<AWSAccessKeyId>{shown}</AWSAccessKeyId><Token-0>{shown}</Token-0>"
            f"<StringToSign>{shown}</StringToSign></Error>"
        ).encode()
        if code == "garbled":
            body = shown.encode()
        self.server.shown.append(shown)  # type: ignore[attr-defined]
        self.send_response(400 if code in ("InvalidToken", "none", "garbled") else 403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = _refuse

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def refusing() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    server.shown: list[str] = []  # type: ignore[misc]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


Says = Callable[..., str]


@pytest.fixture
def says(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    clean_environment: None,  # noqa: ARG001
) -> Says:
    """Run a command in this process, with the keys in its environment, and return all that it says and logs."""

    def run(*arguments: str, **variables: str) -> str:
        for name, value in {**PLANTED, **variables}.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # it would still have the keys and the address of an earlier test
        caplog.set_level("DEBUG", "mosaic_ray")
        done = CliRunner().invoke(app, arguments)
        assert isinstance(done.exception, MosaicError), done.output
        told = f"{done.exception}\n{done.output}\n{caplog.text}"
        assert leaks(told.encode()) == []
        return str(done.exception)

    return run


@pytest.mark.parametrize(
    "code",
    [
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidToken",
        "AccessDenied",
        "NewInS3",
        "none",
        "garbled",
    ],
)
def test_a_store_that_repeats_the_keys_it_refuses(
    code: str, refusing: ThreadingHTTPServer, says: Says, tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{refusing.server_port}"
    refusing.shown.clear()  # type: ignore[attr-defined]
    output = ("--output", str(tmp_path / "out"), *ALONE)
    reason = says("--input", f"s3://{code}/sft/", *output, AWS_ENDPOINT_URL=address)
    assert reason.startswith(f"s3://{code}/sft")
    assert PLANTED["AWS_ACCESS_KEY_ID"] in refusing.shown[0]  # type: ignore[attr-defined]
    assert PLANTED["AWS_SESSION_TOKEN"] in refusing.shown[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("bucket", ["InvalidAccessKeyId", "nobody"])
def test_a_password_in_the_address_of_the_store(
    bucket: str, refusing: ThreadingHTTPServer, says: Says, tmp_path: Path
) -> None:
    port = refusing.server_port if bucket != "nobody" else free_ports(1)[0]
    output = ("--output", str(tmp_path / "out"), *ALONE)
    endpoint = f"http://user:{PASSWORD}@127.0.0.1:{port}"
    reason = says("--input", f"s3://{bucket}/sft/", *output, AWS_ENDPOINT_URL=endpoint)
    assert f"http://127.0.0.1:{port}" in reason


@pytest.mark.parametrize(
    "arguments",
    [
        ("--input", f"s3://user:{PASSWORD}@lake/sft/"),
        ("--input", f"https://{PASSWORD}@127.0.0.1:9/a.jsonl"),
        ("--input", f"s3://lake/a.jsonl?token={PASSWORD}"),
        ("--input", f"https://127.0.0.1:9/a.jsonl?X-Amz-Credential=A&X-Amz-Signature={PASSWORD}"),
        ("--input", f"https://127.0.0.1:9/a.jsonl?password={PASSWORD}"),
        ("--input", "s3://lake/", "--input-options", f"secret={PASSWORD}"),
        ("--input", "s3://lake/", "--input-options", f"secret:{PASSWORD}"),
        ("--input", "s3://lake/", "--input-options", f"endpoint_url=http://user:{PASSWORD}@127.0.0.1:9"),
    ],
)
def test_a_credential_in_an_address_or_an_option_is_refused_and_not_repeated(
    arguments: tuple[str, ...], says: Says, tmp_path: Path
) -> None:
    output = ("--output", str(tmp_path / "out"), *ALONE)
    reason = says(*arguments, *output)
    assert re.search(
        r"(carries|would carry) a credential; put credentials into the environment|are not NAME=VALUE", reason
    ), reason
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_is_no_yaml_is_not_repeated(says: Says, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"input_options:\n  secret: [{PASSWORD}\n")
    reason = says("--config", str(tmp_path / "job.yaml"))
    assert reason.startswith(f"--config {tmp_path / 'job.yaml'}: ")
    assert "no YAML at line 3" in reason
    assert "\n" not in reason
