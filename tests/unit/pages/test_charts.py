from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.pages.charts import Amount, Bin, bars, binned, histogram, pairs, stack

numbers = st.integers(1, 10**9)


def elements(svg: str, tag: str) -> Iterator[ElementTree.Element]:
    return ElementTree.fromstring(svg).iter(tag)


def texts(svg: str) -> list[str]:
    return [str(text.text) for text in elements(svg, "text")]


@given(st.dictionaries(st.integers(0, 200_000), numbers, min_size=1), st.sampled_from([1, 64]))
def test_bins_hold_every_sample_where_it_belongs(counts: dict[int, int], width: int) -> None:
    end = max(counts) + 1
    bins = binned(counts, start=0, width=width, end=end)
    assert bins[0].low == 0
    assert bins[-1].high == end
    assert all(left.high == right.low for left, right in pairwise(bins))
    for piece in bins:
        assert piece.samples == sum(n for value, n in counts.items() if piece.low <= value < piece.high)
    assert len(bins) <= 40
    assert len({piece.high - piece.low for piece in bins[:-1]}) <= 1
    if len(bins) > 1:
        assert bins[-1].high - bins[-1].low >= (bins[0].high - bins[0].low) / 2
        assert all(piece.low % width == 0 for piece in bins)


def test_a_sample_of_exactly_the_budget_is_in_the_last_bin() -> None:
    bins = binned({0: 1, 1984: 2, 2048: 3}, start=0, width=64, end=2049)
    assert bins[-1] == Bin(1984, 2049, 5)
    assert len(bins) == 32


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60), st.booleans())
def test_bars_of_a_histogram_stand_on_its_axis_as_high_as_their_counts(samples: list[int], discrete: bool) -> None:
    bins = [Bin(n, n + 1, number) for n, number in enumerate(samples, 1)]
    svg = histogram(bins, unit="records", label="some", discrete=discrete)
    drawn = list(elements(svg, "rect"))
    assert len(drawn) == len(bins)
    floors = {float(bar.attrib["y"]) + float(bar.attrib["height"]) for bar in drawn}
    assert max(floors) - min(floors) < 0.11
    height = max(float(bar.attrib["height"]) for bar in drawn)
    for bar, number in zip(drawn, samples, strict=True):
        assert float(bar.attrib["y"]) >= 34 - 0.1
        assert 44 <= float(bar.attrib["x"]) <= 392
        assert float(bar.attrib["height"]) == pytest.approx(height * number / max(1, *samples), abs=0.2)


def test_a_histogram_names_axes_numbers_and_budget() -> None:
    bins = binned({0: 1500, 64: 3}, start=0, width=64, end=2049)
    svg = histogram(bins, unit="tokens in a sample", label="What it <says>", budget=2048)
    assert {"samples", "tokens in a sample", "budget 2,048"} <= set(texts(svg))
    assert {"0", "500", "1,000", "1,500", "2,000", "1.5k"} <= set(texts(svg))
    assert [title.text for title in elements(svg, "title")][:2] == [
        "0 to 63 tokens in a sample: 1,500 samples",
        "64 to 127 tokens in a sample: 3 samples",
    ]
    assert ElementTree.fromstring(svg).attrib["aria-label"] == "What it <says>"


def test_each_number_of_records_stands_under_its_bar() -> None:
    svg = histogram(binned({1: 4, 2: 5, 3: 6}, start=1, width=1, end=4), unit="records", label="some", discrete=True)
    middles = {t.text: float(t.attrib["x"]) for t in elements(svg, "text") if float(t.attrib["y"]) > 180}
    for bar, name in zip(elements(svg, "rect"), "123", strict=True):
        assert middles[name] == pytest.approx(float(bar.attrib["x"]) + float(bar.attrib["width"]) / 2, abs=0.2)


def test_bars_give_number_share_and_whole_name() -> None:
    long = "a kind with a name that is rather long"
    svg = bars([Amount("given", 3000, "c4"), Amount(long, 1000, "c5")], label="Samples by kind")
    assert texts(svg) == ["given", "3,000 · 75.0%", "a kind with a name th…", "1,000 · 25.0%"]
    assert [title.text for title in elements(svg, "title")] == ["given: 3,000", f"{long}: 1,000"]
    first, second = (float(bar.attrib["width"]) for bar in elements(svg, "rect"))
    assert first == pytest.approx(3 * second, abs=0.2)
    spoken = f"Samples by kind: given 3,000, 75.0%; {long} 1,000, 25.0%"
    assert ElementTree.fromstring(svg).attrib["aria-label"] == spoken


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=5).filter(any))
def test_a_stack_is_filled_from_end_to_end_and_shows_what_is_rare(counts: list[int]) -> None:
    svg = stack([Amount(f"n{place}", number, "c1") for place, number in enumerate(counts)], label="Records")
    drawn = list(elements(svg, "rect"))
    assert len(drawn) == sum(number > 0 for number in counts)
    assert sum(float(piece.attrib["width"]) for piece in drawn) == pytest.approx(1000, abs=0.3)
    assert min(float(piece.attrib["width"]) for piece in drawn) > 3.5
    assert all(re.search(rf"n{n} {number:,}, ", svg) for n, number in enumerate(counts))


def test_before_and_after_stand_on_one_scale() -> None:
    rows = [("Optimizer steps", 400, 100), ("Tokens", 50, 200), ("Nothing", 0, 0)]
    svg = pairs(rows, label="Padded", names=("records", "samples"))
    assert texts(svg)[::5] == ["Optimizer steps: 75.0% fewer", "Tokens: 300.0% more", "Nothing: as many"]
    widths = [float(bar.attrib["width"]) for bar in elements(svg, "rect")]
    assert widths[0] == widths[3] == pytest.approx(4 * widths[1], abs=0.2) == pytest.approx(4 * widths[2], abs=0.2)
    assert widths[4:] == [0.0, 0.0]
    spoken = "Padded: Optimizer steps 400 to 100; Tokens 50 to 200; Nothing 0 to 0"
    assert ElementTree.fromstring(svg).attrib["aria-label"] == spoken
