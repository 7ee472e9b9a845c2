"""One behaviour for every store: a local disk, memory, and S3 over HTTP on 127.0.0.1."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.session
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import s3fs
from werkzeug import Request, Response
from werkzeug.serving import make_server

from mosaic_ray.errors import InputError, StorageError
from mosaic_ray.io.inventory import find_inputs, input_storage, take_inventory
from mosaic_ray.io.readers import read_cells, read_rows
from mosaic_ray.io.storage import RANGE_LIMIT, ChangedError, Storage
from mosaic_ray.records import Source

BUCKET = "corpus"


@pytest.fixture
def s3(s3_environment: str) -> Iterator[str]:
    """The environment a user of an S3 server has, and one bucket."""
    requests.post(f"{s3_environment}/moto-api/reset", timeout=10)
    s3fs.S3FileSystem().mkdir(BUCKET)
    yield s3_environment
    requests.post(f"{s3_environment}/moto-api/reset-auth", data="inf", timeout=10)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["file", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "s3":
        request.getfixturevalue("s3")
        return Storage.at(f"s3://{BUCKET}/run one", error=StorageError)
    root = str(tmp_path / "run one") if request.param == "file" else f"memory://{uuid.uuid4().hex}/run one"
    return Storage.at(root, error=StorageError)


class TestStorage:
    def test_a_file_comes_back_as_it_was_published(self, storage: Storage) -> None:
        storage.publish("a/b/c.bin", b"\x00one\xff")
        assert storage.read("a/b/c.bin") == b"\x00one\xff"
        assert storage.info("a/b/c.bin").size == 5
        storage.publish("a/b/c.bin", b"two")
        assert storage.read("a/b/c.bin") == b"two"
        assert storage.info("a/b/c.bin").size == 3

    def test_an_empty_file_is_a_file(self, storage: Storage) -> None:
        storage.publish("empty", b"")
        assert storage.exists("empty")
        assert storage.read("empty") == b""
        assert storage.open("empty").read() == b""

    def test_a_finished_local_file_is_published_and_stays(self, storage: Storage, tmp_path: Path) -> None:
        made = tmp_path / "made"
        made.write_bytes(b"0123456789" * 1000)
        storage.publish_file("x/copy", str(made))
        assert storage.read("x/copy") == made.read_bytes()
        assert storage.open("x/copy").read(25) == b"0123456789012345678901234"

    def test_creating_replaces_nothing(self, storage: Storage, tmp_path: Path) -> None:
        made = tmp_path / "made"
        made.write_bytes(b"third")
        assert storage.create("d/f", b"first")
        assert not storage.create("d/f", b"second")
        assert not storage.create_file("d/f", str(made))
        assert storage.read("d/f") == b"first"
        assert storage.create_file("d/g", str(made))
        assert not storage.create("d/g", b"first")
        assert storage.read("d/g") == b"third"
        assert [path for path, _ in storage.listing()] == ["d/f", "d/g"]

    def test_creating_the_same_again_succeeds(self, storage: Storage) -> None:
        """The answer to a try may have been lost, and the next one must not take its own file for another's."""
        assert storage.create("f", b"mine")
        assert storage.create("f", b"mine")

    def test_of_many_who_create_one_succeeds(self, storage: Storage) -> None:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda n: storage.create("f", b"by %d" % n), range(8)))
        assert sum(made) == 1
        assert storage.read("f") == b"by %d" % made.index(True)

    def test_existence_is_of_files(self, storage: Storage) -> None:
        assert not storage.exists("d/f")
        storage.publish("d/f", b"1")
        assert storage.exists("d/f")
        assert not storage.exists("d")
        assert not storage.exists("d/f/g")
        storage.delete("d/f")
        assert not storage.exists("d/f")

    def test_deleting_what_is_not_there_is_fine(self, storage: Storage) -> None:
        storage.publish("there", b"1")
        storage.delete("not there")
        assert storage.exists("there")

    def test_a_listing_is_recursive_sorted_and_fresh(self, storage: Storage) -> None:
        assert list(storage.listing()) == []
        for name in ("b", "a/z", "a/y/x", "a.txt"):
            storage.publish(name, name.encode())
        assert [path for path, _ in storage.listing()] == ["a.txt", "a/y/x", "a/z", "b"]
        assert [(path, info.size) for path, info in storage.listing("a")] == [("a/y/x", 5), ("a/z", 3)]
        assert list(storage.listing("none")) == []
        storage.publish("a/0", b"")
        assert [path for path, _ in storage.listing("a")] == ["a/0", "a/y/x", "a/z"]

    def test_listing_and_info_agree(self, storage: Storage) -> None:
        storage.publish("f", b"abc")
        assert dict(storage.listing())["f"] == storage.info("f")

    def test_a_root_may_be_a_file(self, storage: Storage) -> None:
        storage.publish("d/one.txt", b"abcdef")
        one = storage.under("d/one.txt")
        assert one.uri() == storage.uri("d/one.txt")
        assert [(path, info.size) for path, info in one.listing()] == [("", 6)]
        assert one.read("") == b"abcdef"
        assert one.read_ranges("", [(1, 3)]) == [b"bc"]

    def test_globs(self, storage: Storage) -> None:
        for name in ("a/1.txt", "a/2.txt", "a/2.bin", "a/b/3.txt", "4.txt"):
            storage.publish(name, b"")
        assert [path for path, _ in storage.glob("a/*.txt")] == ["a/1.txt", "a/2.txt"]
        assert [path for path, _ in storage.glob("a/[23].*")] == ["a/2.bin", "a/2.txt"]
        assert [path for path, _ in storage.glob("**/*.txt")] == ["4.txt", "a/1.txt", "a/2.txt", "a/b/3.txt"]
        assert list(storage.glob("*.csv")) == []
        assert list(storage.glob("none/*.txt")) == []

    def test_ranges_come_in_the_order_asked_for(self, storage: Storage) -> None:
        data = bytes(i % 251 for i in range(5000))
        storage.publish("f", data)
        ranges = [(100, 200), (0, 100), (4000, 5000), (150, 250), (7, 7), (4990, 6000)]
        assert storage.read_ranges("f", ranges) == [data[start:end] for start, end in ranges]
        assert storage.read_ranges("f", []) == []

    def test_ranges_longer_than_a_fetch(self, storage: Storage) -> None:
        data = bytes(range(256)) * ((3 * RANGE_LIMIT) // 256)
        storage.publish("f", data)
        step = RANGE_LIMIT // 3 + 1
        ranges = [(start, min(start + step, len(data))) for start in range(0, len(data), step)]
        assert b"".join(storage.read_ranges("f", ranges)) == data

    def test_random_access(self, storage: Storage) -> None:
        storage.publish("f", bytes(range(200)))
        with storage.open_random("f") as file:
            file.seek(-10, 2)
            assert file.tell() == 190
            assert file.read() == bytes(range(190, 200))
            file.seek(5)
            assert file.read(2) == b"\x05\x06"

    def test_two_readers_do_not_share_a_position(self, storage: Storage) -> None:
        storage.publish("f", b"abcdef")
        with storage.open("f") as one, storage.open("f") as two:
            assert (one.read(3), two.read(2), one.read(3)) == (b"abc", b"ab", b"def")

    def test_missing_files_are_named(self, storage: Storage) -> None:
        storage.publish("there", b"")
        reads = (storage.info, storage.read, storage.open, storage.open_random)
        for read in (*reads, lambda path: storage.read_ranges(path, [(0, 1)])):
            with pytest.raises(StorageError) as failure:
                read("gone")
            assert str(failure.value).startswith(f"{storage.uri('gone')}: there is no such file")

    def test_a_directory_is_no_file(self, storage: Storage) -> None:
        storage.publish("d/f", b"")
        with pytest.raises(StorageError, match="/d: this is a directory, where a file is needed"):
            storage.info("d")

    def test_a_pickle_works_elsewhere(self, storage: Storage) -> None:
        storage.publish("f", b"abc")
        assert pickle.loads(pickle.dumps(storage)).read("f") == b"abc"

    def test_failures_are_of_the_class_asked_for(self, storage: Storage) -> None:
        source = Storage(storage.protocol, storage.root, storage.options, InputError)
        with pytest.raises(InputError, match="gone"):
            source.read("gone")


@pytest.mark.usefixtures("s3")
def test_a_pickle_works_in_another_process_and_holds_no_secret() -> None:
    storage = Storage.at(f"s3://{BUCKET}", error=StorageError)
    storage.publish("f", b"abc")
    pickled = pickle.dumps(storage)
    assert b"a-secret-nobody-may-see" not in pickled
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).read('f'))"
    done = subprocess.run([sys.executable, "-c", code], input=pickled, capture_output=True, timeout=60, check=True)
    assert done.stdout.strip() == b"b'abc'"


