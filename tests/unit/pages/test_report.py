from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest

from mosaic_ray.pages.style import CATEGORIES, DARK, LIGHT
from mosaic_ray.text import seen
from tests.unit.pages.parsed import Page, page_of, reject, shown


@pytest.fixture
def page(manifest: dict[str, Any]) -> Page:
    return page_of(manifest, shown(), rejects=[reject()])


def test_headline_figures(manifest: dict[str, Any]) -> None:
    manifest["totals"].update(samples=1_234_567, tokens=987_654_321, tiles=6_172_835, longest=598)
    page = page_of(manifest)
    assert dict(zip(page.texts("dt"), page.texts("dd")[::2], strict=True)) == {
        "Records in": "127",
        "Samples out": "1,234,567",
        "Records per sample": "5.00",
        "Tokens": "987,654,321",
        "Rejected": "6",
    }
    assert page.texts("dd")[1::2] == [
        "from 4 files", "in 4 epochs over all records", "308,642 samples an epoch", "800 a sample, at most 598",
        "4.7% of the records",
    ]  # fmt: skip


def test_every_link_leads_somewhere_on_the_page(page: Page) -> None:
    links = [attributes["href"] for attributes, _ in page.all("a")]
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert links[:2] == ["README.md", "manifest.json"]
    sections = [attributes["id"] for attributes, _ in page.all("section")]
    assert links[2:11] == [f"#{name}" for name in sections]
    assert not [link for link in links[11:] if not link.startswith("#")]


def test_nothing_is_fetched_and_only_the_pages_own_script_is_run(manifest: dict[str, Any]) -> None:
    page = page_of(manifest, shown("<script src=http://x></script>"))
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
    names = {name for _, attributes, _ in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "style", "srcset", "xlink:href")}
    (script,), (style,) = page.texts("script"), page.texts("style")
    assert not re.search(r"url\(|@import|@font-face", style)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|fetch|XMLHttp|https?:", script)
    policies = [a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    style_digest, script_digest = (
        base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in (style, script)
    )
    assert policies == [
        f"default-src 'none'; style-src 'sha256-{style_digest}'; script-src 'sha256-{script_digest}'; base-uri 'none'; "
        "form-action 'none'"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "</pre></details></main><img src=x onerror=alert(1)>",
        "<!-- a comment --> &lt; &amp; &#0; <![CDATA[x]]>",
        "\n\nfirst lines are empty",
        "a \u202eright to left\u202c, a nul \x00 and \x1b[31m",
        "' onmouseover='alert(1)' \" x",
        "שלום 你好 🙂\ttab",
    ],
)
def test_foreign_text_stays_text(manifest: dict[str, Any], text: str) -> None:
    sources = [{"file": manifest["inventory"][0]["name"], "row": 0}] * 2
    before = [tag for tag, _, _ in page_of(manifest, shown(sources=sources), rejects=[reject()]).elements]
    manifest["tokenizer"]["name"] = manifest["places"]["output"] = manifest["inventory"][0]["name"] = text
    manifest["method"]["name"] = text
    sample = shown(text, strategy=text, kind=text, sources=[{"file": text, "row": 0}] * 2, mosaic_id=text)
    page = page_of(manifest, sample, rejects=[reject(file=text, detail=text, excerpt=text)])
    assert [tag for tag, _, _ in page.elements] == before
    assert page.texts("pre") == [f"\n{seen(text)}", "\nDone."]
    assert page.table("Source records") == [["1", seen(text), "0"], ["2", seen(text), "0"]]
    assert page.table("Examples") == [["not_json", seen(text), "1,234", seen(text), seen(text)]]
    assert page.table("Source files")[0][0] == seen(text)
    assert "\x00" not in "".join(page.texts("html"))


def test_every_picture_says_in_words_what_it_shows(page: Page) -> None:
    pictures = page.all("svg")
    assert all(attributes["role"] == "img" for attributes, _ in pictures)
    spoken = [attributes["aria-label"] for attributes, _ in pictures]
    starts = (
        "4 files hold 127 records: 120 composed into samples; 1 passed through whole; 6 rejected. They became ",
        "Records of an epoch: composed into samples 120, 94.5%; passed through whole 1, 0.8%; rejected 6, 4.7%",
        "Samples by number of records. From 1 to ",
        "Samples by number of tokens: ",
        "Samples by strategy: format ",
        "Samples of strategy maskout by kind: ",
        "Samples of strategy permute by kind: ",
        "Samples by what they hold: records of more than one file ",
        "Records by source file: ",
        "Padded to the maximum: Optimizer steps ",
        "Without padding: Tokens ",
        "Rejected records by reason: ",
    )
    assert [said[: len(start)] for said, start in zip(spoken, starts, strict=True)] == list(starts)
    assert "of a budget of 600" in spoken[3]


