"""Ordering, picking and copying the items of a list."""

from __future__ import annotations

from collections.abc import Sequence

from mosaic_ray.embedded.entry import Entry
from mosaic_ray.embedded.generated.draws import CITIES, NAMES, WORDS, Template, between, sample
from mosaic_ray.seeding import Draw


def _entry(draw: Draw, ask: str, items: Sequence[object], result: Sequence[object]) -> Entry:
    """Both lists with commas, or both with one item a line."""
    separator = draw.choice((", ", "\n"))
    return Entry(ask=ask, given=separator.join(map(str, items)), answer=separator.join(map(str, result)))


def alphabetical(draw: Draw) -> Entry:
    items = sample(draw, draw.choice((NAMES, CITIES, WORDS)), between(draw, 5, 10))
    ask = draw.choice(("Sort in alphabetical order.", "Put these into alphabetical order.", "Alphabetise the list."))
    return _entry(draw, ask, items, sorted(items))


def alphabetical_backwards(draw: Draw) -> Entry:
    items = sample(draw, draw.choice((NAMES, CITIES, WORDS)), between(draw, 5, 9))
    ask = draw.choice(("Sort in reverse alphabetical order.", "Order the list from Z to A."))
    return _entry(draw, ask, items, sorted(items, reverse=True))


def ascending(draw: Draw) -> Entry:
    items = [between(draw, -20, 300) for _ in range(between(draw, 5, 11))]
    ask = draw.choice(("Sort the numbers in ascending order.", "Order these numbers from smallest to largest."))
    return _entry(draw, ask, items, sorted(items))


def descending(draw: Draw) -> Entry:
    items = [between(draw, 0, 999) / 10 for _ in range(between(draw, 4, 8))]
    ask = draw.choice(("Sort the numbers in descending order.", "Order these numbers from largest to smallest."))
    return _entry(draw, ask, items, sorted(items, reverse=True))


def by_length(draw: Draw) -> Entry:
    one_of_each = {len(word): word for word in sample(draw, WORDS, len(WORDS))}
    items = list(one_of_each.values())[: between(draw, 4, 6)]
    result = sorted(items, key=len)
    return _entry(draw, "Sort the words by their length, shortest first.", items, result)


def backwards(draw: Draw) -> Entry:
    items = sample(draw, WORDS, between(draw, 4, 9))
    ask = draw.choice(("Reverse the order of the list.", "Write it backwards, item by item."))
    return _entry(draw, ask, items, items[::-1])


def without_repeats(draw: Draw) -> Entry:
    some = sample(draw, WORDS, between(draw, 4, 6))
    items = sample(draw, some + sample(draw, some, 3), len(some) + 3)
    return _entry(draw, "Remove the repeated words; keep the first of each.", items, list(dict.fromkeys(items)))


def copied(draw: Draw) -> Entry:
    items = [f"{name} {between(draw, 100, 999)}-{draw.choice(WORDS)}" for name in sample(draw, NAMES, 4)]
    ask = draw.choice(("Copy this exactly.", "Repeat this word for word.", "Return the input unchanged."))
    return _entry(draw, ask, items, items)


def initial(draw: Draw) -> Entry:
    items = sample(draw, WORDS, between(draw, 8, 12))
    letter = draw.choice(items)[0]
    kept = [word for word in items if word.startswith(letter)]
    return _entry(draw, f'Keep only the words that start with "{letter}".', items, kept)


def every_second(draw: Draw) -> Entry:
    items = sample(draw, CITIES, between(draw, 6, 11))
    return _entry(draw, "Give every second item, beginning with the first.", items, items[::2])


def capitals(draw: Draw) -> Entry:
    items = sample(draw, WORDS, between(draw, 4, 7))
    ask = draw.choice(("Write everything in capital letters.", "Convert to upper case."))
    return _entry(draw, ask, items, [word.upper() for word in items])


def dates(draw: Draw) -> Entry:
    items = [
        f"{between(draw, 1990, 2025)}-{between(draw, 1, 12):02d}-{between(draw, 1, 28):02d}"
        for _ in range(between(draw, 4, 7))
    ]
    return _entry(draw, "Sort the dates from the earliest to the latest.", items, sorted(items))


def rotated(draw: Draw) -> Entry:
    items, by = sample(draw, WORDS, between(draw, 5, 8)), between(draw, 1, 3)
    first = f"first {by} items" if by > 1 else "first item"
    return _entry(draw, f"Move the {first} of the list to its end.", items, items[by:] + items[:by])


TEMPLATES: tuple[Template, ...] = (
    alphabetical, alphabetical_backwards, ascending, descending, by_length, backwards, without_repeats, copied, initial,
    every_second, capitals, dates, rotated,
)  # fmt: skip
