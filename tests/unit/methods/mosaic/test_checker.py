"""The independent checker: samples written by hand pass, and every way of breaking one is caught and named."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mosaic_ray.methods.mosaic.checker import check

# First letters w, a, w, l; words 6, 4, 3, 6; characters 30, 11, 48, 30.
FRANCE = ("What is the capital of France?", "Paris.")
ADD = ("add 2 and 3", "5")
LONG = ("Write antidisestablishmentarianism phonetically.", "```\nan-ti-dis\n```")
EVEN = ("List three of the even numbers", "- 2\n- 4\n- 6")
TILES = [FRANCE, ADD, LONG, EVEN]

BARE = """\
What is the capital of France?

add 2 and 3

Write antidisestablishmentarianism phonetically.

List three of the even numbers"""

NUMBERED = """\
(1). What is the capital of France?
(2). add 2 and 3
(3). Write antidisestablishmentarianism phonetically.
(4). List three of the even numbers"""


def layout(**changes: Any) -> dict[str, Any]:
    bare = {"number": None, "frame": None, "separator": "\n\n", "meta_position": "before", "meta_gap": "\n\n"}
    return bare | changes


def numbered(**changes: Any) -> dict[str, Any]:
    return layout(number={"shape": "({n})", "mark": ".", "newline": False}, separator="\n", **changes)


def sample(
    strategy: str,
    kind: str | None,
    meta: str,
    instruction: str,
    response: str,
    *,
    look: dict[str, Any],
    tiles: list[tuple[str, str]] = TILES,
    **params: Any,
) -> dict[str, Any]:
    wording: dict[str, Any] = {"format": None}
    if look["frame"]:
        wording["format"] = "framed/12"
    elif meta and kind is None:
        wording["format"] = "plain/3"
    if kind is not None:
        wording[strategy] = f"{kind}/0"
    return {
        "strategy": strategy,
        "kind": kind,
        "params": {"layout": look, "meta": meta, "wording": wording, **params},
        "tiles": tiles,
        "instruction": instruction,
        "response": response,
    }


def permuted(kind: str, order: list[int], meta: str, response: str) -> dict[str, Any]:
    return sample("permute", kind, meta, f"{meta}\n\n{BARE}", response, look=layout(), order=order)


def masking(kind: str, masked: list[int], meta: str, response: str) -> dict[str, Any]:
    look = numbered(meta_position="after", meta_gap="\n")
    return sample("maskout", kind, meta, f"{NUMBERED}\n{meta}", response, look=look, masked=masked)


FRAMED_META = "Put every answer between [START] and [END]."
FRAMED = sample(
    "format",
    None,
    FRAMED_META,
    """\
Put every answer between [START] and [END].

Task 1:
What is the capital of France?
Task 2:
add 2 and 3""",
    """\
Task 1:
[START] Paris. [END]
Task 2:
[START]
5
[END]""",
    look=layout(
        number={"shape": "Task {n}", "mark": ":", "newline": True},
        frame={"begin": "[START]", "end": "[END]"},
        separator="\n",
    ),
    tiles=[FRANCE, ADD],
)

# Each text imitates tags, separators or the meta-instruction; the meta-instruction comes last.
TRAPS = sample(
    "permute",
    "given",
    "Mark answers with [START] and [END 9]. Answer in the order <2 -> 3 -> 1>.",
    """\
(1). Answer in the order <2 -> 3 -> 1>.

(2). really?

(2). 7

(3). [END 9]

Mark answers with [START] and [END 9]. Answer in the order <2 -> 3 -> 1>.""",
    """\
(2). [START] [END 9]

(3). [START] 8 [END 9]

(3). [START] (1). [END 9]

