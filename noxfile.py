"""What is checked, and how: ``nox -j2`` runs all of it, two sessions at a time, ``nox -s NAME`` one session.

The Python versions are the classifiers of ``pyproject.toml``; those that are not installed are left out.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS: dict[str, list[str]] = PROJECT["dependency-groups"]
PYTHONS = nox.project.python_versions(PROJECT)
OLDEST = [
    "aiohttp==3.12.0",
    "attrs==24.2.0",
    "cattrs==24.1.0",
    "cryptography==43.0.0",
    "msgspec==0.21.1",
    "opentelemetry-api==1.30.0",
    "opentelemetry-sdk==1.30.0",
    "procrastinate==3.5.1",
    "psycopg[binary]==3.2.3",
]

# Much of what takes time waits: for a process to end, a lease to lapse, a deadline to pass.
SIDE_BY_SIDE = ["--numprocesses=3", "--dist=worksteal"]
BESIDE_ANOTHER_SESSION = ["--numprocesses=2", "--dist=worksteal"]
SOME_FAILED = 1  # an exit status of pytest

nox.needs_version = ">=2026.10.20"
# uv installs in seconds, if it is there; no interpreter is fetched for it.
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
# In this order each of two sessions at a time keeps a core busy to the end. Those that may not run beside another one
# come last: `docs` makes files that tests look at, `browser` reads them, `coverage` what the tests wrote.
nox.options.allow_parallel = True
nox.options.sessions = ["lint", "tests", "endurance", "oldest", "types", "openapi", "docs", "browser", "coverage"]

# pyenv keeps its interpreters off the PATH.
if pyenv := shutil.which("pyenv"):
    root = Path(subprocess.run([pyenv, "root"], capture_output=True, check=True, text=True).stdout.strip())
    for directory in sorted(root.glob("versions/3.*/bin")):
        os.environ["PATH"] += os.pathsep + str(directory)

# uv reads no setting of pip's, which may be all that says where this machine gets its packages from.
PIP_SETTINGS = {
    "index-url": ("UV_DEFAULT_INDEX", " "),
    "extra-index-url": ("UV_INDEX", " "),
    "find-links": ("UV_FIND_LINKS", ","),
    "cert": ("SSL_CERT_FILE", " "),
}
settings = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, check=False, text=True)
for line in settings.stdout.splitlines():
    name, _, value = line.partition("=")
    variable, separator = PIP_SETTINGS.get(name.rpartition(".")[2], (None, ""))
    if variable is not None:
        os.environ.setdefault(variable, separator.join(value.strip("'\"").replace("\\n", " ").split()))
if "UV_INDEX" in os.environ:
    os.environ.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # pip too takes the best of all its indexes

# The tests start hundreds of processes, which are not to compile everything anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# One Python is enough to measure coverage, for what kills, pauses, starves and fills, for the model and what judges it,
# for the benchmarks and the project's own words: the first that is installed. The package has no line for one alone. It
# has none either that only a process reaches that is killed: those tests are not measured, which would take them twice
# as long.
ENTIRELY = next((version for version in PYTHONS if shutil.which(f"python{version}")), None)
# The files that have any: to collect all the others, too, takes each worker 8 seconds.
ENDURING = [
    str(path.relative_to(ROOT))
    for path in sorted(ROOT.glob("tests/**/test_*.py"))
    if "mark.endurance" in path.read_text(encoding="utf-8")
]
NO_ENDURANCE = ["-m", "not endurance"]
BRIEFLY = [*NO_ENDURANCE, "--ignore=tests/benchmarks", "--ignore=tests/test_words.py"]
# Asking each question of the benchmarks takes minutes; `bench-gate` does.
UNASKED = "--ignore=tests/benchmarks/test_questions.py"
# What rests on the dependencies that have a lower bound.
BOUND = [
    "tests/core",
    "tests/webhooks",
    "tests/ledger",
    "tests/batch",
    "tests/test_failures.py",
    "tests/test_opentelemetry.py",
]

# Pages whose examples are run as they stand, each from its top; tests of their subject run the others'.
PAGES = [
    "docs/captures.md",
    "docs/from-the-guide.md",
    "docs/going-live.md",
    "docs/many-captures.md",
    "docs/observing.md",
    "docs/reservations.md",
    "docs/rotating-tokens.md",
    "docs/testing.md",
    "docs/two-accounts.md",
    "docs/unknown-outcomes.md",
    "docs/reference",
    "docs/tutorial",
]
# Tests that read files of the source distribution, besides those at the top of `tests`.
SOURCE_TESTS = [
    "README.md",
    "docs/tutorial",
    "tests/cli/test_operations_page.py",
    "tests/ledger/test_engine_recipes.py",
    "tests/ledger/test_migrations.py",
    "tests/sandbox/test_docs.py",
    "tests/webhooks/test_jwt.py",
    "tests/webhooks/test_receiving_pages.py",
]
# What the forge and the documentation's host read, by its schema.
FORGE_FILES = {
    "github-workflows": ".github/workflows/*.yml",
    "github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "github-issue-forms": ".github/ISSUE_TEMPLATE/*.yml",
    "dependabot": ".github/dependabot.yml",
    "readthedocs": ".readthedocs.yaml",
    "compose-spec": "docs/compose/compose.yaml",
}
TUTORIAL = ROOT / "docs/tutorial/first-payment.md"
SITE = ROOT / "docs/_build/html"


def build_site(session: nox.Session) -> None:
    """Build the documentation anew: a warning is an error, and so is a link that leads nowhere inside of it."""
    shutil.rmtree(SITE.parent, ignore_errors=True)
    session.run("sphinx-build", "-q", "-W", "--keep-going", "-j", "auto", "-b", "html", "docs", str(SITE))


def install(session: nox.Session, *groups: str) -> None:
    """Install the package with everything optional, and the tools of some dependency groups."""
    session.install("-e", ".[all]", *nox.project.dependency_groups(PROJECT, *groups))


def run_tests(session: nox.Session, *arguments: str, measured: bool = False) -> None:
    """Run tests side by side, and those that failed once more by themselves: what fails then, too, is a failure.

    Hundreds of tests start processes, cut connections and wait for deadlines. Several at a time on two busy cores, one
    of thousands may get no time to meet its own. The second run says in its output what it repeats.
    """
    command = ["coverage", "run", "-m", "pytest"] if measured else ["pytest"]
    side_by_side = BESIDE_ANOTHER_SESSION if session.parallel else SIDE_BY_SIDE
    # What failed in another session is not repeated in this one.
    cache = ["-o", f"cache_dir={session.virtualenv.location}/pytest_cache"]
    try:
        session.run(*command, *side_by_side, *cache, *arguments, *session.posargs)
    except CommandFailed as failed:
        if failed.return_code != SOME_FAILED:
            raise
        again = ["--last-failed", "--last-failed-no-failures=none", "-p", "no:randomly"]
        session.run(*command, *again, *cache, *arguments, *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, that no imports form a circle, and the forge's files.

    actionlint's package for pip fetches a program when it is installed, so it is not here: the schemas that
    check-jsonschema has with it, and zizmor, stand for it.
    """
    session.install("--require-hashes", "--requirement", ".github/requirements/lint.txt")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-logo", "--no-cache")
    session.run("zizmor", "--offline", "--no-progress", ".github")
    for schema, pattern in FORGE_FILES.items():
        others = set(FORGE_FILES.values()) - {pattern}
        files = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob(pattern))]
        files = [name for name in files if name not in others]
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


