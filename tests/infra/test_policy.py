"""infra/aws/policy.json is enough for the job, and every right in it is needed: a server that enforces it says so."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from mosaic_ray.cli import app
from mosaic_ray.embedded import corpus_path
from mosaic_ray.errors import InputError, MosaicError, StorageError
from mosaic_ray.io.storage import Storage
from tests.conftest import ROOT
from tests.infra.checks import Checkout
from tests.infra.kustomize import containers
from tests.integration.conftest import S3Server, clean_environment, start_s3

__all__ = ["clean_environment", "start_s3"]

Policy = dict[str, Any]

POLICY: Final = json.loads((ROOT / "infra/aws/policy.json").read_text())
RIGHTS: Final = [(statement["Sid"], action) for statement in POLICY["Statement"] for action in statement["Action"]]
EVERYTHING: Final = {"Effect": "Allow", "Action": "*", "Resource": "*"}
LARGE: Final = 33 << 20
"""Bytes of a file that is uploaded in parts."""


@pytest.fixture(scope="module")
def server(start_s3: Callable[[], S3Server], tmp_path_factory: pytest.TempPathFactory) -> S3Server:
    """The bucket of the policy, with an input, a tokenizer, and something that is nobody's business."""
    server = start_s3()
    server.bucket("lake")
    server.upload(corpus_path(), "lake", "sft")
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    (tokenizer / "tokenizer.json").write_text("{}")
    server.upload(tokenizer, "lake", "tokenizers/base")
    server.upload(tokenizer, "lake", "private")
    server.key_id, server.secret = _key(server, "owner", {**POLICY, "Statement": [EVERYTHING]})
    server.client = server.connect("s3")
    return server


def _key(server: S3Server, user: str, policy: Policy) -> tuple[str, str]:
    """Of a new user who has one policy."""
    iam = server.connect("iam")
    iam.create_user(UserName=user)
    iam.put_user_policy(UserName=user, PolicyName="only", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=user)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


@pytest.fixture(scope="module")
def job(server: S3Server) -> Iterator[dict[str, str]]:
    """From now on the server checks rights, and this process is the user of the job. Gives that user's environment."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    given = {"AWS_ENDPOINT_URL": server.address, **dict(zip(names, _key(server, "job", POLICY), strict=True))}
    server.enforce_permissions(True)
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in given.items():
            patch.setenv(variable, value)
        yield given


@pytest.fixture
def allowed(server: S3Server, job: dict[str, str]) -> Callable[[Policy], None]:  # noqa: ARG001 - the job has begun
    """Give the job another policy than it has."""
    iam = server.connect("iam")

    def allow(policy: Policy) -> None:
        iam.put_user_policy(UserName="job", PolicyName="only", PolicyDocument=json.dumps(policy))

    return allow


def _without(sid: str, action: str) -> Policy:
    policy = copy.deepcopy(POLICY)
    [statement] = [each for each in policy["Statement"] if each["Sid"] == sid]
    statement["Action"].remove(action)
    policy["Statement"] = [each for each in policy["Statement"] if each["Action"]]
    return policy


def _all_that_the_job_asks(server: S3Server, folder: Path, *, size: int = 1) -> None:
    """Every kind of request to a store that the job makes, by the door that it makes them through.

    size: bytes of the file that is uploaded.
    """
    source = Storage.at("s3://lake/sft", error=InputError, patience=20)
    first = next(source.listing())[0]
    assert source.read(first)
    name = folder.name
    output = Storage.at(f"s3://lake/mosaic/{name}", error=StorageError, patience=20)
    assert output.create("manifest.json", b"{}")
    assert output.read("manifest.json") == b"{}"
    (folder / "part").write_bytes(bytes(size))
    output.publish_file("data/part", str(folder / "part"))
    server.client.create_multipart_upload(Bucket="lake", Key=f"mosaic/{name}/data/begun")
    assert output.remove_unfinished() == ["data/begun"]
    assert [name for name, _ in output.listing("data")] == ["data/part"]
    output.delete("data/part")
    output.delete_all(["manifest.json"])
    assert not output.exists("manifest.json")


def test_the_policy_is_enough_for_the_whole_job(server: S3Server, allowed: Callable[[Policy], None]) -> None:
    allowed(POLICY)
    output = "s3://lake/mosaic/2026-11-22"
    places = ["--input", "s3://lake/sft/", "--since", "s3://lake/mosaic", "--tokenizer", "embedded"]
    speed = ["--engine", "in-process", "--epochs", "1"]
    done = CliRunner().invoke(app, ["run", *places, "--output", output, *speed])
    assert done.exit_code == 0, done.exception
    assert "mosaic/2026-11-22/manifest.json" in server.objects("lake")


def test_the_policy_is_enough_for_every_request(
    server: S3Server, allowed: Callable[[Policy], None], tmp_path: Path
) -> None:
    allowed(POLICY)
    _all_that_the_job_asks(server, tmp_path, size=LARGE)


@pytest.mark.parametrize(("sid", "action"), RIGHTS)
def test_every_right_is_needed(
    sid: str, action: str, server: S3Server, allowed: Callable[[Policy], None], tmp_path: Path
) -> None:
    allowed(_without(sid, action))
    with pytest.raises(MosaicError, match="the credentials in use do not permit this"):
        _all_that_the_job_asks(server, tmp_path)


def test_the_policy_gives_no_more(allowed: Callable[[Policy], None]) -> None:
    allowed(POLICY)
    for work in (
        lambda: Storage.at("s3://lake/sft", error=StorageError, patience=20).publish("new", b""),
        lambda: Storage.at("s3://lake/sft", error=StorageError, patience=20).delete("text.jsonl"),
        lambda: Storage.at("s3://lake/private", error=InputError, patience=20).read("tokenizer.json"),
    ):
        with pytest.raises(MosaicError, match="the credentials in use do not permit this"):
            work()


def test_the_head_fetches_the_tokenizer(allowed: Callable[[Policy], None], job: dict[str, str], tmp_path: Path) -> None:
    """What the init container of rayjob.yaml runs, with the rights of the policy."""
    allowed(POLICY)
    [resource] = [resource for resource in Checkout(ROOT).resources if resource["kind"] == "RayJob"]
    [init] = [container for container in containers(resource) if container["name"] == "tokenizer"]
    code = init["args"][0].replace("/models/tokenizer", str(tmp_path / "models/tokenizer"))
    environment = {**job, "MOSAIC_TOKENIZER": "s3://lake/tokenizers/base", "AWS_DEFAULT_REGION": "us-east-1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "tokenizer.json\n"), done.stderr
    assert (tmp_path / "models/tokenizer/tokenizer.json").read_text() == "{}"
