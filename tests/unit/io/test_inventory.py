from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mosaic_ray.errors import InputError, SettingsError, StorageError
from mosaic_ray.io.inventory import (
    CELL_BYTES,
    MAX_REREADS,
    InputFile,
    find_inputs,
    input_storage,
    same_content,
    take_inventory,
)
from mosaic_ray.io.readers import read_cells
from mosaic_ray.io.shapes import to_record
from mosaic_ray.io.storage import Storage
from mosaic_ray.records import Record, Reject

ROWS = [{"prompt": f"p {i}", "completion": "c" * (i % 40)} for i in range(100)]
LINES = b"".join(json.dumps(row).encode() + b"\n" for row in ROWS)


def put(root: Path, **files: bytes) -> None:
    """Files by name; a double underscore stands for the dot, a triple one for the slash."""
    for name, data in files.items():
        path = root / name.replace("___", "/").replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def names(*uris: object) -> list[str]:
    return [file.name for file in find_inputs([str(uri) for uri in uris]).files]


def take(path: Path, *, cell_records: int = 10, stage: Path | None = None, **options: Any) -> InputFile:
    (found,) = find_inputs([str(path)]).files
    out = Storage.at(str(stage), error=StorageError) if stage else None
    return take_inventory(found, source=input_storage(str(path)), cell_records=cell_records, stage=out, **options)


def parquet_bytes(rows: list[dict[str, Any]], **options: Any) -> bytes:
    written = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), written, **options)
    return bytes(written.getvalue())


class TestFinding:
    def test_a_directory_with_all_below_it(self, tmp_path: Path) -> None:
        put(tmp_path, b__jsonl=b"1", a___x__json=b"", a___y__ndjson__gz=b"", c__parquet=b"", d__JSONL__ZST=b"")
        put(tmp_path, notes__txt=b"", c__parquet__gz=b"", _done__json=b"", __hidden__json=b"", _tmp___z__json=b"")
        found = find_inputs([str(tmp_path)])
        assert [file.name for file in found.files] == [
            "a/x.json",
            "a/y.ndjson.gz",
            "b.jsonl",
            "c.parquet",
            "d.JSONL.ZST",
        ]
        assert sorted(found.ignored) == sorted(
            str(tmp_path / name) for name in ["notes.txt", "c.parquet.gz", "_done.json", ".hidden.json", "_tmp/z.json"]
        )
        assert {file.name: file.size for file in found.files}["b.jsonl"] == 1
        assert all(file.path == file.name and file.uri_index == 0 for file in found.files)

    def test_one_file_is_named_by_itself(self, tmp_path: Path) -> None:
        put(tmp_path, a___x__json=b"[]")
        (found,) = find_inputs([str(tmp_path / "a/x.json")]).files
        assert (found.name, found.path) == ("x.json", "")
        assert input_storage(str(tmp_path / "a/x.json")).read(found.path) == b"[]"

    def test_a_glob_is_rooted_before_its_first_wildcard(self, tmp_path: Path) -> None:
        put(tmp_path, d___a1___x__json=b"", d___a2___y__json=b"", d___b___z__json=b"", d___a2___q__txt=b"")
        glob = str(tmp_path / "d/a*/*")
        found = find_inputs([glob])
        assert [file.name for file in found.files] == ["a1/x.json", "a2/y.json"]
        assert found.ignored == [str(tmp_path / "d/a2/q.txt")]
        assert input_storage(glob).uri() == str(tmp_path / "d")
        assert names(tmp_path / "**/*.json") == ["d/a1/x.json", "d/a2/y.json", "d/b/z.json"]

    def test_brackets_in_a_name_are_no_wildcard_where_the_file_is_there(self, tmp_path: Path) -> None:
        (tmp_path / "x[1].json").write_bytes(b"[]")
        assert names(tmp_path / "x[1].json") == ["x[1].json"]
        (tmp_path / "y[1]").mkdir()
        (tmp_path / "y[1]" / "z.json").write_bytes(b"[]")
        assert names(tmp_path / "y[1]/") == ["y[1]/z.json"]

    def test_relative_globs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path, x__json=b"")
        monkeypatch.chdir(tmp_path)
        assert names("*.json") == ["x.json"]

    def test_equal_names_get_the_number_of_their_input(self, tmp_path: Path) -> None:
        put(tmp_path, a___x__json=b"", b___x__json=b"", b___y__json=b"")
        assert names(tmp_path / "a", tmp_path / "b") == ["0/x.json", "1/x.json", "1/y.json"]
        assert names(tmp_path / "a", tmp_path / "b/y.json") == ["x.json", "y.json"]
        assert [file.path for file in find_inputs([str(tmp_path / "a"), str(tmp_path / "b")]).files] == [
            "x.json",
            "x.json",
            "y.json",
        ]

    def test_a_glob_of_directories(self, tmp_path: Path) -> None:
        put(tmp_path, d___p1___x__json=b"", d___p2___deep___y__json=b"", d___q___z__json=b"", d____p___w__json=b"")
        assert names(tmp_path / "d/p*") == ["p1/x.json", "p2/deep/y.json"]
        assert names(tmp_path / "d/*") == ["p1/x.json", "p2/deep/y.json", "q/z.json"]

    def test_no_file_is_read_twice(self, tmp_path: Path) -> None:
        put(tmp_path, a___x__json=b"", a___y__json=b"", b___x__json=b"")
        a, x = tmp_path / "a", tmp_path / "a/x.json"
        for uris, ways in (
            ((a, a), f"{a} twice"),
            ((x, a), f"both {x} and {a}"),
            ((tmp_path, f"{a}/x*"), f"both {tmp_path} and {a}/x*"),
            ((x, f"file://{x}"), f"both {x} and file://{x}"),
        ):
            with pytest.raises(SettingsError) as failure:
                names(*uris)
            assert str(failure.value) == (
                f"--input gives {ways}, and so {x} twice; each of its records would be read twice: give it once."
            )
        assert names(x, a / "y.json", tmp_path / "b") == ["0/x.json", "1/y.json", "2/x.json"]

    def test_names_that_are_not_utf8(self, tmp_path: Path) -> None:
        put(tmp_path, a__json=b"")
        (tmp_path / os.fsdecode(b"note\xff.txt")).write_bytes(b"")
        found = find_inputs([str(tmp_path)])
        assert [file.name for file in found.files] == ["a.json"]
        assert found.ignored == [f"{tmp_path}/note\\udcff.txt"]
        for bad in (b"caf\xe9.json", b"d\xff/x.json"):
            path = tmp_path / "in" / os.fsdecode(bad)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            for uri in (path, path.parent):
                with pytest.raises(InputError) as failure:
                    names(uri)
                assert str(failure.value).startswith(f"{str(path)!r}: this name is not valid UTF-8")
                assert "rename" in str(failure.value)

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        put(tmp_path, full___x__json=b"", bare___x__txt=b"", bare____y__json=b"")
        (tmp_path / "empty").mkdir()
        for uri, others in ((tmp_path / "empty", 0), (tmp_path / "bare", 2), (tmp_path / "full/*.csv", 0)):
            with pytest.raises(InputError) as failure:
                names(tmp_path / "full", uri)
            assert str(failure.value).startswith(f"{uri}: nothing to read was found ({others} other files are there); ")
            assert "looked for .json, .jsonl and .ndjson (also .gz or .zst) and .parquet" in str(failure.value)

    def test_an_address_that_is_not_there(self, tmp_path: Path) -> None:
        for uri in (tmp_path / "gone", tmp_path / "gone/x.json"):
            with pytest.raises(InputError, match=f"^{uri}: there is no such file or folder; correct the address"):
                names(uri)
        with pytest.raises(InputError, match="gone: there is no such file or folder"):
            names(tmp_path / "gone/*.json")

    def test_buckets_have_no_wildcards_and_addresses_no_credentials(self) -> None:
        with pytest.raises(InputError, match=r"^s3://b\*/x.json: the name of a bucket cannot be a wildcard"):
            names("s3://b*/x.json")
        with pytest.raises(SettingsError, match="credential"):
            names("s3://key:secret@b/x.json")


class TestCells:
    def test_plain_lines(self, tmp_path: Path) -> None:
        put(tmp_path, a__jsonl=LINES)
        file = take(tmp_path / "a.jsonl", cell_records=30)
        assert (file.format, file.compression, file.staged, file.rows, file.records) == ("jsonl", None, False, 100, 100)
        assert (file.size, file.digest, file.etag) == (len(LINES), hashlib.sha256(LINES).hexdigest(), None)
        assert [(cell.row, cell.rows, cell.records) for cell in file.cells] == [
            (0, 30, 30),
            (30, 30, 30),
            (60, 30, 30),
            (90, 10, 10),
        ]
        for cell in file.cells:
            data = LINES[cell.offset : cell.offset + cell.length]
            assert [json.loads(line) for line in data.splitlines()] == ROWS[cell.row : cell.row + cell.rows]
            assert cell.digest == hashlib.blake2b(data, digest_size=8).hexdigest()

    def test_blank_lines_are_rows_but_no_records(self, tmp_path: Path) -> None:
        row = b'{"prompt": "", "completion": ""}'
        put(tmp_path, a__jsonl=b"\xef\xbb\xbf\n" + row + b"\r\n\r\n \n" + row)
        file = take(tmp_path / "a.jsonl", cell_records=1)
        assert (file.rows, file.records) == (5, 2)
        assert [(c.row, c.rows, c.records, c.offset) for c in file.cells] == [(0, 4, 1, 3), (4, 1, 1, 42)]

    def test_no_cell_is_longer_than_its_limit_except_for_one_record(self, tmp_path: Path) -> None:
        long = [CELL_BYTES // 3] * 4 + [2 * CELL_BYTES, 10, 10]
        put(tmp_path, a__jsonl=b"".join(b'{"prompt": "%s", "completion": ""}\n' % (b"x" * size) for size in long))
        file = take(tmp_path / "a.jsonl", cell_records=100)
        assert [cell.records for cell in file.cells] == [2, 2, 1, 2]
        assert sum(cell.length for cell in file.cells) == file.size

    @pytest.mark.parametrize("data", [b"", b"\n \n\r\n", b"\xef\xbb\xbf"])
    def test_a_file_without_records_is_fine(self, tmp_path: Path, data: bytes) -> None:
        put(
            tmp_path,
            a__jsonl=data,
            b__json__gz=gzip.compress(data, mtime=0),
            c__json=b" [ ]\n",
            d__parquet=parquet_bytes([]),
        )
        for name in ("a.jsonl", "b.json.gz", "c.json", "d.parquet"):
            file = take(tmp_path / name)
            assert (file.records, len(file.cells)) == (0, 0)
        assert take(tmp_path / "a.jsonl").rows == data.count(b"\n")

    def test_what_is_in_a_file_decides_between_lines_and_an_array(self, tmp_path: Path) -> None:
        put(tmp_path, a__json=LINES, b__jsonl=b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode(), c__ndjson=LINES)
        assert [take(tmp_path / name).format for name in ("a.json", "b.jsonl", "c.ndjson")] == [
            "jsonl",
            "json",
            "jsonl",
        ]
        assert take(tmp_path / "b.jsonl").rows == 100

    @pytest.mark.parametrize("kind", ["gz", "zst", "array", "parquet"])
    def test_up_to_eight_cells_are_sliced_and_more_are_staged(self, tmp_path: Path, kind: str) -> None:
        name, data = {
            "gz": ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
            "zst": ("a.jsonl.zst", zstandard.compress(LINES)),
            "array": ("a.json", json.dumps(ROWS).encode()),
            "parquet": ("a.parquet", parquet_bytes(ROWS)),
        }[kind]
        put(tmp_path, **{name.replace(".", "__"): data})
        out = tmp_path / "out"
        few = take(tmp_path / name, cell_records=-(-100 // MAX_REREADS), stage=out)
        assert (len(few.cells), few.staged, out.exists()) == (MAX_REREADS, False, False)
        assert {cell.length for cell in few.cells} == {0}
        dry = take(tmp_path / name, cell_records=10)
        assert (len(dry.cells), dry.staged, out.exists()) == (10, True, False)
        many = take(tmp_path / name, cell_records=10, stage=out)
        assert many.staged
        assert [(c.row, c.rows, c.records) for c in many.cells] == [(c.row, c.rows, c.records) for c in dry.cells]
        copy = (out / many.staged_path).read_bytes()
        assert sum(cell.length for cell in many.cells) == len(copy)
        for cell in many.cells:
            frame = copy[cell.offset : cell.offset + cell.length]
            assert hashlib.blake2b(frame, digest_size=8).hexdigest() == cell.digest
            rows = zstandard.ZstdDecompressor().decompress(frame).splitlines()
            assert [json.loads(row) for row in rows] == ROWS[cell.row : cell.row + cell.rows]
        assert take(tmp_path / name, cell_records=10, stage=tmp_path / "again").cells == many.cells
        assert [path.name for path in out.rglob("*") if path.is_file()] == [Path(many.staged_path).name]

    def test_parquet_row_groups(self, tmp_path: Path) -> None:
        put(tmp_path, a__parquet=parquet_bytes(ROWS, row_group_size=35))
        file = take(tmp_path / "a.parquet", cell_records=20)
        assert [(c.row, c.rows, c.offset, c.group) for c in file.cells] == [
            (0, 17, 0, 0),
            (17, 18, 17, 0),
            (35, 17, 0, 1),
            (52, 18, 17, 1),
            (70, 15, 0, 2),
            (85, 15, 15, 2),
        ]
        assert not file.staged
        assert file.digest == hashlib.sha256((tmp_path / "a.parquet").read_bytes()).hexdigest()

    def test_parquet_cells_follow_the_bytes_of_the_columns_that_are_read(self, tmp_path: Path) -> None:
        rows = [{"prompt": "p", "completion": "c", "other": f"{i}" * (CELL_BYTES // 20)} for i in range(100)]
        put(tmp_path, a__parquet=parquet_bytes(rows, use_dictionary=False))
        assert len(take(tmp_path / "a.parquet", cell_records=1000).cells) == 1
        long = [{"prompt": row["other"], "completion": "c"} for row in rows]
        put(tmp_path, b__parquet=parquet_bytes(long, use_dictionary=False, row_group_size=50))
        assert 4 <= len(take(tmp_path / "b.parquet", cell_records=1000).cells) <= 14

    def test_a_file_that_did_not_change_is_known_again(self, tmp_path: Path) -> None:
        put(tmp_path, a__jsonl=LINES)
        before = take(tmp_path / "a.jsonl")
        put(tmp_path, a__jsonl=LINES)
        assert same_content(before, take(tmp_path / "a.jsonl"))
        put(tmp_path, a__jsonl=LINES.replace(b"p 9", b"p 8"))
        assert not same_content(before, take(tmp_path / "a.jsonl"))


class TestShapes:
    def test_a_mapping(self, tmp_path: Path) -> None:
        put(tmp_path, a__jsonl=b'{"q": "x", "a": "y"}\n')
        with pytest.raises(InputError, match=r"a\.jsonl: its columns \(a, q\) fit no known shape .*--columns"):
            take(tmp_path / "a.jsonl")
        file = take(tmp_path / "a.jsonl", columns={"instruction": "q", "response": "a"})
        assert (file.shape.kind, file.shape.columns) == ("columns", {"instruction": "q", "response": "a"})

    @pytest.mark.parametrize("array", [False, True])
    def test_an_optional_column_that_begins_late(self, tmp_path: Path, array: bool) -> None:
        rows = [*ROWS, {"prompt": "p", "completion": "c", "context": "late"}]
        data = json.dumps(rows) if array else "\n".join(map(json.dumps, rows))
        put(tmp_path, a__json=data.encode())
        file = take(tmp_path / "a.json", cell_records=50)
        cells = read_cells(file, file.cells, source=input_storage(str(tmp_path / "a.json")))
        last = [to_record(row, file.shape, place, multi_turn="pass") for place, row in cells][-1]  # type: ignore[arg-type]
        assert isinstance(last, Record)
        assert last.instruction == "p\nlate"

    @pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
    def test_a_mapped_optional_column_that_is_not_there(self, tmp_path: Path, name: str) -> None:
        rows = [{"q": "x", "a": "y"}] * 3
        data = parquet_bytes(rows) if name.endswith("t") else b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"{name}: there is no column 's' in it for --columns system=s .*correct"):
            take(tmp_path / name, columns={"instruction": "q", "response": "a", "system": "s"})

    @pytest.mark.parametrize("cell_records", [1, 100])
    def test_parquet_has_its_system_and_history_read(self, tmp_path: Path, cell_records: int) -> None:
        """Staged and not."""
        spoken = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        chats = [{"messages": spoken, "system_prompt": "s", "id": 1}] * 10
        pairs = [{"prompt": "q", "completion": "a", "system": "s", "history": [["q0", "a0"]], "id": 1}] * 10
        put(tmp_path, a__parquet=parquet_bytes(chats), b__parquet=parquet_bytes(pairs))
        for name, said in (("a.parquet", ["s", "q", "a"]), ("b.parquet", ["s", "q0", "a0", "q", "a"])):
            file = take(tmp_path / name, cell_records=cell_records, stage=tmp_path / "out")
            assert file.staged == (cell_records == 1)
            stage = Storage.at(str(tmp_path / "out"), error=StorageError)
            cells = read_cells(file, file.cells, source=input_storage(str(tmp_path / name)), stage=stage)
            for place, row in cells:
                assert not isinstance(row, Reject)
                assert "id" not in row
                made = to_record(row, file.shape, place, multi_turn="pass")
                assert isinstance(made, Record)
                assert [message.content for message in made.messages] == said

    def test_parquet_by_its_schema(self, tmp_path: Path) -> None:
        turn = {"from": "human", "value": "x"}
        put(tmp_path, a__parquet=parquet_bytes([{"conversations": [turn]}]), b__parquet=parquet_bytes([{"q": "x"}]))
        assert take(tmp_path / "a.parquet").shape.kind == "conversations"
        with pytest.raises(InputError, match=r"b\.parquet: its columns \(q\) fit no known shape"):
            take(tmp_path / "b.parquet")

    def test_rows_that_are_no_objects_do_not_hide_the_shape(self, tmp_path: Path) -> None:
        put(tmp_path, a__jsonl=b"oops\n" * 200 + LINES)
        file = take(tmp_path / "a.jsonl")
        assert (file.shape.kind, file.records) == ("prompt", 300)

    def test_a_file_without_any_object_is_refused(self, tmp_path: Path) -> None:
        put(tmp_path, a__json=json.dumps({"data": ROWS}, indent=1).encode(), b__json=b'["x", 1]')
        with pytest.raises(InputError, match=r"a\.json: not one of its rows is a JSON object \(row 0: .*write one"):
            take(tmp_path / "a.json")
        with pytest.raises(InputError, match=r"b\.json: not one of its rows is a JSON object \(row 0: it is of"):
            take(tmp_path / "b.json")


class TestDamage:
    @pytest.mark.parametrize(
        ("name", "data", "words"),
        [
            ("a.jsonl.gz", gzip.compress(LINES, mtime=0)[:-20], "the gzip data is cut off at byte"),
            ("a.jsonl.zst", zstandard.compress(LINES)[:-20], "the zstd data is cut off at byte"),
            ("a.json", json.dumps(ROWS).encode()[:-20], "the JSON array is cut off, at byte"),
            (
                "a.json.gz",
                gzip.compress(json.dumps(ROWS).encode()[:-20], mtime=0),
                "the JSON array is cut off, at byte",
            ),
            ("a.jsonl.gz", LINES, "this is not packed with gzip"),
            ("a.jsonl", gzip.compress(LINES, mtime=0), "this is packed with gzip; add .gz to its name"),
            ("a.jsonl", parquet_bytes(ROWS), "this is a Parquet file; name it .parquet"),
            ("a.parquet", parquet_bytes(ROWS)[:-20], "this is no Parquet file that can be read"),
            ("a.parquet", parquet_bytes(ROWS)[:20], "this is no Parquet file that can be read"),
            ("a.parquet", LINES, "this is no Parquet file that can be read"),
            ("a.parquet", b"", "this is no Parquet file that can be read"),
        ],
    )
    def test_damaged_files_are_named(self, tmp_path: Path, name: str, data: bytes, words: str) -> None:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as failure:
            take(tmp_path / name, stage=tmp_path / "out")
        assert str(failure.value).startswith(f"{tmp_path / name}: ")
        assert words in str(failure.value)
        assert "leave" in str(failure.value)
        assert not (tmp_path / "out").exists()

    def test_a_link_that_leads_nowhere(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone")
        (found,) = find_inputs([str(tmp_path)]).files
        with pytest.raises(InputError, match=r"a\.jsonl: this is a link to something that is not there"):
            take_inventory(found, source=input_storage(str(tmp_path)), cell_records=10)

    def test_a_directory_in_place_of_a_file(self, tmp_path: Path) -> None:
        put(tmp_path, a__jsonl=LINES)
        (found,) = find_inputs([str(tmp_path)]).files
        (tmp_path / "a.jsonl").unlink()
        (tmp_path / "a.jsonl").mkdir()
        with pytest.raises(InputError, match=r"a\.jsonl: this is a directory, where a file is needed"):
            take_inventory(found, source=input_storage(str(tmp_path)), cell_records=10)

    def test_a_file_that_is_still_being_written(self, tmp_path: Path) -> None:
        put(tmp_path, a__jsonl=LINES)
        (found,) = find_inputs([str(tmp_path)]).files
        put(tmp_path, a__jsonl=LINES + LINES)
        with pytest.raises(InputError, match=rf"it had {len(LINES)} bytes when it was found and {2 * len(LINES)} when"):
            take_inventory(found, source=input_storage(str(tmp_path)), cell_records=10)

    def test_no_room_for_the_staged_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        put(tmp_path, a__jsonl__gz=gzip.compress(LINES, mtime=0))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
        with pytest.raises(StorageError, match=r"gone: a copy of an input file cannot be written here .*set TMPDIR"):
            take(tmp_path / "a.jsonl.gz", cell_records=1, stage=tmp_path / "out")
