"""One run at a time on an output, by numbered leases that lie in the output itself.

A run takes the number after the highest that it finds, by a conditional write, which one of several wins. While it
works it writes its lease anew every few seconds; at its end it writes that it has ended. So a start that finds a lease
knows what to do: one that has ended, or whose process is gone from this very machine, is followed at once; any other is
watched, and followed only when it was not renewed for TRUST_SECONDS. No clock is compared with another machine's.

A run that was believed dead and wakes up finds a higher number, and leaves. Until then its workers can do no harm: they
write the same bytes, because a run that did not end in order is only ever continued by one with the same settings and
input (:attr:`Lease.orderly`), never replaced. And a manifest is published by a conditional write too.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from mosaic_ray.errors import ConcurrentRunError, MosaicError
from mosaic_ray.io.storage import Storage
from mosaic_ray.pulse import work_beside

LEASES: Final = "_mosaic/leases"

RENEW_SECONDS: Final = 5.0
"""How often a run says that it is at work."""

TRUST_SECONDS: Final = 60.0
"""How long a run may not be heard of before another one may go on in its place."""

LOOK_SECONDS: Final = 1.0
"""How often a run that may be dead is looked at."""

PATIENCE: Final = 10.0
"""Seconds for which a renewal is tried again: the next one comes anyway."""

log = logging.getLogger("mosaic_ray")


@dataclass
class Lease:
    """The right to write to an output, as long as nobody took a higher number.

    orderly: whether every run before this one ended in order, so that none of their workers is left.
    """

    output: Storage
    number: int
    orderly: bool
    lost: bool = False
    _said: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def quick(self) -> Storage:
        """The output, for what had better fail soon than be tried for long."""
        return replace(self.output, patience=min(PATIENCE, self.output.patience))

    def check(self) -> None:
        """As :meth:`confirm`, as far as is known without asking."""
        if self.lost:
            self.confirm()

    def confirm(self, *, quick: bool = False) -> None:
        """Raises ConcurrentRunError where another run has taken this one's place. quick: see :attr:`quick`."""
        output = self.quick if quick else self.output
        mine = _read(output, self.number)
        if mine.get("nonce", self._said.get("nonce")) != self._said.get("nonce"):  # the store took two for one
            raise _busy(output, mine)
        if output.exists(_path(self.number + 1)):
            raise ConcurrentRunError(
                f"{self.output.uri()}: another run ({_who(_read(output, self.number + 1))}) has taken the place "
                f"of this one, which was not heard of for {TRUST_SECONDS:.0f} s. That one goes on; there is nothing to "
                "do here"
            )

    def _renew(self, **more: object) -> None:
        self._said = {**self._said, "renewed": self._said["renewed"] + 1, **more}
        self.quick.publish(_path(self.number), _bytes(self._said))


class Heard(NamedTuple):
    """What one look at the last lease of an output tells.

    who: the process that holds or held it. when: it was written. at_work: it has not ended, its process is not known to
    be gone, and ``when`` is less than TRUST_SECONDS ago by this machine's clock. Only :func:`hold` makes sure.
    """

    who: str
    when: datetime | None
    at_work: bool


def last_heard(output: Storage) -> Heard | None:
    """None where no run has ever held the output."""
    leases = {_number(path): info for path, info in output.listing(LEASES)}
    number = max(leases, default=0)
    if not number:
        return None
    said, told = _read(output, number), leases[number].modified
    when = datetime.fromisoformat(told) if told else None
    lately = when is None or datetime.now(UTC) - when < timedelta(seconds=TRUST_SECONDS)
    return Heard(_who(said), when, lately and not said.get("ended") and not _gone(said))


@contextmanager
def hold(output: Storage) -> Iterator[Lease]:
    """Hold an output while the block runs; other runs leave it alone.

    Where the block fails, uploads that it left unfinished are removed.

    Raises ConcurrentRunError where another run is at work there; to know that can take TRUST_SECONDS.
    """
    lease = _take(output)
    over = threading.Event()
    renewing = threading.Thread(target=_keep_renewing, args=(lease, over), daemon=True)
    renewing.start()
    try:
        yield lease
    except BaseException as error:
        try:
            lease.confirm(quick=True)
            if not output.local:
                remove_unfinished(lease.quick)
        except ConcurrentRunError as lost:  # what failed is then what the other run has cleaned up
            if isinstance(error, MosaicError):
                raise lost from error
        except MosaicError:
            pass
        raise
    finally:
        over.set()
        renewing.join(timeout=PATIENCE)
        with suppress(MosaicError):
            if not lease.lost:
                lease._renew(ended=True)


