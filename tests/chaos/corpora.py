"""Small corpora for the trials, written on the spot and the same every time."""

from __future__ import annotations

import base64
import gzip
import json
import random
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

ROWS: Final = 120
LARGE_ROWS: Final = 450

CHANGEABLE: Final = ("array.json", "packed.jsonl.gz", "plain.jsonl", "table.parquet")
"""Files of :func:`every_format` whose size does not depend on the words in them."""

SAME_SIZE: Final = "Gone"
OTHER_SIZE: Final = "Finished"


def every_format(folder: Path, *, changed: str = "", word: str = "Done") -> Path:
    """600 records and 3 rejects: plain lines, packed lines (staged), a JSON array (staged), Parquet.

    changed, word: a file whose answers hold another word.
    """
    folder.mkdir(parents=True)

    def rows(number: int, name: str) -> list[dict[str, str]]:
        return _rows(number, ROWS, word if name == changed else "Done")

    bad = b'{"prompt": "no answer", "completion": ""}\nnot json\n{"prompt": 1, "completion": "a number"}\n'
    (folder / "plain.jsonl").write_bytes(_lines(rows(0, "plain.jsonl")) + bad)
    packed = gzip.compress(_lines(rows(1, "packed.jsonl.gz")), compresslevel=0, mtime=0)
    (folder / "packed.jsonl.gz").write_bytes(packed)
    (folder / "packed.jsonl.zst").write_bytes(zstandard.compress(_lines(rows(2, "packed.jsonl.zst"))))
    (folder / "array.json").write_text(json.dumps(rows(3, "array.json"), indent=1))
    table = pa.Table.from_pylist(rows(4, "table.parquet"))
    pq.write_table(table, folder / "table.parquet", row_group_size=30, compression="none", use_dictionary=False)
    return folder


def large(folder: Path) -> Path:
    """One packed file whose staged copy is uploaded in parts: every row drags noise along that no zstd shortens."""
    folder.mkdir(parents=True)
    dice = random.Random(20261)
    rows = _rows(0, LARGE_ROWS)
    for row in rows:
        row["noise"] = base64.b85encode(dice.randbytes(80_000)).decode()
    (folder / "large.jsonl.gz").write_bytes(gzip.compress(_lines(rows), compresslevel=1, mtime=0))
    return folder


def many_tasks(folder: Path, *, files: int = 20, rows: int = 600) -> Path:
    """Plain lines, sorted by source: with few records a task there are many tasks to be killed in."""
    folder.mkdir(parents=True)
    for number in range(files):
        (folder / f"task_{number:02d}.jsonl").write_bytes(_lines(_rows(number, rows)))
    with (folder / "task_00.jsonl").open("ab") as file:
        file.write(b'{"prompt": "no answer", "completion": ""}\nnot json\n')
    return folder


def _rows(task: int, rows: int, word: str = "Done") -> list[dict[str, str]]:
    last = 4 + task % 5
    return [
        {
            "prompt": f"Task {task}: count from {n} to {n + last}, then name the {'sum' if n % 2 else 'last'}.",
            "completion": " ".join(str(n + i) for i in range(last + 1)) + f"\n{word} {task}/{n}.",
        }
        for n in range(rows)
    ]


def _lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
