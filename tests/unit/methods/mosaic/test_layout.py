"""How a mosaic looks, to the character, and that every look is drawn equally often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from scipy import stats

from mosaic_ray.methods.mosaic import templates
from mosaic_ray.methods.mosaic.layout import BARE, Frame, Layout, Number, draw_layout
from mosaic_ray.seeding import Key

P = 1e-4
DRAWS = 20_000

HASH = Number("#{n}", ":", newline=False)
TAGS = Frame("[START]", "[END]")


def layout(number: Number | None = None, frame: Frame | None = None, *, meta_first: bool = True) -> Layout:
    return Layout(number=number, frame=frame, separator="\n", meta_first=meta_first, meta_gap="\n\n")


def test_bare_is_the_texts_alone() -> None:
    assert "".join(BARE.instruction(["one", "two"], [])) == "one\n\ntwo"
    assert "".join(BARE.response(["1", "2"], [1, 2])) == "1\n\n2"
    assert "".join(BARE.instruction(["only"], [])) == "only"


def test_numbers_and_frames() -> None:
    made = layout(HASH, TAGS)
    assert "".join(made.instruction(["one", "two"], ["Do it."])) == "Do it.\n\n#1: one\n#2: two"
    assert "".join(made.response(["1", "2", "3"], [3, 1])) == "#3: [START] 3 [END]\n#1: [START] 1 [END]"
    after = layout(HASH, meta_first=False)
    assert "".join(after.instruction(["one", "two"], ["Do it."])) == "#1: one\n#2: two\n\nDo it."
    assert "".join(after.instruction(["one"], [])) == "#1: one"
    assert "".join(layout(Number("({n})", ".", newline=True)).response(["1", "2"], [2])) == "(2).\n2"


BLOCKS = [
    "```py\nx\n```",
    "~~~",
    "- item",
    "* item",
    "+ item",
    "• item",
    "1. first",
    "2) second",
    "# Title",
    "| a | b |",
]
BLOCKS += ["> quoted", "  indented", "\tcode"]


@pytest.mark.parametrize("text", BLOCKS)
def test_what_must_start_a_line_does(text: str) -> None:
    assert "".join(layout(HASH).instruction([text], [])) == f"#1:\n{text}"
    assert "".join(layout(HASH).response([text], [1])) == f"#1:\n{text}"
    assert "".join(layout(None, TAGS).response([text], [1])) == f"[START]\n{text}\n[END]"
    assert "".join(layout(HASH, TAGS).response([text], [1])) == f"#1: [START]\n{text}\n[END]"
    assert "".join(layout().response([text], [1])) == text


@pytest.mark.parametrize("text", ["plain", "-5", "3.14", "1990 was a year", "*stress*", "a\tb"])
def test_what_need_not_does_not(text: str) -> None:
    assert "".join(layout(HASH).response([text], [1])) == f"#1: {text}"
    assert "".join(layout(None, TAGS).response([text], [1])) == f"[START] {text} [END]"


def test_a_response_of_several_lines_has_its_tags_on_lines_of_their_own() -> None:
    assert "".join(layout(None, TAGS).response(["a\nb"], [1])) == "[START]\na\nb\n[END]"


def test_braces_in_a_text_are_left_alone() -> None:
    assert "".join(layout(HASH, TAGS).instruction(["{n} {0} {"], "{word}")) == "{word}\n\n#1: {n} {0} {"


def test_params_say_all_of_it() -> None:
    assert layout(HASH, TAGS, meta_first=False).params() == {
        "number": {"shape": "#{n}", "mark": ":", "newline": False},
        "frame": {"begin": "[START]", "end": "[END]"},
        "separator": "\n",
        "meta_position": "after",
        "meta_gap": "\n\n",
    }
    assert BARE.params() == {
        "number": None, "frame": None, "separator": "\n\n", "meta_position": "before", "meta_gap": "\n\n"
    }  # fmt: skip


def drawn(framed: bool | None, numbered: bool | None) -> list[Layout]:
    return [
        draw_layout(Key("layouts", str(framed), str(numbered), n).draw(), framed=framed, numbered=numbered)
        for n in range(DRAWS)
    ]


def uniform(values: Iterable[object], categories: Iterable[object]) -> None:
    counts = Counter(values)
    assert set(counts) == set(categories)
    assert stats.chisquare(list(counts.values())).pvalue > P, counts


WRAPPED = {
    (bracket.replace("{word}", cased(begin)), bracket.replace("{word}", cased(end))): (
        pair,
        bracket,
        cased is str.upper,
    )
    for bracket in templates.FRAME_BRACKETS
    for pair in templates.FRAME_WORDS
    for begin, end in [pair]
    for cased in (str.upper, str.lower)
}


def test_every_family_is_uniform() -> None:
    made = drawn(None, None)
    numbers = [look.number for look in made if look.number]
    frames = [WRAPPED[look.frame.begin, look.frame.end] for look in made if look.frame]
    uniform((look.number and look.number.shape for look in made), [None, *templates.NUMBER_SHAPES])
    uniform((number.mark for number in numbers), templates.NUMBER_MARKS)
    uniform((number.newline for number in numbers), [True, False])
    uniform((look.frame is None for look in made), [True, False])
    uniform((pair for pair, _, _ in frames), templates.FRAME_WORDS)
    uniform((bracket for _, bracket, _ in frames), templates.FRAME_BRACKETS)
    uniform((upper for _, _, upper in frames), [True, False])
    uniform((look.separator for look in made), ["\n", "\n\n"])
    uniform((look.meta_gap for look in made), ["\n", "\n\n"])
    uniform((look.meta_first for look in made), [True, False])


def test_a_kind_that_speaks_of_positions_always_has_numbers() -> None:
    made = drawn(None, True)
    uniform((look.number and look.number.shape for look in made), templates.NUMBER_SHAPES)


def test_what_is_settled_moves_no_other_draw() -> None:
    for n in range(500):
        key = Key("same", n)
        looks = {
            (framed, numbered): draw_layout(key.draw(), framed=framed, numbered=numbered)
            for framed in (None, True, False)
            for numbered in (None, True, False)
        }
        assert len({(look.separator, look.meta_first, look.meta_gap) for look in looks.values()}) == 1
        assert len({look.frame for (framed, _), look in looks.items() if framed}) == 1
        assert all(look.frame is None for (framed, _), look in looks.items() if framed is False)
        assert all(look.number is None for (_, numbered), look in looks.items() if numbered is False)
