"""The checks of the doctor on local disks and on figures; stores and clusters are in tests/integration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mosaic_ray.config import Execution, Job, Workers, job_from
from mosaic_ray.errors import SettingsError, StorageError
from mosaic_ray.io.cells import FoundFile
from mosaic_ray.io.storage import Storage
from mosaic_ray.methods.catalog import METHODS
from mosaic_ray.runtime.doctor import checks as doctor
from mosaic_ray.runtime.doctor.cluster import _cpus, _memory
from mosaic_ray.runtime.doctor.finding import Finding, amount, room, skewed
from mosaic_ray.runtime.engine import Node
from mosaic_ray.runtime.lease import hold
from tests.conftest import job_environment, write_jsonl
from tests.forked import Ended, run_forked


def job(source: Path | list[Path], output: Path | str, **options: Any) -> Job:
    inputs = [str(place) for place in (source if isinstance(source, list) else [source])]
    named = {"tokenizer": "embedded", "engine": "in-process", **options}
    return job_from({"input": inputs, "output": str(output), **named}, METHODS["mosaic-it"])


def of_input(job: Job) -> list[Finding]:
    output = Storage.at(job.places.output, error=StorageError)
    return list(doctor.check_input(job, output, []))


def of_output(place: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in doctor.check_output(Storage.at(str(place), error=StorageError))}


def marks(findings: dict[str, Finding]) -> str:
    """The first letters, in the order of the checks."""
    return "".join(finding.mark[0] for finding in findings.values())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "sft" / "a.jsonl", [{"prompt": "one", "completion": "two"}])
    (tmp_path / "sft" / "b.jsonl").touch()
    return tmp_path / "sft"


@contextmanager
def nobody() -> Iterator[None]:
    """As a user who has no rights here; root has all."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


class TestInput:
    def test_files_are_counted_and_one_is_read(self, source: Path, tmp_path: Path) -> None:
        assert of_input(job(source, tmp_path / "out")) == [
            ("ok", "input", f"{source}: 2 files, 39 bytes; a.jsonl can be read", "")
        ]

    def test_of_several_each_has_its_line(self, source: Path, tmp_path: Path) -> None:
        fine, missing = of_input(job([source, tmp_path / "none"], tmp_path / "out"))
        assert fine == ("ok", "input", f"{source}: 2 files, 39 bytes", "")
        assert missing.mark == "failed"
        assert missing.found == f"{tmp_path}/none: there is no such file or folder; correct the address."

    def test_what_is_wrong_with_them_together(self, source: Path, tmp_path: Path) -> None:
        findings = of_input(job([source, source / "a.jsonl"], tmp_path / "out"))
        assert [finding.mark for finding in findings] == ["ok", "ok", "failed"]
        assert "each of its records would be read twice: give it once" in findings[-1].found
        *_, inside = of_input(job(source, source / "out"))
        assert inside.mark == "failed"
        assert "Give an --output outside of the input" in inside.found

    def test_a_file_that_cannot_be_read(self, source: Path, tmp_path: Path) -> None:
        (source / "a.jsonl").unlink()
        (source / "a.jsonl").symlink_to(tmp_path / "gone")
        (source / "b.jsonl").unlink()
        (finding,) = of_input(job(source, tmp_path / "out"))
        assert finding.mark == "failed"
        assert "a.jsonl: this is a link to something that is not there; correct the link" in finding.found


