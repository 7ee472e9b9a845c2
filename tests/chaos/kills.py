"""Trials with real processes: workers, drivers, raylets and nodes killed while a run is at work on Ray."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from tests.chaos.outcome import (
    Ended,
    Ending,
    Verdict,
    flaws_of_finished,
    flaws_of_refusal,
    made_of,
    on_disk,
)
from tests.chaos.site import IN_PROCESS, LIMIT_SECONDS, Corpus, Site, arguments, bare_environment, home, run_here
from tests.conftest import job_command

MANY: Final = Corpus("many tasks")
ON_RAY: Final = ("--workers", "2")
GRACE_SECONDS: Final = 20.0
"""What a spot machine of the stingier clouds leaves after it says that it goes is 30 s."""


class Run:
    """The job script in the background, over the corpus of many tasks."""

    def __init__(self, site: Site, output: Path, engine: Sequence[str], folder: Path) -> None:
        self._output = output
        self._log = folder / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                job_command(*arguments("many tasks", site.corpus(MANY), output, engine)),
                env=bare_environment(folder),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def receipts(self) -> int:
        return len(list(self._output.glob("_mosaic/receipts/*.json")))

    @property
    def at_work(self) -> bool:
        return self.process.poll() is None and not (self._output / "manifest.json").exists()

    def reaches(self, goal: int) -> bool:
        """Wait for so many receipts; whether the run is still at work then."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.at_work and self.receipts() < goal and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.at_work and self.receipts() >= goal

    def family(self) -> list[psutil.Process]:
        """The driver and all that it has started."""
        with suppress(psutil.NoSuchProcess):
            driver = psutil.Process(self.process.pid)
            return [driver, *driver.children(recursive=True)]
        return []

    def actors(self) -> list[psutil.Process]:
        return [process for process in self.family()[1:] if _is_actor(process)]

    def kill_all(self) -> None:
        """As a machine that is lost: the driver and its Ray, in no order."""
        family = self.family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=10)

    def ended(self, *, within: float = LIMIT_SECONDS) -> Ended:
        try:
            status: int | None = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill_all()
            status = None
        return Ended(status, "", self._log.read_text())


