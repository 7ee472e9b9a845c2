"""The targets of the fuzzer over its seeds and over small changes of them: they hold, and they can fail."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosaic_ray.io import readers, streams
from tests.fuzz import seeds, targets

TEXTS = list(seeds.texts())


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "FOLDER", tmp_path)


@pytest.mark.parametrize("name", ["start", "jsonl", "array", "shapes"])
def test_the_promises_hold_for_every_text(name: str) -> None:
    for text in TEXTS:
        for steer in (b"\0\0", b"\2\2", b"\xff\xff"):
            targets.TARGETS[name](steer + text)


def test_the_promises_hold_for_every_packed_file() -> None:
    for data in seeds.packed():
        for steer in (b"\0", b"\xff"):
            targets.packing(steer + data)


def test_the_promises_hold_for_whole_files() -> None:
    for text in TEXTS:
        for kind in range(len(targets.KINDS)):
            targets.file(bytes([kind, 1]) + text)
    for table in seeds.tables():
        targets.parquet(b"\1" + table)


def test_the_seeds_are_read_and_not_only_refused() -> None:
    whole = [targets.whole_file(text, ".json", cell_records=3) for text in TEXTS]
    assert sum(rows is not None for rows in whole) > len(TEXTS) // 2
    assert all(targets.whole_file(table, ".parquet", cell_records=3) for table in seeds.tables())
    packed = [targets.whole_file(gzip.compress(text, mtime=0), ".jsonl.gz", cell_records=1) for text in TEXTS]
    assert sum(bool(rows) for rows in packed) > len(TEXTS) // 2


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """A seed with up to three words put in, each over a few of its bytes."""
    data = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.sampled_from(seeds.WORDS)) + data[at + draw(st.integers(0, 9)) :]
    return draw(st.binary(min_size=2, max_size=2)) + data


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed())
def test_the_promises_hold_for_changed_texts(data: bytes) -> None:
    for name in ("start", "jsonl", "array", "shapes", "file"):
        targets.TARGETS[name](data)


LINES = b"\0\0\1" + b'{"prompt": "a", "completion": "b"}\n' * 3


def losing(file: Any, cells: Any, **places: Any) -> Iterator[readers.Row]:
    return iter(list(readers.read_cells(file, cells, **places))[1:])


def swapping(line: bytes) -> Any:
    return {"prompt": "other"} if line.startswith(b"{") else streams.parse(line)


@pytest.mark.parametrize(
    ("name", "module", "attribute", "value", "data"),
    [
        ("file", targets, "read_cells", losing, LINES[1:]),
        ("jsonl", targets, "parse", swapping, LINES),
        ("array", streams, "_MARKS", re.compile("[}]"), b'\0\0[{"a": {"b": "' + b"c" * 50 + b'"}, "d": 1}]'),
        ("packing", targets, "unpacked", lambda *_: iter([b"abd"]), b"\0" + gzip.compress(b"abc", mtime=0)),
    ],
)
def test_the_targets_can_fail(
    monkeypatch: pytest.MonkeyPatch, name: str, module: Any, attribute: str, value: Any, data: bytes
) -> None:
    targets.TARGETS[name](data)
    monkeypatch.setattr(module, attribute, value)
    with pytest.raises(AssertionError):
        targets.TARGETS[name](data)
