"""What the regular expressions that tokenizers split text with can hold in one match.

A pre-tokenizer walks through a text from left to right and makes a piece of each match. Where no match can hold
character ``a`` followed by ``b``, every match that reaches ``a`` ends there: with ``b`` behind it or with nothing,
unless a lookahead looks at ``b``. So between such characters a text may be cut and its parts split apart from each
other. :func:`analyse` finds these pairs from the expression alone, by the construction of Glushkov ("The abstract
theory of automata", 1961): which position of the expression may follow which.

Characters are grouped into *symbols*, and sets of symbols are integers with a bit for each.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

META_SPACE: Final = "▁"
"""What SentencePiece writes for a space."""

SINGLES: Final = [chr(code) for code in range(128)] + list(
    META_SPACE + "。，、！？；：«»「」『』【】《》“”‘’–—…•\u0964\u060c\u061b\u061f"
)
"""Characters that are symbols by themselves: ASCII, and punctuation that no version of Unicode has moved or composes.

A symbol's number is its place here.
"""


class Group(NamedTuple):
    """Characters that are one symbol: those of these general categories in these ranges of code points.

    Only ranges whose characters have kept their category in every version of Unicode that tokenizers were built with.
    """

    categories: frozenset[str]
    ranges: tuple[tuple[int, int], ...]


_CASED: Final = ((0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x52F), (0x1E00, 0x1FFF))
GROUPS: Final = (
    Group(frozenset({"Ll"}), _CASED),
    Group(frozenset({"Lu"}), _CASED),
    Group(frozenset({"Lo"}), (
        (0x5D0, 0x5EA), (0x621, 0x64A), (0x671, 0x6D3), (0x904, 0x939), (0x985, 0x9B9), (0xB85, 0xBB9),
        (0xE01, 0xE33), (0xAC00, 0xD7A3),
    )),
    Group(frozenset({"Lo"}), ((0x3041, 0x3096), (0x30A1, 0x30FA))),
    Group(frozenset({"Lo"}), ((0x4E00, 0x9FA5),)),
    Group(frozenset({"Mn", "Mc"}), (
        (0x300, 0x36F), (0x64B, 0x65F), (0x900, 0x903), (0x93A, 0x94F), (0x981, 0x983), (0x9BC, 0x9CD), (0xE31, 0xE4E),
    )),
    Group(frozenset({"Lt"}), ((0x1F88, 0x1FFC),)),
)  # fmt: skip
"""Letters in lower and in upper case; letters without case; kana; ideographs; combining marks; Greek title case."""

LOWER, UPPER, UNCASED, KANA, IDEOGRAPH, MARK, TITLE = range(len(SINGLES), len(SINGLES) + len(GROUPS))
OTHER: Final = len(SINGLES) + len(GROUPS)
"""The symbol of all other characters. What is said of it holds for none of them in particular."""
SYMBOLS: Final = OTHER + 1


def _table() -> bytes:
    table = bytearray([OTHER]) * 0x10000
    for number, group in enumerate(GROUPS, len(SINGLES)):
        for first, last in group.ranges:
            for code in range(first, last + 1):
                if unicodedata.category(chr(code)) in group.categories:
                    table[code] = number
    for number, character in enumerate(SINGLES):
        table[ord(character)] = number
    return bytes(table)


TABLE: Final = _table()
"""The symbol of each code point of the basic multilingual plane; all beyond it are OTHER."""

_ALL: Final = (1 << SYMBOLS) - 1


class UnknownPattern(Exception):
    """The expression uses something that :func:`analyse` does not know."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """pairs: for each symbol those that may follow it within a match, or be looked at from behind it.
    taken: symbols that are always part of a match, whatever stands around them.
    """

    pairs: tuple[int, ...]
    taken: int


def symbol(character: str) -> int:
    code = ord(character)
    return TABLE[code] if code < len(TABLE) else OTHER


def singles(test: Callable[[str], bool]) -> int:
    """The set of the characters among SINGLES that pass a test."""
    return sum(1 << number for number, character in enumerate(SINGLES) if test(character))


def analyse(expression: str) -> Analysis:
    """Raises UnknownPattern."""
    parser = _Parser(expression)
    alternatives = parser.alternatives()
    if parser.rest:
        raise UnknownPattern(f"{parser.rest[:20]!r} at its end")
    whole = _either(alternatives)
    if whole.nullable:
        raise UnknownPattern("it can match nothing")
    pairs = list(whole.pairs)
    looked = 0
    for number, alternative in enumerate(alternatives):
        looked |= alternative.looked & ~_foreseen(alternative, alternatives[:number])
    for number in range(SYMBOLS):
        if looked >> number & 1:
            pairs[number] = _ALL
    taken = 0
    for alternative in alternatives:
        if not alternative.looks:
            taken |= alternative.alone
    return Analysis(tuple(pairs), taken & ~(1 << OTHER))


@dataclass(frozen=True, slots=True)
class _Set:
    """A set of characters: symbols that may and that must be in it, and how it is written."""

    may: int
    must: int
    text: str

    def inverted(self) -> _Set:
        return _Set(_ALL & ~self.must, _ALL & ~self.may & ~(1 << OTHER), f"^{self.text}")

    def __or__(self, other: _Set) -> _Set:
        return _Set(self.may | other.may, self.must | other.must, self.text + other.text)


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of an expression.

    first, last: symbols a match of it may begin and end with. pairs: which may follow which inside.
    looked: symbols that may stand right before a lookahead. begins_looking: a lookahead may be its first item.
    looks: there is a lookahead in it. alone: symbols that it always matches all by themselves.
    run: of a repeated set, the set and whether it may be empty; shape: the runs of a plain sequence of them.
    """

    nullable: bool
    first: int
    last: int
    pairs: tuple[int, ...]
    looked: int = 0
    begins_looking: bool = False
    looks: bool = False
    alone: int = 0
    shape: tuple[tuple[_Set, bool], ...] | None = None