@nox.session
def types(session: nox.Session) -> None:
    """Check the package, and the typed example of its use, with mypy and pyright; every public name has a type."""
    install(session, "types", "test", "frameworks")

    def mypy() -> None:
        session.run("mypy", "-p", "jetpay_async")
        session.run("mypy", "tests/typing")
        session.run("mypy", "docs/rental", env={"MYPYPATH": "docs"})

    def pyright() -> None:
        session.run("pyright")
        session.run("pyright", "--verifytypes", "jetpay_async", "--ignoreexternal")

    # Each keeps one core busy.
    with ThreadPoolExecutor() as side_by_side:
        for checked in [side_by_side.submit(check) for check in (mypy, pyright)]:
            checked.result()


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests but for those of `endurance`, on the first Python all of them, measuring branch coverage."""
    install(session, "test", "coverage", "frameworks")
    if session.python != ENTIRELY:
        run_tests(session, *BRIEFLY)
        return
    session.run("coverage", "erase")
    run_tests(session, *NO_ENDURANCE, UNASKED, measured=True)


@nox.session(python=ENTIRELY)
def endurance(session: nox.Session) -> None:
    """Run the tests that kill, pause, starve, fill and play many schedules."""
    install(session, "test", "frameworks")
    run_tests(session, "-m", "endurance", *([] if session.posargs else ENDURING))


@nox.session(python=PYTHONS[-1])
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that are supported."""
    install(session, "test")
    session.install(*OLDEST)
    run_tests(session, *BRIEFLY, *BOUND)


