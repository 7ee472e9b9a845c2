"""What a person sees while a run works: a bar on a terminal, a line every few seconds anywhere else."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

LINE_EVERY: Final = 5.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Progress of one phase.

    total, done: in ``unit``; ``done`` is what an earlier start had finished, which no rate or ETA counts.
    quiet: show nothing, for a phase that is over at once.
    """

    def __init__(self, name: str, total: int, *, unit: str, done: int = 0, quiet: bool = False) -> None:
        self._name, self._total, self._unit, self._before = name, total, unit, done
        self._quiet = quiet
        self._started = self._last_line = time.monotonic()
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        console = Console(stderr=True)
        if not self._quiet and console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rates]}"),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                console=console,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._name, total=self._total, completed=self._before, rates="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: int, note: str, *, samples: int = 0, tokens: int = 0, workers: object = None) -> None:
        """Report what is done so far, with totals of samples and tokens where the phase makes any."""
        if self._quiet:
            return
        now = time.monotonic()
        elapsed = max(now - self._started, 1e-6)
        rate = (done - self._before) / elapsed
        rates = f"{_compact(rate)} {self._unit}/s"
        if samples:
            share = (done - self._before) / max(done, 1)
            rates += f", {_compact(samples * share / elapsed)} samples/s, {_compact(tokens * share / elapsed)} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rates=rates)
        elif now - self._last_line >= LINE_EVERY or done >= self._total:
            self._last_line = now
            left = (self._total - done) / rate if rate > 0 else 0.0
            crew = f", workers {workers}" if workers is not None else ""
            print(
                f"{self._name}: {done:,} of {self._total:,} {self._unit} ({done / max(1, self._total):.0%}), {note}, "
                f"{rates}, {elapsed:.0f} s, eta {left:.0f} s{crew}",
                file=sys.stderr,
                flush=True,
            )


def _compact(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{suffix}"
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
