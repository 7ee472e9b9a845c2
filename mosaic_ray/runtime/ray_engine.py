"""The engine on Ray: an elastic crew of actors. The only file of the package that imports ray.

Each worker is an actor of its own, never restarted by Ray, with one call in flight. When one dies, its item goes back
to the front of the queue and another actor is made. Actors that wait for a place are the demand an autoscaler sees;
actors that have nothing left to do are ended, so that nodes can leave.

The main thread never waits inside Ray: ``ray.wait`` and ``ray.get`` turn an exception raised by a signal handler into
a ``SystemError`` (2.60). Finished calls are put into a queue instead, and the wait is Python's own.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Final, Generic, Self

import ray
import ray._private.ray_constants
import ray._private.utils
import ray._private.worker
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, RayError

from mosaic_ray.errors import SettingsError, TaskError
from mosaic_ray.runtime.engine import (
    PASSED_ON,
    PREPARING,
    Failure,
    Item,
    Result,
    Work,
    Workers,
    WorkerTraceback,
    prepare,
)
from mosaic_ray.runtime.joining import bare, changed, knock, loopback_only, refused, signals_deferred, token_found

LOSSES: Final = 5
"""How many workers in a row an item may lose by the death of their process. It may be the item that kills them."""

NODE_LOSSES: Final = 20
"""How many it may lose because their node died or could not be reached. That is rarely the fault of an item, but one
that takes all memory may take its node along, and an autoscaler would replace nodes for ever."""

IDLE_SECONDS: Final = 10.0
"""How long a worker beyond the minimum may have nothing to do. The next map often begins within seconds."""

WARN_SECONDS: Final = 30.0
"""How often a map that has no worker says so."""

_POLL_SECONDS: Final = 1.0
_OBJECT_STORE_BYTES: Final = 128 << 20
"""Of a private Ray. The default is 30% of the memory, and nothing but small results passes through the store."""

_log = logging.getLogger("mosaic_ray")
_pickled: Callable[[Any], bytes] = cloudpickle.dumps
_resources: Callable[[], dict[str, float]] = ray.cluster_resources
_free_resources: Callable[[], dict[str, float]] = ray.available_resources
_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes


class Worker:
    """The actor: a shell that holds the work of the current map. Only bytes and failures cross its border."""

    def __init__(self, threads: int) -> None:
        # Before the work, and with it any library, is loaded: each of them would take all cores of the node.
        os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        import mosaic_ray.runtime.task  # noqa: F401 - nearly every work needs it, and there is none yet

        self._work: Any = None

    def begin(self, work: bytes) -> str | Failure:
        """Load and prepare the work of a map; the id of this worker's node when it is ready."""
        self._work = None
        try:
            self._work = pickle.loads(work)
            prepare(self._work)
        except PASSED_ON:
            raise
        except BaseException as error:
            return Failure.of(error)
        return str(ray.get_runtime_context().get_node_id())

    def run(self, item: bytes) -> bytes | Failure:
        """The pickled result of one pickled item."""
        try:
            return _pickled(self._work(pickle.loads(item)))
        except PASSED_ON:
            raise
        except BaseException as error:
            return Failure.of(error)


@dataclass(slots=True, eq=False)
class _Errand(Generic[Item]):
    """An item on its way, with how many workers it has lost."""

    item: Item
    losses: int = 0
    node_losses: int = 0


@dataclass(slots=True, eq=False)
class _Seat:
    """The driver's side of one worker. ``errand`` is None while it starts and while it is idle."""

    actor: Any
    call: Future[Any] | None = None
    errand: _Errand[Any] | None = None
    node: str | None = None
    idle_since: float = 0.0


@dataclass(slots=True)
class _Crew:
    """All workers there are, each in one of three places, and how many there may be.

    make: asks Ray for another actor; None outside the engine's ``with`` block.
    """

    least: int
    cpus: float
    most: int = 0
    make: Callable[[], Any] | None = None
    starting: list[_Seat] = field(default_factory=list)
    idle: list[_Seat] = field(default_factory=list)
    busy: set[_Seat] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.starting) + len(self.idle) + len(self.busy)

    def hire(self) -> _Seat:
        assert self.make is not None
        return _Seat(self.make())

    def dismiss(self, seat: _Seat) -> None:
        """End a worker wherever it is; what it has in hand is dropped."""
        if seat in self.starting:
            self.starting.remove(seat)
        elif seat in self.idle:
            self.idle.remove(seat)
        else:
            self.busy.discard(seat)
        seat.call = None
        if ray.is_initialized():
            ray.kill(seat.actor)

    def dismiss_all(self) -> None:
        for seat in [*self.starting, *self.idle, *self.busy]:
            self.dismiss(seat)


