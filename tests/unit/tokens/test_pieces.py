"""Counts by pieces, held against the tokenizers; and memos that do not grow without end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from mosaic_ray.tokens import pieces
from mosaic_ray.tokens.conversations import _without_prefix
from mosaic_ray.tokens.cuts import safe_cuts
from mosaic_ray.tokens.pieces import NotCountable, PieceCounter

tokens = settings.get_profile("tokens")
DATA = st.data()


def counter_of(definition: str) -> PieceCounter:
    tokenizer = Tokenizer.from_str(definition)
    cuts = safe_cuts(tokenizer)
    return PieceCounter(_without_prefix(tokenizer) if cuts.prefix else tokenizer, cuts)


def joined(counter: PieceCounter, parts: Sequence[str]) -> int:
    text = "".join(parts)
    prefix = "" if not text or (counter.unless and text[0] in counter.unless) else counter.prefix
    return counter.end(*counter.join(0, prefix, parts))


class TestCounts:
    @given(data=DATA)
    @tokens
    def test_of_texts(self, family: Any, texts: Any, data: Any) -> None:
        several = data.draw(st.lists(texts, max_size=6))
        assert family.counter("none").count_texts(several) == family.plain(several)

    @given(data=DATA)
    @tokens
    def test_of_texts_in_parts(self, family: Any, parts: Any, data: Any) -> None:
        counter = family.counter("none")._proven.pieces
        several = data.draw(st.lists(parts, min_size=1, max_size=3))
        if data.draw(st.booleans()):
            try:
                counter.seams([part for found in several for part in found])
            except NotCountable:
                assert counter.prefix
        for found in several:
            try:
                count = joined(counter, found)
            except NotCountable:
                assert counter.prefix
                assert any(token in "".join(found) for token in family.added)
            else:
                assert [count] == family.plain(["".join(found)])

    def test_of_a_long_text_cut_at_every_place(self, family: Any) -> None:
        text = (
            "It's 12,345 words:\n\n  \"naïve cafés\"\t(中文。カナ) don't\r\n<b>x</b> … end. \U0001f642\u200d\U0001f642 "
            * 3
        )
        counter = family.counter("none")._proven.pieces
        whole = family.plain([text])[0]
        for place in range(len(text)):
            assert joined(counter, [text[:place], text[place:]]) == whole
        for width in (1, 2, 3, 7, 40):
            bounds = [*range(0, len(text), width), len(text)]
            assert joined(counter, [text[a:b] for a, b in pairwise(bounds)]) == whole

    def test_of_nothing(self, family: Any) -> None:
        counter = family.counter("none")._proven.pieces
        assert counter.count([]) == []
        assert counter.count(["", "", ""]) == [0, 0, 0]
        assert counter.count(["", "a", ""]) == [0, *family.plain(["a"]), 0]
        assert joined(counter, []) == joined(counter, ["", ""]) == 0

    def test_of_many_texts_at_once(self, family: Any) -> None:
        texts = [f"{number} words and{' ' * (number % 3)}{number * 7}.\n" * (number % 5) for number in range(700)]
        assert family.counter("none").count_texts(texts) == family.plain(texts)

    def test_added_tokens_are_not_counted_where_a_prefix_follows_them(self, make: Any) -> None:
        counter = counter_of(make("llama2").definition)
        for text in ("a</s>b", "</s>", "x <s>"):
            with pytest.raises(NotCountable):
                counter.count([text])
        with pytest.raises(NotCountable):
            joined(counter, ["a</", "s>b"])
        assert counter.count(["a</ s>b"]) == make("llama2").plain(["a</ s>b"]), "it goes on counting"


def reordered(make: Any) -> str:
    """A tokenizer of words whose first special token is the one for what it does not know."""
    definition = json.loads(make("minilm").definition)
    definition["added_tokens"] = sorted(definition["added_tokens"], key=lambda token: token["content"] != "[UNK]")
    vocabulary = definition["model"]["vocab"]
    vocabulary["[PAD]"], vocabulary["[UNK]"] = 1, 0
    for token in definition["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    return json.dumps(definition)


def with_unknown_bytes(make: Any) -> str:
    """Byte-level BPE that lacks most bytes, and has a token for them, the first one."""
    definition = json.loads(make("gpt2").definition)
    model = definition["model"]
    keep = {"<unk>", *"abcdeĠ.,"}
    model["merges"] = [pair for pair in model["merges"] if set("".join(pair)) <= keep]
    entries = ["<unk>", *sorted(keep - {"<unk>"}), *("".join(pair) for pair in model["merges"])]
    model |= {"vocab": {entry: number for number, entry in enumerate(entries)}, "unk_token": "<unk>"}
    first = {**definition["added_tokens"][0], "id": 0, "content": "<unk>"}
    last = {**definition["added_tokens"][0], "id": len(entries)}
    definition["added_tokens"] = [first, last]
    return json.dumps(definition)


def with_gaps(make: Any) -> str:
    """Ids with holes between them, as vocabularies have that lost some entries."""
    definition = json.loads(make("llama3").definition)
    for number, token in enumerate(definition["added_tokens"]):
        token["id"] = 9000 + 10 * number
    return json.dumps(definition)


def with_normalized_mark(make: Any) -> str:
    """Every added token is looked for in the composed text, where "<x>" and a stroke behind it are another text."""
    definition = json.loads(make("qwen2").definition)
    definition["added_tokens"] = [{**definition["added_tokens"][0], "content": "<x>", "normalized": True}]
    return json.dumps(definition)


OTHERS = [
    reordered,
    with_unknown_bytes,
    with_gaps,
    with_normalized_mark,
]


class TestOtherTokenizers:
    TEXTS = (
        "a word \u2603 and \U0001f642x unknown zz",
        "\u2603",
        "ab abc\u2603 b\u0301",
        "\u0338a b",
        "x \u0338",
        "a\u0338= \u0338\u0338",
    )

    @pytest.mark.parametrize("make_definition", OTHERS)
    def test_are_counted_exactly(self, make_definition: Any, make: Any) -> None:
        definition = make_definition(make)
        tokenizer = Tokenizer.from_str(definition)
        plain = [len(tokenizer.encode(text, add_special_tokens=False)) for text in self.TEXTS]
        assert counter_of(definition).count(self.TEXTS) == plain
        counter = counter_of(definition)
        assert [joined(counter, list(text)) for text in self.TEXTS] == plain

    @pytest.mark.parametrize("added", [(), ("<a>",), ("<a>", "<a><b>", "b><a"), (" ", "\n")])
    def test_whatever_tokens_they_have_to_hold_pieces_apart(self, added: tuple[str, ...], make: Any) -> None:
        definition = json.loads(make("llama3").definition)
        definition["added_tokens"] = []
        tokenizer = Tokenizer.from_str(json.dumps(definition))
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
        counter = counter_of(tokenizer.to_str())
        texts = ["one <a> two", "three<a><b><a>four", "five\nsix", "<a", "> and <", "a>"]
        assert counter.count(texts) == [len(tokenizer.encode(text)) for text in texts]
        assert joined(counter, texts) == len(tokenizer.encode("".join(texts)))


class TestMemory:
    @pytest.fixture
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pieces, "KNOWN_ENTRIES", 5)
        monkeypatch.setattr(pieces, "SEAM_ENTRIES", 3)
        monkeypatch.setattr(pieces, "LONGEST_KEPT", 4)

    @pytest.mark.usefixtures("small")
    @pytest.mark.parametrize("name", ["llama3", "qwen2", "gemma3", "llama2", "minilm"])
    def test_full_memos_change_no_count(self, name: str, make: Any) -> None:
        counter, family = counter_of(make(name).definition), make(name)
        texts = [f"{n} some words, and {'more ' * (n % 4)}{'x' * n}\n{n * n}" for n in range(60)]
        assert counter.count(texts) == family.plain(texts)
        for first, second in pairwise(texts):
            counter.seams([first])
            assert [joined(counter, [first, ". ", second])] == family.plain([first + ". " + second])

    @pytest.mark.parametrize("name", ["llama3", "gemma3", "minilm"])
    def test_memos_stay_bounded(self, name: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        for bound in ("KNOWN_ENTRIES", "SEAM_ENTRIES"):
            monkeypatch.setattr(pieces, bound, 50)
        counter = counter_of(make(name).definition)
        for number in range(600):
            text = f"q{number}z {number}-{number + 1} and{chr(0x4E00 + number)} {chr(0x5000 + number)}"
            counter.seams([text])
            joined(counter, ["Fixed text: ", text, chr(0x6000 + number), f"w{number}", ". "])
            counter.count([text + "!"])
        held = {
            key: len(memo) for key, memo in vars(counter).items() if isinstance(memo, (dict, list)) and len(memo) > 100
        }
        assert held == {}

    def test_long_pieces_are_not_kept(self, make: Any) -> None:
        counter = counter_of(make("llama3").definition)
        counter.count(["x" * 1000, "word " + "y" * 70])
        joined(counter, ["z" * 300, "z" * 300])
        assert max(map(len, counter._known)) <= pieces.LONGEST_KEPT


class TestLoneSurrogates:
    def test_are_an_error_and_leave_no_count_behind(self, family: Any) -> None:
        counter = family.counter("none")
        for text in ("\ud83d", "word \ude00 word", "a\ud83d", "\udfffz " * 40):
            for _ in range(2):
                with pytest.raises((UnicodeEncodeError, TypeError)):
                    counter.count_texts(["fine", text])
                with pytest.raises((UnicodeEncodeError, TypeError)):
                    joined(counter._proven.pieces, ["fine ", text, " too"])
        halves = ("\ud83d", "\ude00")
        with pytest.raises((UnicodeEncodeError, TypeError)):
            joined(counter._proven.pieces, halves)
        texts = ["word  word", "fine word z"]
        assert counter.count_texts(texts) == family.plain(texts)
