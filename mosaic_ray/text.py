"""Text of unknown hands, made fit to be looked at: on a terminal as well as on a page."""

from __future__ import annotations

import copy
import logging
import re
from typing import Final

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)
"""Controls, halves of pairs, marks that turn the direction of writing, and characters without a form, such as the tags
in which a text can be hidden. Not the joiners and variants that scripts and emoji are written with."""


def seen(text: str) -> str:
    """The text with every unseen character spelt out, as in ``⟨U+202E⟩``; tabs and newlines stay."""
    return _UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text)


def seen_on_one_line(text: str) -> str:
    """The same with tabs and newlines spelt out too: for names, and for cells of a table."""
    return seen(text).replace("\n", "⟨U+000A⟩").replace("\t", "⟨U+0009⟩")


class SeenFormatter(logging.Formatter):
    """Lines of a log: they name files, and say what was found in them.

    What is put into a message stays on its line, so that the name of no file looks like a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.args, tuple):
            record = copy.copy(record)
            record.args = tuple(
                part if isinstance(part, int | float) else seen_on_one_line(str(part)) for part in record.args or ()
            )
        return seen(super().format(record))
