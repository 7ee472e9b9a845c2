"""``doctor``: whether a job could run, asked of everything that it would use."""

from __future__ import annotations

from functools import partial

import click
import orjson

from mosaic_ray.cli.job import refuse_memory
from mosaic_ray.cli.options import job_command
from mosaic_ray.config import Execution, Job
from mosaic_ray.errors import UnfitError
from mosaic_ray.runtime.doctor import Cluster, examine
from mosaic_ray.text import seen_on_one_line

COLOURS = {"ok": "green", "warning": "yellow", "failed": "red", "unknown": "cyan"}
MARK_CELLS, CHECK_CELLS = 9, 19


def make_cluster(execution: Execution) -> Cluster:
    """The engine on Ray without workers, for those of a run would have a cluster grow."""
    from mosaic_ray.runtime.ray_engine import RayEngine

    return RayEngine(
        address=execution.ray_address,
        min_workers=0,
        max_workers=execution.workers.most,
        stall_seconds=execution.stall_timeout,
        worker_memory=execution.worker_memory,
    )


def _doctor(job: Job, *, json: bool) -> None:
    refuse_memory(job)
    findings = []
    cluster = partial(make_cluster, job.execution) if job.execution.engine == "ray" else None
    for finding in examine(job, cluster):
        findings.append(finding)
        if not json:
            mark = click.style(f"{finding.mark:{MARK_CELLS}}", fg=COLOURS[finding.mark])
            click.echo(f"{mark}{finding.check:{CHECK_CELLS}}{seen_on_one_line(finding.found)}")
            if finding.remedy:
                click.echo(" " * (MARK_CELLS + CHECK_CELLS) + f"-> {seen_on_one_line(finding.remedy)}")
    if json:
        click.echo(orjson.dumps([finding._asdict() for finding in findings], option=orjson.OPT_INDENT_2))
    wrong = [finding.check for finding in findings if finding.mark == "failed"]
    if wrong:
        raise UnfitError(f"{len(wrong)} of {len(findings)} checks failed: {', '.join(wrong)}")


COMMANDS = [
    job_command(
        _doctor,
        "doctor",
        "Check whether 'run' could work with these options: input, output, tokenizer, space, cluster, clocks.",
        flags={"json": "Print the findings as JSON."},
    ),
]
