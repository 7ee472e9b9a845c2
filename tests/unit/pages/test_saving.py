from __future__ import annotations

from typing import Any

from mosaic_ray.pages.saving import saving
from tests.unit.pages.parsed import Page


def manifest_of(records: list[int], samples: list[int], *, tile_tokens: int, tokens: int) -> dict[str, Any]:
    return {
        "places": {"output": "/out of $(reboot)"},
        "settings": {"max_tokens": 2048},
        "accounting": {"epochs": [{"composed": n - 1, "passed": 1, "rejected": 7} for n in records]},
        "epochs": [{"samples": n} for n in samples],
        "totals": {"tile_tokens": tile_tokens, "tokens": tokens},
    }


def said(manifest: dict[str, Any]) -> list[str]:
    return [attributes["aria-label"] for attributes, _ in Page(saving(manifest)).all("svg")]


def test_steps_are_those_of_each_epoch_and_rejected_records_cost_nothing() -> None:
    manifest = manifest_of([14_408] * 2, [2_633, 2_600], tile_tokens=5_160_000, tokens=4_540_000)
    assert said(manifest) == [
        "Padded to the maximum: Optimizer steps 226 to 42; Tokens, rows padded to 2,048 59,015,168 to 10,717,184",
        "Without padding: Tokens 5,160,000 to 4,540,000",
    ]
    page = Page(saving(manifest))
    assert {"Optimizer steps: 81.4% fewer", "Tokens, rows padded to 2,048: 81.8% fewer", "Tokens: 12.0% fewer"} <= {
        *page.texts("text")
    }


def test_a_loss_is_said_to_be_one() -> None:
    page = Page(saving(manifest_of([128], [128], tile_tokens=1_000, tokens=1_250)))
    assert {"Optimizer steps: as many", "Tokens: 25.0% more"} <= {*page.texts("text")}


def test_what_is_assumed_and_what_counts_the_rest() -> None:
    page = Page(saving(manifest_of([10], [2], tile_tokens=100, tokens=90)))
    text = " ".join([*page.texts("figcaption"), *page.texts("p")])
    assert "128 rows a step, every row padded to the budget of 2,048 tokens" in text
    assert "mosaic-ray cost '/out of $(reboot)' counts them" in text
