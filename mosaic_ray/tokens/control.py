"""Which tokens of a tokenizer steer the model, and where a text spells one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from mosaic_ray.tokens.spec import TokenizerSpec

_MARKER: Final = re.compile(
    r"<[|｜][^\s<>]+>|<[^\s<>]+[|｜]>|<unused_?\d+>|<(?:start|end)_of_[^\s<>]+>",
)
"""Added tokens that act as control tokens although they may not be flagged special."""


OPEN_ENTRIES: Final = 1 << 17
"""Texts of which is kept whether they can begin a control token; a full memo is emptied."""


class ControlTokens:
    """The control tokens of a tokenizer, as the package's docstring defines them."""

    def __init__(self, tokenizer: Tokenizer, spec: TokenizerSpec) -> None:
        added = list(tokenizer.get_added_tokens_decoder().values())
        control = [token for token in added if _steers(token, spec)]
        special = [token for token in spec.special_tokens.values() if len(token.strip()) > 1]
        self._pattern = _pattern([*(token.content for token in control), *special])
        self._normalized: re.Pattern[str] | None = None
        self._normalize: Callable[[str], str] = str
        if not _is_identity(tokenizer.normalizer):
            self._normalize = tokenizer.normalizer.normalize_str
            later = [token.content for token in control if token.normalized and token.content.strip()]
            self._normalized = _pattern([*later, *map(self._normalize, later)])
        tokens = {token for token in (*(token.content for token in control), *special) if token.strip()}
        self._starts = frozenset(token[0] for token in tokens)
        self._beginnings = frozenset(token[:end] for token in tokens for end in range(1, len(token)))
        self._longest = max(map(len, tokens), default=1)
        self._judged: set[str] = set()
        self._open: set[str] = set()

    def spelt_by(self, *texts: str) -> bool:
        """Whether a text holds a control token; of several, whether the text that they make together does."""
        if len(texts) > 1:
            if self._normalized is None:
                if not self._judged.issuperset(texts):
                    self._judge(texts)
                if self._open.isdisjoint(texts):
                    return False
            texts = ("".join(texts),)
        text = texts[0]
        if self._found(text):
            return True
        return self._normalized is not None and self._normalized.search(self._normalize(text)) is not None

    def first(self, text: str) -> str | None:
        """The first control token that a text spells."""
        found = self._pattern and self._pattern.search(text)
        return found.group() if found else None

    def disarmed(self, text: str, *, strip: bool) -> str:
        """The text with its control tokens disarmed by a space after their first character, or taken out.

        One that a space cannot disarm, for instance because it is a single character, is taken out either way.
        """
        control = self._pattern
        if control is None:
            return text

        def harmless(match: re.Match[str]) -> str:
            token = match.group()
            spaced = f"{token[0]} {token[1:]}"
            return "" if strip or control.search(spaced) else spaced

        while control.search(text):
            text = control.sub(harmless, text)
        return text

    def _found(self, text: str) -> bool:
        if self._pattern is None or True not in map(text.__contains__, self._starts):
            return False
        return self._pattern.search(text) is not None

    def _judge(self, texts: Sequence[str]) -> None:
        if len(self._judged) + len(texts) > OPEN_ENTRIES:
            self._judged.clear()
            self._open.clear()
        self._judged.update(texts)
        self._open.update(filter(self._may_go_on, texts))

    def _may_go_on(self, text: str) -> bool:
        """Whether a text holds a control token, or ends with the beginning of one."""
        end = text[-self._longest :]
        if self._starts.isdisjoint(end):
            return self._found(text)
        for place, character in enumerate(end):
            if character in self._starts and end[place:] in self._beginnings:
                return True
        return self._found(text)


def _steers(token: AddedToken, spec: TokenizerSpec) -> bool:
    written = len(token.content.strip()) > 2 and token.content in (spec.chat_template or "")
    return token.special or written or _MARKER.fullmatch(token.content) is not None


def _is_identity(normalizer: Any) -> bool:
    return normalizer is None or json.loads(normalizer.__getstate__()) == {"type": "Sequence", "normalizers": []}


def _pattern(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Longest first, so that of two tokens of which one begins the other the whole one is taken."""
    written = sorted({token for token in tokens if token.strip()}, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, written))) if written else None
