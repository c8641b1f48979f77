"""``jetpay capture FILE --ledger ...`` that ends before its end: interrupted, or by an error."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from jetpay_async import OutcomeUnknownError
from jetpay_async._cli.commands import capture_file as command
from jetpay_async._cli.io.debit_reader import Debits
from jetpay_async.ledger import Batch, CapturesStoppedError, LedgerError, Progress, Report
from jetpay_async.sandbox import Sandbox
from tests.cli.conftest import CommandResult, reserve_many
from tests.cli.lists import capture, captured, events, ledger, listed

Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("short_waits", "empty_directory")


def test_ctrl_c_stops_cleanly(
    jetpay: Jetpay, sandbox: Sandbox, interrupt_when: Callable[[Callable[[], bool]], None]
) -> None:
    """After Ctrl-C nothing more is sent and nothing is in doubt; the same command again captures the rest."""
    source = listed(reserve_many(sandbox, 200))
    interrupt_when(lambda: sandbox.requests("capture") >= 20)

    run = jetpay(*capture(source, "--concurrency=4", "--rate=100"))

    done = sum(captured(sandbox))
    stopping, stopped, go_on = run.err.splitlines()
    assert (run.status, run.out) == (130, "")
    assert stopping.startswith("jetpay: stopping: nothing more is sent")
    assert stopped == f"jetpay: interrupted; {done} of 200 are done"
    assert go_on == (
        "Run the same command again to continue; `jetpay captures status --ledger c.db --batch n1` shows the progress."
    )
    assert 20 <= done < 200
    assert jetpay(*capture(source)).status == 0
    assert captured(sandbox) == [1] * 200


def test_ctrl_c_as_json(jetpay: Jetpay, sandbox: Sandbox, interrupt_when: Callable[[Callable[[], bool]], None]) -> None:
    """With --json the last object has the progress, and why it stopped."""
    source = listed(reserve_many(sandbox, 100))
    interrupt_when(lambda: sandbox.requests("capture") >= 5)

    run = jetpay(*capture(source, "--json", "--rate=100"))

    last = events(run)[-1]
    assert (run.status, last["event"], last["reason"], last["total"]) == (130, "stopped", "interrupted", 100)


@pytest.mark.parametrize("place", [0, 2500], ids=["first", "last"])
def test_ctrl_c_while_the_batch_is_stored(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Ctrl-C before the batch is stored leaves none; a moment later it leaves one of which nothing was sent."""
    source = listed([f"debit_{number}" for number in range(2501)])
    genuine = Debits.__iter__

    def interrupting(self: Debits) -> Iterator[str]:
        for number, debit_id in enumerate(genuine(self)):
            if number == place:
                os.kill(os.getpid(), signal.SIGINT)
            yield debit_id

    monkeypatch.setattr(Debits, "__iter__", interrupting)

    run = jetpay(*capture(source))

    stored = jetpay(*ledger("status", "--json")).out
    assert (run.status, run.out, sandbox.requests("capture")) == (130, "", 0)
    if place:
        assert run.err.splitlines()[1] == "jetpay: interrupted; 0 of 2,501 are done"
        assert json.loads(stored)["pending"] == 2501
    else:
        assert run.err.splitlines()[1] == "jetpay: interrupted before the batch was stored: nothing was sent"
        assert stored == ""


def test_a_dead_api(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody answers the run ends before its end, with status 3 and the reason; it can be gone on with."""
    source = listed(reserve_many(sandbox, 50))
    genuine = sandbox.url
    monkeypatch.setenv("JETPAY_BASE_URL", "http://127.0.0.1:1")

    run = jetpay(*capture(source, "--concurrency=4"))

    assert (run.status, run.out) == (3, "")
    assert "jetpay: stopped: nothing was sent; calling again is safe (ClientConnectorError: " in run.err
    assert "; 0 of 50 are done\nRun the same command again" in run.err
    monkeypatch.setenv("JETPAY_BASE_URL", genuine)
    assert jetpay(*capture(source)).status == 0
    assert captured(sandbox) == [1] * 50


def test_a_wrong_token(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that is rejected ends the run, is not shown, and no debit is called rejected because of it."""
    source = listed(reserve_many(sandbox, 50))
    monkeypatch.setenv("JETPAY_API_TOKEN", "open-sesame")

    run = jetpay(*capture(source))

    assert run.status == 3
    assert "stopped: the API answered 401" in run.err
    assert "sesame" not in run.err + run.out
    assert json.loads(jetpay(*ledger("status", "--json")).out)["pending"] == 50


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        pytest.param(LedgerError("the disk is gone", debit_id="d"), "the disk is gone", id="ledger"),
        pytest.param(OutcomeUnknownError("lost", reason="no answer"), "no answer", id="unknown"),
        pytest.param(RuntimeError("oh"), "RuntimeError: oh", id="a fault of our own"),
        pytest.param(None, "the end", id="no cause"),
    ],
)
def test_the_reason_of_an_early_end(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, cause: Exception | None, reason: str
) -> None:
    """Why a run ended is reported, as text and as JSON, even if the ledger can't be read."""

    async def fail(self: Batch) -> Report:
        raise CapturesStoppedError("the end", key=self.key, progress=None) from cause

    monkeypatch.setattr(Batch, "wait", fail)

    run = jetpay(*capture(listed(reserve_many(sandbox, 1))))
    as_json = jetpay(*capture("debits.txt", "--json"))

    assert (run.status, run.err.splitlines()[0]) == (3, f"jetpay: stopped: {reason}")
    assert events(as_json)[-1] == {"event": "stopped", "batch": "n1", "reason": reason}


def test_debits_in_doubt_are_reported(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends with debits in doubt reports how many."""

    async def fail(self: Batch) -> Report:
        stands = Progress(total=9, pending=3, sending=2, captured=4, rejected=0, unknown=0)
        raise CapturesStoppedError("the end", key=self.key, progress=stands)

    monkeypatch.setattr(Batch, "wait", fail)

    run = jetpay(*capture(listed(reserve_many(sandbox, 1))))

    assert run.err.splitlines()[0] == "jetpay: stopped: the end; 4 of 9 are done, 2 in flight or in doubt"


def test_debits_in_doubt_since_an_earlier_run_are_reported(
    jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that waits for debits in doubt since a killed run says what it waits for."""

    async def in_doubt(*_: object) -> Progress:
        return Progress(total=1, pending=0, sending=1, captured=0, rejected=0, unknown=0)

    monkeypatch.setattr(command, "find_stored", in_doubt)

    run = jetpay(*capture(listed(reserve_many(sandbox, 1))))

    assert run.err.startswith("jetpay: 1 debits are in doubt since an earlier run ended, or in flight in another run; ")
    assert run.status == 0
