"""Every kind by what its wording says, on lists with ties, capitals and scripts without an A to Z."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.methods.mosaic.strategies import (
    MASKOUT_KINDS,
    PERMUTE_KINDS,
    POSITIONAL,
    STRATEGIES,
    masked,
    permuted,
)
from mosaic_ray.seeding import Draw, Key

WORDS = st.lists(st.sampled_from(["a", "Bb", "c", "A", "ccc", "?", "été", "7"]), min_size=1, max_size=5).map(" ".join)
TEXTS = st.lists(WORDS | st.text(min_size=1).filter(str.strip), min_size=2, max_size=14)

# First letters b, a, B, z, a; words 2, 3, 1, 2, 3; characters 4, 7, 5, 4, 7.
TILES = ["b cd", "a b cde", "Bcdef", "z yx", "(a) c d"]


def draw(seed: int = 0) -> Draw:
    return Key("test", seed).draw()


class Fixed:
    """A draw whose ``uniform`` is given, with an honest shuffle."""

    def __init__(self, value: float) -> None:
        self.value = value

    def uniform(self) -> float:
        return self.value

    def shuffle(self, n: int) -> list[int]:
        return Key("shuffle").draw().shuffle(n)


def test_the_kinds() -> None:
    assert STRATEGIES == ("primary", "format", "permute", "maskout")
    assert (len(PERMUTE_KINDS), len(set(PERMUTE_KINDS)), len(MASKOUT_KINDS), len(set(MASKOUT_KINDS))) == (10, 10, 5, 5)
    families = {"permute": PERMUTE_KINDS, "maskout": MASKOUT_KINDS}
    assert all(kind in families[strategy] for strategy, kind in POSITIONAL)


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("reversed", [5, 4, 3, 2, 1]),
        ("alphabetical", [2, 5, 1, 3, 4]),
        ("alphabetical_reversed", [4, 1, 3, 2, 5]),
        ("words_ascending", [3, 1, 4, 2, 5]),
        ("words_descending", [2, 5, 1, 4, 3]),
        ("characters_ascending", [1, 4, 3, 2, 5]),
        ("characters_descending", [2, 5, 3, 1, 4]),
        ("odd_first", [1, 3, 5, 2, 4]),
        ("even_first", [2, 4, 1, 3, 5]),
    ],
)
def test_permuted_by_hand(kind: str, order: list[int]) -> None:
    assert permuted(kind, TILES, draw()) == order


@pytest.mark.parametrize(
    ("kind", "drawn", "left_out"),
    [
        ("odd", 0.0, [1, 3, 5]),
        ("even", 0.0, [2, 4]),
        ("longest", 0.99, [2, 5]),
        ("longest", 0.0, None),  # one of tiles 2 and 5
        ("shortest", 0.0, [3]),
        ("shortest", 0.99, None),  # tile 3 and one of tiles 1 and 4
    ],
)
def test_masked_by_hand(kind: str, drawn: float, left_out: list[int] | None) -> None:
    assert masked(kind, TILES, Fixed(drawn)) == left_out  # type: ignore[arg-type]


@given(TEXTS, st.sampled_from(PERMUTE_KINDS), st.integers())
def test_permuted_is_an_order_of_all_tiles_or_none(texts: list[str], kind: str, seed: int) -> None:
    order = permuted(kind, texts, draw(seed))
    if order is None:
        assert kind.startswith("alphabetical")
    else:
        assert sorted(order) == list(range(1, len(texts) + 1))
        assert permuted(kind, texts, draw(seed)) == order


@given(TEXTS, st.sampled_from(MASKOUT_KINDS), st.integers())
def test_masked_is_some_but_never_all(texts: list[str], kind: str, seed: int) -> None:
    left_out = masked(kind, texts, draw(seed))
    if left_out is None:
        assert kind in ("longest", "shortest")
        return
    assert left_out == sorted(set(left_out))
    assert 1 <= len(left_out) < len(texts)
    assert set(left_out) <= set(range(1, len(texts) + 1))
    if kind not in ("odd", "even"):
        assert len(left_out) <= max(1, len(texts) // 2)


MEASURES = {
    "alphabetical": lambda text: next(c for c in text if c.isalpha()).lower(),
    "words": lambda text: len(text.split()),
    "characters": len,
}


@given(TEXTS, st.sampled_from([kind for kind in PERMUTE_KINDS if kind.partition("_")[0] in MEASURES]))
def test_sorted_kinds_are_sorted_and_stable(texts: list[str], kind: str) -> None:
    order = permuted(kind, texts, draw())
    name, _, direction = kind.partition("_")
    if order is None:
        firsts = [next((c for c in text if c.isalpha()), "") for text in texts]
        assert not all(first and first.isascii() for first in firsts)
        return
    measure = MEASURES[name]
    for before, after in pairwise(order):
        a, b = measure(texts[before - 1]), measure(texts[after - 1])
        assert a == b or (a > b) is (direction in ("reversed", "descending"))
        assert a != b or before < after, "equal ones keep the given order"


@given(TEXTS, st.sampled_from(["longest", "shortest"]), st.floats(0, 1, exclude_max=True))
def test_longest_and_shortest_are_none_exactly_on_a_tie_at_the_cut(texts: list[str], kind: str, share: float) -> None:
    left_out = masked(kind, texts, Fixed(share))  # type: ignore[arg-type]
    count = max(1, round((0.1 + 0.4 * share) * len(texts)))
    lengths = sorted((len(text.split()) for text in texts), reverse=kind == "longest")
    assert (left_out is None) is (lengths[count - 1] == lengths[count])
    if left_out is not None:
        assert sorted((len(texts[n - 1].split()) for n in left_out), reverse=kind == "longest") == lengths[:count]


@pytest.mark.parametrize("k", [2, 3, 9, 10, 60])
def test_the_share_left_out_is_a_tenth_to_a_half(k: int) -> None:
    texts = ["w " * n for n in range(1, k + 1)]
    sizes = set()
    for seed in range(2000):
        for kind in ("given", "longest", "shortest"):
            left_out = masked(kind, texts, draw(seed))
            assert left_out is not None
            sizes.add(len(left_out))
    assert sizes == set(range(max(1, round(0.1 * k)), max(1, k // 2) + 1))


def test_given_covers_every_tile_however_many() -> None:
    texts = ["x"] * 120
    order = permuted("given", texts, draw())
    assert order is not None
    assert sorted(order) == list(range(1, 121))
    assert order != sorted(order)
    seen = {n for seed in range(60) for n in masked("given", texts, draw(seed)) or ()}
    assert seen == set(range(1, 121))


@pytest.mark.parametrize("text", ["été", "中文", "Привет", "123", "?!", "é a"])
def test_no_alphabet_for_these(text: str) -> None:
    assert permuted("alphabetical", ["abc", text], draw()) is None
    assert permuted("alphabetical_reversed", ["abc", text], draw()) is None


def test_upper_and_lower_case_are_alike_and_marks_in_front_are_skipped() -> None:
    assert permuted("alphabetical", ["b", "B", "'A'", "12. a", "C"], draw()) == [3, 4, 1, 2, 5]
