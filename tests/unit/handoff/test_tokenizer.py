"""The tokenizer of the trainer is that of the run, or it is refused with what differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import mosaic_ray
from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.errors import SettingsError, TokenizerError


@pytest.fixture
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(str(tokenizer_path()))


def load(made: Path, tokenizer: Any) -> None:
    mosaic_ray.load(made, batch_size=1, tokenizer=tokenizer)


def test_the_tokenizer_of_the_run_is_taken_as_trainers_have_it(made: Path, tokenizer: Any) -> None:
    load(made, str(tokenizer_path()))
    load(made, tokenizer_path())
    load(made, tokenizer)
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=2)
    tokenizer.pad_token = tokenizer.eos_token
    load(made, tokenizer)


@pytest.mark.parametrize("name", ["<pad>", "<|padding|>"])
def test_a_padding_token_that_a_trainer_adds_is_no_other_tokenizer(
    made: Path, tokenizer: Any, tmp_path: Path, name: str
) -> None:
    assert tokenizer.add_special_tokens({"pad_token": name}) == 1
    load(made, tokenizer)
    tokenizer.save_pretrained(tmp_path)
    load(made, str(tmp_path))
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(SettingsError, match="its vocabulary, merges or added tokens differ"):
        load(made, tokenizer)


def test_another_vocabulary_is_refused_by_both_names(made: Path, tokenizer: Any) -> None:
    tokenizer.add_tokens(["<new>"])
    stated = json.loads((made / "manifest.json").read_text())["tokenizer"]
    with pytest.raises(SettingsError, match="its vocabulary, merges or added tokens differ") as refused:
        load(made, tokenizer)
    assert f"tokenizer {tokenizer.name_or_path!r} (v1:" in str(refused.value)
    assert f"that of the data set, {stated['name']!r} ({stated['digest']})" in str(refused.value)


def test_another_chat_template_is_refused(made: Path, tokenizer: Any) -> None:
    tokenizer.chat_template += " "
    with pytest.raises(SettingsError, match="its chat template differs"):
        load(made, tokenizer)


def test_another_end_of_sequence_is_refused(made: Path, tokenizer: Any) -> None:
    before = tokenizer.eos_token
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(300)
    with pytest.raises(SettingsError, match=r"eos_token is '.*' here, .* there") as refused:
        load(made, tokenizer)
    assert f"{before!r} there" in str(refused.value)


def test_what_is_no_fast_tokenizer_is_refused(made: Path) -> None:
    with pytest.raises(SettingsError, match="tokenizer=int: not a fast tokenizer"):
        load(made, 3)
    with pytest.raises(TokenizerError, match="could not be loaded"):
        load(made, "/no/such/tokenizer")
