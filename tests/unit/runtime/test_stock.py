"""How the files of an input are shared out among workers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.io.cells import FoundFile
from mosaic_ray.runtime.stock import BATCH_BYTES, BATCH_FILES, _batches, _names


def files_of(sizes: list[int]) -> list[FoundFile]:
    return [FoundFile(f"f{n}", 0, f"f{n}", size, None, None) for n, size in enumerate(sizes)]


@given(st.lists(st.integers(0, BATCH_BYTES + 5) | st.integers(0, 1000), max_size=300))
def test_batches_keep_the_order_and_their_limits(sizes: list[int]) -> None:
    files = files_of(sizes)
    batches = list(_batches(files))
    assert [file for batch in batches for file in batch] == files
    for batch in batches:
        assert 1 <= len(batch) <= BATCH_FILES
        assert len(batch) == 1 or sum(file.size for file in batch) <= BATCH_BYTES


def test_small_files_go_together_and_a_large_one_alone() -> None:
    sizes = [1] * (2 * BATCH_FILES) + [BATCH_BYTES + 1, 1]
    assert [len(batch) for batch in _batches(files_of(sizes))] == [BATCH_FILES, BATCH_FILES, 1, 1]


def test_a_batch_is_named_by_its_first_file() -> None:
    assert _names(files_of([1])) == "f0"
    assert _names(files_of([1, 1, 1])) == "f0 and 2 files more"
