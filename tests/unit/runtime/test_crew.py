"""What an item may go through before it ends the run."""

from __future__ import annotations

import time

import pytest

from mosaic_ray.errors import TaskError
from mosaic_ray.runtime.crew import LOSSES, NODE_LOSSES, Berth, Crew, Errand, Seat


def lost(*nodes: str | None) -> Errand[int]:
    errand = Errand(17)
    for node in nodes:
        errand.lose(node, "Most likely it ran out of memory")
    return errand


class TestErrand:
    def test_one_worker_too_many_ends_the_run(self) -> None:
        lost(*["a"] * LOSSES).judge("task 17", lambda: {"a"})
        with pytest.raises(TaskError, match=r"^task 17 lost its worker 6 times \(the limit is 5\).*ran out of memory$"):
            lost(*["a", "b"] * 3).judge("task 17", lambda: {"a", "b"})

    def test_what_is_known_later_of_a_node_counts_for_earlier_losses(self) -> None:
        errand = lost(*["a"] * LOSSES, "b")
        errand.judge("task 17", lambda: {"a"})
        errand.judge("task 17", lambda: {"b"})
        with pytest.raises(TaskError):
            errand.judge("task 17", lambda: {"a", "b"})

    def test_nodes_that_left_have_a_limit_of_their_own(self) -> None:
        lost(*[None] * NODE_LOSSES).judge("task 17", set)
        with pytest.raises(TaskError, match=r"lost its worker 0 times .* its node 21 times \(the limit is 20\)"):
            lost(*[None] * NODE_LOSSES, "a").judge("task 17", set)

    def test_the_verdict_waits_for_what_is_not_known_yet(self) -> None:
        assert lost(*["a"] * LOSSES).due == 0
        assert lost(*["a"] * LOSSES, "a").due > time.monotonic() + 10


class TestCrew:
    def test_an_item_goes_rather_where_it_did_not_go_wrong(self) -> None:
        crew = Crew(least=1, berth=Berth(1, None))
        crew.idle = [Seat(None, node="a"), Seat(None, node="b"), Seat(None, node="b")]
        errand = Errand(17)
        errand.suspects.add("b")
        assert [crew.take(errand).node for _ in range(3)] == ["a", "b", "b"]
        assert crew.idle == []

    def test_what_a_worker_reserves_reads_well(self) -> None:
        assert str(Berth(0.5, None)) == "0.5 CPU"
        assert str(Berth(2, 3 << 29)) == "2 CPU and 1.50 GiB"
