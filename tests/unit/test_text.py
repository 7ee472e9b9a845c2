"""Log lines as a terminal gets them; what is spelt out is in tests/unit/pages/test_text.py."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from mosaic_ray.text import SeenFormatter


def test_a_log_line_sends_no_control_characters() -> None:
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(SeenFormatter("%(message)s"))
    log = logging.Logger("of a test")
    log.addHandler(handler)
    log.warning("%s: %d records", "a\x1b[2J\u202egnp.jsonl", 3)
    assert handler.stream.getvalue() == "a⟨U+001B⟩[2J⟨U+202E⟩gnp.jsonl: 3 records\n"


def test_what_a_log_line_names_stays_on_that_line() -> None:
    form = SeenFormatter("%(message)s").format
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s: %d records,\n%s", ("a\nerror: no", 3, Path("\t")), None)
    assert form(record) == "a⟨U+000A⟩error: no: 3 records,\n⟨U+0009⟩"
    assert record.args == ("a\nerror: no", 3, Path("\t"))
