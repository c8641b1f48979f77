"""The audit of a run: it passes what agrees, and finds whatever does not."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import attrs
import pytest

from jetpay_async import (
    APIError,
    Capture,
    JetpayError,
    NotSentError,
    OutcomeUnknownError,
    RateLimitedError,
    TransactionFailedError,
    TransactionState,
)
from jetpay_async._cli.demo.audit import OrderOutcome, ProblemKind, audit, classify
from jetpay_async._cli.demo.records import BatchRecord, Order, OrderResult, Plan, RunRecord
from jetpay_async.sandbox import APPROVED, SandboxPayer, Transaction
from jetpay_async.webhooks import Event, TransactionEvent, TransactionFailed, TransactionPaid

NOW = datetime(2026, 1, 22, tzinfo=UTC)
LOST = OutcomeUnknownError(
    "lost",
    operation="preauthorize",
    arguments={"amount": "5.00"},
    started_at=NOW,
    reason="connection lost",
)
DECLINED = APIError("declined", status=402)


def captured(state: str = "paid", **changes: object) -> Capture:
    return Capture(debit_id="d1", state=TransactionState(state), raw={}, **changes)  # type: ignore[arg-type] # as given


def reported(result: Capture | JetpayError, *, debit_id: str | None = "d1") -> OrderResult:
    payer = SandboxPayer(contact_id="c1", credit_card_id="k1")
    order = Order(number=1, card_number=APPROVED, payer=payer, amount=Decimal("5.00"))
    return OrderResult(order=order, debit_id=debit_id, result=result)


def debit(state: str, *, captures: int = 0, **changes: object) -> Transaction:
    made = Transaction(
        identifier="d1",
        kind="debit",
        amount=Decimal("5.00"),
        statement="Stay",
        state=TransactionState(state),
        contact_id="c1",
        from_credit_card_id="k1",
        captures=captures,
    )
    return attrs.evolve(made, **changes)  # type: ignore[arg-type] # as given


def events(*states: str) -> tuple[Event, ...]:
    kinds = {"paid": TransactionPaid, "failed": TransactionFailed}
    return tuple(
        kinds.get(state, TransactionEvent)(
            id=number,
            created_at=NOW,
            type="transactions.debits.created",
            data={},
            transaction_id="d1",
            state=TransactionState(state),
        )
        for number, state in enumerate(states, 1)
    )


def record(result: OrderResult, debits: tuple[Transaction, ...] = (), delivered: tuple[Event, ...] = ()) -> RunRecord:
    return RunRecord(
        plan=Plan(count=1),
        results=(result,),
        seconds=2.0,
        debits=debits,
        events_created=max((event.id for event in delivered), default=0),
        events=delivered,
        deliveries=1,
        deliveries_rejected=0,
        events_repeated=0,
        faults={"reset_after": 1},
        batch=BatchRecord(debit_ids=(), stopped_after=0, outcomes=(), debits=(), faults={}),
    )


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        pytest.param(captured("paid"), OrderOutcome.CAPTURED, id="paid"),
        pytest.param(captured("completed"), OrderOutcome.CAPTURED, id="completed"),
        pytest.param(captured("processing"), OrderOutcome.ACCEPTED, id="processing"),
        pytest.param(captured("clearing"), OrderOutcome.ACCEPTED, id="a state that nobody names"),
        pytest.param(TransactionFailedError("failed"), OrderOutcome.FAILED, id="failed"),
        pytest.param(DECLINED, OrderOutcome.DECLINED, id="declined"),
        pytest.param(LOST, OrderOutcome.UNKNOWN, id="unknown"),
        pytest.param(NotSentError("no"), OrderOutcome.NOT_DONE, id="not sent"),
        pytest.param(RateLimitedError("no", status=429), OrderOutcome.NOT_DONE, id="rate limited"),
        pytest.param(APIError("no", status=404), OrderOutcome.NOT_DONE, id="rejected for another reason"),
    ],
)
def test_each_result_is_classified(result: Capture | JetpayError, outcome: OrderOutcome) -> None:
    """Every result of the client's is classified as one outcome."""
    assert classify(result) is outcome


PAID = debit("paid", captures=1)
FAILED = debit("failed", fail_direction="pull")
PUSH_FAILED = debit("failed", captures=1, fail_direction="push")
RESERVED = debit("preauthorized")


