"""From a finished run to its pages: a few rows are read back, whatever the size of the data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from mosaic_ray.io.parquet import BATCH_ROWS, parquet
from mosaic_ray.io.storage import Storage
from mosaic_ray.pages.card import card
from mosaic_ray.pages.report import report
from mosaic_ray.pages.samples import Shown
from mosaic_ray.pages.view_card import view_card
from mosaic_ray.runtime.run import Run
from mosaic_ray.views import ViewSchema

T = TypeVar("T")

CARD: Final = "README.md"
REPORT: Final = "report.html"

_PARTS: Final = 12
_SAMPLES: Final = 60
_REJECTS: Final = 10
_REJECTS_PARTS: Final = 2
_REJECTS_READ: Final = 1000
_REMEDY: Final = "delete it, and the same command makes it again"


def publish_pages(run: Run, manifest: Mapping[str, Any]) -> None:
    """Publish the card and the report at the root of the run's output.

    Reads the first batch of rows of at most 12 parts, and of at most two files of rejects.
    """
    rows = _read_rows(run.output, manifest)
    files = (len({source["file"] for source in row["sources"]}) for _, _, row in rows if row["tiles"] > 1)
    page = report(manifest, _shown(run, manifest, _various(rows)), _rejects(run.output, manifest), Counter(files))
    for path, text in {CARD: card(manifest), REPORT: page}.items():
        run.output.publish(path, text.encode("utf-8"))


def publish_view_card(view: Storage, manifest: Mapping[str, Any]) -> None:
    """Publish the card of a view at its root."""
    view.publish(CARD, view_card(manifest).encode("utf-8"))


class _Row(NamedTuple):
    """Row ``number`` of a part."""

    part: str
    number: int
    row: dict[str, Any]


def _read_rows(output: Storage, manifest: Mapping[str, Any]) -> list[_Row]:
    """The first rows of parts spread over the data set."""
    filled = [number for number, part in enumerate(manifest["parts"]) if part["rows"]]
    parts = [manifest["parts"][number] for number in _spread(filled, _PARTS)]

    def read(part: Mapping[str, Any], most: int) -> list[_Row]:
        return [_Row(part["name"], number, row) for number, row in enumerate(_first_rows(output, part["name"], most))]

    return _joined(read, parts, [BATCH_ROWS] * len(parts))


def _various(rows: Sequence[_Row]) -> list[_Row]:
    """Some of the rows: of each strategy and kind in turn, so that a rare one is among the first."""
    turns: Counter[tuple[str, str | None]] = Counter()
    ordered = []
    for row in sorted(rows, key=lambda row: row.number):  # all parts in turn
        way = row.row["strategy"], row.row["kind"]
        turns[way] += 1
        ordered.append((turns[way], row))
    return [row for _, row in sorted(ordered, key=lambda pair: pair[0])[:_SAMPLES]]


def _shown(run: Run, manifest: Mapping[str, Any], rows: Sequence[_Row]) -> list[Shown]:
    view = ViewSchema(manifest["settings"]["view"], manifest["tokenizer"]["chat_template"] is not None)
    shown = []
    for part, number, row in rows:
        messages = view.messages(row)
        sample = {
            "tiles": row["tiles"],
            "params": orjson.loads(row["params"]),
            "instruction": messages[0].content,
            "response": messages[-1].content,
        }
        outline = run.job.method.outline(sample)
        shown.append(Shown(part=part, number=number, messages=messages, row=row, outline=outline))
    return shown


def _rejects(output: Storage, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Examples, the reasons in turn, so that a rare one is not lost among many of one kind."""
    parts = _spread(manifest["rejects"]["parts"], _REJECTS_PARTS)
    rows = _joined(lambda part, most: _first_rows(output, part["name"], most), parts, [_REJECTS_READ] * len(parts))
    turns: Counter[str] = Counter()
    ordered = []
    for row in rows:
        turns[row["reason"]] += 1
        ordered.append((turns[row["reason"]], row))
    return [row for _, row in sorted(ordered, key=lambda pair: pair[0])[:_REJECTS]]


def _first_rows(output: Storage, path: str, most: int) -> list[dict[str, Any]]:
    """At most ``most`` rows of the first row group. Raises StorageError where the file is damaged."""
    with parquet(output, path, remedy=_REMEDY) as file:
        columns = file.choose(file.names)
        batches = columns.batches(list(islice(columns.groups(), 1)))
        return list(islice((row for _, batch in batches for row in batch.to_pylist()), most))


def _joined(
    read: Callable[[Mapping[str, Any], int], list[T]], parts: Sequence[Mapping[str, Any]], rows: Sequence[int]
) -> list[T]:
    """What is read of several parts at once, in their order."""
    if not parts:
        return []
    with ThreadPoolExecutor(len(parts)) as pool:
        return [row for found in pool.map(read, parts, rows) for row in found]


def _spread(items: Sequence[T], most: int) -> list[T]:
    """At most ``most`` items, from the first to the last at even distances."""
    if len(items) <= most:
        return list(items)
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]
