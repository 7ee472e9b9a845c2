"""What only a local disk has, and what needs no store; the common behaviour is in tests/conformance."""

from __future__ import annotations

import errno
import os
import pickle
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import InputError, SettingsError, StorageError
from mosaic_ray.io import storage as module
from mosaic_ray.io.failures import explain
from mosaic_ray.io.storage import RANGE_LIMIT, Storage


def at(path: Path) -> Storage:
    return Storage.at(str(path), error=StorageError)


def test_local_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Storage.at("a/b", error=StorageError).uri("c") == str(tmp_path / "a/b/c")
    assert Storage.at(f"file://{tmp_path}/a/", error=StorageError).uri() == str(tmp_path / "a")
    assert Storage.at("~/a", error=StorageError).uri() == str(tmp_path / "home/a")
    assert Storage.at("/", error=StorageError).uri("a") == "/a"


def test_remote_addresses() -> None:
    assert Storage.at("s3://b/c d/", error=StorageError).uri("e/f") == "s3://b/c d/e/f"
    assert Storage.at("s3://b", error=StorageError).uri() == "s3://b"
    assert Storage.at("memory://b/c", error=StorageError).uri("d") == "memory://b/c/d"


@pytest.mark.parametrize("name", ["key", "secret", "token", "password", "aws_secret_access_key", "sas_token"])
def test_credentials_in_options_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"option '{name}' would carry a credential; put credentials") as failure:
        Storage.at("s3://b", {name: "hunter2"}, error=StorageError)
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize(
    "uri", ["s3://key:hunter2@b/c", "https://h/f.jsonl?X-Amz-Signature=hunter2", "ftp://u:hunter2@h"]
)
def test_credentials_in_addresses_are_refused(uri: str) -> None:
    with pytest.raises(SettingsError, match="carries a credential; put credentials into the environment") as failure:
        Storage.at(uri, error=StorageError)
    assert "hunter2" not in str(failure.value)
    with pytest.raises(SettingsError, match="endpoint_url") as failure:
        Storage.at("s3://b", {"endpoint_url": uri}, error=StorageError)
    assert "hunter2" not in str(failure.value)


def test_other_options_and_addresses_are_not() -> None:
    options: dict[str, str | bool] = {"anon": True, "endpoint_url": "http://127.0.0.1:9000", "profile": "p"}
    assert dict(Storage.at("s3://b/a:b@c.json", options, error=StorageError).options) == options


@pytest.mark.parametrize(("uri", "package"), [("nonesuch://b/c", "its package"), ("gs://b/c", "gcsfs")])
def test_an_unknown_protocol_names_the_remedy(uri: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(
        InputError, match=rf"^{uri}: no file system for \w+:// is installed; .*\(pip install {package}\)"
    ):
        Storage.at(uri, error=InputError)


def test_a_pickle_holds_address_and_options_only(tmp_path: Path) -> None:
    used = at(tmp_path)
    used.publish("f", b"")
    assert pickle.loads(pickle.dumps(used)).__dict__ == at(tmp_path).__dict__


def test_publishing_leaves_only_the_file(tmp_path: Path) -> None:
    at(tmp_path).publish("d/f", b"1")
    assert [path.name for path in tmp_path.rglob("*")] == ["d", "f"]
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "d/f").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    at(tmp_path).publish("f", b"old")
    with pytest.raises(StorageError, match="/f: the store failed with TypeError"):
        at(tmp_path).publish("f", "no bytes")  # type: ignore[arg-type]
    assert at(tmp_path).read("f") == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_strays_are_invisible_and_can_be_removed(tmp_path: Path) -> None:
    store = at(tmp_path)
    store.publish("data/f.parquet", b"1")
    strays = [".f.parquet.123.0123abcd.tmp", ".g.h.4567.ffffffff.tmp"]
    kept = [".f.tmp", "f.parquet.123.0123abcd.tmp", ".f.parquet.12x.0123abcd.tmp", ".keep"]
    for name in strays + kept:
        (tmp_path / "data" / name).write_bytes(b"half")
    assert [path for path, _ in store.listing()] == sorted(f"data/{name}" for name in [*kept, "f.parquet"])
    assert store.remove_unfinished("nowhere") == []
    assert store.remove_unfinished("data") == [f"data/{name}" for name in strays]
    assert sorted(os.listdir(tmp_path / "data")) == sorted([*kept, "f.parquet"])


