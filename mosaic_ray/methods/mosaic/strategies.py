"""Which tiles a mosaic answers, and in which order: the ten kinds of Permute and the five of Maskout.

Tiles are numbered from 1 in the order they stand in the instruction. Only their instructions decide; what "first
letter", "words" and "characters" mean here is what the wordings in ``templates.py`` say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

from mosaic_ray.seeding import Draw

Strategy = Literal["primary", "format", "permute", "maskout"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

MASKED_SHARE = (0.1, 0.5)
"""The share of tiles left out is uniform in this range (paper, appendix), and at least one tile."""


def permuted(kind: str, instructions: Sequence[str], draw: Draw) -> list[int] | None:
    """The order in which the tiles are answered, or None where the kind means nothing for these tiles."""
    return _PERMUTE[kind](instructions, draw)


def masked(kind: str, instructions: Sequence[str], draw: Draw) -> list[int] | None:
    """The tiles left out, ascending: at least one, never all. None where the kind is ambiguous for these tiles."""
    return _MASKOUT[kind](instructions, draw)


def words(text: str) -> int:
    return len(text.split())


def _first_letter(text: str) -> str | None:
    """The first letter in lower case, or None unless it is an ASCII letter: other scripts have no agreed A to Z."""
    letter = next((c for c in text if c.isalpha()), None)
    return letter.lower() if letter is not None and letter.isascii() else None


def _numbers(instructions: Sequence[str]) -> list[int]:
    return list(range(1, len(instructions) + 1))


def _by_letter(instructions: Sequence[str], *, descending: bool) -> list[int] | None:
    letters = [_first_letter(text) for text in instructions]
    if any(letter is None for letter in letters):
        return None
    return sorted(_numbers(instructions), key=lambda n: letters[n - 1] or "", reverse=descending)


def _by_size(instructions: Sequence[str], *, size: Callable[[str], int], descending: bool) -> list[int]:
    sizes = [size(text) for text in instructions]
    return sorted(_numbers(instructions), key=lambda n: sizes[n - 1], reverse=descending)


def _odd(instructions: Sequence[str]) -> list[int]:
    return list(range(1, len(instructions) + 1, 2))


def _even(instructions: Sequence[str]) -> list[int]:
    return list(range(2, len(instructions) + 1, 2))


def _share(count: int, draw: Draw) -> int:
    low, high = MASKED_SHARE
    return max(1, round((low + (high - low) * draw.uniform()) * count))


def _given_mask(instructions: Sequence[str], draw: Draw) -> list[int]:
    count = _share(len(instructions), draw)
    return sorted(n + 1 for n in draw.shuffle(len(instructions))[:count])


def _by_rank(instructions: Sequence[str], draw: Draw, *, longest: bool) -> list[int] | None:
    """The n longest or shortest by words; None on a tie at the cut, which no wording could settle."""
    count = _share(len(instructions), draw)
    order = _by_size(instructions, size=words, descending=longest)
    if words(instructions[order[count - 1] - 1]) == words(instructions[order[count] - 1]):
        return None
    return sorted(order[:count])


Rule = Callable[[Sequence[str]], list[int] | None]


def _drawn(rule: Rule) -> Callable[[Sequence[str], Draw], list[int] | None]:
    """A rule that leaves nothing to chance, as one that is given a draw."""
    return lambda instructions, _: rule(instructions)


_PERMUTE: dict[str, Callable[[Sequence[str], Draw], list[int] | None]] = {
    "given": lambda instructions, draw: [n + 1 for n in draw.shuffle(len(instructions))],
    "reversed": _drawn(lambda instructions: _numbers(instructions)[::-1]),
    "alphabetical": _drawn(partial(_by_letter, descending=False)),
    "alphabetical_reversed": _drawn(partial(_by_letter, descending=True)),
    "words_ascending": _drawn(partial(_by_size, size=words, descending=False)),
    "words_descending": _drawn(partial(_by_size, size=words, descending=True)),
    "characters_ascending": _drawn(partial(_by_size, size=len, descending=False)),
    "characters_descending": _drawn(partial(_by_size, size=len, descending=True)),
    "odd_first": _drawn(lambda instructions: _odd(instructions) + _even(instructions)),
    "even_first": _drawn(lambda instructions: _even(instructions) + _odd(instructions)),
}
_MASKOUT: dict[str, Callable[[Sequence[str], Draw], list[int] | None]] = {
    "given": _given_mask,
    "longest": partial(_by_rank, longest=True),
    "shortest": partial(_by_rank, longest=False),
    "odd": _drawn(_odd),
    "even": _drawn(_even),
}
PERMUTE_KINDS = tuple(_PERMUTE)
MASKOUT_KINDS = tuple(_MASKOUT)

POSITIONAL = frozenset(
    {("permute", "given"), ("permute", "odd_first"), ("permute", "even_first")}
    | {("maskout", "given"), ("maskout", "odd"), ("maskout", "even")}
)
"""Kinds that speak of positions: their tiles are always numbered, or the meta-instruction would be a riddle."""
