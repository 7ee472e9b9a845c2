"""The recipes for TRL and transformers: what their trainers make of the data set, and that mosaics stay apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

Recipe = Callable[..., dict[str, Any]]
Batch = Mapping[str, torch.Tensor]
Sample = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids and labels."""

ROUNDING = 2e-5
"""Of logits and losses in float32, which are of the order of 1 and 10. Measured: at most 2.4e-7 and 1e-6."""

pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainers' own


@pytest.fixture(scope="module")
def out(workplace: Path) -> Dataset:
    return _read(workplace / "OUT")


@pytest.fixture(scope="module")
def tokenized(workplace: Path) -> Dataset:
    return _read(workplace / "OUT/views/tokenized")


@pytest.fixture(scope="module")
def samples(tokenized: Dataset) -> Counter[Sample]:
    """What an epoch holds: every sample of the data set once."""
    return Counter((tuple(row["input_ids"]), tuple(row["labels"])) for row in tokenized)


@pytest.fixture(scope="module")
def trl_packed(run_recipe: Recipe) -> Any:
    return run_recipe("trl_packed.py")["trainer"]


def _read(path: Path) -> Dataset:
    return load_dataset("parquet", data_files=str(path / "data" / "*.parquet"), split="train")


def assert_trained(trainer: Any, steps: int) -> None:
    """It took so many steps, and the loss is about that of random weights."""
    assert trainer.state.global_step == steps
    assert 7 < trainer.state.log_history[-1]["train_loss"] < 9


def sequences(batch: Batch) -> Iterator[slice]:
    """Where the mosaics of a batch without padding stand; their position ids must count each from 0."""
    positions = batch["position_ids"][0]
    assert batch["position_ids"].shape == batch["input_ids"].shape == batch["labels"].shape == (1, len(positions))
    starts = [*(positions == 0).nonzero().flatten().tolist(), len(positions)]
    for start, end in pairwise(starts):
        assert positions[start:end].tolist() == list(range(end - start))
        yield slice(start, end)


def held(batches: list[Batch]) -> Counter[Sample]:
    """The samples of batches without padding."""
    return Counter(
        (tuple(batch["input_ids"][0, here].tolist()), tuple(batch["labels"][0, here].tolist()))
        for batch in batches
        for here in sequences(batch)
    )


def test_trl_makes_of_the_messages_the_tokens_that_were_counted(
    run_recipe: Recipe, out: Dataset, tokenized: Dataset
) -> None:
    trainer = run_recipe("trl_messages.py")["trainer"]
    made = trainer.train_dataset
    assert [len(ids) for ids in made["input_ids"]] == out["token_count"][:]
    assert made["input_ids"][:] == tokenized["input_ids"][:]
    assert made["labels"][:] == tokenized["labels"][:]
    assert_trained(trainer, steps=-(-len(out) // 8))


def test_the_loss_is_on_what_the_assistant_says_and_where_it_ends(
    workplace: Path, out: Dataset, tokenized: Dataset
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(workplace / "model")
    turns = Counter[int]()
    for messages, labels in zip(out["messages"], tokenized["labels"], strict=True):
        said = [f"{turn['content']}{tokenizer.eos_token}" for turn in messages if turn["role"] == "assistant"]
        assert tokenizer.decode([token for token in labels if token != -100]) == "".join(said)
        turns[len(said)] += 1
    assert turns[1] > 10
    assert turns[2] > 1


def test_trl_takes_packed_rows_as_they_are(trl_packed: Any, samples: Counter[Sample]) -> None:
    batches = list(trl_packed.get_train_dataloader())
    assert held(batches) == samples
    assert_trained(trl_packed, steps=len(batches))
    assert max(len(list(sequences(batch))) for batch in batches) > 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_mosaics_of_a_packed_row_do_not_see_each_other(trl_packed: Any, attention: str) -> None:
    model = trl_packed.model.eval()
    model.set_attn_implementation(attention)
    batch = next(iter(trl_packed.get_train_dataloader()))
    ids, labels = batch["input_ids"], batch["labels"][0]
    with torch.no_grad():
        together = model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits
        alone = torch.cat([model(ids[:, here]).logits for here in sequences(batch)], dim=1)
        mixed = model(ids).logits
        loss = trl_packed.compute_loss(model, dict(batch))
    assert (together - alone).abs().max() < ROUNDING
    assert (mixed - alone).abs().max() > 0.1
    assert abs(loss - cross_entropy(alone[0, :-1], labels[1:])) < ROUNDING


def test_transformers_pads_the_tokenized_view(run_recipe: Recipe, samples: Counter[Sample]) -> None:
    trainer = run_recipe("trainer_tokenized.py")["trainer"]
    batches = list(trainer.get_train_dataloader())
    padded = trainer.processing_class.pad_token_id
    seen = Counter[Sample]()
    for batch in batches:
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            inside = mask.bool()
            assert ids[~inside].eq(padded).all()
            assert labels[~inside].eq(-100).all()
            seen[tuple(ids[inside].tolist()), tuple(labels[inside].tolist())] += 1
    assert seen == samples
    assert_trained(trainer, steps=len(batches))


def test_transformers_flattens_the_tokenized_view(run_recipe: Recipe, samples: Counter[Sample]) -> None:
    """What the README says of the other collator."""
    pads, flattens = "DataCollatorForSeq2Seq(tokenizer)", "DataCollatorWithFlattening()"
    changes = [(f"{pads},", f"{flattens},"), ("import AutoM", "import DataCollatorWithFlattening, AutoM")]
    trainer = run_recipe("trainer_tokenized.py", *changes)["trainer"]
    batches = list(trainer.get_train_dataloader())
    assert held(batches) == samples
    assert_trained(trainer, steps=len(batches))


def test_transformers_takes_packed_rows(run_recipe: Recipe, samples: Counter[Sample]) -> None:
    trainer = run_recipe("trainer_packed.py")["trainer"]
    batches = list(trainer.get_train_dataloader())
    assert held(batches) == samples
    assert_trained(trainer, steps=len(batches))
    model, batch = trainer.model.eval(), batches[0]
    with torch.no_grad():
        together = model(**batch).logits
        alone = torch.cat([model(batch["input_ids"][:, here]).logits for here in sequences(batch)], dim=1)
    assert (together - alone).abs().max() < ROUNDING


def test_a_cache_lets_mosaics_see_each_other(trl_packed: Any) -> None:
    """Why a loop of one's own needs use_cache=False, as the README says: with a cache transformers takes no notice of
    position ids that begin again."""
    model = trl_packed.model.eval()
    batch = next(iter(trl_packed.get_train_dataloader()))
    places = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        apart, cached = (model(**places, use_cache=cache).logits for cache in (False, True))
    assert (apart - cached).abs().max() > 0.1
