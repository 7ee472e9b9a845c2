"""One map over a crew of actors: each item handed out until it has brought its result, whatever becomes of the workers.

Each worker is an actor of its own, never restarted by Ray, with one call in flight. When one dies, or its item fails in
a way that may pass, the item goes back to the front of the queue and another actor is made. Actors that wait for a
place are the demand an autoscaler sees; actors that have nothing left to do are ended, so that nodes can leave.

The main thread never waits inside Ray: ``ray.wait`` and ``ray.get`` turn an exception raised by a signal handler into
a ``SystemError`` (2.60). Finished calls are put into a queue instead, and the wait is Python's own.
"""

from __future__ import annotations

import logging
import pickle
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic

from mosaic_ray.errors import TaskError
from mosaic_ray.logs import fields
from mosaic_ray.runtime.crew import LOSSES, NODE_LOSSES, Cluster, Crew, Errand, Loss, Seat
from mosaic_ray.runtime.engine import MORE_MEMORY, PREPARING, TRIES, Failure, Item, Result, Work, pause, task_of

IDLE_SECONDS: Final = 10.0
"""How long a worker beyond the minimum may have nothing to do. The next map often begins within seconds."""

WARN_SECONDS: Final = 30.0
"""How often a map that has no worker says so."""

MEMORY_KILL: Final = "Ray ended the worker because its node ran out of memory"
MOST_LIKELY: Final = "Most likely it ran out of memory, or code outside Python hung for twice --stall-timeout"

_POLL_SECONDS: Final = 1.0

_log = logging.getLogger("mosaic_ray")


