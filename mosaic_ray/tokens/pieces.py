"""Counting the tokens of texts piece by piece, each piece only once.

Texts are cut wherever :mod:`.cuts` has proven that it changes no token. All texts of a batch are cut at once, as one
array of characters; pieces that are equal are found by Arrow; and only pieces that were never seen before are given to
the tokenizer, many at a time. There is no Python object for a piece that has been seen in the same batch.

A text that is put together from others is counted by its *seams*: of each text the piece before its first cut and the
one after its last, and the count of all between. Where two texts meet only these are looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import AddedToken, Tokenizer

from mosaic_ray.tokens.cuts import Cuts, stands_alone

Numbers = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]

KNOWN_ENTRIES: Final = 1 << 20
"""Pieces whose counts are kept; about 130 bytes each. A full memo is emptied."""

SEAM_ENTRIES: Final = 1 << 16
"""Texts whose seams are kept; a full memo is emptied."""

SEAM_CHARACTERS: Final = 1 << 26
"""Length of all of them together."""

ID_ENTRIES: Final = 1 << 18
"""Pieces whose ids are kept; a full memo is emptied."""

LONGEST_KEPT: Final = 64
"""Pieces of more characters hardly ever come again, and are not kept."""

ENCODED_AT_ONCE: Final = 256
"""Pieces given to the tokenizer as one text."""


class NotCountable(Exception):
    """A piece holds an added token, behind which the normalizer would put its prefix again."""


class Seams(NamedTuple):
    """A text as its neighbours see it.

    head, tail: up to the first cut, and from the last one on; ``tail`` is None for a text without a cut, which is all
        head.
    inside: tokens of what stands between them.
    """

    head: str
    inside: int
    tail: str | None


class PieceCounter:
    """Tokens of texts.

    tokenizer: without what its normalizer puts before each stretch between added tokens; that is ``cuts.prefix``, put
        there by this class. Its methods raise NotCountable where there is such a prefix and a text holds an added
        token.
    """

    def __init__(self, tokenizer: Tokenizer, cuts: Cuts) -> None:
        self.prefix, self.unless = cuts.prefix, cuts.unless
        self._tokenizer = tokenizer
        self._cuts = cuts
        self._known = _Known(self._learn)
        self._junctions = _Junctions(cuts)
        self._seams = _KnownSeams(self._seam)
        self._ids: dict[str, list[int]] = {}
        added = tokenizer.get_added_tokens_decoder()
        texts = [token.content for token in added.values()]
        self._mark_id, self._mark = _mark(added, texts, getattr(tokenizer.model, "unk_token", None))
        self._breaks = re.compile("|".join(map(re.escape, texts))) if cuts.prefix and texts else None

    def countable(self, text: str) -> bool:
        """Whether :meth:`count` takes a text: it holds no added token, and its prefix does not depend on it."""
        return not self._breaks or not (self._breaks.search(text) or (self.unless and text[:1] in self.unless))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Of texts that stand by themselves."""
        prefix = self.prefix
        if self.unless and any(text[:1] in self.unless for text in texts if text):
            raise NotCountable
        counts, bounds, _ = self._cut([prefix + text if text else "" for text in texts])
        before = np.concatenate([[0], np.cumsum(counts)])
        found: list[int] = np.diff(before[bounds]).tolist()
        return found

    def seams(self, texts: Sequence[str]) -> None:
        """Make the seams of texts, kept for :meth:`join`; many texts at once are faster than one by one."""
        known = self._seams
        fresh = [text for text in dict.fromkeys(texts) if text and text not in known]
        known.make_room(fresh)
        # Characters of ASCII are bytes; one other in a batch would make all of them four times as wide.
        for some in ([t for t in fresh if t.isascii()], [t for t in fresh if not t.isascii()]):
            if some:
                known.update(self._seams_of(some))

    def _seams_of(self, fresh: Sequence[str]) -> Iterator[tuple[str, Seams]]:
        counts, bounds, starts = self._cut(fresh)
        before = np.concatenate([[0], np.cumsum(counts)])
        first, last = bounds[:-1], bounds[1:] - 1
        inside = (before[last] - before[np.minimum(first + 1, last)]).tolist()
        begin = starts[first]
        head_end, tail_start = (starts[np.minimum(first + 1, last)] - begin).tolist(), (starts[last] - begin).tolist()
        solid = (first == last).tolist()
        for text, alone, middle, end, start in zip(fresh, solid, inside, head_end, tail_start, strict=True):
            yield text, Seams(text, 0, None) if alone else Seams(text[:end], middle, text[start:])

    def forget_texts(self) -> None:
        """Let go of the seams of long texts, which are those of records; short ones stand in every mosaic."""
        self._seams.keep_short()

    def join(self, total: int, open_: str, parts: Iterable[str]) -> tuple[int, str]:
        """Go on counting a text that is put together from parts.

        total, open_: tokens so far, and the end of the text that is not counted yet; the same is returned.
        """
        seams, known, junctions = self._seams, self._known, self._junctions
        for part in parts:
            head, inside, tail = seams[part]
            if not (open_ and head):
                open_ += head
            elif junctions[open_[-1] + head[0]]:
                total += known[open_]
                open_ = head
            else:
                open_ += head
            if tail is not None:
                total += known[open_] + inside
                open_ = tail
        return total, open_

    def end(self, total: int, open_: str) -> int:
        """The count of a text that has come to its end."""
        return total + self._known[open_] if open_ else total

    def ids(self, text: str) -> list[int]:
        """Token ids of a stretch of text that has its prefix already."""
        pieces = self._pieces(text) if text else []
        if self._breaks is not None and any(map(self._breaks.search, pieces)):
            raise NotCountable
        distinct = list(dict.fromkeys(pieces))
        found = dict(zip(distinct, self._ids_of(distinct), strict=True))
        return list(chain.from_iterable(found[piece] for piece in pieces))

    def id_arrays(self, texts: Sequence[str], marks: Sequence[tuple[int, int]]) -> tuple[list[Ids], list[int | None]]:
        """Token ids of stretches of text; many at once are several times as fast as one by one.

        marks: places (text, character). For each comes the number of tokens before it, or None where it lies within a
        piece, so that a token may reach across.

        Only where there is no prefix.
        """
        distinct, indices, bounds, starts = self._distinct(texts)
        found = self._ids_of(distinct)
        lengths = np.array(list(map(len, found)), dtype=np.int64)
        flat = np.fromiter(chain.from_iterable(found), dtype=np.int32, count=int(lengths.sum()))
        counts = lengths[indices]
        before = np.concatenate([[0], np.cumsum(counts)])
        places = np.repeat((np.cumsum(lengths) - lengths)[indices] - before[:-1], counts) + np.arange(before[-1])
        ids = flat[places]
        edges = before[bounds]
        begins = np.cumsum([0, *map(len, texts)])
        at: list[int | None] = []
        for text, character in marks:
            piece = int(np.searchsorted(starts, begins[text] + character))
            cut = character == len(texts[text]) or (
                piece < bounds[text + 1] and starts[piece] == begins[text] + character
            )
            at.append(int(before[piece] - edges[text]) if cut else None)
        return [ids[start:end] for start, end in pairwise(edges.tolist())], at

    def _ids_of(self, pieces: Sequence[str]) -> list[list[int]]:
        """Of distinct pieces."""
        known = self._ids
        found = list(map(known.get, pieces))
        if None not in found:
            return found  # type: ignore[return-value]
        fresh = [piece for piece, ids in zip(pieces, found, strict=True) if ids is None]
        encodings = self._tokenizer.encode_batch_fast(fresh, add_special_tokens=False)
        made = {piece: encoding.ids for piece, encoding in zip(fresh, encodings, strict=True)}
        if len(known) + len(made) > ID_ENTRIES:
            known.clear()
        known.update((piece, ids) for piece, ids in made.items() if len(piece) <= LONGEST_KEPT)
        return [made[piece] if ids is None else ids for piece, ids in zip(pieces, found, strict=True)]

    def _seam(self, text: str) -> Seams:
        """Of one text by itself."""
        pieces = self._pieces(text)
        inside = sum([self._known[piece] for piece in pieces[1:-1]])
        return Seams(pieces[0], inside, pieces[-1]) if len(pieces) > 1 else Seams(text, 0, None)

    def _cut(self, texts: Sequence[str]) -> tuple[Numbers, Numbers, Numbers]:
        """The counts of all pieces of all texts; the number of the first piece of each text, and of the end; and where
        each piece starts, in characters of all texts together."""
        distinct, indices, bounds, starts = self._distinct(texts)
        return np.array(self._counts(distinct), dtype=np.int64)[indices], bounds, starts

    def _distinct(self, texts: Sequence[str]) -> tuple[list[str], Numbers, Numbers, Numbers]:
        """The different pieces of all texts; which of them each piece is; the number of the first piece of each text,
        and of the end; and where each piece starts, in characters of all texts together."""
        joined = "".join(texts)
        ends = np.cumsum([0, *map(len, texts)])
        starts = self._cuts.starts(joined, ends[:-1])
        data = joined.encode()
        at = starts if len(data) == len(joined) else _byte_offsets(joined)[starts]
        offsets = np.append(at, len(data)).astype(np.int64)
        pieces = pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(data))
        distinct = pc.dictionary_encode(pieces)
        return distinct.dictionary.to_pylist(), distinct.indices.to_numpy(), np.searchsorted(starts, ends), starts

    def _counts(self, pieces: Sequence[str]) -> list[int]:
        """Of distinct pieces: what is not known is counted by the tokenizer, all in one go."""
        known = self._known
        found = list(map(known.get, pieces))
        if None not in found:
            return found  # type: ignore[return-value]
        fresh = [piece for piece, count in zip(pieces, found, strict=True) if count is None]
        counted = dict(zip(fresh, self._encoded(fresh), strict=True))
        if len(known) + len(fresh) > KNOWN_ENTRIES:
            known.clear()
        known.update(counted if max(map(len, fresh)) <= LONGEST_KEPT else _short(counted))
        return [counted[piece] if count is None else count for piece, count in zip(pieces, found, strict=True)]

    def _learn(self, text: str) -> int:
        """Of one stretch of text that is not known yet."""
        pieces = self._pieces(text)
        count = self._encoded([text])[0] if len(pieces) == 1 else sum([self._known[piece] for piece in pieces])
        if len(text) <= LONGEST_KEPT:
            if len(self._known) >= KNOWN_ENTRIES:
                self._known.clear()
            self._known[text] = count
        return count

    def _pieces(self, text: str) -> list[str]:
        """One text, cut: character by character, which is faster than arrays for a few words."""
        if len(text) > LONGEST_KEPT:
            starts = self._cuts.starts(text, np.zeros(1, dtype=np.int64)).tolist()
        else:
            junctions = self._junctions
            starts = [0, *(i for i in range(1, len(text)) if junctions[text[i - 1 : i + 1]])]
        return [text[start:end] for start, end in pairwise([*starts, len(text)])] if len(starts) > 1 else [text]

    def _encoded(self, pieces: Sequence[str]) -> list[int]:
        """By the tokenizer itself: many pieces as one text, with a token between them that holds them apart."""
        if self._breaks is not None and any(map(self._breaks.search, pieces)):
            raise NotCountable
        mark = self._mark
        if len(pieces) < 2 or mark is None or any(mark in piece for piece in pieces):
            return [len(found) for found in self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)]
        groups = [pieces[start : start + ENCODED_AT_ONCE] for start in range(0, len(pieces), ENCODED_AT_ONCE)]
        texts = [mark.join(group) + mark for group in groups]
        counts: list[int] = []
        for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            ends = np.flatnonzero(np.array(encoding.ids, dtype=np.int64) == self._mark_id)
            counts += (np.diff(ends, prepend=-1) - 1).tolist()
        return counts


