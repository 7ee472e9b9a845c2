"""Breaks everything, hundreds of times, and holds every end to account: the right bytes, or a clear refusal.

    make chaos                                            # all of it, about 25 minutes on two cores
    make chaos CHAOS_ARGS="--quick"                       # a tenth of it
    make chaos CHAOS_ARGS="--only ETag --seed 7"          # the rows whose names match, by other dice
    make chaos CHAOS_ARGS="--only 'SIGKILL, a worker' --scale 5"

Every trial has a seed of its own, made from --seed, its name and its number; one that lost something is printed with
the flags that repeat it. The exit status is 1 if anything was lost, or a row had fewer trials than it should.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from tests.chaos import kills, pairs, servers, store_trials
from tests.chaos.outcome import Verdict
from tests.chaos.site import Server, Site
from tests.chaos.store import Stores
from tests.forked import fork_server
from tests.integration.conftest import S3Server

INSTALLED: Final = Path(sys.prefix) / "chaos"
"""The servers that are not Python go into the environment that the suite runs in."""
AT_ONCE: Final = 2
WIDTH: Final = 118
TRIES: Final = 3
"""So often a trial whose fault found nothing to strike is tried, by other dice."""


@dataclass
class Row:
    """One fault and what came of its trials. wanted: how many there should be."""

    section: str
    name: str
    wanted: int
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def lost(self) -> int:
        return sum(verdict.ending == "lost" for verdict in self.verdicts)

    @property
    def complete(self) -> bool:
        return len(self.verdicts) >= self.wanted

    def cells(self) -> list[str]:
        endings = [verdict.ending for verdict in self.verdicts]
        counts = [
            endings.count("survived"),
            endings.count("resumed"),
            sum(verdict.equal for verdict in self.verdicts),
            sum(verdict.balanced for verdict in self.verdicts),
            self.lost,
        ]
        seconds = sum(verdict.seconds for verdict in self.verdicts) / max(1, len(self.verdicts))
        return [self.name, str(len(self.verdicts)), *map(str, counts), f"{seconds:.1f}"]


class Suite:
    """Runs trials and keeps their rows, printing what was lost as it happens."""

    def __init__(self, site: Site, *, seed: int, scale: float, only: str, trial: int | None, console: Console) -> None:
        self.rows: list[Row] = []
        self._site = site
        self._seed = seed
        self._scale = scale
        self._only = re.compile(only)
        self._trial = trial
        self._console = console

    def kills(self) -> None:
        """One after the other: each has a Ray of its own."""
        for trial in kills.TRIALS:
            row = self._row("processes and nodes", trial.name, trial.times)
            for number in self._numbers(TRIES * trial.times) if row else ():
                assert row is not None
                if row.complete:
                    break
                most = min(trial.most, row.wanted - len(row.verdicts))
                for verdict in trial.blows(self._site, Random(self._seed_of(trial.name, number)), most):
                    self._add(row, verdict, number)

    def pairs_and_stores(self) -> None:
        """Several at once: they wait more than they work."""
        stores = Stores(self._site)
        named = list(self._site.servers.items())
        jobs: list[Callable[[], None]] = []
        for pair in pairs.TRIALS:
            if row := self._row("two runs on one output", pair.name, pair.times):
                run = partial(pairs.run_pair, pair, self._site)
                jobs += [partial(self._one, row, run, named[n % len(named)], n) for n in self._numbers(row.wanted)]
        for trial in store_trials.TRIALS:
            if row := self._row("object stores", trial.name, trial.times):
                jobs += [
                    partial(self._one, row, partial(stores.run, trial), named[n % len(named)], n)
                    for n in self._numbers(row.wanted)
                ]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                for waiting in [pool.submit(job) for job in jobs]:
                    waiting.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _one(
        self, row: Row, run: Callable[[Server, int], Verdict | None], server: tuple[str, Server], number: int
    ) -> None:
        for attempt in range(TRIES):
            seed = self._seed_of(row.name, number + 1_000_000 * attempt)
            verdict = run(server[1], seed)
            if verdict is not None:
                self._add(row, verdict, number, server[0])
                return

    def _row(self, section: str, name: str, times: int) -> Row | None:
        if not self._only.search(name):
            return None
        wanted = 1 if self._trial is not None else max(1, math.ceil(times * self._scale))
        self.rows.append(Row(section, name, wanted))
        return self.rows[-1]

    def _numbers(self, count: int) -> range:
        return range(count) if self._trial is None else range(self._trial, self._trial + 1)

    def _seed_of(self, name: str, number: int) -> int:
        return Random(f"{self._seed}/{name}/{number}").getrandbits(63)

    def _add(self, row: Row, verdict: Verdict, number: int, server: str = "") -> None:
        row.verdicts.append(verdict)
        place = f" on {server}" if server else ""
        if verdict.ending == "lost":
            self._console.print(
                f"LOST: --only '^{re.escape(row.name)}$' --trial {number} --seed {self._seed}{place}",
                style="bold red",
                soft_wrap=True,
            )
            for flaw in verdict.flaws:
                self._console.print(f"  {flaw}", markup=False, soft_wrap=True)
        done = sum(len(row.verdicts) for row in self.rows)
        self._console.print(
            f"{done:4} {row.name}{place}: {verdict.ending} {verdict.told}", markup=False, soft_wrap=True
        )

    def table(self) -> Table:
        table = Table(title="What was broken, and how it ended", title_justify="left")
        table.add_column("fault", no_wrap=True)
        for name in ("trials", "survived", "resumed", "digest equal", "balanced", "lost", "seconds"):
            table.add_column(name, justify="right", no_wrap=True)
        section = ""
        for row in self.rows:
            if row.section != section:
                table.add_section()
                table.add_row(f"[bold]{row.section}[/bold]")
                section = row.section
            table.add_row(*row.cells(), style="red" if row.lost or not row.complete else "")
        table.add_section()
        total = Row("", "all", 0, [verdict for row in self.rows for verdict in row.verdicts])
        table.add_row(*total.cells(), style="bold")
        return table


@contextmanager
def started(folder: Path, installed: Path) -> Iterator[dict[str, Server]]:
    """The servers, by their names."""
    with ExitStack() as running:
        found: dict[str, Server] = {}
        for name, start in (
            ("moto", lambda place: S3Server(place / "log")),
            ("SeaweedFS", partial(servers.SeaweedFS, installed)),
            ("s3rver", partial(servers.S3rver, installed)),
        ):
            place = folder / name
            place.mkdir()
            found[name] = start(place)
            running.callback(found[name].stop)
        yield found


@click.command(help=__doc__.partition("\n")[0])
@click.option("--seed", type=int, default=0, show_default=True, help="Of all dice.")
@click.option("--scale", type=click.FloatRange(min=0.0), default=1.0, show_default=True, help="Times the trials.")
@click.option("--quick", is_flag=True, help="A tenth of the trials.")
@click.option("--only", default="", metavar="PATTERN", help="Only the faults whose names match.")
@click.option("--trial", type=int, help="Only the trial of this number.")
def main(seed: int, scale: float, quick: bool, only: str, trial: int | None) -> None:
    console = Console(width=WIDTH)
    began = time.monotonic()
    try:
        servers.install(INSTALLED)
    except RuntimeError as failure:
        raise click.ClickException(f"a server could not be installed: {failure}") from failure
    folder = Path(tempfile.mkdtemp(prefix="ch", dir="/tmp"))
    _clean_environment(folder)
    try:
        with started(folder, INSTALLED) as found:
            suite = Suite(
                Site(folder, found), seed=seed, scale=0.1 if quick else scale, only=only, trial=trial, console=console
            )
            suite.kills()
            suite.pairs_and_stores()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    console.print()
    console.print(suite.table())
    console.print(
        "survived: the run under the fault finished. resumed: it ended, killed or with one line that says why, and the "
        f"same command without the fault finished.\nseed {seed}, {(time.monotonic() - began) / 60:.0f} minutes",
    )
    sys.exit(any(row.lost or not row.complete for row in suite.rows))


def _clean_environment(folder: Path) -> None:
    """No cluster, profile or credential of this machine; Ray's sockets in a folder with a short path."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "RAY_"))]:
        del os.environ[name]
    os.environ.update(RAY_TMPDIR=str(folder), RAY_USAGE_STATS_ENABLED="0", TOKENIZERS_PARALLELISM="false")


if __name__ == "__main__":
    fork_server("tests.chaos.chaos")  # each fork runs this file again, and finds what it imports
    main()
