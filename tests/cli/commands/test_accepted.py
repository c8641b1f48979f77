"""Debits that the API has accepted and not finished: shown everywhere, with an exit status of their own."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from jetpay_async.ledger import Batch, Progress, Report
from jetpay_async.sandbox import Sandbox
from tests.cli.conftest import CommandResult, running
from tests.cli.lists import capture, ledger, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("short_waits", "empty_directory")

SLOW = "4000000000000051"
NOW = datetime(2026, 1, 22, tzinfo=UTC)


@pytest.fixture
def slow_bank(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    """A sandbox whose slow bank never decides while a test runs."""
    made = Sandbox(slow_bank_seconds=1000.0)
    with running(made):
        monkeypatch.setenv("JETPAY_API_TOKEN", made.api_token)
        monkeypatch.setenv("JETPAY_BASE_URL", made.url)
        yield made


@pytest.fixture
def slow_debit(jetpay: Jetpay, slow_bank: Sandbox) -> str:
    payer = slow_bank.add_payer(card_number=SLOW)
    run = jetpay(
        "preauthorize",
        f"--contact={payer.contact_id}",
        f"--card={payer.credit_card_id}",
        "--amount=5",
        f"--to-account={slow_bank.merchant_account_id}",
        "--statement=Stay",
        "--json",
    )
    return str(json.loads(run.out)["debit_id"])


@pytest.fixture
def no_follow_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch end without following its accepted debits for a minute."""
    do_not_follow_up(monkeypatch)


def do_not_follow_up(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Batch.wait

    async def wait(self: Batch) -> Report:
        return await genuine(self, follow_up=0.0)

    monkeypatch.setattr(Batch, "wait", wait)


def test_an_accepted_capture(jetpay: Jetpay, slow_debit: str) -> None:
    """A capture that is not final is shown with the command that shows its end, with status 5."""
    run = jetpay("capture", slow_debit)

    shown, hint = run.out.splitlines()
    assert (run.status, shown, run.err) == (5, f"{slow_debit}  processing", "")
    assert hint == f"Accepted, but not final yet. To see how it ends: jetpay status {slow_debit}"


def test_an_accepted_capture_as_json(jetpay: Jetpay, slow_debit: str) -> None:
    """As JSON it is not final."""
    document = json.loads(jetpay("capture", slow_debit, "--json").out)

    assert (document["outcome"], document["state"], document["final"]) == ("done", "processing", False)


def test_an_accepted_debit_of_a_batch(jetpay: Jetpay, slow_debit: str, slow_bank: Sandbox, no_follow_up: None) -> None:
    """A batch that is complete but for accepted debits has status 5, and the same command never sends them again."""
    source = listed([slow_debit])

    run = jetpay(*capture(source, "--out=o.csv"))
    again = jetpay(*capture(source))

    counts, hint = run.out.splitlines()
    assert (run.status, counts) == (5, "n1: 0 of 1 captured, 1 accepted, 0 rejected, 0 unknown")
    assert hint == "Accepted ones are not final yet and are not sent again; the same command checks their status."
    assert again.status == 5
    assert slow_bank.requests("capture") == 1
    assert jetpay(*ledger("list", "--state=accepted")).out.startswith(f"n1  {slow_debit}  accepted  processing")


def test_an_accepted_debit_becomes_captured(jetpay: Jetpay, slow_debit: str, slow_bank: Sandbox) -> None:
    """Once the bank has decided, the same command reports the debit as captured."""
    source = listed([slow_debit])
    with pytest.MonkeyPatch.context() as patch:
        do_not_follow_up(patch)
        jetpay(*capture(source))
    slow_bank.set_state(slow_debit, "paid")

    run = jetpay(*capture(source))

    assert (run.status, run.out) == (0, "n1: 1 of 1 captured, 0 rejected, 0 unknown\n")
    assert slow_bank.requests("capture") == 1


def test_accepted_debits_in_the_table_and_the_dry_run(jetpay: Jetpay, slow_debit: str, no_follow_up: None) -> None:
    """`captures status` has a column of accepted debits, and a dry run counts them."""
    source = listed([slow_debit])
    jetpay(*capture(source))

    header, row = jetpay(*ledger("status")).out.splitlines()
    dry = jetpay(*capture(source, "--dry-run"))

    assert row[: header.index("ACCEPTED") + len("ACCEPTED")].endswith(" 1")
    assert json.loads(jetpay(*ledger("status", "--json")).out)["accepted"] == 1
    assert dry.out.endswith("and the status of 0 unknown and 1 accepted ones checked again\n")


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        pytest.param({"accepted": 1}, 5, id="accepted"),
        pytest.param({"accepted": 1, "rejected": 1}, 1, id="rejected is graver"),
        pytest.param({"accepted": 1, "unknown": 1}, 4, id="unknown is graver"),
    ],
)
def test_the_gravest_outcome_is_the_exit_status(
    jetpay: Jetpay, slow_debit: str, monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], status: int
) -> None:
    """Of a batch with several outcomes the one that most needs attention is the exit status."""
    all_counts = {"captured": 1, "rejected": 0, "unknown": 0, **counts}
    report = Report(key="n1", total=3, submitted_at=NOW, finished_at=NOW, **all_counts)

    async def wait(_: Batch) -> Report:
        return report

    monkeypatch.setattr(Batch, "wait", wait)

    assert jetpay(*capture(listed([slow_debit]))).status == status


def test_accepted_debits_are_followed_visibly(jetpay: Jetpay, slow_debit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a batch waits for the end of accepted debits, its progress is still shown."""
    shown: list[Progress] = []
    genuine = Batch.wait

    async def wait(self: Batch) -> Report:
        return await genuine(self, follow_up=0.3)

    async def progress(self: Batch) -> Progress:
        shown.append(await read(self))
        return shown[-1]

    read = Batch.progress
    monkeypatch.setattr(Batch, "wait", wait)
    monkeypatch.setattr(Batch, "progress", progress)
    monkeypatch.setattr("jetpay_async._cli.progress.display.TextLines.interval_seconds", 0.01)

    run = jetpay(*capture(listed([slow_debit])))

    assert run.status == 5
    assert run.err.count("jetpay: n1: 1 of 1: 0 captured, 1 accepted, 0 rejected, 0 unknown\n") > 1
