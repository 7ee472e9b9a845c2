"""What ``mosaic_ray.load`` is given: numbers of any kind, ranks from the environment, and every refusal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mosaic_ray
from mosaic_ray.errors import SettingsError
from mosaic_ray.handoff.loader import Loader
from tests.unit.handoff.conftest import ids


def load(address: Path | str, **options: Any) -> Loader:
    return mosaic_ray.load(address, **{"batch_size": 3, **options})


def test_ranks_come_from_the_environment(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ids(load(dataset)) == ids(load(dataset, rank=1, world_size=2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": 2, "world_size": 2}, "rank 2 of world_size 2: ranks count from 0 to 1"),
        ({"rank": -1, "world_size": 1}, "rank -1 of world_size 1"),
        ({"world_size": 4}, "world_size 4, but no rank: every .* the share of rank 0. Give both, .*SLURM_PROCID"),
        ({"rank": 3}, "rank 3, but no world_size: .* Give both, .*SLURM_NTASKS"),
        ({"world_size": 0}, "world_size 0: the number of processes that train, 1 or more"),
        ({"rank": 0, "world_size": 21}, "world_size 21: the epoch has only 20 samples.*at most 20 ranks"),
        ({"batch_size": 0}, "batch_size 0: the samples of a batch on each rank, 1 or more"),
        ({"num_workers": -1}, "num_workers -1: 0 or more"),
        ({"remainder": "pad"}, "remainder 'pad': one of drop, repeat"),
        ({"cache": "c", "materialize": False}, "cache: with materialize=False no parts are read"),
        (
            {"columns": ["id", "input_ids"]},
            "the view messages of .*/set has no column 'input_ids', only id, text. There are no other views. "
            "`mosaic-ray view .*/set --view NAME` makes one of messages, .*, tokenized, packed",
        ),
        (
            {"view": "tokenized"},
            "no view 'tokenized'; it has messages. `mosaic-ray view .*/set --view tokenized` makes",
        ),
        ({"view": "packed-64"}, "`mosaic-ray view .*/set --view packed --sequence-length 64` makes it"),
        ({"view": "packed"}, "no view 'packed'; it has messages. `mosaic-ray view .*/set --view packed` makes it"),
        ({"view": "packed-abc"}, "no view 'packed-abc'; it has messages. `mosaic-ray view .*/set --view NAME` makes"),
        ({"columns": []}, "columns=\\[\\]: a batch without columns; name some, or leave it out to read all"),
        ({"columns": "text"}, "columns='text': a list of names is wanted, as columns=\\['text'\\]"),
        ({"columns": 3}, "columns=3: a list of names is wanted"),
        ({"inputs": "in", "materialize": False}, "inputs='in': a list of addresses is wanted, as inputs=\\['in'\\]"),
        ({"inputs": ["in"]}, "inputs: read only to compose, with materialize=False"),
        ({"batch_size": 2.5}, "batch_size 2.5: a whole number is wanted, not float"),
        ({"rank": "0", "world_size": 2}, "rank '0': a whole number is wanted, not str"),
        ({"rank": 0, "world_size": [2]}, "world_size \\[2\\]: a whole number is wanted, not list"),
        ({"num_workers": None}, "num_workers None: a whole number is wanted, not NoneType"),
        ({"seed": "x"}, "seed 'x': a whole number is wanted, not str"),
        ({"view": "../.."}, "no view '../..'; it has messages"),
    ],
)
def test_impossible_settings_are_refused(dataset: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(dataset, **options)


def test_numbers_of_numpy_are_taken_and_a_state_is_json(dataset: Path) -> None:
    two, one = np.int64(2), np.int64(1)
    loader = load(dataset, batch_size=two, rank=one, world_size=two, seed=one, num_workers=np.int64(0))
    loader.set_epoch(one)
    next(iter(loader))
    assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()
    assert loader.state_dict()["position"] == 4
    with pytest.raises(SettingsError, match=r"epoch 1\.5: a whole number is wanted"):
        loader.set_epoch(1.5)  # type: ignore[arg-type]


def test_a_rank_of_the_environment_alone_is_refused(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match="world_size 2, but no rank"):
        load(dataset)
    monkeypatch.setenv("RANK", "1")
    assert load(dataset).share == load(dataset, rank=1, world_size=2).share
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(SettingsError, match="rank 1, but no world_size"):
        load(dataset)
    assert load(dataset, rank=0).share == load(dataset, world_size=1, rank=0).share


def test_workers_without_torch_are_refused(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SettingsError, match="num_workers 2: processes that read ahead need PyTorch"):
        load(dataset, num_workers=2)
    assert list(load(dataset))


def test_an_environment_that_is_no_number_is_named(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(SettingsError, match="WORLD_SIZE='two' of the environment is no number"):
        load(dataset)
