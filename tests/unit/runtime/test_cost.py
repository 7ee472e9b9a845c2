"""What training costs: the arithmetic against brute force, and a real run against its own rows."""

from __future__ import annotations

import io
import json
import shutil
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mosaic_ray.cli import app
from mosaic_ray.config import job_from
from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.errors import InputError, SettingsError, StorageError, VerificationError
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.packing import pack
from mosaic_ray.records import Message
from mosaic_ray.runtime.cost import Cost, Lengths, Regime, cost, expected_padded, expense
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.engine import InProcessEngine
from mosaic_ray.runtime.run import Run, reopen
from mosaic_ray.runtime.stock import kept_inventory
from mosaic_ray.show import show_cost
from mosaic_ray.tokens import TokenCounter

BUDGET = 200


def lengths(*counts: int, max_length: int = 10) -> Lengths:
    return Lengths.of(np.array(counts, dtype=np.int64), max_length)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 7))
def test_the_mean_padding_is_that_over_all_orders_of_the_rows(counts: list[int], batch_size: int) -> None:
    orders = list(permutations(counts))
    batches = [order[at : at + batch_size] for order in orders for at in range(0, len(counts), batch_size)]
    mean = sum(max(batch) * len(batch) for batch in batches) / len(orders)
    assert expected_padded(np.bincount(counts).astype(np.int64), batch_size) == pytest.approx(mean, rel=1e-12)


def test_the_mean_padding_of_many_rows_is_that_of_simulated_epochs() -> None:
    draw = np.random.default_rng(0)
    counts = np.clip(draw.lognormal(5, 0.7, size=5_000).astype(np.int64), 1, 2048)
    simulated = []
    for _ in range(200):
        shuffled = draw.permutation(counts)
        simulated.append(sum(batch.max() * len(batch) for batch in np.split(shuffled, range(128, 5_000, 128))))
    found = expected_padded(np.bincount(counts).astype(np.int64), 128)
    assert found == pytest.approx(np.mean(simulated), abs=4 * float(np.std(simulated)) / np.sqrt(200))


def test_an_expense_adds_up_over_epochs_and_no_batch_crosses_one() -> None:
    found = expense([lengths(9, 4, 6), lengths(5, 5, 5)], batch_size=2, max_length=10)
    assert (found.rows, found.tokens) == (6, 34)
    assert found.padded_to_max == Regime(6, 4, 60)
    # First epoch: pairs of 9, 4, 6 pad to 9, 9 or 6, the one left over is 6, 4 or 9. Second: nothing to pad.
    assert (found.padded_to_batch.rows, found.padded_to_batch.steps) == (6, 4)
    assert found.padded_to_batch.computed == pytest.approx((18 + 18 + 12 + 6 + 4 + 9) / 3 + 15)
    # 9 | 6+4, then 5+5 | 5: one step each.
    assert found.packed == Regime(4, 2, 40)


def test_lengths_of_tasks_add_up() -> None:
    both = lengths(3, 3, 9) + lengths(1) + lengths()
    assert both.histogram.tolist() == [0, 1, 0, 2, 0, 0, 0, 0, 0, 1]
    assert (both.rows, both.tokens, both.packed) == (4, 16, 3)  # packed task by task: 9 | 3+3 | 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs of two tasks of short records, a conversation among them, and two that are rejected."""
    home = tmp_path_factory.mktemp("cost")
    rows: list[dict[str, Any]] = [
        {"instruction": f"Say {n} in {n % 7} ways.", "output": " ".join(["so"] * (n % 31)) + f" {n}"} for n in range(60)
    ]
    turns = [{"role": role, "content": f"the {role} speaks"} for role in ("system", "user", "assistant")]
    rows += [{"instruction": "x", "output": " "}, {"instruction": "x", "output": "many " * 500}]
    (home / "in").mkdir()
    (home / "in" / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (home / "in" / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    places = {"input": str(home / "in"), "output": str(home / "out"), "tokenizer": str(tokenizer_path())}
    limits = {"max_tokens": BUDGET, "epochs": 3, "task_records": 40}
    run_job(job_from({**places, **limits}, MosaicMethod), InProcessEngine, finish=lambda *_: None)
    return home / "out"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def run_at(place: Path) -> Run:
    return reopen(Storage.at(str(place), {}, error=StorageError), {"mosaic-it": MosaicMethod})


def cost_of(place: Path, **options: int) -> Cost:
    return cost(run_at(place), InProcessEngine, **{"batch_size": 8, **options})


def stated(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / "manifest.json").read_text(encoding="utf-8")))


