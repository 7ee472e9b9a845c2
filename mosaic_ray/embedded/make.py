"""Make the embedded corpus and tokenizer: ``python -m mosaic_ray.embedded.make``.

Nothing but the hand-written records and the templates go in, so every run writes the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from mosaic_ray.embedded import corpus_path, shapes, tokenizer_path
from mosaic_ray.embedded.entry import Entry, written
from mosaic_ray.embedded.generated import arithmetic, json_text, lists, lookup, sorting
from mosaic_ray.embedded.generated.draws import Template, generate
from mosaic_ray.seeding import Key

RECORDS_PER_FILE: Final = 60
VOCABULARY: Final = 4096
CONTEXT: Final = 2048
"""Tokens; only what the tokenizer's configuration states, about five times the longest record."""

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SPECIAL_TOKENS: Final = (BOS, EOS, PAD, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")

SPLIT: Final = "|".join(
    (
        r"'(?i:s|t|re|ve|m|ll|d)",
        r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+",
        r"\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
"""Where no merge may reach across: the pattern of Llama 3 with two changes. A digit is a token of its own, which suits
arithmetic, and a combining mark belongs to its letter, or Hindi words would fall apart."""

KINDS: Final[Mapping[str, tuple[Callable[[Entry], shapes.Row], Sequence[Template]]]] = {
    "arithmetic": (shapes.question_answer, arithmetic.TEMPLATES),
    "code": (shapes.instruction_input_output, ()),
    "json": (shapes.prompt_completion, json_text.TEMPLATES),
    "languages": (shapes.conversations, ()),
    "lists": (shapes.prompt_response, lists.TEMPLATES),
    "lookup": (shapes.instruction_context_response, lookup.TEMPLATES),
    "sorting": (shapes.instruction_input_output, sorting.TEMPLATES),
    "text": (shapes.messages, ()),
}
"""File -> the shape of its records, and the templates that fill it up beside what is written by hand."""


def entries(name: str) -> list[Entry]:
    """The 60 entries of one file, written and generated ones mixed."""
    key = Key("embedded corpus", name)
    by_hand = written(name)
    computed = generate(KINDS[name][1], count=RECORDS_PER_FILE - len(by_hand), key=key)
    both = by_hand + computed
    return [both[place] for place in key.child("order").draw().shuffle(len(both))]


def corpus() -> dict[str, bytes]:
    """File name -> JSON Lines."""
    return {f"{name}.jsonl": _json_lines(map(shape, entries(name))) for name, (shape, _) in KINDS.items()}


def tokenizer() -> dict[str, bytes]:
    """File name -> content; the vocabulary is trained on every text of the corpus."""
    texts = [text for name in KINDS for entry in entries(name) for _, text in shapes.turns(entry)]
    return {
        "chat_template.jinja": CHAT_TEMPLATE.encode(),
        "tokenizer.json": (train(texts).to_str() + "\n").encode(),
        "tokenizer_config.json": (json.dumps(_configuration(), indent=2) + "\n").encode(),
    }


def train(texts: Iterable[str]) -> Tokenizer:
    """Byte-level BPE: every text has tokens, and decoding gives it back exactly."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer=trainer)
    return made


def _configuration() -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": [token for token in SPECIAL_TOKENS if token not in (BOS, EOS, PAD)],
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }


CHAT_TEMPLATE: Final = """\
{{- bos_token -}}
{%- for message in messages -%}
    {%- if message['content'] is not string -%}
        {{- raise_exception('The content of a turn must be a text.') -}}
    {%- endif -%}
    {%- if message['role'] in ('system', 'user') -%}
        {{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' -}}
    {%- elif message['role'] == 'assistant' -%}
        {{- '<|assistant|>\\n' -}}
        {%- generation -%}
            {{- message['content'] + eos_token -}}
        {%- endgeneration -%}
        {{- '\\n' -}}
    {%- else -%}
        {{- raise_exception('The role of a turn must be system, user or assistant.') -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|assistant|>\\n' -}}
{%- endif -%}
"""
"""A turn ends with ``<|end|>``; the assistant's with the end-of-sequence token, where generation stops by itself. The
generation block marks that turn's text and its end for trainers that learn from the assistant's tokens only."""


def _json_lines(rows: Iterable[shapes.Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def make(*, corpus_to: Path, tokenizer_to: Path) -> None:
    """Write all files into the two directories, which need not exist."""
    for directory, files in ((corpus_to, corpus()), (tokenizer_to, tokenizer())):
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name).write_bytes(content)


if __name__ == "__main__":
    make(corpus_to=corpus_path(), tokenizer_to=tokenizer_path())
