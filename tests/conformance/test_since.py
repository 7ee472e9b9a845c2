"""Snapshots: each night takes what is new or changed, once, whatever happens between."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import s3fs
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_ray.cli import app
from mosaic_ray.errors import ConcurrentRunError, DriftError, SettingsError, StorageError

OPTIONS = ["--tokenizer", "embedded", "--engine", "in-process", "--task-records", "16", "--epochs", "1"]


class Lake:
    """An input and a directory of snapshots, on a disk or in a bucket."""

    def __init__(self, home: str, files: Any) -> None:
        self.home = home
        self.files = files

    def write(self, name: str, first: int, count: int = 20) -> None:
        rows = [{"prompt": f"Say {n}.", "completion": f"{name} {n}"} for n in range(first, first + count)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        self.files.pipe_file(f"{self.home}/in/{name}", text.encode())

    def remove(self, name: str) -> None:
        self.files.rm(f"{self.home}/in/{name}")

    def run(self, night: str, *more: str, since: str | None = "") -> str:
        """Make a snapshot; what the log says. since: under the home; the directory of the snapshots by default."""
        chain = [] if since is None else ["--since", f"{self.home}/sets{since}"]
        places = ["--input", f"{self.home}/in", "--output", f"{self.home}/sets/{night}"]
        done = CliRunner().invoke(app, ["run", *places, *chain, *OPTIONS, *more])
        if done.exception is not None:
            raise done.exception
        return done.output

    def has(self, path: str) -> bool:
        return bool(self.files.exists(f"{self.home}/sets/{path}"))

    def manifest(self, night: str) -> dict[str, Any]:
        return dict(json.loads(self.files.cat_file(f"{self.home}/sets/{night}/manifest.json")))

    def taken(self, night: str) -> list[str]:
        return [file["name"] for file in self.manifest(night)["inventory"]]

    def records(self, night: str) -> Counter[str]:
        """Each record as ``file:row``, and in how many samples it is."""
        found: Counter[str] = Counter()
        for part in self.manifest(night)["parts"]:
            with self.files.open(f"{self.home}/sets/{night}/{part['name']}", "rb") as file:
                for row in pq.ParquetFile(file).read(["sources"]).to_pylist():
                    found.update(f"{source['file']}:{source['row']}" for source in row["sources"])
        return found


@pytest.fixture(params=["file", "s3"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    if request.param == "file":
        return local_lake(tmp_path)
    bucket = request.getfixturevalue("s3_bucket")
    return Lake(f"s3://{bucket}", s3fs.S3FileSystem(use_listings_cache=False))


def local_lake(folder: Path) -> Lake:
    from fsspec.implementations.local import LocalFileSystem

    return Lake(str(folder), LocalFileSystem(auto_mkdir=True))


def test_each_night_takes_what_is_new_or_changed(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mosaic_ray")
    for name in ("a.jsonl", "b.jsonl", "c.jsonl"):
        lake.write(name, 0)
    lake.run("n1")
    first = lake.manifest("n1")
    assert lake.taken("n1") == ["a.jsonl", "b.jsonl", "c.jsonl"]
    assert first["since"]["files"] == {"new": 3, "changed": 0, "carried": 0, "gone": 0}
    assert first["since"]["run"] is None
    lake.write("b.jsonl", 100)
    lake.write("d.jsonl", 0, count=30)
    lake.remove("c.jsonl")
    lake.run("n2")
    second = lake.manifest("n2")
    assert lake.taken("n2") == ["b.jsonl", "d.jsonl"]
    assert second["since"] == {
        "output": f"{lake.home}/sets/n1",
        "run": first["run"],
        "dataset_digest": first["dataset_digest"],
        "files": {"new": 1, "changed": 1, "carried": 1, "gone": 1},
        "changed": ["b.jsonl"],
        "gone": ["c.jsonl"],
    }
    assert second["accounting"]["records"] == 50
    assert lake.records("n2") == Counter([f"b.jsonl:{n}" for n in range(20)] + [f"d.jsonl:{n}" for n in range(30)])
    lake.files.pipe_file(f"{lake.home}/in/empty.jsonl", b"")
    lake.run("n3")
    assert "nothing is new since" in caplog.text
    assert not lake.has("n3")
    lake.write("e.jsonl", 0)
    lake.files.rm(f"{lake.home}/sets/n1", recursive=True)
    lake.run("n4")  # of its ancestors it needs its parent alone
    assert lake.taken("n4") == ["e.jsonl"]
    assert lake.manifest("n4")["since"]["files"] == {"new": 1, "changed": 0, "carried": 3, "gone": 0}


@pytest.mark.parametrize("address", ["/n1", "/n1/manifest.json"])
def test_a_parent_may_be_named_itself(lake: Lake, address: str) -> None:
    lake.write("a.jsonl", 0)
    lake.run("n1", since=None)
    assert "since" not in lake.manifest("n1")
    lake.write("b.jsonl", 0)
    lake.run("n2", since=address)
    assert lake.taken("n2") == ["b.jsonl"]
    assert lake.manifest("n2")["since"]["run"] == lake.manifest("n1")["run"]


def test_what_was_rewritten_with_the_same_bytes_is_not_taken(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        lake.write(name, 0)
    lake.run("n1")
    os.utime(tmp_path / "in" / "a.jsonl", ns=(1, 1))
    lake.run("n2")
    assert not lake.has("n2")
    lake.write("c.jsonl", 0)
    lake.run("n2")
    assert lake.taken("n2") == ["c.jsonl"]
    assert lake.manifest("n2")["since"]["files"] == {"new": 1, "changed": 0, "carried": 2, "gone": 0}


def test_a_night_that_is_resumed_leaves_what_came_meanwhile_to_the_next(lake: Lake) -> None:
    lake.write("a.jsonl", 0)
    lake.run("n1")
    lake.write("b.jsonl", 0, count=64)
    lake.run("n2")
    whole = lake.manifest("n2")
    for path in ("manifest.json", whole["parts"][1]["name"]):
        lake.files.rm(f"{lake.home}/sets/n2/{path}")
    lake.write("c.jsonl", 0)
    lake.run("n2")
    assert lake.manifest("n2")["dataset_digest"] == whole["dataset_digest"]
    assert lake.taken("n2") == ["b.jsonl"]
    lake.write("b.jsonl", 500)
    lake.run("n2")  # finished: what has changed since is no business of it
    assert lake.manifest("n2")["dataset_digest"] == whole["dataset_digest"]
    lake.run("n3")
    assert lake.taken("n3") == ["b.jsonl", "c.jsonl"]
    assert lake.manifest("n3")["since"]["changed"] == ["b.jsonl"]


def test_a_file_that_changes_between_two_starts_of_a_night_is_refused(lake: Lake) -> None:
    lake.write("a.jsonl", 0)
    lake.run("n1")
    lake.write("b.jsonl", 0, count=64)
    lake.run("n2")
    lake.files.rm(f"{lake.home}/sets/n2/manifest.json")
    lake.write("b.jsonl", 7, count=64)
    with pytest.raises(DriftError, match=r"holds a run over other input: b\.jsonl has changed"):
        lake.run("n2")


def test_two_snapshots_never_take_the_same_files(lake: Lake) -> None:
    lake.write("a.jsonl", 0)
    lake.run("n1")
    lake.write("b.jsonl", 0)
    lake.run("n2")
    lake.files.rm(f"{lake.home}/sets/n2/manifest.json")
    lake.run("n3")
    assert lake.taken("n3") == ["b.jsonl"]
    with pytest.raises(DriftError, match=r"n2 was begun before \S+n3 was finished, so both would take the same files"):
        lake.run("n2")


def test_a_snapshot_finished_meanwhile_keeps_another_from_being_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = local_lake(tmp_path)
    lake.write("a.jsonl", 0)
    lake.run("n1")
    lake.write("b.jsonl", 0)
    from mosaic_ray.runtime import driver

    begun: list[str] = []
    run_tasks = driver.run_tasks

    def overtaken(*arguments: Any) -> None:
        run_tasks(*arguments)
        if not begun:
            begun.append("n3")
            lake.run("n3")

    monkeypatch.setattr(driver, "run_tasks", overtaken)
    with pytest.raises(
        ConcurrentRunError, match=r"n3 was finished after \S+n2 was begun, and both take the same files"
    ):
        lake.run("n2")
    assert not lake.has("n2/manifest.json")


@pytest.mark.parametrize(
    ("since", "words"),
    [
        ("/none", r"--since \S+/sets/none: no finished data set there, nor in a directory under it"),
        ("s", r"for the first snapshot of a chain give the directory that --output lies in, \S+/sets$"),
    ],
)
def test_an_address_without_a_data_set_is_refused(lake: Lake, since: str, words: str) -> None:
    lake.write("a.jsonl", 0)
    with pytest.raises(SettingsError, match=words):
        lake.run("n1", since=since)
    assert not lake.has("n1")


def test_with_or_without_since_is_another_run(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    lake.write("a.jsonl", 0)
    lake.run("n1")
    with pytest.raises(DriftError, match="differ in since"):
        lake.run("n1", since=None)
    lake.run("n2", since=None)
    with pytest.raises(DriftError, match="differ in since"):
        lake.run("n2")


def test_a_snapshot_that_lost_a_part_is_mended_though_others_go_on_from_it(lake: Lake) -> None:
    for night in range(1, 5):
        lake.write(f"{night}.jsonl", 0, count=40)
        lake.run(f"n{night}")
    before = lake.manifest("n2")
    lake.files.rm(f"{lake.home}/sets/n1", recursive=True)  # neither is its parent needed
    for lost in (before["parts"][0]["name"], "manifest.json"):  # the second as if it had been stopped while it mended
        lake.files.rm(f"{lake.home}/sets/n2/{lost}")
        lake.run("n2")
        after = lake.manifest("n2")
        assert {**after, "created": 0} == {**before, "created": 0}
    lake.write("5.jsonl", 0)
    lake.run("n5")
    assert lake.taken("n5") == ["5.jsonl"]


def test_what_a_snapshot_takes_is_never_guessed(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    lake.write("a.jsonl", 0)
    lake.run("n1")
    lake.write("b.jsonl", 0, count=64)
    lake.run("n2")
    lake.files.rm(f"{lake.home}/sets/n2/manifest.json")
    (tmp_path / "sets" / "n2" / "_mosaic" / "inventory.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"what this snapshot takes is not known\. Delete it \(mosaic-ray delete "):
        lake.run("n2")


@pytest.mark.parametrize("path", ["_mosaic/inventory.parquet", "_mosaic/known.parquet"])
def test_a_parent_that_is_damaged_is_named(tmp_path: Path, path: str) -> None:
    lake = local_lake(tmp_path)
    lake.write("a.jsonl", 0)
    lake.run("n1", since=None if "inventory" in path else "")
    (tmp_path / "sets" / "n1" / path).write_bytes(b"PAR1 no more PAR1")
    lake.write("b.jsonl", 0)
    with pytest.raises(StorageError, match=rf"n1/{path}: damaged .* what it has taken is not known"):
        lake.run("n2")
    (tmp_path / "sets" / "n1" / path).unlink()
    with pytest.raises(StorageError, match=rf"n1/{path}"):
        lake.run("n2")


def test_plan_says_what_is_new(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    lake.write("a.jsonl", 0)
    lake.run("n1")

    def plan() -> str:
        places = ["--input", f"{lake.home}/in", "--output", f"{lake.home}/sets/n2", "--since", f"{lake.home}/sets"]
        return CliRunner().invoke(app, ["plan", *places, *OPTIONS], catch_exceptions=False).output

    assert "nothing is new" in plan()
    lake.write("b.jsonl", 0)
    assert "b.jsonl" in plan()
    assert "a.jsonl" not in plan()
    assert not lake.has("n2")


def test_verify_and_explain_know_a_snapshot(tmp_path: Path) -> None:
    lake = local_lake(tmp_path)
    lake.write("a.jsonl", 0)
    lake.run("n1")
    lake.write("b.jsonl", 0)
    lake.run("n2")
    lake.write("c.jsonl", 0)
    for night in ("n1", "n2"):
        checked = ["verify", f"{lake.home}/sets/{night}", "--recompute", "1", "--engine", "in-process"]
        assert "verified" in CliRunner().invoke(app, checked, catch_exceptions=False).output


NAMES = ("a.jsonl", "b.jsonl", "c.jsonl")
Night = dict[str, int | None]


@settings(max_examples=12)
@given(nights=st.lists(st.dictionaries(st.sampled_from(NAMES), st.none() | st.integers(0, 3), max_size=3), min_size=1,
                       max_size=4))  # fmt: skip
def test_every_version_of_every_file_is_taken_once(
    tmp_path_factory: pytest.TempPathFactory, nights: list[Night]
) -> None:
    folder = tmp_path_factory.mktemp("lake")
    lake = local_lake(folder)
    lake.write("base.jsonl", 0)
    there: dict[str, int] = {"base.jsonl": 0}
    taken: dict[str, int] = {}
    for number, night in enumerate(nights):
        for name, version in night.items():
            if version is None:
                if there.pop(name, None) is not None:
                    lake.remove(name)
            elif there.get(name) != version:
                there[name] = version
                lake.write(name, 1000 * version)
        expected = sorted(name for name, version in there.items() if taken.get(name) != version)
        lake.run(f"n{number}")
        assert lake.has(f"n{number}/manifest.json") == bool(expected)
        if expected:
            assert lake.taken(f"n{number}") == expected
            taken = dict(there)
    shutil.rmtree(folder)
