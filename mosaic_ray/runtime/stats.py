"""Counts that add up: of a part, of a task, of a run.

All of them are sums over samples, so the order in which tasks finish cannot change a total.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mosaic_ray.records import Sample

TOKEN_BUCKET = 64
"""Width of a bucket in the histogram of tokens per sample."""


@dataclass(slots=True)
class Totals:
    """What came out: over samples and, by strategy, kind and number of tiles.

    strategies, kinds (``strategy/kind``), tile_counts: number of samples of each.
    tile_tokens: tokens of the records rendered alone, summed over samples: what training on the records costs.
    token_histogram: number of samples in each bucket of TOKEN_BUCKET tokens, keyed by the bucket's lower edge.
    several, mixed: samples of two records and more; those of them that hold records of more than one file.
    """

    samples: int = 0
    tiles: int = 0
    tokens: int = 0
    tile_tokens: int = 0
    longest: int = 0
    several: int = 0
    mixed: int = 0
    strategies: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    tile_counts: Counter[str] = field(default_factory=Counter)
    token_histogram: Counter[str] = field(default_factory=Counter)

    def add(self, samples: Sequence[Sample], tile_tokens: int) -> None:
        """tile_tokens: of all their records, each rendered alone."""
        tiles = [len(sample.sources) for sample in samples]
        tokens = [sample.token_count for sample in samples]
        self.samples += len(samples)
        self.tiles += sum(tiles)
        self.tokens += sum(tokens)
        self.tile_tokens += tile_tokens
        self.longest = max([self.longest, *tokens])
        self.several += sum([count > 1 for count in tiles])
        self.mixed += sum([len({file for file, _ in sample.sources}) > 1 for sample in samples])
        self.strategies.update([sample.strategy for sample in samples])
        self.kinds.update([f"{sample.strategy}/{sample.kind}" for sample in samples if sample.kind is not None])
        self.tile_counts.update(map(str, tiles))
        self.token_histogram.update([str(count // TOKEN_BUCKET * TOKEN_BUCKET) for count in tokens])

    def merge(self, other: Mapping[str, Any]) -> None:
        """Add what :meth:`to_dict` gave of another."""
        for name in ("samples", "tiles", "tokens", "tile_tokens", "several", "mixed"):
            setattr(self, name, getattr(self, name) + other[name])
        self.longest = max(self.longest, other["longest"])
        for name in ("strategies", "kinds", "tile_counts", "token_histogram"):
            getattr(self, name).update(other[name])

    def to_dict(self) -> dict[str, Any]:
        return {
            "samples": self.samples,
            "tiles": self.tiles,
            "tokens": self.tokens,
            "tile_tokens": self.tile_tokens,
            "longest": self.longest,
            "several": self.several,
            "mixed": self.mixed,
            "strategies": dict(sorted(self.strategies.items())),
            "kinds": dict(sorted(self.kinds.items())),
            "tile_counts": _by_number(self.tile_counts),
            "token_histogram": _by_number(self.token_histogram),
        }

    def mixing(self, file_records: Sequence[int]) -> dict[str, Any]:
        """How many samples of several records hold more than one file, beside what a perfect shuffle would give."""
        return {
            "several": self.several,
            "mixed": self.mixed,
            "share": self.mixed / max(1, self.several),
            "perfect_shuffle": perfect_shuffle_share(self.tile_counts, file_records),
        }


def perfect_shuffle_share(tile_counts: Mapping[str, int], file_records: Sequence[int]) -> float:
    """The share of samples of several records that would hold more than one file, were the whole corpus shuffled.

    tile_counts: number of samples by number of tiles. file_records: records of each file.

    Exact for tiles drawn without replacement: k of them come from one file of n records of N with probability
    n (n-1) ... (n-k+1) / (N (N-1) ... (N-k+1)).
    """
    total = sum(file_records)
    several = {int(k): count for k, count in tile_counts.items() if int(k) > 1}
    if not several:
        return 0.0
    alike = sum(count * sum(_all_of_one(n, total, k) for n in file_records) for k, count in several.items())
    return 1.0 - alike / sum(several.values())


def _all_of_one(records: int, total: int, tiles: int) -> float:
    return math.prod((records - j) / (total - j) for j in range(tiles)) if records >= tiles else 0.0


def _by_number(counts: Counter[str]) -> dict[str, int]:
    return {key: counts[key] for key in sorted(counts, key=int)}
