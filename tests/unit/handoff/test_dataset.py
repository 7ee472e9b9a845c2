"""Which data set, or view of one, lies at an address; and what is none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import mosaic_ray
from mosaic_ray.errors import InputError, SettingsError, VerificationError
from mosaic_ray.handoff.loader import Loader
from tests.unit.handoff.conftest import change_manifest


def load(address: Path | str, **options: Any) -> Loader:
    return mosaic_ray.load(address, **{"batch_size": 3, **options})


def test_views_are_found_by_name_from_the_data_set_and_from_another_view(made: Path) -> None:
    for start in (made, made / "manifest.json", made / "views" / "tokenized"):
        assert load(start, view="packed-512").dataset.storage.root == str(made / "views" / "packed-512")
        assert load(start, view="messages").dataset.storage.root == str(made)
    rows = [row for batch in load(made, view="tokenized") for row in batch]
    assert rows[0].keys() == {"input_ids", "attention_mask", "labels"}
    assert len(rows) == sum(len(batch) for batch in load(made))


def test_packed_without_its_length_is_the_only_one(made: Path, tmp_path: Path) -> None:
    output = shutil.copytree(made, tmp_path / "out")
    for start in (output, output / "views" / "tokenized", output / "views" / "packed-512"):
        assert load(start, view="packed").dataset.storage.root == str(output / "views" / "packed-512")
    shutil.copytree(output / "views" / "packed-512", output / "views" / "packed-64")
    with pytest.raises(SettingsError, match="the view packed is there as packed-512, packed-64; name one of them"):
        load(output, view="packed")


def test_a_view_of_what_lay_there_before_is_refused(made: Path, dataset: Path, tmp_path: Path) -> None:
    view = shutil.copytree(made / "views" / "packed-512", dataset / "views" / "packed-512")
    old, new = load(made).dataset.digest, load(dataset).dataset.digest
    words = (
        f"^{view}: a view of another data set than the one it lies in: made of {old}, where {dataset}/manifest.json "
        f"states {new}. Delete the view; then `mosaic-ray view {dataset} --view packed --sequence-length 512` makes"
    )
    for address, options in ((dataset, {"view": "packed-512"}), (view, {}), (view, {"view": "packed"})):
        with pytest.raises(VerificationError, match=words):
            load(address, **options)
    assert load(view, view="messages").dataset.digest == new, "what is asked for is not stale"
    for alone in (tmp_path / "alone", tmp_path / "views" / "packed-512"):
        assert list(load(shutil.copytree(view, alone)))


def test_what_is_no_data_set_is_refused(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(
        VerificationError, match=f"{tmp_path}/none/manifest.json: there is no such .* no finished data set"
    ):
        load(tmp_path / "none")
    part = next((dataset / "data").iterdir())
    (tmp_path / "x.jsonl").write_text("{}")
    for file in (part, tmp_path / "x.jsonl"):
        with pytest.raises(
            VerificationError, match=f"^{file}: a file. Give the directory above data/, or the manifest"
        ):
            load(file)
    with pytest.raises(VerificationError, match=r"give the directory above data/, or the manifest\.json in it, or let"):
        load(dataset / "data")
    with pytest.raises(InputError, match="no file system for nope://"):
        load("nope://set")
    with pytest.raises(VerificationError, match=r"its dataset_digest is v1:.*, where digest=v1:1 is asked for"):
        load(dataset, digest="v1:1")
    assert load(dataset, digest=load(dataset).dataset.digest)
    change_manifest(dataset, lambda manifest: manifest.update(format_version=99))
    with pytest.raises(VerificationError, match="format version 99, where this version of mosaic_ray reads"):
        load(dataset)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["parts"].pop(), "its parts give the dataset_digest v1:.*, it states v1:"),
        (lambda m: m.pop("parts"), "KeyError"),
        (lambda m: m["parts"][0].update(sha256="../../etc"), "sha256 '../../etc'"),
        (lambda m: m["parts"][0].update(epoch=5), "epoch 2 has no parts"),
        (lambda m: m["settings"].update(view="nothing"), "damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(dataset: Path, change: Any, words: str) -> None:
    change_manifest(dataset, change)
    with pytest.raises(VerificationError, match=words) as refused:
        load(dataset)
    assert "Restore it, or delete it and run the command" in str(refused.value)
    assert "\n" not in str(refused.value)
