"""Views of a finished run: made beside it or later, the same bytes; resumed; refused beside another data set."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mosaic_ray.cli import app
from mosaic_ray.config import ViewSpec, job_from
from mosaic_ray.embedded import corpus_path, tokenizer_path
from mosaic_ray.errors import DriftError, SettingsError, StorageError, VerificationError
from mosaic_ray.io.manifest import read_manifest
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.pages import publish_view_card
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.engine import InProcessEngine
from mosaic_ray.runtime.lease import hold
from mosaic_ray.runtime.run import reopen
from mosaic_ray.runtime.verify_view import kept_view, verify_view
from mosaic_ray.runtime.viewing import finished_view, make_view, view_path

PACKED = ViewSpec(view="packed", sequence_length=1024)
TOKENIZED = ViewSpec(view="tokenized")


def run(out: Path, **options: Any) -> dict[str, Any]:
    places = {"input": f"{corpus_path()}/[l-s]*.jsonl", "output": str(out), "tokenizer": str(tokenizer_path())}
    limits = {"max_tokens": 600, "epochs": 2, "task_records": 120}
    job = job_from({**places, **limits, **options}, MosaicMethod)
    return run_job(job, InProcessEngine, finish=lambda *_: None, finish_view=publish_view_card)


def view(out: Path, spec: ViewSpec) -> dict[str, Any]:
    opened = reopen(Storage.at(str(out), {}, error=StorageError), {"mosaic-it": MosaicMethod})
    manifest = read_manifest(opened.output)
    if (finished := finished_view(opened, manifest, spec)) is not None:
        return finished
    with hold(opened.output) as lease:
        return make_view(opened, InProcessEngine(), lease, manifest, spec, finish=publish_view_card)


def check(out: Path, spec: ViewSpec) -> Any:
    opened = reopen(Storage.at(str(out), {}, error=StorageError), {"mosaic-it": MosaicMethod})
    return verify_view(opened, InProcessEngine(), spec)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json" and "receipts" not in path.parts
    }


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("viewed") / "out"
    run(out, also="tokenized,packed,sharegpt", sequence_length=1024)
    return out


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


class TestMade:
    def test_what_there_is(self, finished: Path) -> None:
        parts = sorted(path.name for path in (finished / "data").iterdir())
        assert len(parts) == 4
        assert sorted(path.name for path in (finished / "views").iterdir()) == ["packed-1024", "sharegpt", "tokenized"]
        for home in (finished / "views").iterdir():
            assert sorted(path.name for path in home.iterdir()) == ["README.md", "_mosaic", "data", "manifest.json"]
            assert sorted(path.name for path in (home / "data").iterdir()) == parts

    def test_its_manifest(self, finished: Path) -> None:
        samples = json.loads((finished / "manifest.json").read_text())
        made = json.loads((finished / "views/packed-1024/manifest.json").read_text())
        assert made["view"] == {"name": "packed", "sequence_length": 1024}
        assert made["of"] == {"run": samples["run"], "dataset_digest": samples["dataset_digest"]}
        tables = [pq.ParquetFile(finished / "views/packed-1024" / part["name"]).read() for part in made["parts"]]
        lengths = [sum(row) for table in tables for row in table["seq_lengths"].to_pylist()]
        wanted = {"rows": len(lengths), "samples": samples["totals"]["samples"], "tokens": samples["totals"]["tokens"]}
        assert {key: made["totals"][key] for key in wanted} == wanted
        assert 0 <= made["packing"].pop("seconds") < 10
        assert made["packing"] == {
            "sequence_length": 1024,
            "samples_per_row": round(wanted["samples"] / len(lengths), 3),
            "efficiency": round(sum(lengths) / (1024 * len(lengths)), 6),
            "empty_tokens": 1024 * len(lengths) - sum(lengths),
            "least_rows": -(-sum(lengths) // 1024),
        }
        assert [part["epoch"] for part in made["parts"]] == [0, 0, 1, 1]
        assert made["accounting"] == {
            "samples": wanted["samples"], "in_view": wanted["samples"], "left_out": {}, "balanced": True
        }  # fmt: skip

    def test_later_is_the_same_as_beside_the_run(self, finished: Path, tmp_path: Path) -> None:
        plain = run(tmp_path / "out")
        assert plain["dataset_digest"] == json.loads((finished / "manifest.json").read_text())["dataset_digest"]
        assert not (tmp_path / "out/views").exists()
        for spec in (PACKED, TOKENIZED, ViewSpec(view="sharegpt")):
            made = view(tmp_path / "out", spec)
            home = finished / view_path(spec)
            assert files(tmp_path / "out" / view_path(spec)) == files(home)
            assert made["dataset_digest"] == json.loads((home / "manifest.json").read_text())["dataset_digest"]

    @pytest.mark.parametrize("spec", [PACKED, TOKENIZED], ids=["packed", "tokenized"])
    def test_it_verifies(self, finished: Path, spec: ViewSpec) -> None:
        found = check(finished, spec)
        assert (found.parts, found.wrong) == (4, 0)
        assert kept_view(Storage.at(str(finished / view_path(spec)), {}, error=StorageError)) == spec


@pytest.mark.parametrize(
    ("folder", "address"), [("", "views/tokenized"), ("views", "tokenized/"), ("views/tokenized", ".")]
)
def test_addresses_as_users_write_them(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str, address: str
) -> None:
    monkeypatch.chdir(finished / folder)
    app(["verify", address, "--engine", "in-process"], standalone_mode=False)
    assert f"verified {finished}/views/tokenized: 4 parts" in capsys.readouterr().out


class TestResumed:
    def test_from_where_it_stopped(self, copy: Path, finished: Path) -> None:
        home = copy / view_path(PACKED)
        (home / "manifest.json").unlink()
        (home / "data/train-00002-of-00004.parquet").unlink()
        kept = home / "data/train-00001-of-00004.parquet"
        before = kept.stat().st_mtime_ns
        (home / "data/train-00003-of-00004.parquet").write_bytes(b"half")
        view(copy, PACKED)
        assert files(home) == files(finished / view_path(PACKED))
        assert kept.stat().st_mtime_ns == before

    def test_a_finished_one_is_left_alone(self, copy: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
        view(copy, PACKED)
        run(copy, also="packed", sequence_length=1024)
        assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before

    def test_a_part_that_was_lost_is_made_again(self, copy: Path, finished: Path) -> None:
        (copy / "views/tokenized/data/train-00000-of-00004.parquet").unlink()
        run(copy, also="tokenized")
        assert files(copy / "views/tokenized") == files(finished / "views/tokenized")


class TestRefused:
    def test_of_another_data_set(self, copy: Path) -> None:
        identity = copy / "views/tokenized/_mosaic/view.json"
        kept = json.loads(identity.read_text())
        kept["of"]["dataset_digest"] = "v1:0"
        identity.write_text(json.dumps(kept))
        words = (
            r"views/tokenized holds a view that was made otherwise; it differs in of\. Delete it, and the same command"
        )
        with pytest.raises(DriftError, match=words):
            view(copy, TOKENIZED)

    def test_the_view_of_the_run(self, copy: Path) -> None:
        with pytest.raises(SettingsError, match=r"view = messages: .*data holds that already"):
            view(copy, ViewSpec(view="messages"))
        with pytest.raises(SettingsError, match=r"also = messages: the run writes this view anyway"):
            run(copy, also="messages")

    def test_sequences_shorter_than_a_sample(self, copy: Path) -> None:
        longest = json.loads((copy / "manifest.json").read_text())["totals"]["longest"]
        short = ViewSpec(view="packed", sequence_length=longest - 1)
        with pytest.raises(
            SettingsError, match=rf"the longest sample has {longest} tokens.*--sequence-length {longest}"
        ):
            view(copy, short)
        with pytest.raises(SettingsError, match=r"sequence_length = 599: a sample may have --max-tokens 600"):
            run(copy, also="packed", sequence_length=599)

    def test_a_damaged_part_of_the_data_set(self, copy: Path) -> None:
        part = copy / "data/train-00001-of-00004.parquet"
        part.write_bytes(part.read_bytes()[:-1] + b"x")
        with pytest.raises(
            VerificationError, match=r"train-00001-of-00004.parquet: its SHA-256 is not that of the manifest"
        ):
            view(copy, ViewSpec(view="alpaca"))
        part.unlink()
        with pytest.raises(VerificationError, match=r"train-00001-of-00004.parquet: missing"):
            view(copy, ViewSpec(view="alpaca"))
        assert not (copy / "views/alpaca/manifest.json").exists()


Change = Callable[[Path, dict[str, Any]], None]


def _other_rows(home: Path, manifest: dict[str, Any]) -> None:
    """Two parts change places, and the manifest says so."""
    first, second = manifest["parts"][0], manifest["parts"][1]
    one, two = home / first["name"], home / second["name"]
    one_bytes, two_bytes = one.read_bytes(), two.read_bytes()
    one.write_bytes(two_bytes)
    two.write_bytes(one_bytes)
    names = first["name"], second["name"]
    manifest["parts"][0], manifest["parts"][1] = second, first
    manifest["parts"][0]["name"], manifest["parts"][1]["name"] = names


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _, manifest: manifest["parts"].pop(), "in one of the two manifests only"),
        (lambda _, manifest: manifest["totals"].update(rows=1), "the totals of the manifest are"),
        (lambda _, manifest: manifest["parts"][0].update(samples=1), "1 samples in the manifest"),
        (lambda home, manifest: (home / manifest["parts"][0]["name"]).unlink(), "missing"),
        (lambda home, manifest: (home / manifest["parts"][0]["name"]).write_bytes(b"x"), "SHA-256 is not"),
        (lambda _, manifest: manifest.update(dataset_digest="v1:0"), "dataset_digest"),
        (lambda _, manifest: manifest["of"].update(dataset_digest="v1:0"), "made of v1:0"),
        (_other_rows, "it has other rows"),
        (lambda _, manifest: manifest["parts"][0].update(epoch=1), "epoch 1, task 0, not those of the data set's part"),
        (lambda _, manifest: manifest["view"].update(sequence_length=9), "view of the manifest is"),
        (lambda _, manifest: manifest["tokenizer"].update(digest="v1:0"), "tokenizer of the manifest is"),
        (lambda _, manifest: manifest["packing"].update(efficiency=1.0), "packing of the manifest is"),
        (lambda _, manifest: manifest["accounting"].update(in_view=1), "accounting of the manifest is"),
        (lambda home, _: (home / "data/train-00099-of-00004.parquet").write_bytes(b"x"), "no part of the view"),
    ],
)  # fmt: skip
def test_what_is_changed_in_a_view_is_named(copy: Path, change: Change, words: str) -> None:
    home = copy / view_path(PACKED)
    manifest = json.loads((home / "manifest.json").read_text())
    change(home, manifest)
    (home / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VerificationError) as caught:
        check(copy, PACKED)
    assert words in str(caught.value)