class TestOutput:
    def test_all_is_tried_and_nothing_left(self, tmp_path: Path) -> None:
        findings = of_output(tmp_path / "out")
        assert marks(findings) == "oooooooo"
        assert findings["output: list"].found == f"{tmp_path}/out is empty"
        assert findings["output: condition"].found == "conditional writes are honoured"
        assert list(tmp_path.iterdir()) == []

    def test_a_directory_of_the_user_stays(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        assert marks(of_output(tmp_path / "out")) == "oooooooo"
        assert list((tmp_path / "out").rglob("*")) == []
        assert (tmp_path / "out").is_dir()

    def test_beside_a_run_at_work(self, tmp_path: Path) -> None:
        output = Storage.at(str(tmp_path / "out"), error=StorageError)
        with hold(output) as lease:
            before = sorted(path for path, _ in output.listing())
            assert marks(of_output(tmp_path / "out")) == "oooooooo"
            assert sorted(path for path, _ in output.listing()) == before
            lease.confirm()

    def test_stopped_in_the_middle_it_leaves_nothing(self, tmp_path: Path) -> None:
        checks = doctor.check_output(Storage.at(str(tmp_path / "out"), error=StorageError))
        assert next(finding.check for finding in checks if finding.check == "output: put")
        assert len(list((tmp_path / "out" / "_mosaic").iterdir())) == 1
        checks.close()
        assert list(tmp_path.iterdir()) == []

    def test_without_rights(self, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir(mode=0o555)
        with nobody():
            findings = of_output(tmp_path / "out")
        assert marks(findings).endswith("fuuuuo")
        assert findings["output: put"].found.endswith(
            "the user of this process has no permission; change it with chmod, or run as another user."
        )
        assert findings["output: get"].found == "not tried, since nothing can be put there"

    def test_where_a_file_is(self, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("")
        findings = of_output(tmp_path / "out")
        assert findings["output: put"].mark == "failed"
        assert "a part of this path is a file, where a directory is needed" in findings["output: put"].found
        assert (tmp_path / "out").is_file()

    def test_something_else_lies_there(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        found = of_output(tmp_path)["output: state"]
        assert found == (
            "failed", "output: state", f"{tmp_path} holds notes.txt, and no run of this tool",
            "Give an empty or new --output",
        )  # fmt: skip
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


class TestSpace:
    def found(self, job: Job, files: list[FoundFile]) -> dict[str, Finding]:
        output = Storage.at(job.places.output, error=StorageError)
        return {finding.check: finding for finding in doctor.check_space(job, output, files)}

    def test_what_a_run_takes_is_estimated(self, source: Path, tmp_path: Path) -> None:
        there = job(source, tmp_path / "out", epochs=2)
        assert {finding.mark for finding in self.found(there, []).values()} == {"ok"}
        huge = [FoundFile(f"a.{kind}", 0, "", 10**15, None, None) for kind in ("jsonl", "jsonl.gz")]
        findings = self.found(there, huge)
        assert {finding.mark for finding in findings.values()} == {"warning"}
        # 0.45 of a byte of JSONL in each of two epochs, and of the four in each packed one, which is copied besides.
        assert findings["space: output"].found.endswith("2 epochs take about 5,500,000.0 GB")
        assert findings["space: output"].remedy == "Free some space, or choose another --output, or fewer --epochs"
        assert findings["space: temporary"].found.endswith("copies of packed files take about 1,000,000.0 GB")
        assert findings["space: temporary"].remedy == "Free some space, or set TMPDIR to another place"

    def test_with_next_to_nothing_free_it_fails(self) -> None:
        free = {"what": "2 epochs", "otherwise": "leave"}
        assert room("space", "/x", free=(4 << 20) - 1, need=0, **free) == (
            "failed", "space", "/x: 4.2 MB free", "Free some space, or leave",
        )  # fmt: skip
        assert room("space", "/x", free=4 << 20, need=0, **free).mark == "ok"
        assert room("space", "/x", free=4 << 20, need=5 << 20, **free).mark == "warning"


def node(cpus: float, memory_mib: int, name: str = "n") -> Node:
    return Node(name, cpus, memory_mib << 20, cpus, memory_mib << 20)


class TestFigures:
    @pytest.mark.parametrize(
        ("least", "nodes", "mark", "remedy"),
        [
            (4, [node(2, 1), node(2, 1)], "ok", ""),
            (5, [node(2, 1), node(2, 1)], "warning", "Add nodes, or lower the MIN of --workers"),
            (1, [node(0, 1)], "warning", "Add nodes; the run waits for them"),
        ],
    )
    def test_cpus(self, least: int, nodes: list[Node], mark: str, remedy: str) -> None:
        found = _cpus(Execution(workers=Workers(least=least)), nodes)
        assert found.mark == mark
        assert found.remedy.startswith(remedy)
        assert f"--workers asks for {least} at least" in found.found

    @pytest.mark.parametrize(
        ("reserved", "least", "nodes", "mark", "words"),
        [
            (None, 1, [node(2, 2048)], "ok", "2.00 GiB on the largest node; a worker takes about 0.48 GiB"),
            (None, 1, [node(2, 2048), node(4, 1900, "m")], "warning", "node m has none for each of its CPUs"),
            (None, 1, [node(0, 2048)], "unknown", "no node with a CPU is there now"),
            (1 << 30, 3, [node(2, 2048), node(8, 1500)], "ok", "room for 3 workers of --worker-memory 1.00 GiB"),
            (1 << 30, 4, [node(2, 2048), node(8, 1500)], "warning", "room for 3 workers"),
            (1 << 30, 1, [node(2, 900), node(0, 9000)], "failed", "0.88 GiB on the largest node; room for 0 workers"),
            (1 << 28, 1, [node(2, 2048)], "warning", "with default settings one takes about 0.48 GiB"),
        ],
    )
    def test_memory(self, reserved: int | None, least: int, nodes: list[Node], mark: str, words: str) -> None:
        found = _memory(Execution(workers=Workers(least=least), worker_memory=reserved), nodes)
        assert found.mark == mark
        assert words in found.found
        assert bool(found.remedy) == (mark in ("warning", "failed"))

    @pytest.mark.parametrize(("ahead", "mark"), [(60.0, "ok"), (-60.0, "ok"), (61.0, "warning"), (-61.0, "warning")])
    def test_clocks(self, ahead: float, mark: str) -> None:
        found = skewed("the store", ahead)
        assert (found.mark if isinstance(found, Finding) else "ok") == mark
        if isinstance(found, Finding):
            assert f"61 s {'ahead of' if ahead > 0 else 'behind'} that of this machine" in found.found
            assert found.remedy.startswith("Set the clocks by NTP")

    @pytest.mark.parametrize(
        ("count", "words"), [(999, "999 bytes"), (1000, "1.0 kB"), (1_550_000, "1.6 MB"), (2 * 10**12, "2,000.0 GB")]
    )
    def test_amounts(self, count: int, words: str) -> None:
        assert amount(count) == words


class TestTheCommand:
    @pytest.fixture
    def call(self, tmp_path: Path) -> Callable[..., Ended]:
        def call(*arguments: str, **variables: str) -> Ended:
            options = ["doctor", *arguments, "--engine", "in-process"]
            return run_forked(options, job_environment(**variables), tmp_path)

        return call

    def test_all_is_well(self, call: Callable[..., Ended], source: Path, tmp_path: Path) -> None:
        ended = call("--input", str(source), "--output", str(tmp_path / "out"), "--tokenizer", "embedded")
        assert (ended.status, ended.stderr) == (0, "")
        lines = ended.stdout.splitlines()
        assert len(lines) == 12
        assert {line[:9] for line in lines} == {"ok       "}
        assert lines[0] == f"ok       input              {source}: 2 files, 39 bytes; a.jsonl can be read"
        assert "goes to the workers, who need neither its files nor the Hub. It loads without a network" in lines[9]
        assert not (tmp_path / "out").exists()

    def test_all_that_is_wrong_is_named(self, call: Callable[..., Ended], tmp_path: Path) -> None:
        (tmp_path / "notes.txt").touch()
        places = ("--input", str(tmp_path / "no\nne"), "--output", str(tmp_path))
        ended = call(*places, "--tokenizer", str(tmp_path), HF_HUB_OFFLINE="1")
        assert ended.status == 9
        assert ended.stderr == "error: 3 of 12 checks failed: input, output: state, tokenizer\n"
        lines = [line for line in ended.stdout.splitlines() if not line.startswith("ok       ")]
        assert lines[0].startswith(f"failed   input              {tmp_path}/no⟨U+000A⟩ne: there is no such file")
        assert lines[1].startswith(f"failed   output: state      {tmp_path} holds ")
        assert lines[2] == " " * 28 + "-> Give an empty or new --output"
        assert lines[3].startswith(f"failed   tokenizer          tokenizer '{tmp_path}' could not be loaded")
        assert len(lines) == 4

    def test_options_that_no_run_could_have(self, call: Callable[..., Ended], source: Path, tmp_path: Path) -> None:
        places = ("--input", str(source), "--output", str(tmp_path / "out"), "--tokenizer", "embedded")
        for arguments, words in (
            (("--also", "messages"), "error: also = messages: the run writes this view anyway"),
            (("--columns", "messages=a,response=b"), "error: "),
            (("--output-options", "key=x"), "error: The storage option 'key' would carry a credential"),
        ):
            ended = call(*places, *arguments)
            assert (ended.status, ended.stdout) == (2, "")
            assert ended.stderr.startswith(words)


def test_what_a_chain_has_taken(source: Path, tmp_path: Path) -> None:
    chain = tmp_path / "chain"
    (source / "b.jsonl").unlink()

    def found(name: str, since: Path = chain) -> Finding:
        second = job(source, chain / name)
        return doctor.check_since(str(since), second, Storage.at(second.places.output, error=StorageError))

    assert found("1") == ("ok", "since", f"{chain} has no snapshot yet, so every file of the input is new", "")
    options = ["--tokenizer", "embedded", "--engine", "in-process", "--since", str(chain), "--output", str(chain / "1")]
    assert run_forked(["run", "--input", str(source), *options], job_environment(), tmp_path).status == 0
    assert found("2") == ("ok", "since", f"{chain}/1; files taken so far: 1", "")
    wrong = found("2", tmp_path / "nowhere")
    assert wrong.mark == "failed"
    assert "Correct the address" in wrong.found


def test_options_are_those_of_a_run(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="a sample may have --max-tokens 2048"):
        next(doctor.examine(job(source, tmp_path / "out", also="packed", sequence_length=512), None))
