"""Trials on object stores: the job between two buckets, with a proxy before them that has faults."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

from tests.chaos.corpora import CHANGEABLE
from tests.chaos.faults import forbidden
from tests.chaos.outcome import Ended, Made, Verdict, flaws_of_finished, flaws_of_refusal, made_of
from tests.chaos.proxy import Proxy, Rule, Seen
from tests.chaos.site import IN_PROCESS, Change, Corpus, Kind, Server, Site, arguments, run_here

UNDISTURBED: Final = 60.0
"""Seconds of patience of a run that should need none, on a machine that may be busy."""

Must = Literal["survive", "refuse", "either"]


@dataclass(frozen=True, kw_only=True)
class StoreTrial:
    """One fault of a store.

    rules: the schedule of one trial, of its scene.
    times: trials in a full run of the suite. must: how the run under the fault has to end.
    begun: a request in whose place a first run is refused, so that the fault meets a resumed one; empty for none.
    patience: seconds that the job is told to be patient with the store.
    """

    name: str
    rules: Callable[[Scene], list[Rule]]
    times: int
    must: Must = "either"
    begun: str = ""
    kind: Kind = "every format"
    engine: tuple[str, ...] = IN_PROCESS
    patience: float = 30.0


@dataclass
class Scene:
    """One trial at its place: a bucket to read and a bucket to write on one server, and its dice.

    requests: of an undisturbed run of the same job, in their order, as ``METHOD /bucket/key?query``.
    now: the corpus as it lies in the bucket; a rule may change it.
    """

    site: Site
    server: Server
    number: int
    dice: random.Random
    requests: Sequence[str]
    corpus: Corpus
    now: Corpus | None = None

    def __post_init__(self) -> None:
        self.source = self.server.bucket(f"source-{self.number}")
        self.target = self.server.bucket(f"target-{self.number}")
        self.upload(self.corpus)

    def moment(self, pattern: str) -> int:
        """How many requests that match pass before the one that is drawn."""
        return self.dice.randrange(max(1, sum(1 for line in self.requests if re.search(pattern, line))))

    def upload(self, corpus: Corpus) -> None:
        """Make the source bucket hold this corpus and nothing else; a file that stays is not written again."""
        there, wanted = ({} if one is None else self._contents(one) for one in (self.now, corpus))
        for name in there.keys() - wanted.keys():
            self.server.client.delete_object(Bucket=self.source, Key=f"sft/{name}")
        for name, data in wanted.items():
            if there.get(name) != data:
                self.server.client.put_object(Bucket=self.source, Key=f"sft/{name}", Body=data)
        self.now = corpus

    def _contents(self, corpus: Corpus) -> Mapping[str, bytes]:
        return {path.name: path.read_bytes() for path in self.site.corpus(corpus).iterdir()}

    def change(self, how: Change) -> Callable[[], None]:
        """An action that changes one file of the input."""
        return partial(self.upload, replace(self.corpus, change=how, file=self.dice.choice(CHANGEABLE)))

    def run(self, address: str, engine: Sequence[str], patience: float) -> Ended:
        """The job, over the server or a proxy at the address."""
        places = f"s3://{self.source}/sft/", f"s3://{self.target}/v1"
        words = arguments(self.corpus.kind, *places, engine, patience=patience)
        return run_here(words, {**self.server.environment, "AWS_ENDPOINT_URL": address})

    def names(self) -> list[str]:
        """Of the files in the output."""
        return sorted(self.server.objects(self.target, "v1/"))

    def files(self) -> dict[str, bytes]:
        return {name: self.server.read(self.target, f"v1/{name}") for name in self.names()}

    def accepted(self) -> list[Made]:
        """The data sets that a finished run may have made: of the corpus, and of the corpus as a rule changed it."""
        return [self.site.expected(corpus) for corpus in dict.fromkeys([self.corpus, self.now or self.corpus])]

    def pending(self) -> list[str]:
        """What is wrong with the output of a run that has ended: uploads in parts that were left open."""
        count = len(self.server.pending_uploads(self.target))
        return [f"{count} uploads in parts were left open"] if count else []


class Stores:
    """Runs store trials at a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._requests: dict[Kind, list[str]] = {}

    def run(self, trial: StoreTrial, server: Server, seed: int) -> Verdict | None:
        """One trial; None where the fault found nothing to strike, which proves nothing."""
        began = time.monotonic()
        scene = self._scene(trial.kind, server, seed)
        seen = Seen()
        if trial.begun:
            with Proxy(server.address, [Rule(fault=forbidden, pattern=trial.begun)], seen=seen) as proxy:
                first = scene.run(proxy.address, trial.engine, trial.patience)
            assert proxy.struck
            assert first.status == 3, first.stderr
        with Proxy(server.address, trial.rules(scene), seed=seed, seen=seen) as proxy:
            ended = scene.run(proxy.address, trial.engine, trial.patience)
        if not proxy.struck and ended.status == 0:
            return None
        flaws, told = scene.pending(), ""
        if not proxy.struck:
            flaws.append("nothing was done to it")
        if ended.status == 0:
            files = scene.files()
            flaws += flaws_of_finished(files, scene.accepted())
            if trial.must == "refuse":
                flaws.append("it finished under a fault that it must refuse")
        else:
            told = ended.stderr.rstrip("\n").rpartition("\n")[2]
            flaws += flaws_of_refusal(ended, scene.names())
            if trial.must == "survive":
                flaws.append(f"it gave up under a fault that passes: {told}")
            files = _again(trial, scene, flaws)
        made = made_of(files)
        return Verdict(
            "lost" if flaws else "survived" if ended.status == 0 else "resumed",
            tuple(dict.fromkeys(flaws)),
            equal=made is not None and made.digest in {one.digest for one in scene.accepted()},
            balanced=made is not None and made.balanced,
            told=told,
            struck=len(proxy.struck),
            retries=json.loads(files["manifest.json"])["retries"] if made is not None else {},
            seconds=time.monotonic() - began,
        )

    def _scene(self, kind: Kind, server: Server, seed: int) -> Scene:
        return Scene(
            self._site, server, self._site.number(), random.Random(seed), self._undisturbed(kind), Corpus(kind)
        )

    def _undisturbed(self, kind: Kind) -> list[str]:
        with self._lock:
            if kind not in self._requests:
                server = next(iter(self._site.servers.values()))
                scene = Scene(self._site, server, self._site.number(), random.Random(0), (), Corpus(kind))
                with Proxy(server.address) as proxy:
                    ended = scene.run(proxy.address, IN_PROCESS, UNDISTURBED)
                assert ended.status == 0, ended.stderr
                self._requests[kind] = proxy.seen.requests
            return self._requests[kind]


def _again(trial: StoreTrial, scene: Scene, flaws: list[str]) -> dict[str, bytes]:
    """The same command without the fault, which must finish; its output. What is wrong with it is added to the flaws.

    Where the input was changed it may be refused once more, for its reason; with the old input back it must finish.
    """
    ended = scene.run(scene.server.address, trial.engine, UNDISTURBED)
    if scene.now != scene.corpus and ended.status != 0:
        flaws += flaws_of_refusal(ended, scene.names())
        if not any(word in ended.stderr for word in ("has changed", "is gone")):
            flaws.append(f"over the changed input it says: {ended.stderr[-200:]}")
        scene.upload(scene.corpus)
        ended = scene.run(scene.server.address, trial.engine, UNDISTURBED)
    files = scene.files()
    if ended.status != 0:
        flaws.append(f"without the fault the same command ends with {ended.status}: {ended.stderr[-300:]}")
    else:
        flaws += [*flaws_of_finished(files, scene.accepted()), *scene.pending()]
    return files
