"""Engines: who carries out a list of tasks.

A task is plain Python (:class:`Work` called with an item). An engine decides only where and when it runs, never what
comes out of it: results arrive in any order, each exactly once. Work is watched (:mod:`mosaic_ray.runtime.watch`), and
what fails in a way that may pass is done again, :data:`TRIES` times in all.
"""

from __future__ import annotations

import logging
import pickle
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, NoReturn, Protocol, Self, TypeVar

from mosaic_ray.errors import Interrupted, MosaicError, TaskError
from mosaic_ray.logs import fields
from mosaic_ray.pulse import STALL_SECONDS
from mosaic_ray.runtime.metrics import Reading
from mosaic_ray.runtime.watch import resident_bytes, size, watched

T = TypeVar("T")
Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

PASSED_ON: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, Interrupted)
"""What stops a process. It is never taken for a failure of the item at hand."""

TRIES: Final = 3
"""How often an item is worked on that fails in a way that may pass: anything but a deliberate error of this package.
The loss of a worker or of its node is no such failure and is counted apart."""

PAUSE_SECONDS: Final = 1.0
"""The pause before the second try of an item; it doubles with every try, four times at most."""

LONGEST_REASON: Final = 800
"""Characters of a foreign error's text that a message repeats."""

MORE_MEMORY: Final = (
    "give workers more memory (--worker-memory), run fewer workers a node, or fewer records a task (--task-records, "
    "with a new --output)"
)
"""The remedy in error messages."""

PREPARING: Final = "preparing a worker"
"""What failed, in error messages, when it was the work's ``prepare``."""

_log = logging.getLogger("mosaic_ray")


class Work(Protocol[Item_contra, Result_co]):
    """What is done with an item: a callable that can be pickled.

    One instance serves many items, one after the other, in the process that holds it, so it may keep what was costly
    to load. If it has a method ``prepare() -> None``, a worker calls that once before its first item.
    """

    def __call__(self, item: Item_contra, /) -> Result_co: ...


class Workers(NamedTuple):
    """How many workers there are at this moment.

    busy: with an item in hand.
    alive: ready for items, the busy ones among them.
    pending: asked for, and not ready yet: no place in the cluster so far, or still preparing.
    """

    busy: int
    alive: int
    pending: int

    def __str__(self) -> str:
        return f"{self.busy} busy of {self.alive}" + (f", {self.pending} pending" if self.pending else "")


class Node(NamedTuple):
    """A machine of a cluster, and what it has and has free for workers: CPUs, and bytes of memory."""

    name: str
    cpus: float
    memory: int
    free_cpus: float
    free_memory: int


class Engine(Protocol):
    """A context manager that carries out work. Its workers stay for all maps made in one ``with`` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    @property
    def workers(self) -> Workers: ...

    def map(
        self, work: Work[Item, Result], items: Iterable[Item], *, describe: Callable[[Item], str]
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, in any order, each exactly once; one map at a time.

        Items are taken only as workers need them, so that ``items`` may be a generator without an end. An item may be
        worked on more than once, even by two workers at a time, where a worker or its node is lost or an item failed.

        describe: names an item in error messages, such as ``task 17 (part-00017)``.

        Raises what the work raised if it is a :class:`MosaicError`, and a :class:`TaskError` for any other exception
        of it, after :data:`TRIES` tries where it may pass. The error's ``__cause__`` shows the worker's traceback.
        Closing the iterator drops what is in hand.
        """
        ...

    def record(self, readings: Iterable[Reading]) -> None:
        """Hand figures to the monitoring of the cluster; without a cluster there is none, and nothing is done.

        It waits for nobody, and any thread may call it. The last figures are handed over when the engine ends.
        """
        ...


def task_of(item: object) -> int | None:
    """The number of the task that an item is; None for any other item."""
    index = getattr(item, "index", None)
    return index if isinstance(index, int) else None


