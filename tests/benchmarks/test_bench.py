"""The benchmark runs, agrees with itself and leaves nothing out. No timing is asserted."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


def bench(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(HERE / "bench.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


def test_every_row_is_measured_and_what_can_be_checked_is_right(cache: Path) -> None:
    target = cache / "figures.json"
    shown = bench("--size", "1", "--repeats", "1", "--cache", str(cache), "--json", str(target))
    figures: dict[str, Any] = json.loads(target.read_text())
    rows = {name: found[0] for name, found in figures["rows"].items()}
    assert list(rows) == ["job", "cold", "job1", "published", "raydata", "plain2", "plain1", "counter", "copy"]
    assert all(row["seconds"] > 0 and row["records"] > 0 for row in rows.values())
    assert rows["published"]["agree"] == rows["published"]["samples"] > 100
    assert 3 < rows["published"]["tokenized"] < 6
    assert (rows["counter"]["mismatches"], rows["counter"]["texts"]) == (0, 2 * figures["corpus"]["records"])
    assert rows["job"]["digest"] == rows["job1"]["digest"]
    assert rows["plain1"]["tokens"] == rows["plain2"]["tokens"]
    assert "mismatches: 0 of" in shown
    assert "our job, one worker" in shown


def test_a_corpus_of_another_shape_can_be_given(tmp_path: Path, cache: Path) -> None:
    lines = [json.dumps({"question": f"What is {n} + 1?", "answer": f"It is {n + 1}."}) for n in range(60)]
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    tokenizer = str(HERE.parents[1] / "mosaic_ray" / "embedded" / "tokenizer")
    rows = ("--only", "plain1,counter", "--repeats", "1")
    shown = bench(*rows, "--tokenizer", tokenizer, "--corpus", str(tmp_path), "--cache", str(cache))
    assert "mismatches: 0 of 120 texts" in shown


def test_the_corpus_is_a_function_of_its_seed(tmp_path: Path) -> None:
    def made(name: str, seed: int) -> str:
        command = [sys.executable, str(HERE / "corpus.py"), str(tmp_path / name), "--size", "0.2", "--seed", str(seed)]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "PYTHONHASHSEED": name}
        subprocess.run(command, check=True, env=environment, capture_output=True)
        files = sorted((tmp_path / name).glob("*/*.jsonl"))
        assert len(files) == 40
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    assert made("1", 0) == made("2", 0) != made("3", 1)
