"""How many tiles a mosaic is to have."""

from __future__ import annotations

import math
from typing import Literal, get_args

from mosaic_ray.seeding import Draw

TileCount = Literal["uniform", "fix_max", "max_length", "exp", "pareto", "lognormal", "logistic2"]
TILE_COUNTS: tuple[TileCount, ...] = get_args(TileCount)


def wanted_tiles(mode: TileCount, *, max_tiles: int, remaining: int, draw: Draw) -> int:
    """A number of tiles in 1..remaining, before the token budget has its say (paper, section 3.3).

    ``uniform`` is the paper's choice: 1..max_tiles. ``fix_max`` is always max_tiles. ``max_length`` is all that
    remain, so that the budget alone decides. The others are max_tiles less the whole part of a draw from the named
    distribution, drawn again while it is not below max_tiles, so large counts are the likely ones.
    """
    if mode == "max_length":
        return remaining
    if mode == "fix_max":
        return min(max_tiles, remaining)
    if mode == "uniform":
        return min(1 + draw.below(max_tiles), remaining)
    return min(max_tiles - _shortfall(mode, max_tiles, draw), remaining)


def _shortfall(mode: TileCount, limit: int, draw: Draw) -> int:
    while True:
        match mode:
            case "exp":
                value = draw.exponential()
            case "pareto":
                value = draw.pareto()
            case "lognormal":
                value = draw.lognormal()
            case _:
                value = draw.logistic(2.0)
        if 0.0 <= value < limit:
            return math.floor(value)
