"""Three nights of the scheduled job, on a cluster and an object store of this machine.

    make cluster-demo                              # about two minutes; leaves nothing behind
    python -m infra.local.cluster_demo --keep      # stays up afterwards, until Ctrl-C

The first night composes the corpus that the package ships. Before the second a file is added, and only that is taken.
The third finds nothing new. What is run is printed, and can be typed again where the cluster is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NoReturn

import s3fs

from infra.local.servers import (
    ROOT,
    Cluster,
    LocalError,
    clean_environment,
    cluster,
    free_ports,
    s3_server,
    serving,
    short_directory,
)
from mosaic_ray.embedded import corpus_path

INPUT: Final = "s3://lake/sft/"
SNAPSHOTS: Final = "s3://lake/mosaic"
NIGHTS: Final = ("2026-11-20", "2026-11-21", "2026-11-22")
"""Names of the snapshots. A real schedule takes the date of the night; these are the ones of the runbook's examples."""
NEW_FILE: Final = "tables.jsonl"
NEW_RECORDS: Final = 90
OPTIONS: Final = ("--tokenizer", "embedded", "--task-records", "128", "--max-tokens", "512", "--workers", "1:2")
MONITORING: Final = ROOT / "infra" / "monitoring"

_STEP_SECONDS: Final = 240.0


class Stopped(Exception):
    """A signal came. number: which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


def demo(cluster: Cluster, store: s3fs.S3FileSystem) -> None:
    """Upload the corpus, run the nights, and look at what there is. Raises LocalError where a step fails."""
    store.mkdir("lake")
    for path in sorted(corpus_path().glob("*.jsonl")):
        store.pipe_file(INPUT + path.name, path.read_bytes())
    first, second, third = NIGHTS
    submit(cluster, "doctor", *night(first))
    submit(cluster, "run", *night(first))
    store.pipe_file(INPUT + NEW_FILE, new_file())
    say(f"{INPUT}{NEW_FILE} is new, with {NEW_RECORDS} records")
    submit(cluster, "run", *night(second))
    say("nothing is new")
    submit(cluster, "run", *night(third))
    step(cluster, "mosaic-ray", "snapshots", SNAPSHOTS)
    step(cluster, "mosaic-ray", "diff", f"{SNAPSHOTS}/{first}", f"{SNAPSHOTS}/{second}")
    for name in (first, second):
        step(cluster, "mosaic-ray", "verify", f"{SNAPSHOTS}/{name}", "--engine", "in-process")


def night(name: str) -> tuple[str, ...]:
    """The options of one night: the same every night, but for the name of its snapshot."""
    return ("--input", INPUT, "--since", SNAPSHOTS, "--output", f"{SNAPSHOTS}/{name}", *OPTIONS)


def new_file() -> bytes:
    """JSON Lines of records that the corpus does not have."""
    products = [(a, b) for a in range(11, 20) for b in range(21, 31)]
    rows = [{"question": f"How much is {a} times {b}?", "answer": f"{a} times {b} is {a * b}."} for a, b in products]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def submit(cluster: Cluster, *arguments: str) -> None:
    """The job, as an operator submits it; its log is printed as it comes."""
    step(cluster, "ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/mosaic_corpus.py", *arguments)


def step(cluster: Cluster, *command: str) -> None:
    """Print a command and run it where the job's code is. Raises LocalError if it fails, or takes more than 240 s."""
    print(f"\n$ {shlex.join(command)}", flush=True)
    try:
        # A session of its own: Ctrl-C comes to this process alone, which ends the command by raising.
        done = subprocess.run(
            command,
            env=cluster.environment,
            cwd=cluster.code,
            timeout=_STEP_SECONDS,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise LocalError(f"the command above was not done within {_STEP_SECONDS:.0f} s") from None
    if done.returncode:
        raise LocalError(f"the command above ended with status {done.returncode}")


@contextmanager
def site() -> Iterator[tuple[Cluster, s3fs.S3FileSystem]]:
    """A store and a cluster of three nodes, in a temporary directory that goes with them."""
    with ExitStack() as stack:
        home = stack.enter_context(short_directory())
        stack.callback(say, "stopping all that was started")
        say(f"all of it lies in {home}, and goes with it")
        environment = clean_environment()
        address = stack.enter_context(s3_server(environment, log=home / "s3.log"))
        say(f"the S3 server runs at {address}")
        environment |= {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "MOSAIC_RAY_LOG_FORMAT": "text",
        }
        running = stack.enter_context(cluster(home, environment, head_cpus=0, workers=2, said=say))
        store = s3fs.S3FileSystem(key="anyone", secret="anything", endpoint_url=address, skip_instance_cache=True)
        yield running, store


def keep(cluster: Cluster) -> NoReturn:
    """Say how to go on with what runs, and wait for a signal. With Prometheus, where it is installed."""
    home = cluster.code.parent
    settings = home / "env.sh"
    given = {name: value for name, value in cluster.environment.items() if os.environ.get(name) != value}
    given["RAY_AUTH_TOKEN_PATH"] = f"{given.pop('HOME')}/.ray/auth_token"
    settings.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in given.items()))
    with ExitStack() as stack:
        prometheus = "not started: there is no program 'prometheus' here (Debian: apt-get install prometheus)"
        if shutil.which("prometheus"):
            prometheus = stack.enter_context(prometheus_server(cluster, home / "prometheus"))
        say(
            f"""it stays up.
    dashboard     {cluster.address}
    S3            {cluster.environment["AWS_ENDPOINT_URL"]}
    Prometheus    {prometheus}
    to submit     . {settings} && cd {cluster.code}, then any of the commands above
    the token     the dashboard asks for it: ray get-auth-token, in the same shell
    to stop       Ctrl-C here, or kill {os.getpid()}"""
        )
        while True:
            signal.pause()


@contextmanager
def prometheus_server(cluster: Cluster, folder: Path) -> Iterator[str]:
    """Prometheus with the settings and alerts of ``infra/monitoring``, for this cluster. Gives its address."""
    shutil.copytree(MONITORING, folder)
    settings = folder / "prometheus.yml"
    settings.write_text(settings.read_text().replace("/tmp/ray/", f"{cluster.folder}/"))
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = ["prometheus", f"--config.file={settings}", f"--storage.tsdb.path={folder}/data"]
    command.append(f"--web.listen-address={address}")
    with serving("Prometheus", command, environment=cluster.environment, log=folder / "log") as server:
        server.announced("Server is ready to receive web requests")
        yield f"http://{address}"


def say(text: str) -> None:
    """Print what this script itself has to say, apart from what the commands print."""
    print(f"\n=== {text}", flush=True)


def stop_on_signals() -> None:
    """SIGINT and SIGTERM raise Stopped, once: those that follow do not disturb the cleaning up."""

    def stop(number: int, _frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def main() -> int:
    """The exit status: 0 done, also where ``--keep`` was ended by a signal; 1 failed; 130 or 143 stopped before."""
    parser = argparse.ArgumentParser(description="Three nights of the scheduled job, on a cluster of this machine.")
    parser.add_argument("--keep", action="store_true", help="leave all running afterwards, until Ctrl-C")
    given = parser.parse_args()
    stop_on_signals()
    done = False
    try:
        with site() as (running, store):
            demo(running, store)
            done = True
            say("all three nights are as they should be")
            if given.keep:
                keep(running)
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        return 0 if done else 128 + stopped.number
    return 0


if __name__ == "__main__":
    sys.exit(main())
