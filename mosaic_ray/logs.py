"""The log on standard error: text on a terminal, one JSON object a line anywhere else.

A line of JSON has ``time`` (UTC, ISO 8601, milliseconds), ``level``, ``message``, ``node`` (the host's name) and
``logger``; where they are known ``run`` and ``task``; and what its message adds (:func:`fields`), such as ``done`` and
``total`` of a line of progress. MOSAIC_RAY_LOG_FORMAT, ``text`` or ``json``, overrides the choice.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from mosaic_ray.errors import SettingsError
from mosaic_ray.text import SeenFormatter

FORMAT: Final = "MOSAIC_RAY_LOG_FORMAT"
RUN_CHARACTERS: Final = 12
"""Of the run's fingerprint, which stand for its name."""

_subject: Final[dict[str, Any]] = {}
"""What this process is at work on. Of the process and not of a thread: what warns may be a thread of a library."""


def configure() -> None:
    """Send the log of this process to standard error; as JSON, warnings of libraries and uncaught exceptions too.

    Raises SettingsError, once that is done, where the environment asks for another format.
    """
    handler = _Stderr()
    handler.setFormatter(_JsonFormatter("%(message)s") if as_json() else SeenFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("mosaic_ray").setLevel(logging.INFO)
    if as_json():
        logging.captureWarnings(True)
        log = logging.getLogger("mosaic_ray")
        sys.excepthook = lambda *error: log.critical("a fault of the program", exc_info=error)
    asked = os.environ.get(FORMAT)
    if asked not in (None, "", "text", "json"):
        raise SettingsError(f"{FORMAT} is {asked!r}; it must be text or json, or not be set")


def as_json() -> bool:
    asked = os.environ.get(FORMAT)
    return asked == "json" or (asked != "text" and not sys.stderr.isatty())


def on_terminal() -> bool:
    """Whether lines may be drawn anew in place."""
    return sys.stderr.isatty() and not as_json() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")


def fields(**values: Any) -> Mapping[str, Mapping[str, Any]]:
    """What a JSON line has beside its message, as the argument ``extra`` of a logger's methods."""
    return {"fields": values}


def name_run(run: str) -> None:
    """Say from now on which run the lines of this process are of. run: its fingerprint."""
    _subject["run"] = run[:RUN_CHARACTERS]


@contextmanager
def on_task(run: str, task: int) -> Iterator[None]:
    """Lines logged meanwhile are of this task, and so is an exception that is raised: by its attribute ``task``."""
    before = dict(_subject)
    name_run(run)
    _subject["task"] = task
    try:
        yield
    except Exception as error:
        vars(error)["task"] = task
        raise
    finally:
        _subject.clear()
        _subject.update(before)


class _JsonFormatter(SeenFormatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "message": super().format(record).strip("\n"),
            **{name: value for name, value in (_subject | getattr(record, "fields", {})).items() if value is not None},
            "node": platform.node(),
            "logger": record.name,
        }
        return orjson.dumps(line).decode()


class _Stderr(logging.Handler):
    """To what ``sys.stderr`` is at the time: while a bar is drawn on a terminal, lines go above it that way."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)
