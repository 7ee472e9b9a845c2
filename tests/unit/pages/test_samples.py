from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.pages.report import report
from mosaic_ray.pages.samples import Shown
from mosaic_ray.records import Message, Record, Sample, Source
from mosaic_ray.seeding import Key
from mosaic_ray.text import seen
from tests.unit.pages.parsed import Page, page_of, reject, shown

MOST_BYTES = 1_500_000


class Unlimited:
    max_tokens = 10**9

    def count(self, messages: Any) -> int:
        return sum(len(message.content) for message in messages)

    def spells_control(self, *_: str) -> bool:
        return False


def composed(texts: list[tuple[str, str]], *, strategy: str, seed: int = 0) -> Shown:
    """A mosaic of these instructions and responses, as it would be read back."""
    tiles = [
        Record(source=Source(f"{n}.jsonl", n), messages=(Message("user", q), Message("assistant", a)))
        for n, (q, a) in enumerate(texts)
    ]
    method = MosaicMethod(strategies=(strategy,))  # type: ignore[arg-type]
    return read_back(method, method.mosaic(tiles, key=Key("test", seed), measure=Unlimited()))


def read_back(method: MosaicMethod, sample: Sample) -> Shown:
    question, answer = sample.messages
    row = {
        "mosaic_id": "e0-t00000-s000001",
        "tiles": len(sample.sources),
        "strategy": sample.strategy,
        "kind": sample.kind,
        "params": json.dumps(sample.params),
        "token_count": sample.token_count,
        "sources": [{"file": source.file, "row": source.row} for source in sample.sources],
    }
    outline = method.outline(
        {**row, "params": dict(sample.params), "instruction": question.content, "response": answer.content}
    )
    return Shown(part="data/p.parquet", number=0, messages=sample.messages, row=row, outline=outline)


def boxes(page: Page, side: str) -> list[tuple[str, str, str]]:
    """Of each tile on one side: its number, its classes, and its text with the tags."""
    return [
        (a["data-tile"], a["class"], text)
        for a, text in page.all("span")
        if "data-tile" in a and a["id"].split(".")[1].startswith(side)
    ]


TASKS = [(f"Say <b>{word}</b>.\nTwice.", f"{word} & {word}") for word in ("one", "two", "three", "four", "five")]


@pytest.mark.parametrize("strategy", ["format", "permute", "maskout"])
@pytest.mark.parametrize("seed", range(4))
def test_each_tile_is_told_apart_and_both_its_places_are_linked(
    manifest: dict[str, Any], strategy: str, seed: int
) -> None:
    sample = composed(TASKS, strategy=strategy, seed=seed)
    outline = sample.outline
    assert outline is not None
    page = page_of(manifest, sample)
    assert page.texts("pre") == [f"\n{message.content}" for message in sample.messages]
    if outline.instruction is None or outline.response is None:
        pytest.fail("texts without a trap are read in one way")
    asked, answers = boxes(page, "q"), boxes(page, "a")
    assert [int(tile) for tile, _, _ in asked] == [1, 2, 3, 4, 5]
    assert [int(tile) for tile, _, _ in answers] == list(outline.answered)
    assert all(TASKS[int(tile) - 1][0] in text for tile, _, text in asked)
    assert all(TASKS[int(tile) - 1][1] in text for tile, _, text in answers)
    assert {int(tile) for tile, kind, _ in asked if "out" in kind.split()} == {1, 2, 3, 4, 5} - {*outline.answered}
    params = json.loads(sample.row["params"])
    metas = [text for a, text in page.all("span") if a.get("class") == "tile meta"]
    assert metas == ([params["meta"]] if params["meta"] else [])
    links = [a["href"].partition(".")[2] for a, _ in page.all("a") if a.get("class") == "badge"]
    wanted = [f"a{n}" if n in outline.answered else f"s{n}" for n in range(1, 6)] + [f"q{n}" for n in outline.answered]
    assert links == wanted
    assert {a["id"].partition(".")[2] for a, _ in page.all("span") if "id" in a} >= set(wanted)


def test_the_order_of_the_answers_is_drawn_and_said(manifest: dict[str, Any]) -> None:
    sample = composed(TASKS, strategy="maskout", seed=1)
    assert sample.outline is not None
    page = page_of(manifest, sample)
    out = sorted({1, 2, 3, 4, 5} - {*sample.outline.answered})
    said = f"Answered in the order {', '.join(map(str, sample.outline.answered))}; left out: {', '.join(map(str, out))}"
    assert said in [a["aria-label"] for a, _ in page.all("svg")]
    assert f"{said}." in page.texts("p")
    lines = [a["class"] for a, _ in page.all("path") if "band" not in a["class"]]
    assert len(lines) == len(sample.outline.answered)
    answers = [row[1] for row in page.table("Source records")]
    assert [n for n, answer in enumerate(answers, 1) if answer == "left out"] == out


def test_a_text_of_two_readings_is_shown_as_it_stands(manifest: dict[str, Any]) -> None:
    messages = (Message("user", "Count.\n\nCount.\n\nCount."), Message("assistant", "b\n\na"))
    layout = {"number": None, "frame": None, "separator": "\n\n", "meta_position": "before", "meta_gap": "\n"}
    params = {"layout": layout, "meta": "", "order": [2, 1]}
    outline = MosaicMethod().outline(
        {"tiles": 2, "params": params, "instruction": messages[0].content, "response": messages[1].content}
    )
    assert outline is not None
    assert outline.instruction is None
    page = page_of(manifest, Shown(part="p", number=0, messages=messages, row=shown().row, outline=outline))
    assert page.texts("pre")[0] == "\nCount.\n\nCount.\n\nCount."
    assert page.texts("p").count("Where its tiles begin and end cannot be told for certain from the text.") == 1
    assert boxes(page, "q") == []
    assert [text for _, _, text in boxes(page, "a")] == ["b", "a"]
    assert [a["href"].partition(".")[2] for a, _ in page.all("a") if a.get("class") == "badge"] == ["s2", "s1"]


