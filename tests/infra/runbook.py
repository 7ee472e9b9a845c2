"""What infra/README.md, the runbook, has for an operator to type and to look at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tests.conftest import ROOT
from tests.infra.commands import shell_lines

RUNBOOK: Final = ROOT / "infra" / "README.md"

_BLOCK: Final = re.compile(r"^( *)```sh\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCED: Final = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def text() -> str:
    return RUNBOOK.read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[str]:
    """Each block for a shell, as it is rendered: without the indentation of the list that it stands in."""
    for indentation, block in _BLOCK.findall(text):
        yield "".join(line.removeprefix(indentation) for line in block.splitlines(keepends=True))


def headings(text: str) -> list[str]:
    return _HEADING.findall(_FENCED.sub("", text))


def anchors(text: str) -> set[str]:
    """What links to its headings end in, as GitHub makes it of them."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(text)}


def section(text: str, heading: str) -> str:
    """The text under a heading, up to the next of its rank or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,3}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading {heading!r}"
    return found[2]


def commands(heading: str) -> list[str]:
    """The lines of the blocks for a shell in a section, joined where they go on."""
    return [line for block in blocks(section(text(), heading)) for line in shell_lines(block) if line.strip()]
