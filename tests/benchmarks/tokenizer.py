"""A tokenizer of the benchmark's own, trained on a slice of its corpus, for those who have no other at hand."""

from __future__ import annotations

import json
import os
import shutil
from itertools import islice
from pathlib import Path
from typing import Final

from corpus import Corpus
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY: Final = 48_000
_TRAINING_BYTES: Final = 16_000_000

_SPLIT: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 splits a text before any merge: words with a leading space, up to three digits, runs of signs, space."""

_SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def trained(cache: Path, corpus: Corpus) -> Path:
    """The directory of the tokenizer for a corpus: byte-level BPE, 48,000 entries, a chat template in ChatML's form.

    Trained on about 16 million bytes, evenly out of all files. About half a minute; then it is in the cache.
    """
    folder = cache / f"{corpus.folder.name}-tokenizer-{VOCABULARY}"
    if folder.exists():
        return folder
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in _SPECIAL],
        show_progress=False,
    )
    step = max(1, corpus.text // _TRAINING_BYTES)
    tokenizer.train_from_iterator(islice(corpus.texts(), 0, None, step), trainer=trainer)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer.save(str(partial / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": _CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131_072,
    }
    (partial / "tokenizer_config.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    partial.rename(folder)
    return folder
