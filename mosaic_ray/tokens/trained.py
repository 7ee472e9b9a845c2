"""Token ids of conversations, and which of them a model is trained on.

Trained are the texts of the assistant, and after each the token that ends the turn, with what the template writes
between the two. Where they stand is known from how
the conversation is put together, not searched for in its tokens: the chat template is rendered once for each sequence
of roles with marks in place of the texts, which gives what it writes between them, and every conversation is rendered
and held against that. A token that reaches across the edge of such a text is trained.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from tokenizers import Tokenizer

from mosaic_ray.errors import TokenizerError
from mosaic_ray.records import Message
from mosaic_ray.tokens.control import ControlTokens
from mosaic_ray.tokens.conversations import ConversationCounter
from mosaic_ray.tokens.cuts import NotProven
from mosaic_ray.tokens.frame import frame_of
from mosaic_ray.tokens.pieces import Ids, NotCountable
from mosaic_ray.tokens.spec import TokenizerSpec
from mosaic_ray.tokens.template import TEMPLATE_DATE, compile_template, first_line

log = logging.getLogger("mosaic_ray")

IGNORED: Final = -100
"""The label of a token without loss, as PyTorch's ``cross_entropy`` has it by default."""

_EDGE: Final = "\t \t"
_MADE_AT_ONCE: Final = 1024
_ENCODED_AT_ONCE: Final = 256
"""Texts: an encoding takes some fifty times the memory of its ids."""

CHECK_EVERY: Final = 64
"""Of this many rows one is made in two ways, and decoded to see that its labels are the assistant's text."""

_KEPT_FRAMES: Final = 1024
_QUESTION: Final = ("user", "assistant")

Span = tuple[int, int]


class TokenRow(NamedTuple):
    """One conversation as a trainer takes it: both of the same length.

    labels: the id where the token is trained, IGNORED elsewhere and at the first token, which nothing predicts.
    counted: tokens that were counted for it: one more than there are where an end of sequence would have come twice.
    """

    input_ids: Ids
    labels: Ids
    counted: int

    @property
    def trained(self) -> int:
        """Number of trained tokens."""
        return int(np.count_nonzero(self.labels != IGNORED))


class Placed(NamedTuple):
    """The text of a conversation, and where in it stands what is trained (start and end, in characters)."""

    text: str
    trained: list[Span]


@dataclass(frozen=True)
class _Frame:
    """What a template writes before, between and after the texts of conversations of some roles.

    texts: one more than there are roles. shown: how each message's white space at both ends is shown.
    """

    texts: tuple[str, ...]
    trims: tuple[tuple[bool, bool], ...]

    def fill(self, messages: Sequence[Message]) -> tuple[str, list[Span]]:
        """The text of a conversation, and where each message stands."""
        pieces = [self.texts[0]]
        spans: list[Span] = []
        place = len(self.texts[0])
        for message, (left, right), after in zip(messages, self.trims, self.texts[1:], strict=True):
            content = message.content
            content = content.lstrip() if left else content
            content = content.rstrip() if right else content
            spans.append((place, place + len(content)))
            place += len(content) + len(after)
            pieces += [content, after]
        return "".join(pieces), spans

    def find(self, messages: Sequence[Message], text: str) -> list[Span] | None:
        """Where each message stands in a text that differs from :meth:`fill` in white space alone; else None."""
        spans: list[Span] = []
        place = 0
        for message, before in zip(messages, self.texts, strict=False):
            for wanted in (before.strip(), message.content.strip()):
                place = _behind_space(text, place)
                if not text.startswith(wanted, place):
                    return None
                place += len(wanted)
            spans.append((place - len(message.content.strip()), place))
        return spans if text[place:].strip() == self.texts[-1].strip() else None


