"""``jetpay demo``, from its options to the last line, against a sandbox over real sockets."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from jetpay_async import Capture, JetpayClient, NotSentError, RetryPolicy, TransactionState
from jetpay_async._cli.demo import batch as demo_batch
from jetpay_async._cli.demo import render
from jetpay_async._cli.demo import run as demo
from jetpay_async._cli.demo.audit import audit
from jetpay_async._cli.demo.opening import FirstPayment
from jetpay_async.sandbox import DeliveryPolicy, Sandbox, Transaction
from jetpay_async.webhooks import WebhookReceiver
from jetpay_async.webhooks.receiver import DeliveryResponse
from tests.cli.conftest import CommandResult

if TYPE_CHECKING:
    from jetpay_async._cli.demo.audit import AuditReport
    from jetpay_async._cli.demo.records import BatchRecord, RunRecord

Jetpay = Callable[..., CommandResult]

FIRST = FirstPayment(
    webhook_id=1,
    contact_id="contact_123",
    credit_card_id="cc_456",
    bank_account_id="bank_789",
    debit_id="debit_123",
    amount=Decimal("100.50"),
    state=TransactionState.PAID,
    paid=("debit_123",),
)
SMALL = ("demo", "--count=12", "--concurrency=6")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses that let a person watch are left out, in this process."""
    faults = (attrs.evolve(fault, seconds=0.01, retry_after=None) for fault in demo._FAULTS)
    monkeypatch.setattr(demo, "_FAULTS", tuple(faults))
    monkeypatch.setattr(demo, "_LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(demo_batch, "_LATENCY_SECONDS", 0.0)
    monkeypatch.setattr(demo, "_SLOW_BANK_SECONDS", 0.01)
    monkeypatch.setattr(
        demo, "POLICY", RetryPolicy(base_delay=0.001, max_delay=0.01, resolve_after=0.03, resolve_after_timeout=0.03)
    )

    async def take_first_payment() -> FirstPayment:
        return FIRST

    monkeypatch.setattr(demo, "take_first_payment", take_first_payment)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def report_of(run: CommandResult) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(run.out)
    return report


def test_a_run_without_faults(jetpay: Jetpay) -> None:
    """Without faults every outcome is known at once, and the webhooks report all of them."""
    run = jetpay(*SMALL, "--no-faults", "--json", "--seed=3")

    report = report_of(run)
    assert (run.status, run.err, run.out.count("\n")) == (0, "", 1)
    assert report["ok"] is True
    assert report["plan"] == {"count": 12, "concurrency": 6, "seed": 3, "faults": False}
    assert report["orders"] == 12
    assert (report["unknown"], report["confirmed_by_status"], report["captured_twice"], report["not_done"]) == (
        0,
        0,
        0,
        0,
    )
    assert report["events_received"] == report["events_created"] > 12
    assert (report["faults"], report["unknown_outcomes"], report["problems"]) == ({}, [], [])
    assert report["batch"] == {
        "total": 50,
        "stopped_after": 25,
        "captured": 50,
        "confirmed_by_status": 0,
        "captured_twice": 0,
        "faults": {},
    }


@pytest.mark.parametrize("paid", [(), ("debit_9",), ("debit_123", "debit_123")])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["lines", "JSON"])
def test_an_opening_without_its_event_is_found_out(
    jetpay: Jetpay, paid: tuple[str, ...], options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 1 if the paid event does not come, comes for another debit, or comes twice."""

    async def take_first_payment() -> FirstPayment:
        return attrs.evolve(FIRST, paid=paid)

    monkeypatch.setattr(demo, "take_first_payment", take_first_payment)

    run = jetpay(*SMALL, "--no-faults", *options)

    assert run.status == 1
    if options:
        assert report_of(run)["ok"] is False
        assert report_of(run)["first_payment"]["paid"] == list(paid)
    else:
        assert "  event                none came that says paid" in run.out


def test_a_run_with_faults(jetpay: Jetpay) -> None:
    """Under faults outcomes are unknown or confirmed by the status, and no card is lost or captured twice."""
    run = jetpay("demo", "--count=150", "--concurrency=50", "--seed=10", "--json")

    report = report_of(run)
    assert (run.status, report["ok"], report["problems"]) == (0, True, [])
    verdicts = ("captured", "accepted", "failed", "declined", "not_done", "unknown")
    assert sum(report[verdict] for verdict in verdicts) == report["orders"] == 150
    assert report["unknown"] == len(report["unknown_outcomes"]) > 0
    assert min(report["confirmed_by_status"], report["sent_again"], report["declined"], report["events_repeated"]) > 0
    assert report["captured_twice"] == 0
    assert report["batch"]["faults"] == {"lose_reply_after": 2, "lose_reply_before": 1}
    assert (report["batch"]["captured"], report["batch"]["confirmed_by_status"], report["batch"]["captured_twice"]) == (
        50,
        2,
        0,
    )
    assert {"lose_reply_after", "lose_reply_before", "rate_limit", "rotate_key", "duplicate"} <= report["faults"].keys()


def test_a_client_that_captures_twice_is_found_out(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the client sent its captures twice, the sandbox would pay twice and the demo would exit with 1."""
    once = JetpayClient.capture
    made: list[Sandbox] = []

    class Recorded(Sandbox):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)

    async def twice(self: JetpayClient, debit_id: str) -> Capture:
        await once(self, debit_id)
        async with JetpayClient(made[0].api_token, base_url=made[0].url) as forgetful:
            return await once(forgetful, debit_id)

    monkeypatch.setattr(demo, "Sandbox", Recorded)
    monkeypatch.setattr(JetpayClient, "capture", twice)

    run = jetpay(*SMALL, "--no-faults", "--json")

    report = report_of(run)
    assert (run.status, report["ok"]) == (1, False)
    assert report["captured_twice"] > 0
    assert "duplicated" in {problem["kind"] for problem in report["problems"]}