def test_a_killed_writer_leaves_a_stray_that_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that are removed are the names that are written."""
    seen: list[str] = []

    def replace(source: str, target: str) -> None:
        seen.append(os.path.basename(source))
        raise OSError(errno.EIO, "stop here", target)

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(StorageError):
        at(tmp_path).publish("f", b"1")
    (tmp_path / seen[0]).write_bytes(b"half")
    assert at(tmp_path).remove_unfinished() == seen


def test_links(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/f").write_bytes(b"abc")
    (tmp_path / "real/deep/up").symlink_to(tmp_path / "real")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real/f")
    (tmp_path / "broken").symlink_to(tmp_path / "gone")
    listed = {path: info.size for path, info in at(tmp_path).listing()}
    assert listed == {"broken": 0, "link": 3, "real/f": 3}
    assert [path for path, _ in at(tmp_path / "linked").listing()] == ["f"]
    with pytest.raises(StorageError, match=r"/broken: this is a link to something that is not there; correct the link"):
        at(tmp_path).open("broken")


def test_links_to_each_other(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_bytes(b"")
        (tmp_path / name / "l").symlink_to(f"../{other}")
    assert [path for path, _ in at(tmp_path).listing()] == ["a/f", "b/f"]
    assert [path for path, _ in at(tmp_path / "a").listing()] == ["f", "l/f"]


def test_a_glob_of_directories_alone_stands_for_their_files(tmp_path: Path) -> None:
    for name in ("p1/x", "p2/deep/y", "other/z"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"1")
    assert [path for path, _ in at(tmp_path).glob("p*")] == ["p1/x", "p2/deep/y"]
    (tmp_path / "p3").write_bytes(b"1")
    assert [path for path, _ in at(tmp_path).glob("p*")] == ["p3"]
    memory = Storage.at("memory://globbed-directories", error=InputError)
    memory.publish("p1/x", b"1")
    assert [path for path, _ in memory.glob("p*")] == ["p1/x"]


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (lambda store: store.read("d"), "/d: this is a directory, where a file is needed; correct the address"),
        (lambda store: store.open("d"), "/d: this is a directory, where a file is needed"),
        (lambda store: store.publish("d", b""), "/d: this is a directory, where a file is needed"),
        (lambda store: store.publish("f/g", b""), "/f/g: a part of this path is a file, where a directory is needed"),
        (lambda store: store.publish("x" * 300, b""), "the name is too long for the file system"),
        (lambda store: store.under("gone").require(), "/gone: there is no such file"),
    ],
)
def test_local_failures(tmp_path: Path, failing: object, words: str) -> None:
    store = at(tmp_path)
    store.publish("d/f", b"")
    store.publish("f", b"")
    with pytest.raises(StorageError, match=words):
        failing(store)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space is left on the disk; free some"),
        (errno.EACCES, "no permission; change it with chmod"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, r"the store failed with OSError \(\[Errno 5\] Input/output error\)"),
    ],
)
def test_failures_that_a_test_cannot_bring_about(number: int, words: str) -> None:
    sentence = explain(OSError(number, os.strerror(number)), "/data/f", "file", {}, lambda: None)
    with pytest.raises(StorageError, match=f"^/data/f: .*{words}"):
        raise StorageError(sentence)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))))
def test_ranges_are_merged_without_loss(ranges: list[tuple[int, int]]) -> None:
    scale = RANGE_LIMIT // 20
    ranges = [(start * scale, end * scale) for start, end in ranges]
    spans, span_of = module._merge(ranges)
    assert spans == sorted(spans)
    for start, end in ranges:
        if start < end:
            low, high = spans[span_of[start, end]]
            assert low <= start < end <= high
    longest = max((end - start for start, end in ranges), default=0)
    assert all(end - start <= max(RANGE_LIMIT, longest) for start, end in spans)


def test_touching_ranges_are_one_fetch() -> None:
    assert module._merge([(0, 10), (20, 30), (10, 20)])[0] == [(0, 30)]
    assert module._merge([(0, 10), (11, 20)])[0] == [(0, 10), (11, 20)]
    assert module._merge([(0, RANGE_LIMIT), (RANGE_LIMIT, RANGE_LIMIT + 1)])[0] == [
        (0, RANGE_LIMIT),
        (RANGE_LIMIT, RANGE_LIMIT + 1),
    ]
