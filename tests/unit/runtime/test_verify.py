"""A finished data set verifies; whatever is changed in it afterwards is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mosaic_ray.config import job_from
from mosaic_ray.embedded import corpus_path, tokenizer_path
from mosaic_ray.errors import StorageError, VerificationError
from mosaic_ray.io.manifest import dataset_digest
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.writers import to_parquet, to_table
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.engine import InProcessEngine
from mosaic_ray.runtime.findings import SHOWN, Findings
from mosaic_ray.runtime.run import reopen
from mosaic_ray.runtime.verify import verify
from mosaic_ray.views import REJECT_SCHEMA

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of two tasks: some of the embedded corpus, a conversation, and two records that are rejected."""
    folder = tmp_path_factory.mktemp("corpus")
    source = corpus_path()
    first = sorted(source.rglob("*.jsonl"))[0] if source.is_dir() else source
    lines = first.read_text(encoding="utf-8").splitlines()[:90]
    turns = [{"role": role, "content": f"the {role} says <|im_end|>"} for role in ("system", "user", "assistant")]
    (folder / "some.jsonl").write_text("\n".join([*lines, "no json", ""]), encoding="utf-8")
    (folder / "chat.jsonl").write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    (folder / "short.jsonl").write_text(
        json.dumps({"instruction": "x", "output": " "}) + "\n" + json.dumps({"instruction": "x", "output": "y"}) + "\n"
    )
    out = tmp_path_factory.mktemp("out") / "made"
    options = {"input": str(folder), "output": str(out), "tokenizer": str(tokenizer_path()), "max_tokens": 600}
    limits = {"epochs": 2, "task_records": 35, "max_reject_share": 0.5}
    run_job(job_from({**options, **limits}, MosaicMethod), InProcessEngine, finish=lambda *_: None)
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def check(place: Path, *, recompute: int = 0) -> Findings:
    storage = Storage.at(str(place), {}, error=StorageError)
    return verify(reopen(storage, {"mosaic-it": MosaicMethod}), InProcessEngine(), recompute=recompute)


def problems(place: Path) -> str:
    with pytest.raises(VerificationError) as caught:
        check(place)
    return str(caught.value)


def manifest_of(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / "manifest.json").read_text(encoding="utf-8")))


