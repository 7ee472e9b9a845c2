"""Files made to fill the memory: what taking stock of them and reading them needs at most."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.conftest import job_environment

ROW = b'{"prompt": "a", "completion": "b"}\n'
TOO_LONG = "is longer than 64 MiB, the limit of a record; write one JSON object a line, or leave the file out."

READ = """
import json, re, sys
from pathlib import Path
from mosaic_ray.errors import InputError
from mosaic_ray.io.inventory import FoundFile, take_inventory
from mosaic_ray.io.readers import read_cells
from mosaic_ray.io.storage import Storage
from mosaic_ray.records import Reject

def memory(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) >> 10

source = Storage.at(sys.argv[1], error=InputError)
for name in sys.argv[2:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = memory("VmRSS")
    try:
        info = source.info(name)
        found = FoundFile(name, 0, name, info.size, info.etag, info.modified)
        taken = take_inventory(found, source=source, cell_records=128, stage=source)
        rows = read_cells(taken, taken.cells, source=source, stage=source)
        said = " ".join(row.reason if isinstance(row, Reject) else "used" for _, row in rows)
    except InputError as error:
        said = str(error)
    print(json.dumps([name, memory("VmHWM") - before, said]))
"""

CASES = {
    "line.jsonl": (200, TOO_LONG),
    "element.json": (300, TOO_LONG),
    "zeros.jsonl.zst": (300, TOO_LONG),
    "ones.json.gz": (500, TOO_LONG),
    "blank.jsonl.zst": (120, "used"),
    "values.jsonl": (150, "too_complex used"),
    "deep.json": (20, "too_complex used"),
    "wide.jsonl": (200, "used"),
}
"""Name -> MiB at most, and what is said of it at the end."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("bounded")

    def write(name: str, *content: bytes) -> None:
        (folder / name).write_bytes(b"".join(content))

    write("line.jsonl", ROW)
    with (folder / "line.jsonl").open("r+b") as file:
        file.truncate(300 << 20)
    write("element.json", b'[{"prompt": "', b"x" * (70 << 20), b'"}]')
    packer = zstandard.ZstdCompressor().compressobj()
    write("zeros.jsonl.zst", *(packer.compress(bytes(1 << 20)) for _ in range(10 << 10)), packer.flush())
    write("ones.json.gz", gzip.compress(b"["), gzip.compress(b"1" * (8 << 20)) * 1280)
    write("blank.jsonl.zst", zstandard.compress(b"\n" * (6 << 20)), zstandard.compress(ROW))
    write("values.jsonl", b'{"prompt": [', b"[]," * (4 << 20), b"0]}\n", ROW)
    write("deep.json", b"[", b"[" * 100_000, b"]" * 100_000, b",", ROW, b"]")
    write("wide.jsonl", (ROW[:-2] + b', "more": [' + b"[]," * 200_000 + b"0]}\n") * 100)
    command = [sys.executable, "-c", READ, str(folder), *CASES]
    environment = job_environment(OMP_NUM_THREADS="1", MALLOC_ARENA_MAX="1")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    answers: list[Any] = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (used, said) for name, used, said in answers}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is counted as Linux does")
@pytest.mark.parametrize("name", CASES)
def test_no_file_fills_the_memory(name: str, measured: dict[str, tuple[int, str]]) -> None:
    at_most, words = CASES[name]
    used, said = measured[name]
    assert said.endswith(words)
    assert used <= at_most
