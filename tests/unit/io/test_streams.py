from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import InputError
from mosaic_ray.io import streams
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.streams import Refusal, chunks, elements, lines, opening, parse


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
    with pytest.raises(InputError, match="f: line 1 is longer than 3 MiB, the limit of a record; write one JSON"):
        list(lines(endless, "f"))
    many = b"x" * (1 << 20) + b"\n"
    assert len(list(lines(pieces(many * 8, 1 << 18), "f"))) == 8


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
        (b"[" * 100_000, "nested too deeply"),
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


@pytest.mark.parametrize(("start", "at_most"), [(b'[{"a": "', 20), (b'[{"a" 1}, "', 3)])
def test_a_broken_array_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch, start: bytes, at_most: int) -> None:
    monkeypatch.setattr(streams, "MAX_RECORD", 8 << 20)
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        yield start
        while True:
            read += 1
            yield b"x" * (1 << 20)

    with pytest.raises(InputError, match="broken"):
        list(elements(endless(), "f"))
    assert read <= at_most


def test_invalid_utf8_in_an_array_spoils_one_element() -> None:
    got = list(elements(pieces(b'[{"a": "\xff"}, {"a": "b"}]', 3), "f"))
    assert [parse(line) for line in got] == [Refusal("not_utf8", "byte 7 of the row is 0xff"), {"a": "b"}]


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
        (b'{"a": ' + b"1" * 5000 + b"}", Refusal("not_json", "a number is too long")),
        (b'{"a": ' + b"[" * 100_000, Refusal("not_json", "nested too deeply")),
    ],
)
def test_parsing_a_line(line: bytes, row: object) -> None:
    assert parse(line) == row


def test_nan_is_taken() -> None:
    row = parse(b'{"a": NaN, "b": "text"}')
    assert isinstance(row, dict)
    assert row["b"] == "text"


@pytest.mark.parametrize(
    ("data", "first", "rest", "skipped"),
    [
        (b"", b"", b"", 0),
        (b"\xef\xbb\xbf", b"", b"", 3),
        (b"\xef\xbb\xbf\n [1]", b"[", b"\n [1]", 3),
        (b"{}", b"{", b"{}", 0),
        (b" \n" * 100 + b"[", b"[", b" \n" * 100 + b"[", 0),
        (b" \n\t", b"", b" \n\t", 0),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_opening(data: bytes, first: bytes, rest: bytes, skipped: int, size: int) -> None:
    got, content, bom = opening(pieces(data, size), "f")
    assert (got, b"".join(content), bom) == (first, rest, skipped)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (gzip.compress(b"x"), "is packed with gzip; add .gz to its name"),
        (zstandard.compress(b"x"), "is packed with zstd; add .zst to its name"),
        (b"PAR1....", "is a Parquet file; name it .parquet"),
        ("{}".encode("utf-16"), "is UTF-16 text; convert it to UTF-8"),
    ],
)
def test_what_is_no_text_is_told(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=f"^f: this {words}"):
        opening(iter([data]), "f")


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
}


def unpacked(tmp_path: Path, data: bytes, compression: Any) -> bytes:
    (tmp_path / "f").write_bytes(data)
    return b"".join(chunks(Storage.at(str(tmp_path), error=InputError), "f", compression))


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("parts", [[b"a" * 3_000_000], [b"one\n", b"", b"two\n"], [b""]])
def test_packed_files_are_read_across_members_and_frames(tmp_path: Path, kind: str, parts: list[bytes]) -> None:
    assert unpacked(tmp_path, b"".join(map(PACKED[kind], parts)), kind) == b"".join(parts)


def test_padding_and_skippable_frames_are_skipped(tmp_path: Path) -> None:
    assert unpacked(tmp_path, gzip.compress(b"one") + bytes(3_000_000), "gzip") == b"one"
    skippable = b"\x50\x2a\x4d\x18" + (8).to_bytes(4, "little") + b"whatever"
    assert unpacked(tmp_path, skippable + zstandard.compress(b"one") + skippable, "zstd") == b"one"


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("cut", [1, 4, 1000])
def test_a_packed_file_that_is_cut_off(tmp_path: Path, kind: str, cut: int) -> None:
    whole = PACKED[kind](random.Random(1).randbytes(100_000))
    with pytest.raises(InputError) as failure:
        unpacked(tmp_path, whole[:-cut], kind)
    message = str(failure.value)
    assert message.startswith(f"{tmp_path}/f: the {kind} data is cut off at byte {len(whole) - cut} (")
    assert "copy the file again, or leave it out" in message


@pytest.mark.parametrize("kind", PACKED)
def test_a_packed_file_that_is_damaged(tmp_path: Path, kind: str) -> None:
    whole = bytearray(PACKED[kind](json.dumps(list(range(100_000))).encode()))
    whole[len(whole) // 2 : len(whole) // 2 + 50] = bytes(50)
    with pytest.raises(InputError, match=f"the {kind} data is damaged near byte .* copy the file again"):
        unpacked(tmp_path, bytes(whole), kind)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("data", [b"{}", b"\x00"])
def test_a_name_that_promises_packing(tmp_path: Path, kind: str, data: bytes) -> None:
    with pytest.raises(InputError, match=f"/f: this is not packed with {kind}; correct its name"):
        unpacked(tmp_path, data, kind)


@pytest.mark.parametrize("kind", PACKED)
def test_an_empty_packed_file_is_cut_off(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=f"the {kind} data is cut off at byte 0"):
        unpacked(tmp_path, b"", kind)
