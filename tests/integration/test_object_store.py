"""Ray's object store holds no corpus: workers read the input and write the output themselves."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from mosaic_ray.config import job_from
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.ray_engine import RayEngine
from tests.conftest import write_jsonl

RECORDS = 6_000


class Watched(RayEngine):
    """Keeps what the store says of itself when the work is done."""

    stored: Any = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.stored = get_memory_info_reply(get_state_from_address(ray.get_runtime_context().gcs_address)).store_stats
        super().__exit__(kind, error, trace)


def test_no_corpus_passes_through_the_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for place in range(3):
        rows = [
            {"prompt": f"Task {place}, item {n}: count to {n}.", "completion": " ".join(map(str, range(n % 500)))}
            for n in range(RECORDS // 3)
        ]
        write_jsonl(tmp_path / "in" / f"{place}.jsonl", rows)
    options = {"input": str(tmp_path / "in"), "output": str(tmp_path / "out"), "tokenizer": "embedded", "epochs": 2}
    engine = Watched(min_workers=2, max_workers=2)
    manifest = run_job(
        job_from({**options, "task_records": 1500}, MosaicMethod), lambda: engine, finish=lambda *_: None
    )
    read = sum(file["size"] for file in manifest["inventory"])
    written = sum(part["bytes"] for part in manifest["parts"])
    assert (manifest["plan"]["tasks"], manifest["accounting"]["balanced"]) == (4, True)
    assert read > 5_000_000
    assert engine.stored.cumulative_created_bytes < (read + written) / 20
