"""infra/ as far as this machine goes: schemas, command lines, paths, scripts and rights; and each check sees damage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.infra.checks import CHECKS, Checkout
from tests.infra.damages import DAMAGES


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_there_holds(name: str) -> None:
    assert list(CHECKS[name](Checkout(ROOT))) == []


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """A checkout of its own, of what the checks read."""

    def make() -> Path:
        root = tmp_path_factory.mktemp("checkout")
        for folder in ("image", "kuberay", "aws"):
            shutil.copytree(ROOT / "infra" / folder, root / "infra" / folder)
        for name in ("pyproject.toml", "README.md", "LICENSE", "mosaic_ray", "jobs", "infra/monitoring"):
            (root / name).symlink_to(ROOT / name)
        return root

    return make


def test_a_copy_holds_as_well(copy: Callable[[], Path]) -> None:
    root = copy()
    assert [problem for check in CHECKS.values() for problem in check(Checkout(root))] == []


@pytest.mark.parametrize(
    ("check", "file", "there", "instead", "said"), [(*where, *how) for where, each in DAMAGES.items() for how in each]
)
def test_damage_is_seen(copy: Callable[[], Path], check: str, file: str, there: str, instead: str, said: str) -> None:
    root = copy()
    path = root / "infra" / file
    text = path.read_text()
    assert there in text
    path.write_text(text.replace(there, instead))
    try:
        problems = list(CHECKS[check](Checkout(root)))
    except (ValueError, yaml.YAMLError) as error:
        problems = [str(error)]
    assert any(said in problem for problem in problems), problems


KUBECTL = '''#!{python} -S
"""Enough of kubectl for night.sh: objects are files of the folder it stands in. Every call is written down."""
import json, pathlib, re, sys
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
if sys.argv[1] == "create":
    made = json.load(sys.stdin)
    file = here / (made["metadata"]["name"] + ".json")
    if (here / "late").exists():
        (here / "late").rename(file)
    if file.exists():
        sys.exit("Error from server (AlreadyExists)")
    made["status"] = json.loads((here / "ends").read_text())
    file.write_text(json.dumps(made))
elif sys.argv[1:3] == ["get", "rayjob"]:
    file = here / (sys.argv[3] + ".json")
    if not file.exists():
        sys.exit("Error from server (NotFound)")
    value = json.loads(file.read_text())
    path = re.fullmatch(r"jsonpath={{(.*)}}", sys.argv[5])[1] if "-o" in sys.argv else ""
    for key in path.split(".")[1:]:
        value = value.get(key, "")
    print(value if isinstance(value, str) else json.dumps(value, separators=(",", ":")), end="")
else:
    sys.exit("unexpected: " + " ".join(sys.argv))
'''


class Night:
    """night.sh with a kubectl that knows the template, and jobs that end at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        resources = {resource["kind"]: resource for resource in Checkout(ROOT).resources}
        self.template = resources["RayJob"]
        (folder / "mosaic.json").write_text(json.dumps(self.template))
        (folder / "kubectl").write_text(KUBECTL.format(python=sys.executable))
        (folder / "kubectl").chmod(0o755)
        self.ends("Complete", "SUCCEEDED")

    def ends(self, deployment: str, job: str, **more: str) -> None:
        (self.folder / "ends").write_text(json.dumps({"jobDeploymentStatus": deployment, "jobStatus": job, **more}))

    def run(self) -> subprocess.CompletedProcess[str]:
        given = {"PATH": f"{self.folder}:{os.environ['PATH']}", "JOB_NAME": "mosaic-nightly-1", "JOB_UID": "some-uid"}
        command = ["sh", str(ROOT / "infra/kuberay/night.sh")]
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)

    @property
    def made(self) -> list[dict[str, object]]:
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("mosaic-*.json"))]

    @property
    def created(self) -> int:
        return (self.folder / "calls").read_text().count("create")


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def _today() -> str:
    return subprocess.run(["date", "-u", "+%F"], capture_output=True, text=True, check=True).stdout.strip()


def test_a_night_is_the_template_with_its_date_and_runs(night: Night) -> None:
    before = _today()
    done = night.run()
    assert done.returncode == 0, done.stderr
    [made] = night.made
    assert made["metadata"] in [
        {
            "name": f"mosaic-{date}",
            "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": "mosaic-nightly-1", "uid": "some-uid"}
            ],
        }
        for date in (before, _today())
    ]
    date = str(made["metadata"]["name"]).removeprefix("mosaic-")  # type: ignore[index]
    entrypoint = night.template["spec"]["entrypoint"].replace("$(date -u +%F)", date)
    assert made["spec"] == {**night.template["spec"], "suspend": False, "entrypoint": entrypoint}
    assert f'--output "$MOSAIC_OUTPUT/{date}"' in entrypoint


def test_a_night_that_was_begun_is_waited_for(night: Night) -> None:
    assert night.run().returncode == 0
    again = night.run()
    assert (again.returncode, night.created, len(night.made)) == (0, 1, 1), again.stderr


def test_a_night_that_another_begins_meanwhile_is_waited_for(night: Night) -> None:
    other = {"metadata": {"name": "x"}, "status": {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}}
    (night.folder / "late").write_text(json.dumps(other))
    assert night.run().returncode == 0
    assert night.made == [other]


@pytest.mark.parametrize("ends", [("Failed", "FAILED"), ("Complete", "STOPPED"), ("ValidationFailed", "")])
def test_a_night_that_fails_is_a_failed_job(night: Night, ends: tuple[str, str]) -> None:
    night.ends(*ends, reason="AppFailed", message="status 5: too many rejects")
    done = night.run()
    assert done.returncode == 1
    assert f"{ends[0]}/{ends[1]} AppFailed status 5: too many rejects" in done.stderr


def test_without_a_template_the_night_fails(night: Night) -> None:
    (night.folder / "mosaic.json").unlink()
    done = night.run()
    assert done.returncode == 1
    assert "NotFound" in done.stderr
