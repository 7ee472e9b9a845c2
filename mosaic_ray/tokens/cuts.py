"""Where a text may be cut so that the tokens of its parts are the tokens of the whole.

Between two neighbouring characters a cut is safe if no token can hold both and neither side sees the other. That is
proven from the tokenizer's own definition, never assumed:

- **Pre-tokenizers** that split by regular expressions: no match can hold both characters (:mod:`.patterns`), and one
  of the expressions is sure to end a piece between them.
- **BPE over whole texts** (SentencePiece, as in Llama 2 and Gemma): no entry of the vocabulary holds both, so no merge
  can ever reach across, and merges on either side run in the same order as they would alone.
- **WordPiece** after BERT's pre-tokenizer: white space and punctuation stand alone.
- **Normalizers** work on each side alone: none, NFC (a character that begins no composition), a replacement of single
  characters, BERT's.
- **Added tokens** are found in the text first: none of them holds both characters, and none eats white space around it.

Whatever is not known here is not proven: :func:`safe_cuts` says why, and texts are counted whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE, WordPiece

from mosaic_ray.tokens.patterns import (
    IDEOGRAPH,
    KANA,
    LOWER,
    MARK,
    META_SPACE,
    OTHER,
    SINGLES,
    SYMBOLS,
    TABLE,
    TITLE,
    UNCASED,
    UPPER,
    Analysis,
    UnknownPattern,
    analyse,
    singles,
    symbol,
)

Matrix = npt.NDArray[np.bool_]
"""SYMBOLS x SYMBOLS: something about every pair of neighbours."""

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What ``ByteLevel`` splits by where it is told to (Radford et al., "Language Models are Unsupervised Multitask
Learners", 2019)."""

_BYTE_TOKEN: Final = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE: Final = symbol(" ")
_META: Final = symbol(META_SPACE)
_LETTERS: Final = [LOWER, UPPER, UNCASED, KANA, IDEOGRAPH]
_WHITE: Final = singles(lambda c: c in " \t\n\r")
_PRINTABLE: Final = _WHITE | singles(str.isprintable) | sum(1 << number for number in _LETTERS)
_APART: Final = singles(lambda c: c.isprintable() and not c.isalnum() and c not in (" ", META_SPACE))
"""What BERT's pre-tokenizer makes a piece of its own: all punctuation, and what else of ASCII is no letter or digit."""

_JOINING: Final = [MARK, OTHER, _META]
"""What can become one character with the one before it, or what nothing is known of."""
_TABLE: Final = np.frombuffer(TABLE, dtype=np.uint8)


class NotProven(Exception):
    """Why texts of a tokenizer cannot be cut."""


