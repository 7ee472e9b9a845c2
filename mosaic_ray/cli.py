"""The command line: ``run`` (what a bare call does), ``plan``, ``verify``, ``explain``, ``view``, ``cost``.

The options are the fields of the models in ``config.py`` and of the method, so a flag, a key of the YAML file and a
field of the settings are one thing with one description.
"""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console

from mosaic_ray import __version__
from mosaic_ray.config import TOKEN_VIEWS, AnyView, Execution, Job, ViewSpec, job_from, models_of
from mosaic_ray.errors import Interrupted, MosaicError, SettingsError, StorageError, VerificationError
from mosaic_ray.io.manifest import data_set_of, read_manifest
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.catalog import METHODS
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.engine import Engine, InProcessEngine
from mosaic_ray.runtime.lease import hold
from mosaic_ray.runtime.run import Run, open_run, reopen
from mosaic_ray.runtime.stock import find_input, take_stock
from mosaic_ray.runtime.viewing import finished_view, make_view, view_path
from mosaic_ray.text import SeenFormatter, seen, seen_on_one_line

log = logging.getLogger("mosaic_ray")

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


class _RunByDefault(click.Group):
    """``mosaic-ray --input ...`` is ``mosaic-ray run --input ...``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("--help", "--version"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


class _Sectioned(click.Command):
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


def _options(*parts: str) -> list[click.Parameter]:
    models = models_of(METHOD)
    return [_Option(name, field, SECTIONS[part]) for part in parts for name, field in models[part].model_fields.items()]


@click.group(cls=_RunByDefault, context_settings={"max_content_width": 100}, no_args_is_help=True)
@click.version_option(__version__, prog_name="mosaic_ray")
def app() -> None:
    """Compose a better, smaller training set of an instruction corpus.

    Without a command, options go to 'run': 'mosaic-ray run --help' shows them.
    """


def _job_command(action: Callable[[Job], None], name: str, help: str) -> None:
    """A command that takes every option of a job, from flags and from a YAML file; flags win."""

    def call(config: Path | None, **options: Any) -> None:
        given = {key: value for key, value in options.items() if value is not None and value != ()}
        action(job_from({**_yaml_options(config), **given}, METHOD))

    config = click.Option(
        ["--config"], type=click.Path(path_type=Path), help="YAML file of the options below; flags win over it."
    )
    app.add_command(_Sectioned(name, callback=call, params=[config, *_options(*SECTIONS)], help=help))


def _run(job: Job) -> None:
    from mosaic_ray.pages import publish_pages, publish_view_card
    from mosaic_ray.show import show_manifest, show_view

    if job.execution.engine == "ray" and any("memory://" in uri for uri in (*job.places.input, job.places.output)):
        raise SettingsError("memory:// is the memory of one process, and Ray has several; give --engine in-process")
    manifest = run_job(job, lambda: _engine(job.execution), finish=publish_pages, finish_view=publish_view_card)
    output = Storage.at(job.places.output, job.places.output_options, error=StorageError)
    show_manifest(manifest, _console(), output=output.uri())
    for view in map(view_path, job.further_views()):
        click.echo()
        show_view(read_manifest(output.under(view)), _console(), output=output.uri(view))


def _plan(job: Job) -> None:
    from mosaic_ray.show import show_plan

    run = open_run(job)
    with _engine(job.execution) as engine:
        _ = run.tokenizer  # an error of it comes before the inventory
        files = take_stock(run, engine, find_input(run), known=[], stage=None)
    show_plan(run, files, run.plan(files), _console())


_job_command(_run, "run", "Compose the data set, or resume it where a run was stopped.")
_job_command(_plan, "plan", "Say what 'run' would do: files, records, tasks, expected samples. Writes nothing.")


def _verify(output: str, recompute: int, **options: Any) -> None:
    from mosaic_ray.runtime.verify import verify

    home, view = _view_at(output, options)
    if view is not None:
        _verify_view(home, view, options)
        return
    run, execution = _finished(output, options)
    with _engine(execution) as engine:
        found = verify(run, engine, recompute=recompute)
    rebuilt = f" {found.recomputed} parts were rebuilt from the source and have the same bytes." if recompute else ""
    click.echo(
        f"verified {run.output.uri()}: {found.parts} parts, {found.rows:,} samples, {found.tokens:,} tokens. Checksums "
        f"and accounting hold, every sample obeys its meta-instruction, every token count is exact.{rebuilt}"
    )


def _verify_view(home: str, view: ViewSpec, options: Mapping[str, Any]) -> None:
    from mosaic_ray.runtime.verify_view import verify_view

    run, execution = _finished(home, options)
    tokens = view.view in TOKEN_VIEWS
    with _engine(execution) as engine:
        found = verify_view(run, engine, view)
    click.echo(
        f"verified {run.output.uri(view_path(view))}: {found.parts} parts, {found.rows:,} rows. Made again of the data "
        "set every part has the same rows" + (", and the labels decode to the answers." if tokens else ".")
    )


def _view_at(address: str, options: Mapping[str, Any]) -> tuple[str, ViewSpec | None]:
    """The data set that a view at an address belongs to, and which view that is; None if it is the data set itself."""
    from mosaic_ray.runtime.verify_view import kept_view

    given = {key: value for key, value in options.items() if key == "output_options" and value is not None}
    places = job_from({"output": address, **given}, METHOD).places
    storage = Storage.at(address, places.output_options, error=VerificationError)
    view = kept_view(storage)
    return address if view is None else data_set_of(storage).uri(), view


def _explain(place: str, **options: Any) -> None:
    from mosaic_ray.runtime.explain import explain, split_place
    from mosaic_ray.runtime.verify_view import samples_of
    from mosaic_ray.show import show_explanation

    output, part, row = split_place(place)
    home, view = _view_at(output, options)
    run, _ = _finished(home, options)
    rows = [row] if view is None else samples_of(run, view, part, row)
    for number in rows:
        if view is not None:
            click.echo(f"{run.output.uri(part)}:{number}")
        show_explanation(explain(run, part, number), _console())


def _cost(output: str, batch_size: int, max_length: int | None, as_json: bool, **options: Any) -> None:
    from mosaic_ray.runtime.cost import cost
    from mosaic_ray.show import show_cost

    run, execution = _finished(output, options)
    found = cost(run, lambda: _engine(execution), batch_size=batch_size, max_length=max_length)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        show_cost(found, _console())


def _view(output: str, view: AnyView, sequence_length: int | None, **options: Any) -> None:
    from mosaic_ray.pages import publish_view_card
    from mosaic_ray.show import show_view

    run, execution = _finished(output, options)
    manifest = read_manifest(run.output)
    if sequence_length is None and view == "packed":
        sequence_length = run.settings.max_tokens
    try:
        spec = ViewSpec(view=view, sequence_length=sequence_length)
    except ValidationError:
        raise SettingsError(f"--sequence-length is for --view packed; {view} has rows of one sample each") from None
    made = finished_view(run, manifest, spec)
    if made is None:
        with _engine(execution) as engine, hold(run.output) as lease:
            made = make_view(run, engine, lease, manifest, spec, finish=publish_view_card)
    show_view(made, _console(), output=run.output.uri(view_path(spec)))


def _moved() -> list[click.Parameter]:
    """Options of commands on a finished data set: where its source is now, and how to reach both."""
    kept = ("input", "input_options", "output_options")
    return [option for option in _options("places") if option.name in kept]


app.add_command(
    _Sectioned(
        "verify",
        callback=_verify,
        help="Check a finished data set against its manifest and its source: checksums, accounting, token counts, and "
        "that every sample obeys its meta-instruction. A view (OUT/views/NAME) is made again of its data set, and its "
        "labels are decoded.",
        params=[
            click.Argument(["output"]),
            click.Option(["--recompute"], type=click.IntRange(min=0), default=0, metavar="K",
                         help="Rebuild K parts, drawn at random by the seed, and compare their bytes."),
            *_moved(),
            *_options("execution"),
        ],
    )
)  # fmt: skip
app.add_command(
    _Sectioned(
        "view",
        callback=_view,
        help="Make a view of a finished data set, under OUTPUT/views/: the same samples in other columns. Nothing is "
        "composed again.",
        params=[
            click.Argument(["output"]),
            click.Option(["--view"], type=click.Choice(get_args(AnyView)), required=True, help="Which one."),
            click.Option(["--sequence-length"], type=click.IntRange(1, 2**31 - 1),
                         help="Tokens of a sequence of the view packed. Without it: the --max-tokens of the run."),
            *(option for option in _moved() if option.name == "output_options"),
            *_options("execution"),
        ],
    )
)  # fmt: skip
app.add_command(
    _Sectioned(
        "explain",
        callback=_explain,
        help="Show one sample: its tiles with their source file and row, what was drawn, and its token counts. "
        "PART:ROW is as in OUT/data/train-00000-of-00004.parquet:7, rows counted from 0. Of a view's row, the samples "
        "that it holds.",
        params=[click.Argument(["place"], metavar="PART:ROW"), *_moved()],
    )
)
app.add_command(
    _Sectioned(
        "cost",
        callback=_cost,
        help="Say what training on a finished data set costs beside training on its records: optimizer steps, and "
        "tokens computed over, for rows padded to the maximum, padded to their batch, and packed.",
        params=[
            click.Argument(["output"]),
            click.Option(["--batch-size"], type=click.IntRange(min=1), default=128, show_default=True, metavar="ROWS",
                         help="Rows a step of the optimizer, over all ranks and accumulated batches."),
            click.Option(["--max-length"], type=click.IntRange(min=1), metavar="TOKENS",
                         help="Tokens that the trainer gives a row.  [default: the run's --max-tokens]"),
            click.Option(["--json", "as_json"], is_flag=True, help="Print the figures as JSON."),
            *_moved(),
            *_options("execution"),
        ],
    )
)  # fmt: skip


class _PlainNumbers(yaml.SafeLoader):
    """YAML in which ``1:8`` is text, as in version 1.2, and not the number 68."""


_INT, _DIGITS = "tag:yaml.org,2002:int", "-+0123456789"
_PlainNumbers.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _INT]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_PlainNumbers.add_implicit_resolver(_INT, re.compile(r"[-+]?[0-9]+$"), list(_DIGITS))


def _yaml_options(path: Path | None) -> dict[str, Any]:
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


def _finished(output: str, options: Mapping[str, Any]) -> tuple[Run, Execution]:
    """A finished run opened again, and how to execute on it."""
    given = {key: value for key, value in options.items() if value is not None and key != "input"}
    job = job_from({"output": output, **given}, METHOD)
    patience = job.execution.store_patience
    storage = Storage.at(output, job.places.output_options, error=StorageError, patience=patience)
    inputs: Sequence[str] = options.get("input") or ()
    return reopen(storage, METHODS, inputs=inputs, input_options=job.places.input_options or None), job.execution


def _engine(execution: Execution) -> Engine:
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


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=OUTSIDE_TERMINAL)


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the run at once, with a word on how to go on."""

    def stop(number: int, _frame: object) -> None:
        raise Interrupted(
            f"stopped by {signal.Signals(number).name}. Finished tasks are kept; the same command goes on from there",
            signal_number=number,
        )

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> None:
    """Entry point of the command ``mosaic-ray`` and of the job scripts; ends the process with a status."""
    handler = logging.StreamHandler()
    handler.setFormatter(SeenFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(logging.INFO)
    try:
        with _stop_on_signals():
            app()
    except (MosaicError, Interrupted) as error:
        if error.__cause__ is not None and type(error).__name__ == "TaskError":
            click.echo(f"{seen(str(error.__cause__))}\n", err=True)
        listed = isinstance(error, VerificationError)
        click.echo(f"error: {seen(str(error)) if listed else seen_on_one_line(str(error))}", err=True)
        sys.exit(error.exit_code)
