"""What would stop a run, found out before it starts: input, output, tokenizer, space, cluster, clocks.

Each check makes the very requests that a run makes, and says what it found. None ends the others; one that cannot be
made says why not. In the output one small file is put under ``_mosaic/``, where a run that is at work there takes no
notice of it, and removed again.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NoReturn

from mosaic_ray.config import EMBEDDED, Job
from mosaic_ray.embedded import corpus_path, tokenizer_path
from mosaic_ray.errors import MosaicError, SettingsError, StorageError, TokenizerError
from mosaic_ray.io.cells import FoundFile
from mosaic_ray.io.inventory import find_inputs, input_storage
from mosaic_ray.io.manifest import MANIFEST
from mosaic_ray.io.shapes import check_mapping
from mosaic_ray.io.staging import require_temporary_folder
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.doctor.cluster import PRIVATE, Cluster, address_of, check_cluster
from mosaic_ray.runtime.doctor.finding import Finding, amount, failed, permission, room, skewed
from mosaic_ray.runtime.joining import require_room
from mosaic_ray.runtime.run import SETTINGS, Run
from mosaic_ray.runtime.snapshots.since import find_since
from mosaic_ray.runtime.stock import find_input
from mosaic_ray.tokens.ahead import TokenizerAhead

PATIENCE: Final = 20.0
"""Seconds for which a request is made again here; less than a run would."""

OUTPUT_SHARE: Final = 0.45
"""Bytes of parts that one epoch makes of a byte of JSONL, as measured."""

PACKED: Final = 4
"""Bytes of JSONL that a byte of a packed file, or of Parquet, is taken to hold."""

OPENING: Final = 1024
"""Bytes of an input file that are read."""


def examine(job: Job, make_cluster: Callable[[], Cluster] | None) -> Iterator[Finding]:
    """Every check of a job, each as soon as it is made.

    make_cluster: an engine without workers, which is entered and left; None where the job needs no cluster.

    Raises SettingsError for options that no run could have.
    """
    job.further_views()
    if job.settings.columns:
        check_mapping({str(role): column for role, column in job.settings.columns.items()})
    places = job.places
    name = str(tokenizer_path()) if places.tokenizer == EMBEDDED else places.tokenizer
    loading = TokenizerAhead(name, chat_template=places.chat_template, offline=True)  # beside the rest
    files: list[FoundFile] = []
    try:
        output = Storage.at(places.output, places.output_options, error=StorageError, patience=_patience(job))
    except StorageError as error:
        yield failed("output", error)
        output = None
    yield from check_input(job, output, files)
    if output is not None:
        yield from check_output(output)
        if places.since is not None:
            yield check_since(places.since, job, output)
    yield check_tokenizer(job, name, loading)
    yield from check_space(job, output, files)
    if make_cluster is not None:
        yield from check_cluster(job.execution, make_cluster, copies=max(_packed(files), default=0))


def _patience(job: Job) -> float:
    return min(PATIENCE, job.execution.store_patience)


def check_input(job: Job, output: Storage | None, files: list[FoundFile]) -> Iterator[Finding]:
    """Each ``--input``: what is listed there, and whether a file of it can be read. files: gets what was found."""
    addresses = tuple(str(corpus_path()) if uri == EMBEDDED else uri for uri in job.places.input)
    options, patience = job.places.input_options, _patience(job)
    try:
        inputs = tuple(input_storage(address, options, patience=patience) for address in addresses)
        if output is None:
            files += find_inputs(addresses, options, patience=patience).files
        else:
            files += find_input(Run(job=job, addresses=addresses, inputs=inputs, output=output, load=_no_tokenizer))
    except MosaicError as error:
        alone = [_input_alone(address, options, patience) for address in addresses]
        yield from alone
        if all(finding.mark == "ok" for finding in alone):
            yield failed("input", error)
        return
    for index, (address, storage) in enumerate(zip(addresses, inputs, strict=True)):
        mine = [file for file in files if file.uri_index == index]
        tried = max(mine, key=lambda file: file.size > 0)
        try:
            storage.read_ranges(tried.path, [(0, OPENING)])
        except MosaicError as error:
            yield failed("input", error, permission(error, "s3:GetObject"))
        else:
            yield _input_found(address, mine, f"; {tried.name} can be read")


def _no_tokenizer() -> NoReturn:
    raise AssertionError("to find the input takes no tokenizer")


def _input_alone(address: str, options: Mapping[str, str | bool], patience: float) -> Finding:
    try:
        return _input_found(address, find_inputs([address], options, patience=patience).files)
    except MosaicError as error:
        return failed("input", error, permission(error, "s3:ListBucket and s3:GetObject"))


def _input_found(address: str, files: Sequence[FoundFile], more: str = "") -> Finding:
    counted = f"{len(files):,} file{'s' * (len(files) != 1)}, {amount(sum(file.size for file in files))}"
    return Finding("ok", "input", f"{address}: {counted}{more}")


def check_output(output: Storage) -> Generator[Finding]:
    """What lies there, and every request that a run makes of it, with a file that is removed again."""
    probe, content = f"_mosaic/doctor-{secrets.token_hex(8)}", secrets.token_bytes(64)
    new = [place for place in (output, output.under("_mosaic")) if output.local and not os.path.exists(place.root)]
    try:
        yield _tried("output: list", "s3:ListBucket and s3:GetObject", lambda: _list(output))
        yield _tried("output: state", "s3:ListBucket and s3:GetObject", lambda: _state(output))
        put = _tried("output: put", "s3:PutObject", lambda: output.publish(probe, content))
        yield put
        for check, action, work in (
            ("output: get", "s3:GetObject", lambda: _come_back(output, probe, content)),
            ("output: condition", "s3:PutObject", lambda: _condition(output, probe)),
            ("output: upload", "s3:PutObject and s3:AbortMultipartUpload", lambda: _upload(output, probe)),
            ("output: delete", "s3:DeleteObject", lambda: output.delete(probe)),
        ):
            if put.mark == "failed":
                yield Finding("unknown", check, "not tried, since nothing can be put there")
            else:
                yield _tried(check, action, work)
        yield _tried("clock", "s3:ListBucket", lambda: _clock_of(output))
    finally:
        with suppress(MosaicError):
            output.delete(probe)
        for place in new[:1]:
            place.remove_empty()


def _tried(check: str, action: str, work: Callable[[], Finding | str | None]) -> Finding:
    """What the work finds, or says where all is well. action: what S3 calls the permission that it takes."""
    try:
        found = work()
    except MosaicError as error:
        return failed(check, error, permission(error, action))
    return found if isinstance(found, Finding) else Finding("ok", check, found or "works")


def _list(output: Storage) -> str:
    first = next((path for path, _ in output.listing()), None)
    return f"{output.uri()} is empty" if first is None else f"{output.uri()} holds {first}"


def _state(output: Storage) -> Finding | str:
    if output.exists(SETTINGS):
        if output.exists(MANIFEST):
            return "a finished data set; a run with the same settings finds nothing to do"
        return "a run that is not finished; with the same settings it goes on"
    stranger = next((path for path, _ in output.listing() if not path.startswith("_mosaic/")), None)
    if stranger is None:
        return "no run so far"
    remedy = "Give an empty or new --output"
    return Finding("failed", "output: state", f"{output.uri()} holds {stranger}, and no run of this tool", remedy)


def _come_back(output: Storage, probe: str, content: bytes) -> Finding | str:
    if output.read(probe) == content:
        return "what was put comes back"
    return Finding("failed", "output: get", f"{output.uri(probe)}: other bytes come back than were put there",
                   "A run cannot work on such a store; see its own log")  # fmt: skip


def _condition(output: Storage, probe: str) -> Finding | str:
    if not output.create(probe, b"another"):
        return "conditional writes are honoured"
    return Finding(
        "warning",
        "output: condition",
        "the store does not honour conditional writes (If-None-Match), so two runs may for some seconds work at once",
        "Do not begin two different runs on one output at the same time there",
    )


def _upload(output: Storage, probe: str) -> str:
    return "begun and aborted" if output.try_upload(f"{probe}-upload") else "this store needs no uploads in parts"


def _clock_of(output: Storage) -> Finding | str:
    before = time.time()
    told = output.clock()
    if told is None:
        if output.local:
            return "the output has that of this machine"
        return Finding("unknown", "clock", f"{output.protocol}:// does not tell the time")
    now = datetime.fromtimestamp((before + time.time()) / 2, UTC)
    return skewed("the store", (told - now).total_seconds())


def check_since(address: str, job: Job, output: Storage) -> Finding:
    try:
        since = find_since(address, job.places.output_options, output=output)
        known = len(since.marks)
    except MosaicError as error:
        return failed("since", error)
    if since.parent is None:
        return Finding("ok", "since", f"{address} has no snapshot yet, so every file of the input is new")
    return Finding("ok", "since", f"{since.parent.uri()}; files taken so far: {known:,}")


def check_tokenizer(job: Job, name: str, loading: TokenizerAhead) -> Finding:
    """Whether it loads without a network, else with one. loading: the first of these."""
    local = os.path.isdir(name) or bool(os.environ.get("HF_HUB_OFFLINE"))
    try:
        try:
            spec, nearby = loading.result(), True
        except TokenizerError:
            if local:
                raise
            spec, nearby = TokenizerAhead(name, chat_template=job.places.chat_template).result(), False
    except TokenizerError as error:
        return failed("tokenizer", error)
    text = "no chat template" if spec.chat_template is None else "a chat template"
    travels = amount(len(spec.definition.encode()))
    found = (
        f"{name} with {text}; its definition ({travels}) goes to the workers, who need neither its files nor the Hub"
    )
    if not nearby:
        remedy = "Load it once into HF_HOME of the driver's image, or give a directory, if the Hub may be out of reach"
        return Finding("warning", "tokenizer", f"{found}. It comes from the Hub at every start", remedy)
    if spec.chat_template is None and job.settings.view == "messages":
        remedy = "Give --chat-template FILE, or --view prompt-completion"
        return Finding(
            "warning", "tokenizer", f"{found}. A trainer's template adds tokens that are not counted", remedy
        )
    return Finding("ok", "tokenizer", f"{found}. It loads without a network")


def check_space(job: Job, output: Storage | None, files: Sequence[FoundFile]) -> Iterator[Finding]:
    """Of the folder for temporary files, that of a private Ray, and of the output where that is a local disk."""
    packed = _packed(files)
    try:
        require_temporary_folder()
    except MosaicError as error:
        yield failed("space: temporary", error)
    else:
        folder = tempfile.gettempdir()
        yield room(
            "space: temporary",
            folder,
            free=shutil.disk_usage(folder).free,
            need=max(packed, default=0),
            what="copies of packed files",
            otherwise="set TMPDIR to another place",
        )
    if job.execution.engine == "ray" and address_of(job.execution) == PRIVATE:
        try:
            folder = require_room()
        except SettingsError as error:
            yield failed("space: ray", error)
        else:
            yield Finding("ok", "space: ray", f"{folder}, where Ray keeps logs and sockets")
    free = None if output is None else output.free_bytes()
    if output is not None and free is not None:
        plain = sum(file.size for file in files) - sum(packed)
        need = int(OUTPUT_SHARE * job.settings.epochs * (plain + PACKED * sum(packed))) + sum(packed)
        what, otherwise = f"{job.settings.epochs} epochs", "choose another --output, or fewer --epochs"
        yield room("space: output", output.uri(), free=free, need=need, what=what, otherwise=otherwise)


def _packed(files: Sequence[FoundFile]) -> list[int]:
    """Sizes of those that may be copied in pieces."""
    return [file.size for file in files if not file.name.lower().endswith((".jsonl", ".ndjson"))]
