"""The progress of a batch on a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable

import pytest

from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.cli.conftest import CommandResult, reserve_many
from tests.cli.lists import CONTROL, capture, listed, pretend_terminal

Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("short_waits", "empty_directory")


def test_a_bar_on_a_terminal(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal stderr has a bar with the rate and what is left, in red what a person has to look at."""
    debit_ids = reserve_many(sandbox, 40)
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="capture", identifier=debit_ids[0], status=402))
    # Long enough for a bar to be drawn on the way.
    sandbox.faults.add(Fault(kind=FaultKind.SLOW_AFTER, route="capture", count=len(debit_ids), seconds=0.02))
    pretend_terminal(monkeypatch)

    run = jetpay(*capture(listed(debit_ids), "--concurrency=2"))

    text = CONTROL.sub("", run.err)
    assert (run.status, run.out.splitlines()[0]) == (1, "n1: 39 of 40 captured, 1 rejected, 0 unknown")
    assert re.search(r"in flight  \d+/s  (\?|\d s) left", text)
    assert re.search(r"100% 40/40 *\n39 captured  1 rejected  0 unknown", text)
    assert "\x1b[33m1 rejected" in run.err
    assert run.err.rindex("\x1b[?25h") > run.err.rindex("\x1b[?25l")


def test_no_bar_is_left_of_what_does_not_begin(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the batch is rejected the bar goes away, and the reason stands alone."""
    jetpay(*capture(listed(reserve_many(sandbox, 1))))
    pretend_terminal(monkeypatch)

    run = jetpay(*capture(listed(["debit_1"])))

    before, message = run.err.split("jetpay: ")
    assert message.startswith("batch 'n1' exists with other debits")
    assert before.endswith("\x1b[1A\x1b[2K")  # up a line, and erase it


@pytest.mark.parametrize("lacking", ["rich", "TERM"])
def test_a_lesser_terminal_gets_lines(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """Without rich, and on a dumb terminal, there are plain lines."""
    source = listed(reserve_many(sandbox, 2))
    pretend_terminal(monkeypatch)
    if lacking == "rich":
        monkeypatch.setitem(sys.modules, "rich", None)
    else:
        monkeypatch.setenv("TERM", "dumb")

    run = jetpay(*capture(source))

    assert (run.status, run.err) == (0, "jetpay: n1: 2 of 2: 2 captured, 0 rejected, 0 unknown\n")
