"""Where the tiles of a finished mosaic stand, read from its texts and its layout alone.

Without the source records a text may have several readings: a tile can hold what separates tiles. So every text is cut
twice, at the first places where it can be cut and at the last. Each cut lies between the two, so where they agree
there is one reading only, and the layout must make the same text of it again; otherwise nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mosaic_ray.methods.base import Outline, Span
from mosaic_ray.methods.mosaic.layout import Layout


class _Cut(NamedTuple):
    """A place where one tile may end and the next begin: the end tag of the one, and the tags before the other."""

    end: int
    closed: int
    opened: int
    begin: int


def outline(sample: Mapping[str, Any]) -> Outline | None:
    """See :meth:`mosaic_ray.methods.base.Method.outline`."""
    params, tiles = sample["params"], range(1, sample["tiles"] + 1)
    try:
        layout, meta = Layout.from_params(params["layout"]), params["meta"]
        answered = params.get("order") or [n for n in tiles if n not in params.get("masked", ())]
        return Outline(
            _instruction(sample["instruction"], layout, meta, tiles),
            _response(sample["response"], layout, answered, tiles),
            tuple(answered),
        )
    except (AttributeError, IndexError, KeyError, TypeError):
        return None


def _instruction(text: str, layout: Layout, meta: str, tiles: range) -> tuple[Span, ...] | None:
    low, high = 0, len(text)
    around: list[Span] = []
    if meta and layout.meta_first:
        around, low = [Span(0, 0, 0, len(meta), len(meta))], len(meta + layout.meta_gap)
    elif meta:
        around, high = [Span(0, high - len(meta), high - len(meta), high, high)], high - len(layout.meta_gap + meta)
    openings = [_tag(layout, n) for n in tiles]
    found = _read(text, low, high, tiles, openings, "", layout.separator)
    if found is None:
        return None
    inner = [text[span.inner : span.inner_end] for span in found]
    if "".join(layout.instruction(inner, [meta] if meta else [])) != text:
        return None
    return (*around, *found) if layout.meta_first else (*found, *around)


def _response(text: str, layout: Layout, answered: Sequence[int], tiles: range) -> tuple[Span, ...] | None:
    begin = end = ""
    if layout.frame is not None:
        begin, end = f"{re.escape(layout.frame.begin)}[ \n]", f"[ \n]{re.escape(layout.frame.end)}"
    openings = [_tag(layout, n) + begin for n in answered]
    found = _read(text, 0, len(text), answered, openings, end, layout.separator)
    if found is None:
        return None
    inner = {span.tile: text[span.inner : span.inner_end] for span in found}
    made = layout.response([inner.get(n, "") for n in tiles], answered)
    return tuple(found) if "".join(made) == text else None


def _tag(layout: Layout, n: int) -> str:
    """A pattern of the tag of a tile."""
    if layout.number is None:
        return ""
    tag = layout.number.tag(n, block=True).removesuffix("\n")
    return re.escape(tag) + ("\n" if layout.number.newline else "[ \n]")


def _read(
    text: str,
    low: int,
    high: int,
    tiles: Sequence[int],
    openings: Sequence[str],
    closing: str,
    separator: str,
) -> list[Span] | None:
    """The tiles that fill ``text[low:high]``, if they can be cut in one way only.

    openings: patterns of what stands before each tile's own text. closing: one of what stands behind it.
    """
    first = re.compile(openings[0]).match(text, low, high)
    last = re.compile(f"{closing}\\Z").search(text, max(low, high - len(closing)), high)
    if first is None or last is None:
        return None
    places = []
    for opening in openings[1:]:
        pattern = re.compile(f"(?=(?P<close>{closing}){re.escape(separator)}(?P<open>{opening}))")
        cuts = pattern.finditer(text, first.end(), last.start())
        places.append([_Cut(cut.start(), cut.end("close"), cut.start("open"), cut.end("open")) for cut in cuts])
    earliest, latest = _leftmost(places, first.end()), _rightmost(places, last.start())
    if earliest is None or earliest != latest:
        return None
    starts = [(low, first.end()), *((cut.opened, cut.begin) for cut in earliest)]
    ends = [*((cut.end, cut.closed) for cut in earliest), (last.start(), high)]
    return [Span(tile, *start, *end) for tile, start, end in zip(tiles, starts, ends, strict=True)]


def _leftmost(places: Sequence[Sequence[_Cut]], begin: int) -> list[_Cut] | None:
    """Each cut as early as it can be."""
    chosen: list[_Cut] = []
    for cuts in places:
        cut = next((cut for cut in cuts if cut.end >= begin), None)
        if cut is None:
            return None
        chosen.append(cut)
        begin = cut.begin
    return chosen


def _rightmost(places: Sequence[Sequence[_Cut]], end: int) -> list[_Cut] | None:
    """Each cut as late as it can be."""
    chosen: list[_Cut] = []
    for cuts in reversed(places):
        cut = next((cut for cut in reversed(cuts) if cut.begin <= end), None)
        if cut is None:
            return None
        chosen.append(cut)
        end = cut.end
    return chosen[::-1]
