"""The engine on Ray while processes are killed, nodes leave and come, and the run is interrupted."""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from mosaic_ray.errors import SettingsError, TaskError
from mosaic_ray.logs import on_task
from mosaic_ray.runtime import crew, rounds
from mosaic_ray.runtime import engine as engines
from mosaic_ray.runtime.ray_engine import RayEngine

pytestmark = pytest.mark.timeout(120)

MOST = 3


@pytest.fixture(scope="module", autouse=True)
def ray_folder() -> Iterator[Path]:
    """Where Ray keeps its sockets and logs; a short path, because of the sockets."""
    folder = Path(tempfile.mkdtemp(prefix="mr", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", str(folder))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def engine() -> Iterator[RayEngine]:
    with RayEngine(min_workers=1, max_workers=MOST) as running:
        yield running


class Nodes:
    """A cluster whose nodes are processes of this machine."""

    def __init__(self) -> None:
        self._cluster = Cluster(shutdown_at_exit=False)

    def add(self, *, cpus: int) -> Any:
        return self._cluster.add_node(
            num_cpus=cpus, node_ip_address="127.0.0.1", include_dashboard=False, object_store_memory=80 << 20
        )

    def remove(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    @contextmanager
    def adding_later(self, *, cpus: int, seconds: float) -> Iterator[None]:
        """A node that comes in the meantime. Its thread stays, because the kernel ends the node with it."""
        over = threading.Event()

        def add() -> None:
            time.sleep(seconds)
            self.add(cpus=cpus)
            over.wait()

        thread = threading.Thread(target=add)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def shut_down(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    assert not ray.is_initialized(), "the tests with a private Ray come last"
    cluster = Nodes()
    yield cluster
    cluster.shut_down()


def describe(item: object) -> str:
    return f"task <{item}>"


def alive(processes: set[int]) -> set[int]:
    """Those that run; a process that ended and was not waited for does not."""
    running = set()
    for process in processes:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            running.add(process)
    return running


def until(condition: Callable[[], bool], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Signed:
    """Notes the process of each worker as a file's name, and works for a while."""

    def __init__(self, folder: Path, *, seconds: float = 0.02) -> None:
        self.folder = folder
        self.seconds = seconds

    def prepare(self) -> None:
        (self.folder / str(os.getpid())).touch()

    def __call__(self, _: int) -> tuple[int, str]:
        time.sleep(self.seconds)
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def processes(self) -> set[int]:
        return alive({int(path.name) for path in self.folder.iterdir()})


class Poison(Signed):
    def __call__(self, item: int) -> tuple[int, str]:
        if item == 13:
            with (self.folder.parent / "attempts").open("a") as attempts:
                attempts.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(item)


class DiesAtTheStart(Signed):
    def prepare(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Uneven(Signed):
    """Item 0 ends two seconds after all the others."""

    def __init__(self, folder: Path, *, others: int) -> None:
        super().__init__(folder, seconds=0)
        self.others = others
        self.done = folder.parent / "done"
        self.done.mkdir()

    def __call__(self, item: int) -> tuple[int, str]:
        if item == 0:
            assert until(lambda: len(list(self.done.iterdir())) == self.others, seconds=60)
            time.sleep(2)
        else:
            (self.done / str(item)).touch()
        return super().__call__(item)


class Environment:
    def __call__(self, item: str) -> str | None:
        return os.environ.get(item)


class Unsendable:
    def __call__(self, _: int) -> threading.Lock:
        return threading.Lock()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pids = tmp_path / "pids"
    pids.mkdir()
    return pids


class TestCluster:
    def test_two_nodes_lost_at_once_cost_no_item_and_a_new_one_is_used(
        self, nodes: Nodes, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(crew, "LOSSES", 0)  # not even if their workers die first, which then looks like their fault
        nodes.add(cpus=1)
        doomed = [nodes.add(cpus=1), nodes.add(cpus=1)]
        hosts: dict[str, int] = {}
        done: list[int] = []
        alone, enough = 0, threading.Event()
        with RayEngine(address=nodes.address) as engine, ExitStack() as later:
            items = itertools.takewhile(lambda _: not enough.is_set(), itertools.count())
            for item, (process, host) in engine.map(Signed(folder, seconds=0.2), items, describe=describe):
                done.append(item)
                hosts[host] = process
                if doomed and len(hosts) == 3:
                    for node in doomed:
                        os.kill(hosts.pop(node.node_id), signal.SIGKILL)
                    time.sleep(0.5)
                    while doomed:
                        nodes.remove(doomed.pop())
                elif not doomed:
                    alone += engine.workers.alive == 1
                    if alone == 20:  # four seconds with one worker, and nothing in the place of the others
                        later.enter_context(nodes.adding_later(cpus=1, seconds=0))
                    if alone >= 20 and len(hosts) == 2:
                        enough.set()
        assert "lost its worker and is done again" in caplog.text
        assert sorted(done) == list(range(len(done)))

    def test_without_room_it_says_so_and_goes_on_when_a_node_comes(
        self, nodes: Nodes, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rounds, "WARN_SECONDS", 1.0)
        nodes.add(cpus=1)
        with (
            nodes.adding_later(cpus=2, seconds=4),
            RayEngine(address=nodes.address, max_workers=2, cpus_per_worker=2, worker_memory=256 << 20) as engine,
        ):
            assert len(list(engine.map(Signed(folder), range(5), describe=describe))) == 5
        warnings = [record for record in caplog.records if record.name == "mosaic_ray"]
        assert {record.levelno for record in warnings} == {logging.WARNING}
        assert re.search(
            r"2 workers of 2 CPU and 0.25 GiB are asked for; the cluster has 1 CPU, 1 of them free, and \d+\.\d\d GiB",
            warnings[0].getMessage(),
        )
        assert len(warnings) >= 2

    def test_leaving_a_cluster_leaves_it_running(self, nodes: Nodes, folder: Path) -> None:
        nodes.add(cpus=1)
        work = Signed(folder)
        for _ in range(2):
            with RayEngine(address=nodes.address) as engine:
                assert len(list(engine.map(work, range(3), describe=describe))) == 3
            assert not ray.is_initialized()
            assert until(lambda: not work.processes(), seconds=10)

    @pytest.mark.parametrize(
        ("address", "words"),
        [
            ("127.0.0.1:1", "nothing answers at 127.0.0.1:1"),
            ("http://127.0.0.1:8265", "give host:port"),
            ("ray://127.0.0.1:10001", "give host:port"),
            ("somewhere", "give host:port"),
        ],
    )
    def test_a_wrong_address_is_refused_at_once(self, address: str, words: str) -> None:
        began = time.monotonic()
        with pytest.raises(SettingsError, match=words), RayEngine(address=address):
            pass
        assert time.monotonic() - began < 5
        assert not ray.is_initialized()

    def test_a_missing_token_is_explained(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:  # something answers there
            address = f"127.0.0.1:{server.getsockname()[1]}"
            script = run_script(
                f"""
                from mosaic_ray.errors import SettingsError
                from mosaic_ray.runtime.ray_engine import RayEngine
                try:
                    with RayEngine(address={address!r}):
                        pass
                except SettingsError as error:
                    print(error)
                """,
                HOME=str(tmp_path),
                RAY_AUTH_MODE="token",
                RAY_AUTH_TOKEN=None,
            )
            printed, _ = script.communicate(timeout=60)
        assert "RAY_AUTH_MODE is token here, and no token was found" in printed


def run_script(script: str, **changes: str | None) -> subprocess.Popen[str]:
    """A Python process of its own; ``changes`` are made to its environment."""
    environment = {**os.environ, **{name: value for name, value in changes.items() if value is not None}}
    for name, value in changes.items():
        if value is None:
            environment.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, env=environment
    )


class TestInterruption:
    @pytest.mark.parametrize(
        ("number", "ending"),
        [(signal.SIGTERM, "Interrupted: told to stop"), (signal.SIGINT, "KeyboardInterrupt: ")],
    )
    def test_a_signal_ends_the_map_promptly_and_leaves_nothing_running(
        self, folder: Path, tmp_path: Path, number: signal.Signals, ending: str
    ) -> None:
        (tmp_path / "home").mkdir()
        driver = run_script(
            f"""
            import itertools, os, pathlib, signal, sys, time
            from mosaic_ray.errors import Interrupted
            from mosaic_ray.runtime.ray_engine import RayEngine

            class Sleep:
                def __call__(self, item):
                    pathlib.Path({str(folder)!r}, str(os.getpid())).touch()
                    time.sleep(60 if item > 20 else 0)
                    return item

            def stop(number, frame):
                raise Interrupted("told to stop", signal_number=number)

            signal.signal(signal.SIGTERM, stop)
            try:
                with RayEngine(max_workers=2) as engine:
                    for item, _ in engine.map(Sleep(), itertools.count(), describe=str):
                        if item == 20:
                            print("ready", flush=True)
            except BaseException as error:
                print(f"{{type(error).__name__}}: {{error}}", flush=True)
            """,
            HOME=str(tmp_path / "home"),
            RAY_AUTH_MODE=None,
            RAY_AUTH_TOKEN=None,
        )
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        workers = {int(path.name) for path in folder.iterdir()}
        assert workers == alive(workers)
        time.sleep(0.5)  # every worker has an item that takes a minute by now
        began = time.monotonic()
        driver.send_signal(number)
        assert driver.communicate(timeout=30)[0].strip() == ending.strip()
        assert time.monotonic() - began < 10
        assert until(lambda: not alive(workers), seconds=5)
        assert not list((tmp_path / "home").iterdir()), "no token may be left in the home directory"

    def test_a_signal_during_the_start_is_kept_for_the_end_of_it(self, tmp_path: Path) -> None:
        script = run_script(
            """
            import os, signal, threading
            from mosaic_ray.errors import Interrupted
            from mosaic_ray.runtime.ray_engine import RayEngine

            def stop(number, frame):
                raise Interrupted("told to stop", signal_number=number)

            signal.signal(signal.SIGTERM, stop)
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
            try:
                with RayEngine(max_workers=1):
                    print("started")
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", signal.getsignal(signal.SIGTERM) is stop)
            """,
            HOME=str(tmp_path),
            RAY_AUTH_MODE=None,
            RAY_AUTH_TOKEN=None,
        )
        assert script.communicate(timeout=60)[0] == "Interrupted: told to stop True\n"


class TestWatch:
    def test_hangs_in_native_code_long_work_and_the_death_of_the_node_itself(
        self, folder: Path, tmp_path: Path
    ) -> None:
        """In one process, because each needs limits of its own; the last leaves no Ray to go on with."""
        script = run_script(
            f"""
            import logging, os, pathlib, re, sys, time
            import psutil
            from mosaic_ray.errors import MosaicError
            from mosaic_ray.pulse import beat
            from mosaic_ray.runtime.ray_engine import RayEngine

            logging.basicConfig(stream=sys.stdout, format="log: %(message)s")

            class Work:
                def __call__(self, item):
                    if item == "native":
                        try:
                            pathlib.Path({str(folder)!r}, "tried").touch(exist_ok=False)
                        except FileExistsError:
                            return item
                        re.match("(a+)+$", "a" * 60 + "b")
                    if item == "long":
                        for _ in range(60):
                            beat()
                            time.sleep(0.1)
                    if item == "node":
                        time.sleep(60)
                    return item

            def tell(item):
                if item == "long":
                    (raylet,) = (p for p in psutil.Process().children(recursive=True) if p.name() == "raylet")
                    raylet.kill()

            try:
                with RayEngine(worker_memory=1 << 47):
                    pass
            except MosaicError as error:
                print("error:", error, flush=True)
            try:
                with RayEngine(max_workers=1, stall_seconds=1.5) as engine:
                    for item, _ in engine.map(Work(), ["native", "long", "node"], describe="task <{{}}>".format):
                        print("done:", item, flush=True)
                        tell(item)
            except MosaicError as error:
                print("error:", error, flush=True)
            print("over")
            """,
            HOME=str(tmp_path),
            RAY_AUTH_MODE=None,
            RAY_AUTH_TOKEN=None,
        )
        printed, _ = script.communicate(timeout=100)
        lines = [line for line in printed.splitlines() if not line.startswith("log: starting")]
        assert re.match(r"error: worker_memory is 131072.00 GiB; this machine has \d+.\d\d GiB for workers$", lines[0])
        assert lines[1].startswith("log: task <native> lost its worker and is done again: ")
        assert lines[2] == "done: native"
        assert re.match(r"log: task <long> has been with its worker on node \w+ for [45] s$", lines[3])
        assert lines[4] == "done: long"
        assert lines[-2].startswith("error: the Ray node of this run's driver has died: ")
        assert lines[-2].endswith("goes on from there")
        assert lines[-1] == "over"
        assert script.returncode == 0
        logs = Path(os.environ["RAY_TMPDIR"]).glob("ray/session_*/logs/worker-*.err")
        assert any("Timeout (0:00:03)!" in path.read_text() for path in logs), "where it hung is in the worker's log"


class TestSettings:
    def test_impossible_numbers_are_refused(self) -> None:
        with pytest.raises(SettingsError, match="max_workers is 2; it must be at least 3"):
            RayEngine(min_workers=3, max_workers=2)
        with pytest.raises(SettingsError, match="cpus_per_worker is 0"):
            RayEngine(cpus_per_worker=0)


class TestPrivateRay:
    def test_killed_workers_cost_no_item(
        self, engine: RayEngine, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        dice, work, kills, done = random.Random(5), Signed(folder), 0, []
        for item, _ in engine.map(work, range(200), describe=describe):
            done.append(item)
            if len(done) % 20 == 10:
                os.kill(dice.choice(sorted(work.processes())), signal.SIGKILL)
                kills += 1
        assert kills == 10
        assert capfd.readouterr().out == "", "standard output belongs to the command"
        assert sorted(done) == list(range(200))

    def test_an_item_that_kills_every_worker_ends_the_map(
        self, engine: RayEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(crew, "VERDICT_SECONDS", 1.0)
        began = time.monotonic()
        with pytest.raises(TaskError, match=r"task <13> lost its worker 6 times .* memory.* \(--worker-memory\)"):
            list(engine.map(Poison(folder), range(40), describe=describe))
        assert time.monotonic() - began < 40
        # A few more where Ray could not tell at once that it was the process that died.
        assert 6 <= len((folder.parent / "attempts").read_text()) <= 10

    def test_workers_that_die_at_the_start_end_the_map(
        self, engine: RayEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "PAUSE_SECONDS", 0.02)
        with pytest.raises(TaskError, match="9 workers in a row were lost before they were ready"):
            list(engine.map(DiesAtTheStart(folder), range(40), describe=describe))

    def test_never_more_workers_than_the_maximum_or_the_items(self, engine: RayEngine, folder: Path) -> None:
        work, seen = Signed(folder), set()
        for _ in engine.map(work, range(150), describe=describe):
            seen.add(len(work.processes()))
            assert sum(engine.workers[1:]) <= MOST
        assert max(seen) == MOST

    def test_few_items_ask_for_few_workers(self, engine: RayEngine, folder: Path) -> None:
        results = engine.map(Signed(folder), range(9), describe=describe)
        next(results)
        results.close()  # type: ignore[attr-defined]
        for _ in engine.map(Signed(folder), [1, 2], describe=describe):
            assert sum(engine.workers[1:]) <= 2

    def test_idle_workers_leave_in_the_tail(
        self, engine: RayEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rounds, "IDLE_SECONDS", 0.2)
        work = Uneven(folder, others=59)
        for item, _ in engine.map(work, range(60), describe=describe):
            if item == 0:
                assert engine.workers.alive == 1
                assert until(lambda: len(work.processes()) == 1, seconds=5)
        assert 1 < len(list(folder.iterdir())) <= MOST

    def test_closing_early_ends_what_is_in_hand(self, engine: RayEngine, folder: Path) -> None:
        work = Uneven(folder, others=59)
        results = engine.map(work, range(60), describe=describe)
        next(results)
        assert work.processes()
        results.close()  # type: ignore[attr-defined]
        assert until(lambda: not work.processes(), seconds=3)
        assert engine.workers == (0, 0, 0)

    def test_one_map_at_a_time(self, engine: RayEngine, folder: Path) -> None:
        first = engine.map(Signed(folder), range(9), describe=describe)
        next(first)
        with pytest.raises(RuntimeError, match="one map at a time"):
            next(engine.map(Signed(folder), range(9), describe=describe))
        assert len(list(first)) == 8

    def test_a_result_that_cannot_be_sent_names_the_task(
        self, engine: RayEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engines, "PAUSE_SECONDS", 0.02)
        with pytest.raises(TaskError, match=r"task <1> was tried 3 times and failed: TypeError: cannot pickle"):
            list(engine.map(Unsendable(), [1], describe=describe))

    def test_a_worker_uses_one_core(self, engine: RayEngine) -> None:
        names = ["RAYON_NUM_THREADS", "OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM"]
        found = dict(engine.map(Environment(), names, describe=describe))
        assert found == {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

    def test_what_a_worker_logs_is_json_and_of_its_task(self, engine: RayEngine, ray_folder: Path) -> None:
        def warn(task: int) -> None:
            with on_task("v1:0123456789abcdef", task):
                logging.getLogger("mosaic_ray").warning("of a\nworker")

        def said() -> list[dict[str, Any]]:
            logs = (ray_folder / "ray").glob("session_latest/logs/worker-*.err")
            lines = [line for log in logs for line in log.read_text().splitlines()]
            return [json.loads(line) for line in lines if "of a\\nworker" in line]

        assert len(list(engine.map(warn, [7], describe=describe))) == 1
        assert until(lambda: bool(said()), seconds=10)
        (line,) = said()
        assert (line["run"], line["task"], line["level"]) == ("v1:012345678", 7, "warning")
        assert line["node"] == platform.node()

    @pytest.mark.usefixtures("engine")
    def test_it_listens_on_the_loopback_only(self) -> None:
        assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]  # type: ignore[no-untyped-call]
