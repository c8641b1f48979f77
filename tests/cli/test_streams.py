"""The program with streams that are closed, full or unread, and with signals: what it does, it does to its end."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import jetpay_async
from jetpay_async._cli import main, program
from jetpay_async._cli.commands import batch_run as command
from tests.cli.conftest import QUICK_PROGRAM, reserve_many
from tests.cli.lists import listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async.sandbox import Sandbox
    from tests.cli.conftest import CommandResult

pytestmark = pytest.mark.usefixtures("empty_directory")

CAPTURE = ("capture", "debits.txt", "--ledger=c.db", "--batch=n1", "--out=o.csv")
DEBITS = 60


def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for a condition, but not for ever."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.skipif(shutil.which("bash") is None, reason="its redirections are what is tested")
@pytest.mark.parametrize(
    ("redirection", "status"),
    [
        pytest.param("2> >(true)", 0, id="nobody reads stderr"),
        pytest.param("2>/dev/full", 0, id="stderr on a full disk"),
        pytest.param("2>&-", 0, id="stderr closed"),
        pytest.param("--json | head -c1 >/dev/null", 0, id="a reader that leaves"),
        pytest.param(">/dev/full", 74, id="stdout on a full disk"),
        pytest.param("--json >/dev/full", 74, id="JSON on a full disk"),
        pytest.param(">&-", 74, id="stdout closed"),
        pytest.param(">&- 2>&- <&-", 74, id="everything closed"),
    ],
)
def test_output_that_is_lost(sandbox: Sandbox, redirection: str, status: int) -> None:
    """A run whose output is lost goes on to its end and writes the outcomes; a lost stdout has its own exit status."""
    listed(reserve_many(sandbox, 10))

    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shlex.join([*QUICK_PROGRAM, *CAPTURE])} {redirection}"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, "Traceback" in ran.stderr) == (status, False)
    assert [debit.captures for debit in sandbox.debits] == [1] * 10
    assert len(Path("o.csv").read_text().splitlines()) == 11


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stderr", ["full disk", "dead pipe"])
def test_a_signal_stops_a_run_whose_messages_are_lost(sandbox: Sandbox, number: signal.Signals, stderr: str) -> None:
    """Stopping does not depend on its message: as behind ``tee``, which dies of the same Ctrl-C."""
    listed(reserve_many(sandbox, DEBITS))
    reader, writer = os.pipe()
    os.close(reader)
    with Path("/dev/full").open("w") as full, os.fdopen(writer, "w") as dead:
        streams = {"stdout": subprocess.DEVNULL, "stderr": full if stderr == "full disk" else dead}
        with subprocess.Popen([*QUICK_PROGRAM, *CAPTURE, "--rate=10"], **streams) as process:  # type: ignore[call-overload] # as given
            wait_until(lambda: sandbox.requests("capture") >= 5)
            process.send_signal(number)
            status = process.wait(timeout=20)

    assert status == 130
    assert sum(debit.captures for debit in sandbox.debits) == sandbox.requests("capture") < DEBITS


def test_a_terminal_that_hangs_up(sandbox: Sandbox) -> None:
    """A terminal that is gone, and its SIGHUP, stop a run cleanly: nothing stays in doubt."""
    listed(reserve_many(sandbox, DEBITS))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*QUICK_PROGRAM, *CAPTURE, "--rate=10"], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        os.close(theirs)
        wait_until(lambda: sandbox.requests("capture") >= 5)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        status = process.wait(timeout=20)

    progress = subprocess.run(
        [*QUICK_PROGRAM, "captures", "status", "--ledger=c.db", "--json"], capture_output=True, text=True, check=True
    )
    assert status == 130
    assert json.loads(progress.stdout)["sending"] == 0


def test_stopping_comes_before_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures are stopped before the message is written."""
    order: list[str] = []

    class Captures:
        def stop(self) -> None:
            order.append("stop")

    monkeypatch.setattr(command, "write_message", lambda _: order.append("message"))
    run = command.StoppableRun()
    run.started(Captures())

    run.stop()

    assert (order, run.interrupted) == (["stop", "message"], True)


