"""Fuzz the readers, guided by coverage: bytes from a fuzzer, and a promise that they must not break.

    make fuzz                                            # every target, a minute each
    pip install -e '.[fuzz]'
    python tests/fuzz/fuzz.py jsonl --seconds 600        # or array, packing, shapes, file, parquet, start
    python tests/fuzz/fuzz.py file CRASH                 # one input again: the file that a finding left behind

The promises stand in ``targets.py``. Inputs worth keeping gather in ``--corpus`` (.fuzz/TARGET), so a later run goes
on from there. A finding ends the run with its traceback, and leaves its input in the same place as ``crash-...``. It
is mended, and becomes a test with a name.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import sys
from pathlib import Path

import atheris
import zstandard

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["mosaic_ray.io", "mosaic_ray.text"]):
    from mosaic_ray.io.unpacking import unpacked
    from tests.fuzz import seeds, targets

LONGEST = 1 << 12
"""Bytes of an input at most."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz the readers; see the top of this script.")
    parser.add_argument("target", choices=targets.TARGETS)
    parser.add_argument("inputs", nargs="*", type=Path, help="run these inputs and end")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="where inputs gather (default: .fuzz/TARGET)")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers; 0 draws one")
    options = parser.parse_args()
    corpus = options.corpus or ROOT / ".fuzz" / options.target
    targets.FOLDER = corpus.with_suffix(".work")
    targets.FOLDER.mkdir(parents=True, exist_ok=True)
    for path in options.inputs:
        targets.TARGETS[options.target](path.read_bytes())
    if not options.inputs:
        fuzz(options.target, corpus, options.seconds, options.seed)


def fuzz(name: str, corpus: Path, seconds: int, seed: int) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(starts(name)):
        (corpus / f"seed-{number:02d}").write_bytes(data[:LONGEST])
    words = targets.FOLDER / "words.txt"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in seeds.WORDS))
    arguments = [
        *(sys.argv[0], f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-dict={words}", f"-seed={seed}"),
        *("-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1", f"-artifact_prefix={corpus}/", str(corpus)),
    ]
    atheris.Setup(arguments, targets.TARGETS[name], custom_mutator=repacked if name == "packing" else None)
    atheris.Fuzz()


def starts(name: str) -> list[bytes]:
    """The seeds of a target, each behind the bytes that steer it."""
    if name == "packing":
        return [bytes([steer]) + data for data in seeds.packed() for steer in (0, 255)]
    if name == "array":
        return [bytes([steer, steer]) + data for data in seeds.texts() for steer in (0, 40)]
    if name == "file":
        return [bytes([kind, kind]) + data for data in seeds.texts() for kind in range(4)]
    if name == "parquet":
        return [b"\1" + data for data in seeds.tables()]
    return [bytes([steer]) + data for data in seeds.texts() for steer in (0, 2)]


def repacked(data: bytes, max_size: int, seed: int) -> bytes:
    """Half of the mutations change what a packed file holds, which no change of its bytes would do."""
    if seed % 2 and data:
        kind, pack = ("gzip", gzip.compress) if data[1:2] == b"\x1f" else ("zstd", zstandard.compress)
        with contextlib.suppress(targets.InputError):
            content = b"".join(unpacked(iter([data[1:]]), kind, "f"))
            return (data[:1] + pack(atheris.Mutate(content[:LONGEST], LONGEST)))[:max_size]
    return bytes(atheris.Mutate(data, max_size))


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
