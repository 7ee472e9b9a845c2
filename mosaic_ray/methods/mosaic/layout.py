"""How a mosaic looks: numbers, frames, separators, and where the meta-instruction stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mosaic_ray.methods.mosaic import templates
from mosaic_ray.seeding import Draw

_BLOCK = re.compile(r"```|~~~|[-*+•] |\d+[.)] |#|\||>| {2}|\t")
"""What Markdown only sees at the start of a line."""


@dataclass(frozen=True, slots=True)
class Number:
    """The tag that numbers a tile, in the instruction and, the same, in the response."""

    shape: str
    mark: str
    newline: bool

    def tag(self, n: int, *, block: bool) -> str:
        """block: what follows must start a line."""
        return self.shape.replace("{n}", str(n)) + self.mark + ("\n" if self.newline or block else " ")


@dataclass(frozen=True, slots=True)
class Frame:
    """The pair of tags around each response."""

    begin: str
    end: str

    def around(self, response: str) -> str:
        """On one line, or on lines of its own where the response has several or starts a Markdown block."""
        gap = "\n" if "\n" in response or _BLOCK.match(response) else " "
        return f"{self.begin}{gap}{response}{gap}{self.end}"


@dataclass(frozen=True, slots=True)
class Layout:
    number: Number | None
    frame: Frame | None
    separator: str
    meta_first: bool
    meta_gap: str

    def instruction(self, instructions: Sequence[str], meta: str) -> str:
        tiles = self.separator.join(
            (self.number.tag(n, block=_BLOCK.match(text) is not None) if self.number else "") + text
            for n, text in enumerate(instructions, 1)
        )
        if not meta:
            return tiles
        return f"{meta}{self.meta_gap}{tiles}" if self.meta_first else f"{tiles}{self.meta_gap}{meta}"

    def response(self, responses: Sequence[str], answered: Sequence[int]) -> str:
        """The responses of the answered tiles (numbers from 1), in that order."""
        return self.separator.join(self._answer(n, responses[n - 1]) for n in answered)

    def _answer(self, n: int, response: str) -> str:
        block = self.frame is None and _BLOCK.match(response) is not None
        tag = self.number.tag(n, block=block) if self.number else ""
        return tag + (self.frame.around(response) if self.frame else response)

    def params(self) -> dict[str, Any]:
        number, frame = self.number, self.frame
        return {
            "number": number and {"shape": number.shape, "mark": number.mark, "newline": number.newline},
            "frame": frame and {"begin": frame.begin, "end": frame.end},
            "separator": self.separator,
            "meta_position": "before" if self.meta_first else "after",
            "meta_gap": self.meta_gap,
        }


BARE = Layout(number=None, frame=None, separator="\n\n", meta_first=True, meta_gap="\n\n")
"""Nothing but the tiles: one tile laid out bare is the record itself."""


def draw_layout(draw: Draw, *, framed: bool | None, numbered: bool | None) -> Layout:
    """One layout, uniform within each family.

    framed: True or False settles whether the responses are framed; None leaves it to the draw, half and half.
    numbered: True makes the number uniform among the shapes, False leaves it out, None makes "no number" one more
        shape among them.
    """
    return Layout(
        number=_draw_number(draw, numbered),
        frame=_draw_frame(draw, framed),
        separator=draw.choice(("\n", "\n\n")),
        meta_first=draw.chance(),
        meta_gap=draw.choice(("\n", "\n\n")),
    )


def _draw_number(draw: Draw, numbered: bool | None) -> Number | None:
    shapes: tuple[str | None, ...] = templates.NUMBER_SHAPES if numbered else (None, *templates.NUMBER_SHAPES)
    shape, mark, newline = draw.choice(shapes), draw.choice(templates.NUMBER_MARKS), draw.chance()
    return None if shape is None or numbered is False else Number(shape, mark, newline)


def _draw_frame(draw: Draw, framed: bool | None) -> Frame | None:
    wanted, (begin, end) = draw.chance(), draw.choice(templates.FRAME_WORDS)
    bracket, upper = draw.choice(templates.FRAME_BRACKETS), draw.chance()
    if not (wanted if framed is None else framed):
        return None
    cased = (begin.upper(), end.upper()) if upper else (begin.lower(), end.lower())
    return Frame(*(bracket.replace("{word}", word) for word in cased))
