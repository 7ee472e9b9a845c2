"""Which tokens are trained: held against ids that templates put around the answers, and against what they decode to."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.errors import TokenizerError
from mosaic_ray.records import Message
from mosaic_ray.tokens import TokenCounter, TokenizerSpec, load_tokenizer
from mosaic_ray.tokens.trained import IGNORED, TokenRow, TokenRows

few = settings(settings.get_profile("tokens"), max_examples=max(12, settings.get_profile("tokens").max_examples // 3))
DATA = st.data()
FENCED = "{% for m in messages %}{{ bos_token + m.content + eos_token }}{% endfor %}"
"""Two tokens fence every text in, so that the ids alone tell where it stands."""


def pair(question: str, answer: str) -> tuple[Message, Message]:
    return Message("user", question), Message("assistant", answer)


def shipped(template: str | None = None) -> TokenizerSpec:
    return load_tokenizer(str(tokenizer_path()), chat_template=template)


@cache
def rows_of(family: Any, template: str) -> TokenRows:
    return TokenRows(family.spec(template))


def made(spec: TokenizerSpec, *messages: Message) -> TokenRow:
    (row,) = TokenRows(spec).make([messages])
    return row


def trained_text(spec: TokenizerSpec, row: TokenRow) -> str:
    return TokenRows(spec).decode([token for token in row.labels.tolist() if token != IGNORED])


class TestByHand:
    def test_a_question_and_its_answer(self) -> None:
        spec = shipped()
        row = made(spec, *pair("Sort: 3 1 2", "1 2 3"))
        rows = TokenRows(spec)
        assert rows.decode(row.input_ids) == "<|bos|><|user|>\nSort: 3 1 2<|end|>\n<|assistant|>\n1 2 3<|eos|>\n"
        assert trained_text(spec, row) == "1 2 3<|eos|>"
        assert row.labels.tolist() == [IGNORED] * (len(row.labels) - 7) + [*row.input_ids.tolist()[-7:-1], IGNORED]
        assert (row.trained, row.counted) == (6, len(row.input_ids))

    def test_every_turn_of_the_assistant_and_nothing_else(self) -> None:
        turns = (Message("system", "Be brief."), *pair("One?", "1"), *pair("Two?", "2\n\n  and more"))
        assert trained_text(shipped(), made(shipped(), *turns)) == "1<|eos|>2\n\n  and more<|eos|>"

    def test_plain_text_ends_with_one_end_of_sequence(self) -> None:
        row = made(shipped("none"), *pair("One?", "1"))
        assert TokenRows(shipped("none")).decode(row.input_ids) == "One?\n1<|eos|>"
        assert trained_text(shipped("none"), row) == "1<|eos|>"

    def test_an_end_that_the_tokenizer_adds_too_is_taken_once(self) -> None:
        adding = Tokenizer.from_str(shipped().definition)
        adding.post_processor = processors.TemplateProcessing(
            single="<|bos|> $A <|eos|>", special_tokens=[("<|bos|>", 0), ("<|eos|>", 1)]
        )
        spec = replace(shipped("none"), definition=adding.to_str())
        row = made(spec, *pair("One?", "1"))
        assert TokenRows(spec).decode(row.input_ids) == "<|bos|>One?\n1<|eos|>"
        assert trained_text(spec, row) == "1<|eos|>"
        assert row.counted == len(row.input_ids) + 1 == TokenCounter(spec, max_tokens=0).count(pair("One?", "1"))

    def test_a_template_without_an_end_of_turn_is_told(self) -> None:
        spec = TokenizerSpec(
            name="t",
            definition=shipped().definition,
            special_tokens={},
            chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        )
        assert TokenRows(spec).ends_turn is None
        assert trained_text(spec, made(spec, *pair("q", "the answer"))).strip() == "the answer"
        assert TokenRows(shipped()).ends_turn == "<|eos|>"

    def test_white_space_that_a_template_leaves_out(self) -> None:
        spec = TokenizerSpec(
            name="t",
            definition=shipped().definition,
            special_tokens={"eos_token": "<|eos|>"},
            chat_template="{% for m in messages %}[{{ m.role }}]  {{ m.content | trim }}<|eos|>{% endfor %}",
        )
        answer = trained_text(spec, made(spec, *pair(" q ", "\n\tan answer\n")))
        assert answer == " an answer<|eos|>", "a token that reaches across the edge of an answer is trained"


LONG = (*pair("One?", "1"), *pair("Two?", "2"))


def templated(template: str) -> TokenizerSpec:
    tokens = {"eos_token": "<|eos|>", "bos_token": "<|bos|>"}
    return TokenizerSpec(name="t", definition=shipped().definition, special_tokens=tokens, chat_template=template)


class TestEndOfTurn:
    def test_another_one_in_mid_conversation(self) -> None:
        """As with Llama 3's <|eot_id|> and <|end_of_text|>."""
        spec = templated(
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
            "{% if loop.last %}<|eos|>{% else %}<|end|>{% endif %}{% endfor %}"
        )
        row = made(spec, *LONG)
        assert trained_text(spec, row) == "1<|end|>2<|eos|>"
        assert TokenRows(spec).misplaced(LONG, row) is None

    def test_a_token_that_conversations_open_with_ends_no_turn(self) -> None:
        spec = templated(
            "{% for m in messages %}{% if m.role == 'user' %}<|user|>{% else %}<|assistant|>{% endif %}"
            "{{ m.content }}{% endfor %}<|eos|>"
        )
        row = made(spec, *LONG)
        assert trained_text(spec, row) == "12<|eos|>"
        assert TokenRows(spec).misplaced(LONG, row) is None

    def test_text_before_it_is_trained_too(self) -> None:
        spec = templated("{% for m in messages %}<|{{ m.role }}|>{{ m.content }} [end]<|eos|>\n{% endfor %}")
        row = made(spec, *LONG)
        assert trained_text(spec, row) == "1 [end]<|eos|>2 [end]<|eos|>"
        assert TokenRows(spec).misplaced(LONG, row) is None
        assert trained_text(spec, made(spec, *pair("q", "a"))) == "a [end]<|eos|>"

    def test_one_that_is_left_out_is_noticed(self) -> None:
        row = made(shipped(), *pair("q", "a"))
        labels = np.where(row.labels == 1, IGNORED, row.labels)
        problem = TokenRows(shipped()).misplaced(pair("q", "a"), row._replace(labels=labels))
        assert problem == "'<|eos|>', which ends the last turn, is not trained"


