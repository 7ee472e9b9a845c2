"""``snapshots``, ``diff``, ``find`` and ``delete`` as they are typed, and what they print."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mosaic_ray.cli import app
from mosaic_ray.errors import MosaicError, SettingsError, StorageError
from mosaic_ray.io.storage import Storage
from tests.unit.runtime.snapshots.conftest import chain, put_data_set

__all__ = ["chain"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def printed(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.exception
    return "\n".join(line.rstrip() for line in result.output.splitlines())


def refused(*arguments: object) -> MosaicError:
    failure = call(*arguments).exception
    assert isinstance(failure, MosaicError), failure
    return failure


@pytest.fixture(params=[80, 120])
def columns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the terminal."""
    monkeypatch.setattr("mosaic_ray.cli.options.OUTSIDE_TERMINAL", request.param)
    return int(request.param)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    """Three nights of made-up bytes, and what does not belong there."""
    for name, finished, since in (
        ("2026-11-20", "2026-11-20T01:00:00+00:00", None),
        ("2026-11-21", "2026-11-21T01:02:00+00:00", "v1:2026-11-20"),
        ("2026-11-22", None, "v1:2026-11-21"),
    ):
        place = Storage.at(str(tmp_path / name), error=StorageError)
        put_data_set(place, finished=finished, run=f"v1:{name}", since=since, whole=True)
    (tmp_path / "[bold]notes\n").mkdir()
    return tmp_path


class TestSnapshots:
    def test_what_it_shows(self, lake: Path) -> None:
        shown = printed("snapshots", lake).splitlines()
        assert [re.split(" {2,}", line) for line in shown[:4]] == [
            ["name", "state", "finished", "parent", "files", "records", "samples", "tokens", "size", "digest"],
            ["2026-11-22", "unfinished"],
            ["2026-11-20", "finished", "2026-11-20 01:00", "1", "12.3k", "4,000", "9.88M", "73 B", "digest o"],
            ["2026-11-21", "finished", "2026-11-21 01:02", "parent of v1:2026-11-21", "+1 ~2", "12.3k", "4,000",
             "9.88M", "73 B", "digest o"],
        ]  # fmt: skip
        assert shown[4].startswith("files: + new, ~ changed, - gone since the parent")

    def test_lines_fit_the_terminal_and_lose_nothing(self, lake: Path, columns: int) -> None:
        shown = printed("snapshots", lake)
        assert max(map(len, shown.splitlines())) <= columns
        for value in ("2026-11-21", "unfinished", "12.3k", "9.88M", "+1 ~2"):
            assert value in shown
        assert "no data sets of this tool: [bold]notes⟨U+000A⟩" in shown

    def test_as_json(self, lake: Path) -> None:
        told = json.loads(printed("snapshots", lake, "--json"))
        assert {one["name"]: one["state"] for one in told} == {
            "[bold]notes\n": "stray", "2026-11-20": "finished", "2026-11-21": "finished", "2026-11-22": "unfinished"
        }  # fmt: skip
        assert [one["tokens"] for one in told if one["state"] == "finished"] == [9_876_543] * 2

    def test_there_are_none(self, tmp_path: Path) -> None:
        assert printed("snapshots", tmp_path) == f"{tmp_path}: no data set in a directory under it"

    def test_a_damaged_one_is_said_to_be(self, tmp_path: Path) -> None:
        (tmp_path / "torn").mkdir()
        (tmp_path / "torn/manifest.json").write_text("{")
        shown = printed("snapshots", tmp_path)
        assert "torn  damaged" in shown
        assert f"{tmp_path}/torn/manifest.json: damaged" in shown


class TestDiff:
    def test_what_it_shows(self, chain: Path, columns: int) -> None:
        shown = printed("diff", chain / "lake/night 1", chain / "lake/night 2/manifest.json")
        for expected in (
            r"^A  v1:\w{32}  .*/lake/night 1$",
            r"^other rows; B goes on from A: files 1 new, 1 changed, 2 carried, 0 gone$",
            r"^made by +A +B$",
            r"^method\.max_tiles +10 +1$",
            r"^records +192 +200 +\+8$",
            r"^epochs +2 +2 +=$",
            r"^input: 0 files are the same$",
            r"^2 only in A: a\.jsonl, c:1\.jsonl$",
        ):
            assert re.search(expected, shown, re.MULTILINE), expected
        tables = [line for line in shown.splitlines() if not line.startswith(("A  ", "B  ", "other"))]
        assert max(map(len, tables)) <= columns

    def test_a_status_where_one_is_asked_for(self, chain: Path) -> None:
        nights = [chain / "lake/night 1", chain / "lake/night 2"]
        assert call("diff", *nights).exit_code == 0
        assert call("diff", *nights, "--exit-code").exit_code == 1
        assert call("diff", nights[0], nights[0], "--exit-code").exit_code == 0

    def test_as_json(self, chain: Path) -> None:
        told = json.loads(printed("diff", chain / "lake/night 1", chain / "lake/night 2", "--json"))
        assert (told["same"], told["inventory"]["only_b"]) == (False, ["d.jsonl"])

    def test_the_same(self, chain: Path) -> None:
        shown = printed("diff", chain / "lake/night 1", chain / "lake/night 1")
        assert "the same rows and rejects; neither goes on from the other" in shown
        assert "made by the same method, settings, tokenizer, libraries, of the same addresses" in shown
        assert "input: 3 files are the same" in shown


