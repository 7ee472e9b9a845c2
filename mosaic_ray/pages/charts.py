"""Charts as inline SVG: bars on a scale of numbers, bars by name, and one bar in pieces.

They are drawn 400 units wide, so that their text can be read where a phone shows them at that many pixels. Colours
are the classes ``c1`` to ``c6`` of the page's style.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from mosaic_ray.pages.text import changed, compact, escaped, share

_WIDTH: Final = 400
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 44, 392, 34, 172, 216
_MOST_BARS, _MOST_NUMBERED = 40, 12
_BAR_HEIGHT, _LABEL_END, _LONGEST_BAR, _LABEL_CHARACTERS = 26, 182, 110, 22
_PAIR_HEIGHT, _PAIR_LEFT, _LONGEST_PAIR = 78, 84, 262
_THINNEST: Final = 0.004


class Amount(NamedTuple):
    """A name, how many there are of it, and the class of its colour."""

    name: str
    number: int
    colour: str


class Bin(NamedTuple):
    """How many samples lie from ``low`` up to ``high``, exclusive."""

    low: int
    high: int
    samples: int


def binned(counts: Mapping[int, int], *, start: int, width: int, end: int) -> list[Bin]:
    """The counts from ``start`` up to ``end``, exclusive, in about 40 bins at most, each a multiple of ``width`` wide.

    The last is shorter or longer where that does not come out even, but never a sliver.
    """
    step = width * max(1, math.ceil((end - start) / (width * _MOST_BARS)))
    edges = list(range(start, end, step))
    if len(edges) > 1 and end - edges[-1] < step / 2:
        edges.pop()
    sums = [0] * len(edges)
    for value, number in counts.items():
        sums[bisect_right(edges, value) - 1] += number
    return [Bin(low, high, number) for low, high, number in zip(edges, [*edges[1:], end], sums, strict=True)]


def histogram(bins: Sequence[Bin], *, unit: str, label: str, discrete: bool = False, budget: int | None = None) -> str:
    """Samples by a number they have.

    unit: what the number counts, as the axis names it. label: what the chart says, for those who do not see it.
    discrete: numbers stand under the middle of their bars, not at the edges. budget: a number to mark.
    """
    low, high = bins[0].low, bins[-1].high
    ticks = _ticks(max(piece.samples for piece in bins))

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (_RIGHT - _LEFT)

    def y(samples: float) -> float:
        return _BOTTOM - samples / ticks[-1] * (_BOTTOM - _TOP)

    parts = [written(2, 14, "samples", "start"), written((_LEFT + _RIGHT) / 2, _BOTTOM + 38, unit, "middle")]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(written(_LEFT - 6, y(tick) + 4, compact(tick), "end"))
    for piece in bins:
        left, width = x(piece.low) + 0.75, max(0.5, x(piece.high) - x(piece.low) - 1.5)
        span = f"{piece.low:,}" if piece.high == piece.low + 1 else f"{piece.low:,} to {piece.high - 1:,}"
        parts.append(
            f'<rect class="c1" x="{left:.1f}" y="{y(piece.samples):.1f}" width="{width:.1f}" '
            f'height="{_BOTTOM - y(piece.samples):.1f}"><title>{span} {unit}: {piece.samples:,} samples</title></rect>'
        )
        if len(bins) <= _MOST_NUMBERED:
            number, middle = compact(piece.samples), left + width / 2
            parts.append(written(middle, y(piece.samples) - 4, number, "middle", kind="count"))
    step = _step(high - low, 10 if discrete else 5)
    for value in range(-(-low // step) * step, high + (not discrete), step):
        parts.append(written(x(value + discrete / 2), _BOTTOM + 16, f"{value:,}", "middle"))
    if budget is not None:
        parts.append(f'<line class="limit" x1="{x(budget):.1f}" x2="{x(budget):.1f}" y1="{_TOP - 12}" y2="{_BOTTOM}"/>')
        parts.append(written(x(budget), 14, f"budget {budget:,}", "end"))
    return picture(_HEIGHT, label, parts)


def bars(amounts: Sequence[Amount], *, label: str) -> str:
    """Amounts by name, one under the other, each with its number and its share of all."""
    total, most = sum(amount.number for amount in amounts), max(amount.number for amount in amounts)
    parts = []
    for row, (name, number, colour) in enumerate(amounts):
        y, length = row * _BAR_HEIGHT, number / most * _LONGEST_BAR
        short = name if len(name) <= _LABEL_CHARACTERS else f"{name[: _LABEL_CHARACTERS - 1]}…"
        figure = f"{number:,}" if number < 100_000 else compact(number)
        parts.append(written(_LABEL_END - 8, y + 17, short, "end"))
        parts.append(
            f'<rect class="{colour}" x="{_LABEL_END}" y="{y + 4}" width="{length:.1f}" height="{_BAR_HEIGHT - 8}">'
            f"<title>{escaped(name)}: {number:,}</title></rect>"
        )
        parts.append(written(_LABEL_END + length + 6, y + 17, f"{figure} · {share(number, total)}", "start"))
    return picture(len(amounts) * _BAR_HEIGHT, f"{label}: {_spoken(amounts)}", parts)


def pairs(rows: Sequence[tuple[str, float, float]], *, label: str, names: tuple[str, str]) -> str:
    """Before and after, one above the other, each on a scale of its own.

    rows: what is compared, and both numbers of it. names: of the two.
    """
    parts, spoken = [], []
    for row, (what, *numbers) in enumerate(rows):
        y, most = row * _PAIR_HEIGHT, max(*numbers, 1)
        parts.append(written(0, y + 14, f"{what}: {changed(*numbers)}", "start", kind="figure"))
        spoken.append(f"{what} {numbers[0]:,.0f} to {numbers[1]:,.0f}")
        for line, (name, number, colour) in enumerate(zip(names, numbers, ("c6", "c1"), strict=True)):
            top, length = y + 22 + line * 22, number / most * _LONGEST_PAIR
            parts.append(written(_PAIR_LEFT - 8, top + 13, name, "end"))
            parts.append(
                f'<rect class="{colour}" x="{_PAIR_LEFT}" y="{top}" width="{length:.1f}" height="17">'
                f"<title>{escaped(f'{what}, {name}: {number:,.0f}')}</title></rect>"
            )
            parts.append(written(_PAIR_LEFT + length + 6, top + 13, compact(number), "start"))
    return picture(len(rows) * _PAIR_HEIGHT - 10, f"{label}: {'; '.join(spoken)}", parts)


def stack(amounts: Sequence[Amount], *, label: str) -> str:
    """One bar as wide as the page, in pieces; a piece that would be too thin to see is drawn as a thin one."""
    total = sum(amount.number for amount in amounts)
    widths = [max(amount.number / total, _THINNEST) if amount.number else 0.0 for amount in amounts]
    parts, left = [], 0.0
    for amount, width in zip(amounts, (1000 * width / sum(widths) for width in widths), strict=True):
        if amount.number:
            parts.append(
                f'<rect class="{amount.colour}" x="{left:.1f}" y="0" width="{width:.1f}" height="28">'
                f"<title>{escaped(_spoken([amount], total))}</title></rect>"
            )
        left += width
    return (
        f'<svg class="stack" role="img" aria-label="{escaped(f"{label}: {_spoken(amounts)}")}" viewBox="0 0 1000 28" '
        f'preserveAspectRatio="none">{"".join(parts)}</svg>'
    )


def _spoken(amounts: Sequence[Amount], total: int | None = None) -> str:
    whole = total or sum(amount.number for amount in amounts)
    return "; ".join(f"{amount.name} {amount.number:,}, {share(amount.number, whole)}" for amount in amounts)


def picture(height: int, label: str, parts: Sequence[str]) -> str:
    """A drawing 400 units wide. label: what it says, for those who do not see it."""
    return f'<svg role="img" aria-label="{escaped(label)}" viewBox="0 0 {_WIDTH} {height}">{"".join(parts)}</svg>'


def written(x: float, y: float, text: str, anchor: str, *, kind: str = "") -> str:
    """A text in a drawing. kind: its class in the page's style."""
    marked = f' class="{kind}"' if kind else ""
    return f'<text{marked} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escaped(text)}</text>'


def _step(span: int, most: int) -> int:
    """The smallest of 1, 2, 5, 10, 20... that cuts the span into at most ``most`` pieces."""
    scale = 1
    while True:
        for step in (scale, 2 * scale, 5 * scale):
            if span <= step * most:
                return step
        scale *= 10


def _ticks(highest: int) -> range:
    """From 0 to the first round number that is not below ``highest``."""
    step = _step(max(1, highest), 4)
    return range(0, -(-max(1, highest) // step) * step + 1, step)
