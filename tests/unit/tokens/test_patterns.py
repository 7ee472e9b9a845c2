"""What is proven of an expression, held against how the library splits by it."""

# ruff: noqa: E501, RUF001

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from mosaic_ray.tokens.patterns import GROUPS, OTHER, SINGLES, TABLE, Analysis, UnknownPattern, analyse, symbol

tokens = settings.get_profile("tokens")

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

ATOMS = st.sampled_from(
    [
        *"ab '1é.", "\\.", "\\n", "\\s", "\\S", "\\d", "\\p{L}", "\\P{L}", "\\p{N}", "\\p{M}", "\\p{Lu}", "\\p{^Ll}", "[ab]", "[^ab]",
        "[\\r\\n]", "[^\\s\\p{L}\\p{N}]", "[^\\r\\n]", "[a-c]", "[a\\-c]", "[^\\S]", "[\\^a]", "[一-龥]", "(?i:a)", "(?i:'s|k)", "(?i:[ab])", "(?i:ss)",
    ]
)  # fmt: skip
SIGNS = st.sampled_from(
    ["", "", "", "?", "*", "+", "+", "??", "*?", "+?", "?+", "*+", "++", "{2}", "{1,3}", "{2,}", "{0,2}"]
)
LOOKS = st.sampled_from([r"(?!\S)", r"(?!\s)", "(?=a)", "(?!b)", "(?=[^a])", r"(?!\p{L}|1)"])


