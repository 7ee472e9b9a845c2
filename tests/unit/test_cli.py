"""What the command line makes of its options before a job is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mosaic_ray.cli import app
from mosaic_ray.cli.options import yaml_options
from mosaic_ray.config import models_of
from mosaic_ray.errors import SettingsError
from mosaic_ray.methods.mosaic import MosaicMethod


def test_a_range_of_workers_in_yaml_is_text(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("workers: 1:8\nmax-tokens: 900\nmax_reject_share: 0.5\n")
    assert yaml_options(tmp_path / "job.yaml") == {"workers": "1:8", "max_tokens": 900, "max_reject_share": 0.5}


def test_a_yaml_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("- epochs\n")
    with pytest.raises(SettingsError, match="not a mapping of options to values"):
        yaml_options(tmp_path / "job.yaml")


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_the_help_shows_every_option_with_its_default(verb: str) -> None:
    shown = " ".join(CliRunner().invoke(app, [verb, "--help"]).output.split())
    for model in models_of(MosaicMethod).values():
        for name, field in model.model_fields.items():
            assert f"--{name.replace('_', '-')} " in shown
            assert str(field.description).split(".")[0][:30] in shown
    assert "[default: 2048]" in shown
    assert "[default: format,permute,maskout]" in shown


def test_the_help_of_the_program_names_its_verbs() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    assert all(f"\n  {verb}" in shown for verb in ("run", "plan", "verify", "explain", "cost"))
