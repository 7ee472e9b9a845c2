"""Where texts may be cut, held against the tokenizers themselves; and what is not proven, with the reason."""

# ruff: noqa: E501, RUF001

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from mosaic_ray.tokens import TokenCounter, TokenizerSpec
from mosaic_ray.tokens.conversations import _without_prefix
from mosaic_ray.tokens.cuts import Cuts, NotProven, safe_cuts, stands_alone
from mosaic_ray.tokens.patterns import GROUPS, MARK, META_SPACE, OTHER, SINGLES, TITLE, UPPER, symbol

tokens = settings.get_profile("tokens")
DATA = st.data()


@cache
def cut_apart(definition: str) -> tuple[Tokenizer, Cuts]:
    """The tokenizer that cuts are of: without what it puts before a text."""
    tokenizer = Tokenizer.from_str(definition)
    cuts = safe_cuts(tokenizer)
    return (_without_prefix(tokenizer) if cuts.prefix else tokenizer), cuts


def ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [list(found.ids) for found in tokenizer.encode_batch(texts, add_special_tokens=False)]


def unsound(tokenizer: Tokenizer, cuts: Cuts, text: str) -> list[tuple[str, str]]:
    """Safe cuts at which the tokens of the parts are not those of the whole."""
    places = [place for place in range(1, len(text)) if cuts.between(text[place - 1], text[place])]
    parts = [(text[:place], text[place:]) for place in places]
    whole, *found = ids(tokenizer, [text, *(part for pair in parts for part in pair)])
    return [pair for pair, left, right in zip(parts, found[::2], found[1::2], strict=True) if left + right != whole]


class TestSoundness:
    @given(data=DATA)
    @tokens
    def test_the_tokens_of_the_parts_are_those_of_the_whole(self, family: Any, texts: Any, data: Any) -> None:
        tokenizer, cuts = cut_apart(family.definition)
        assert unsound(tokenizer, cuts, data.draw(texts)) == []

    def test_so_it_is_between_any_two_symbols(self, family: Any) -> None:
        """Each pair of symbols, with some of their characters, between words and alone."""
        tokenizer, cuts = cut_apart(family.definition)
        random = np.random.default_rng(7)
        characters = [*SINGLES]
        for group in GROUPS:
            codes = [code for first, last in group.ranges for code in range(first, last + 1)]
            fitting = [chr(code) for code in codes if unicodedata.category(chr(code)) in group.categories]
            characters += random.choice(fitting, 2, replace=False).tolist()
        characters += [*"\xa0\u3000🙂\u212a\u037eế\u0345１½\u200d"]
        failed = []
        texts = [f"{around}{a}{b}{around}" for a in characters for b in characters for around in ("", "e")]
        whole = ids(tokenizer, texts)
        for text, found in zip(texts, whole, strict=True):
            middle = len(text) // 2
            if cuts.between(text[middle - 1], text[middle]):
                left, right = ids(tokenizer, [text[:middle], text[middle:]])
                if left + right != found:
                    failed.append(text)
        assert failed == []

    @given(data=DATA)
    @tokens
    def test_pieces_start_at_safe_cuts_and_where_they_are_told_to(self, family: Any, texts: Any, data: Any) -> None:
        cuts = cut_apart(family.definition)[1]
        text = data.draw(texts)
        also = {0, *data.draw(st.lists(st.integers(0, len(text)), max_size=2))}
        safe = {place for place in range(1, len(text)) if cuts.between(text[place - 1], text[place])}
        assert cuts.starts(text, np.array(sorted(also))).tolist() == sorted((safe | also) - {len(text)})

    def test_words_are_cut_apart(self, family: Any) -> None:
        cuts = cut_apart(family.definition)[1]
        text = "These are words, numbers like 12 and names."
        assert {n for n in range(len(text)) if text[n] == " "} <= set(
            cuts.starts(text, np.zeros(1, dtype=int)).tolist()
        )

    def test_nothing_begins_with_what_may_join_what_stands_before_it(self, family: Any) -> None:
        cuts = cut_apart(family.definition)[1]
        assert not cuts.safe[:, [MARK, OTHER, symbol(META_SPACE)]].any()


