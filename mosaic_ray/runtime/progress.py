"""What a person sees while a run works: a bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Final

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from mosaic_ray.logs import fields, on_terminal
from mosaic_ray.text import seen_on_one_line

LINE_EVERY: Final = 5.0
"""Seconds between two lines where there is no terminal."""

BAR_CELLS: Final = 20

_log = logging.getLogger("mosaic_ray")


class Progress:
    """Progress of one phase, shown even while nothing finishes.

    total, done: in ``unit``; ``done`` is what an earlier start had finished, which no rate or ETA counts.
    quiet: show nothing, for a phase that is over at once.
    """

    def __init__(self, name: str, total: int, *, unit: str, done: int = 0, quiet: bool = False) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done = self._before = done
        self._note = ""
        self._made: tuple[str, ...] = ()
        self._quiet = quiet
        self._started = time.monotonic()
        self._bar: Live | None = None
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        if on_terminal():
            console = Console(stderr=True, force_terminal=True)
            self._bar = Live(get_renderable=lambda: self._drawn(console.width), console=console, redirect_stdout=False)
            self._bar.start()
        else:
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._ticker is not None:
            self._over.set()
            self._ticker.join()
            self._tell()

    def update(self, done: int, note: str, *, samples: int = 0, tokens: int = 0) -> None:
        """Say what is done so far; samples and tokens are those made since this phase began."""
        elapsed = self._elapsed
        self._done, self._note = done, seen_on_one_line(note)
        self._made = (
            (f"{_compact(samples / elapsed)} samples/s", f"{_compact(tokens / elapsed)} tokens/s") if samples else ()
        )

    @property
    def _elapsed(self) -> float:
        return max(time.monotonic() - self._started, 1e-6)

    @property
    def _rate(self) -> float:
        return (self._done - self._before) / self._elapsed

    @property
    def _eta_seconds(self) -> float | None:
        """None where nothing tells."""
        left = self._total - self._done
        if left <= 0:
            return 0.0
        return left / self._rate if self._rate > 0 else None

    @property
    def _share(self) -> float:
        return self._done / max(1, self._total)

    def _tick(self) -> None:
        while not self._over.wait(LINE_EVERY):
            self._tell()

    def _tell(self) -> None:
        eta = self._eta_seconds
        parts = (
            f"{self._name}: {self._done:,} of {self._total:,} {self._unit} ({self._share:.0%})",
            *([self._note] if self._note else []),
            f"{_compact(self._rate)} {self._unit}/s",
            *self._made,
            _duration(self._elapsed),
            f"eta {_duration(eta)}",
        )
        told = {"phase": self._name, "done": self._done, "total": self._total, "unit": self._unit}
        rates = {"rate": round(self._rate, 3), "eta_seconds": None if eta is None else round(eta, 1)}
        _log.info("%s", ", ".join(parts), extra=fields(**told, **rates))

    def _drawn(self, width: int) -> Text:
        """One line: of its parts, the most important first, those that there is room for."""
        over = self._done >= self._total
        when = f"in {_duration(self._elapsed)}" if over else f"eta {_duration(self._eta_seconds)}"
        line = f"{self._done:,}/{self._total:,} ({self._share:.0%}), {when}"
        room = width - cell_len(f"{self._name} {line}")
        full = int(BAR_CELLS * min(1.0, self._share))
        bar = Text()
        if room > BAR_CELLS:
            bar = Text.assemble(("━" * full, "cyan"), ("─" * (BAR_CELLS - full), "dim"), " ")
            room -= BAR_CELLS + 1
        for part in (f"{_compact(self._rate)} {self._unit}/s", self._note, *self._made):
            if part and cell_len(part) + 2 <= room:
                line += f", {part}"
                room -= cell_len(part) + 2
        return Text.assemble(f"{self._name} ", bar, line, no_wrap=True, overflow="ellipsis")


def _duration(seconds: float | None) -> str:
    """``42 s``, ``3 min 12 s``, ``5 h 7 min``."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _compact(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{suffix}"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
