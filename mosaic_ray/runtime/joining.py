"""What it takes to join a Ray cluster, or to start one, short of Ray itself."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from mosaic_ray.errors import SettingsError

_CONNECT_SECONDS: Final = 10.0


def token_found() -> bool:
    """Whether Ray would find a token to show or to ask for."""
    return bool(
        os.environ.get("RAY_AUTH_TOKEN")
        or os.environ.get("RAY_AUTH_TOKEN_PATH")
        or (Path.home() / ".ray" / "auth_token").exists()
    )


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
        _connect(host, port)
    except OSError as error:
        raise SettingsError(
            f"nothing answers at {address}, the address of the Ray cluster: {error}. Start the cluster "
            "(`ray start --head`), correct the address or RAY_ADDRESS, or leave both out for a private Ray"
        ) from error


def refused(address: str, error: Exception) -> SettingsError:
    """What to say when Ray does not join the cluster at ``host:port``."""
    return SettingsError(
        f"cannot join the Ray cluster at {address}: {str(error).strip()}. "
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
        _connect(own, port)
    except OSError:
        return True
    return False


def _connect(host: str, port: str) -> None:
    socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


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