class Round(Generic[Item, Result]):
    """One map. See :meth:`mosaic_ray.runtime.engine.Engine.map`.

    stall_seconds: after three times as long, an item that is still with a worker is named in the log.
    """

    def __init__(
        self,
        crew: Crew,
        cluster: Cluster,
        work: Work[Item, Result],
        items: Iterable[Item],
        describe: Callable[[Item], str],
        stall_seconds: float,
    ) -> None:
        self._crew = crew
        self._cluster = cluster
        self._describe = describe
        self._long = 3 * stall_seconds
        self._work = cluster.put(cluster.dumps(work))
        self._items: Iterator[Item] | None = iter(items)
        self._todo: deque[Errand[Item]] = deque()
        self._events: SimpleQueue[tuple[Seat, Future[Any]]] = SimpleQueue()
        self._lost_starts = self._failed_starts = 0
        self._hire_from = 0.0
        self._last_ready = self._last_long = time.monotonic()

    def results(self) -> Iterator[tuple[Item, Result]]:
        crew = self._crew
        waiting, crew.idle, crew.starting = [*crew.starting, *crew.idle], [], []
        for seat in waiting:
            self._begin(seat)
        done: tuple[Item, Result] | None = None
        while True:
            self._take_in()
            while crew.idle and (errand := self._next_due()) is not None:
                self._hand_over(crew.take(errand), errand)
            self._resize()
            if done is not None:
                # Only now, so that the workers are not idle while the caller deals with it.
                yield done
                done = None
            elif self._outstanding:
                self._cluster.check()
                self._warn_if_alone()
                self._warn_if_long()
                done = self._next_event()
            else:
                break
        for seat in list(crew.starting):
            crew.dismiss(seat)

    @property
    def _outstanding(self) -> int:
        return len(self._todo) + len(self._crew.busy)

    def _take_in(self) -> None:
        while self._items is not None and self._outstanding < self._crew.most:
            try:
                self._todo.append(Errand(next(self._items)))
            except StopIteration:
                self._items = None

    def _next_due(self) -> Errand[Item] | None:
        """The first item that may be handed out now, out of the queue; TaskError where it lost too many workers."""
        now = time.monotonic()
        errand = next((errand for errand in self._todo if errand.due <= now), None)
        if errand is not None:
            self._todo.remove(errand)
            if errand.lost_on:
                errand.judge(self._describe(errand.item), self._cluster.living)
        return errand

    def _resize(self) -> None:
        crew, now = self._crew, time.monotonic()
        while len(crew) < min(crew.most, self._outstanding) and now >= self._hire_from:
            self._begin(crew.hire())
        spare = len(crew) - max(crew.least, self._outstanding)
        if spare > 0:
            rested = [seat for seat in crew.idle if now - seat.since > IDLE_SECONDS]
            for seat in [*reversed(crew.starting), *rested][:spare]:
                crew.dismiss(seat)

    def _begin(self, seat: Seat) -> None:
        self._crew.starting.append(seat)
        self._await(seat, seat.actor.begin.remote(self._work))

    def _hand_over(self, seat: Seat, errand: Errand[Item]) -> None:
        seat.errand = errand
        seat.since = time.monotonic()
        self._crew.busy.add(seat)
        self._await(seat, seat.actor.run.remote(self._cluster.dumps(errand.item)))

    def _await(self, seat: Seat, reference: Any) -> None:
        seat.call = call = reference.future()
        events = self._events
        call.add_done_callback(lambda call: events.put((seat, call)))

    def _next_event(self) -> tuple[Item, Result] | None:
        """Wait a moment for a call to end, and deal with it; the item and its result if it brought one."""
        try:
            seat, call = self._events.get(timeout=_POLL_SECONDS)
        except Empty:
            return None
        if seat.call is not call:  # dismissed in the meantime
            return None
        errand = seat.errand
        try:
            outcome = call.result()
        except Exception as error:
            self._lost(seat, self._cluster.loss(error))
            return None
        if isinstance(outcome, Failure):
            self._failed(seat, outcome)
            return None
        seat.call = seat.errand = None
        seat.since = time.monotonic()
        self._crew.idle.append(seat)
        if errand is None:
            self._crew.starting.remove(seat)
            self._lost_starts = self._failed_starts = 0
            seat.node = outcome
            return None
        self._crew.busy.remove(seat)
        try:
            return errand.item, pickle.loads(outcome)
        except Exception as error:
            raise Failure.of(error).error(f"reading the result of {self._describe(errand.item)}") from error

    def _failed(self, seat: Seat, failure: Failure) -> None:
        """Have it done again by another worker, as this one may be the cause; or give up."""
        errand = seat.errand
        self._crew.dismiss(seat)
        if errand is None:
            # Of many workers that start together, each may meet the same short failure.
            self._failed_starts += 1
            what, tries, limit = PREPARING, self._failed_starts, self._crew.most + TRIES - 1
            self._hire_from = time.monotonic() + pause(tries)
        else:
            errand.failures += 1
            what, tries, limit = self._describe(errand.item), errand.failures, TRIES
        if not failure.passing:
            failure.fail(what)
        if tries >= limit:
            failure.fail(what, tries=tries)
        failure.tell(what, tries=tries, limit=limit)
        if errand is not None:
            errand.suspects.add(seat.node)
            errand.due = time.monotonic() + pause(tries)
            self._todo.appendleft(errand)

    def _lost(self, seat: Seat, loss: Loss) -> None:
        """Take the item back from a worker that is gone, or give up."""
        errand = seat.errand
        self._crew.dismiss(seat)
        with_node = loss.left or (seat.node is not None and seat.node not in self._cluster.living())
        log = "The worker's log in Ray's session directory says more"
        if errand is None:
            self._lost_starts += 1
            self._hire_from = time.monotonic() + pause(self._lost_starts)
            limit = self._crew.most + (NODE_LOSSES if with_node else LOSSES)
            if self._lost_starts > limit:
                raise TaskError(
                    f"{self._lost_starts} workers in a row were lost before they were ready (the limit is {limit}). "
                    "Is the package installed on every node, is there memory to load the tokenizer, and room in Ray's "
                    f"temporary folder (RAY_TMPDIR)? {log}. Ray says: {loss.reason}"
                )
            _log.warning("a worker was lost before it was ready: %s", loss.reason)
            return
        errand.lose(
            None if loss.left else seat.node,
            f"{MEMORY_KILL if loss.memory else MOST_LIKELY}: {MORE_MEMORY}. {log}. Ray says: {loss.reason}",
        )
        errand.suspects.add(seat.node)
        self._todo.appendleft(errand)
        what, about = self._describe(errand.item), fields(task=task_of(errand.item))
        lost = "node" if with_node else "worker"
        _log.warning("%s lost its %s and is done again: %s", what, lost, loss.reason, extra=about)

    def _warn_if_alone(self) -> None:
        crew, now = self._crew, time.monotonic()
        if crew.idle or crew.busy:
            self._last_ready = now
        elif now - self._last_ready >= WARN_SECONDS:
            self._last_ready = now
            _log.warning(
                "no worker has been ready for %g s: %d workers of %s are asked for; %s. Free or add nodes, or ask for "
                "less per worker",
                WARN_SECONDS,
                len(crew.starting),
                crew.berth,
                self._cluster.room(),
            )

    def _warn_if_long(self) -> None:
        """Name what a worker has had for so long that it should have ended itself, if it hangs."""
        now = time.monotonic()
        if now - self._last_long < self._long or not self._crew.busy:
            return
        seat = min(self._crew.busy, key=lambda seat: seat.since)
        if seat.errand is not None and now - seat.since >= self._long:
            self._last_long = now
            what, about = self._describe(seat.errand.item), fields(task=task_of(seat.errand.item))
            seconds = now - seat.since
            _log.warning("%s has been with its worker on node %s for %.0f s", what, seat.node, seconds, extra=about)
