"""``verify``, ``view``, ``explain`` and ``cost``: the commands on a finished data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import click
from pydantic import ValidationError

from mosaic_ray.cli.options import METHOD, Sectioned, console, engine_of, moved, options
from mosaic_ray.config import TOKEN_VIEWS, AnyView, Execution, ViewSpec, job_from
from mosaic_ray.errors import SettingsError, StorageError, VerificationError
from mosaic_ray.io.manifest import data_set_of, read_manifest
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.catalog import METHODS
from mosaic_ray.runtime.lease import hold
from mosaic_ray.runtime.run import Run, reopen
from mosaic_ray.runtime.viewing import finished_view, make_view, view_path


def _verify(output: str, recompute: int, **flags: Any) -> None:
    from mosaic_ray.runtime.verify import verify

    home, view = _view_at(output, flags)
    if view is not None:
        _verify_view(home, view, flags)
        return
    run, execution = finished_run(output, flags)
    with engine_of(execution) as engine:
        found = verify(run, engine, recompute=recompute)
    rebuilt = f" {found.recomputed} parts were rebuilt from the source and have the same bytes." if recompute else ""
    click.echo(
        f"verified {run.output.uri()}: {found.parts} parts, {found.rows:,} samples, {found.tokens:,} tokens. Checksums "
        f"and accounting hold, every sample obeys its meta-instruction, every token count is exact.{rebuilt}"
    )


def _verify_view(home: str, view: ViewSpec, flags: Mapping[str, Any]) -> None:
    from mosaic_ray.runtime.verify_view import verify_view

    run, execution = finished_run(home, flags)
    tokens = view.view in TOKEN_VIEWS
    with engine_of(execution) as engine:
        found = verify_view(run, engine, view)
    click.echo(
        f"verified {run.output.uri(view_path(view))}: {found.parts} parts, {found.rows:,} rows. Made again of the data "
        "set every part has the same rows" + (", and the labels decode to the answers." if tokens else ".")
    )


def _view_at(address: str, flags: Mapping[str, Any]) -> tuple[str, ViewSpec | None]:
    """The data set that a view at an address belongs to, and which view that is; None if it is the data set itself."""
    from mosaic_ray.runtime.verify_view import kept_view

    given = {key: value for key, value in flags.items() if key == "output_options" and value is not None}
    places = job_from({"output": address, **given}, METHOD).places
    storage = Storage.at(address, places.output_options, error=VerificationError)
    view = kept_view(storage)
    return address if view is None else data_set_of(storage).uri(), view


def _explain(place: str, **flags: Any) -> None:
    from mosaic_ray.runtime.explain import explain, split_place
    from mosaic_ray.runtime.verify_view import samples_of
    from mosaic_ray.show import show_explanation

    output, part, row = split_place(place)
    home, view = _view_at(output, flags)
    run, _ = finished_run(home, flags)
    rows = [row] if view is None else samples_of(run, view, part, row)
    for number in rows:
        if view is not None:
            click.echo(f"{run.output.uri(part)}:{number}")
        show_explanation(explain(run, part, number), console())


def _cost(output: str, batch_size: int, max_length: int | None, as_json: bool, **flags: Any) -> None:
    from mosaic_ray.runtime.cost import cost
    from mosaic_ray.show import show_cost

    run, execution = finished_run(output, flags)
    found = cost(run, lambda: engine_of(execution), batch_size=batch_size, max_length=max_length)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        show_cost(found, console())


def _view(output: str, view: AnyView, sequence_length: int | None, **flags: Any) -> None:
    from mosaic_ray.pages import publish_view_card
    from mosaic_ray.show import show_view

    run, execution = finished_run(output, flags)
    manifest = read_manifest(run.output)
    if sequence_length is None and view == "packed":
        sequence_length = run.settings.max_tokens
    try:
        spec = ViewSpec(view=view, sequence_length=sequence_length)
    except ValidationError:
        raise SettingsError(f"--sequence-length is for --view packed; {view} has rows of one sample each") from None
    made = finished_view(run, manifest, spec)
    if made is None:
        with engine_of(execution) as engine, hold(run.output) as lease:
            made = make_view(run, engine, lease, manifest, spec, finish=publish_view_card)
    show_view(made, console(), output=run.output.uri(view_path(spec)))


def finished_run(output: str, flags: Mapping[str, Any]) -> tuple[Run, Execution]:
    """A finished run opened again, and how to execute on it."""
    given = {key: value for key, value in flags.items() if value is not None and key != "input"}
    job = job_from({"output": output, **given}, METHOD)
    patience = job.execution.store_patience
    storage = Storage.at(output, job.places.output_options, error=StorageError, patience=patience)
    inputs: Sequence[str] = flags.get("input") or ()
    return reopen(storage, METHODS, inputs=inputs, input_options=job.places.input_options or None), job.execution


COMMANDS = [
    Sectioned(
        "verify",
        callback=_verify,
        help="Check a finished data set against its manifest and its source: checksums, accounting, token counts, and "
        "that every sample obeys its meta-instruction. A view (OUT/views/NAME) is made again of its data set, and its "
        "labels are decoded.",
        params=[
            click.Argument(["output"]),
            click.Option(["--recompute"], type=click.IntRange(min=0), default=0, metavar="K",
                         help="Rebuild K parts, drawn at random by the seed, and compare their bytes."),
            *moved(),
            *options("execution"),
        ],
    ),
    Sectioned(
        "view",
        callback=_view,
        help="Make a view of a finished data set, under OUTPUT/views/: the same samples in other columns. Nothing is "
        "composed again.",
        params=[
            click.Argument(["output"]),
            click.Option(["--view"], type=click.Choice(get_args(AnyView)), required=True, help="Which one."),
            click.Option(["--sequence-length"], type=click.IntRange(1, 2**31 - 1),
                         help="Tokens of a sequence of the view packed. Without it: the --max-tokens of the run."),
            *(option for option in moved() if option.name == "output_options"),
            *options("execution"),
        ],
    ),
    Sectioned(
        "explain",
        callback=_explain,
        help="Show one sample: its tiles with their source file and row, what was drawn, and its token counts. "
        "PART:ROW is as in OUT/data/train-00000-of-00004.parquet:7, rows counted from 0. Of a view's row, the samples "
        "that it holds.",
        params=[click.Argument(["place"], metavar="PART:ROW"), *moved()],
    ),
    Sectioned(
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
            *moved(),
            *options("execution"),
        ],
    ),
]  # fmt: skip
