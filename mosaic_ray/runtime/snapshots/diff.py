"""Two data sets side by side: how they were made, of what, and what came out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from mosaic_ray.io.skim import INVENTORY, PARTS, REJECTS, Entry, skim
from mosaic_ray.io.storage import Storage

_MADE_BY: Final = ("mosaic_ray", "method", "settings", "tokenizer", "libraries", "python")
_TOTALS: Final = ("samples", "tokens", "tile_tokens", "longest")


class Pair(NamedTuple):
    """A fact of both: a setting, None where one has no such, or a count."""

    name: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventories:
    """Files of the input by name; ``changed`` are in both with other content, ``same`` is a number."""

    only_a: list[str]
    only_b: list[str]
    changed: list[str]
    same: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What :func:`compare` finds.

    same: whether all rows and rejects are the same, by the ``dataset_digest`` of both.
    lineage: whether one goes on from the other, in words; None where neither says so.
    made: what they were made by, as far as it differs. counts: what came out, equal or not.
    """

    a: str
    b: str
    same: bool
    digests: tuple[str, str]
    lineage: str | None
    made: list[Pair]
    inventory: Inventories
    counts: list[Pair]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON."""
        pairs = {key: {one.name: {"a": one.a, "b": one.b} for one in getattr(self, key)} for key in ("made", "counts")}
        return {**asdict(self), **pairs}


class _Content(NamedTuple):
    size: int
    etag: str | None
    sha256: str | None

    def same(self, other: _Content) -> bool:
        """By the rule of :func:`mosaic_ray.io.cells.same_content`."""
        if self.sha256 is not None and other.sha256 is not None:
            return self.sha256 == other.sha256
        return self.size == other.size and self.etag is not None and self.etag == other.etag


class _DataSet:
    """What is compared of a data set; of its parts no more than their number and size is held."""

    def __init__(self, place: Storage) -> None:
        self.uri = place.uri()
        self.files: dict[str, _Content] = {}
        self.sizes: Counter[str] = Counter()
        self.parts = 0
        self.manifest = skim(place, self._entry)

    def _entry(self, kind: str, entry: Entry) -> None:
        if kind == INVENTORY:
            self.files[entry["name"]] = _Content(entry["size"], entry["etag"], entry["sha256"])
        else:
            self.sizes[kind] += entry["bytes"]
            self.parts += kind == PARTS

    def counts(self) -> Iterator[tuple[str, int]]:
        manifest = self.manifest
        totals, epochs = manifest["totals"], manifest["accounting"]["epochs"]
        yield "files", len(self.files)
        yield "records", manifest["accounting"]["records"]
        yield "epochs", len(epochs)
        for name in ("composed", "passed", "rejected"):
            yield f"{name}, an epoch", epochs[0][name] if epochs else 0
        yield from ((f"rejected as {reason}", count) for reason, count in manifest["rejects"]["by_reason"].items())
        yield from ((name.replace("_", " "), totals[name]) for name in _TOTALS)
        yield "parts", self.parts
        yield "bytes of parts", self.sizes[PARTS]
        yield "bytes of rejects", self.sizes[REJECTS]
        yield from ((f"samples by {name}", count) for name, count in totals["strategies"].items())
        yield from ((f"samples by {name}", count) for name, count in totals["kinds"].items())


def compare(a: Storage, b: Storage) -> Difference:
    """Two finished data sets, by their manifests alone.

    Raises VerificationError where a manifest is damaged, the storage's error where there is none.
    """
    one, two = _DataSet(a), _DataSet(b)
    digests = one.manifest["dataset_digest"], two.manifest["dataset_digest"]
    counts_a, counts_b = dict(one.counts()), dict(two.counts())
    both = one.files.keys() & two.files.keys()
    changed = sorted(name for name in both if not one.files[name].same(two.files[name]))
    made = [
        pair for name in _MADE_BY for pair in differences(one.manifest.get(name), two.manifest.get(name), name=name)
    ]
    inputs = [data_set.manifest["places"]["input"] for data_set in (one, two)]
    return Difference(
        a=one.uri,
        b=two.uri,
        same=digests[0] == digests[1],
        digests=digests,
        lineage=_lineage(one, two),
        made=[*made, *differences(*inputs, name="input")],
        inventory=Inventories(
            only_a=sorted(one.files.keys() - both),
            only_b=sorted(two.files.keys() - both),
            changed=changed,
            same=len(both) - len(changed),
        ),
        counts=[Pair(name, counts_a.get(name, 0), counts_b.get(name, 0)) for name in {**counts_a, **counts_b}],
    )


def differences(a: Any, b: Any, *, name: str) -> Iterator[Pair]:
    """The fields in which two values of JSON differ; those of objects as ``name.key``, lists as a whole."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            yield from differences(a.get(key), b.get(key), name=f"{name}.{key}")
    elif a != b:
        yield Pair(name, a, b)


def _lineage(a: _DataSet, b: _DataSet) -> str | None:
    since_a, since_b = _since(a.manifest), _since(b.manifest)
    if since_b and since_b["run"] == a.manifest["run"]:
        return f"B goes on from A: {_files(since_b['files'])}"
    if since_a and since_a["run"] == b.manifest["run"]:
        return f"A goes on from B: {_files(since_a['files'])}"
    if since_a and since_b and since_a["run"] == since_b["run"]:
        return f"both go on from {since_a['output']}"
    return None


def _since(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a data set says of its parent; None where it has none."""
    since: Mapping[str, Any] | None = manifest.get("since")
    return since if since and since["run"] else None


def _files(files: Mapping[str, int]) -> str:
    return "files " + ", ".join(f"{count:,} {name}" for name, count in files.items())
