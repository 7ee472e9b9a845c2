"""The plan: every cell in one task, tasks alike in size, nothing decided by who runs it, and records well mixed."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import SettingsError
from mosaic_ray.io.cells import Cell, CellTable, InputFile
from mosaic_ray.io.shapes import Shape
from mosaic_ray.runtime.plan import CELLS_PER_TASK, TASK_BYTES, Plan, TaskSpec, cell_records
from mosaic_ray.runtime.stats import perfect_shuffle_share
from mosaic_ray.runtime.task import row_spans, task_item

SHAPE = Shape(kind="prompt", columns={"instruction": "prompt", "response": "completion"})


def input_file(name: str, cells: CellTable, **changes: Any) -> InputFile:
    known: dict[str, Any] = {
        "uri_index": 0,
        "path": name,
        "format": "jsonl",
        "compression": None,
        "size": int(cells.column("length").sum()),
        "etag": None,
        "modified": None,
        "digest": "00",
        "shape": SHAPE,
        "rows": int(cells.column("rows").sum()),
        "records": int(cells.column("records").sum()),
        "staged": False,
    }
    return InputFile(name=name, cells=cells, **{**known, **changes})


def table(records: list[int]) -> CellTable:
    """Cells of so many records, with a blank row behind each."""
    rows = np.array(records, dtype=np.int64) + 1
    starts = np.cumsum(rows) - rows
    columns = {"row": starts, "rows": rows, "records": np.array(records), "offset": starts * 10, "length": rows * 10}
    return CellTable.of_columns({**columns, "group": rows * 0, "digest": rows * 0})


def even_file(name: str, records: int, cell: int, **changes: Any) -> InputFile:
    full, rest = divmod(records, cell)
    return input_file(name, table([cell] * full + [rest] * bool(rest)), **changes)


def contents(plan: Plan) -> list[list[tuple[int, Cell]]]:
    return [[(owner, cell) for owner, cells in spec.cells for cell in cells] for spec in plan]


INVENTORIES = st.lists(st.lists(st.integers(1, 20), max_size=30), max_size=6).map(
    lambda files: [input_file(f"f{n}", table(cells)) for n, cells in enumerate(files)]
)


class TestTasks:
    @given(INVENTORIES, st.integers(0, 2**63), st.integers(1, 200), st.integers(1, 4))
    def test_every_cell_in_one_task(self, files: list[InputFile], seed: int, size: int, epochs: int) -> None:
        plan = Plan(files, seed=seed, epochs=epochs, task_records=size)
        placed = Counter((owner, cell) for task in contents(plan) for owner, cell in task)
        assert placed == Counter((n, cell) for n, file in enumerate(files) for cell in file.cells)
        assert plan.records == sum(file.records for file in files) == sum(spec.records for spec in plan)
        assert plan.cells == sum(len(file.cells) for file in files)
        assert len(plan) == plan.tasks == len(list(plan)) == -(-plan.records // size)
        for index, spec in enumerate(plan):
            assert spec.index == index
            owners = [owner for owner, _ in spec.cells]
            assert owners == sorted(set(owners))
            for _, cells in spec.cells:
                assert [cell.row for cell in cells] == sorted(cell.row for cell in cells)

    @given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(0, 9), st.integers(64, 400))
    def test_tasks_are_alike_in_size(self, sizes: list[int], seed: int, size: int) -> None:
        cell = cell_records(size)
        files = [even_file(f"f{n}", records, cell) for n, records in enumerate(sizes)]
        made = [spec.records for spec in Plan(files, seed=seed, epochs=1, task_records=size)]
        assert max(made) - min(made) <= 2 * cell
        assert max(made) <= size + 2 * cell

    @given(st.lists(st.integers(1, 3000), min_size=1, max_size=8), st.integers(1, 9), st.integers(64, 400))
    def test_parts_divide_evenly_among_processes(self, sizes: list[int], world_size: int, size: int) -> None:
        cell = cell_records(size)
        files = [even_file(f"f{n}", records, cell) for n, records in enumerate(sizes)]
        few = sum(len(file.cells) for file in files) < 2 * world_size
        with suppress(SettingsError) if few else nullcontext():
            plan = Plan(files, seed=0, epochs=2, task_records=size, world_size=world_size)
            self.check_even(plan, sum(sizes), world_size, size)

    @staticmethod
    def check_even(plan: Plan, records: int, world_size: int, size: int) -> None:
        made = [spec.records for spec in plan]
        assert len(made) % world_size == 0
        assert len(made) < -(-records // size) + world_size
        assert min(made) > 0 or world_size == 1
        assert max(made) - min(made) <= 2 * cell_records(size)
        assert sum(made) == records

    def test_more_processes_than_cells(self) -> None:
        words = (
            r"world_size = 8: an epoch would have 8 parts, some of them empty: the 300 records of the input stand in 3 "
            r"cells of at most 128, which are not cut. Give fewer --task-records than 8192, or a smaller --world-size"
        )
        with pytest.raises(SettingsError, match=words):
            Plan([even_file("f", 300, 128)], seed=0, epochs=1, task_records=8192, world_size=8)

    @given(INVENTORIES, st.integers(0, 9))
    def test_equal_for_equal_input(self, files: list[InputFile], seed: int) -> None:
        plans = [Plan(files, seed=seed, epochs=2, task_records=30) for _ in range(2)]
        assert contents(plans[0]) == contents(plans[1])
        assert plans[0].digest == plans[1].digest

    def test_nothing_but_seed_and_cells_decides(self) -> None:
        files = [even_file(f"f{n}", 200, 3) for n in range(4)]
        plan = Plan(files, seed=1, epochs=2, task_records=96)
        dressed = [
            even_file(f"other{n}", 200, 3, uri_index=1, etag="e", modified="now", digest="ff", staged=True)
            for n in range(4)
        ]
        assert contents(Plan(dressed, seed=1, epochs=5, task_records=96)) == contents(plan)

    def test_another_seed_or_other_cells_are_another_plan(self) -> None:
        files = [even_file(f"f{n}", 200, 3) for n in range(4)]
        plans = [
            Plan(files, seed=1, epochs=2, task_records=96),
            Plan(files, seed=2, epochs=2, task_records=96),
            Plan(files, seed=1, epochs=3, task_records=96),
            Plan(files, seed=1, epochs=2, task_records=60),
            Plan([*files[:3], even_file("f3", 199, 3)], seed=1, epochs=2, task_records=96),
        ]
        assert len({plan.digest for plan in plans}) == len(plans)
        assert contents(plans[0]) != contents(plans[1])

    def test_large_records_make_smaller_tasks(self) -> None:
        def tasks(**changes: Any) -> int:
            return len(Plan([even_file("f", 1000, 10, **changes)], seed=0, epochs=1, task_records=8192))

        assert tasks(size=TASK_BYTES) == 1
        assert tasks(size=TASK_BYTES + 1) == 2
        assert tasks(size=TASK_BYTES // 2, compression="gzip") == 2
        assert tasks(size=TASK_BYTES // 2, format="parquet") == 2
        assert tasks(size=TASK_BYTES * 5) == 5

    def test_no_records_no_tasks(self) -> None:
        for files in ([], [input_file("empty", CellTable())]):
            plan = Plan(files, seed=0, epochs=2, task_records=10)
            assert (len(plan), plan.records, plan.cells, list(plan)) == (0, 0, 0, [])

    def test_a_million_cells(self) -> None:
        files = [even_file(f"f{n}", 1_000_000, 10) for n in range(10)]
        plan = Plan(files, seed=0, epochs=1, task_records=640)
        assert plan.cells == 1_000_000
        seen = Counter[int]()
        for index in range(0, len(plan), 1000):
            spec = plan.task(index)
            assert 620 <= spec.records <= 660
            seen.update(owner for owner, _ in spec.cells)
        assert set(seen) == set(range(10))


class TestParts:
    @given(st.integers(1, 400), st.integers(1, 5))
    def test_names_are_unique_contiguous_and_epoch_by_epoch(self, records: int, epochs: int) -> None:
        plan = Plan([even_file("f", records, 1)], seed=0, epochs=epochs, task_records=40)
        parts = sorted((part for task in range(len(plan)) for part in plan.parts(task)), key=lambda part: part.number)
        total = len(plan) * epochs
        assert [part.number for part in parts] == list(range(total))
        assert [part.name for part in parts] == [f"data/train-{n:05d}-of-{total:05d}.parquet" for n in range(total)]
        assert [part.name for part in parts] == sorted(part.name for part in parts)
        assert [part.epoch for part in parts] == sorted(part.epoch for part in parts)
        assert Counter(part.task for part in parts) == dict.fromkeys(range(len(plan)), epochs)
        assert [plan.number(part.name) for part in parts] == list(range(total))

    @pytest.mark.parametrize(
        "name",
        ["data/train-00020-of-00020.parquet", "data/train-00001-of-00021.parquet", "data/train-1-of-00020.parquet",
         "data/train-00001-of-00020.parquet.tmp", "data/train-\u0661-of-00020.parquet", "data/other", "x", ""],
    )  # fmt: skip
    def test_other_names_have_no_number(self, name: str) -> None:
        plan = Plan([even_file("f", 400, 1)], seed=0, epochs=2, task_records=40)
        assert plan.number("data/train-00019-of-00020.parquet") == 19
        assert plan.number(name) is None


def test_cells_are_a_sixty_fourth_of_a_task() -> None:
    assert [cell_records(n) for n in (1, 63, 64, 8192)] == [1, 1, 1, 128]
    assert CELLS_PER_TASK == 64


class TestItems:
    def test_an_item_has_files_without_their_tables(self) -> None:
        files = [even_file(f"f{n}", 200, 3) for n in range(4)]
        plan = Plan(files, seed=0, epochs=2, task_records=96)
        item = task_item(plan, plan.task(2))
        assert item.index == 2
        assert [part.epoch for part in item.parts] == [0, 1]
        assert all(len(file.cells) == 0 for file, _ in item.cells)
        assert [(file.name, cells) for file, cells in item.cells] == [
            (files[owner].name, cells) for owner, cells in plan.task(2).cells
        ]

    def test_it_is_described_by_files_and_rows(self) -> None:
        files = [even_file(f"f{n}", 30, 10) for n in range(5)]
        plan = Plan(files, seed=0, epochs=1, task_records=1000)
        assert str(task_item(plan, plan.task(0))) == (
            "task 0 (f0 rows 0-32, f1 rows 0-32, f2 rows 0-32 and 2 files more)"
        )
        (_, cells), *_ = TaskSpec(0, plan.task(0).cells).cells
        assert row_spans(cells) == [(0, 33)]
        assert row_spans([cells[0], cells[2]]) == [(0, 11), (22, 33)]


def mixed_pairs(plan: Plan, tiles: int) -> float:
    """The chance that a sample of so many records, drawn within a task, holds more than one file."""
    alike = samples = 0.0
    for spec in plan:
        n = spec.records
        counts = [sum(cell.records for cell in cells) for _, cells in spec.cells]
        alike += (n / tiles) * sum(np.prod([(c - j) / (n - j) for j in range(tiles)]) for c in counts if c >= tiles)
        samples += n / tiles
    return 1 - alike / samples


@pytest.mark.parametrize("files", [2, 20, 200])
@pytest.mark.parametrize("tiles", [2, 5])
@pytest.mark.parametrize("task_records", [512, 8192])
def test_a_sorted_corpus_is_mixed_nearly_as_by_a_perfect_shuffle(files: int, tiles: int, task_records: int) -> None:
    """Files of one task each, some ten times as large as others."""
    sizes = [40_000 // files * (10 if n % 7 == 0 else 1) for n in range(files)]
    cells = cell_records(task_records)
    made = [even_file(f"f{n:03d}", records, cells) for n, records in enumerate(sizes)]
    plan = Plan(made, seed=0, epochs=1, task_records=task_records)
    assert len(plan) > 1
    perfect = perfect_shuffle_share({str(tiles): 1}, sizes)
    assert mixed_pairs(plan, tiles) >= 0.95 * perfect
    # A stretch of the corpus as a task, which is what sorted input is without the plan, falls far behind.
    if files == 200 and task_records == 512:
        assert mixed_pairs(_stretches(plan), tiles) < 0.8 * perfect


def _stretches(plan: Plan) -> Plan:
    """The same plan with its cells left in the order of the input."""
    other = Plan(plan.files, seed=0, epochs=1, task_records=512)
    other._order = np.sort(other._order)
    return other
