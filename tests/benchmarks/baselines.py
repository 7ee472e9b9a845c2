"""What the job is compared with: the published loop, a naive Ray Data port, and a plain tokenizer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from corpus import two_texts
from tokenizers import Tokenizer

from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.methods.mosaic.grouping import wanted_tiles
from mosaic_ray.records import Message, Record, Sample, Source, Woven
from mosaic_ray.seeding import Key
from mosaic_ray.tokens import TokenizerSpec, load_tokenizer

BATCH: Final = 1_000
"""Texts of one call of ``encode_batch_fast``."""


class PlainMeasure:
    """Counts a conversation by giving its whole text to the tokenizer, as the published script does.

    The text is instruction, a newline, response and the end-of-sequence token: what ``TokenCounter`` counts where there
    is no chat template. seconds: spent in the tokenizer. tokenized: characters given to it.

    Nothing is looked up for control tokens: the published script does not, and the corpus spells none.
    """

    def __init__(self, spec: TokenizerSpec, *, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.seconds = 0.0
        self.tokenized = 0
        self._tokenizer = Tokenizer.from_str(spec.definition)
        self._end = spec.special_tokens.get("eos_token", "")

    def count(self, messages: Sequence[Message | Woven]) -> int:
        return self.counts([messages])[0]

    def counts(self, conversations: Iterable[Sequence[Message | Woven]]) -> list[int]:
        texts = ["\n".join(message.content for message in messages) + self._end for messages in conversations]
        started = time.perf_counter()
        counts = [len(encoding) for encoding in self._tokenizer.encode_batch_fast(texts)]
        self.seconds += time.perf_counter() - started
        self.tokenized += sum(map(len, texts))
        return counts

    def spells_control(self, *texts: str) -> bool:  # noqa: ARG002 - the signature is the protocol's
        return False


def bare_text_spec(tokenizer: Path | str) -> TokenizerSpec:
    """The tokenizer without a chat template: the published script counts bare text."""
    return load_tokenizer(str(tokenizer), chat_template="none")


def records_of(rows: Iterable[dict[str, str]]) -> list[Record]:
    return [
        Record(source=Source("corpus", n), messages=(Message("user", asked), Message("assistant", answer)))
        for n, (asked, answer) in enumerate(map(two_texts, rows))
    ]


def published_loop(
    records: Sequence[Record], *, key: Key, measure: PlainMeasure, places: Sequence[int] | None = None
) -> Iterator[Sample]:
    """One epoch as the published script makes it: add a tile, compose, tokenize the whole text again.

    The order of the records, how many tiles are wanted, and what the mosaic of some tiles says are the method's own,
    so its result can be compared with :meth:`MosaicMethod.compose` under the same key, sample by sample.

    places: where each sample is to begin, instead of behind the one before.
    """
    method = MosaicMethod()
    queue = [records[i] for i in key.child("shuffle").draw().shuffle(len(records))]
    counts = key.child("tiles").draw()
    start = index = 0
    while start < len(queue):
        here = key.child("sample", index)
        left = len(queue) - start
        wanted = wanted_tiles(method.tiles, max_tiles=method.max_tiles, remaining=left, draw=counts)
        fitting = None
        for tiles in range(1, wanted + 1):
            sample = method.mosaic(queue[start : start + tiles], key=here, measure=measure)
            if sample.token_count > measure.max_tokens:
                break
            fitting = sample
        if fitting is None:
            raise ValueError(f"record {queue[start].source.row} is over the budget with what is laid around it")
        yield fitting
        index += 1
        start = start + len(fitting.sources) if places is None else [*places, len(queue)][index]


def agreement(records: Sequence[Record], *, key: Key, measure: PlainMeasure, ours: Sequence[Sample]) -> tuple[int, int]:
    """How many of the method's samples the published loop makes too, from where each begins; how many it makes shorter.

    Shorter is right, and rare: the loop ends at the first tile too many, where leaving an answer out can make room for
    one more. All that is neither is a fault.
    """
    places = list(accumulate((len(sample.sources) for sample in ours[:-1]), initial=0))
    theirs = list(published_loop(records, key=key, measure=measure, places=places))
    pairs = list(zip(ours, theirs, strict=True))
    return sum(a == b for a, b in pairs), sum(len(a.sources) > len(b.sources) for a, b in pairs)


class NaiveEpochs:
    """What a first port to Ray Data does with a batch: count each record, compose, count each sample again.

    A batch is what ``map_batches`` happens to give, so records are mixed with their neighbours only. Tiles are taken
    while the sum of their own counts fits; a sample that is over the budget after all loses its last tile.
    ``began`` is when the batch was begun: the work without the start of the actors is from the first of these.
    """

    def __init__(self, tokenizer: str, epochs: int, max_tokens: int) -> None:
        self._measure = PlainMeasure(bare_text_spec(tokenizer), max_tokens=max_tokens)
        self._epochs = epochs

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        began = time.time()
        columns = [list(map(str, batch[name])) for name in ("instruction", "input", "output")]
        rows = [dict(zip(("instruction", "input", "output"), row, strict=True)) for row in zip(*columns, strict=True)]
        records = records_of(rows)
        sizes = self._measure.counts(record.messages for record in records)
        made = [
            sample
            for epoch in range(self._epochs)
            for sample in self._epoch(records, sizes, Key("naive", epoch, rows[0]["output"]))
        ]
        return {
            "prompt": [sample.messages[0].content for sample in made],
            "completion": [sample.messages[1].content for sample in made],
            "token_count": [sample.token_count for sample in made],
            "began": [began] * len(made),
        }

    def _epoch(self, records: Sequence[Record], sizes: Sequence[int], key: Key) -> Iterator[Sample]:
        method, limit = MosaicMethod(), self._measure.max_tokens
        order = [i for i in key.child("shuffle").draw().shuffle(len(records)) if sizes[i] <= limit]
        start = index = 0
        while start < len(order):
            here = key.child("sample", index)
            tiles = min(1 + here.child("tiles").draw().below(method.max_tiles), len(order) - start)
            while tiles > 1 and sum(sizes[i] for i in order[start : start + tiles]) > limit:
                tiles -= 1
            while True:
                taken = [records[i] for i in order[start : start + tiles]]
                sample = method.mosaic(taken, key=here, measure=self._measure)
                if sample.token_count <= limit or tiles == 1:
                    break
                tiles -= 1
            yield sample
            start += tiles
            index += 1


def plain_counts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text by the tokenizer itself."""
    counts: list[int] = []
    for start in range(0, len(texts), BATCH):
        encodings = tokenizer.encode_batch_fast(texts[start : start + BATCH], add_special_tokens=False)
        counts += [len(encoding) for encoding in encodings]
    return counts
