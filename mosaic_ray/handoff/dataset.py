"""A finished data set, or a view of one, as its manifest states it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, get_args

import orjson

from mosaic_ray.config import AnyView, ViewSpec
from mosaic_ray.errors import InputError, SettingsError, VerificationError
from mosaic_ray.io.manifest import FORMAT_VERSION, MANIFEST, VIEWS, data_set_of, dataset_digest
from mosaic_ray.io.storage import Storage

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Part(NamedTuple):
    """A file of samples as the manifest states it. bytes: its size. sha256: of the file, hexadecimal."""

    name: str
    rows: int
    bytes: int
    sha256: str
    content_digest: str


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What a manifest says, as far as loading needs it.

    storage: rooted at the data set, or at the view. root: at the data set that the view is of, or at itself.
    run: fingerprint of the run that composed the samples.
    of: of a view, the dataset_digest of the data set that it was made of; else None.
    lanes: number of ranks that the data set was laid out for.
    epochs: the parts of each epoch, in the order of the manifest.
    tokenizer: ``digest``, ``special_tokens`` and ``chat_template``.
    """

    storage: Storage
    root: Storage
    view: ViewSpec
    digest: str
    run: str
    of: str | None
    lanes: int
    tokenizer: Mapping[str, Any]
    epochs: Sequence[Sequence[Part]]

    @property
    def derived(self) -> bool:
        """Whether it is a view made of a data set, not the data set itself."""
        return self.root != self.storage

    def parts(self, epoch: int) -> Sequence[Part]:
        """The parts of an epoch of training: those of the data set, over and over."""
        return self.epochs[epoch % len(self.epochs)]

    def views(self) -> list[str]:
        """The names of the views made of the data set, in its directory ``views``."""
        return sorted(path.split("/")[-2] for path, _ in self.root.glob(f"{VIEWS}/*/{MANIFEST}"))


def open_dataset(
    address: str | os.PathLike[str],
    *,
    view: str | None = None,
    digest: str | None = None,
    options: Mapping[str, str | bool] | None = None,
) -> DataSet:
    """Read the manifest of a data set and hold it against its own digest.

    address: of manifest.json or of the directory that it is in.
    view: a view of that data set, ``packed`` without a length where there is one; None is what lies at the address.
    digest: the dataset_digest that is expected there.

    A view is held against the manifest of its data set, where that lies above it; copied alone, it stands by itself.

    Raises VerificationError where there is no manifest, where it is damaged, of another format version or of another
    digest, and for a view of another data set than the one it lies in; SettingsError for a view that is not there;
    InputError where the store cannot be read.
    """
    storage = Storage.at(_directory(os.fspath(address)), options, error=InputError)
    dataset = _read(storage)
    if view is None or view in (dataset.view.name, dataset.view.view):
        whole = _above(dataset)
    else:
        whole = _read(dataset.root)
        dataset = _view(whole, view)
    if whole is not None and dataset.of not in (None, whole.digest):
        raise VerificationError(
            f"{dataset.storage.uri()}: a view of another data set than the one it lies in: made of {dataset.of}, where "
            f"{whole.storage.uri(MANIFEST)} states {whole.digest}. Delete the view; then "
            f"{making(whole.storage, dataset.view.name)} again"
        )
    if digest is not None and digest != dataset.digest:
        raise VerificationError(
            f"{dataset.storage.uri(MANIFEST)}: its dataset_digest is {dataset.digest}, where digest={digest} is asked "
            "for. Correct the address, or the digest if this data set is meant"
        )
    return dataset


def _view(whole: DataSet, view: str) -> DataSet:
    root = whole.storage
    if whole.view.name == view:
        return whole
    if view == "packed":
        lengths = [name for name in whole.views() if name.startswith("packed-")]
        if len(lengths) > 1:
            raise SettingsError(f"{root.uri()}: the view packed is there as {', '.join(lengths)}; name one of them")
        view = lengths[0] if lengths else view
    there = root.under(f"{VIEWS}/{view}")
    if view in ("", ".", "..") or "/" in view or not there.exists(MANIFEST):
        named = ", ".join([whole.view.name, *whole.views()])
        raise SettingsError(f"{root.uri()}: no view {view!r}; it has {named}. {making(root, view)}")
    return _read(there)


