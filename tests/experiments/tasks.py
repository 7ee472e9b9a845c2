"""Four simple tasks, generated: copy, sort, add, look up. Instructions of 4 to 20 tokens, answers of digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mosaic_ray.records import Message, Record, Source
from mosaic_ray.seeding import Draw, Key

NAMES: Final = ("red", "blue", "green", "black", "white", "pink", "grey", "gold")

Made = tuple[str, str]
"""What the task is asked on, to be put in place of ``{}`` in a wording, and the answer."""


def _digits(draw: Draw, least: int, most: int) -> str:
    return "".join(str(draw.below(10)) for _ in range(least + draw.below(most - least + 1)))


def _copied(draw: Draw) -> Made:
    digits = _digits(draw, 2, 5)
    return digits, digits


def _sorted(draw: Draw) -> Made:
    digits = _digits(draw, 3, 5)
    return digits, "".join(sorted(digits))


def _added(draw: Draw) -> Made:
    left, right = 10 + draw.below(90), 1 + draw.below(9)
    return f"{left} and {right}", str(left + right)


def _looked_up(draw: Draw) -> Made:
    names = [NAMES[place] for place in draw.shuffle(len(NAMES))[: 2 + draw.below(2)]]
    values = [_digits(draw, 1, 2) for _ in names]
    asked = draw.below(len(names))
    pairs = ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
    return f"{pairs}: {names[asked]}", values[asked]


TASKS: Final[Mapping[str, tuple[Callable[[Draw], Made], Sequence[str]]]] = {
    "copy": (_copied, ("Copy {}.", "Repeat {}.", "Write {} again.")),
    "sort": (_sorted, ("Sort {}.", "Order the digits of {}.", "Put the digits in order: {}.")),
    "add": (_added, ("Add {}.", "Give the sum of {}.", "Join {} by adding them.")),
    "look up": (_looked_up, ("Look up {}.", "Find in {}.", "Given a list, read it: {}.")),
}
"""Task -> what makes it, and its wordings, of different lengths, most with first letters of their own."""

_NAMES: Final = tuple(TASKS)


def task_of(record: Record) -> str:
    """Rows take turns."""
    return _NAMES[record.source.row % len(_NAMES)]


def records(count: int, held_out: int, *, seed: int) -> tuple[list[Record], list[Record]]:
    """Records to train on, and records to test on: as many of each task, in a drawn order.

    What the held-out ones ask (the digits, the two numbers, the list) is asked in no training record, however worded.
    Training records may ask the same thing twice.
    """
    key = Key(seed, "teach")
    test: list[Record] = []
    kept: set[tuple[str, str]] = set()
    draw = key.child("test").draw()
    while len(test) < held_out:
        asked, record = _record("test", len(test), draw)
        if asked not in kept:
            kept.add(asked)
            test.append(record)
    train: list[Record] = []
    draw = key.child("train").draw()
    while len(train) < count:
        asked, record = _record("train", len(train), draw)
        if asked not in kept:
            train.append(record)
    return [train[i] for i in key.child("order").draw().shuffle(count)], test


def _record(file: str, row: int, draw: Draw) -> tuple[tuple[str, str], Record]:
    """What is asked, whatever the wording; and the record."""
    task = _NAMES[row % len(_NAMES)]
    make, wordings = TASKS[task]
    given, answer = make(draw)
    messages = (Message("user", draw.choice(wordings).replace("{}", given)), Message("assistant", answer))
    return (task, given), Record(source=Source(file, row), messages=messages)
