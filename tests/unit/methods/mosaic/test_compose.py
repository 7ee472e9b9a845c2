"""Mosaics: every record placed once, every count exact, every drawable thing drawn, and all of it equally often."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tokenizers import Tokenizer

from mosaic_ray.embedded import tokenizer_path
from mosaic_ray.methods.mosaic import MosaicMethod, templates
from mosaic_ray.methods.mosaic.grouping import TILE_COUNTS
from mosaic_ray.methods.mosaic.strategies import MASKOUT_KINDS, PERMUTE_KINDS, POSITIONAL
from mosaic_ray.records import Message, Record, Sample, Source
from mosaic_ray.seeding import Key
from mosaic_ray.tokens import TokenCounter, TokenizerSpec, load_tokenizer

P = 1e-4
KEY = Key(0, "test")
AMPLE = 10**9


@dataclass(frozen=True)
class Characters:
    """A measure that counts characters: exact by eye, and fast."""

    max_tokens: int = AMPLE

    def count(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content) for message in messages)

    def spells_control(self, *texts: str) -> bool:
        del texts
        return False


@cache
def counter() -> TokenCounter:
    return TokenCounter(load_tokenizer(str(tokenizer_path())), max_tokens=0)


def budget(tokens: int) -> TokenCounter:
    """The embedded tokenizer with this budget, loaded once."""
    other = copy.copy(counter())
    other.max_tokens = tokens
    return other


def record(row: int, instruction: str, response: str, measure: Any = None) -> Record:
    messages = (Message("user", instruction), Message("assistant", response))
    return Record(source=Source("f", row), messages=messages, tokens=(measure or Characters()).count(messages))


def plain_records(n: int) -> list[Record]:
    return [record(i, f"Question {i % 7} " + "word " * (i % 11) + "here?", f"Answer {i}") for i in range(n)]


def compose(method: MosaicMethod, records: Sequence[Record], measure: Any, key: Key = KEY) -> list[Sample]:
    return list(method.compose(records, key=key, measure=measure))


def assert_sound(method: MosaicMethod, records: Sequence[Record], samples: Sequence[Sample], measure: Any) -> None:
    """All that holds of any composition, whatever the records."""
    by_source = {r.source: r for r in records}
    assert Counter(source for sample in samples for source in sample.sources) == Counter(by_source.keys())
    for sample in samples:
        assert [message.role for message in sample.messages] == ["user", "assistant"]
        assert sample.token_count == measure.count(sample.messages)
        assert sample.token_count <= measure.max_tokens
        assert not any(measure.spells_control(message.content) for message in sample.messages)
        assert problem(method, sample, by_source) is None
        if len(sample.sources) == 1:
            assert sample.strategy == ("primary" if method.strategies == ("primary",) else "format")
        else:
            assert sample.strategy in method.strategies


def problem(method: MosaicMethod, sample: Sample, by_source: dict[Source, Record]) -> str | None:
    row = {
        "strategy": sample.strategy,
        "kind": sample.kind,
        "params": sample.params,
        "instruction": sample.messages[0].content,
        "response": sample.messages[1].content,
    }
    return method.check(row, [by_source[source] for source in sample.sources])


# Texts that imitate what a mosaic is made of, among anything else that a record can hold.
IMITATIONS = ["[START]", "[END]", "Task 1:", "#2.", "\n\n", "```\nx\n```", "- a\n- b", "{n}", "{begin_tag}", "1, 2, 3"]
TEXT = st.lists(
    st.sampled_from(IMITATIONS) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30),
    min_size=1,
    max_size=4,
).map(" ".join)
PAIRS = st.tuples(TEXT.map(str.strip), TEXT.map(lambda text: re.sub(r"\A\s*\n", "", text).rstrip())).filter(all)


class TestAnyRecords:
    @settings(max_examples=100)
    @given(
        pairs=st.lists(PAIRS, max_size=25),
        tiles=st.sampled_from(TILE_COUNTS),
        limit=st.integers(1, 12),
        strategies=st.sets(st.sampled_from(["primary", "format", "permute", "maskout"]), min_size=1),
        room=st.sampled_from([0, 5, 60, 300, 5000]),
        seed=st.integers(0, 2**64),
    )
    def test_each_in_one_sample_within_the_budget_as_its_meta_instruction_says(
        self, pairs: list[tuple[str, str]], tiles: Any, limit: int, strategies: set[Any], room: int, seed: int
    ) -> None:
        safe = [tuple(counter().without_control(text, strip=False) for text in pair) for pair in pairs]
        records = [record(i, *pair, counter()) for i, pair in enumerate(safe)]
        method = MosaicMethod(tiles=tiles, max_tiles=limit, strategies=tuple(strategies))
        measure = budget(max((r.tokens for r in records), default=0) + room)
        samples = compose(method, records, measure, Key(seed))
        assert_sound(method, records, samples, measure)
        assert samples == compose(method, records, measure, Key(seed))

    @given(st.integers(0, 40), st.integers(), st.sampled_from(TILE_COUNTS))
    def test_a_measure_without_rhyme_or_reason(self, n: int, seed: int, tiles: Any) -> None:
        """Counts that grow and shrink against all sense cost tiles, never a record or the budget."""

        class Erratic(Characters):
            def count(self, messages: Sequence[Message]) -> int:
                text = messages[0].content + messages[1].content
                return 10 if text in alone else Key(seed, text).draw().below(60)

        records = plain_records(n)
        alone = {r.instruction + r.response for r in records}
        records = [replace(r, tokens=10) for r in records]
        method = MosaicMethod(tiles=tiles, max_tiles=5)
        assert_sound(method, records, compose(method, records, Erratic(20)), Erratic(20))


class TestKeys:
    def test_the_same_key_gives_the_same_samples_and_another_gives_others(self) -> None:
        records, method = plain_records(60), MosaicMethod()
        made = compose(method, records, Characters())
        assert made == compose(MosaicMethod(), plain_records(60), Characters())
        other = compose(method, records, Characters(), Key(1, "test"))
        assert [sample.sources for sample in other] != [sample.sources for sample in made]
        assert {sample.messages for sample in other}.isdisjoint({s.messages for s in made if len(s.sources) > 1})

    def test_epochs_tile_anew(self) -> None:
        records, method = plain_records(60), MosaicMethod()
        companies = [
            {frozenset(s.sources) for s in compose(method, records, Characters(), Key(0, "epoch", e))} for e in range(2)
        ]
        assert len(companies[0] & companies[1]) < 10

    def test_the_order_of_the_input_is_shuffled_away(self) -> None:
        (sample,) = compose(MosaicMethod(tiles="max_length"), plain_records(200), Characters())
        rows = [source.row for source in sample.sources]
        assert rows != sorted(rows)
        assert abs(stats.spearmanr(rows, range(200)).statistic) < 0.3


class TestBudget:
    @pytest.mark.parametrize("seed", range(40))
    @pytest.mark.parametrize("strategies", ["primary", "format", "format,permute,maskout"])
    def test_the_first_mosaic_could_not_have_one_tile_more(self, strategies: str, seed: int) -> None:
        """With ``fix_max`` and room for all, the first mosaic under a key is that of the same tiles and one more."""
        records = plain_records(30)
        measure = Characters(400)
        first = compose(MosaicMethod(tiles="fix_max", strategies=strategies), records, measure, Key(seed))[0]
        tiles = len(first.sources)
        if tiles == 10:
            return
        wider = MosaicMethod(tiles="fix_max", max_tiles=tiles + 1, strategies=strategies)
        more = compose(wider, records, Characters(), Key(seed))[0]
        assert more.sources[:tiles] == first.sources
        assert more.token_count > measure.max_tokens

    def test_by_hand(self) -> None:
        """Primary alone says nothing or one of seven sentences; five tiles of 10 and 10 with separators need 108."""
        records = [record(i, f"{i:010}", f"{i:010}") for i in range(50)]
        method = MosaicMethod(tiles="fix_max", max_tiles=5, strategies="primary")
        longest_meta = 2 + max(map(len, templates.PLAIN))
        assert {len(s.sources) for s in compose(method, records, Characters(116 + longest_meta))} == {5}
        sizes = Counter(len(s.sources) for s in compose(method, records, Characters(107)))
        assert max(sizes) == 4
        assert sizes[4] > 0
        assert {len(s.sources) for s in compose(method, records, Characters(20))} == {1}

    def test_a_record_that_fits_only_bare_is_bare(self) -> None:
        method = MosaicMethod(strategies="format")
        made = [compose(method, [record(0, "one", "1")], Characters(4), Key(n))[0] for n in range(50)]
        for sample in made:
            assert sample.messages == (Message("user", "one"), Message("assistant", "1"))
            assert (sample.strategy, sample.kind, sample.token_count) == ("format", None, 4)
            assert (sample.params["meta"], sample.params["wording"]) == ("", {"format": None})
            assert (sample.params["layout"]["number"], sample.params["layout"]["frame"]) == (None, None)
        roomy = [compose(method, [record(0, "one", "1")], Characters(), Key(n))[0] for n in range(50)]
        assert any(sample.params["layout"]["frame"] for sample in roomy)

    def test_one_tight_record_does_not_disturb_the_others(self) -> None:
        long = record(30, "long " * 79 + "long", "x")
        records, measure = [*plain_records(30), long], Characters(400)
        method = MosaicMethod()
        samples = compose(method, records, measure)
        assert_sound(method, records, samples, measure)
        (alone,) = [sample for sample in samples if long.source in sample.sources]
        assert alone.messages[0].content == long.instruction

    def test_trials_move_no_draw_of_another_mosaic(self) -> None:
        """A mosaic that had to shrink leaves every other one as it was, as far as its tiles are the same."""
        records = [record(i, f"{i:010}", f"{i:010}") for i in range(3)]
        method = MosaicMethod(tiles="fix_max", max_tiles=2, strategies="format")
        ample, tight = compose(method, records, Characters()), compose(method, records, Characters(20))
        assert [len(s.sources) for s in ample] == [2, 1]
        assert [len(s.sources) for s in tight] == [1, 1, 1]
        single = compose(MosaicMethod(tiles="fix_max", max_tiles=1, strategies="format"), records, Characters())
        assert single[1].params["layout"] == ample[1].params["layout"]


class TestStrategies:
    @pytest.mark.parametrize("asked", ["primary", "format", "permute", "maskout"])
    def test_alone(self, asked: Any) -> None:
        records, method = plain_records(150), MosaicMethod(strategies=asked)
        samples = compose(method, records, Characters())
        assert_sound(method, records, samples, Characters())
        several = {s.strategy for s in samples if len(s.sources) > 1}
        single = {s.strategy for s in samples if len(s.sources) == 1}
        assert several == {asked}
        assert single == {"primary" if asked == "primary" else "format"}

    def test_primary_has_no_numbers_and_no_frames(self) -> None:
        for sample in compose(MosaicMethod(strategies="primary"), plain_records(300), Characters()):
            assert (sample.params["layout"]["number"], sample.params["layout"]["frame"]) == (None, None)
            assert sample.params["meta"] in ("", *templates.PLAIN)

    def test_all_four_are_equally_likely(self) -> None:
        method = MosaicMethod(tiles="fix_max", max_tiles=2, strategies="primary,format,permute,maskout")
        samples = compose(method, plain_records(8000), Characters())
        uniform((s.strategy for s in samples), method.strategies)

    @pytest.mark.parametrize("strategy", ["permute", "maskout"])
    def test_more_than_fifty_tiles(self, strategy: str) -> None:
        records = [record(i, "word " * (i + 1) + "end", f"Answer {i}") for i in range(130)]
        method = MosaicMethod(tiles="max_length", strategies=strategy)
        kinds, left_out = set(), set()
        for seed in range(60):
            samples = compose(method, records, Characters(), Key(seed))
            assert_sound(method, records, samples, Characters())
            (sample,) = samples
            kinds.add(sample.kind)
            if sample.kind == "given":
                numbers = sample.params["order" if strategy == "permute" else "masked"]
                assert strategy == "maskout" or sorted(numbers) == list(range(1, 131))
                left_out |= set(numbers)
                assert all(re.search(rf"\b{n}\b", sample.params["meta"]) for n in numbers)
        assert kinds == set(PERMUTE_KINDS if strategy == "permute" else MASKOUT_KINDS)
        assert left_out <= set(range(1, 131))
        assert len({n for n in left_out if n > 50}) > 60


# Enough mosaics of a few tiles to see everything that can be drawn. A tenth have no place in the alphabet, so
# alphabetical kinds are drawn and drawn again.
@pytest.fixture(scope="module")
def crowd() -> list[Sample]:
    records = [
        record(i, ("été " if i % 10 == 0 else "Do ") + "word " * (i % 6) + "now", f"Answer {i % 97}")
        for i in range(64_000)
    ]
    method = MosaicMethod(tiles="fix_max", max_tiles=4)
    samples = compose(method, records, Characters(), Key(0, "crowd"))
    assert {len(sample.sources) for sample in samples} == {4}
    return samples


def uniform(values: Iterable[object], categories: Iterable[object]) -> None:
    """Every category occurs, nothing else does, and the counts are those of equal chances."""
    counts = Counter(values)
    assert set(counts) == set(categories)
    assert stats.chisquare(list(counts.values())).pvalue > P, counts


def first_kind(sample: Sample) -> str:
    """What was drawn first: kinds that are ambiguous for the tiles are drawn again."""
    return str([*sample.params.get("redrawn", []), sample.kind][0])


class TestEverythingIsDrawnEquallyOften:
    def test_strategies(self, crowd: list[Sample]) -> None:
        uniform((s.strategy for s in crowd), ["format", "permute", "maskout"])

    @pytest.mark.parametrize(("strategy", "kinds"), [("permute", PERMUTE_KINDS), ("maskout", MASKOUT_KINDS)])
    def test_kinds(self, strategy: str, kinds: tuple[str, ...], crowd: list[Sample]) -> None:
        made = [s for s in crowd if s.strategy == strategy]
        uniform(map(first_kind, made), kinds)
        assert {s.kind for s in made} == set(kinds)
        ambiguous = {kind for s in made for kind in s.params.get("redrawn", [])}
        may_be = {"permute": {"alphabetical", "alphabetical_reversed"}, "maskout": {"longest", "shortest"}}
        assert ambiguous == may_be[strategy]

    @pytest.mark.parametrize(
        ("strategy", "kind"), [*product(["permute"], PERMUTE_KINDS), *product(["maskout"], MASKOUT_KINDS)]
    )
    def test_wordings_of_a_kind(self, strategy: str, kind: str, crowd: list[Sample]) -> None:
        family = templates.PERMUTE if strategy == "permute" else templates.MASKOUT
        made = [s for s in crowd if (s.strategy, s.kind) == (strategy, kind)]
        uniform((s.params["wording"][strategy] for s in made), [f"{kind}/{n}" for n in range(len(family[kind]))])
        for s in made[:200]:
            number = int(s.params["wording"][strategy].rpartition("/")[2])
            shown = re.sub(r"\\\{\w+\\\}", ".+", re.escape(family[kind][number]))
            assert re.search(f"{shown}$", s.params["meta"])

    def test_wordings_of_the_format(self, crowd: list[Sample]) -> None:
        framed = [s for s in crowd if s.params["layout"]["frame"]]
        uniform((s.params["wording"]["format"] for s in framed), [f"framed/{n}" for n in range(len(templates.FRAMED))])
        unframed = [s for s in crowd if not s.params["layout"]["frame"]]
        plain = [f"plain/{n}" for n in range(len(templates.PLAIN))]
        answered = [s.params["wording"]["format"] for s in unframed if s.strategy != "maskout"]
        uniform(answered, [None, *plain])
        assert {s.params["wording"]["format"] for s in unframed if s.strategy == "maskout"} == {None}

    def test_numbers(self, crowd: list[Sample]) -> None:
        spoken_of = [s for s in crowd if (s.strategy, s.kind) in POSITIONAL]
        free = [s for s in crowd if (s.strategy, s.kind) not in POSITIONAL]
        shapes = [s.params["layout"]["number"] and s.params["layout"]["number"]["shape"] for s in free]
        uniform(shapes, [None, *templates.NUMBER_SHAPES])
        uniform((s.params["layout"]["number"]["shape"] for s in spoken_of), templates.NUMBER_SHAPES)
        numbers = [s.params["layout"]["number"] for s in crowd if s.params["layout"]["number"]]
        uniform((number["mark"] for number in numbers), templates.NUMBER_MARKS)
        uniform((number["newline"] for number in numbers), [True, False])

    def test_frames(self, crowd: list[Sample]) -> None:
        uniform((s.params["layout"]["frame"] is None for s in crowd), [True, False])
        tags = {
            (bracket.replace("{word}", cased(begin)), bracket.replace("{word}", cased(end)))
            for bracket in templates.FRAME_BRACKETS
            for begin, end in templates.FRAME_WORDS
            for cased in (str.upper, str.lower)
        }
        frames = [s.params["layout"]["frame"] for s in crowd if s.params["layout"]["frame"]]
        drawn = Counter((frame["begin"], frame["end"]) for frame in frames)
        assert set(drawn) == tags
        assert len(tags) == 17 * 28 * 2
        assert stats.chisquare(list(drawn.values())).pvalue > P

    def test_gaps_and_places(self, crowd: list[Sample]) -> None:
        for name, values in (
            ("separator", ["\n", "\n\n"]), ("meta_gap", ["\n", "\n\n"]), ("meta_position", ["before", "after"])
        ):  # fmt: skip
            uniform((s.params["layout"][name] for s in crowd), values)

    @pytest.mark.parametrize(
        ("strategy", "key", "brackets", "intervals"),
        [
            ("permute", "order", templates.ORDER_BRACKETS, templates.ORDER_INTERVALS),
            ("maskout", "masked", templates.MASK_BRACKETS, templates.MASK_INTERVALS),
        ],
    )
    def test_printed_lists(
        self, strategy: str, key: str, brackets: Sequence[str], intervals: Sequence[str], crowd: list[Sample]
    ) -> None:
        given_lists = [s for s in crowd if (s.strategy, s.kind) == (strategy, "given")]
        seen = []
        for s in given_lists:
            shown = {
                bracket.format(items=interval.join(map(str, s.params[key]))): (bracket, interval)
                for bracket in brackets
                for interval in intervals
            }
            found = max((text for text in shown if text in s.params["meta"]), key=len)
            seen.append((*shown[found], len(s.params[key])))
        uniform((bracket for bracket, _, _ in seen), brackets)
        uniform((interval for _, interval, length in seen if length > 1), intervals)


class TestControlTokens:
    """A tokenizer for which some tags, and one tag with a tile behind it, are control tokens."""

    @pytest.fixture
    def measure(self) -> TokenCounter:
        tokenizer = Tokenizer.from_file(str(tokenizer_path() / "tokenizer.json"))
        tags = ["[START]", "[END]", "[end]", "[[START]]", "<begin>", "(answer start)", "**OPEN**", "Task 2: Do", "Q1."]
        tokenizer.add_special_tokens(tags)
        spec = counter().spec
        return TokenCounter(
            TokenizerSpec(
                name="test",
                definition=tokenizer.to_str(),
                special_tokens=spec.special_tokens,
                chat_template=spec.chat_template,
            ),
            max_tokens=2000,
        )

    def test_no_mosaic_spells_one(self, measure: TokenCounter) -> None:
        records = [record(i, f"Do part {i}", f"Done {i}", measure) for i in range(2500)]
        method = MosaicMethod(max_tiles=3)
        samples = compose(method, records, measure)
        assert_sound(method, records, samples, measure)
        free = compose(method, records, budget(2000))
        spelt = [s for s in free if any(measure.spells_control(message.content) for message in s.messages)]
        assert len(spelt) > 20, "without the precaution it would have happened"
        used = {s.params["layout"]["number"]["shape"] for s in samples if s.params["layout"]["number"]}
        assert used == set(templates.NUMBER_SHAPES)

    def test_where_no_layout_is_free_of_them_the_tiles_stand_bare(self) -> None:
        class Strict(Characters):
            """Finds a control token in all but the texts one below the other."""

            def spells_control(self, *texts: str) -> bool:
                return "".join(texts) not in bare

        records = [record(i, "abc"[i], "xyz"[i]) for i in range(3)]
        method = MosaicMethod(tiles="fix_max", max_tiles=3)
        bare = {"\n\n".join(order) for letters in ("abc", "xyz") for order in permutations(letters)}
        (sample,) = compose(method, records, Strict())
        assert (sample.strategy, sample.kind, sample.params["meta"]) == ("format", None, "")
        assert_sound(method, records, [sample], Strict())
