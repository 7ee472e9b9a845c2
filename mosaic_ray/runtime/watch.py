"""A watch over one piece of work: that it makes steps (:mod:`mosaic_ray.pulse`), and that it keeps to its memory.

The work runs in the main thread. Another thread looks on, and what it objects to is raised out of the work, also out
of a call that blocks, by a signal sent to the main thread alone: a timer's signal could interrupt any thread of any
library, every second. Native code that never returns to Python is out of reach of signals; faulthandler, which needs
no interpreter, writes down where such a process is and ends it if it may.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from mosaic_ray.errors import StalledError
from mosaic_ray.pulse import beats

T = TypeVar("T")

GRACE_SECONDS: Final = 10.0
"""How long work that was told to stop may take to clean up, before it is told again."""

_LOOK_SECONDS: Final = 1.0


class _Halt(BaseException):
    """Carries an objection out of the work. No Exception, or any library's ``except Exception`` could swallow it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def watched(work: Callable[[], T], *, stall_seconds: float, memory_bytes: int | None, ends_process: bool = False) -> T:
    """What ``work`` gives. Outside the main thread, the only one that can be interrupted, it is not watched.

    memory_bytes: of resident memory of this whole process; None for no limit, as on systems without ``/proc``.
    ends_process: whether the process ends itself where native code has not made a step for twice the time. In any case
        faulthandler then writes to standard error where it is.

    Raises StalledError for work without a step for ``stall_seconds``, and MemoryError for more than ``memory_bytes``.
    """
    # No context manager: the signal may arrive between the end of a block and the first line of ``__exit__``.
    if threading.current_thread() is not threading.main_thread():
        return work()
    watch = _Watch(stall_seconds, memory_bytes, ends_process)
    watch.start()
    try:
        try:
            return work()
        finally:
            watch.over = True  # before anything that could be interrupted
            watch.stop()
    except _Halt as halt:
        raise halt.error.with_traceback(halt.__traceback__) from None


def resident_bytes() -> int | None:
    """Memory of this process that is in RAM; None where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None


def size(count: int) -> str:
    """Bytes for a reader, as in ``1.50 GiB``."""
    return f"{count / 2**30:.2f} GiB"


class _Watch:
    """``over`` is set when the work is done: nothing is raised any more."""

    def __init__(self, stall_seconds: float, memory_bytes: int | None, ends_process: bool) -> None:
        self.over = False
        self._stall_seconds = stall_seconds
        self._memory_bytes = memory_bytes
        self._ends_process = ends_process
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)
        self._objection: Exception | None = None

    def start(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._interrupt)
        self._arm()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, self._before or signal.SIG_DFL)

    def _arm(self) -> None:
        if sys.__stderr__ is not None:
            with suppress(OSError, ValueError):  # closed, or no file of the system
                faulthandler.dump_traceback_later(2 * self._stall_seconds, exit=self._ends_process, file=sys.__stderr__)

    def _interrupt(self, number: int, frame: Any) -> None:
        objection, self._objection = self._objection, None
        if objection is None:  # an alarm of the program around the work
            if callable(self._before):
                self._before(number, frame)
        elif not self.over:
            raise _Halt(objection)

    def _look_on(self) -> None:
        pause = min(_LOOK_SECONDS, self._stall_seconds / 10)
        seen, idle, last = beats(), 0.0, time.monotonic()
        while not self._ended.wait(pause):
            now = time.monotonic()
            # Of the time in which this thread did not run either, as where the machine slept, little counts.
            idle, last = idle + min(now - last, 2 * pause), now
            if beats() != seen:
                seen, idle = beats(), 0.0
                self._arm()
            objection = self._objects(idle)
            if objection is not None:
                self._objection = objection
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
                self._ended.wait(GRACE_SECONDS)

    def _objects(self, idle_seconds: float) -> Exception | None:
        resident = resident_bytes() if self._memory_bytes is not None else None
        if resident is not None and self._memory_bytes is not None and resident > self._memory_bytes:
            return MemoryError(f"worker at {size(resident)} of {size(self._memory_bytes)}")
        if idle_seconds >= self._stall_seconds:
            return StalledError(f"made no step for {idle_seconds:.3g} s (the limit is --stall-timeout)")
        return None
