"""What checks the project: it is configured once, and no figure depends on a process that may be killed."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_processes_that_tests_start_are_not_measured() -> None:
    """Coverage is that of the tests' own processes: one that is killed leaves a damaged file."""
    assert not [name for name in os.environ if name.startswith("COVERAGE_PROCESS")]


def test_the_hooks_have_the_versions_of_nox() -> None:
    """What pre-commit lets pass, `nox -s lint` lets pass too."""
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    pins = dict(pin.split("==") for pin in PROJECT["dependency-groups"]["lint"])

    assert re.findall(r"ruff-pre-commit\n +rev: v(.+)", hooks) == [pins["ruff"]]
    assert re.findall(r"import-linter==([^\]]+)", hooks) == [pins["import-linter"]]


def test_every_extra_installs_something() -> None:
    """An extra that installs nothing promises what is not there; `all` has every other one."""
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]

    assert all(extras.values())
    assert re.findall(r"[a-z]+", extras["all"][0].partition("[")[2]) == sorted(
        extras.keys() - {"all"}, key=list(extras).index
    )


def test_the_check_is_the_readmes_command() -> None:
    """What `.ci/run` takes from the README is one line, and the one that contributors read."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tests -->\n```sh\n(.+)\n```", readme)

    assert block is not None
    assert "\n" not in block[1]
    assert block[1].endswith("/nox")
    assert block[1] in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
