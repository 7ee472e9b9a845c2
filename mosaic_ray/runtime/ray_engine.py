"""The engine on Ray: an elastic crew of actors. The only file of the package that imports ray.

What is done with them is in :mod:`mosaic_ray.runtime.rounds`.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import ray
import ray._private.ray_constants
import ray._private.state
import ray._private.utils
import ray._private.worker
from ray import cloudpickle
from ray.exceptions import ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayError
from ray.util import metrics as ray_metrics

from mosaic_ray.errors import SettingsError
from mosaic_ray.logs import configure
from mosaic_ray.pulse import STALL_SECONDS
from mosaic_ray.runtime.crew import Berth, Crew, Loss
from mosaic_ray.runtime.engine import PASSED_ON, Failure, Item, Node, Result, Work, Workers, prepare, short
from mosaic_ray.runtime.joining import (
    Lifeline,
    bare,
    changed,
    knock,
    loopback_only,
    refused,
    require_room,
    signals_deferred,
    token_found,
)
from mosaic_ray.runtime.metrics import Reading
from mosaic_ray.runtime.rounds import Round
from mosaic_ray.runtime.watch import size, watched

_OBJECT_STORE_BYTES: Final = 128 << 20
"""Of a private Ray. The default is 30% of the memory, and nothing but small results passes through the store."""

_log = logging.getLogger("mosaic_ray")
_pickled: Callable[[Any], bytes] = cloudpickle.dumps
_resources: Callable[[], dict[str, float]] = ray.cluster_resources
_free_resources: Callable[[], dict[str, float]] = ray.available_resources
_nodes: Callable[[], list[dict[str, Any]]] = ray.nodes
_free_by_node: Callable[[], dict[str, dict[str, float]]] = ray._private.state.available_resources_per_node


class Worker:
    """The actor: a shell that holds the work of the current map. Only bytes and failures cross its border."""

    def __init__(self, threads: int, stall_seconds: float, memory: int | None) -> None:
        # Before the work, and with it any library, is loaded: each of them would take all cores of the node.
        os.environ["RAYON_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
        import mosaic_ray.runtime.task  # noqa: F401 - nearly every work needs it, and there is none yet

        configure()
        self._work: Any = None
        self._limits: dict[str, Any] = {"stall_seconds": stall_seconds, "memory_bytes": memory, "ends_process": True}

    def begin(self, work: bytes) -> str | Failure:
        """Load and prepare the work of a map; the id of this worker's node when it is ready."""
        self._work = None
        try:
            watched(partial(self._load, work), **self._limits)
        except PASSED_ON:
            raise
        except BaseException as error:
            return Failure.of(error)
        return str(ray.get_runtime_context().get_node_id())

    def _load(self, work: bytes) -> None:
        self._work = pickle.loads(work)
        prepare(self._work)

    def run(self, item: bytes) -> bytes | Failure:
        """The pickled result of one pickled item."""
        try:
            return watched(lambda: _pickled(self._work(pickle.loads(item))), **self._limits)
        except PASSED_ON:
            raise
        except BaseException as error:
            return Failure.of(error)


class _Joined:
    """The cluster, as a crew sees it: :class:`mosaic_ray.runtime.crew.Cluster`."""

    def __init__(self, berth: Berth, stall_seconds: float) -> None:
        node: Any = ray._private.worker.global_worker.node
        self._lifeline = Lifeline(node.raylet_socket_name, ray.get_runtime_context().gcs_address)
        reserved: dict[str, Any] = {"num_cpus": berth.cpus}
        if berth.memory is not None:
            reserved["memory"] = berth.memory
        self._make = partial(
            ray.remote(**reserved, max_restarts=0, max_task_retries=0)(Worker).remote,
            max(1, int(berth.cpus)),
            stall_seconds,
            berth.memory,
        )

    def hire(self) -> Any:
        return self._make()

    def end(self, actor: Any) -> None:
        if ray.is_initialized() and not self._lifeline.lost:
            ray.kill(actor)

    def put(self, value: bytes) -> Any:
        return ray.put(value)

    def dumps(self, value: Any) -> bytes:
        return _pickled(value)

    def living(self) -> set[str]:
        return {node["NodeID"] for node in _nodes() if node["Alive"]}

    def room(self) -> str:
        memory = max((node["Resources"].get("memory", 0) for node in _nodes() if node["Alive"]), default=0)
        return (
            f"the cluster has {_resources().get('CPU', 0):g} CPU, {_free_resources().get('CPU', 0):g} of them free, "
            f"and {size(int(memory))} on its largest node"
        )

    def loss(self, error: Exception) -> Loss:
        if not isinstance(error, RayError):
            raise error
        return Loss(
            reason=short(str(error).partition(" Some common causes include")[0]),
            left=isinstance(error, ActorUnavailableError | NodeDiedError) or getattr(error, "preempted", False),
            memory=isinstance(error, OutOfMemoryError),
        )

    def check(self) -> None:
        self._lifeline.check()