@nox.session(allow_parallel=False)
def browser(session: nox.Session) -> None:
    """Drive the sandbox's page and the documentation in a real Chromium, where there is one."""
    if not ((shutil.which("chromium") or shutil.which("google-chrome")) and shutil.which("chromedriver")):
        session.skip("Chromium or its driver is not installed: apt-get install chromium chromium-driver")
    install(session, "test", "browser", "docs")
    if not (SITE / "index.html").exists():
        build_site(session)
    required = {"JETPAY_TEST_BROWSER": "required", "JETPAY_TEST_SITE": str(SITE)}
    session.run("pytest", "tests/sandbox/test_page.py", "tests/test_site.py", *session.posargs, env=required)


@nox.session
def openapi(session: nox.Session) -> None:
    """Judge what the sandbox answers by its own OpenAPI documents, with what schemathesis asks it."""
    install(session, "test", "openapi")
    required = {"JETPAY_TEST_SCHEMATHESIS": "required"}
    session.run("pytest", "tests/sandbox/test_schemathesis.py", *session.posargs, env=required)


@nox.session(allow_parallel=False)
def coverage(session: nox.Session) -> None:
    """Combine what the tests measured, and refuse a gap."""
    session.install(*GROUPS["coverage"])
    session.run("coverage", "combine", "--keep")
    session.run("coverage", "report", "--fail-under=100")


@nox.session(allow_parallel=False)
def docs(session: nox.Session) -> None:
    """Build the documentation, and run the examples of the README, of the other pages and of the docstrings."""
    install(session, "test", "frameworks", "docs")
    build_site(session)
    # A page is read from its top: its examples build on each other.
    session.run(
        "pytest",
        *("-p", "no:randomly"),
        "README.md",
        *PAGES,
        "--doctest-modules",
        "jetpay_async",
        *session.posargs,
    )


