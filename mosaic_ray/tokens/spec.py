"""What identifies a tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from mosaic_ray.fingerprint import SCHEME, fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSpec:
    """All that decides a count, as plain values: workers build the tokenizer from it and need no model hub.

    name: what the user called it; not part of its identity.
    definition: the text of a ``tokenizer.json``, truncation and padding taken out.
    special_tokens: ``bos_token``, ``eos_token``, ... as the chat template sees them.
    chat_template: Jinja source, or None to count plain text.
    """

    name: str
    definition: str
    special_tokens: Mapping[str, str]
    chat_template: str | None

    @property
    def digest(self) -> str:
        """Identity by what it does: equal for equal tokenizers wherever they were loaded from."""
        definition = orjson.dumps(orjson.loads(self.definition), option=orjson.OPT_SORT_KEYS)
        return fingerprint(
            {
                "definition": f"{SCHEME}:{hashlib.sha256(definition).hexdigest()}",
                "special_tokens": dict(self.special_tokens),
                "chat_template": self.chat_template,
            }
        )