class TestRefused:
    def test_a_template_that_cuts_a_text(self) -> None:
        template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}<|eos|>{% endfor %}"
        spec = TokenizerSpec(name="cutter", definition=shipped().definition, special_tokens={}, chat_template=template)
        assert trained_text(spec, made(spec, *pair("q", "plain"))) == "plain<|eos|>"
        with pytest.raises(TokenizerError, match=r"chat template of 'cutter' changes what it shows.*--chat-template"):
            made(spec, *pair("q", "<think>x</think>y"))

    def test_a_template_that_shows_a_text_twice(self) -> None:
        template = "{{ messages[0].content }}{% for m in messages %}{{ m.content }}<|eos|>{% endfor %}"
        spec = TokenizerSpec(name="twice", definition=shipped().definition, special_tokens={}, chat_template=template)
        with pytest.raises(TokenizerError, match="does not show the text of the user exactly once"):
            TokenRows(spec)


class TestChecked:
    def test_rows_that_are_wrong_by_pieces_are_made_whole(self, caplog: pytest.LogCaptureFixture) -> None:
        rows = TokenRows(shipped())
        conversations = [pair(f"question {n}", f"answer {n}") for n in range(70)]
        right = rows.make_whole(conversations)
        honest, shifted = rows.make(conversations), rows._by_pieces
        assert shifted is not None
        shifted.pieces._ids["answer"] = [7, 7]
        assert [row.input_ids.tolist() for row in honest] == [row.input_ids.tolist() for row in right]
        assert not caplog.records
        assert [row.input_ids.tolist() for row in rows.make(conversations)] == [r.input_ids.tolist() for r in right]
        assert "ids by pieces are not those of the whole text" in caplog.text


