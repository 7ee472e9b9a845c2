"""The command in a process forked from one that has imported the package already: hundreds of runs, a second each."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final, NamedTuple

PRELOADED: Final = (
    "transformers.models.auto.tokenization_auto",  # torch comes along, which is most of a start
    "s3fs",
    "aiobotocore.client",
    "pandas",  # which pyarrow imports when it converts
    "pyarrow.parquet",
    "mosaic_ray.cli",
    "mosaic_ray.pages",
    "mosaic_ray.show",
)
LIMIT_SECONDS: Final = 300.0


class Ended(NamedTuple):
    """How a command ended. status: its exit status; negative for a signal, None where it hung and was killed."""

    status: int | None
    stdout: str
    stderr: str


def fork_server(*more: str) -> ForkServerContext:
    """Where the commands are forked from. more: modules to import there too; they count on the first call alone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, *more])
    return context


def run_forked(
    arguments: list[str], environment: Mapping[str, str], folder: Path, *, limit: float = LIMIT_SECONDS
) -> Ended:
    """Run ``mosaic-ray`` with these arguments to its end, in this environment and no other.

    folder: where its output is kept while it runs. limit: seconds after which it is killed.
    """
    out, err = folder / "stdout", folder / "stderr"
    process = fork_server().Process(target=_command, args=(arguments, dict(environment), str(out), str(err)))
    process.start()
    process.join(limit)
    hung = process.is_alive()
    if hung:
        process.kill()
        process.join()
    return Ended(None if hung else process.exitcode, out.read_text(), err.read_text())


def _command(arguments: list[str], environment: Mapping[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    sys.argv = ["mosaic-ray", *arguments]
    from mosaic_ray.cli import main

    main()
    sys.stdout.flush()
