"""One record of the embedded corpus before it takes the shape of its file."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is asked and what is answered.

    given: the material that the question is about, if it stands apart from it.
    system: the system prompt, if there is one.
    then: the questions and answers of the further turns.
    """

    ask: str
    answer: str
    given: str = ""
    system: str = ""
    then: tuple[tuple[str, str], ...] = ()

    @property
    def question(self) -> str:
        """The whole text of the first user turn: what is asked, and what is given below it."""
        return f"{self.ask}\n\n{self.given}" if self.given else self.ask


def written(name: str) -> list[Entry]:
    """The hand-written entries of one kind, in the order of ``written/{name}.toml``; none without such a file.

    Keys that only the tests use (``before``, ``after``, ``gives``) are left out.
    """
    path = Path(__file__).resolve().parent / "written" / f"{name}.toml"
    if not path.exists():
        return []
    with path.open("rb") as file:
        records = tomllib.load(file)["record"]
    return [
        Entry(
            ask=record["ask"],
            answer=record["answer"],
            given=record.get("given", ""),
            system=record.get("system", ""),
            then=tuple((turn["ask"], turn["answer"]) for turn in record.get("then", [])),
        )
        for record in records
    ]