def test_ctrl_c_while_modules_are_imported(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C in the first moments is one line and status 130."""

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(program, "run", interrupted)

    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "jetpay: interrupted\n"


def test_an_unexpected_error_has_its_own_status(
    jetpay: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the program itself is shown with its traceback, and is never taken for a rejected debit."""
    monkeypatch.setattr(program, "build_parser", _Parser)

    run = jetpay("demo")

    assert (run.status, run.out) == (70, "")
    assert run.err.startswith("jetpay: internal error, please report it:\nTraceback (most recent call last):\n")
    assert "\nRuntimeError: oh\n" in run.err


def fail() -> int:
    raise RuntimeError("oh")


class _Parser:
    """Parses everything into a command that fails."""

    def parse_args(self, _: object) -> object:
        class Namespace:
            def __init__(self) -> None:
                self.command, self.verbosity, self.log_level, self.log_format = fail, 0, None, "text"

        return Namespace()


@pytest.mark.parametrize(
    "error", [RuntimeError("oh"), asyncio.CancelledError("oh"), BaseExceptionGroup("oh", [OSError()])]
)
@pytest.mark.parametrize("where", ["build_parser", "_call"])
def test_no_error_ends_as_a_rejection(
    jetpay: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str
) -> None:
    """Wherever an error comes from, and of whatever kind it is, the exit status is that of an internal error."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(program, where, fail)

    run = jetpay("completion", "bash")

    assert (run.status, run.out) == (70, "")
    assert "internal error" in run.err


def test_a_process_that_has_done_its_work_ignores_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the interpreter ends must not replace the exit status, or show a traceback."""
    monkeypatch.setattr(sys, "argv", ["jetpay", "completion", "bash"])

    assert main() == 0

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == [signal.SIG_IGN] * 2


def test_little_is_imported_before_ctrl_c_is_handled() -> None:
    """Until ``main`` is called Ctrl-C shows a traceback, so nothing is imported that takes its time."""
    package = Path(jetpay_async.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(package)!r}); from jetpay_async._cli import main; print(*sys.modules)"

    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)

    assert not {"typing", "enum", "re", "collections", "argparse"} & set(ran.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="its redirections are what is tested")
@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        pytest.param("--help >/dev/full", 74, "stdout can't be written: No space left on device", id="help"),
        pytest.param("--version >/dev/full", 74, "stdout can't be written: No space left on device", id="version"),
        pytest.param("--version >&-", 74, "stdout can't be written: it is closed", id="closed"),
        pytest.param("--help | head -c1 >/dev/null", 0, "", id="a reader that leaves"),
        pytest.param("refund 2>/dev/full", 2, "", id="usage"),
    ],
)
def test_help_that_is_lost(command: str, status: int, message: str) -> None:
    """A help or a version that can't be written shows in the exit status, as any other output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    program = shlex.join([sys.executable, "-m", "jetpay_async._cli"])

    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {program} {command}"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )

    assert (ran.returncode, ran.stderr) == (status, message and f"jetpay: {message}\n")


def test_a_deleted_working_directory(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where the working directory is gone, one line reports it, and nothing is done."""
    script = f"mkdir gone; cd gone; rmdir ../gone; {shlex.join([sys.executable, '-m', 'jetpay_async._cli', *CAPTURE])}"

    ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "jetpay: the working directory has been deleted; change to another directory\n"
    assert sandbox.requests() == 0


def test_a_working_directory_that_disappears(
    jetpay: Callable[..., CommandResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that has no working directory does nothing."""

    def gone() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(os, "getcwd", gone)

    run = jetpay("captures", "status", "--ledger=c.db")

    assert (run.status, run.err) == (2, "jetpay: the working directory has been deleted; change to another directory\n")