@pytest.mark.parametrize(
    "agreeing",
    [
        pytest.param(record(reported(captured()), (PAID,), events("preauthorized", "paid")), id="captured"),
        pytest.param(
            record(reported(captured()), (debit("completed", captures=1),), events("paid", "completed")), id="completed"
        ),
        pytest.param(
            record(reported(captured()), (PUSH_FAILED,), events("paid", "failed")), id="captured, not paid out"
        ),
        pytest.param(
            record(reported(captured("processing")), (PAID,), events("processing", "paid")), id="accepted, paid"
        ),
        pytest.param(record(reported(captured("processing")), (FAILED,), events("failed")), id="accepted, failed"),
        pytest.param(record(reported(TransactionFailedError("no")), (FAILED,), events("failed")), id="failed"),
        pytest.param(
            record(reported(TransactionFailedError("no")), (PUSH_FAILED,), events("paid", "failed")), id="payout failed"
        ),
        pytest.param(record(reported(DECLINED, debit_id=None)), id="declined"),
        pytest.param(record(reported(NotSentError("no"), debit_id=None)), id="not asked"),
        pytest.param(record(reported(NotSentError("no")), (RESERVED,), events("preauthorized")), id="not captured"),
        pytest.param(record(reported(LOST, debit_id=None)), id="unknown, nothing there"),
        pytest.param(
            record(reported(LOST, debit_id=None), (RESERVED,), events("preauthorized")), id="unknown, reserved"
        ),
        pytest.param(record(reported(LOST), (PAID,), events("paid")), id="unknown capture, taken"),
        pytest.param(record(reported(LOST), (RESERVED,), events("preauthorized")), id="unknown capture, not taken"),
    ],
)
def test_what_agrees_is_no_problem(agreeing: RunRecord) -> None:
    """Where the client, the sandbox and the webhooks agree, nothing is lost or duplicated."""
    assert audit(agreeing).problems == ()


@pytest.mark.parametrize(
    ("doctored", "kind", "description"),
    [
        pytest.param(
            record(reported(captured()), (debit("paid", captures=2),), events("paid", "paid")),
            ProblemKind.DUPLICATED,
            "card 1, captured: d1 was captured 2 times",
            id="captured twice",
        ),
        pytest.param(
            record(reported(captured()), (PAID, debit("preauthorized", identifier="d2")), events("paid")),
            ProblemKind.DUPLICATED,
            "card 1, captured: the sandbox has 2 debits",
            id="reserved twice",
        ),
        pytest.param(
            record(reported(captured()), (PAID,), events("paid", "paid")),
            ProblemKind.DUPLICATED,
            "card 1, captured: the webhooks reported d1 as paid 2 times, not 1 times",
            id="paid reported twice",
        ),
        pytest.param(
            record(reported(captured()), (PAID,), events("paid") * 2),
            ProblemKind.DUPLICATED,
            "webhook event 1 was handled 2 times",
            id="event handled twice",
        ),
        pytest.param(
            record(reported(captured()), (PAID,), events("preauthorized")),
            ProblemKind.LOST,
            "card 1, captured: the webhooks reported d1 as paid 0 times, not 1 times",
            id="paid never reported",
        ),
        pytest.param(
            record(reported(TransactionFailedError("no")), (FAILED,), events("preauthorized")),
            ProblemKind.LOST,
            "card 1, failed: no webhook reported that d1 is failed",
            id="failure never reported",
        ),
        pytest.param(
            attrs.evolve(record(reported(captured()), (PAID,), events("paid")), events_created=3),
            ProblemKind.LOST,
            "2 webhook events never arrived, the first is 2",
            id="events missing",
        ),
        pytest.param(
            record(reported(DECLINED, debit_id=None), (RESERVED,), events("preauthorized")),
            ProblemKind.LOST,
            "card 1, declined: the sandbox recorded: preauthorized, not captured: d1",
            id="declined, but reserved",
        ),
        pytest.param(
            record(reported(LOST, debit_id=None), (PAID,), events("paid")),
            ProblemKind.LOST,
            "card 1, unknown: the sandbox recorded: paid, captured 1 times: d1",
            id="unknown, but captured",
        ),
        pytest.param(
            record(reported(LOST)),
            ProblemKind.LOST,
            "card 1, unknown: the sandbox recorded: nothing was reserved",
            id="no such debit",
        ),
        pytest.param(
            record(reported(captured()), (debit("paid", captures=1, identifier="d2"),)),
            ProblemKind.LOST,
            "card 1, captured: the sandbox recorded: paid, captured 1 times: d2",
            id="another debit",
        ),
        pytest.param(
            record(reported(captured()), (RESERVED,), events("preauthorized")),
            ProblemKind.LOST,
            "card 1, captured: the sandbox recorded: preauthorized, not captured: d1",
            id="captured, but not taken",
        ),
        pytest.param(
            record(reported(captured("processing")), (RESERVED,), events("preauthorized")),
            ProblemKind.LOST,
            "card 1, accepted: the sandbox recorded: preauthorized, not captured: d1",
            id="accepted, but nothing came of it",
        ),
        pytest.param(
            record(reported(TransactionFailedError("no")), (PAID,), events("paid")),
            ProblemKind.LOST,
            "card 1, failed: the sandbox recorded: paid, captured 1 times: d1",
            id="failed, but taken",
        ),
        pytest.param(
            record(
                reported(TransactionFailedError("no")),
                (debit("failed", captures=1, fail_direction="pull"),),
                events("paid", "failed"),
            ),
            ProblemKind.LOST,
            "card 1, failed: the sandbox recorded: failed, captured 1 times: d1",
            id="failed to pull, but taken",
        ),
        pytest.param(
            record(reported(NotSentError("no")), (PAID,), events("paid")),
            ProblemKind.LOST,
            "card 1, not done: the sandbox recorded: paid, captured 1 times: d1",
            id="not done, but taken",
        ),
        pytest.param(
            record(reported(captured()), (debit("paid", captures=1, amount=Decimal("50.00")),), events("paid")),
            ProblemKind.LOST,
            "card 1, captured: the sandbox recorded 50.00, not 5.00",
            id="another amount",
        ),
        pytest.param(
            record(reported(DECLINED, debit_id=None), (debit("preauthorized", from_credit_card_id="k9"),)),
            ProblemKind.LOST,
            "the sandbox has debit d1, which no order asked for",
            id="a stranger's debit",
        ),
        pytest.param(
            record(reported(DECLINED, debit_id=None), (debit("requested", from_credit_card_id=None),)),
            ProblemKind.LOST,
            "the sandbox has debit d1, which no order asked for",
            id="a debit without a card",
        ),
    ],
)
def test_what_differs_is_found(doctored: RunRecord, kind: ProblemKind, description: str) -> None:
    """Each kind of lost or duplicated outcome is found and described."""
    assert (kind, description) in [(problem.kind, problem.description) for problem in audit(doctored).problems]


