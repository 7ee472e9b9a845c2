"""Trials with two starts of one command on one output: one publishes, and the others leave it alone."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.chaos.outcome import Ended, Verdict, flaws_of_finished, flaws_of_refusal, made_of, on_disk
from tests.chaos.site import (
    IN_PROCESS,
    LIMIT_SECONDS,
    Corpus,
    Server,
    Site,
    arguments,
    bare_environment,
    home,
    run_here,
)
from tests.conftest import job_command

ANOTHER_IS_AT_IT: Final = 8
"""The exit status of a run that finds another one on its output."""


@dataclass(frozen=True)
class Output:
    """Where the runs of a trial write.

    server: None for a local disk. corpus: what the runs read; less of it where they write to a server.
    """

    address: str
    server: Server | None
    folder: Path
    corpus: Corpus

    @classmethod
    def new(cls, site: Site, server: Server | None) -> Output:
        folder = site.new_folder()
        if server is None:
            return cls(str(folder / "out"), None, folder, Corpus("many tasks"))
        bucket = server.bucket(f"target-{site.number()}")
        return cls(f"s3://{bucket}/v1", server, folder, Corpus())

    def words(self, site: Site) -> list[str]:
        return arguments(self.corpus.kind, site.corpus(self.corpus), self.address, IN_PROCESS)

    @property
    def variables(self) -> dict[str, str]:
        return {} if self.server is None else dict(self.server.environment)

    def files(self) -> dict[str, bytes]:
        if self.server is None:
            return on_disk(Path(self.address))
        bucket = self.address.split("/")[2]
        return {name: self.server.read(bucket, f"v1/{name}") for name in self.server.objects(bucket, "v1/")}

    def receipts(self) -> int:
        if self.server is None:
            return len(list(Path(self.address).glob("_mosaic/receipts/*.json")))
        return len(self.server.objects(self.address.split("/")[2], "v1/_mosaic/receipts/"))


def at_once(site: Site, output: Output, dice: random.Random) -> tuple[list[str], Mapping[str, bytes]]:
    """Two or three starts within a second."""
    words = output.words(site)

    def start(delay: float) -> Ended:
        time.sleep(delay)
        return run_here(words, output.variables)

    delays = [dice.uniform(0, 1) for _ in range(dice.randint(2, 3))]
    with ThreadPoolExecutor(len(delays)) as pool:
        runs = list(pool.map(start, delays))
    files = output.files()
    flaws = flaws_of_finished(files, [site.expected(output.corpus)])
    published = [run for run in runs if run.status == 0 and "is finished already" not in run.stderr]
    if len(published) != 1:
        said = "; ".join(run.stderr[-300:] for run in runs)
        flaws.append(f"{len(published)} of {len(runs)} runs say that they finished it: {said}")
    for run in runs:
        if run.status != 0:
            flaws += _flaws_of_leaving(run)
    return flaws, files


def frozen(site: Site, output: Output, dice: random.Random) -> tuple[list[str], Mapping[str, bytes]]:
    """A run is stopped in its tracks, another takes over and finishes, and then the first goes on."""
    words = output.words(site)
    with _in_background(words, output) as (first, log):
        goal, deadline = 1 if output.server else dice.randint(2, 20), time.monotonic() + LIMIT_SECONDS
        while output.receipts() < goal and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)
        before = output.receipts()
        second = run_here(words, output.variables)
        flaws = [] if second.status == 0 else [f"its successor ended with {second.status}: {second.stderr[-300:]}"]
        files = output.files()
        flaws += flaws_of_finished(files, [site.expected(output.corpus)]) if second.status == 0 else []
        first.send_signal(signal.SIGCONT)
        try:
            status: int | None = first.wait(LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        flaws += _flaws_of_leaving(Ended(status, "", log.read_text()))
    after = output.files()
    own = [name for name in {*files, *after} if not name.startswith("_mosaic/")]
    changed = sorted(name for name in own if files.get(name) != after.get(name))
    if changed:
        flaws.append(f"the run that was frozen changed what its successor had finished: {', '.join(changed)}")
    if not before:
        flaws.append("the run had not begun to work when it was frozen")
    return flaws, files


def _flaws_of_leaving(run: Ended) -> list[str]:
    """Of a run that found another one on its output."""
    flaws = flaws_of_refusal(run, ())
    if run.status != ANOTHER_IS_AT_IT:
        flaws.append(f"it ended with {run.status}, not {ANOTHER_IS_AT_IT}: {run.stderr[-200:]}")
    return flaws


@contextmanager
def _in_background(words: list[str], output: Output) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    log = output.folder / "log"
    with home() as folder, log.open("w") as out:
        environment = {**bare_environment(folder), **output.variables}
        process = subprocess.Popen(job_command(*words), env=environment, stdout=out, stderr=out)
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()


Pair = Callable[[Site, Output, random.Random], tuple[list[str], Mapping[str, bytes]]]


@dataclass(frozen=True, kw_only=True)
class PairTrial:
    """times: in a full run of the suite. local: on a local disk, else on the servers in turn."""

    name: str
    pair: Pair
    times: int
    local: bool


def run_pair(trial: PairTrial, site: Site, server: Server, seed: int) -> Verdict:
    began = time.monotonic()
    output = Output.new(site, None if trial.local else server)
    flaws, files = trial.pair(site, output, random.Random(seed))
    made, expected = made_of(files), site.expected(output.corpus)
    return Verdict(
        "lost" if flaws else "survived",
        tuple(flaws),
        equal=made is not None and made.digest == expected.digest,
        balanced=made is not None and made.balanced,
        seconds=time.monotonic() - began,
    )


TRIALS: Final = (
    PairTrial(name="two or three starts at once, local disk", pair=at_once, times=8, local=True),
    PairTrial(name="two or three starts at once, S3", pair=at_once, times=9, local=False),
    PairTrial(name="frozen, overtaken, thawed, local disk", pair=frozen, times=2, local=True),
    PairTrial(name="frozen, overtaken, thawed, S3", pair=frozen, times=3, local=False),
)
