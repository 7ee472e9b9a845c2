"""One task, in this process: what it publishes, what it refuses, and that it catches a method that breaks a promise."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mosaic_ray.config import Settings
from mosaic_ray.embedded import corpus_path, tokenizer_path
from mosaic_ray.errors import InputError, StorageError, TaskError
from mosaic_ray.io.inventory import find_inputs, input_storage, take_inventory
from mosaic_ray.io.storage import Storage
from mosaic_ray.io.writers import content_digest, to_table
from mosaic_ray.methods.base import Measure, Method
from mosaic_ray.methods.mosaic import MosaicMethod
from mosaic_ray.records import REASONS, Message, Record, Sample
from mosaic_ray.runtime.plan import Plan, cell_records
from mosaic_ray.runtime.receipt import Receipt, receipt_path, rejects_path
from mosaic_ray.runtime.task import TaskItem, TaskWork, mosaic_id, row_spans, task_item
from mosaic_ray.seeding import Key
from mosaic_ray.tokens import TokenCounter, TokenizerSpec, load_tokenizer
from mosaic_ray.views import REJECT_SCHEMA

COLUMNS = ("prompt", "completion")


@cache
def tokenizer(chat_template: str | None = None) -> TokenizerSpec:
    return load_tokenizer(str(tokenizer_path()), chat_template=chat_template)


@dataclass
class Bench:
    """An input with its plan, and the work on it."""

    work: TaskWork
    plan: Plan

    def item(self, index: int = 0) -> TaskItem:
        return task_item(self.plan, self.plan.task(index))

    def run(self) -> list[Receipt]:
        return [self.work(self.item(index)) for index in range(len(self.plan))]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return list(pq.read_table(pa.BufferReader(self.work.output.read(name))).to_pylist())

    def rejects(self) -> list[tuple[int, str, str]]:
        made = [row for index in range(len(self.plan)) for row in self._rejects_of(index)]
        return sorted((row["row"], row["reason"], row["detail"]) for row in made)

    def _rejects_of(self, index: int) -> list[dict[str, Any]]:
        name = rejects_path(index)
        return self.rows(name) if self.work.output.exists(name) else []


Make = Callable[..., Bench]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make(rows, method=..., output=..., **settings)``: rows of one JSONL file, or the folder of a corpus."""

    def make(
        rows: Sequence[Mapping[str, Any]] | Path,
        *,
        method: Any = None,
        output: str = "",
        template: str | None = None,
        **options: Any,
    ) -> Bench:
        settings = Settings(**{"epochs": 2, "max_tokens": 512, **options})
        folder = rows if isinstance(rows, Path) else tmp_path / "in"
        if not isinstance(rows, Path):
            folder.mkdir(exist_ok=True)
            (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        source = input_storage(str(folder))
        stage = Storage.at(output or str(tmp_path / "out"), error=StorageError)
        cells = cell_records(settings.task_records)
        found = find_inputs([str(folder)]).files
        files = [take_inventory(file, source=source, stage=stage, cell_records=cells) for file in found]
        plan = Plan(files, seed=settings.seed, epochs=settings.epochs, task_records=settings.task_records)
        work = TaskWork(
            run="v1:test",
            settings=settings,
            method=method or MosaicMethod(),
            tokenizer=tokenizer(template),
            inputs=(source,),
            output=stage,
        )
        return Bench(work, plan)

    return make


def pair(instruction: str, response: str = "An answer.") -> dict[str, str]:
    return dict(zip(COLUMNS, (instruction, response), strict=True))


def pairs(n: int) -> list[dict[str, str]]:
    return [pair(f"Question {i}?", f"Answer {i}.") for i in range(n)]


def talk(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


QUESTION, ANSWER, SYSTEM = ("user", "Question?"), ("assistant", "Answer."), ("system", "Be brief.")


class TestTheEmbeddedCorpus:
    @pytest.mark.parametrize("store", ["", "memory://unit/task"])
    def test_every_promise_of_a_receipt(self, store: str, make: Make) -> None:
        bench = make(corpus_path(), output=store, task_records=128, max_tokens=700)
        receipts = bench.run()
        assert len(receipts) == len(bench.plan) >= 4
        output = bench.work.output
        assert sum(receipt.records for receipt in receipts) == bench.plan.records == 480
        for receipt in receipts:
            assert Receipt.from_json(output.read(receipt_path(receipt.task))).to_json() == receipt.to_json()
            spec = bench.plan.task(receipt.task)
            spans = [(bench.plan.files[owner].name, *span) for owner, cells in spec.cells for span in row_spans(cells)]
            assert receipt.inputs == spans
            assert sum(end - start for _, start, end in receipt.inputs) == spec.records
            for epoch, part in enumerate(receipt.parts):
                self._check_part(bench, receipt, epoch, part)
        assert sum(r.whole for r in receipts) > 0, "the corpus has conversations that are passed through"
        shown = {path for folder in ("data", "rejects", "_mosaic") for path, _ in output.listing(folder)}
        expected = {part["name"] for receipt in receipts for part in receipt.parts}
        expected |= {receipt_path(receipt.task) for receipt in receipts}
        assert shown == expected | {r.rejects_part["name"] for r in receipts if r.rejects_part}

    def _check_part(self, bench: Bench, receipt: Receipt, epoch: int, part: dict[str, Any]) -> None:
        assert part["epoch"] == epoch
        rows = bench.rows(part["name"])
        assert bench.work.output.info(part["name"]).size == part["bytes"]
        assert content_digest(to_table(rows, bench.work.view.schema)) == part["content_digest"]
        totals = part["totals"]
        assert totals["samples"] == part["rows"] == len(rows)
        assert totals["tiles"] == sum(len(row["sources"]) for row in rows) == receipt.records - receipt.rejected
        assert totals["tokens"] == sum(row["token_count"] for row in rows)
        assert totals["longest"] == max(row["token_count"] for row in rows) <= 700
        assert totals["strategies"] == dict(sorted(Counter(row["strategy"] for row in rows).items()))
        assert totals["strategies"].get("pass", 0) == receipt.whole
        sources = [(s["file"], s["row"]) for row in rows for s in row["sources"]]
        assert len(sources) == len(set(sources))
        assert [row["mosaic_id"] for row in rows] == [
            f"e{epoch}-t{receipt.task:05d}-s{index:06d}" for index in range(len(rows))
        ]
        for row in rows:
            messages = bench.work.view.messages(row)
            assert bench.work.counter.count(messages) == row["token_count"]

    def test_again_and_in_any_order_it_is_the_same(self, make: Make) -> None:
        first = make(corpus_path(), task_records=128)
        before = [strip_times(receipt) for receipt in first.run()]
        data = {path: first.work.output.read(path) for path, _ in first.work.output.listing("data")}
        second = make(corpus_path(), output="memory://unit/again", task_records=128)
        after = [strip_times(second.work(second.item(n))) for n in reversed(range(len(second.plan)))][::-1]
        assert after == before
        assert {path: second.work.output.read(path) for path, _ in second.work.output.listing("data")} == data

    def test_every_epoch_task_and_seed_tiles_anew(self, make: Make) -> None:
        companies = []
        for seed in (0, 1):
            bench = make(pairs(200), task_records=100, seed=seed, method=MosaicMethod(tiles="fix_max"))
            for receipt in bench.run():
                for part in receipt.parts:
                    rows = bench.rows(part["name"])
                    assert part["totals"]["tiles"] == 100
                    strategies = [(row["strategy"], row["kind"]) for row in rows]
                    companies.append(([sorted(s["row"] for s in row["sources"]) for row in rows], strategies))
        assert len(companies) == 8
        for drawn in (0, 1):
            assert len({str(company[drawn]) for company in companies}) == 8

    def test_whole_conversations_are_strewn_among_the_mosaics(self, make: Make) -> None:
        rows = [talk(QUESTION, ("assistant", f"{n}")) for n in range(200)]
        rows[:40] = [talk(SYSTEM, QUESTION, ("assistant", f"{n}")) for n in range(40)]
        bench = make(rows, epochs=1)
        (receipt,) = bench.run()
        places = [n for n, row in enumerate(bench.rows(receipt.parts[0]["name"])) if row["strategy"] == "pass"]
        assert len(places) == receipt.whole == 40
        assert places != list(range(places[0], places[0] + 40))
        assert 0.3 < sum(places) / len(places) / receipt.parts[0]["rows"] < 0.7


def strip_times(receipt: Receipt) -> dict[str, Any]:
    kept = json.loads(receipt.to_json())
    assert set(kept.pop("seconds")) == {"load", "compose", "write"}
    return dict(kept)


class Broken:
    """A method that does to each epoch's samples what it is told to."""

    name = "broken"
    identity: Mapping[str, Any] = {"name": "broken"}
    expected_tiles = None

    def __init__(self, damage: Callable[[list[Sample]], list[Sample]]) -> None:
        self._damage = damage

    def compose(self, records: Sequence[Record], *, key: Key, measure: Measure) -> Iterator[Sample]:
        return iter(self._damage(list(MosaicMethod().compose(records, key=key, measure=measure))))

    def check(self, sample: Mapping[str, Any], tiles: Sequence[Record]) -> str | None:
        raise NotImplementedError


class TestABrokenMethod:
    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda made: made[1:], r"a\.jsonl row \d+ is in 0 samples of epoch 0 where it must be in 1"),
            (lambda made: [*made, made[3]], r"a\.jsonl row \d+ is in 2 samples of epoch 0 where it must be in 1"),
            (lambda made: [replace(made[0], sources=made[0].sources * 2), *made[1:]], r"is in 2 samples of epoch 0"),
            (
                lambda made: [*made, replace(made[0], sources=(made[0].sources[0]._replace(file="b"),))],
                r"b row \d+ is in 1 samples of epoch 0 where it must be in 0",
            ),
            (
                lambda made: [replace(made[0], token_count=513), *made[1:]],
                r"a sample of a\.jsonl row \d+ has 513 tokens of 512",
            ),
        ],
        ids=["loses", "repeats", "repeats within", "invents", "over the budget"],
    )
    def test_is_caught_before_anything_is_published(
        self, damage: Callable[[list[Sample]], list[Sample]], words: str, make: Make
    ) -> None:
        bench = make(pairs(50), method=Broken(damage))
        with pytest.raises(TaskError, match=f"^method broken: .*{words}.*fault of the method; please report it"):
            bench.run()
        assert list(bench.work.output.listing()) == []

    def test_nothing_wrong_nothing_caught(self, make: Make) -> None:
        method: Method = Broken(lambda made: made[::-1])
        (receipt,) = make(pairs(50), method=method).run()
        assert receipt.parts[0]["totals"]["tiles"] == 50


