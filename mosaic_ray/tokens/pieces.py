"""Counting the tokens of texts piece by piece, each piece only once.

Texts are cut where :mod:`.cuts` has proven that it changes no token, and the counts of the pieces are kept. Most of a
text is words that were seen before: cutting at spaces and looking words up takes a few hundredths of a microsecond a
word. A word that is new is cut further, and only what is still unknown is given to the tokenizer, many pieces at once.

A text that is put together from others is counted by its *seams*: of each text the stretch before its first cut and
the one after its last, and the count of all between. Where two texts meet only these are looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from mosaic_ray.tokens.cuts import Cuts, stands_alone

MEMO_ENTRIES: Final = 1 << 20
"""Pieces whose counts are kept, of each of two kinds; about 130 bytes each. A full memo is emptied."""

SEAM_ENTRIES: Final = 1 << 16
"""Texts whose seams are kept; a full memo is emptied."""

LONGEST_KEPT: Final = 64
"""Pieces of more characters hardly ever come again, and are not kept."""

ENCODED_AT_ONCE: Final = 256
"""Pieces given to the tokenizer as one text."""


class Seams(NamedTuple):
    """A text as its neighbours see it.

    head, tail: up to the first cut, and from the last one on; ``tail`` is None for a text without a cut, which is all
        head.
    inside: tokens of what stands between them.
    """

    head: str
    inside: int
    tail: str | None


class NotCountable(Exception):
    """A stretch of text holds an added token, behind which the normalizer would put its prefix again."""


class _Words(dict[str, int]):
    """Tokens of a space and the word behind it. A word that is not there counts nothing for now, and is noted."""

    def __init__(self) -> None:
        self.unknown: list[str] = []

    def __missing__(self, word: str) -> int:
        self.unknown.append(word)
        return 0


class _Junctions(dict[str, bool]):
    """Whether a text may be cut between two characters, by both of them."""

    def __init__(self, cuts: Cuts) -> None:
        self._cuts = cuts

    def __missing__(self, pair: str) -> bool:
        self[pair] = self._cuts.between(pair[0], pair[1])
        return self[pair]


class _Stretches(dict[str, int]):
    """Tokens of stretches of text, each standing by itself."""

    def __init__(self, learn: Callable[[str], int]) -> None:
        self._learn = learn

    def __missing__(self, text: str) -> int:
        return self._learn(text)


class PieceCounter:
    """Tokens of texts.

    tokenizer: without what its normalizer puts before each stretch between added tokens; that is ``cuts.prefix``, put
        there by this class. Raises NotCountable where there is such a prefix and a text holds an added token.
    """

    def __init__(self, tokenizer: Tokenizer, cuts: Cuts) -> None:
        self.prefix = cuts.prefix
        self._tokenizer = tokenizer
        added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
        marks = ((n, token) for n, token in added.items() if token.strip() and stands_alone(token, added.values()))
        self._mark_id: int
        self._mark: str | None
        self._mark_id, self._mark = next(marks, (-1, None))
        self._breaks = re.compile("|".join(map(re.escape, added.values()))) if cuts.prefix and added else None
        self._no_cut = cuts.no_cut
        self._cut_at_spaces = cuts.spaces.split
        self._cut = cuts.pattern.split
        self._words = _Words()
        self._stretches = _Stretches(self._learn)
        self._too_long: list[str] = []
        self._junctions = _Junctions(cuts)
        self._seams: dict[str, Seams] = {}

    def count(self, texts: Sequence[str]) -> list[int]:
        """Of texts that stand by themselves."""
        prefix, word, unknown = self.prefix, self._words.__getitem__, self._words.unknown
        starts, counts, noted = [], [], []
        for number, text in enumerate(texts):
            ends = self._split(text)
            starts.append(prefix + ends.pop(0) if text else ends.pop())
            before = len(unknown)
            counts.append(sum(map(word, ends)))
            if len(unknown) > before:
                noted.append((number, before, len(unknown)))
        for number, missing in self._learn_words(noted):
            counts[number] += missing
        self._learn_pieces([self._cut(start) for start in set(starts) if start not in self._stretches])
        return [count + self._stretches[start] for count, start in zip(counts, starts, strict=True)]

    def joined(self, parts: Iterable[str]) -> int:
        """Of the text that parts make when they are put together, without ever putting them together."""
        total, open_ = self.join(0, self.prefix, parts)
        return 0 if open_ == self.prefix and not total else total + self._stretches[open_]

    def join(self, total: int, open_: str, parts: Iterable[str]) -> tuple[int, str]:
        """Go on counting a text: ``total`` tokens so far, and an open end that is not counted yet."""
        known, stretches, junctions = self._seams, self._stretches, self._junctions
        for part in parts:
            if not part:
                continue
            head, inside, tail = known.get(part) or self.seams([part])[0]
            if not open_:
                open_ = head
            elif junctions[open_[-1] + head[0]]:
                total += stretches[open_]
                open_ = head
            else:
                open_ += head
            if tail is not None:
                total += stretches[open_] + inside
                open_ = tail
        return total, open_

    def end(self, total: int, open_: str) -> int:
        """The count of a text that has come to its end."""
        return total + self._stretches[open_] if open_ else total

    def seams(self, texts: Sequence[str]) -> list[Seams]:
        """The seams of texts, kept for :meth:`join`; many texts at once are faster than one by one."""
        known = self._seams
        fresh = [text for text in set(texts) if text not in known]
        if fresh:
            if len(known) + len(fresh) > SEAM_ENTRIES:
                known.clear()
                fresh = list(set(texts))
            known.update(zip(fresh, self._make_seams(fresh), strict=True))
        return [known[text] for text in texts]

    def _make_seams(self, texts: Sequence[str]) -> list[Seams]:
        word, unknown = self._words.__getitem__, self._words.unknown
        inside, outside, noted = [], [], []
        for number, text in enumerate(texts):
            ends = self._split(text)
            before = len(unknown)
            inside.append(sum(map(word, ends[1:-1])))
            if len(unknown) > before:
                noted.append((number, before, len(unknown)))
            outside.append((self._cut(ends[0]), self._cut(" " + ends[-1]) if len(ends) > 1 else []))
        for number, missing in self._learn_words(noted):
            inside[number] += missing
        self._learn_pieces(chain.from_iterable(outside))
        return [self._seam(first, count, last) for (first, last), count in zip(outside, inside, strict=True)]

    def _seam(self, first: list[str], inside: int, last: list[str]) -> Seams:
        middle = first[1:] + last[:-1] if last else first[1:-1]
        if middle:
            inside += sum(map(self._stretches.__getitem__, middle))
        return Seams(first[0], inside, last[-1] if last else first[-1] if len(first) > 1 else None)

    def _learn_words(self, noted: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
        """Count the words that were not known, and say what they add to each text that has some.

        noted: number of the text, and which of the unknown words are its own.
        """
        words, stretch = self._words, self._stretches.__getitem__
        unknown = words.unknown[:]
        words.unknown.clear()
        if len(words) > MEMO_ENTRIES:
            words.clear()
        fresh = list(dict.fromkeys(unknown))
        cut = [self._cut(" " + word) for word in fresh]
        self._learn_pieces(cut)
        counted = {word: sum(map(stretch, pieces)) for word, pieces in zip(fresh, cut, strict=True)}
        words.update(counted)
        self._too_long += [word for word in fresh if len(word) > LONGEST_KEPT]
        for number, start, end in noted:
            yield number, sum(map(counted.__getitem__, unknown[start:end]))

    def _learn_pieces(self, cut: Iterable[Sequence[str]]) -> None:
        """Have the tokenizer count the pieces that are not known yet, all in one go."""
        stretches = self._stretches
        for text in self._too_long:
            stretches.pop(text, None)
            self._words.pop(text, None)
        fresh = [piece for piece in set(chain.from_iterable(cut)) if piece not in stretches]
        self._too_long = [piece for piece in fresh if len(piece) > LONGEST_KEPT]
        if len(stretches) > MEMO_ENTRIES:
            stretches.clear()
        if fresh:
            stretches.update(zip(fresh, self._encoded(fresh), strict=True))

    def _learn(self, text: str) -> int:
        """One stretch by itself."""
        stretches = self._stretches
        pieces = self._cut(text)
        self._learn_pieces([pieces])
        count = sum(map(stretches.__getitem__, pieces))
        if len(text) <= LONGEST_KEPT:
            stretches[text] = count
        return count

    def _split(self, text: str) -> list[str]:
        """At spaces that are cuts; each part but the first begins with the space that is left out."""
        if text[:1] == " ":
            return [text]
        if text.isascii() and True not in map(text.__contains__, self._no_cut):
            return text.split(" ")
        return self._cut_at_spaces(text)

    def _encoded(self, pieces: Sequence[str]) -> list[int]:
        """By the tokenizer itself: many pieces as one text, with a token between them that holds them apart."""
        if self._breaks is not None and any(map(self._breaks.search, pieces)):
            raise NotCountable
        mark = self._mark
        if len(pieces) == 1 or mark is None or any(mark in piece for piece in pieces):
            return [len(found) for found in self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)]
        counts: list[int] = []
        groups = [pieces[start : start + ENCODED_AT_ONCE] for start in range(0, len(pieces), ENCODED_AT_ONCE)]
        texts = [mark.join(group) + mark for group in groups]
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ends = np.flatnonzero(np.array(encoding.ids, dtype=np.int64) == self._mark_id)
            counts += (np.diff(ends, prepend=-1) - 1).tolist()
        return counts
