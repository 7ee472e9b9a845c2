"""``manifest.json``: written last, and a directory without it is no data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from mosaic_ray.errors import VerificationError
from mosaic_ray.fingerprint import fold
from mosaic_ray.io.cells import InputFile
from mosaic_ray.io.storage import Storage

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"


def dataset_digest(parts: Sequence[Mapping[str, Any]], rejects: Sequence[Mapping[str, Any]]) -> str:
    """One digest of all rows and all rejects of a data set, in order; blind to times, hosts and library versions."""
    return fold(entry["content_digest"] for entry in (*parts, *rejects))


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


def publish_manifest(output: Storage, manifest: Mapping[str, Any]) -> None:
    output.publish(MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


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


def _require(manifest: Mapping[str, Any]) -> None:
    """Raise KeyError or TypeError unless the manifest has what every command reads of it."""
    for key in ("dataset_digest", "run", "accounting", "totals", "places"):
        _ = manifest[key]
    for entry in (*manifest["parts"], *manifest["rejects"]["parts"]):
        for key in ("name", "rows", "bytes", "sha256", "content_digest"):
            _ = entry[key]
