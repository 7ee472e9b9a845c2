from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.pages.text import code, compact, counted, escaped, setting, share, shortened, size
from mosaic_ray.text import seen


def test_what_cannot_be_seen_is_spelt_out() -> None:
    assert seen("\u200b\xad\u2063\U000e0041\U000e0100") == "⟨U+200B⟩⟨U+00AD⟩⟨U+2063⟩⟨U+E0041⟩⟨U+E0100⟩"
    assert seen("a\u202eb\x00c\x1b\x7f\x85\ufeff\u2028\r") == (
        "a⟨U+202E⟩b⟨U+0000⟩c⟨U+001B⟩⟨U+007F⟩⟨U+0085⟩⟨U+FEFF⟩⟨U+2028⟩⟨U+000D⟩"
    )


@pytest.mark.parametrize(
    "text", ["tabs\tand\nlines", "שלום", "नमस्ते", "👩‍👩‍👧", "é", "  ", "❤\ufe0f", "\u0645\u06cc\u200c\u062e"]
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert seen(text) == text


@given(st.text())
def test_escaped_text_comes_back_and_holds_no_markup(text: str) -> None:
    assert not set("<>\"'") & set(escaped(text))
    assert html.unescape(escaped(text)) == seen(text)


@given(st.text(alphabet=st.one_of(st.sampled_from("`|\\<>&*_[]\n\r\t -#~"), st.characters())))
def test_code_is_one_line_that_no_table_or_markup_is_broken_by(text: str) -> None:
    written = code(text)
    assert len(written.splitlines()) == 1
    assert "|" not in written
    if written.startswith("`"):
        assert written == f"`{text}`"
        assert "`" not in text
        assert text.strip(" ") == text != ""
    else:
        inner = written.removeprefix("<code>").removesuffix("</code>")
        assert not set("`*_[]<>\\~") & set(inner)
        assert html.unescape(inner) == seen(text).replace("\n", "⟨U+000A⟩").replace("\t", "⟨U+0009⟩")


@pytest.mark.parametrize("plain", ["s3://lake/sft/part-0.jsonl", "max_tokens", "a b, c (d)", "v1:00ff"])
def test_ordinary_names_stay_readable_in_markdown(plain: str) -> None:
    assert code(plain) == f"`{plain}`"


@pytest.mark.parametrize(
    ("part", "whole", "written"),
    [(0, 0, "0%"), (0, 7, "0%"), (1, 10**6, "<0.1%"), (1, 3, "33.3%"), (10**6 - 1, 10**6, ">99.9%"), (7, 7, "100.0%")],
)
def test_share(part: int, whole: int, written: str) -> None:
    assert share(part, whole) == written


@given(st.integers(0, 10**14))
def test_compact_numbers_are_short_and_nearly_right(number: int) -> None:
    written = compact(number)
    value = float(written.rstrip("kMGT")) * {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}.get(written[-1], 1)
    assert re.fullmatch(r"[\d.]{1,4}[kMGT]?", written)
    assert value == pytest.approx(number, rel=0.006)


def test_words_for_numbers() -> None:
    assert (counted(1, "file"), counted(0, "file"), counted(2000, "file")) == ("1 file", "0 files", "2,000 files")
    assert (size(999), size(1000), size(35_700_000), size(2 * 10**12)) == ("999 B", "1.0 kB", "35.7 MB", "2.0 TB")


def test_settings_read_as_they_are_typed() -> None:
    assert setting(["format", "permute"]) == "format, permute"
    assert setting({"instruction": "question"}) == "instruction = question"
    assert (setting({}), setting([]), setting(8192), setting(True)) == ("none", "none", "8192", "true")


def test_a_long_text_says_how_much_is_missing() -> None:
    assert shortened("x" * 10, 10) == "x" * 10
    assert shortened("x" * 2011, 11) == "x" * 11 + "\n… 2,000 characters more"
