"""The data sets that lie side by side in one directory, such as those that nightly runs leave there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

from mosaic_ray.errors import MosaicError, SettingsError, StorageError, VerificationError
from mosaic_ray.io.manifest import MANIFEST
from mosaic_ray.io.patience import PATIENCE
from mosaic_ray.io.skim import INVENTORY, PARTS, REJECTS, Entry, head, skim
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.lease import last_heard

State = Literal["finished", "running", "unfinished", "damaged", "stray"]

KEPT: Final = "_mosaic"
"""The folder of a data set in which a run keeps what resuming needs, from its first moment on."""
_READERS: Final = 16
_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


class Finished(NamedTuple):
    """A data set under a root.

    name: of its directory. manifest: without its long lists (``parts``, ``inventory``, ``rejects.parts``).
    """

    name: str
    storage: Storage
    manifest: dict[str, Any]

    @property
    def at(self) -> datetime:
        """When it was finished."""
        return finished_at(self.manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What there is to say of a directory under a root.

    state: ``running`` where its lease was renewed of late, ``damaged`` where its manifest cannot be read, ``stray``
        where it holds no run of this tool.
    when: it was finished; of one that is not, it was last heard of.
    parent: address of the data set that it goes on from, in a run with ``--since``.
    changes: files ``new``, ``changed``, ``carried`` and ``gone`` since the parent; None for a run without ``--since``.
    files, records: of the input that it took. size: bytes of its parts and rejects, without views.
    problem: why a damaged one is.
    """

    name: str
    state: State
    when: datetime | None = None
    parent: str | None = None
    changes: Mapping[str, int] | None = None
    files: int = 0
    records: int = 0
    samples: int = 0
    tokens: int = 0
    size: int = 0
    digest: str | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**told, "when": None if self.when is None else self.when.isoformat(timespec="seconds")}


def open_data_set(
    address: str,
    options: Mapping[str, str | bool] | None = None,
    *,
    error: type[MosaicError] = StorageError,
    patience: float = PATIENCE,
) -> Storage:
    """The directory of a data set, of its address or that of its ``manifest.json``; nothing is contacted yet.

    options, error, patience: as of :meth:`Storage.at`, which says what is raised.
    """
    home = address.removesuffix(MANIFEST) if address.endswith(f"/{MANIFEST}") else address
    return Storage.at("." if address == MANIFEST else home, options, error=error, patience=patience)


def newest_finished(root: Storage, *, but: str | None = None) -> Finished | None:
    """The data set under ``root`` that ends its chain (:func:`newest_of`).

    but: address of one that does not count: the output of the run that asks.

    Raises VerificationError where a manifest is damaged, for it may be the newest one's.
    """
    return newest_of(finished_under(root, but=but))


def newest_of(finished: Iterable[Finished]) -> Finished | None:
    """The one that no other goes on from; of several the last by time, and of one second the last by name.

    Time alone would not do: a snapshot that lost a part and was mended was finished after those that go on from it.
    """
    found = list(finished)
    parents = {one.manifest.get("since", {}).get("run") for one in found}
    ends = [one for one in found if one.manifest["run"] not in parents]
    return max(ends, key=lambda one: (one.at, one.name), default=None)


def finished_under(root: Storage, *, but: str | None = None) -> list[Finished]:
    """Every finished data set in a directory directly under ``root``, by name. Raises as :func:`newest_finished`."""
    mine = None if but is None else Storage.at(but, dict(root.options), error=root.error).real()

    def look(name: str) -> Finished | None:
        storage = root.under(name)
        if storage.real() == mine or not storage.exists(MANIFEST):
            return None
        return Finished(name, storage, head(storage))

    with ThreadPoolExecutor(_READERS) as pool:
        return [found for found in pool.map(look, root.folders()) if found is not None]


def finished_at(manifest: Mapping[str, Any]) -> datetime:
    """When the run of a manifest was finished."""
    return datetime.fromisoformat(manifest["created"]["finished"]).astimezone(UTC)


def is_data_set(place: Storage) -> bool:
    """Whether there is a data set at an address, finished or not."""
    return place.exists(MANIFEST) or next(place.listing(KEPT), None) is not None


def data_sets_at(address: Storage) -> list[Storage]:
    """The data set at an address, or those in the directories directly under it, by name.

    Raises VerificationError where there are none.
    """
    if is_data_set(address):
        return [address]
    address.require()
    with ThreadPoolExecutor(_READERS) as pool:
        places = [address.under(name) for name in address.folders()]
        found = [place for place, there in zip(places, pool.map(is_data_set, places), strict=True) if there]
    if not found:
        raise VerificationError(f"{address.uri()}: no data set, and none in a directory under it. Check the address")
    return found


def above(data_set: Storage) -> Storage | None:
    """The directory that a data set lies in; None where it is a whole bucket."""
    home, slash, _ = data_set.root.rpartition("/")
    if not slash or (not home and not data_set.local):
        return None
    return replace(data_set, root=home or "/")


def snapshots(root: Storage) -> list[Snapshot]:
    """What lies in the directories directly under ``root``, the newest last, strays first.

    Raises SettingsError where ``root`` is a data set itself, its own error where there is nothing.
    """
    root.require()
    names = root.folders()
    if KEPT in names or root.exists(MANIFEST):
        home = above(root)
        raise SettingsError(
            f"{root.uri()} is a data set itself. Give the directory that it lies in{f', {home.uri()}' if home else ''}"
        )
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda name: _snapshot(name, root.under(name)), names))
    return sorted(found, key=lambda one: (one.when or _LONG_AGO, one.name))


def _snapshot(name: str, place: Storage) -> Snapshot:
    if not place.exists(MANIFEST):
        heard = last_heard(place)
        if heard is None:
            return Snapshot(name=name, state="unfinished" if is_data_set(place) else "stray")
        return Snapshot(name=name, state="running" if heard.at_work else "unfinished", when=heard.when)
    entries: Counter[str] = Counter()
    size = 0

    def count(kind: str, entry: Entry) -> None:
        nonlocal size
        entries[kind] += 1
        size += entry["bytes"] if kind in (PARTS, REJECTS) else 0

    try:
        manifest = skim(place, count)
    except VerificationError as error:
        return Snapshot(name=name, state="damaged", problem=str(error))
    since = manifest.get("since")
    return Snapshot(
        name=name,
        state="finished",
        when=finished_at(manifest),
        parent=since["output"] if since and since["run"] else None,
        changes=since["files"] if since else None,
        files=entries[INVENTORY],
        records=manifest["accounting"]["records"],
        samples=manifest["totals"]["samples"],
        tokens=manifest["totals"]["tokens"],
        size=size,
        digest=manifest["dataset_digest"],
    )