def sequences(atoms: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    item = st.tuples(atoms, SIGNS).map("".join)
    return st.lists(item | item | item | LOOKS, min_size=1, max_size=4).map("".join)


def groups(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(sequences(inner), min_size=1, max_size=3).map(lambda found: f"(?:{'|'.join(found)})")


EXPRESSIONS = st.lists(sequences(st.recursive(ATOMS, groups, max_leaves=5)), min_size=1, max_size=4).map("|".join)
TEXTS = st.text(st.sampled_from("aabbcABkKsS'1.2 \n\r\t^-é\u0301ßſ\u212a中\u3000🙂"), max_size=14)


def split(expression: str, text: str) -> list[str]:
    return [piece for piece, _ in pre_tokenizers.Split(Regex(expression), "isolated").pre_tokenize_str(text)]


def cuts(found: Analysis, text: str) -> Iterator[int]:
    """Where a text may be cut before it is split."""
    for place in range(1, len(text)):
        left, right = symbol(text[place - 1]), symbol(text[place])
        if not found.pairs[left] >> right & 1 and (found.taken >> left | found.taken >> right) & 1:
            yield place


class TestSoundness:
    @given(EXPRESSIONS, st.lists(TEXTS, min_size=1, max_size=8))
    @settings(tokens, max_examples=5 * tokens.max_examples)
    def test_where_no_match_reaches_across_the_parts_are_split_alike(self, expression: str, texts: list[str]) -> None:
        try:
            found = analyse(expression)
        except UnknownPattern:
            assume(False)
        for text in texts:
            for place in cuts(found, text):
                apart = split(expression, text[:place]) + split(expression, text[place:])
                assert split(expression, text) == apart, (expression, text, place)

    @pytest.mark.parametrize("expression", [LLAMA3, GPT2])
    @given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | TEXTS)
    @tokens
    def test_the_same_of_expressions_that_are_in_use(self, expression: str, text: str) -> None:
        for place in cuts(analyse(expression), text):
            assert split(expression, text) == split(expression, text[:place]) + split(expression, text[place:])

    @pytest.mark.parametrize(
        ("expression", "text"),
        [
            # A lookahead behind what another alternative seems to have taken already.
            (r"\s*[\r\n]+(?!x)|\s+(?!\S)|\S", " \nx"),
            (r"\s*+[\r\n]+|\s+(?!\S)|\s+|\S+", "\n \nx"),
            (r"[a\-z]*z+|[a-z]+(?!\S)|\S|\s", "abz!"),
            (r"[ab]*b+|(?i:[ab])+(?!\S)|\S|\s", "Ab!"),
            (r"\.*a+|.+(?!b)|\s|\S", "bab"),
            # What stands for several characters, or for others than it says.
            (r"(?i:ss)|\p{L}", "aßs"),
            (r"[^\s]|\s", "a b"),
        ],
    )
    def test_of_expressions_that_could_fool_it(self, expression: str, text: str) -> None:
        for place in cuts(analyse(expression), text):
            assert split(expression, text) == split(expression, text[:place]) + split(expression, text[place:])

    def test_most_words_of_plain_text_are_cut_apart(self) -> None:
        text = "These words, and 12 numbers;\nlines (in brackets) too."
        for expression in (LLAMA3, GPT2):
            found = set(cuts(analyse(expression), text))
            assert {place for place in range(len(text)) if text[place] == " "} - {text.index("\n") + 1} <= found
        assert text.index("\n") + 1 in set(cuts(analyse(LLAMA3), text)), "a line begins a piece"


class TestWhatIsNotKnown:
    @pytest.mark.parametrize(
        ("expression", "words"),
        [
            (r"(?<=a)b", r"'\(\?<='"),
            (r"(?<!a)b", r"'\(\?<!'"),
            (r"(?>a+)b", r"'\(\?>a'"),
            (r"(?i)a", r"'\(\?i\)'"),
            ("^a", r"'\^'"),
            ("a$", r"'\$'"),
            (r"\bword\b", r"b'"),
            (r"\w+", r"w'"),
            (r"(a)\1", "1'"),
            (r"\p{Han}+", "Han"),
            (r"\pL", "pL"),
            (r"a*", "it can match nothing"),
            ("a|", "it can match nothing"),
            (r"a(?!bc)", "a lookahead over several characters"),
            (r"a(?!b*)", "a lookahead over several characters"),
            (r"(?:a(?!b))+", "a repeated lookahead"),
            (r"[a&&b]", "a class within a class"),
            (r"[[:alpha:]]", "a class within a class"),
            (r"[\x41-\x5a]", "x'"),
            (r"[a-\d]", "a range that is not of plain characters"),
            ("[]a]", "a class that begins with a bracket"),
            ("(?i:[a-z])", "a range of letters in any case"),
            ("(?i:[0-_])", "a range of letters in any case"),
            (r"(?i:\p{Lu})", "a property in any case"),
            ("(?i:ß)", "'ß' in any case, which can mean several characters"),
            (r"\012", "0'"),
            # To Oniguruma: several times once; once or not; from one to three.
            ("a{1}+", r"'\{1\}\+'"),
            ("a{2}?b", r"'\{2\}\?'"),
            ("a{3,1}", r"'\{3,1\}'"),
            ("a{,2}", r"'\{'"),
            ("(a", "an open group"),
            ("a)", "at its end"),
        ],
    )
    def test_is_said_in_words(self, expression: str, words: str) -> None:
        with pytest.raises(UnknownPattern, match=words):
            analyse(expression)


class TestSymbols:
    def test_each_character_of_its_own_is_one(self) -> None:
        assert [symbol(character) for character in SINGLES] == list(range(len(SINGLES)))

    def test_what_a_group_says_holds_for_all_its_characters(self) -> None:
        for code, number in enumerate(TABLE):
            if len(SINGLES) <= number < OTHER:
                assert unicodedata.category(chr(code)) in GROUPS[number - len(SINGLES)].categories

    @pytest.mark.parametrize(
        "expression", [r"\p{L}", r"\p{Ll}", r"\p{Lu}", r"\p{M}", r"\p{N}", r"\p{P}", r"\p{S}", r"\s", r"\d"]
    )
    def test_the_library_counts_them_to_the_same_kinds(self, expression: str) -> None:
        """Its tables are of another version of Unicode than Python's."""
        found = analyse(expression)
        for number, characters in members().items():
            # Where every character of a symbol is matched, and where none is.
            if found.taken >> number & 1:
                assert split(expression, characters) == list(characters)
            elif not _may(expression, number):
                assert split(expression, characters) == [characters]


@cache
def members() -> dict[int, str]:
    found: dict[int, str] = dict.fromkeys(range(OTHER), "")
    for code, number in enumerate(TABLE):
        if number < OTHER:
            found[number] += chr(code)
    return found


def _may(expression: str, number: int) -> bool:
    return bool(analyse(f"{expression}{{2}}").pairs[number])