class TokenRows:
    """Makes token rows of conversations; one a worker, as it keeps the tokenizer.

    by_pieces: take ids from the pieces of texts where that is proven to be right (:mod:`.pieces`).
    ends_turn: the token that the template writes behind the assistant's last text; None where it writes none, so that
        nothing can teach a model to stop.
    """

    def __init__(self, spec: TokenizerSpec, *, by_pieces: bool = True) -> None:
        self._spec = spec
        self._tokenizer = _with_exact_offsets(spec.definition)
        self._template = None if spec.chat_template is None else compile_template(spec.chat_template, TEMPLATE_DATE)
        self._control = ControlTokens(self._tokenizer, spec)
        self._eos = self._tokenizer.token_to_id(spec.special_tokens.get("eos_token", ""))
        self._frames: dict[tuple[str, ...], _Frame] = {}
        last = self._frame(_QUESTION).texts[-1]
        self.ends_turn = self._control.first(last)
        self._last_end = _up_to(last, self.ends_turn)
        self._by_pieces: ConversationCounter | None = None
        if by_pieces:
            with suppress(NotProven):
                frame = frame_of(spec.chat_template, spec.special_tokens)
                self._by_pieces = ConversationCounter(
                    Tokenizer.from_str(spec.definition), frame, specials=self._adds_specials
                )
                if self._by_pieces.ends_with != self.ends_turn:
                    self._by_pieces = None

    def make(self, conversations: Sequence[Sequence[Message]]) -> list[TokenRow]:
        """The rows of conversations, in their order.

        One of CHECK_EVERY is also made of the whole text. Should they ever differ, all of these conversations are.

        Raises TokenizerError where the template does more with a conversation than to show its texts.
        """
        rows: list[TokenRow | None] = []
        for start in range(0, len(conversations), _MADE_AT_ONCE):
            rows += self._rows_by_pieces(conversations[start : start + _MADE_AT_ONCE])
        checked = [place for place in range(0, len(rows), CHECK_EVERY) if rows[place] is not None]
        for place, whole in zip(checked, self.make_whole([conversations[place] for place in checked]), strict=True):
            if not _same(rows[place], whole):
                log.warning("ids by pieces are not those of the whole text; whole texts are taken: %s", self._spec.name)
                return self.make_whole(conversations)
        left = self.make_whole([m for m, row in zip(conversations, rows, strict=True) if row is None])
        rest = iter(left)
        return [next(rest) if row is None else row for row in rows]

    def make_whole(self, conversations: Sequence[Sequence[Message]]) -> list[TokenRow]:
        """The same, each rendered and encoded whole: what every other way is held against."""
        rows: list[TokenRow] = []
        for start in range(0, len(conversations), _ENCODED_AT_ONCE):
            placed = [self.place(messages) for messages in conversations[start : start + _ENCODED_AT_ONCE]]
            # Not encode_batch_fast, which knows no offsets.
            found = self._tokenizer.encode_batch([text for text, _ in placed], add_special_tokens=self._adds_specials)
            rows += [self._row(encoding, spans) for encoding, (_, spans) in zip(found, placed, strict=True)]
        return rows

    def _rows_by_pieces(self, conversations: Sequence[Sequence[Message]]) -> list[TokenRow | None]:
        """Of questions with one answer, where that is proven to be right; None for all others."""
        if self._by_pieces is None:
            return [None] * len(conversations)
        plain = [tuple(message.role for message in messages) == _QUESTION for messages in conversations]
        pairs = [(m[0].content, m[1].content) for m, fits in zip(conversations, plain, strict=True) if fits]
        try:
            found = iter(self._by_pieces.trained(pairs))
        except NotCountable:
            return [None] * len(conversations)
        trained = [next(found) if fits else None for fits in plain]
        return [None if row is None else self._finish(row.ids, [(row.start, row.end)]) for row in trained]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def place(self, messages: Sequence[Message]) -> Placed:
        """The text that is encoded, and what of it is trained. Raises TokenizerError."""
        frame = self._frame(tuple(message.role for message in messages))
        text, spans = frame.fill(messages)
        shown = self._render(messages)
        if shown != text:
            found = frame.find(messages, shown)
            if found is None:
                raise TokenizerError(
                    f"the chat template of {self._spec.name!r} changes what it shows with the text of a conversation, "
                    f"so it cannot be told which of its tokens are the answers: {shown[:200]!r}. Train on the view "
                    "messages, where the trainer finds them by itself, or give a simpler --chat-template"
                )
            text, spans = shown, found
        trained = [
            (start, self._turn_end(text, end, frame, after))
            for message, (start, end), after in zip(messages, spans, frame.texts[1:], strict=True)
            if message.role == "assistant"
        ]
        return Placed(text, trained)

    def misplaced(self, messages: Sequence[Message], row: TokenRow) -> str | None:
        """What is wrong with the labels of a conversation, or None: decoded, they are the assistant's texts.

        It is not told where the texts stand. Where decoding loses something (case, white space), it is compared with
        what is left of each text when that is encoded and decoded by itself.
        """
        texts = [message.content.strip() for message in messages if message.role == "assistant"]
        stretches = _stretches(row.labels)
        if len(stretches) != len(texts):
            return f"{len(stretches)} stretches of trained tokens for {len(texts)} answers"
        for text, ids in zip(texts, stretches, strict=True):
            decoded = self.decode(ids).strip()
            ends = self._last_end.strip()
            if not (ends and decoded.endswith(ends)):
                ends = self._control.first(decoded) or ""
            decoded = decoded.removesuffix(ends).rstrip()
            alone = self.decode(self._tokenizer.encode(text, add_special_tokens=False).ids).strip()
            reaching = len(self.decode(ids[:1]))  # the first token may begin before the text
            if not any(decoded.endswith(way) and len(decoded) - len(way) < max(1, reaching) for way in (text, alone)):
                return f"trained is {decoded[:100]!r}, where the answer is {text[:100]!r}"
        if self.ends_turn and stretches and not self.decode(stretches[-1]).rstrip().endswith(self.ends_turn):
            return f"{self.ends_turn!r}, which ends the last turn, is not trained"
        return None

    @property
    def _adds_specials(self) -> bool:
        return self._template is None

    def _turn_end(self, text: str, end: int, frame: _Frame, after: str) -> int:
        """The end of a turn: behind the token that ends it, with what the template writes before that.

        after: what it writes between this text and the next. In mid-conversation the first control token there ends the
        turn, unless it is one that conversations open with.
        """
        token = self._control.first(after)
        ends = _up_to(after, token)
        if token is None or (ends != self._last_end and (ends.strip() != token or token in frame.texts[0])):
            return end
        place = end if text.startswith(ends, end) else _behind_space(text, end)
        shown = ends if place == end else ends.lstrip()
        if not text.startswith(shown, place):
            return end
        return place + len(shown)

    def _row(self, encoding: Any, spans: Sequence[Span]) -> TokenRow:
        return self._finish(
            np.array(encoding.ids, dtype=np.int32), [_tokens_of(encoding, start, end) for start, end in spans]
        )

    def _finish(self, ids: Ids, trained: Sequence[Span]) -> TokenRow:
        """trained: ranges of tokens."""
        labels = np.full(len(ids), IGNORED, dtype=np.int32)
        for start, end in trained:
            labels[start:end] = ids[start:end]
        labels[:1] = IGNORED
        once = len(ids)
        if once > 1 and self._eos is not None and ids[-1] == ids[-2] == self._eos:
            once -= 1  # one is written, one the tokenizer adds by itself
        return TokenRow(ids[:once], labels[:once], len(ids))

    def _render(self, messages: Sequence[Message]) -> str:
        if self._template is None:
            return "\n".join(message.content for message in messages) + self._spec.special_tokens.get("eos_token", "")
        return self._template(
            [{"role": message.role, "content": message.content} for message in messages], self._spec.special_tokens
        )

    def _frame(self, roles: tuple[str, ...]) -> _Frame:
        if roles not in self._frames:
            if len(self._frames) >= _KEPT_FRAMES:
                self._frames.clear()
            self._frames[roles] = self._make_frame(roles)
        return self._frames[roles]

    def _make_frame(self, roles: Sequence[str]) -> _Frame:
        marks = [f"\ue000{number}\ue001" for number in range(len(roles))]
        try:
            rest = self._render(
                [Message(role, f"{_EDGE}{mark}{_EDGE}") for role, mark in zip(roles, marks, strict=True)]
            )
        except Exception as error:
            raise TokenizerError(
                f"the chat template of {self._spec.name!r} refuses {', '.join(roles)}: {first_line(error)}"
            ) from error
        texts: list[str] = []
        trims: list[tuple[bool, bool]] = []
        for role, mark in zip(roles, marks, strict=True):
            before, found, rest = rest.partition(mark)
            if not found or mark in rest:
                raise TokenizerError(
                    f"the chat template of {self._spec.name!r} does not show the text of the {role} exactly once, so "
                    "it cannot be told which tokens are the answers. Train on the view messages, or give another "
                    "--chat-template"
                )
            left, right = not before.endswith(_EDGE), not rest.startswith(_EDGE)
            trims.append((left, right))
            texts.append(before if left else before.removesuffix(_EDGE))
            rest = rest if right else rest.removeprefix(_EDGE)
        return _Frame((*texts, rest), tuple(trims))


