"""How many tiles: the range of every mode, and its distribution against what the paper's formula gives."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mosaic_ray.methods.mosaic.compose import MosaicMethod
from mosaic_ray.methods.mosaic.grouping import TILE_COUNTS, TileCount, wanted_tiles
from mosaic_ray.seeding import Key

DRAWS = 20_000
MANY = 10**6
P = 1e-4

LAWS: dict[str, Any] = {
    "exp": stats.expon(),
    "pareto": stats.lomax(1),
    "lognormal": stats.lognorm(1),
    "logistic2": stats.logistic(scale=2.0),
}


def expected_shares(mode: str, limit: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of 1..limit tiles: limit less the whole part of a draw, given that the draw lies in [0, limit)."""
    edges = LAWS[mode].cdf(np.arange(limit + 1))
    shortfall = np.diff(edges) / (edges[-1] - edges[0])
    return np.asarray(shortfall[::-1])


def test_the_seven_modes() -> None:
    assert TILE_COUNTS == ("uniform", "fix_max", "max_length", "exp", "pareto", "lognormal", "logistic2")


@given(st.sampled_from(TILE_COUNTS), st.integers(1, 30), st.integers(1, 40), st.integers())
def test_a_count_is_within_the_limit_and_what_remains(mode: TileCount, limit: int, remaining: int, seed: int) -> None:
    tiles = wanted_tiles(mode, max_tiles=limit, remaining=remaining, draw=Key(seed).draw())
    assert 1 <= tiles <= (remaining if mode == "max_length" else min(limit, remaining))
    if mode == "max_length":
        assert tiles == remaining
    if mode == "fix_max":
        assert tiles == min(limit, remaining)


@given(st.sampled_from(TILE_COUNTS), st.integers(1, 30), st.integers(1, 40), st.integers())
def test_what_remains_only_caps(mode: TileCount, limit: int, remaining: int, seed: int) -> None:
    free = wanted_tiles(mode, max_tiles=limit, remaining=MANY, draw=Key(seed).draw())
    assert wanted_tiles(mode, max_tiles=limit, remaining=remaining, draw=Key(seed).draw()) == min(free, remaining)


@pytest.mark.parametrize("limit", [1, 2, 10])
@pytest.mark.parametrize("mode", ["uniform", *LAWS])
def test_distribution(mode: TileCount, limit: int) -> None:
    counts = Counter(
        wanted_tiles(mode, max_tiles=limit, remaining=MANY, draw=Key("tiles", mode, n).draw()) for n in range(DRAWS)
    )
    shares = np.full(limit, 1 / limit) if mode == "uniform" else expected_shares(mode, limit)
    assert shares.sum() == pytest.approx(1)
    found = np.array([counts[k] for k in range(1, limit + 1)])
    assert found.sum() == DRAWS
    seen = shares * DRAWS >= 5  # chi-square needs five of each; the rarer ones are counted as one
    observed, expected = [*found[seen], found[~seen].sum()], [*shares[seen] * DRAWS, shares[~seen].sum() * DRAWS]
    if expected[-1] < 1:
        assert observed.pop() <= 8
        expected.pop()
        expected = list(np.array(expected) * sum(observed) / sum(expected))
    assert limit == 1 or stats.chisquare(observed, expected).pvalue > P


def test_expected_tiles_are_the_mean() -> None:
    for mode in LAWS:
        shares = expected_shares(mode, 10)
        mean = float((shares * np.arange(1, 11)).sum())
        assert MosaicMethod(tiles=mode).expected_tiles == pytest.approx(mean, rel=0.02)  # type: ignore[arg-type]
    assert MosaicMethod().expected_tiles == pytest.approx(5.5, rel=0.02)
    assert MosaicMethod(tiles="fix_max", max_tiles=7).expected_tiles == 7
    assert MosaicMethod(tiles="max_length").expected_tiles is None
