"""Text of unknown hands, made fit to be looked at: on a terminal as well as on a page."""

from __future__ import annotations

import re
from typing import Final

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff]"
)
"""Controls, halves of pairs, and the marks that turn the direction of writing: they act without being seen."""


def seen(text: str) -> str:
    """The text with every unseen character spelt out, as in ``⟨U+202E⟩``; tabs and newlines stay."""
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def seen_on_one_line(text: str) -> str:
    """The same with tabs and newlines spelt out too: for names, and for cells of a table."""
    return seen(text).replace("\n", "⟨U+000A⟩").replace("\t", "⟨U+0009⟩")
