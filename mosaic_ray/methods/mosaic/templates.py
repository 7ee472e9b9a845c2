"""The wordings of Mosaic-IT, as data: number tags, frame tags, and what the meta-instruction says.

A meta-instruction stands before or after its tiles, with their numbers shown or not, and the general families also
serve a single tile. So no wording points up or down the page, and only the kinds that print or speak of positions
mention numbers. Every wording is our own; the sizes of the families are those of the paper (arXiv 2405.13326).

To add a wording, add a string to its tuple: :func:`validate` looks at it when the package is imported. Any change here
changes what is drawn everywhere, so raise ``MosaicMethod.VERSION`` with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import Final

from mosaic_ray.errors import SettingsError
from mosaic_ray.methods.mosaic.strategies import MASKOUT_KINDS, PERMUTE_KINDS

# Every shape goes with every mark, so a shape ends with its number: "(1))" and "[1]." do not come up.
NUMBER_SHAPES: Final = (
    "{n}", "#{n}", "No. {n}", "Task {n}", "Task #{n}", "Question {n}", "Q{n}", "Item {n}", "Request {n}", "Part {n}",
)  # fmt: skip
NUMBER_MARKS: Final = (".", ":", ")")

# Upper or lower case is for the caller to choose. In lower case and in angle brackets none is an HTML element.
FRAME_WORDS: Final = (
    ("START", "END"),
    ("BEGIN", "END"),
    ("START", "STOP"),
    ("BEGIN", "FINISH"),
    ("OPEN", "CLOSE"),
    ("ENTER", "EXIT"),
    ("TOP", "BOTTOM"),
    ("FROM HERE", "TO HERE"),
    ("ANSWER START", "ANSWER END"),
    ("BEGIN ANSWER", "END ANSWER"),
    ("START OF ANSWER", "END OF ANSWER"),
    ("RESPONSE BEGINS", "RESPONSE ENDS"),
    ("START RESPONSE", "STOP RESPONSE"),
    ("BEGINNING OF RESPONSE", "END OF RESPONSE"),
    ("REPLY OPEN", "REPLY CLOSED"),
    ("SOLUTION STARTS", "SOLUTION STOPS"),
    ("RESULT BEGIN", "RESULT END"),
)
# None starts a Markdown block, and none is a shape that chat templates keep for themselves ("<|x|>", "[/x]", "</x>").
FRAME_BRACKETS: Final = (
    "[{word}]", "[[{word}]]", "[ {word} ]", "({word})", "(({word}))", "<{word}>", "<<{word}>>", "«{word}»",
    "【{word}】", "「{word}」", "|{word}|", "||{word}||", "//{word}//", "**{word}**", "***{word}***", "__{word}__",
    "~{word}~", "=={word}==", "=== {word} ===", "--{word}--", "--- {word} ---", "##{word}##", "%%{word}%%",
    "@@{word}@@", "::{word}::", "++{word}++", "^^{word}^^", "!!{word}!!",
)  # fmt: skip

# Permute and Maskout put their sentence behind one of these, so none says which tasks are answered, or in which order.
FRAMED: Final = (
    "Put each answer between {begin_tag} and {end_tag}.",
    "Write {begin_tag} before each answer and {end_tag} after it.",
    "Open every answer with {begin_tag} and close it with {end_tag}.",
    "Please enclose each answer that you give in {begin_tag} and {end_tag}.",
    "Every response has to be wrapped in tags: {begin_tag} goes in front of it and {end_tag} goes behind it.",
    "Answers will be cut out by their tags, so put {begin_tag} right before each one and {end_tag} right after it.",
    "Mark where each response starts with {begin_tag} and where it stops with {end_tag}.",
    "Use {begin_tag} to show that an answer begins and {end_tag} to show that it is finished.",
    "Each response needs a frame of its own, which means {begin_tag}, then the response, then {end_tag}.",
    "An answer only counts if it stands between {begin_tag} and {end_tag}.",
    "Format each answer as {begin_tag} answer {end_tag}, with your own text in the middle.",
    "The text of an answer starts after the tag {begin_tag} and ends before the tag {end_tag}.",
    "For every question that you answer, print the tag {begin_tag}, your answer, and then the tag {end_tag}.",
    "Keep each answer inside its own pair of tags, with {begin_tag} as the opening and {end_tag} as the closing one.",
    "My parser reads what lies between {begin_tag} and {end_tag}, so that is where each answer has to go.",
    "Begin each reply to a request with {begin_tag} and end it with {end_tag}.",
    "Give each response its opening tag {begin_tag} and its closing tag {end_tag}.",
    "Do not hand in any answer without {begin_tag} ahead of it and {end_tag} behind it.",
    "Responses go inside tags, one pair for each, where {begin_tag} opens and {end_tag} closes.",
    "Surround each answer with two tags, of which the first is {begin_tag} and the second is {end_tag}.",
    "Each answer, however short, has to sit between {begin_tag} and {end_tag}.",
    "Where an answer starts, write {begin_tag}; where it ends, write {end_tag}.",
    "Let {begin_tag} announce each answer and let {end_tag} conclude it.",
    "Think of {begin_tag} and {end_tag} as the two ends of a box, and put every answer in a box of its own.",
    "It must be plain to see where each response lies, so delimit it with {begin_tag} and {end_tag}.",
    "When you answer an item, set {begin_tag} before the answer and {end_tag} after it, and do so every time.",
    "The required form of a response is {begin_tag}, the text of the response, and {end_tag}.",
    "Whatever you reply to an instruction, the reply is to be fenced in by {begin_tag} and {end_tag}.",
    "Whenever you answer an instruction, write the answer with {begin_tag} at its start and {end_tag} at its end.",
    "All answers are delivered in tags, so let {begin_tag} lead into each of them and {end_tag} lead out of it.",
)
# Permute may put its sentence behind one of these too; Maskout never does.
PLAIN: Final = (
    "Answer each task.",
    "Please give a response to every instruction in this message.",
    "Every question is to get an answer of its own.",
    "Work through everything that is asked here and answer each item separately.",
    "Reply to each request and leave none out.",
    "Give one answer for each task, no more and no less.",
    "Do not skip anything, for each question needs its answer.",
)

PERMUTE: Final[Mapping[str, tuple[str, ...]]] = {
    "given": (
        "Answer the tasks by their numbers in this order: {order}.",
        "Give your answers in the order {order}, where each number stands for the task that carries it.",
        "The sequence of your answers must be {order}, and the numbers are those of the questions.",
        "I need the answers in a particular sequence, namely {order}, by the numbers of the items.",
        "Please arrange your responses by instruction number in the sequence {order}.",
        "Read {order} from left to right and, at each number, answer the request that has this number.",
        "This list of task numbers says which task is answered when, its first number coming first: {order}.",
    ),
    "reversed": (
        "Answer the tasks in reverse order, so that the last one is answered first and the first one last.",
        "Start with the answer to the last question and work back to the first.",
        "Give your answers in order from the last item to the first.",
        "Your responses must come in the opposite order of the instructions, which puts the final one in front.",
        "Go through the requests backwards: answer the last one, then the one before it, until the first is answered.",
        "Please turn the order around when you answer, and finish with the answer to the first task.",
    ),
    "alphabetical": (
        "Answer the tasks from A to Z by the first letter of their text, ignoring case; ties keep their given order.",
        "Sort the questions by the first letter of their text, A first and Z last, whether it is a capital or not, and "
        "answer them in that order; of those with equal first letters, the one that stands earlier is answered "
        "earlier.",
        "Go through the items A to Z by the first letter of their text, ignore case, and answer ties as they stand.",
        "Give the responses in an order set by the first letter of each instruction's text, from A through Z and "
        "ignoring case, and leave instructions with the same letter in the order they already have.",
        "Please answer the requests from A to Z: look at the first letter of each one's text, treat upper and lower "
        "case as the same, and do not change the order among requests whose first letters are equal.",
        "The first letter in the text of a task decides when it is answered, with A at the front and Z at the end; "
        "case makes no difference, and tasks on the same letter are answered in their given order.",
    ),
    "alphabetical_reversed": (
        "Answer the tasks from Z to A by the first letter of their text, ignoring case; ties keep their given order.",
        "Sort the questions by the first letter of their text, Z first and A last, whether it is a capital or not, and "
        "answer them in that order; of those with equal first letters, the one that stands earlier is answered "
        "earlier.",
        "Go through the items Z to A by the first letter of their text, ignore case, and answer ties as they stand.",
        "Give the responses in an order set by the first letter of each instruction's text, from Z down to A and "
        "ignoring case, and leave instructions with the same letter in the order they already have.",
        "Please answer the requests from Z to A: look at the first letter of each one's text, treat upper and lower "
        "case as the same, and do not change the order among requests whose first letters are equal.",
        "The first letter in the text of a task decides when it is answered, with Z at the front and A at the end; "
        "case makes no difference, and tasks on the same letter are answered in their given order.",
    ),
    "words_ascending": (
        "Answer the tasks from the fewest words (split at whitespace) to the most; ties keep their given order.",
        "Count the whitespace-separated words of each question and answer the question with the fewest words first and "
        "the one with the most words last; where counts are equal, stay with the order in which the questions stand.",
        "Answer items by their words between whitespace, the fewest first and the most last, ties as they stand.",
        "Shorter instructions are answered before longer ones, with length measured in words parted by whitespace; of "
        "two instructions of the same length, the earlier one is answered first.",
        "Please give the responses in ascending order of the word counts of the requests (words are what whitespace "
        "separates), without changing the order among requests that have the same count.",
        "The wordier a task, the later its answer: sort by the number of words between whitespace, upwards, and let "
        "tasks with equal counts keep their places relative to each other.",
    ),
    "words_descending": (
        "Answer the tasks from the most words (split at whitespace) to the fewest; ties keep their given order.",
        "Count the whitespace-separated words of each question and answer the question with the most words first and "
        "the one with the fewest words last; where counts are equal, stay with the order in which the questions stand.",
        "Answer items by their words between whitespace, the most first and the fewest last, ties as they stand.",
        "Longer instructions are answered before shorter ones, with length measured in words parted by whitespace; of "
        "two instructions of the same length, the earlier one is answered first.",
        "Please give the responses in descending order of the word counts of the requests (words are what whitespace "
        "separates), without changing the order among requests that have the same count.",
        "The wordier a task, the sooner its answer: sort by the number of words between whitespace, downwards, and let "
        "tasks with equal counts keep their places relative to each other.",
    ),
    "characters_ascending": (
        "Answer the tasks from the fewest characters (whitespace included) to the most; ties keep their given order.",
        "Count the characters in the text of each question, whitespace and all, and answer the question with the "
        "fewest first and the one with the most last; equal counts leave the questions in the order in which they "
        "stand.",
        "Answer items by the characters of their text, whitespace too, the fewest first, leaving ties as they stand.",
        "Shorter instructions are answered before longer ones, with the length of their text measured in characters, "
        "whitespace included; of two instructions of the same length, the earlier one is answered first.",
        "Please give the responses in ascending order of the character counts of the requests (count their text alone, "
        "whitespace included), without changing the order among requests that have the same count.",
        "Sort by size before you answer: the task whose text takes the fewest characters, whitespace included, is "
        "answered first, larger ones come later, and tasks of equal size keep the order they were given in.",
    ),
    "characters_descending": (
        "Answer the tasks from the most characters (whitespace included) to the fewest; ties keep their given order.",
        "Count the characters in the text of each question, whitespace and all, and answer the question with the most "
        "first and the one with the fewest last; equal counts leave the questions in the order in which they stand.",
        "Answer items by the characters of their text, whitespace too, the most first, leaving ties as they stand.",
        "Longer instructions are answered before shorter ones, with the length of their text measured in characters, "
        "whitespace included; of two instructions of the same length, the earlier one is answered first.",
        "Please give the responses in descending order of the character counts of the requests (count their text "
        "alone, whitespace included), without changing the order among requests that have the same count.",
        "Sort by size before you answer: the task whose text takes the most characters, whitespace included, is "
        "answered first, smaller ones come later, and tasks of equal size keep the order they were given in.",
    ),
    "odd_first": (
        "Answer the odd-numbered tasks first, in ascending order, and then the even-numbered ones, also ascending.",
        "Answer all odd-numbered questions before any even-numbered one, and each group in ascending order.",
        "Your answers come in two rounds: one for the items with odd numbers, then one for the items with even "
        "numbers, and each round goes from the lowest number to the highest.",
        "Odd numbers have priority, so answer every odd-numbered instruction in its given order and only afterwards "
        "the even-numbered instructions in theirs.",
        "Please answer the requests at odd positions from first to last, and then those at even positions likewise.",
    ),
    "even_first": (
        "Answer the even-numbered tasks first, in ascending order, and then the odd-numbered ones, also ascending.",
        "Answer all even-numbered questions before any odd-numbered one, and each group in ascending order.",
        "Your answers come in two rounds: one for the items with even numbers, then one for the items with odd "
        "numbers, and each round goes from the lowest number to the highest.",
        "Even numbers have priority, so answer every even-numbered instruction in its given order and only afterwards "
        "the odd-numbered instructions in theirs.",
        "Please answer the requests at even positions from first to last, and then those at odd positions likewise.",
    ),
}
ORDER_BRACKETS: Final = (
    "[{items}]", "({items})", "[[{items}]]", "(({items}))", "«{items}»", "“{items}”", '"{items}"', "`{items}`",
)  # fmt: skip
ORDER_INTERVALS: Final = (", ", "; ", " | ", " > ", " -> ", " => ", " then ")

MASKOUT: Final[Mapping[str, tuple[str, ...]]] = {
    "given": (
        "Leave out every task whose number is in {masked}, without a placeholder or a tag, and answer all the others.",
        "Do not answer any question listed by its number in {masked}; pass over it in silence, with no placeholder and "
        "no tag in its stead, and answer whatever is not listed.",
        "Ignore every item whose number is in {masked}, giving it no label and no empty answer, and answer the rest.",
        "Skip by number: {masked}. Your reply has answers to all remaining instructions, and nothing at all, not even "
        "a tag or a placeholder, for what is skipped.",
        "Please respond to each request unless its number is found in {masked}, in which case it must leave no trace "
        "in your reply: no answer, no number, no empty tags.",
        "Answer all but what is numbered {masked}, for which you write no answer, no tag and no placeholder.",
        "The list of numbers {masked} says what to leave unanswered; act as if that had never been asked, without so "
        "much as a tag or a placeholder in its stead, and answer all else.",
    ),
    "longest": (
        "Rank the tasks from the most to the fewest whitespace-separated words, leave out the top {count}, and answer "
        "the rest; what is left out gets no answer, no placeholder and no tags.",
        "Skip exactly {count} of the questions, beginning with the one that has the most words, split at whitespace, "
        "and answer all that remain; write nothing for what you skip, not even a tag or a placeholder.",
        "Measure each item in words, which is to say in pieces between whitespace, and drop {count} of them, longest "
        "first; answer whatever is not dropped, and let the dropped leave no label, tag or empty answer behind.",
        "Of the instructions, ignore {count}, chosen by length from the most words down, where words are what "
        "whitespace separates; answer the others, with no placeholder and no tag for what you ignore.",
        "From the longest request downwards, {count} must stay unanswered, with length counted in words split at "
        "whitespace; give no answer, placeholder or tags there, and respond to everything else.",
        "Number of tasks to omit, taking the longest in words first: {count}. Words are counted by splitting at "
        "whitespace; omitted means that not even a tag or a placeholder is written, and all other tasks are answered.",
    ),
    "shortest": (
        "Rank the tasks from the fewest to the most whitespace-separated words, leave out the top {count}, and answer "
        "the rest; what is left out gets no answer, no placeholder and no tags.",
        "Skip exactly {count} of the questions, beginning with the one that has the fewest words, split at whitespace, "
        "and answer all that remain; write nothing for what you skip, not even a tag or a placeholder.",
        "Measure each item in words, which is to say in pieces between whitespace, and drop {count} of them, shortest "
        "first; answer whatever is not dropped, and let the dropped leave no label, tag or empty answer behind.",
        "Of the instructions, ignore {count}, chosen by length from the fewest words up, where words are what "
        "whitespace separates; answer the others, with no placeholder and no tag for what you ignore.",
        "From the shortest request upwards, {count} must stay unanswered, with length counted in words split at "
        "whitespace; give no answer, placeholder or tags there, and respond to everything else.",
        "Number of tasks to omit, taking the shortest in words first: {count}. Words are counted by splitting at "
        "whitespace; omitted means that not even a tag or a placeholder is written, and all other tasks are answered.",
    ),
    "odd": (
        "Answer even-numbered tasks only; an odd-numbered one gets no answer, no placeholder and no tags.",
        "Answer a question only if its number is even; one with an odd number is passed over without a word, so "
        "neither its tag nor a placeholder appears in your reply.",
        "Items at odd positions are to be ignored altogether: no answer, no empty tags, no note that they were "
        "skipped. Answer all items at even positions.",
        "Skip every instruction with an odd number, without so much as a tag or a placeholder, and answer the others.",
        "Please respond to the requests with even numbers and to no others, which get no answer, tag or placeholder.",
        "An odd number means that a task stays unanswered and leaves no trace in the reply, be it a tag or a "
        "placeholder, and an even number means that it is answered.",
    ),
    "even": (
        "Answer odd-numbered tasks only; an even-numbered one gets no answer, no placeholder and no tags.",
        "Answer a question only if its number is odd; one with an even number is passed over without a word, so "
        "neither its tag nor a placeholder appears in your reply.",
        "Items at even positions are to be ignored altogether: no answer, no empty tags, no note that they were "
        "skipped. Answer all items at odd positions.",
        "Skip every instruction with an even number, without so much as a tag or a placeholder, and answer the others.",
        "Please respond to the requests with odd numbers and to no others, which get no answer, tag or placeholder.",
        "An even number means that a task stays unanswered and leaves no trace in the reply, be it a tag or a "
        "placeholder, and an odd number means that it is answered.",
    ),
}
MASK_BRACKETS: Final = (
    "[{items}]", "({items})", "<{items}>", "[[{items}]]", "(({items}))", "«{items}»", '"{items}"', "`{items}`",
)  # fmt: skip
MASK_INTERVALS: Final = (", ", "; ", " | ", " and ")

Wording = str | tuple[str, str]
"""One entry of a family; ``FRAME_WORDS`` has pairs."""

FAMILIES: Final[Mapping[str, Sequence[Wording]]] = {
    "NUMBER_SHAPES": NUMBER_SHAPES,
    "NUMBER_MARKS": NUMBER_MARKS,
    "FRAME_WORDS": FRAME_WORDS,
    "FRAME_BRACKETS": FRAME_BRACKETS,
    "FRAMED": FRAMED,
    "PLAIN": PLAIN,
    **{f"PERMUTE[{kind!r}]": wordings for kind, wordings in PERMUTE.items()},
    "ORDER_BRACKETS": ORDER_BRACKETS,
    "ORDER_INTERVALS": ORDER_INTERVALS,
    **{f"MASKOUT[{kind!r}]": wordings for kind, wordings in MASKOUT.items()},
    "MASK_BRACKETS": MASK_BRACKETS,
    "MASK_INTERVALS": MASK_INTERVALS,
}
"""Every family by the name that an error gives it."""


def filled(wording: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    """The texts that a wording becomes when each placeholder is replaced by the texts given for it."""
    parts: list[str] = []
    for text, name in _parsed(wording):
        if text:
            parts.append(text)
        if name is not None:
            parts += values[name]
    return parts


@cache
def _parsed(wording: str) -> tuple[tuple[str, str | None], ...]:
    return tuple((text, name) for text, name, _, _ in Formatter().parse(wording))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    """What a family's wordings must be. Each placeholder stands once; sentences end, and differ from all others."""

    at_least: int
    placeholders: tuple[str, ...] = ()
    sentence: bool = False
    pair: bool = False
    spaced: bool = False


