"""What fuzzing starts from: small inputs with one oddity each, made here, and the words that mutations may put in."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

WORDS: tuple[bytes, ...] = (
    b'{"prompt": "a", "completion": "b"}\n', b'"messages"', b'"conversations"', b'"role"', b'"content"', b'"from"',
    b'"value"', b'"system"', b'"history"', b'"input"', b'"context"', b'"type": "text"', b'"text"', b'"assistant"',
    b'"user"', b'"human"', b'"gpt"', b'"question"', b'"answer"', b'"instruction"', b'"output"', b'"response"',
    b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"12345678901234567890", b"\\ud800", b"\\udc00", b"\\u0000",
    b'\\"', b"\\\\", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\r\n", b"\r", b"\x0b", b"\x85",
    b"\x00", b"[[[[", b"]]]]", b'{"a":{"a":', b"}}", b"[]", b"{}", b",", b":", b'"', b"\n\n", b" \n", b"PAR1",
    b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18",
)  # fmt: skip
"""A dictionary for libFuzzer."""

_ROWS = (
    {"prompt": "Say one.", "completion": "one"},
    {"instruction": "Add.", "input": "1 and 2", "output": "3", "history": [["a", "b"]], "system": "Be short."},
    {"question": "Why?", "answer": "\n\n  So.  "},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]},
    {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": None},
    {"prompt": "\U0001f600 \u202e\u2028", "completion": "{begin_tag} [END]", "more": [1.5, [True, [None]]]},
)


def texts() -> Iterator[bytes]:
    """Files of text: lines and arrays, whole and broken."""
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in _ROWS]
    for line in lines:
        yield line + b"\n"
        yield b"[" + line + b"]"
    yield b"\n".join(lines) + b"\n\n \r\n"
    yield b"[\n  " + b",\r\n  ".join(lines) + b"\n]\n"
    yield b"\xef\xbb\xbf" + b"\r\n".join(lines)
    yield lines[0] + lines[1]
    yield b"[" + lines[0] + b",]"
    yield b"[" + lines[0] + b", {"
    yield b'{"prompt": "\xff", "completion": "\\ud800"}\n{"prompt": NaN, "completion": ' + b"1" * 400 + b"}\n"
    yield b'{"prompt": "a", "prompt": "b", "completion": "c"}\n' + b"[" * 300 + b"]" * 300 + b"\n"
    yield b"[" + b'{"a":' * 300 + b"1" + b"}" * 300 + b', "text", 12e+5, -Infinity]'
    yield b"\xef\xbb\xbf\n" + lines[0] + b"\n\xef\xbb\xbf" + lines[0]
    yield "\n".join(json.dumps(row) for row in _ROWS).encode("utf-16-le")
    yield b""
    yield b"  \n\t\x0b\n"
    yield b"\x00" * 40


def packed() -> Iterator[bytes]:
    """Packed files: several members, padding, skippable frames, cut off and damaged."""
    text = b"".join(texts())
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00skip"
    for pack in (lambda data: gzip.compress(data, mtime=0), zstandard.compress):
        whole = pack(text)
        yield whole
        yield pack(text[:300]) + pack(b"") + pack(text[300:600])
        yield whole[:-5]
        yield whole[:40] + b"\xff" * 8 + whole[48:]
        yield pack(bytes(100_000))
    yield gzip.compress(text, mtime=0) + bytes(100)
    yield skippable + zstandard.compress(text) + skippable
    yield zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(text)


def tables() -> Iterator[bytes]:
    """Parquet files."""
    for rows in (_ROWS[:1] * 50, _ROWS[1:3], _ROWS[4:5] * 20):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows)), sink, row_group_size=7)
        yield sink.getvalue()
