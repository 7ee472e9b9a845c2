"""Data sets as ``datasets`` loads them by their cards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest


def test_load_dataset_tells_data_sets_of_the_same_name_apart(
    tmp_path: Path, compose: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``datasets`` finds what it has read before by the directory's last name and the card's configs alone."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name, file in (("a", "text.jsonl"), ("b", "lists.jsonl")):
        compose(tmp_path / name / "OUT", file, also="tokenized", epochs=1)
    for place in ("OUT", "OUT/views/tokenized"):
        first, second = (datasets.load_dataset(str(tmp_path / name / place), split="train") for name in ("a", "b"))
        assert first[:] != second[:]
