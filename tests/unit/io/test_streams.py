from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import InputError
from mosaic_ray.io import streams
from mosaic_ray.io.cutting import cut_lines
from mosaic_ray.io.streams import MAX_DEPTH, Refusal, elements, lines, opening, parse


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


@given(st.binary(max_size=200) | st.text("a\n\r ", max_size=60).map(str.encode), st.integers(1, 20))
def test_lines_are_all_bytes_cut_after_each_line_feed(data: bytes, size: int) -> None:
    got = list(lines(pieces(data, size), "f"))
    assert b"".join(got) == data
    assert all(b"\n" not in line[:-1] and line for line in got)
    assert all(line.endswith(b"\n") for line in got[:-1])


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD", 3 << 20)
    endless = (b"x" * 100_000 for _ in iter(int, 1))
    with pytest.raises(InputError, match=r"^f: line 1 is longer than 3 MiB, the limit"):
        list(lines(endless, "f"))
    many = b"x" * (1 << 20) + b"\n"
    assert len(list(lines(pieces(many * 8, 1 << 18), "f"))) == 8


@pytest.mark.parametrize("start", [1, 1000, 4095])
@pytest.mark.parametrize(("length", "taken"), [(3 << 20, True), ((3 << 20) + 1, False)])
def test_the_limit_of_a_line_does_not_depend_on_how_it_arrives(
    monkeypatch: pytest.MonkeyPatch, start: int, length: int, taken: bool
) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD", 3 << 20)
    data = b"x" * (start - 1) + b"\n" + b"y" * (length - 1) + b"\n{}\n"
    for cut in (
        lambda: list(lines(pieces(data, 4096), "f")),
        lambda: list(cut_lines(pieces(data, 4096), "f", records=1, size=100)),
    ):
        if taken:
            assert len(cut()) == 3
        else:
            with pytest.raises(InputError, match=r"^f: line 2 is longer than 3 MiB, the limit of a record; write one"):
                cut()