def _is_actor(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith("ray::Worker")
    except psutil.Error:
        return False


class Session:
    """One output through several blows of one kind, each of which is a trial.

    ending: how a run that is struck ends.
    """

    def __init__(self, site: Site, dice: random.Random, ending: Ending) -> None:
        self.dice = dice
        self.output = site.new_folder() / "out"
        self.flaws: list[str] = []
        self._site = site
        self._ending = ending
        self._struck: list[float] = []
        self._began = time.monotonic()

    @contextmanager
    def running(self, *engine: str) -> Iterator[Run]:
        """The job at work on the output; what is left of it at the end is killed."""
        with home() as folder:
            run = Run(self._site, self.output, engine, folder)
            try:
                yield run
            finally:
                run.kill_all()

    def struck(self) -> None:
        """Count a blow that met a run at work."""
        self._struck.append(time.monotonic() - self._began)
        self._began = time.monotonic()

    def no_manifest(self) -> None:
        if (self.output / "manifest.json").exists():
            self.flaws.append("there is a manifest before the end")

    def resumed(self, *engine: str) -> Ended:
        return run_here(arguments("many tasks", self._site.corpus(MANY), self.output, engine or IN_PROCESS))

    def verdicts(self, ended: Ended) -> list[Verdict]:
        """Hold the output to account. ended: of the run that had to finish it."""
        files = on_disk(self.output)
        expected = self._site.expected(MANY)
        if ended.status != 0:
            self.flaws.append(f"it ended with {ended.status}: {ended.stderr[-400:]}")
        else:
            self.flaws += flaws_of_finished(files, [expected])
        made = made_of(files)
        verdict = Verdict(
            "lost" if self.flaws else self._ending,
            tuple(self.flaws),
            equal=made is not None and made.digest == expected.digest,
            balanced=made is not None and made.balanced,
        )
        return [replace(verdict, seconds=seconds) for seconds in self._struck]


def actors_killed(site: Site, dice: random.Random, most: int) -> list[Verdict]:
    """Workers of one run lose their process at moments that are drawn."""
    session = Session(site, dice, "survived")
    with session.running(*ON_RAY) as run:
        while most and run.reaches(run.receipts() + dice.randint(1, 15)):
            time.sleep(dice.uniform(0, 0.3))
            crew = run.actors()
            if crew and run.at_work:
                with suppress(psutil.NoSuchProcess):
                    dice.choice(crew).kill()
                    session.struck()
                    most -= 1
        return session.verdicts(run.ended())


def drivers_killed(*engine: str, last: Sequence[str] = IN_PROCESS) -> Blows:
    """The driver is killed with all that it started, again and again, and another start finishes.

    last: the engine of that start.
    """

    def blows(site: Site, dice: random.Random, most: int) -> list[Verdict]:
        session = Session(site, dice, "resumed")
        for _ in range(most):
            with session.running(*engine) as run:
                if not run.reaches(run.receipts() + dice.randint(0, 12)):
                    break
                time.sleep(dice.uniform(0, 0.5))
                at_work = run.at_work
                run.kill_all()
                if at_work:
                    session.no_manifest()
                    session.struck()
        return session.verdicts(session.resumed(*last))

    return blows


def told_to_stop(site: Site, dice: random.Random, most: int) -> list[Verdict]:
    """SIGTERM to the driver, which has GRACE_SECONDS."""
    session = Session(site, dice, "resumed")
    for _ in range(most):
        with session.running(*ON_RAY) as run:
            if not run.reaches(run.receipts() + dice.randint(1, 12)):
                break
            time.sleep(dice.uniform(0, 0.3))
            run.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            ended = run.ended(within=GRACE_SECONDS)
            if ended.status != 143:
                session.flaws.append(f"SIGTERM: status {ended.status} after {time.monotonic() - began:.0f} s")
            session.flaws += flaws_of_refusal(ended, os.listdir(session.output))
            session.struck()
    return session.verdicts(session.resumed())


def raylets_killed(site: Site, dice: random.Random, most: int) -> list[Verdict]:
    """A node's raylet is killed, and its workers die with it; another node comes in its place."""
    return _nodes_lost(site, dice, most, at_once=1, replaced=True, by_raylet=True)


def node_lost_for_good(site: Site, dice: random.Random, most: int) -> list[Verdict]:
    return _nodes_lost(site, dice, most, at_once=1, replaced=False, by_raylet=False)


def two_nodes_lost(site: Site, dice: random.Random, most: int) -> list[Verdict]:
    return _nodes_lost(site, dice, most, at_once=2, replaced=True, by_raylet=False)


def _nodes_lost(
    site: Site, dice: random.Random, most: int, *, at_once: int, replaced: bool, by_raylet: bool
) -> list[Verdict]:
    session = Session(site, dice, "survived")
    with _cluster(nodes=3) as cluster, session.running("--workers", "1:4", "--ray-address", cluster.address) as run:
        for _ in range(min(most, 3)):
            if not run.reaches(run.receipts() + dice.randint(8, 25)):
                break
            for node in dice.sample(cluster.nodes, min(at_once, len(cluster.nodes))):
                cluster.lose(node, by_raylet=by_raylet)
            session.struck()
            if replaced:
                for _ in range(at_once):
                    cluster.add()
        return session.verdicts(run.ended())


def node_added(site: Site, dice: random.Random, most: int) -> list[Verdict]:
    """The cluster grows while the run is at work, and the run with it."""
    session = Session(site, dice, "survived")
    with _cluster(nodes=0) as cluster, session.running("--workers", "1:4", "--ray-address", cluster.address) as run:
        for _ in range(min(most, 2)):
            if not run.reaches(run.receipts() + dice.randint(5, 20)):
                break
            cluster.add()
            session.struck()
        return session.verdicts(run.ended())


class _Cluster:
    """A head that stays, and nodes of one processor each; all are processes of this machine."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(shutdown_at_exit=False)
        self._add()
        self.address = str(self._cluster.address)
        self.nodes: list[Any] = []

    def _add(self) -> Any:
        return self._cluster.add_node(
            num_cpus=1, node_ip_address="127.0.0.1", include_dashboard=False, object_store_memory=80 << 20
        )

    def add(self) -> None:
        self.nodes.append(self._add())

    def lose(self, node: Any, *, by_raylet: bool) -> None:
        self.nodes.remove(node)
        if by_raylet:
            node.all_processes["raylet"][0].process.kill()
            time.sleep(2)  # its workers notice by themselves
        self._cluster.remove_node(node, allow_graceful=False)

    def shut_down(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


@contextmanager
def _cluster(*, nodes: int) -> Iterator[_Cluster]:
    cluster = _Cluster()
    try:
        for _ in range(nodes):
            cluster.add()
        yield cluster
    finally:
        cluster.shut_down()


Blows = Callable[[Site, random.Random, int], list[Verdict]]
"""Strikes one output several times, at most as often as told; a verdict for each blow that met a run at work."""


@dataclass(frozen=True, kw_only=True)
class KillTrial:
    """times: blows in a full run of the suite. most: blows that one output gets."""

    name: str
    blows: Blows
    times: int
    most: int


TRIALS: Final = (
    KillTrial(name="SIGKILL, a worker", blows=actors_killed, times=16, most=8),
    KillTrial(name="SIGKILL, the driver and its Ray", blows=drivers_killed(*ON_RAY, last=ON_RAY), times=20, most=10),
    KillTrial(name="SIGKILL, one process for all", blows=drivers_killed(*IN_PROCESS), times=20, most=10),
    KillTrial(
        name="SIGKILL, then one worker instead of two",
        blows=drivers_killed(*ON_RAY, last=("--workers", "1")), times=2, most=1,
    ),
    KillTrial(name=f"SIGTERM, {GRACE_SECONDS:.0f} s of grace", blows=told_to_stop, times=8, most=4),
    KillTrial(name="SIGKILL, a node's raylet", blows=raylets_killed, times=6, most=3),
    KillTrial(name="a node lost for good", blows=node_lost_for_good, times=2, most=2),
    KillTrial(name="two nodes lost at once", blows=two_nodes_lost, times=4, most=2),
    KillTrial(name="a node added", blows=node_added, times=2, most=2),
)  # fmt: skip
