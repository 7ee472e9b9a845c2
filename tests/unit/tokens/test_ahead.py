"""A tokenizer loaded in a process of its own is the same tokenizer, its errors are the same errors, and it ends."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.errors import TokenizerError
from mosaic_ray.tokens import load_tokenizer
from mosaic_ray.tokens.ahead import TokenizerAhead

EMBEDDED = str(tokenizer_path())


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.mark.parametrize("template", [None, "none"])
def test_it_is_the_same_tokenizer(template: str | None) -> None:
    assert TokenizerAhead(EMBEDDED, chat_template=template).result() == load_tokenizer(EMBEDDED, chat_template=template)


def test_its_error_has_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TokenizerError) as here:
        load_tokenizer(str(tmp_path / "none"))
    with pytest.raises(TokenizerError) as ahead:
        TokenizerAhead(str(tmp_path / "none")).result()
    assert str(ahead.value) == str(here.value)
    with pytest.raises(TokenizerError, match=r"--chat-template nowhere\.jinja: "):
        TokenizerAhead(EMBEDDED, chat_template="nowhere.jinja").result()


def test_the_working_directory_stands_in_for_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "transformers.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert TokenizerAhead(EMBEDDED).result().name == EMBEDDED


def test_a_process_that_dies_is_an_error_that_says_so() -> None:
    before = children()
    ahead = TokenizerAhead(EMBEDDED)
    (process,) = children() - before
    os.kill(process, signal.SIGKILL)
    with pytest.raises(TokenizerError, match="could not be loaded: the process that loads it ended with status -9"):
        ahead.result()


def test_it_survives_the_interrupt_of_its_group() -> None:
    before = children()
    ahead = TokenizerAhead(EMBEDDED)
    (process,) = children() - before
    deadline = time.monotonic() + 30
    ignored = 1 << (signal.SIGINT - 1)
    while not int(_status(process, "SigIgn"), 16) & ignored:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process, signal.SIGINT)
    assert ahead.result().name == EMBEDDED


def _status(process: int, field: str) -> str:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def test_nobody_who_waits_leaves_no_process() -> None:
    before = children()
    ahead = TokenizerAhead(EMBEDDED)
    assert len(children() - before) == 1
    del ahead
    gc.collect()
    assert children() == before