class TestSpecialTokens:
    ROWS = (
        pair("Plain?", "Yes."),
        pair("What does <|eos|> mean?", "The <|eos|> token <|end|>."),
        pair("<|user|>", "Only a token in the question."),
        pair("Only a token in the answer.", " <|eos|> "),
        pair("Nested <|e<|eos|>os|>", "x"),
    )

    def run(self, make: Make, policy: str, **options: Any) -> tuple[Bench, Receipt, str]:
        bench = make(self.ROWS, special_tokens=policy, method=MosaicMethod(max_tiles=1), epochs=1, **options)
        (receipt,) = bench.run()
        texts = [row["messages"] for row in bench.rows(receipt.parts[0]["name"])]
        counter = TokenCounter(tokenizer(), max_tokens=0)
        assert not any(counter.spells_control(turn["content"]) for turns in texts for turn in turns)
        return bench, receipt, json.dumps(texts)

    def test_escape(self, make: Make) -> None:
        bench, receipt, texts = self.run(make, "escape")
        assert (receipt.records, receipt.rejected, receipt.escaped) == (5, 0, 4)
        assert "What does < |eos|> mean?" in texts
        assert "The < |eos|> token < |end|>." in texts
        assert bench.rejects() == []

    def test_strip(self, make: Make) -> None:
        bench, receipt, texts = self.run(make, "strip")
        assert (receipt.records, receipt.rejected, receipt.escaped) == (5, 2, 2)
        assert "What does  mean?" in texts
        assert "The  token ." in texts
        assert "Nested" in texts
        assert bench.rejects() == [
            (2, "empty_instruction", "only special tokens"),
            (3, "empty_response", "only special tokens"),
        ]

    def test_reject(self, make: Make) -> None:
        bench, receipt, texts = self.run(make, "reject")
        assert (receipt.records, receipt.rejected, receipt.escaped) == (5, 4, 0)
        assert receipt.rejects == {"special_token": 4}
        details = [detail for _, _, detail in bench.rejects()]
        assert details == ["in the text of the user", "in the text of the user", "in the text of the assistant",
                           "in the text of the user"]  # fmt: skip
        assert "Plain?" in texts
        excerpts = [row["excerpt"] for row in bench.rows(rejects_path(0))]
        assert json.loads(excerpts[0])[0] == ["user", "What does <|eos|> mean?"]