def test_a_run_costs_what_its_rows_and_records_cost(finished: Path) -> None:
    found, manifest = cost_of(finished, max_length=256), stated(finished)
    assert (found.epochs, found.max_length) == (3, 256)
    by_epoch: list[list[list[int]]] = [[], [], []]
    for part in manifest["parts"]:
        counts = pq.ParquetFile(finished / part["name"]).read(columns=["token_count"]).column(0).to_pylist()
        by_epoch[part["epoch"]].append(counts)
    assert [len(tasks) for tasks in by_epoch] == [2, 2, 2]
    rows = [sum(map(len, tasks)) for tasks in by_epoch]
    steps = sum(-(-n // 8) for n in rows)
    made = found.data_set
    assert (made.rows, made.tokens) == (sum(rows), sum(sum(counts) for tasks in by_epoch for counts in tasks))
    assert made.padded_to_max == Regime(made.rows, steps, made.rows * 256)
    epochs = [np.bincount(np.concatenate(tasks)).astype(np.int64) for tasks in by_epoch]
    assert made.padded_to_batch == Regime(made.rows, steps, sum(expected_padded(epoch, 8) for epoch in epochs))
    packed = [sum(len(pack(counts, 256)) for counts in tasks) for tasks in by_epoch]
    assert made.packed == Regime(sum(packed), sum(-(-n // 8) for n in packed), sum(packed) * 256)

    run = run_at(finished)
    counter = TokenCounter(run.tokenizer, max_tokens=BUDGET)
    plain = [json.loads(line) for line in (finished.parent / "in" / "plain.jsonl").read_text().splitlines()]
    talk = json.loads((finished.parent / "in" / "chat.jsonl").read_text())["messages"]
    usable = [(Message("user", r["instruction"]), Message("assistant", r["output"].rstrip())) for r in plain[:60]]
    records = counter.count_whole([*usable, tuple(Message(t["role"], t["content"]) for t in talk)])
    assert found.records.rows == 3 * 61
    assert found.records.tokens == 3 * sum(records)
    assert found.records.padded_to_max == Regime(183, 24, 183 * 256)
    one_epoch = expected_padded(np.bincount(records).astype(np.int64), 8)
    assert found.records.padded_to_batch.computed == pytest.approx(3 * one_epoch)
    least, tasks = -(-sum(records) // 256), run.plan(kept_inventory(run)).tasks
    assert 3 * least <= found.records.packed.rows <= 3 * (least + tasks)


def test_a_trainer_that_would_cut_samples_is_refused(finished: Path) -> None:
    with pytest.raises(SettingsError, match=r"--max-length 199: .* up to 200 tokens.* Give 200 or more, or .* 199"):
        cost_of(finished, max_length=199)
    assert cost_of(finished).max_length == BUDGET


def test_other_counts_than_the_manifest_has_are_refused(copy: Path) -> None:
    manifest = stated(copy)
    manifest["totals"]["tile_tokens"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(VerificationError, match=r"tokens of these records were counted, .*'mosaic-ray verify' says"):
        cost_of(copy)


def test_damage_is_named(copy: Path, finished: Path) -> None:
    part = copy / stated(copy)["parts"][1]["name"]
    part.write_bytes(part.read_bytes()[:-4])
    with pytest.raises(VerificationError, match=rf"{part.name}: damaged"):
        cost_of(copy)
    part.unlink()
    with pytest.raises(StorageError, match=part.name):
        cost_of(copy)
    source = finished.parent / "in" / "chat.jsonl"
    text = source.read_text()
    try:
        source.write_text("")
        with pytest.raises(InputError, match=r"chat\.jsonl"):
            cost_of(copy)
    finally:
        source.write_text(text)


def test_the_command_prints_figures_for_scripts_and_for_people(finished: Path) -> None:
    options = ["cost", str(finished), "--engine", "in-process", "--batch-size", "8"]
    shown = CliRunner().invoke(app, [*options, "--json"])
    assert json.loads(shown.stdout) == cost_of(finished).to_dict()
    assert "\nPacked, tokens are what costs: " in CliRunner().invoke(app, options).stdout


def test_figures_as_json() -> None:
    made = figures().to_dict()
    assert made["records"]["padded_to_batch"] == {"rows": 8, "steps": 4, "computed": 40}
    assert made["saved"]["padded_to_max"] == {"rows": 0.5, "steps": 0.5, "computed": 0.5}
    assert made["saved"]["tokens"] == pytest.approx(1 - 36 / 34)


def test_the_table_fits_a_hundred_columns() -> None:
    console = Console(file=io.StringIO(), width=100)
    show_cost(figures(), console)
    assert isinstance(console.file, io.StringIO)
    assert [" ".join(line.split()) for line in console.file.getvalue().splitlines() if line.strip()] == [
        "2 epochs, 2 rows a step records data set saved",
        "rows 8 4 50.0%",
        "tokens without padding 34 36 -5.9%",
        "every row padded to 10 tokens",
        "optimizer steps 4 2 50.0%",
        "tokens computed 80 40 50.0%",
        "rows padded to the longest of their batch (mean)",
        "optimizer steps 4 2 50.0%",
        "tokens computed 40 36 10.0%",
        "packed into sequences of 10 tokens",
        "sequences 4 4 0.0%",
        "optimizer steps 2 2 0.0%",
        "tokens computed 40 40 0.0%",
        "Padded to the maximum, rows are what costs: 50.0% fewer steps, 50.0% fewer tokens computed.",
        "Packed, tokens are what costs: 0.0% fewer steps, 0.0% fewer tokens computed.",
    ]


def figures() -> Cost:
    """Two epochs of rows of 2, 5, 5, 5 tokens beside rows of 9 and 9: the 2 pads to 5 wherever it goes."""
    options = {"batch_size": 2, "max_length": 10}
    return Cost(
        **options,
        epochs=2,
        records=expense([lengths(2, 5, 5, 5)] * 2, **options),
        data_set=expense([lengths(9, 9)] * 2, **options),
    )
