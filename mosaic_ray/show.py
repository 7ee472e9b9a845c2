"""What the commands print on a terminal.

Names and texts come from the input. None of them is read as markup, and none sends the terminal a control character.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mosaic_ray.io.cells import InputFile
from mosaic_ray.runtime.cost import Cost, Regime, saved
from mosaic_ray.runtime.explain import Explanation
from mosaic_ray.runtime.plan import Plan
from mosaic_ray.runtime.run import Run
from mosaic_ray.text import seen, seen_on_one_line

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta", "bright_green")
_BYTES_PER_TOKEN = 4.0
"""Of English text in current tokenizers, roughly; only used to guess before anything is counted."""


def show_manifest(manifest: Mapping[str, Any], console: Console, *, output: str | None = None) -> None:
    """The outcome of a run.

    output: where the data set lies now; None where it was made.
    """
    totals, accounting = manifest["totals"], manifest["accounting"]
    address = manifest["places"]["output"] if output is None else output
    table = Table.grid(padding=(0, 2))
    table.add_row("output", _line(address))
    table.add_row("dataset_digest", _line(manifest["dataset_digest"]))
    table.add_row("records", _line(_records(accounting, manifest["rejects"]["by_reason"])))
    per_sample = totals["tiles"] / totals["samples"]
    table.add_row(
        "samples", f"{totals['samples']:,} in {len(accounting['epochs'])} epochs, {per_sample:.2f} records each"
    )
    mean = totals["tokens"] / totals["samples"]
    limit = manifest["settings"]["max_tokens"]
    table.add_row(
        "tokens", f"{totals['tokens']:,}; {mean:.0f} a sample on average, {totals['longest']} at most, budget {limit}"
    )
    if totals["several"] and len(manifest["inventory"]) > 1:
        mixing = manifest["mixing"]
        table.add_row(
            "mixing",
            f"{mixing['share']:.1%} of the samples of several records hold more than one file; a perfect shuffle of "
            f"the whole corpus would give {mixing['perfect_shuffle']:.1%}",
        )
    table.add_row("strategies", _line(", ".join(f"{name} {count:,}" for name, count in totals["strategies"].items())))
    table.add_row("seconds", str(manifest["created"]["seconds"]))
    console.print(table)
    console.print()
    home = address.rstrip("/")
    load = (
        f"datasets.load_dataset('parquet', data_files={home + '/data/train-*.parquet'!r}, split='train')"
        if "://" in home
        else f"datasets.load_dataset({home!r}, split='train')"
    )
    for what, how in (
        ("look at a sample", f"mosaic-ray explain {shlex.quote(home + '/' + manifest['parts'][0]['name'])}:0"),
        ("check everything", f"mosaic-ray verify {shlex.quote(home)} --recompute 2"),
        ("load it", load),
    ):
        console.print(_line(f"{what + ':':18}{how}"), soft_wrap=True)


def show_view(manifest: Mapping[str, Any], console: Console, *, output: str) -> None:
    """The outcome of making a view.

    output: where it lies.
    """
    totals, packing, left_out = manifest["totals"], manifest["packing"], manifest["accounting"]["left_out"]
    table = Table.grid(padding=(0, 2))
    table.add_row("view", _line(output))
    table.add_row("dataset_digest", _line(manifest["dataset_digest"]))
    lost = "".join(f", {count:,} left out ({reason})" for reason, count in left_out.items())
    table.add_row("rows", f"{totals['rows']:,} of {totals['samples']:,} samples{lost}")
    if totals["tokens"]:
        trained = totals["trained_tokens"] / totals["tokens"]
        table.add_row("tokens", f"{totals['tokens']:,}, {trained:.1%} of them trained")
    if packing is not None:
        table.add_row(
            "packing",
            f"{packing['samples_per_row']:.2f} samples a row; {packing['efficiency']:.2%} of "
            f"{packing['sequence_length']} tokens a row are used, {packing['least_rows']:,} rows would be the least",
        )
    table.add_row("seconds", str(manifest["created"]["seconds"]))
    console.print(table)


def show_plan(run: Run, files: Sequence[InputFile], plan: Plan, console: Console) -> None:
    """What a run would do."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, justify in (
        ("file", "left"),
        ("format", "left"),
        ("shape", "left"),
        ("records", "right"),
        ("MB", "right"),
    ):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for file in files[:20]:
        kind = file.format + (f" {file.compression}" if file.compression else "")
        table.add_row(_line(file.name), kind, file.shape.kind, f"{file.records:,}", f"{file.size / 1e6:.2f}")
    if len(files) > 20:
        table.add_row(f"and {len(files) - 20} more", "", "", "", "")
    console.print(table)
    size = sum(file.size for file in files)
    tiles = run.job.method.expected_tiles
    if tiles is None:
        tiles = max(1.0, run.settings.max_tokens * _BYTES_PER_TOKEN / max(1.0, size / max(1, plan.records)))
    samples = plan.records / tiles * plan.epochs
    facts = Table.grid(padding=(0, 2))
    facts.add_row("files", f"{len(files):,}, {size / 1e6:,.2f} MB")
    facts.add_row("records", f"{plan.records:,} in {plan.cells:,} cells")
    facts.add_row(
        "tasks", f"{plan.tasks:,}, each {plan.epochs} epochs of about {plan.records / max(1, plan.tasks):,.0f} records"
    )
    facts.add_row("parts", f"{plan.tasks * plan.epochs:,}")
    facts.add_row("expected samples", f"about {samples:,.0f} ({tiles:.2f} records each, where the token budget allows)")
    console.print()
    console.print(facts)


