"""What is measured, a function a row. Each runs in a process of its own, for RAYON_NUM_THREADS is read once.

    python rows.py ROW < PLACES.json > FIGURES.json

Every function returns ``seconds`` and what it covered: ``records`` and ``text`` (bytes of their texts), times
``epochs``. Starting Python, importing and loading a tokenizer are in no figure but those of the whole job.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

ROOT: Final = Path(__file__).resolve().parents[2]
JOB: Final = ROOT / "jobs" / "mosaic_corpus.py"

LAYOUT_TOKENS: Final = 200
"""Records this close to the budget are no part of the published loop: it has no way to lay one out without tags."""

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Places:
    """What the rows work on; all paths.

    corpus: the whole. slice, larger: every n-th record of it, for the rows that cost too much on all. tiny: a few
        records of it.
    """

    corpus: str
    slice: str
    larger: str
    tiny: str
    tokenizer: str
    scratch: str
    epochs: int
    max_tokens: int


def job(places: Places, *, workers: int, corpus: str | None = None) -> Figures:
    """The command as users run it, from its start to its end; ``first_part`` is when the first data file was there.

    Of its processes the resident memory is looked at ten times a second: the driver is the command itself, a worker
    any actor of its private Ray.
    """
    with _folder(places) as output:
        command = [
            sys.executable, str(JOB), "--input", corpus or places.corpus, "--output", f"{output}/out",
            "--tokenizer", places.tokenizer, "--epochs", str(places.epochs), "--max-tokens", str(places.max_tokens),
            "--workers", f"{workers}:{workers}",
        ]  # fmt: skip
        dropped = ("RAY_ADDRESS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM")
        environment = {name: value for name, value in os.environ.items() if name not in dropped}
        with (output / "log").open("wb") as log:
            started = time.perf_counter()
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            watch = _Watch(process.pid, output / "out" / "data", started)
            status = process.wait()
            seconds = time.perf_counter() - started
            watch.end()
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with {status}:\n{(output / 'log').read_text()[-3000:]}")
        manifest = orjson.loads((output / "out" / "manifest.json").read_bytes())
        return {
            "seconds": seconds,
            "epochs": places.epochs,
            **_covered(corpus or places.corpus),
            "first_part": watch.first_part,
            "driver_rss": watch.driver,
            "worker_rss": watch.worker,
            "digest": manifest["dataset_digest"],
        }


def cold_start(places: Places) -> Figures:
    """The same command on a few records."""
    return job(places, workers=2, corpus=places.tiny)


class _Watch:
    """Looks at a running job from outside: largest resident memory, and when its first part appeared."""

    def __init__(self, pid: int, data: Path, started: float) -> None:
        self.driver = self.worker = 0
        self.first_part: float | None = None
        self._pid, self._data, self._started = pid, data, started
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        import psutil

        driver = psutil.Process(self._pid)
        while not self._over.wait(0.1):
            if self.first_part is None and any(self._data.glob("*.parquet")):
                self.first_part = time.perf_counter() - self._started
            with suppress(psutil.Error):
                self.driver = max(self.driver, driver.memory_info().rss)
                for child in driver.children(recursive=True):
                    with suppress(psutil.Error):
                        if "ray::Worker" in "".join(child.cmdline()[:1]):
                            self.worker = max(self.worker, child.memory_info().rss)


def published(places: Places) -> Figures:
    """The published loop over the slice, one epoch, one thread; then, outside the time, whether it agrees."""
    from baselines import PlainMeasure, agreement, bare_text_spec, published_loop, records_of
    from corpus import Corpus

    from mosaic_ray.methods.mosaic import MosaicMethod
    from mosaic_ray.seeding import Key
    from mosaic_ray.tokens import TokenCounter

    spec = bare_text_spec(places.tokenizer)
    measure = PlainMeasure(spec, max_tokens=places.max_tokens)
    counter = TokenCounter(spec, max_tokens=places.max_tokens)
    records = records_of(Corpus.at(Path(places.slice)).rows())
    counts = counter.count_batch([record.messages for record in records])
    most = places.max_tokens - LAYOUT_TOKENS
    records = [replace(r, tokens=n) for r, n in zip(records, counts, strict=True) if n <= most]
    key = Key("benchmark", 0)
    started = time.perf_counter()
    samples = list(published_loop(records, key=key, measure=measure))
    seconds = time.perf_counter() - started
    ours = list(MosaicMethod().compose(records, key=key, measure=counter))
    agree, shorter = len(ours), 0
    tokenizing, tokenized = measure.seconds, measure.tokenized
    if samples != ours:
        agree, shorter = agreement(records, key=key, measure=measure, ours=ours)
    texts = [message.content for record in records for message in record.messages]
    return {
        "seconds": seconds,
        "epochs": 1,
        "records": len(records),
        "text": sum(len(text.encode()) for text in texts),
        "tokenizing": tokenizing / seconds,
        "tokenized": tokenized / sum(map(len, texts)),
        "samples": len(ours),
        "agree": agree,
        "shorter": shorter,
    }


def ray_data(places: Places) -> Figures:
    """The naive port over the larger slice on two CPUs, from the first batch on: the start of its actors is not in it.

    Two actors count and compose. Ray is told of a third CPU: else the actors hold all and reading never begins.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import ray
    import ray._private.ray_constants
    from baselines import NaiveEpochs

    # As the job's own private Ray: it listens on 127.0.0.1 only, as it does where Ray believes to be on a laptop.
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with _folder(places) as output:
        started = time.time()
        data = ray.data.read_json([str(path) for path in sorted(Path(places.larger).glob("*.jsonl"))])
        made = data.map_batches(
            NaiveEpochs,
            fn_constructor_args=(places.tokenizer, places.epochs, places.max_tokens),
            batch_size=1024,
            concurrency=2,
        )
        made.write_parquet(str(output / "out"))
        ended = time.time()
        began = pc.min(pq.read_table(output / "out", columns=["began"])["began"]).as_py()
    ray.shutdown()
    return {"seconds": ended - began, "whole": ended - started, "epochs": places.epochs, **_covered(places.larger)}


