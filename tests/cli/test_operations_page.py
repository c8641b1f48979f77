"""The page for operators, docs/operations.md: its commands, its script, its cron line and its unit are tried."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import time
from configparser import ConfigParser
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async._cli.parser import build_parser
from jetpay_async.sandbox import Fault, FaultKind
from tests.cli.conftest import KILLED_PROGRAM, reserve_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async.sandbox import Sandbox
    from tests.cli.conftest import CommandResult

    Jetpay = Callable[..., CommandResult]

PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
FILES: dict[str, str] = dict(re.findall(r"<!-- file: (.+?) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
SHELL = re.findall(r"(?<!-->\n)```sh\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for block in SHELL for line in block.splitlines() if line.startswith("jetpay")]
COMMANDS += re.findall(r"`(jetpay captures (?:backup|prune) [^`]+)`", PAGE)

# Another run can't change these.
FINAL = {
    ExitStatus.REJECTED,
    ExitStatus.USAGE,
    ExitStatus.INTERNAL_ERROR,
    ExitStatus.OUTPUT_FAILED,
}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``jetpay`` on the path that waits less for what is in doubt; the working directory is empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "jetpay"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(KILLED_PROGRAM)} "$@"\n')
    script.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return script


def test_the_page_has_what_is_tried() -> None:
    """No test of this file is about nothing."""
    assert set(FILES) == {"capture-night.sh", "crontab", "jetpay-captures@.service"}
    assert len(COMMANDS) == 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one(command: str) -> None:
    """Its options are those of the program."""
    assert build_parser().parse_args(shlex.split(command)[1:])


def test_the_commands_work(jetpay: Jetpay, sandbox: Sandbox, empty_directory: Path) -> None:
    """One after the other, each ends well."""
    (empty_directory / "debits.csv").write_text("\n".join(["debit_id", *reserve_many(sandbox, 2)]))

    statuses = {command: jetpay(*shlex.split(command)[1:]).status for command in COMMANDS}

    assert statuses == dict.fromkeys(COMMANDS, 0)


def test_every_status_is_explained() -> None:
    """The table has all that the program has, and what a shell adds for a killed one."""
    listed = {int(status) for status in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}

    assert listed == {*map(int, ExitStatus), 128 + signal.SIGKILL}


# --- the unit ---------------------------------------------------------------------------------------------------------


def unit() -> ConfigParser:
    parser = ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment, method-assign] # keys keep their case
    parser.read_string(FILES["jetpay-captures@.service"])
    return parser


def test_the_unit_runs_the_program() -> None:
    """What it starts is a command of this program, and the night is its batch."""
    command = unit()["Service"]["ExecStart"].replace("%i", "2026-11-22")
    options = vars(build_parser().parse_args(shlex.split(command)[1:]))

    assert (options["debits"], options["batch"]) == (["lists/2026-11-22.csv"], "2026-11-22")


def test_the_unit_knows_the_statuses() -> None:
    """It starts again what another run can change, and takes a stop on request for none."""
    service = unit()["Service"]

    assert {int(status) for status in service["RestartPreventExitStatus"].split()} == FINAL
    assert int(service["SuccessExitStatus"]) == ExitStatus.INTERRUPTED
    assert service["Restart"] == "on-failure"
    assert int(service["TimeoutStopSec"]) > 30  # the client's timeout


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Every setting has a name and a value that systemd knows."""
    text = FILES["jetpay-captures@.service"].replace("/opt/jetpay/bin/jetpay", "/bin/true")
    path = tmp_path / "jetpay-captures@2026-11-22.service"
    path.write_text(text.replace("User=jetpay", "User=root"))

    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, check=False
    )

    assert not [line for line in ran.stderr.splitlines() if path.name in line]


# --- cron -------------------------------------------------------------------------------------------------------------


def test_the_cron_line_calls_the_script() -> None:
    """As cron reads it: a percent sign that is not escaped would end the line."""
    schedule = FILES["crontab"].splitlines()[-1]
    command = schedule.split(maxsplit=5)[5]
    assert not re.search(r"(?<!\\)%", command)
    shell = command.replace("\\%", "%").replace("cd /var/lib/jetpay && exec ./capture-night.sh", "echo")

    ran = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True)

    assert re.fullmatch(r"lists/(\d{4}-\d\d-\d\d)\.csv captures\.db \1\n", ran.stdout)


# --- the script -------------------------------------------------------------------------------------------------------


def start_script(*arguments: str) -> subprocess.Popen[str]:
    Path("capture-night.sh").write_text(FILES["capture-night.sh"])
    return subprocess.Popen(
        ["sh", "./capture-night.sh", *arguments],
        env={**os.environ, "PAUSE_SECONDS": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def running(ledger: str) -> int | None:
    """The process that captures, as the ledger names it."""
    with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        for (process,) in connection.execute("SELECT pid FROM jetpay_owner ORDER BY id DESC LIMIT 1"):
            return int(process)
    return None


@pytest.mark.endurance
def test_killed_until_it_is_done(program: Path, sandbox: Sandbox) -> None:
    """Each run is killed, the last one is not: the script ends with 0, and each debit was captured once."""
    debits = reserve_many(sandbox, 60)
    sandbox.faults.add(Fault(kind=FaultKind.SLOW_AFTER, route="capture", count=999, seconds=0.3))
    Path("list.txt").write_text("\n".join(debits))
    killed: set[int] = set()
    deadline = time.monotonic() + 90
    with start_script("list.txt", "c.db", "night") as script:
        while script.poll() is None and time.monotonic() < deadline:
            process = running("c.db")
            wanted = 15 * (len(killed) + 1)
            if (
                process is not None
                and process not in killed
                and len(killed) < 3
                and sandbox.requests("capture") >= wanted
            ):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                killed.add(process)
            time.sleep(0.002)
        out, err = script.communicate(timeout=20)

    assert script.returncode == 0, err
    assert len(killed) >= 1
    assert "night: 60 of 60 captured" in out
    assert [sandbox.debit(debit_id).captures for debit_id in debits] == [1] * 60
    assert len(Path("outcomes-night.csv").read_text().splitlines()) == 61


@pytest.mark.parametrize("status", [0, 1, 2, 70, 74, 130])
def test_the_script_ends_where_nothing_changes(program: Path, status: int) -> None:
    """A status that a repetition does not change is the script's own, after one run."""
    program.write_text(f"#!/bin/sh\necho run\nexit {status}\n")

    with start_script("list.txt", "c.db", "night") as script:
        out, _ = script.communicate(timeout=20)

    assert (script.returncode, out) == (status, "run\n")


@pytest.mark.parametrize("status", [3, 4, 5, 137])
def test_the_script_goes_on_until_it_has_tried_enough(program: Path, status: int) -> None:
    """What may end otherwise is repeated, but not for ever."""
    program.write_text(f"#!/bin/sh\necho run\nexit {status}\n")

    with start_script("list.txt", "c.db", "night") as script:
        out, _ = script.communicate(timeout=20)

    assert (script.returncode, out) == (status, "run\n" * 20)
