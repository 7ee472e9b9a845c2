"""How many bytes this process has read from its stores, however it came by them."""

from __future__ import annotations

from threading import Lock

_lock = Lock()
_read = 0


def count_read(size: int) -> None:
    """Add bytes that a store has handed over."""
    global _read
    with _lock:
        _read += size


def bytes_read() -> int:
    """Since the process began; the difference of two is what was read in between."""
    return _read
