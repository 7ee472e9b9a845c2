"""Conversations counted by their frame and their pieces, held against rendering and encoding the whole."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mosaic_ray.records import Message, Woven
from mosaic_ray.tokens import TokenCounter, TokenizerSpec
from mosaic_ray.tokens.counter import CHECK_EVERY, MiscountError

tokens = settings.get_profile("tokens")
DATA = st.data()


def woven(question: Any, answer: Any) -> tuple[Woven, Woven]:
    return Woven("user", question), Woven("assistant", answer)


class TestFastPath:
    def test_is_taken_for_every_family(self, family: Any) -> None:
        for template in family.templates:
            counter = family.counter(template)
            assert counter.whole_because is None
            assert counter._by_pieces is not None
            messages = (Message("user", "A question?"), Message("assistant", "An answer, 42."))
            assert counter._count_by_pieces(messages) == counter.count_whole([messages])[0]


class TestCounts:
    @given(data=DATA)
    @tokens
    def test_equal_those_of_the_whole(self, family: Any, parts: Any, data: Any) -> None:
        messages = woven(data.draw(parts), data.draw(parts))
        for template in family.templates:
            counter = family.counter(template)
            count = counter._count_by_pieces(messages)
            whole = counter.count_whole([messages])[0]
            assert count in (None, whole), template
            assert counter.count(messages) == whole

    @given(data=DATA)
    @tokens
    def test_of_a_batch(self, family: Any, parts: Any, data: Any) -> None:
        drawn = data.draw(st.lists(st.tuples(parts, parts), max_size=5))
        batch = [(Message("user", "".join(q)), Message("assistant", "".join(a))) for q, a in drawn]
        counter = family.counter(data.draw(st.sampled_from(list(family.templates))))
        assert counter.count_batch(batch) == counter.count_whole(batch)

    @pytest.mark.parametrize("template", ["none", "marked", "marked and trimmed", "one side trimmed", "tight"])
    @pytest.mark.parametrize("special", [False, True])
    def test_of_every_joint(self, family: Any, template: str, special: bool) -> None:
        counter = family.counter(template)
        ends = ["word", " ", "\n", "é", "e\u0301", "👍\u200d", "'", "12", "中", "▁", "\r", "\t ", ".", ""]
        ends += [family.added[-1], family.added[0][:-1]] if special else []
        starts = ["word", " ", "\n", "\u0301", "\ufe0f", "s", "34", "文", "▁", "\n\n", ",", ""]
        starts += [family.added[-1], family.added[0][-1]] if special else []
        batch = [woven(("a", end, start, "b"), (start, "x", end)) for end in ends for start in starts]
        for messages, whole in zip(batch, counter.count_whole(batch), strict=True):
            assert counter._count_by_pieces(messages) in (None, whole), messages
            assert counter.count(messages) == whole

    def test_empty_and_white_texts_are_left_to_rendering(self, family: Any) -> None:
        for template in family.templates:
            counter = family.counter(template)
            for question in ((), ("",), (" ",), (" \n", "\t"), ("a",)):
                for answer in ((), ("", ""), ("\n",), ("b",)):
                    messages = woven(question, answer)
                    assert counter.count(messages) == counter.count_whole([messages])[0]

    def test_conversations_of_other_shapes(self, family: Any) -> None:
        for template in family.templates:
            counter = family.counter(template)
            if template == "its own":
                continue  # many refuse what follows
            for roles in (("user",), ("system", "user"), ("user", "assistant", "user"), ("user", "assistant") * 2):
                if template == "tight" and len(roles) < 2:
                    continue
                messages = [Message(role, f"Text {n}.") for n, role in enumerate(roles)]
                assert counter.count(messages) == counter.count_whole([messages])[0]

    def test_of_added_tokens_in_a_batch_where_a_prefix_follows_them(self, make: Any) -> None:
        family = make("llama2")
        for template in family.templates:
            counter = family.counter(template)
            batch = [(Message("user", text), Message("assistant", "x")) for text in ("a", "b</s>c", "<s>", "d")]
            assert counter.count_batch(batch) == counter.count_whole(batch)


def counter_with(make: Any, name: str, change: Any, template: str | None, **special: str) -> TokenCounter:
    definition = json.loads(make(name).definition)
    change(definition)
    text = Tokenizer.from_str(json.dumps(definition)).to_str()
    spec = TokenizerSpec(name="x", definition=text, special_tokens=special, chat_template=template)
    return TokenCounter(spec, max_tokens=0)


def added(definition: dict[str, Any], content: str, *, normalized: bool) -> None:
    number = 1 + max([*definition["model"]["vocab"].values(), *(token["id"] for token in definition["added_tokens"])])
    definition["added_tokens"].append(
        {**definition["added_tokens"][0], "id": number, "content": content, "normalized": normalized}
    )


SHOW = "{% for m in messages %}<x>{{ m.content }}{% endfor %}"
AROUND = [
    ("=\u0338", "\u0338b"),
    ("b", "b>"),
    ("a<", "a"),
    ("\u0338", "\u0338"),
    (" a ", " b "),
    ("<x>", "<x"),
    ("|", "▁"),
]


class TestFramesWithTokens:
    @pytest.mark.parametrize("name", ["llama3", "qwen2", "deepseek3", "gemma3", "llama2", "minilm"])
    @pytest.mark.parametrize("others", [(), ("x>b",), (">b",), ("a<x",), ("<x>\u0338",), ("x",), ("b<", "x>a")])
    @pytest.mark.parametrize("normalized", [(False, False), (False, True), (True, False), (True, True)])
    def test_that_may_not_be_found(
        self, name: str, others: tuple[str, ...], normalized: tuple[bool, bool], make: Any
    ) -> None:
        def change(definition: dict[str, Any]) -> None:
            added(definition, "<x>", normalized=normalized[0])
            for other in others:
                added(definition, other, normalized=normalized[1])

        counter = counter_with(make, name, change, SHOW)
        for question, answer in AROUND:
            messages = woven((question,), (answer,))
            whole = counter.count_whole([messages])[0]
            assert counter._count_by_pieces(messages) in (None, whole), (question, answer)

    def test_an_unknown_word_is_no_token_of_the_template(self, make: Any) -> None:
        template = "{% for m in messages %}\u2603{{ m.content }}\u2603{% endfor %}"
        counter = counter_with(make, "minilm", lambda _: None, template)
        assert counter.whole_because is None
        for question, answer in (("abc", "de"), (" a", "b "), ("\u2604", ",")):
            messages = woven((question,), (answer,))
            assert counter._count_by_pieces(messages) == counter.count_whole([messages])[0]

    def test_a_token_that_others_reach_into_is_no_place_to_begin_again(self, make: Any) -> None:
        def change(definition: dict[str, Any]) -> None:
            added(definition, "<x>", normalized=False)
            added(definition, "<x>>", normalized=False)

        assert counter_with(make, "llama3", change, SHOW).whole_because is None, "it is counted as text"
        counter = counter_with(make, "llama2", change, SHOW)
        assert counter.whole_because == "its chat template writes '<x>', which what stands around it can change"


@cache
def tampered(make: Any, name: str) -> TokenCounter:
    """A counter that believes it may cut anywhere."""
    counter = TokenCounter(make(name).spec("marked"), max_tokens=0)
    cuts = counter._proven.pieces._cuts
    wrong = replace(cuts, safe=np.ones_like(cuts.safe))
    counter._proven.pieces._cuts = counter._proven.pieces._junctions._cuts = wrong
    return counter


class TestSelfCheck:
    @pytest.mark.parametrize("name", ["llama3", "gemma3", "llama2", "minilm"])
    def test_a_wrong_cut_is_found_in_the_first_conversation_of_a_task(self, name: str, make: Any) -> None:
        counter = tampered(make, name)
        messages = (Message("user", "Several words in one"), Message("assistant", "question, and more."))
        for _ in range(2):
            counter.start()
            with pytest.raises(MiscountError, match=r"\d+ tokens by pieces, \d+ as a whole: '.*Several words"):
                counter.count(messages)
        counter.start(whole=True)
        assert counter.count(messages) == counter.count_whole([messages])[0]
        assert counter.count_texts(["Several words"]) == make(name).plain(["Several words"])

    def test_one_of_so_many_is_checked(self, make: Any) -> None:
        counter = TokenCounter(make("llama3").spec("marked"), max_tokens=0)
        good = (Message("user", "a"), Message("assistant", "b"))
        counter.start()
        counter.count(good)
        pieces = counter._proven.pieces
        pieces._known["a"] += 1
        for _ in range(CHECK_EVERY - 1):
            assert counter.count(good) == counter.count_whole([good])[0] + 1
        with pytest.raises(MiscountError):
            counter.count(good)
        pieces._known["a"] -= 1
        counter.start()
        assert counter.count(good) == counter.count_whole([good])[0]

    def test_lone_surrogates_are_an_error(self, family: Any) -> None:
        for template in family.templates:
            counter = family.counter(template)
            for content in ("\ud83d", "a\ud83d\ude00", "word \udc00 word"):
                for messages in (
                    (Message("user", content), Message("assistant", "x")),
                    woven(("a", content), ("b",)),
                    woven(("a",), ("\ud83d", "\ude00")),
                ):
                    with pytest.raises((UnicodeEncodeError, TypeError)):
                        counter.count(messages)
            good = (Message("user", "a word"), Message("assistant", "x"))
            assert counter.count(good) == counter.count_whole([good])[0]