def test_the_charts_show_the_totals(manifest: dict[str, Any]) -> None:
    totals = manifest["totals"]
    page = page_of(manifest)
    titles = page.texts("title")
    for tiles, samples in totals["tile_counts"].items():
        assert f"{tiles} records in a sample: {samples:,} samples" in titles
    tokens = [re.fullmatch(r"[\d,]+ to [\d,]+ tokens in a sample: ([\d,]+) samples", title) for title in titles]
    assert sum(int(found[1].replace(",", "")) for found in tokens if found) == totals["samples"]
    assert any(" to 600 tokens in a sample" in title for title in titles)
    for strategy, samples in totals["strategies"].items():
        assert f"{strategy}: {samples:,}" in titles
    for kind, samples in totals["kinds"].items():
        assert f"{kind.partition('/')[2]}: {samples:,}" in titles
    assert {"Kinds of maskout", "Kinds of permute"} <= set(page.texts("h3"))


def test_mixing_is_held_against_a_perfect_shuffle(manifest: dict[str, Any]) -> None:
    manifest["totals"]["samples"] = 1000
    manifest["mixing"] = {"several": 800, "mixed": 760, "share": 0.95, "perfect_shuffle": 0.97531}
    text = page_of(manifest).section("mixing")
    assert "95.0% of the samples of several records hold records of more than one source file" in text
    assert "A perfect shuffle of the whole source would give 97.5%." in text
    for piece in ("more than one file: 760 (76.0%)", "of one file: 40 (4.0%)", "a single record: 200 (20.0%)"):
        assert piece in text


def test_a_budget_far_above_every_sample_does_not_flatten_the_chart(manifest: dict[str, Any]) -> None:
    manifest["settings"]["max_tokens"] = 131_072
    page = page_of(manifest)
    assert not [text for text in page.texts("text") if text.startswith("budget")]
    assert "of a budget of 131,072" in page.section("distributions")
    assert len([title for title in page.texts("title") if "tokens in a sample" in title]) > 5


def test_a_run_of_single_records_has_a_report(manifest: dict[str, Any]) -> None:
    manifest["totals"].update(samples=5, tiles=5, kinds={}, strategies={"pass": 5}, tile_counts={"1": 5})
    manifest["mixing"] = {"several": 0, "mixed": 0, "share": 0.0, "perfect_shuffle": 0.0}
    page = page_of(manifest)
    assert "1 records in a sample: 5 samples" in page.texts("title")
    assert "perfect shuffle" not in page.section("mixing")
    assert not [title for title in page.texts("h3") if title.startswith("Kinds of") or title == "Files per sample"]


def test_the_largest_sources_and_how_many_files_a_sample_draws_from(manifest: dict[str, Any]) -> None:
    file = manifest["inventory"][0]
    manifest["inventory"] = [{**file, "name": f"f{n}", "records": n} for n in range(1, 16)]
    manifest["accounting"]["records"] = 120
    page = page_of(manifest, drawn_from={1: 2, 3: 5})
    text = page.section("mixing")
    assert "f15: 15" in text
    assert "f6: 6" in text
    assert "f5: 5" not in text
    assert "5 other files: 15" in text
    assert "Of 7 samples of several records that were read for this page" in text
    assert {"1 files in a sample: 2 samples", "3 files in a sample: 5 samples"} <= set(page.texts("title"))


def test_an_incremental_run_says_what_is_new_and_what_is_stale(manifest: dict[str, Any], page: Page) -> None:
    assert "since" not in {a.get("id") for a, _ in page.all("section")}
    files = {"new": 2, "changed": 1, "carried": 1500, "gone": 1000}
    gone = [f"gone/{n}<b>.jsonl" for n in range(1000)]
    manifest["since"] = {
        "output": "/lake/<i>old", "run": "r", "dataset_digest": "v1:0", "files": files,
        "changed": ["c.jsonl"], "gone": gone,
    }  # fmt: skip
    page = page_of(manifest)
    text = page.section("since")
    assert "made since the data set /lake/<i>old" in text
    assert [row[:2] for row in page.table("Source files since then")] == [
        ["new", "2"], ["changed", "1"], ["carried", "1,500"], ["gone", "1,000"],
    ]  # fmt: skip
    assert {"Changed: 1 file", "Gone: 1,000 files"} <= set(page.texts("summary"))
    assert page.texts("li").count("gone/99<b>.jsonl") == 1
    assert "gone/100<b>.jsonl" not in text
    assert "and 900 files more." in text


