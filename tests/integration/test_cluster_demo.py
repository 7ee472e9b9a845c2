"""The local cluster of `make cluster-demo`: three nights on three nodes, looked at while it is kept, then gone."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import requests
import s3fs

from infra.local.cluster_demo import NEW_FILE, NEW_RECORDS, NIGHTS, SNAPSHOTS, step
from infra.local.servers import Cluster, LocalError, serving
from tests.conftest import ROOT
from tests.infra import runbook

FIRST, SECOND, THIRD = NIGHTS
SHIPPED = 480
"""Records of the corpus that the package ships, in eight files."""

pytestmark = pytest.mark.timeout(600)


class Demo:
    """A demo that was started, and what it has printed."""

    def __init__(self, log: Path, *options: str) -> None:
        self._log = log
        with log.open("w") as out:
            command = [sys.executable, "-m", "infra.local.cluster_demo", *options]
            self.process = psutil.Popen(command, cwd=ROOT, stdout=out, stderr=out, start_new_session=True)
        self.family: set[psutil.Process] = set()

    @property
    def printed(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text())

    def until(self, words: str, *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.printed:
            assert self.process.poll() is None, self.printed
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.2)
        self.family.update(self.process.children(recursive=True))

    def found(self, pattern: str) -> str:
        (found,) = re.findall(pattern, self.printed)
        return str(found)

    def stop(self, number: signal.Signals) -> int:
        """The exit status after a signal."""
        self.family.update(self.process.children(recursive=True))
        self.process.send_signal(number)
        return int(self.process.wait(timeout=120))

    def left_behind(self) -> list[str]:
        """The processes that still run, and those whose command or environment speaks of its directory."""
        (folder,) = set(re.findall(r"/tmp/mr\w+", self._log.read_text()))
        running = [process for process in self.family if alive(process)]
        running += [process for process in psutil.process_iter() if folder in "\0".join(spoken(process))]
        return [str(process) for process in running] + [folder] * Path(folder).exists()

    def end(self) -> None:
        """However it stands, so that a test that fails leaves nothing behind either."""
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def spoken(process: psutil.Process) -> list[str]:
    try:
        return [*process.cmdline(), *process.environ().values()]
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Demo]]:
    started: list[Demo] = []

    def begin(*options: str) -> Demo:
        started.append(Demo(tmp_path_factory.mktemp("demo") / "log", *options))
        return started[-1]

    yield begin
    for demo in started:
        demo.end()


@pytest.fixture(scope="module")
def kept(start: Callable[..., Demo]) -> Demo:
    """A demo that has done its nights, and stays up."""
    demo = start("--keep")
    demo.until("to stop       Ctrl-C", seconds=540)
    return demo


@pytest.fixture(scope="module")
def store(kept: Demo) -> s3fs.S3FileSystem:
    address = kept.found(r"S3            (http://127\.0\.0\.1:\d+)")
    return s3fs.S3FileSystem(key="anyone", secret="anything", endpoint_url=address, skip_instance_cache=True)


def typed(kept: Demo, command: str) -> subprocess.CompletedProcess[str]:
    """What a shell makes of a command after the line that the demo prints for it."""
    settings = kept.found(r"to submit     (\. \S+ && cd \S+), then")
    return subprocess.run(
        ["bash", "-c", f"{settings} && {command}"], capture_output=True, text=True, timeout=120, check=False
    )


def manifest(store: s3fs.S3FileSystem, night: str) -> Any:
    return json.loads(store.cat_file(f"{SNAPSHOTS}/{night}/manifest.json"))


def lineage(store: s3fs.S3FileSystem, night: str) -> Counter[tuple[str, int]]:
    """How often each record (file, row) is in the samples of a night."""
    counted: Counter[tuple[str, int]] = Counter()
    for part in store.glob(f"{SNAPSHOTS}/{night}/data/*.parquet"):
        rows = pq.read_table(io.BytesIO(store.cat_file(part)), columns=["sources"]).to_pylist()
        counted.update((source["file"], source["row"]) for row in rows for source in row["sources"])
    return counted


def test_the_first_night_takes_everything(store: s3fs.S3FileSystem) -> None:
    first = manifest(store, FIRST)
    assert first["since"]["files"] == {"new": 8, "changed": 0, "carried": 0, "gone": 0}
    assert first["since"]["run"] is None
    assert first["plan"]["records"] == SHIPPED


def test_the_second_takes_only_the_new_file(store: s3fs.S3FileSystem) -> None:
    first, second = (manifest(store, night) for night in (FIRST, SECOND))
    assert second["since"]["files"] == {"new": 1, "changed": 0, "carried": 8, "gone": 0}
    assert second["since"]["output"] == f"{SNAPSHOTS}/{FIRST}"
    assert (second["since"]["run"], second["since"]["dataset_digest"]) == (first["run"], first["dataset_digest"])
    epochs = second["settings"]["epochs"]
    assert lineage(store, SECOND) == {(NEW_FILE, row): epochs for row in range(NEW_RECORDS)}


def test_the_third_publishes_nothing(kept: Demo, store: s3fs.S3FileSystem) -> None:
    assert f"nothing is new since {SNAPSHOTS}/{SECOND}; nothing was written" in kept.printed
    assert sorted(store.ls(SNAPSHOTS, detail=False)) == [f"lake/mosaic/{night}" for night in (FIRST, SECOND)]


def test_what_there_is_is_shown_and_verified(kept: Demo) -> None:
    for night in (FIRST, SECOND):
        kept.found(f"verified {SNAPSHOTS}/({night}): ")
    assert kept.found(r"\$ mosaic-ray (snapshots) ")
    assert kept.found(r"\$ mosaic-ray (diff) ")


def test_it_listens_on_this_machine_only(kept: Demo) -> None:
    kept.until("it stays up", seconds=0)
    listening = [
        connection.laddr.ip
        for process in kept.family
        if alive(process)
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) > 10
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


def test_whoever_reads_what_it_prints_can_go_on(kept: Demo) -> None:
    done = typed(kept, "ray job list && ls jobs")
    assert done.stdout.count("status=<JobStatus.SUCCEEDED") == 4
    assert "mosaic_corpus.py" in done.stdout


def test_prometheus_scrapes_the_cluster_and_knows_the_alerts(kept: Demo) -> None:
    address = kept.found(r"Prometheus    (http://127\.0\.0\.1:\d+)")
    rules = requests.get(f"{address}/api/v1/rules", timeout=10).json()["data"]["groups"][0]["rules"]
    assert "MosaicRayNoProgress" in [rule["name"] for rule in rules]
    deadline = time.monotonic() + 30
    while not (found := requests.get(f"{address}/api/v1/targets", timeout=10).json()["data"]["activeTargets"]):
        assert time.monotonic() < deadline, "it has found no node"
        time.sleep(0.5)
    assert {target["labels"]["instance"].partition(":")[0] for target in found} == {"127.0.0.1"}


def test_a_record_is_forgotten_by_the_runbook(kept: Demo, store: s3fs.S3FileSystem) -> None:
    """Word for word; the examples are of the demo's nights."""
    commands = runbook.commands("Forget a record")
    looked, deleted, again = (typed(kept, command) for command in commands)
    assert f"{NEW_FILE}:7: 4 in samples; 2 data sets looked in" in looked.stdout
    assert f"mosaic-ray delete {SNAPSHOTS}/{SECOND}\n" in looked.stdout
    assert deleted.returncode == 0, deleted.stderr
    assert [path.rpartition("/")[2] for path in store.ls(SNAPSHOTS, detail=False, refresh=True)] == [FIRST]
    assert again.returncode == 2
    assert f"error: {NEW_FILE}: no inventory has a file of this name" in again.stderr


def test_it_ends_with_all_that_it_started(kept: Demo) -> None:
    assert kept.stop(signal.SIGINT) == 0
    assert len(kept.family) > 20
    assert kept.left_behind() == []


def test_stopped_early_it_leaves_nothing_either(start: Callable[..., Demo]) -> None:
    demo = start()
    demo.until("the S3 server runs", seconds=60)
    assert demo.stop(signal.SIGTERM) == 143
    assert demo.family
    assert demo.left_behind() == []


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('the port is taken'); raise SystemExit(3)"]
    with (
        serving("the server", command, environment=os.environ, log=tmp_path / "log") as server,
        pytest.raises(LocalError, match=r"the server ended with status 3\. (?s:.*)the port is taken"),
    ):
        server.announced("ready")


def test_a_step_that_fails_ends_the_demo(tmp_path: Path) -> None:
    cluster = Cluster("http://127.0.0.1:1", "", dict(os.environ), tmp_path, tmp_path)
    with pytest.raises(LocalError, match="the command above ended with status 7"):
        step(cluster, "bash", "-c", "exit 7")
