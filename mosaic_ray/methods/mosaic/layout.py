"""How a mosaic looks: numbers, frames, separators, and where the meta-instruction stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from mosaic_ray.methods.mosaic import templates
from mosaic_ray.seeding import Draw

_BLOCK = re.compile(r"```|~~~|[-*+•] |\d+[.)] |#|\||>| {2}|\t")
"""What Markdown only sees at the start of a line."""

_MAY_START_BLOCK: Final = frozenset("`~-*+•#|> \t0123456789")


class Number(NamedTuple):
    """The tag that numbers a tile, in the instruction and, the same, in the response."""

    shape: str
    mark: str
    newline: bool

    def tag(self, n: int, *, block: bool, after: str = "") -> str:
        """block: what follows must start a line. after: what stands between the tile before and this one."""
        return _tag(self.shape, self.mark, n, self.newline or block, after)


class Frame(NamedTuple):
    """The pair of tags around each response."""

    begin: str
    end: str

    def around(self, response: str) -> tuple[str, str]:
        """What stands before and after: on one line, or on lines where it has several or starts a Markdown block."""
        if "\n" in response or starts_block(response):
            return f"{self.begin}\n", f"\n{self.end}"
        return f"{self.begin} ", f" {self.end}"


class Layout(NamedTuple):
    number: Number | None
    frame: Frame | None
    separator: str
    meta_first: bool
    meta_gap: str

    def instruction(self, instructions: Sequence[str], meta: Sequence[str]) -> list[str]:
        """The texts that make the instruction, the tiles' own among them, to be put together in this order.

        meta: the texts that make the meta-instruction, if there is one.
        """
        parts: list[str] = []
        number, after = self.number, ""
        for n, text in enumerate(instructions, 1):
            if number is not None:
                parts.append(number.tag(n, block=starts_block(text), after=after))
            elif after:
                parts.append(after)
            parts.append(text)
            after = self.separator
        if not meta:
            return parts
        return [*meta, self.meta_gap, *parts] if self.meta_first else [*parts, self.meta_gap, *meta]

    def response(self, responses: Sequence[str], answered: Sequence[int]) -> list[str]:
        """The same of the response: the answered tiles (numbers from 1), in that order."""
        parts: list[str] = []
        number, frame, after = self.number, self.frame, ""
        for n in answered:
            text = responses[n - 1]
            if number is not None:
                parts.append(number.tag(n, block=frame is None and starts_block(text), after=after))
            elif after:
                parts.append(after)
            if frame is None:
                parts.append(text)
            else:
                begin, end = frame.around(text)
                parts += (begin, text, end)
            after = self.separator
        return parts

    def params(self) -> dict[str, Any]:
        number, frame = self.number, self.frame
        return {
            "number": number and {"shape": number.shape, "mark": number.mark, "newline": number.newline},
            "frame": frame and {"begin": frame.begin, "end": frame.end},
            "separator": self.separator,
            "meta_position": "before" if self.meta_first else "after",
            "meta_gap": self.meta_gap,
        }

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Layout:
        """What :meth:`params` was made of. Raises KeyError or TypeError for anything else."""
        number, frame = params["number"], params["frame"]
        return cls(
            number=number and Number(**number),
            frame=frame and Frame(**frame),
            separator=params["separator"],
            meta_first=params["meta_position"] == "before",
            meta_gap=params["meta_gap"],
        )


BARE = Layout(number=None, frame=None, separator="\n\n", meta_first=True, meta_gap="\n\n")
"""Nothing but the tiles: one tile laid out bare is the record itself."""


LAYOUT_DRAWS: Final = 10
"""Numbers that :func:`draw_layout` takes, whatever comes of them."""


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


def starts_block(text: str) -> bool:
    """Whether a text starts something that Markdown only sees at the start of a line."""
    return text[:1] in _MAY_START_BLOCK and _BLOCK.match(text) is not None


@lru_cache(maxsize=1 << 14)
def _tag(shape: str, mark: str, n: int, newline: bool, after: str) -> str:
    return after + shape.replace("{n}", str(n)) + mark + ("\n" if newline else " ")


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
