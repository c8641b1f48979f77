"""The program on a terminal of its own: its bar, and Ctrl-C, as it is typed, in every phase of a batch."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.cli.conftest import QUICK_PROGRAM, reserve_many, running
from tests.cli.lists import CONTROL, capture, listed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from tests.cli.conftest import CommandResult

    Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("empty_directory")

CTRL_C = b"\x03"
DEBITS = 40

# The terminal becomes the one that controls the process: what is typed there is a signal.
_TAKE_TERMINAL = "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
SLOW_TO_RESOLVE = f"{_TAKE_TERMINAL}import sys\nfrom jetpay_async._cli import main\nsys.exit(main())\n"
QUICK = f"{_TAKE_TERMINAL}{QUICK_PROGRAM[2]}"


class Terminal:
    """A terminal with a program in it."""

    def __init__(self, *arguments: str, program: str = QUICK) -> None:
        self._ours, theirs = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**environment, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        )
        os.close(theirs)
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        os.close(self._ours)

    def _read(self) -> None:
        with suppress(OSError):  # the other end is closed
            while chunk := os.read(self._ours, 4096):
                self._shown.extend(chunk)

    @property
    def shown(self) -> str:
        """Everything that it has got."""
        return self._shown.decode(errors="replace")

    @property
    def text(self) -> str:
        """The same without what moves the cursor, or colors."""
        return CONTROL.sub("", self.shown).replace("\r", "")

    def wait_for(self, holds: Callable[[], object]) -> None:
        """Wait until something has happened."""
        deadline = time.monotonic() + 40
        while not holds():
            assert time.monotonic() < deadline, self.text
            assert self.process.poll() is None, self.text
            time.sleep(0.005)

    def press(self, keys: bytes) -> None:
        """Type something."""
        os.write(self._ours, keys)

    def finish(self) -> int:
        """Wait for the end of the program, and return its exit status."""
        status = self.process.wait(timeout=40)
        self._reader.join()
        return status


def check_left_in_order(terminal: Terminal) -> None:
    """No traceback is on the terminal, and its cursor is there."""
    assert "Traceback" not in terminal.text
    assert terminal.shown.rfind("\x1b[?25h") >= terminal.shown.rfind("\x1b[?25l")


def count(sandbox: Sandbox) -> list[int]:
    return [debit.captures for debit in sandbox.debits]


def stands(jetpay: Jetpay) -> dict[str, int]:
    progress: dict[str, int] = json.loads(jetpay("captures", "status", "--ledger=c.db", "--json").out)
    return progress


def test_a_batch_on_a_terminal(sandbox: Sandbox) -> None:
    """A bar grows while debits are captured; its last state and the report stay."""
    source = listed(reserve_many(sandbox, DEBITS))
    sandbox.faults.add(Fault(kind=FaultKind.SLOW_AFTER, route="capture", count=DEBITS, seconds=0.1))
    with Terminal(*capture(source, "--concurrency=4")) as terminal:
        status = terminal.finish()

    assert status == 0
    assert re.search(r"\d+ captured  0 rejected  0 unknown  \d+ in flight  \d+/s  (\?|\d+ s) left", terminal.text)
    assert re.search(rf"n1 ━+ 100% {DEBITS}/{DEBITS} *\n{DEBITS} captured  0 rejected  0 unknown", terminal.text)
    assert terminal.text.endswith(f"n1: {DEBITS} of {DEBITS} captured, 0 rejected, 0 unknown\n")
    check_left_in_order(terminal)


def test_ctrl_c_while_the_list_is_read(sandbox: Sandbox) -> None:
    """A list that comes slowly: one line, and no ledger was made."""
    os.mkfifo("debits.txt")
    with Terminal(*capture("debits.txt")) as terminal:
        with Path("debits.txt").open("w"):  # waits for the program to open it, too
            terminal.press(CTRL_C)
            status = terminal.finish()

    assert status == 130
    assert "jetpay: interrupted\n" in terminal.text
    assert not Path("c.db").exists()
    check_left_in_order(terminal)


def test_ctrl_c_while_the_list_is_typed(sandbox: Sandbox) -> None:
    """The same for a list that a person types."""
    with Terminal(*capture("-")) as terminal:
        terminal.wait_for(lambda: "end with Ctrl-D" in terminal.text)
        terminal.press(b"debit_1\n" + CTRL_C)
        status = terminal.finish()

    assert status == 130
    assert "jetpay: interrupted\n" in terminal.text
    check_left_in_order(terminal)


def test_ctrl_c_while_the_batch_is_stored(sandbox: Sandbox) -> None:
    """Nothing was sent, whether it came before the end of the storing or just after."""
    source = listed([f"debit_{number}" for number in range(60_000)])
    with Terminal(*capture(source, "--rate=1")) as terminal:
        terminal.wait_for(lambda: "storing the batch" in terminal.text)
        terminal.press(CTRL_C)
        status = terminal.finish()

    assert status == 130
    assert sandbox.requests("capture") <= 2
    assert "jetpay: interrupted" in terminal.text
    check_left_in_order(terminal)


def test_ctrl_c_while_debits_are_captured(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """What is in flight is finished, and nothing is in doubt."""
    source = listed(reserve_many(sandbox, DEBITS))
    sandbox.faults.add(Fault(kind=FaultKind.SLOW_AFTER, route="capture", count=DEBITS, seconds=0.2))
    with Terminal(*capture(source, "--concurrency=4")) as terminal:
        terminal.wait_for(lambda: sandbox.requests("capture") >= 5)
        terminal.press(CTRL_C)
        status = terminal.finish()

    assert status == 130
    assert "stopping: nothing more is sent, requests in flight are finished" in terminal.text
    assert f"{sum(count(sandbox))} of {DEBITS} are done" in terminal.text
    assert stands(jetpay)["sending"] == 0
    check_left_in_order(terminal)


def test_ctrl_c_twice(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A request that hangs holds nobody up: the second Ctrl-C ends at once, and says what becomes of it."""
    source = listed(reserve_many(sandbox, 4))
    sandbox.faults.add(Fault(kind=FaultKind.STALL_AFTER, route="capture", count=4))
    with Terminal(*capture(source), program=SLOW_TO_RESOLVE) as terminal:
        terminal.wait_for(lambda: sandbox.requests("capture") == 4)
        terminal.press(CTRL_C)
        terminal.wait_for(lambda: "Ctrl-C again ends at once" in terminal.text)
        terminal.press(CTRL_C)
        status = terminal.finish()

    assert status == 130
    assert "ended at once; requests in flight are resolved when you run the same command again" in terminal.text
    assert stands(jetpay)["sending"] == 4
    check_left_in_order(terminal)


