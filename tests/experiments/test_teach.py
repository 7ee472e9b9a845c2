"""The experiment measures what it says: right records, right scores, loss on responses alone; and it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from mosaic_ray.seeding import Key

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the experiment is a folder of scripts, as the benchmarks are

import prepare  # noqa: E402
import score  # noqa: E402
import tasks  # noqa: E402
import torch  # noqa: E402
import training  # noqa: E402
from model import Model, Size, continued  # noqa: E402


def worked_out(instruction: str) -> str:
    """The answer, read from the instruction alone."""
    first = instruction.split()[0]
    numbers: list[str] = re.findall("[0-9]+", instruction)
    if first in ("Copy", "Repeat", "Write"):
        return numbers[0]
    if first in ("Sort", "Order", "Put"):
        return "".join(sorted(numbers[0]))
    if first in ("Add", "Join") or instruction.startswith("Give the sum"):
        return str(int(numbers[0]) + int(numbers[1]))
    listed, asked = instruction.removesuffix(".").rsplit(": ", 1)
    return cast("re.Match[str]", re.search(rf"\b{asked} ([0-9]+)", listed)).group(1)


def test_answers_are_right_and_nothing_held_out_is_trained() -> None:
    train, held_out = tasks.records(1200, 200, seed=3)
    assert all(record.response == worked_out(record.instruction) for record in train + held_out)
    for records in (train, held_out):
        kinds = [tasks.task_of(record) for record in records]
        assert {kinds.count(name) for name in tasks.TASKS} == {len(records) // 4}

    def asked(record: Any) -> tuple[str, tuple[str, ...]]:
        return tasks.task_of(record), tuple(re.findall("[0-9]+|" + "|".join(tasks.NAMES), record.instruction))

    assert not set(map(asked, train)) & set(map(asked, held_out))


@pytest.mark.parametrize("strategy", ["format", "permute", "maskout"])
def test_tiles_are_found_whatever_the_layout(strategy: Any) -> None:
    _, held_out = tasks.records(0, 80, seed=4)
    cases = score.mosaics(held_out, strategy, 150, key=Key(4))
    assert {case.tiles for case in cases} == {2, 3, 4, 5}
    for case in cases:
        assert tuple(score.answers(case.response, case.layout)) == case.due
        before, _, after = case.response.rpartition(case.due[-1])
        assert score.tiles_right(f"{before}x{after}", case) == pytest.approx(1 - 1 / len(case.due))
        assert score.tiles_right("\n".join(case.due), case) == 1.0, "without tags and frames"
        assert score.tiles_right(case.response.rpartition("\n")[0], case) < 1.0, "the last one not given"
    assert all(case.plain for case in cases) == (strategy == "format")
    found = score.scored([case.response for case in cases[:75]] + [""] * 75, cases)
    assert found == {"exact": 50.0, "tiles": 50.0}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    train, _ = tasks.records(200, 0, seed=5)
    folder = tmp_path_factory.mktemp("teach")
    tokenizer = prepare.trained_tokenizer(train, folder / "tokenizer", key=Key(5))
    dataset = prepare.composed(train, folder / "run", tokenizer=folder / "tokenizer", epochs=1, seed=5)
    return train, tokenizer, dataset


def test_rows_are_the_project_s_samples_cut_before_the_response(prepared: Any) -> None:
    train, tokenizer, dataset = prepared
    rows = prepare.rows_of_dataset(dataset, tokenizer)
    tables = [pq.read_table(part) for part in sorted((dataset / "data").glob("*.parquet"))]
    samples = [sample for table in tables for sample in table.to_pylist()]
    assert [len(row.ids) for row in rows] == [sample["token_count"] for sample in samples]
    for row, sample in zip(rows, samples, strict=True):
        text = tokenizer.decode(row.ids[row.prompt :], skip_special_tokens=False)
        assert text == sample["messages"][1]["content"] + prepare.END
    alone = prepare.rows_of(train, tokenizer)
    assert tokenizer.decode(alone[0].ids[: alone[0].prompt], skip_special_tokens=False) == (
        f"<|user|>{train[0].instruction}{prepare.END}<|assistant|>"
    )


def small(vocabulary: int) -> Model:
    torch.manual_seed(0)
    return Model(Size(vocabulary=vocabulary, width=32, layers=2, heads=2, positions=128))


def test_prompts_of_several_lengths_are_continued_as_each_would_be_alone() -> None:
    model = small(40)
    for weights in model.parameters():  # far from uniform, so that a small slip would show
        weights.data *= 8 if weights.dim() == 2 else 1
    prompts = [list(range(1, 1 + length)) for length in (2, 19, 7)]
    together = continued(model, prompts, end=39, most=20)
    for prompt, found in zip(prompts, together, strict=True):
        ids = [0, 0, *prompt]
        for token in found:
            hidden, _ = model(torch.tensor([ids]))
            assert token == model.scores(hidden[0, -1]).argmax()
            ids.append(token)


def test_training_learns_the_responses_and_nothing_else(prepared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train, tokenizer, _ = prepared
    monkeypatch.setattr(training, "WINDOW", 1)  # so that every batch is all eight rows
    rows = prepare.rows_of(train[:8], tokenizer)
    recipe = training.Recipe(rows=8, rate=1e-2, warm_up=0.1, weight_decay=0.0)
    losses: list[float] = []

    def trained(steps: int) -> tuple[Model, int]:
        model = small(tokenizer.get_vocab_size())
        told = lambda _, loss: losses.append(loss)  # noqa: E731
        return model, training.train(model, rows, steps=steps, recipe=recipe, key=Key(0), told=told)

    fresh = small(tokenizer.get_vocab_size())
    expected = []
    for row in rows:
        hidden, _ = fresh(torch.tensor([[0, 0, *row.ids]]))
        likely = fresh.scores(hidden[0]).log_softmax(-1)
        expected += [-likely[place - 1, row.ids[place]].item() for place in range(row.prompt, len(row.ids))]
    first, second = (trained(1)[0].state_dict() for _ in range(2))
    assert losses == [pytest.approx(sum(expected) / len(expected), rel=1e-4)] * 2
    assert all(torch.equal(first[name], second[name]) for name in first), "the same way every time"
    model, tokens = trained(50)
    assert tokens == 50 * sum(len(row.ids) for row in rows)
    found = training.written(model, rows, end=prepare.end_of(tokenizer))
    assert [tokenizer.decode(ids) for ids in found] == [record.response for record in train[:8]]


def test_the_script_prints_its_table_and_writes_its_figures(tmp_path: Path) -> None:
    target = tmp_path / "teach.json"
    done = subprocess.run(
        [sys.executable, str(HERE / "teach.py"), "--quick", "--seeds", "1", "--processes", "1", "--json", str(target)],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    arms = ["mosaics", "records, equal steps", "records, equal tokens"]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [*arms, "*every tile, as they stand*"]
    assert len({line.count("|") for line in lines}) == 1
    figures = json.loads(target.read_text())
    outcomes = {outcome["arm"]: outcome for outcome in figures["outcomes"]}
    assert set(outcomes) == set(arms)
    mosaics, equal_steps, equal_tokens = (outcomes[arm] for arm in arms)
    assert mosaics["steps"] == equal_steps["steps"] < equal_tokens["steps"]
    assert equal_tokens["tokens"] == pytest.approx(mosaics["tokens"], rel=0.15)
    assert set(mosaics["by"]["single"]) == set(tasks.TASKS)
