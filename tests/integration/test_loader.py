"""Two ranks load from an S3 server, with worker processes: the same stream as from a disk in one process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import mosaic_ray
from mosaic_ray.cli import app
from mosaic_ray.errors import VerificationError
from mosaic_ray.handoff.loader import Loader
from tests.integration.conftest import S3Server
from tests.unit.handoff.conftest import write_dataset

SET = "s3://sets/numbers"
PARTS = [9, 8, 10, 9, 7, 9, 8, 9]
MADE = "s3://sets/made"
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def server(start_s3: Callable[[], S3Server]) -> Iterator[S3Server]:
    """A server with an empty bucket, which this process finds by its environment."""
    server = start_s3()
    server.bucket("sets")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def local(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight parts for two ranks, on a disk and on the server."""
    folder = write_dataset(tmp_path_factory.mktemp("local") / "numbers", [PARTS], lanes=2)
    server.upload(folder, "sets", "numbers")
    return folder


@pytest.fixture(scope="module")
def made(server: S3Server) -> str:
    """What a run on the server has made: two epochs of two parts. Its cells are large, so they are few requests."""
    rows = [{"prompt": f"Count from {n} to {n + 2}.", "completion": f"{n} {n + 1} {n + 2}"} for n in range(400)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    server.client.put_object(Bucket="sets", Key="lake/rows.jsonl", Body=text.encode())
    command = ["run", "--input", "s3://sets/lake/", "--output", MADE, "--engine", "in-process", "--epochs", "2"]
    options = ["--tokenizer", "embedded", "--task-records", "4096", "--max-tokens", "512", "--world-size", "2"]
    done = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return MADE


def load(address: Path | str = SET, **options: Any) -> Loader:
    return mosaic_ray.load(address, **{"batch_size": 4, **options})


def numbers(batches: Iterable[Rows]) -> list[int]:
    return [row["id"] for batch in batches for row in batch]


def test_ranks_with_workers_read_the_stream_of_one_process(server: S3Server, local: Path) -> None:
    alone = numbers(load(local))
    ranks: list[list[int]] = []
    asked = server.asked_for(
        lambda: ranks.extend(numbers(load(rank=rank, world_size=2, num_workers=2)) for rank in range(2))
    )
    assert [n for pair in zip(*ranks, strict=True) for n in pair] == alone[: 2 * len(ranks[0])]
    assert sorted(alone) == list(range(sum(PARTS)))
    assert len(alone) - len(ranks[0] + ranks[1]) < 2
    parts = Counter(request.path for request in asked if "/data/train-" in request.path)
    assert len(parts) == len(PARTS)
    assert sum(parts.values()) <= 2 * (len(PARTS) + 1), "one request a part for a worker, and only of its rank's share"


def test_a_run_that_was_killed_goes_on_with_other_ranks_workers_and_batches(local: Path) -> None:
    alone = numbers(load(local))
    states, seen = [], []
    for rank in range(2):
        loader = load(rank=rank, world_size=2, num_workers=2, batch_size=3)
        seen.append(numbers(batch for _, batch in zip(range(5), loader, strict=False)))
        states.append(loader.state_dict())
    assert states[0] == states[1]
    assert states[0]["position"] == 30, "what was read ahead is not counted"
    assert [n for pair in zip(*seen, strict=True) for n in pair] == alone[:30]
    for workers in (0, 2):
        resumed = load(num_workers=workers, batch_size=7)
        resumed.load_state_dict(states[0])
        assert numbers(resumed) == alone[30:]


def test_composed_on_the_fly_from_s3_it_is_the_same_stream(made: str) -> None:
    composed = load(made, materialize=False, num_workers=1)
    read = load(made)
    for epoch in range(2):
        assert composed.epoch == epoch
        assert list(composed) == list(read)
    new = list(composed)
    assert composed.state_dict()["epoch"] == 3
    half = load(made, materialize=False)
    half.set_epoch(2)
    states = [half.state_dict() for _, _ in zip(range(len(new) // 2), half, strict=False)]
    resumed = load(made, materialize=False, num_workers=1)
    resumed.load_state_dict(states[-1])
    assert list(resumed) == new[len(states) :]


def test_an_error_of_a_worker_is_a_sentence(server: S3Server, local: Path) -> None:
    part = "data/train-00003-of-00008.parquet"
    server.client.delete_object(Bucket="sets", Key=f"numbers/{part}")
    with pytest.raises(VerificationError, match=f"^{SET}/{part}: missing, though the manifest lists it") as refused:
        list(load(num_workers=2))
    assert "Traceback" not in str(refused.value)
    server.upload(local, "sets", "numbers")


def test_a_store_that_cannot_be_read_is_named(server: S3Server) -> None:  # noqa: ARG001
    with pytest.raises(VerificationError, match=r"there is no such file .* no finished data set"):
        load("s3://sets/none")
    with pytest.raises(VerificationError, match="there is no bucket 'nowhere'"):
        load("s3://nowhere/numbers")


def test_spawned_workers_make_the_same_and_draw_no_random_numbers_of_the_training(local: Path) -> None:
    drawn = torch.get_rng_state()
    before = torch.multiprocessing.get_start_method()
    torch.multiprocessing.set_start_method("spawn", force=True)
    try:
        spawned = list(load(num_workers=1))
    finally:
        torch.multiprocessing.set_start_method(before, force=True)
    assert spawned == list(load(local))
    assert torch.equal(drawn, torch.get_rng_state())