def test_ctrl_c_while_debits_in_doubt_are_waited_for(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """The bar says what it waits for, instead of a rate, and the wait of a minute and a half ends at once."""
    source = listed(reserve_many(sandbox, 4))
    sandbox.faults.add(Fault(kind=FaultKind.STALL_AFTER, route="capture", count=4))
    with Terminal(*capture(source), program=SLOW_TO_RESOLVE) as terminal:
        terminal.wait_for(lambda: sandbox.requests("capture") == 4)
        terminal.process.send_signal(signal.SIGKILL)
        terminal.process.wait()
    with Terminal(*capture(source), program=SLOW_TO_RESOLVE) as terminal:
        terminal.wait_for(lambda: re.search(r"waiting \d.*? to resolve 4 debits in doubt", terminal.text))
        terminal.press(CTRL_C)
        status = terminal.finish()

    assert status == 130
    assert "4 debits are in doubt since an earlier run ended" in terminal.text
    assert "0 of 4 are done, 4 in flight or in doubt" in terminal.text
    assert sandbox.requests("capture") == 4
    check_left_in_order(terminal)


def test_ctrl_c_while_accepted_debits_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is complete by then: its report is written, and the status says that some are not final."""
    bank = Sandbox(slow_bank_seconds=1000.0)
    with running(bank):
        monkeypatch.setenv("JETPAY_API_TOKEN", bank.api_token)
        monkeypatch.setenv("JETPAY_BASE_URL", bank.url)
        (debit_id,) = reserve_many(bank, 1, card_number="4000000000000051")
        with Terminal(*capture(listed([debit_id]))) as terminal:
            terminal.wait_for(lambda: bank.requests("status") >= 1)
            terminal.press(CTRL_C)
            status = terminal.finish()

    assert status == 5
    assert "n1: 0 of 1 captured, 1 accepted, 0 rejected, 0 unknown" in terminal.text
    check_left_in_order(terminal)


def test_ctrl_c_after_a_question(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Whoever is asked may also leave."""
    jetpay(*capture(listed(reserve_many(sandbox, 1))))
    with Terminal("captures", "prune", "--ledger=c.db", "--before=0d") as terminal:
        terminal.wait_for(lambda: "[y/N]" in terminal.text)
        terminal.press(CTRL_C)
        status = terminal.finish()

    assert status == 130
    assert "jetpay: interrupted\n" in terminal.text
    assert stands(jetpay)["captured"] == 1
    check_left_in_order(terminal)
