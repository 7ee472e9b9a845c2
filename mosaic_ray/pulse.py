"""A process's pulse: a count of the steps it has made, which tells work that is slow from work that hangs."""

from __future__ import annotations

import threading
from typing import Final

STALL_SECONDS: Final = 600.0
"""How long work may go without a step, unless told otherwise."""

_beats = 0
_beside = threading.local()


def beat() -> None:
    """A step was made: a request answered, a batch counted, a part written."""
    global _beats
    if not getattr(_beside, "work", False):
        _beats += 1


def beats() -> int:
    """Steps so far in this process."""
    return _beats


def work_beside() -> None:
    """From now on no step of this thread counts: it goes on whether the work hangs or not."""
    _beside.work = True
