"""Views of token ids: every row decodes to its samples, and what is trained is their answers."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_ray.config import View, ViewSpec
from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.errors import SettingsError, TaskError, TokenizerError
from mosaic_ray.io.writers import to_parquet
from mosaic_ray.packing import pack
from mosaic_ray.records import Message, Sample, Source
from mosaic_ray.tokens import TokenCounter, TokenizerSpec, load_tokenizer
from mosaic_ray.tokens.trained import IGNORED, TokenRows
from mosaic_ray.views import Derived, DerivedView, ViewSchema, derived_view

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda text: "<|" not in text)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=12)
SOURCE = ViewSchema("messages", chat=True)
LENGTH = 256


@cache
def tokenizer(template: str | None = None) -> TokenizerSpec:
    return load_tokenizer(str(tokenizer_path()), chat_template=template)


@cache
def counter() -> TokenCounter:
    return TokenCounter(tokenizer(), max_tokens=LENGTH)


def samples(*conversations: tuple[Message, ...], view: ViewSchema = SOURCE) -> pa.Table:
    made = [
        Sample(
            messages=messages,
            sources=(Source("a.jsonl", number),),
            strategy="format",
            kind=None,
            params={},
            token_count=counter().count_whole([messages])[0],
        )
        for number, messages in enumerate(conversations)
    ]
    return view.table(made, [f"e0-t00000-s{number:06d}" for number in range(len(made))], epoch=0)


def pair(question: str, answer: str) -> tuple[Message, ...]:
    return Message("user", question), Message("assistant", answer)


@cache
def maker(view: Any, length: int | None, source: ViewSchema) -> DerivedView:
    return derived_view(ViewSpec(view=view, sequence_length=length), source=source, tokenizer=tokenizer())


def made(view: Any, table: pa.Table, length: int | None = None, source: ViewSchema = SOURCE) -> Derived:
    return maker(view, length, source).make(table)


@given(PAIRS)
@settings(max_examples=40)
def test_a_tokenized_row_is_its_sample(pairs: list[tuple[str, str]]) -> None:
    conversations = [pair(*texts) for texts in pairs]
    found = made("tokenized", samples(*conversations))
    assert found.table.schema.names == ["input_ids", "attention_mask", "labels"]
    assert (found.samples, found.left_out.total()) == (len(pairs), 0)
    rows = TokenRows(tokenizer())
    for messages, row in zip(conversations, found.table.to_pylist(), strict=True):
        assert rows.decode(row["input_ids"]) == counter().render(messages)
        assert rows.decode([token for token in row["labels"] if token != IGNORED]) == messages[1].content + "<|eos|>"
        assert row["attention_mask"] == [1] * len(row["input_ids"])
        assert (row["input_ids"].count(0), row["input_ids"].count(1)) == (1, 1), "one BOS and one EOS"
        assert all(label in (IGNORED, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
    trained = sum(label != IGNORED for labels in found.table["labels"].to_pylist() for label in labels)
    assert (found.tokens, found.trained) == (sum(map(len, found.table["input_ids"].to_pylist())), trained)


@given(PAIRS, st.sampled_from([LENGTH, LENGTH + 1, 700, 4 * LENGTH]))
@settings(max_examples=40)
def test_a_packed_row_is_whole_samples_kept_apart(pairs: list[tuple[str, str]], length: int) -> None:
    table = samples(*(pair(*texts) for texts in pairs))
    single = made("tokenized", table).table.to_pylist()
    found = made("packed", table, length)
    assert found.table.schema.names == ["input_ids", "labels", "position_ids", "seq_lengths"]
    unpacked = []
    for row in found.table.to_pylist():
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) == sum(row["seq_lengths"])
        assert len(row["input_ids"]) <= length
        for start, end in pairwise(accumulate(row["seq_lengths"], initial=0)):
            assert row["position_ids"][start:end] == list(range(end - start))
            assert row["labels"][start] == IGNORED, "nothing of the sample before predicts it"
            unpacked.append((row["input_ids"][start:end], row["labels"][start:end]))
    bins = pack([len(row["input_ids"]) for row in single], length)
    assert unpacked == [(single[i]["input_ids"], single[i]["labels"]) for members in bins for i in members]
    assert sorted(i for members in bins for i in members) == list(range(len(pairs)))
    assert (found.samples, found.tokens) == (len(pairs), sum(len(ids) for ids, _ in unpacked))


@pytest.mark.parametrize("source", ["messages", "sharegpt", "prompt-completion", "alpaca"])
@pytest.mark.parametrize("target", ["messages", "sharegpt", "prompt-completion", "alpaca"])
def test_one_text_view_of_another(source: View, target: View) -> None:
    conversations = [pair("Say a\nand b.", "a\nb"), pair("é", "ü")]
    theirs, ours = ViewSchema(source, chat=True), ViewSchema(target, chat=True)
    found = made(target, samples(*conversations, view=theirs), source=theirs)
    assert found.table.equals(samples(*conversations, view=ours))
    assert to_parquet(found.table).data == to_parquet(samples(*conversations, view=ours)).data


def test_a_conversation_without_a_place_is_left_out_and_counted() -> None:
    turns = (Message("system", "s"), *pair("q", "a"))
    found = made("alpaca", samples(pair("q", "a"), turns))
    assert (found.table["instruction"].to_pylist(), found.samples) == (["q"], 1)
    assert found.left_out == {"not_in_view": 1}
    assert made("tokenized", samples(turns)).samples == 1


def test_a_sample_without_a_trained_token_is_left_out_and_counted() -> None:
    silent = (Message("system", "s"), Message("user", "q"))
    found = made("tokenized", samples(silent, pair("q", "a")))
    assert (len(found.table), found.samples, found.left_out) == (1, 1, {"no_trained_token": 1})
    assert len(made("packed", samples(silent), LENGTH).table) == 0


def test_another_tokenizer_is_noticed() -> None:
    table = samples(pair("a question", "an answer"))
    changed = table.set_column(table.schema.names.index("token_count"), "token_count", pa.array([7], pa.int32()))
    with pytest.raises(TaskError, match=r"e0-t00000-s000000: \d+ tokens, where the data set states 7"):
        made("tokenized", changed)


def test_texts_that_stand_too_close_to_tell_their_tokens_apart() -> None:
    glued = replace(tokenizer(), chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    counts = TokenCounter(glued, max_tokens=LENGTH).count_whole([pair("a", "b") + pair("c", "d")])
    table = samples(pair("a", "b") + pair("c", "d"))
    table = table.set_column(table.schema.names.index("token_count"), "token_count", pa.array(counts, pa.int32()))
    view = derived_view(ViewSpec(view="tokenized"), source=SOURCE, tokenizer=glued)
    assert view.ends_turn is None
    with pytest.raises(TokenizerError, match=r"e0-t00000-s000000: .* answers?.* give another --chat-template"):
        view.make(table)


def test_a_sample_longer_than_a_sequence() -> None:
    with pytest.raises(SettingsError, match=r"has \d+ tokens, and a sequence holds 8"):
        made("packed", samples(pair("a question", "an answer")), 8)


def test_the_digest_of_a_part_is_of_its_ids() -> None:
    table = made("tokenized", samples(pair("q", "a"))).table
    ids = np.array(table["input_ids"].to_pylist()[0], dtype=np.int32)
    changed = table.set_column(
        0, table.schema.field(0), pa.array([[*ids[:-1].tolist(), 9]], table.schema.field(0).type)
    )
    assert to_parquet(table).content_digest == to_parquet(table).content_digest != to_parquet(changed).content_digest