class WorkerTraceback(Exception):
    """The traceback of an exception that was raised in a worker, as text: the ``__cause__`` of what a map raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An exception as a value that any process can read, whatever the exception itself is made of.

    summary: its class and message.
    own: the pickled class, arguments and attributes of a :class:`MosaicError`; None for any other exception, and for
        one that cannot be pickled.
    passing: whether another try may end otherwise: not after a MosaicError, unless it says so itself.
    memory: what is known of the memory where that ran out, else None.
    task: of the exception, where it was raised by one (:func:`mosaic_ray.logs.on_task`).
    """

    summary: str
    trace: str
    own: bytes | None
    passing: bool
    memory: str | None
    task: int | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        own, memory = None, _memory_of(error)
        if isinstance(error, MosaicError) and memory is None:
            try:
                own = pickle.dumps((type(error), error.args, error.__dict__))
            except Exception:
                own = None
        return cls(
            summary="".join(traceback.format_exception_only(error)).strip(),
            trace="".join(traceback.format_exception(error)).strip(),
            own=own,
            passing=memory is not None or not isinstance(error, MosaicError) or error.passing,
            memory=memory,
            task=vars(error).get("task"),
        )

    def error(self, what: str, *, tries: int = 1) -> MosaicError:
        """The error to raise for it: the MosaicError that it was, else a TaskError that names ``what`` failed.

        tries: how many failed; from two on the message says so.
        """
        tried = f"was tried {tries} times" if tries > 1 else ""
        also = f"{tried} and " if tried else ""
        if self.memory is not None:
            return TaskError(f"{what} {also}ran out of memory ({self.memory}): {MORE_MEMORY}")
        if self.own is not None:
            try:
                kind, arguments, attributes = pickle.loads(self.own)
                error: MosaicError = kind.__new__(kind, *arguments)  # a constructor may take other arguments
                error.__dict__.update(attributes)
                if tried:
                    error.args = (f"{what} {tried}: {error}",)
                return error
            except Exception:
                pass
        return TaskError(f"{what} {also}failed: {self.summary} (the log holds the traceback)")

    def fail(self, what: str, *, tries: int = 1) -> NoReturn:
        """Raise the error, caused by the traceback. That of an exhausted memory is left out, for it says nothing."""
        error = self.error(what, tries=tries)
        error.task = self.task
        raise error from (None if self.memory is not None else WorkerTraceback(self.trace))

    def tell(self, what: str, *, tries: int, limit: int) -> None:
        """Log that it is tried again."""
        reason, about = short(self.summary), fields(task=self.task)
        _log.warning("%s failed and is tried again (%d of %d tries): %s", what, tries, limit, reason, extra=about)


def _memory_of(error: BaseException | None) -> str | None:
    """What is known of the memory where this error was caused by a lack of it."""
    while error is not None:
        if isinstance(error, MemoryError):
            resident = resident_bytes()
            return short(str(error)) or (f"worker at {size(resident)}" if resident is not None else "worker")
        error = error.__cause__
    return None


def short(text: str) -> str:
    """A foreign text as one line; the cause stands in front, or where a worker raised an error, at the end."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 300]} ... {line[-300:]}"


def pause(tries: int) -> float:
    """Seconds to wait after so many failed tries."""
    return PAUSE_SECONDS * float(2 ** min(tries - 1, 4))


def prepare(work: object) -> None:
    """Call the work's ``prepare`` if it has one."""
    prepare = getattr(work, "prepare", None)
    if prepare is not None:
        prepare()


class InProcessEngine:
    """Runs everything in this process, item by item, in the order given.

    stall_seconds: how long an item may go without a step.
    worker_memory: bytes that this process may use; None for no limit.
    """

    def __init__(self, *, stall_seconds: float = STALL_SECONDS, worker_memory: int | None = None) -> None:
        self._limits: dict[str, Any] = {"stall_seconds": stall_seconds, "memory_bytes": worker_memory}
        self._busy = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        return None

    @property
    def workers(self) -> Workers:
        return Workers(busy=self._busy, alive=1, pending=0)

    def map(
        self, work: Work[Item, Result], items: Iterable[Item], *, describe: Callable[[Item], str]
    ) -> Iterator[tuple[Item, Result]]:
        """See :meth:`Engine.map`."""
        prepared = False
        for item in items:
            if not prepared:
                self._tried(partial(prepare, work), lambda: PREPARING)
                prepared = True
            self._busy = 1
            try:
                result = self._tried(partial(work, item), partial(describe, item))
            finally:
                self._busy = 0
            yield item, result

    def record(self, readings: Iterable[Reading]) -> None:
        """See :meth:`Engine.record`."""

    def _tried(self, work: Callable[[], T], what: Callable[[], str]) -> T:
        tries = 0
        while True:
            tries += 1
            try:
                return watched(work, **self._limits)
            except PASSED_ON:
                raise
            except BaseException as error:
                failure = Failure.of(error)
                if not failure.passing:
                    raise
            # Only here: the exception is gone, and with it what its frames kept in memory.
            if tries == TRIES:
                failure.fail(what(), tries=tries)
            failure.tell(what(), tries=tries, limit=TRIES)
            time.sleep(pause(tries))