def test_the_endpoint_may_be_an_option(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    storage = Storage.at(f"s3://{BUCKET}", {"endpoint_url": s3}, error=StorageError)
    storage.publish("f", b"abc")
    assert storage.read("f") == b"abc"


@pytest.mark.usefixtures("s3")
def test_a_file_replaced_under_its_reader_is_not_mixed() -> None:
    storage = Storage.at(f"s3://{BUCKET}", error=InputError)
    storage.publish("f", b"old" * 1000)
    with storage.open_random("f") as file:
        assert file.read(3) == b"old"
        storage.publish("f", b"new" * 1000)
        with pytest.raises(InputError, match=f"^s3://{BUCKET}/f: the file was replaced while it was read; let its"):
            file.read(3)


@pytest.mark.usefixtures("s3")
def test_a_read_is_of_the_file_that_is_meant() -> None:
    storage = Storage.at(f"s3://{BUCKET}", error=InputError)
    storage.publish("f", b"old" * 1000)
    known = storage.info("f").etag
    with storage.open("f", etag=known) as file:
        assert file.read(3) == b"old"
    assert storage.read_ranges("f", [(0, 3)], etag=known) == [b"old"]
    storage.publish("f", b"new" * 1000)
    for read in (storage.open, storage.open_random, lambda path, etag: storage.read_ranges(path, [(0, 3)], etag=etag)):
        with pytest.raises(InputError, match="the file was replaced while it was read") as failure:
            read("f", etag=known)
        assert isinstance(failure.value.__cause__, ChangedError)
        assert not failure.value.passing


@pytest.mark.usefixtures("s3")
def test_a_store_that_has_answered_is_there_for_every_process() -> None:
    """An input's storage of the driver is never asked: the workers must not take the store for a wrong address."""
    asked, never = (Storage.at(f"s3://{BUCKET}/{name}", error=StorageError, patience=77) for name in ("a", "b"))
    assert b"_answered" not in pickle.dumps(never)
    asked.publish("f", b"")
    assert b"_answered" in pickle.dumps(never)
    assert pickle.loads(pickle.dumps(never)).exists("f") is False


@pytest.mark.usefixtures("s3")
def test_uploads_that_were_not_completed_are_removed() -> None:
    storage = Storage.at(f"s3://{BUCKET}/run", error=StorageError)
    s3 = s3fs.S3FileSystem()
    for key in ("run/data/a", "run/_mosaic/b", "other/c"):
        s3.call_s3("create_multipart_upload", Bucket=BUCKET, Key=key)
    assert sorted(storage.remove_unfinished()) == ["_mosaic/b", "data/a"]
    assert [left["Key"] for left in s3.call_s3("list_multipart_uploads", Bucket=BUCKET)["Uploads"]] == ["other/c"]


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize("name", ["a b", "a%20b", "a?versionId=1", "a#b", "a+b&c", "é\u202e", "a[1]*"])
def test_any_key_is_itself(name: str) -> None:
    storage = Storage.at(f"s3://{BUCKET}/run", error=StorageError)
    storage.publish(f"d/{name}", b"abc")
    assert storage.read(f"d/{name}") == b"abc"
    assert [path for path, _ in storage.listing()] == [f"d/{name}"]
    assert storage.open_random(f"d/{name}").read() == b"abc"
    storage.delete(f"d/{name}")
    assert not storage.exists(f"d/{name}")


@pytest.mark.usefixtures("s3")
def test_a_long_file_reaches_s3_in_parts_and_whole(tmp_path: Path) -> None:
    data = b"0123456789abcdef" * (40 << 16)
    made = tmp_path / "made"
    made.write_bytes(data)
    storage = Storage.at(f"s3://{BUCKET}", error=StorageError)
    storage.publish_file("long", str(made))
    assert storage.read("long") == data
    assert "-" in (storage.info("long").etag or "")  # of several parts


def test_an_upload_that_fails_midway_leaves_nothing(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = make_server("127.0.0.1", 0, _RefusesSecondPart(s3), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    s3fs.S3FileSystem.clear_instance_cache()
    made = tmp_path / "made"
    made.write_bytes(bytes(40 << 20))
    storage = Storage.at(f"s3://{BUCKET}", error=StorageError)
    try:
        with pytest.raises(StorageError, match="/long: the credentials in use do not permit this"):
            storage.publish_file("long", str(made))
        assert not storage.exists("long")
        assert s3fs.S3FileSystem().call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", []) == []
    finally:
        server.shutdown()
        thread.join()


class _RefusesSecondPart:
    """Passes requests on to an S3 server, except the second part of an upload."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __call__(self, environ: Any, start_response: Any) -> Any:
        asked = Request(environ)
        if asked.args.get("partNumber") == "2":
            body = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
            return Response(body, status=403, content_type="application/xml")(environ, start_response)
        told = requests.request(
            asked.method,
            self._address + asked.full_path,
            data=asked.get_data(),
            headers={name: value for name, value in asked.headers.items() if name.lower() != "host"},
            timeout=30,
        )
        return Response(told.content, status=told.status_code, headers=dict(told.headers))(environ, start_response)


def test_a_missing_bucket_is_told_from_a_missing_key(s3: str) -> None:
    here = Storage.at(f"s3://{BUCKET}/d", error=StorageError)
    nowhere = Storage.at("s3://nonesuch/d", error=StorageError)
    with pytest.raises(StorageError) as missing_key:
        here.info("f")
    assert str(missing_key.value) == f"s3://{BUCKET}/d/f: there is no such file or folder; correct the address."
    for failing in (
        lambda: nowhere.info("f"),
        lambda: nowhere.read("f"),
        lambda: nowhere.open("f"),
        lambda: list(nowhere.listing()),
        nowhere.require,
        lambda: nowhere.publish("f", b""),
    ):
        with pytest.raises(
            StorageError, match=rf"^s3://nonesuch/d(/f)?: there is no bucket 'nonesuch' at {s3}; create"
        ):
            failing()


@pytest.mark.parametrize("call", ["info", "read", "listing", "publish", "open"])
def test_wrong_credentials(s3: str, call: str) -> None:
    storage = Storage.at(f"s3://{BUCKET}", error=StorageError)
    storage.publish("f", b"abc")
    requests.post(f"{s3}/moto-api/reset-auth", data="0", timeout=10)
    with pytest.raises(StorageError) as failure:
        list(storage.listing()) if call == "listing" else getattr(storage, call)(
            *["f", b"x"][: 1 + (call == "publish")]
        )
    message = str(failure.value)
    assert f"{s3} does not accept the credentials (InvalidAccessKeyId); correct AWS_ACCESS_KEY_ID" in message
    assert message.startswith(f"s3://{BUCKET}")
    assert "secret-nobody" not in message
    assert "AKIATEST" not in message


def test_a_wrong_secret_and_a_missing_permission(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage.at(f"s3://{BUCKET}", error=StorageError)
    storage.publish("f", b"abc")
    user = _user_without_permissions(s3)
    requests.post(f"{s3}/moto-api/reset-auth", data="0", timeout=10)
    for secret, words in ((user[1], "the credentials in use do not permit this"), ("x" * 40, "SignatureDoesNotMatch")):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", user[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        s3fs.S3FileSystem.clear_instance_cache()
        fresh = Storage.at(f"s3://{BUCKET}", error=StorageError)
        for failing in (lambda: fresh.info("f"), lambda: fresh.publish("f", b"")):  # noqa: B023 - called at once
            with pytest.raises(StorageError, match=words) as failure:
                failing()
            assert secret not in str(failure.value)


@pytest.mark.usefixtures("s3")
def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match=r"no usable credentials were found .*set AWS_ACCESS_KEY_ID and .*anon=true"):
        Storage.at(f"s3://{BUCKET}", error=StorageError, patience=1).read(
            "f"
        )  # where there were some, it waits for new


@pytest.mark.usefixtures("s3")
def test_an_unreachable_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    for endpoint in (address, address.replace("//", "//user:hunter2@")):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StorageError) as failure:
            Storage.at(f"s3://{BUCKET}", error=StorageError).read("f")
        assert str(failure.value).startswith(f"s3://{BUCKET}/f: {address} cannot be reached (")
        assert "check the address, the network and AWS_ENDPOINT_URL" in str(failure.value)
        assert "hunter2" not in str(failure.value)


@pytest.mark.usefixtures("s3")
def test_a_refused_option_is_named() -> None:
    with pytest.raises(StorageError, match=r"refuses the storage options \['nonesuch'\]"):
        Storage.at(f"s3://{BUCKET}", {"nonesuch": "1"}, error=StorageError).read("f")


@pytest.mark.parametrize("cell_records", [4, 100])
def test_an_input_reads_the_same_wherever_it_lies(storage: Storage, cell_records: int) -> None:
    """Found, taken stock of, staged where needed, and read, on one store."""
    rows = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(50)]
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), table)
    storage.publish("in/a.jsonl", text)
    storage.publish("in/b.jsonl.gz", gzip.compress(text, mtime=0))
    storage.publish("in/c.parquet", table.getvalue())
    storage.publish("in/d/e.json", json.dumps(rows).encode())
    found = find_inputs([storage.uri("in")])
    assert [file.name for file in found.files] == ["a.jsonl", "b.jsonl.gz", "c.parquet", "d/e.json"]
    assert [file.name for file in find_inputs([storage.uri("in/*.gz"), storage.uri("in/d/e.json")]).files] == [
        "b.jsonl.gz",
        "e.json",
    ]
    source = input_storage(storage.uri("in"))
    for each in found.files:
        file = take_inventory(each, source=source, cell_records=cell_records, stage=storage.under("out"))
        assert file.staged == (cell_records == 4 and each.name != "a.jsonl")
        assert (file.digest is None) == (each.name == "c.parquet" and storage.protocol == "s3")
        read = list(read_cells(file, file.cells, source=source, stage=storage.under("out")))
        assert read == [(Source(each.name, i), row) for i, row in enumerate(rows)]
        assert list(read_rows(file, [(10, 12)], source=source)) == read[10:12]
        time.sleep(0.002)  # a memory file knows when it was made to the microsecond
        content = bytearray(source.read(file.path))
        content[len(content) // 2] ^= 1
        source.publish(file.path, bytes(content))
        with pytest.raises(InputError, match="the file has changed since this run took its inventory"):
            list(read_cells(file, file.cells, source=source, stage=storage.under("out")))


def test_no_reader_ever_sees_half_a_file(storage: Storage) -> None:
    """One writer replaces a file over and over while another reads it."""
    versions = [bytes([letter]) * 200_000 for letter in b"abcd"]
    storage.publish("f", versions[0])
    stop = time.monotonic() + 1.0

    def write() -> None:
        while time.monotonic() < stop:
            for version in versions:
                storage.publish("f", version)

    writer = threading.Thread(target=write)
    writer.start()
    seen = [storage.read("f") for _ in range(20)]
    writer.join()
    assert set(seen) <= set(versions)


def _user_without_permissions(address: str) -> tuple[str, str]:
    """Key and secret."""
    client = botocore.session.get_session().create_client("iam", endpoint_url=address, region_name="us-east-1")
    client.create_user(UserName="nobody")
    key = client.create_access_key(UserName="nobody")["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]
