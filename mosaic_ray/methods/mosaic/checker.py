"""Whether a finished mosaic does what its meta-instruction says, found out from the texts alone.

This is a second reading of the rules: it shares no code with what composes mosaics, so that one slip cannot hide in
both. Both texts are read from left to right, and at every place exactly one thing may stand: a number tag, a frame
tag, white space, or a tile's known text. Nothing is split or searched for, so texts that imitate tags, separators or
the meta-instruction itself are no trap, and the time is linear in the texts.

The kinds are those of Mosaic-IT (arXiv 2405.13326). What they leave open is settled as the wordings put it:
sorting is stable in both directions, upper and lower case are alike, lengths count words or characters of the
instruction, and nothing may be ambiguous for the tiles at hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

_KINDS: Final[Mapping[str, tuple[str | None, ...]]] = {
    "primary": (None,),
    "format": (None,),
    "permute": (
        "given",
        "reversed",
        "alphabetical",
        "alphabetical_reversed",
        "words_ascending",
        "words_descending",
        "characters_ascending",
        "characters_descending",
        "odd_first",
        "even_first",
    ),
    "maskout": ("given", "longest", "shortest", "odd", "even"),
}
_POSITIONAL: Final = ("given", "odd_first", "even_first", "odd", "even")
_GAPS: Final = ("\n", "\n\n")
_WHITE: Final = (" ", "\n")
_SHOWN: Final = 40


def check(
    *,
    strategy: str,
    kind: str | None,
    params: Mapping[str, Any],
    tiles: Sequence[tuple[str, str]],
    instruction: str,
    response: str,
) -> str | None:
    """What is wrong with a mosaic, as one sentence, or None.

    params: as stored with the sample: ``layout``, ``meta``, ``wording``, and ``order`` or ``masked``. They say how the
        texts are laid out; what is answered, and in which order, is worked out from the tiles and the meta-instruction
        and then held against them.
    tiles: the (instruction, response) of each source record, in the order of the sources.

    Nothing is raised, whatever JSON holds in ``params``: a malformed value is a sentence too.
    """
    try:
        _check_kind(strategy, kind, tiles)
        layout = _read_layout(params, len(tiles))
        meta = _read_meta(params, layout, strategy, kind)
        due = _due(strategy, kind, params, layout, meta, [tile[0] for tile in tiles])
        _check_instruction(instruction, layout, meta, tiles)
        _check_response(response, layout, due, tiles)
    except _Fault as fault:
        return str(fault)
    return None


class _Fault(Exception):
    """What is wrong, in one sentence; never leaves this module."""


# What the sample claims


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """``tags[n - 1]`` is the number tag of tile n, followed by one of ``tag_gaps``; no tags, no numbers."""

    tags: tuple[str, ...]
    tag_gaps: tuple[str, ...]
    frame: tuple[str, str] | None
    separator: str
    meta_first: bool
    meta_gap: str


def _check_kind(strategy: object, kind: object, tiles: Sequence[tuple[str, str]]) -> None:
    if not isinstance(strategy, str) or strategy not in _KINDS:
        raise _Fault(f"{_show(strategy)} is not a strategy")
    if kind not in _KINDS[strategy]:
        raise _Fault(f"{_show(kind)} is not a kind of the strategy {strategy!r}")
    if not tiles:
        raise _Fault("the sample has no tiles")
    for number, tile in enumerate(tiles, 1):
        if len(tile) != 2 or not all(isinstance(text, str) for text in tile):
            raise _Fault(f"tile {number} is not an instruction and a response")
    if len(tiles) == 1 and strategy not in ("primary", "format"):
        raise _Fault(f"a sample of one tile has strategy {strategy!r}; it can be 'format' or 'primary' only")


def _read_layout(params: object, k: int) -> _Layout:
    layout = _object(_field(params, "params", "layout"), "layout")
    number = _field(layout, "layout", "number")
    frame = _field(layout, "layout", "frame")
    position = _field(layout, "layout", "meta_position")
    if position not in ("before", "after"):
        raise _Fault(f"layout['meta_position'] is {_show(position)}; it can be 'before' or 'after'")
    for key in ("separator", "meta_gap"):
        if _field(layout, "layout", key) not in _GAPS:
            raise _Fault(f"layout[{key!r}] is {_show(layout[key])}; it can be one or two newlines")
    tags, tag_gaps = _read_number(number, k) if number is not None else ((), ())
    return _Layout(
        tags=tags,
        tag_gaps=tag_gaps,
        frame=_read_frame(frame) if frame is not None else None,
        separator=layout["separator"],
        meta_first=position == "before",
        meta_gap=layout["meta_gap"],
    )


def _read_number(number: object, k: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    shape, mark = _text(number, "number", "shape"), _text(number, "number", "mark")
    newline = _field(number, "number", "newline")
    if not isinstance(newline, bool):
        raise _Fault(f"number['newline'] is {_show(newline)}; it can be true or false")
    if "{n}" not in shape:
        raise _Fault(f"the number tags are not distinct: the shape {_show(shape)} has no {{n}}")
    tags = tuple(shape.replace("{n}", str(n)) + mark for n in range(1, k + 1))
    return tags, ("\n",) if newline else _WHITE


def _read_frame(frame: object) -> tuple[str, str]:
    begin, end = _text(frame, "frame", "begin"), _text(frame, "frame", "end")
    if not begin.strip() or not end.strip() or begin == end:
        raise _Fault(f"the frame tags {_show(begin)} and {_show(end)} are blank or the same")
    return begin, end


def _read_meta(params: Mapping[str, Any], layout: _Layout, strategy: str, kind: str | None) -> str:
    """The meta-instruction, once it is known to be there if, and only if, a wording is claimed."""
    meta = _text(params, "params", "meta")
    wording = _object(_field(params, "params", "wording"), "wording")
    families = {"format": "framed" if layout.frame else "plain"} | ({strategy: kind} if kind else {})
    claimed = {key: name for key, name in wording.items() if name is not None}
    for key, name in claimed.items():
        if key not in families:
            raise _Fault(f"the strategy is {strategy!r}, yet wording[{_show(key)}] is {_show(name)}")
        if not isinstance(name, str) or not re.fullmatch(f"{families[key]}/[0-9]+", name):
            raise _Fault(f"wording[{key!r}] is {_show(name)}; '{families[key]}/' and a number is due")
    for key in families:
        if key not in claimed and (key == strategy != "format" or layout.frame):
            raise _Fault(f"wording[{key!r}] is missing; '{families[key]}/' and a number is due")
    if claimed and not meta.strip():
        raise _Fault("a wording is claimed, but the meta-instruction is empty")
    if meta and not claimed:
        raise _Fault(f"no wording is claimed, but there is a meta-instruction: {_show(meta)}")
    _without_tags(meta, layout)
    redrawn = params.get("redrawn", [])
    kinds = [other for group in _KINDS.values() for other in group if other]
    if not isinstance(redrawn, (list, tuple)) or any(other not in kinds for other in redrawn):
        raise _Fault("params['redrawn'] is not a list of kinds")
    return meta


def _without_tags(meta: str, layout: _Layout) -> str:
    """The meta-instruction less the frame tags, each of which it must name."""
    # The longer tag first, lest the other be found inside it only.
    for tag in sorted(layout.frame or (), key=len, reverse=True):
        if tag not in meta:
            which = "begin" if layout.frame and tag == layout.frame[0] else "end"
            raise _Fault(f"the meta-instruction does not name the {which} tag {_show(tag)}")
        meta = meta.replace(tag, " ")
    return meta


# What is to be answered, and in which order


def _due(
    strategy: str, kind: str | None, params: Mapping[str, Any], layout: _Layout, meta: str, texts: Sequence[str]
) -> list[int]:
    """The numbers of the tiles to answer, in order, by what the kind means for these instructions."""
    for key, owner in (("order", "permute"), ("masked", "maskout")):
        if strategy != owner and key in params:
            raise _Fault(f"the strategy is {strategy!r}, yet params hold {key!r}")
    numbers = list(range(1, len(texts) + 1))
    if kind is None:
        return numbers
    if kind in _POSITIONAL and not layout.tags:
        raise _Fault(f"the kind {kind!r} speaks of positions, but the tiles are not numbered")
    printed = _printed_numbers(meta, layout, len(texts)) if kind in ("given", "longest", "shortest") else []
    if strategy == "permute":
        order = _order(kind, printed, texts)
        _check_claim(params, "order", order, kind, len(texts))
        return order
    masked = _mask(kind, printed, texts)
    _check_claim(params, "masked", masked, kind, len(texts))
    return sorted(set(numbers) - set(masked))


def _printed_numbers(meta: str, layout: _Layout, k: int) -> list[int]:
    """The numbers that stand in the meta-instruction, but for those inside frame tags; each is one of 1..k."""
    known = {str(n): n for n in range(1, k + 1)}
    printed = []
    for digits in re.findall(r"\d+", _without_tags(meta, layout)):
        if digits not in known:
            raise _Fault(f"the meta-instruction prints the number {_show(digits)}, but the tiles are 1 to {k}")
        printed.append(known[digits])
    return printed


def _order(kind: str, printed: list[int], texts: Sequence[str]) -> list[int]:
    numbers = list(range(1, len(texts) + 1))
    if kind == "given":
        if sorted(printed) != numbers:
            raise _Fault(f"the meta-instruction prints the order {_list(printed)}, not each of 1 to {len(texts)} once")
        return printed
    if kind == "reversed":
        return numbers[::-1]
    if kind in ("odd_first", "even_first"):
        odd, even = numbers[::2], numbers[1::2]
        return odd + even if kind == "odd_first" else even + odd
    measures: dict[str, Callable[[int], str | int]] = {
        "alphabetical": lambda n: _first_letter(n, texts[n - 1]),
        "words": lambda n: len(texts[n - 1].split()),
        "characters": lambda n: len(texts[n - 1]),
    }
    measure, _, direction = kind.partition("_")
    # With ``reverse`` Python's sort still keeps equal ones in their given order.
    return sorted(numbers, key=measures[measure], reverse=direction in ("reversed", "descending"))


def _first_letter(number: int, text: str) -> str:
    letter = next((character for character in text if character.isalpha()), "")
    if not letter or not letter.isascii():
        found = f"the letter {_show(letter)}" if letter else "no letter"
        raise _Fault(f"tile {number} has no place in the alphabet: its instruction begins with {found}")
    return letter.lower()


def _mask(kind: str, printed: list[int], texts: Sequence[str]) -> list[int]:
    k = len(texts)
    numbers = list(range(1, k + 1))
    if kind in ("odd", "even"):
        return numbers[::2] if kind == "odd" else numbers[1::2]
    if kind == "given":
        masked = sorted(set(printed))
        if len(masked) < len(printed):
            raise _Fault(f"the meta-instruction prints a tile twice: {_list(printed)}")
    else:
        if len(printed) != 1:
            raise _Fault(f"the meta-instruction prints the numbers {_list(printed)}, where a single count is due")
        count = printed[0]
        lengths = [len(text.split()) for text in texts]
        ranked = sorted(numbers, key=lambda n: lengths[n - 1], reverse=kind == "longest")
        masked = sorted(ranked[:count])
        if count < k and lengths[ranked[count - 1] - 1] == lengths[ranked[count] - 1]:
            raise _Fault(
                f"which {count} are the {kind} is ambiguous: tiles {ranked[count - 1]} and {ranked[count]} both have "
                f"{lengths[ranked[count] - 1]} words"
            )
    if not 1 <= len(masked) <= max(1, k // 2):
        raise _Fault(f"{len(masked)} of {k} tiles are left out; it must be at least one and at most half")
    return masked


def _check_claim(params: Mapping[str, Any], key: str, demanded: list[int], kind: str, k: int) -> None:
    claimed = _field(params, "params", key)
    if not isinstance(claimed, (list, tuple)) or not all(type(n) is int and 1 <= n <= k for n in claimed):
        raise _Fault(f"params[{key!r}] is not a list of tile numbers from 1 to {k}")
    if list(claimed) != demanded:
        raise _Fault(f"the kind {kind!r} demands {key} {_list(demanded)} of these tiles; params say {_list(claimed)}")


# What the texts hold


class _Reader:
    """Reads one text from left to right; ``tags`` and ``texts`` of all tiles serve to name what stands in a place."""

    def __init__(self, text: object, *, name: str, tags: Sequence[str], texts: Sequence[str]) -> None:
        if not isinstance(text, str):
            raise _Fault(f"the {name} is {_show(text)}, not a string")
        self._text, self._at = text, 0
        self._name, self._tags, self._texts = name, tags, texts

    def take(self, expected: str, what: str) -> None:
        if not self._text.startswith(expected, self._at):
            self._fail(expected, what)
        self._at += len(expected)

    def take_tile(self, number: int, turn: str) -> None:
        self.take(self._texts[number - 1], f"{turn}the {self._name} of tile {number}")

    def take_tag(self, number: int, gaps: tuple[str, ...], turn: str) -> None:
        """The number tag together with its white space: "Task 1" must not be found in "Task 10"."""
        tag = self._tags[number - 1]
        after = self._text[self._at + len(tag) : self._at + len(tag) + 1]
        self.take(tag + (after if after in gaps else gaps[0]), f"{turn}the number tag of tile {number}")

    def take_white(self, what: str) -> None:
        if self._text[self._at : self._at + 1] not in _WHITE:
            self._fail(" ", what)
        self._at += 1

    def finish(self, what: str) -> None:
        if self._at < len(self._text):
            raise _Fault(
                f"{self._name}: {what} nothing more is due, but at character {self._at} comes "
                f"{_show(self._text[self._at :])}{self._owner()}"
            )

    def _fail(self, expected: str, what: str) -> NoReturn:
        found = self._text[self._at : self._at + len(expected)]
        same = next((i for i, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), len(found))
        start = same if same > _SHOWN // 2 else 0
        here = self._at + start
        further = f" from character {here} on" if start else ""
        reads = _show(self._text[here:]) if here < len(self._text) else "the end"
        raise _Fault(
            f"{self._name}: {what} is due at character {self._at}: expected {_show(expected[start:])}{further}, "
            f"found {reads}{self._owner()}"
        )

    def _owner(self) -> str:
        """Whose tag or text stands here, white space skipped; the longest that fits."""
        rest = self._text[self._at :].lstrip()
        best, owner = 0, ""
        for what, pieces in (("number tag", self._tags), (self._name, self._texts)):
            for number, piece in enumerate(pieces, 1):
                if len(piece) > best and rest.startswith(piece):
                    best, owner = len(piece), f", the {what} of tile {number}"
        return owner


def _check_instruction(instruction: str, layout: _Layout, meta: str, tiles: Sequence[tuple[str, str]]) -> None:
    reader = _Reader(instruction, name="instruction", tags=layout.tags, texts=[tile[0] for tile in tiles])
    if meta and layout.meta_first:
        reader.take(meta, "the meta-instruction")
        reader.take(layout.meta_gap, "the gap after the meta-instruction")
    for number in range(1, len(tiles) + 1):
        if number > 1:
            reader.take(layout.separator, f"the separator before tile {number}")
        if layout.tags:
            reader.take_tag(number, layout.tag_gaps, "")
        reader.take_tile(number, "")
    if meta and not layout.meta_first:
        reader.take(layout.meta_gap, "the gap before the meta-instruction")
        reader.take(meta, "the meta-instruction")
    reader.finish("at its end")


def _check_response(response: str, layout: _Layout, due: Sequence[int], tiles: Sequence[tuple[str, str]]) -> None:
    reader = _Reader(response, name="response", tags=layout.tags, texts=[tile[1] for tile in tiles])
    for place, number in enumerate(due, 1):
        turn = f"as answer {place} of {len(due)} "
        if place > 1:
            reader.take(layout.separator, f"the separator before answer {place} (tile {number})")
        if layout.tags:
            reader.take_tag(number, layout.tag_gaps, turn)
        if layout.frame:
            reader.take(layout.frame[0], f"the begin tag of tile {number}")
            reader.take_white(f"white space after the begin tag of tile {number}")
        reader.take_tile(number, turn)
        if layout.frame:
            reader.take_white(f"white space before the end tag of tile {number}")
            reader.take(layout.frame[1], f"the end tag of tile {number}")
    reader.finish(f"after answer {len(due)} (tile {due[-1]})")


# Values of unknown type


def _field(holder: object, name: str, key: str) -> Any:
    mapping = _object(holder, name)
    if key not in mapping:
        raise _Fault(f"{name} has no {key!r}")
    return mapping[key]


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Fault(f"{name} is {_show(value)}, not an object")
    return value


def _text(holder: object, name: str, key: str) -> str:
    value = _field(holder, name, key)
    if not isinstance(value, str):
        raise _Fault(f"{name}[{key!r}] is {_show(value)}, not a string")
    return value


def _show(value: object) -> str:
    """Short, on one line, and safe: ``repr`` of a huge number or a deep list can raise."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}..."
    return str(value) if value is None or isinstance(value, bool) else f"a value of type {type(value).__name__}"


def _list(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    return f"[{shown}, ...]" if len(numbers) > _SHOWN else f"[{shown}]"