def remove_unfinished(output: Storage) -> None:
    """Remove what killed writers left in an output, if the store lets that be seen and removed."""
    try:
        # Of a whole bucket, uploads may be anybody's.
        for folder in ("data", "rejects", "_mosaic") if output.local or "/" not in output.root else ("",):
            output.remove_unfinished(folder)
    except MosaicError as error:
        log.warning("what writers may have left unfinished was not removed: %s", error)


def _take(output: Storage) -> Lease:
    number = max((_number(path) for path, _ in output.listing(LEASES)), default=0)
    while output.exists(_path(number + 1)):  # a listing may be stale
        number += 1
    orderly = number == 0 or _await_end(output, number)
    mine = {**_self(), "nonce": secrets.token_hex(8), "renewed": 0, "ended": False, "orderly": orderly}
    lease = Lease(output, number + 1, orderly, _said=mine)
    if not output.create(_path(lease.number), _bytes(mine)):
        raise _busy(output, _read(output, lease.number))
    if output.create(_path(lease.number), _bytes({**mine, "renewed": 1})):
        log.warning(
            "%s: the store does not honour conditional writes (If-None-Match), so two runs that begin within the same "
            "second may both work for some seconds, until each finds out whose the lease is",
            output.uri(),
        )
        time.sleep(LOOK_SECONDS)
        found = _read(output, lease.number)
        if found.get("nonce") != mine["nonce"]:
            raise _busy(output, found)
    return lease


def _await_end(output: Storage, number: int) -> bool:
    """Wait until the holder of a lease has ended or counts as dead; whether it and all before it ended in order.

    Raises ConcurrentRunError as soon as it is heard of.
    """
    first = _read(output, number)
    if first.get("ended"):
        return bool(first.get("orderly"))
    if _gone(first):
        return False
    log.warning(
        "%s: a run (%s) has not said that it ended; waiting for up to %.0f s to hear of it",
        output.uri(), _who(first), TRUST_SECONDS,
    )  # fmt: skip
    watched = 0.0
    while watched < TRUST_SECONDS:
        time.sleep(LOOK_SECONDS)
        asked = time.monotonic()
        now = _read(output, number)
        # Where the store did not answer, the holder could not write either.
        watched = watched + LOOK_SECONDS if time.monotonic() - asked < RENEW_SECONDS else 0.0
        if now.get("ended"):
            return bool(now.get("orderly"))
        if now != first or output.exists(_path(number + 1)):
            raise _busy(output, now)
    log.warning("%s: nothing was heard of it; going on in its place", output.uri())
    return False


def _keep_renewing(lease: Lease, over: threading.Event) -> None:
    work_beside()
    while not over.wait(RENEW_SECONDS):
        with suppress(MosaicError):  # the next may succeed; what counts is asked for before anything is published
            try:
                lease.confirm(quick=True)
            except ConcurrentRunError:
                lease.lost = True
                return
            lease._renew()


def _busy(output: Storage, holder: dict[str, Any]) -> ConcurrentRunError:
    return ConcurrentRunError(
        f"{output.uri()}: another run ({_who(holder)}) is at work on it. Let it finish, or give another --output"
    )


def _self() -> dict[str, Any]:
    process = os.getpid()
    return {**_machine(), "process": process, "began": _began(process)}


def _machine() -> dict[str, str]:
    """What tells this machine, and within it this container, from any other; as much of it as the system tells."""
    told = {"host": platform.node(), "boot": "", "container": ""}
    with suppress(OSError):
        told["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        told["container"] = os.readlink("/proc/self/ns/pid")
    return told


def _began(process: int) -> str:
    """When a process of this machine began, in the kernel's ticks; empty where that is not told."""
    with suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _gone(holder: dict[str, Any]) -> bool:
    """Whether a holder is known to be dead: it was a process of this machine, and is not there any more."""
    if {key: holder.get(key) for key in _machine()} != _machine():
        return False
    try:
        os.kill(int(holder["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return bool(_began(holder["process"]) != holder.get("began"))


def _who(holder: dict[str, Any]) -> str:
    return f"process {holder.get('process', 'unknown')} on {holder.get('host', 'an unknown machine')}"


def _path(number: int) -> str:
    return f"{LEASES}/{number:05d}.json"


def _number(path: str) -> int:
    digits = path.rpartition("/")[2].removesuffix(".json")
    return int(digits) if digits.isdecimal() else 0


def _read(output: Storage, number: int) -> dict[str, Any]:
    """What a holder has said; nothing where that cannot be read."""
    try:
        said = orjson.loads(output.read(_path(number)))
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _bytes(said: dict[str, Any]) -> bytes:
    return orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
