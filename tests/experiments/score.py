"""Test samples, and what a written response is worth: right as a whole, and in how many of its tiles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks import task_of

from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.methods.mosaic.strategies import Strategy
from mosaic_ray.records import Message, Record
from mosaic_ray.seeding import Key

MOST_TILES = 5


class Uncounted:
    """A :class:`mosaic_ray.methods.base.Measure` without a budget: how many tiles there are is settled here."""

    max_tokens = 1 << 30

    def count(self, messages: Sequence[object]) -> int:  # noqa: ARG002
        return 0

    def spells_control(self, *texts: str) -> bool:  # noqa: ARG002
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test sample.

    layout: as in a sample's ``params``; None for a record alone.
    due: the answers of the tiles to answer, in order.
    kind: of the order or of the leaving out; the task, for a record alone.
    plain: every tile is due, in the order given, so that heeding no order and leaving nothing out is right too.
    """

    instruction: str
    response: str
    layout: Mapping[str, Any] | None
    due: tuple[str, ...]
    tiles: int
    kind: str | None = None
    plain: bool = True


def alone(record: Record) -> Case:
    """A held-out record as a test sample by itself, without a meta-instruction."""
    return Case(
        instruction=record.instruction,
        response=record.response,
        layout=None,
        due=(record.response,),
        tiles=1,
        kind=task_of(record),
    )


def mosaics(records: Sequence[Record], strategy: Strategy, count: int, *, key: Key) -> list[Case]:
    """Mosaics of 2 to MOST_TILES records, drawn anew for each, composed by the project's method with one strategy."""
    method = MosaicMethod.model_validate({"strategies": (strategy,)})
    return [_mosaic(method, records, key.child(strategy, number)) for number in range(count)]


def _mosaic(method: MosaicMethod, records: Sequence[Record], key: Key) -> Case:
    draw = key.child("tiles").draw()
    chosen = [records[place] for place in draw.shuffle(len(records))[: 2 + draw.below(MOST_TILES - 1)]]
    sample = method.mosaic(chosen, key=key, measure=Uncounted())
    numbers = list(range(1, len(chosen) + 1))
    left_out = sample.params.get("masked", ())
    answered = sample.params.get("order") or [number for number in numbers if number not in left_out]
    question, answer = (message.content for message in sample.messages)
    return Case(
        instruction=question,
        response=answer,
        layout=sample.params["layout"],
        due=tuple(chosen[number - 1].response for number in answered),
        tiles=len(chosen),
        kind=sample.kind,
        plain=answered == numbers,
    )


def answers(response: str, layout: Mapping[str, Any] | None) -> list[str]:
    """The answers in a response, one a line, their number tags and frames taken off where they are there."""
    number, frame = (layout or {}).get("number"), (layout or {}).get("frame")
    if number:
        tag = re.escape(number["shape"]).replace(re.escape("{n}"), "[0-9]+") + re.escape(number["mark"])
        response = re.sub(rf"^{tag}\s", "", response, flags=re.MULTILINE)
    lines = [line.strip() for line in response.splitlines() if line.strip()]
    return [line.removeprefix(frame["begin"]).removesuffix(frame["end"]).strip() for line in lines] if frame else lines


def tiles_right(response: str, case: Case) -> float:
    """The share of the due answers that stand at their place in the response; tags and frames do not count here."""
    written = answers(response, case.layout)
    return sum(a == b for a, b in zip(written, case.due, strict=False)) / len(case.due)


def scored(responses: Sequence[str], cases: Sequence[Case]) -> dict[str, float]:
    """Both measures over a test set, in percent."""
    pairs = list(zip(responses, cases, strict=True))
    return {
        "exact": 100 * sum(response == case.response for response, case in pairs) / len(pairs),
        "tiles": 100 * sum(tiles_right(response, case) for response, case in pairs) / len(pairs),
    }


def conversation(record: Record | Case) -> tuple[Message, Message]:
    """The two turns, as the template renders them."""
    return Message("user", record.instruction), Message("assistant", record.response)
