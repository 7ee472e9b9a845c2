"""A run: a job with its places opened and its tokenizer loaded, and what identifies it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any, Final

import orjson
from pydantic import BaseModel

from mosaic_ray import __version__
from mosaic_ray.config import EMBEDDED, Job, Settings, job_from
from mosaic_ray.embedded import corpus_path, tokenizer_path
from mosaic_ray.errors import StorageError, VerificationError
from mosaic_ray.fingerprint import fingerprint
from mosaic_ray.io.cells import InputFile
from mosaic_ray.io.inventory import input_storage
from mosaic_ray.io.manifest import FORMAT_VERSION
from mosaic_ray.io.shapes import check_mapping
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.plan import Plan
from mosaic_ray.runtime.snapshots.since import Since, find_since
from mosaic_ray.runtime.task import TaskWork
from mosaic_ray.tokens import TokenizerSpec, load_tokenizer
from mosaic_ray.tokens.ahead import TokenizerAhead

log = logging.getLogger("mosaic_ray")

SETTINGS: Final = "_mosaic/settings.json"
TOKENIZER: Final = "_mosaic/tokenizer.json"
LIBRARIES: Final = ("pyarrow", "tokenizers", "jinja2")
"""Libraries whose version can change a byte of the output; a run is not resumed with another one."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job with its places opened and its tokenizer loaded.

    addresses, inputs: of each ``--input``, what the user gave and the storage rooted at it or before its wildcard.
    load: waits for the tokenizer, and raises a TokenizerError where it cannot be used.
    kept: the identity of a run that was opened again, possibly of another version.
    moved: its input is looked for at other addresses than it kept.
    since: what it goes on from, if that was asked for; None too for a run that was opened again.
    """

    job: Job
    addresses: tuple[str, ...]
    inputs: tuple[Storage, ...]
    output: Storage
    load: Callable[[], TokenizerSpec]
    kept: dict[str, Any] | None = None
    moved: bool = False
    since: Since | None = None

    @cached_property
    def tokenizer(self) -> TokenizerSpec:
        spec = self.load()
        if spec.chat_template is None and self.kept is None and self.settings.view == "messages":
            log.warning(
                "no chat template: token_count is of plain text, and a trainer that renders messages adds its "
                "template's tokens. Give --chat-template FILE, or --view prompt-completion"
            )
        return spec

    @property
    def settings(self) -> Settings:
        return self.job.settings

    @property
    def takes_part(self) -> bool:
        """Whether it was given ``--since``, so that the input may hold more than it takes."""
        return "since" in self.identity

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the bytes, beside the input itself, as JSON."""
        return self.kept or {
            "format_version": FORMAT_VERSION,
            "mosaic_ray": __version__,
            "libraries": {name: version(name) for name in LIBRARIES},
            "method": dict(self.job.method.identity),
            "settings": self.settings.model_dump(mode="json"),
            "tokenizer": {
                "digest": self.tokenizer.digest,
                "special_tokens": dict(self.tokenizer.special_tokens),
                "chat_template": self.tokenizer.chat_template,
            },
            **({"since": self.since.run or "the start"} if self.since else {}),
        }

    def fingerprint(self, plan: Plan) -> str:
        """Of the identity, the content of the input, and the plan that both give."""
        contents = [[f.name, f.size, f.digest or f.etag, f.shape.kind, f.records] for f in plan.files]
        return fingerprint({"identity": self.identity, "inventory": contents, "plan": plan.digest})

    def plan(self, files: Sequence[InputFile]) -> Plan:
        s = self.settings
        return Plan(files, seed=s.seed, epochs=s.epochs, task_records=s.task_records, world_size=s.world_size)

    def work(self, run: str) -> TaskWork:
        return TaskWork(
            run=run,
            settings=self.settings,
            method=self.job.method,
            tokenizer=self.tokenizer,
            inputs=self.inputs,
            output=self.output,
        )


