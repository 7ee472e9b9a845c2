"""The same rows are the same bytes, in every process, and the digest of their content outlives the layout."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaic_ray.errors import MosaicError
from mosaic_ray.io.writers import ROWS_PER_GROUP, content_digest, to_parquet, to_table
from mosaic_ray.records import Message, Sample, Source
from mosaic_ray.views import REJECT_SCHEMA, ViewSchema

VIEW = ViewSchema("messages", chat=True)
SCHEMA = VIEW.schema


def rows(n: int = 2500) -> list[dict[str, Any]]:
    samples = []
    for i in range(n):
        samples.append(
            Sample(
                messages=(Message("user", f"Frage {i} é 中"), Message("assistant", "a\n" * (i % 9))),
                sources=tuple(Source(f"f{j}.jsonl", i * j) for j in range(1 + i % 4)),
                strategy=("format", "permute")[i % 2],
                kind=(None, "reversed")[i % 2],
                params={"layout": {"b": 1, "a": None}, "order": list(range(i % 5))},
                token_count=i,
            )
        )
    ids = [f"e0-t00000-s{i:06d}" for i in range(n)]
    return list(VIEW.table(samples, ids, epoch=0).to_pylist())


def test_the_same_bytes_twice_and_in_another_process() -> None:
    made = to_parquet(to_table(rows(), SCHEMA))
    assert to_parquet(to_table(rows(), SCHEMA)) == made
    assert made.sha256 == hashlib.sha256(made.data).hexdigest()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_writers import *\n"
        "import json; m = to_parquet(to_table(rows(), SCHEMA)); print(json.dumps([m.sha256, m.content_digest, m.rows]))"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, os.path.dirname(__file__)],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout) == [made.sha256, made.content_digest, made.rows]


def test_what_is_written_reads_back_with_its_schema_and_groups() -> None:
    made = to_parquet(to_table(rows(), SCHEMA))
    file = pq.ParquetFile(pa.BufferReader(made.data))
    assert file.schema_arrow.equals(SCHEMA)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [1000, 1000, 500]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.read().to_pylist() == rows()
    assert made.rows == 2500
    assert b"huggingface" not in made.data


def test_no_rows_are_a_file_too() -> None:
    made = to_parquet(to_table([], SCHEMA))
    table = pq.read_table(pa.BufferReader(made.data))
    assert (table.num_rows, made.rows) == (0, 0)
    assert table.schema.equals(SCHEMA)
    assert made.content_digest == content_digest(to_table([], SCHEMA))


class TestContentDigest:
    @pytest.mark.parametrize("group", [7, 10_000])
    @pytest.mark.parametrize("compression", ["none", "snappy"])
    def test_is_that_of_the_rows_however_they_are_laid_out(self, group: int, compression: str) -> None:
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(rows(), schema=SCHEMA)
        pq.write_table(table, sink, row_group_size=group, compression=compression)
        made = to_parquet(to_table(rows(), SCHEMA))
        assert sink.getvalue().to_pybytes() != made.data
        read = pq.read_table(pa.BufferReader(sink.getvalue()))
        assert content_digest(read) == made.content_digest

    def test_the_order_of_keys_does_not_matter_and_that_of_rows_does(self) -> None:
        turned = [dict(reversed(row.items())) for row in rows(20)]
        assert content_digest(to_table(turned, SCHEMA)) == content_digest(to_table(rows(20), SCHEMA))
        assert content_digest(to_table(rows(20)[::-1], SCHEMA)) != content_digest(to_table(rows(20), SCHEMA))

    def test_every_column_counts(self) -> None:
        before = content_digest(to_table(rows(3), SCHEMA))
        for name in SCHEMA.names:
            changed = rows(3)
            changed[2][name] = rows(2)[1][name]
            assert (content_digest(to_table(changed, SCHEMA)) == before) is (changed == rows(3)), name
        assert content_digest(to_table(rows(2), SCHEMA)) != before

    def test_names_of_columns_count(self) -> None:
        assert content_digest(to_table([], SCHEMA)) != content_digest(to_table([], REJECT_SCHEMA))

    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def test_any_text_survives_the_file(self, text: str) -> None:
        row = {"file": text, "row": 1, "reason": text, "detail": text, "excerpt": text}
        made = to_parquet(to_table([row], REJECT_SCHEMA))
        assert content_digest(pq.read_table(pa.BufferReader(made.data))) == (made.content_digest)


class TestSchemaMismatch:
    GOOD: ClassVar = {"file": "a", "row": 1, "reason": "r", "detail": "d", "excerpt": "e"}

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({**GOOD, "row": "one"}, "row 1, column 'row': 'one', where int64 is declared"),
            ({**GOOD, "detail": 7}, "row 1, column 'detail': 7, where string is declared"),
            ({**GOOD, "row": 2**70}, f"row 1, column 'row': {2**70}, where int64 is declared"),
            ({**GOOD, "detail": None}, "row 1, column 'detail': null, where string is declared"),
            ({**GOOD, "detail": "\ud800"}, "row 1, column 'detail': '\\ud800', where string is declared"),
            ({k: v for k, v in GOOD.items() if k != "reason"}, "column 'reason': null, where string is declared"),
            ({**GOOD, "extra": 1}, "row 1 has the column 'extra', which is not declared"),
        ],
    )
    def test_names_the_column_and_shows_what_was_declared(self, row: dict[str, Any], words: str) -> None:
        with pytest.raises(MosaicError, match="do not fit the schema") as refused:
            to_table([self.GOOD, row], REJECT_SCHEMA)
        assert words in str(refused.value)
        assert str(REJECT_SCHEMA) in str(refused.value)

    def test_a_null_deep_inside_is_no_text(self) -> None:
        row = rows(1)[0]
        row["messages"] = [{"role": "user", "content": None}]
        with pytest.raises(MosaicError, match="do not fit the schema"):
            to_parquet(to_table([row], SCHEMA))


def test_groups_are_large_enough_to_stay_compact() -> None:
    assert ROWS_PER_GROUP >= 1000