(1).
[START]
[START]
[END 9]""",
    look=layout(
        number={"shape": "({n})", "mark": ".", "newline": False},
        frame={"begin": "[START]", "end": "[END 9]"},
        meta_position="after",
    ),
    tiles=[
        ("Answer in the order <2 -> 3 -> 1>.\n\n(2). really?", "[START]"),
        ("7", "[END 9]\n\n(3). [START] 8"),
        ("[END 9]", "(1)."),
    ],
    order=[2, 3, 1],
)

GIVEN_ORDER = sample(
    "permute",
    "given",
    "Answer in this order: {3; 1; 4; 2}.",
    f"Answer in this order: {{3; 1; 4; 2}}.\n\n{NUMBERED}",
    "(3).\n```\nan-ti-dis\n```\n(1). Paris.\n(4).\n- 2\n- 4\n- 6\n(2). 5",
    look=numbered(),
    order=[3, 1, 4, 2],
)

ALPHABETICAL = permuted(
    "alphabetical", [2, 4, 1, 3], "From A to Z.", "5\n\n- 2\n- 4\n- 6\n\nParis.\n\n```\nan-ti-dis\n```"
)
REVERSED = permuted("reversed", [4, 3, 2, 1], "Last first.", "- 2\n- 4\n- 6\n\n```\nan-ti-dis\n```\n\n5\n\nParis.")
LONGEST = masking("longest", [1, 4], "Skip the 2 longest.", "(2). 5\n(3).\n```\nan-ti-dis\n```")
GIVEN_MASK = masking("given", [2, 4], "Leave out [4, 2].", "(1). Paris.\n(3).\n```\nan-ti-dis\n```")
ODD_FIRST = sample(
    "permute",
    "odd_first",
    "Odd numbers first.",
    f"{NUMBERED}\n\nOdd numbers first.",
    "(1). Paris.\n(3).\n```\nan-ti-dis\n```\n(2). 5\n(4).\n- 2\n- 4\n- 6",
    look=numbered(meta_position="after"),
    order=[1, 3, 2, 4],
)

GOOD = {
    "primary": sample("primary", None, "", BARE, "Paris.\n\n5\n\n```\nan-ti-dis\n```\n\n- 2\n- 4\n- 6", look=layout()),
    "format, plain": sample("format", None, "Do both.", "7\n\n8\nDo both.", "seven\n\neight",
                            look=layout(meta_position="after", meta_gap="\n"), tiles=[("7", "seven"), ("8", "eight")]),
    "format, one tile": sample("format", None, "", "add 2 and 3", "5", look=layout(), tiles=[ADD]),
    "format, framed": FRAMED,
    "permute, traps": TRAPS,
    "permute given": GIVEN_ORDER,
    "permute reversed": REVERSED,
    "permute alphabetical": ALPHABETICAL,
    "permute alphabetical_reversed": permuted(
        "alphabetical_reversed", [1, 3, 4, 2], "Z to A.", "Paris.\n\n```\nan-ti-dis\n```\n\n- 2\n- 4\n- 6\n\n5"
    ),
    "permute words_ascending": permuted(
        "words_ascending", [3, 2, 1, 4], "Fewest words first.", "```\nan-ti-dis\n```\n\n5\n\nParis.\n\n- 2\n- 4\n- 6"
    ),
    "permute words_descending": permuted(
        "words_descending", [1, 4, 2, 3], "Most words first.", "Paris.\n\n- 2\n- 4\n- 6\n\n5\n\n```\nan-ti-dis\n```"
    ),
    "permute characters_ascending": permuted(
        "characters_ascending", [2, 1, 4, 3], "Shortest first.", "5\n\nParis.\n\n- 2\n- 4\n- 6\n\n```\nan-ti-dis\n```"
    ),
    "permute characters_descending": permuted(
        "characters_descending", [3, 1, 4, 2], "Longest first.", "```\nan-ti-dis\n```\n\nParis.\n\n- 2\n- 4\n- 6\n\n5"
    ),
    "permute odd_first": ODD_FIRST,
    "permute even_first": sample(
        "permute",
        "even_first",
        "Even numbers first.",
        f"Even numbers first.\n{NUMBERED}",
        "(2). 5\n(4).\n- 2\n- 4\n- 6\n(1). Paris.\n(3).\n```\nan-ti-dis\n```",
        look=numbered(meta_gap="\n"),
        order=[2, 4, 1, 3],
    ),
    "maskout given": GIVEN_MASK,
    "maskout longest": LONGEST,
    "maskout shortest": masking("shortest", [3], "Skip the 1 shortest.", "(1). Paris.\n(2). 5\n(4).\n- 2\n- 4\n- 6"),
    "maskout odd": masking("odd", [1, 3], "Skip odd ones.", "(2). 5\n(4).\n- 2\n- 4\n- 6"),
    "maskout even": masking("even", [2, 4], "Skip even ones.", "(1). Paris.\n(3).\n```\nan-ti-dis\n```"),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_sample_that_obeys_passes(name: str) -> None:
    assert check(**GOOD[name]) is None


def test_redrawn_kinds_and_a_mask_above_half_of_odd_tiles_are_fine() -> None:
    odd = sample("maskout", "odd", "No odd ones.", "(1). 7\n(2). 8\n(3). 9\n\nNo odd ones.", "(2). eight",
                 masked=[1, 3], redrawn=["longest"], tiles=[("7", "seven"), ("8", "eight"), ("9", "nine")],
                 look=numbered(meta_position="after"))  # fmt: skip
    assert check(**odd) is None


def edited(good: dict[str, Any], where: str, old: Any, new: Any) -> dict[str, Any]:
    """A copy with `old` replaced by `new` at a dotted path; in a string exactly one occurrence of `old`."""
    bad = copy.deepcopy(good)
    *path, last = where.split(".")
    holder: Any = bad
    for key in path:
        holder = holder[key]
    if isinstance(holder.get(last), str) and isinstance(new, str):
        assert holder[last].count(old) == 1
        new = holder[last].replace(old, new)
    else:
        assert holder.get(last) == old
    holder[last] = new
    return bad


TEXT_FAULTS = {
    "tile changed": (FRAMED, "instruction", "add 2", "add 4", "the instruction of tile 2 .*found 'add 4 and 3'"),
    "far into a tile": (REVERSED, "instruction", "phonetically.", "phonetically!",
                        r"tile 3 is due at character 58: expected '\.' from character 105 on, found '!"),
    "tile lost": (REVERSED, "instruction", "add 2 and 3\n\n", "", "tile 2 .*found 'Write.*, the instruction of tile 3"),
    "last tile lost": (FRAMED, "instruction", "\nTask 2:\nadd 2 and 3", "", "separator before tile 2 .*found the end"),
    "tile twice": (FRAMED, "instruction", "and 3", "and 3\nTask 2:\nadd 2 and 3", "nothing more is due.*Task 2"),
    "separator of tiles": (FRAMED, "instruction", "?\nTask", "?\n\nTask", "the number tag of tile 2 is due at"),
    "number of a tile": (GIVEN_ORDER, "instruction", "(2)", "(5)", r"tag of tile 2 .*'\(2\)\. ', found '\(5\)\."),
    "white space after number": (FRAMED, "instruction", "2:\n", "2: ", "number tag of tile 2"),
    "meta changed": (REVERSED, "instruction", "Last", "lasT", "the meta-instruction is due at character 0"),
    "meta lost": (REVERSED, "instruction", "Last first.\n\n", "", "the meta-instruction is due .*tile 1"),
    "meta after is lost": (LONGEST, "instruction", "\nSkip the 2 longest.", "", "the gap before the meta-instruction"),
    "gap": (REVERSED, "instruction", "first.\n\n", "first.\n", "the gap after the meta-instruction"),
    "text before": (REVERSED, "instruction", "Last", "Please: Last", "the meta-instruction is due at character 0"),
    "text after": (LONGEST, "instruction", "2 longest.", "2 longest. Thanks!", "nothing more is due.*' Thanks!'"),
    "other side": (LONGEST, "params.layout.meta_position", "after", "before", "the meta-instruction is due at"),
    "answer changed": (REVERSED, "response", "Paris", "paris", "answer 4 of 4 the response of tile 1.*found 'paris"),
    "answer lost": (REVERSED, "response", "5\n\n", "", "answer 3 of 4 the response of tile 2 .*'Paris.', the resp"),
    "answers swapped": (REVERSED, "response", "5\n\nParis.", "Paris.\n\n5", "tile 2 .*, the response of tile 1"),
    "order not followed": (GIVEN_ORDER, "response", "(4).\n- 2\n- 4\n- 6\n(2). 5", "(2). 5\n(4).\n- 2\n- 4\n- 6",
                           "answer 3 of 4 the number tag of tile 4 .*, the number tag of tile 2"),
    "own number": (LONGEST, "response", "(2). 5", "(1). 5", "the number tag of tile 2 .*, the number tag of tile 1"),
    "masked answered": (LONGEST, "response", "dis\n```", "dis\n```\n(4).\n- 2\n- 4\n- 6",
                        r"after answer 2 \(tile 3\) nothing more is due.*, the number tag of tile 4"),
    "masked tag kept": (LONGEST, "response", "(2). 5", "(1).\n(2). 5", "answer 1 of 2 the number tag of tile 2"),
    "last answer lost": (LONGEST, "response", "\n(3).\n```\nan-ti-dis\n```", "", "before answer 2 .*found the end"),
    "number missing": (LONGEST, "response", "(2). 5", "5", "the number tag of tile 2 .*found '5"),
    "number glued": (LONGEST, "response", "(2). 5", "(2).5", "the number tag of tile 2"),
    "begin tag": (FRAMED, "response", "[START] Paris", "Paris", "the begin tag of tile 1 .*found 'Paris"),
    "end tag": (FRAMED, "response", "\n5\n[END]", "\n5\n", "the end tag of tile 2 .*found the end"),
    "another end tag": (FRAMED, "response", "Paris. [END]", "Paris. <END>", r"end tag of tile 1 .*found '<END>"),
    "tags glued to the answer": (FRAMED, "response", "] Paris", "]Paris", "white space after the begin tag of tile 1"),
    "end tag glued": (FRAMED, "response", ". [END]", ".[END]", "white space before the end tag of tile 1"),
    "extra text": (FRAMED, "response", "\n5\n[END]", "\n5\n[END]\nDone.", "nothing more is due.*'\\\\nDone.'"),
    "text between": (FRAMED, "response", "Paris. [END]", "Paris. [END] ok", "separator before answer 2 .*found ' ok"),
    "trailing newline": (REVERSED, "response", "Paris.", "Paris.\n", "nothing more is due"),
    "empty": (REVERSED, "response", REVERSED["response"], "", "answer 1 of 4 the response of tile 4 .*found the end"),
}  # fmt: skip

MEANING_FAULTS = {
    "order differs from print": (GIVEN_ORDER, "params.order", [3, 1, 4, 2], [3, 4, 1, 2],
                                 r"'given' demands order \[3, 1, 4, 2\] of these tiles; params say \[3, 4, 1, 2\]"),
    "tie backwards": (GOOD["permute words_descending"], "params.order", [1, 4, 2, 3], [4, 1, 2, 3], r"order \[1, 4, "),
    "alphabetical tie": (GOOD["permute alphabetical_reversed"], "params.order", [1, 3, 4, 2], [3, 1, 4, 2], "order"),
    "case matters": (ALPHABETICAL, "params.order", [2, 4, 1, 3], [4, 1, 3, 2], r"demands order \[2, 4, 1, 3\]"),
    "mask differs from print": (GIVEN_MASK, "params.masked", [2, 4], [2, 3], r"demands masked \[2, 4\]"),
    "mask not ascending": (GIVEN_MASK, "params.masked", [2, 4], [4, 2], r"demands masked \[2, 4\]"),
    "shortest for longest": (LONGEST, "kind", "longest", "shortest", "is 'longest/0'; 'shortest/' and a number"),
    "odd for even": (GOOD["maskout odd"], "params.masked", [1, 3], [2, 4], r"demands masked \[1, 3\]"),
    "one tile": (ALPHABETICAL, "tiles", TILES, TILES[:1], "one tile has strategy 'permute'"),
    "no tiles": (ALPHABETICAL, "tiles", TILES, [], "no tiles"),
    "order in a format": (FRAMED, "params.order", None, [1, 2], "strategy is 'format', yet params hold 'order'"),
    "mask in a permute": (REVERSED, "params.masked", None, [1], "strategy is 'permute', yet params hold 'masked'"),
    "wording of another strategy": (REVERSED, "params.wording.maskout", None, "odd/1", "yet wording"),
    "wording missing": (REVERSED, "params.wording.permute", "reversed/0", None, "'permute'] is missing"),
    "framed without wording": (FRAMED, "params.wording.format", "framed/12", None, "'format'] is missing; 'framed/'"),
    "plain wording": (FRAMED, "params.wording.format", "framed/12", "plain/3", "'framed/' and a number is due"),
    "meta without wording": (GOOD["format, plain"], "params.wording.format", "plain/3", None, "no wording .*'Do bo"),
    "wording without meta": (GOOD["primary"], "params.wording.format", None, "plain/3", "meta-instruction is empty"),
    "redrawn kind unknown": (LONGEST, "params.redrawn", None, ["longer"], "'redrawn'] is not a list of kinds"),
    "redrawn no list": (LONGEST, "params.redrawn", None, "longest", "'redrawn'] is not a list of kinds"),
    "response no text": (LONGEST, "response", LONGEST["response"], None, "the response is None, not a string"),
    "tile without response": (LONGEST, "tiles", TILES, [*TILES[:3], ("x",)], "tile 4 is not an instruction and a resp"),
    "tile of null": (LONGEST, "tiles", TILES, [("x", None), *TILES[1:]], "tile 1 is not an instruction and a response"),
    "same number tags": (LONGEST, "params.layout.number.shape", "({n})", "(n)", "not distinct"),
    "same tag for one tile": (GOOD["format, one tile"], "params.layout.number", None,
                              {"shape": "*", "mark": "", "newline": False}, "not distinct"),
    "same frame tags": (FRAMED, "params.layout.frame", {"begin": "[START]", "end": "[END]"},
                        {"begin": "[END]", "end": "[END]"}, "blank or the same"),
}  # fmt: skip


@pytest.mark.parametrize("name", [*TEXT_FAULTS, *MEANING_FAULTS])
def test_a_fault_is_caught_and_named(name: str) -> None:
    good, where, old, new, message = (TEXT_FAULTS | MEANING_FAULTS)[name]
    assert check(**good) is None
    caught(edited(good, where, old, new), message)


def caught(bad: dict[str, Any], message: str) -> None:
    found = check(**bad)
    assert found is not None
    assert re.search(message, found), found
    assert "\n" not in found
    assert len(found) < 400


def reworded(good: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return edited(edited(good, "params.meta", old, new), "instruction", old, new)


META_FAULTS = {
    "order lacks a tile": (GIVEN_ORDER, "1; 4; 2", "1; 4", r"prints the order \[3, 1, 4\], not each of 1 to 4 once"),
    "order has one twice": (GIVEN_ORDER, "1; 4; 2", "1; 4; 1", r"prints the order \[3, 1, 4, 1\]"),
    "order names no tile": (GIVEN_ORDER, "1; 4; 2", "1; 5; 2", "prints the number '5', but the tiles are 1 to 4"),
    "order differs": (GIVEN_ORDER, "1; 4; 2", "2; 4; 1", r"demands order \[3, 2, 4, 1\] of these tiles; params say"),
    "no order at all": (GIVEN_ORDER, "{3; 1; 4; 2}", "{}", r"prints the order \[\]"),
    "huge number": (GIVEN_ORDER, "1; 4; 2", "1; 4; " + "2" * 5000, "prints the number '2222"),
    "mask names no tile": (GIVEN_MASK, "[4, 2]", "[4, 0]", "prints the number '0'"),
    "mask has one twice": (GIVEN_MASK, "[4, 2]", "[4, 2, 4]", r"prints a tile twice: \[4, 2, 4\]"),
    "mask is empty": (GIVEN_MASK, "[4, 2]", "[]", "0 of 4 tiles are left out"),
    "mask above half": (GIVEN_MASK, "[4, 2]", "[4, 2, 1]", "3 of 4 tiles are left out.*at most half"),
    "count above half": (LONGEST, "the 2", "the 3", "3 of 4 tiles are left out.*at most half"),
    "all masked": (LONGEST, "the 2", "the 4", "4 of 4 tiles are left out"),
    "tie at the cut": (LONGEST, "the 2", "the 1", "1 are the longest is ambiguous: tiles 1 and 4 both have 6 words"),
    "another count": (GOOD["maskout shortest"], "the 1", "the 2", r"demands masked \[2, 3\] of these tiles; params"),
    "two counts": (LONGEST, "the 2", "the 2 or 3", r"prints the numbers \[2, 3\], where a single count is due"),
    "no count": (LONGEST, "the 2", "the two", r"prints the numbers \[\], where a single count is due"),
    "no begin tag": (FRAMED, "[START]", "[BEGIN]", r"does not name the begin tag '\[START\]'"),
    "no end tag": (FRAMED, "[END]", "[end]", r"does not name the end tag '\[END\]'"),
    "meta of white space": (REVERSED, "Last first.", " ", "the meta-instruction is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", META_FAULTS)
def test_a_meta_instruction_that_says_something_else_is_caught(name: str) -> None:
    good, old, new, message = META_FAULTS[name]
    caught(reworded(good, old, new), message)


def test_what_stands_in_a_place_is_named_by_the_longest_text_that_fits() -> None:
    bad = sample("primary", None, "", "7\n\n8\n\n9", "x and y", look=layout(),
                 tiles=[("7", "five"), ("8", "x and y"), ("9", "x")])  # fmt: skip
    caught(bad, "found 'x and y', the response of tile 2$")


def test_an_end_tag_found_only_inside_the_begin_tag_is_not_named() -> None:
    good = sample("format", None, "Write <<A>> first, <A> last.", "Write <<A>> first, <A> last.\n\n7", "<<A>> 8 <A>",
                  look=layout(frame={"begin": "<<A>>", "end": "<A>"}), tiles=[("7", "8")])  # fmt: skip
    assert check(**good) is None
    caught(reworded(good, ", <A> last", ""), "does not name the end tag '<A>'")


@pytest.mark.parametrize("kind", ["given", "odd_first", "even_first"])
def test_an_order_by_positions_needs_numbers(kind: str) -> None:
    caught(permuted(kind, [1, 2, 3, 4], "In the order 1, 2, 3, 4.", ""), f"'{kind}' speaks of positions")


@pytest.mark.parametrize("kind", ["given", "odd", "even"])
def test_a_mask_by_positions_needs_numbers(kind: str) -> None:
    bad = masking(kind, [1], "Not 1.", "")
    bad["params"]["layout"]["number"] = None
    caught(bad, f"'{kind}' speaks of positions")


@pytest.mark.parametrize(
    ("text", "message"), [("\u00e9t\u00e9?", "tile 2 .*the letter '\u00e9'"), ("2 + 3", "no letter")]
)
def test_a_tile_without_a_place_in_the_alphabet(text: str, message: str) -> None:
    meta = "From A to Z."
    caught(sample("permute", "alphabetical", meta, f"{meta}\n\nb\n\n{text}", "1\n\n2", look=layout(), order=[1, 2],
                  tiles=[("b", "1"), (text, "2")]), message)  # fmt: skip


COMPUTED = [name for name, good in GOOD.items() if good["kind"] not in (None, "given")]


@pytest.mark.parametrize("name", [name for name in COMPUTED if name.startswith("permute")])
def test_of_all_orders_only_the_one_that_the_kind_means_passes(name: str) -> None:
    passed = [order for order in permutations([1, 2, 3, 4]) if check(**answering(GOOD[name], "order", order)) is None]
    assert passed == [tuple(GOOD[name]["params"]["order"])]


@pytest.mark.parametrize("name", [name for name in COMPUTED if name.startswith("maskout")])
def test_of_all_masks_only_the_one_that_the_kind_means_passes(name: str) -> None:
    subsets = [subset for size in range(5) for subset in combinations([1, 2, 3, 4], size)]
    passed = [masked for masked in subsets if check(**answering(GOOD[name], "masked", masked)) is None]
    assert passed == [tuple(GOOD[name]["params"]["masked"])]


def answering(good: dict[str, Any], key: str, numbers: tuple[int, ...]) -> dict[str, Any]:
    """The same sample with params and response that agree on another order or mask."""
    look = good["params"]["layout"]
    due = numbers if key == "order" else [n for n in (1, 2, 3, 4) if n not in numbers]
    answers = [(f"({n}). " if look["number"] else "") + TILES[n - 1][1] for n in due]
    changed = edited(good, f"params.{key}", good["params"][key], list(numbers))
    return changed | {"response": look["separator"].join(answers)}


@pytest.mark.parametrize(
    ("strategy", "kind", "message"),
    [
        ("evolve", None, "'evolve' is not a strategy"),
        ("", None, "'' is not a strategy"),
        (None, None, "None is not a strategy"),
        (["permute"], "given", "a value of type list is not a strategy"),
        ("permute", "alphabetic", "'alphabetic' is not a kind of the strategy 'permute'"),
        ("permute", "longest", "'longest' is not a kind of the strategy 'permute'"),
        ("permute", None, "None is not a kind"),
        ("maskout", {}, "a value of type dict is not a kind"),
        ("format", "given", "'given' is not a kind of the strategy 'format'"),
    ],
)
def test_unknown_strategies_and_kinds(strategy: Any, kind: Any, message: str) -> None:
    caught(REVERSED | {"strategy": strategy, "kind": kind}, message)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield prefix
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*prefix, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    items = list(value) if isinstance(value, list) else dict(value)
    items[path[0]] = replaced(items[path[0]], path[1:], new)
    return items


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
DEEP: list[Any] = []
for _ in range(5000):
    DEEP = [DEEP]


JUNK: list[Any] = [None, True, 1.0, 17, -1, 10**5000, "", "x", [], [[]], {}, {"n": None}, DEEP]


@given(name=st.sampled_from(sorted(GOOD)), data=st.data(), new=JSON)
def test_no_params_raise(name: str, data: st.DataObject, new: Any) -> None:
    params = GOOD[name]["params"]
    path = data.draw(st.sampled_from(list(paths(params))))
    found = check(**GOOD[name] | {"params": replaced(params, path, new)})
    assert found or path not in ((), ("layout",))


@pytest.mark.parametrize("good", [TRAPS, LONGEST], ids=["traps", "longest"])
def test_every_malformed_param_is_a_message(good: dict[str, Any]) -> None:
    for path in paths(good["params"]):
        for junk in JUNK:
            params = replaced(good["params"], path, junk)
            found = check(**good | {"params": params})
            assert found or (junk is None and params == good["params"]), path
            assert "\n" not in (found or "")


@pytest.mark.parametrize("path", [path for path in paths(FRAMED["params"]) if path and "format" not in path])
def test_a_missing_key_is_named(path: tuple[str, ...]) -> None:
    params = copy.deepcopy(FRAMED["params"])
    holder = params
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    caught(FRAMED | {"params": params}, f"has no '{path[-1]}'")


@given(name=st.sampled_from(sorted(GOOD)), data=st.data())
def test_no_corruption_of_the_response_passes(name: str, data: st.DataObject) -> None:
    text = GOOD[name]["response"]
    a, b, c, d = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=4, max_size=4)))
    swapped = text[:a] + text[c:d] + text[b:c] + text[a:b] + text[d:]
    corrupt = data.draw(st.sampled_from([text[:a] + text[b:], text[:b] + text[a:], swapped]))
    assume("".join(corrupt.split()) != "".join(text.split()))
    assert check(**GOOD[name] | {"response": corrupt})


@given(name=st.sampled_from(sorted(GOOD)), data=st.data())
def test_no_corruption_of_the_instruction_passes(name: str, data: st.DataObject) -> None:
    text = GOOD[name]["instruction"]
    a, b = sorted(data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    corrupt = text[:a] + data.draw(st.sampled_from(["", "?", "(1). ", text[a:b] * 2])) + text[b:]
    assume("".join(corrupt.split()) != "".join(text.split()))
    assert check(**GOOD[name] | {"instruction": corrupt})


def test_time_is_linear_in_the_texts() -> None:
    """5 MB of tiles alike but for their ends: comparing each with each would take minutes."""
    tiles = [("(1). " * 100 + str(n), "(2). " * 100 + str(n)) for n in range(5000)]
    meta = "Last first."
    instruction = "\n\n".join([meta, *(tile[0] for tile in tiles)])
    good = sample("permute", "reversed", meta, instruction, "\n\n".join(tile[1] for tile in tiles[::-1]),
                  look=layout(), tiles=tiles, order=list(range(5000, 0, -1)))  # fmt: skip
    began = time.process_time()
    assert check(**good) is None
    caught(good | {"response": good["response"] + "!"}, "nothing more is due")
    assert time.process_time() - began < 5
