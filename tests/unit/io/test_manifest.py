"""The manifest: what it lists of a file, the one digest of a data set, and how it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import StorageError, VerificationError
from mosaic_ray.io.cells import CellTable, InputFile
from mosaic_ray.io.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Entries,
    dataset_digest,
    inventory_entry,
    publish_manifest,
    read_manifest,
)
from mosaic_ray.io.shapes import Shape
from mosaic_ray.io.storage import Storage


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return Storage.at(str(tmp_path / "out"), error=StorageError)


def part(digest: str, **others: Any) -> dict[str, Any]:
    return {"content_digest": digest, **others}


class TestDatasetDigest:
    def test_is_frozen(self) -> None:
        parts, rejects = [part("v1:0a"), part("v1:0b")], [part("v1:0c")]
        assert dataset_digest(parts, rejects) == "v1:7cc5c2765ffe545746f13dce46abeb6a"
        assert dataset_digest([], []) == "v1:cae66941d9efbd404e4d88758ea67670"

    def test_sees_contents_and_nothing_else(self) -> None:
        bare = dataset_digest([part("v1:0a")], [part("v1:0b")])
        dressed = [part("v1:0a", name="x", bytes=7, sha256="ff", rows=3, tokens=9)]
        assert dataset_digest(dressed, [part("v1:0b", name="y")]) == bare

    @given(st.lists(st.from_regex(r"v1:[0-9a-f]{4}", fullmatch=True), min_size=2, unique=True))
    def test_depends_on_the_order(self, digests: list[str]) -> None:
        parts = [part(digest) for digest in digests]
        assert dataset_digest(parts[::-1], []) != dataset_digest(parts, [])

    def test_depends_on_every_part_and_every_reject(self) -> None:
        parts, rejects = [part("v1:0a"), part("v1:0b")], [part("v1:0c")]
        whole = dataset_digest(parts, rejects)
        others = [dataset_digest(parts[:1], rejects), dataset_digest(parts, []), dataset_digest(rejects, parts)]
        assert len({whole, *others}) == 4


def test_an_inventory_entry_names_content_and_shape_but_no_cells() -> None:
    file = InputFile(
        name="sub/a.jsonl.gz",
        uri_index=1,
        path="x/sub/a.jsonl.gz",
        format="jsonl",
        compression="gzip",
        size=10,
        etag="e",
        modified="2026-01-01T00:00:00+00:00",
        digest="ab",
        shape=Shape(kind="prompt", columns={"response": "completion", "instruction": "prompt"}),
        rows=7,
        records=6,
        staged=True,
        cells=CellTable(),
    )
    entry = inventory_entry(file)
    assert entry == {
        "name": "sub/a.jsonl.gz",
        "input": 1,
        "path": "x/sub/a.jsonl.gz",
        "format": "jsonl",
        "compression": "gzip",
        "size": 10,
        "etag": "e",
        "sha256": "ab",
        "shape": "prompt",
        "columns": {"instruction": "prompt", "response": "completion"},
        "rows": 7,
        "records": 6,
    }
    assert list(entry["columns"]) == ["instruction", "response"]


def test_entries_are_a_sequence() -> None:
    entries = Entries(5, lambda number: {"n": number})
    assert [entry["n"] for entry in entries] == [0, 1, 2, 3, 4]
    assert (len(entries), entries[0], entries[-1], entries[3:]) == (5, {"n": 0}, {"n": 4}, [{"n": 3}, {"n": 4}])
    with pytest.raises(IndexError):
        entries[5]


class TestOnDisk:
    def test_reads_back(self, output: Storage, tmp_path: Path) -> None:
        part = {"name": "data/a", "rows": 1, "bytes": 2, "sha256": "3", "content_digest": "v1:4"}
        manifest = {
            "format_version": FORMAT_VERSION,
            **{"dataset_digest": "v1:é", "run": "v1:5", "parts": [part], "rejects": {"parts": []}},
            **{"accounting": {}, "totals": {}, "places": {}},
        }
        publish_manifest(output, manifest)
        assert read_manifest(output) == manifest
        text = (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")
        assert text.endswith("}\n")
        assert '\n  "parts": [\n' in text

    def test_long_lists_are_written_an_entry_a_line(self, output: Storage, tmp_path: Path) -> None:
        part = {"name": "data/a\0é", "rows": 1, "bytes": 2, "sha256": "3", "content_digest": "v1:4"}
        empty, three = Entries(0, lambda _: part), Entries(3, lambda number: {**part, "rows": number})
        others = {"format_version": FORMAT_VERSION, "dataset_digest": "v1:\0", "run": "", "totals": {}, "places": {}}
        publish_manifest(output, {**others, "rejects": {"parts": empty}, "parts": three, "accounting": {}})
        read = read_manifest(output)
        assert read["rejects"]["parts"] == []
        assert read["parts"] == [{**part, "rows": number} for number in range(3)] == list(three)
        lines = (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8").splitlines()
        assert sum(line.startswith('    {"name":') for line in lines) == 3

    def test_what_json_does_not_know_is_refused(self, output: Storage) -> None:
        with pytest.raises(TypeError):
            publish_manifest(output, {"format_version": {1}})
        assert not output.exists(MANIFEST)

    def test_no_room_for_it(self, output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", "/nowhere")
        with pytest.raises(StorageError, match=r"^/nowhere: the manifest cannot be written here .*set TMPDIR"):
            publish_manifest(output, {})

    def test_none(self, output: Storage) -> None:
        with pytest.raises(VerificationError, match=r"out: no manifest\.json, so no finished data set\. Run the job"):
            read_manifest(output)

    @pytest.mark.parametrize(
        "data", [b"", b'{"format_version": 1', b"[]", b"{}", b"7", b"null", b'"text"', b'{"format_version": 1}']
    )
    def test_damaged(self, data: bytes, output: Storage) -> None:
        output.publish(MANIFEST, data)
        with pytest.raises(VerificationError, match=r"manifest\.json: damaged"):
            read_manifest(output)

    @pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "1", None])
    def test_of_another_version(self, version: Any, output: Storage) -> None:
        publish_manifest(output, {"format_version": version})
        words = f"format version {version}, where this version of mosaic_ray reads {FORMAT_VERSION}"
        with pytest.raises(VerificationError, match=words):
            read_manifest(output)
