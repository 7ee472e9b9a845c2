"""What is printed of names and texts that come from the input."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from mosaic_ray.config import job_from
from mosaic_ray.io.cells import Cell, CellTable, InputFile
from mosaic_ray.io.shapes import Shape
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.records import Message, Record, Source
from mosaic_ray.runtime.explain import Explanation
from mosaic_ray.runtime.plan import Plan
from mosaic_ray.runtime.run import open_run
from mosaic_ray.show import show_explanation, show_manifest, show_plan
from mosaic_ray.text import seen, seen_on_one_line

NAME = "d[/x] [bold]:smile:\x1b[2J\u202e\n\tend.jsonl"
SPELT = "d[/x] [bold]:smile:⟨U+001B⟩[2J⟨U+202E⟩⟨U+000A⟩⟨U+0009⟩end.jsonl"
TOTALS = {"samples": 2, "tiles": 4, "tokens": 50, "longest": 30, "several": 2, "strategies": {"[/x]\x07": 2}}
MANIFEST: dict[str, Any] = {
    "totals": TOTALS,
    "accounting": {"records": 4, "epochs": [{"composed": 4, "passed": 0, "rejected": 0}]},
    "places": {"output": "/old"},
    "dataset_digest": "v1:0",
    "rejects": {"by_reason": {"[/y]": 1}},
    "settings": {"max_tokens": 100},
    "inventory": [{}],
    "created": {"seconds": 1.0},
    "parts": [{"name": "data/train-00000-of-00001.parquet"}],
}


@pytest.fixture
def console() -> Console:
    """A terminal as wide as it takes."""
    return Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def plain(console: Console) -> Console:
    return Console(file=console.file, width=200)


def explanation(*, verdict: str | None = None) -> Explanation:
    tiles = tuple(
        Record(
            source=Source(NAME, number),
            messages=(Message("user", f"\x1b[31mask {number}\nagain"), Message("assistant", f"\u202ebe {number}\x07")),
            tokens=9,
        )
        for number in range(2)
    )
    return Explanation(
        part="data/p.parquet",
        row={"mosaic_id": "e0\x1b", "epoch": 0, "strategy": "[/x]", "kind": "[/y]", "token_count": 20},
        messages=tuple(
            Message(role, " | ".join(tile.messages[place].content for tile in tiles))
            for place, role in enumerate(("user", "assistant"))
        ),
        tiles=tiles,
        addresses={NAME: f"s3://b/{NAME}"},
        params={"[/p]": "a\x1bb [/q]"},
        verdict=verdict,
    )


def test_an_explanation_spells_out_controls_and_reads_no_markup(console: Console) -> None:
    show_explanation(explanation(verdict="[/v] \x1b"), plain(console))
    out = printed(console)
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert f"{SPELT} is s3://b/{SPELT}" in out
    assert "e0⟨U+001B⟩, epoch 0" in out
    assert "[/x], [/y]" in out
    assert "DOES NOT OBEY: [/v] ⟨U+001B⟩" in out
    assert "a⟨U+001B⟩b [/q]" in out
    # The body of a message keeps its lines; the cell of a table does not.
    assert "│ ⟨U+001B⟩[31mask 0 " in out
    assert "│ again | ⟨U+001B⟩[31mask 1" in out
    assert "⟨U+001B⟩[31mask 0 again" in out


def test_tiles_are_coloured_where_they_are_after_the_spelling_out(console: Console) -> None:
    show_explanation(explanation(), console)
    out = printed(console)
    assert "\x1b[36m⟨U+202E⟩be 0⟨U+0007⟩\x1b[0m | \x1b[35m⟨U+202E⟩be 1⟨U+0007⟩\x1b[0m" in out


def test_a_plan_shows_names_as_they_are(console: Console) -> None:
    cells = CellTable([Cell(row=0, rows=4, records=4)])
    file = InputFile(
        name=NAME, uri_index=0, path=NAME, format="jsonl", compression=None, size=100, etag=None, modified=None,
        digest="0", shape=Shape(kind="columns", columns={}), rows=4, records=4, staged=False, cells=cells,
    )  # fmt: skip
    run = open_run(job_from({"output": "memory://nowhere"}, MosaicMethod))
    files = [file, replace(file, name="[red]plain.jsonl")]
    show_plan(run, files, Plan(files, seed=0, epochs=1, task_records=4), plain(console))
    assert SPELT in printed(console)
    assert "[red]plain.jsonl" in printed(console)


def test_an_outcome_reads_no_markup(console: Console) -> None:
    show_manifest({**MANIFEST, "places": {"output": f"/a/{NAME}"}}, plain(console))
    out = printed(console)
    assert f"/a/{SPELT}" in out
    assert "[/x]⟨U+0007⟩ 2" in out
    assert "[/y] 1" in out
    assert "\x1b" not in out


def test_hints_name_the_place_where_the_data_set_is_now(console: Console) -> None:
    show_manifest(MANIFEST, plain(console), output="/new place/")
    out = printed(console)
    assert "/old" not in out
    assert "explain '/new place/data/train-00000-of-00001.parquet':0" in out
    assert "verify '/new place' --recompute 2" in out
    assert "load_dataset('/new place', split='train')" in out


def test_without_another_place_hints_name_the_first(console: Console) -> None:
    show_manifest({**MANIFEST, "places": {"output": "s3://b/it's"}}, plain(console))
    assert """data_files="s3://b/it's/data/train-*.parquet",""" in printed(console)


def test_lines_stay_in_bodies_only() -> None:
    assert seen("a\n\tb\x1b\ud800") == "a\n\tb⟨U+001B⟩⟨U+D800⟩"
    assert seen_on_one_line("a\n\tb\u200f") == "a⟨U+000A⟩⟨U+0009⟩b⟨U+200F⟩"