class RayEngine:
    """Runs work on the actors of a Ray cluster.

    address: ``host:port`` of a cluster to join, or ``auto``; without it the environment's ``RAY_ADDRESS``, which Ray
        sets for submitted jobs; without either (or with ``local``) a private Ray on this machine, which listens on
        127.0.0.1 only and ends with the engine. A process that has already joined a cluster stays in that one.
    min_workers: this many workers are kept when there is less to do than they could.
    max_workers: never more than this many; None for what the CPUs of the cluster allow when the engine starts. A
        private Ray places as many as asked, even when the machine has fewer CPUs.
    cpus_per_worker: what a worker reserves. Its libraries use that many threads, rounded down, at least one.
    stall_seconds: how long a worker may go without a step before its item is taken from it and tried again.
    worker_memory: bytes that a worker reserves; an item for which it needs more fails. None for no limit.

    Raises SettingsError if there is no such cluster or it refuses this process, and for impossible numbers. A map
    raises TaskError where the cluster is lost.
    """

    def __init__(
        self,
        *,
        address: str | None = None,
        min_workers: int = 1,
        max_workers: int | None = None,
        cpus_per_worker: float = 1,
        stall_seconds: float = STALL_SECONDS,
        worker_memory: int | None = None,
    ) -> None:
        if cpus_per_worker <= 0:
            raise SettingsError(f"cpus_per_worker is {cpus_per_worker:g}; it must be above 0")
        if max_workers is not None and max_workers < max(1, min_workers):
            raise SettingsError(f"max_workers is {max_workers}; it must be at least {max(1, min_workers)}")
        self._address = address or os.environ.get("RAY_ADDRESS") or "local"
        self._asked = max_workers
        self._stall_seconds = stall_seconds
        self._crew = Crew(least=min_workers, berth=Berth(cpus_per_worker, worker_memory))
        self._undo = ExitStack()
        self._mapping = False
        self._private = False
        self._metrics: dict[str, Any] = {}

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
            room = int(_resources().get("CPU", 0) / self._crew.berth.cpus)
            self._crew.most = self._asked or max(1, self._crew.least, room)
            self._crew.cluster = _Joined(self._crew.berth, self._stall_seconds)
            # They start while the caller still prepares the first map.
            self._crew.starting = [self._crew.hire() for _ in range(min(self._crew.least, self._crew.most))]
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        with self._undo:
            self._crew.dismiss_all()
            self._crew.cluster = None

    @property
    def workers(self) -> Workers:
        crew = self._crew
        return Workers(busy=len(crew.busy), alive=len(crew.busy) + len(crew.idle), pending=len(crew.starting))

    def nodes(self) -> list[Node]:
        """The machines of the cluster that live."""
        free = _free_by_node()
        living = [(node, free.get(node["NodeID"], {})) for node in _nodes() if node["Alive"]]
        return [
            Node(
                name=node["NodeManagerHostname"],
                cpus=node["Resources"].get("CPU", 0.0),
                memory=int(node["Resources"].get("memory", 0)),
                free_cpus=unused.get("CPU", 0.0),
                free_memory=int(unused.get("memory", 0)),
            )
            for node, unused in living
        ]

    def map(
        self, work: Work[Item, Result], items: Iterable[Item], *, describe: Callable[[Item], str]
    ) -> Iterator[tuple[Item, Result]]:
        """See :meth:`mosaic_ray.runtime.engine.Engine.map`."""
        if self._mapping:
            raise RuntimeError("one map at a time: finish or close the earlier one first")
        if self._crew.cluster is None:
            raise RuntimeError("a RayEngine maps inside its with block only")
        self._mapping = True
        try:
            yield from Round(self._crew, self._crew.cluster, work, items, describe, self._stall_seconds).results()
        except BaseException:
            self._crew.dismiss_all()
            raise
        finally:
            self._mapping = False

    def record(self, readings: Iterable[Reading]) -> None:
        """See :meth:`mosaic_ray.runtime.engine.Engine.record`. They go to the metrics agent of the driver's node, every
        ten seconds and once more when the driver leaves the cluster. A private Ray has no such agent.
        """
        if self._private:
            return
        for metric, value, labels in readings:
            made = self._metrics.get(metric.name)
            if made is None:
                kind = ray_metrics.Counter if metric.kind == "counter" else ray_metrics.Gauge
                made = self._metrics[metric.name] = kind(metric.name, metric.description, metric.labels)
            made._record(
                float(value), dict(labels)
            )  # as inc() and set() do; but inc() (2.60) refuses the 0 at the start

    def _start(self) -> None:
        """A private Ray on 127.0.0.1."""
        self._private = True
        _log.info("starting a private Ray on this machine")
        folder = require_room()
        cpus = None if self._asked is None else math.ceil(self._asked * self._crew.berth.cpus)
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
                    f"a private Ray cannot be started on this machine: {error}. Is there space in {folder} and "
                    "/dev/shm?"
                ) from error
        berth, present = self._crew.berth, _resources()
        if present.get("CPU", 0) < berth.cpus:
            raise SettingsError(f"cpus_per_worker is {berth.cpus:g}; this machine has {present.get('CPU', 0):g} CPUs")
        if berth.memory is not None and present.get("memory", 0) < berth.memory:
            raise SettingsError(
                f"worker_memory is {size(berth.memory)}; this machine has {size(int(present.get('memory', 0)))} for "
                "workers"
            )

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
