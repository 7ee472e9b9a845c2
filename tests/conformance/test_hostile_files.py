"""Names, links and Parquet files that were made to do harm: a whole run, checked and explained, or a refusal."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from click.testing import CliRunner

from mosaic_ray.cli import app
from mosaic_ray.errors import InputError, MosaicError, SettingsError
from tests.conftest import write_jsonl
from tests.integration.conftest import S3Server

STEMS = [
    "with space", " lead", "trail ", "quo'te\"", "hash#", "per%cent", "per%2Fcent", "que?stion", "dots..", "semi;colon",
    "`id` $(id) $HOME", "br[ack]et", "star*", "back\\slash", "-dash", "--output", "~tilde", "{brace}", "<b>", "pipe|",
    "a&b=c", "a+b", "a,b", "a::b:7", "=1+1", "s3:nope", "emoji😀", "שלום", "rtl\u202egnp", "line\u2028sep", "tab\t",
    "esc\x1b[31mred\x07", "del\x7f", "CON", "nf" + unicodedata.normalize("NFC", "é"),
    "nf" + unicodedata.normalize("NFD", "é"), "é" * 120,
]  # fmt: skip
LOCAL = [*STEMS, "new\nline", "x" * 249]
KEYS = [*STEMS, "dir//two", "k" * 900]
WORST = "a 'b\" #%2F?[c]*\\ \n\x1b[31m\u202e😀 $(id) --output"


class Done(NamedTuple):
    """What a command ended with. error: None where it went well."""

    error: BaseException | None
    output: str


def command(*arguments: str) -> Done:
    """A command of the command line, in this process."""
    result = CliRunner().invoke(app, arguments)
    return Done(result.exception, result.output)


def run(source: object, output: object, *more: str) -> Done:
    places = ("--input", str(source), "--output", str(output))
    return command("run", *places, "--tokenizer", "embedded", "--engine", "in-process", *more)


def refused(done: Done, kind: type[MosaicError], *words: str) -> None:
    assert isinstance(done.error, kind), done.error
    assert [word for word in words if word not in str(done.error)] == [], str(done.error)


def rows(mark: object, count: int = 12) -> list[dict[str, str]]:
    return [{"prompt": f"Say {mark} and {n}.", "completion": f"{mark}: {n}."} for n in range(count)]


def checked(source: object, output: str, files: Sequence[str], read: Callable[[str], bytes]) -> None:
    """A run over the source uses these files, is verified, and is explained without a control character."""
    assert run(source, output, "--task-records", "256").error is None
    manifest = json.loads(read("manifest.json"))
    assert sorted(file["name"] for file in manifest["inventory"]) == sorted(files)
    assert all(epoch["sum"] == manifest["accounting"]["records"] for epoch in manifest["accounting"]["epochs"])
    verified = command("verify", output, "--recompute", "1", "--engine", "in-process")
    assert verified.error is None
    for part in manifest["parts"][:2]:
        explained = command("explain", f"{output}/{part['name']}:0")
        assert explained.error is None
        assert not set(explained.output) & set("\x1b\x07\x7f\u202e\u2028\t")
    again = run(source, output, "--task-records", "256")
    assert (again.error, json.loads(read("manifest.json"))) == (None, manifest)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "server.log")
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


class TestNames:
    def test_of_files_on_a_disk(self, tmp_path: Path) -> None:
        for number, stem in enumerate(LOCAL):
            write_jsonl(tmp_path / "in" / f"{stem}.jsonl", rows(number))
        out = tmp_path / "out"
        checked(tmp_path / "in", str(out), [f"{stem}.jsonl" for stem in LOCAL], lambda name: (out / name).read_bytes())

    def test_of_one_file_and_of_an_output(self, tmp_path: Path) -> None:
        file, out = tmp_path / "in" / f"{WORST}.jsonl", tmp_path / WORST / "out"
        write_jsonl(file, rows("it"))
        checked(file, str(out), [file.name], lambda name: (out / name).read_bytes())
        assert "\x1b" not in (out / "report.html").read_text(encoding="utf-8")

    def test_of_keys_in_a_store(self, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket("names")
        for number, stem in enumerate(KEYS):
            body = "".join(json.dumps(row) + "\n" for row in rows(number, 5))
            server.client.put_object(Bucket=bucket, Key=f"in/{stem}.jsonl", Body=body.encode())
        output = f"out/{WORST}".replace("\n", "")
        files = [f"{stem}.jsonl" for stem in KEYS]
        checked(f"s3://{bucket}/in/", f"s3://{bucket}/{output}", files, lambda n: server.read(bucket, f"{output}/{n}"))


class TestLinks:
    def used(self, output: Path) -> list[str]:
        return [file["name"] for file in json.loads((output / "manifest.json").read_bytes())["inventory"]]

    def test_that_lead_up_or_in_a_circle_are_followed_once(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "sub" / "a.jsonl", rows("a"))
        (tmp_path / "in" / "sub" / "up").symlink_to(tmp_path / "in")
        (tmp_path / "in" / "here").symlink_to(".")
        (tmp_path / "in" / "one").symlink_to("other")
        (tmp_path / "in" / "other").symlink_to("one")
        assert run(tmp_path / "in", tmp_path / "out").error is None
        assert self.used(tmp_path / "out") == ["sub/a.jsonl"]

    def test_to_themselves_are_refused(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", rows("a"))
        (tmp_path / "in" / "b.jsonl").symlink_to("c.jsonl")
        (tmp_path / "in" / "c.jsonl").symlink_to("b.jsonl")
        refused(run(tmp_path / "in", tmp_path / "out"), InputError, "b.jsonl", "leads back to itself")
        assert not (tmp_path / "out" / "manifest.json").exists()


class TestTheOutputInTheInput:
    @pytest.mark.parametrize(
        ("source", "output"),
        [
            ("in", "in/out"),
            ("in/", "in/out/"),
            ("in", "in/x/../out"),
            ("in/x/..", "in/out"),
            ("in/**", "in/out"),
            ("in/**/*.jsonl", "in/out"),
            ("link", "in/out"),
            ("in", "link/out"),
        ],
    )
    def test_is_refused_by_whatever_way_it_is_told(self, tmp_path: Path, source: str, output: str) -> None:
        write_jsonl(tmp_path / "in" / "x" / "a.jsonl", rows("a"))
        (tmp_path / "link").symlink_to("in")
        before = sorted(os.walk(tmp_path))
        refused(run(f"{tmp_path}/{source}", f"{tmp_path}/{output}"), SettingsError, "holds the output")
        assert sorted(os.walk(tmp_path)) == before

    @pytest.mark.parametrize("source", ["in/*", "in/x*/*", "elsewhere"])
    def test_is_refused_where_only_its_files_would_be_read(self, tmp_path: Path, source: str) -> None:
        write_jsonl(tmp_path / "in" / "xy" / "z" / "a.jsonl", rows("a"))
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "in")
        output = tmp_path / "in" / "xy" / "out"
        assert run(tmp_path / "in" / "xy" / "z", output).error is None
        before = (output / "manifest.json").read_bytes()
        refused(run(tmp_path / source, output), SettingsError, "lies in the output", "Give an --output outside")
        assert (output / "manifest.json").read_bytes() == before

    def test_is_found_out_under_another_name_of_the_protocol(
        self, server: S3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket("alias")
        server.client.put_object(Bucket=bucket, Key="x/a.jsonl", Body=b'{"prompt": "a", "completion": "b"}\n')
        refused(run(f"s3a://{bucket}/x", f"s3://{bucket}/x/out"), SettingsError, "holds the output")


class TestWhatIsNoFile:
    def test_a_pipe_is_refused_and_not_waited_for(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", rows("a"))
        os.mkfifo(tmp_path / "in" / "b.jsonl")
        refused(run(tmp_path / "in", tmp_path / "out"), InputError, "b.jsonl: this is a pipe, a socket or a device")

    def test_one_file_by_two_names_is_refused(self, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", rows("a"))
        (tmp_path / "in" / "b.jsonl").symlink_to(tmp_path / "in" / "a.jsonl")
        words = (f"{tmp_path}/in/a.jsonl and {tmp_path}/in/b.jsonl, which are one file, twice", "read twice")
        refused(run(tmp_path / "in", tmp_path / "out"), SettingsError, *words)


class TestParquet:
    def table(self) -> pa.Table:
        return pa.Table.from_pylist([{"prompt": f"Say {n}.", "completion": f"{n} it is."} for n in range(200)])

    @pytest.mark.parametrize("task_records", ["64", "8192"], ids=["staged", "read again"])
    def test_a_damaged_page_stops_the_run_and_a_copy_lets_it_go_on(self, tmp_path: Path, task_records: str) -> None:
        """Of a file that is not staged nothing but the footer is read before the tasks."""
        pq.write_table(self.table(), tmp_path / "good.parquet", write_page_checksum=True, compression="none")
        whole = (tmp_path / "good.parquet").read_bytes()
        place = whole.index(b"Say 150.")
        source, out = tmp_path / "in" / "a.parquet", tmp_path / "out"
        source.parent.mkdir()
        source.write_bytes(whole[:place] + b"LIE" + whole[place + 3 :])
        words = ("a.parquet: ", "CRC checksum verification failed", "copy it again, or leave it out")
        refused(run(source, out, "--task-records", task_records), InputError, *words)
        assert not (out / "manifest.json").exists()
        assert list(out.glob("data/*")) == []
        source.write_bytes(whole)
        assert run(source, out, "--task-records", task_records).error is None

    def test_kinds_of_text_give_the_same_data_set(self, tmp_path: Path) -> None:
        digests = set()
        kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
        for number, kind in enumerate(kinds):
            folder = tmp_path / str(number)
            (folder / "in").mkdir(parents=True)
            table = self.table().cast(pa.schema([("prompt", kind), ("completion", kind)]))
            pq.write_table(table.append_column("id", pa.nulls(200)), folder / "in" / "a.parquet", row_group_size=200)
            assert run(folder / "in", folder / "out").error is None
            digests.add(json.loads((folder / "out" / "manifest.json").read_bytes())["dataset_digest"])
        assert len(digests) == 1

    def test_rows_without_text_are_rejected_alike_when_they_are_read_again(self, tmp_path: Path) -> None:
        """Staged for the run, read from the file by verify."""
        texts = pa.array([f"Say {n}." if n % 7 else None for n in range(200)])
        odd = pa.array([b"\xff" * 16] * 10 + [b"u" * 16] * 10, pa.binary(16)).cast(pa.uuid())
        (tmp_path / "in").mkdir()
        pq.write_table(pa.table({"prompt": texts, "completion": texts}), tmp_path / "in" / "a.parquet")
        pq.write_table(pa.table({"prompt": odd, "completion": ["c"] * 20}), tmp_path / "in" / "b.parquet")
        out = tmp_path / "out"
        assert run(tmp_path / "in", out, "--task-records", "64", "--max-reject-share", "0.5").error is None
        manifest = json.loads((out / "manifest.json").read_bytes())
        assert manifest["rejects"]["by_reason"] == {"not_a_string": 29 + 20}
        assert command("verify", str(out), "--engine", "in-process").error is None
