"""Does it teach? A tiny model, trained from scratch on records and on mosaics of the same records.

    make teach                                          # three seeds, two processes of one thread
    make teach TEACH_ARGS="--seeds 5 --json teach.json"
    make teach TEACH_ARGS="--quick"                     # half a minute, to see that it runs; it teaches nothing

The protocol, settled before the run that the README reports, on other seeds than its pilots (which had seed 0):

- **Corpus.** Generated records of four tasks in equal parts: copy digits, sort digits, add a number of one digit to one
  of two, look up a name in a short list. Answers are 1 to 5 digits. Nothing that a test record asks is asked in a
  training record. The wordings of the records, and those of the method, are the same in training and in tests.
- **Mosaics.** Made of the training records by the project's own run: 1 to 5 tiles, format, permute and maskout, 4
  epochs, at most 256 tokens, all else by default. No wording of the method is changed or left out.
- **Model.** The same for all arms, with the same first weights for the same seed: sizes in ``Protocol``, output layer
  tied to the embeddings, every position told the two tokens before it. AdamW, warm-up, cosine to nothing, batches of
  16 rows, loss on the response and its end token.
- **Arms.** Mosaics, S steps; records, S steps; records, as many steps as give them the tokens that the mosaics had
  (prompts counted, padding not).
- **Tests.** Held-out records alone; and mosaics of 2 to 5 of them by the method, new layouts and all: answer all
  (format), in another order (permute, ten kinds), all but some (maskout, five kinds). Greedy decoding. *exact*: the
  whole response, tags and all. *tiles*: the share of due answers that stand at their place, tags or no tags.
- **Positions.** Rotary, so only distances count, and moving the records about would change nothing. A model that was
  trained on records alone never saw two tokens as far apart as a test of five tiles has them. That is part of what
  the mosaics bring, and it is not told apart here from learning to follow the meta-instructions.

What the pilots settled (seed 0, both arms looked at): a plain transformer copied next to nothing after 2,000 steps on
mosaics, so every position is told the two tokens before it, which helps the records arm as much; three layers of 96
learnt faster than four of 64; S is what the time allows. The rate is the best of three for the records arm (1e-3, 2e-3,
4e-3); none was tried for the mosaics alone.

Each seed draws its own corpus, mosaics, tests, weights and batches. One thread, so a seed gives the same figures again
on the same machine and versions; other processors may round differently.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Final

import click
import torch
from model import Model, Size
from prepare import Row, composed, end_of, rows_of, rows_of_dataset, trained_tokenizer
from score import Case, alone, mosaics, scored
from tasks import records
from tokenizers import Tokenizer
from training import Recipe, train, written

from mosaic_ray.methods.mosaic.strategies import Strategy
from mosaic_ray.seeding import Key

RECIPE: Final = Recipe(rows=16, rate=1e-3, warm_up=0.05, weight_decay=0.01)
EPOCHS: Final = 4
TOKENIZER_RECORDS: Final = 4_000
POSITIONS: Final = 1024
ARMS: Final = ("mosaics", "records, equal steps", "records, equal tokens")
COMPOSED: Final[tuple[Strategy, ...]] = ("format", "permute", "maskout")
TESTS: Final = {"single": "one alone", "format": "several", "permute": "in an order", "maskout": "leaving some out"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """The sizes of an experiment. tests: samples of each test set; steps: S."""

    records: int = 24_000
    held_out: int = 400
    tests: int = 250
    steps: int = 2_000
    width: int = 96
    layers: int = 3
    heads: int = 4


QUICK: Final = Protocol(records=600, held_out=40, tests=16, steps=20, width=32, layers=2, heads=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one arm with one seed. scores: test set -> measure -> percent; tokens: seen in training.

    by: test set -> kind (of one alone: task) or number of tiles -> percent of exact responses.
    seconds: of processor time, training and tests.
    """

    seed: int
    arm: str
    steps: int
    tokens: int
    seconds: float
    scores: dict[str, dict[str, float]]
    by: dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the arms of a seed have in common."""

    seed: int
    tokenizer: str
    rows: dict[str, list[Row]]
    cases: dict[str, list[Case]]

    def tokens(self, source: str) -> float:
        """Of a row, on average."""
        return mean(len(row.ids) for row in self.rows[source])

    def plain(self, test: str) -> float:
        """Percent of the samples where every tile is due, in the order given."""
        return 100 * mean(case.plain for case in self.cases[test])


def prepare_seed(seed: int, protocol: Protocol) -> Prepared:
    """Records, tokenizer, mosaics and tests of one seed."""
    key = Key(seed, "teach")
    training, held_out = records(protocol.records, protocol.held_out, seed=seed)
    cases = {"single": [alone(record) for record in held_out[: protocol.tests]]}
    cases |= {strategy: mosaics(held_out, strategy, protocol.tests, key=key) for strategy in COMPOSED}
    with tempfile.TemporaryDirectory(prefix="teach-") as scratch:
        folder = Path(scratch)
        tokenizer = trained_tokenizer(training[:TOKENIZER_RECORDS], folder / "tokenizer", key=key.child("tokenizer"))
        dataset = composed(training, folder / "run", tokenizer=folder / "tokenizer", epochs=EPOCHS, seed=seed)
        rows = {"mosaics": rows_of_dataset(dataset, tokenizer), "records": rows_of(training, tokenizer)}
    return Prepared(seed=seed, tokenizer=tokenizer.to_str(), rows=rows, cases=cases)


def run_arm(arm: str, prepared: Prepared, protocol: Protocol) -> Outcome:
    """Train and test one arm, on one thread of this process."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    began = time.process_time()
    seed, tokenizer = prepared.seed, Tokenizer.from_str(prepared.tokenizer)
    source = arm.partition(",")[0]
    steps = protocol.steps
    if arm == "records, equal tokens":
        steps = round(steps * prepared.tokens("mosaics") / prepared.tokens("records"))

    def told(step: int, loss: float) -> None:
        _say(f"seed {seed}, {arm}: step {step} of {steps}, loss {loss:.3f}, {time.process_time() - began:.0f} s")

    torch.manual_seed(seed)
    size = Size(
        vocabulary=tokenizer.get_vocab_size(),
        width=protocol.width,
        layers=protocol.layers,
        heads=protocol.heads,
        positions=POSITIONS,
    )
    model = Model(size)
    key = Key(seed, "teach", "batches", arm)
    tokens = train(model, prepared.rows[source], steps=steps, recipe=RECIPE, key=key, told=told)
    scores, by = {}, {}
    for test, cases in prepared.cases.items():
        found = written(model, rows_of(cases, tokenizer), end=end_of(tokenizer))
        responses = tokenizer.decode_batch(found, skip_special_tokens=False)
        scores[test] = scored(responses, cases)
        by[test] = _by(responses, cases)
    exact = ", ".join(f"{TESTS[test]} {score['exact']:.0f}%" for test, score in scores.items())
    _say(f"seed {seed}, {arm}: {exact}")
    seconds = time.process_time() - began
    return Outcome(seed=seed, arm=arm, steps=steps, tokens=tokens, seconds=seconds, scores=scores, by=by)


