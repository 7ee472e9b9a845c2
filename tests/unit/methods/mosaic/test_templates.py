"""The wordings: what validation refuses, and what the shipped ones keep to."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from mosaic_ray.errors import SettingsError
from mosaic_ray.methods.mosaic import templates
from mosaic_ray.methods.mosaic.strategies import MASKOUT_KINDS, PERMUTE_KINDS
from mosaic_ray.methods.mosaic.templates import FAMILIES, Wording, validate

PERMUTE = [(kind, text) for kind, texts in templates.PERMUTE.items() for text in texts]
MASKOUT = [(kind, text) for kind, texts in templates.MASKOUT.items() for text in texts]
SENTENCES = [*templates.FRAMED, *templates.PLAIN, *(text for _, text in PERMUTE + MASKOUT)]


def with_one_more(family: str, wording: Wording) -> Mapping[str, Sequence[Wording]]:
    return {**FAMILIES, family: (*FAMILIES[family], wording)}


# Validation


@pytest.mark.parametrize(
    ("family", "wording"),
    [
        ("NUMBER_SHAPES", "Exercise {n}"),
        ("FRAME_WORDS", ("ALPHA", "OMEGA")),
        ("FRAME_BRACKETS", "~~~{word}~~~"),
        ("FRAMED", "Box each answer with {begin_tag} and {end_tag}."),
        ("PLAIN", "Answer what you are asked."),
        ("PERMUTE['given']", "Take the order {order}."),
        ("MASKOUT['odd']", "Even ones only."),
        ("ORDER_INTERVALS", " before "),
        ("MASK_BRACKETS", "-{items}-"),
    ],
)
def test_adding_a_wording_is_all_it_takes(family: str, wording: Wording) -> None:
    validate(with_one_more(family, wording))


@pytest.mark.parametrize(
    ("family", "wording", "fault"),
    [
        ("FRAMED", "Put answers behind {begin_tag}.", "lacks {end_tag}"),
        ("FRAMED", "Put answers between {begin_tag}, {end_tag} and {end_tag}.", "has {end_tag} 2 times, not once"),
        ("NUMBER_SHAPES", "Exercise", "lacks {n}"),
        ("MASKOUT['longest']", "Drop the longest.", "lacks {count}"),
        ("PERMUTE['given']", "Answer as in {masked} and {order}.", "has the unknown placeholder {masked}"),
        ("PLAIN", "Answer {this}.", "has the unknown placeholder {this}"),
        ("NUMBER_SHAPES", "{n}{n:03}", "has the unknown placeholder {n:03}"),
        ("PLAIN", "Answer all}.", "has a stray brace"),
        ("FRAME_BRACKETS", "{{{word}}}", "has a stray brace"),
        ("PERMUTE['reversed']", "Answer {backwards.", "has a stray brace"),
        ("PLAIN", "", "is empty"),
        ("ORDER_INTERVALS", " ", "is empty"),
        ("FRAME_WORDS", ("", "OMEGA"), "is empty"),
        ("PLAIN", "Answer all.\nDo it now.", "has a line break"),
        ("MASK_INTERVALS", ",\n", "has a line break"),
        ("PLAIN", "Answer all\u2028now.", "has a line break"),
        ("PLAIN", " Answer all of it.", "has a space too many"),
        ("FRAME_WORDS", ("ALPHA", "OMEGA "), "has a space too many"),
        ("PLAIN", "Answer  all of it.", "has a space too many"),
        ("MASK_INTERVALS", "  ", "is empty"),
        ("ORDER_INTERVALS", " 2 ", "has a digit, which reads as a tile's number"),
        ("MASKOUT['shortest']", "Drop {count}, not 1.", "has a digit, which reads as a tile's number"),
        ("PLAIN", "Answer all", "does not end with a full stop"),
        ("PLAIN", "Answer all:", "does not end with a full stop"),
        ("PLAIN", "Answer all.Leave none out.", "runs two sentences together; is a comma missing"),
        ("PLAIN", "ANSWER EACH TASK.", "equals PLAIN[0]"),
        ("PERMUTE['reversed']", "answer each task.", "equals PLAIN[0]"),
        ("FRAME_BRACKETS", "[{word}]", "equals FRAME_BRACKETS[0]"),
        ("FRAME_WORDS", ("start", "end"), "equals FRAME_WORDS[0]"),
        ("FRAME_WORDS", ("HERE", "here"), "begins and ends alike"),
        ("FRAME_WORDS", "ALPHA", "is not a pair"),
        ("PLAIN", ("Answer all.", "Answer everything."), "is not one string"),
    ],
)
def test_a_damaged_wording_is_named_with_its_fault(family: str, wording: Wording, fault: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate(with_one_more(family, wording))
    message = str(caught.value)
    assert f"templates: {family}[{len(FAMILIES[family])}] " in message
    assert fault in message
    assert repr(wording) in message


def test_a_family_may_not_shrink_below_its_size_in_the_paper() -> None:
    least = {"NUMBER_SHAPES": 10, "NUMBER_MARKS": 3, "FRAME_WORDS": 17, "FRAME_BRACKETS": 28, "FRAMED": 30, "PLAIN": 7}
    least |= {"ORDER_BRACKETS": 8, "ORDER_INTERVALS": 7, "MASK_BRACKETS": 8, "MASK_INTERVALS": 4}
    least |= {f"PERMUTE[{kind!r}]": 5 for kind in PERMUTE_KINDS} | {f"MASKOUT[{kind!r}]": 6 for kind in MASKOUT_KINDS}
    assert set(least) == set(FAMILIES)
    for family, size in least.items():
        validate({**FAMILIES, family: FAMILIES[family][:size]})
        with pytest.raises(
            SettingsError, match=f"{re.escape(family)} has {size - 1} wordings and needs at least {size}$"
        ):
            validate({**FAMILIES, family: FAMILIES[family][: size - 1]})


def test_a_kind_without_wordings_and_wordings_without_a_kind() -> None:
    without = {name: wordings for name, wordings in FAMILIES.items() if name != "MASKOUT['odd']"}
    with pytest.raises(SettingsError, match=re.escape("the family MASKOUT['odd'] is missing")):
        validate(without)
    with pytest.raises(SettingsError, match=re.escape("the family PERMUTE['random'] is unknown")):
        validate({**FAMILIES, "PERMUTE['random']": ("Answer in any order.",)})


def test_a_tuple_of_one_without_its_comma() -> None:
    with pytest.raises(SettingsError, match=r"templates: PLAIN is a string, not a tuple; .* 'Answer all\.'"):
        validate({**FAMILIES, "PLAIN": "Answer all."})


def test_a_damaged_wording_stops_the_import() -> None:
    source = Path(templates.__file__).read_text(encoding="utf-8")
    assert source.count('"Answer each task."') == 1
    damaged = source.replace('"Answer each task."', '"Answer each {task}."')
    with pytest.raises(SettingsError, match=r"templates: PLAIN\[0\] has the unknown placeholder \{task\}"):
        exec(compile(damaged, "templates.py", "exec"), {"__name__": templates.__name__})


# The shipped wordings


@pytest.mark.parametrize("text", SENTENCES)
def test_no_sentence_points_up_or_down_the_page(text: str) -> None:
    """The meta-instruction stands before or after its tiles."""
    assert not re.search(
        r"\b(following|follows?|below|above|next|previous|preceding|underneath|here (is|are))\b", text, re.I
    )


@pytest.mark.parametrize("text", [*templates.FRAMED, *templates.PLAIN])
def test_general_sentences_fit_any_strategy_with_or_without_numbers(text: str) -> None:
    assert not re.search(
        r"\b(number|numbers|numbered|label|order|sequence|from first|tasks|questions|items)\b", text, re.I
    )


@pytest.mark.parametrize("text", templates.FRAMED)
def test_framed_sentences_leave_open_which_tasks_are_answered(text: str) -> None:
    assert not re.search(
        r"\b(all|every|each) (of the )?(tasks?|questions?|items?|requests?|instructions?)\b(?! that you)", text
    )
    assert re.search(r"\b(answers?|responses?|reply)\b", text, re.I)
    assert text.index("{begin_tag}") < text.index("{end_tag}")


@pytest.mark.parametrize(("kind", "text"), PERMUTE)
def test_permute_sentences_order_the_answers_and_print_numbers_only_for_given(kind: str, text: str) -> None:
    assert re.search(r"answer|respon", text, re.I)
    assert ("{order}" in text) == (kind == "given")


@pytest.mark.parametrize(("kind", "text"), PERMUTE)
def test_ordering_sentences_state_the_whole_rule(kind: str, text: str) -> None:
    ties = r"\bties?\b|equal|same"
    if kind.startswith("alphabetical"):
        required = ["first letter", r"\btext\b", r"\bcase\b|capital", ties]
    elif kind.startswith("words"):
        required = ["word", "whitespace", ties]
    elif kind.startswith("characters"):
        required = ["character", "whitespace", ties]
    elif kind in ("odd_first", "even_first"):
        required = [
            "odd|Odd",
            "even|Even",
            "ascending|from first to last|lowest number to the highest|in its given order",
        ]
    else:
        required = []
    for pattern in required:
        assert re.search(pattern, text), pattern


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, t in PERMUTE if k not in ("given", "reversed")])
def test_no_ordering_sentence_is_filed_under_its_opposite(kind: str, text: str) -> None:
    up = r"\bA\b.*\bZ\b|fewest\b.*\b(most|first)\b|Shorter .* before longer|\bascending|upwards"
    down = r"\bZ\b.*\bA\b|most\b.*\b(fewest|first)\b|Longer .* before shorter|descending|downwards"
    if kind.startswith("odd") or kind.startswith("even"):
        up, down = r"(?i)\bodd\b.*\beven\b", r"(?i)\beven\b.*\bodd\b"
        kind = "ascending" if kind.startswith("odd") else "descending"
    forward = not kind.endswith(("descending", "alphabetical_reversed"))
    stated, opposite = re.search(up, text), re.search(down, text)
    assert stated if forward else opposite
    assert (stated is None or opposite is None) or (stated.start() < opposite.start()) == forward


@pytest.mark.parametrize(("kind", "text"), MASKOUT)
def test_maskout_sentences_leave_no_trace_and_ask_for_the_rest(kind: str, text: str) -> None:
    assert re.search(r"placeholder|empty (tags|answer)", text)
    assert re.search(r"\b(tags?|labels?)\b", text)
    assert re.search(r"(?i)\banswer (all|the|only|whatever|a|even|odd)\b|answers to all|answered|respond|else", text)
    if kind in ("longest", "shortest"):
        assert "word" in text
        assert re.search(rf"{kind}|most words|fewest words|from the (most|fewest)", text)
        ends = re.search(r"longest|shortest|(most|fewest)\b", text)
        assert ends
        assert ends[0] in (("longest", "most") if kind == "longest" else ("shortest", "fewest"))


@pytest.mark.parametrize(("kind", "text"), [(k, t) for k, t in MASKOUT if k in ("odd", "even")])
def test_odd_and_even_sentences_leave_out_their_own(kind: str, text: str) -> None:
    parity = re.search(
        r"(odd|even)(-numbered one gets no| number is passed| positions are to be ignored|"
        r" number, without| number means that a task stays| numbers and to no others)",
        text,
    )
    assert parity
    assert (parity[1] == kind) != (parity[2] == " numbers and to no others")
    assert {"odd", "even"} <= set(re.findall("odd|even", text)) or re.search("the others|no others", text)


@pytest.mark.parametrize("numbers", [[1], [3, 1, 2], [12, 7, 10, 1, 11]])
def test_a_printed_list_or_count_reads_back(numbers: list[int]) -> None:
    printed = 0
    for wordings, name, brackets, intervals in (
        (templates.PERMUTE["given"], "order", templates.ORDER_BRACKETS, templates.ORDER_INTERVALS),
        (templates.MASKOUT["given"], "masked", templates.MASK_BRACKETS, templates.MASK_INTERVALS),
    ):
        for text, bracket, interval in itertools.product(wordings, brackets, intervals):
            items = bracket.format(items=interval.join(map(str, numbers)))
            assert list(map(int, re.findall(r"-?\d+(?:[.,/-]\d+)*", text.format(**{name: items})))) == numbers
            printed += 1
    assert printed >= 5 * 8 * 7 + 6 * 8 * 4
    for text in (*templates.MASKOUT["longest"], *templates.MASKOUT["shortest"]):
        assert re.findall(r"\d+", text.format(count="4")) == ["4"]


def test_number_tags_never_look_odd() -> None:
    assert all(re.fullmatch(r"([A-Z][A-Za-z]*\.? ?)?#?\{n\}", shape) for shape in templates.NUMBER_SHAPES)
    assert all(re.fullmatch(r"[.:)]", mark) for mark in templates.NUMBER_MARKS)


def tags() -> list[tuple[str, str]]:
    return [
        (bracket.replace("{word}", case(begin)), bracket.replace("{word}", case(end)))
        for begin, end in templates.FRAME_WORDS
        for bracket in templates.FRAME_BRACKETS
        for case in (str.lower, str.upper)
    ]


def test_frame_tags_are_all_different_and_none_holds_its_partner() -> None:
    pairs = tags()
    assert len(set(pairs)) == len(pairs) >= 17 * 28 * 2
    assert all(begin not in end and end not in begin for begin, end in pairs)


def test_frame_tags_are_bracketed_and_no_markup_that_others_keep_for_themselves() -> None:
    html = {"a", "b", "body", "code", "data", "head", "i", "input", "link", "main", "mark", "output", "q", "s", "title"}
    for tag in itertools.chain.from_iterable(tags()):
        assert not tag[0].isalnum()
        assert not tag[-1].isalnum()
        assert not re.search(r"<\||\|>|\[/|</|<!|\[INST|<<SYS|\{|`|^(#|>|[-*+]) |^~~~", tag, re.I), tag
        if name := re.match(r"<(\w+)", tag):
            assert name[1].lower() not in html
