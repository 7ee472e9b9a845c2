"""A driver notices the death of the Ray it depends on."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mosaic_ray.errors import TaskError
from mosaic_ray.runtime import joining
from mosaic_ray.runtime.joining import Lifeline, refused


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_LOOK_SECONDS", 0.01)
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "0.8")


@pytest.fixture
def head() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def raylet(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "raylet"))
        server.listen()
        yield server


@pytest.fixture
def lifeline(raylet: socket.socket, head: socket.socket) -> Lifeline:
    return Lifeline(raylet.getsockname(), f"127.0.0.1:{head.getsockname()[1]}")


def look(lifeline: Lifeline, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)
        lifeline.check()


class TestLifeline:
    def test_while_both_live_it_says_nothing(self, lifeline: Lifeline, caplog: pytest.LogCaptureFixture) -> None:
        look(lifeline, seconds=0.5)
        assert not lifeline.lost
        assert not caplog.records

    def test_a_dead_raylet_ends_the_run(self, lifeline: Lifeline, raylet: socket.socket) -> None:
        path = raylet.getsockname()
        raylet.close()
        with pytest.raises(
            TaskError, match=f"node of this run's driver has died: nothing listens at {path}. .* goes on"
        ):
            look(lifeline, seconds=5)
        assert lifeline.lost

    def test_a_name_that_was_tidied_away_says_nothing(self, lifeline: Lifeline, raylet: socket.socket) -> None:
        Path(raylet.getsockname()).unlink()
        look(lifeline, seconds=0.2)

    def test_a_head_that_comes_back_costs_a_word(
        self, lifeline: Lifeline, head: socket.socket, caplog: pytest.LogCaptureFixture
    ) -> None:
        address = head.getsockname()
        head.close()
        look(lifeline, seconds=0.2)
        with socket.create_server(address):
            look(lifeline, seconds=0.5)
        look(lifeline, seconds=0.2)
        for record in caplog.records:
            assert record.levelno == logging.WARNING
            assert f"the head of the Ray cluster at 127.0.0.1:{address[1]} does not answer" in record.getMessage()
        assert len(caplog.records) == 2, "one each time"

    def test_a_head_that_stays_away_ends_the_run_before_ray_does(self, lifeline: Lifeline, head: socket.socket) -> None:
        head.close()
        began = time.monotonic()
        with pytest.raises(TaskError, match=r"has not answered for \d s: .*refused.* the same command"):
            look(lifeline, seconds=5)
        assert 0.5 < time.monotonic() - began < 3


def test_another_version_of_ray_is_said_as_such() -> None:
    told = str(refused("h:1", RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.50.1\n")))
    assert "h:1: Version mismatch: The cluster was started with: Ray: 2.50.1. Use the same versions" in told
    assert "token" not in told
