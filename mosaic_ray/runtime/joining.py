"""What it takes to join a Ray cluster, or to start one, short of Ray itself."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
