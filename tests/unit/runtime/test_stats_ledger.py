"""Counts that add up, and the ledger of what is done: which receipts count, and when the sum does not balance."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import RejectShareError, StorageError, TaskError
from mosaic_ray.io.cells import CellTable, InputFile
from mosaic_ray.io.shapes import Shape
from mosaic_ray.io.storage import Storage
from mosaic_ray.records import Message, Sample, Source
from mosaic_ray.runtime.ledger import Ledger, read_receipt
from mosaic_ray.runtime.plan import Plan
from mosaic_ray.runtime.receipt import Receipt, receipt_path, rejects_path
from mosaic_ray.runtime.stats import TOKEN_BUCKET, Totals, perfect_shuffle_share

PAIR = (Message("user", "q"), Message("assistant", "a"))
RUN = "v1:this"


def sample(files: str, tokens: int, strategy: str = "format", kind: str | None = None) -> Sample:
    """A sample with one source for each letter of ``files``."""
    sources = tuple(Source(name, row) for row, name in enumerate(files))
    return Sample(messages=PAIR, sources=sources, strategy=strategy, kind=kind, params={}, token_count=tokens)


class TestTotals:
    def test_by_hand(self) -> None:
        totals = Totals()
        totals.add([sample("ab", 63, "permute", "given")], 70)
        totals.add([sample("aa", 64, "maskout", "odd")], 70)
        totals.add([sample("a", 200)], 190)
        totals.add([sample("a", 10, "pass")], 10)
        assert totals.to_dict() == {
            "samples": 4,
            "tiles": 6,
            "tokens": 337,
            "tile_tokens": 340,
            "longest": 200,
            "several": 2,
            "mixed": 1,
            "strategies": {"format": 1, "maskout": 1, "pass": 1, "permute": 1},
            "kinds": {"maskout/odd": 1, "permute/given": 1},
            "tile_counts": {"1": 2, "2": 2},
            "token_histogram": {"0": 2, "64": 1, "192": 1},
        }
        assert TOKEN_BUCKET == 64

    MADE = st.builds(
        sample,
        st.text("abc", min_size=1, max_size=12),
        st.integers(1, 5000),
        st.sampled_from(["format", "permute"]),
        st.none() | st.sampled_from(["given", "odd"]),
    )

    @given(st.lists(MADE), st.integers(1, 4), st.randoms(use_true_random=False))
    def test_parts_add_up_in_any_order(self, samples: list[Sample], parts: int, chance: Any) -> None:
        whole, pieces = Totals(), [Totals() for _ in range(parts)]
        whole.add(samples, 7 * sum(len(made.sources) for made in samples))
        for made in samples:
            chance.choice(pieces).add([made], 7 * len(made.sources))
        chance.shuffle(pieces)
        merged = Totals()
        for piece in pieces:
            merged.merge(json.loads(json.dumps(piece.to_dict())))
        assert merged.to_dict() == whole.to_dict()
        assert merged.tile_counts.total() == merged.strategies.total() == merged.samples
        assert list(merged.to_dict()["tile_counts"]) == sorted(merged.to_dict()["tile_counts"], key=int)


class TestPerfectShuffle:
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(2, 4))
    def test_is_exact(self, sizes: list[int], tiles: int) -> None:
        """Against all ways to draw so many records of the corpus."""
        owners = [file for file, size in enumerate(sizes) for _ in range(size)]
        if len(owners) < tiles:
            return
        draws = list(combinations(owners, tiles))
        share = sum(len(set(draw)) > 1 for draw in draws) / len(draws)
        assert perfect_shuffle_share({str(tiles): 3}, sizes) == pytest.approx(share)

    def test_by_hand(self) -> None:
        assert perfect_shuffle_share({}, [5, 5]) == 0.0
        assert perfect_shuffle_share({"1": 9}, [5, 5]) == 0.0
        assert perfect_shuffle_share({"2": 1}, [10]) == 0.0
        assert perfect_shuffle_share({"2": 1}, [1] * 10) == 1.0
        assert perfect_shuffle_share({"2": 1, "3": 3}, [4, 4]) == pytest.approx(
            1 - (2 * comb(4, 2) / comb(8, 2) + 3 * 2 * comb(4, 3) / comb(8, 3)) / 4
        )


def plan_of(records_: int = 100, epochs: int = 2, task_records: int = 25) -> Plan:
    rows = np.ones(records_, dtype=np.int64)
    cells = CellTable.of_columns(
        {"row": np.arange(records_), "rows": rows, "records": rows, "offset": rows * 0, "length": rows * 0,
         "group": rows * 0, "digest": rows * 0}
    )  # fmt: skip
    file = InputFile(
        name="f", uri_index=0, path="f", format="jsonl", compression=None, size=0, etag=None, modified=None, digest="0",
        shape=Shape(kind="prompt", columns={}), rows=records_, records=records_, staged=False, cells=cells,
    )  # fmt: skip
    return Plan([file], seed=0, epochs=epochs, task_records=task_records)


def receipt(
    plan: Plan, task: int, *, rejects: dict[str, int] | None = None, whole: int = 0, run: str = RUN, lost: int = 0
) -> Receipt:
    """What a task of 25 records would say; ``lost`` of them in no sample."""
    rejects = rejects or {}
    count = plan.task(task).records
    composed = count - sum(rejects.values()) - whole - lost
    totals = Totals(samples=1 + whole, tiles=composed + whole, tokens=100)
    totals.strategies.update({"format": 1, "pass": whole})
    return Receipt(
        task=task,
        run=run,
        inputs=[("f", 0, count)],
        records=count,
        whole=whole,
        trimmed=1,
        escaped=2,
        rejects=rejects,
        parts=[
            {"name": part.name, "rows": 1, "bytes": 10 + task, "sha256": "ff", "content_digest": f"v1:{part.number}",
             "epoch": part.epoch, "totals": totals.to_dict()}
            for part in plan.parts(task)
        ],
        rejects_part=(
            {"name": rejects_path(task), "rows": sum(rejects.values()), "bytes": 5, "sha256": "ee",
             "content_digest": f"v1:r{task}"}
            if rejects else None
        ),
        seconds={"load": float(task), "compose": 1.0, "write": 0.5},
    )  # fmt: skip


def full_ledger(plan: Plan, share: float = 1.0, order: list[int] | None = None) -> Ledger:
    ledger = Ledger(plan, run=RUN, max_reject_share=share)
    for task in order or range(len(plan)):
        ledger.add(receipt(plan, task, rejects={"overlong": 1, "not_json": task} if task else None, whole=task))
    return ledger


class TestLedger:
    def test_sums_and_balance(self) -> None:
        plan = plan_of()
        ledger = full_ledger(plan)
        assert ledger.done == {0, 1, 2, 3}
        assert (ledger.records, ledger.rejected, ledger.whole, ledger.trimmed, ledger.escaped) == (100, 9, 6, 4, 8)
        assert ledger.rejects == Counter(not_json=6, overlong=3)
        assert ledger.seconds == {"load": 6.0, "compose": 4.0, "write": 2.0}
        assert ledger.slowest == [(4.5, 3), (3.5, 2), (2.5, 1), (1.5, 0)]
        entry = {"composed": 85, "passed": 6, "rejected": 9, "sum": 100}
        assert ledger.accounting() == {
            "records": 100, "balanced": True, "epochs": [{"epoch": 0, **entry}, {"epoch": 1, **entry}]
        }  # fmt: skip
        assert ledger.total().tiles == 182

    def test_parts_come_out_in_their_order_whenever_tasks_finish(self) -> None:
        plan = plan_of()
        ledgers = [full_ledger(plan, order=order) for order in ([0, 1, 2, 3], [3, 1, 0, 2])]
        for ledger in ledgers:
            assert [part["content_digest"] for part in ledger.parts] == [f"v1:{n}" for n in range(8)]
            assert [part["epoch"] for part in ledger.parts] == [0] * 4 + [1] * 4
            assert [part["task"] for part in ledger.parts] == [0, 1, 2, 3] * 2
            assert [part["content_digest"] for part in ledger.rejects_parts] == ["v1:r1", "v1:r2", "v1:r3"]
        assert list(ledgers[0].parts) == list(ledgers[1].parts)
        assert ledgers[0].accounting() == ledgers[1].accounting()
        assert set(ledgers[0].parts[0]) == {
            "name", "rows", "bytes", "sha256", "content_digest", "tokens", "epoch", "task"
        }  # fmt: skip

    def test_a_task_missing_does_not_balance(self) -> None:
        plan = plan_of()
        ledger = Ledger(plan, run=RUN, max_reject_share=1.0)
        for task in (0, 1, 3):
            ledger.add(receipt(plan, task))
        with pytest.raises(TaskError, match="does not balance: the inventory holds 100 records, the tasks read 75"):
            ledger.accounting()

    def test_a_record_lost_in_a_task_does_not_balance(self) -> None:
        plan = plan_of()
        ledger = Ledger(plan, run=RUN, max_reject_share=1.0)
        for task in range(4):
            ledger.add(receipt(plan, task, lost=task == 2))
        with pytest.raises(
            TaskError, match=r"the tasks read 100, and epochs came out as .*'sum': 99.*please report it"
        ):
            ledger.accounting()

    def test_it_stays_small(self) -> None:
        plan = plan_of(2000, epochs=1, task_records=1)
        ledger = Ledger(plan, run=RUN, max_reject_share=1.0)
        for task in range(len(plan)):
            ledger.add(receipt(plan, task))
        assert len(ledger.slowest) == 10
        assert len(pickle.dumps(ledger._parts)) < 150 * len(plan)


class TestRejectShare:
    def test_the_words(self) -> None:
        plan = plan_of()
        ledger = Ledger(plan, run=RUN, max_reject_share=0.1)
        ledger.add(receipt(plan, 0, rejects={"overlong": 6, "not_json": 1}))
        with pytest.raises(RejectShareError) as stopped:
            ledger.add(receipt(plan, 1, rejects={"overlong": 4}))
        assert str(stopped.value) == (
            "11 of 100 records (11.0%) were rejected so far, and --max-reject-share 0.1 allows 10: overlong 10, "
            "not_json 1 (overlong: the record alone has more tokens than the budget). The files under rejects/ in the "
            "output name each; mend the input or the settings and give a new --output, or raise the share"
        )
        assert stopped.value.exit_code == 5

    @pytest.mark.parametrize("percent", range(0, 101, 3))
    def test_just_as_many_as_allowed_are_allowed(self, percent: int) -> None:
        """Also where share times records falls short by a rounding, as 0.29 of 100 does."""
        plan = plan_of(100, epochs=1, task_records=100)
        exactly = {"overlong": percent} if percent else {}
        Ledger(plan, run=RUN, max_reject_share=percent / 100).add(receipt(plan, 0, rejects=exactly))
        if percent < 100:
            with pytest.raises(RejectShareError, match=f"^{percent + 1} of 100 .* allows {percent}: "):
                Ledger(plan, run=RUN, max_reject_share=percent / 100).add(
                    receipt(plan, 0, rejects={"overlong": percent + 1})
                )

    def test_none_allowed_none_there(self) -> None:
        full = Ledger(plan_of(), run=RUN, max_reject_share=0.0)
        full.add(receipt(plan_of(), 0))
        with pytest.raises(RejectShareError, match="allows 0: not_json 1"):
            full.add(receipt(plan_of(), 1, rejects={"not_json": 1}))


class TestResume:
    @pytest.fixture
    def output(self, tmp_path: Path) -> Storage:
        return Storage.at(str(tmp_path / "out"), error=StorageError)

    def publish(self, output: Storage, done: Receipt, *, without: str = "", short: str = "") -> None:
        entries = [*done.parts, *([done.rejects_part] if done.rejects_part else [])]
        for entry in entries:
            if entry["name"] != without:
                output.publish(entry["name"], b"x" * (entry["bytes"] - (entry["name"] == short)))
        output.publish(receipt_path(done.task), done.to_json())

    def resumed(self, output: Storage, plan: Plan, share: float = 1.0) -> Ledger:
        ledger = Ledger(plan, run=RUN, max_reject_share=share)
        ledger.resume(output)
        return ledger

    def test_of_nothing(self, output: Storage) -> None:
        assert self.resumed(output, plan_of()).done == set()

    def test_counts_what_is_in_place(self, output: Storage) -> None:
        plan = plan_of()
        for task in (0, 2):
            self.publish(output, receipt(plan, task, rejects={"overlong": task}))
        ledger = self.resumed(output, plan)
        assert ledger.done == {0, 2}
        assert (ledger.records, ledger.rejected) == (50, 2)
        assert [part["task"] for part in ledger.parts] == [0, 2, 0, 2]
        for task in (1, 3):
            ledger.add(receipt(plan, task))
        assert ledger.accounting()["balanced"]

    def test_ignores_another_run(self, output: Storage) -> None:
        plan = plan_of()
        self.publish(output, receipt(plan, 0, run="v1:other"))
        self.publish(output, receipt(plan, 1))
        assert self.resumed(output, plan).done == {1}

    @pytest.mark.parametrize("cut", [0, 1, -1])
    def test_ignores_a_damaged_receipt(self, cut: int, output: Storage) -> None:
        plan = plan_of()
        self.publish(output, receipt(plan, 0))
        output.publish(receipt_path(0), receipt(plan, 0).to_json()[:cut])
        assert self.resumed(output, plan).done == set()

    def test_ignores_a_task_whose_part_is_gone_or_short(self, output: Storage) -> None:
        plan = plan_of()
        self.publish(output, receipt(plan, 0), without=plan.parts(0)[1].name)
        self.publish(output, receipt(plan, 1), short=plan.parts(1)[0].name)
        self.publish(output, receipt(plan, 2, rejects={"overlong": 1}), without=rejects_path(2))
        self.publish(output, receipt(plan, 3))
        assert self.resumed(output, plan).done == {3}

    def test_a_run_with_too_many_rejects_does_not_resume_silently(self, output: Storage) -> None:
        plan = plan_of()
        self.publish(output, receipt(plan, 0, rejects={"overlong": 20}))
        with pytest.raises(RejectShareError, match="20 of 100"):
            self.resumed(output, plan, share=0.1)
        assert self.resumed(output, plan, share=0.2).rejected == 20

    def test_reading_one(self, output: Storage) -> None:
        plan = plan_of()
        self.publish(output, receipt(plan, 1))
        assert read_receipt(output, 1).to_json() == receipt(plan, 1).to_json()
        with pytest.raises(StorageError, match=r"task-00002\.json"):
            read_receipt(output, 2)
        output.publish(receipt_path(1), b"{")
        with pytest.raises(StorageError, match=r"task-00001\.json: not a receipt"):
            read_receipt(output, 1)
