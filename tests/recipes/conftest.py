"""The recipes of the README, and a place to run them in: a data set with its views, and a small model."""

from __future__ import annotations

import contextlib
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import datasets
import huggingface_hub
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from mosaic_ray.cli import app
from mosaic_ray.embedded import corpus_path, tokenizer_path

README: Final = Path(__file__).parents[2] / "README.md"

_BLOCK: Final = re.compile(r"^```(?:python|yaml|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NAME: Final = re.compile(r"\A# ([\w.]+)")


@pytest.fixture(scope="session")
def recipes() -> dict[str, str]:
    """The blocks of code in the README as they are printed, by the file that the comment on their first line names.

    JSON has no comments; the one block of it is ``dataset_info.json``.
    """
    blocks = _BLOCK.findall(README.read_text(encoding="utf-8"))
    return {name[1] if (name := _NAME.match(block)) else "dataset_info.json": block for block in blocks}


@pytest.fixture(scope="session", autouse=True)
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is asked of the Hub, nor told it; what ``datasets`` reads is not kept, nor taken from before.

    And one thread: more of them only wait for each other, with tensors as small as these.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")  # for the processes that are started; here it has been read already
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def compose() -> Callable[..., None]:
    """Run the job in this process, with the tokenizer of the package: ``compose(output, *files_of_its_corpus)``."""

    def run(output: Path, *files: str, also: str, epochs: int) -> None:
        inputs = [option for file in files for option in ("--input", str(corpus_path() / file))]
        arguments = ["run", *inputs, "--output", str(output), "--tokenizer", "embedded", "--engine", "in-process"]
        app([*arguments, "--epochs", str(epochs), "--also", also], standalone_mode=False)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two layers with random weights, and the tokenizer of the package."""
    path = tmp_path_factory.mktemp("model")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path())
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=2048,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, compose: Callable[..., None], model: Path) -> Path:
    """Where the recipes run: ``OUT`` and ``model``, as they name them. 120 records once, some of several turns."""
    folder = tmp_path_factory.mktemp("workplace")
    compose(folder / "OUT", "text.jsonl", "lists.jsonl", also="alpaca,sharegpt,tokenized,packed", epochs=1)
    (folder / "model").symlink_to(model, target_is_directory=True)
    return folder


@pytest.fixture(scope="session")
def run_recipe(recipes: dict[str, str], workplace: Path) -> Callable[..., dict[str, Any]]:
    """Run a recipe as a script where the data set lies, and give its variables: ``run_recipe("trl_packed.py")``.

    Further arguments are pairs of texts: what is printed, and what is tried in its place.
    """

    def run(name: str, *changes: tuple[str, str]) -> dict[str, Any]:
        source = recipes[name]
        for printed, other in changes:
            assert printed in source
            source = source.replace(printed, other)
        (workplace / name).write_text(source, encoding="utf-8")
        with contextlib.chdir(workplace):
            return runpy.run_path(name, run_name="__main__")

    return run
