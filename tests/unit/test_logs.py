"""The log as JSON: what every line of it is, of a run, of a refusal, and whatever names and texts come along."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray import logs
from mosaic_ray.errors import InputError, SettingsError
from mosaic_ray.runtime.engine import Failure, InProcessEngine
from tests.conftest import ROOT, job_environment, write_jsonl
from tests.forked import Ended, run_forked

OPTIONS = ("--tokenizer", "embedded", "--max-tokens", "256", "--epochs", "1", "--engine", "in-process")
HOSTILE = "a\nerror: no\x1b[2J\u202e.jsonl"


def run(folder: Path, *arguments: str, form: str = "") -> Ended:
    """The command with a log that is a file. form: of MOSAIC_RAY_LOG_FORMAT."""
    return run_forked(list(arguments), {**job_environment(), "MOSAIC_RAY_LOG_FORMAT": form}, folder)


def parsed(ended: Ended) -> list[dict[str, Any]]:
    """The lines of its log, of which each must be what a line is."""
    assert ended.stderr.endswith("\n")
    lines = [json.loads(line) for line in ended.stderr.removesuffix("\n").split("\n")]
    for line in lines:
        assert {"time", "level", "message", "node", "logger"} <= line.keys(), line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["level"] in ("info", "warning", "error", "critical")
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    return lines


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Count {n}.", "completion": f"{n} {n + 1}"} for n in range(300)]
    write_jsonl(tmp_path / "sft" / HOSTILE, rows)
    return tmp_path / "sft"


class TestOfTheCommand:
    def test_every_line_of_a_run_is_an_object(self, corpus: Path, tmp_path: Path) -> None:
        ended = run(tmp_path, "--input", str(corpus), "--output", str(tmp_path / "out"), *OPTIONS)
        lines = parsed(ended)
        assert ended.status == 0
        name = json.loads((tmp_path / "out" / "manifest.json").read_text())["run"]
        named = [line.get("run") for line in lines]
        begun = named.index(name[:12])
        assert set(named[:begun]) == {None}
        assert set(named[begun:]) == {name[:12]}
        assert "a⟨U+000A⟩error: no⟨U+001B⟩[2J⟨U+202E⟩.jsonl" in "".join(line["message"] for line in lines)
        last = lines[-1]
        assert (last["phase"], last["done"], last["total"], last["unit"]) == ("compose", 300, 300, "records")
        assert last["message"].startswith("compose: 300 of 300 records (100%), ")
        assert not any("exit_status" in line for line in lines)

    def test_a_refusal_is_one_too_and_has_the_exit_status(self, tmp_path: Path) -> None:
        ended = run(tmp_path, "--input", str(tmp_path / "no\nne"), "--output", str(tmp_path / "out"), *OPTIONS)
        last = parsed(ended)[-1]
        assert (ended.status, last["exit_status"], last["level"]) == (3, 3, "error")
        assert last["message"].startswith(f"error: {tmp_path}/no⟨U+000A⟩ne: there is no such file or folder")

    def test_a_wrong_option_is_one_too(self, tmp_path: Path) -> None:
        ended = run(tmp_path, "--outptu", "x")
        (line,) = parsed(ended)
        assert (ended.status, line["exit_status"]) == (2, 2)
        assert line["message"].startswith("error: No such option '--outptu'")

    def test_a_task_that_fails_is_named(self, corpus: Path, tmp_path: Path) -> None:
        with (corpus / HOSTILE).open("a") as file:
            file.write(json.dumps({"prompt": "long", "completion": "word " * 900}) + "\n")
        arguments = ("--input", str(corpus), "--output", str(tmp_path / "out"), "--overlong", "fail", *OPTIONS)
        last = parsed(run(tmp_path, *arguments))[-1]
        assert (last["task"], last["exit_status"]) == (0, 3)
        assert "row 300: the record alone has" in last["message"]

    def test_help_is_no_log(self, tmp_path: Path) -> None:
        assert (run(tmp_path).status, run(tmp_path).stderr[:6]) == (2, "Usage:")
        ended = run(tmp_path, "--help")
        assert (ended.status, ended.stderr) == (0, "")
        assert ended.stdout.startswith("Usage:")

    def test_text_when_it_is_asked_for(self, tmp_path: Path) -> None:
        ended = run(tmp_path, "verify", str(tmp_path / "none"), form="text")
        assert ended.stderr.startswith(f"error: {tmp_path}/none")

    def test_another_format_is_refused(self, tmp_path: Path) -> None:
        ended = run(tmp_path, "--help", form="xml")
        (line,) = parsed(ended)
        assert (ended.status, line["message"]) == (
            2, "error: MOSAIC_RAY_LOG_FORMAT is 'xml'; it must be text or json, or not be set",
        )  # fmt: skip

    def test_so_is_a_fault_of_the_program_with_its_traceback(self) -> None:
        code = "from mosaic_ray import logs; logs.configure(); import warnings; warnings.warn('x\\ny'); 1 / 0"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**job_environment(), "MOSAIC_RAY_LOG_FORMAT": ""},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        warned, failed = parsed(Ended(done.returncode, done.stdout, done.stderr))
        assert done.returncode == 1
        assert (warned["level"], warned["logger"]) == ("warning", "py.warnings")
        assert "UserWarning: x\ny" in warned["message"]
        assert (failed["level"], failed["message"].splitlines()[-1]) == (
            "critical",
            "ZeroDivisionError: division by zero",
        )


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The log of this process as a command has it, and as it was afterwards."""
    root, own = logging.getLogger(), logging.getLogger("mosaic_ray")
    handlers, level, hook = root.handlers[:], own.level, sys.excepthook
    root.handlers[:] = []
    monkeypatch.setenv(logs.FORMAT, "json")
    monkeypatch.setattr(logs, "_subject", {})  # a run of another test is in it
    logs.configure()
    yield
    root.handlers[:] = handlers
    own.setLevel(level)
    sys.excepthook = hook
    logging.captureWarnings(False)


