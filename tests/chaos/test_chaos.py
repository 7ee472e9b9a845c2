"""Each kind of store fault once, out of the suite of ``make chaos``; and that the suite sees what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos import faults
from tests.chaos.outcome import Ended, Made, flaws_of_finished, flaws_of_refusal, made_of
from tests.chaos.proxy import Rule
from tests.chaos.site import Site
from tests.chaos.store import Scene, Stores, StoreTrial
from tests.chaos.store_trials import ANY, LIST, READ, TRIALS, WRITE
from tests.forked import fork_server
from tests.integration.conftest import S3Server

SEED = 5
ONCE = {trial.name: trial for trial in TRIALS}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    fork_server()
    running = S3Server(tmp_path_factory.mktemp("s3") / "log")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def stores(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Stores:
    return Stores(Site(tmp_path_factory.mktemp("site"), {"moto": server}))


def each_once(scene: Scene) -> list[Rule]:
    """Every fault that passes, one after the other, in one run."""
    kinds = [
        (faults.slow_down, ANY), (faults.internal_error, ANY), (faults.html_page, ANY), (faults.refused, ANY),
        (faults.reset_in_body, READ), (faults.ends_early, READ), (faults.short_body, READ), (faults.drip, READ),
        (faults.short_body, LIST), (faults.answer_lost, WRITE), (faults.silence, WRITE),
    ]  # fmt: skip
    return [Rule(fault=fault, pattern=pattern, skip=scene.moment(pattern) // 2) for fault, pattern in kinds]


ALL = 11


def test_a_run_outlives_every_fault_that_passes(stores: Stores, server: S3Server) -> None:
    trial = StoreTrial(name="each once", rules=each_once, times=1, must="survive", patience=12)
    verdict = stores.run(trial, server, SEED)
    assert verdict is not None
    assert (verdict.ending, verdict.flaws, verdict.struck) == ("survived", (), ALL)
    assert verdict.retries.keys() <= {"throttled", "server error", "connection", "timeout", "truncated", "garbled"}
    assert 3 <= sum(verdict.retries.values()) <= 2 * ALL  # those after the manifest was made are in no manifest


@pytest.mark.parametrize(
    "name",
    [
        "403 on one key", "ExpiredToken for good", "store gone for good", "wrong ETag header", "a file vanishes",
        "a file changes, other size", "a file changes, same size", "stale listing: newest missing",
        "stale listing: deleted shown",
    ],
)  # fmt: skip
def test_the_right_bytes_or_a_clear_refusal(name: str, stores: Stores, server: S3Server) -> None:
    trial = ONCE[name]
    verdict = stores.run(replace(trial, patience=2) if trial.must == "refuse" else trial, server, SEED)
    assert verdict is not None, "the fault found nothing to strike; take another seed"
    assert verdict.flaws == ()


class TestWhatTheSuiteSees:
    MADE = Made("v1:1", {"data/a.parquet": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}, True)

    def files(self, **manifest: Any) -> dict[str, bytes]:
        accounting = {"records": 3, "balanced": True, "epochs": [{"composed": 2, "passed": 0, "rejected": 1}]}
        whole = {"dataset_digest": "v1:1", "accounting": accounting, **manifest}
        return {"data/a.parquet": b"a", "manifest.json": json.dumps(whole).encode()}

    def test_a_right_one(self) -> None:
        assert made_of(self.files()) == self.MADE
        assert flaws_of_finished(self.files(), [self.MADE]) == []

    @pytest.mark.parametrize(
        ("change", "flaw"),
        [
            ({"manifest.json": None}, "exit status 0 and no manifest.json"),
            ({"data/a.parquet": b"b"}, "data/a.parquet: other bytes"),
            ({"data/a.parquet": None}, "data/a.parquet: missing"),
            ({"rejects/b.parquet": b"b"}, "rejects/b.parquet: too much"),
            ({"data/.a.parquet.1.tmp": b""}, "data/.a.parquet.1.tmp was left behind"),
            ({"_mosaic/staged/x.zst": b""}, "_mosaic/staged/x.zst was left behind"),
        ],
    )
    def test_files(self, change: dict[str, bytes | None], flaw: str) -> None:
        files = {name: data for name, data in {**self.files(), **change}.items() if data is not None}
        assert flaw in flaws_of_finished(files, [self.MADE])

    def test_digest_and_accounting(self) -> None:
        assert "dataset_digest v1:2 is not v1:1" in flaws_of_finished(self.files(dataset_digest="v1:2"), [self.MADE])
        short = {"records": 3, "balanced": True, "epochs": [{"composed": 2, "passed": 0, "rejected": 0}]}
        assert flaws_of_finished(self.files(accounting=short), [self.MADE]) == ["the accounting does not balance"]

    @pytest.mark.parametrize(
        ("ended", "names", "flaw"),
        [
            (Ended(3, "", "error: no\n"), [], None),
            (Ended(3, "", "error: no\n"), ["manifest.json"], "it refused and published manifest.json"),
            (Ended(1, "", "error: no\n"), [], "exit status 1 stands in no table"),
            (Ended(-9, "", "error: no\n"), [], "exit status -9 stands in no table"),
            (Ended(None, "", "error: no\n"), [], "it hung and had to be killed"),
            (Ended(3, "", "no\n"), [], "the last line is no error: 'no'"),
            (Ended(3, "", "Traceback\nerror: no\n"), [], "it shows a traceback"),
        ],
    )
    def test_refusals(self, ended: Ended, names: list[str], flaw: str | None) -> None:
        assert flaws_of_refusal(ended, names) == ([] if flaw is None else [flaw])
