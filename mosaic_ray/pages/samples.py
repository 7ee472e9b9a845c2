"""The browser of samples: each with its tiles told apart, and each tile with its source.

Everything is on the page without a script. The script filters, steps from one to the next, and lights up both places
of a tile at once.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from mosaic_ray.methods.base import Outline, Span
from mosaic_ray.pages.charts import picture, written
from mosaic_ray.pages.markup import MOST_CHARACTERS, block, in_code, table
from mosaic_ray.pages.text import counted, escaped
from mosaic_ray.records import Message

MOST_BYTES: Final = 1_000_000
"""Of all samples on the page together; what is beyond is left out, and said to be."""

_MOST_SOURCES: Final = 100
_MOST_TILES: Final = 100
_TILE_CHARACTERS: Final = 3_000
"""Shown of one tile."""

_MOST_DRAWN: Final = 20
"""Tiles in a picture of their order."""

_COLOURS: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A sample to show: row ``number`` of a part, its conversation, and where its tiles stand if that is known."""

    part: str
    number: int
    messages: tuple[Message, ...]
    row: Mapping[str, Any]
    outline: Outline | None


def browser(manifest: Mapping[str, Any], samples: Sequence[Shown], listed: Mapping[str, int]) -> str:
    """Tools, and the samples in the order of the data set: the first one open, the others closed.

    samples: the first of them matter most, where not all have room. listed: the number, on this page, of each source
    file that is listed on it.
    """
    output = manifest["places"]["output"].rstrip("/")
    kept = sorted(_with_room(samples, output, listed), key=lambda pair: (pair[0].part, pair[0].number))
    blocks = "".join(block.replace("<details ", "<details open ", not place) for place, (_, block) in enumerate(kept))
    left_out = len(samples) - len(kept)
    parts = counted(len({sample.part for sample in samples}), "part")
    return (
        f"<p>{counted(len(kept), 'sample')} from the first rows of {parts} spread over the data set, so chosen that "
        "every strategy and kind found there is among them. A tile has the same number and colour in the instruction "
        "and in the response; its number leads from one to the other. Characters that cannot be seen are spelt out, "
        f"as in ⟨U+202E⟩.</p>{_tools([sample for sample, _ in kept])}{blocks}"
        + (f"<p>{counted(left_out, 'sample')} more would make this page too long.</p>" if left_out else "")
    )


def _with_room(samples: Sequence[Shown], output: str, listed: Mapping[str, int]) -> Iterator[tuple[Shown, str]]:
    """As many samples as a page may hold, and at least one."""
    length = 0
    for place, sample in enumerate(samples):
        made = _sample(output, sample, listed)
        length += len(made.encode("utf-8"))
        if length > MOST_BYTES and place:
            return
        yield sample, made


def _tools(samples: Sequence[Shown]) -> str:
    """Shown by the script, for without it they do nothing."""
    rows = [sample.row for sample in samples]
    choices = (
        ("strategy", "Strategy", sorted({row["strategy"] for row in rows})),
        ("kind", "Kind", sorted({row["kind"] for row in rows if row["kind"]})),
        ("tiles", "Records", sorted({row["tiles"] for row in rows})),
    )
    fields = "".join(
        f'<label>{name}<select data-filter="{field}"><option value="">all</option>'
        f"{''.join(f'<option>{escaped(value)}</option>' for value in values)}</select></label>"
        for field, name, values in choices
    )
    return (
        f'<div class="tools" role="group" aria-label="Which samples are shown" hidden>{fields}'
        '<label>Tokens, at least<input data-filter="least" type="number" min="0" inputmode="numeric"></label>'
        '<label>Tokens, at most<input data-filter="most" type="number" min="0" inputmode="numeric"></label>'
        '<label class="wide">Text<input data-filter="text" type="search" autocomplete="off" spellcheck="false"></label>'
        "</div>"
        '<div class="steps" hidden><p role="status"></p><button type="button" data-step="-1">Previous</button>'
        '<button type="button" data-step="1">Next</button><button type="button" data-clear>Clear filters</button></div>'
    )