class RayEngine:
    """Runs work on the actors of a Ray cluster.

    address: ``host:port`` of a cluster to join, or ``auto``; without it the environment's ``RAY_ADDRESS``, which Ray
        sets for submitted jobs; without either (or with ``local``) a private Ray on this machine, which listens on
        127.0.0.1 only and ends with the engine. A process that has already joined a cluster stays in that one.
    min_workers: this many workers are kept when there is less to do than they could.
    max_workers: never more than this many; None for what the CPUs of the cluster allow when the engine starts. A
        private Ray places as many as asked, even when the machine has fewer CPUs.
    cpus_per_worker: what a worker reserves. Its libraries use that many threads, rounded down, at least one.

    Raises SettingsError if there is no such cluster or it refuses this process, and for impossible numbers.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        min_workers: int = 1,
        max_workers: int | None = None,
        cpus_per_worker: float = 1,
    ) -> None:
        if cpus_per_worker <= 0:
            raise SettingsError(f"cpus_per_worker is {cpus_per_worker:g}; it must be above 0")
        if max_workers is not None and max_workers < max(1, min_workers):
            raise SettingsError(f"max_workers is {max_workers}; it must be at least {max(1, min_workers)}")
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._asked = max_workers
        self._crew = _Crew(least=min_workers, cpus=cpus_per_worker)
        self._undo = ExitStack()
        self._mapping = False

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            if not ray.is_initialized():
                undo.callback(ray.shutdown, wait_for_processes=True)
                # Ray prints its own account of every lost worker on standard output; the engine logs it.
                undo.enter_context(changed(ray._private.worker, "_worker_logs_enabled", False))
                # Of half a Ray, processes would stay behind; and Ray would replace the handler of SIGTERM for good.
                with signals_deferred(), changed(ray._private.utils, "set_sigterm_handler", lambda _: None):
                    if self._address == "local":
                        self._start()
                    else:
                        self._join()
            room = int(_resources().get("CPU", 0) / self._crew.cpus)
            self._crew.most = self._asked or max(1, self._crew.least, room)
            self._crew.make = partial(
                ray.remote(num_cpus=self._crew.cpus, max_restarts=0, max_task_retries=0)(Worker).remote,
                max(1, int(self._crew.cpus)),
            )
            # They start while the caller still prepares the first map.
            self._crew.starting = [self._crew.hire() for _ in range(min(self._crew.least, self._crew.most))]
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        with self._undo:
            self._crew.dismiss_all()
            self._crew.make = None

    @property
    def workers(self) -> Workers:
        crew = self._crew
        return Workers(busy=len(crew.busy), alive=len(crew.busy) + len(crew.idle), pending=len(crew.starting))

    def map(
        self, work: Work[Item, Result], items: Iterable[Item], *, describe: Callable[[Item], str]
    ) -> Iterator[tuple[Item, Result]]:
        """See :meth:`mosaic_ray.runtime.engine.Engine.map`."""
        if self._mapping:
            raise RuntimeError("one map at a time: finish or close the earlier one first")
        if self._crew.make is None:
            raise RuntimeError("a RayEngine maps inside its with block only")
        self._mapping = True
        try:
            yield from _Round(self._crew, work, items, describe).results()
        except BaseException:
            self._crew.dismiss_all()
            raise
        finally:
            self._mapping = False

    def _start(self) -> None:
        """A private Ray on 127.0.0.1."""
        _log.info("starting a private Ray on this machine")
        cpus = None if self._asked is None else math.ceil(self._asked * self._crew.cpus)
        if not token_found():
            # Ray would write a token into the home directory, and every cluster started later would then ask for it.
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        # Ray replaces 127.0.0.1 by the host's own address, unless it believes to be on a laptop.
        with changed(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", False), bare(ray._private):
            try:
                ray.init(
                    address="local",
                    num_cpus=cpus,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except Exception as error:
                raise SettingsError(
                    f"a private Ray cannot be started on this machine: {error}. Is there space in /tmp and /dev/shm?"
                ) from error
        present = _resources().get("CPU", 0)
        if present < self._crew.cpus:
            raise SettingsError(f"cpus_per_worker is {self._crew.cpus:g}; this machine has {present:g} CPUs")

    def _join(self) -> None:
        """The cluster at the address."""
        address = self._address
        _log.info("joining the Ray cluster at %s", address)
        if address != "auto":
            knock(address)
        # Ray replaces 127.0.0.1 by the host's own address, unless it believes to be on a laptop.
        remote = ray._private.ray_constants.ENABLE_RAY_CLUSTER and not loopback_only(
            address,
            ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
        )
        try:
            with changed(ray._private.ray_constants, "ENABLE_RAY_CLUSTER", remote):
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:
            raise refused(address, error) from error


class _Round(Generic[Item, Result]):
    """One map."""

    def __init__(
        self, crew: _Crew, work: Work[Item, Result], items: Iterable[Item], describe: Callable[[Item], str]
    ) -> None:
        self._crew = crew
        self._describe = describe
        self._work = ray.put(_pickled(work))
        self._items: Iterator[Item] | None = iter(items)
        self._todo: deque[_Errand[Item]] = deque()
        self._events: SimpleQueue[tuple[_Seat, Future[Any]]] = SimpleQueue()
        self._false_starts = 0
        self._last_ready = time.monotonic()

    def results(self) -> Iterator[tuple[Item, Result]]:
        crew = self._crew
        waiting, crew.idle, crew.starting = [*crew.starting, *crew.idle], [], []
        for seat in waiting:
            self._begin(seat)
        done: tuple[Item, Result] | None = None
        while True:
            self._take_in()
            while self._todo and crew.idle:
                self._hand_over(crew.idle.pop(), self._todo.popleft())
            self._resize()
            if done is not None:
                # Only now, so that the workers are not idle while the caller deals with it.
                yield done
                done = None
            elif self._outstanding:
                self._warn_if_alone()
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
                self._todo.append(_Errand(next(self._items)))
            except StopIteration:
                self._items = None

    def _resize(self) -> None:
        crew, now = self._crew, time.monotonic()
        while len(crew) < min(crew.most, self._outstanding):
            self._begin(crew.hire())
        spare = len(crew) - max(crew.least, self._outstanding)
        if spare > 0:
            rested = [seat for seat in crew.idle if now - seat.idle_since > IDLE_SECONDS]
            for seat in [*reversed(crew.starting), *rested][:spare]:
                crew.dismiss(seat)

    def _begin(self, seat: _Seat) -> None:
        self._crew.starting.append(seat)
        self._watch(seat, seat.actor.begin.remote(self._work))

    def _hand_over(self, seat: _Seat, errand: _Errand[Item]) -> None:
        seat.errand = errand
        self._crew.busy.add(seat)
        self._watch(seat, seat.actor.run.remote(_pickled(errand.item)))

    def _watch(self, seat: _Seat, reference: Any) -> None:
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
        except RayError as error:
            self._lost(seat, error)
            return None
        if isinstance(outcome, Failure):
            what = PREPARING if errand is None else self._describe(errand.item)
            raise outcome.error(what) from WorkerTraceback(outcome.trace)
        seat.call = seat.errand = None
        seat.idle_since = time.monotonic()
        self._crew.idle.append(seat)
        if errand is None:
            self._crew.starting.remove(seat)
            self._false_starts = 0
            seat.node = outcome
            return None
        self._crew.busy.remove(seat)
        try:
            return errand.item, pickle.loads(outcome)
        except Exception as error:
            raise Failure.of(error).error(f"reading the result of {self._describe(errand.item)}") from error

    def _lost(self, seat: _Seat, error: RayError) -> None:
        """Take the item back from a worker that is gone, or give up."""
        errand = seat.errand
        self._crew.dismiss(seat)
        reason = " ".join(str(error).split())
        if len(reason) > 800:  # the cause stands in front, or where the worker raised an error, at the end
            reason = f"{reason[:500]} ... {reason[-300:]}"
        if errand is None:
            self._false_starts += 1
            limit = self._crew.most + LOSSES
            if self._false_starts > limit:
                raise TaskError(
                    f"{self._false_starts} workers in a row were lost before they were ready (the limit is {limit}). "
                    "Is the package installed on every node, and is there memory to load the tokenizer? The worker's "
                    f"log in Ray's session directory says more. Ray says: {reason}"
                )
            _log.warning("a worker was lost before it was ready: %s", reason)
            return
        # When a node dies, its workers are unreachable at first; who is to blame is known only some time later.
        stranded = isinstance(error, ActorUnavailableError) or not any(
            node["NodeID"] == seat.node and node["Alive"] for node in _nodes()
        )
        errand.node_losses += stranded
        errand.losses += not stranded
        what = self._describe(errand.item)
        if errand.losses > LOSSES or errand.node_losses > NODE_LOSSES:
            raise TaskError(
                f"{what} lost its worker {errand.losses} times (the limit is {LOSSES}) and its node "
                f"{errand.node_losses} times (the limit is {NODE_LOSSES}). Most likely it ran out of memory: run fewer "
                "workers per node, or give each more memory or smaller tasks. The worker's log in Ray's session "
                f"directory says more. Ray says: {reason}"
            )
        self._todo.appendleft(errand)
        gone = "node" if stranded else "worker"
        _log.warning("%s lost its %s and is done again: %s", what, gone, reason)

    def _warn_if_alone(self) -> None:
        now = time.monotonic()
        if self._crew.idle or self._crew.busy:
            self._last_ready = now
        elif now - self._last_ready >= WARN_SECONDS:
            self._last_ready = now
            _log.warning(
                "no worker has been ready for %g s: %d workers of %g CPU are asked for; the cluster has %g CPU, %g of "
                "them free. Free or add nodes, or ask for fewer CPUs per worker",
                WARN_SECONDS,
                len(self._crew.starting),
                self._crew.cpus,
                _resources().get("CPU", 0),
                _free_resources().get("CPU", 0),
            )
