"""Engines: who carries out a list of tasks.

A task is plain Python (:class:`Work` called with an item). An engine decides only where and when it runs, never what
comes out of it: results arrive in any order, each exactly once.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self, TypeVar

from mosaic_ray.errors import Interrupted, MosaicError, TaskError

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

PASSED_ON: Final = (KeyboardInterrupt, SystemExit, GeneratorExit, Interrupted)
"""What stops a process. It is never taken for a failure of the item at hand."""

PREPARING: Final = "preparing a worker"
"""What failed, in error messages, when it was the work's ``prepare``."""


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
        worked on more than once, even by two workers at a time, where a worker or its node is lost.

        describe: names an item in error messages, such as ``task 17 (part-00017)``.

        Raises what the work raised if it is a :class:`MosaicError`, and a :class:`TaskError` for any other exception
        of it. The error's ``__cause__`` shows the worker's traceback. Closing the iterator drops what is in hand.
        """
        ...


class WorkerTraceback(Exception):
    """The traceback of an exception that was raised in a worker, as text: the ``__cause__`` of what a map raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An exception as a value that any process can read, whatever the exception itself is made of.

    summary: its class and message.
    own: the pickled class, arguments and attributes of a :class:`MosaicError`; None for any other exception, and for
        one that cannot be pickled.
    """

    summary: str
    trace: str
    own: bytes | None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        own = None
        if isinstance(error, MosaicError):
            try:
                own = pickle.dumps((type(error), error.args, error.__dict__))
            except Exception:
                own = None
        summary = "".join(traceback.format_exception_only(error)).strip()
        return cls(summary=summary, trace="".join(traceback.format_exception(error)).strip(), own=own)

    def error(self, what: str) -> MosaicError:
        """The error to raise for it: the MosaicError that it was, else a TaskError that names ``what`` failed."""
        if self.own is not None:
            try:
                kind, arguments, attributes = pickle.loads(self.own)
                error: MosaicError = kind.__new__(kind, *arguments)  # a constructor may take other arguments
                error.__dict__.update(attributes)
                return error
            except Exception:
                pass
        return TaskError(f"{what} failed: {self.summary} (the log holds the traceback)")


def prepare(work: object) -> None:
    """Call the work's ``prepare`` if it has one."""
    prepare = getattr(work, "prepare", None)
    if prepare is not None:
        prepare()


class InProcessEngine:
    """Runs everything in this process, item by item, in the order given."""

    def __init__(self) -> None:
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
                with _failing_as(lambda: PREPARING):
                    prepare(work)
                prepared = True
            self._busy = 1
            try:
                with _failing_as(partial(describe, item)):
                    result = work(item)
            finally:
                self._busy = 0
            yield item, result


@contextmanager
def _failing_as(what: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except (MosaicError, *PASSED_ON):
        raise
    except BaseException as error:
        raise Failure.of(error).error(what()) from error
