"""The corpus of the benchmark: instruction records of many kinds, made by a seed.

    python tests/benchmarks/corpus.py FOLDER --size 96

Forty JSONL files in the alpaca shape, one task each, so that mixing matters. Same seed and size, same bytes. A record
has 430 bytes of text on average. What is in it, by bytes of text:

    prose (questions, summaries, labels, rewriting)   about half
    lists, tables, JSON, links                        a sixth
    code (Python, JavaScript, C, Java, Rust, SQL, ..) a sixth
    maths                                             a twentieth
    other scripts, combining marks, emoji             a ninth

New words go on appearing as in real text, for a memo of words must be neither useless nor perfect. Different chunks
among so many that white space separates, records shuffled; the real corpus is 7.5 MB of maths, code and reading tasks,
nearly all of it in Latin letters:

                              10,000     100,000   1,000,000   10,000,000
    a real corpus              3,200      17,600      78,200
    this one, Latin only       4,400      19,900      85,700
    this one                   4,600      22,800     100,000      472,000
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
import orjson
import styles
from styles import Texts, Writer
from words import SCRIPTS, Vocabulary, Voice

from mosaic_ray.fingerprint import fingerprint
from mosaic_ray.io.cells import FoundFile
from mosaic_ray.io.inventory import find_inputs, input_storage, take_inventory
from mosaic_ray.io.readers import read_rows
from mosaic_ray.io.shapes import to_record
from mosaic_ray.records import Record, Reject

VERSION: Final = 1
"""Raised whenever the same seed gives other bytes, so that no stale copy is used."""

MEGABYTE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Task:
    """What one kind of file holds. share: parts of a hundred of the corpus' text, over all its files."""

    group: str
    style: Callable[[Writer], Texts]
    files: int
    share: float
    script: str = "latin"
    length: float = 1.0


TASKS: Final = (
    Task("prose", styles.question, 5, 17.0, length=1.15),
    Task("prose", styles.about_text, 5, 16.0, length=1.4),
    Task("prose", styles.labels, 4, 8.5, length=1.2),
    Task("prose", styles.rewritten, 3, 8.5),
    Task("lists, tables, links", styles.listing, 3, 9.0),
    Task("lists, tables, links", styles.extraction, 2, 5.0),
    Task("lists, tables, links", styles.links, 1, 3.0),
    Task("code", styles.python, 3, 8.0),
    Task("code", styles.braces, 2, 5.5),
    Task("code", styles.other_code, 2, 3.5),
    Task("maths", styles.maths, 2, 4.5),
    Task("other scripts", styles.question, 1, 3.0, "cyrillic", 0.8),
    Task("other scripts", styles.question, 1, 1.0, "greek", 0.7),
    Task("other scripts", styles.question, 1, 1.5, "arabic", 0.8),
    Task("other scripts", styles.question, 1, 1.0, "devanagari", 0.5),
    Task("other scripts", styles.question, 1, 1.0, "hangul", 0.8),
    Task("other scripts", styles.question, 1, 2.0, "chinese", 1.0),
    Task("other scripts", styles.question, 1, 1.0, "japanese", 0.8),
    Task("combining marks and emoji", styles.chat, 1, 1.0, "combining marks", 1.0),
)
"""Forty files; the shares add up to 100."""


@dataclass(slots=True)
class Corpus:
    """A folder of JSONL files and how much is in it.

    records: lines. text: bytes of the texts in UTF-8, without JSON around them. groups: of that, by group.
    """

    folder: Path
    records: int = 0
    text: int = 0
    groups: dict[str, int] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path) -> Corpus:
        return cls(folder, **orjson.loads((folder / "_about.json").read_bytes()))

    def files(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))

    def rows(self) -> Iterator[dict[str, str]]:
        for path in self.files():
            with path.open("rb") as lines:
                yield from map(orjson.loads, lines)

    def texts(self) -> list[str]:
        """What a model is asked and what it answers, one after the other: two texts a record."""
        return [text for row in self.rows() for text in two_texts(row)]


