"""The columns of each view: what is written reads back as the conversation it was, and its lineage stands beside it."""

from __future__ import annotations

import json
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.config import View
from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.errors import VerificationError
from mosaic_ray.io.writers import to_parquet
from mosaic_ray.records import REASONS, Message, Sample, Source
from mosaic_ray.tokens import TokenCounter, load_tokenizer
from mosaic_ray.views import LINEAGE, REJECT_SCHEMA, ViewSchema

VIEWS = [ViewSchema(view, chat) for view in get_args(View) for chat in (True, False)]
PAIR = (Message("user", "Say a\nand b."), Message("assistant", "a\nb"))
ASKED = {"role": "user", "content": "Say a\nand b."}
ANSWERED = {"role": "assistant", "content": "a\nb"}
LONG = (Message("system", "s"), *PAIR, Message("user", "again"), Message("assistant", "c"))

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def sample(messages: tuple[Message, ...] = PAIR, **changes: Any) -> Sample:
    sources = (Source("b.jsonl", 7), Source("a.jsonl", 0))
    given_: dict[str, Any] = {"strategy": "permute", "kind": "reversed", "params": {"order": [2, 1], "a": "é"}}
    return Sample(messages=messages, sources=sources, token_count=12, **{**given_, **changes})


def read_back(view: ViewSchema, made: Sample, mosaic_id: str = "m", epoch: int = 0) -> dict[str, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(pa.BufferReader(to_parquet(view.table([made], [mosaic_id], epoch=epoch)).data))
    assert table.schema.equals(view.schema)
    (read,) = table.to_pylist()
    return dict(read)


@pytest.mark.parametrize(
    ("view", "chat", "columns"),
    [
        ("messages", True, {"messages": [ASKED, ANSWERED]}),
        ("messages", False, {"messages": [ASKED, ANSWERED]}),
        ("prompt-completion", True, {"prompt": [ASKED], "completion": [ANSWERED]}),
        ("prompt-completion", False, {"prompt": "Say a\nand b.\n", "completion": "a\nb"}),
        (
            "sharegpt",
            True,
            {"conversations": [{"from": "human", "value": "Say a\nand b."}, {"from": "gpt", "value": "a\nb"}]},
        ),
        ("alpaca", True, {"instruction": "Say a\nand b.", "input": "", "output": "a\nb"}),
        ("alpaca", False, {"instruction": "Say a\nand b.", "input": "", "output": "a\nb"}),
    ],
)
def test_columns_by_hand(view: Any, chat: bool, columns: dict[str, Any]) -> None:
    made = ViewSchema(view, chat)
    assert made.columns(PAIR) == columns
    assert made.schema.names == [*columns, *(field.name for field in LINEAGE)]


@given(TEXT, TEXT)
@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_pair_reads_back(view: ViewSchema, instruction: str, response: str) -> None:
    messages = (Message("user", instruction), Message("assistant", response))
    assert view.holds(messages)
    row = read_back(view, sample(messages))
    assert view.messages(row) == messages


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_a_longer_conversation_reads_back_where_it_has_a_place(view: ViewSchema) -> None:
    assert view.holds(LONG) is (
        view.view in ("messages", "sharegpt") or (view.view == "prompt-completion" and view.chat)
    )
    if view.holds(LONG):
        assert view.messages(read_back(view, sample(LONG))) == LONG


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_lineage(view: ViewSchema) -> None:
    row = read_back(view, sample(), "e1-t00002-s000003", 1)
    assert {field.name: row[field.name] for field in LINEAGE} == {
        "mosaic_id": "e1-t00002-s000003",
        "epoch": 1,
        "tiles": 2,
        "strategy": "permute",
        "kind": "reversed",
        "params": '{"a":"é","order":[2,1]}',
        "token_count": 12,
        "sources": [{"file": "b.jsonl", "row": 7}, {"file": "a.jsonl", "row": 0}],
    }
    assert json.loads(row["params"]) == sample().params
    assert read_back(view, sample(kind=None))["kind"] is None


def test_plain_text_is_the_text_that_was_counted() -> None:
    """TRL joins prompt and completion as they are and puts the end-of-sequence token behind."""
    counter = TokenCounter(load_tokenizer(str(tokenizer_path()), chat_template="none"), max_tokens=0)
    columns = ViewSchema("prompt-completion", chat=False).columns(PAIR)
    assert columns["prompt"] + columns["completion"] + "<|eos|>" == counter.render(PAIR)


def test_a_prompt_that_lost_its_newline_is_noticed() -> None:
    view = ViewSchema("prompt-completion", chat=False)
    with pytest.raises(VerificationError, match="e0-t0: the prompt does not end with a newline"):
        view.messages({"prompt": "a", "completion": "b", "mosaic_id": "e0-t0"})


def test_no_column_but_kind_may_be_null() -> None:
    for view in VIEWS:
        assert [field.name for field in view.schema if field.nullable] == ["kind"]
    assert not any(field.nullable for field in REJECT_SCHEMA)
    assert REJECT_SCHEMA.names == ["file", "row", "reason", "detail", "excerpt"]
    assert all(meaning for meaning in REASONS.values())
