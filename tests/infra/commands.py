"""The command lines that stand in Dockerfiles, manifests and comments, and what the real command line says of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Final

import click

from mosaic_ray.cli import app
from mosaic_ray.cli.options import METHOD
from mosaic_ray.config import job_from
from mosaic_ray.errors import MosaicError

NIGHT: Final = "$(date -u +%F)"
_PROGRAM: Final = re.compile(r"(?:\S*/)?(?:mosaic-ray|mosaic_corpus\.py)")
_ENDS: Final = re.compile(r"[;|&<>]+")


def words(line: str, values: dict[str, str]) -> list[str]:
    """What a shell makes of a line: ``$NAME`` by the values, the night's date as one."""
    line = line.replace(NIGHT, "2026-11-22")
    line = re.sub(r"\$\{?([A-Z_]+)\}?", lambda found: values.get(found[1], found[0]), line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
    lexer.whitespace_split = True
    lexer.commenters = ""
    return list(lexer)


def calls(line: str, values: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """The program and the arguments of every call of ours in a shell line."""
    if not _PROGRAM.search(line):
        return
    found = words(line, values)
    starts = [at for at, word in enumerate(found) if _PROGRAM.fullmatch(word)]
    for start in starts:
        arguments: list[str] = []
        for word in found[start + 1 :]:
            if _ENDS.fullmatch(word):
                break
            arguments.append(word)
        if arguments and all(not argument.startswith("$") for argument in arguments):
            yield found[start], arguments
        else:
            raise ValueError(f"{line!r}: a value is missing")


def refusal(arguments: list[str]) -> str | None:
    """Why the command line would refuse these arguments; None if it would run."""
    name, *rest = arguments
    if name in ("--help", "--version"):
        return None
    if name not in app.commands:
        name, rest = "run", arguments
    try:
        with app.commands[name].make_context(name, rest) as context:
            given = {key: value for key, value in context.params.items() if value not in (None, ())}
            if name in ("run", "plan"):
                job_from({key: value for key, value in given.items() if key != "config"}, METHOD).further_views()
    except click.exceptions.Exit:
        return None
    except (click.ClickException, MosaicError) as error:
        return error.format_message() if isinstance(error, click.ClickException) else str(error)
    return None


def shell_lines(text: str, *, comment: str | None = None) -> Iterator[str]:
    """Lines as a shell reads them, joined where they end in a backslash; with ``comment``, those inside comments."""
    lines = text.splitlines()
    if comment is not None:
        lines = [line.strip().removeprefix(comment) for line in lines if line.strip().startswith(comment)]
    yield from re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
