from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_ray.errors import InputError, StorageError
from mosaic_ray.io import readers
from mosaic_ray.io.inventory import InputFile, find_inputs, input_storage, take_inventory
from mosaic_ray.io.parquet import Group
from mosaic_ray.io.readers import read_cells, read_rows
from mosaic_ray.io.shapes import to_record
from mosaic_ray.io.storage import Storage
from mosaic_ray.records import Message, Reject, Source

ROWS = [{"prompt": f"p {i} é", "completion": "c" * (i % 40)} for i in range(100)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


class Bench:
    """One input file with its inventory, and where its staged copy lies."""

    def __init__(self, folder: Path, name: str, data: bytes, *, cell_records: int = 10) -> None:
        (folder / "in").mkdir(exist_ok=True)
        self.path = folder / "in" / name
        self.path.write_bytes(data)
        self.source = input_storage(str(folder / "in"))
        self.stage = Storage.at(str(folder / "out"), error=StorageError)
        (found,) = find_inputs([str(folder / "in")]).files
        self.file = take_inventory(found, source=self.source, cell_records=cell_records, stage=self.stage)

    def cells(self, *wanted: int) -> list[readers.Row]:
        chosen = [self.file.cells[i] for i in wanted] if wanted else list(self.file.cells)
        return list(read_cells(self.file, chosen, source=self.source, stage=self.stage))

    def rows(self, *ranges: tuple[int, int]) -> list[readers.Row]:
        return list(read_rows(self.file, ranges, source=self.source))


def parquet_bytes(table: pa.Table, **options: Any) -> bytes:
    written = pa.BufferOutputStream()
    pq.write_table(table, written, **options)
    return bytes(written.getvalue())


def packed(kind: str, rows: Sequence[Mapping[str, Any]] = ROWS) -> tuple[str, bytes]:
    text = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    return {
        "lines": ("a.jsonl", text),
        "gz": ("a.jsonl.gz", gzip.compress(text, mtime=0)),
        "zst": ("a.jsonl.zst", zstandard.compress(text)),
        "array": ("a.json", json.dumps(rows, indent=1).encode()),
        "packed array": ("a.json.gz", gzip.compress(json.dumps(rows, ensure_ascii=False).encode(), mtime=0)),
        "parquet": ("a.parquet", parquet_bytes(pa.Table.from_pylist(list(rows)), row_group_size=37)),
        "one group": ("a.parquet", parquet_bytes(pa.Table.from_pylist(list(rows)))),
    }[kind]


KINDS = ("lines", "gz", "zst", "array", "packed array", "parquet", "one group")


@pytest.mark.parametrize("cell_records", [3, 10, 13, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str, cell_records: int) -> None:
    bench = Bench(tmp_path, *packed(kind), cell_records=cell_records)
    expected = [(Source(bench.file.name, i), row) for i, row in enumerate(ROWS)]
    assert bench.cells() == expected
    assert bench.rows((0, 100)) == expected
    assert bench.rows((90, 95), (0, 2), (40, 41), (41, 43)) == expected[:2] + expected[40:43] + expected[90:95]
    cells = bench.file.cells
    for i in range(0, len(cells), 7):
        assert bench.cells(i) == expected[cells[i].row : cells[i].row + cells[i].rows]
    last, first = cells[len(cells) - 1], cells[0]
    if len(cells) > 1:
        assert bench.cells(len(cells) - 1, 0) == expected[: first.rows] + expected[last.row :]
    assert list(read_cells(bench.file, [], source=bench.source)) == []
    assert bench.rows() == bench.rows((5, 5)) == []


texts = st.text(st.characters(codec="utf-8"), max_size=6)
lines = st.one_of(
    st.dictionaries(st.sampled_from(["prompt", "completion", "x"]), texts | st.integers() | st.none()).map(
        lambda row: json.dumps(row, ensure_ascii=False).encode()
    ),
    st.sampled_from([b"", b" ", b"\t", b"[1]", b"oops", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"\xc3"]),
)
ENOUGH = b'{"prompt": "p", "completion": "c"}'


@settings(max_examples=60, deadline=None)
@given(
    st.lists(lines, max_size=30), st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.booleans(), st.integers(1, 12)
)
def test_all_cells_together_are_all_rows(
    parts: list[bytes], ending: bytes, final: bool, bom: bool, cell_records: int
) -> None:
    """Plain, packed and staged files of the same lines give the same rows and rejects, whatever the cells."""
    text = ending.join([ENOUGH, *parts]) + (ending if final else b"")
    data = (b"\xef\xbb\xbf" if bom else b"") + text
    expected = [number for number, line in enumerate(text.split(b"\n")) if line.strip()]
    results = []
    for name, pack in (("a.jsonl", bytes), ("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), name, pack(data), cell_records=cell_records)
            file = bench.file
            assert all(0 < cell.records <= cell_records for cell in file.cells)
            assert file.records == len(expected)
            one_by_one = [row for i in range(len(file.cells)) for row in bench.cells(i)]
            assert one_by_one == bench.cells() == bench.rows((0, file.rows))
            assert file.staged == (name != "a.jsonl" and len(file.cells) > 8)
            results.append([(place.row, _bare(row)) for place, row in one_by_one])
    assert [row for row, _ in results[0]] == expected
    assert results[0] == results[1] == results[2]


def _bare(row: Mapping[str, Any] | Reject) -> Any:
    return (row.reason, row.detail, row.excerpt) if isinstance(row, Reject) else row


@pytest.mark.parametrize("kind", ["lines", "gz"])
def test_lines_that_cannot_be_read_are_rejected_one_by_one(tmp_path: Path, kind: str) -> None:
    data = ENOUGH + b'\n{"prompt": "caf\xe9"}\n\n{"prompt": \n[1, 2]\n' + ENOUGH + b"\n" + b'"' + b"x" * 500
    name = "a.jsonl"
    if kind == "gz":
        name, data = "a.jsonl.gz", gzip.compress(data, mtime=0)
    rows = Bench(tmp_path, name, data).cells()
    assert [place.row for place, _ in rows] == [0, 1, 3, 4, 5, 6]
    assert [_bare(row) for _, row in rows[1:4]] == [
        ("not_utf8", "byte 15 of the row is 0xe9", '{"prompt": "caf\\xe9"}'),
        ("not_json", "Expecting value at character 12 of the row", '{"prompt":'),
        ("not_an_object", "it is of type list", "[1, 2]"),
    ]
    cut = rows[5][1]
    assert isinstance(cut, Reject)
    assert cut.reason == "not_json"
    assert len(cut.excerpt) == 200
    assert all(row.source == place for place, row in rows if isinstance(row, Reject))


def test_elements_of_an_array_are_rejected_one_by_one(tmp_path: Path) -> None:
    rows = Bench(tmp_path, "a.json", b'[{"prompt": "p", "completion": "c"}, 7, {"prompt": "\xff"}, null]').cells()
    assert [_bare(row)[0] for _, row in rows[1:]] == ["not_an_object", "not_utf8", "not_an_object"]


class TestParquet:
    def test_only_the_columns_of_the_shape_are_read(self, tmp_path: Path) -> None:
        table = pa.Table.from_pylist([{"completion": "c", "id": 1, "prompt": "p", "score": 0.5}])
        bench = Bench(tmp_path, "a.parquet", parquet_bytes(table))
        assert bench.cells() == [(Source("a.parquet", 0), {"prompt": "p", "completion": "c"})]

    @pytest.mark.parametrize("cell_records", [1, 100])
    @pytest.mark.parametrize("kind", [pa.large_string(), "dictionary", pa.string_view()])
    def test_kinds_of_strings(self, tmp_path: Path, kind: Any, cell_records: int) -> None:
        values = [f"é{i}" for i in range(20)]
        column = pa.array(values).dictionary_encode() if kind == "dictionary" else pa.array(values).cast(kind)
        bench = Bench(
            tmp_path,
            "a.parquet",
            parquet_bytes(pa.table({"prompt": column, "completion": column})),
            cell_records=cell_records,
        )
        assert [row for _, row in bench.cells()] == [{"prompt": text, "completion": text} for text in values]

    @pytest.mark.parametrize("cell_records", [1, 100])
    def test_nested_conversations(self, tmp_path: Path, cell_records: int) -> None:
        chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        table = pa.Table.from_pylist([{"messages": chat}] * 20)
        bench = Bench(tmp_path, "a.parquet", parquet_bytes(table), cell_records=cell_records)
        assert bench.file.staged == (cell_records == 1)
        assert [row for _, row in bench.cells()] == [{"messages": chat}] * 20

    @pytest.mark.parametrize("cell_records", [1, 100])
    def test_odd_values_are_rejected_for_the_same_reason_staged_or_not(self, tmp_path: Path, cell_records: int) -> None:
        good = pa.array(["c"] * 20)
        for number, column in enumerate(
            [
                pa.array([b"bytes"] * 20),
                pa.array([datetime(2020, 1, 1)] * 20),
                pa.array([None] * 20, pa.string()),
                pa.array([1.5] * 20),
                pa.array([float("nan")] * 20),
                pa.array([["x"]] * 20),
            ]
        ):
            (tmp_path / str(number)).mkdir()
            data = parquet_bytes(pa.table({"prompt": column, "completion": good}))
            bench = Bench(tmp_path / str(number), "a.parquet", data, cell_records=cell_records)
            for place, row in bench.cells():
                assert not isinstance(row, Reject)
                made = to_record(row, bench.file.shape, place, multi_turn="pass")
                assert isinstance(made, Reject)
                assert made.reason == "not_a_string"

    @pytest.mark.parametrize("cell_records", [1, 100])
    def test_text_that_is_not_utf8_spoils_one_row(self, tmp_path: Path, cell_records: int) -> None:
        values = [b"fine"] * 9 + [b"caf\xe9"] + [b"fine"] * 10
        offsets = pa.py_buffer(b"".join(sum(map(len, values[:i])).to_bytes(4, "little") for i in range(21)))
        column = pa.StringArray.from_buffers(20, offsets, pa.py_buffer(b"".join(values)))
        data = parquet_bytes(pa.table({"prompt": column, "completion": pa.array(["c"] * 20)}), use_dictionary=False)
        rows = Bench(tmp_path, "a.parquet", data, cell_records=cell_records).cells()
        assert [place.row for place, row in rows if isinstance(row, Reject)] == [9]
        assert _bare(rows[9][1])[0] == "not_utf8"
        assert rows[10][1] == {"prompt": "fine", "completion": "c"}

    def test_a_damaged_page_is_named(self, tmp_path: Path) -> None:
        table = pa.table({"prompt": [str(i) * 50 for i in range(1000)], "completion": ["c"] * 1000})
        bench = Bench(tmp_path, "a.parquet", parquet_bytes(table, compression="zstd"), cell_records=1000)
        data = bytearray(bench.path.read_bytes())
        data[100:200] = bytes(100)
        (tmp_path / "in/a.parquet").write_bytes(data)
        (found,) = find_inputs([str(tmp_path / "in")]).files
        file = take_inventory(found, source=bench.source, cell_records=1000)
        with pytest.raises(InputError, match=r"/in/a\.parquet: this is no Parquet file that can be read .*copy it"):
            list(read_cells(file, file.cells, source=bench.source))


class TestChanges:
    """A file that is not what it was when the inventory was taken."""

    WORDS = r"/in/a.*: the file has changed since this run took its inventory; .*start again with a new output"

    @pytest.mark.parametrize("kind", KINDS)
    def test_another_length(self, tmp_path: Path, kind: str) -> None:
        bench = Bench(tmp_path, *packed(kind))
        bench.path.write_bytes(packed(kind, ROWS[:99])[1])
        with pytest.raises(InputError, match=self.WORDS):
            bench.cells()
        with pytest.raises(InputError, match=self.WORDS):
            bench.rows((0, 1))

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_same_length(self, tmp_path: Path, kind: str) -> None:
        bench = Bench(tmp_path, *packed(kind))
        data = bytearray(bench.path.read_bytes())
        data[len(data) // 2] ^= 1
        bench.path.write_bytes(data)
        with pytest.raises(InputError, match=self.WORDS):
            bench.cells()
        with pytest.raises(InputError, match=self.WORDS):
            bench.rows((0, 100))

    def test_fewer_rows_in_as_many_bytes(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, "a.json", json.dumps(ROWS).encode())
        state = bench.path.stat()
        bench.path.write_bytes(json.dumps(ROWS[:50]).encode().ljust(state.st_size))
        os.utime(bench.path, ns=(state.st_atime_ns, state.st_mtime_ns))
        with pytest.raises(InputError, match=self.WORDS):
            bench.rows((0, 100))

    def test_lines_that_were_only_touched_are_fine(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, "a.jsonl", LINES)
        bench.path.write_bytes(LINES)
        assert len(bench.cells()) == 100

    def test_only_the_cells_read_must_be_the_same(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, "a.jsonl", LINES)
        bench.path.write_bytes(LINES.replace(b'"p 99', b'"q 99'))
        assert len(bench.cells(0, 1)) == 20
        with pytest.raises(InputError, match=self.WORDS):
            bench.cells(9)

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, "a.jsonl", LINES)
        bench.path.unlink()
        with pytest.raises(InputError, match=r"/in/a\.jsonl: there is no such file"):
            bench.cells()

    def test_a_staged_copy_that_is_not_what_was_written(self, tmp_path: Path) -> None:
        bench = Bench(tmp_path, *packed("gz"), cell_records=5)
        copy = tmp_path / "out" / bench.file.staged_path
        data = bytearray(copy.read_bytes())
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)
        with pytest.raises(StorageError, match=r"\.zst: the staged copy of a\.jsonl\.gz is not what the inventory"):
            bench.cells()
        assert len(bench.rows((0, 100))) == 100
        copy.unlink()
        with pytest.raises(StorageError, match=r"\.zst: there is no such file"):
            bench.cells()


def test_row_groups_are_read_in_runs_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [Group(number, 10 * number, 10) for number in range(10)]
    monkeypatch.setattr(readers, "_AT_ONCE", 2000)
    runs = readers._group_runs(groups, [(5, 6), (12, 38), (95, 100)], size=lambda _: 1000)
    assert [[group.number for group in run] for run in runs] == [[0, 1], [2, 3], [9]]
    assert list(readers._group_runs(groups, [(100, 120)], size=lambda _: 1000)) == []


def test_a_row_reads_to_the_same_record_in_every_format(tmp_path: Path) -> None:
    """Whatever the container: the record a row holds is the same."""
    records: list[list[Any]] = []
    for kind in KINDS:
        folder = tmp_path / kind
        folder.mkdir()
        bench = Bench(folder, *packed(kind), cell_records=7)
        file: InputFile = bench.file
        made = [to_record(cast(dict[str, Any], row), file.shape, at, multi_turn="pass") for at, row in bench.cells()]
        records.append([one.reason if isinstance(one, Reject) else one.messages for one in made])
    assert all(one == records[0] for one in records)
    assert records[0][:2] == ["empty_response", (Message("user", "p 1 é"), Message("assistant", "c"))]
