"""``jetpay preauthorize FILE --ledger ...``, in this process, against a sandbox that counts."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jetpay_async._cli.commands import batch_run
from jetpay_async._cli.commands import preauthorize_file as command
from jetpay_async._cli.io.connection import ConnectionOptions
from jetpay_async._cli.io.exporter import OutputFileError
from jetpay_async._cli.io.request_reader import Requests
from jetpay_async.ledger import PaymentBatch, PaymentCounts, PaymentReport, PaymentsStoppedError
from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.cli.conftest import CommandResult

Jetpay = Callable[..., CommandResult]

pytestmark = pytest.mark.usefixtures("short_waits", "empty_directory")

COLUMNS = ("reference", "contact", "card", "amount", "to_account", "statement", "guest")
ARGUMENTS = ("--ledger=c.db", "--batch=n1")


def bookings(sandbox: Sandbox, numbers: Iterable[int], name: str = "bookings.csv", **changes: str) -> str:
    """A list of bookings of one guest."""
    payer = sandbox.add_payer()
    with Path(name).open("w", newline="") as stream:
        rows = csv.DictWriter(stream, COLUMNS)
        rows.writeheader()
        for number in numbers:
            rows.writerow(
                {
                    "reference": f"b{number}",
                    "contact": payer.contact_id,
                    "card": payer.credit_card_id,
                    "amount": "5.00",
                    "to_account": sandbox.merchant_account_id,
                    "statement": "Stay",
                    "guest": "Ann",
                    **changes,
                }
            )
    return name


def reserve(source: str, *options: str) -> tuple[str, ...]:
    return ("preauthorize", source, *ARGUMENTS, *options)


def test_a_file_is_reserved_once(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Each line is one reservation; the same command again sends nothing."""
    source = bookings(sandbox, [*range(20), 3])

    runs = [jetpay(*reserve(source, "--concurrency=8", "--rate=1000")) for _ in range(2)]

    line = "n1: 20 of 20 reserved, 0 rejected, 0 unknown (1 given more than once)\n"
    assert [(run.status, run.out) for run in runs] == [(0, line)] * 2
    assert len(sandbox.debits) == sandbox.requests("preauthorize") == 20