class _Known(dict[str, int]):
    """Tokens of stretches of text, each standing by itself."""

    def __init__(self, learn: Callable[[str], int]) -> None:
        self._learn = learn

    def __missing__(self, text: str) -> int:
        return self._learn(text)


class _KnownSeams(dict[str, Seams]):
    """The seams of texts."""

    def __init__(self, make: Callable[[str], Seams]) -> None:
        self._make = make

        self._characters = 0

    def __missing__(self, text: str) -> Seams:
        self.make_room([text])
        self[text] = self._make(text)
        return self[text]

    def keep_short(self) -> None:
        for text in [text for text in self if len(text) > LONGEST_KEPT]:
            del self[text]
        self._characters = sum(map(len, self))

    def make_room(self, texts: Sequence[str]) -> None:
        more = sum(map(len, texts))
        if len(self) + len(texts) > SEAM_ENTRIES or self._characters + more > SEAM_CHARACTERS:
            self.clear()
            self._characters = 0
        self._characters += more


class _Junctions(dict[str, bool]):
    """Whether a text may be cut between two characters, by both of them."""

    def __init__(self, cuts: Cuts) -> None:
        self._cuts = cuts

    def __missing__(self, pair: str) -> bool:
        if len(self) >= KNOWN_ENTRIES:
            self.clear()
        self[pair] = self._cuts.between(pair[0], pair[1])
        return self[pair]


def _mark(added: Mapping[int, AddedToken], texts: Sequence[str], unknown: str | None) -> tuple[int, str | None]:
    """An added token that can stand between pieces: found wherever it is written, and nothing else becomes it."""
    for number, token in added.items():
        text = token.content
        if text.strip() and text != unknown and not token.normalized and stands_alone(text, texts):
            return number, text
    return -1, None


def _short(counted: dict[str, int]) -> dict[str, int]:
    return {text: count for text, count in counted.items() if len(text) <= LONGEST_KEPT}


def _byte_offsets(text: str) -> Numbers:
    """Where each character starts in UTF-8."""
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
    return np.cumsum(widths) - widths