class TestFind:
    def test_what_it_shows(self, chain: Path) -> None:
        lake = chain / "lake"
        shown = printed("find", "deep/b.jsonl:3", lake)
        first = shown.splitlines()[0]
        assert re.fullmatch(rf"{lake}/night 1/data/train-\d+-of-\d+\.parquet:\d+  e0-t\d+-s\d+  deep/b\.jsonl:3", first)
        assert "deep/b.jsonl:3: 4 in samples, 6 in views; 2 data sets looked in" in shown
        assert shown.endswith(
            "To forget it:\n"
            "  1. Write its file of the input again without it, or remove the file.\n"
            "  2. Delete what holds it, and what goes on from that, in this order:\n"
            f"       mosaic-ray delete '{lake}/night 2'\n"
            f"       mosaic-ray delete '{lake}/night 1'\n"
            "  3. Run again, with --since if they had it: the rest of what is deleted is composed anew."
        )

    def test_a_line_begins_with_what_explain_takes(self, chain: Path) -> None:
        first = printed("find", "a.jsonl:5", chain / "lake").splitlines()[0]
        assert re.search(r"a\.jsonl +5 ", printed("explain", first.partition("  ")[0]))

    def test_only_what_holds_it_is_to_be_deleted(self, chain: Path) -> None:
        shown = printed("find", "d.jsonl:0", chain / "lake")
        assert re.findall(r"mosaic-ray delete .*/(night \d)'", shown) == ["night 2"]

    def test_as_json(self, chain: Path) -> None:
        told = [json.loads(line) for line in printed("find", "a.jsonl:90", chain / "lake", "--json").splitlines()]
        assert [(one["kind"], one["records"]) for one in told] == [("reject", [{"file": "a.jsonl", "row": 90}])]

    def test_a_data_set_given_twice_is_looked_into_once(self, chain: Path) -> None:
        shown = printed(
            "find", "a.jsonl:90", chain / "lake/night 1", chain / "lake/night 1/manifest.json", chain / "lake"
        )
        assert "a.jsonl:90: 1 in rejects; 2 data sets looked in" in shown

    def test_nothing_holds_it(self, chain: Path, tmp_path: Path) -> None:
        copy = Path(shutil.copytree(chain / "lake/night 1", tmp_path / "copy"))
        for folder in ("data", "views", "rejects"):
            shutil.rmtree(copy / folder)
        assert (
            printed("find", "a.jsonl:5", copy)
            == "no sample holds a.jsonl:5, no view and no reject (1 data set looked in)"
        )

    def test_a_name_that_is_not_known(self, chain: Path) -> None:
        failure = refused("find", "b.jsonl:3", chain / "lake")
        assert failure.exit_code == 2
        assert "no inventory has a file of this name; near it are" in str(failure)

    def test_no_data_set(self, tmp_path: Path) -> None:
        assert refused("find", "a:1", tmp_path).exit_code == 6


class TestDelete:
    def test_the_newest_first(self, lake: Path) -> None:
        failure = refused("delete", lake / "2026-11-21", "--yes")
        assert isinstance(failure, SettingsError)
        assert "data sets beside it go on from it (2026-11-22)" in str(failure)
        for name in ("2026-11-22", "2026-11-21", "2026-11-20"):
            shown = printed("delete", lake / name, "--yes")
            assert re.search(r": \d\d files, \d+(\.\d+)? k?B\n", shown)
            assert shown.endswith(f"deleted {lake / name}")
            assert not (lake / name).exists()

    def test_even_so(self, lake: Path) -> None:
        printed("delete", lake / "2026-11-20/manifest.json", "--yes", "--force")
        assert not (lake / "2026-11-20").exists()

    def test_strangers_are_named(self, lake: Path) -> None:
        (lake / "2026-11-22/[red]mine\n").write_text("")
        shown = printed("delete", lake / "2026-11-22", "--yes")
        assert "left in place, for no run wrote it: [red]mine⟨U+000A⟩" in shown
        assert [path.name for path in (lake / "2026-11-22").iterdir()] == ["[red]mine\n"]

    def test_off_a_terminal_it_needs_a_word(self, lake: Path) -> None:
        before = sorted(lake.rglob("*"))
        failure = refused("delete", lake / "2026-11-22")
        assert failure.exit_code == 2
        assert str(failure).endswith("nothing was deleted. Give --yes where nobody can be asked")
        assert sorted(lake.rglob("*")) == before

    @pytest.mark.parametrize(("typed", "gone"), [(b"n\n", False), (b"y\n", True), (b"\x04", False)])
    def test_on_a_terminal_it_asks(self, lake: Path, typed: bytes, gone: bool) -> None:
        mine, theirs = pty.openpty()
        os.write(mine, typed)
        command = [sys.executable, "-c", "from mosaic_ray.cli import main; main()", "delete", str(lake / "2026-11-22")]
        done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=120, check=False)
        os.close(mine)
        os.close(theirs)
        assert done.returncode == 0, done.stderr
        assert "Delete it? [y/N]" in done.stdout
        assert ("nothing was deleted" in done.stdout) == (not gone)
        assert (lake / "2026-11-22").exists() == (not gone)