def test_the_outcomes_are_written(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """Each payment is written beside the further columns of the list, as CSV or as JSON lines."""
    source = bookings(sandbox, range(3))

    assert jetpay(*reserve(source, "--out=o.csv")).status == 0
    assert jetpay(*reserve(source, "--out=o.jsonl")).status == 0
    run = jetpay(*reserve(source, "--out=-"))

    with Path("o.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["reference"], row["state"], row["guest"]) for row in rows] == [
        (f"b{number}", "succeeded", "Ann") for number in range(3)
    ]
    assert json.loads(rows[0]["arguments"])["amount"] == "5.00"
    assert {row["transaction_id"] for row in rows} == {debit.identifier for debit in sandbox.debits}
    documents = [json.loads(line) for line in Path("o.jsonl").read_text().splitlines()]
    assert [document["listed"] for document in documents] == [{"guest": "Ann"}] * 3
    assert documents[0]["arguments"]["amount"] == "5.00"
    assert run.out == Path("o.csv").read_text()
    assert "3 of 3 reserved" in run.err


def test_rejected_ones(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A declined card has status 1."""
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_BEFORE, route="preauthorize", status=402))

    run = jetpay(*reserve(bookings(sandbox, range(3))))

    assert (run.status, run.out) == (1, "n1: 2 of 3 reserved, 1 rejected, 0 unknown\n")


def test_unknown_ones(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """A lost answer has status 4, is never sent again, and the line says where to decide."""
    sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="preauthorize"))
    source = bookings(sandbox, range(3))

    runs = [jetpay(*reserve(source)) for _ in range(2)]

    assert [(run.status, run.out.splitlines()) for run in runs] == [
        (
            4,
            [
                "n1: 2 of 3 reserved, 0 rejected, 1 unknown",
                "Unknown ones may have been reserved, and are never sent again: jetpay unresolved list --ledger c.db",
            ],
        )
    ] * 2
    assert sandbox.requests("preauthorize") == 3


@pytest.mark.parametrize(
    ("counts", "status"), [({"accepted": 1}, 5), ({"discarded": 1}, 1), ({"rejected": 1, "sending": 1}, 4)]
)
def test_other_statuses(counts: dict[str, int], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Accepted ones have status 5, discarded ones 1; what a single call is sending again is not known yet."""
    now = datetime.now(UTC)
    report = PaymentReport(key="n1", counts=PaymentCounts(**counts), submitted_at=now, finished_at=now)
    request = batch_run.BatchRequest(
        source="b.csv",
        ledger="c.db",
        batch="n1",
        concurrency=1,
        rate=None,
        restored=False,
        account=None,
        accept_rejections=False,
        out=None,
        raw=False,
        connection=ConnectionOptions(timeout=None, proxy=None),
        as_json=False,
    )

    command._write_report(request, report, duplicates=0)

    assert command._status_of(report) == status
    said = capsys.readouterr().out
    assert ("1 accepted\nAccepted ones are not final yet" in said) is ("accepted" in counts)


def test_the_report_as_json(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """--json prints one object."""
    run = jetpay(*reserve(bookings(sandbox, range(2)), "--json"))

    document = json.loads(run.out)
    assert (run.status, document["event"], document["key"], document["total"]) == (0, "report", "n1", 2)
    assert document["counts"]["succeeded"] == 2
    mixed = jetpay(*reserve("bookings.csv", "--json", "--out=-"))
    assert (mixed.status, "--json writes to stdout already" in mixed.err) == (2, True)


def test_a_bad_line_sends_nothing(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """The list is checked to its end before anything is sent, and no ledger is made."""
    run = jetpay(*reserve(bookings(sandbox, range(3), amount="1.005")))

    assert (run.status, "3 lines are not valid; nothing was sent\n  line 2: amount" in run.err) == (2, True)
    assert (sandbox.requests(), Path("c.db").exists()) == (0, False)


def test_another_list_under_the_same_name(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """It is refused, and so is a reference that stands for another payment."""
    jetpay(*reserve(bookings(sandbox, range(3))))

    others = jetpay(*reserve(bookings(sandbox, range(3, 5))))
    differing = jetpay("preauthorize", bookings(sandbox, [1]), "--ledger=c.db", "--batch=n2")

    assert (others.status, "batch 'n1' exists with other requests" in others.err) == (2, True)
    assert (differing.status, "reference 'b1' stands for another payment" in differing.err) == (2, True)
    assert sandbox.requests("preauthorize") == 3


def test_a_dry_run_sends_nothing(jetpay: Jetpay, sandbox: Sandbox) -> None:
    """It shows what was read and what would be added, makes no ledger, and needs no token."""
    source = bookings(sandbox, [*range(1500), 0])

    first = jetpay(*reserve(source, "--dry-run"))
    assert first == CommandResult(
        0,
        "bookings.csv: 1,500 preauthorizations of 7,500.00 in all (1 given more than once), read from CSV, "
        "column 1 of 7, comma-separated, headed 'reference'\n"
        "first: b0\nlast:  b0\nbatch n1 in c.db: 1,500 would be added\n",
        "",
    )
    assert not Path("c.db").exists()

    source = bookings(sandbox, range(2))
    jetpay(*reserve(source))
    again = jetpay(*reserve(source, "--dry-run", "--json"))
    document = json.loads(again.out)
    assert (again.status, document["ok"], document["new"], document["stored"]) == (0, True, 0, {"succeeded": 2})
    assert (document["amount"], document["first"], document["last"]) == (10.0, "b0", "b1")
    assert "0 would be added; the ledger has 2 succeeded" in jetpay(*reserve(source, "--dry-run")).out

    differing = jetpay(*reserve(bookings(sandbox, [1, 7]), "--dry-run"))
    assert (differing.status, "the ledger has 'b1' for another payment" in differing.out) == (2, True)


def test_a_list_from_stdin(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """``-`` is stdin."""
    source = bookings(sandbox, range(2))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path(source).read_bytes())))

    run = jetpay(*reserve("-", "--dry-run"))

    assert run.out.startswith("stdin: 2 preauthorizations of 10.00 in all")


def test_ctrl_c_stops_cleanly(
    jetpay: Jetpay, sandbox: Sandbox, interrupt_when: Callable[[Callable[[], bool]], None]
) -> None:
    """After Ctrl-C nothing more is sent and nothing is unknown; the same command again reserves the rest."""
    source = bookings(sandbox, range(100))
    interrupt_when(lambda: sandbox.requests("preauthorize") >= 10)

    run = jetpay(*reserve(source, "--concurrency=2", "--rate=50", "--json"))

    stopped = json.loads(run.out)
    assert (run.status, stopped["event"], stopped["reason"]) == (130, "stopped", "interrupted")
    assert stopped["succeeded"] == len(sandbox.debits) < 100
    assert run.err.endswith(" of 100 are done\nRun the same command again to continue.\n")
    assert jetpay(*reserve(source)).status == 0
    assert len(sandbox.debits) == sandbox.requests("preauthorize") == 100


@pytest.mark.parametrize("where", ["before the batch is stored", "just after"])
def test_ctrl_c_early(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Before the batch is stored nothing is sent, and nothing is left."""
    run = None
    before = where == "before the batch is stored"
    make = command._PreauthorizationRun.__init__
    iterate = Requests.__iter__

    def remember(self: command._PreauthorizationRun, *arguments: Any) -> None:
        nonlocal run
        make(self, *arguments)
        run = self

    def interrupted(self: Requests) -> Any:
        assert run is not None
        if before:
            run.stop()
        yield from iterate(self)
        run.interrupted = True

    monkeypatch.setattr(command._PreauthorizationRun, "__init__", remember)
    monkeypatch.setattr(Requests, "__iter__", interrupted)

    ended = jetpay(*reserve(bookings(sandbox, range(3))))

    assert ended.status == 130
    assert ("interrupted before the batch was stored: nothing was sent" in ended.err) is before
    if before:
        assert sandbox.requests() == 0


def test_a_rejected_token_stops_the_batch(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 3, with the reason; the same command goes on with another token."""
    source = bookings(sandbox, range(3))
    with monkeypatch.context() as patched:
        patched.setenv("JETPAY_API_TOKEN", "jetpay_sandbox_wrong")
        run = jetpay(*reserve(source))

    assert (run.status, run.out) == (3, "")
    assert "stopped: the API answered 401" in run.err
    assert "0 of 3 are done\nRun the same command again to continue." in run.err
    assert jetpay(*reserve(source)).status == 0


def test_why_a_ledger_stopped_it(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the ledger itself can't be read, there is no progress to show."""

    async def wait(_: object) -> None:
        error = PaymentsStoppedError("stopped", key="n1", progress=None)
        raise error from OSError("no disk")

    monkeypatch.setattr(command, "_wait", wait)

    run = jetpay(*reserve(bookings(sandbox, range(1)), "--json"))

    assert (run.status, json.loads(run.out)) == (3, {"event": "stopped", "batch": "n1", "reason": "OSError: no disk"})
    assert run.err == "jetpay: stopped: OSError: no disk\nRun the same command again to continue.\n"


def test_outcomes_that_can_not_be_written(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is done, and the status says that its output failed."""
    source = bookings(sandbox, range(1))
    monkeypatch.setattr(batch_run, "choose_destination", lambda *_, **__: Failing())

    run = jetpay(*reserve(source, "--out=o.csv"))

    assert (run.status, "no room; run the same command again to write it" in run.err) == (74, True)
    assert len(sandbox.debits) == 1


class Failing:
    async def write(self, *_: object) -> int:
        raise OutputFileError("no room")


def test_progress_is_shown(jetpay: Jetpay, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then a line says how far the batch is."""
    monkeypatch.setattr(command, "PROGRESS_INTERVAL_SECONDS", 0.01)
    seen: list[PaymentCounts] = []
    count = PaymentBatch.progress

    async def progress(self: PaymentBatch[Any]) -> PaymentCounts:
        seen.append(await count(self))
        return seen[-1]

    monkeypatch.setattr(PaymentBatch, "progress", progress)

    run = jetpay(*reserve(bookings(sandbox, range(10)), "--rate=20"))

    assert seen
    assert " of 10 are done" in run.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--amount=5"], "the following arguments are required: --contact, --card, --to-account, --statement"),
        (["--ledger=c.db"], "argument --ledger: needs a FILE of requests, or - for stdin"),
        (["--restored"], "argument --restored: needs a FILE of requests"),
        (["b.csv"], "the following arguments are required: --ledger, --batch"),
        (["b.csv", "--ledger=c.db"], "the following arguments are required: --batch"),
        (["b.csv", *ARGUMENTS, "--card=c"], "argument --card: is a column of the FILE"),
    ],
)
def test_the_two_forms_are_not_mixed(jetpay: Jetpay, arguments: list[str], message: str) -> None:
    """A forgotten argument leads to no other reservations."""
    run = jetpay("preauthorize", *arguments)

    assert (run.status, message in run.err) == (2, True)