class TestComposition:
    """What is assumed of NFC, tried on every character."""

    def test_only_marks_and_rare_characters_join_the_one_before(self) -> None:
        for code in (*range(0xD800), *range(0xE000, 0x30000)):
            character = chr(code)
            if symbol(character) not in (MARK, OTHER):
                assert unicodedata.combining(character) == 0
                composed = unicodedata.normalize("NFC", character)
                assert list(map(symbol, composed)) == [symbol(character)]
                decomposed = unicodedata.normalize("NFD", character)
                assert unicodedata.combining(decomposed[0]) == 0

    def test_what_letters_become(self) -> None:
        """Every pair of which NFC makes one character."""
        letters = set(range(len(SINGLES), OTHER)) - {MARK}
        for code in (*range(0xD800), *range(0xE000, 0x30000)):
            parts = unicodedata.normalize("NFD", chr(code))
            composed = unicodedata.normalize("NFC", parts)
            if len(composed) > 1 or composed == parts:
                continue
            for joined in (parts[:-1], parts[0]):
                first, now = unicodedata.normalize("NFC", joined)[-1:], symbol(composed)
                before = symbol(first)
                if before in (MARK, OTHER):
                    assert now in {MARK, OTHER, *letters}
                elif first in "<=>" or now == TITLE:
                    assert first in "<=>" or before == UPPER or first.isupper()
                elif first.isascii():
                    assert now == symbol("é" if first.islower() else "É"), (first, composed)
                else:
                    assert now == before, (first, composed)

    def test_ascii_that_has_a_double(self) -> None:
        doubles = {
            unicodedata.normalize("NFC", chr(code))
            for code in (*range(128, 0xD800), *range(0xE000, 0x30000))
            if unicodedata.normalize("NFC", chr(code)).isascii()
        }
        assert doubles == {"K", ";", "`"}


Change = Callable[[Tokenizer], None]


def changed(make: Any, name: str, change: Callable[[dict[str, Any]], object]) -> str:
    definition = json.loads(make(name).definition)
    change(definition)
    return Tokenizer.from_str(json.dumps(definition)).to_str()


def with_added(make: Any, name: str, *added: AddedToken) -> str:
    tokenizer = Tokenizer.from_str(make(name).definition)
    tokenizer.add_tokens(list(added))
    return str(tokenizer.to_str())


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(definition: dict[str, Any]) -> None:
        for key in path[:-1]:
            definition = definition[key]
        definition[path[-1]] = value

    return change


def state(component: Any) -> Any:
    return json.loads(component.__getstate__())


