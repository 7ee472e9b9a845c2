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

import pytest

from mosaic_ray.errors import InputError, MosaicError, TaskError, TokenizerError
from mosaic_ray.runtime.engine import Engine, InProcessEngine
from mosaic_ray.runtime.ray_engine import RayEngine

pytestmark = pytest.mark.timeout(120)

MOST = 2


@pytest.fixture(scope="module", params=["in_process", "ray"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "in_process":
        with InProcessEngine() as local:
            yield local
        return
    folder = tempfile.mkdtemp(prefix="mr", dir="/tmp")  # Ray's socket paths must be short
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        with RayEngine(max_workers=MOST) as cluster:
            yield cluster
    shutil.rmtree(folder, ignore_errors=True)


def describe(item: object) -> str:
    return f"task <{item}>"


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
    def __init__(self, error: str) -> None:
        self.error = error

    def __call__(self, item: int) -> int:
        if item == 3:
            self.fail_on_purpose()
        return item

    def fail_on_purpose(self) -> None:
        if self.error == "input":
            raise InputError("data/a.jsonl is damaged at line 7")
        if self.error == "value":
            raise ValueError("seventeen is too many")
        if self.error == "stubborn":
            raise StubbornError(left=1, right=2)
        raise PanicError("out of cheese")


class FailsToPrepare(Square):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def prepare(self) -> None:
        raise self.error


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
        assert second <= first

    def test_workers_are_counted(self, engine: Engine) -> None:
        for _ in engine.map(Diary(), range(20), describe=describe):
            busy, alive, pending = engine.workers
            assert 0 <= busy <= alive <= alive + pending <= MOST
            assert alive >= 1

    @pytest.mark.parametrize(
        ("error", "kind", "message", "exit_code"),
        [
            ("input", InputError, "data/a.jsonl is damaged at line 7", 3),
        ],
    )
    def test_an_error_of_the_package_comes_through_as_it_is(
        self, engine: Engine, error: str, kind: type[MosaicError], message: str, exit_code: int
    ) -> None:
        with pytest.raises(MosaicError) as caught:
            list(engine.map(Fails(error), range(9), describe=describe))
        assert type(caught.value) is kind
        assert str(caught.value) == message
        assert caught.value.exit_code == exit_code
        assert "fail_on_purpose" in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize(
        ("error", "words"),
        [
            ("value", "ValueError: seventeen is too many"),
            ("stubborn", "StubbornError: left 1 is not right 2"),
            ("panic", "PanicError: out of cheese"),
        ],
    )
    def test_any_other_error_names_the_task(self, engine: Engine, error: str, words: str) -> None:
        with pytest.raises(TaskError) as caught:
            list(engine.map(Fails(error), range(9), describe=describe))
        assert "task <3>" in str(caught.value)
        assert words in str(caught.value)
        assert "fail_on_purpose" in "".join(traceback.format_exception(caught.value))

    def test_an_error_of_the_preparation_comes_through(self, engine: Engine) -> None:
        with pytest.raises(TokenizerError, match=r"^no such tokenizer$"):
            list(engine.map(FailsToPrepare(TokenizerError("no such tokenizer")), [1], describe=describe))
        with pytest.raises(TaskError, match="preparing a worker failed: OSError: no disk"):
            list(engine.map(FailsToPrepare(OSError("no disk")), [1], describe=describe))

    def test_an_error_of_the_items_comes_through(self, engine: Engine) -> None:
        def broken() -> Iterator[int]:
            yield 1
            raise LookupError("the list ends here")

        with pytest.raises(LookupError, match="the list ends here"):
            list(engine.map(Square(), broken(), describe=describe))
        assert list(engine.map(Square(), [4], describe=describe)) == [(4, 16)]
