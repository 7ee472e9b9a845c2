"""The command line: ``run`` (what a bare call does), ``plan``, ``doctor``, and the commands on what is finished."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from mosaic_ray import __version__, logs
from mosaic_ray.cli import doctor, finished, job, snapshots
from mosaic_ray.errors import Interrupted, MosaicError, VerificationError
from mosaic_ray.text import seen_on_one_line

log = logging.getLogger("mosaic_ray")


class _RunByDefault(click.Group):
    """``mosaic-ray --input ...`` is ``mosaic-ray run --input ...``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "--version"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RunByDefault, context_settings={"max_content_width": 100}, no_args_is_help=True)
@click.version_option(__version__, prog_name="mosaic_ray")
def app() -> None:
    """Compose a better, smaller training set of an instruction corpus.

    Without a command, options go to 'run': 'mosaic-ray run --help' shows them.
    """


for _command in (*job.COMMANDS, *doctor.COMMANDS, *finished.COMMANDS, *snapshots.COMMANDS):
    app.add_command(_command)


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the run at once, with a word on how to go on."""

    def stop(number: int, _frame: object) -> None:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name}. Finished tasks are kept; the same command goes on from there",
            signal_number=number,
        )

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Entry point of the command ``mosaic-ray`` and of the job scripts; ends the process with a status."""
    try:
        logs.configure()
        with _stop_on_signals():
            app(standalone_mode=False)
    except click.ClickException as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError) or not logs.as_json():
            error.show()  # with the usage in front
            sys.exit(error.exit_code)
        _end(error.format_message(), error.exit_code)
    except (MosaicError, Interrupted) as error:
        if error.__cause__ is not None and type(error).__name__ == "TaskError":
            log.error(f"{error.__cause__}\n")
        message = str(error) if isinstance(error, VerificationError) else seen_on_one_line(str(error))
        _end(message, error.exit_code, task=getattr(error, "task", None))


def _end(message: str, status: int, *, task: int | None = None) -> NoReturn:
    log.error(f"error: {message}", extra=logs.fields(exit_status=status, task=task))
    sys.exit(status)
