"""What a check of the doctor found, and what several of them find."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from mosaic_ray.errors import MosaicError
from mosaic_ray.io.failures import code_of
from mosaic_ray.runtime.joining import LEAST_ROOM

MAX_SKEW: Final = 60.0
"""Seconds between two clocks. Leases do without clocks (:mod:`mosaic_ray.runtime.lease`), but S3 refuses what was
signed 15 minutes off, and times in logs and manifests and the dates that snapshots are named by are then wrong."""


class Finding(NamedTuple):
    """What a check found.

    mark: ``failed`` would stop a run, ``warning`` may, and what is ``unknown`` could not be checked.
    remedy: what to do; empty where there is nothing to do, or where ``found`` ends with it.
    """

    mark: Literal["ok", "warning", "failed", "unknown"]
    check: str
    found: str
    remedy: str = ""


def failed(check: str, error: MosaicError, remedy: str = "") -> Finding:
    """remedy: what to do beside what the error says."""
    return Finding("failed", check, str(error), remedy)


def permission(error: MosaicError, actions: str) -> str:
    """The remedy where it is S3 that does not permit something. actions: what S3 calls what was asked for."""
    cause = error.__cause__
    return f"Allow {actions} there" if cause is not None and code_of(cause) in ("AccessDenied", "403") else ""


def skewed(whose: str, ahead: float) -> Finding | str:
    """ahead: seconds by which a clock is ahead of that of this machine."""
    if abs(ahead) <= MAX_SKEW:
        return f"that of {whose} is {abs(ahead):.0f} s from that of this machine"
    found = f"that of {whose} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} that of this machine"
    remedy = f"Set the clocks by NTP; the limit is {MAX_SKEW:.0f} s. S3 refuses requests that are 900 s off"
    return Finding("warning", "clock", found, remedy)


def room(check: str, place: str, *, free: int, need: int, what: str, otherwise: str) -> Finding:
    """free, need: bytes. what: takes them. otherwise: the remedy, beside freeing some."""
    found = f"{place}: {amount(free)} free" + (f"; {what} take about {amount(need)}" if need else "")
    if free >= max(need, LEAST_ROOM):
        return Finding("ok", check, found)
    return Finding("failed" if free < LEAST_ROOM else "warning", check, found, f"Free some space, or {otherwise}")


def amount(count: int) -> str:
    """Bytes for a reader, as in ``1.5 MB``."""
    for limit, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= limit:
            return f"{count / limit:,.1f} {unit}"
    return f"{count} bytes"
