"""``snapshots``, ``diff``, ``find`` and ``delete``: the commands on data sets that were made one after another."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence

import click

from mosaic_ray.cli.finished import finished_run
from mosaic_ray.cli.options import METHOD, Sectioned, console, moved
from mosaic_ray.config import job_from
from mosaic_ray.errors import SettingsError
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.snapshots.listing import data_sets_at, open_data_set, snapshots


def _snapshots(root: str, as_json: bool, output_options: str | None) -> None:
    from mosaic_ray.show_snapshots import show_snapshots

    place = _place(root, output_options)
    found = snapshots(place)
    if as_json:
        click.echo(json.dumps([one.to_dict() for one in found], indent=2))
    else:
        show_snapshots(found, console(), root=place.uri())


def _diff(a: str, b: str, as_json: bool, exit_code: bool, output_options: str | None) -> None:
    from mosaic_ray.runtime.snapshots.diff import compare
    from mosaic_ray.show_snapshots import show_difference

    found = compare(_place(a, output_options), _place(b, output_options))
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        show_difference(found, console())
    if exit_code and not found.same:
        sys.exit(1)


def _find(record: str, places: Sequence[str], as_json: bool, output_options: str | None) -> None:
    from mosaic_ray.runtime.snapshots.chain import in_order_of_deletion
    from mosaic_ray.runtime.snapshots.find import find
    from mosaic_ray.show_snapshots import show_findings, show_found

    given = [_place(place, output_options) for place in places]
    data_sets = {one.real(): one for place in given for one in data_sets_at(place)}
    kinds: Counter[str] = Counter()
    holding: set[str] = set()
    screen = console()
    for found in find(
        record,
        list(data_sets.values()),
        reopen=lambda place: finished_run(place.uri(), {"output_options": output_options})[0],
    ):
        kinds[found.kind] += 1
        holding.add(found.data_set)
        if as_json:
            click.echo(json.dumps(found.to_dict()))
        else:
            show_found(found, screen)
    if not as_json:
        doomed = in_order_of_deletion([one for one in data_sets.values() if one.uri() in holding])
        show_findings(record, kinds, len(data_sets), [one.uri() for one in doomed], screen)


def _delete(snapshot: str, yes: bool, force: bool, output_options: str | None) -> None:
    from mosaic_ray.runtime.snapshots.deletion import delete, look_over
    from mosaic_ray.show_snapshots import show_doomed

    output = _place(snapshot, output_options)
    doomed = look_over(output, force=force)
    show_doomed(doomed, console(), output=output.uri())
    if not yes and not sys.stdin.isatty():
        raise SettingsError(f"{output.uri()}: nothing was deleted. Give --yes where nobody can be asked")
    if not yes and not _confirmed():
        click.echo("nothing was deleted")
        return
    delete(output)
    click.echo(f"deleted {output.uri()}")


def _confirmed() -> bool:
    try:
        return click.confirm("Delete it?")
    except click.Abort:  # the end of the input
        click.echo()
        return False


def _place(address: str, output_options: str | None) -> Storage:
    given = {} if output_options is None else {"output_options": output_options}
    return open_data_set(address, job_from({"output": address, **given}, METHOD).places.output_options)


def _parameters(*own: click.Parameter) -> list[click.Parameter]:
    return [*own, *(option for option in moved() if option.name == "output_options")]


COMMANDS = [
    Sectioned(
        "snapshots",
        callback=_snapshots,
        help="List the data sets in the directories under ROOT, such as those of nightly runs: state, parent, files "
        "new and changed, counts, digest; the newest last.",
        params=_parameters(
            click.Argument(["root"]),
            click.Option(["--json", "as_json"], is_flag=True, help="Print them as JSON."),
        ),
    ),
    Sectioned(
        "diff",
        callback=_diff,
        help="Compare two data sets, A and B, by their manifests: settings, tokenizer, libraries, files of the input, "
        "counts, digest, and whether one goes on from the other.",
        params=_parameters(
            click.Argument(["a"]),
            click.Argument(["b"]),
            click.Option(["--json", "as_json"], is_flag=True, help="Print the comparison as JSON."),
            click.Option(["--exit-code"], is_flag=True, help="End with status 1 where their rows are not the same."),
        ),
    ),
    Sectioned(
        "find",
        callback=_find,
        help="Find every sample, row of a view and reject that holds RECORD: FILE:ROW as lineage names it, or FILE for "
        "all of its records. OUT_OR_ROOT is a data set, or a directory of such.",
        params=_parameters(
            click.Argument(["record"]),
            click.Argument(["places"], metavar="OUT_OR_ROOT...", nargs=-1, required=True),
            click.Option(["--json", "as_json"], is_flag=True, help="Print a line of JSON for each place."),
        ),
    ),
    Sectioned(
        "delete",
        callback=_delete,
        help="Delete one data set with its views: its manifest first, so that it is none from the first moment on. "
        "What no run wrote is left. Where a bucket keeps old versions, those stay.",
        params=_parameters(
            click.Argument(["snapshot"]),
            click.Option(["--yes"], is_flag=True, help="Do not ask."),
            click.Option(["--force"], is_flag=True, help="Even if a data set beside it goes on from it."),
        ),
    ),
]