class TestEveryFamily:
    def test_by_pieces_where_that_is_proven(self, family: Any) -> None:
        """Only where a normalizer puts something before each stretch of text are all rows made of whole texts."""
        (row,) = rows_of(family, "marked")._rows_by_pieces([pair("A question?", "An answer, 42.\n\n  And more")])
        assert (row is None) == bool(family.counter("marked")._by_pieces.pieces.prefix)

    @given(data=DATA)
    @few
    def test_by_pieces_and_whole_are_the_same(self, family: Any, texts: Any, data: Any) -> None:
        template = data.draw(st.sampled_from([*(name for name in family.templates if "tested" not in name), FENCED]))
        rows = rows_of(family, template)
        several = st.lists(st.tuples(texts, texts).map(lambda t: pair(*t)), max_size=6)
        conversations = [*data.draw(several), (*pair("one", "1"), *pair("two", "2"))][: 2 if template == "tight" else 7]
        if template == "tight":
            conversations = [messages for messages in conversations if len(messages) == 2]
        for row, whole in zip(rows.make(conversations), rows.make_whole(conversations), strict=True):
            assert row.input_ids.tolist() == whole.input_ids.tolist()
            assert row.labels.tolist() == whole.labels.tolist()
            assert row.counted == whole.counted

    @pytest.mark.parametrize("template", ["none", "marked", "tight"])
    def test_every_joint(self, family: Any, template: str) -> None:
        ends = ["word", " ", "\n", "é", "e\u0301", "👍\u200d", "'", "12", "中", "▁", "\r", "\t ", ".", family.added[-1]]
        starts = ["word", " ", "\n", "\u0301", "\ufe0f", "s", "34", "文", "▁", "\n\n", ",", family.added[0][-1]]
        batch = [pair(f"a{end}{start}b", f"{start}x{end}") for end in ends for start in starts]
        rows = rows_of(family, template)
        for messages, row, whole in zip(batch, rows._rows_by_pieces(batch), rows.make_whole(batch), strict=True):
            assert row is None or row.input_ids.tolist() == whole.input_ids.tolist(), messages
            assert row is None or row.labels.tolist() == whole.labels.tolist(), messages

    @given(data=DATA)
    @few
    def test_ids_are_those_that_are_counted(self, family: Any, texts: Any, data: Any) -> None:
        template = data.draw(st.sampled_from([name for name in family.templates if not name.startswith("tested")]))
        counter, rows = family.counter(template), rows_of(family, template)
        conversations = data.draw(st.lists(st.tuples(texts, texts).map(lambda t: pair(*t)), max_size=3))
        for messages, row in zip(conversations, rows.make(conversations), strict=True):
            whole = counter.encode(messages)
            assert row.counted == len(whole)
            assert row.input_ids.tolist() == whole[: len(row.input_ids)]
            assert len(row.labels) == len(row.input_ids)
            shown = row.labels != IGNORED
            assert (row.labels[shown] == row.input_ids[shown]).all()
            assert not shown[:1].any()

    @given(data=DATA)
    @few
    def test_trained_is_what_the_fence_holds(self, family: Any, texts: Any, data: Any) -> None:
        counter = family.counter(FENCED)
        text = texts.filter(lambda found: bool(found.strip()) and not counter.spells_control(found))
        messages = pair(data.draw(text), data.draw(text))
        (row,) = rows_of(family, FENCED).make([messages])
        ids = row.input_ids.tolist()
        start, end = (family.tokenizer.token_to_id(family.special_tokens[name]) for name in ("bos_token", "eos_token"))
        if (ids.count(start), ids.count(end)) != (2, 2):
            return  # a normalizer made another one of the text
        begins = len(ids) - 1 - ids[::-1].index(start)
        inside = np.arange(len(ids)) > begins
        held = (row.labels != IGNORED)[inside]
        spaces = [not family.tokenizer.decode([token]).strip() for token in ids[begins + 1 :]]
        # White space that the tokenizer itself puts after the fence has no character in the text.
        assert all(trained or space for trained, space in zip(held, spaces, strict=True))
        assert not (row.labels != IGNORED)[~inside].any()

    def test_labels_that_are_one_off_are_noticed(self, family: Any) -> None:
        rows = rows_of(family, "marked")
        messages = pair("a question with words", "the answer has some more words")
        (row,) = rows.make([messages])
        assert rows.misplaced(messages, row) is None
        places = np.flatnonzero(row.labels != IGNORED)
        for wrong in (places - 1, places + 1, places[1:-1]):
            labels = np.full_like(row.labels, IGNORED)
            labels[wrong[wrong < len(labels)]] = row.input_ids[wrong[wrong < len(labels)]]
            assert rows.misplaced(messages, row._replace(labels=labels)) is not None