def plain(places: Places) -> Figures:
    """``encode_batch_fast`` over the texts once, counting only; as many threads as RAYON_NUM_THREADS says."""
    from baselines import plain_counts

    texts, tokenizer = _texts(places), _tokenizer(places.tokenizer)
    started = time.perf_counter()
    counts = plain_counts(tokenizer, texts)
    return {"seconds": time.perf_counter() - started, "epochs": 1, "tokens": sum(counts), **_covered(places.corpus)}


def counter(places: Places) -> Figures:
    """The job's counter over the same texts, its memo empty at first; then, outside the time, the plain tokenizer."""
    from corpus import Corpus

    return {
        "epochs": 1,
        **_covered(places.corpus),
        **count_both(places.tokenizer, Corpus.at(Path(places.corpus)).texts()),
    }


def count_both(tokenizer: str, texts: list[str]) -> Figures:
    """Both counters over the texts: seconds of each, and how many texts they disagree on."""
    from baselines import BATCH, plain_counts

    from mosaic_ray.tokens import TokenCounter, load_tokenizer

    ours = TokenCounter(load_tokenizer(tokenizer), max_tokens=2048)
    started = time.perf_counter()
    counts = [n for start in range(0, len(texts), BATCH) for n in ours.count_texts(texts[start : start + BATCH])]
    seconds = time.perf_counter() - started
    plain_tokenizer = _tokenizer(tokenizer)
    started = time.perf_counter()
    exact = plain_counts(plain_tokenizer, texts)
    return {
        "seconds": seconds,
        "plain_seconds": time.perf_counter() - started,
        "texts": len(texts),
        "mismatches": sum(a != b for a, b in zip(counts, exact, strict=True)),
    }


def copying(places: Places) -> Figures:
    """Reading the JSONL once and writing its texts once an epoch as zstd Parquet, by two processes; nothing else."""
    paths = [str(path) for path in sorted(Path(places.corpus).glob("*.jsonl"))]
    with _folder(places) as output, ProcessPoolExecutor(2) as pool:
        list(pool.map(time.sleep, [0.5, 0.5]))
        started = time.perf_counter()
        list(pool.map(_copy, paths, [str(output)] * len(paths), [places.epochs] * len(paths)))
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "epochs": places.epochs, **_covered(places.corpus)}


def _copy(path: str, output: str, epochs: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from corpus import two_texts

    with open(path, "rb") as lines:
        pairs = [two_texts(orjson.loads(line)) for line in lines]
    for epoch in range(epochs):
        table = pa.table({"prompt": [pair[0] for pair in pairs], "completion": [pair[1] for pair in pairs]})
        name = f"{output}/{epoch}-{Path(path).stem}.parquet"
        pq.write_table(table, name, compression="zstd", compression_level=3, row_group_size=1000)


def _texts(places: Places) -> list[str]:
    from corpus import Corpus

    return Corpus.at(Path(places.corpus)).texts()


def _tokenizer(name: str) -> Any:
    from tokenizers import Tokenizer

    from mosaic_ray.tokens import load_tokenizer

    return Tokenizer.from_str(load_tokenizer(name).definition)


def _covered(corpus: str) -> Figures:
    about = orjson.loads((Path(corpus) / "_about.json").read_bytes())
    return {"records": about["records"], "text": about["text"]}


@contextmanager
def _folder(places: Places) -> Iterator[Path]:
    """An empty folder, removed afterwards."""
    folder = Path(tempfile.mkdtemp(dir=places.scratch))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Row:
    """what: its name in the table. cores: how many it may use; the tokenizer is given as many threads.

    composes: whether its work is done in every epoch; else once.
    """

    what: str
    cores: int
    measure: Callable[[Places], Figures]
    composes: bool = True


ROWS: Final = {
    "job": Row("our job", 2, lambda places: job(places, workers=2)),
    "cold": Row("cold start: our job, few records", 2, cold_start),
    "job1": Row("our job, one worker", 1, lambda places: job(places, workers=1)),
    "published": Row("published loop", 1, published),
    "raydata": Row("naive Ray Data", 2, ray_data),
    "plain2": Row("encode_batch_fast, once", 2, plain, composes=False),
    "plain1": Row("encode_batch_fast, once", 1, plain, composes=False),
    "counter": Row("our counter, once", 1, counter, composes=False),
    "copy": Row("read and write only", 2, copying),
}


def run_row(name: str, places: Places) -> Figures:
    """Measure a row in a process of its own. Raises RuntimeError with its last words if it fails."""
    threads = 1 if name == "raydata" else ROWS[name].cores  # its two actors inherit it
    done = subprocess.run(
        [sys.executable, __file__, name],
        input=orjson.dumps(places),
        capture_output=True,
        check=False,
        env={
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "RAYON_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "true",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent))),
        },
    )
    if done.returncode:
        raise RuntimeError(f"row {name}: {done.stderr.decode(errors='replace')[-3000:]}")
    figures: Figures = orjson.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    print(orjson.dumps(ROWS[sys.argv[1]].measure(Places(**orjson.loads(sys.stdin.read())))).decode())