_PRINTED: Final = {
    "PERMUTE['given']": ("order",),
    "MASKOUT['given']": ("masked",),
    "MASKOUT['longest']": ("count",),
    "MASKOUT['shortest']": ("count",),
}
_RULES: Final[Mapping[str, _Rule]] = {
    "NUMBER_SHAPES": _Rule(at_least=10, placeholders=("n",)),
    "NUMBER_MARKS": _Rule(at_least=3),
    "FRAME_WORDS": _Rule(at_least=17, pair=True),
    "FRAME_BRACKETS": _Rule(at_least=28, placeholders=("word",)),
    "FRAMED": _Rule(at_least=30, placeholders=("begin_tag", "end_tag"), sentence=True),
    "PLAIN": _Rule(at_least=7, sentence=True),
    "ORDER_BRACKETS": _Rule(at_least=8, placeholders=("items",)),
    "ORDER_INTERVALS": _Rule(at_least=7, spaced=True),
    "MASK_BRACKETS": _Rule(at_least=8, placeholders=("items",)),
    "MASK_INTERVALS": _Rule(at_least=4, spaced=True),
    **{
        name: _Rule(at_least=least, placeholders=_PRINTED.get(name, ()), sentence=True)
        for family, kinds, least in (("PERMUTE", PERMUTE_KINDS, 5), ("MASKOUT", MASKOUT_KINDS, 6))
        for name in (f"{family}[{kind!r}]" for kind in kinds)
    },
}