SPLIT = {"type": "Split", "pattern": {"Regex": r"\p{N}"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
UNPROVEN: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "a space before the text": (
        "gpt2",
        put("pre_tokenizer", value={**BYTES, "add_prefix_space": True, "use_regex": True}),
        "its pre-tokenizer is of a kind that is not known: .*ByteLevel",
    ),
    "another normalizer": ("gpt2", put("normalizer", value={"type": "NFKC"}), "its normalizer is of a kind .*NFKC"),
    "lower case": ("llama3", put("normalizer", value={"type": "Lowercase"}), "its normalizer is of a kind .*Lowercase"),
    "merges dropped at random": ("llama3", put("model", "dropout", value=0.1), "its model drops merges at random"),
    "merges dropped of whole texts": ("gemma3", put("model", "dropout", value=0.1), "drops merges at random"),
    "white space before a token": (
        "llama3",
        put("added_tokens", 0, "lstrip", value=True),
        "added token '<|begin|>' takes what stands around it into account",
    ),
    "white space behind a token": ("minilm", put("added_tokens", 4, "rstrip", value=True), r"'\[MASK\]' takes what"),
    "whole words only": ("qwen2", put("added_tokens", 1, "single_word", value=True), "takes what stands around"),
    "no pre-tokenizer": ("llama3", put("pre_tokenizer", value=None), "can reach across a space"),
    "words by white space": ("llama3", put("pre_tokenizer", value={"type": "Whitespace"}), "not known: .*Whitespace"),
    "a Metaspace": (
        "llama2",
        put("pre_tokenizer", value=state(pre_tokenizers.Metaspace())),
        "its pre-tokenizer is of a kind that is not known: .*Metaspace",
    ),
    "a lookbehind": (
        "llama3",
        put("pre_tokenizer", "pretokenizers", 0, "pattern", value={"Regex": r"(?<=\p{L})\p{N}+|\s+|\S+"}),
        r"expression has '\(\?<=': ",
    ),
    "another behaviour": (
        "llama3",
        put("pre_tokenizer", "pretokenizers", 0, "behavior", value="MergedWithNext"),
        "its pre-tokenizer is of a kind that is not known: .*Split",
    ),
    "what does not match": ("llama3", put("pre_tokenizer", "pretokenizers", 0, "invert", value=True), "not known"),
    "a split of what stands for bytes": (
        "llama3",
        put("pre_tokenizer", "pretokenizers", value=[SPLIT, BYTES, {**SPLIT, "pattern": {"Regex": r"\s+|\S"}}]),
        "splits again after it has put other characters for bytes",
    ),
    "a pattern across spaces": (
        "gpt2",
        put("pre_tokenizer", value={**SPLIT, "pattern": {"Regex": r"[^\n]+|\n"}}),
        "a token of its vocabulary can reach across a space",
    ),
    "entries that no merge makes": (
        "gemma3",
        put("model", "ignore_merges", value=True),
        "its model takes a text that is an entry of the vocabulary as it is",
    ),
    "a token that is no byte is missing": (
        "llama2",
        lambda definition: definition["model"]["vocab"].pop("<0x0A>") and definition["model"]["vocab"].update(x_=13),
        "no token for each byte",
    ),
    "no bytes": ("gemma3", put("model", "byte_fallback", value=False), "no token for each byte"),
    "a suffix": ("llama2", put("model", "end_of_word_suffix", value="</w>"), "its model is not plain BPE"),
    "an added token in normalised text, with a prefix": (
        "llama2",
        put("added_tokens", 2, "normalized", value=True),
        "its added token '</s>' is looked for in the normalised text",
    ),
    "an added token in lower case": (
        "minilm",
        put("added_tokens", 4, "normalized", value=True),
        r"its added token '\[MASK\]' is looked for in the normalised text",
    ),
    "phrases in the vocabulary": (
        "gemma3",
        lambda definition: (
            definition["model"]["vocab"].update({"a▁": 9000}) or definition["model"]["merges"].insert(0, ["a", "▁"])
        ),
        "a token of its vocabulary can reach across a space",
    ),
}


def unigram() -> str:
    tokenizer = Tokenizer(
        models.Unigram([("<unk>", 0.0), ("▁", -2.0), ("a", -3.0), ("▁a", -3.5), ("b", -4.0)], 0, True)
    )
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    return str(tokenizer.to_str())


class TestWhatIsNotProven:
    @pytest.mark.parametrize("case", [*UNPROVEN, "Unigram"])
    def test_is_counted_whole_and_says_why(self, case: str, make: Any) -> None:
        if case == "Unigram":
            definition, words = unigram(), "its model is not plain BPE"
        else:
            name, change, words = UNPROVEN[case]
            definition = changed(make, name, change)
        with pytest.raises(NotProven, match=words):
            safe_cuts(Tokenizer.from_str(definition))
        spec = TokenizerSpec(name="x", definition=definition, special_tokens={}, chat_template=None)
        counter = TokenCounter(spec, max_tokens=0)
        assert counter.whole_because is not None
        if "random" in words:
            return
        texts = ["Words, 12 of them.\n\nAnd\tmore  <|begin|> [MASK] ▁ </s> it's.", "", " ", "a b", "é🙂 b"]
        plain = Tokenizer.from_str(definition).encode_batch(texts, add_special_tokens=False)
        assert counter.count_texts(texts) == [len(found) for found in plain]

    @given(data=DATA)
    @tokens
    def test_counts_stay_exact(self, make: Any, data: Any) -> None:
        case = data.draw(st.sampled_from([name for name, (_, _, words) in UNPROVEN.items() if "random" not in words]))
        name, _change, _ = UNPROVEN[case]
        tokenizer, counter = unproven(make, case)
        text = data.draw(st.text(st.sampled_from("ab 1.\n\t▁é\u0301[]<|>MASK")) | st.sampled_from(make(name).added))
        assert counter.count_texts([text]) == [len(tokenizer.encode(text, add_special_tokens=False))]


@cache
def unproven(make: Any, case: str) -> tuple[Tokenizer, TokenCounter]:
    name, change, _ = UNPROVEN[case]
    definition = changed(make, name, change)
    spec = TokenizerSpec(name="x", definition=definition, special_tokens={}, chat_template=None)
    return Tokenizer.from_str(definition), TokenCounter(spec, max_tokens=0)


def nfc_with(make: Any, expression: str) -> str:
    tokenizer = Tokenizer.from_str(make("qwen2").definition)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return str(tokenizer.to_str())


TRICKY: dict[str, tuple[Callable[[Any], str], list[str]]] = {
    "accents of a multi-word token": (
        lambda make: with_added(make, "qwen2", AddedToken("café au lait", normalized=True)),
        ["un cafe\u0301 au lait", "café au lait"],
    ),
    "an accent behind a digit": (
        lambda make: with_added(make, "qwen2", AddedToken("1é", normalized=True), AddedToken("é1", normalized=True)),
        ["1e\u0301", "e\u03011", "1é", "é1e\u0301 "],
    ),
    "a sign with a double": (
        lambda make: with_added(make, "qwen2", AddedToken("a; b", normalized=True), AddedToken("OK 1", normalized=True)),
        ["a\u037e b", "O\u212a 1", "OK 1"],
    ),
    "a token with a space, spelt in both ways": (
        lambda make: with_added(make, "gemma3", AddedToken("<a▁b>", normalized=True), AddedToken("x y", normalized=True)),
        ["<a b>", "<a▁b>", "x y", "x▁y"],
    ),
    "an expression that knows ASCII only": (
        lambda make: nfc_with(make, "[a-z]+|[^a-z ]+| "),
        ["1e\u0301", "1e\u0301x é", "a=\u0338b"],
    ),
    "letters that were marks": (lambda make: make("neox").definition, ["e\u0301a cafe\u0301s", "e\u0301\u212as"]),
    "two strings split by plain text": (
        lambda make: changed(
            make, "llama3", lambda d: d["pre_tokenizer"]["pretokenizers"].insert(0, {**SPLIT, "pattern": {"String": "e "}})
        ),
        ["the end", "the e nd e e"],
    ),
    "digits one by one": (
        lambda make: changed(
            make, "gpt2", put("pre_tokenizer", value={"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, {**BYTES, "use_regex": True}]})
        ),
        ["12 34 a1 ½², 5"],
    ),
    "a sequence in a sequence": (
        lambda make: changed(
            make, "llama2", lambda d: d["normalizer"].update(normalizers=[{"type": "Sequence", "normalizers": d["normalizer"]["normalizers"]}])
        ),
        ["a b", " a", "▁"],
    ),
    "a merge into a byte": (
        lambda make: changed(
            make,
            "llama2",
            lambda d: d["model"]["vocab"].update({"a<0xF0>": 60000}) or d["model"]["merges"].insert(0, ["a", "<0xF0>"]),
        ),
        ["a🙂 a🙂", "a𝕏"],
    ),
}  # fmt: skip


class TestTrickyOnes:
    @pytest.mark.parametrize("case", TRICKY)
    def test_cuts_are_sound_where_there_are_any(self, case: str, make: Any) -> None:
        prepare, texts = TRICKY[case]
        definition = prepare(make)
        try:
            tokenizer, cuts = cut_apart(definition)
        except NotProven:
            return
        for text in texts:
            for around in (text, f" {text} ", f"x{text}x", f".{text}\n"):
                assert unsound(tokenizer, cuts, around) == []

    @pytest.mark.parametrize("case", TRICKY)
    def test_and_counts_are_exact(self, case: str, make: Any) -> None:
        prepare, texts = TRICKY[case]
        definition = prepare(make)
        spec = TokenizerSpec(name="x", definition=definition, special_tokens={}, chat_template=None)
        wrapped = [f"{a}{text}{b}" for text in texts for a in ("", " ", "x", "\n") for b in ("", " ", "x", "\n")]
        plain = Tokenizer.from_str(definition).encode_batch(wrapped, add_special_tokens=False)
        assert TokenCounter(spec, max_tokens=0).count_texts(wrapped) == [len(found) for found in plain]


class TestStandsAlone:
    FOUND = st.lists(st.text(st.sampled_from("<a|>"), min_size=1, max_size=4), min_size=1, max_size=4, unique=True)

    @given(FOUND, st.text(st.sampled_from("<a|>b"), max_size=5), st.text(st.sampled_from("<a|>b"), max_size=5))
    @tokens
    def test_such_a_token_is_found_whatever_stands_around_it(self, added: list[str], left: str, right: str) -> None:
        tokenizer = Tokenizer(models.WordLevel({"?": 0}, "?"))
        tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
        for token in added:
            if stands_alone(token, added):
                found = tokenizer.encode(left + token + right).offsets
                assert (len(left), len(left) + len(token)) in found

    def test_most_do(self) -> None:
        added = ["<|begin|>", "<|end|>", "<s>", "</s>", "\n", "\n\n", "<x>y", "<x>"]
        assert [token for token in added if stands_alone(token, added)] == [*added[:4], "<x>y"]
