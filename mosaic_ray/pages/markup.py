"""Pieces of HTML that the report is put together from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mosaic_ray.pages.charts import Amount
from mosaic_ray.pages.text import escaped, share, shortened

MOST_CHARACTERS = 20_000
"""Shown of one text; what is beyond is only counted."""


def in_code(text: object) -> str:
    """A name or a value, in the font of code."""
    return f"<code>{escaped(shortened(str(text), MOST_CHARACTERS))}</code>"


def block(text: str) -> str:
    """A text as it stands, with its lines. A parser drops one newline after ``<pre>``, which must not be the text's."""
    return f"<pre>\n{escaped(shortened(text, MOST_CHARACTERS))}</pre>"


def figure(title: str, chart: str, caption: str) -> str:
    return f"<figure><h3>{escaped(title)}</h3>{chart}<figcaption>{escaped(caption)}</figcaption></figure>"


def legend(amounts: Sequence[Amount]) -> str:
    total = sum(amount.number for amount in amounts)
    items = (
        f'<li><i class="{amount.colour}"></i>{escaped(amount.name)}: '
        f"{amount.number:,} ({escaped(share(amount.number, total))})</li>"
        for amount in amounts
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def table(
    label: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right: Sequence[int] = (),
    wide: Sequence[int] = (),
) -> str:
    """A table that scrolls by itself where it is wider than the page.

    label: what it is a table of. rows: their cells are markup already. right: columns of numbers. wide: of sentences.
    """
    kinds = ["n" if column in right else "text" if column in wide else "" for column in range(len(heads))]
    classes = [f' class="{kind}"' if kind else "" for kind in kinds]
    head = "".join(f'<th scope="col"{kind}>{escaped(name)}</th>' for name, kind in zip(heads, classes, strict=True))
    body = "".join(
        f"<tr>{''.join(f'<td{kind}>{cell}</td>' for cell, kind in zip(row, classes, strict=True))}</tr>" for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escaped(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )
