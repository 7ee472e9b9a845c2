from __future__ import annotations

import base64
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from mosaic_ray.errors import InputError
from mosaic_ray.io import parquet as module
from mosaic_ray.io.fetching import Fetching
from mosaic_ray.io.inventory import find_inputs, input_storage, take_inventory
from mosaic_ray.io.parquet import parquet
from mosaic_ray.io.readers import Row, read_cells
from mosaic_ray.io.shapes import to_record
from mosaic_ray.io.storage import Storage
from mosaic_ray.records import Message, Record, Reject

GOOD = {"prompt": [f"p {i}" for i in range(100)], "completion": ["c" * (i % 9 + 1) for i in range(100)]}


def written(columns: Mapping[str, Any] | pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), sink, **options)
    return bytes(sink.getvalue())


def read(folder: Path, data: bytes, *, cell_records: int = 64) -> list[Row]:
    """The rows of a file of these bytes, by its cells; of a staged one from its copy."""
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "a.parquet").write_bytes(data)
    source, stage = input_storage(str(folder / "in")), Storage.at(str(folder / "out"), error=InputError)
    (found,) = find_inputs([str(folder / "in")]).files
    file = take_inventory(found, source=source, cell_records=cell_records, stage=stage)
    rows = list(read_cells(file, list(file.cells), source=source, stage=stage))
    assert len(rows) == file.records
    return rows


def refused(folder: Path, data: bytes, *words: str) -> None:
    with pytest.raises(InputError) as failure:
        read(folder, data)
    assert [word for word in ("a.parquet: ", *words) if word not in str(failure.value)] == [], str(failure.value)
    assert "\n" not in str(failure.value)


def records(folder: Path, data: bytes, *, cell_records: int = 64) -> list[Record | Reject]:
    rows = read(folder, data, cell_records=cell_records)
    (found,) = find_inputs([str(folder / "in")]).files
    shape = take_inventory(found, source=input_storage(str(folder / "in")), cell_records=64).shape
    return [row if isinstance(row, Reject) else to_record(row, shape, at, multi_turn="pass") for at, row in rows]


class TestTypes:
    @pytest.mark.parametrize("cell_records", [1, 64])
    @pytest.mark.parametrize(
        "kind",
        [
            pa.list_,
            pa.large_list,
            pa.list_view,
            pa.large_list_view,
            lambda turn: pa.list_(turn, 2),
        ],
        ids=["list", "large list", "list view", "large list view", "fixed size"],
    )
    def test_turns_in_every_kind_of_list(self, tmp_path: Path, kind: Any, cell_records: int) -> None:
        turn = pa.struct([("role", pa.string()), ("content", pa.large_string())])
        chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        data = written({"messages": pa.array([chat] * 20, kind(turn))})
        found = records(tmp_path, data, cell_records=cell_records)
        assert [record.messages for record in found if isinstance(record, Record)] == [
            (Message("user", "q"), Message("assistant", "a"))
        ] * 20

    @pytest.mark.parametrize(
        "column",
        [
            pa.array([b"bytes"] * 20),
            pa.array([None] * 20),
            pa.array([datetime(2020, 1, 1)] * 20),
            pa.array([2**62] * 20, pa.timestamp("us")),
            pa.array([2**31 - 1] * 20, pa.date32()),
            pa.array([UUID(int=7).bytes] * 20, pa.binary(16)).cast(pa.uuid()),
            pa.array([[("user", "q"), ("assistant", "a")]] * 20, pa.map_(pa.string(), pa.string())),
            pa.array([{"role": ["user"], "content": ["q"]}] * 20),
        ],
        ids=["bytes", "null", "time", "time beyond the calendar", "date beyond it", "uuid", "map", "struct"],
    )
    def test_what_is_no_text_is_rejected_alike_staged_or_not(self, tmp_path: Path, column: Any) -> None:
        data = written({"prompt": column, "completion": ["c"] * 20})
        staged, read_again = (records(tmp_path, data, cell_records=cells) for cells in (1, 64))
        assert {row.reason if isinstance(row, Reject) else "used" for row in read_again} == {"not_a_string"}
        assert staged == read_again

    @pytest.mark.parametrize("kind", [pa.map_(pa.string(), pa.string()), pa.string(), pa.binary()])
    def test_messages_that_are_no_list_are_no_known_shape(self, tmp_path: Path, kind: Any) -> None:
        refused(tmp_path, written({"messages": pa.array([None] * 3, kind)}), "(messages)", "fit no known shape")

    def test_columns_that_are_not_used_may_be_anything(self, tmp_path: Path) -> None:
        odd = {
            "decimal": pa.array([1] * 100, pa.decimal256(70)),
            "time": pa.array([2**62] * 100, pa.timestamp("ns", "Mars/Olympus")),
            "nothing": pa.nulls(100),
            "deep": pa.array([[[[[{"a": [1]}]]]]] * 100),
            "prompt.x": pa.array(range(100)),
            "": pa.array(range(100)),
            "Prompt": pa.array([b"\xff"] * 100),
            "line\nbreak\x1b[31m": pa.array(range(100)),
        }
        rows = read(tmp_path, written({**odd, **GOOD}))
        assert [(row["prompt"], row["completion"]) for _, row in rows if not isinstance(row, Reject)] == list(
            zip(GOOD["prompt"], GOOD["completion"], strict=True)
        )


class TestColumns:
    def test_two_of_one_name_are_refused_where_they_are_used(self, tmp_path: Path) -> None:
        columns = [pa.array(GOOD["prompt"]), pa.array(GOOD["completion"]), pa.array(GOOD["completion"])]
        used = pa.Table.from_arrays(columns, ["prompt", "completion", "completion"])
        refused(tmp_path, written(used), "more than one column 'completion'")
        unused = pa.Table.from_arrays([*columns, columns[0]], ["prompt", "completion", "id", "id"])
        assert len(read(tmp_path, written(unused))) == 100

    def test_a_hundred_thousand_of_them(self, tmp_path: Path) -> None:
        columns = [b"c%d" % number for number in range(100_000)]
        data = in_a_file(footer([(b"root", len(columns)), *((name, 0) for name in columns)]))
        assert read(tmp_path, data) == []

    def test_more_than_can_be_held_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = written({**GOOD, **{f"c{i}": GOOD["prompt"] for i in range(200)}})
        monkeypatch.setattr(module, "MAX_ENTRIES", 100)
        refused(tmp_path, data, "more than 100 columns or row groups", "with fewer")


class TestFooter:
    def test_a_long_one_is_refused_before_it_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        data = written(GOOD, row_group_size=1)
        length = struct.unpack("<I", data[-8:-4])[0]
        monkeypatch.setattr(module, "MAX_FOOTER", length)
        assert len(read(tmp_path, data)) == 100
        monkeypatch.setattr(module, "MAX_FOOTER", length - 1)
        refused(tmp_path, data, f"its footer has {length:,} bytes", "the limit is", "larger row groups")

    @pytest.mark.parametrize("length", [2**31, 2**32 - 1, 0, 4000])
    def test_one_of_a_false_length(self, tmp_path: Path, length: int) -> None:
        data = written(GOOD)
        refused(tmp_path, data[:-8] + struct.pack("<I", length) + b"PAR1", "footer" if length > 9999 else "Parquet")

    @pytest.mark.parametrize(
        ("schema", "words"),
        [
            ([(b"root", 1), *[(b"x", 1)] * 50_000, (b"leaf", 0)], "too deeply nested"),
            ([(b"root", 2**31 - 1), (b"leaf", 0)], "not enough elements"),
            ([(b"root", -5), (b"leaf", 0)], "Parquet"),
        ],
    )
    def test_a_schema_that_is_a_trap(self, tmp_path: Path, schema: Sequence[tuple[bytes, int]], words: str) -> None:
        refused(tmp_path, in_a_file(footer(schema)), words)

    def test_lists_that_claim_to_be_huge(self, tmp_path: Path) -> None:
        refused(
            tmp_path, in_a_file(footer([(b"root", 1)], claimed=2**31 - 1)), "more than 262,144 columns or row groups"
        )

    def test_a_file_cut_off_anywhere(self, tmp_path: Path) -> None:
        data = written(GOOD)
        for length in range(0, len(data), 37):
            refused(tmp_path, data[:length], "Parquet", "copy it again")

    def test_encryption(self, tmp_path: Path) -> None:
        for plain, columns in ((False, ["prompt"]), (True, ["prompt"]), (False, [])):
            refused(tmp_path, encrypted(plain, columns), "it is encrypted", "in the clear")
        assert len(read(tmp_path, encrypted(True, ["id"]))) == 100

    def test_an_entry_that_would_end_the_process(self, tmp_path: Path) -> None:
        """pyarrow 26 calls std::terminate where a histogram of sizes is not as long as the levels are."""
        data = written(GOOD, compression="none", use_dictionary=False)
        histogram = b"\x26" + varint(0) + varint(200)
        assert data.count(histogram) == 2
        place = data.rindex(histogram)
        spoilt = data[:place] + b"\x36\x00\x48\x01" + data[place + 4 :]
        (tmp_path / "a.parquet").write_bytes(spoilt)
        script = (
            "import sys\nfrom mosaic_ray.io.inventory import *\nsource = input_storage(sys.argv[1])\n"
            "try: take_inventory(find_inputs([sys.argv[1]]).files[0], source=source, cell_records=8)\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        done = in_python(script, str(tmp_path / "a.parquet"))
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("InputError")
        assert "histogram size mismatch" in done.stdout


class TestRows:
    def test_no_rows_and_no_row_groups(self, tmp_path: Path) -> None:
        schema = pa.schema([("prompt", pa.string()), ("completion", pa.string())])
        assert read(tmp_path, written(schema.empty_table())) == []
        sink = pa.BufferOutputStream()
        pq.ParquetWriter(sink, schema).close()
        assert read(tmp_path, bytes(sink.getvalue())) == []

    def test_row_groups_of_one_row(self, tmp_path: Path) -> None:
        rows = read(tmp_path, written(GOOD, row_group_size=1))
        assert [row["prompt"] for _, row in rows if not isinstance(row, Reject)] == GOOD["prompt"]

    @pytest.mark.parametrize("claimed", [90, 110, 2000, -100])
    @pytest.mark.parametrize("place", ["file", "group", "file and group", "column"])
    def test_a_footer_that_lies_about_them(self, tmp_path: Path, place: str, claimed: int) -> None:
        data = written(GOOD, compression="none", use_dictionary=False)
        field = b"\x16" + varint(zigzag(100))
        spots = [at for at in range(len(data)) if data.startswith(field, at)]
        assert len(spots) == 4  # of the file, of each column, of the row group
        chosen = {"file": [0], "group": [3], "file and group": [0, 3], "column": [2]}[place]
        for spot in reversed([spots[index] for index in chosen]):
            data = data[:spot] + b"\x16" + varint(zigzag(claimed)) + data[spot + len(field) :]
        if (place, claimed) == ("column", 90):  # nobody asks, and no row is lost by it
            assert len(read(tmp_path, data)) == 100
        else:
            refused(tmp_path, data, "Parquet")

    def test_a_row_group_that_claims_a_billion_costs_no_time(self, tmp_path: Path) -> None:
        data = written(GOOD, compression="none", use_dictionary=False)
        field, claim = b"\x16" + varint(zigzag(100)), b"\x16" + varint(zigzag(2**40))
        start = data.rindex(field)
        length = struct.unpack("<I", data[-8:-4])[0] + len(claim) - len(field)
        data = data[:start] + claim + data[start + len(field) : -8] + struct.pack("<I", length) + b"PAR1"
        refused(tmp_path, data, "row group 0 has 1,099,511,627,776 of its 100 rows")

    def test_more_than_its_bytes_could_hold(self, tmp_path: Path) -> None:
        many = pa.table({"prompt": pa.nulls(3 << 20, pa.string()), "completion": pa.nulls(3 << 20, pa.string())})
        refused(tmp_path, written(many), "claims 3,145,728 rows in")

    def test_a_record_of_more_than_the_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_RECORD", 5000)
        texts = [*GOOD["prompt"][:50], "x" * 6000, *GOOD["prompt"][51:]]
        data = written({**GOOD, "prompt": texts}, use_dictionary=False)
        refused(tmp_path, data, "row 50 is longer than", "the limit of a record")
        data = written({**GOOD, "prompt": ["x" * 11_000] * 100}, use_dictionary=False)
        refused(tmp_path, data, "rows 0 to 99 are on average longer than")

    def test_a_dictionary_does_not_make_batches_large(self, tmp_path: Path) -> None:
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * 100_000]))
        (tmp_path / "a.parquet").write_bytes(written({"prompt": texts}, compression="zstd"))
        with parquet(input_storage(str(tmp_path / "a.parquet")), "") as file:
            columns = file.choose(["prompt"])
            sizes = [batch.nbytes for _, batch in columns.batches(list(columns.groups()))]
        assert len(sizes) == -(-4000 // module.BATCH_ROWS)
        assert max(sizes) < 16 << 20


class TestDamage:
    def test_checksums_find_every_flipped_byte_of_a_page(self, tmp_path: Path) -> None:
        data = written(GOOD, write_page_checksum=True, compression="none", use_dictionary=False)
        start = data.index(b"p 20")
        for place in range(start, start + 300, 7):
            spoilt = bytearray(data)
            spoilt[place] ^= 1
            refused(tmp_path, bytes(spoilt), "CRC checksum verification failed", "copy it again")

    def test_a_chunk_beyond_the_end(self, tmp_path: Path) -> None:
        """A file put together from the start of one and the footer of a longer one."""
        data = written(GOOD, compression="none", use_dictionary=False)
        length = struct.unpack("<I", data[-8:-4])[0]
        refused(tmp_path, b"PAR1" + data[-8 - length :], "Invalid column metadata")


class TestFetching:
    def test_a_row_group_is_fetched_in_one_and_a_large_one_in_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        columns = {"a": GOOD["prompt"], **GOOD, "z": GOOD["prompt"]}
        (tmp_path / "a.parquet").write_bytes(written(columns, row_group_size=25))
        storage = Watched("file", str(tmp_path / "a.parquet"), (), InputError)
        asked: list[int] = []
        object.__setattr__(storage, "asked", asked)
        from_store: list[int] = []
        within = Fetching.range
        monkeypatch.setattr(Fetching, "range", lambda *of: from_store.append(of[1]) or within(*of))
        found, steps = [], []
        for limit in (module.AT_ONCE, 0):
            monkeypatch.setattr(module, "AT_ONCE", limit)
            with parquet(storage, "") as file:
                chosen = file.choose(["prompt", "completion"])
                batches = chosen.batches(list(chosen.groups()))
                found.append([row for _, batch in batches for row in batch.to_pylist()])
            steps.append(len(from_store))
        assert found[0] == found[1] == pa.table(GOOD).to_pylist()
        assert asked == [1]
        assert steps[0] == 1  # the footer
        assert steps[1] > 8

    def test_no_thread_is_left_to_abort_a_process_that_ends(self, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_bytes(written(GOOD, row_group_size=10))
        script = (
            "import os, sys\nfrom mosaic_ray.io.inventory import *\nfrom mosaic_ray.io.readers import read_cells\n"
            "source, (found,) = input_storage(sys.argv[1]), find_inputs([sys.argv[1]]).files\n"
            "before = os.listdir('/proc/self/task')\n"
            "file = take_inventory(found, source=source, cell_records=8)\n"
            "assert len(list(read_cells(file, list(file.cells), source=source))) == 100\n"
            "print(len(os.listdir('/proc/self/task')) - len(before))"
        )
        if not os.path.isdir("/proc/self/task"):
            pytest.skip("the threads of a process are counted under /proc")
        done = in_python(script, str(tmp_path / "a.parquet"))
        assert (done.stdout, done.stderr) == ("0\n", "")


class Watched(Storage):
    """A storage that remembers how many ranges it was asked for at a time."""

    asked: list[int]

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]], *, etag: str | None = None) -> list[bytes]:
        self.asked.append(len(ranges))
        return super().read_ranges(path, ranges, etag=etag)


