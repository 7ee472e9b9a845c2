"""The two rules of the house, read from its imports: methods are pure, and the runtime knows no method."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mosaic_ray

PACKAGE = Path(mosaic_ray.__file__).parent
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
LONGEST_FILE = 450
IMPURE = {"ray", "fsspec", "s3fs", "time", "datetime", "os", "random", "secrets", "uuid", "pathlib", "socket"}


def imports(path: str) -> set[str]:
    """Every module that a file imports, at its top or inside a function; ``from a import b`` may mean ``a.b``."""
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    return set(_imported(tree))


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the package imports by full names"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers(*roots: str) -> set[str]:
    """The files of the package that import one of the modules, or something inside it."""
    return {path for path in MODULES if any(_is_in(name, root) for name in imports(path) for root in roots)}


def _is_in(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root}.")


def test_the_walk_sees_the_package() -> None:
    assert {"cli/job.py", "methods/mosaic/compose.py", "methods/mosaic/checker.py", "runtime/ray_engine.py"} <= {
        *MODULES
    }
    assert "fsspec" in imports("io/storage.py")
    assert "mosaic_ray.methods.mosaic.templates" in imports("methods/mosaic/compose.py")


@pytest.mark.parametrize("path", [path for path in MODULES if path.startswith("methods/")])
def test_methods_are_pure(path: str) -> None:
    found = imports(path)
    assert not {name for name in found if name.partition(".")[0] in IMPURE}
    assert not {name for name in found if _is_in(name, "mosaic_ray.io") or _is_in(name, "mosaic_ray.runtime")}
    assert not {name for name in found if name in ("numpy.random", "mosaic_ray.config")}
    assert not {name for name in found if _is_in(name, "mosaic_ray.tokens")}


@pytest.mark.parametrize("path", [path for path in MODULES if path.startswith("runtime/")])
def test_the_runtime_knows_no_method(path: str) -> None:
    methods = {name for name in imports(path) if _is_in(name, "mosaic_ray.methods")}
    assert all(_is_in(name, "mosaic_ray.methods.base") for name in methods - {"mosaic_ray.methods"}), methods


def test_who_gets_which_sample_is_arithmetic() -> None:
    found = {name for name in imports("handoff/partition.py") if _is_in(name, "mosaic_ray")}
    assert {name.partition(".")[2].partition(".")[0] for name in found} == {"seeding"}
    assert not {name for name in imports("handoff/partition.py") if name.partition(".")[0] in IMPURE | {"pyarrow"}}


def test_the_checker_shares_no_code_with_what_it_checks() -> None:
    assert not {name for name in imports("methods/mosaic/checker.py") if _is_in(name, "mosaic_ray")}


def test_who_may_import_what() -> None:
    assert importers("ray") == {"runtime/ray_engine.py"}
    assert importers("fsspec", "s3fs", "botocore", "aiobotocore", "boto3") == {
        f"io/{name}.py" for name in ("storage", "local", "s3", "remote")
    }
    assert importers("transformers") == {"tokens/load.py"}
    outside = {path for path in importers("mosaic_ray.methods.mosaic") if not path.startswith("methods/mosaic/")}
    assert outside == {"methods/catalog.py"}
    assert importers("mosaic_ray.methods.catalog") == {"cli/options.py", "cli/finished.py", "handoff/compose.py"}
    assert importers("torch") == {"handoff/workers.py"}
    assert all(path.startswith("handoff/") or path == "__init__.py" for path in importers("mosaic_ray.handoff"))
    assert importers("random") == {"seeding.py"}


@pytest.mark.parametrize("path", MODULES)
def test_files_stay_short(path: str) -> None:
    lines = len((PACKAGE / path).read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{path} has {lines} lines"


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = (
        "import json, sys, mosaic_ray.cli\n"
        "print(json.dumps([m for m in ('ray', 'transformers', 'torch', 's3fs', 'datasets') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