def test_the_first_run_of_a_directory_says_so(manifest: dict[str, Any]) -> None:
    files = {"new": 4, "changed": 0, "carried": 0, "gone": 0}
    manifest["since"] = {
        "output": "/lake", "run": None, "dataset_digest": None, "files": files, "changed": [], "gone": [],
    }  # fmt: skip
    text = page_of(manifest).section("since")
    assert "the first of its directory" in text
    assert "Changed:" not in text


def test_rejects_by_reason_the_most_frequent_first(manifest: dict[str, Any]) -> None:
    manifest["accounting"]["records"] = 50_000
    manifest["rejects"] = {"records": 4002, "by_reason": {"not_json": 2, "overlong": 4000}, "parts": []}
    page = page_of(manifest, rejects=[reject()] * 10)
    assert page.table("Rejects by reason") == [
        ["overlong", "4,000", "8.0%", "the record alone has more tokens than the budget"],
        ["not_json", "2", "<0.1%", "the line is not a JSON value"],
    ]
    assert len(page.table("Examples")) == 10
    assert "4,002 records of 50,000 could not be used" in page.section("rejects")


def test_no_rejects_are_said_to_be_none(manifest: dict[str, Any]) -> None:
    manifest["rejects"] = {"records": 0, "by_reason": {}, "parts": []}
    assert "every record could be used" in page_of(manifest).section("rejects")


def test_the_inventory_is_cut_at_fifty_files(manifest: dict[str, Any]) -> None:
    file = {**manifest["inventory"][0], "size": 1_500_000, "records": 12_345}
    manifest["inventory"] = [{**file, "name": f"part-{n}.jsonl.gz", "compression": "gzip"} for n in range(2050)]
    page = page_of(manifest)
    table = page.table("Source files")
    assert len(table) == 50
    assert table[49] == ["part-49.jsonl.gz", "jsonl gzip", file["shape"], "12,345", "1.5 MB"]
    assert "2,050 files, 3.1 GB." in page.section("source")
    assert "and 2,000 files more" in page.section("source")


def test_settings_and_slowest_tasks(manifest: dict[str, Any]) -> None:
    manifest["created"]["slowest_tasks"] = [{"task": 7, "seconds": 1234.5}, {"task": 3, "seconds": 2.0}]
    page = page_of(manifest)
    settings = {row[0]: row[1] for row in page.table("Settings")}
    assert set(manifest["settings"]) | {"tiles", "max_tiles", "strategies", "tokenizer", "pyarrow"} <= set(settings)
    assert settings["max_tokens"] == "600"
    assert page.table("Slowest tasks") == [
        ["7", "1,234.5", "_mosaic/receipts/task-00007.json"], ["3", "2.0", "_mosaic/receipts/task-00003.json"],
    ]  # fmt: skip


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour: str, ground: str, percent: int) -> str:
    """As ``color-mix(in srgb, colour percent%, ground)``."""
    pairs = ((int(colour[at : at + 2], 16), int(ground[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round((one * percent + other * (100 - percent)) / 100):02x}" for one, other in pairs)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_everything_can_be_told_from_its_ground(theme: dict[str, str]) -> None:
    for ground in (theme["page"], theme["panel"]):
        assert min(contrast(theme[name], ground) for name in ("text", "soft", "link")) >= 4.5
        assert min(contrast(theme[name], ground) for name in CATEGORIES) >= 3
    assert contrast(theme["text"], theme["mark"]) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_tiles_can_be_read(theme: dict[str, str], page: Page) -> None:
    """Their texts and tags at rest and lit up, and the numbers on them."""
    (style,) = page.texts("style")
    shades = list(map(int, re.findall(r"color-mix\(in srgb,var\(--tile\) (\d+)%,var\(--page\)\)", style)))
    assert len(shades) == 2
    for name in CATEGORIES:
        assert contrast(theme["page"], theme[name]) >= 4.5, f"the number on {name}"
        for percent in shades:
            ground = mixed(theme[name], theme["page"], percent)
            assert min(contrast(theme[text], ground) for text in ("text", "soft")) >= 4.5, f"{name} at {percent}%"


def test_both_themes_are_on_the_page_and_set_every_colour(page: Page) -> None:
    (style,) = page.texts("style")
    assert style.count("prefers-color-scheme:dark") == 1
    used = set(re.findall(r"var\(--(\w+)\)", style))
    assert used <= {*LIGHT, "tile"}
    assert set(LIGHT) == set(DARK)
    for name in LIGHT:
        assert f"--{name}:{LIGHT[name]}" in style
        assert f"--{name}:{DARK[name]}" in style
    classes = {a["class"] for _, a, _ in page.elements if a.get("class", "").startswith("c") and len(a["class"]) == 2}
    assert classes <= set(CATEGORIES)
