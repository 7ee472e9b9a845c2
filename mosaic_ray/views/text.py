"""Conversations as columns of text, and the lineage beside them.

A view decides the columns that hold the text; lineage is the same in every view. With a chat template the
``prompt-completion`` view is conversational (lists of messages), without one it is plain text, because those are the
forms that TRL renders with the template and without it: the text it sees is the text that was counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Final

import orjson
import pyarrow as pa

from mosaic_ray.config import View
from mosaic_ray.errors import VerificationError
from mosaic_ray.records import Message, Sample

_MESSAGES = pa.list_(
    pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("content", pa.string(), nullable=False)])
)
_SOURCE = pa.struct([pa.field("file", pa.string(), nullable=False), pa.field("row", pa.int64(), nullable=False)])
_TURNS = pa.list_(
    pa.struct([pa.field("from", pa.string(), nullable=False), pa.field("value", pa.string(), nullable=False)])
)
_TEXT = pa.string()
_SPEAKERS: Final[Mapping[str, str]] = {"system": "system", "user": "human", "assistant": "gpt"}
"""Roles as ShareGPT names them."""

_ROLES: Final[Mapping[str, str]] = {speaker: role for role, speaker in _SPEAKERS.items()}

LINEAGE: Final = (
    pa.field("mosaic_id", pa.string(), nullable=False),
    pa.field("epoch", pa.int32(), nullable=False),
    pa.field("tiles", pa.int32(), nullable=False),
    pa.field("strategy", pa.string(), nullable=False),
    pa.field("kind", pa.string()),
    pa.field("params", pa.string(), nullable=False),
    pa.field("token_count", pa.int32(), nullable=False),
    pa.field(
        "sources",
        pa.list_(_SOURCE),
        nullable=False,
    ),
)
"""Beside every view: ``params`` is canonical JSON; ``sources`` names the records in the order of the tiles."""

REJECT_SCHEMA: Final = pa.schema(
    [pa.field(name, pa.int64() if name == "row" else pa.string(), nullable=False)
     for name in ("file", "row", "reason", "detail", "excerpt")]
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ViewSchema:
    """One view of one run.

    chat: whether a chat template renders the conversation.
    """

    view: View
    chat: bool

    @property
    def schema(self) -> pa.Schema:
        if self.view == "messages":
            columns = {"messages": _MESSAGES}
        elif self.view == "sharegpt":
            columns = {"conversations": _TURNS}
        elif self.view == "prompt-completion":
            kind = _MESSAGES if self.chat else _TEXT
            columns = {"prompt": kind, "completion": kind}
        else:
            columns = {"instruction": _TEXT, "input": _TEXT, "output": _TEXT}
        return pa.schema([*(pa.field(name, kind, nullable=False) for name, kind in columns.items()), *LINEAGE])

    def holds(self, messages: Sequence[Message]) -> bool:
        """Whether a conversation has a place in this view: longer ones only where messages are lists."""
        lists = self.view in ("messages", "sharegpt") or (self.view == "prompt-completion" and self.chat)
        return lists or len(messages) == 2

    def columns(self, messages: Sequence[Message]) -> dict[str, Any]:
        """The text columns of a sample. In plain text the prompt ends with the newline that is counted after it."""
        if self.view == "messages":
            return {"messages": _dicts(messages)}
        if self.view == "sharegpt":
            return {"conversations": [{"from": _SPEAKERS[role], "value": content} for role, content in messages]}
        if self.view == "prompt-completion" and self.chat:
            return {"prompt": _dicts(messages[:-1]), "completion": _dicts(messages[-1:])}
        if self.view == "prompt-completion":
            return {"prompt": messages[0].content + "\n", "completion": messages[1].content}
        return {"instruction": messages[0].content, "input": "", "output": messages[1].content}

    def messages(self, row: dict[str, Any]) -> tuple[Message, ...]:
        """The conversation of a row: the inverse of :meth:`columns`."""
        if self.view == "messages":
            return _messages(row["messages"])
        if self.view == "sharegpt":
            return tuple(Message(_ROLES.get(turn["from"], ""), turn["value"]) for turn in row["conversations"])
        if self.view == "prompt-completion" and self.chat:
            return _messages(row["prompt"]) + _messages(row["completion"])
        if self.view == "prompt-completion":
            if not row["prompt"].endswith("\n"):
                raise VerificationError(f"{row['mosaic_id']}: the prompt does not end with a newline")
            return Message("user", row["prompt"][:-1]), Message("assistant", row["completion"])
        return Message("user", row["instruction"]), Message("assistant", row["output"])

    def table(self, samples: Sequence[Sample], mosaic_ids: Sequence[str], *, epoch: int) -> pa.Table:
        """Samples as rows, made column by column."""
        sources = [sample.sources for sample in samples]
        lineage = (
            mosaic_ids,
            [epoch] * len(samples),
            list(map(len, sources)),
            [sample.strategy for sample in samples],
            [sample.kind for sample in samples],
            [orjson.dumps(sample.params, option=orjson.OPT_SORT_KEYS).decode() for sample in samples],
            [sample.token_count for sample in samples],
        )
        arrays = [pa.array(values, field.type) for values, field in zip(lineage, LINEAGE, strict=False)]
        texts = self.arrays([sample.messages for sample in samples])
        return pa.Table.from_arrays([*texts, *arrays, _lists(sources, LINEAGE[-1].type)], schema=self.schema)

    def conversations(self, table: pa.Table) -> list[tuple[Message, ...]]:
        """The conversations of a table of this view, in its order."""
        names = [*self.schema.names[: -len(LINEAGE)], "mosaic_id"]
        return [self.messages(row) for row in table.select(names).to_pylist()]

    def arrays(self, conversations: Sequence[tuple[Message, ...]]) -> list[pa.Array]:
        """The text columns: those of :meth:`columns`, for many conversations."""
        if self.view == "messages":
            return [_lists(conversations, _MESSAGES)]
        if self.view == "sharegpt":
            turns = [[(_SPEAKERS[role], content) for role, content in messages] for messages in conversations]
            return [_lists(turns, _TURNS)]
        if self.view == "prompt-completion" and self.chat:
            return [
                _lists([messages[:-1] for messages in conversations], _MESSAGES),
                _lists([messages[-1:] for messages in conversations], _MESSAGES),
            ]
        columns = [self.columns(messages) for messages in conversations]
        return [pa.array([row[name] for row in columns], _TEXT) for name in self.schema.names[: -len(LINEAGE)]]


def _lists(rows: Sequence[Sequence[tuple[Any, ...]]], kind: pa.ListType) -> pa.ListArray:
    """Lists of tuples as lists of structs."""
    item = kind.value_type
    fields = [item.field(i) for i in range(item.num_fields)]
    flat = list(chain.from_iterable(rows))
    children = [pa.array([values[i] for values in flat], field.type) for i, field in enumerate(fields)]
    offsets = pa.array(list(accumulate(map(len, rows), initial=0)), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(children, fields=fields), type=kind)


def _dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _messages(value: Sequence[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(item["role"], item["content"]) for item in value)
