"""A picture of what went in and what came out: files, records, what became of them, samples, tokens."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from mosaic_ray.pages.charts import Amount, picture, written
from mosaic_ray.pages.text import compact, counted

_FILES, _RECORDS, _FATES, _SAMPLES, _TOKENS = 8, 98, 184, 312, 384
_NODE, _TOP, _HEIGHT, _TALL = 8, 50, 130, 212
_APART, _LINE, _THINNEST, _MOST_FILES = 12, 16, 2.0, 8
_NAMES: Final = ("composed", "passed", "rejected")


class _Piece(NamedTuple):
    """A piece of a node, from ``top`` on."""

    top: float
    height: float
    colour: str

    @property
    def middle(self) -> float:
        return self.top + self.height / 2


def fates(manifest: Mapping[str, Any]) -> tuple[Amount, Amount, Amount]:
    """What becomes of the records, the same in every epoch."""
    epoch = manifest["accounting"]["epochs"][0]
    return (
        Amount("composed into samples", epoch["composed"], "c1"),
        Amount("passed through whole", epoch["passed"], "c2"),
        Amount("rejected", epoch["rejected"], "c3"),
    )


def flow(manifest: Mapping[str, Any]) -> str:
    """Heights are records; from the samples on, rows: how much lower they stand is how many fewer rows there are."""
    totals, epochs, files = manifest["totals"], manifest["plan"]["epochs"], manifest["inventory"]
    amounts, records = fates(manifest), manifest["accounting"]["records"]
    passed = totals["strategies"].get("pass", 0)
    rows = ((totals["samples"] - passed) / epochs, passed / epochs)
    label = (
        f"{counted(len(files), 'file')} hold {counted(records, 'record')}: "
        f"{'; '.join(f'{amount.number:,} {amount.name}' for amount in amounts)}. They became "
        f"{counted(totals['samples'], 'sample')} of {counted(totals['tokens'], 'token')} in {counted(epochs, 'epoch')}"
    )
    return picture(_TALL, label, list(_drawn(_most(files, records), amounts, records, rows, totals, len(files))))


def _drawn(
    files: Sequence[int],
    amounts: Sequence[Amount],
    records: int,
    rows: Sequence[float],
    totals: Mapping[str, Any],
    file_count: int,
) -> Iterator[str]:
    for x, anchor, number, noun in (
        (_FILES, "start", file_count, "file"),
        (_RECORDS + _NODE / 2, "middle", records, "record"),
        (_SAMPLES + _NODE / 2, "middle", totals["samples"], "sample"),
        (_TOKENS + _NODE, "end", totals["tokens"], "token"),
    ):
        figure = f"{number:,}" if number < 10_000 else compact(number)
        yield written(x, 16, figure, anchor, kind="figure")
        yield written(x, 32, noun if number == 1 else f"{noun}s", anchor)
    scale = _HEIGHT / max(1, records)
    inward = _stacked([(number * scale, "c6") for number in files], 1.5 if len(files) > 1 else 0.0)
    whole = _stacked([(number * scale, "c6") for number in files], 0.0)
    split = _stacked([(amount.number * scale, amount.colour) for amount in amounts], _APART)
    cut = _stacked([(amount.number * scale, amount.colour) for amount in amounts], 0.0)
    made = _stacked([(number * scale, colour) for number, colour in zip(rows, ("c1", "c2"), strict=True)], 0.0)
    yield from _bands(_FILES, inward, _RECORDS, whole)
    yield from _bands(_RECORDS, cut, _FATES, split)
    yield from _bands(_FATES, split[:2], _SAMPLES, made)
    yield from _bands(_SAMPLES, made, _TOKENS, made)
    for x, pieces in ((_FILES, inward), (_RECORDS, cut), (_FATES, split), (_SAMPLES, made), (_TOKENS, made)):
        for piece in pieces:
            if piece.height:
                yield (
                    f'<rect class="{piece.colour}" x="{x}" y="{piece.top:.1f}" width="{_NODE}" '
                    f'height="{piece.height:.1f}"/>'
                )
    lowest = 0.0
    for name, amount, piece in zip(_NAMES, amounts, split, strict=True):
        if amount.number:
            lowest = max(piece.middle + 4, lowest + _LINE)
            yield written(_FATES + _NODE + 6, lowest, f"{name} {compact(amount.number)}", "start")


def _most(files: Sequence[Mapping[str, Any]], records: int) -> list[int]:
    """Records of the largest files, and of all others together."""
    numbers = heapq.nlargest(_MOST_FILES, (file["records"] for file in files))
    others = records - sum(numbers)
    return [*numbers, others] if others else numbers


def _stacked(heights: Sequence[tuple[float, str]], apart: float) -> list[_Piece]:
    """Pieces from the top down; what would be too thin to see is drawn as a thin one."""
    pieces, top = [], float(_TOP)
    for height, colour in heights:
        shown = max(height, _THINNEST) if height else 0.0
        pieces.append(_Piece(top, shown, colour))
        top += shown + (apart if shown else 0.0)
    return pieces


def _bands(left: float, before: Sequence[_Piece], right: float, after: Sequence[_Piece]) -> Iterator[str]:
    """What flows from the pieces of one node to those of the next, which has the same colours."""
    begin, middle = left + _NODE, (left + _NODE + right) / 2
    for source, goal in zip(before, after, strict=True):
        if source.height:
            yield (
                f'<path class="band {goal.colour}" d="M{begin} {source.top:.1f}'
                f"C{middle:.1f} {source.top:.1f} {middle:.1f} {goal.top:.1f} {right} {goal.top:.1f}"
                f"V{goal.top + goal.height:.1f}C{middle:.1f} {goal.top + goal.height:.1f} "
                f'{middle:.1f} {source.top + source.height:.1f} {begin} {source.top + source.height:.1f}Z"/>'
            )
