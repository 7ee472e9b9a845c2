"""The method itself: which records become one mosaic, and what it says.

Every mosaic is a pure function of its key and its tiles: how many tiles the budget lets it have is found by drafting
it with more or fewer and counting each draft exactly, and none of these trials moves the draws of another mosaic. A
draft is the texts that a mosaic is put together from; only the one that is taken becomes a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from mosaic_ray.methods.base import Measure, Outline
from mosaic_ray.methods.mosaic import checker, templates
from mosaic_ray.methods.mosaic.grouping import TileCount, wanted_tiles
from mosaic_ray.methods.mosaic.layout import BARE, LAYOUT_DRAWS, Layout, draw_layout
from mosaic_ray.methods.mosaic.outline import outline
from mosaic_ray.methods.mosaic.strategies import (
    MASKOUT_KINDS,
    PERMUTE_KINDS,
    POSITIONAL,
    STRATEGIES,
    Strategy,
    masked,
    permuted,
)
from mosaic_ray.records import Message, Record, Sample, Woven
from mosaic_ray.seeding import Draw, Key

_LAYOUT_TRIALS = 8
"""Layouts drawn before the bare one is taken, where tags and tiles together would spell a control token."""

_WORDING_DRAWS = 4
"""Numbers that :func:`_meta` takes at most."""

_TILE_OVERHEAD = 8
"""Tokens a tile costs beside its texts, as a first guess at how many tiles fit; the exact count decides."""


class MosaicMethod(BaseModel):
    """Mosaic-IT.

    tiles: how the number of tiles is drawn, up to max_tiles (``max_length`` knows no such limit).
    strategies: those a mosaic of two tiles and more is drawn from, all equally likely. A mosaic of one tile is
        ``format``, or ``primary`` where that is the only strategy allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    VERSION: ClassVar[int] = 2

    tiles: TileCount = Field("uniform", description="How the number of records in a sample is drawn.")
    max_tiles: int = Field(10, ge=1, le=1000, description="Most records in a sample; no limit for max_length.")
    strategies: tuple[Strategy, ...] = Field(
        ("format", "permute", "maskout"),
        min_length=1,
        description="Any of primary, format, permute and maskout, with commas.",
    )

    @field_validator("strategies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Order and repetition do not matter to what is asked for, so they must not matter to the fingerprint."""
        names = value.split(",") if isinstance(value, str) else value
        if not isinstance(names, list | tuple):
            return value
        asked = [str(name).strip() for name in names]
        return tuple(sorted(set(asked), key=lambda name: (STRATEGIES.index(name) if name in STRATEGIES else -1, name)))

    @property
    def name(self) -> str:
        return "mosaic-it"

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"name": self.name, "version": self.VERSION, **self.model_dump(mode="json")}

    @property
    def expected_tiles(self) -> float | None:
        if self.tiles == "max_length":
            return None
        draw = Key("expected tiles").draw()
        counts = [
            wanted_tiles(self.tiles, max_tiles=self.max_tiles, remaining=self.max_tiles, draw=draw)
            for _ in range(10_000)
        ]
        return sum(counts) / len(counts)

    def compose(self, records: Sequence[Record], *, key: Key, measure: Measure) -> Iterator[Sample]:
        queue = [records[i] for i in key.child("shuffle").draw().shuffle(len(records))]
        counts = key.child("tiles").draw()
        start = index = 0
        while start < len(queue):
            wanted = wanted_tiles(self.tiles, max_tiles=self.max_tiles, remaining=len(queue) - start, draw=counts)
            sample = self._largest(queue, start, wanted, key.child("sample", index), measure)
            yield sample
            start += len(sample.sources)
            index += 1

    def mosaic(self, tiles: Sequence[Record], *, key: Key, measure: Measure) -> Sample:
        """The mosaic of exactly these tiles, whatever the budget is.

        key: of the mosaic; :meth:`compose` gives its i-th one ``key.child("sample", i)``.
        """
        draft = self._draft(tiles, key, measure)
        return draft.sample(measure.count(draft.messages))

    def check(self, sample: Mapping[str, Any], tiles: Sequence[Record]) -> str | None:
        return checker.check(
            strategy=sample["strategy"],
            kind=sample["kind"],
            params=sample["params"],
            tiles=[(tile.instruction, tile.response) for tile in tiles],
            instruction=sample["instruction"],
            response=sample["response"],
        )

    def outline(self, sample: Mapping[str, Any]) -> Outline | None:
        return outline(sample)

    def _largest(self, queue: Sequence[Record], start: int, wanted: int, key: Key, measure: Measure) -> Sample:
        """The mosaic of the next tiles that has all the tiles wanted, or could not have one more."""
        fitting: Sample | None = None
        low, high = 0, wanted + 1
        tiles = _first_guess(queue, start, wanted, measure.max_tokens)
        while True:
            draft = self._draft(queue[start : start + tiles], key, measure)
            tokens = measure.count(draft.messages)
            excess = tokens - measure.max_tokens
            if excess <= 0:
                fitting, low = draft.sample(tokens), tiles
            else:
                high = tiles
            if low + 1 >= high:
                return fitting or _bare(queue[start], self._single, measure)
            tiles = low + 1 if excess <= 0 else _shorter(queue[start + low + 1 : start + high], low + 1, excess)

    @property
    def _single(self) -> Strategy:
        return "primary" if self.strategies == ("primary",) else "format"

    def _draft(self, tiles: Sequence[Record], key: Key, measure: Measure) -> _Draft:
        for trial in range(_LAYOUT_TRIALS):
            draft = self._drawn(tiles, key.child("layout", trial).draw())
            question, answer = draft.messages
            if not (measure.spells_control(*question.parts) or measure.spells_control(*answer.parts)):
                return draft
        return _plain(tiles, self._single)

    def _drawn(self, tiles: Sequence[Record], draw: Draw) -> _Draft:
        """Look and wording take their numbers first, so that they are the same for any number of tiles."""
        looks = draw.ahead(LAYOUT_DRAWS + _WORDING_DRAWS)
        strategy = draw.choice(self.strategies) if len(tiles) > 1 else self._single
        instructions = [tile.messages[0].content for tile in tiles]
        plan = _plan(strategy, instructions, draw)
        primary = strategy == "primary"
        layout = draw_layout(
            looks,
            framed=False if primary else None,
            numbered=False if primary else True if (strategy, plan.kind) in POSITIONAL else None,
        )
        meta, wording = _meta(strategy, plan, layout, looks)
        return _Draft(tiles, instructions, strategy, plan, layout, meta, wording)


