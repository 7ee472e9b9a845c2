"""The sections of the report that are charts."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from typing import Any, Final

from mosaic_ray.pages.charts import Amount, bars, binned, histogram, stack
from mosaic_ray.pages.flow import fates, flow
from mosaic_ray.pages.markup import figure, legend
from mosaic_ray.pages.style import CATEGORIES
from mosaic_ray.pages.text import counted, escaped, share
from mosaic_ray.runtime.stats import TOKEN_BUCKET

_MOST_FILES: Final = 10


def records(manifest: Mapping[str, Any]) -> str:
    """Where the records went: composed, passed through, rejected. The accounting balances, the same in every epoch."""
    epoch, policies = manifest["accounting"]["epochs"][0], manifest["policies"]
    amounts, epochs = fates(manifest), counted(manifest["plan"]["epochs"], "epoch")
    notes = (
        (policies["first_turn_only"], "cut to the first turn"),
        (policies["special_tokens"], "freed of a spelt special token"),
    )
    said = "".join(f" {counted(number, 'record')} {words}." for number, words in notes if number)
    balance = (
        f"{epoch['composed']:,} composed + {epoch['passed']:,} passed through + {epoch['rejected']:,} rejected = "
        f"{counted(manifest['accounting']['records'], 'record')}"
    )
    way = figure(
        "From files to tokens",
        flow(manifest),
        f"Heights are records, and from the samples on rows of one epoch. Samples and tokens are those of {epochs}.",
    )
    return (
        f'<div class="charts">{way}<figure><h3>Nothing lost</h3>'
        f"{stack(amounts, label='Records of an epoch')}{legend(amounts)}"
        f"<figcaption>In every epoch: {balance}.{said}</figcaption></figure></div>"
    )


def distributions(manifest: Mapping[str, Any]) -> str:
    totals = manifest["totals"]
    colours = _colours(totals["strategies"])
    strategies = [Amount(name, number, colours[name]) for name, number in totals["strategies"].items()]
    charts = [
        _tiles(totals),
        _tokens(totals, manifest["settings"]["max_tokens"]),
        figure("Strategies", bars(strategies, label="Samples by strategy"), "Samples by how they were composed."),
    ]
    for strategy, kinds in _by_strategy(totals["kinds"]).items():
        amounts = [Amount(kind, number, colours[strategy]) for kind, number in kinds.items()]
        said = f"Samples of strategy {strategy} by kind"
        charts.append(figure(f"Kinds of {strategy}", bars(amounts, label=said), f"{said}."))
    return f'<div class="charts">{"".join(charts)}</div>'


def mixing(manifest: Mapping[str, Any], files: Mapping[int, int]) -> str:
    """Against what a shuffle of the whole corpus would give.

    files: of the samples of several records that were read, how many draw from so many files.
    """
    found, samples = manifest["mixing"], manifest["totals"]["samples"]
    mixed, several = found["mixed"], found["several"]
    amounts = (
        Amount("records of more than one file", mixed, "c4"),
        Amount("several records of one file", several - mixed, "c2"),
        Amount("a single record", samples - several, "c6"),
    )
    said = (
        f"{share(mixed, several)} of the samples of several records hold records of more than one source file. "
        f"A perfect shuffle of the whole source would give {share(found['perfect_shuffle'], 1)}."
    )
    chart = f"<figure><h3>Samples by what they hold</h3>{stack(amounts, label='Samples by what they hold')}"
    charts = [f"{chart}{legend(amounts)}</figure>", _largest(manifest)]
    if files:
        bins = binned(files, start=1, width=1, end=max(files) + 1)
        read = f"Of {counted(sum(files.values()), 'sample')} of several records that were read for this page"
        drawn = histogram(bins, unit="files in a sample", label=f"Samples by number of files. {read}", discrete=True)
        charts.append(figure("Files per sample", drawn, f"{read}: how many files each draws from."))
    return (f"<p>{escaped(said)}</p>" if several else "") + f'<div class="charts">{"".join(charts)}</div>'


def _largest(manifest: Mapping[str, Any]) -> str:
    """The source files with the most records."""
    files = heapq.nlargest(_MOST_FILES, manifest["inventory"], key=lambda file: file["records"])
    others = manifest["accounting"]["records"] - sum(file["records"] for file in files)
    amounts = [Amount(file["name"], file["records"], "c1") for file in files]
    if others:
        amounts.append(Amount(f"{counted(len(manifest['inventory']) - len(files), 'other file')}", others, "c6"))
    return figure("Largest sources", bars(amounts, label="Records by source file"), "Records by source file.")


def _tiles(totals: Mapping[str, Any]) -> str:
    counts = {int(tiles): number for tiles, number in totals["tile_counts"].items()}
    bins = binned(counts, start=1, width=1, end=max(counts) + 1)
    said = f"From {min(counts):,} to {max(counts):,}, {totals['tiles'] / totals['samples']:.2f} on average"
    chart = histogram(bins, unit="records in a sample", label=f"Samples by number of records. {said}", discrete=True)
    return figure("Records per sample", chart, f"{said}.")


def _tokens(totals: Mapping[str, Any], budget: int) -> str:
    """Against the budget, where the samples come near enough to it to be told apart on one axis."""
    counts = {int(low): number for low, number in totals["token_histogram"].items()}
    near = totals["longest"] * 4 >= budget
    bins = binned(counts, start=0, width=TOKEN_BUCKET, end=budget + 1 if near else max(counts) + TOKEN_BUCKET)
    mean = f"{totals['tokens'] / totals['samples']:,.0f}"
    said = f"{mean} on average, {totals['longest']:,} at most, of a budget of {budget:,}"
    label = f"Samples by number of tokens: {said}"
    chart = histogram(bins, unit="tokens in a sample", label=label, budget=budget if near else None)
    alone = f"The same records, each by itself, are {totals['tile_tokens']:,} tokens, the samples {totals['tokens']:,}."
    return figure("Tokens per sample", chart, f"{said}. {alone}")


def _colours(strategies: Iterable[str]) -> dict[str, str]:
    """``pass`` has the colour of the records passed through; the others take theirs in turn."""
    composed = [name for name in sorted(strategies) if name != "pass"]
    return {"pass": "c2"} | {name: CATEGORIES[place % len(CATEGORIES)] for place, name in enumerate(composed)}


def _by_strategy(kinds: Mapping[str, int]) -> dict[str, dict[str, int]]:
    grouped: dict[str, dict[str, int]] = {}
    for name, number in kinds.items():
        strategy, _, kind = name.partition("/")
        grouped.setdefault(strategy, {})[kind] = number
    return grouped
