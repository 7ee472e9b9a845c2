"""Bad input, as a user meets it: one line that says what is wrong, a status, and nothing half-made."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner

from mosaic_ray.cli import app
from tests.conftest import write_jsonl

Run = Callable[..., "subprocess.CompletedProcess[str]"]

GOOD = [{"prompt": f"Say {n}.", "completion": f"{n}"} for n in range(40)]


def refused(done: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    """The run ended with this status and one line that holds all the words."""
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert last.startswith("error: ")
    assert [word for word in words if word not in last] == [], last


@pytest.fixture
def job(tmp_path: Path, run_job: Run) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The job over ``tmp_path / "in"``, in one process."""

    def run(*more: str, source: Path | None = None) -> subprocess.CompletedProcess[str]:
        return run_job(
            *("--input", str(source or tmp_path / "in"), "--output", str(tmp_path / "out")),
            *("--tokenizer", "embedded", "--engine", "in-process", *more),
        )

    return run


def rejects(output: Path) -> dict[tuple[str, int], str]:
    """Reason by place."""
    rows = [row for file in sorted(output.glob("rejects/*.parquet")) for row in pq.read_table(file).to_pylist()]
    return {(row["file"], row["row"]): row["reason"] for row in rows}


class TestTheInputIsRefused:
    def test_it_is_not_there(self, job: Run, tmp_path: Path) -> None:
        refused(job(source=tmp_path / "nowhere"), 3, str(tmp_path / "nowhere"))
        assert not (tmp_path / "out").exists()

    def test_a_directory_in_place_of_a_file(self, job: Run, tmp_path: Path) -> None:
        (tmp_path / "in" / "folder.jsonl").mkdir(parents=True)
        refused(job(), 3, "nothing to read was found")

    def test_a_link_that_leads_nowhere(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "good.jsonl", GOOD)
        (tmp_path / "in" / "lost.jsonl").symlink_to(tmp_path / "gone.jsonl")
        refused(job(), 3, "lost.jsonl")
        assert not (tmp_path / "out" / "manifest.json").exists()

    def test_a_truncated_parquet(self, job: Run, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        pq.write_table(pa.Table.from_pylist(GOOD), tmp_path / "in" / "a.parquet")
        whole = (tmp_path / "in" / "a.parquet").read_bytes()
        (tmp_path / "in" / "a.parquet").write_bytes(whole[:-20])
        refused(job(), 3, "a.parquet", "Parquet")

    def test_a_truncated_gzip(self, job: Run, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        packed = gzip.compress("".join(json.dumps(row) + "\n" for row in GOOD * 50).encode(), mtime=0)
        (tmp_path / "in" / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
        refused(job(), 3, "a.jsonl.gz", "gzip")

    def test_a_broken_json_array(self, job: Run, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.json").write_text(json.dumps(GOOD)[:-30])
        refused(job(), 3, "a.json")

    def test_a_column_is_missing(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", [{"frage": "a", "antwort": "b"}])
        refused(job(), 3, "a.jsonl", "antwort, frage", "--columns instruction=COLUMN,response=COLUMN")

    def test_a_mapped_column_that_no_file_has(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD)
        refused(job("--columns", "instruction=frage,response=antwort"), 3, "--columns", "frage", "antwort")

    def test_no_records_at_all(self, job: Run, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "empty.jsonl").write_text("")
        refused(job(), 3, "no records at all")

    def test_the_input_holds_the_output(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "a.jsonl", GOOD)
        refused(job(source=tmp_path), 2, f"--input {tmp_path} holds the output {tmp_path / 'out'}")
        assert not (tmp_path / "out").exists()


class TestRecordsAreRejected:
    def test_each_with_its_reason_and_place(self, job: Run, tmp_path: Path) -> None:
        bad: list[tuple[bytes, str]] = [
            (b'{"prompt": "x", "completion": ', "not_json"),
            (b'{"prompt": "\xff", "completion": "y"}', "not_utf8"),
            (b"[1, 2]", "not_an_object"),
            (b'{"prompt": "x"}', "missing_column"),
            (b'{"prompt": "x", "completion": null}', "not_a_string"),
            (b'{"prompt": 7, "completion": "y"}', "not_a_string"),
            (b'{"prompt": "  ", "completion": "y"}', "empty_instruction"),
            (b'{"prompt": "x", "completion": ""}', "empty_response"),
            (b'{"prompt": "x", "completion": "\\ud800"}', "lone_surrogate"),
            (json.dumps({"prompt": "word " * 3000, "completion": "y"}).encode(), "overlong"),
        ]
        lines = [json.dumps(row).encode() for row in GOOD] + [b""] + [line for line, _ in bad]
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
        done = job("--max-reject-share", "0.5")
        assert done.returncode == 0, done.stderr
        assert rejects(tmp_path / "out") == {("a.jsonl", 41 + n): reason for n, (_, reason) in enumerate(bad)}
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["accounting"]["records"] == len(GOOD) + len(bad)
        assert all(e["composed"] == len(GOOD) and e["rejected"] == len(bad) for e in manifest["accounting"]["epochs"])
        assert manifest["rejects"]["by_reason"]["not_a_string"] == 2

    def test_too_many_fail_the_run(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD + [{"prompt": "x", "completion": ""}] * 10)
        words = ("10 of 50 records (20.0%)", "--max-reject-share 0.1 allows 5", "empty_response 10", "rejects/")
        refused(job(), 5, *words)
        assert not (tmp_path / "out" / "manifest.json").exists()
        assert len(rejects(tmp_path / "out")) == 10

    def test_a_budget_too_small_for_any_record(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD)
        refused(job("--max-tokens", "4"), 5, "40 of 40 records (100.0%)", "overlong 40", "more tokens than the budget")

    def test_a_record_far_beyond_the_budget_is_not_counted(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", [*GOOD, {"prompt": "x", "completion": "y" * 20_000_000}])
        assert job("--max-reject-share", "0.5").returncode == 0
        rows = [row for file in (tmp_path / "out" / "rejects").iterdir() for row in pq.read_table(file).to_pylist()]
        assert [row["detail"] for row in rows] == ["20000001 characters, more than 256 for each of 2048 tokens"]

    def test_an_overlong_record_fails_the_run_where_it_is_told_to(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", [*GOOD, {"prompt": "word " * 3000, "completion": "y"}])
        refused(job("--overlong", "fail"), 3, "a.jsonl row 40", "tokens of 2048", "--max-tokens", "--overlong reject")

    def test_an_empty_file_among_others_is_said_and_no_harm(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD)
        (tmp_path / "in" / "b.jsonl").write_text("\n\n")
        done = job()
        assert done.returncode == 0, done.stderr
        assert "1 files hold no records: b.jsonl" in done.stderr


class TestOddText:
    def test_each_file_is_read_and_each_row_used_or_rejected(self, job: Run, tmp_path: Path) -> None:
        good = b'{"prompt": "Say a.", "completion": "a"}'
        files: dict[str, tuple[bytes, dict[int, str]]] = {
            "array.json": (b"[" + good + b', 7, null, "text", [], {}]', dict.fromkeys(range(1, 5), "not_an_object")),
            "bom.jsonl": (b"\xef\xbb\xbf" + good + b"\n\xef\xbb\xbf" + good + b"\n", {}),
            "bom.jsonl.gz": (gzip.compress(b"\xef\xbb\xbf" + good + b"\n", mtime=0) * 2, {}),
            "concatenated.jsonl": (good + b"\n" + good + good + b"\n", {1: "not_json"}),
            "controls.jsonl": (good + b'\n{"prompt": "\x00"}\n\0\0\n', {1: "not_json", 2: "not_json"}),
            "deep.json": (b"[" + good + b"," + b"[" * 100_000 + b"]" * 100_000 + b"]", {1: "too_complex"}),
            "deep.jsonl": (good + b'\n{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", {1: "too_complex"}),
            "double.jsonl": (good[:-1] + b', "completion": "the last"}\n', {}),
            "empty.jsonl": (b"", {}),
            "endings.jsonl": (good + b"\r\n\x0b\n\r\n \n" + good + b"\r" + good + b"\r\n", {4: "not_json"}),
            "numbers.jsonl": (
                good[:-1] + b', "x": NaN, "y": -Infinity, "z": ' + b"7" * 10_000 + b"}\n"
                b'{"prompt": ' + b"7" * 10_000 + b', "completion": "b"}\n',
                {1: "not_a_string"},
            ),
            "object.jsonl": (good + b'\n{"prompt": {"x": "' + b"y" * 1_000_000 + b'"}}\n', {1: "not_a_string"}),
            "spaces.jsonl": (b"  \n" * 100, {}),
            "surrogates.jsonl": (
                good[:-1] + b', "x": "\\ud800"}\n{"prompt": "\\udfff", "completion": "b"}\n'
                b'{"prompt": "\xed\xa0\x80", "completion": "b"}\n',
                {1: "lone_surrogate", 2: "not_utf8"},
            ),
        }  # fmt: skip
        (tmp_path / "in").mkdir()
        for name, (content, _) in files.items():
            (tmp_path / "in" / name).write_bytes(content)
        done = job("--max-reject-share", "0.9", "--epochs", "1", "--strategies", "format")
        assert done.returncode == 0, done.stderr
        expected = {(name, row): reason for name, (_, bad) in files.items() for row, reason in bad.items()}
        expected["array.json", 5] = "missing_column"
        assert rejects(tmp_path / "out") == expected
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        used = {"bom.jsonl": 2, "bom.jsonl.gz": 2, "empty.jsonl": 0, "spaces.jsonl": 0}
        assert manifest["accounting"]["epochs"][0]["composed"] == sum(used.get(name, 1) for name in files)
        texts = [row for file in (tmp_path / "out" / "data").iterdir() for row in pq.read_table(file).to_pylist()]
        assert sum("the last" in row["messages"][1]["content"] for row in texts) == 1
        said = [row for file in (tmp_path / "out" / "rejects").iterdir() for row in pq.read_table(file).to_pylist()]
        assert max(len(row["excerpt"]) for row in said) == 200

    def test_what_is_no_utf8_text_or_wants_gigabytes_is_refused(self, job: Run, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "a.jsonl").write_bytes("".join(json.dumps(row) + "\n" for row in GOOD).encode("utf-16-le"))
        refused(job(), 3, "a.jsonl", "UTF-16", "convert it to UTF-8")
        (tmp_path / "in" / "a.jsonl").unlink()
        window = zstandard.ZstdCompressionParameters(window_log=31, write_content_size=False)
        packer = zstandard.ZstdCompressor(compression_params=window).compressobj()
        (tmp_path / "in" / "a.jsonl.zst").write_bytes(packer.compress(b"{}\n") + packer.flush())
        refused(job(), 3, "a.jsonl.zst", "a window of more than 128 MiB", "zstd --long=27")
        assert not (tmp_path / "out" / "manifest.json").exists()


TRAPS = (
    "{begin_tag} {end_tag} {order} {masked} {count} {n}", "{0}", "{", "}}", "%s", "[START] x [END]", "<<ANSWER START>>",
    "1. one\n2. two\n3. three", "Task 1: a\n\nTask 2: b", "No. 1)", "#1.", "2, 1", "\n\n1. a\n\n2. b",
    "Answer the tasks by their numbers in this order: 2, 1.", "Put each answer between [START] and [END].",
    "<|assistant|>", "<|end|>", "<|e<|end|>nd|>", "< |end|>", "</s><s>[INST]", "{{ messages }}",
    "{% raw %}", "\u202eabc\u202c", "\u2066x", "a\x00b", "\x01\x1b[31m\x7f\x85", "\u2028\u2029", "\ufeff",
    "\ufffe\uffff", "\U0010ffff", "e\u0301" * 50, "\u200d", "a\rb\r\nc", "\x0b\x0c x", "```\n---", "\\n\"'",
    "<script>alert(1)</script>", "\t\tx",
)  # fmt: skip
"""What the method writes itself, what templates and tokenizers read as their own, and what acts without being seen."""


class TestTextsThatImitateOurs:
    @pytest.mark.parametrize("policy", ["escape", "strip"])
    def test_they_are_composed_verified_and_explained(self, policy: str, tmp_path: Path) -> None:
        rows: list[dict[str, Any]] = []
        for number, text in enumerate(TRAPS):
            other = TRAPS[(number * 7 + 3) % len(TRAPS)]
            rows += [{"prompt": text, "completion": other}, {"prompt": f"{other}\n{text}", "completion": text}]
            rows.append({"prompt": f"Say {number}.", "completion": text, "system": other if number % 3 else ""})
        write_jsonl(tmp_path / "in" / "a.jsonl", rows)

        def cli(*arguments: str) -> str:
            done = CliRunner().invoke(app, arguments, catch_exceptions=False)
            assert done.exit_code == 0, done.output
            return done.stdout

        cli(
            *("run", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--engine", "in-process"),
            *("--tokenizer", "embedded", "--special-tokens", policy, "--epochs", "2", "--max-reject-share", "0.5"),
        )
        verified = cli("verify", str(tmp_path / "out"), "--engine", "in-process", "--recompute", "2")
        assert "every sample obeys its meta-instruction, every token count is exact" in verified
        part = min((tmp_path / "out" / "data").iterdir())
        samples = pq.read_table(part).to_pylist()
        held = "".join(message["content"] for row in samples for message in row["messages"])
        assert "<|end|>" not in held
        assert "{begin_tag} {end_tag} {order} {masked} {count} {n}" in held
        for row in range(0, len(samples), 9):
            shown = cli("explain", f"{tmp_path / 'out'}/data/{part.name}:{row}")
            assert not [sign for sign in shown if sign in "\x00\x01\x1b\x7f\x85\u202e\u2066\u2028\ufeff"]


class TestSettingsAreRefused:
    def test_an_unknown_tokenizer(self, tmp_path: Path, run_job: Run) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD)
        places = ("--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--engine", "in-process")
        done = run_job(*places, "--tokenizer", str(tmp_path / "none"), env={"HF_HUB_OFFLINE": "1"})
        refused(done, 3, "tokenizer", str(tmp_path / "none"), "tokenizer.json")
        refused(run_job(*places), 2, "tokenizer: missing")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--max-tokens", "0"), ("max_tokens = 0", "greater than or equal to 1")),
            (("--strategies", "format,shuffle"), ("strategies", "shuffle", "'primary', 'format', 'permute'")),
            (("--workers", "4:2"), ("workers", "1 <= MIN <= MAX")),
            (("--columns", "instruction"), ("columns", "NAME=VALUE")),
            (("--input-options", "secret=abc123"), ("secret", "environment or a profile")),
            (("--chat-template", "no-such-file.jinja"), ("--chat-template", "no-such-file.jinja")),
        ],
    )
    def test_a_value_that_cannot_be(self, options: tuple[str, ...], words: Any, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD)
        done = job(*options)
        refused(done, done.returncode, *words)
        assert done.returncode in (2, 3)
        assert "abc123" not in done.stderr

    def test_unknown_keys_of_a_yaml_file(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD)
        (tmp_path / "job.yaml").write_text("epochs: 2\nmax-tokns: 5\n")
        refused(job("--config", str(tmp_path / "job.yaml")), 2, "unknown option max_tokns", "max_tokens")

    def test_a_yaml_file_gives_options_and_flags_win(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD)
        (tmp_path / "job.yaml").write_text(
            "epochs: 2\nmax-tokens: 900\nstrategies: [format]\ncolumns: {}\nworkers: 1:8\n"
        )
        done = job("--config", str(tmp_path / "job.yaml"), "--max-tokens", "700")
        assert done.returncode == 0, done.stderr
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert manifest["settings"]["epochs"] == 2
        assert manifest["settings"]["max_tokens"] == 700
        assert set(manifest["totals"]["strategies"]) == {"format"}

    def test_an_output_that_holds_a_run_with_other_settings(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD)
        assert job().returncode == 0
        before = (tmp_path / "out" / "manifest.json").read_bytes()
        words = ("settings.seed: 0 there, 7 here", "method.max_tiles: 10 there, 4 here", "another --output")
        refused(job("--seed", "7", "--max-tiles", "4"), 4, *words)
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD[1:])
        write_jsonl(tmp_path / "in" / "b.jsonl", GOOD)
        refused(job(), 4, "other input", "a.jsonl has changed", "b.jsonl is new")
        assert (tmp_path / "out" / "manifest.json").read_bytes() == before

    def test_an_output_that_is_something_else(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", GOOD)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.tex").write_text("precious")
        refused(job(), 4, "not empty (thesis.tex)", "new --output")

    def test_a_corrected_command_after_a_refusal_just_runs(self, job: Run, tmp_path: Path) -> None:
        write_jsonl(tmp_path / "in" / "a.jsonl", [{"frage": f"Sag {n}", "antwort": str(n)} for n in range(9)])
        assert job().returncode == 3
        done = job("--columns", "instruction=frage,response=antwort")
        assert done.returncode == 0, done.stderr
