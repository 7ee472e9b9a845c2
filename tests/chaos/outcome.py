"""How a run ended, held against the two ways in which it may end: the right bytes, or a clear refusal."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tests.forked import Ended

Ending = Literal["survived", "resumed", "lost"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_STATUS_ROW: Final = re.compile(r"^\| (\d+(?:, \d+)*) \| .* \|$", re.MULTILINE)
_STRAY: Final = re.compile(r"\.tmp$|/staged/")


def _statuses() -> frozenset[int]:
    """The exit statuses that the README states."""
    table = (_ROOT / "README.md").read_text(encoding="utf-8").partition("## Exit status")[2].partition("\n## ")[0]
    return frozenset(int(status) for row in _STATUS_ROW.findall(table) for status in row.split(", "))


STATUSES: Final = _statuses()


@dataclass(frozen=True)
class Made:
    """A finished data set: its digest, the SHA-256 of every file of data and rejects, whether its sum balances."""

    digest: str
    files: Mapping[str, str]
    balanced: bool


@dataclass(frozen=True)
class Verdict:
    """What came of one trial.

    ending: ``survived`` where the run under the fault finished; ``resumed`` where it ended (refused, or killed) and the
        same command then finished; ``lost`` where a promise was broken.
    flaws: the promises that were broken.
    equal, balanced: of the data set that stood in the end.
    told: the words of the refusal. struck: requests that a fault was done to.
    retries: requests made again, by cause, as the manifest has them.
    """

    ending: Ending
    flaws: tuple[str, ...] = ()
    equal: bool = True
    balanced: bool = True
    told: str = ""
    struck: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)


def on_disk(output: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def made_of(files: Mapping[str, bytes]) -> Made | None:
    """None where there is no manifest, hence no data set."""
    if "manifest.json" not in files:
        return None
    manifest = json.loads(files["manifest.json"])
    accounting = manifest["accounting"]
    sums = {epoch["composed"] + epoch["passed"] + epoch["rejected"] for epoch in accounting["epochs"]}
    return Made(
        manifest["dataset_digest"],
        {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name[:5] in ("data/", "rejec")},
        accounting["balanced"] and sums == {accounting["records"]},
    )


def flaws_of_finished(files: Mapping[str, bytes], accepted: Sequence[Made]) -> list[str]:
    """What is wrong with an output whose run said it had finished. accepted: the data sets it may be."""
    made = made_of(files)
    if made is None:
        return ["exit status 0 and no manifest.json"]
    flaws = []
    expected = next((one for one in accepted if one.digest == made.digest), None)
    if expected is None:
        flaws.append(f"dataset_digest {made.digest} is not {' or '.join(one.digest for one in accepted)}")
        expected = accepted[0]
    for name in sorted({*made.files, *expected.files}):
        here, there = made.files.get(name), expected.files.get(name)
        if here != there:
            flaws.append(f"{name}: {'too much' if there is None else 'missing' if here is None else 'other bytes'}")
    if not made.balanced:
        flaws.append("the accounting does not balance")
    return flaws + [f"{name} was left behind" for name in strays(files)]


def flaws_of_refusal(ended: Ended, names: Iterable[str]) -> list[str]:
    """What is wrong with the way in which a run refused. names: of the files in its output."""
    flaws = []
    last = ended.stderr.rstrip("\n").rpartition("\n")[2]
    if ended.status is None:
        flaws.append("it hung and had to be killed")
    elif ended.status not in STATUSES - {0}:
        flaws.append(f"exit status {ended.status} stands in no table")
    if not last.startswith("error: "):
        flaws.append(f"the last line is no error: {last[:200]!r}")
    if "Traceback" in ended.stdout + ended.stderr:
        flaws.append("it shows a traceback")
    if "manifest.json" in names:
        flaws.append("it refused and published manifest.json")
    return flaws


def strays(names: Iterable[str]) -> list[str]:
    """Unfinished files and staged copies, which a finished run removes."""
    return sorted(name for name in names if _STRAY.search(name))