def _by(responses: Sequence[str], cases: Sequence[Case]) -> dict[str, float]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for response, case in zip(responses, cases, strict=True):
        names = {f"{case.tiles} tiles", case.kind} if case.tiles > 1 else {case.kind}
        for name in names:
            if name is not None:
                groups[name].append(response == case.response)
    return {name: 100 * mean(right) for name, right in sorted(groups.items())}


def table(outcomes: Sequence[Outcome], plain: Mapping[str, Sequence[float]]) -> str:
    """Markdown: a line an arm, mean (lowest..highest) over the seeds, in percent.

    plain: test set -> for each seed, percent of the samples where every tile is due, in the order given.
    """
    heads = ["trained on", "steps", "tokens", f"{TESTS['single']}: exact"]
    for test in plain:
        heads += [f"{TESTS[test]}: exact", "tiles"]
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for arm in ARMS:
        some = [outcome for outcome in outcomes if outcome.arm == arm]
        line = [arm, f"{mean(one.steps for one in some):,.0f}", f"{mean(one.tokens for one in some) / 1e6:.2f} M"]
        line.append(_spread([one.scores["single"]["exact"] for one in some]))
        for test in plain:
            line += [_spread([one.scores[test][measure] for one in some]) for measure in ("exact", "tiles")]
        lines.append(line)
    last = ["*every tile, as they stand*", "", "", ""]
    for values in plain.values():
        last += [_spread(values), ""]
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, last])


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ({min(values):.1f}..{max(values):.1f})"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many: 1, 2, 3, ...")
@click.option("--steps", type=click.IntRange(min=5), help=f"S.  [default: {Protocol().steps}]")
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True, help="Arms trained at a time.")
@click.option("--quick", is_flag=True, help="The same with next to no records and steps.")
@click.option("--json", "target", type=click.Path(path_type=Path, dir_okay=False), help="All figures, into this file.")
def main(seeds: int, steps: int | None, processes: int, quick: bool, target: Path | None) -> None:
    protocol = QUICK if quick else Protocol()
    if steps is not None:
        protocol = replace(protocol, steps=steps)
    began = time.monotonic()
    numbers = range(1, seeds + 1)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        prepared = list(pool.map(partial(prepare_seed, protocol=protocol), numbers))
        longest_first = (ARMS[2], ARMS[0], ARMS[1])
        running = [pool.submit(run_arm, arm, one, protocol) for arm in longest_first for one in prepared]
        outcomes = [each.result() for each in running]
    plain: dict[str, list[float]] = {test: [one.plain(test) for one in prepared] for test in COMPOSED}
    print(table(outcomes, plain))
    print("\nPercent: mean (lowest..highest). The last line is what answering every tile in the order given would get.")
    processor = sum(one.seconds for one in outcomes)
    print(f"{seeds} seeds, {time.monotonic() - began:.0f} s; {processor:.0f} s of processor time to train and test.")
    if target is not None:
        figures = {
            "protocol": asdict(protocol),
            "recipe": asdict(RECIPE),
            "torch": torch.__version__,
            "plain": plain,
            "tokens_of_a_row": [{source: one.tokens(source) for source in one.rows} for one in prepared],
            "outcomes": [asdict(outcome) for outcome in outcomes],
        }
        target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
