from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.pages.flow import flow

COLUMNS = ("8", "98", "184", "312", "384")
"""Where the nodes stand: files, records, what became of them, samples, tokens."""


def manifest_of(
    files: list[int], *, passed: int, rejected: int, samples: int, epochs: int = 2, tokens: int = 10**6
) -> dict[str, Any]:
    """samples: of composed records, in all epochs."""
    records = sum(files)
    epoch = {"composed": records - passed - rejected, "passed": passed, "rejected": rejected}
    return {
        "plan": {"epochs": epochs},
        "inventory": [{"name": f"f{n}", "records": number} for n, number in enumerate(files)],
        "accounting": {"records": records, "epochs": [epoch] * epochs},
        "totals": {
            "samples": samples + passed * epochs,
            "tokens": tokens,
            "strategies": {"format": samples, "pass": passed * epochs},
        },
    }


def nodes(svg: str) -> dict[str, list[ElementTree.Element]]:
    drawn = list(ElementTree.fromstring(svg).iter("rect"))
    return {x: [piece for piece in drawn if piece.attrib["x"] == x] for x in COLUMNS}


def heights(pieces: list[ElementTree.Element]) -> list[float]:
    return [float(piece.attrib["height"]) for piece in pieces]


def test_heights_are_records_and_rows() -> None:
    drawn = nodes(flow(manifest_of([600, 300, 100], passed=100, rejected=200, samples=280)))
    assert heights(drawn["8"]) == pytest.approx([78, 39, 13], abs=0.1)
    assert heights(drawn["98"]) == heights(drawn["184"]) == pytest.approx([91, 13, 26], abs=0.1)
    assert heights(drawn["312"]) == heights(drawn["384"]) == pytest.approx([18.2, 13], abs=0.1)
    assert [piece.attrib["class"] for piece in drawn["184"]] == ["c1", "c2", "c3"]


def test_numbers_stand_beside_them_and_in_words() -> None:
    svg = flow(manifest_of([12_000, 400], passed=0, rejected=400, samples=5_000))
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert texts == [
        "2",
        "files",
        "12.4k",
        "records",
        "5,000",
        "samples",
        "1M",
        "tokens",
        "composed 12k",
        "rejected 400",
    ]
    assert ElementTree.fromstring(svg).attrib["aria-label"] == (
        "2 files hold 12,400 records: 12,000 composed into samples; 0 passed through whole; 400 rejected. They became "
        "5,000 samples of 1,000,000 tokens in 2 epochs"
    )


def test_many_files_are_the_largest_and_the_rest_together() -> None:
    drawn = nodes(flow(manifest_of([1] * 1000 + [1000], passed=0, rejected=0, samples=10)))
    assert heights(drawn["8"])[0] == pytest.approx(65, abs=0.1)
    assert len(drawn["8"]) == 9
    assert heights(drawn["8"])[-1] == pytest.approx(65, abs=1)


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=30).filter(any),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(1, 100),
)
def test_all_of_it_is_on_the_picture(files: list[int], passed: int, rejected: int, samples: int) -> None:
    records = sum(files)
    cut = records * passed // 200, records * rejected // 200
    made = -(-(records - sum(cut)) * samples // 100)
    shown = manifest_of(files, passed=cut[0], rejected=cut[1], samples=2 * made)
    svg = ElementTree.fromstring(flow(shown))
    for piece in svg.iter("rect"):
        top, height = float(piece.attrib["y"]), float(piece.attrib["height"])
        assert 50 <= top < top + height <= 212
        assert height >= 2
    for text in svg.iter("text"):
        assert 0 < float(text.attrib["y"]) <= 216
    names = [str(text.text) for text in svg.iter("text")]
    assert ("passed" in " ".join(names)) == (cut[0] > 0)
    lines = [float(text.attrib["y"]) for text in svg.iter("text")][8:]
    assert all(below - above >= 15 for above, below in pairwise(lines))