def _sample(output: str, sample: Shown, listed: Mapping[str, int]) -> str:
    row, outline = sample.row, sample.outline
    if row["tiles"] > _MOST_TILES:
        outline = None
    name = f"{row['strategy']}, {row['kind']}" if row["kind"] else row["strategy"]
    counts = f"{counted(row['tiles'], 'record')} · {counted(row['token_count'], 'token')}"
    place = shlex.quote(f"{output}/{sample.part}:{sample.number}")
    drawn = [(escaped(field), in_code(value)) for field, value in _flat(json.loads(row["params"]))]
    data = "".join(
        f' data-{field}="{escaped(row[column] if row[column] is not None else "")}"'
        for field, column in (
            ("strategy", "strategy"), ("kind", "kind"), ("tiles", "tiles"), ("tokens", "token_count"),
        )
    )  # fmt: skip
    return (
        f'<details class="sample" id="{escaped(row["mosaic_id"])}"{data}>'
        f'<summary><b>{escaped(name)}</b> · {counts} · <span class="soft">{escaped(row["mosaic_id"])}</span></summary>'
        f'<div class="turns">{"".join(_turns(sample, outline))}</div><div class="facts"><div>'
        f"{_order(outline, row['tiles'])}{_sources(row, outline, listed)}</div>"
        + (f"<div><h3>What was drawn</h3>{table('What was drawn', ('name', 'value'), drawn)}</div>" if drawn else "")
        + f'</div><p>To take it apart: {in_code(f"mosaic-ray explain {place}")}<br><a href="{_link(row)}">Link to this '
        f"sample</a></p></details>\n"
    )


def _turns(sample: Shown, outline: Outline | None) -> Iterator[str]:
    roles = [message.role for message in sample.messages]
    if roles != ["user", "assistant"]:
        for message in sample.messages:
            yield f"<div><h3>{escaped(message.role.capitalize())}</h3>{block(message.content)}</div>"
        return
    sides = (("Instruction", "q", outline and outline.instruction), ("Response", "a", outline and outline.response))
    for (title, side, spans), message in zip(sides, sample.messages, strict=True):
        if outline is not None and spans:
            text = f'<pre class="laid">\n{_laid(message.content, spans, side, sample.row, outline)}</pre>'
        else:
            text = block(message.content)
            if outline is not None:
                text += '<p class="soft">Where its tiles begin and end cannot be told for certain from the text.</p>'
        yield f"<div><h3>{title}</h3>{text}</div>"


def _laid(text: str, spans: Sequence[Span], side: str, row: Mapping[str, Any], outline: Outline) -> str:
    """The text with each tile in a box of its own."""
    pieces, at, left = list[str](), 0, MOST_CHARACTERS
    for span in spans:
        if span.start > at:
            pieces.append(f'<span class="gap">{escaped(text[at : span.start])}</span>')
        content = text[span.inner : span.inner_end]
        shown = content[: min(_TILE_CHARACTERS, left)]
        left -= len(shown)
        before, after = text[span.start : span.inner], text[span.inner_end : span.end]
        pieces.append(
            _opening(span.tile, side, row, outline)
            + (f'<span class="tag">{escaped(before)}</span>' if before else "")
            + escaped(shown)
            + _rest(len(content) - len(shown))
            + (f'<span class="tag">{escaped(after)}</span>' if after else "")
            + "</span>"
        )
        at = span.end
    return "".join(pieces)


