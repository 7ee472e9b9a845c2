"""The runbook against what it speaks of: the command line, the tree, the alerts, the metrics and its own headings."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mosaic_ray.cli import app
from tests.conftest import ROOT
from tests.infra import runbook
from tests.infra.commands import calls, refusal, shell_lines
from tests.infra.monitoring import rules

TEXT = runbook.text()


def wrong_commands(text: str) -> list[str]:
    """Calls of ours that the command line would refuse, with its reason."""
    lines = [line for block in runbook.blocks(text) for line in shell_lines(block)]
    found = [arguments for line in lines for _, arguments in calls(line, {})]
    assert len(found) >= 10
    return [f"{' '.join(arguments)}: {why}" for arguments in found if (why := refusal(arguments))]


def unknown_words(text: str) -> list[str]:
    """Commands and options of ours that stand in the sentences and that nothing has."""
    options = {option for command in app.commands.values() for parameter in command.params for option in parameter.opts}
    prose = re.sub(r"^ *```sh.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`(--[a-z-]+)", prose)
    called = re.findall(r"`mosaic-ray ([a-z]+)", prose)
    theirs = {"--keep"}
    assert named
    assert called
    return [*(set(named) - options - theirs), *(set(called) - app.commands.keys())]


def missing_paths(text: str) -> list[str]:
    """Paths of the tree that are not there."""
    found = set(re.findall(r"(?<![\w.-])(?<![\w.]/)((?:infra|jobs|tests|mosaic_ray)/[\w./-]*\w/?|CHANGELOG\.md)", text))
    assert len(found) >= 10
    return sorted(path for path in found if not (ROOT / path).exists())


def dead_links(text: str) -> list[str]:
    found = re.findall(r"\]\(#([^)]+)\)", text)
    assert len(found) >= 10
    return sorted(set(found) - runbook.anchors(text))


def alerts_without_page(text: str) -> list[str]:
    """Alerts whose annotation leads to no heading here, or to one that does not name them."""
    wrong = []
    pages = {heading: runbook.section(text, heading) for heading in runbook.headings(text)}
    for rule in rules():
        if "alert" in rule:
            anchor = rule["annotations"]["runbook"].removeprefix("infra/README.md#")
            here = [page for heading, page in pages.items() if anchor in runbook.anchors(f"# {heading}")]
            if len(here) != 1 or f"`{rule['alert']}`, {rule['labels']['severity']}:" not in here[0]:
                wrong.append(rule["alert"])
    return wrong


def unknown_alerts(text: str) -> list[str]:
    known = {rule.get("alert") for rule in rules()}
    return [name for name in re.findall(r"`(MosaicRay\w+)`", text) if name not in known]


CHECKS = [wrong_commands, unknown_words, missing_paths, dead_links, alerts_without_page, unknown_alerts]


@pytest.mark.parametrize("check", CHECKS)
def test_the_runbook_is_true(check: Callable[[str], list[str]]) -> None:
    assert check(TEXT) == []


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (wrong_commands, "--recompute 2", "--rebuild 2"),
        (wrong_commands, "mosaic-ray find tables.jsonl:7", "mosaic-ray search tables.jsonl:7"),
        (wrong_commands, "--workers 1:128", "--workers 128:1"),
        (unknown_words, "`--stall-timeout`", "`--hang-timeout`"),
        (unknown_words, "`mosaic-ray verify`", "`mosaic-ray check`"),
        (missing_paths, "infra/aws/lifecycle.json", "infra/aws/life-cycle.json"),
        (dead_links, "](#retries)", "](#store-errors)"),
        (alerts_without_page, "### Retries", "### Store errors"),
        (alerts_without_page, "`MosaicRayCostOverrun`, warning", "`MosaicRayCostOverrun`, critical"),
        (unknown_alerts, "`MosaicRayRejectShare`", "`MosaicRayRejects`"),
    ],
)
def test_a_mistake_in_it_is_found(check: Callable[[str], list[str]], right: str, wrong: str) -> None:
    assert right in TEXT
    assert check(TEXT.replace(right, wrong))


def test_what_a_shell_is_given_is_shell(tmp_path: Path) -> None:
    script = tmp_path / "runbook.sh"
    script.write_text("\n".join(runbook.blocks(TEXT)))
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_kubernetes_names_are_those_of_the_manifests() -> None:
    documents = [
        document
        for path in sorted((ROOT / "infra" / "kuberay").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]
    there = {(one["kind"].lower(), one["metadata"]["name"]) for one in documents if "metadata" in one}
    spoken = {("cronjob", name) for name in re.findall(r"cronjob[ /](mosaic[\w-]*)", TEXT)}
    spoken |= {("rayjob", name) for name in re.findall(r"get rayjob (\w+) -n", TEXT)}
    assert len(spoken) == 2
    assert spoken <= there
