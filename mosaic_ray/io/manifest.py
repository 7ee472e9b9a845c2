"""``manifest.json``: written last, and a directory without it is no data set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any, Final

import orjson

from mosaic_ray.errors import VerificationError
from mosaic_ray.fingerprint import fold
from mosaic_ray.io.cells import InputFile
from mosaic_ray.io.staging import no_room
from mosaic_ray.io.storage import Storage

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
VIEWS: Final = "views"
"""Where the further views of a data set lie, each a data set of its own."""

_ASKERS: Final = 16


def data_set_of(view: Storage) -> Storage:
    """The directory of the data set that a view lies in: OUT of OUT/views/NAME."""
    return replace(view, root=view.root.rsplit("/", 2)[0])


class Entries(Sequence[dict[str, Any]]):
    """A long list of the manifest, each of whose entries is made when it is asked for.

    entry: makes the entry of an index in range(count).
    """

    def __init__(self, count: int, entry: Callable[[int], dict[str, Any]]) -> None:
        self._numbers = range(count)
        self._entry = entry

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._entry(number) for number in self._numbers[index]]
        return self._entry(self._numbers[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._entry, self._numbers)


def dataset_digest(parts: Iterable[Mapping[str, Any]], rejects: Iterable[Mapping[str, Any]]) -> str:
    """One digest of all rows and all rejects of a data set, in order; blind to times, hosts and library versions."""
    return fold(entry["content_digest"] for entry in chain(parts, rejects))


def inventory_entry(file: InputFile) -> dict[str, Any]:
    """A file as the manifest lists it."""
    return {
        "name": file.name,
        "input": file.uri_index,
        "path": file.path,
        "format": file.format,
        "compression": file.compression,
        "size": file.size,
        "etag": file.etag,
        "sha256": file.digest,
        "shape": file.shape.kind,
        "columns": dict(sorted(file.shape.columns.items())),
        "rows": file.rows,
        "records": file.records,
    }


def publish_manifest(output: Storage, manifest: Mapping[str, Any]) -> bool:
    """Write the manifest in bounded memory, :class:`Entries` with one entry a line; False where there is one already.

    Raises StorageError where there is no room for it in TMPDIR, or in the output.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix="mosaic-manifest-") as file:
            file.writelines(_pieces(manifest))
            file.flush()
            return output.create_file(MANIFEST, file.name)
    except OSError as failure:
        raise no_room("the manifest", failure) from failure


def _pieces(manifest: Mapping[str, Any]) -> Iterator[bytes]:
    """The JSON of a manifest. A zero byte, which JSON text never holds, marks where each Entries belongs."""
    held: list[Entries] = []

    def hold(value: Any) -> orjson.Fragment:
        if not isinstance(value, Entries):
            raise TypeError
        held.append(value)
        return orjson.Fragment(b"\0")

    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    first, *others = orjson.dumps(manifest, default=hold, option=options).split(b"\0")
    yield first
    for entries, rest in zip(held, others, strict=True):
        before = b"[\n    "
        for entry in entries:
            yield before + orjson.dumps(entry)
            before = b",\n    "
        yield b"\n  ]" if entries else b"[]"
        yield rest


def read_manifest(output: Storage) -> dict[str, Any]:
    """Raises VerificationError where there is none, where it is damaged, or where it is of another format version."""
    if not output.exists(MANIFEST):
        raise VerificationError(
            f"{output.uri()}: no {MANIFEST}, so no finished data set. Run the job to its end, or check the address"
        )
    try:
        manifest = orjson.loads(output.read(MANIFEST))
        version = manifest["format_version"]
        if version == FORMAT_VERSION:
            _require(manifest)
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise VerificationError(f"{output.uri(MANIFEST)}: damaged ({error!r})") from error
    if version != FORMAT_VERSION:
        raise VerificationError(
            f"{output.uri(MANIFEST)}: format version {version}, where this version of mosaic_ray reads {FORMAT_VERSION}"
        )
    return dict(manifest)


def compared(output: Storage, manifest: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """The parts of a manifest that are not there or not of the size stated; and what is there and no part."""
    sizes = {path: info.size for folder in ("data", "rejects") for path, info in output.listing(folder)}
    entries = chain(manifest["parts"], manifest["rejects"]["parts"])
    missing = [entry for entry in entries if sizes.pop(entry["name"], None) != entry["bytes"]]
    with ThreadPoolExecutor(_ASKERS) as pool:  # a listing may be stale
        there = pool.map(lambda entry: _has(output, entry["name"], entry["bytes"]), missing)
        lost = [entry["name"] for entry, found in zip(missing, there, strict=True) if not found]
    return lost, list(sizes)


def _has(output: Storage, name: str, size: int) -> bool:
    return output.exists(name) and output.info(name).size == size


def _require(manifest: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError unless the manifest has what every command reads of it."""
    for key in ("dataset_digest", "run", "accounting", "totals", "places"):
        _ = manifest[key]
    for entry in chain(manifest["parts"], manifest["rejects"]["parts"]):
        for key in ("name", "rows", "bytes", "sha256", "content_digest"):
            _ = entry[key]
