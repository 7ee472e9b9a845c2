"""Work that hangs, or that takes too much memory, is told so where it stands."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from pydantic import ValidationError

from mosaic_ray.config import Execution
from mosaic_ray.errors import StalledError, TaskError
from mosaic_ray.pulse import STALL_SECONDS, beat, beats
from mosaic_ray.runtime.watch import resident_bytes, watched

T = TypeVar("T")

pytestmark = pytest.mark.timeout(60)


def watch(work: Callable[[], T], *, stall_seconds: float = 30, memory_bytes: int | None = None) -> T:
    return watched(work, stall_seconds=stall_seconds, memory_bytes=memory_bytes)


def fifo(folder: Path) -> None:
    """Nobody writes into it, so that opening it waits."""
    os.mkfifo(folder / "fifo")
    (folder / "fifo").read_bytes()


def silent_server(_: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.recv(1)


def lock(_: Path) -> None:
    held = threading.Lock()
    held.acquire()
    held.acquire()


def loop(_: Path) -> None:
    while True:
        pass


def stubborn_library(folder: Path) -> None:
    try:
        fifo(folder)
    except Exception as error:
        raise OSError("the read failed") from error


class TestStall:
    @pytest.mark.parametrize("hang", [fifo, silent_server, lock, loop, stubborn_library])
    def test_it_is_raised_out_of_the_call_that_hangs(self, hang: Callable[[Path], None], tmp_path: Path) -> None:
        began = time.monotonic()
        with pytest.raises(
            StalledError, match=r"^made no step for [\d.]+ s \(the limit is --stall-timeout\)$"
        ) as caught:
            watch(lambda: hang(tmp_path), stall_seconds=0.3)
        assert time.monotonic() - began < 5
        assert isinstance(caught.value, TaskError)
        assert caught.value.passing
        assert hang.__name__ in [entry.name for entry in caught.traceback]

    def test_steps_keep_slow_work_alive(self) -> None:
        def work() -> str:
            for _ in range(10):
                time.sleep(0.1)
                beat()
            return "done"

        before = beats()
        assert watch(work, stall_seconds=0.4) == "done"
        assert beats() == before + 10

    def test_steps_of_other_threads_count(self) -> None:
        over = threading.Event()

        def work() -> None:
            while not over.wait(0.05):
                beat()

        thread = threading.Thread(target=work)
        thread.start()
        watch(lambda: time.sleep(1), stall_seconds=0.3)
        over.set()
        thread.join()

    def test_its_cleaning_up_is_not_interrupted(self) -> None:
        cleaned = []

        def work() -> None:
            try:
                time.sleep(20)
            finally:
                time.sleep(1)
                cleaned.append(True)

        with pytest.raises(StalledError):
            watch(work, stall_seconds=0.2)
        assert cleaned

    def test_what_hangs_again_while_cleaning_up_is_told_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mosaic_ray.runtime.watch.GRACE_SECONDS", 0.3)

        def work() -> None:
            try:
                time.sleep(20)
            finally:
                time.sleep(20)

        began = time.monotonic()
        with pytest.raises(StalledError):
            watch(work, stall_seconds=0.2)
        assert time.monotonic() - began < 10

    @pytest.mark.parametrize("may_end", [True, False])
    def test_native_code_that_never_returns_is_written_down_and_ended_only_if_it_may(self, may_end: bool) -> None:
        text = "a" * (60 if may_end else 24) + "b"  # minutes, or a second or three, in one call
        script = f"""
        import re
        from contextlib import suppress
        from mosaic_ray.errors import StalledError
        from mosaic_ray.runtime.watch import watched
        def work():
            re.match(r"(a+)+$", {text!r})
        with suppress(StalledError):
            watched(work, stall_seconds=0.2, memory_bytes=None, ends_process={may_end})
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
        assert done.returncode == int(may_end)
        assert "Timeout (0:00:00.400000)!" in done.stderr
        assert 'File "<string>", line 7 in work' in done.stderr


class TestMemory:
    def test_too_much_is_told_with_both_numbers(self) -> None:
        def work() -> None:
            hoard = [os.urandom(1) * (1 << 20) for _ in range(128)]
            time.sleep(20)
            hoard.clear()

        with pytest.raises(MemoryError, match=r"^worker at \d+\.\d\d GiB of \d+\.\d\d GiB$"):
            watch(work, memory_bytes=(resident_bytes() or 0) + (64 << 20))

    def test_less_is_fine(self) -> None:
        watch(lambda: time.sleep(0.5), stall_seconds=1, memory_bytes=(resident_bytes() or 0) + (512 << 20))

    def test_resident_memory_is_that_of_the_system(self) -> None:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found is not None
        assert abs((resident_bytes() or 0) - int(found[1]) * 1024) < 16 << 20


@contextmanager
def alarms() -> Iterator[list[float]]:
    """The program around has an alarm of its own."""
    heard: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(time.monotonic()))
    remaining, _ = signal.getitimer(signal.ITIMER_REAL)
    try:
        yield heard
    finally:
        signal.setitimer(signal.ITIMER_REAL, remaining)  # pytest-timeout's
        signal.signal(signal.SIGALRM, before)


class TestGoodNeighbour:
    def test_handler_and_threads_are_as_before(self) -> None:
        before, threads = signal.getsignal(signal.SIGALRM), threading.active_count()
        for _ in range(200):
            assert watch(lambda: 5, stall_seconds=0.2) == 5
        assert signal.getsignal(signal.SIGALRM) is before
        assert threading.active_count() == threads

    def test_an_alarm_of_the_program_around_it_still_rings(self) -> None:
        with alarms() as heard:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            watch(lambda: time.sleep(0.6))
            assert len(heard) == 1

    def test_errors_and_signals_of_the_work_pass_through(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            watch(lambda: signal.raise_signal(signal.SIGINT))

    def test_outside_the_main_thread_it_does_nothing(self) -> None:
        done = []
        thread = threading.Thread(
            target=lambda: done.append(watch(lambda: time.sleep(0.5), stall_seconds=0.1, memory_bytes=1))
        )
        thread.start()
        thread.join()
        assert done == [None]


class TestSettings:
    """The limits as the command line takes them."""

    def test_the_default_is_the_same(self) -> None:
        assert Execution().stall_timeout == STALL_SECONDS
        assert Execution().worker_memory is None

    @pytest.mark.parametrize(
        ("text", "count"),
        [("4GiB", 4 << 30), ("500MB", 500_000_000), (" 1.5 GiB ", 3 << 29), ("1000000000", 10**9), (10**9, 10**9)],
    )
    def test_memory_is_a_size(self, text: object, count: int) -> None:
        assert Execution(worker_memory=text).worker_memory == count  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("4G", "not a size, as in 4GiB, 500MB or a number of bytes"),
            ("-4GiB", "not a size"),
            ("nan", "not a size"),
            ("9" * 400 + "GiB", "not a size"),
            ("12", "between 64MiB and 256TiB"),
            ("999TiB", "between 64MiB and 256TiB"),
            (0, "between 64MiB and 256TiB"),
            (True, "valid integer"),
            (4.5e9, "valid integer"),
        ],
    )
    def test_what_is_no_size_is_refused(self, text: object, words: str) -> None:
        with pytest.raises(ValidationError, match=words):
            Execution(worker_memory=text)  # type: ignore[arg-type]

    @pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e9])
    def test_a_stall_has_a_limit(self, seconds: float) -> None:
        with pytest.raises(ValidationError):
            Execution(stall_timeout=seconds)