@pytest.mark.usefixtures("configured")
class TestOfAProcess:
    def test_lines_are_of_the_task_at_hand(self, capsys: pytest.CaptureFixture[str]) -> None:
        log = logging.getLogger("mosaic_ray")
        with logs.on_task("v1:0123456789abcdef", 7):
            log.info("inside")
        log.info("outside")
        inside, outside = map(json.loads, capsys.readouterr().err.splitlines())
        assert (inside["run"], inside["task"]) == ("v1:012345678", 7)
        assert not {"run", "task"} & outside.keys()

    def test_a_task_that_is_tried_again_is_named(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mosaic_ray.runtime.engine.PAUSE_SECONDS", 0.0)
        failures = [ValueError("first"), OSError("second")]

        def work(item: int) -> int:
            with logs.on_task("v1:0123456789abcdef", item):
                if failures:
                    raise failures.pop()
            return item

        with InProcessEngine() as engine:
            assert list(engine.map(work, [5], describe=str)) == [(5, 5)]
        assert [json.loads(line)["task"] for line in capsys.readouterr().err.splitlines()] == [5, 5]

    def test_an_error_that_crosses_processes_keeps_its_task(self) -> None:
        with pytest.raises(InputError) as raised, logs.on_task("v1:0", 3):
            raise InputError("gone")
        with pytest.raises(InputError, match="task x was tried 2 times: gone") as again:
            Failure.of(raised.value).fail("task x", tries=2)
        assert again.value.task == 3

    @given(st.text(st.characters(), max_size=20), st.text(st.characters(), max_size=20))
    def test_whatever_is_said_is_one_line_without_control_characters(self, name: str, text: str) -> None:
        form = logging.getLogger().handlers[0].format
        record = logging.LogRecord("mosaic_ray", logging.INFO, "", 0, "%s: %s", (name, text), None)
        line = form(record)
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]", line)
        assert set(json.loads(line)) == {"time", "level", "message", "node", "logger"}

    def test_times_are_those_of_the_records(self) -> None:
        record = logging.LogRecord("mosaic_ray", logging.INFO, "", 0, "x", (), None)
        told = json.loads(logging.getLogger().handlers[0].format(record))["time"]
        assert abs(datetime.fromisoformat(told).timestamp() - record.created) < 0.001

    def test_warnings_of_libraries_are_lines(self, capsys: pytest.CaptureFixture[str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("old\x1b[2J", DeprecationWarning, stacklevel=1)
        assert "old⟨U+001B⟩[2J" in json.loads(capsys.readouterr().err)["message"]


def test_a_wrong_format_still_has_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.FORMAT, "xml")
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    with pytest.raises(SettingsError, match="MOSAIC_RAY_LOG_FORMAT is 'xml'"):
        logs.configure()
    logging.captureWarnings(False)
