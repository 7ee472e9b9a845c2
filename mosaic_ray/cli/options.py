"""What the commands share: their options, which are the fields of the models in ``config.py`` and of the method.

So a flag, a key of the YAML file and a field of the settings are one thing with one description.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

import click
import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console

from mosaic_ray.config import Execution, job_from, models_of
from mosaic_ray.errors import SettingsError
from mosaic_ray.methods.catalog import METHODS
from mosaic_ray.runtime.engine import Engine, InProcessEngine

METHOD = METHODS["mosaic-it"]
"""The method whose options the commands have."""

SECTIONS: Mapping[str, str] = {
    "places": "Where things are",
    "settings": "What is made (a change changes the bytes)",
    "method": "How records are composed (a change changes the bytes)",
    "views": "What else is written of the samples (may be added later)",
    "execution": "How fast (a change changes no byte)",
}
OUTSIDE_TERMINAL = 120
"""Columns to print where no terminal says how many it has."""


class Sectioned(click.Command):
    """A command whose help lists its options by the model they belong to."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                rows.setdefault(getattr(parameter, "section", "Other"), []).append(record)
        for section, records in rows.items():
            with formatter.section(section):
                formatter.write_dl(records)


class _Option(click.Option):
    """An option that knows its section."""

    def __init__(self, name: str, field: FieldInfo, section: str) -> None:
        default = "" if _missing(field.default) else f"  [default: {_written(field.default)}]"
        super().__init__(
            [f"--{name.replace('_', '-')}"],
            help=f"{field.description}{default}",
            type=_click_type(field.annotation),
            multiple=name == "input",
            metavar={"columns": "ROLE=COLUMN,...", "workers": "MIN:MAX", "worker_memory": "SIZE"}.get(name),
            required=False,
        )
        self.section = section


def _missing(default: object) -> bool:
    return default is PydanticUndefined or default in (None, {}, ())


def _written(default: object) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _click_type(annotation: Any) -> click.ParamType[Any]:
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if annotation in (int, int | None):
        return click.INT
    return click.FLOAT if annotation is float else click.STRING


def options(*parts: str) -> list[click.Parameter]:
    models = models_of(METHOD)
    return [_Option(name, field, SECTIONS[part]) for part in parts for name, field in models[part].model_fields.items()]


def job_command(
    action: Callable[..., None], name: str, help: str, *, flags: Mapping[str, str] = MappingProxyType({})
) -> click.Command:
    """A command that takes every option of a job, from flags and from a YAML file; flags win.

    action: gets the job. flags: further ones and their help, which it gets by their name.
    """

    def call(config: Path | None, **values: Any) -> None:
        own = {flag: values.pop(flag) for flag in flags}
        given = {key: value for key, value in values.items() if value is not None and value != ()}
        action(job_from({**yaml_options(config), **given}, METHOD), **own)

    config = click.Option(
        ["--config"], type=click.Path(path_type=Path), help="YAML file of the options below; flags win over it."
    )
    further = [click.Option([f"--{flag}"], is_flag=True, help=text) for flag, text in flags.items()]
    return Sectioned(name, callback=call, params=[*further, config, *options(*SECTIONS)], help=help)


class _PlainNumbers(yaml.SafeLoader):
    """YAML in which ``1:8`` is text, as in version 1.2, and not the number 68."""


_INT, _DIGITS = "tag:yaml.org,2002:int", "-+0123456789"
_PlainNumbers.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _INT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainNumbers.add_implicit_resolver(_INT, re.compile(r"[-+]?[0-9]+$"), list(_DIGITS))


def yaml_options(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _PlainNumbers)
    except yaml.MarkedYAMLError as error:  # its text repeats a line of the file, which may hold a secret
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SettingsError(f"--config {path}: no YAML at line {line}: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"--config {path}: {error}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise SettingsError(f"--config {path}: not a mapping of options to values")
    return {str(key).replace("-", "_"): value for key, value in (loaded or {}).items()}


def moved() -> list[click.Parameter]:
    """Options of commands on a finished data set: where its source is now, and how to reach both."""
    kept = ("input", "input_options", "output_options")
    return [option for option in options("places") if option.name in kept]


def engine_of(execution: Execution) -> Engine:
    if execution.engine == "in-process":
        return InProcessEngine(stall_seconds=execution.stall_timeout, worker_memory=execution.worker_memory)
    from mosaic_ray.runtime.ray_engine import RayEngine

    workers = execution.workers
    return RayEngine(
        address=execution.ray_address,
        min_workers=workers.least,
        max_workers=workers.most,
        stall_seconds=execution.stall_timeout,
        worker_memory=execution.worker_memory,
    )


def console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=OUTSIDE_TERMINAL)
