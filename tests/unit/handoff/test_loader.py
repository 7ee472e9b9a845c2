"""``mosaic_ray.load`` over real files: the stream, its state, and what it refuses on the way."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mosaic_ray
from mosaic_ray.errors import DriftError, InputError, SettingsError, VerificationError
from mosaic_ray.handoff.loader import Loader
from tests.unit.handoff.conftest import change_manifest, ids, write_dataset


def load(address: Path | str, **options: Any) -> Loader:
    return mosaic_ray.load(address, **{"batch_size": 3, **options})


def ranks_of(address: Path, world_size: int, **options: Any) -> list[list[list[int]]]:
    return [ids(load(address, rank=rank, world_size=world_size, **options)) for rank in range(world_size)]


SIZES = st.lists(st.integers(1, 6), min_size=2, max_size=4)
LEG = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))


@settings(max_examples=15)
@given(st.lists(SIZES, min_size=1, max_size=2), st.integers(1, 3), st.lists(LEG, min_size=1, max_size=3))
def test_a_stream_over_parquet_is_the_same_however_it_is_cut(
    epochs: list[list[int]], lanes: int, legs: list[tuple[int, int, int]]
) -> None:
    """legs: ranks, batch size, and batches until the interruption; the last runs to the end of its epoch."""
    with tempfile.TemporaryDirectory() as folder:
        address = write_dataset(Path(folder) / "set", [[size + 1 for size in sizes] for sizes in epochs], lanes=lanes)
        wanted = [n for batch in ids(load(address, seed=5)) for n in batch]
        state: dict[str, Any] | None = None
        seen: list[int] = []
        for number, (world_size, batch_size, until) in enumerate(legs):
            got, states = [], []
            for rank in range(world_size):
                loader = load(address, seed=5, rank=rank, world_size=world_size, batch_size=batch_size)
                if state is not None:
                    loader.load_state_dict(state)
                mine: list[list[int]] = []
                for batch in loader if number == len(legs) - 1 or until else ():
                    mine += ids([batch])
                    if number < len(legs) - 1 and len(mine) == until:
                        break
                got.append(mine)
                states.append(loader.state_dict())
            assert all(found == states[0] for found in states)
            assert len({tuple(map(len, mine)) for mine in got}) == 1
            for together in zip(*got, strict=True):
                seen += [n for round_ in zip(*together, strict=True) for n in round_]
            state = states[0]
            if state["epoch"] == 1:
                break
        assert seen == wanted[: len(seen)]
        assert len(wanted) - len(seen) < world_size


def test_epochs_follow_one_another_and_come_again_in_another_order(dataset: Path) -> None:
    loader = load(dataset)
    first, second, third, fourth = (sorted(flat := [n for b in ids(loader) for n in b]) and flat for _ in range(4))
    assert sorted(first) == sorted(third) == list(range(20))
    assert sorted(second) == sorted(fourth) == list(range(20, 42))
    assert first != third
    assert first != list(range(20))
    loader.set_epoch(2)
    assert [n for b in ids(loader) for n in b] == third


def test_the_length_is_that_of_the_epoch_on_every_rank(dataset: Path) -> None:
    for world_size, remainder, lengths in ((1, "drop", (7, 8)), (3, "drop", (2, 3)), (3, "repeat", (3, 3))):
        loader = load(dataset, rank=0, world_size=world_size, remainder=remainder)
        assert (len(loader), len(list(loader)), len(loader), len(list(loader))) == tuple(
            length for length in lengths for _ in range(2)
        )


def test_rounds_are_dropped_or_filled_from_the_start(dataset: Path) -> None:
    dropped = [n for mine in ranks_of(dataset, 3) for batch in mine for n in batch]
    assert len(dropped) == len(set(dropped)) == 18
    repeated = [n for mine in ranks_of(dataset, 3, remainder="repeat") for batch in mine for n in batch]
    assert len(repeated) == 21
    assert set(repeated) == set(range(20))


def test_as_it_lies_without_shuffle(tmp_path: Path) -> None:
    assert ids(load(write_dataset(tmp_path / "set", [[2, 3]]), shuffle=False)) == [[0, 1, 2], [3, 4]]


def test_an_iteration_left_early_begins_again_where_the_loader_stood(dataset: Path) -> None:
    loader = load(dataset)
    whole = ids(load(dataset))
    assert ids([next(iter(loader))]) == whole[:1]
    assert loader.state_dict()["position"] == 3
    iterator = iter(loader)
    assert ids([next(iterator), next(iterator)]) == whole[:2]
    resumed = load(dataset)
    resumed.load_state_dict(loader.state_dict())
    next(iterator)  # of the loader that was saved, so it changes nothing here
    assert ids([next(iter(resumed))]) == whole[2:3]
    assert ids(resumed) == whole[2:]
    assert resumed.state_dict()["epoch"] == resumed.epoch == 1


def test_an_iteration_that_a_later_one_replaced_counts_no_more(dataset: Path) -> None:
    loader = load(dataset)
    old = iter(loader)
    next(old)
    new = iter(loader)
    next(new)
    list(old)
    assert (loader.state_dict()["epoch"], loader.state_dict()["position"]) == (0, 3)


def test_a_state_of_the_last_batch_ends_the_epoch_and_not_the_next(dataset: Path) -> None:
    """As a loop has it that saves after every step: resumed, it must not train an epoch too many, or too few."""
    loader = load(dataset)
    states = [loader.state_dict() for _ in loader]
    resumed = load(dataset)
    resumed.load_state_dict(states[-1])
    resumed.set_epoch(states[-1]["epoch"])
    assert list(resumed) == []
    assert ids(resumed) == ids(loader)


def test_setting_another_epoch_leaves_the_position(dataset: Path) -> None:
    loader = load(dataset)
    next(iter(loader))
    loader.load_state_dict(loader.state_dict())
    loader.set_epoch(0)
    assert loader.state_dict()["position"] == 3
    loader.set_epoch(1)
    assert loader.state_dict()["position"] == 0
    with pytest.raises(SettingsError, match="epoch -1: epochs count from 0"):
        loader.set_epoch(-1)


def test_a_loader_can_be_sent_to_another_process(dataset: Path) -> None:
    sent = pickle.loads(pickle.dumps(load(dataset)))
    assert ids(sent) == ids(load(dataset))


def test_batches_are_what_collate_fn_makes(dataset: Path) -> None:
    loader = load(dataset, collate_fn=lambda rows: sum(row["id"] for row in rows), columns=["id"])
    assert list(loader) == [sum(batch) for batch in ids(load(dataset))]
    assert next(iter(load(dataset, columns=["text"]))).pop().keys() == {"text"}


def test_parts_are_kept_by_their_digest_and_checked_when_read_again(dataset: Path, tmp_path: Path) -> None:
    kept = tmp_path / "cache"
    whole = ids(load(dataset, cache=kept))
    assert len(list(kept.iterdir())) == 3
    shutil.rmtree(dataset / "data")
    assert ids(load(dataset, cache=kept)) == whole
    next(kept.iterdir()).write_bytes(b"cut off")
    with pytest.raises(VerificationError, match="missing"):
        list(load(dataset, cache=kept))


def test_a_damaged_copy_in_the_cache_is_read_anew(dataset: Path, tmp_path: Path) -> None:
    kept = tmp_path / "cache"
    whole = ids(load(dataset, cache=kept))
    damaged = next(kept.iterdir())
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + b"x")
    assert ids(load(dataset, cache=kept)) == whole
    assert damaged.read_bytes() == data


def test_without_workers_no_torch_is_imported(dataset: Path) -> None:
    code = (
        f"import sys, mosaic_ray; assert 'pyarrow' not in sys.modules\n"
        f"n = sum(map(len, mosaic_ray.load({str(dataset)!r}, batch_size=4)))\n"
        "print(n, [m for m in ('torch', 'ray', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "20 []\n"


def test_a_missing_column_names_the_views_there_are(made: Path) -> None:
    for materialize in (True, False):
        with pytest.raises(SettingsError, match=r"no column 'labels', only messages, .*: packed-512, tokenized"):
            load(made, columns=["labels"], materialize=materialize)


def test_a_state_of_another_stream_is_refused(dataset: Path, tmp_path: Path) -> None:
    state = load(dataset).state_dict()
    other = write_dataset(tmp_path / "other", [[20]], first=1)
    refusal = "the state is of another stream: dataset_digest v1:\\w+ there, v1:\\w+ here; lanes 2 there, 1 here"
    with pytest.raises(SettingsError, match=refusal):
        load(other).load_state_dict(state)
    with pytest.raises(SettingsError, match=r"seed 0 there, 1 here. Load what it was saved with"):
        load(dataset, seed=1).load_state_dict(state)
    with pytest.raises(SettingsError, match="shuffle True there, False here"):
        load(dataset, shuffle=False).load_state_dict(state)
    with pytest.raises(SettingsError, match="state of version 2, where this version of mosaic_ray reads 1"):
        load(dataset).load_state_dict({**state, "version": 2})
    for broken in ({}, {**state, "position": None}, {k: v for k, v in state.items() if k != "seed"}):
        with pytest.raises(SettingsError, match="not a state of this loader"):
            load(dataset).load_state_dict(broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": -1}, "epoch -1, position 3: both count from 0"),
        ({"position": -3}, "epoch 0, position -3: both count from 0"),
        ({"position": 40}, "position 40 of epoch 0, which has 20 samples"),
        ({"block_turn": 9}, "position 3 in the block of turn 9, which begins at 0"),
        ({"block_start": 4}, "position 3 in the block of turn 0, which begins at 4"),
        ({"position": 1.5}, "TypeError"),
    ],
)
def test_a_place_that_no_stream_stands_in_is_refused(dataset: Path, change: dict[str, Any], words: str) -> None:
    loader = load(dataset)
    next(iter(loader))
    state = loader.state_dict()
    with pytest.raises(SettingsError, match=rf"not a state of this loader \(.*{words}.*Give what its state_dict"):
        loader.load_state_dict({**state, **change})
    assert loader.state_dict() == state


def test_the_end_of_an_epoch_filled_up_for_many_ranks_is_a_place_for_one(dataset: Path) -> None:
    loader = load(dataset, rank=0, world_size=11, remainder="repeat")
    states = [loader.state_dict() for _ in loader]
    assert states[-1]["position"] == 22
    resumed = load(dataset)
    resumed.load_state_dict(states[-1])
    assert list(resumed) == []


def test_lost_and_damaged_parts_are_named_with_the_remedy(dataset: Path) -> None:
    part = dataset / "data" / "train-00001-of-00006.parquet"
    whole = part.read_bytes()
    for data, problem in (
        (whole[:-1], f"less than its {len(whole)} bytes"),
        (whole + b"x", f"more than its {len(whole)} bytes"),
        (whole[:-1] + b"x", "its sha256 is not the manifest's"),
        (None, "missing, though the manifest lists it"),
    ):
        part.unlink() if data is None else part.write_bytes(data)
        with pytest.raises(VerificationError, match=f"{part}: {problem}. The `mosaic-ray run` command"):
            list(load(dataset))
    part.write_bytes(whole)
    change_manifest(dataset, lambda manifest: manifest["parts"][1].update(rows=5))
    with pytest.raises(VerificationError, match=f"{part}: 6 rows, 5 in the manifest"):
        list(load(dataset))


def test_on_the_fly_needs_the_run(dataset: Path) -> None:
    with pytest.raises(VerificationError, match=r"no _mosaic/settings\.json, so no run of this tool is kept here"):
        load(dataset, materialize=False)


def test_on_the_fly_refuses_a_changed_input(made: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(mosaic_ray.__path__[0] + "/embedded/corpus", corpus)
    output = shutil.copytree(made, tmp_path / "out")
    settings_file = output / "_mosaic" / "settings.json"
    settings_file.write_text(
        settings_file.read_text().replace(str(Path(mosaic_ray.__path__[0]) / "embedded" / "corpus"), str(corpus))
    )
    assert ids(load(output, materialize=False), "mosaic_id") == ids(load(output), "mosaic_id")
    moved = corpus.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=rf"{corpus}.* name every input as it is now: inputs=\[ADDRESS, ...\] for"):
        load(output, materialize=False)
    assert ids(load(output, materialize=False, inputs=[moved]), "mosaic_id") == ids(load(output), "mosaic_id")
    moved.rename(corpus)
    changed = next(corpus.glob("*.jsonl"))
    changed.write_text(changed.read_text() + '{"instruction": "Say a.", "response": "a"}\n')
    with pytest.raises(DriftError, match=f"{changed.name} has changed"):
        load(output, materialize=False)