class TestMultiTurn:
    ROWS = (
        talk(QUESTION, ANSWER),
        talk(SYSTEM, QUESTION, ANSWER),
        talk(QUESTION, ANSWER, ("user", "More?"), ("assistant", "No.")),
        talk(("system", " "), QUESTION, ANSWER),
    )

    @pytest.mark.parametrize(
        ("policy", "whole", "trimmed", "rejects"),
        [("pass", 2, 0, {}), ("first", 0, 2, {}), ("reject", 0, 0, {"multi_turn": 2})],
    )
    def test_policies(self, policy: str, whole: int, trimmed: int, rejects: dict[str, int], make: Make) -> None:
        bench = make(self.ROWS, multi_turn=policy)
        (receipt,) = bench.run()
        assert (receipt.records, receipt.whole, receipt.trimmed, receipt.rejects) == (4, whole, trimmed, rejects)
        for part in receipt.parts:
            totals = part["totals"]
            assert totals["tiles"] == 4 - receipt.rejected
            assert totals["strategies"].get("pass", 0) == whole
            passed = [row["messages"] for row in bench.rows(part["name"]) if row["strategy"] == "pass"]
            assert sorted(passed, key=len) == [row["messages"] for row in self.ROWS[1:3]][: len(passed)]

    @pytest.mark.parametrize(
        ("view", "template", "fits"),
        [
            ("messages", None, True),
            ("messages", "none", True),
            ("prompt-completion", None, True),
            ("prompt-completion", "none", False),
            ("alpaca", None, False),
            ("alpaca", "none", False),
        ],
    )
    def test_views_without_a_place_for_them(self, view: str, template: str | None, fits: bool, make: Make) -> None:
        bench = make(self.ROWS, view=view, template=template)
        (receipt,) = bench.run()
        assert (receipt.whole, receipt.rejects) == ((2, {}) if fits else (0, {"not_in_view": 2}))
        if not fits:
            assert bench.rejects() == [
                (1, "not_in_view", f"3 turns in view {view}"), (2, "not_in_view", f"4 turns in view {view}")
            ]  # fmt: skip

    def test_what_the_chat_template_refuses_is_rejected_with_its_words(self, make: Make, tmp_path: Path) -> None:
        """Gemma's template, for one, knows no system prompt."""
        path = tmp_path / "strict.jinja"
        path.write_text(
            "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
            "{% endif %}{{ m['content'] }}\n{% endfor %}"
        )
        bench = make(self.ROWS, template=str(path))
        (receipt,) = bench.run()
        assert (receipt.records, receipt.whole, receipt.rejects) == (4, 1, {"bad_messages": 1})
        assert bench.rejects() == [
            (1, "bad_messages", "the chat template refuses it: System role not supported")
        ]  # fmt: skip


