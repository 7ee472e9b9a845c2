"""A Dockerfile as far as ours go: what is copied from where, who runs it, and what its last stage holds."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

PYTHON: Final = re.compile(r"python:(\d+\.\d+)\.\d+-slim-[a-z]+")
_TOOLS: Final = re.compile(r"\b(apt-get|apt|gcc|g\+\+|build-essential|curl|wget|git)\b")


@dataclass
class _Stage:
    base: str
    workdir: str = "/"
    user: str = "root"
    copies: dict[str, str] = field(default_factory=dict)
    """Path of the image -> path of the checkout."""


class Image:
    """The image that infra/image/Dockerfile makes of a checkout."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ignored = _rules(root / "infra/image/Dockerfile.dockerignore")
        self._stages: dict[str, _Stage] = {}
        self._problems: list[str] = []
        self.runs: list[str] = []
        self.labels: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.command: list[str] = []
        for name, rest in _instructions((root / "infra/image/Dockerfile").read_text()):
            self._read(name, rest)

    @property
    def _last(self) -> _Stage:
        return list(self._stages.values())[-1]

    def has(self, path: str) -> bool:
        """Whether a file of the checkout is at a path of the image, which is relative to its working directory."""
        wanted = PurePosixPath(self._last.workdir) / path
        for target, source in self._last.copies.items():
            if wanted.is_relative_to(target):
                return (self._root / source / wanted.relative_to(target)).is_file()
        return False

    def problems(self, python: str) -> Iterator[str]:
        """python: which versions the project takes, as in ``>=3.11``."""
        yield from self._problems
        least = tuple(map(int, python.removeprefix(">=").split(".")))
        for stage in self._stages.values():
            pinned = PYTHON.fullmatch(stage.base)
            if pinned is None or tuple(map(int, pinned[1].split("."))) < least:
                yield f"Dockerfile: FROM {stage.base} is not a version of python {python} to the last number, slim"
        if len({stage.base for stage in self._stages.values()}) != 1:
            yield "Dockerfile: the stages have different bases"
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", self._last.user):
            yield f"Dockerfile: USER {self._last.user} is not a number above 0"
        if self.environment.get("RAY_USAGE_STATS_ENABLED") != "0":
            yield "Dockerfile: Ray reports its use"

    def _read(self, name: str, rest: str) -> None:
        if name == "FROM":
            base, _, alias = rest.partition(" AS ")
            self._stages[alias or str(len(self._stages))] = _Stage(base)
            self.runs.append("")
            return
        stage = self._last
        if name == "WORKDIR":
            stage.workdir = rest
        elif name == "USER":
            stage.user = rest
        elif name in ("LABEL", "ENV"):
            pairs = dict(word.split("=", 1) for word in shlex.split(rest))
            (self.labels if name == "LABEL" else self.environment).update(pairs)
        elif name == "RUN":
            self.runs = [*filter(None, self.runs), rest]
            if _TOOLS.search(rest):
                self._problems.append(f"Dockerfile: RUN {rest} brings tools into the image")
        elif name == "CMD":
            self.command = json.loads(rest)
        elif name == "COPY":
            self._copy(stage, shlex.split(rest))
        else:
            self._problems.append(f"Dockerfile: {name} is not expected")

    def _copy(self, stage: _Stage, words: list[str]) -> None:
        if words[0].startswith("--from="):
            if words[0].removeprefix("--from=") not in self._stages:
                self._problems.append(f"Dockerfile: COPY {words[0]}: no such stage")
            return
        *sources, target = words
        for source in sources:
            if not (self._root / source).exists():
                self._problems.append(f"Dockerfile: COPY {source}: not in the checkout")
            elif _left_out(source, self._ignored):
                self._problems.append(f"Dockerfile: COPY {source}: Dockerfile.dockerignore leaves it out")
            whole = PurePosixPath(stage.workdir) / target
            stage.copies[str(whole / source if target.endswith("/") else whole)] = source


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for line in re.sub(r"\\\n\s*", "", plain).splitlines():
        if line.strip():
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def _rules(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines() if line and not line.startswith("#")]


def _left_out(path: str, rules: list[str]) -> bool:
    """The last rule that fits decides, as in Docker."""
    out = False
    for rule in rules:
        if fnmatch.fnmatch(path, rule.removeprefix("!")):
            out = not rule.startswith("!")
    return out
