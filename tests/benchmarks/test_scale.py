"""The driver of a made-up plan, at a size that is quick, in the processes that the benchmark makes."""

from __future__ import annotations

import io
import runpy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

SCALE = runpy.run_path(str(Path(__file__).with_name("scale.py")))


@pytest.fixture(scope="module")
def made() -> Any:
    return SCALE["measured_apart"](1_000_000, 100)


def test_every_step_is_measured(made: Any) -> None:
    assert (made.records, made.files, made.cells, made.tasks, made.parts) == (1_000_000, 100, 7900, 123, 492)
    names = [step.name for step in made.steps]
    assert len(set(names)) == len(names) == 14
    assert all(step.peak >= step.memory * 0.99 > 50 for step in made.steps)
    assert 0 < made.planning < 60
    assert made.peak == max(step.peak for step in made.steps) < 1000


def test_a_task_goes_to_its_worker_without_the_inventory(made: Any) -> None:
    assert 0.001 < made.mb["description of a task"] < 0.1


def test_the_table(made: Any) -> None:
    text = io.StringIO()
    SCALE["show"]([made, made], Console(file=text, width=120))
    for words in ("492", "planned in", "peak, MB", "resume: receipts", "finished: manifest"):
        assert words in text.getvalue()
