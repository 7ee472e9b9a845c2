"""What the doctor asks of Ray: whether it can be started or joined, what its nodes have, how a worker fares there."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Final, NamedTuple, Protocol

from mosaic_ray import __version__
from mosaic_ray.config import Execution
from mosaic_ray.errors import MosaicError, StalledError
from mosaic_ray.runtime.doctor.finding import Finding, failed, room, skewed
from mosaic_ray.runtime.engine import Engine, Node
from mosaic_ray.runtime.watch import size, watched

PRIVATE: Final = "local"
"""The address that stands for a Ray of the run's own."""

WORKER_BYTES: Final = 520 * 10**6
"""Of memory that a worker with default settings was seen to take."""

WORKER_SECONDS: Final = 60.0
"""How long a worker may take to be ready before its check is given up."""

REMEDY: Final = (
    "Install this package and what it depends on in the image of the workers; their logs, in Ray's session directory, "
    "say more"
)
"""Where a worker does not start."""


class Cluster(Engine, Protocol):
    """An engine that knows the machines its workers would run on."""

    def nodes(self) -> list[Node]: ...


class Seen(NamedTuple):
    """What a worker says of its process."""

    host: str
    package: str
    clock: float
    temporary: str
    free: int


def look_around(_: int) -> Seen:
    """The work of a worker that is only asked how it is."""
    folder = tempfile.gettempdir()
    return Seen(platform.node(), __version__, time.time(), folder, shutil.disk_usage(folder).free)


def address_of(execution: Execution) -> str:
    """Of the cluster that a run would join, as :class:`mosaic_ray.runtime.ray_engine.RayEngine` finds it."""
    return execution.ray_address or os.environ.get("RAY_ADDRESS") or PRIVATE


def check_cluster(execution: Execution, make_cluster: Callable[[], Cluster], *, copies: int) -> Iterator[Finding]:
    """Whether Ray can be started or joined, what its nodes have, and how a worker fares there.

    copies: bytes that a worker may have to put into its folder for temporary files.
    """
    address = address_of(execution)
    try:
        with make_cluster() as cluster:
            where = f"the cluster at {address} was joined"
            if address == PRIVATE:
                where = "a private Ray was started on this machine"
            elif os.environ.get("RAY_AUTH_MODE") == "token":
                where += " with the token"
            versions = f"Ray {version('ray')} and Python {platform.python_version()}"
            yield Finding("ok", "ray", f"{where}; it has {versions}, as this process")
            nodes = cluster.nodes()
            yield _cpus(execution, nodes)
            yield _memory(execution, nodes)
            yield from _worker(execution, cluster, nodes, copies)
    except MosaicError as error:
        yield failed("ray", error)
        for check in ("cpus", "memory", "worker"):
            yield Finding("unknown", check, "not known without a cluster")


def _cpus(execution: Execution, nodes: Sequence[Node]) -> Finding:
    least, total = execution.workers.least, sum(node.cpus for node in nodes)
    found = (
        f"{total:g} in the cluster, {sum(node.free_cpus for node in nodes):g} free; --workers asks for {least} at least"
    )
    if total >= least:
        return Finding("ok", "cpus", found)
    remedy = "Add nodes, or lower the MIN of --workers; the run works with those that there are, and waits for none"
    return Finding("warning", "cpus", found, remedy if total else "Add nodes; the run waits for them")


def _memory(execution: Execution, nodes: Sequence[Node]) -> Finding:
    """Whether a worker fits on the largest node, and the least number of them on all; else what they may take."""
    reserved, least = execution.worker_memory, execution.workers.least
    usable = [node for node in nodes if node.cpus >= 1]
    if not usable:
        return Finding("unknown", "memory", "no node with a CPU is there now")
    largest = max(node.memory for node in usable)
    if reserved is None:
        tight = [node for node in usable if int(node.cpus) * WORKER_BYTES > node.memory]
        found = f"{size(largest)} on the largest node; a worker takes about {size(WORKER_BYTES)}"
        if not tight:
            return Finding("ok", "memory", found)
        return Finding("warning", "memory", f"{found}, so node {tight[0].name} has none for each of its CPUs",
                       "Give --worker-memory, so that Ray places fewer workers there")  # fmt: skip
    places = sum(min(int(node.cpus), node.memory // reserved) for node in usable)
    found = f"{size(largest)} on the largest node; room for {places} workers of --worker-memory {size(reserved)}"
    if largest < reserved:
        return Finding("failed", "memory", found, f"Give --worker-memory {largest >> 20}MiB or less, or larger nodes")
    if places < least:
        remedy = "Lower --worker-memory or the MIN of --workers, or add nodes"
        return Finding("warning", "memory", f"{found}, and MIN is {least}", remedy)
    if reserved < WORKER_BYTES:
        remedy = f"Give --worker-memory {WORKER_BYTES >> 20}MiB or more"
        return Finding(
            "warning", "memory", f"{found}; with default settings one takes about {size(WORKER_BYTES)}", remedy
        )
    return Finding("ok", "memory", found)


def _worker(execution: Execution, cluster: Cluster, nodes: Sequence[Node], copies: int) -> Iterator[Finding]:
    """Start one where there is room now, and ask it."""
    memory = execution.worker_memory or 0
    if not any(node.free_cpus >= 1 and node.free_memory >= memory for node in nodes):
        yield Finding("unknown", "worker", "not tried, since no node has room for one now")
        return
    before = time.time()
    try:
        ((_, seen),) = watched(
            lambda: list(cluster.map(look_around, [0], describe=lambda _: "the worker of the doctor")),
            stall_seconds=WORKER_SECONDS,
            memory_bytes=None,
        )
    except StalledError:
        yield Finding(
            "failed", "worker", f"there is room for one, and none was ready in {WORKER_SECONDS:.0f} s", REMEDY
        )
        return
    except MosaicError as error:
        yield failed("worker", error, REMEDY)
        return
    if seen.package != __version__:
        found = f"one on {seen.host} has mosaic_ray {seen.package}, and this machine {__version__}"
        yield Finding("failed", "worker", found, "Install the same version on both, or submit the code with the job")
    else:
        yield Finding("ok", "worker", f"one on {seen.host} started and answered, with mosaic_ray {seen.package} too")
    if address_of(execution) == PRIVATE:  # the same machine
        return
    ahead = max(0.0, seen.clock - time.time()) + min(0.0, seen.clock - before)
    skew = skewed(f"the worker on {seen.host}", ahead)
    yield skew if isinstance(skew, Finding) else Finding("ok", "clock", skew)
    yield room(
        "space: worker",
        f"{seen.temporary} on {seen.host}",
        free=seen.free,
        need=copies,
        what="copies of packed files",
        otherwise="set TMPDIR of the workers to another place",
    )
