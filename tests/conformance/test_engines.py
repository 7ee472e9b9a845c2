"""What every engine owes its caller, whoever carries out the work."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from mosaic_ray.errors import InputError, StalledError, StorageError, TaskError, TokenizerError
from mosaic_ray.pulse import beat
from mosaic_ray.runtime import engine as engines
from mosaic_ray.runtime.engine import Engine, Failure, InProcessEngine
from mosaic_ray.runtime.ray_engine import RayEngine
from mosaic_ray.runtime.watch import resident_bytes

pytestmark = pytest.mark.timeout(120)

MOST = 2
STALL_SECONDS = 3.0
ROOM = 256 << 20
"""Bytes that the work of an item may add before it is too much."""


@pytest.fixture(scope="module", params=["in_process", "ray"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "in_process":
        limit = (resident_bytes() or 0) + ROOM
        with InProcessEngine(stall_seconds=STALL_SECONDS, worker_memory=limit) as local:
            yield local
        return
    folder = tempfile.mkdtemp(prefix="mr", dir="/tmp")  # Ray's socket paths must be short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        with RayEngine(max_workers=MOST, stall_seconds=STALL_SECONDS, worker_memory=ROOM + (512 << 20)) as cluster:
            yield cluster
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "PAUSE_SECONDS", 0.02)


def describe(item: object) -> str:
    return f"task <{item}>"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "mosaic_ray"]


class Square:
    def __call__(self, item: int) -> int:
        return item * item


class Diary:
    """Tells of the worker it lives in: (process, times prepared, items so far)."""

    def __init__(self) -> None:
        self.prepared = 0
        self.served = 0

    def prepare(self) -> None:
        self.prepared += 1

    def __call__(self, _: int) -> tuple[int, int, int]:
        time.sleep(0.01)
        self.served += 1
        return os.getpid(), self.prepared, self.served


class StubbornError(Exception):
    """Cannot be pickled, and could not be made again from its arguments."""

    def __init__(self, *, left: int, right: int) -> None:
        super().__init__(f"left {left} is not right {right}")
        self.lock = threading.Lock()


class PanicError(BaseException):
    """What a library written in another language raises when it gives up."""


class Fails:
    """Item 3 fails in one way after the other, then no more. Each try is noted with its process, as a file."""

    def __init__(self, folder: Path, *ways: str) -> None:
        self.folder = folder
        self.ways = ways

    def __call__(self, item: int) -> int:
        if item == 3:
            tried = len(self.tries())
            (self.folder / f"{tried}-{os.getpid()}").touch()
            if tried < len(self.ways):
                self.fail_on_purpose(self.ways[tried])
        return item

    def tries(self) -> list[str]:
        """The process of each try."""
        return [path.name.partition("-")[2] for path in sorted(self.folder.glob("?-*"))]

    def fail_on_purpose(self, way: str) -> None:
        if way == "input":
            raise InputError("data/a.jsonl is damaged at line 7")
        if way == "value":
            raise ValueError("seventeen is too many")
        if way == "stubborn":
            raise StubbornError(left=1, right=2)
        if way == "store":
            error = StorageError("s3://lake/part does not answer")
            error.passing = True
            raise error
        if way == "hang":
            os.mkfifo(self.folder / "fifo")
            (self.folder / "fifo").read_bytes()
        if way == "memory":
            hoard = []
            while True:  # full of steps, and ever more memory, up to a limit that is well beyond
                beat()
                time.sleep(0.01)
                if len(hoard) < 4 * ROOM >> 24:
                    hoard.append(b"x" * (16 << 20))
        raise PanicError("out of cheese")


class FailsToPrepare(Square):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def prepare(self) -> None:
        raise self.error


def test_a_lack_of_memory_behind_another_error_is_seen() -> None:
    error = InputError("data/a.jsonl cannot be read")
    error.__cause__ = MemoryError("malloc of size 17 failed")
    failure = Failure.of(error)
    assert failure.passing
    assert str(failure.error("task 1")).startswith("task 1 ran out of memory (malloc of size 17 failed): give workers")


class TestEngine:
    @pytest.mark.parametrize("count", [0, 1, 200])
    def test_every_item_comes_back_once_with_its_result(self, engine: Engine, count: int) -> None:
        results = list(engine.map(Square(), range(count), describe=describe))
        assert sorted(results) == [(n, n * n) for n in range(count)]

    def test_items_are_taken_as_they_are_needed(self, engine: Engine) -> None:
        taken: list[int] = []

        def endless() -> Iterator[int]:
            for number in itertools.count():
                taken.append(number)
                yield number

        results = engine.map(Square(), endless(), describe=describe)
        first = list(itertools.islice(results, 50))
        assert len({item for item, _ in first}) == 50
        assert len(taken) <= 50 + 2 * MOST
        results.close()  # type: ignore[attr-defined]
        assert sorted(engine.map(Square(), [5, 6], describe=describe)) == [(5, 25), (6, 36)]

    def test_a_worker_is_prepared_once_and_keeps_its_state(self, engine: Engine) -> None:
        served = defaultdict(list)
        for _, (process, prepared, count) in engine.map(Diary(), range(60), describe=describe):
            assert prepared == 1
            served[process].append(count)
        assert sum(len(counts) for counts in served.values()) == 60
        assert all(sorted(counts) == list(range(1, len(counts) + 1)) for counts in served.values())

    def test_workers_stay_from_one_map_to_the_next(self, engine: Engine) -> None:
        first = {process for _, (process, *_) in engine.map(Diary(), range(100), describe=describe)}
        second = {process for _, (process, *_) in engine.map(Diary(), range(100), describe=describe)}
        assert first & second  # one that was not ready in time is ended with the first map

    def test_workers_are_counted(self, engine: Engine) -> None:
        for _ in engine.map(Diary(), range(20), describe=describe):
            busy, alive, pending = engine.workers
            assert 0 <= busy <= alive <= alive + pending <= MOST
            assert alive >= 1

    def test_a_deliberate_error_comes_through_at_once_and_as_it_is(self, engine: Engine, tmp_path: Path) -> None:
        work = Fails(tmp_path, "input")
        with pytest.raises(InputError, match=r"^data/a.jsonl is damaged at line 7$") as caught:
            list(engine.map(work, range(9), describe=describe))
        assert caught.value.exit_code == 3
        assert "fail_on_purpose" in "".join(traceback.format_exception(caught.value))
        assert len(work.tries()) == 1

    def test_any_other_error_is_tried_again_and_names_the_task(
        self, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        work = Fails(tmp_path, "value", "stubborn", "panic")
        with pytest.raises(TaskError) as caught:
            list(engine.map(work, range(9), describe=describe))
        assert str(caught.value).startswith("task <3> was tried 3 times and failed: ")
        assert "PanicError: out of cheese" in str(caught.value)
        assert "fail_on_purpose" in "".join(traceback.format_exception(caught.value))
        assert len(work.tries()) == 3
        first, second = (line for line in told(caplog) if line.startswith("task <3>"))
        assert first == "task <3> failed and is tried again (1 of 3 tries): ValueError: seventeen is too many"
        assert "(2 of 3 tries)" in second
        assert "StubbornError: left 1 is not right 2" in second

    def test_what_hangs_once_costs_nothing(
        self, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        work = Fails(tmp_path, "hang")
        assert sorted(engine.map(work, range(9), describe=describe)) == [(n, n) for n in range(9)]
        first, second = work.tries()
        assert (first == second) is isinstance(engine, InProcessEngine), "by another worker, where there is one"
        (message,) = told(caplog)
        assert message.startswith("task <3> failed and is tried again (1 of 3 tries): ")
        assert "StalledError: made no step for" in message

    def test_an_error_that_may_pass_keeps_its_class(self, engine: Engine, tmp_path: Path) -> None:
        with pytest.raises(StalledError, match=r"^task <3> was tried 3 times: made no step for [\d.]+ s") as caught:
            list(engine.map(Fails(tmp_path, "store", "value", "hang"), range(9), describe=describe))
        assert caught.value.exit_code == 7
        assert caught.value.passing

    def test_a_lack_of_memory_is_named_with_its_remedy(
        self, engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        words = r"^task <3> was tried 3 times and ran out of memory \(worker at \d\.\d\d GiB of \d\.\d\d GiB\): give"
        with pytest.raises(TaskError, match=words) as caught:
            list(engine.map(Fails(tmp_path, "store", "memory", "memory"), range(9), describe=describe))
        assert "--worker-memory" in str(caught.value)
        assert "--task-records" in str(caught.value)
        assert caught.value.__cause__ is None, "a traceback would say nothing"
        assert "StorageError: s3://lake/part does not answer" in told(caplog)[0]

    def test_an_error_of_the_preparation_comes_through(self, engine: Engine) -> None:
        with pytest.raises(TokenizerError, match=r"^no such tokenizer$"):
            list(engine.map(FailsToPrepare(TokenizerError("no such tokenizer")), [1], describe=describe))
        with pytest.raises(TaskError, match=r"preparing a worker was tried [34] times and failed: OSError: no disk"):
            list(engine.map(FailsToPrepare(OSError("no disk")), [1], describe=describe))

    def test_an_error_of_the_items_comes_through(self, engine: Engine) -> None:
        def broken() -> Iterator[int]:
            yield 1
            raise LookupError("the list ends here")

        with pytest.raises(LookupError, match="the list ends here"):
            list(engine.map(Square(), broken(), describe=describe))
        assert list(engine.map(Square(), [4], describe=describe)) == [(4, 16)]