TOO_DEEP = Refusal("too_complex", "it is nested more than 256 levels deep")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.lists(json_values, max_size=8), st.integers(1, 40), st.booleans(), st.sampled_from([None, 0, 2]))
def test_the_elements_of_an_array_parse_to_its_values(
    values: list[Any], size: int, ascii: bool, indent: int | None
) -> None:
    data = b" \n" + json.dumps(values, ensure_ascii=ascii, indent=indent).encode("utf-8", "surrogatepass") + b"\r\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK", size)
        got = list(elements(pieces(data, size), "f"))
    assert [json.loads(line) for line in got] == values
    assert all(line.endswith(b"\n") and b"\n" not in line[:-1] for line in got)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'[{"a": 1}, {"a"', r"the JSON array is cut off, at byte \d+, after 1 whole elements"),
        (b'[{"a": 1}, {"a": "xy', "the JSON array is cut off, at byte 17, after 1 whole elements"),
        (b'[{"a": 1},', "the JSON array is cut off, at byte 10, after 1 whole"),
        (b'[{"a": 1}', "the JSON array is cut off, at byte 9, after 1 whole elements"),
        (b"[", "the JSON array is cut off, at byte 1, after 0 whole elements"),
        (b'[{"a": 1} {"a": 2}]', "']' should stand here, not '{', at byte 10, after 1 whole"),
        (
            b'[{"a": 1}, {"a" 2}, {"b": 3}]',
            r"JSON is broken \(Expecting ':' delimiter\), at byte 16, after 1 whole",
        ),
        (b'["\xc3\xa9\xc3\xa9", nil, {"abc": 1234567890}]', r"broken \(Expecting value\), at byte 9, after 1 whole"),
        (b"[1, 2,]", r"broken \(Expecting value\), at byte 6, after 2 whole elements"),
        (b"[1] x", "something follows the end of the JSON array, at byte 4, after 1 whole elements"),
        (b"[" * 100_000, "the JSON array is cut off, at byte 100000, after 0 whole elements"),
        (b'[{"a": "x\x01"}]', r"JSON is broken \(Invalid control character at\), at byte 9, after 0 whole"),
        ("[1, \u201c]".encode(), r"JSON is broken \(Expecting value\), at byte 4, after 1 whole"),
        ("[1 \ufeff, 2]".encode(), "']' should stand here, not 0xef, at byte 3, after 1 whole elements"),
    ],
)
def test_a_broken_array_is_named_with_its_place(
    data: bytes, words: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if len(data) > 1000:
        chunk = 1 << 20
    monkeypatch.setattr(streams, "CHUNK", chunk)
    with pytest.raises(InputError, match=words) as failure:
        list(elements(pieces(data, chunk), "s3://b/f.json"))
    assert str(failure.value).startswith("s3://b/f.json: ")
    assert "repair the file or copy it again, or leave it out" in str(failure.value)


TOO_LONG = r"^f: the element at byte 1, after 0 whole ones, is longer than 3 MiB, the limit of a record; write one"


@pytest.mark.parametrize(
    ("start", "filling", "words", "at_most"),
    [
        (b'[{"a": "', b"x", TOO_LONG, 5),
        (b"[", b"1", TOO_LONG, 5),
        (b"[", b"[", TOO_LONG, 5),
        (b'[{"a" 1}, "', b"x", r"broken \(Expecting ':' delimiter\), at byte 6", 3),
    ],
)
def test_an_endless_element_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch, start: bytes, filling: bytes, words: str, at_most: int
) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD", 3 << 20)
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        yield start
        while True:
            read += 1
            yield filling * ((1 << 20) // len(filling))

    with pytest.raises(InputError, match=words):
        list(elements(endless(), "f"))
    assert read <= at_most


def test_invalid_utf8_in_an_array_spoils_one_element() -> None:
    got = list(elements(pieces(b'[{"a": "\xff"}, {"a": "b"}]', 3), "f"))
    assert [parse(line) for line in got] == [Refusal("not_utf8", "byte 7 of the row is 0xff"), {"a": "b"}]


@given(st.lists(json_values, max_size=8), st.integers(1, 40), st.integers(0, 30), st.sampled_from([None, 2]))
def test_elements_too_long_to_be_parsed_end_where_they_end(
    values: list[Any], size: int, small: int, indent: int | None
) -> None:
    data = json.dumps(values, ensure_ascii=False, indent=indent).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK", size)
        patch.setattr(streams, "SMALL", small)
        got = list(elements(pieces(data, size), "f"))
    assert [json.loads(line) for line in got] == values


@pytest.mark.parametrize("broken", [b'"a\nb"', b'"a\\\nb"', b'"a\x00"'])
def test_a_control_character_in_a_long_string_breaks_the_array(broken: bytes) -> None:
    data = b'[{"b": "' + b"x" * (2 << 20) + b'", "a": ' + broken + b"}]"
    with pytest.raises(InputError, match=rf"Invalid control character\), at byte {(2 << 20) + 18},"):
        list(elements(pieces(data, 1 << 20), "f"))


@pytest.mark.parametrize(("at", "alone"), [(10, False), (90, True)])
def test_what_is_broken_far_into_an_element_is_refused_alone_however_it_arrives(
    monkeypatch: pytest.MonkeyPatch, at: int, alone: bool
) -> None:
    data = b'[{"a": "' + b"x" * at + b'", "b" 1, "c": "' + b"y" * 60 + b'"}, {"d": 2}]'
    monkeypatch.setattr(streams, "SMALL", 50)
    for size in range(1, len(data)):
        monkeypatch.setattr(streams, "CHUNK", size)
        if alone:
            broken, whole = map(parse, elements(pieces(data, size), "f"))
            assert broken == Refusal("not_json", f"Expecting ':' delimiter at character {at + 14} of the row")
            assert whole == {"d": 2}
        else:
            with pytest.raises(InputError, match=rf"Expecting ':' delimiter\), at byte {at + 15}, after 0 whole"):
                list(elements(pieces(data, size), "f"))


@pytest.mark.parametrize("deep", [b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000])
def test_an_element_nested_too_deeply_is_refused_alone(deep: bytes) -> None:
    got = [parse(line) for line in elements(iter([b'[{"a": ' + deep + b'}, {"a": 2}]']), "f")]
    assert got == [TOO_DEEP, {"a": 2}]


def test_long_numbers_do_not_break_an_array() -> None:
    assert len(list(elements(iter([b"[" + b"1" * 5000 + b", 1e5]"]), "f"))) == 2


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"a": 1}\r\n', {"a": 1}),
        (b'{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890.0}),
        (b'{"a": "\\ud800"}', {"a": "\ud800"}),
        (b'{"a": Infinity}', {"a": float("inf")}),
        (b"[1]", Refusal("not_an_object", "it is of type list")),
        (b"null", Refusal("not_an_object", "it is null")),
        (b'"text"', Refusal("not_an_object", "it is of type str")),
        (
            b"{'a': 1}",
            Refusal("not_json", "Expecting property name enclosed in double quotes at character 1 of the row"),
        ),
        (b'{"a": 1} {"a": 2}', Refusal("not_json", "Extra data at character 9 of the row")),
        (b'{"a": "\xff"}', Refusal("not_utf8", "byte 7 of the row is 0xff")),
        (b'{"a": ' + b"1" * 10_000 + b', "b": -' + b"2" * 400 + b"}", {"a": float("inf"), "b": float("-inf")}),
        (b'{"a": NaN, "b": 7, "c": 12345678901234567890123}', {"a": ANY, "b": 7, "c": 12345678901234567890123.0}),
        (b'{"a": 1, "b": 2, "a": 3}', {"a": 3, "b": 2}),
        (b'{"a": 1, "b": Infinity, "a": 3}', {"a": 3, "b": float("inf")}),
        (b'\xef\xbb\xbf{"a": 1}\r\n', {"a": 1}),
        (b'\xef\xbb\xbf{"a": "\xff"}', Refusal("not_utf8", "byte 7 of the row is 0xff")),
        (b'{"a": "\xed\xa0\x80"}', Refusal("not_utf8", "byte 7 of the row is 0xed")),
        (b'{"a": "\x00"}', Refusal("not_json", "Invalid control character at at character 7 of the row")),
        (b"\x00\x00\n", Refusal("not_json", "Expecting value at character 0 of the row")),
        (b'{"a": "b\rc"}', Refusal("not_json", "Invalid control character at at character 8 of the row")),
        (b'{"a": 1}\r{"a": 2}\r', Refusal("not_json", "Extra data at character 9 of the row")),
        ('{"a": "\u2028\x85"}'.encode(), {"a": "\u2028\x85"}),
        (b'{"a": ' + b"[" * 100_000, TOO_DEEP),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", TOO_DEEP),
        (b'{"a": NaN, "b": ' + b"[" * 300 + b"]" * 300 + b"}", TOO_DEEP),
        (b'{"a": "' + b"[" * 1000 + b'"}', {"a": "[" * 1000}),
        (b'{"a": [' + b"[]," * 1000 + b"[]]}", {"a": [[]] * 1001}),
        (b'{"a": [' + b"0," * 1_000_000 + b"0]}", Refusal("too_complex", "it holds more than 1,000,000 values")),
        (b'{"a": "' + b"0," * 1_000_000 + b'"}', {"a": "0," * 1_000_000}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_parsing_a_line(line: bytes, row: object) -> None:
    assert parse(line) == row


@pytest.mark.parametrize("odd", [b"NaN", b"1", b'"\\ud800"'])  # each parser, and the second for two reasons
def test_the_deepest_row_is_taken_whatever_called(odd: bytes) -> None:
    depth = MAX_DEPTH - 1
    line = b'{"a": ' + b"[" * depth + odd + b"]" * depth + b"}"

    def called_from(frames: int) -> Any:
        return called_from(frames - 1) if frames else parse(line)

    assert type(called_from(300)) is dict
    assert called_from(300).keys() == parse(line).keys()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "first", "rest", "skipped"),
    [
        (b"", b"", b"", 0),
        (b"\xef\xbb\xbf", b"", b"", 3),
        (b"\xef\xbb\xbf\n [1]", b"[", b"\n [1]", 3),
        (b"{}", b"{", b"{}", 0),
        (b" \n" * 100 + b"[", b"[", b" \n" * 100 + b"[", 0),
        (b" \n\t", b"", b" \n\t", 0),
        (b"\0\0\0\0{", b"\0", b"\0\0\0\0{", 0),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_opening(data: bytes, first: bytes, rest: bytes, skipped: int, size: int) -> None:
    got, content, bom = opening(pieces(data, size), "f")
    assert (got, b"".join(content), bom) == (first, rest, skipped)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(b"x", mtime=0), "is packed with gzip; add .gz to its name"),
        (zstandard.compress(b"x"), "is packed with zstd; add .zst to its name"),
        (b"PAR1....", "is a Parquet file; name it .parquet"),
        ("{}".encode("utf-16"), "is UTF-16 text; convert it to UTF-8"),
        ("\ufeff{}".encode("utf-16-be"), "is UTF-16 text; convert it to UTF-8"),
        ('{"a"'.encode("utf-16-le"), "is UTF-16 text; convert it to UTF-8"),
        ('[\n"'.encode("utf-16-be"), "is UTF-16 text; convert it to UTF-8"),
        ("{}".encode("utf-32"), "is UTF-32 text; convert it to UTF-8"),
        ("\ufeff{}".encode("utf-32-be"), "is UTF-32 text; convert it to UTF-8"),
        ("{}".encode("utf-32-le"), "is UTF-32 text; convert it to UTF-8"),
        ("{}".encode("utf-32-be"), "is UTF-32 text; convert it to UTF-8"),
    ],
)
def test_what_is_no_text_is_told(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=f"^f: this {words}"):
        opening(iter([data]), "f")
