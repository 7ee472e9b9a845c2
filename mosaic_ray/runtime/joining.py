"""What it takes to join a Ray cluster, or to start one, short of Ray itself."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from mosaic_ray.errors import SettingsError, TaskError

HEAD_SHARE: Final = 0.75
"""Of the time for which Ray waits for a head that is gone, the share after which the run ends by itself."""

LEAST_ROOM: Final = 4 << 20
"""Bytes that a private Ray must find free for its logs and sockets; 0.2 MB are written in a short run."""

_CONNECT_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 2.0
_HEAD_SECONDS: Final = "RAY_gcs_rpc_server_reconnect_timeout_s"

_log = logging.getLogger("mosaic_ray")


class Lifeline:
    """Tells a driver that the Ray it depends on is gone, before Ray (2.60) ends its process without a word.

    It does so about 15 s after the death of the raylet of the driver's node, and 60 s after that of the head.

    raylet: path of its socket.
    head: ``host:port`` of the head's server.
    """

    def __init__(self, raylet: str, head: str) -> None:
        self.lost = self._told = False
        self._raylet = raylet
        self._head = head
        ray_waits = float(os.environ.get(_HEAD_SECONDS, 60))
        self._head_seconds = HEAD_SHARE * ray_waits
        self._looked = self._answered = time.monotonic()

    def check(self) -> None:
        """Look, at most every two seconds. Raises TaskError where the raylet is gone, or the head for too long."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        if self._raylet_is_gone():
            self._give_up(f"the Ray node of this run's driver has died: nothing listens at {self._raylet}")
        host, _, port = self._head.rpartition(":")
        try:
            _connect(host, port, seconds=_LOOK_SECONDS)
        except OSError as error:
            away = now - self._answered
            if away > self._head_seconds:
                self._give_up(f"the head of the Ray cluster at {self._head} has not answered for {away:.0f} s: {error}")
            if not self._told:
                self._told = True
                _log.warning("the head of the Ray cluster at %s does not answer: %s", self._head, error)
        else:
            self._answered, self._told = now, False

    def _raylet_is_gone(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_LOOK_SECONDS)
            try:
                client.connect(self._raylet)
            except ConnectionRefusedError:
                return True
            except OSError:  # busy, or its name was tidied away
                pass
        return False

    def _give_up(self, what: str) -> None:
        self.lost = True
        raise TaskError(f"{what}. Finished tasks are kept; the same command, on a Ray that lives, goes on from there")


def token_found() -> bool:
    """Whether Ray would find a token to show or to ask for."""
    return bool(
        os.environ.get("RAY_AUTH_TOKEN")
        or os.environ.get("RAY_AUTH_TOKEN_PATH")
        or (Path.home() / ".ray" / "auth_token").exists()
    )


def require_room() -> str:
    """The folder in which a private Ray keeps its logs and sockets.

    Raises SettingsError where its disk is full. Ray itself (2.60) would wait half a minute for files that its processes
    cannot write, and say nothing of the disk.
    """
    folder = os.path.join(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")
    place = folder
    while not os.path.exists(place):
        place = os.path.dirname(place) or "."
    free = shutil.disk_usage(place).free
    if free < LEAST_ROOM:
        raise SettingsError(
            f"{folder}, where Ray keeps its logs and sockets: {free >> 10} KiB are free, and it takes "
            f"{LEAST_ROOM >> 10}; free some space, or set RAY_TMPDIR to a place that has it (a short path)"
        )
    return folder


def knock(address: str) -> None:
    """Raise SettingsError unless something listens at ``host:port``.

    Ray itself (2.60) would try an address where nothing listens for a quarter of an hour.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "://" in host:
        raise SettingsError(
            f"{address!r} is not an address to join a Ray cluster at: give host:port of its head, auto or local. "
            "(http:// is for `ray job submit`; ray:// is not supported)"
        )
    try:
        _connect(host, port, seconds=_CONNECT_SECONDS)
    except OSError as error:
        raise SettingsError(
            f"nothing answers at {address}, the address of the Ray cluster: {error}. Start the cluster "
            "(`ray start --head`), correct the address or RAY_ADDRESS, or leave both out for a private Ray"
        ) from error


def refused(address: str, error: Exception) -> SettingsError:
    """What to say when Ray does not join the cluster at ``host:port``."""
    reason = " ".join(str(error).split())
    if "Version mismatch" in reason:
        return SettingsError(
            f"cannot join the Ray cluster at {address}: {reason}. Use the same versions of Ray and Python on both "
            "sides, or send the job to the cluster (`ray job submit`), where its own run it"
        )
    return SettingsError(
        f"cannot join the Ray cluster at {address}: {reason}. "
        f"RAY_AUTH_MODE is {os.environ.get('RAY_AUTH_MODE', 'not set')} here, and "
        f"{'a' if token_found() else 'no'} token was found. If the cluster asks for tokens, set "
        "RAY_AUTH_MODE=token and give its token by RAY_AUTH_TOKEN or in ~/.ray/auth_token; else compare the "
        "versions of Ray, and see that this is the port of the head (6379 by default)"
    )


def loopback_only(address: str, own: str) -> bool:
    """Whether a cluster listens at this loopback ``host:port`` and not at the host's own address too."""
    host, _, port = address.rpartition(":")
    if host != "localhost" and not host.startswith("127."):
        return False
    try:
        _connect(own, port, seconds=_CONNECT_SECONDS)
    except OSError:
        return True
    return False


def _connect(host: str, port: str, *, seconds: float) -> None:
    socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back for a few seconds; the caller's handlers get them afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers = [
        (number, signal.signal(number, lambda number, _: received.append(number)))
        for number in (signal.SIGINT, signal.SIGTERM)
    ]
    try:
        yield
    finally:
        for number, handler in handlers:
            signal.signal(number, handler or signal.SIG_DFL)
        for received_number in received:
            signal.raise_signal(received_number)


@contextmanager
def changed(module: Any, name: str, value: Any) -> Iterator[None]:
    """A module's setting that has no public way, changed for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def bare(private: Any) -> Iterator[None]:
    """A Ray that is started now leaves out what a private one has no use for, and takes half of the time.

    It cannot grow, nobody reads its logs here, and of the dashboard's server only the part that counts installations
    of Ray would run. The dashboard's agent stays, but serves no HTTP: where another Ray of the machine has its port,
    which is always the same, it would wait for seconds.

    private: the package ``ray._private`` (2.60).
    """
    missing = ImportError("a private Ray has no dashboard")
    with ExitStack() as stack:
        for name in ("start_monitor", "start_log_monitor", "start_api_server"):
            stack.enter_context(changed(private.node.Node, name, lambda _, **__: None))
        stack.enter_context(changed(private.utils, "get_dashboard_dependency_error", lambda: missing))
        yield