class _Plan(NamedTuple):
    """What a mosaic answers: tile numbers in order, and how that came about."""

    answered: Sequence[int]
    kind: str | None = None
    left_out: Sequence[int] = ()
    redrawn: Sequence[str] = ()


class _Draft:
    """A mosaic as the texts it is put together from."""

    __slots__ = ("_layout", "_meta", "_plan", "_strategy", "_tiles", "_wording", "messages")

    def __init__(
        self,
        tiles: Sequence[Record],
        instructions: Sequence[str],
        strategy: Strategy,
        plan: _Plan,
        layout: Layout,
        meta: Sequence[str],
        wording: dict[str, str | None],
    ) -> None:
        self._tiles, self._strategy, self._plan = tiles, strategy, plan
        self._layout, self._meta, self._wording = layout, meta, wording
        self.messages = (
            Woven("user", layout.instruction(instructions, meta)),
            Woven("assistant", layout.response([tile.messages[1].content for tile in tiles], plan.answered)),
        )

    def sample(self, tokens: int) -> Sample:
        plan, strategy = self._plan, self._strategy
        params: dict[str, Any] = {
            "layout": self._layout.params(),
            "meta": "".join(self._meta),
            "wording": self._wording,
        }
        if strategy == "permute":
            params["order"] = list(plan.answered)
        if strategy == "maskout":
            params["masked"] = list(plan.left_out)
        if plan.redrawn:
            params["redrawn"] = list(plan.redrawn)
        return Sample(
            messages=tuple(Message(message.role, message.content) for message in self.messages),
            sources=tuple(tile.source for tile in self._tiles),
            strategy=strategy,
            kind=plan.kind,
            params=params,
            token_count=tokens,
        )


