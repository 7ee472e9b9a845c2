"""From records to token ids: a tokenizer of the experiment's own, the mosaics that the project makes, their rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq
from score import MOST_TILES, Case, Uncounted, conversation
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from mosaic_ray.config import job_from
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.pages import publish_pages
from mosaic_ray.records import Message, Record
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.engine import InProcessEngine
from mosaic_ray.seeding import Key

MAX_TOKENS: Final = 256
END: Final = "<|end|>"
_SPECIAL: Final = ("<|pad|>", "<|user|>", "<|assistant|>", END)
_TEMPLATE: Final = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
_SPLIT: Final = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"
"""Words with the space before them, and every digit a token of its own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation as token ids; the first ``prompt`` of them are the question and the header of the answer."""

    ids: list[int]
    prompt: int


def trained_tokenizer(records: Sequence[Record], folder: Path, *, key: Key) -> Tokenizer:
    """Byte-level BPE with a small chat template, in a directory that ``AutoTokenizer`` loads.

    Its vocabulary is that of the records and of mosaics of them.
    """
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    samples = MosaicMethod.model_validate({"max_tiles": MOST_TILES}).compose(records, key=key, measure=Uncounted())
    texts = [message.content for sample in samples for message in sample.messages]
    texts += [message.content for record in records for message in record.messages]
    trainer = trainers.BpeTrainer(
        vocab_size=2048,
        min_frequency=4,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in _SPECIAL],
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer=trainer)
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": "<|pad|>",
        "chat_template": _TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return made


def end_of(tokenizer: Tokenizer) -> int:
    """The token that ends a response."""
    number = tokenizer.token_to_id(END)
    assert number is not None
    return number


def composed(records: Sequence[Record], folder: Path, *, tokenizer: Path, epochs: int, seed: int) -> Path:
    """The data set that the project makes of the records; ``folder`` gets its input and its output."""
    folder.mkdir(parents=True)
    source = folder / "records.jsonl"
    with source.open("w", encoding="utf-8") as lines:
        for record in records:
            lines.write(json.dumps({"instruction": record.instruction, "output": record.response}) + "\n")
    options = {
        "input": str(source),
        "output": str(folder / "mosaics"),
        "tokenizer": str(tokenizer),
        "engine": "in-process",
        "epochs": epochs,
        "seed": seed,
        "max_tokens": MAX_TOKENS,
        "max_tiles": MOST_TILES,
    }
    run_job(job_from(options, MosaicMethod), InProcessEngine, finish=publish_pages)
    return folder / "mosaics"


def rows_of_dataset(dataset: Path, tokenizer: Tokenizer) -> list[Row]:
    """Every sample of a finished data set, part after part."""
    parts = sorted((dataset / "data").glob("*.parquet"))
    found = (messages for part in parts for messages in pq.read_table(part)["messages"].to_pylist())
    return _encoded((tuple(Message(**message) for message in messages) for messages in found), tokenizer)


def rows_of(records: Iterable[Record | Case], tokenizer: Tokenizer) -> list[Row]:
    """Each record, or test sample, as a conversation by itself."""
    return _encoded(map(conversation, records), tokenizer)


def _encoded(conversations: Iterable[tuple[Message, ...]], tokenizer: Tokenizer) -> list[Row]:
    """By the chat template; the marks between the parts are tokens, so the parts may be encoded apart."""
    questions, answers = [], []
    for question, answer in conversations:
        questions.append(f"<|user|>{question.content}{END}<|assistant|>")
        answers.append(f"{answer.content}{END}")
    both = zip(tokenizer.encode_batch_fast(questions), tokenizer.encode_batch_fast(answers), strict=True)
    return [Row(question.ids + answer.ids, len(question.ids)) for question, answer in both]
