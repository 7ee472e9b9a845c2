"""The benchmark of the cold start measures what it says; how long things take is not tested."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from tests.benchmarks.cold_start import job, over, ray_alone, show


@pytest.mark.parametrize("kind", ["public", "bare"])
def test_ray_alone_answers(kind: str) -> None:
    stages = ray_alone(kind)
    assert 0 < stages["first sample"] < stages["end"]


def test_the_stages_of_a_job_come_in_their_order() -> None:
    stages = job(None)
    assert list(stages) == ["started", "inventory", "first sample", "end"]
    assert sorted(stages.values()) == list(stages.values())


def test_a_job_that_fails_is_no_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit, match=r"status 3:\n(.|\n)*could not be loaded"):
        job(str(tmp_path / "none"))


def test_the_difference_is_taken_within_a_round() -> None:
    ray = [{"first sample": 3.0, "end": 4.0}, {"first sample": 9.0, "end": 9.5}, {"first sample": 4.0, "end": 5.0}]
    slow = [{"first sample": 4.5, "end": 5.0}, {"first sample": 10.0, "end": 12.0}, {"first sample": 9.0, "end": 9.0}]
    assert over(slow, ray) == 1.5
    out = io.StringIO()
    show({"Ray alone": ray, "Ray alone, bare": ray, "the job": slow}, Console(file=out, width=140))
    assert "the job: the first sample comes +1.50 s after Ray alone (2 s allowed)" in " ".join(out.getvalue().split())
