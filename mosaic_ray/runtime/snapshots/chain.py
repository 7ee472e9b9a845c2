"""Which data sets go on from which, as runs with ``--since`` leave them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final, NamedTuple

import orjson

from mosaic_ray.io.manifest import MANIFEST
from mosaic_ray.io.skim import head
from mosaic_ray.io.storage import Storage
from mosaic_ray.runtime.driver import PLAN
from mosaic_ray.runtime.run import SETTINGS, kept_settings
from mosaic_ray.runtime.snapshots.listing import above, finished_at

_READERS: Final = 16
_NOT_YET: Final = datetime.max.replace(tzinfo=UTC)


class _Link(NamedTuple):
    """A data set of a chain. run: of itself, None until it has a plan. parent: the run that it goes on from, if one."""

    storage: Storage
    run: str | None
    parent: str | None
    finished: datetime


def run_of(place: Storage) -> str | None:
    """The name of the run in an output, finished or not; None where none has come as far as its plan."""
    if place.exists(MANIFEST):
        return str(head(place)["run"])
    if not place.exists(PLAN):
        return None
    try:
        return str(orjson.loads(place.read(PLAN))["run"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None


def going_on_from(place: Storage) -> list[Storage]:
    """Data sets beside this one, finished or not, that go on from it, by name."""
    home, run = above(place), run_of(place)
    return [] if home is None or run is None else [link.storage for link in _links(home) if link.parent == run]


def in_order_of_deletion(chosen: Iterable[Storage]) -> list[Storage]:
    """These data sets and all beside them that go on from them, each before what it goes on from."""
    homes: dict[Storage, set[str]] = {}
    alone = []
    for place in chosen:
        home = above(place)
        if home is None:
            alone.append(place)
        else:
            homes.setdefault(home, set()).add(place.real())
    for home, wanted in homes.items():
        runs: set[str | None] = set()
        doomed = []
        for link in sorted(_links(home), key=lambda link: (link.finished, link.storage.root)):
            if link.storage.real() in wanted or (link.parent is not None and link.parent in runs):
                runs.add(link.run)
                doomed.append(link.storage)
        alone += doomed[::-1]
    return alone


def _links(home: Storage) -> list[_Link]:
    def look(name: str) -> _Link | None:
        place = home.under(name)
        if place.exists(MANIFEST):
            manifest = head(place)
            since = manifest.get("since") or {}
            return _Link(place, manifest["run"], since.get("run"), finished_at(manifest))
        if place.exists(SETTINGS):
            return _Link(place, run_of(place), kept_settings(place)["identity"].get("since"), _NOT_YET)
        return None

    with ThreadPoolExecutor(_READERS) as pool:
        return [link for link in pool.map(look, home.folders()) if link is not None]
