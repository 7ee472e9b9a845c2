"""Progress as a terminal shows it, and as a log has it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from typing import Any, Final

import pytest
from rich.cells import cell_len

from mosaic_ray.runtime.progress import _duration
from tests.conftest import ROOT, job_environment

PHASE: Final = """
import logging, sys, time
from mosaic_ray import logs
from mosaic_ray.runtime import progress
progress.LINE_EVERY = 0.1
logs.configure()
log = logging.getLogger("mosaic_ray")
with progress.Progress("compose", 24000, unit="records", done=8000) as shown:
    for step in range(1, 5):
        time.sleep(0.15)
        shown.update(8000 + step * 4000, "a\\x1b[2J\\u202egnp\\n[red]" + "\\u8868" * 30, samples=step, tokens=step)
        log.warning("step %d", step)
"""
"""A phase of four steps, whose notes want to do harm; each step also writes a line to the log."""

CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FRAME: Final = re.compile(r"\r\n|\r|\n|\x1b\[1A|\x1b\[2K")


def on_terminal(columns: int, **variables: str) -> str:
    """What the phase sends to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    environment = {**job_environment(), "TERM": "xterm-256color", "MOSAIC_RAY_LOG_FORMAT": "", **variables}
    environment.pop("COLUMNS", None)
    command = [sys.executable, "-c", PHASE]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    sent = b""
    with suppress(OSError):  # that is how a terminal says that nobody writes to it any more
        while block := os.read(ours, 1 << 16):
            sent += block
    os.close(ours)
    assert process.wait(30) == 0, sent.decode()
    return sent.decode()


def lines_of(sent: str) -> list[str]:
    """Every stretch of text between two moves of the cursor, without colours."""
    return [CONTROL.sub("", line) for line in FRAME.split(sent)]


def in_a_log(**variables: str) -> list[str]:
    command = [sys.executable, "-c", PHASE]
    environment = {**job_environment(), **variables}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr.endswith("\n")
    return done.stderr.removesuffix("\n").split("\n")


@pytest.mark.parametrize("columns", [240, 100, 60, 24])
def test_on_a_terminal_it_is_one_line_that_fits(columns: int) -> None:
    sent = on_terminal(columns)
    lines = lines_of(sent)
    assert max(map(cell_len, lines)) <= columns
    assert "\x1b[2J" not in sent
    assert "\u202e" not in sent
    bars = [line for line in lines if "/24,000" in line]
    assert len(bars) >= 4
    assert all(line.startswith("compose ") for line in bars)
    assert sent.endswith("\n\x1b[?25h")  # the cursor is shown again, in a line of its own
    for step in range(1, 5):  # what is logged meanwhile stands in lines of its own
        assert lines.count(f"step {step}") == 1
    if columns >= 60:
        assert bars[-1].startswith(f"compose {'━' * 20} 24,000/24,000 (100%), in ")
        assert not any("…" in bar for bar in bars)
    assert ("records/s" in bars[-1]) == (columns >= 100)
    assert ("a⟨U+001B⟩[2J⟨U+202E⟩gnp⟨U+000A⟩[red]表表" in bars[-1]) == (columns == 240)


def test_where_a_terminal_cannot_move_its_cursor_there_are_lines() -> None:
    sent = on_terminal(60, TERM="dumb")
    assert "\x1b" not in sent
    assert sent.count("compose: ") >= 4
    assert "compose: 24,000 of 24,000 records (100%), " in sent.splitlines()[-1]


def test_colours_that_a_variable_demands_are_not_sent_to_a_log() -> None:
    """As where the job's log is a file: rich would take it for a terminal."""
    assert not any("\x1b" in line or "\r" in line for line in in_a_log(FORCE_COLOR="1", TTY_COMPATIBLE="1"))


def test_in_a_log_it_is_a_line_now_and_then_and_the_last_one_at_the_end() -> None:
    lines = in_a_log()
    told = [line for line in lines if line.startswith("compose: ")]
    assert 3 <= len(told) <= 8
    note = "a⟨U+001B⟩[2J⟨U+202E⟩gnp⟨U+000A⟩[red]" + "表" * 30
    assert lines[-1] == told[-1]
    assert re.fullmatch(
        rf"compose: 24,000 of 24,000 records \(100%\), {re.escape(note)}, [\d.]+k records/s, [\d.]+ samples/s, "
        r"[\d.]+ tokens/s, 1 s, eta 0 s",
        lines[-1],
    )


def test_in_json_its_numbers_are_numbers() -> None:
    lines: list[dict[str, Any]] = [json.loads(line) for line in in_a_log(MOSAIC_RAY_LOG_FORMAT="json")]
    told = [line for line in lines if "done" in line]
    assert 3 <= len(told) <= 8
    assert {(line["phase"], line["total"], line["unit"]) for line in told} == {("compose", 24000, "records")}
    assert [line["done"] for line in told] == sorted(line["done"] for line in told)
    last = told[-1]
    assert (last["done"], last["eta_seconds"]) == (24000, 0.0)
    assert 16000 / 10 < last["rate"] < 16000 / 0.6  # of what this start has done
    assert last["message"].startswith("compose: 24,000 of 24,000 records (100%), ")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "unknown"), (0.2, "0 s"), (119.4, "119 s"), (119.6, "2 min 0 s"), (7199, "119 min 59 s"),
     (7200, "2 h 0 min"), (86460, "24 h 1 min")],
)  # fmt: skip
def test_times_are_in_the_units_that_a_person_counts_in(seconds: float | None, words: str) -> None:
    assert _duration(seconds) == words