@pytest.mark.parametrize("text", ["</pre></details><script>x</script>", "a \u202eb \x00", "&lt;&amp; \"' <!--"])
def test_foreign_text_in_tiles_stays_text(manifest: dict[str, Any], text: str) -> None:
    plain = page_of(manifest, composed([("Do it.", "Done."), ("Go on.", "Gone.")], strategy="format"))
    sample = composed([(f"Do it. {text}", f"Done. {text}"), (f"Go on. {text}", f"Gone. {text}")], strategy="format")
    page = page_of(manifest, sample)
    assert [tag for tag, _, _ in page.elements] == [tag for tag, _, _ in plain.elements]
    assert page.texts("pre") == [f"\n{seen(message.content)}" for message in sample.messages]


def test_a_source_leads_to_its_file_where_that_is_listed(manifest: dict[str, Any]) -> None:
    manifest["inventory"][2]["name"] = "b.jsonl"
    page = page_of(manifest, shown())
    links = [(a["href"], text) for a, text in page.all("a") if a["href"].startswith("#file-")]
    assert links == [("#file-2", "b.jsonl")]
    assert page.table("Source files")[2][0] == "b.jsonl"


def test_the_command_that_takes_a_sample_apart_can_be_pasted_into_a_shell(manifest: dict[str, Any]) -> None:
    manifest["places"]["output"] = "/out of $(reboot)/"
    page = page_of(manifest, shown())
    wanted = "mosaic-ray explain '/out of $(reboot)/data/train-00000-of-00001.parquet:3'"
    assert wanted in page.texts("code")


def test_a_sample_shows_its_making_and_its_sources(manifest: dict[str, Any]) -> None:
    page = page_of(manifest, shown())
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
    page = page_of(manifest, Shown(part="p", number=0, messages=turns, row=row, outline=None))
    assert page.texts("summary")[0].startswith("pass · ")
    assert page.texts("pre") == ["\nof system", "\nof user", "\nof assistant"]
    assert [t for t in page.texts("h3") if t in ("System", "User", "Assistant")] == ["System", "User", "Assistant"]
    assert "What was drawn" not in page.texts("h3")


def test_only_the_first_sample_is_open(manifest: dict[str, Any]) -> None:
    page = page_of(manifest, *[shown()] * 12)
    assert ["open" in attributes for attributes, _ in page.all("details")] == [True] + [False] * 11


def test_long_texts_and_many_sources_are_cut_and_said_to_be(manifest: dict[str, Any]) -> None:
    sources = [{"file": "a.jsonl", "row": n} for n in range(1000)]
    page = page_of(manifest, shown("<" * 10**6, sources=sources))
    assert page.texts("pre")[0] == "\n" + "<" * 20_000 + "\n… 980,000 characters more"
    assert len(page.table("Source records")) == 100
    assert "and 900 records more." in page.texts("p")
    laid = page_of(manifest, composed([(f"{n} " * 4000, "yes") for n in range(5)], strategy="format"))
    texts = [text for _, _, text in boxes(laid, "q")]
    assert [text.count("… 5,000 characters more") for text in texts] == [1] * 5
    laid = page_of(manifest, composed([("x" * 4000, "yes") for _ in range(12)], strategy="primary"))
    lengths = [text.count("x") for _, _, text in boxes(laid, "q")]
    assert lengths[:6] == [3000] * 6
    assert 1500 < lengths[6] <= 2000, "20,000 in all, with the meta-instruction"
    assert lengths[7:] == [0] * 5


def test_a_page_stays_short_whatever_its_samples_hold(manifest: dict[str, Any]) -> None:
    nasty = composed([('"\u202e' * 10**5, "'" * 10**5)] * 5, strategy="format")
    samples = [replace(nasty, number=60 - n, row={**nasty.row, "mosaic_id": f"e0-{60 - n}"}) for n in range(60)]
    text = report(manifest, samples, [reject(excerpt="'" * 200, detail="<" * 200)] * 10, {})
    assert len(text.encode("utf-8")) < MOST_BYTES
    page = Page(text)
    kept = [a["id"] for a, _ in page.all("details")]
    assert 1 < len(kept) < 60
    assert kept == [f"e0-{61 - n}" for n in range(len(kept), 0, -1)], "the first ones, in the order of the data set"
    assert f"{60 - len(kept)} samples more would make this page too long." in page.texts("p")


def test_the_tools_offer_what_there_is_and_wait_for_the_script(manifest: dict[str, Any]) -> None:
    other = shown(strategy="format", kind=None, tiles=7, mosaic_id="other")
    page = page_of(manifest, shown(), other)
    assert page.texts("option") == ["all", "format", "permute", "all", "reversed", "all", "2", "7"]
    hidden = [a["class"] for a, _ in page.all("div") if "hidden" in a]
    assert hidden == ["tools", "steps"]
    details = [a for a, _ in page.all("details")]
    assert [(a["id"], a["data-strategy"], a["data-kind"], a["data-tiles"], a["data-tokens"]) for a in details] == [
        ("e0-t00000-s000000", "permute", "reversed", "2", "1664"), ("other", "format", "", "7", "1664"),
    ]  # fmt: skip
    assert {"#e0-t00000-s000000", "#other"} <= {a["href"] for a, text in page.all("a") if text == "Link to this sample"}