def _plan(strategy: Strategy, instructions: Sequence[str], draw: Draw) -> _Plan:
    numbers = range(1, len(instructions) + 1)
    redrawn: list[str] = []
    if strategy in ("primary", "format"):
        return _Plan(list(numbers))
    while True:
        if strategy == "permute":
            kind = draw.choice(PERMUTE_KINDS)
            if (order := permuted(kind, instructions, draw)) is not None:
                return _Plan(order, kind, redrawn=redrawn)
        else:
            kind = draw.choice(MASKOUT_KINDS)
            if (left_out := masked(kind, instructions, draw)) is not None:
                return _Plan([n for n in numbers if n not in left_out], kind, left_out, redrawn)
        redrawn.append(kind)


def _meta(strategy: Strategy, plan: _Plan, layout: Layout, draw: Draw) -> tuple[list[str], dict[str, str | None]]:
    """The texts that make the meta-instruction, and the names of its wordings."""
    parts, name = _format_wording(strategy, layout, draw)
    wording: dict[str, str | None] = {"format": name}
    if strategy not in ("permute", "maskout"):
        return parts, wording
    family = templates.PERMUTE if strategy == "permute" else templates.MASKOUT
    options = family[str(plan.kind)]
    number = draw.below(len(options))
    wording[strategy] = f"{plan.kind}/{number}"
    if strategy == "permute":
        values = {"order": _listed(plan.answered, templates.ORDER_INTERVALS, templates.ORDER_BRACKETS, draw)}
    else:
        masked_list = _listed(plan.left_out, templates.MASK_INTERVALS, templates.MASK_BRACKETS, draw)
        values = {"masked": masked_list, "count": [str(len(plan.left_out))]}
    if parts:
        parts.append(" ")
    return parts + templates.filled(options[number], values), wording


def _listed(numbers: Sequence[int], intervals: Sequence[str], brackets: Sequence[str], draw: Draw) -> list[str]:
    interval = draw.choice(intervals)
    items: list[str] = []
    for number in numbers:
        items += (interval, str(number))
    return templates.filled(draw.choice(brackets), {"items": items[1:]})


def _format_wording(strategy: Strategy, layout: Layout, draw: Draw) -> tuple[list[str], str | None]:
    """Unframed responses get a plain wording or none; none where tiles are left out, for a plain one asks for all."""
    if layout.frame:
        number = draw.below(len(templates.FRAMED))
        tags = {"begin_tag": [layout.frame.begin], "end_tag": [layout.frame.end]}
        return templates.filled(templates.FRAMED[number], tags), f"framed/{number}"
    number = draw.below(len(templates.PLAIN) + 1)
    if strategy == "maskout" or number == len(templates.PLAIN):
        return [], None
    return [templates.PLAIN[number]], f"plain/{number}"


def _plain(tiles: Sequence[Record], strategy: Strategy) -> _Draft:
    instructions = [tile.instruction for tile in tiles]
    return _Draft(tiles, instructions, strategy, _Plan(range(1, len(tiles) + 1)), BARE, [], {"format": None})


def _bare(record: Record, strategy: Strategy, measure: Measure) -> Sample:
    """The record by itself, for one that fits the budget only without a layout around it."""
    draft = _plain([record], strategy)
    return draft.sample(measure.count(draft.messages))


def _first_guess(queue: Sequence[Record], start: int, wanted: int, max_tokens: int) -> int:
    tokens = tiles = 0
    while tiles < wanted:
        tokens += queue[start + tiles].tokens + (_TILE_OVERHEAD if tiles else 0)
        if tokens > max_tokens:
            break
        tiles += 1
    return max(1, tiles)


def _shorter(candidates: Sequence[Record], least: int, excess: int) -> int:
    """How many tiles to try next: ``least``, and as many of the candidates as leave the excess behind."""
    tiles = least + len(candidates)
    for record in reversed(candidates):
        if excess <= 0:
            break
        excess -= record.tokens
        tiles -= 1
    return tiles
