"""How fast the job is: one table of rows measured in one run, in turn, median of several.

    make bench                                        # 96 million bytes of generated text
    make bench BENCH_ARGS="--size 8 --repeats 1"      # a quick look
    make bench BENCH_ARGS="--corpus data/ --tokenizer path/or/name --json figures.json"
    make bench BENCH_ARGS="--counters DIR --counters DIR"     # counts against the tokenizers themselves, nothing else

How each row is measured stands with its function in ``rows.py``; what the corpus is, in ``corpus.py``. All that the
benchmark makes is in ``.bench/``. The rows of a repeat run one after the other, each in a process of its own, and then
the next repeat begins, so that a machine that slows down slows all rows down.
"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import click
import orjson
from corpus import MEGABYTE, Corpus, generated, given, slice_of
from rich.console import Console
from rich.table import Table
from rows import ROOT, ROWS, Figures, Places, run_row
from tokenizer import trained

SLICE: Final = 4_000
"""Records for the published loop: its cost is a matter of each sample, so it grows as the records do."""

LARGER: Final = 24_000
"""Records for the naive port, so that two actors have batches enough."""

TINY: Final = 40

WIDTH: Final = 132


@dataclass(frozen=True, slots=True)
class Summary:
    """A row over all repeats.

    seconds: median, cold start taken off where the row is a whole job. whole: what the corpus takes at that pace;
        all epochs, for the rows that make them. records: record-epochs a second. megabytes: of text, the same way.
    """

    seconds: float
    lowest: float
    highest: float
    whole: float
    records: float
    megabytes: float


@dataclass(slots=True)
class Results:
    """The raw figures of every row, one a repeat, and what is worked out of them."""

    corpus: Corpus
    epochs: int
    raw: dict[str, list[Figures]]

    def median(self, row: str, figure: str = "seconds") -> float | None:
        values = [figures[figure] for figures in self.raw.get(row, ()) if figures.get(figure) is not None]
        return median(values) if values else None

    def summary(self, row: str) -> Summary | None:
        if not self.raw.get(row):
            return None
        figures = self.raw[row]
        seconds = [figure["seconds"] for figure in figures]
        if row in ("job", "job1") and (cold := self.median("cold")) is not None:
            seconds = [max(value - cold, 1e-3) for value in seconds]
        middle, first = median(seconds), figures[0]
        share = first["records"] / self.corpus.records
        epochs = self.epochs if ROWS[row].composes else 1
        return Summary(
            seconds=middle,
            lowest=min(seconds),
            highest=max(seconds),
            whole=middle / share * epochs / first["epochs"],
            records=first["records"] * first["epochs"] / middle,
            megabytes=first["text"] * first["epochs"] / middle / MEGABYTE,
        )

    def table(self) -> Table:
        text = f"{self.corpus.text / MEGABYTE:.1f} MB of text"
        table = Table(title=f"{self.corpus.records:,} records, {text}, {self.epochs} epochs")
        table.add_column("row", no_wrap=True)
        for name in ("cores", "seconds (range)", "records", "whole, s", "MB/s", "records/s", "x plain", "x published"):
            table.add_column(name, justify="right", no_wrap=True)
        plain, published = self.summary("plain2"), self.summary("published")
        for key, row in ROWS.items():
            if (found := self.summary(key)) is None:
                continue
            cold = key == "cold"
            table.add_row(
                row.what + (" with cold start" if key in ("job", "job1") and "cold" not in self.raw else ""),
                str(row.cores),
                f"{found.seconds:.2f} ({found.lowest:.2f}-{found.highest:.2f})",
                f"{self.raw[key][0]['records']:,}",
                "" if cold else f"{found.whole:.1f}",
                "" if cold else f"{found.megabytes:.2f}",
                "" if cold else f"{found.records:,.0f}",
                f"{plain.whole / found.whole:.2f}" if plain and not cold else "",
                f"{published.whole / found.whole:.1f}" if published and row.composes and not cold else "",
            )
        return table

    def notes(self) -> list[str]:
        """What the table has no column for."""
        notes = [
            "seconds: median of the repeats; our job is without the cold start of the same run. records: what the row "
            "was measured on. whole: what the whole corpus takes at that pace, all epochs where a row makes epochs. "
            "MB/s, records/s: text and records a second, each epoch counted. x plain: times as fast as one "
            "encode_batch_fast pass on two cores. x published: times as fast as the published loop, epoch for epoch."
        ]
        if row := self.raw.get("published"):
            agree, shorter, samples = (sum(f[name] for f in row) for name in ("agree", "shorter", "samples"))
            rest = f" (on {shorter} it ends early, by design)" if shorter else ""
            notes.append(
                f"Published loop, our port: agrees with the job's method on {agree} of {samples} samples{rest}; "
                f"tokenizes {row[0]['tokenized']:.1f} times the text; "
                f"{row[0]['tokenizing']:.0%} of its time is the tokenizer's."
            )
        if (row := self.raw.get("counter")) and (pace := self.median("counter")):
            against = median(f["plain_seconds"] for f in row)
            notes.append(
                f"Counter: {against / pace:.2f} times encode_batch_fast on one core, in one process; "
                f"mismatches: {sum(f['mismatches'] for f in row)} of {sum(f['texts'] for f in row):,} texts."
            )
        one, two = self.summary("job1"), self.summary("job")
        if one and two:
            notes.append(f"Two workers: {one.seconds / two.seconds:.2f} times one.")
        if (cold := self.median("cold")) is not None:
            first = self.median("cold", "first_part")
            notes.append(f"Cold start: {cold:.2f} s to the end, {first or cold:.2f} s to the first part.")
            if two and two.seconds < cold:
                notes.append(
                    "Our job takes less than its cold start here: take more text for a figure that means much."
                )
        if row := self.raw.get("job"):
            driver, worker = max(f["driver_rss"] for f in row), max(f["worker_rss"] for f in row)
            notes.append(
                f"Peak resident memory of our job: driver {driver / 1e6:.0f} MB, a worker {worker / 1e6:.0f} MB."
            )
            digests = {f["digest"] for f in [*row, *self.raw.get("job1", [])]}
            notes.append(
                f"Data sets made: {'all the same' if len(digests) == 1 else f'{len(digests)} DIFFERENT ONES'}."
            )
        groups = ", ".join(f"{name} {size / self.corpus.text:.0%}" for name, size in self.corpus.groups.items())
        return [*notes, f"Corpus, by bytes: {groups}."]


def machine() -> dict[str, Any]:
    return {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}


def compare_counters(tokenizers: tuple[str, ...], corpus: Corpus, console: Console) -> list[Figures]:
    """Only the counter, for each tokenizer: pace against one thread of the tokenizer itself, and mismatches."""
    table = Table(title=f"{corpus.records:,} records, {corpus.text / MEGABYTE:.1f} MB of text, one core")
    for name in ("tokenizer", "plain MB/s", "ours MB/s", "times", "texts", "mismatches"):
        table.add_column(name, justify="left" if name == "tokenizer" else "right")
    found = []
    for name in tokenizers:
        figures = run_row("counter", _places(corpus, name, 1, 2048))
        ours, plain = (corpus.text / MEGABYTE / figures[key] for key in ("seconds", "plain_seconds"))
        shown = name.removesuffix("/").removesuffix("/package/models").rpartition("/")[2]
        table.add_row(
            shown,
            f"{plain:.2f}",
            f"{ours:.2f}",
            f"{ours / plain:.2f}",
            f"{figures['texts']:,}",
            f"{figures['mismatches']:,}",
        )
        found.append({"tokenizer": name, **figures})
    console.print(table)
    return found


def _places(corpus: Corpus, tokenizer: str, epochs: int, max_tokens: int) -> Places:
    return Places(
        corpus=str(corpus.folder),
        slice=str(slice_of(corpus, SLICE).folder),
        larger=str(slice_of(corpus, LARGER).folder),
        tiny=str(slice_of(corpus, TINY).folder),
        tokenizer=tokenizer,
        scratch=str(corpus.folder.parent),
        epochs=epochs,
        max_tokens=max_tokens,
    )


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--size", default=96.0, show_default=True, help="Million bytes of text to generate.")
@click.option("--seed", default=0, show_default=True, help="Of the generated corpus.")
@click.option("--corpus", "address", help="File, directory or glob to take instead of a generated corpus.")
@click.option("--tokenizer", help="Directory or Hub name; by default one is trained on the generated corpus.")
@click.option("--epochs", default=4, show_default=True)
@click.option("--max-tokens", type=click.IntRange(min=512), default=2048, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--only", help=f"Rows, with commas: any of {', '.join(ROWS)}.")
@click.option("--counters", multiple=True, help="Tokenizer for which only the counter is compared; may be repeated.")
@click.option("--cache", type=click.Path(path_type=Path), default=ROOT / ".bench", help="By default .bench here.")
@click.option("--json", "target", type=click.Path(path_type=Path), help="Where to write all figures.")
def main(
    size: float,
    seed: int,
    address: str | None,
    tokenizer: str | None,
    epochs: int,
    max_tokens: int,
    repeats: int,
    only: str | None,
    counters: tuple[str, ...],
    cache: Path,
    target: Path | None,
) -> None:
    console, log = Console(width=None if Console().is_terminal else WIDTH), Console(stderr=True)
    chosen = [name.strip() for name in only.split(",")] if only else list(ROWS)
    if unknown := sorted(set(chosen) - set(ROWS)):
        raise click.UsageError(f"--only {', '.join(unknown)}: rows are {', '.join(ROWS)}")
    cache = cache.resolve()
    corpus = given(cache, address) if address else generated(cache, megabytes=size, seed=seed)
    log.print(f"corpus: {corpus.folder}, {corpus.records:,} records, {corpus.text:,} bytes of text")
    figures: dict[str, Any] = {"machine": machine(), "corpus": asdict(corpus)}
    if counters:
        figures["counters"] = compare_counters(counters, corpus, console)
    else:
        places = _places(corpus, tokenizer or str(trained(cache, corpus)), epochs, max_tokens)
        log.print(f"tokenizer: {places.tokenizer}")
        results = Results(corpus, epochs, {})
        for repeat in range(repeats):
            for name in chosen:
                measured = run_row(name, places)
                results.raw.setdefault(name, []).append(measured)
                log.print(f"{repeat + 1}/{repeats} {ROWS[name].what} ({ROWS[name].cores}): {measured['seconds']:.2f} s")
        console.print(results.table())
        for note in results.notes():
            console.print(note, highlight=False)
        figures |= {"places": asdict(places), "rows": results.raw}
    if target:
        target.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2, default=str))


if __name__ == "__main__":
    main()