def _opening(tile: int, side: str, row: Mapping[str, Any], outline: Outline) -> str:
    """The start of a tile's box, with the number that leads to its other place, or to its source where it has none."""
    if not tile:
        return '<span class="tile meta"><b class="badge">meta-instruction</b>'
    goal, there, spans = (
        ("a", "response", outline.response) if side == "q" else ("q", "instruction", outline.instruction)
    )
    out = tile not in outline.answered
    if out or spans is None:
        goal, there = "s", "source"
    note = f"{tile} left out" if out else str(tile)
    return (
        f'<span class="tile {_colour(tile)}{" out" if out else ""}" data-tile="{tile}" '
        f'id="{escaped(row["mosaic_id"])}.{side}{tile}"><a class="badge" href="{_link(row)}.{goal}{tile}" '
        f'aria-label="Tile {note}: to its {there}">{note}</a>'
    )


def _colour(tile: int) -> str:
    """Six colours, and the same six again for boxes drawn another way."""
    turn, place = divmod(tile - 1, _COLOURS)
    return f"t{place + 1}{' again' if turn % 2 else ''}"


def _rest(characters: int) -> str:
    return f'<span class="tag">\n… {characters:,} characters more</span>' if characters else ""


def _order(outline: Outline | None, tiles: int) -> str:
    """A line from each tile of the instruction to its place among the answers, where that is not the same order."""
    if outline is None or not 2 <= tiles <= _MOST_DRAWN or outline.answered == tuple(range(1, tiles + 1)):
        return ""
    step = min(36.0, 390 / tiles)
    places = {tile: place for place, tile in enumerate(outline.answered)}
    lines, dots = list[str](), list[str]()
    for tile in range(1, tiles + 1):
        x, colour = (tile - 0.5) * step, _colour(tile)
        dots.append(_dot(x, 14, tile, f"{colour} out" if tile not in places else colour))
        if tile in places:
            under = (places[tile] + 0.5) * step
            lines.append(f'<path class="{colour}" d="M{x:.1f} 14L{under:.1f} 66"/>')
            dots.append(_dot(under, 66, tile, colour))
    left_out = [str(tile) for tile in range(1, tiles + 1) if tile not in places]
    said = f"Answered in the order {', '.join(map(str, outline.answered))}"
    said += f"; left out: {', '.join(left_out)}" if left_out else ""
    return f'<h3>Order of the answers</h3><div class="order">{picture(80, said, [*lines, *dots])}<p>{said}.</p></div>'


def _dot(x: float, y: float, tile: int, kind: str) -> str:
    mark = f'<circle cx="{x:.1f}" cy="{y}" r="11"/>{written(x, y + 4, str(tile), "middle")}'
    return f'<g class="dot {kind}" data-tile="{tile}">{mark}</g>'


def _sources(row: Mapping[str, Any], outline: Outline | None, listed: Mapping[str, int]) -> str:
    places = {tile: f"{place:,}" for place, tile in enumerate(outline.answered, 1)} if outline else {}
    rows = []
    for tile, source in enumerate(row["sources"][:_MOST_SOURCES], 1):
        file = in_code(source["file"])
        if source["file"] in listed:
            file = f'<a href="#file-{listed[source["file"]]}">{file}</a>'
        kind, name = f"tile {_colour(tile)}", f"{escaped(row['mosaic_id'])}.s{tile}"
        number = f'<span class="{kind}" data-tile="{tile}" id="{name}">{tile}</span>'
        rows.append((number, *([places.get(tile, "left out")] if outline else []), file, f"{source['row']:,}"))
    more = len(row["sources"]) - _MOST_SOURCES
    heads = ("tile", "answer", "file", "row") if outline else ("tile", "file", "row")
    last = len(heads) - 1
    return f"<h3>Source records</h3>{table('Source records', heads, rows, right=(0, last), wide=(last - 1,))}" + (
        f"<p>and {counted(more, 'record')} more.</p>" if more > 0 else ""
    )


def _link(row: Mapping[str, Any]) -> str:
    return f"#{quote(row['mosaic_id'])}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested objects as dotted names with values in JSON."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else key)
    elif name:
        yield name, json.dumps(value, ensure_ascii=False)
