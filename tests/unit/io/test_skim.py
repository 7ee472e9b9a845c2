"""A manifest read line by line has the same facts and entries as one that is read whole."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_ray.errors import MosaicError, StorageError, VerificationError
from mosaic_ray.io.manifest import FORMAT_VERSION, Entries, publish_manifest
from mosaic_ray.io.skim import INVENTORY, PARTS, REJECTS, head, skim
from mosaic_ray.io.storage import Storage

TEXTS = st.sampled_from(['  "parts": [\n', '    {"name": 1},\n', "]", "  ]", "{", '"', "\0"]) | st.text(max_size=9)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.lists(st.dictionaries(TEXTS, VALUES, min_size=1, max_size=3), max_size=4)


def facts(**more: Any) -> dict[str, Any]:
    names = ("dataset_digest", "run", "places", "created", "accounting", "totals")
    return {"format_version": FORMAT_VERSION, **dict.fromkeys(names, "x"), **more}


def published(rejects: list[Any], parts: list[Any], inventory: list[Any], **more: Any) -> Storage:
    place = Storage.at(f"memory://{uuid.uuid4().hex}", error=StorageError)
    lists = {
        "rejects": {"by_reason": {}, "parts": Entries(len(rejects), rejects.__getitem__)},
        "after": [{"parts": ["not these"]}, {}],
        "others": Entries(len(parts), parts.__getitem__),
        "parts": Entries(len(parts), parts.__getitem__),
        "inventory": Entries(len(inventory), inventory.__getitem__),
    }
    assert publish_manifest(place, {**facts(**more), **lists})
    return place


def skimmed(place: Storage) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    entries: dict[str, list[Any]] = {REJECTS: [], PARTS: [], INVENTORY: []}
    return skim(place, lambda name, entry: entries[name].append(entry)), entries


@settings(max_examples=50)
@given(ENTRIES, ENTRIES, ENTRIES, VALUES)
def test_the_same_as_read_whole(rejects: list[Any], parts: list[Any], inventory: list[Any], since: Any) -> None:
    place = published(rejects, parts, inventory, since=since)
    found, entries = skimmed(place)
    assert entries == {REJECTS: rejects, PARTS: parts, INVENTORY: inventory}
    whole = json.loads(place.read("manifest.json"))
    del whole["parts"], whole["inventory"], whole["rejects"]["parts"]
    assert found == whole
    assert head(place) == whole


@pytest.mark.parametrize(
    "written",
    [{}, {"indent": 2}, {"indent": 4}, {"separators": (",", ":")}, {"indent": 2, "sort_keys": True}],
    ids=["one line", "indented", "deeper", "dense", "sorted"],
)
def test_a_manifest_that_another_program_has_written_anew(written: dict[str, Any]) -> None:
    rejects, parts, inventory = [{"name": "r"}], [{"name": "p", "bytes": 3}, {"name": "q"}], [{"name": "f"}]
    place = published(rejects, parts, inventory, since={"run": "z"})
    before = skimmed(place), head(place)
    place.publish("manifest.json", json.dumps(json.loads(place.read("manifest.json")), **written).encode())
    assert (skimmed(place), head(place)) == before
    assert before[0][1] == {REJECTS: rejects, PARTS: parts, INVENTORY: inventory}
    assert before[1]["since"] == {"run": "z"}


def test_the_head_is_read_no_further_than_to_the_parts() -> None:
    place = published([{"name": "r"}], [{"name": "p"}], [])
    before, _, after = place.read("manifest.json").rpartition(b'{"name":"p"}')
    place.publish("manifest.json", before + b"what follows the head is not looked at" + after)
    assert head(place)["run"] == "x"
    with pytest.raises(VerificationError, match=r"manifest\.json: damaged"):
        skimmed(place)


@pytest.mark.parametrize("reading", [head, lambda place: skim(place, lambda *_: None)], ids=["head", "skim"])
class TestRefused:
    def test_one_cut_off(self, reading: Any) -> None:
        place = published([{"name": "r"}], [{"name": "p"}], [])
        data = place.read("manifest.json")
        for end in range(0, data.index(b'  "parts": [\n'), 7):
            place.publish("manifest.json", data[:end])
            with pytest.raises(VerificationError, match=rf"^{place.uri('manifest.json')}: damaged"):
                reading(place)

    def test_one_that_is_no_manifest(self, reading: Any) -> None:
        place = published([], [], [])
        for data in (b"[]", b"{}", b"null", b'{"dataset_digest": 1}', json.dumps(facts()).encode()):
            place.publish("manifest.json", data)
            with pytest.raises(VerificationError, match="damaged"):
                reading(place)

    def test_one_of_a_view(self, reading: Any) -> None:
        with pytest.raises(VerificationError, match=r"manifest\.json: of a view\. Give the data set"):
            reading(published([], [], [], of={}, view={}))

    def test_one_of_another_version(self, reading: Any) -> None:
        with pytest.raises(VerificationError, match="format version 99, where this version of mosaic_ray reads 1"):
            reading(published([], [], [], format_version=99))

    def test_none(self, reading: Any, tmp_path: Path) -> None:
        with pytest.raises(MosaicError, match=r"manifest\.json: there is no such file"):
            reading(Storage.at(str(tmp_path), error=StorageError))