class TestOverlong:
    ROWS = (*pairs(3), pair("long " * 600), talk(SYSTEM, QUESTION, ("assistant", "long " * 600)))

    def test_reject(self, make: Make) -> None:
        bench = make(self.ROWS[:4])
        (receipt,) = bench.run()
        assert receipt.rejects == {"overlong": 1}
        ((row, reason, detail),) = bench.rejects()
        messages = [Message("user", ("long " * 600).strip()), Message("assistant", "An answer.")]
        tokens = bench.work.counter.count(messages)
        assert (row, reason, detail) == (3, "overlong", f"{tokens} tokens of 512")

    def test_fail(self, make: Make) -> None:
        words = r"a\.jsonl row 3: the record alone has \d+ tokens of 512\. Raise --max-tokens, or set --overlong reject"
        with pytest.raises(InputError, match=words):
            make(self.ROWS[:4], overlong="fail").run()

    def test_whole_conversations_have_the_same_budget(self, make: Make) -> None:
        bench = make([talk(QUESTION, ANSWER), self.ROWS[4]])
        (receipt,) = bench.run()
        assert (receipt.whole, receipt.rejects) == (0, {"overlong": 1})

    def test_a_record_of_exactly_the_budget_fits(self, make: Make) -> None:
        bench = make(pairs(5), method=MosaicMethod(strategies="format"))
        counts = {record.tokens for record in bench.work.load(bench.item()).plain}
        exact = make(pairs(5), max_tokens=max(counts))
        (receipt,) = exact.run()
        assert receipt.rejected == 0
        assert receipt.parts[0]["totals"]["longest"] <= max(counts)