def test_a_client_that_loses_an_outcome_is_found_out(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the client called a processed capture "not sent", the demo would exit with 1 and report it."""
    capture = JetpayClient.capture

    async def forgetful(self: JetpayClient, debit_id: str) -> Capture:
        await capture(self, debit_id)
        raise NotSentError("nothing was sent")

    monkeypatch.setattr(JetpayClient, "capture", forgetful)

    run = jetpay(*SMALL, "--no-faults")

    assert run.status == 1
    assert re.search(r"^\d+ outcomes were lost or duplicated:$", run.out, re.MULTILINE)
    assert "lost: card 1, not done: the sandbox recorded: paid, captured 1 times: " in run.out
    assert re.search(r"^Not done +\d+  and safe to repeat$", run.out, re.MULTILINE)


@pytest.mark.parametrize(
    ("reported", "captures", "problem"),
    [
        pytest.param(2, 1, "duplicated: debit {} of the batch: the ledger reported 2 outcomes", id="reported twice"),
        pytest.param(0, 1, "lost: debit {} of the batch: the ledger reported 0 outcomes", id="not reported"),
        pytest.param(1, 2, "duplicated: debit {} of the batch: it was captured 2 times", id="taken twice"),
        pytest.param(
            1, 0, "lost: debit {} of the batch: it was not captured; the sandbox recorded: paid, not", id="not taken"
        ),
    ],
)
def test_a_ledger_that_is_wrong_is_found_out(
    jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch, reported: int, captures: int, problem: str
) -> None:
    """What the ledger reports of the batch is compared with the sandbox's records, debit by debit."""
    first = ""

    async def doctored(*arguments: Any) -> BatchRecord:
        nonlocal first
        record = await demo_batch.capture_batch(*arguments)
        first, *_ = record.debit_ids
        outcomes = {outcome.debit_id: outcome for outcome in record.outcomes}
        return attrs.evolve(
            record,
            outcomes=(outcomes.pop(first),) * reported + tuple(outcomes.values()),
            debits=(attrs.evolve(record.debits[0], captures=captures), *record.debits[1:]),
        )

    monkeypatch.setattr(demo, "capture_batch", doctored)

    run = jetpay(*SMALL, "--no-faults")

    assert run.status == 1
    assert f"\n  {problem.format(first)}" in run.out


def test_a_doctored_record_is_found_out(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check reads the sandbox's own records: a capture more is found."""
    genuine = Sandbox.debits.__get__

    def doctored(sandbox: Sandbox) -> tuple[Transaction, ...]:
        first, *others = genuine(sandbox)
        return (attrs.evolve(first, captures=first.captures + 1), *others)

    monkeypatch.setattr(Sandbox, "debits", property(doctored))

    assert jetpay(*SMALL, "--no-faults").status == 1


def test_an_endpoint_that_takes_no_webhook_is_found_out(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """If deliveries are rejected, their events are lost to the application, and the demo exits with 1."""

    async def refuse(*_: object) -> DeliveryResponse:
        return DeliveryResponse(status=500, reason="handler_failed")

    monkeypatch.setattr(WebhookReceiver, "receive", refuse)
    monkeypatch.setattr(demo, "_DELIVERIES", DeliveryPolicy(speedup=1e6))

    run = jetpay(*SMALL, "--no-faults", "--json")

    report = report_of(run)
    assert (run.status, report["events_received"]) == (1, 0)
    assert report["deliveries_rejected"] == report["deliveries"] > 0
    assert "webhook events never arrived" in report["problems"][0]["description"]


def test_a_run_that_is_not_heard_to_the_end(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliveries that take too long are missing in the report; the demo does not hang or fail."""

    async def impatient(*_: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(Sandbox, "drain_deliveries", impatient)
    monkeypatch.setattr(demo, "_DELIVERIES", DeliveryPolicy())
    monkeypatch.setattr(demo, "_BATCH", 100)

    run = jetpay(*SMALL, "--no-faults", "--json")

    assert (run.status, report_of(run)["events_received"]) == (1, 0)


def test_plain_lines(jetpay: Jetpay) -> None:
    """Where stdout is no terminal, there are plain lines, a line for each step, and no control characters."""
    run = jetpay("demo", "--count=60", "--concurrency=30", "--seed=4")

    lines = run.out.splitlines()
    assert (run.status, run.err) == (0, "")
    assert lines[:8] == [
        "From nothing to a payment:",
        "  ensure_webhook       id 1",
        "  create_contact       contact_123",
        "  card_form            cc_456, typed by the payer",
        "  create_bank_account  bank_789",
        "  preauthorize         debit_123  100.50",
        "  capture              paid",
        "  event                paid, and handled",
    ]
    assert lines[9] == "60 cards, 30 calls at a time, on a sandbox in this process: no real money."
    assert re.findall(r"^(preauthorize|capture|webhooks): (\d+) of \2 \(", run.out, re.MULTILINE) == [
        ("preauthorize", "60"),
        ("capture", str(60 - 2 - 2)),  # declined, unknown
    ]
    assert re.search(r"^Captured twice +0  according to the sandbox's records$", run.out, re.MULTILINE)
    assert "Unknown to the client, and what the sandbox recorded:" in lines
    assert lines[-1] == "Nothing lost or duplicated: client, sandbox and webhooks agree on every card."
    assert max(map(len, lines)) <= 80
    assert run.out.replace("\n", "").isprintable()


def pretend_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stdout pass for a terminal of 80 columns. Not a fixture: pytest has another stdout while it sets those up."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "50")


COLOR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_bars_and_a_table_on_a_terminal(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal there are bars while it runs and a table at its end, within 80 columns, in color."""
    pretend_terminal(monkeypatch)

    run = jetpay(*SMALL)

    text = CONTROL.sub("", run.out)
    assert run.status == 0
    assert COLOR.search(run.out)
    assert "Preauthorize" in text
    assert "12/12" in text
    assert "│ Captured twice │" in text
    assert text.rstrip().endswith("client, sandbox and webhooks agree on every card.")
    assert max(len(line) for line in re.split(r"[\r\n]", text)) <= 80


def test_no_color_is_honored(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """With NO_COLOR the same is shown without colors."""
    pretend_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")

    run = jetpay(*SMALL)

    assert "│ Captured twice │" in CONTROL.sub("", run.out)
    assert not COLOR.search(run.out)


def test_bad_news_on_a_terminal(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Problems are listed in full, and the verdict is red."""
    pretend_terminal(monkeypatch)
    genuine = Sandbox.debits.__get__
    monkeypatch.setattr(Sandbox, "debits", property(lambda sandbox: genuine(sandbox)[1:]))

    run = jetpay(*SMALL, "--no-faults")

    assert run.status == 1
    assert "\x1b[1;31m1 outcomes were lost or duplicated:" in run.out


@pytest.mark.parametrize("lacking", ["rich", "TERM"])
def test_a_lesser_terminal_gets_plain_lines(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    """Without rich, and on a dumb terminal, the demo runs with plain lines."""
    pretend_terminal(monkeypatch)
    if lacking == "rich":
        monkeypatch.setitem(sys.modules, "rich", None)
    else:
        monkeypatch.setenv("TERM", "dumb")

    run = jetpay(*SMALL, "--no-faults")

    assert run.status == 0
    assert "\x1b" not in run.out
    assert "preauthorize: 12 of 12" in run.out


def test_many_unknown_outcomes_are_cut_short(monkeypatch: pytest.MonkeyPatch, jetpay: Jetpay) -> None:
    """A screen shows some of the unknown outcomes, and where to find the others."""
    monkeypatch.setattr(render, "MAX_UNKNOWN_SHOWN", 0)

    run = jetpay("demo", "--count=60", "--concurrency=30", "--seed=4")

    assert re.search(r"^  and \d+ more; --json shows all$", run.out, re.MULTILINE)


def test_the_same_seed_asks_for_the_same(monkeypatch: pytest.MonkeyPatch, jetpay: Jetpay) -> None:
    """The seed decides over cards and amounts."""
    records: list[RunRecord] = []

    def keep(record: RunRecord) -> AuditReport:
        records.append(record)
        return audit(record)

    monkeypatch.setattr(demo, "audit", keep)

    for seed in (5, 5, 6):
        jetpay(*SMALL, "--no-faults", f"--seed={seed}")

    first, again, other = ([result.order for result in record.results] for record in records)
    assert first == again != other


def test_concurrency_is_the_number_of_calls_at_a_time(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more calls are under way than were asked for, and as many as that."""
    under_way = most = 0
    preauthorize = JetpayClient.preauthorize

    async def counted(self: JetpayClient, **asked: Any) -> object:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await preauthorize(self, **asked)
        finally:
            under_way -= 1

    monkeypatch.setattr(JetpayClient, "preauthorize", counted)

    jetpay("demo", "--count=20", "--concurrency=7", "--no-faults")

    assert most == 7


def test_the_script_as_it_is_run() -> None:
    """The installed program, with its real pauses, prints one JSON object and exits with 0."""
    ran = subprocess.run(
        [sys.executable, "-m", "jetpay_async._cli", "demo", "--count=10", "--concurrency=10", "--no-faults", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["ok"] is True


def test_ctrl_c_on_a_terminal() -> None:
    """Ctrl-C in the middle of a run ends it with 130, without a traceback, and gives the cursor back."""
    ours, theirs = pty.openpty()
    shown = bytearray()
    begun = threading.Event()

    def read() -> None:
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # the other end is closed
                return
            shown.extend(chunk)
            if b"Preauthorize" in shown:
                begun.set()

    with subprocess.Popen(
        [sys.executable, "-m", "jetpay_async._cli", "demo"],
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TERM": "xterm-256color"},
    ) as process:
        os.close(theirs)
        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(20)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    reader.join()
    os.close(ours)

    assert (process.returncode, err) == (130, "jetpay: interrupted\n")
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
