from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mosaic_ray.config import job_from
from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.io.manifest import read_manifest
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.pages import publish_pages
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.engine import InProcessEngine
from mosaic_ray.runtime.run import Run

HOSTILE = (
    "<script>document.title='taken over'</script>",
    "</pre></details><img src=x onerror=alert(1)>",
    "\u202egnp.exe and a mark \u200f",
    "nul \x00, escape \x1b[31m, a bell \x07",
    "---\nconfigs: []\n---\n`tick` | pipe | <b>bold</b> & \"quoted\" 'too'",
)
FILES = ("<script>alert(1)<script>.jsonl", "folder/with | pipe ` tick.jsonl", "folder/שלום.jsonl")


@dataclass(frozen=True)
class Made:
    """A finished data set with its pages, and its manifest."""

    run: Run
    manifest: dict[str, Any]
    folder: Path
    seen_at_finish: set[str]


Make = Callable[..., Made]


def write_corpus(folder: Path) -> None:
    for place, name in enumerate(FILES):
        rows = [
            {
                "instruction": f"Task {n} of {place}: {HOSTILE[n % 5]}",
                "output": f"{HOSTILE[(n + place) % 5]} {'so ' * n}",
            }
            for n in range(40)
        ]
        lines = [*map(json.dumps, rows), "no json <b>at all</b>", json.dumps({"instruction": "x", "output": " "})]
        turns = [{"role": role, "content": HOSTILE[0]} for role in ("system", "user", "assistant")]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join([*lines, ""]), encoding="utf-8")
        if place == 0:
            (folder / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    def made(**options: Any) -> Made:
        folder = tmp_path_factory.mktemp("corpus")
        write_corpus(folder)
        out = tmp_path_factory.mktemp("out") / "made of $(parts)"
        kept: list[tuple[Run, set[str]]] = []

        def finish(run: Run, manifest: Mapping[str, Any]) -> None:
            publish_pages(run, manifest)
            kept.append((run, {path for path, _ in run.output.listing()}))

        places = {"input": str(folder), "output": str(out), "tokenizer": str(tokenizer_path())}
        run_job(job_from({**places, "max_tokens": 600, **options}, MosaicMethod), InProcessEngine, finish=finish)
        run, paths = kept[0]
        return Made(run, read_manifest(run.output), out, paths)

    return made


@pytest.fixture(scope="session")
def made(make: Make) -> Made:
    """Of a hostile corpus: 127 records of four files, 6 of them rejected, in 24 parts."""
    return make(task_records=25)


@pytest.fixture
def manifest(made: Made) -> dict[str, Any]:
    """Its manifest, to be changed at will."""
    return copy.deepcopy(made.manifest)
