"""Data sets side by side: which there are, which is the newest, and which go on from which."""

from __future__ import annotations

import os
from pathlib import Path

import orjson
import pytest

from mosaic_ray.errors import SettingsError, StorageError, VerificationError
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.lease import hold
from mosaic_ray.runtime.snapshots.chain import going_on_from, in_order_of_deletion, run_of
from mosaic_ray.runtime.snapshots.listing import above, data_sets_at, newest_finished, open_data_set, snapshots
from tests.unit.runtime.snapshots.conftest import put_data_set


def names(places: list[Storage]) -> list[str]:
    return [place.root.rpartition("/")[2] for place in places]


def local(path: Path) -> Storage:
    return Storage.at(str(path), error=StorageError)


class TestStores:
    """What this asks of a store that nothing else does."""

    def test_the_directories_directly_below(self, root: Storage) -> None:
        assert root.folders() == []
        for path in ("b/f", "a b/c/f", "a b/d/f", "f"):
            root.publish(path, b"")
        assert root.folders() == ["a b", "b"]
        assert root.folders("a b") == ["a b/c", "a b/d"]
        assert root.folders("f") == root.folders("none") == []
        assert root.under("a b").folders() == ["c", "d"]

    def test_many_files_are_deleted(self, root: Storage) -> None:
        paths = [f"d/{number}+ &%<é>" for number in range(9)]
        for path in (*paths, "d/e/f"):
            root.publish(path, b"")
        root.delete_all([*paths, "d/not there"])
        root.delete_all([])
        assert [path for path, _ in root.listing()] == ["d/e/f"]

    def test_only_empty_directories_go(self, root: Storage) -> None:
        root.publish("d/e/f", b"")
        root.publish("g/h/i", b"")
        root.delete("g/h/i")
        root.remove_empty()
        assert [path for path, _ in root.listing()] == ["d/e/f"]
        if root.local:
            assert not os.path.exists(f"{root.root}/g")
            root.delete("d/e/f")
            root.remove_empty()
            assert not os.path.exists(root.root)


class TestNewest:
    def test_it_was_finished_last_whatever_its_name(self, root: Storage) -> None:
        put_data_set(root.under("z"), finished="2026-11-20T01:00:00+00:00")
        put_data_set(root.under("a"), finished="2026-11-22T02:00:00+02:00", run="v1:newest")
        put_data_set(root.under("m"), finished="2026-11-21T23:30:00+00:00")
        put_data_set(root.under("y"), finished=None)
        root.publish("notes/today.txt", b"")
        newest = newest_finished(root)
        assert newest is not None
        assert (newest.name, newest.manifest["run"]) == ("a", "v1:newest")
        assert newest.storage.uri() == root.uri("a")
        assert "parts" not in newest.manifest
        other = newest_finished(root, but=f"{root.uri('a')}/")
        assert other is not None
        assert other.name == "m"

    def test_of_one_second_the_last_by_name(self, tmp_path: Path) -> None:
        for name in ("2", "10", "1"):
            put_data_set(local(tmp_path / name))
        newest = newest_finished(local(tmp_path))
        assert newest is not None
        assert newest.name == "2"

    def test_there_is_none(self, root: Storage) -> None:
        assert newest_finished(root) is None
        put_data_set(root.under("only"))
        assert newest_finished(root, but=root.uri("only")) is None

    def test_a_damaged_one_may_be_the_newest(self, root: Storage) -> None:
        put_data_set(root.under("a"))
        root.publish("b/manifest.json", b"{")
        with pytest.raises(VerificationError, match=r"/b/manifest\.json: damaged"):
            newest_finished(root)


def test_a_data_set_is_opened_by_its_directory_or_its_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for address in (str(tmp_path), f"{tmp_path}/", f"{tmp_path}/manifest.json", ".", "manifest.json"):
        assert open_data_set(address).uri() == str(tmp_path)
    assert open_data_set("s3://lake/a/manifest.json", {"profile": "p"}).uri() == "s3://lake/a"
    assert open_data_set("s3://lake/my-manifest.json").uri() == "s3://lake/my-manifest.json"
    with pytest.raises(SettingsError, match="carries a credential"):
        open_data_set("s3://me:mine@lake/manifest.json")


