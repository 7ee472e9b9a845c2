"""Canonical JSON and the digests made of it.

Every digest the package writes carries its scheme in front (``v1:...``), so that a change of the scheme is never
mistaken for a change of the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

SCHEME = "v1"


def canonical_json(value: Any) -> str:
    """Sorted keys, no white space, UTF-8 kept as it is; NaN and infinities are refused with ValueError."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """``v1:`` and 32 hexadecimal digits of the BLAKE2b digest of the value's canonical JSON."""
    digest = hashlib.blake2b(canonical_json(value).encode("utf-8"), digest_size=16)
    return f"{SCHEME}:{digest.hexdigest()}"


def fold(digests: Iterable[str]) -> str:
    """One digest of an ordered sequence of digests, in constant memory."""
    state = hashlib.blake2b(digest_size=16)
    for digest in digests:
        state.update(digest.encode("ascii") + b"\n")
    return f"{SCHEME}:{state.hexdigest()}"
