"""Counting a question and its answer by their frame and their pieces, without rendering them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import AddedToken, Tokenizer

from mosaic_ray.tokens.cuts import NotProven, safe_cuts, stands_alone, steps
from mosaic_ray.tokens.frame import Frame
from mosaic_ray.tokens.pieces import Ids, PieceCounter

Parts = Sequence[str]
"""A text as the texts it is put together from, in their order."""


class _Edge(NamedTuple):
    """A fixed text that holds firm added tokens: the text before the first, ids up to the last, the text behind."""

    left: str
    fixed: list[int]
    right: str


class Trained(NamedTuple):
    """Token ids of a conversation; those from ``start`` to ``end`` are trained."""

    ids: Ids
    start: int
    end: int


class ConversationCounter:
    """Exact counts of conversations of one question and one answer.

    tokenizer: as it is. frame: what stands around the texts. specials: whether the tokenizer adds its own tokens.

    ends_with: the first firm added token behind the answer, if there is one.

    Raises NotProven where the counts of pieces do not add up to that of the whole.
    """

    def __init__(self, tokenizer: Tokenizer, frame: Frame, *, specials: bool) -> None:
        cuts = safe_cuts(tokenizer)
        self.pieces = PieceCounter(_without_prefix(tokenizer) if cuts.prefix else tokenizer, cuts)
        self._frame = frame
        self._trims_question, self._trims_answer = frame.trimmed
        self._tests = any(frame.tests)
        self._added = tokenizer.get_added_tokens_decoder()
        before, between, after = (self._edge(tokenizer, text) for text in (frame.before, frame.between, frame.after))
        first, last = _specials(tokenizer) if specials else ([], [])
        self._open = self._opened(frame.before)
        if before is not None:
            first = [*first, *self._alone(before.left), *before.fixed]
            self._open = self._opened(before.right)
        self._middle, middle = frame.between, list[int]()
        self._reopen: str | None = None
        if between is not None:
            self._middle, middle, self._reopen = between.left, between.fixed, self._opened(between.right)
        self._last = frame.after
        if after is not None:
            last = [*after.fixed, *self._alone(after.right), *last]
            self._last = after.left
        self._fixed_ids = first, middle, last
        self._ends = after is not None
        self._ends_clear = after is None or not after.left.strip()
        self.ends_with = None if after is None else self._added[after.fixed[0]].content
        self._fixed = len(first) + len(middle) + len(last)

    def count(self, question: Parts, answer: Parts) -> int | None:
        """Tokens of the conversation, or None where only rendering it can tell."""
        texts = self._shown(question, answer)
        if texts is None:
            return None
        question, answer = texts
        join, end = self.pieces.join, self.pieces.end
        if self._reopen is None:
            return end(*join(self._fixed, self._open, [*question, self._middle, *answer, self._last]))
        total = end(*join(self._fixed, self._open, [*question, self._middle]))
        return end(*join(total, self._reopen, [*answer, self._last]))

    def trained(self, pairs: Sequence[tuple[str, str]]) -> list[Trained | None]:
        """Token ids of many conversations, and where the answer stands in them; None where only the whole can tell.

        The answer reaches to the end of the first fixed token behind it, and to its own end where there is none.
        """
        texts: list[str] = []
        marks: list[tuple[int, int]] = []
        shown = [None if self.pieces.prefix or not self._ends_clear else self._shown((q,), (a,)) for q, a in pairs]
        for pair in shown:
            if pair is None:
                continue
            question, answer = ("".join(parts) for parts in pair)
            asked = self._open + question + self._middle
            if self._reopen is not None:
                texts.append(asked)
            before = asked if self._reopen is None else self._reopen
            marks += [(len(texts), len(before)), (len(texts), len(before) + len(answer))]
            texts.append(before + answer + self._last)
        if not texts:
            return [None] * len(pairs)
        arrays, places = self.pieces.id_arrays(texts, marks)
        rest, at = iter(arrays), iter(places)
        return [None if pair is None else self._joined(rest, next(at), next(at)) for pair in shown]

    def _joined(self, arrays: Iterator[Ids], start: int | None, end: int | None) -> Trained | None:
        first, middle, last = (np.array(fixed, dtype=np.int32) for fixed in self._fixed_ids)
        head = first if self._reopen is None else np.concatenate([first, next(arrays), middle])
        tail = next(arrays)
        if self._ends:
            end = len(tail) + 1
        if start is None or end is None:
            return None
        return Trained(np.concatenate([head, tail, last]), len(head) + start, len(head) + end)

    def _shown(self, question: Parts, answer: Parts) -> tuple[Parts, Parts] | None:
        """Both texts as the frame shows them, or None where it may not be right for them."""
        if self._tests and not self._frame.holds(("".join(question), "".join(answer))):
            return None
        if self._trims_question:
            question = _trimmed(question)
        if self._trims_answer:
            answer = _trimmed(answer)
        if not (any(question) and any(answer)):
            return None
        if self.pieces.unless and (self._starts_bare(self._open, question) or self._starts_bare(self._reopen, answer)):
            return None
        return question, answer

    def _opened(self, edge: str) -> str:
        """How a stretch of text begins that a fixed text begins, if only with its prefix."""
        pieces = self.pieces
        return edge if pieces.unless and edge and edge[0] in pieces.unless else pieces.prefix + edge

    def _starts_bare(self, opened: str | None, parts: Parts) -> bool:
        """Whether a stretch of text begins with a text that would get no prefix."""
        return opened == self.pieces.prefix and next(filter(None, parts))[0] in self.pieces.unless

    def _alone(self, text: str) -> list[int]:
        return self.pieces.ids(self._opened(text)) if text else []

    def _edge(self, tokenizer: Tokenizer, text: str) -> _Edge | None:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        written = [text[start:end] for start, end in encoding.offsets]
        # The model has some of them in its vocabulary too: [UNK] stands for a whole word.
        places = [
            place
            for place, number in enumerate(encoding.ids)
            if number in self._added and self._added[number].content == written[place]
        ]
        # Others, like the runs of line feeds of Gemma, are counted with the text that they stand in.
        firm = [place for place in places if self._is_found(self._added[encoding.ids[place]], tokenizer)]
        if self.pieces.prefix and places and (not firm or (places[0], places[-1]) != (firm[0], firm[-1])):
            loose = next(written[place] for place in places if place not in firm)
            raise NotProven(f"its chat template writes {loose!r}, which what stands around it can change")
        if not firm:
            return None
        first, last = firm[0], firm[-1]
        start, end = encoding.offsets[first][0], encoding.offsets[last][1]
        return _Edge(text[:start], encoding.ids[first : last + 1], text[end:])

    def _is_found(self, token: AddedToken, tokenizer: Tokenizer) -> bool:
        """Whether an added token is found wherever it is written, whatever text stands around it."""
        text = token.content
        if not stands_alone(text, [other.content for other in self._added.values()]):
            return False
        if not token.normalized:
            return True
        # It is looked for in what the others leave.
        ends = [text[start:] for start in range(1, len(text))]
        sooner = [other.content for other in self._added.values() if not other.normalized]
        return not list(steps(tokenizer.normalizer, "normalizers")) and not any(
            other in text or any(map(other.startswith, ends)) for other in sooner
        )


def _specials(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and after a text by itself."""
    bare, whole = (tokenizer.encode("a", add_special_tokens=specials).ids for specials in (False, True))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise NotProven("its post-processor does more than to put tokens around a text")


def _trimmed(parts: Parts) -> Parts:
    if not parts or parts[0][:1].isspace() or parts[-1][-1:].isspace() or not (parts[0] and parts[-1]):
        return ("".join(parts).strip(),)
    return parts


def _without_prefix(tokenizer: Tokenizer) -> Tokenizer:
    definition = json.loads(tokenizer.to_str())
    kept = [step for step in steps(tokenizer.normalizer, "normalizers") if step["type"] != "Prepend"]
    definition["normalizer"] = {"type": "Sequence", "normalizers": kept}
    if definition["pre_tokenizer"] and definition["pre_tokenizer"]["type"] == "Metaspace":
        definition["pre_tokenizer"]["prepend_scheme"] = "never"
    return Tokenizer.from_str(json.dumps(definition))