def validate(families: Mapping[str, Sequence[Wording]]) -> None:
    """Check families of wordings, named as in ``FAMILIES``.

    Raises SettingsError on the first fault: the family, the index, what is wrong, and the wording itself.
    """
    for name in (*_RULES, *families):
        if name not in families or name not in _RULES:
            raise SettingsError(f"templates: the family {name} is {'unknown' if name in families else 'missing'}")
    sentences: dict[tuple[str, ...], str] = {}
    for name, wordings in families.items():
        rule = _RULES[name]
        if isinstance(wordings, str):
            raise SettingsError(f"templates: {name} is a string, not a tuple; is its comma missing? {wordings!r}")
        if len(wordings) < rule.at_least:
            raise SettingsError(f"templates: {name} has {len(wordings)} wordings and needs at least {rule.at_least}")
        seen = sentences if rule.sentence else {}
        for index, wording in enumerate(wordings):
            place = f"{name}[{index}]"
            parts = (wording,) if isinstance(wording, str) else wording
            fault = next((fault for part in parts for fault in _faults(part, rule)), None)
            if len(parts) != (2 if rule.pair else 1):
                fault = "is not a pair" if rule.pair else "is not one string"
            folded = tuple(part.casefold() for part in parts)
            if fault is None and len(set(folded)) < len(folded):
                fault = "begins and ends alike"
            if fault is None and (first := seen.setdefault(folded, place)) != place:
                fault = f"equals {first}"
            if fault is not None:
                raise SettingsError(f"templates: {place} {fault}: {wording!r}")


def _faults(text: str, rule: _Rule) -> Iterator[str]:
    if not text.strip():
        yield "is empty"
    if len(text.splitlines()) > 1 or text.endswith(("\n", "\r")):
        yield "has a line break"
    if (text != text.strip() and not rule.spaced) or "  " in text:
        yield "has a space too many"
    names = re.findall(r"\{([^{}]*)\}", text)
    for name in rule.placeholders:
        if names.count(name) != 1:
            yield f"has {{{name}}} {names.count(name)} times, not once" if name in names else f"lacks {{{name}}}"
    for name in names:
        if name not in rule.placeholders:
            yield f"has the unknown placeholder {{{name}}}"
    rest = re.sub(r"\{[^{}]*\}", "", text)
    if "{" in rest or "}" in rest:
        yield "has a stray brace"
    if re.search(r"\d", rest):
        yield "has a digit, which reads as a tile's number"
    if rule.sentence and not text.endswith("."):
        yield "does not end with a full stop"
    if rule.sentence and re.search(r"\.\w", text):
        yield "runs two sentences together; is a comma missing between two strings?"


validate(FAMILIES)
