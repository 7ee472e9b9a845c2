"""Deleting a data set, so that at no moment half of one is taken for a whole.

Its manifest goes first, then those of its views, then what they list; what tells that a run was here goes last, so that
a deletion that was interrupted can be made again. Only files that a run of this tool writes are deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, get_args

from mosaic_ray.config import AnyView
from mosaic_ray.errors import ConcurrentRunError, DriftError, SettingsError
from mosaic_ray.io.manifest import MANIFEST, VIEWS
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.store import BULK
from mosaic_ray.runtime.lease import LEASES, Lease, hold, last_heard, remove_unfinished
from mosaic_ray.runtime.run import SETTINGS
from mosaic_ray.runtime.snapshots.chain import going_on_from
from mosaic_ray.runtime.snapshots.listing import KEPT

NAMED: Final = 10
"""Files left in place that are named; all are counted."""

_VIEW: Final = rf"{VIEWS}/(?:{'|'.join(get_args(AnyView))})(?:-\d+)?/"
_MANIFEST_OF_VIEW: Final = re.compile(_VIEW + re.escape(MANIFEST))
_OURS: Final = re.compile(
    rf"(?:{_VIEW})?(?:{re.escape(MANIFEST)}|README\.md|data/train-\d{{5,}}-of-\d{{5,}}\.parquet|{KEPT}/.+)"
    r"|report\.html|rejects/task-\d{5,}\.parquet"
)
_PAGES: Final = ("README.md", "report.html")


@dataclass(kw_only=True)
class Doomed:
    """What a deletion takes away, and what it leaves: files that no run writes, ``left`` of them, some by name."""

    files: int = 0
    size: int = 0
    left: int = 0
    named: list[str] = field(default_factory=list)


def look_over(output: Storage, *, force: bool = False) -> Doomed:
    """What :func:`delete` would do.

    Raises DriftError where the directory holds no run, ConcurrentRunError where one is at work on it, SettingsError
    where a data set beside it goes on from it, unless ``force``.
    """
    if not output.exists(SETTINGS):
        output.require()
        raise DriftError(
            f"{output.uri()}: no {SETTINGS}, so this is no data set that a run of this tool has made, or it is a view "
            "of one. Nothing was deleted; check the address"
        )
    heard = last_heard(output)
    if heard is not None and heard.at_work:
        raise ConcurrentRunError(
            f"{output.uri()}: a run ({heard.who}) is at work on it. Nothing was deleted; let it finish, or stop it"
        )
    children = [] if force else [place.root.rpartition("/")[2] for place in going_on_from(output)]
    if children:
        more = f" and {len(children) - 5} more" if len(children) > 5 else ""
        raise SettingsError(
            f"{output.uri()}: data sets beside it go on from it ({', '.join(children[:5])}{more}), so no later --since "
            "run would take its files again. Delete those first, the newest first; or give --force"
        )
    doomed = Doomed()
    for path, info in output.listing():
        if _OURS.fullmatch(path):
            doomed.files += 1
            doomed.size += info.size
        else:
            doomed.left += 1
            doomed.named += [path] if len(doomed.named) < NAMED else []
    return doomed


def delete(output: Storage) -> None:
    """Delete what a run has written to an output, and the directory where nothing else is in it.

    Raises ConcurrentRunError where another run is at work there, or has come in between; the storage's error where the
    store refuses. What is left then is no data set, and the same call goes on from there.
    """
    with hold(output) as lease:
        for stage in _stages(output):
            _delete(output, lease, stage)
        if output.local:
            output.remove_unfinished()
        else:
            remove_unfinished(output)
    # The lease is written a last time as it ends, so it can only go now.
    leases = sorted(path for path, _ in output.listing(LEASES))
    mine = [path for path in leases if path <= f"{LEASES}/{lease.number:05d}.json"]
    if leases != mine:
        raise ConcurrentRunError(
            f"{output.uri()}: another run has begun there meanwhile; it finds an empty output, and there is nothing "
            "left to delete of the earlier one"
        )
    output.delete_all(mine)
    output.delete(SETTINGS)
    output.remove_empty()


def _stages(output: Storage) -> Iterator[Iterator[str]]:
    """What goes together, in the order in which it goes."""
    yield iter([MANIFEST])
    yield (path for path, _ in output.listing(VIEWS) if _MANIFEST_OF_VIEW.fullmatch(path))
    for folder in ("data", "rejects", VIEWS):
        yield (path for path, _ in output.listing(folder) if _OURS.fullmatch(path))
    yield iter(_PAGES)
    yield (path for path, _ in output.listing(KEPT) if path != SETTINGS and not path.startswith(f"{LEASES}/"))


def _delete(output: Storage, lease: Lease, paths: Iterator[str]) -> None:
    batch: list[str] = []
    for path in paths:
        batch.append(path)
        if len(batch) == BULK:
            lease.check()
            output.delete_all(batch)
            batch = []
    lease.check()
    output.delete_all(batch)
