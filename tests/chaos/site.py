"""What trials share: servers, corpora, undisturbed data sets, and how the job is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tests.chaos import corpora
from tests.chaos.outcome import Ended, Made, made_of, on_disk
from tests.conftest import job_command
from tests.forked import run_forked

Kind = Literal["every format", "large", "many tasks"]
Change = Literal["", "same size", "other size", "gone"]
Server = Any
"""An S3 server of tests/integration/conftest.py or tests/chaos/servers.py."""

IN_PROCESS: Final = ("--engine", "in-process")
LIMIT_SECONDS: Final = 240.0
"""After so long a run counts as hanging."""

_OPTIONS: Final = ("--tokenizer", "embedded", "--max-tokens", "512", "--epochs", "2")
_TASK_RECORDS: Final[Mapping[Kind, int]] = {"every format": 256, "large": 256, "many tasks": 48}
_WORDS: Final[Mapping[Change, str]] = {"same size": corpora.SAME_SIZE, "other size": corpora.OTHER_SIZE}


@dataclass(frozen=True)
class Corpus:
    """One of the corpora, as it is or with one of its files changed."""

    kind: Kind = "every format"
    change: Change = ""
    file: str = ""

    def write(self, folder: Path) -> Path:
        if self.kind == "large":
            return corpora.large(folder)
        if self.kind == "many tasks":
            return corpora.many_tasks(folder)
        if self.change in _WORDS:
            return corpora.every_format(folder, changed=self.file, word=_WORDS[self.change])
        corpora.every_format(folder)
        if self.change == "gone":
            (folder / self.file).unlink()
        return folder


def arguments(
    kind: Kind, source: str | Path, output: str | Path, engine: Sequence[str], *, patience: float = 60.0
) -> list[str]:
    """Of the command over a corpus of a kind. patience: seconds that it is told to be patient with a store."""
    records = f"{_TASK_RECORDS[kind]}"
    places = ["--input", str(source), "--output", str(output), "--task-records", records]
    return [*places, *_OPTIONS, *engine, "--store-patience", f"{patience:g}"]


class Site:
    """servers: by name. folder: for all that is written. Its methods may be called from several threads."""

    def __init__(self, folder: Path, servers: Mapping[str, Server]) -> None:
        self.folder = folder
        self.servers = servers
        self._lock = threading.RLock()
        self._numbers = 0
        self._corpora: dict[Corpus, Path] = {}
        self._expected: dict[Corpus, Made] = {}

    def number(self) -> int:
        """One that no other trial has."""
        with self._lock:
            self._numbers += 1
            return self._numbers

    def new_folder(self) -> Path:
        folder = self.folder / f"place-{self.number()}"
        folder.mkdir()
        return folder

    def corpus(self, corpus: Corpus) -> Path:
        with self._lock:
            if corpus not in self._corpora:
                self._corpora[corpus] = corpus.write(self.folder / f"corpus-{self.number()}")
            return self._corpora[corpus]

    def expected(self, corpus: Corpus) -> Made:
        """What an undisturbed run makes of it, from disk to disk."""
        with self._lock:
            if corpus not in self._expected:
                output = self.new_folder() / "out"
                ended = run_here(arguments(corpus.kind, self.corpus(corpus), output, IN_PROCESS))
                made = made_of(on_disk(output))
                assert ended.status == 0, ended.stderr
                assert made is not None
                assert made.balanced
                self._expected[corpus] = made
            return self._expected[corpus]


def run_here(words: Sequence[str], variables: Mapping[str, str] | None = None) -> Ended:
    """The command to its end, with these variables in an environment that is otherwise bare.

    On Ray it is the job script in a process of its own; else a fork, which starts at once.
    """
    with home() as folder:
        environment = {**bare_environment(folder), **(variables or {})}
        if IN_PROCESS[1] in words:
            return run_forked(list(words), environment, folder, limit=LIMIT_SECONDS)
        return _run_script(words, environment)


@contextmanager
def home() -> Iterator[Path]:
    """A home directory for one run, with a short path because of Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ch", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def bare_environment(home: Path) -> dict[str, str]:
    """Of a user without clusters, profiles or credentials."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
    return {
        **kept,
        "HOME": str(home),
        "TMPDIR": str(home),
        "RAY_TMPDIR": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "MOSAIC_RAY_LOG_FORMAT": "text",
        "AWS_CONFIG_FILE": str(home / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _run_script(words: Sequence[str], environment: Mapping[str, str]) -> Ended:
    try:
        done = subprocess.run(
            job_command(*words),
            env=dict(environment),
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return Ended(None, str(late.stdout or ""), str(late.stderr or ""))
    return Ended(done.returncode, done.stdout, done.stderr)
