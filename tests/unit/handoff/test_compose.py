"""Composing epochs on the fly: what the data set holds, row for row, and then ever new ones."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import mosaic_ray
from mosaic_ray.errors import SettingsError, VerificationError
from mosaic_ray.handoff.compose import Composer
from mosaic_ray.handoff.loader import Loader
from mosaic_ray.io.manifest import dataset_digest
from tests.unit.handoff.conftest import change_manifest, write_dataset

NEW = 5
"""An epoch that the data set of these tests does not hold."""


def load(made: Path, **options: Any) -> Loader:
    return mosaic_ray.load(made, **{"batch_size": 4, "materialize": False, **options})


@pytest.mark.parametrize(("view", "world_size"), [("messages", 3), ("tokenized", 1), ("packed-512", 2)])
def test_epochs_of_the_data_set_come_out_row_for_row(made: Path, view: str, world_size: int) -> None:
    composed, read = (
        load(made, view=view, rank=world_size - 1, world_size=world_size, materialize=materialize)
        for materialize in (False, True)
    )
    for epoch in range(2):
        assert composed.epoch == read.epoch == epoch
        assert list(composed) == list(read)


def test_the_states_of_both_are_one_while_the_data_set_lasts(made: Path) -> None:
    whole = list(load(made))
    read = load(made, materialize=True)
    iterator = iter(read)
    next(iterator)
    composed = load(made)
    composed.load_state_dict(read.state_dict())
    assert list(pickle.loads(pickle.dumps(composed))) == whole[1:], "also in another process"
    read.set_epoch(2)
    with pytest.raises(SettingsError, match="materialize True there, False here"):
        composed.load_state_dict(read.state_dict())


def test_a_new_epoch_tiles_the_corpus_anew(made: Path) -> None:
    loader = load(made, batch_size=1)
    loader.set_epoch(NEW)
    with pytest.raises(TypeError, match=f"epoch {NEW} is composed on the fly, so its length is not known"):
        len(loader)
    rows = [row for batch in loader for row in batch]
    held = [row for batch in load(made, batch_size=1) for row in batch]

    def records(rows: list[dict[str, Any]]) -> Counter[tuple[str, int]]:
        return Counter((source["file"], source["row"]) for row in rows for source in row["sources"])

    assert records(rows) == records(held)
    assert {row["epoch"] for row in rows} == {NEW}
    assert len({row["mosaic_id"] for row in rows}) == len(rows)
    assert [row["messages"] for row in rows] != [row["messages"] for row in held]


@pytest.mark.parametrize("remainder", ["drop", "repeat"])
def test_a_new_epoch_goes_on_in_the_middle_with_other_ranks_and_composes_only_what_is_left(
    made: Path, remainder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load(made, batch_size=1)
    whole.set_epoch(NEW)
    wanted = [row for batch in whole for row in batch]
    first = [load(made, rank=rank, world_size=2, batch_size=10, remainder=remainder) for rank in range(2)]
    seen: list[Any] = []
    for loader in first:
        loader.set_epoch(NEW)
    for _, *batches in zip(range(4), *first, strict=False):
        seen += [row for round_ in zip(*batches, strict=True) for row in round_]
        states = [loader.state_dict() for loader in first]
    assert states[0] == states[1]
    assert states[0]["block_turn"] > 0
    composed: list[int] = []
    table = Composer.table
    monkeypatch.setattr(
        Composer,
        "table",
        lambda self, epoch, task: composed.append(task) or table(self, epoch, task),
    )
    for rank in range(3):
        loader = load(made, rank=rank, world_size=3, remainder=remainder)
        loader.load_state_dict(states[0])
        mine = [row for batch in loader for row in batch]
        left = len(wanted) - len(seen)
        rounds = left // 3 if remainder == "drop" else -(-left // 3)
        assert mine == [*wanted, *wanted][len(seen) + rank :: 3][:rounds]
    if remainder == "drop":
        assert len(composed) == 3 * (4 - states[0]["block_turn"])


def test_columns_of_composed_rows(made: Path) -> None:
    loader = load(made, columns=["token_count", "messages"])
    loader.set_epoch(NEW)
    assert list(next(iter(loader))[0]) == ["token_count", "messages"]
    assert list(next(iter(load(made, columns=["token_count", "messages"], materialize=True)))[0]) == [
        "token_count",
        "messages",
    ]


def test_rows_that_the_data_set_does_not_have_are_refused(made: Path, tmp_path: Path) -> None:
    """As after a change of the source that size and time do not show, or with another version of the package."""
    output = shutil.copytree(made, tmp_path / "out")

    def change(manifest: dict[str, Any]) -> None:
        manifest["parts"][1]["content_digest"] = "v1:0"
        manifest["dataset_digest"] = dataset_digest(manifest["parts"], manifest["rejects"]["parts"])

    change_manifest(output, change)
    with pytest.raises(VerificationError, match=r"00001-of-00008.parquet: composed .* other rows .* materialize=True"):
        list(load(output))
    loader = load(output)
    loader.set_epoch(1)
    assert list(loader)


def test_another_run_is_refused(made: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", [[3, 4]])
    shutil.copytree(made / "_mosaic", other / "_mosaic")
    with pytest.raises(
        VerificationError,
        match=r"_mosaic: keeps another run than the one that made .*/other. Load that with materialize=True",
    ):
        load(other)
