"""Two data sets side by side, as their manifests tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mosaic_ray.errors import StorageError, VerificationError
from mosaic_ray.io.manifest import read_manifest
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.snapshots.diff import Difference, Pair, compare, differences
from tests.unit.runtime.snapshots.conftest import compose


def at(path: Path) -> Storage:
    return Storage.at(str(path), error=StorageError)


@pytest.fixture(scope="session")
def nights(chain: Path) -> Difference:
    return compare(at(chain / "lake/night 1"), at(chain / "lake/night 2"))


class TestNights:
    def test_what_made_them(self, chain: Path, nights: Difference) -> None:
        assert nights.made == [
            Pair("method.max_tiles", 10, 1),
            Pair("settings.task_records", 64, 512),
            Pair("input", [str(chain / "in")], [str(chain / "taken")]),
        ]

    def test_files_of_the_input(self, nights: Difference) -> None:
        files = nights.inventory
        assert (files.only_a, files.only_b) == (["a.jsonl", "c:1.jsonl"], ["d.jsonl"])
        assert (files.changed, files.same) == (["deep/b.jsonl"], 0)

    def test_counts(self, chain: Path, nights: Difference) -> None:
        one, two = (read_manifest(at(chain / f"lake/night {night}")) for night in (1, 2))
        found = {pair.name: (pair.a, pair.b) for pair in nights.counts}
        assert found["records"] == (192, 200)
        assert found["files"] == (3, 2)
        assert found["rejected, an epoch"] == (2, 0)
        assert found["rejected as not_json"] == found["rejected as empty_response"] == (1, 0)
        for name in ("samples", "tokens", "longest"):
            assert found[name] == (one["totals"][name], two["totals"][name])
        assert found["parts"] == (len(one["parts"]), len(two["parts"]))
        assert found["bytes of parts"][0] == sum(
            (chain / "lake/night 1" / p["name"]).stat().st_size for p in one["parts"]
        )
        kinds = {name for manifest in (one, two) for name in manifest["totals"]["kinds"]}
        for kind in kinds:
            assert found[f"samples by {kind}"] == tuple(m["totals"]["kinds"].get(kind, 0) for m in (one, two))

    def test_which_goes_on_from_which(self, chain: Path, nights: Difference) -> None:
        assert nights.lineage == "B goes on from A: files 1 new, 1 changed, 2 carried, 0 gone"
        back = compare(at(chain / "lake/night 2"), at(chain / "lake/night 1"))
        assert back.lineage == "A goes on from B: files 1 new, 1 changed, 2 carried, 0 gone"
        assert (back.same, nights.same) == (False, False)
        assert back.made[0] == Pair("method.max_tiles", 1, 10)

    def test_as_json(self, nights: Difference) -> None:
        told = json.loads(json.dumps(nights.to_dict()))
        assert told["made"]["method.max_tiles"] == {"a": 10, "b": 1}
        assert told["counts"]["records"] == {"a": 192, "b": 200}
        assert told["inventory"]["changed"] == ["deep/b.jsonl"]
        assert told["digests"] == list(nights.digests)


def test_the_same_rows_made_elsewhere(chain: Path, tmp_path: Path) -> None:
    compose(chain / "taken", tmp_path / "again", task_records=512, max_tiles=1)
    found = compare(at(chain / "lake/night 2"), at(tmp_path / "again"))
    assert found.same
    assert found.digests[0] == found.digests[1]
    assert found.made == []
    assert (found.inventory.same, found.inventory.changed) == (2, [])
    assert all(pair.a == pair.b for pair in found.counts)
    assert found.lineage is None


def test_two_that_go_on_from_one(chain: Path) -> None:
    night = at(chain / "lake/night 2")
    assert compare(night, night).lineage == f"both go on from {chain}/lake/night 1"


def test_a_file_without_a_digest_is_the_same_by_its_etag(tmp_path: Path, chain: Path) -> None:
    manifest = json.loads((chain / "lake/night 2/manifest.json").read_text())
    entries = manifest["inventory"]
    for name, marks in (("a", ("e1", None)), ("b", ("e1", "s")), ("c", ("e2", None)), ("d", (None, None))):
        for entry in entries:
            entry["etag"], entry["sha256"] = marks
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    same = {
        pair: compare(at(tmp_path / pair[0]), at(tmp_path / pair[1])).inventory.same
        for pair in ("aa", "ab", "ac", "dd")
    }
    assert same == {"aa": 2, "ab": 2, "ac": 0, "dd": 0}


def test_fields_that_differ() -> None:
    a = {"x": {"y": [1, 2], "z": None}, "only": 1, "same": {"deep": [1]}}
    b = {"x": {"y": [2, 1], "w": 0}, "same": {"deep": [1]}}
    assert list(differences(a, b, name="f")) == [
        Pair("f.only", 1, None),
        Pair("f.x.w", None, 0),
        Pair("f.x.y", [1, 2], [2, 1]),
    ]
    assert list(differences({"x": {}}, {"x": 1}, name="f")) == [Pair("f.x", {}, 1)]


def test_what_cannot_be_compared(chain: Path) -> None:
    home = chain / "lake/night 1"
    with pytest.raises(VerificationError, match=r"views/sharegpt/manifest\.json: of a view"):
        compare(at(home), at(home / "views/sharegpt"))
    with pytest.raises(StorageError, match=r"data/manifest\.json: there is no such file"):
        compare(at(home), at(home / "data"))
