"""A manifest read line by line: of a data set of a hundred thousand parts it is tens of MB, its facts are a few kB."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import orjson

from mosaic_ray.errors import VerificationError
from mosaic_ray.io.manifest import FORMAT_VERSION, MANIFEST
from mosaic_ray.io.storage import Storage

Entry = Mapping[str, Any]

REJECTS, PARTS, INVENTORY = "rejects", "parts", "inventory"
"""The long lists of a manifest: ``rejects.parts``, ``parts`` and ``inventory``."""

_OPENS: Final = re.compile(rb'( {2,4})"(parts|inventory)": \[\n')
_FACTS: Final = ("format_version", "dataset_digest", "run", "places", "created", "accounting", "totals")
_BUFFER: Final = 1 << 20


def skim(output: Storage, entry: Callable[[str, Entry], object]) -> dict[str, Any]:
    """The manifest of a data set without its long lists, each of whose entries is handed to ``entry`` with their name.

    Raises VerificationError where it is damaged, of another format version, or of a view; the storage's error where
    there is none.
    """
    kept: list[bytes] = []
    with _lines(output) as lines:
        for line, name in _named(lines):
            if name is None:
                kept.append(line)
            else:
                entry(name, _parsed(output, line.rstrip().removesuffix(b",")))
    facts: dict[str, Any] = _parsed(output, b"".join(kept))
    _require(output, facts)
    for name, holder, key in (
        (REJECTS, facts["rejects"], "parts"),
        (PARTS, facts, "parts"),
        (INVENTORY, facts, "inventory"),
    ):
        for held in holder.pop(key, ()):  # of a manifest that another program has written anew
            entry(name, held)
    return facts


def head(output: Storage) -> dict[str, Any]:
    """The same, read no further than to its parts where it stands as it was published."""
    kept: list[bytes] = []
    with _lines(output) as lines:
        for line, name in _named(lines):
            if line == b'  "parts": [\n':
                break
            if name is None:
                kept.append(line)
    try:
        facts = orjson.loads(b"".join(kept).rstrip().removesuffix(b",") + b"}")
        _require(output, facts)
    except (orjson.JSONDecodeError, VerificationError):
        return skim(output, lambda *_: None)
    facts["rejects"].pop("parts", None)
    return dict(facts)


def _lines(output: Storage) -> io.BufferedReader:
    return io.BufferedReader(output.open(MANIFEST), _BUFFER)  # type: ignore[arg-type]


def _named(lines: io.BufferedReader) -> Iterator[tuple[bytes, str | None]]:
    """Each line, and the long list it is an entry of; they stand as :func:`mosaic_ray.io.manifest.publish_manifest`
    writes them, one entry a line."""
    name = None
    for line in lines:
        if name is not None and line.startswith(b'    {"') and line.rstrip(b",\n").endswith(b"}"):
            yield line, name
            continue
        opens = _OPENS.fullmatch(line)
        if opens is not None:
            name = REJECTS if len(opens[1]) == 4 else opens[2].decode()
        elif name is not None and line.startswith(b"  ]"):
            name = None
        yield line, None


def _parsed(output: Storage, data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise VerificationError(f"{output.uri(MANIFEST)}: damaged ({error!r})") from error


def _require(output: Storage, facts: Any) -> None:
    where = output.uri(MANIFEST)
    if isinstance(facts, dict) and facts.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise VerificationError(
            f"{where}: format version {facts['format_version']}, where this version of mosaic_ray reads "
            f"{FORMAT_VERSION}"
        )
    if isinstance(facts, dict) and "of" in facts and "view" in facts:
        raise VerificationError(f"{where}: of a view. Give the data set that it was made of")
    missing = [name for name in _FACTS if not isinstance(facts, dict) or name not in facts]
    if missing or not isinstance(facts.get("rejects"), dict):
        raise VerificationError(f"{where}: damaged (it has no {(missing or ['rejects'])[0]})")