def rewrite(place: Path, change: Change) -> None:
    manifest = manifest_of(place)
    change(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def restate(place: Path, name: str, data: bytes, **fields: Any) -> None:
    """Put a file in place, and let the manifest say of its bytes what they are."""
    (place / name).write_bytes(data)

    def change(manifest: dict[str, Any]) -> None:
        entries = [*manifest["parts"], *manifest["rejects"]["parts"]]
        entry = next(entry for entry in entries if entry["name"] == name)
        entry.update({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **fields})
        manifest["dataset_digest"] = dataset_digest(manifest["parts"], manifest["rejects"]["parts"])

    rewrite(place, change)


def edit_rows(place: Path, name: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the rows of a part, and cover it up in the manifest."""
    table = pq.ParquetFile(pa.BufferReader((place / name).read_bytes())).read()
    rows = table.to_pylist()
    change(rows)
    made = to_parquet(to_table(rows, table.schema))
    restate(place, name, made.data, rows=made.rows, content_digest=made.content_digest)


def test_untouched_it_verifies(finished: Path) -> None:
    manifest = manifest_of(finished)
    found = check(finished, recompute=2)
    assert (found.parts, found.recomputed, found.wrong) == (4, 2, 0)
    assert (found.rows, found.tokens) == (manifest["totals"]["samples"], manifest["totals"]["tokens"])
    assert manifest["policies"]["passed_whole"] == 1
    assert found.records == manifest["accounting"]["records"]
    assert found.rejects == {"not_json": 1, "empty_response": 1}


CHANGES: list[tuple[str, Change]] = [
    ("run", lambda m: m.update(run="v1:0")),
    ("mosaic_ray", lambda m: m.update(mosaic_ray="9.9")),
    ("dataset_digest", lambda m: m.update(dataset_digest="v1:0")),
    ("method.name", lambda m: m["method"].update(name="other")),
    ("settings.max_tokens", lambda m: m["settings"].update(max_tokens=4096)),
    ("settings.seed", lambda m: m["settings"].pop("seed")),
    ("libraries.pyarrow", lambda m: m["libraries"].update(pyarrow="1")),
    ("tokenizer.digest", lambda m: m["tokenizer"].update(digest="v1:0")),
    ("tokenizer.special_tokens.eos_token", lambda m: m["tokenizer"]["special_tokens"].update(eos_token="?")),
    ("tokenizer.chat_template", lambda m: m["tokenizer"].update(chat_template="?")),
    ("plan.tasks", lambda m: m["plan"].update(tasks=7)),
    ("plan.digest", lambda m: m["plan"].update(digest="v1:0")),
    ("inventory[2].records", lambda m: m["inventory"][2].update(records=7)),
    ("inventory[0].sha256", lambda m: m["inventory"][0].update(sha256="0")),
    ("inventory is a list of 2", lambda m: m["inventory"].pop()),
    ("accounting.records", lambda m: m["accounting"].update(records=93)),
    ("accounting.balanced", lambda m: m["accounting"].update(balanced=False)),
    ("accounting.epochs[1].passed", lambda m: m["accounting"]["epochs"][1].update(passed=2)),
    ("accounting.epochs[0].composed", lambda m: m["accounting"]["epochs"][0].update(composed=2)),
    ("accounting.epochs[0].sum", lambda m: m["accounting"]["epochs"][0].update(sum=2)),
    ("accounting.epochs[0].rejected", lambda m: m["accounting"]["epochs"][0].pop("rejected")),
    ("rejects.records", lambda m: m["rejects"].update(records=1)),
    ("rejects.by_reason.not_json", lambda m: m["rejects"]["by_reason"].update(not_json=5)),
    ("policies.passed_whole", lambda m: m["policies"].update(passed_whole=0)),
    ("policies.first_turn_only", lambda m: m["policies"].update(first_turn_only=1)),
    ("policies.special_tokens", lambda m: m["policies"].update(special_tokens=9)),
    ("totals.tokens", lambda m: m["totals"].update(tokens=1)),
    ("totals.tile_tokens", lambda m: m["totals"].update(tile_tokens=1)),
    ("totals.strategies.pass", lambda m: m["totals"]["strategies"].pop("pass")),
    ("totals.token_histogram.64", lambda m: m["totals"]["token_histogram"].update({"64": 10_000})),
    ("totals.more", lambda m: m["totals"].update(more=1)),
    ("mixing.share", lambda m: m["mixing"].update(share=1.5)),
    ("mixing.perfect_shuffle", lambda m: m["mixing"].update(perfect_shuffle=1.5)),
    ("epochs[1].longest", lambda m: m["epochs"][1].update(longest=1)),
    ("epochs is a list of 1", lambda m: m["epochs"].pop()),
    ("tokens is 1,", lambda m: m["parts"][3].update(tokens=1)),
    ("task is 0,", lambda m: m["parts"][3].update(task=0)),
    ("epoch is 0,", lambda m: m["parts"][3].update(epoch=0)),
    ("rows, 1 in the manifest", lambda m: m["parts"][3].update(rows=1)),
    ("bytes, 1 in the manifest", lambda m: m["parts"][3].update(bytes=1)),
    ("content_digest", lambda m: m["parts"][3].update(content_digest="v1:0")),
    ("sha256", lambda m: m["parts"][3].pop("sha256")),
    ("parts lists a part twice", lambda m: m["parts"].append(m["parts"][0])),
    ("parts lists a part twice, or in another order", lambda m: m["parts"].reverse()),
    ("train-00003-of-00004.parquet: not among the parts", lambda m: m["parts"].pop()),
    ("manifest lists no such file", lambda m: m["rejects"]["parts"].pop()),
    ("data/stranger.parquet: no part of the plan", lambda m: m["parts"][0].update(name="data/stranger.parquet")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[name for name, _ in CHANGES])
def test_a_changed_manifest_is_named(copy: Path, name: str, change: Change) -> None:
    rewrite(copy, change)
    assert name in problems(copy)


@pytest.mark.parametrize("key", sorted({
    "run", "mosaic_ray", "method", "settings", "libraries", "python", "tokenizer", "places", "created", "plan",
    "accounting", "rejects", "policies", "totals", "mixing", "epochs", "parts", "inventory", "dataset_digest",
}))  # fmt: skip
def test_a_missing_key_is_a_problem_in_words(copy: Path, key: str) -> None:
    rewrite(copy, lambda manifest: manifest.pop(key))
    said = problems(copy)
    assert (
        f"manifest.json: {key}" in said and "missing" in said
    ) or f"manifest.json: damaged (KeyError('{key}'))" in said


def test_another_tokenizer_is_named(copy: Path) -> None:
    path = copy / "_mosaic" / "tokenizer.json"
    definition = json.loads(path.read_text(encoding="utf-8"))
    definition["added_tokens"][-1]["lstrip"] = not definition["added_tokens"][-1]["lstrip"]
    path.write_text(json.dumps(definition), encoding="utf-8")
    assert "_mosaic/tokenizer.json: " in problems(copy)


def test_a_changed_byte_a_missing_part_and_strays(copy: Path) -> None:
    names = [part["name"] for part in manifest_of(copy)["parts"]]
    data = bytearray((copy / names[0]).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / names[0]).write_bytes(bytes(data))
    (copy / names[1]).unlink()
    (copy / "data" / "stray.parquet").write_bytes(b"")
    (copy / "rejects" / "stray.parquet").write_bytes(b"")
    said = problems(copy)
    assert ": 4 problems" in said
    assert f"{names[0]}: its sha256 is not the manifest's" in said
    assert f"{names[1]}: missing" in said
    assert "data/stray.parquet: not in the manifest" in said
    assert "rejects/stray.parquet: not in the manifest" in said


@pytest.mark.parametrize("damage", [b"PAR1 and no more", b""])
def test_what_is_no_parquet_is_a_problem_in_words(copy: Path, damage: bytes) -> None:
    name = manifest_of(copy)["parts"][0]["name"]
    restate(copy, name, damage)
    assert f"{name}: not a readable Parquet file" in problems(copy)


def test_other_rejects_are_named(copy: Path) -> None:
    name = manifest_of(copy)["rejects"]["parts"][0]["name"]
    made = to_parquet(
        to_table([{"file": "some.jsonl", "row": 1, "reason": "not_json", "detail": "", "excerpt": ""}], REJECT_SCHEMA)
    )
    restate(copy, name, made.data, rows=1, content_digest=made.content_digest)
    assert f"{name}: not the records that the source has rejected" in problems(copy)


def swap_identity(rows: list[dict[str, Any]]) -> None:
    rows[0]["mosaic_id"], rows[1]["mosaic_id"] = rows[1]["mosaic_id"], rows[0]["mosaic_id"]


def no_sources(rows: list[dict[str, Any]]) -> None:
    rows[0]["sources"] = []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (swap_identity, "row 1 has the mosaic_id 'e0-t00000-s000000', where 'e0-t00000-s000001' belongs"),
        (no_sources, "row 0: no sources"),
        (lambda rows: rows[0].update(token_count=rows[0]["token_count"] + 1), "tokens counted"),
        (lambda rows: rows[0].update(tiles=99), "row 0: tiles or epoch do not agree"),
        (lambda rows: rows[0]["sources"][0].update(row=9999), "row 9999 is no record of this task"),
        (lambda rows: rows.pop(), "is in no sample of epoch 0"),
        (lambda rows: rows.append(rows[0]), "is in 2 samples of epoch 0"),
        (lambda rows: rows[0]["messages"].reverse(), "row 0: "),
        (lambda rows: rows[0].update(messages=[]), "row 0: its text is no conversation"),
        (lambda rows: rows[0].update(params="no json", strategy="format"), "row 0: params are not JSON"),
    ],
)
def test_a_changed_row_is_named_though_the_manifest_agrees(copy: Path, change: Any, words: str) -> None:
    name = manifest_of(copy)["parts"][0]["name"]
    edit_rows(copy, name, change)
    said = problems(copy)
    assert words in said
    assert f"- {name}: " in said


def test_findings_stay_small() -> None:
    findings = Findings()
    for _ in range(3):
        other = Findings()
        for number in range(SHOWN - 5):
            other.report(f"problem {number}")
        findings.add(other)
    assert (len(findings.problems), findings.wrong) == (SHOWN, 3 * (SHOWN - 5))