_NO_PAIRS: Final = (0,) * SYMBOLS
_EMPTY: Final = _Node(nullable=True, first=0, last=0, pairs=_NO_PAIRS, shape=())
_LOOKAHEAD: Final = _Node(nullable=True, first=0, last=0, pairs=_NO_PAIRS, begins_looking=True, looks=True, shape=())


def _of_set(inside: _Set) -> _Node:
    return _Node(False, inside.may, inside.may, _NO_PAIRS, alone=inside.must, shape=((inside, False),))


def _joined(pairs: tuple[int, ...], last: int, first: int) -> tuple[int, ...]:
    if not last or not first:
        return pairs
    return tuple(pair | first if last >> number & 1 else pair for number, pair in enumerate(pairs))


def _united(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    return a if b is _NO_PAIRS else b if a is _NO_PAIRS else tuple(map(int.__or__, a, b))


def _then(a: _Node, b: _Node) -> _Node:
    return _Node(
        nullable=a.nullable and b.nullable,
        first=a.first | (b.first if a.nullable else 0),
        last=b.last | (a.last if b.nullable else 0),
        pairs=_joined(_united(a.pairs, b.pairs), a.last, b.first),
        looked=a.looked | b.looked | (a.last if b.begins_looking else 0),
        begins_looking=a.begins_looking or (a.nullable and b.begins_looking),
        looks=a.looks or b.looks,
        alone=(a.alone if b.nullable else 0) | (b.alone & ~a.first if a.nullable else 0),
        shape=None if a.shape is None or b.shape is None else a.shape + b.shape,
    )


def _either(nodes: list[_Node]) -> _Node:
    if len(nodes) == 1:
        return nodes[0]
    result = nodes[0]
    for node in nodes[1:]:
        result = _Node(
            nullable=result.nullable or node.nullable,
            first=result.first | node.first,
            last=result.last | node.last,
            pairs=_united(result.pairs, node.pairs),
            looked=result.looked | node.looked,
            begins_looking=result.begins_looking or node.begins_looking,
            looks=result.looks or node.looks,
            alone=result.alone | node.alone,
        )
    return result


def _repeated(node: _Node, least: int, most: int | None) -> _Node:
    if node.looks:
        raise UnknownPattern("a repeated lookahead")
    several = most is None or most > 1
    shape = None
    if node.shape is not None and len(node.shape) == 1 and most is None and least <= 1:
        shape = ((node.shape[0][0], least == 0),)
    return _Node(
        nullable=node.nullable or least == 0,
        first=node.first,
        last=node.last,
        pairs=_joined(node.pairs, node.last, node.first) if several else node.pairs,
        alone=node.alone if least <= 1 else 0,
        shape=shape,
    )


def _foreseen(alternative: _Node, earlier: list[_Node]) -> int:
    r"""Symbols behind which the lookahead of an alternative is never asked.

    ``\s+(?!\S)`` would look behind a line feed, but where ``\s*[\r\n]+`` stands before it, that has matched all white
    space up to a line feed already, and the later alternative is not tried.
    """
    found = 0
    if alternative.shape is not None and len(alternative.shape) == 1:
        run = alternative.shape[0][0]
        for node in earlier:
            if node.shape is not None and len(node.shape) == 2 and not node.looks:
                (before, may_be_empty), (end, _) = node.shape
                if may_be_empty and before.text == run.text:
                    found |= end.must
    return found


_CATEGORY: Final = re.compile(r"[LMNPSZC][a-z]?")
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
_SPACES: Final = frozenset("\t\n\v\f\r ")


class _Parser:
    """The syntax that expressions of tokenizers use: Oniguruma's, without lookbehind, anchors and back references."""

    def __init__(self, expression: str) -> None:
        self.rest = expression
        self._any_case = False

    def alternatives(self) -> list[_Node]:
        found = [self._sequence()]
        while self._takes("|"):
            found.append(self._sequence())
        return found

    def _sequence(self) -> _Node:
        node = _EMPTY
        while self.rest and self.rest[0] not in "|)":
            node = _then(node, self._quantified(self._atom()))
        return node

    def _quantified(self, node: _Node) -> _Node:
        match = re.match(r"(?:([*+?])([?+]?)|\{(\d+)(,?)(\d*)\})", self.rest)
        if match is None:
            return node
        self.rest = self.rest[match.end() :]
        sign, greed, least, comma, most = match.groups()
        if sign:
            found = _repeated(node, int(sign == "+"), 1 if sign == "?" else None)
            return replace(found, shape=None) if greed == "+" else found
        if self.rest[:1] in ("?", "+") or (most and int(most) < int(least)):
            # Oniguruma means other things by these than most dialects do: "a{1}+" is "(?:a{1})+".
            raise UnknownPattern(f"{match[0] + self.rest[:1]!r}")
        return _repeated(node, int(least), int(most) if most else None if comma else int(least))

    def _atom(self) -> _Node:
        if self._takes("(?:"):
            return self._group(self._any_case)
        if self._takes("(?i:"):
            return self._group(any_case=True)
        if self._takes("(?!") or self._takes("(?="):
            looked_at = self._group(self._any_case)
            if looked_at.nullable or looked_at.looks or any(looked_at.pairs):
                raise UnknownPattern("a lookahead over several characters")
            return _LOOKAHEAD
        if self.rest.startswith("(?"):
            raise UnknownPattern(f"{self.rest[:4]!r}")
        if self._takes("("):
            return self._group(self._any_case)
        if self._takes("["):
            written = self.rest
            found = self._class()
            written = written[: len(written) - len(self.rest)]
            return _of_set(replace(found, text=f"{'(?i)' * self._any_case}[{written}"))
        if self._takes("."):
            return _of_set(_Set(_ALL & ~(1 << symbol("\n")), 0, "any"))
        if self.rest[0] in "^$*+?{":
            raise UnknownPattern(f"{self.rest[0]!r}")
        return _of_set(self._character())

    def _group(self, any_case: bool) -> _Node:
        outer, self._any_case = self._any_case, any_case
        node = _either(self.alternatives())
        self._any_case = outer
        if not self._takes(")"):
            raise UnknownPattern("an open group")
        return node

    def _class(self) -> _Set:
        inverted = self._takes("^")
        if self.rest.startswith("]"):
            raise UnknownPattern("a class that begins with a bracket")
        found = _Set(0, 0, "")
        while not self._takes("]"):
            if not self.rest or self.rest[0] == "[" or self.rest.startswith("&&"):
                raise UnknownPattern("a class within a class")
            start = self.rest[0] if self.rest[0] != "\\" else ""
            one = self._character()
            if self.rest.startswith("-") and not self.rest.startswith("-]"):
                self._takes("-")
                end = self.rest[0]
                if not start or end in "\\[":
                    raise UnknownPattern("a range that is not of plain characters")
                self._character()
                one = self._range(start, end)
            found |= one
        return found.inverted() if inverted else found

    def _range(self, start: str, end: str) -> _Set:
        if self._any_case and end > "@":
            raise UnknownPattern("a range of letters in any case")
        may = must = singles(lambda character: start <= character <= end)
        low, high = ord(start), ord(end)
        for number, group in enumerate(GROUPS, len(SINGLES)):
            if any(low <= last and high >= first for first, last in group.ranges):
                may |= 1 << number
                if all(low <= first and high >= last for first, last in group.ranges):
                    must |= 1 << number
        return _Set(may | (1 << OTHER if high > 127 else 0), must, f"{start}-{end}")

    def _character(self) -> _Set:
        character, self.rest = self.rest[0], self.rest[1:]
        if character != "\\":
            return self._literal(character)
        if not self.rest:
            raise UnknownPattern("a backslash at the end")
        escaped, self.rest = self.rest[0], self.rest[1:]
        if escaped in "pP":
            return self._property(inverted=escaped == "P")
        if escaped in "sS":
            white = singles(lambda c: c in _SPACES)
            return _inverted_if(escaped == "S", _Set(white | 1 << OTHER, white, r"\s"))
        if escaped in "dD":
            digits = singles(str.isdecimal)
            return _inverted_if(escaped == "D", _Set(digits | 1 << OTHER, digits, r"\d"))
        if escaped in _ESCAPED:
            return self._literal(_ESCAPED[escaped])
        if escaped.isalnum():
            raise UnknownPattern(f"'\\{escaped}'")
        return self._literal(escaped)

    def _property(self, *, inverted: bool) -> _Set:
        match = re.match(r"\{(\^?)([^}]*)\}", self.rest)
        if match is None or not _CATEGORY.fullmatch(match[2]):
            raise UnknownPattern(f"'\\p{self.rest[:12]}'")
        if self._any_case:
            raise UnknownPattern("a property in any case")
        self.rest = self.rest[match.end() :]
        name = match[2]
        may = must = singles(lambda c: unicodedata.category(c).startswith(name))
        for number, group in enumerate(GROUPS, len(SINGLES)):
            inside = [category.startswith(name) for category in group.categories]
            may |= any(inside) << number
            must |= all(inside) << number
        return _inverted_if(inverted != bool(match[1]), _Set(may | 1 << OTHER, must, rf"\p{{{name}}}"))

    def _literal(self, character: str) -> _Set:
        number = symbol(character)
        exact = 1 << number if number < len(SINGLES) else 0
        if not self._any_case or not character.isalpha():
            return _Set(1 << number, exact, character)
        if not character.isascii():
            raise UnknownPattern(f"{character!r} in any case, which can mean several characters")
        cases = singles(lambda c: c.lower() == character.lower() or c.upper() == character.upper())
        return _Set(cases | 1 << number | 1 << LOWER | 1 << UPPER | 1 << OTHER, exact, f"(?i){character}")

    def _takes(self, text: str) -> bool:
        if not self.rest.startswith(text):
            return False
        self.rest = self.rest[len(text) :]
        return True


def _inverted_if(inverted: bool, found: _Set) -> _Set:
    return found.inverted() if inverted else found