def test_the_counts() -> None:
    """Each card is counted once by its verdict, and the captures by how they came about."""
    results = (
        reported(captured()),
        reported(captured(confirmed_by_status=True)),
        reported(captured("processing", attempts=2)),
        reported(TransactionFailedError("no")),
        reported(DECLINED, debit_id=None),
        reported(LOST, debit_id=None),
        reported(NotSentError("no"), debit_id=None),
    )

    report = audit(attrs.evolve(record(reported(captured())), results=results))

    assert (report.orders, report.captured, report.accepted, report.failed) == (7, 2, 1, 1)
    assert (report.declined, report.unknown, report.not_done) == (1, 1, 1)
    assert (report.confirmed_by_status, report.sent_again) == (1, 1)
    assert (report.seconds, report.per_second) == (2.0, 5.5)
    assert report.faults == {"reset_after": 1}


def test_the_counts_of_the_webhooks() -> None:
    """Paid and failed events are counted; of debits taken twice, each counts once."""
    debits = (debit("paid", captures=2), debit("failed", captures=3, identifier="d2"), debit("paid", captures=1))

    report = audit(record(reported(captured()), debits, events("preauthorized", "paid", "paid", "failed")))

    assert (report.events_created, report.events_received, report.events_paid, report.events_failed) == (4, 4, 2, 1)
    assert report.captured_twice == 2


def test_an_unknown_outcome_is_matched_with_the_records() -> None:
    """An unknown outcome is reported with all that is known of it, and what the sandbox recorded."""
    (unknown,) = audit(record(reported(LOST, debit_id=None), (RESERVED,))).unknown_outcomes

    assert attrs.asdict(unknown) == {
        "operation": "preauthorize",
        "debit_id": None,
        "arguments": {"amount": "5.00"},
        "started_at": NOW,
        "cause": "connection lost",
        "sandbox_record": "preauthorized, not captured: d1",
    }
