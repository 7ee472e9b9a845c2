"""Which tokens of a tokenizer steer the model, and where a text spells one."""

from __future__ import annotations

import re
from typing import Final

from tokenizers import Tokenizer

from mosaic_ray.tokens.spec import TokenizerSpec

_MARKER: Final = re.compile(
    r"<[|｜][^\s<>]+>|<[^\s<>]+[|｜]>|<unused_?\d+>|<(?:start|end)_of_[^\s<>]+>",
)
"""Added tokens that act as control tokens although they may not be flagged special."""


def control_pattern(tokenizer: Tokenizer, spec: TokenizerSpec, *, normalized: bool = False) -> re.Pattern[str] | None:
    """Longest first, so that of two tokens of which one begins the other the whole one is taken.

    normalized: of those tokens that are looked for in the normalised text, each as it is and normalised itself.
    """
    written = spec.chat_template or ""
    tokens = {
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if (
            token.special
            or (len(token.content.strip()) > 2 and token.content in written)
            or _MARKER.fullmatch(token.content)
        )
        and (token.normalized or not normalized)
    }
    if not normalized:
        tokens.update(token for token in spec.special_tokens.values() if len(token.strip()) > 1)
    elif tokenizer.normalizer is not None:
        tokens.update([tokenizer.normalizer.normalize_str(token) for token in tokens if token.strip()])
    patterns = [re.escape(token) for token in sorted(tokens, key=lambda t: (-len(t), t)) if token.strip()]
    return re.compile("|".join(patterns)) if patterns else None
