"""The columns a trainer reads, and the lineage beside them.

A view decides the columns that hold the text; lineage is the same in every view. With a chat template the
``prompt-completion`` view is conversational (lists of messages), without one it is plain text, because those are the
forms that TRL renders with the template and without it: the text it sees is the text that was counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
_TEXT = pa.string()

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
        elif self.view == "prompt-completion":
            kind = _MESSAGES if self.chat else _TEXT
            columns = {"prompt": kind, "completion": kind}
        else:
            columns = {"instruction": _TEXT, "input": _TEXT, "output": _TEXT}
        return pa.schema([*(pa.field(name, kind, nullable=False) for name, kind in columns.items()), *LINEAGE])

    def holds(self, messages: Sequence[Message]) -> bool:
        """Whether a conversation has a place in this view: longer ones only where messages are lists."""
        return len(messages) == 2 or self.view == "messages" or (self.view == "prompt-completion" and self.chat)

    def columns(self, messages: Sequence[Message]) -> dict[str, Any]:
        """The text columns of a sample. In plain text the prompt ends with the newline that is counted after it."""
        if self.view == "messages":
            return {"messages": _dicts(messages)}
        if self.view == "prompt-completion" and self.chat:
            return {"prompt": _dicts(messages[:-1]), "completion": _dicts(messages[-1:])}
        if self.view == "prompt-completion":
            return {"prompt": messages[0].content + "\n", "completion": messages[1].content}
        return {"instruction": messages[0].content, "input": "", "output": messages[1].content}

    def messages(self, row: dict[str, Any]) -> tuple[Message, ...]:
        """The conversation of a row: the inverse of :meth:`columns`."""
        if self.view == "messages":
            return _messages(row["messages"])
        if self.view == "prompt-completion" and self.chat:
            return _messages(row["prompt"]) + _messages(row["completion"])
        if self.view == "prompt-completion":
            if not row["prompt"].endswith("\n"):
                raise VerificationError(f"{row['mosaic_id']}: the prompt does not end with a newline")
            return Message("user", row["prompt"][:-1]), Message("assistant", row["completion"])
        return Message("user", row["instruction"]), Message("assistant", row["output"])

    def row(self, sample: Sample, *, mosaic_id: str, epoch: int) -> dict[str, Any]:
        return {
            **self.columns(sample.messages),
            "mosaic_id": mosaic_id,
            "epoch": epoch,
            "tiles": len(sample.sources),
            "strategy": sample.strategy,
            "kind": sample.kind,
            "params": orjson.dumps(sample.params, option=orjson.OPT_SORT_KEYS).decode(),
            "token_count": sample.token_count,
            "sources": [{"file": source.file, "row": source.row} for source in sample.sources],
        }


def _dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


def _messages(value: Sequence[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(item["role"], item["content"]) for item in value)
