"""Damaged Parquet files: each gives rows, as many as its inventory says and the same twice, or an InputError.

In a process of its own, because a fault of pyarrow ends the process. For longer: ``python THIS_FILE SEED COUNT``.
"""

from __future__ import annotations

import random
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mosaic_ray.errors import InputError
from mosaic_ray.io.inventory import find_inputs, input_storage, take_inventory
from mosaic_ray.io.readers import read_cells
from mosaic_ray.io.storage import Storage

ORDINARY = 300
"""Mutations in an ordinary run of the tests: about two seconds."""

NUMBERS = [b"\xff\xff\xff\xff\x0f", b"\xfe\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\x80\x80\x80\x80\x08"]
"""Large, and negative, numbers as a footer has them."""


@pytest.mark.parametrize("seed", [1, 2])
def test_no_damage_is_taken_for_data_or_ends_the_process(seed: int) -> None:
    done = subprocess.run(
        [sys.executable, __file__, str(seed), str(ORDINARY)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    counts = {what: int(count) for what, _, count in (line.partition(": ") for line in done.stdout.splitlines())}
    assert counts["refused"] + counts["read"] == ORDINARY
    assert min(counts.values()) > ORDINARY // 20


def seeds() -> list[bytes]:
    """Small files of every way of writing pages."""
    rows = [{"prompt": f"p {i} " + "x" * (i % 30), "completion": f"c {i % 7} " + "é" * (i % 20)} for i in range(200)]
    texts = pa.Table.from_pylist(rows)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    chats = pa.Table.from_pylist([{"messages": turns * (1 + i % 3), "id": i} for i in range(120)])
    views = texts.cast(pa.schema([("prompt", pa.string_view()), ("completion", pa.large_string())]))
    delta = {"prompt": "DELTA_BYTE_ARRAY", "completion": "DELTA_LENGTH_BYTE_ARRAY"}
    return [
        written(texts, row_group_size=50),
        written(texts, compression="none", use_dictionary=False),
        written(texts, compression="zstd", row_group_size=70),
        written(texts, compression="gzip", data_page_version="2.0", data_page_size=200),
        written(texts, compression="snappy", write_page_checksum=True),
        written(texts, compression="none", use_dictionary=False, column_encoding=delta),
        written(texts, compression="none", data_page_size=500, write_batch_size=20),
        written(texts, compression="none", store_schema=False),
        written(texts.slice(0, 20), row_group_size=1),
        written(views, compression="lz4"),
        written(chats, row_group_size=40),
        written(chats, compression="none", data_page_version="2.0"),
    ]


def written(table: pa.Table, **options: object) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **options)
    return bytes(sink.getvalue())


def mutated(whole: bytes, draw: random.Random) -> bytes:
    """The file with one to thirty changes, half of them in its footer."""
    data = bytearray(whole)
    for _ in range(draw.choice([1, 1, 1, 2, 3, 8, 30])):
        end = len(data) - 8
        footer = max(4, end - struct.unpack("<I", whole[-8:-4])[0])
        low, high = (footer, end) if draw.random() < 0.5 else (4, footer)
        if high <= low + 8:
            break
        at = draw.randrange(low, high)
        kind = draw.random()
        if kind < 0.35:
            data[at] ^= 1 << draw.randrange(8)
        elif kind < 0.6:
            data[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFE, 0xFF, draw.randrange(256)])
        elif kind < 0.75:
            number = draw.choice(NUMBERS)
            data[at : at + len(number)] = number[: end - at]
        elif kind < 0.85:
            if draw.random() < 0.5:
                data[at:at] = draw.randbytes(draw.randrange(1, 5))
            else:
                del data[at : at + draw.randrange(1, 5)]
            data[-8:-4] = struct.pack("<I", max(0, len(data) - 8 - footer))
        elif kind < 0.97:
            length = draw.randrange(1, 40)
            other = draw.randrange(low, high)
            data[at : at + length] = data[other : other + length][: end - at]
        else:
            del data[draw.randrange(1, len(data)) :]
            break
    return bytes(data)


def outcome(path: Path, cell_records: int, stage: Storage) -> str:
    source = input_storage(str(path))
    try:
        (found,) = find_inputs([str(path)]).files
        file = take_inventory(found, source=source, cell_records=cell_records, stage=stage)
        once, again = (list(read_cells(file, list(file.cells), source=source, stage=stage)) for _ in range(2))
    except InputError as refusal:
        return "refused" if "\n" not in str(refusal) else "refused in two lines"
    assert len(once) == file.records
    assert repr(once) == repr(again)  # NaN is not itself
    return "read"


def main(arguments: Sequence[str]) -> None:
    seed, count = map(int, arguments)
    draw = random.Random(seed)
    files = seeds()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path, stage = Path(folder, "a.parquet"), Storage.at(f"{folder}/out", error=InputError)
        for number in range(count):
            path.write_bytes(mutated(draw.choice(files), draw))
            try:
                outcomes[outcome(path, draw.choice([1, 7, 64]), stage)] += 1
            except BaseException:
                kept = Path(tempfile.gettempdir(), f"mutation-{seed}-{number}.parquet")
                kept.write_bytes(path.read_bytes())
                print(f"kept as {kept}", file=sys.stderr)
                raise
    for what, times in sorted(outcomes.items()):
        print(f"{what}: {times}")


if __name__ == "__main__":
    main(sys.argv[1:])