class TestRejects:
    def test_come_out_with_place_reason_and_excerpt_in_the_order_of_the_input(self, make: Make) -> None:
        rows: list[dict[str, Any]] = [pair("ok"), pair("  "), {"prompt": "x"}, pair("y", ""), pair("ok too")]
        bench = make(rows)
        (receipt,) = bench.run()
        made = bench.rows(rejects_path(0))
        assert [(row["file"], row["row"], row["reason"]) for row in made] == [
            ("a.jsonl", 1, "empty_instruction"), ("a.jsonl", 2, "missing_column"), ("a.jsonl", 3, "empty_response")
        ]  # fmt: skip
        assert all(row["reason"] in REASONS and row["excerpt"].startswith("{") for row in made)
        assert receipt.rejects == {"empty_instruction": 1, "empty_response": 1, "missing_column": 1}
        assert receipt.rejects_part is not None
        assert receipt.rejects_part["content_digest"] == content_digest(to_table(made, REJECT_SCHEMA))
        assert receipt.rejects_part["rows"] == 3

    def test_nothing_but_rejects_is_an_empty_part(self, make: Make) -> None:
        bench = make([pair("", "x"), pair("x", "")])
        (receipt,) = bench.run()
        assert [part["rows"] for part in receipt.parts] == [0, 0]
        assert bench.rows(receipt.parts[0]["name"]) == []


def test_an_input_that_changed_its_number_of_records_is_noticed(make: Make) -> None:
    bench = make(pairs(10))
    item = bench.item()
    (file, cells), *_ = item.cells
    wrong = replace(item, cells=((file, (replace(cells[0], records=cells[0].records + 1), *cells[1:])),))
    words = r"task 0 \(a\.jsonl rows 0-9\): 10 records were read where the inventory counted 11.*a new --output"
    with pytest.raises(InputError, match=words):
        bench.work(wrong)


def test_a_task_whose_pieces_miscount_is_done_again_with_whole_counts(make: Make) -> None:
    (honest,), bench = make(pairs(40)).run(), make(pairs(40))
    pieces = bench.work.counter._proven.pieces
    pieces._cuts.safe[:] = True
    pieces._junctions.clear()
    (receipt,) = bench.run()
    assert honest.whole_because is None
    assert receipt.whole_because is not None
    assert " tokens by pieces, " in receipt.whole_because
    assert receipt.parts == honest.parts


class TestReceipts:
    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"{}", b'{"task": 1}', b"\xff", b'{"strange": 1}'])
    def test_damaged(self, data: bytes) -> None:
        with pytest.raises(ValueError, match="not a receipt: "):
            Receipt.from_json(data)

    def test_paths_sort_as_tasks_do(self) -> None:
        assert receipt_path(7) == "_mosaic/receipts/task-00007.json"
        assert rejects_path(12345) == "rejects/task-12345.parquet"

    def test_ids(self, make: Make) -> None:
        part = make(pairs(2)).plan.part(1, 0)
        assert mosaic_id(part, 3) == "e1-t00000-s000003"