def show_explanation(explanation: Explanation, console: Console) -> None:
    """One sample: what was drawn, its tiles with their source, and its text with the tiles in colours."""
    row = explanation.row
    facts = Table.grid(padding=(0, 2))
    facts.add_row("sample", _line(f"{row['mosaic_id']}, epoch {row['epoch']}"))
    facts.add_row("strategy", _line(row["strategy"] + (f", {row['kind']}" if row["kind"] else "")))
    facts.add_row(
        "tokens", f"{row['token_count']} (its records by themselves: {sum(t.tokens for t in explanation.tiles)})"
    )
    for name, value in explanation.params.items():
        facts.add_row(_line(name), _line(_param(value)))
    obeys = "obeys its meta-instruction" if explanation.verdict is None else f"DOES NOT OBEY: {explanation.verdict}"
    facts.add_row("checked", _line(obeys, style="green" if explanation.verdict is None else "bold red"))
    console.print(facts)
    tiles = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("tile", "tokens", "file", "row", "instruction"):
        tiles.add_column(name, justify="right" if name in ("tile", "tokens", "row") else "left", overflow="fold")
    for number, tile in enumerate(explanation.tiles, 1):
        start = " ".join(tile.messages[0].content.split())
        start = start if len(start) <= 60 else f"{start[:59]}…"
        tiles.add_row(
            Text(str(number), style=_colour(number)),
            str(tile.tokens),
            _line(tile.source.file),
            str(tile.source.row),
            _line(start),
        )
    console.print()
    console.print(tiles)
    for name, address in explanation.addresses.items():
        console.print(_line(f"{name} is {address}", style="dim"), soft_wrap=True)
    for message in explanation.messages:
        text = Text(seen(message.content))
        position: dict[str, int] = {}
        for number, tile in enumerate(explanation.tiles, 1):
            part = next((m.content for m in tile.messages if m.role == message.role), "")
            at = message.content.find(part, position.get(part, 0)) if part else -1
            if at >= 0:
                begin, length = len(seen(message.content[:at])), len(seen(part))
                text.stylize(_colour(number), begin, begin + length)
                position[part] = at + len(part)
        console.print()
        console.print(Panel(text, title=_line(message.role), title_align="left"))


def show_cost(cost: Cost, console: Console) -> None:
    """What training on a data set costs, beside training on its records."""
    limit = cost.max_length
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(f"{cost.epochs} epoch{'s' * (cost.epochs > 1)}, {cost.batch_size:,} rows a step")
    for name in ("records", "data set", "saved"):
        table.add_column(name, justify="right")

    def add(name: str, before: float, after: float) -> None:
        table.add_row(name, f"{before:,.0f}", f"{after:,.0f}", f"{saved(before, after):.1%}")

    def regime(title: str, before: Regime, after: Regime) -> None:
        table.add_row()
        table.add_row(title)
        if before.rows != cost.records.rows or after.rows != cost.data_set.rows:
            add("  sequences", before.rows, after.rows)
        add("  optimizer steps", before.steps, after.steps)
        add("  tokens computed", before.computed, after.computed)

    records, made = cost.records, cost.data_set
    add("rows", records.rows, made.rows)
    add("tokens without padding", records.tokens, made.tokens)
    regime(f"every row padded to {limit:,} tokens", records.padded_to_max, made.padded_to_max)
    regime("rows padded to the longest of their batch (mean)", records.padded_to_batch, made.padded_to_batch)
    regime(f"packed into sequences of {limit:,} tokens", records.packed, made.packed)
    console.print(table)
    console.print()
    for what, before, after in (
        ("Padded to the maximum, rows are what costs", records.padded_to_max, made.padded_to_max),
        ("Packed, tokens are what costs", records.packed, made.packed),
    ):
        steps, tokens = saved(before.steps, after.steps), saved(before.computed, after.computed)
        console.print(f"{what}: {_fewer(steps)} steps, {_fewer(tokens)} tokens computed.", highlight=False)


def _fewer(share: float) -> str:
    return f"{abs(share):.1%} {'more' if share < 0 else 'fewer'}"


def _line(text: str, *, style: str = "") -> Text:
    """A foreign text on one line, nothing in it markup."""
    return Text(seen_on_one_line(text), style=style)


def _records(accounting: Mapping[str, Any], reasons: Mapping[str, int]) -> str:
    epoch = accounting["epochs"][0]
    why = f" ({', '.join(f'{reason} {count:,}' for reason, count in reasons.items())})" if reasons else ""
    return (
        f"{accounting['records']:,} = {epoch['composed']:,} composed + {epoch['passed']:,} passed through "
        f"+ {epoch['rejected']:,} rejected{why}, in every epoch"
    )


def _param(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_param(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return "none" if value is None else repr(value) if isinstance(value, str) and value != value.strip() else str(value)


def _colour(number: int) -> str:
    return _COLOURS[(number - 1) % len(_COLOURS)]
