from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from mosaic_ray.pages.report import Shown, report
from mosaic_ray.pages.style import CATEGORIES, DARK, LIGHT
from mosaic_ray.records import Message
from mosaic_ray.text import seen

VOID = {"meta", "br"}


class Page(HTMLParser):
    """Elements with their attributes and text; a tag that is not closed in its turn fails."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.elements[place][2].append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def all(self, tag: str) -> list[tuple[dict[str, str], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.elements if name == tag]

    def texts(self, tag: str) -> list[str]:
        return [text for _, text in self.all(tag)]

    def table(self, label: str) -> list[list[str]]:
        """Rows of the first table of this label, without its heads."""
        start = next(i for i, (_, attributes, _) in enumerate(self.elements) if attributes.get("aria-label") == label)
        table: list[list[str]] = []
        for tag, _, text in self.elements[start + 2 :]:
            if tag == "table":
                break
            if tag == "tr":
                table.append([])
            if tag == "td":
                table[-1].append("".join(text))
        return [row for row in table if row]

    def section(self, name: str) -> str:
        return next(t for attributes, t in self.all("section") if attributes["id"] == name)


def shown(text: str = "Do it.", **changes: Any) -> Shown:
    row = {
        "mosaic_id": "e0-t00000-s000000",
        "tiles": 2,
        "strategy": "permute",
        "kind": "reversed",
        "params": '{"layout":{"number":{"shape":"Q{n}"},"frame":null},"order":[2,1]}',
        "token_count": 1664,
        "sources": [{"file": "a.jsonl", "row": 1234}, {"file": "b.jsonl", "row": 0}],
    }
    messages = (Message("user", text), Message("assistant", "Done."))
    return Shown(part="data/train-00000-of-00001.parquet", number=3, messages=messages, row={**row, **changes})


def reject(**changes: Any) -> dict[str, Any]:
    return {"file": "a.jsonl", "row": 1234, "reason": "not_json", "detail": "at 0", "excerpt": "{", **changes}


@pytest.fixture
def page(manifest: dict[str, Any]) -> Page:
    return Page(report(manifest, [shown()], [reject()]))


def test_headline_figures(manifest: dict[str, Any]) -> None:
    manifest["totals"].update(samples=1_234_567, tokens=987_654_321, tiles=6_172_835, longest=598)
    page = Page(report(manifest, [], []))
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


def test_links_lead_to_sections(page: Page) -> None:
    links = [attributes["href"] for attributes, _ in page.all("a")]
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert [link for link in links if link.startswith("#")] == [f"#{name}" for name in ids]
    assert len(set(ids)) == len(ids) == 8
    assert [link for link in links if not link.startswith("#")] == ["README.md", "manifest.json"]


def test_nothing_is_fetched_or_run(manifest: dict[str, Any]) -> None:
    text = report(manifest, [shown("<script src=http://x></script>")], [])
    page = Page(text)
    tags = {tag for tag, _, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
    names = {name for _, attributes, _ in page.elements for name in attributes}
    assert not {name for name in names if name.startswith("on") or name in ("src", "style", "srcset", "xlink:href")}
    assert not re.search(r"url\(|@import|@font-face", page.texts("style")[0])
    policies = [a["content"] for a, _ in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


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
    before = [tag for tag, _, _ in Page(report(manifest, [shown()], [reject()])).elements]
    manifest["tokenizer"]["name"] = manifest["places"]["output"] = manifest["inventory"][0]["name"] = text
    manifest["method"]["name"] = text
    sample = shown(text, strategy=text, kind=text, sources=[{"file": text, "row": 0}] * 2, mosaic_id=text)
    page = Page(report(manifest, [sample], [reject(file=text, detail=text, excerpt=text)]))
    assert [tag for tag, _, _ in page.elements] == before
    assert page.texts("pre") == [f"\n{seen(text)}", "\nDone."]
    assert page.table("Source records") == [["1", seen(text), "0"], ["2", seen(text), "0"]]
    assert page.table("Examples") == [["not_json", seen(text), "1,234", seen(text), seen(text)]]
    assert page.table("Source files")[0][0] == seen(text)
    assert "\x00" not in "".join(page.texts("html"))


def test_the_command_that_takes_a_sample_apart_can_be_pasted_into_a_shell(manifest: dict[str, Any]) -> None:
    manifest["places"]["output"] = "/out of $(reboot)/"
    page = Page(report(manifest, [shown()], []))
    wanted = "mosaic-ray explain '/out of $(reboot)/data/train-00000-of-00001.parquet:3'"
    assert wanted in page.texts("code")


def test_a_sample_shows_its_making_and_its_sources(page: Page) -> None:
    (summary,) = page.texts("summary")
    assert summary == "permute, reversed · 2 records · 1,664 tokens · e0-t00000-s000000"
    assert page.table("Source records") == [["1", "a.jsonl", "1,234"], ["2", "b.jsonl", "0"]]
    assert page.table("What was drawn") == [
        ["layout.number.shape", '"Q{n}"'], ["layout.frame", "null"], ["order", "[2, 1]"],
    ]  # fmt: skip
    titles = [text for text in page.texts("h3") if text in ("Instruction", "Response", "User", "Assistant")]
    assert titles == ["Instruction", "Response"]


def test_a_conversation_passed_through_shows_its_turns(manifest: dict[str, Any]) -> None:
    turns = tuple(Message(role, f"of {role}") for role in ("system", "user", "assistant"))
    row = {**shown().row, "strategy": "pass", "kind": None, "params": "{}"}
    page = Page(report(manifest, [Shown(part="p", number=0, messages=turns, row=row)], []))
    assert page.texts("summary")[0].startswith("pass · ")
    assert page.texts("pre") == ["\nof system", "\nof user", "\nof assistant"]
    assert [t for t in page.texts("h3") if t in ("System", "User", "Assistant")] == ["System", "User", "Assistant"]
    assert "What was drawn" not in page.texts("h3")


def test_only_the_first_sample_is_open(manifest: dict[str, Any]) -> None:
    page = Page(report(manifest, [shown()] * 12, []))
    assert ["open" in attributes for attributes, _ in page.all("details")] == [True] + [False] * 11


def test_long_texts_and_many_sources_do_not_make_a_long_page(manifest: dict[str, Any]) -> None:
    sources = [{"file": "a.jsonl", "row": n} for n in range(1000)]
    text = report(manifest, [shown("<" * 10**6, sources=sources)] * 12, [reject(excerpt="x" * 10**6)])
    assert len(text) < 2_000_000
    page = Page(text)
    assert page.texts("pre")[0] == "\n" + "<" * 20_000 + "\n… 980,000 characters more"
    assert len(page.table("Source records")) == 100
    assert "and 900 records more." in page.texts("p")


def test_every_picture_says_in_words_what_it_shows(page: Page) -> None:
    pictures = page.all("svg")
    assert len(pictures) == 7
    assert all(attributes["role"] == "img" for attributes, _ in pictures)
    spoken = [attributes["aria-label"] for attributes, _ in pictures]
    assert spoken[0] == (
        "Records of an epoch: composed into samples 120, 94.5%; passed through whole 1, 0.8%; rejected 6, 4.7%"
    )
    assert "Samples by number of records" in spoken[1]
    assert "of a budget of 600" in spoken[2]
    assert spoken[3].startswith("Samples by strategy: format ")
    assert spoken[6].startswith("Samples by what they hold: records of more than one file ")


def test_the_charts_show_the_totals(manifest: dict[str, Any]) -> None:
    totals = manifest["totals"]
    page = Page(report(manifest, [], []))
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
    text = Page(report(manifest, [], [])).section("mixing")
    assert "95.0% of the samples of several records hold records of more than one source file" in text
    assert "A perfect shuffle of the whole source would give 97.5%." in text
    for piece in ("more than one file: 760 (76.0%)", "of one file: 40 (4.0%)", "a single record: 200 (20.0%)"):
        assert piece in text


def test_a_budget_far_above_every_sample_does_not_flatten_the_chart(manifest: dict[str, Any]) -> None:
    manifest["settings"]["max_tokens"] = 131_072
    page = Page(report(manifest, [], []))
    assert not [text for text in page.texts("text") if text.startswith("budget")]
    assert "of a budget of 131,072" in page.section("distributions")
    assert len([title for title in page.texts("title") if "tokens in a sample" in title]) > 5


def test_a_run_of_single_records_has_a_report(manifest: dict[str, Any]) -> None:
    manifest["totals"].update(samples=5, tiles=5, kinds={}, strategies={"pass": 5}, tile_counts={"1": 5})
    manifest["mixing"] = {"several": 0, "mixed": 0, "share": 0.0, "perfect_shuffle": 0.0}
    page = Page(report(manifest, [], []))
    assert "1 records in a sample: 5 samples" in page.texts("title")
    assert "perfect shuffle" not in page.section("mixing")
    assert len(page.all("svg")) == 5


def test_rejects_by_reason_the_most_frequent_first(manifest: dict[str, Any]) -> None:
    manifest["accounting"]["records"] = 50_000
    manifest["rejects"] = {"records": 4002, "by_reason": {"not_json": 2, "overlong": 4000}, "parts": []}
    page = Page(report(manifest, [], [reject()] * 10))
    assert page.table("Rejects by reason") == [
        ["overlong", "4,000", "8.0%", "the record alone has more tokens than the budget"],
        ["not_json", "2", "<0.1%", "the line is not a JSON value"],
    ]
    assert len(page.table("Examples")) == 10
    assert "4,002 records of 50,000 could not be used" in page.section("rejects")


def test_no_rejects_are_said_to_be_none(manifest: dict[str, Any]) -> None:
    manifest["rejects"] = {"records": 0, "by_reason": {}, "parts": []}
    assert "every record could be used" in Page(report(manifest, [], [])).section("rejects")


def test_the_inventory_is_cut_at_fifty_files(manifest: dict[str, Any]) -> None:
    file = {**manifest["inventory"][0], "size": 1_500_000, "records": 12_345}
    manifest["inventory"] = [{**file, "name": f"part-{n}.jsonl.gz", "compression": "gzip"} for n in range(2050)]
    page = Page(report(manifest, [], []))
    table = page.table("Source files")
    assert len(table) == 50
    assert table[49] == ["part-49.jsonl.gz", "jsonl gzip", file["shape"], "12,345", "1.5 MB"]
    assert "2,050 files, 3.1 GB." in page.section("source")
    assert "and 2,000 files more" in page.section("source")


def test_settings_and_slowest_tasks(manifest: dict[str, Any]) -> None:
    manifest["created"]["slowest_tasks"] = [{"task": 7, "seconds": 1234.5}, {"task": 3, "seconds": 2.0}]
    page = Page(report(manifest, [], []))
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


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_everything_can_be_told_from_its_ground(theme: dict[str, str]) -> None:
    for ground in (theme["page"], theme["panel"]):
        assert min(contrast(theme[name], ground) for name in ("text", "soft", "link")) >= 4.5
        assert min(contrast(theme[name], ground) for name in CATEGORIES) >= 3


def test_both_themes_are_on_the_page_and_set_every_colour(page: Page) -> None:
    (style,) = page.texts("style")
    assert style.count("prefers-color-scheme:dark") == 1
    used = set(re.findall(r"var\(--(\w+)\)", style))
    assert used <= set(LIGHT) == set(DARK)
    for name in LIGHT:
        assert f"--{name}:{LIGHT[name]}" in style
        assert f"--{name}:{DARK[name]}" in style
    classes = {a["class"] for _, a, _ in page.elements if a.get("class", "").startswith("c") and len(a["class"]) == 2}
    assert classes <= set(CATEGORIES)
