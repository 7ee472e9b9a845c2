"""``run`` and ``plan``: the commands that take every option of a job."""

from __future__ import annotations

import click

from mosaic_ray.cli.options import console, engine_of, job_command
from mosaic_ray.config import Job
from mosaic_ray.errors import SettingsError, StorageError
from mosaic_ray.io.manifest import read_manifest
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.driver import run_job
from mosaic_ray.runtime.run import open_run
from mosaic_ray.runtime.stock import find_intake, take_stock, without_touched
from mosaic_ray.runtime.viewing import view_path


def refuse_memory(job: Job) -> None:
    """Raise SettingsError where Ray would have to share the memory of this process."""
    if job.execution.engine == "ray" and any("memory://" in uri for uri in (*job.places.input, job.places.output)):
        raise SettingsError("memory:// is the memory of one process, and Ray has several; give --engine in-process")


def _run(job: Job) -> None:
    from mosaic_ray.pages import publish_pages, publish_view_card
    from mosaic_ray.show import show_manifest, show_view

    refuse_memory(job)
    manifest = run_job(job, lambda: engine_of(job.execution), finish=publish_pages, finish_view=publish_view_card)
    if manifest is None:
        return
    output = Storage.at(job.places.output, job.places.output_options, error=StorageError)
    show_manifest(manifest, console(), output=output.uri())
    for view in map(view_path, job.further_views()):
        click.echo()
        show_view(read_manifest(output.under(view)), console(), output=output.uri(view))


def _plan(job: Job) -> None:
    from mosaic_ray.show import show_plan

    run = open_run(job)
    with engine_of(job.execution) as engine:
        _ = run.tokenizer  # an error of it comes before the inventory
        intake = without_touched(run, engine, find_intake(run))
        if not intake.taken:
            click.echo("nothing is new: 'run' would write nothing")
            return
        files = take_stock(run, engine, intake.taken, known=[], stage=None)
    show_plan(run, files, run.plan(files), console())


COMMANDS = [
    job_command(_run, "run", "Compose the data set, or resume it where a run was stopped."),
    job_command(_plan, "plan", "Say what 'run' would do: files, records, tasks, expected samples. Writes nothing."),
]