def open_run(job: Job) -> Run:
    """Open the places of a job and begin to load its tokenizer; nothing is written.

    Where Ray is the engine, the tokenizer is loaded beside its start: the first who asks the run for it waits for it,
    and gets the TokenizerError if there is one.
    """
    places = job.places
    if job.settings.columns:
        check_mapping({str(role): column for role, column in job.settings.columns.items()})
    addresses = [str(corpus_path()) if uri == EMBEDDED else uri for uri in places.input]
    name = str(tokenizer_path()) if places.tokenizer == EMBEDDED else places.tokenizer
    patience = job.execution.store_patience
    inputs = tuple(input_storage(uri, places.input_options, patience=patience) for uri in addresses)
    output = Storage.at(places.output, places.output_options, error=StorageError, patience=patience)
    since = None
    if places.since is not None:
        since = find_since(places.since, places.output_options, output=output)
    load: Callable[[], TokenizerSpec]
    if job.execution.engine == "ray":
        load = TokenizerAhead(name, chat_template=places.chat_template).result
    else:
        spec = load_tokenizer(name, chat_template=places.chat_template)
        load = lambda: spec  # noqa: E731
    return Run(job=job, addresses=tuple(addresses), inputs=inputs, output=output, load=load, since=since)


def reopen(
    output: Storage,
    methods: Mapping[str, type[BaseModel]],
    *,
    inputs: Sequence[str] = (),
    input_options: Mapping[str, str | bool] | None = None,
) -> Run:
    """The run that is kept in an output, with its tokenizer; nothing but the output is needed to open it.

    methods: the class of each method by name. inputs, input_options: where the input is now and how to reach it, if
        that is not as it was.

    Raises VerificationError where there is no run, or one of a method that this version does not know.
    """
    if not output.exists(SETTINGS):
        raise VerificationError(
            f"{output.uri()}: no {SETTINGS}, so no run of this tool is kept here. Check the address"
        )
    stored = kept_settings(output)
    identity, kept = stored["identity"], stored["places"]
    options = {key: value for key, value in identity["method"].items() if key not in ("name", "version")}
    if identity["method"]["name"] not in methods:
        raise VerificationError(
            f"{output.uri()}: made by method {identity['method']['name']!r}, unknown to this version"
        )
    if identity["mosaic_ray"] != __version__:
        log.warning("made by mosaic_ray %s, read by %s: rebuilt bytes may differ", identity["mosaic_ray"], __version__)
    spec = TokenizerSpec(
        name=kept["tokenizer"],
        definition=output.read(TOKENIZER).decode("utf-8", "replace"),
        special_tokens=identity["tokenizer"]["special_tokens"],
        chat_template=identity["tokenizer"]["chat_template"],
    )
    try:
        same = spec.digest == identity["tokenizer"]["digest"]
    except ValueError:
        same = False
    if not same:
        raise VerificationError(f"{output.uri(TOKENIZER)}: not the tokenizer that the run was made with")
    places = {key: kept[key] for key in ("output", "tokenizer", "input_options", "output_options")}
    if input_options is not None:
        places["input_options"] = dict(input_options)
    job = job_from(
        {**identity["settings"], **places, "input": list(inputs) or kept["input"], **options},
        methods[identity["method"]["name"]],
    )
    return Run(
        job=job,
        addresses=job.places.input,
        inputs=tuple(
            input_storage(uri, job.places.input_options, patience=output.patience) for uri in job.places.input
        ),
        output=output,
        load=lambda: spec,
        kept=identity,
        moved=bool(inputs),
    )


def kept_settings(output: Storage) -> dict[str, Any]:
    """What an output keeps of its run: ``identity`` and ``places``. Raises StorageError where that is damaged."""
    try:
        stored = orjson.loads(output.read(SETTINGS))
        if not (isinstance(stored["identity"]["method"], dict) and isinstance(stored["places"], dict)):
            raise ValueError("not an object")
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{output.uri(SETTINGS)}: damaged ({error}). Give another --output") from error
    return dict(stored)


def places_entry(run: Run) -> dict[str, Any]:
    return {
        "input": [_absolute(uri) for uri in run.addresses],
        "output": run.output.uri(),
        "tokenizer": run.tokenizer.name,
        "input_options": run.job.places.input_options,
        "output_options": run.job.places.output_options,
    }


def _absolute(uri: str) -> str:
    """An address that means the same in another working directory."""
    return uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
