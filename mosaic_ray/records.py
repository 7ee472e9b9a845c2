"""What flows through a job: records in, samples and rejects out, each with its lineage.

Everything here is frozen and knows nothing of files, tokenizers or methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple


class Source(NamedTuple):
    """Where a record came from.

    file: the name of the input file, relative to the ``--input`` it was found under (the manifest's inventory maps
        names to addresses).
    row: counted from 0. In JSONL the number of the line, blank lines counted; in a JSON array the index of the
        element; in Parquet the index of the row.
    """

    file: str
    row: int


class Message(NamedTuple):
    """One turn of a conversation. ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


class Woven(NamedTuple):
    """A turn given as the texts it is put together from: ``content`` is all of them, in this order."""

    role: str
    parts: Sequence[str]

    @property
    def content(self) -> str:
        return "".join(self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One usable input record, in normal form.

    messages: one ``user`` and one ``assistant`` message for a plain instruction record (its optional input follows
        the instruction after a newline); any longer conversation is *whole*: it is passed through as it is and never
        composed.
    tokens: exact token count of the record rendered alone, as the trainer would see it.
    trimmed: a system prompt or later turns were left out, by the policy ``first``.
    """

    source: Source
    messages: tuple[Message, ...]
    tokens: int = 0
    trimmed: bool = False

    def counted(self, tokens: int) -> Record:
        """The same record with its count."""
        return Record(source=self.source, messages=self.messages, tokens=tokens, trimmed=self.trimmed)

    @property
    def whole(self) -> bool:
        return len(self.messages) != 2

    @property
    def instruction(self) -> str:
        """The user's text of a plain record."""
        return self.messages[0].content

    @property
    def response(self) -> str:
        """The assistant's text of a plain record."""
        return self.messages[-1].content


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training sample.

    sources: the records it is made of, in the order of its tiles.
    strategy: the method's name for how it was composed (``format``, ``permute``, ..., ``pass`` for a record that was
        passed through whole).
    kind: the variant of the strategy, if it has variants.
    params: everything that was drawn, JSON-serialisable: with the sources enough to check the sample.
    token_count: exact, of the rendered conversation.
    """

    messages: tuple[Message, ...]
    sources: tuple[Source, ...]
    strategy: str
    kind: str | None
    params: Mapping[str, Any]
    token_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A record that cannot be used: its place, a reason from :data:`REASONS`, and what exactly was wrong.

    excerpt: the first characters of the record as it was read, empty where nothing could be read.
    """

    source: Source
    reason: str
    detail: str
    excerpt: str = ""


REASONS: Final[Mapping[str, str]] = {
    "not_json": "the line is not a JSON value",
    "not_utf8": "the line is not valid UTF-8",
    "not_an_object": "the JSON value is not an object",
    "too_complex": "the row is nested too deeply, or holds too many values, to be taken into memory",
    "missing_column": "a column that the file's shape needs is not there",
    "not_a_string": "a text column holds null or something that is not a string",
    "bad_messages": "the conversation is not a list of turns that a trainer could use",
    "lone_surrogate": "a text holds half of a surrogate pair, which no tokenizer can encode",
    "empty_instruction": "the instruction is empty or white space",
    "empty_response": "the response is empty or white space",
    "multi_turn": "a system prompt or several turns, and the policy is to reject those",
    "not_in_view": "a conversation passed through whole has no place in the chosen view",
    "special_token": "a text spells a special token, and the policy is to reject those",
    "overlong": "the record alone has more tokens than the budget",
}
"""Every reason a record can be rejected for, with what it means."""

EXCERPT_CHARACTERS: Final = 200