def making(root: Storage, view: str = "") -> str:
    """How to make a view of the data set at ``root``."""
    packed = re.fullmatch(r"packed-([1-9][0-9]*)", view)
    name, length = ("packed", packed[1]) if packed else (view, "")
    if name not in get_args(AnyView):
        return f"`mosaic-ray view {root.uri()} --view NAME` makes one of {', '.join(get_args(AnyView))}"
    options = f" --sequence-length {length}" if length else ""
    return f"`mosaic-ray view {root.uri()} --view {name}{options}` makes it"


def _directory(address: str) -> str:
    """Of a manifest, the directory that it is in."""
    folder, slash, name = address.rpartition("/")
    return (folder or slash or ".") if name == MANIFEST else address


def _read(storage: Storage) -> DataSet:
    try:
        data = storage.read(MANIFEST)
    except InputError as error:
        if isinstance(error.__cause__, NotADirectoryError) or (_missing(error) and storage.exists("")):
            raise VerificationError(
                f"{storage.uri()}: a file. Give the directory above data/, or the {MANIFEST} in it"
            ) from error
        if not _missing(error):
            raise
        raise VerificationError(
            f"{error} Without it there is no finished data set: give the directory above data/, or the manifest.json "
            "in it, or let the job end that makes it (the same command goes on where it was stopped)"
        ) from error
    try:
        manifest = orjson.loads(data)
        version = manifest["format_version"]
        dataset = _dataset(storage, manifest) if version == FORMAT_VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = repr(error).partition("\n")[0]
        raise VerificationError(
            f"{storage.uri(MANIFEST)}: damaged ({problem}). Restore it, or delete it and run the command that made the "
            "data set again"
        ) from error
    if dataset is None:
        raise VerificationError(
            f"{storage.uri(MANIFEST)}: format version {version}, where this version of mosaic_ray reads "
            f"{FORMAT_VERSION}. Install the version that made it: {manifest.get('mosaic_ray', 'not stated')}"
        )
    return dataset


def _dataset(storage: Storage, manifest: Mapping[str, Any]) -> DataSet:
    """Raises ValueError, KeyError or TypeError where the manifest is not whole."""
    entries = manifest["parts"]
    rejects = manifest.get("rejects", {}).get("parts", [])
    folded = dataset_digest(entries, rejects)
    if folded != manifest["dataset_digest"]:
        raise ValueError(f"its parts give the dataset_digest {folded}, it states {manifest['dataset_digest']}")
    epochs: list[list[Part]] = [[] for _ in range(1 + max(int(entry["epoch"]) for entry in entries))]
    for entry in entries:
        part = Part(*(entry[name] for name in Part._fields))
        if not _SHA256.fullmatch(part.sha256) or part.rows < 0:
            raise ValueError(f"part {part.name}: sha256 {part.sha256!r}, {part.rows} rows")
        epochs[entry["epoch"]].append(part)
    if not all(epochs):
        raise ValueError(f"epoch {epochs.index([])} has no parts")
    settings = manifest["settings"]
    derived = "of" in manifest
    return DataSet(
        storage=storage,
        root=data_set_of(storage) if derived else storage,
        view=_spec(manifest["view"] if derived else {"name": settings["view"]}),
        digest=folded,
        run=(manifest["of"] if derived else manifest)["run"],
        of=manifest["of"]["dataset_digest"] if derived else None,
        lanes=int(settings.get("world_size", 1)),
        tokenizer=manifest["tokenizer"],
        epochs=epochs,
    )


def _spec(view: Mapping[str, Any]) -> ViewSpec:
    return ViewSpec(view=view["name"], sequence_length=view.get("sequence_length"))


def _missing(error: InputError) -> bool:
    return isinstance(error.__cause__, FileNotFoundError)


def _above(dataset: DataSet) -> DataSet | None:
    """The data set that a view lies in; None for what is no view, and for a view that lies alone."""
    if not dataset.derived or dataset.storage.root.split("/")[-2:-1] != [VIEWS]:
        return None
    try:
        return _read(dataset.root) if dataset.root.exists(MANIFEST) else None
    except InputError as error:
        if isinstance(error.__cause__, PermissionError):  # of a view that alone was shared
            return None
        raise
