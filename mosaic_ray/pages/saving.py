"""What training on the data set takes beside training on its records, as far as the manifest alone can say."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mosaic_ray.pages.charts import pairs
from mosaic_ray.pages.markup import figure, in_code

_BATCH: Final = 128
"""Rows a step, as ``mosaic-ray cost`` has it by default."""

_SIDES: Final = ("records", "samples")


def saving(manifest: Mapping[str, Any]) -> str:
    """Steps and tokens, of the records and of the samples made of them, over as many epochs."""
    totals, budget, epochs = manifest["totals"], manifest["settings"]["max_tokens"], manifest["accounting"]["epochs"]
    records = [epoch["composed"] + epoch["passed"] for epoch in epochs]
    samples = [epoch["samples"] for epoch in manifest["epochs"]]
    padded = [
        ("Optimizer steps", _steps(records), _steps(samples)),
        (f"Tokens, rows padded to {budget:,}", sum(records) * budget, sum(samples) * budget),
    ]
    bare = [("Tokens", totals["tile_tokens"], totals["tokens"])]
    command = f"mosaic-ray cost {shlex.quote(manifest['places']['output'])}"
    return (
        '<div class="charts">'
        + figure(
            "Padded to the maximum",
            pairs(padded, label="Padded to the maximum", names=_SIDES),
            f"Assumed: {_BATCH} rows a step, every row padded to the budget of {budget:,} tokens. Then rows are what "
            "costs, and there are fewer of them.",
        )
        + figure(
            "Packed, or without padding",
            pairs(bare, label="Without padding", names=_SIDES),
            "Every token once, no gaps. Then tokens are what costs: a sample pays the chat template once, leaves some "
            "answers out, and adds its meta-instruction.",
        )
        + "</div><p>Both sides train for as many epochs as the data set has. Rows padded to the longest of their "
        "batch, and the gaps of packing, are not in the manifest: "
        f"{in_code(command)} counts them.</p>"
    )


def _steps(rows: Sequence[int]) -> int:
    """Of epochs with so many rows; no step has rows of two epochs."""
    return sum(math.ceil(number / _BATCH) for number in rows)