def two_texts(row: dict[str, str]) -> tuple[str, str]:
    """The instruction with its input on a line below, and the output."""
    below = row.get("input")
    return (f"{row['instruction']}\n{below}" if below else row["instruction"]), row["output"]


def generated(cache: Path, *, megabytes: float, seed: int = 0) -> Corpus:
    """The corpus with at least so many million bytes of text, made if the cache does not have it."""
    folder = cache / f"corpus-v{VERSION}-{megabytes:g}mb-seed{seed}"
    if not folder.exists():
        write(folder, _files(megabytes, seed))
    return Corpus.at(folder)


def given(cache: Path, address: str) -> Corpus:
    """A corpus of any shape that the job reads, written down in the shape of the generated one.

    The first turn of a conversation is taken; rows that the job would reject are left out.
    """
    source = input_storage(address)

    def rows(found: FoundFile) -> Iterator[dict[str, str]]:
        file = take_inventory(found, source=source, cell_records=1_000)
        for place, row in read_rows(file, [(0, file.rows)], source=source):
            record = row if isinstance(row, Reject) else to_record(row, file.shape, place, multi_turn="first")
            if isinstance(record, Record):
                yield {"instruction": record.instruction, "input": "", "output": record.response}

    files = find_inputs([address]).files
    folder = cache / f"given-{fingerprint([str(file) for file in files])[-16:]}"
    if not folder.exists():
        write(folder, ((f"{n:03d}_{Path(f.name).stem}.jsonl", "all", rows(f)) for n, f in enumerate(files)))
    return Corpus.at(folder)


def slice_of(corpus: Corpus, records: int) -> Corpus:
    """About so many records, every n-th of each file, in files of the same names."""
    step = max(1, corpus.records // records)
    folder = corpus.folder.with_name(f"{corpus.folder.name}-every-{step}")
    if not folder.exists():
        write(folder, ((path.name, "all", _every(path, step)) for path in corpus.files()))
    return Corpus.at(folder)


def write(folder: Path, files: Iterator[tuple[str, str, Iterator[dict[str, str]]]]) -> None:
    """Write files (name, group, rows) one after the other; the folder is there when all of it is."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    records, groups = 0, Counter[str]()
    for name, group, rows in files:
        with (partial / name).open("wb") as sink:
            for row in rows:
                sink.write(orjson.dumps(row) + b"\n")
                records += 1
                groups[group] += _size(row)
    about = {"records": records, "text": groups.total(), "groups": dict(groups)}
    (partial / "_about.json").write_bytes(orjson.dumps(about))
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _files(megabytes: float, seed: int) -> Iterator[tuple[str, str, Iterator[dict[str, str]]]]:
    vocabularies: dict[str, Vocabulary] = {}
    number = 0
    for kind, task in enumerate(TASKS):
        if task.script not in vocabularies:
            size = {} if task.script == "latin" else {"table": 40_000, "knee": 400}
            vocabularies[task.script] = Vocabulary(SCRIPTS[task.script], **size)
        for _ in range(task.files):
            rng = np.random.default_rng([seed, kind, number])
            voice = Voice(vocabularies[task.script], rng, topic=number)
            writer = Writer(voice, Random(f"{seed}/{number}"), length=task.length)
            size_wanted = megabytes * MEGABYTE * task.share / 100 / task.files
            name = f"task_{number:02d}_{task.style.__name__}_{task.script.replace(' ', '_')}.jsonl"
            yield name, task.group, _rows(task, writer, size_wanted)
            number += 1


def _rows(task: Task, writer: Writer, size_wanted: float) -> Iterator[dict[str, str]]:
    size = 0
    while size < size_wanted:
        row = task.style(writer)._asdict()
        size += _size(row)
        yield row


def _every(path: Path, step: int) -> Iterator[dict[str, str]]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if number % step == 0:
                yield orjson.loads(line)


def _size(row: dict[str, Any]) -> int:
    return sum(len(text.encode()) for text in row.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=float, default=96, help="million bytes of text")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    made = generated(options.folder, megabytes=options.size, seed=options.seed)
    print(f"{made.folder}: {made.records:,} records, {made.text:,} bytes of text", file=sys.stderr)
