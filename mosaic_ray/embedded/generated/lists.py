"""Lists that follow from a rule."""

# ruff: noqa: RUF001 (the sign for "times" is meant)

from __future__ import annotations

from collections.abc import Iterable

from mosaic_ray.embedded.entry import Entry
from mosaic_ray.embedded.generated.draws import Template, between
from mosaic_ray.seeding import Draw

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _commas(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _numbered(values: Iterable[object]) -> str:
    return "\n".join(f"{place}. {value}" for place, value in enumerate(values, start=1))


def multiples(draw: Draw) -> Entry:
    n, count = between(draw, 3, 19), between(draw, 6, 10)
    return Entry(
        ask=f"List the first {count} positive multiples of {n}, separated by commas.",
        answer=_commas(n * i for i in range(1, count + 1)),
    )


def divisors(draw: Draw) -> Entry:
    n = draw.choice((24, 30, 36, 42, 48, 54, 60, 72, 84, 90, 96))
    found = [i for i in range(1, n + 1) if n % i == 0]
    return Entry(
        ask=f"Name all positive divisors of {n} in ascending order.",
        answer=f"{_commas(found)}\n\nThat makes {len(found)} divisors.",
    )


def squares(draw: Draw) -> Entry:
    first = between(draw, 4, 15)
    return Entry(
        ask=f"Make a numbered list of the squares of the whole numbers from {first} to {first + 5}.",
        answer=_numbered(f"{i} × {i} = {i * i}" for i in range(first, first + 6)),
    )


def days(draw: Draw) -> Entry:
    first = draw.below(7)
    return Entry(
        ask=f"Write the days of the week as a numbered list that starts with {DAYS[first]}.",
        answer=_numbered(DAYS[first:] + DAYS[:first]),
    )


def countdown(draw: Draw) -> Entry:
    step, count = between(draw, 3, 12), between(draw, 6, 9)
    start = step * count + between(draw, 5, 40)
    return Entry(
        ask=f"Count down from {start} in steps of {step}. Give {count} numbers as bullets.",
        answer="\n".join(f"- {start - step * i}" for i in range(count)),
    )


TEMPLATES: tuple[Template, ...] = (multiples, divisors, squares, days, countdown)
