"""What the commands on snapshots print: which there are, how two differ, where a record went, what a deletion takes."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mosaic_ray.runtime.snapshots.deletion import Doomed
from mosaic_ray.runtime.snapshots.diff import Difference
from mosaic_ray.runtime.snapshots.find import Found
from mosaic_ray.runtime.snapshots.listing import Snapshot
from mosaic_ray.text import seen_on_one_line

_NAMED = 10
"""Files of each kind that a comparison names."""
_LONGEST = 60
_DIGEST = 8
_WIDE = 100
"""Columns of a terminal that has room for all of a list of snapshots."""
_KINDS = {"sample": "in samples", "view": "in views", "reject": "in rejects", "staged": "in staged copies"}


def show_snapshots(found: Sequence[Snapshot], console: Console, *, root: str) -> None:
    """What lies under a root, the newest last. A narrow terminal is not told when, nor the digests."""
    wide = console.width >= _WIDE
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2 if wide else 1, 0, 0))
    for name in ("name", "state", "finished", "parent", "files", "records", "samples", "tokens", "size", "digest"):
        if wide or name not in ("finished", "digest"):
            left = name in ("name", "state", "finished", "parent", "digest")
            folds = name in ("name", "parent")
            table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not folds)
    for one in (one for one in found if one.state != "stray"):
        if one.state != "finished":
            table.add_row(_line(one.name), Text(one.state, style="yellow"))
            continue
        table.add_row(
            _line(one.name),
            one.state,
            *([f"{one.when:%Y-%m-%d %H:%M}"] if wide else []),
            _line("" if one.parent is None else _beside(one.parent, root)),
            _files(one),
            _short_count(one.records),
            _short_count(one.samples),
            _short_count(one.tokens),
            _size(one.size),
            *([_line((one.digest or "").partition(":")[2][:_DIGEST])] if wide else []),
        )
    if table.row_count:
        console.print(table)
        console.print("files: + new, ~ changed, - gone since the parent; times are UTC", style="dim", highlight=False)
    else:
        console.print(_line(f"{root}: no data set in a directory under it"), soft_wrap=True)
    for one in found:
        if one.problem is not None:
            console.print(_line(one.problem), soft_wrap=True)
    strays = [one.name for one in found if one.state == "stray"]
    if strays:
        console.print(_line(f"no data sets of this tool: {_named(strays)}"), soft_wrap=True)


def show_difference(difference: Difference, console: Console) -> None:
    """How two data sets differ."""
    for name, address, digest in zip("AB", (difference.a, difference.b), difference.digests, strict=True):
        console.print(_line(f"{name}  {digest}  {address}"), soft_wrap=True)
    same = "the same rows and rejects" if difference.same else "other rows"
    console.print(_line(f"{same}; {difference.lineage or 'neither goes on from the other'}"), soft_wrap=True)
    console.print()
    if difference.made:
        made = _table("made by", "A", "B")
        for pair in difference.made:
            made.add_row(_line(pair.name), _line(_value(pair.a)), _line(_value(pair.b)))
        console.print(made)
    else:
        console.print("made by the same method, settings, tokenizer, libraries, of the same addresses")
    console.print()
    counts = _table("count", "A", "B", "B - A", right=True)
    for pair in difference.counts:
        change = pair.b - pair.a
        counts.add_row(_line(pair.name), f"{pair.a:,}", f"{pair.b:,}", f"{change:+,}" if change else "=")
    console.print(counts)
    console.print()
    files = difference.inventory
    console.print(f"input: {files.same:,} files are the same", highlight=False)
    for what, names in (("changed", files.changed), ("only in A", files.only_a), ("only in B", files.only_b)):
        if names:
            console.print(_line(f"{len(names):,} {what}: {_named(names)}"), soft_wrap=True)


def show_found(found: Found, console: Console) -> None:
    """One place that holds a record, on a line that begins with what `explain` takes."""
    row = "" if found.row is None else f":{found.row}"
    told = [f"{found.data_set.rstrip('/')}/{found.path}{row}"]
    if found.mosaic_id is not None:
        told.append(found.mosaic_id)
    elif found.kind == "reject":
        told.append("rejected")
    elif found.kind == "staged":
        told.append("a copy of the whole file")
    elif found.row is None:
        told.append("which row cannot be told")
    told += [", ".join(f"{file}:{number}" for file, number in found.records)] if found.records else []
    console.print(_line("  ".join(told)), soft_wrap=True)


def show_findings(record: str, kinds: Counter[str], data_sets: int, doomed: Sequence[str], console: Console) -> None:
    """How often a record was found, and how it is forgotten.

    kinds: places by :attr:`Found.kind`. data_sets: how many were looked in. doomed: addresses of those that hold it and
    of those that go on from them, in the order in which they can be deleted.
    """
    looked = f"{data_sets} data set{'s' * (data_sets > 1)} looked in"
    if not kinds:
        console.print(_line(f"no sample holds {record}, no view and no reject ({looked})"), soft_wrap=True)
        return
    console.print()
    counts = ", ".join(f"{kinds[kind]:,} {name}" for kind, name in _KINDS.items() if kinds[kind])
    console.print(_line(f"{record}: {counts}; {looked}"), soft_wrap=True)
    console.print("To forget it:", highlight=False)
    console.print("  1. Write its file of the input again without it, or remove the file.", highlight=False)
    console.print("  2. Delete what holds it, and what goes on from that, in this order:", highlight=False)
    for address in doomed:
        console.print(_line(f"       mosaic-ray delete {shlex.quote(address)}"), soft_wrap=True)
    again = "  3. Run again, with --since if they had it: the rest of what is deleted is composed anew."
    console.print(again, highlight=False)


def show_doomed(doomed: Doomed, console: Console, *, output: str) -> None:
    """What a deletion takes, and what it leaves."""
    console.print(_line(f"{output}: {doomed.files:,} files, {_size(doomed.size)}"), soft_wrap=True)
    if doomed.left:
        more = f" and {doomed.left - len(doomed.named)} more" if doomed.left > len(doomed.named) else ""
        left = f"left in place, for no run wrote it: {', '.join(doomed.named)}{more}"
        console.print(_line(left), soft_wrap=True)


def _table(first: str, *others: str, right: bool = False) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    return table


def _files(one: Snapshot) -> str:
    if one.changes is None:
        return f"{one.files:,}"
    marks = {"new": "+", "changed": "~", "gone": "-"}
    return " ".join(f"{mark}{one.changes[name]}" for name, mark in marks.items() if one.changes[name]) or "0"


def _beside(parent: str, root: str) -> str:
    """The parent as its name where it lies under the same root, else its address."""
    return parent.removeprefix(f"{root.rstrip('/')}/")


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")


def _value(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _short_count(count: float) -> str:
    """In at most five characters where that loses digits: 12,345 is 12.3k."""
    for unit in ("", "k", "M", "G"):
        if count < (10_000 if not unit else 1000):
            return f"{count:,.0f}" if not unit else f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}T"


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def _line(text: str, *, style: str = "") -> Text:
    """A foreign text on one line, nothing in it markup."""
    return Text(seen_on_one_line(text), style=style)