def _stretches(labels: Ids) -> list[list[int]]:
    """The labels that are trained, those that stand together in one list."""
    trained = np.concatenate(([False], labels != IGNORED, [False]))
    edges = np.flatnonzero(np.diff(trained.astype(np.int8)))
    return [labels[start:end].tolist() for start, end in edges.reshape(-1, 2).tolist()]


def _tokens_of(encoding: Any, start: int, end: int) -> Span:
    """The tokens that hold any of these characters, as a range; empty where there is none."""
    first = next(filter(_is_number, map(encoding.char_to_token, range(start, end))), None)
    last = next(filter(_is_number, map(encoding.char_to_token, range(end - 1, start - 1, -1))), None)
    if first is None or last is None:
        return 0, 0
    behind = last + 1
    while behind < len(encoding) and (place := encoding.token_to_chars(behind)) and place[0] < end and place != (0, 0):
        behind += 1  # a character may be several tokens
    return first, behind


def _same(row: TokenRow | None, other: TokenRow) -> bool:
    return (
        row is not None and np.array_equal(row.input_ids, other.input_ids) and np.array_equal(row.labels, other.labels)
    )


def _up_to(text: str, token: str | None) -> str:
    """A text up to the end of a token that it holds."""
    return "" if token is None else text[: text.index(token) + len(token)]


def _is_number(value: int | None) -> bool:
    return value is not None


def _behind_space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _with_exact_offsets(definition: str) -> Tokenizer:
    """The tokenizer, white space counted among the characters of a token: byte-level ones may leave it out."""
    parsed = orjson.loads(definition)
    todo = [parsed["post_processor"]] if parsed.get("post_processor") else []
    while todo:
        processor = todo.pop()
        todo += processor.get("processors", [])
        if "trim_offsets" in processor:
            processor["trim_offsets"] = False
    return Tokenizer.from_str(orjson.dumps(parsed).decode())
