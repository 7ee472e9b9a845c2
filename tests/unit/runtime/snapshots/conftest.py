"""Stores of every kind with data sets in them: small ones by hand, and a chain of real runs."""

from __future__ import annotations

import io
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import s3fs
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug import Request, Response
from werkzeug.serving import make_server

from mosaic_ray.config import job_from
from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.errors import StorageError
from mosaic_ray.io.manifest import FORMAT_VERSION, Entries, publish_manifest
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.pages import publish_view_card
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.engine import InProcessEngine
from tests.conftest import write_jsonl

BUCKET = "lake"


class Door:
    """An S3 server behind a door that keeps a list of who came, and can turn them away.

    answer: what to say instead of passing a request on; None passes it on.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Request], Response | None] = lambda _: None
        self.asked: list[str] = []
        self._server = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        self.asked.append(f"{request.method} {request.full_path.rstrip('?')}")
        environ["wsgi.input"] = io.BytesIO(request.get_data())  # for the server, which reads it again
        answer = self.answer(request)
        return (answer or self._server)(environ, start_response)


def refusal(code: str, status: int) -> Response:
    """What S3 says when it will not."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    return Response(body, status=status, content_type="application/xml")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Door, str]]:
    door = Door()
    server = make_server("127.0.0.1", 0, door, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield door, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def s3(served: tuple[Door, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """The environment of a user of the server, and an empty bucket."""
    door, address = served
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-nobody-may-see")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem()
    if files.exists(BUCKET):
        files.rm(BUCKET, recursive=True)
    files.mkdir(BUCKET)
    door.asked.clear()
    yield door
    door.answer = lambda _: None
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["file", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty directory in each kind of store."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        return Storage.at(f"s3://{BUCKET}/sft nightly", error=StorageError)
    address = str(tmp_path / "lake") if request.param == "file" else f"memory://{uuid.uuid4().hex}/lake"
    return Storage.at(address, error=StorageError)


def put_data_set(
    place: Storage,
    *,
    finished: str | None = "2026-11-20T01:00:00+00:00",
    run: str = "v1:one",
    since: str | None = None,
    whole: bool = False,
) -> list[str]:
    """What a run leaves, of made-up bytes, and the paths of it: settings, plan, manifest.

    finished: when; None leaves out the manifest. since: the run that it goes on from. whole: two parts, rejects, pages,
    a view and receipts too.
    """
    parts = [f"data/train-{number:05d}-of-00002.parquet" for number in range(2)]
    of_view = ("manifest.json", "README.md", "_mosaic/view.json", "_mosaic/receipts/train.json", *parts)
    views = [f"views/packed-64/{name}" for name in of_view]
    kept = [f"_mosaic/{name}" for name in ("inventory.parquet", "tokenizer.json", "receipts/task-00000.json")]
    paths = [*parts, "rejects/task-00000.parquet", "README.md", "report.html", *views, *kept] if whole else []
    for path in paths:
        place.publish(path, path.encode())
    place.publish("_mosaic/plan.json", orjson.dumps({"run": run}))
    identity = {"method": {}, **({"since": since} if since else {})}
    place.publish("_mosaic/settings.json", orjson.dumps({"identity": identity, "places": {}}))
    if finished is not None:
        entries = [{"name": path, "bytes": len(path)} for path in parts]
        changed = {"new": 1, "changed": 2, "carried": 3, "gone": 0}
        manifest = {
            "format_version": FORMAT_VERSION,
            "dataset_digest": f"v1:digest of {run}",
            "run": run,
            "places": {"input": ["in"], "output": place.uri()},
            **({"since": {"output": f"parent of {run}", "run": since, "files": changed}} if since else {}),
            "created": {"finished": finished},
            "accounting": {"records": 12_345, "epochs": [{"composed": 12_345, "passed": 0, "rejected": 0}]},
            "rejects": {"by_reason": {}, "parts": Entries(1, lambda _: {"name": "r", "bytes": 7})},
            "totals": {"samples": 4000, "tokens": 9_876_543},
            "parts": Entries(2, entries.__getitem__),
            "inventory": Entries(1, lambda _: {"name": "f", "size": 9, "etag": None, "sha256": "0"}),
        }  # fmt: skip
        assert publish_manifest(place, manifest)
    return [*paths, "_mosaic/plan.json", "_mosaic/settings.json", *(["manifest.json"] if finished else [])]


def compose(source: Path, out: Path, **options: Any) -> None:
    """A real run, in this process."""
    places = {"input": str(source), "output": str(out), "tokenizer": str(tokenizer_path())}
    limits = {"max_tokens": 300, "epochs": 2, "task_records": 64, "engine": "in-process"}
    job = job_from({**places, **limits, **options}, MosaicMethod)
    run_job(job, InProcessEngine, finish=lambda *_: None, finish_view=publish_view_card)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Under ``lake`` two nights: all of ``in``, with views; then, in long parts, a changed file and a new one."""
    home = tmp_path_factory.mktemp("chain")
    for name, rows in (("a", 90), ("deep/b", 60), ("c:1", 40)):
        write_jsonl(home / "in" / f"{name}.jsonl", _rows(name, rows))
    with (home / "in" / "a.jsonl").open("a") as file:
        file.write('not json\n{"prompt": "no answer", "completion": ""}\n')
    compose(home / "in", home / "lake/night 1", also="packed,sharegpt,tokenized", sequence_length=600)
    write_jsonl(home / "taken/deep/b.jsonl", _rows("b again", 50))
    write_jsonl(home / "taken/d.jsonl", _rows("d", 150))
    compose(home / "taken", home / "lake/night 2", task_records=512, max_tiles=1)
    path = home / "lake/night 2/manifest.json"
    manifest = json.loads(path.read_text())
    before = json.loads((home / "lake/night 1/manifest.json").read_text())
    manifest["since"] = {
        "output": str(home / "lake/night 1"),
        "run": before["run"],
        "dataset_digest": before["dataset_digest"],
        "files": {"new": 1, "changed": 1, "carried": 2, "gone": 0},
        "changed": ["deep/b.jsonl"],
        "gone": [],
    }
    manifest["created"]["finished"] = "2100-01-01T00:00:00+00:00"
    path.write_text(json.dumps(manifest))
    return home


def _rows(name: str, rows: int) -> list[dict[str, str]]:
    return [
        {"prompt": f"Count from {n} for {name}.", "completion": " ".join(str(n + i) for i in range(3 + n % 9))}
        for n in range(rows)
    ]
