"""Processes of this machine that serve on 127.0.0.1: an S3 server, and the nodes of a Ray cluster.

Every one is a child of this process, writes a log of its own, and is ended with everything that it has started.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import psutil  # type: ignore[import-untyped]

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent

_START_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 20.0
_OBJECT_STORE: Final = 80 << 20
"""Bytes of shared memory of a node; Ray's least is 75 MiB, and the job needs little."""
_TAIL: Final = 20
"""Lines of a log that an error shows."""
_RUNS: Final = "will now block forever"
"""What ``ray start --block`` writes when its node has joined and the files are written."""
_LOOPBACK: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Without it Ray replaces 127.0.0.1 by the host's own address, and its nodes listen to other machines."""
_START_WORKER: Final = """
import types
from ray.scripts import scripts
known = vars(scripts.ray_constants)
scripts.ray_constants = types.SimpleNamespace(**{**known, "ENABLE_RAY_CLUSTER": True})
scripts.main()
"""
"""The program ``ray``, but that ``ray start --address`` does not refuse to work with _LOOPBACK."""
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")


_Ready = TypeVar("_Ready")


class LocalError(Exception):
    """Something on this machine did not start, did not answer in time, or ended too soon."""


class Server:
    """One process that goes on until it is stopped, with its log.

    command: program and arguments. log: the file that its output goes to.
    """

    def __init__(self, name: str, command: list[str], *, environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self._log = log
        self._family: set[psutil.Process] = set()
        with log.open("w") as out:
            # A session of its own, so that Ctrl-C reaches only this process, which then ends the others in order.
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)

    def announced(self, pattern: str) -> str:
        """The whole match of a pattern in its log, as soon as it is there. Raises as :meth:`until`."""
        return self.until(lambda: re.search(pattern, self._text()))[0]

    def until(self, ready: Callable[[], _Ready | None]) -> _Ready:
        """What ``ready`` gives, as soon as it is not None.

        Raises LocalError if the process ends before that, or takes longer than 90 s.
        """
        deadline = time.monotonic() + _START_SECONDS
        while (found := ready()) is None:
            if self._process.poll() is not None:
                raise LocalError(f"{self.name} ended with status {self._process.returncode}.{self._tail()}")
            if time.monotonic() > deadline:
                raise LocalError(f"{self.name} did not start within {_START_SECONDS:.0f} s.{self._tail()}")
            time.sleep(0.05)
        return found

    def ask_to_end(self) -> None:
        """Send it SIGTERM, and wait for nothing."""
        if self._process.poll() is None:
            self._family.update(psutil.Process(self._process.pid).children(recursive=True))
            self._process.terminate()

    def stop(self) -> None:
        """End it and everything that it has started, and nothing else on the machine (as ``ray stop`` would)."""
        self.ask_to_end()
        for survivor in psutil.wait_procs(self._family, timeout=_STOP_SECONDS)[1]:
            survivor.kill()
        try:
            self._process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _text(self) -> str:
        return _COLOUR.sub("", self._log.read_text(errors="replace"))

    def _tail(self) -> str:
        lines = self._text().splitlines()[-_TAIL:]
        return "\n".join([f" The end of {self._log}:", *(f"    {line}" for line in lines)])


@contextmanager
def serving(name: str, command: list[str], *, environment: Mapping[str, str], log: Path) -> Iterator[Server]:
    """A :class:`Server` for as long as the block goes on."""
    server = Server(name, command, environment=environment, log=log)
    try:
        yield server
    finally:
        server.stop()


