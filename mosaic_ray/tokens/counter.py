"""Exact counts of conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tokenizers import Tokenizer

from mosaic_ray.records import Message, Woven
from mosaic_ray.tokens.control import ControlTokens
from mosaic_ray.tokens.conversations import ConversationCounter
from mosaic_ray.tokens.cuts import NotProven
from mosaic_ray.tokens.frame import frame_of
from mosaic_ray.tokens.pieces import NotCountable
from mosaic_ray.tokens.spec import TokenizerSpec
from mosaic_ray.tokens.template import TEMPLATE_DATE, compile_template, first_line

CHECK_EVERY: Final = 1024
"""Of this many conversations one is also counted by rendering and encoding the whole of it."""


class MiscountError(Exception):
    """A count by pieces is not that of the whole text; the message says of which."""


class TokenCounter:
    """The budget and the exact counts against it; a :class:`mosaic_ray.methods.base.Measure`.

    One a worker: building it costs the parsing of the tokenizer's definition (0.25 s for 128,000 entries, measured).

    Texts are counted by their pieces where that is proven to give the count of the whole (:mod:`.cuts`,
    :mod:`.frame`), and whole otherwise; ``whole_because`` says why. One conversation of CHECK_EVERY is counted in both
    ways. Where they differ, MiscountError is raised; :meth:`start` with ``whole=True`` does without pieces.
    """

    def __init__(self, spec: TokenizerSpec, *, max_tokens: int) -> None:
        self.spec = spec
        self.max_tokens = max_tokens
        self._tokenizer = Tokenizer.from_str(spec.definition)
        self._template = None if spec.chat_template is None else compile_template(spec.chat_template, TEMPLATE_DATE)
        self._end = spec.special_tokens.get("eos_token", "")
        self._control = ControlTokens(self._tokenizer, spec)
        self.whole_because: str | None = None
        try:
            frame = frame_of(spec.chat_template, spec.special_tokens)
            self._proven = ConversationCounter(self._tokenizer, frame, specials=spec.chat_template is None)
        except NotProven as error:
            self.whole_because = str(error)
        self.start()

    def start(self, *, whole: bool = False) -> None:
        """Begin a task: what is checked in it does not depend on the tasks before."""
        self._seen = 0
        self._by_pieces = None if whole or self.whole_because else self._proven
        if self._by_pieces is not None:
            self._by_pieces.pieces.forget_texts()

    def render(self, messages: Sequence[Message | Woven]) -> str:
        """The text that is counted."""
        if self._template is None:
            return "\n".join(message.content for message in messages) + self._end
        conversation = [{"role": message.role, "content": message.content} for message in messages]
        return self._template(conversation, self.spec.special_tokens)

    def refusal(self, messages: Sequence[Message]) -> str | None:
        """What the chat template says against a conversation, or None where it renders it.

        Some templates know no system prompt, or take one turn only.
        """
        try:
            self.render(messages)
        except Exception as error:
            return first_line(error)
        return None

    def encode(self, messages: Sequence[Message | Woven]) -> list[int]:
        """The token ids that the trainer will see, rendered and encoded whole; :mod:`.trained` makes them of pieces."""
        return list(self._encode_batch([self.render(messages)])[0].ids)

    def count(self, messages: Sequence[Message | Woven]) -> int:
        """Tokens of a conversation. Raises MiscountError."""
        count = self._count_by_pieces(messages)
        return self.count_whole([messages])[0] if count is None else count

    def count_batch(self, conversations: Sequence[Sequence[Message]]) -> list[int]:
        """Tokens of each conversation; faster than one by one, also later for texts made of these."""
        if self._by_pieces is not None:
            pieces = self._by_pieces.pieces
            pieces.seams([text for messages in conversations for _, text in messages if pieces.countable(text)])
        counts = [self._count_by_pieces(messages) for messages in conversations]
        left = [messages for messages, count in zip(conversations, counts, strict=True) if count is None]
        whole = iter(self.count_whole(left))
        return [next(whole) if count is None else count for count in counts]

    def count_whole(self, conversations: Sequence[Sequence[Message | Woven]]) -> list[int]:
        """Tokens of each conversation, rendered and encoded whole: what every count here is held against."""
        return [len(found) for found in self._encode_batch([self.render(messages) for messages in conversations])]

    def count_texts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text encoded by itself, without special tokens."""
        counts: dict[str, int] = {}
        if self._by_pieces is not None:
            pieces = self._by_pieces.pieces
            countable = [text for text in texts if pieces.countable(text)]
            counts.update(zip(countable, pieces.count(countable), strict=True))
        rest = [text for text in texts if text not in counts]
        found = self._tokenizer.encode_batch_fast(rest, add_special_tokens=False)
        counts.update((text, len(encoding)) for text, encoding in zip(rest, found, strict=True))
        return [counts[text] for text in texts]

    def _count_by_pieces(self, messages: Sequence[Message | Woven]) -> int | None:
        pair = self._pair(messages)
        if self._by_pieces is None or pair is None:
            return None
        try:
            count = self._by_pieces.count(*pair)
        except NotCountable:
            return None
        self._seen += 1
        if count is not None and self._seen % CHECK_EVERY == 1:
            whole = self.count_whole([messages])[0]
            if whole != count:
                raise MiscountError(f"{count} tokens by pieces, {whole} as a whole: {self.render(messages)[:200]!r}")
        return count

    @staticmethod
    def _pair(messages: Sequence[Message | Woven]) -> tuple[Sequence[str], Sequence[str]] | None:
        """The texts of a question and of its answer, if that is what a conversation is."""
        if len(messages) != 2:
            return None
        question, answer = messages
        if question.role != "user" or answer.role != "assistant":
            return None
        return (
            question.parts if isinstance(question, Woven) else (question.content,),
            answer.parts if isinstance(answer, Woven) else (answer.content,),
        )

    def spells_control(self, *texts: str) -> bool:
        """Whether a text holds a control token; of several, whether the text that they make together does."""
        return self._control.spelt_by(*texts)

    def without_control(self, text: str, *, strip: bool) -> str:
        """See :meth:`ControlTokens.disarmed`."""
        return self._control.disarmed(text, strip=strip)

    def _encode_batch(self, texts: Sequence[str]) -> list[Any]:
        return self._tokenizer.encode_batch_fast(texts, add_special_tokens=self._template is None)