@dataclass(frozen=True)
class Cuts:
    """The safe cuts of a tokenizer.

    safe: between which symbols a text may be cut.
    prefix: what is put before each stretch of text between added tokens, by the normalizer or the pre-tokenizer.
    unless: characters that a stretch may begin with to get no prefix.
    """

    safe: Matrix
    prefix: str
    unless: str = ""

    def between(self, left: str, right: str) -> bool:
        return bool(self.safe[symbol(left), symbol(right)])

    def starts(self, text: str, also: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where the pieces of a text start: at every safe cut, and at these positions."""
        numbers = symbols(text).astype(np.uint16)
        cut = np.zeros(len(text) + 1, dtype=np.bool_)
        cut[1:-1] = self._flat[numbers[:-1] * np.uint16(SYMBOLS) + numbers[1:]]
        cut[also] = True
        return np.flatnonzero(cut[:-1])

    @cached_property
    def _flat(self) -> npt.NDArray[np.bool_]:
        return np.ascontiguousarray(self.safe).reshape(-1)


def safe_cuts(tokenizer: Tokenizer) -> Cuts:
    """Derive the cuts of a tokenizer. Raises NotProven where none can be proven at spaces, and says why."""
    normalizers = list(steps(tokenizer.normalizer, "normalizers"))
    splitters = list(steps(tokenizer.pre_tokenizer, "pretokenizers"))
    kinds = [step["type"] for step in (*normalizers, *splitters)]
    added = list(tokenizer.get_added_tokens_decoder().values())
    later = [token.content for token in added if token.normalized]
    _refuse_greedy(added)
    if getattr(tokenizer.model, "dropout", None):
        raise NotProven("its model drops merges at random")
    prefix = unless = ""
    if kinds[:1] == ["BertNormalizer"] and kinds[1:] == ["BertPreTokenizer"]:
        safe = _bert(tokenizer, normalizers[0])
    elif kinds == ["Metaspace"]:
        safe, prefix, unless = _vocabulary_cuts(tokenizer), *_metaspace(splitters[0])
    elif normalizers and {step["type"] for step in normalizers} <= {"Replace", "Prepend"}:
        safe, prefix = _vocabulary_cuts(tokenizer), _replacement(normalizers, splitters)
    elif all(step["type"] == "NFC" for step in normalizers):
        safe = _expressions(splitters)
    else:
        raise NotProven(f"its normalizer is of a kind that is not known: {_listed(normalizers)}")
    if later and (prefix or kinds[:1] == ["BertNormalizer"]):
        raise NotProven(f"its added token {later[0]!r} is looked for in the normalised text")
    safe &= ~_neighbours(_spellings(added, tokenizer))
    if kinds[:1] == ["NFC"]:
        safe = _composed(safe)
    safe[:, _JOINING] = False
    if not safe[symbol("a"), _SPACE]:
        raise NotProven("a token of its vocabulary can reach across a space between words")
    return Cuts(safe, prefix, unless)


def steps(component: Any, inside: str) -> Iterable[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, as their definition has them, sequences taken apart."""
    if component is None:
        return
    stack = [json.loads(component.__getstate__())]
    while stack:
        step = stack.pop()
        if step["type"] == "Sequence":
            stack += reversed(step[inside])
        else:
            yield step


def _refuse_greedy(added: Sequence[AddedToken]) -> None:
    for token in added:
        if token.lstrip or token.rstrip or token.single_word:
            raise NotProven(f"its added token {token.content!r} takes what stands around it into account")


def stands_alone(token: str, added: Iterable[str]) -> bool:
    """Whether an added token is found wherever it is written, whatever text stands around it.

    No other added token may reach into it from the left, or go on behind it.
    """
    for other in added:
        if other.startswith(token) and other != token:
            return False
        if any(token.startswith(other[i:]) or other.startswith(token, i) for i in range(1, len(other))):
            return False
    return True


def _expressions(splitters: Sequence[Mapping[str, Any]]) -> Matrix:
    """Of pre-tokenizers that split by expressions, one after the other."""
    held = np.zeros((SYMBOLS, SYMBOLS), dtype=np.bool_)
    ended = np.zeros_like(held)
    if any(step["type"] == "ByteLevel" for step in splitters[:-1]):
        raise NotProven("its pre-tokenizer splits again after it has put other characters for bytes")
    for step in splitters:
        expression = _expression(step)
        if expression is None:
            continue
        try:
            found = analyse(expression)
        except UnknownPattern as error:
            raise NotProven(f"its pre-tokenizer's expression has {error}: {expression}") from error
        pairs = _matrix(found)
        taken = _bits(found.taken)
        held |= pairs
        # A character that is always in a match ends one here or begins one here.
        ended |= ~pairs & (taken[:, None] | taken[None, :])
    return ~held & ended


def _composed(safe: Matrix) -> Matrix:
    """What is safe if it is so for all that NFC can make of the characters on either side.

    A mark or a rare character can end up as a letter, or as one of the three of ASCII that have a double. A letter can
    become another one by the marks behind it, and a sign of comparison one that is struck through.
    """
    safe = safe.copy()
    doubles = [symbol(character) for character in "K;`"]
    safe[[MARK, OTHER]] &= safe[[*_LETTERS, TITLE, MARK, OTHER, *doubles]].all(axis=0)
    safe[:, UPPER] &= safe[:, TITLE]
    for number, character in enumerate(SINGLES):
        if character.isascii() and character.isalpha():
            safe[:, number] &= safe[:, LOWER if character.islower() else UPPER]
        elif character in "<=>":
            safe[:, number] &= safe[:, OTHER]
    return safe


def _expression(step: Mapping[str, Any]) -> str | None:
    """What a pre-tokenizer splits by; None where it leaves the text whole."""
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        pattern = step["pattern"]
        return str(pattern["Regex"]) if "Regex" in pattern else re.escape(pattern["String"])
    if step["type"] == "ByteLevel" and not step["add_prefix_space"]:
        return _GPT2 if step["use_regex"] else None
    if step["type"] == "Digits":
        return r"\p{N}" if step["individual_digits"] else r"\p{N}+"
    raise NotProven(f"its pre-tokenizer is of a kind that is not known: {_listed([step])}")


def _replacement(normalizers: Sequence[Mapping[str, Any]], splitters: Sequence[Mapping[str, Any]]) -> str:
    """The prefix of normalizers that put META_SPACE in place of the space."""
    prefix = ""
    replaced = False
    for step in normalizers:
        if step["type"] == "Prepend" and step["prepend"] == META_SPACE and not prefix and not replaced:
            prefix = " "
        elif step == {"type": "Replace", "pattern": {"String": " "}, "content": META_SPACE}:
            replaced = True
        else:
            raise NotProven(f"its normalizer is of a kind that is not known: {_listed([step])}")
    # A split at spaces finds none: all are replaced by then.
    if not replaced or any(step["type"] != "Split" or step["pattern"] != {"String": " "} for step in splitters):
        raise NotProven(f"its pre-tokenizer is of a kind that is not known: {_listed(splitters)}")
    return prefix


def _metaspace(step: Mapping[str, Any]) -> tuple[str, str]:
    """The prefix of a pre-tokenizer that puts META_SPACE in place of the space, and what needs none."""
    schemes = {"always": (" ", " " + META_SPACE), "never": ("", "")}
    if step["replacement"] != META_SPACE or step["prepend_scheme"] not in schemes or step["split"]:
        raise NotProven(f"its pre-tokenizer is of a kind that is not known: {_listed([step])}")
    return schemes[step["prepend_scheme"]]


def _vocabulary_cuts(tokenizer: Tokenizer) -> Matrix:
    """Of BPE over whole texts, in which META_SPACE stands for the space."""
    model = tokenizer.model
    if not isinstance(model, BPE) or model.continuing_subword_prefix or model.end_of_word_suffix:
        raise NotProven("its model is not plain BPE")
    if model.ignore_merges:
        raise NotProven("its model takes a text that is an entry of the vocabulary as it is, whatever its merges")
    vocabulary = list(tokenizer.get_vocab(with_added_tokens=False))
    bytes_ = [entry for entry in vocabulary if _BYTE_TOKEN.search(entry)]
    if not (model.byte_fallback and len(bytes_) == 256 and all(map(_BYTE_TOKEN.fullmatch, bytes_))):
        raise NotProven("its model has no token for each byte, so unknown characters melt together")
    held = _neighbours(vocabulary)
    held[_SPACE] = held[_META]
    held[:, _SPACE] = held[:, _META]
    return ~held


def _bert(tokenizer: Tokenizer, normalizer: Mapping[str, Any]) -> Matrix:
    if not isinstance(tokenizer.model, WordPiece):
        raise NotProven("its model is not WordPiece")
    white, printable = _bits(_WHITE), _bits(_PRINTABLE)
    alone = _bits(_WHITE | _APART | (1 << IDEOGRAPH if normalizer["handle_chinese_chars"] else 0))
    kept = printable[:, None] & printable[None, :] & (alone[:, None] | alone[None, :])
    return np.asarray(kept | white[None, :])


def _spellings(added: Sequence[AddedToken], tokenizer: Tokenizer) -> list[str]:
    """Added tokens as a text may spell them; those looked for after normalising also as they come out."""
    texts = [token.content for token in added]
    later = [token.content for token in added if token.normalized]
    if later and any(True for _ in steps(tokenizer.normalizer, "normalizers")):
        texts += [tokenizer.normalizer.normalize_str(text) for text in later]
        texts += [text.replace(META_SPACE, " ") for text in texts]
    return texts


def _neighbours(texts: Iterable[str]) -> Matrix:
    """Which symbols stand next to each other anywhere in the texts."""
    numbers = symbols("\0".join(texts)).astype(np.int32)
    found = np.zeros((SYMBOLS, SYMBOLS), dtype=np.bool_)
    found.reshape(-1)[np.bincount(numbers[:-1] * SYMBOLS + numbers[1:], minlength=SYMBOLS**2) > 0] = True
    found[0, :] = found[:, 0] = True  # NUL stands between the texts
    return found


def symbols(text: str) -> npt.NDArray[np.uint8]:
    """The symbol of each character."""
    if text.isascii():
        return _TABLE[np.frombuffer(text.encode(), dtype=np.uint8)]
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    return np.where(codes < len(TABLE), _TABLE[np.minimum(codes, len(TABLE) - 1)], np.uint8(OTHER))


def _matrix(found: Analysis) -> Matrix:
    return np.stack([_bits(pairs) for pairs in found.pairs])


def _bits(symbols: int) -> npt.NDArray[np.bool_]:
    return np.array([symbols >> number & 1 for number in range(SYMBOLS)], dtype=np.bool_)


def _listed(steps: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(json.dumps(dict(step), ensure_ascii=False)[:120] for step in steps) or "none"
