"""The configurations for axolotl and LLaMA-Factory: keys that these know, and columns that the data sets have.

Neither can be installed beside this project: axolotl 0.19.0 pins transformers 5.16.1, and LLaMA-Factory 0.9.5 wants at
most 5.6.0. So what they accept is written down here, as far as the recipes use it, and was held against their own code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pyarrow.dataset as pads
import pytest
import yaml
from datasets import load_from_disk

Recipe = Callable[..., dict[str, Any]]
Keys = Mapping[str, type]

AXOLOTL: Final[Keys] = {
    "base_model": str,
    "datasets": list,
    "sequence_len": int,
    "sample_packing": bool,
    "attn_implementation": str,
    "micro_batch_size": int,
    "gradient_accumulation_steps": int,
    "num_epochs": int,
    "learning_rate": float,
    "bf16": str,
    "output_dir": str,
}
"""axolotl 0.19.0, axolotl/utils/schemas/config.py: AxolotlInputConfig."""

AXOLOTL_DATASET: Final[Keys] = {
    "path": str,
    "ds_type": str,
    "data_files": str,
    "split": str,
    "type": str,
    "field_messages": str,
    "message_property_mappings": dict,
}
"""axolotl 0.19.0, axolotl/utils/schemas/datasets.py: SFTDataset."""

AXOLOTL_TOKENIZED: Final = {"input_ids", "attention_mask", "labels"}
"""With these columns a data set is taken as it is: axolotl/utils/data/wrappers.py, _is_dataset_already_tokenized."""

LLAMA_FACTORY: Final[Keys] = {
    "model_name_or_path": str,
    "stage": str,
    "do_train": bool,
    "finetuning_type": str,
    "dataset_dir": str,
    "dataset": str,
    "cutoff_len": int,
    "per_device_train_batch_size": int,
    "gradient_accumulation_steps": int,
    "num_train_epochs": int,
    "learning_rate": float,
    "output_dir": str,
}
"""LLaMA-Factory 0.9.5, llamafactory/hparams: ModelArguments, FinetuningArguments, DataArguments, TrainingArguments."""

LLAMA_FACTORY_COLUMNS: Final = {
    "alpaca": {"prompt", "query", "response"},
    "sharegpt": {"messages"},
}
"""LLaMA-Factory 0.9.5, llamafactory/data/parser.py and converter.py: the columns of each formatting."""

LLAMA_FACTORY_TAGS: Final = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}
"""The same: tags of the formatting sharegpt, and what they are where a data set has no ``tags``."""


def assert_known(block: Mapping[str, Any], keys: Keys) -> None:
    for key, value in block.items():
        assert type(value) is keys[key], key


def columns(place: Path) -> dict[str, list[Any]]:
    return pads.dataset(place, format="parquet").to_table().to_pydict()


def assert_turns(turns: list[list[dict[str, str]]], role: str, content: str, roles: set[str]) -> None:
    """Every turn has these two fields and no others, and speaks in one of these roles; the data has all of them."""
    assert {turn[role] for conversation in turns for turn in conversation} == roles
    assert {field for conversation in turns for turn in conversation for field in turn} == {role, content}


def axolotl(recipes: Mapping[str, str], name: str, path: str) -> dict[str, Any]:
    (found,) = (entry for entry in yaml.safe_load(recipes[name])["datasets"] if entry["path"] == path)
    return found


@pytest.mark.parametrize("name", ["axolotl.yaml", "axolotl_views.yaml"])
def test_axolotl_knows_every_key(recipes: Mapping[str, str], workplace: Path, name: str) -> None:
    block = yaml.safe_load(recipes[name])
    assert_known(block, AXOLOTL)
    for entry in block["datasets"]:
        assert_known(entry, AXOLOTL_DATASET)
        assert entry["data_files"] == f"{entry['path']}/*.parquet"
        assert list(workplace.glob(entry["data_files"]))


def test_axolotl_finds_its_columns(recipes: Mapping[str, str], workplace: Path) -> None:
    messages = axolotl(recipes, "axolotl.yaml", "OUT/data")
    assert messages["type"] == "chat_template"
    assert_turns(columns(workplace / "OUT/data")["messages"], "role", "content", {"system", "user", "assistant"})

    sharegpt = axolotl(recipes, "axolotl_views.yaml", "OUT/views/sharegpt/data")
    turns = columns(workplace / sharegpt["path"])[sharegpt["field_messages"]]
    mapped = sharegpt["message_property_mappings"]
    assert sharegpt["type"] == "chat_template"
    assert_turns(turns, mapped["role"], mapped["content"], {"system", "human", "gpt"})

    alpaca = axolotl(recipes, "axolotl_views.yaml", "OUT/views/alpaca/data")
    assert alpaca["type"] == "alpaca"
    assert {"instruction", "input", "output"} <= columns(workplace / alpaca["path"]).keys()

    tokenized = axolotl(recipes, "axolotl_views.yaml", "OUT/views/tokenized/data")
    assert "type" not in tokenized
    assert columns(workplace / tokenized["path"]).keys() == AXOLOTL_TOKENIZED


def test_llama_factory_knows_every_key(recipes: Mapping[str, str]) -> None:
    block = yaml.safe_load(recipes["llamafactory.yaml"])
    assert_known(block, LLAMA_FACTORY)
    assert block["dataset"] in json.loads(recipes["dataset_info.json"])


def test_llama_factory_finds_its_columns(recipes: Mapping[str, str], workplace: Path) -> None:
    for name, entry in json.loads(recipes["dataset_info.json"]).items():
        assert entry.keys() <= {"file_name", "formatting", "columns", "tags"}
        assert entry["columns"].keys() == LLAMA_FACTORY_COLUMNS[entry["formatting"]]
        there = columns(workplace / entry["file_name"])
        assert set(entry["columns"].values()) <= there.keys(), name
        if entry["formatting"] == "sharegpt":
            tags = entry.get("tags", LLAMA_FACTORY_TAGS)
            assert tags.keys() == LLAMA_FACTORY_TAGS.keys()
            roles = {tags[role] for role in ("user_tag", "assistant_tag", "system_tag")}
            assert_turns(there[entry["columns"]["messages"]], tags["role_tag"], tags["content_tag"], roles)


def test_llama_factory_gets_token_ids_in_the_form_it_keeps(run_recipe: Recipe, workplace: Path) -> None:
    """It reads ``tokenized_path`` by ``load_from_disk``, and trains on the split ``train``."""
    run_recipe("llamafactory_tokenized.py")
    kept = load_from_disk(str(workplace / "tokenized"))["train"]
    assert kept.to_dict() == columns(workplace / "OUT/views/tokenized/data")
