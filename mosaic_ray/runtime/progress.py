"""What a person sees while a run works: a bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from mosaic_ray.text import seen_on_one_line

LINE_EVERY: Final = 5.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Progress of one phase, shown even while nothing finishes.

    total, done: in ``unit``; ``done`` is what an earlier start had finished, which no rate or ETA counts.
    quiet: show nothing, for a phase that is over at once.
    """

    def __init__(self, name: str, total: int, *, unit: str, done: int = 0, quiet: bool = False) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._done = self._before = done
        self._note, self._made = "", ""
        self._quiet = quiet
        self._started = time.monotonic()
        self._bar: Bar | None = None
        self._over = threading.Event()
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self._quiet:
            return self
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rates]}"),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=self._total, completed=self._before, rates="")
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
            self._print()

    def update(self, done: int, note: str, *, samples: int = 0, tokens: int = 0) -> None:
        """Say what is done so far; samples and tokens are those made since this phase began."""
        elapsed = max(time.monotonic() - self._started, 1e-6)
        rates = f", {_compact(samples / elapsed)} samples/s, {_compact(tokens / elapsed)} tokens/s" if samples else ""
        self._done, self._note, self._made = done, note, rates
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rates=f"{_compact(self._rate(elapsed))} {self._unit}/s{rates}")

    def _rate(self, elapsed: float) -> float:
        return (self._done - self._before) / elapsed

    def _tick(self) -> None:
        while not self._over.wait(LINE_EVERY):
            self._print()

    def _print(self) -> None:
        elapsed = max(time.monotonic() - self._started, 1e-6)
        rate = self._rate(elapsed)
        eta = f"{(self._total - self._done) / rate:.0f} s" if rate > 0 else "unknown"
        note = f", {seen_on_one_line(self._note)}" if self._note else ""
        print(
            f"{self._name}: {self._done:,} of {self._total:,} {self._unit} ({self._done / max(1, self._total):.0%})"
            f"{note}, {_compact(rate)} {self._unit}/s{self._made}, {elapsed:.0f} s, eta {eta}",
            file=sys.stderr,
            flush=True,
        )


def _compact(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{suffix}"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