class TestListed:
    def test_each_in_its_state(self, root: Storage) -> None:
        put_data_set(root.under("second"), finished="2026-11-21T01:00:00+00:00", run="v1:two", since="v1:one")
        put_data_set(root.under("first"))
        put_data_set(root.under("begun"), finished=None)
        root.publish("torn/manifest.json", b"{}")
        root.publish("a stray/f", b"")
        root.publish("gone/_mosaic/leases/00001.json", orjson.dumps({"ended": True}))
        with hold(root.under("at work")):
            found = {one.name: one for one in snapshots(root)}
        assert {name: one.state for name, one in found.items()} == {
            "a stray": "stray", "begun": "unfinished", "torn": "damaged", "first": "finished", "second": "finished",
            "gone": "unfinished", "at work": "running",
        }  # fmt: skip
        assert list(found)[-4:-2] == ["first", "second"]
        assert found["second"].to_dict() == {
            "name": "second", "state": "finished", "when": "2026-11-21T01:00:00+00:00", "parent": "parent of v1:two",
            "changes": {"new": 1, "changed": 2, "carried": 3, "gone": 0}, "files": 1, "records": 12_345,
            "samples": 4000, "tokens": 9_876_543, "size": 2 * len("data/train-00000-of-00002.parquet") + 7,
            "digest": "v1:digest of v1:two", "problem": None,
        }  # fmt: skip
        assert (found["first"].parent, found["first"].changes) == (None, None)
        assert "torn/manifest.json: damaged" in str(found["torn"].problem)

    def test_a_run_that_ended_or_died_is_not_at_work(self, tmp_path: Path) -> None:
        with hold(local(tmp_path / "ended")):
            pass
        with hold(local(tmp_path / "old")):
            (tmp_path / "foreign").mkdir()
            said = orjson.loads((tmp_path / "old/_mosaic/leases/00001.json").read_bytes())
        elsewhere = tmp_path / "silent/_mosaic/leases/00003.json"
        elsewhere.parent.mkdir(parents=True)
        elsewhere.write_bytes(orjson.dumps({**said, "ended": False, "host": "another"}))
        os.utime(elsewhere, (1e9, 1e9))
        dead = tmp_path / "dead/_mosaic/leases/00001.json"
        dead.parent.mkdir(parents=True)
        dead.write_bytes(orjson.dumps({**said, "ended": False, "began": "another process"}))
        states = {one.name: one.state for one in snapshots(local(tmp_path))}
        unfinished = dict.fromkeys(("ended", "old", "silent", "dead"), "unfinished")
        assert states == {**unfinished, "foreign": "stray"}

    def test_a_data_set_is_no_root(self, root: Storage) -> None:
        put_data_set(root.under("out"))
        with pytest.raises(
            SettingsError, match=r"is a data set itself\. Give the directory that it lies in, "
        ) as error:
            snapshots(root.under("out"))
        assert root.uri() in str(error.value).partition("lies in, ")[2]

    def test_nothing_is_there(self, root: Storage) -> None:
        with pytest.raises(StorageError, match="there is no such file or folder"):
            snapshots(root.under("none"))


class TestChain:
    def test_who_goes_on_from_whom(self, tmp_path: Path) -> None:
        root = local(tmp_path)
        put_data_set(root.under("1"), finished="2026-11-21T01:00:00+00:00", run="v1:1")
        put_data_set(root.under("2"), finished="2026-11-22T01:00:00+00:00", run="v1:2", since="v1:1")
        put_data_set(root.under("3"), finished="2026-11-23T01:00:00+00:00", run="v1:3", since="v1:2")
        put_data_set(root.under("other"), finished="2026-11-24T01:00:00+00:00", run="v1:other")
        put_data_set(root.under("tonight"), finished=None, run="v1:tonight", since="v1:3")
        assert names(going_on_from(root.under("1"))) == ["2"]
        assert names(going_on_from(root.under("3"))) == ["tonight"]
        assert going_on_from(root.under("other")) == []
        assert run_of(root.under("tonight")) == "v1:tonight"
        assert run_of(root.under("nothing")) is None
        assert names(in_order_of_deletion([root.under("2")])) == ["tonight", "3", "2"]
        assert names(in_order_of_deletion([root.under("other"), root.under("1")])) == [
            "tonight", "other", "3", "2", "1"
        ]  # fmt: skip

    def test_one_without_a_parent_goes_on_from_none_that_has_no_plan(self, tmp_path: Path) -> None:
        place = local(tmp_path / "begun")
        put_data_set(place, finished=None)
        place.delete("_mosaic/plan.json")
        put_data_set(local(tmp_path / "whole"))
        assert going_on_from(place) == []
        assert names(in_order_of_deletion([place])) == ["begun"]

    def test_the_directory_above(self) -> None:
        def of(address: str) -> str | None:
            home = above(Storage.at(address, error=StorageError))
            return None if home is None else home.uri()

        assert of("/a/b") == "/a"
        assert of("/a") == "/"
        assert of("s3://bucket/a/b") == "s3://bucket/a"
        assert of("s3://bucket/a") == "s3://bucket"
        assert of("s3://bucket") is None

    def test_data_sets_at_an_address(self, root: Storage) -> None:
        put_data_set(root.under("b"))
        put_data_set(root.under("a"), finished=None)
        root.publish("notes/f", b"")
        assert names(data_sets_at(root)) == ["a", "b"]
        assert names(data_sets_at(root.under("a"))) == ["a"]
        with pytest.raises(VerificationError, match="/notes: no data set, and none in a directory under it"):
            data_sets_at(root.under("notes"))
