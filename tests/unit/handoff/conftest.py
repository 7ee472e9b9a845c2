"""Data sets for the loader: small ones written by hand, and one that a run has made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from mosaic_ray.cli import app
from mosaic_ray.io.manifest import FORMAT_VERSION, dataset_digest
from mosaic_ray.io.writers import to_parquet

Batch = list[dict[str, Any]]


def write_dataset(folder: Path, epochs: Sequence[Sequence[int]], *, lanes: int = 1, first: int = 0) -> Path:
    """A data set whose rows are the numbers from ``first`` on, in parts of these sizes."""
    (folder / "data").mkdir(parents=True)
    parts = []
    number = first
    for epoch, sizes in enumerate(epochs):
        for size in sizes:
            table = pa.table({"id": range(number, number + size), "text": [f"row {n}" for n in range(size)]})
            made = to_parquet(table)
            name = f"data/train-{len(parts):05d}-of-{sum(map(len, epochs)):05d}.parquet"
            (folder / name).write_bytes(made.data)
            parts.append(
                {
                    "name": name,
                    "epoch": epoch,
                    "rows": size,
                    "bytes": len(made.data),
                    "sha256": made.sha256,
                    "content_digest": made.content_digest,
                }
            )
            number += size
    manifest = {
        "format_version": FORMAT_VERSION,
        "run": "v1:0",
        "dataset_digest": dataset_digest(parts, []),
        "settings": {"view": "messages", "world_size": lanes},
        "tokenizer": {"name": "t", "digest": "v1:0", "special_tokens": {}, "chat_template": None},
        "rejects": {"parts": []},
        "parts": parts,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def ids(batches: Iterable[Batch], column: str = "id") -> list[list[Any]]:
    return [[row[column] for row in batch] for batch in batches]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two epochs: the numbers 0 to 19, and 20 to 41."""
    return write_dataset(tmp_path / "set", [[7, 6, 7], [7, 8, 7]], lanes=2)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run makes of the corpus that the package ships: two epochs of four parts, with two views of tokens."""
    output = tmp_path_factory.mktemp("made") / "out"
    options = ["--task-records", "160", "--epochs", "2", "--max-tokens", "512", "--world-size", "2"]
    done = CliRunner().invoke(
        app,
        ["run", "--output", str(output), "--engine", "in-process", "--also", "tokenized,packed", *options],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    return output
