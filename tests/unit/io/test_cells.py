from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.io.cells import (
    Cell,
    CellTable,
    InputFile,
    from_arrow,
    from_parquet,
    same_content,
    to_arrow,
    to_parquet,
)
from mosaic_ray.io.shapes import Shape


def cells_of(counts: list[int]) -> list[Cell]:
    """Byte ranges of as many rows each."""
    made: list[Cell] = []
    row = 0
    for index, count in enumerate(counts):
        mark = f"{(index * 0x9E3779B97F4A7C15 + 255) % 2**64:016x}"
        made.append(Cell(row=row, rows=count, records=count - 1, offset=row * 10, length=count * 10, digest=mark))
        row += count
    return made


def file_of(cells: list[Cell], **changes: Any) -> InputFile:
    file = InputFile(
        name="a/b é.jsonl",
        uri_index=1,
        path="a/b é.jsonl",
        format="jsonl",
        compression=None,
        size=1 << 40,
        etag="abc",
        modified=None,
        digest="00ff",
        shape=Shape(kind="columns", columns={"instruction": "q", "response": "a"}),
        rows=sum(cell.rows for cell in cells),
        records=sum(cell.records for cell in cells),
        staged=False,
        cells=CellTable(cells),
    )
    return replace(file, **changes)


counts = st.lists(st.integers(1, 2**31 - 1), max_size=6)


@given(counts)
def test_a_table_of_cells_gives_them_back(counts: list[int]) -> None:
    cells = cells_of(counts)
    table = CellTable(cells)
    assert list(table) == cells
    assert [table[i] for i in range(len(table))] == cells
    assert list(table[1:]) == cells[1:]
    assert table == CellTable(cells)
    assert pickle.loads(pickle.dumps(table)) == table


def test_a_cell_without_bytes_has_no_digest() -> None:
    cells = [Cell(row=0, rows=2, records=2), Cell(row=2, rows=1, records=1, offset=2, group=3)]
    assert list(CellTable(cells)) == cells


def test_a_cell_costs_44_bytes() -> None:
    few, many = (len(pickle.dumps(CellTable(cells_of([1] * count)))) for count in (10, 1010))
    assert many - few < 44_010


def test_the_cells_that_hold_rows() -> None:
    table = CellTable(cells_of([3, 2, 5]))
    assert [list(table.covering(first, end)) for first, end in ((0, 1), (2, 4), (3, 5), (0, 10), (9, 10), (4, 4))] == [
        [0],
        [0, 1],
        [1],
        [0, 1, 2],
        [2],
        [],
    ]
    assert list(CellTable().covering(0, 5)) == []


@given(st.lists(counts, max_size=4))
def test_files_survive_the_table_on_disk(files: list[list[int]]) -> None:
    made = [file_of(cells_of(counts), name=str(i), etag=[None, "e"][i % 2]) for i, counts in enumerate(files)]
    written = io.BytesIO()
    pq.write_table(to_arrow(made), written)
    assert from_arrow(pq.read_table(io.BytesIO(written.getvalue()))) == made


def test_a_large_inventory_is_written_and_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [file_of(cells_of([2] * (n % 4)), name=str(n)) for n in range(20)]
    whole = to_parquet(made)
    monkeypatch.setattr("mosaic_ray.io.cells.GROUP_CELLS", 7)
    pieces = to_parquet(made)
    groups = [pq.ParquetFile(io.BytesIO(data)).num_row_groups for data in (whole, pieces, to_parquet([]))]
    assert groups == [1, 4, 0]
    assert from_parquet(whole) == from_parquet(pieces) == made
    assert from_parquet(to_parquet([])) == []
    assert len({id(file.shape) for file in from_parquet(whole)}) == 1


def test_cells_are_picked_by_their_indices() -> None:
    cells = cells_of([3, 2, 5])
    assert CellTable(cells).pick(np.array([0, 2])) == (cells[0], cells[2])


def test_a_table_of_another_version_is_refused_with_both_schemas() -> None:
    with pytest.raises(ValueError, match=r"(?s)name: string.*where this version needs.*cell_digest"):
        from_arrow(pa.table({"name": ["a"]}))


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ({"digest": "1"}, {"digest": "1", "etag": "other", "size": 3}, True),
        ({"digest": "1"}, {"digest": "2"}, False),
        ({"digest": None}, {"digest": "1"}, True),
        ({"digest": None}, {"digest": None, "etag": "other"}, False),
        ({"digest": None}, {"digest": None, "size": 3}, False),
        ({"digest": None, "etag": None}, {"digest": None, "etag": None}, False),
        ({"digest": None, "modified": "1"}, {"digest": None, "modified": "2"}, True),
    ],
)
def test_the_same_content(a: dict[str, Any], b: dict[str, Any], same: bool) -> None:
    one, two = file_of([], **a), file_of([], **b)
    assert same_content(one, two) is same
    assert same_content(two, one) is same


def test_staged_paths_differ_by_name_and_content() -> None:
    one, two = file_of([], name="a/b.json"), file_of([], name="a_b.json")
    assert one.staged_path.startswith("_mosaic/staged/")
    assert one.staged_path.endswith(".jsonl.zst")
    assert one.staged_path != two.staged_path
    assert one.staged_path == file_of([], name="a/b.json", uri_index=0).staged_path
    assert one.staged_path != file_of([], name="a/b.json", etag="another").staged_path
    assert one.staged_path != file_of([], name="a/b.json", size=1).staged_path
