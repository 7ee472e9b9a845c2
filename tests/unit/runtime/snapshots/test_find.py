"""Where a record went, compared with a reading of every row of everything."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from mosaic_ray.errors import SettingsError, StorageError
from mosaic_ray.io.parquet import BATCH_ROWS
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.runtime.run import Run, reopen
from mosaic_ray.runtime.snapshots.find import Found, find
from tests.unit.runtime.snapshots.conftest import BUCKET, Door

Place = tuple[str, str, str, int]
"""Data set, kind, path, row."""


def opened(place: Storage) -> Run:
    return reopen(place, {"mosaic-it": MosaicMethod})


def at(*paths: Path) -> list[Storage]:
    return [Storage.at(str(path), error=StorageError) for path in paths]


def search(text: str, *paths: Path) -> list[Found]:
    return list(find(text, at(*paths), reopen=opened))


def by_record(found: list[Found]) -> Counter[tuple[Any, ...]]:
    """How often each record is found in each place."""
    return Counter(((f.data_set, f.kind, f.path, f.row), *record) for f in found for record in f.records)


def every_place(out: Path) -> Iterator[tuple[Any, ...]]:
    """Every place of every record, by a reading of all rows; rows of tokens are decoded."""
    tokenizer = Tokenizer.from_file(str(out / "_mosaic/tokenizer.json"))
    for part in sorted((out / "data").iterdir()):
        samples = pq.ParquetFile(part).read().to_pylist()
        held = [[(source["file"], source["row"]) for source in sample["sources"]] for sample in samples]
        asked = [f"<|user|>\n{sample['messages'][0]['content']}<|end|>" for sample in samples]
        name = f"data/{part.name}"
        for row, records in enumerate(held):
            for record in records:
                yield (str(out), "sample", name, row), *record
                if (out / "views").exists():
                    yield (str(out), "view", f"views/sharegpt/{name}", row), *record
        for view in (path for path in ("packed-600", "tokenized") if (out / "views" / path).exists()):
            ids = pq.ParquetFile(out / "views" / view / name).read()["input_ids"].to_pylist()
            for row, text in enumerate(tokenizer.decode_batch(ids, skip_special_tokens=False)):
                for record in (
                    record for sample, words in enumerate(asked) if words in text for record in held[sample]
                ):
                    yield (str(out), "view", f"views/{view}/{name}", row), *record
    for part in sorted((out / "rejects").iterdir()) if (out / "rejects").exists() else ():
        for row, reject in enumerate(pq.ParquetFile(part).read().to_pylist()):
            yield (str(out), "reject", f"rejects/{part.name}", row), reject["file"], reject["row"]


@pytest.fixture(scope="module")
def nights(chain: Path) -> tuple[Path, Path]:
    return chain / "lake/night 1", chain / "lake/night 2"


@pytest.fixture(scope="module")
def places(nights: tuple[Path, Path]) -> Counter[tuple[Any, ...]]:
    return Counter(place for night in nights for place in every_place(night))


@pytest.fixture
def copy(nights: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(nights[0], tmp_path / "copy"))


class TestFound:
    @pytest.mark.parametrize("file", ["a.jsonl", "deep/b.jsonl", "c:1.jsonl", "d.jsonl"])
    def test_every_record_of_a_file(self, nights: tuple[Path, Path], places: Counter[Any], file: str) -> None:
        expected = Counter({place: times for place, times in places.items() if place[1] == file})
        assert {place[0][1] for place in expected} >= {"sample"}
        assert by_record(search(file, *nights)) == expected

    def test_one_record(self, nights: tuple[Path, Path], places: Counter[Any]) -> None:
        records = sorted({place[1:] for place in places})
        assert max(place[0][3] for place in places) >= BATCH_ROWS, "no part is read in several batches"
        drawn = random.Random(1).sample(records, 4)
        for file, row in [("a.jsonl", 90), ("a.jsonl", 91), ("c:1.jsonl", 1), ("deep/b.jsonl", 7), *drawn]:
            expected = Counter({place: times for place, times in places.items() if place[1:] == (file, row)})
            assert by_record(search(f"{file}:{row}", *nights)) == expected, (file, row)

    def test_a_sample_is_named_as_in_its_row(self, nights: tuple[Path, Path]) -> None:
        found = [one for one in search("a.jsonl:5", nights[0]) if one.kind == "sample"]
        assert [one.epoch for one in found] == [0, 1]
        for one in found:
            row = pq.ParquetFile(nights[0] / one.path).read().slice(one.row, 1).to_pylist()[0]
            assert (one.mosaic_id, one.epoch) == (row["mosaic_id"], row["epoch"])
            assert json.loads(json.dumps(one.to_dict()))["records"] == [{"file": "a.jsonl", "row": 5}]

    def test_a_record_that_only_one_of_them_has(self, nights: tuple[Path, Path]) -> None:
        assert {one.data_set for one in search("d.jsonl:0", *nights)} == {str(nights[1])}
        assert {one.data_set for one in search("deep/b.jsonl:3", *nights)} == set(map(str, nights))
        assert {one.data_set for one in search("deep/b.jsonl:55", *nights)} == {str(nights[0])}


class TestNotFound:
    def test_a_row_that_no_sample_holds(self, copy: Path) -> None:
        for part in (copy / "data").iterdir():
            table = pq.ParquetFile(part).read()
            keep = [all(s["row"] != 5 or s["file"] != "a.jsonl" for s in row) for row in table["sources"].to_pylist()]
            pq.write_table(table.filter(keep), part)
        shutil.rmtree(copy / "views")
        assert search("a.jsonl:5", copy) == []
        assert search("a.jsonl:6", copy) != []

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("b.jsonl:3", "b.jsonl: no inventory has a file of this name; near it are "),
            ("/lake/in/deep/b.jsonl:3", "name; near it are deep/b.jsonl"),
            ("zzz", "zzz: no inventory has a file of this name, of 4 files. Give it as lineage does"),
            ("c:1", "c: no inventory has a file of this name"),
            ("a.jsonl:92", r"a.jsonl:92: the file has 92 rows \(they count from 0\)"),
            ("deep/b.jsonl:60", "deep/b.jsonl:60: the file has 60 rows"),
        ],
    )
    def test_a_name_that_no_inventory_has(self, nights: tuple[Path, Path], text: str, words: str) -> None:
        with pytest.raises(SettingsError, match=words):
            find(text, at(*nights), reopen=opened)


class TestUnfinished:
    """What has no manifest holds records as well."""

    def test_a_run_that_was_killed(self, copy: Path, places: Counter[Any], nights: tuple[Path, Path]) -> None:
        (copy / "manifest.json").unlink()
        shutil.rmtree(copy / "views")
        receipts = sorted((copy / "_mosaic/receipts").iterdir())
        for receipt in receipts[1:]:
            receipt.unlink()
        expected = {place for place in places if place[0][0] == str(nights[0]) and place[0][1] != "view"}
        for file in ("a.jsonl", "c:1.jsonl"):
            found = by_record(search(file, copy))
            assert {(place[1:], *record) for place, *record in found} == {
                (place[1:], *record) for place, *record in expected if record[0] == file
            }

    def test_receipts_of_another_run_answer_for_nothing(self, copy: Path, nights: tuple[Path, Path]) -> None:
        for receipt in (copy / "_mosaic/receipts").iterdir():
            kept = json.loads(receipt.read_text())
            receipt.write_text(json.dumps({**kept, "run": "v1:other", "inputs": []}))
        assert len(search("a.jsonl:5", copy)) == len(search("a.jsonl:5", nights[0]))

    def test_copies_of_the_whole_file(self, copy: Path) -> None:
        (copy / "_mosaic/staged").mkdir()
        (copy / "_mosaic/staged/unknown.jsonl.zst").write_bytes(b"")
        staged = [one for one in search("a.jsonl:5", copy) if one.kind == "staged"]
        assert [(one.path, one.row) for one in staged] == [("_mosaic/staged/unknown.jsonl.zst", None)]

    def test_a_deletion_that_was_interrupted(self, copy: Path) -> None:
        (copy / "manifest.json").unlink()
        shutil.rmtree(copy / "data")
        found = search("a.jsonl:5", copy)
        assert {(one.kind, one.path.split("/")[1], one.row is None) for one in found} == {
            ("view", "packed-600", True), ("view", "sharegpt", False), ("view", "tokenized", True),
        }  # fmt: skip
        (copy / "views/packed-600/_mosaic/view.json").unlink()
        assert {one.path for one in search("a.jsonl:5", copy)} == {one.path for one in found}

    def test_a_view_that_was_made_otherwise(self, copy: Path) -> None:
        for part in (copy / "views/tokenized/data").iterdir():
            table = pq.ParquetFile(part).read()
            pq.write_table(table.slice(1), part)
        found = [one for one in search("a.jsonl:5", copy) if "tokenized" in one.path]
        assert [one.row for one in found] == [None, None]
        assert found[0].records == (("a.jsonl", 5),)

    def test_all_is_looked_into_before_stock_is_taken_of(self, copy: Path, nights: tuple[Path, Path]) -> None:
        (copy / "_mosaic/inventory.parquet").unlink()
        found = search("d.jsonl:0", copy, nights[1])
        assert {one.data_set for one in found} == {str(nights[1])}


def test_only_parts_that_may_hold_it_are_read(copy: Path) -> None:
    holding = {one.path for one in search("a.jsonl:5", copy)}
    parts = sorted(path for folder in ("data", "rejects") for path in (copy / folder).iterdir())
    others = [path for path in parts if str(path.relative_to(copy)) not in holding and path.parent.name == "data"]
    assert others
    for path in others:
        path.write_bytes(bytes(path.stat().st_size))
    assert {one.path for one in search("a.jsonl:5", copy)} == holding
    held = copy / min(holding)
    held.write_bytes(bytes(held.stat().st_size))
    with pytest.raises(StorageError, match=f"{held.name}: this is no Parquet file that can be read"):
        search("a.jsonl:5", copy)


def test_a_part_that_is_not_of_the_size_of_its_receipt_is_read(copy: Path) -> None:
    clean = {one.path for one in search("a.jsonl:5", copy)}
    other = next(path for path in sorted((copy / "data").iterdir()) if f"data/{path.name}" not in clean)
    shutil.copy(copy / next(path for path in sorted(clean) if path.startswith("data/")), other)
    assert f"data/{other.name}" in {one.path for one in search("a.jsonl:5", copy)}


def test_over_s3_it_only_reads(s3: Door, nights: tuple[Path, Path]) -> None:
    place = Storage.at(f"s3://{BUCKET}/night", error=StorageError)
    for path in nights[1].rglob("*"):
        if path.is_file():
            place.publish_file(str(path.relative_to(nights[1])), str(path))
    expected = {(one.path, one.row) for one in search("d.jsonl:0", nights[1])}
    s3.asked.clear()
    assert {(one.path, one.row) for one in find("d.jsonl:0", [place], reopen=opened)} == expected
    assert not [asked for asked in s3.asked if not asked.startswith(("GET", "HEAD"))]


def test_a_file_counts_as_long_as_in_any_snapshot(nights: tuple[Path, Path]) -> None:
    with pytest.raises(SettingsError, match="the file has 50 rows"):
        find("deep/b.jsonl:55", at(nights[1]), reopen=opened)
    assert list(find("deep/b.jsonl:55", at(nights[1], nights[0]), reopen=opened))