def clean_environment() -> dict[str, str]:
    """That of this process, with this Python's programs in the path and without stores, clusters and credentials."""
    dropped = ("AWS_", "RAY_", "PYTHONPATH", "MOSAIC_RAY_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{kept['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def short_directory() -> Iterator[Path]:
    """A temporary directory with a path that is short enough for the sockets that Ray has below it."""
    with tempfile.TemporaryDirectory(prefix="mr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def s3_server(environment: Mapping[str, str], *, log: Path) -> Iterator[str]:
    """Moto's S3 server, without a bucket. Gives its address, ``http://127.0.0.1:PORT``; it accepts any credentials."""
    command = ["moto_server", "-H", "127.0.0.1", "-p", "0"]
    with serving("the S3 server", command, environment=environment, log=log) as server:
        yield server.announced(r"http://127\.0\.0\.1:\d+")


@dataclass(frozen=True)
class Submitted:
    """What a call of ``ray job submit`` came to: its exit status and everything it printed, the job's log included."""

    status: int
    output: str

    @property
    def job(self) -> str:
        return str(re.findall(r"Job '(\w+)' submitted", self.output)[0])


@dataclass(frozen=True)
class Cluster:
    """A running cluster that asks for tokens, and a user of it.

    address: of the dashboard and the job server. environment: what a shell needs to submit jobs.
    code: the directory that is submitted. folder: of the head node, with ``prom_metrics_service_discovery.json``.
    """

    address: str
    token: str
    environment: Mapping[str, str]
    code: Path
    folder: Path

    def submit(
        self, *arguments: str, code: Path | None = None, wait: bool = True, env: Mapping[str, str] | None = None
    ) -> Submitted:
        """Submit ``python jobs/mosaic_corpus.py ARGUMENTS``, and collect what is printed; within 120 s."""
        environment = {**self.environment, **(env or {})}
        options = ["--working-dir", str(code or self.code), *([] if wait else ["--no-wait"])]
        command = ["ray", "job", "submit", *options, "--", "python", "jobs/mosaic_corpus.py", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
        return Submitted(done.returncode, _COLOUR.sub("", done.stdout + done.stderr))

    def ask(self, path: str, *, method: str = "GET") -> Any:
        """The answer of the cluster's HTTP interface below ``/api/``. Raises urllib's HTTPError for a refusal."""
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.address}/api/{path}", headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def cluster(
    home: Path, environment: Mapping[str, str], *, head_cpus: int, workers: int = 0, said: Callable[[str], None] = print
) -> Iterator[Cluster]:
    """A head and ``workers`` further nodes of one CPU, started with the commands that the README gives.

    home: an empty directory, the home of whoever works with the cluster: its token, code, logs and Ray's own files. Its
        path must be short, as that of :func:`short_directory`.
    environment: what the nodes inherit, and so every job: addresses and credentials of the store, for one.
    said: is told of every node that runs.
    """
    dashboard, agent, client, dashboard_metrics, autoscaler_metrics = free_ports(5)
    environment = {
        **environment,
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "DASHBOARD_METRIC_PORT": str(dashboard_metrics),
        "AUTOSCALER_METRIC_PORT": str(autoscaler_metrics),
        **_LOOPBACK,
    }
    subprocess.run(
        ["ray", "get-auth-token", "--generate"], env=environment, capture_output=True, timeout=60, check=True
    )
    code = home / "code"
    for folder in ("mosaic_ray", "jobs"):
        shutil.copytree(ROOT / folder, code / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    head = {
        "num-cpus": head_cpus,
        "port": 0,
        "dashboard-host": "127.0.0.1",
        "dashboard-port": dashboard,
        "dashboard-agent-listen-port": agent,
        "ray-client-server-port": client,
    }
    with ExitStack() as stack:
        nodes = [stack.enter_context(_node("head", home, environment, ["ray", "start", "--head"], head))]
        nodes[0].announced(_RUNS)
        address = (home / "head" / "ray_current_cluster").read_text().strip()
        said(f"the head node runs at {address}")
        joining = [sys.executable, "-c", _START_WORKER, "start", f"--address={address}"]
        for number in range(1, workers + 1):
            node = _node(f"worker-{number}", home, environment, joining, {"num-cpus": 1})
            nodes.append(stack.enter_context(node))
        for worker in nodes[1:]:
            worker.announced(_RUNS)
            said(f"{worker.name} has joined")
        nodes[0].until(lambda: _listening(agent))  # takes the jobs that are submitted, and comes last
        token = (home / ".ray" / "auth_token").read_text().strip()
        for each in nodes:
            stack.callback(each.ask_to_end)  # all, before the first is waited for: each takes seconds
        yield Cluster(environment["RAY_API_SERVER_ADDRESS"], token, environment, code, home / "head")


@contextmanager
def _node(
    name: str, home: Path, environment: Mapping[str, str], start: list[str], flags: Mapping[str, object]
) -> Iterator[Server]:
    """One node, with ports and a directory that no other node has. start: the command, without its flags."""
    every = {
        "node-ip-address": "127.0.0.1",
        "dashboard-agent-listen-port": free_ports(1)[0],
        "min-worker-port": 0,  # any free one: the nodes share the machine's ports
        "max-worker-port": 0,
        "object-store-memory": _OBJECT_STORE,
        "temp-dir": home / name,
        **flags,
    }
    command = [*start, "--block", *(f"--{key}={value}" for key, value in every.items())]
    with serving(name, command, environment=environment, log=home / f"{name}.log") as server:
        yield server


def _listening(port: int) -> bool | None:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return None
    return True


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nothing listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(bound.getsockname()[1]) for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports
