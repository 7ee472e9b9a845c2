"""How often a request to a store is made again: backoff with full jitter under a ceiling, each retry counted by cause.

Each pause is drawn evenly between nothing and a bound that doubles with every try, so that many workers do not come
back at once ("full jitter": M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from secrets import SystemRandom
from threading import Lock
from typing import Final, TypeVar

from mosaic_ray.io.failures import cause_of, lacks_credentials
from mosaic_ray.pulse import beat

T = TypeVar("T")

PATIENCE: Final = 120.0
"""Seconds for which a request is made again, unless told otherwise."""

FIRST_CONTACT: Final = 5.0
"""Seconds for which it is while the store has not answered once: then the address is more likely to be wrong."""

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 20.0
TELL_AFTER: Final = 10.0
"""Seconds after which the log says that a request is still being made again."""

_log = logging.getLogger("mosaic_ray")
_jitter = SystemRandom().uniform
_lock = Lock()
_collectors: list[Counter[str]] = [Counter()]


@contextmanager
def retries_counted() -> Iterator[Counter[str]]:
    """Collects the retries of this process while it is open, by cause; an outer collector does not see them."""
    mine: Counter[str] = Counter()
    with _lock:
        _collectors.append(mine)
    try:
        yield mine
    finally:
        with _lock:
            _collectors[:] = [other for other in _collectors if other is not mine]


def retried(cause: str, times: int = 1) -> None:
    """Count requests that were made again."""
    with _lock:
        _collectors[-1][cause] += times


@dataclass(slots=True)
class Patience:
    """Of one store.

    seconds: the ceiling: no new try of a request begins later than this after its first.
    answered: whether the store has answered before; until then FIRST_CONTACT is the ceiling.
    """

    seconds: float = PATIENCE
    answered: bool = False

    @property
    def request_seconds(self) -> float:
        """How long one request may take that carries little: 30 s, less where the ceiling is low."""
        return min(30.0, max(1.0, self.seconds / 4))

    def attempts(self, what: str) -> Attempts:
        """what: the address, for the log."""
        return Attempts(self, what)

    def persist(self, what: str, request: Callable[[], T]) -> T:
        """What the request gives, made again while its failures may pass. Raises the last of them."""
        attempts = self.attempts(what)
        while True:
            try:
                answer = request()
            except Exception as failure:
                pause = attempts.pause(failure)
                if pause is None:
                    raise
                time.sleep(pause)
            else:
                attempts.succeeded()
                return answer


class Attempts:
    """The tries of one request."""

    def __init__(self, patience: Patience, what: str) -> None:
        self._patience = patience
        self._what = what
        self._started = time.monotonic()
        self._told = 0.0
        self._longest = FIRST_PAUSE / 2

    def pause(self, failure: Exception) -> float | None:
        """Seconds to wait before the next try; None where the failure will not pass or the ceiling is reached."""
        cause = cause_of(failure)
        if self._patience.answered and lacks_credentials(failure):  # there were some
            cause = "credentials"
        if cause is None:
            return None
        self._longest = min(2 * self._longest, LONGEST_PAUSE)
        pause = _jitter(0.0, self._longest)
        ceiling = self._patience.seconds if self._patience.answered else min(FIRST_CONTACT, self._patience.seconds)
        elapsed = time.monotonic() - self._started
        if elapsed + pause > ceiling:
            return None
        retried(cause)
        beat()
        if elapsed - self._told > TELL_AFTER:
            self._told = elapsed
            _log.warning(
                "%s: the store fails (%s); tried again for %.0f s of %.0f", self._what, cause, elapsed, ceiling
            )
        return pause

    def succeeded(self) -> None:
        self._patience.answered = True
