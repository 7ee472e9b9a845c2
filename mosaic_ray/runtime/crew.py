"""The driver's side of a crew of workers: who is where, and what an item has been through. Ray is not needed here."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, Protocol

from mosaic_ray.errors import TaskError
from mosaic_ray.runtime.engine import Item, task_of
from mosaic_ray.runtime.watch import size

LOSSES: Final = 5
"""How many workers in a row an item may lose by the death of their process. It may be the item that kills them."""

NODE_LOSSES: Final = 20
"""How many it may lose because their node died or could not be reached. That is rarely the fault of an item, but one
that takes all memory may take its node along, and an autoscaler would replace nodes for ever."""

VERDICT_SECONDS: Final = 20.0
"""How long an item that lost too many workers waits to be judged. Of a node that leaves, the workers may die first, and
Ray (2.60) took 13 s to notice the sudden death of a node."""


@dataclass(slots=True, eq=False)
class Errand(Generic[Item]):
    """An item on its way.

    failures: tries that failed.
    lost_on: the node of each worker it lost, None where that node could not be reached or is known to have left.
    suspects: nodes of the workers it was not done by; another is preferred.
    due: when it may be handed out, on the monotonic clock.
    """

    item: Item
    failures: int = 0
    lost_on: list[str | None] = field(default_factory=list)
    suspects: set[str | None] = field(default_factory=set)
    due: float = 0.0
    last_words: str = ""

    def lose(self, node: str | None, last_words: str) -> None:
        """Note the loss of a worker on this node. last_words: the likely cause and its remedy."""
        self.lost_on.append(node)
        self.last_words = last_words
        if len(self.lost_on) > LOSSES:
            self.due = time.monotonic() + VERDICT_SECONDS

    def judge(self, what: str, living: Callable[[], Container[str]]) -> None:
        """Raise TaskError where it lost too many workers by themselves, or too many with their node.

        living: gives the ids of the nodes that live now, from which it follows which losses were those of a node.
        """
        if len(self.lost_on) <= LOSSES:
            return
        alive = living()
        own = sum(node is not None and node in alive for node in self.lost_on)
        stranded = len(self.lost_on) - own
        if own > LOSSES or stranded > NODE_LOSSES:
            error = TaskError(
                f"{what} lost its worker {own} times (the limit is {LOSSES}) and its node {stranded} times (the limit "
                f"is {NODE_LOSSES}). {self.last_words}"
            )
            error.task = task_of(self.item)
            raise error


@dataclass(slots=True, eq=False)
class Seat:
    """The driver's side of one worker. ``errand`` is None while it starts and while it is idle.

    since: when it became idle, or was handed its errand, on the monotonic clock.
    """

    actor: Any
    call: Future[Any] | None = None
    errand: Errand[Any] | None = None
    node: str | None = None
    since: float = 0.0


class Loss(NamedTuple):
    """Why a worker is gone.

    left: whether its node is known to have left, or cannot be reached.
    memory: whether it was ended because its node was short of memory.
    """

    reason: str
    left: bool
    memory: bool


class Cluster(Protocol):
    """What a crew needs of Ray. An actor has ``begin`` and ``run``; see :mod:`mosaic_ray.runtime.ray_engine`."""

    def hire(self) -> Any:
        """Ask for another actor."""
        ...

    def end(self, actor: Any) -> None: ...

    def put(self, value: bytes) -> Any:
        """A reference to it, for many actors."""
        ...

    def dumps(self, value: Any) -> bytes:
        """Pickle what workers get."""
        ...

    def living(self) -> set[str]:
        """The ids of the nodes that live."""
        ...

    def room(self) -> str:
        """What it has and what is free, as a sentence."""
        ...

    def loss(self, error: Exception) -> Loss:
        """What a call's exception means; raises it where it says nothing of a worker."""
        ...

    def check(self) -> None:
        """Raise TaskError where the cluster is gone."""
        ...


@dataclass(frozen=True, slots=True)
class Berth:
    """What a worker reserves: CPUs, and bytes of memory or None."""

    cpus: float
    memory: int | None

    def __str__(self) -> str:
        return f"{self.cpus:g} CPU" + (f" and {size(self.memory)}" if self.memory is not None else "")


@dataclass(slots=True)
class Crew:
    """All workers there are, each in one of three places, and how many there may be.

    cluster: None outside the engine's ``with`` block.
    """

    least: int
    berth: Berth
    most: int = 0
    cluster: Cluster | None = None
    starting: list[Seat] = field(default_factory=list)
    idle: list[Seat] = field(default_factory=list)
    busy: set[Seat] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.starting) + len(self.idle) + len(self.busy)

    def hire(self) -> Seat:
        assert self.cluster is not None
        return Seat(self.cluster.hire())

    def take(self, errand: Errand[Any]) -> Seat:
        """An idle worker, taken out of the idle ones; rather not where the errand went wrong before."""
        seat = next((seat for seat in reversed(self.idle) if seat.node not in errand.suspects), self.idle[-1])
        self.idle.remove(seat)
        return seat

    def dismiss(self, seat: Seat) -> None:
        """End a worker wherever it is; what it has in hand is dropped."""
        if seat in self.starting:
            self.starting.remove(seat)
        elif seat in self.idle:
            self.idle.remove(seat)
        else:
            self.busy.discard(seat)
        seat.call = None
        if self.cluster is not None:
            self.cluster.end(seat.actor)

    def dismiss_all(self) -> None:
        for seat in [*self.starting, *self.idle, *self.busy]:
            self.dismiss(seat)