class Keys(pe.KmsClient):  # type: ignore[misc]
    """Wraps keys in base64, which is all that writing an encrypted file needs."""

    def wrap_key(self, key: bytes, _name: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, key: bytes, _name: str) -> bytes:
        return base64.b64decode(key)


def encrypted(plain_footer: bool, columns: Sequence[str]) -> bytes:
    factory = pe.CryptoFactory(lambda _: Keys())
    chosen = {"column_keys": {"key": list(columns)}} if columns else {"uniform_encryption": True}
    settings = pe.EncryptionConfiguration(footer_key="footer", plaintext_footer=plain_footer, **chosen)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), settings)
    return written({**GOOD, "id": list(range(100))}, encryption_properties=properties)


def in_python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)


def varint(number: int) -> bytes:
    """An unsigned number as Thrift's compact protocol has it."""
    number %= 1 << 64
    more = bytearray()
    while number > 0x7F:
        more.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*more, number])


def zigzag(number: int) -> int:
    return 2 * number if number >= 0 else -2 * number - 1


def footer(schema: Sequence[tuple[bytes, int]], *, claimed: int | None = None) -> bytes:
    """A footer without row groups, its schema the names given with how many children each has."""
    items = b"".join(
        (b"\x35\x02\x18" if children else b"\x15\x0c\x25\x02\x18")
        + (varint(len(name)) + name + (b"\x15" + varint(zigzag(children)) if children else b"") + b"\0")
        for name, children in schema
    )
    count = len(schema) if claimed is None else claimed
    return b"\x15\x02\x19\xfc" + varint(count) + items + b"\x16\x00\x19\x0c\x00"


def in_a_file(footer: bytes) -> bytes:
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"
