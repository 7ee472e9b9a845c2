"""A small corpus and a small tokenizer that come with the package, so that a job runs on a fresh machine offline.

corpus: 480 records, one kind of task a file, in every record shape that the readers know.
tokenizer: byte-level BPE with 4,096 tokens, trained on that corpus, with a chat template.

``python -m mosaic_ray.embedded.make`` made both and makes them again, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent


def corpus_path() -> Path:
    """The directory of the JSONL files, fit to be an ``--input``."""
    return _HERE / "corpus"


def tokenizer_path() -> Path:
    """The directory that ``transformers.AutoTokenizer.from_pretrained`` loads."""
    return _HERE / "tokenizer"
