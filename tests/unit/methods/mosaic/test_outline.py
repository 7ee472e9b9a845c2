from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.methods.base import Outline, Span
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.records import Message, Record, Sample, Source
from mosaic_ray.seeding import Key


class Unlimited:
    max_tokens = 10**9

    def count(self, messages: Any) -> int:
        return sum(len(message.content) for message in messages)

    def spells_control(self, *_: str) -> bool:
        return False


TRAPS = (
    "1. ",
    "2: ",
    "Task 2) ",
    "#3.",
    "\n",
    "\n\n",
    "[END]",
    "[START] ",
    " ",
    "yes",
    "- a",
    "Q1: ",
    "Answer each task.",
)
texts = st.lists(st.sampled_from(TRAPS), min_size=1, max_size=8).map("".join).filter(str.strip)
tile_texts = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)
STRATEGIES = st.sampled_from(["primary", "format", "permute", "maskout"])


def mosaic(tiles: list[tuple[str, str]], strategy: str, seed: int) -> Sample:
    method = MosaicMethod(strategies=(strategy,))  # type: ignore[arg-type]
    records = [
        Record(source=Source("a", n), messages=(Message("user", question), Message("assistant", answer)))
        for n, (question, answer) in enumerate(tiles)
    ]
    return method.mosaic(records, key=Key("outline", seed), measure=Unlimited())


def outline_of(sample: Sample, **changes: Any) -> Outline | None:
    read = {
        "tiles": len(sample.sources),
        "params": json.loads(json.dumps(sample.params)),
        "instruction": sample.messages[0].content,
        "response": sample.messages[1].content,
    }
    return MosaicMethod().outline({**read, **changes})


def own_texts(text: str, spans: tuple[Span, ...]) -> list[tuple[int, str]]:
    return [(span.tile, text[span.inner : span.inner_end]) for span in spans]


@given(tile_texts, STRATEGIES, st.integers(0, 10**6))
def test_what_is_said_is_so_whatever_the_tiles_hold(tiles: list[tuple[str, str]], strategy: str, seed: int) -> None:
    """Tiles that imitate tags, separators and wordings: the outline may say nothing, but never what is not so."""
    sample = mosaic(tiles, strategy, seed)
    found = outline_of(sample)
    assert found is not None
    question, answer = (message.content for message in sample.messages)
    due = sample.params.get("order") or [
        n for n in range(1, len(tiles) + 1) if n not in sample.params.get("masked", [])
    ]
    assert list(found.answered) == due
    meta = [(0, sample.params["meta"])] if sample.params["meta"] else []
    asked = [(n, tile[0]) for n, tile in enumerate(tiles, 1)]
    first = sample.params["layout"]["meta_position"] == "before"
    if found.instruction is not None:
        assert own_texts(question, found.instruction) == (meta + asked if first else asked + meta)
    if found.response is not None:
        assert own_texts(answer, found.response) == [(n, tiles[n - 1][1]) for n in due]
    for text, spans in ((question, found.instruction), (answer, found.response)):
        if spans is not None:
            edges = [(span.start, span.end) for span in spans]
            assert (edges[0][0], edges[-1][1]) == (0, len(text))
            between = [text[end:start] for (_, end), (start, _) in pairwise(edges)]
            assert all(gap and not gap.strip("\n") for gap in between)


words = st.text("abcxyz ABC", min_size=1).filter(str.strip)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=10), STRATEGIES, st.integers(0, 10**6))
def test_texts_without_traps_are_always_read(tiles: list[tuple[str, str]], strategy: str, seed: int) -> None:
    found = outline_of(mosaic(tiles, strategy, seed))
    assert found is not None
    assert found.instruction is not None
    assert found.response is not None


def bare(separator: str = "\n\n", **changes: Any) -> dict[str, Any]:
    layout = {"number": None, "frame": None, "separator": separator, "meta_position": "before", "meta_gap": "\n"}
    return {"layout": {**layout, **changes}, "meta": "", "wording": {"format": None}}


def read(question: str, answer: str, params: dict[str, Any], tiles: int = 2) -> Outline | None:
    return MosaicMethod().outline({"tiles": tiles, "params": params, "instruction": question, "response": answer})


def test_two_readings_are_no_reading() -> None:
    found = read("one\n\ntwo\n\nthree", "un\n\ndeux", bare())
    assert found is not None
    assert found.instruction is None
    assert found.response == (Span(1, 0, 0, 2, 2), Span(2, 4, 4, 8, 8))
    third = read("one\n\ntwo\n\nthree", "un\n\ndeux\n\ntrois", bare(), tiles=3)
    assert third is not None
    assert third.instruction is not None


def test_tags_belong_to_their_tile() -> None:
    layout = {"number": {"shape": "Q{n}", "mark": ".", "newline": False}, "frame": {"begin": "[A]", "end": "[B]"}}
    found = read("Q1. one\n\nQ2.\n- two", "Q1. [A] un [B]\n\nQ2. [A]\n- b\n[B]", bare(**layout))
    assert found == Outline(
        (Span(1, 0, 4, 7, 7), Span(2, 9, 13, 18, 18)),
        (Span(1, 0, 8, 10, 14), Span(2, 16, 24, 27, 31)),
        (1, 2),
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Q1.\none\n\nQ2. two", "Q1. [A] - un [B]\n\nQ2. [A] deux [B]"),
        ("Q1. - a\n\nQ2. two", "Q1. [A]\nun\n[B]\n\nQ2. [A] b [B]"),
    ],
)
def test_white_space_is_where_the_layout_puts_it(question: str, answer: str) -> None:
    """On a line of its own stands what begins a block of Markdown, and nothing else."""
    layout = {"number": {"shape": "Q{n}", "mark": ".", "newline": False}, "frame": {"begin": "[A]", "end": "[B]"}}
    found = read(question, answer, bare(**layout))
    assert found is not None
    assert (found.instruction, found.response) == (None, None)


@pytest.mark.parametrize("question", ["one", "one\n\n", "\n\ntwo", "", "Q1. one\n\nQ3. two"])
def test_what_the_layout_does_not_make_is_not_read(question: str) -> None:
    number = {"number": {"shape": "Q{n}", "mark": ".", "newline": False}}
    found = read(question, "un\n\ndeux", bare(**number))
    assert found is not None
    assert (found.instruction, found.response) == (None, None)


@pytest.mark.parametrize(
    "params", [{}, {"layout": {}}, {"layout": None, "meta": ""}, {"layout": "x"}, {**bare(), "order": 7}, bare(frame=3)]
)
def test_other_samples_have_no_outline(params: dict[str, Any]) -> None:
    assert read("a", "b", params) is None


def test_a_long_text_full_of_separators_is_read_in_no_time() -> None:
    layout = bare("\n", number={"shape": "{n}", "mark": ".", "newline": False})
    text = "1. " + "2. x\n" * 100_000 + "2. x"
    found = read(text, "1. a\n2. b", layout)
    assert found is not None
    assert found.instruction is None
    assert found.response is not None
