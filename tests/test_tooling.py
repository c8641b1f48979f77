"""What checks the project: it is configured once, and no figure depends on a process that may be killed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import attrs
import pytest

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


def test_the_source_distribution_has_what_its_tests_read() -> None:
    """What lies beside the package is in the source distribution, so that the tests run from there."""
    included = {entry.removeprefix("/") for entry in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]}
    always = {"LICENSE", "pyproject.toml", ".gitignore", "PKG-INFO"}
    made = re.findall(r"^(\S+?)/?$", (ROOT / ".gitignore").read_text(encoding="utf-8"), re.MULTILINE)

    left = {path.name for path in ROOT.iterdir() if path.name != ".git"} - included - always
    assert {name for name in left if not any(Path(name).match(pattern) for pattern in made)} == set()


def test_the_page_of_the_package_index_has_no_relative_link() -> None:
    """Each link of the README is absolute there, and leads to what is in the repository."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        readme = re.sub(rule["pattern"], rule["replacement"], readme)
    source = re.escape(PROJECT["project"]["urls"]["Source"])

    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", readme)
    assert [link for _, link in links if not link.startswith(("https://", "#"))] == []
    own = [(found[1], found[2]) for _, link in links if (found := re.match(rf"{source}/(\w+)/main/([^#]+)", link))]
    assert {kind for kind, _ in own} == {"blob", "raw"}
    assert [path for _, path in own if not (ROOT / path).exists()] == []


def test_the_readme_is_short() -> None:
    """It says what this is, how to try it and where to go on; the documentation has the rest."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_what_checks_and_builds_a_release_is_pinned_by_hash() -> None:
    """`nox -s lint` and `nox -s package` have the tools of their groups, with hashes, and no file names an index."""
    folder = ROOT / ".github/requirements"
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}
    pins = {name: set(re.findall(r"^([\w.-]+==[\w.]+)", text, re.MULTILINE)) for name, text in texts.items()}

    assert texts.keys() == {"lint.txt", "nox.txt", "package.txt"}
    for group in ("lint", "package"):
        assert set(PROJECT["dependency-groups"][group]) <= pins[f"{group}.txt"]
    assert all(
        line.startswith(("#", " ")) or line.endswith("\\") for text in texts.values() for line in text.splitlines()
    )
    assert not [name for name, text in texts.items() if "://" in text or "file:" in text]


def test_the_check_is_the_readmes_command() -> None:
    """What `.ci/run` takes from the README is one line, and the one that contributors read."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- tests -->\n```sh\n(.+)\n```", readme)

    assert block is not None
    assert "\n" not in block[1]
    assert block[1].endswith("/nox -j2")
    assert block[1] in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@attrs.frozen
class Checkout:
    """A copy of `.ci/run` beside a README whose test command only says that it ran, and the programs that it finds."""

    root: Path

    def install(self, name: str, script: str) -> None:
        program = self.root / "bin" / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)

    def run(self) -> subprocess.CompletedProcess[str]:
        bash = shutil.which("bash")
        assert bash is not None
        environment = {"PATH": str(self.root / "bin")}
        return subprocess.run(
            [bash, ".ci/run"], cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    for directory in (".ci", "bin"):
        (tmp_path / directory).mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "README.md").write_text("<!-- tests -->\n```sh\necho all of it ran >&2\n```\n", encoding="utf-8")
    for name in ("bash", "sed", "dirname"):
        (tmp_path / "bin" / name).symlink_to(str(shutil.which(name)))
    made.install("id", "echo 0")
    return made


@pytest.mark.parametrize("there", [[], ["chromium"], ["chromedriver"]], ids=["nothing", "no driver", "no browser"])
def test_the_check_installs_a_browser(checkout: Checkout, there: list[str]) -> None:
    """Where there is no Chromium with its driver, `.ci/run` asks apt-get for both before anything runs."""
    checkout.install("apt-get", 'echo "apt-get $*" >&2')
    for name in there:
        checkout.install(name, "exit 1")

    result = checkout.run()

    assert result.returncode == 0
    update, install, ran = result.stderr.splitlines()
    assert update == "apt-get -qq update"
    assert install.startswith("apt-get -qq install")
    assert install.endswith("chromium chromium-driver fonts-dejavu-core")
    assert ran == "all of it ran"


@pytest.mark.parametrize("browser", ["chromium", "google-chrome"])
def test_the_check_leaves_an_installed_browser_alone(checkout: Checkout, browser: str) -> None:
    """A machine with a Chromium, or a Chrome, and its driver installs nothing."""
    checkout.install("apt-get", "exit 1")
    for name in (browser, "chromedriver"):
        checkout.install(name, "exit 1")

    assert checkout.run().stderr == "all of it ran\n"


@pytest.mark.parametrize("trouble", ["apt-get fails", "no apt-get", "not root"])
def test_the_check_runs_without_a_browser(checkout: Checkout, trouble: str) -> None:
    """Where no Chromium can be had, the rest runs, and it is said before and after it."""
    if trouble != "no apt-get":
        checkout.install("apt-get", "exit 100")
    if trouble == "not root":
        checkout.install("id", "echo 1000")

    result = checkout.run()

    assert result.returncode == 0
    before, ran, after = result.stderr.partition("all of it ran\n")
    assert ran
    assert before == after
    assert "!!! WARNING: " in after
    assert "did NOT run" in after


def test_a_failure_of_the_check_is_one(checkout: Checkout) -> None:
    """The exit status is that of the command, whatever became of the browser."""
    (checkout.root / "README.md").write_text("<!-- tests -->\n```sh\nexit 3\n```\n", encoding="utf-8")

    assert checkout.run().returncode == 3
