"""What the embedded corpus becomes, frozen: the digest of a whole epoch, and three samples to read.

A difference here means that every data set would come out with other bytes. That is allowed only together with a
higher ``MosaicMethod.VERSION`` (or, for the corpus or the tokenizer, with a new ``embedded/``), because a run that was
begun before must not be resumed after. Then, and only then, write the file anew from the root of the repository and
read the difference:

    python -m tests.golden.test_golden
"""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from mosaic_ray.config import Settings
from mosaic_ray.embedded import corpus_path, tokenizer_path
from mosaic_ray.errors import StorageError
from mosaic_ray.fingerprint import fold
from mosaic_ray.io.inventory import find_inputs, input_storage, take_inventory
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.runtime.plan import Plan, cell_records
from mosaic_ray.runtime.task import TaskWork, mosaic_id, task_item
from mosaic_ray.tokens import load_tokenizer

GOLDEN = Path(__file__).parent / "embedded_corpus.json"
SHOWN = ("format", "permute", "maskout")


@cache
def made() -> dict[str, Any]:
    """Epoch 0 of the embedded corpus under the default settings, in four tasks: digests, and three samples."""
    settings = Settings(task_records=128)
    source = input_storage(str(corpus_path()))
    files = [
        take_inventory(found, source=source, cell_records=cell_records(settings.task_records))
        for found in find_inputs([str(corpus_path())]).files
    ]
    plan = Plan(files, seed=settings.seed, epochs=1, task_records=settings.task_records)
    method, tokenizer = MosaicMethod(), load_tokenizer(str(tokenizer_path()))
    with tempfile.TemporaryDirectory() as folder:
        work = TaskWork(
            run="golden",
            settings=settings,
            method=method,
            tokenizer=tokenizer,
            inputs=(source,),
            output=Storage.at(folder, error=StorageError),
        )
        digests, rows = [], []
        for spec in plan:
            item = task_item(plan, spec)
            loaded = work.load(item)
            built, _ = work.build(loaded, item.parts[0])
            digests.append(built.content_digest)
            samples = work.samples(loaded, item.parts[0])
            ids = [mosaic_id(item.parts[0], n) for n in range(len(samples))]
            rows += work.view.table(samples, ids, epoch=0).to_pylist()
    chosen = [next(row for row in rows if row["strategy"] == strategy and row["tiles"] == 3) for strategy in SHOWN]
    return {
        "method_version": method.VERSION,
        "tokenizer": tokenizer.digest,
        "plan": plan.digest,
        "parts": digests,
        "epoch_0": fold(digests),
        "samples": [{**row, "params": json.loads(row["params"])} for row in chosen],
    }


def frozen() -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text(encoding="utf-8")))


def test_a_higher_version_means_a_new_file() -> None:
    assert frozen()["method_version"] == MosaicMethod.VERSION


def test_tokenizer_and_plan_are_frozen() -> None:
    assert made()["tokenizer"] == frozen()["tokenizer"]
    assert made()["plan"] == frozen()["plan"]


def test_three_samples_are_frozen() -> None:
    for now, then in zip(made()["samples"], frozen()["samples"], strict=True):
        assert now == then


def test_the_content_of_an_epoch_is_frozen() -> None:
    assert made()["parts"] == frozen()["parts"]
    assert made()["epoch_0"] == frozen()["epoch_0"]


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(made(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
