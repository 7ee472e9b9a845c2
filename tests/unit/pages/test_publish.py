from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq
import pytest

from mosaic_ray.errors import StorageError
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.writers import to_parquet, to_table
from mosaic_ray.pages import publish_pages
from mosaic_ray.runtime.run import Run
from mosaic_ray.views import REJECT_SCHEMA

MOST_BYTES = 1_500_000


class Watched(Storage):
    """A storage that remembers what was opened, and fetched."""

    opened: list[str]

    def open_random(self, path: str, *, etag: str | None = None) -> BinaryIO:
        self.opened.append(path)
        return super().open_random(path, etag=etag)

    def read(self, path: str) -> bytes:
        raise AssertionError(f"{path} was read whole")


@pytest.fixture
def copied(made: Any, tmp_path: Path) -> Run:
    """The run over a copy of its output, watched."""
    root = shutil.copytree(made.folder, tmp_path / "copy")
    storage = Watched("file", str(root), (), StorageError)
    object.__setattr__(storage, "opened", [])
    return replace(made.run, output=storage)


def test_both_pages_are_in_place_before_the_manifest(made: Any) -> None:
    assert {"README.md", "report.html"} <= made.seen_at_finish
    assert "manifest.json" not in made.seen_at_finish
    assert (made.folder / "README.md").read_text(encoding="utf-8").startswith("---\n")
    assert (made.folder / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert (made.folder / "report.html").stat().st_size < MOST_BYTES


def test_the_card_leads_to_the_parts_and_only_there(made: Any) -> None:
    parts = sorted(str(path.relative_to(made.folder)) for path in made.folder.glob("data/train-*.parquet"))
    assert parts == [part["name"] for part in made.manifest["parts"]]
    assert list(made.folder.glob("rejects/*.parquet"))


def test_datasets_loads_the_samples_by_the_card_alone(made: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset(str(made.folder), cache_dir=str(tmp_path))
    assert list(loaded) == ["train"]
    assert len(loaded["train"]) == made.manifest["totals"]["samples"]
    first = pq.read_table(made.folder / made.manifest["parts"][0]["name"]).to_pylist()[0]
    assert loaded["train"][0] == first


def test_a_bounded_number_of_parts_is_read(made: Any, copied: Any) -> None:
    publish_pages(copied, made.manifest)
    data = [path for path in copied.output.opened if path.startswith("data/")]
    rejects = [path for path in copied.output.opened if path.startswith("rejects/")]
    names = [part["name"] for part in made.manifest["parts"]]
    assert len(names) == 24
    assert len(set(data)) == len(data) == 12
    assert {names[0], names[-1]} <= set(data)
    assert len(rejects) == 2 < len(made.manifest["rejects"]["parts"])


def read_for_the_page(made: Any) -> list[dict[str, Any]]:
    """The rows that the page is made of: these parts are shorter than a batch."""
    filled = [part for part in made.manifest["parts"] if part["rows"]]
    parts = [filled[place * (len(filled) - 1) // 11] for place in range(12)]
    return [row for part in parts for row in pq.read_table(made.folder / part["name"]).to_pylist()]


def shown_ids(made: Any) -> list[str]:
    page = (made.folder / "report.html").read_text(encoding="utf-8")
    return re.findall(r'<details (?:open )?class="sample" id="([^"]+)"', page)


def test_samples_come_from_all_over_the_data_set(made: Any) -> None:
    rows = {row["mosaic_id"]: row for row in read_for_the_page(made)}
    ids = shown_ids(made)
    assert len(ids) == len(set(ids)) == min(60, len(rows))
    assert ids == [name for name in rows if name in ids]
    assert {rows[name]["epoch"] for name in ids} == {0, 1, 2, 3}


def test_every_strategy_and_kind_that_was_read_is_shown(made: Any) -> None:
    rows = read_for_the_page(made)
    assert len(rows) > 60
    ways = Counter((row["strategy"], row["kind"]) for row in rows)
    assert min(ways.values()) < 3 < max(ways.values())
    shown = Counter((row["strategy"], row["kind"]) for row in rows if row["mosaic_id"] in shown_ids(made))
    assert set(shown) == set(ways)
    fair = min(shown[way] for way in ways if shown[way] < ways[way])
    assert all(shown[way] in (fair, fair + 1) or shown[way] == ways[way] for way in ways)


def test_how_many_files_a_sample_draws_from_is_counted_of_what_was_read(made: Any) -> None:
    page = (made.folder / "report.html").read_text(encoding="utf-8")
    several = [row for row in read_for_the_page(made) if row["tiles"] > 1]
    assert f"Of {len(several)} samples of several records that were read for this page" in page
    for files, samples in Counter(len({source["file"] for source in row["sources"]}) for row in several).items():
        assert f"{files} files in a sample: {samples} samples" in page


@pytest.mark.parametrize("view", ["prompt-completion", "alpaca"])
def test_few_parts_give_several_rows_each_in_every_view(make: Any, view: str) -> None:
    made = make(view=view, epochs=1)
    assert len(made.manifest["parts"]) == 1
    rows = pq.read_table(made.folder / made.manifest["parts"][0]["name"]).num_rows
    assert shown_ids(made) == [f"e0-t00000-s{n:06d}" for n in range(rows)]
    page = (made.folder / "report.html").read_text(encoding="utf-8")
    assert page.count('<pre class="laid">') > rows


def test_parts_without_rows_are_passed_over(made: Any, copied: Any) -> None:
    manifest = json.loads(json.dumps(made.manifest))
    for part in manifest["parts"][1:]:
        part["rows"] = 0
    publish_pages(copied, manifest)
    assert [path for path in copied.output.opened if path.startswith("data/")] == [manifest["parts"][0]["name"]]


def test_a_rare_reason_is_among_the_examples(made: Any, copied: Any, tmp_path: Path) -> None:
    name = made.manifest["rejects"]["parts"][0]["name"]
    reasons = ["not_json"] * 50 + ["special_token"] * 20 + ["not_utf8"]
    rows = [{"file": "a", "row": n, "reason": r, "detail": "", "excerpt": ""} for n, r in enumerate(reasons)]
    copied.output.publish(name, to_parquet(to_table(rows, REJECT_SCHEMA)).data)
    rejects = {**made.manifest["rejects"], "parts": [{"name": name, "rows": len(rows)}]}
    publish_pages(copied, {**made.manifest, "rejects": rejects})
    page = (tmp_path / "copy" / "report.html").read_text(encoding="utf-8").split("<h3>Examples</h3>")[1]
    assert [page.count(f"<td>{reason}</td>") for reason in ("not_json", "special_token", "not_utf8")] == [5, 4, 1]


def test_examples_of_rejects_come_from_the_run(made: Any) -> None:
    page = (made.folder / "report.html").read_text(encoding="utf-8").split("<h3>Examples</h3>")[1]
    assert page.count("<td>not_json</td>") >= 2
    assert page.count("<td>empty_response</td>") >= 1


def test_the_same_pages_again(made: Any, copied: Any, tmp_path: Path) -> None:
    for name in ("README.md", "report.html"):
        (tmp_path / "copy" / name).unlink()
    publish_pages(copied, made.manifest)
    for name in ("README.md", "report.html"):
        assert (tmp_path / "copy" / name).read_bytes() == (made.folder / name).read_bytes()


def test_a_lost_part_is_named(made: Any, copied: Any) -> None:
    manifest = json.loads(json.dumps(made.manifest))
    manifest["parts"][0]["name"] = "data/lost.parquet"
    with pytest.raises(StorageError, match=r"data/lost\.parquet"):
        publish_pages(copied, manifest)