@nox.session
def contract(session: nox.Session) -> None:
    """Compare the client's contract with the service's own document: ``nox -s contract -- openapi.json``."""
    session.install("-e", ".")
    session.run("python", "-m", "tests.compare_contract", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build what is published into ``dist``, check it, run the tutorial with it, and list what it installs.

    It is built twice, since the same commit is to give the same bytes on any machine.
    """
    session.install("--require-hashes", "--requirement", ".github/requirements/package.txt")
    work = Path(session.create_tmp()).resolve()
    dist, again, installed = ROOT / "dist", work / "again", work / "installed"
    fixed = {"SOURCE_DATE_EPOCH": "1767225600"}
    for directory in (dist, again):
        shutil.rmtree(directory, ignore_errors=True)
        session.run("python", "-m", "build", "--quiet", "--outdir", str(directory), env=fixed)
    names = sorted(path.name for path in dist.iterdir())
    _, different, missing = filecmp.cmpfiles(dist, again, names, shallow=False)
    if different or missing:
        session.error(f"not the same when built again: {', '.join(different + missing)}")
    session.run("twine", "check", "--strict", *(str(dist / name) for name in names))
    (wheel,) = dist.glob("*.whl")
    session.run("check-wheel-contents", str(wheel))
    session.run("pyroma", "--min=10", ".")
    session.run("python", "-m", "venv", "--clear", str(installed))
    python = next(path for path in (installed / "bin/python", installed / "Scripts/python.exe") if path.exists())
    session.run(str(python), "-m", "pip", "install", "--quiet", str(wheel), external=True)
    # Word for word, and far from the sources.
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL)
    for number, block in enumerate(blocks):
        (work / f"tutorial_{number}.py").write_text(block, encoding="utf-8")
        with session.chdir(work):
            session.run(str(python), "-P", f"tutorial_{number}.py", external=True)
    session.run(str(python), "-m", "pip", "install", "--quiet", f"{wheel}[all]", external=True)
    session.run("cyclonedx-py", "environment", str(python), "--output-file", str(work / "jetpay-async.cdx.json"))


@nox.session
def sdist(session: nox.Session) -> None:
    """Unpack the source distribution, collect all of its tests, and run those that read what lies beside them.

    It happens outside of this folder, whose own settings pytest would find above.
    """
    session.install("--require-hashes", "--requirement", ".github/requirements/package.txt")
    with tempfile.TemporaryDirectory(prefix="jetpay-sdist-") as directory:
        built, unpacked, environment = (Path(directory, name) for name in ("built", "unpacked", "environment"))
        session.run("python", "-m", "build", "--quiet", "--sdist", "--outdir", str(built))
        (archive,) = built.iterdir()
        with tarfile.open(archive) as sources:
            sources.extractall(unpacked, filter="data")
        (root,) = unpacked.iterdir()
        session.run("python", "-m", "venv", str(environment))
        paths = (environment / "bin/python", environment / "Scripts/python.exe")
        python = str(next(path for path in paths if path.exists()))
        tools = nox.project.dependency_groups(PROJECT, "test", "frameworks")
        session.run(python, "-m", "pip", "install", "--quiet", f"{root}[all]", *tools, external=True)
        with session.chdir(root):
            run = [python, "-m", "pytest", "--quiet"]
            session.run(*run, "--collect-only", "--quiet", "tests", "README.md", *PAGES, external=True)
            beside = [str(path.relative_to(root)) for path in sorted(root.glob("tests/test_*.py"))]
            chosen = [*SIDE_BY_SIDE, "-m", "not endurance", *beside, *SOURCE_TESTS]
            session.run(*run, *chosen, *session.posargs, external=True)


@nox.session
def audit(session: nox.Session) -> None:
    """Ask the index about known vulnerabilities, where there is a network: of what is installed now, and of the oldest.

    A dependency that is installed today and has one is an error. One of the oldest that are supported is said: who
    pins it has to know, and everybody else gets a newer one.
    """
    install(session, "audit")
    work = Path(session.create_tmp()).resolve()
    oldest, report = work / "oldest.txt", work / "report.json"
    oldest.write_text("\n".join(OLDEST), encoding="utf-8")
    found: dict[str, list[str]] = {}
    for name, arguments in {
        "installed": ["--skip-editable"],
        "oldest": ["--no-deps", "--disable-pip", "--requirement", str(oldest)],
    }.items():
        report.unlink(missing_ok=True)
        command = ["pip-audit", "--progress-spinner=off", "--format=json", f"--output={report}", *arguments]
        session.run(*command, success_codes=[0, 1])
        dependencies = json.loads(report.read_text(encoding="utf-8"))["dependencies"] if report.exists() else []
        judged = [each for each in dependencies if "vulns" in each]
        if not judged:
            session.skip(
                "the index says nothing about any dependency: there is no network, or it is no index of PyPI's kind"
            )
        session.log(f"{len(judged)} of {len(dependencies)} {name} dependencies are known to the index")
        found[name] = [
            f"{each['name']} {each['version']}: {', '.join(vulnerability['id'] for vulnerability in each['vulns'])}"
            for each in judged
            if each["vulns"]
        ]
    for line in found["oldest"]:
        session.warn(f"of the oldest supported dependencies, {line}")
    if found["installed"]:
        session.error("; ".join(found["installed"]))


@nox.session
def portable(session: nox.Session) -> None:
    """Run the tests of the client and of the webhooks, which need no Linux."""
    install(session, "test")
    paths = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("tests/test_*.py"))]
    session.run("pytest", *SIDE_BY_SIDE, *NO_ENDURANCE, "tests/core", "tests/batch", "tests/webhooks", *paths)


@nox.session(allow_parallel=False)
def bench(session: nox.Session) -> None:
    """Measure against the floor, the peers and hand-written code; see ``benchmarks/README.md``."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(name="bench-gate", allow_parallel=False)
def bench_gate(session: nox.Session) -> None:
    """Refuse a change that costs too much, by the gates of ``benchmarks/goals.py``; first test what measures."""
    install(session, "bench", "test")
    session.run("pytest", *SIDE_BY_SIDE, "tests/benchmarks", env={"JETPAY_TEST_PEERS": "required"})
    session.run("python", "-m", "benchmarks", "--gate", *session.posargs)


@nox.session(python="3.11")
def fuzz(session: nox.Session) -> None:
    """Feed the webhook verification with what a fuzzer thinks of; ``nox -s fuzz -- -max_total_time=600``."""
    install(session)
    session.install("atheris")
    session.run("python", "tests/fuzz/fuzz_webhooks.py", *(session.posargs or ["-max_total_time=60"]))


if __name__ == "__main__":
    sys.exit("run me with nox")
