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
from jetpay_async._cli.demo.audit import Kind, Verdict, audit, verdict_on
from jetpay_async._cli.demo.records import BatchRecord, Order, Plan, Record, Story
from jetpay_async.sandbox import APPROVED, Payer, Transaction
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
    return Capture(identifier="d1", state=TransactionState(state), raw={}, **changes)  # type: ignore[arg-type] # as given


def told(outcome: Capture | JetpayError, *, debit_id: str | None = "d1") -> Story:
    payer = Payer(contact_id="c1", credit_card_id="k1")
    order = Order(number=1, card_number=APPROVED, payer=payer, amount=Decimal("5.00"))
    return Story(order=order, debit_id=debit_id, outcome=outcome)


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


def record(story: Story, debits: tuple[Transaction, ...] = (), told: tuple[Event, ...] = ()) -> Record:
    return Record(
        plan=Plan(count=1),
        stories=(story,),
        seconds=2.0,
        debits=debits,
        events_made=max((event.id for event in told), default=0),
        events=told,
        deliveries=1,
        deliveries_refused=0,
        events_repeated=0,
        faults={"reset_after": 1},
        batch=BatchRecord(debit_ids=(), stopped_after=0, outcomes=(), debits=(), faults={}),
    )


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        pytest.param(captured("paid"), Verdict.CAPTURED, id="paid"),
        pytest.param(captured("completed"), Verdict.CAPTURED, id="completed"),
        pytest.param(captured("processing"), Verdict.ACCEPTED, id="processing"),
        pytest.param(captured("settling"), Verdict.ACCEPTED, id="a state that nobody names"),
        pytest.param(TransactionFailedError("failed"), Verdict.FAILED, id="failed"),
        pytest.param(DECLINED, Verdict.DECLINED, id="declined"),
        pytest.param(LOST, Verdict.UNKNOWN, id="unknown"),
        pytest.param(NotSentError("no"), Verdict.NOT_DONE, id="not sent"),
        pytest.param(RateLimitedError("no", status=429), Verdict.NOT_DONE, id="rate limited"),
        pytest.param(APIError("no", status=404), Verdict.NOT_DONE, id="rejected for another reason"),
    ],
)
def test_each_outcome_has_its_verdict(outcome: Capture | JetpayError, verdict: Verdict) -> None:
    """Every last word of the client's is sorted into one verdict."""
    assert verdict_on(outcome) is verdict


PAID = debit("paid", captures=1)
FAILED = debit("failed", fail_direction="pull")
PUSH_FAILED = debit("failed", captures=1, fail_direction="push")
RESERVED = debit("preauthorized")


@pytest.mark.parametrize(
    "agreeing",
    [
        pytest.param(record(told(captured()), (PAID,), events("preauthorized", "paid")), id="captured"),
        pytest.param(
            record(told(captured()), (debit("completed", captures=1),), events("paid", "completed")), id="completed"
        ),
        pytest.param(record(told(captured()), (PUSH_FAILED,), events("paid", "failed")), id="captured, not paid out"),
        pytest.param(record(told(captured("processing")), (PAID,), events("processing", "paid")), id="accepted, paid"),
        pytest.param(record(told(captured("processing")), (FAILED,), events("failed")), id="accepted, failed"),
        pytest.param(record(told(TransactionFailedError("no")), (FAILED,), events("failed")), id="failed"),
        pytest.param(
            record(told(TransactionFailedError("no")), (PUSH_FAILED,), events("paid", "failed")), id="payout failed"
        ),
        pytest.param(record(told(DECLINED, debit_id=None)), id="declined"),
        pytest.param(record(told(NotSentError("no"), debit_id=None)), id="not asked"),
        pytest.param(record(told(NotSentError("no")), (RESERVED,), events("preauthorized")), id="not captured"),
        pytest.param(record(told(LOST, debit_id=None)), id="unknown, nothing there"),
        pytest.param(record(told(LOST, debit_id=None), (RESERVED,), events("preauthorized")), id="unknown, reserved"),
        pytest.param(record(told(LOST), (PAID,), events("paid")), id="unknown capture, taken"),
        pytest.param(record(told(LOST), (RESERVED,), events("preauthorized")), id="unknown capture, not taken"),
    ],
)
def test_what_agrees_is_no_problem(agreeing: Record) -> None:
    """Where the client, the books and the webhooks agree, nothing is lost and nothing doubled."""
    assert audit(agreeing).problems == ()


@pytest.mark.parametrize(
    ("doctored", "kind", "what"),
    [
        pytest.param(
            record(told(captured()), (debit("paid", captures=2),), events("paid", "paid")),
            Kind.DOUBLED,
            "card 1, captured: the money of d1 was taken 2 times",
            id="captured twice",
        ),
        pytest.param(
            record(told(captured()), (PAID, debit("preauthorized", identifier="d2")), events("paid")),
            Kind.DOUBLED,
            "card 1, captured: the books hold 2 debits",
            id="reserved twice",
        ),
        pytest.param(
            record(told(captured()), (PAID,), events("paid", "paid")),
            Kind.DOUBLED,
            "card 1, captured: the webhooks told 2 times that d1 is paid, not 1 times",
            id="paid told twice",
        ),
        pytest.param(
            record(told(captured()), (PAID,), events("paid") * 2),
            Kind.DOUBLED,
            "webhook event 1 was handled 2 times",
            id="event handled twice",
        ),
        pytest.param(
            record(told(captured()), (PAID,), events("preauthorized")),
            Kind.LOST,
            "card 1, captured: the webhooks told 0 times that d1 is paid, not 1 times",
            id="paid never told",
        ),
        pytest.param(
            record(told(TransactionFailedError("no")), (FAILED,), events("preauthorized")),
            Kind.LOST,
            "card 1, failed: no webhook told that d1 is failed",
            id="failure never told",
        ),
        pytest.param(
            attrs.evolve(record(told(captured()), (PAID,), events("paid")), events_made=3),
            Kind.LOST,
            "2 webhook events never arrived, the first is 2",
            id="events missing",
        ),
        pytest.param(
            record(told(DECLINED, debit_id=None), (RESERVED,), events("preauthorized")),
            Kind.LOST,
            "card 1, declined: the books say: preauthorized, not captured: d1",
            id="declined, but reserved",
        ),
        pytest.param(
            record(told(LOST, debit_id=None), (PAID,), events("paid")),
            Kind.LOST,
            "card 1, unknown: the books say: paid, captured 1 times: d1",
            id="unknown, but captured",
        ),
        pytest.param(
            record(told(LOST)), Kind.LOST, "card 1, unknown: the books say: nothing was reserved", id="no such debit"
        ),
        pytest.param(
            record(told(captured()), (debit("paid", captures=1, identifier="d2"),)),
            Kind.LOST,
            "card 1, captured: the books say: paid, captured 1 times: d2",
            id="another debit",
        ),
        pytest.param(
            record(told(captured()), (RESERVED,), events("preauthorized")),
            Kind.LOST,
            "card 1, captured: the books say: preauthorized, not captured: d1",
            id="captured, but not taken",
        ),
        pytest.param(
            record(told(captured("processing")), (RESERVED,), events("preauthorized")),
            Kind.LOST,
            "card 1, accepted: the books say: preauthorized, not captured: d1",
            id="accepted, but nothing came of it",
        ),
        pytest.param(
            record(told(TransactionFailedError("no")), (PAID,), events("paid")),
            Kind.LOST,
            "card 1, failed: the books say: paid, captured 1 times: d1",
            id="failed, but taken",
        ),
        pytest.param(
            record(
                told(TransactionFailedError("no")),
                (debit("failed", captures=1, fail_direction="pull"),),
                events("paid", "failed"),
            ),
            Kind.LOST,
            "card 1, failed: the books say: failed, captured 1 times: d1",
            id="failed to pull, but taken",
        ),
        pytest.param(
            record(told(NotSentError("no")), (PAID,), events("paid")),
            Kind.LOST,
            "card 1, not done: the books say: paid, captured 1 times: d1",
            id="not done, but taken",
        ),
        pytest.param(
            record(told(captured()), (debit("paid", captures=1, amount=Decimal("50.00")),), events("paid")),
            Kind.LOST,
            "card 1, captured: the books say 50.00, not 5.00",
            id="another amount",
        ),
        pytest.param(
            record(told(DECLINED, debit_id=None), (debit("preauthorized", from_credit_card_id="k9"),)),
            Kind.LOST,
            "the books hold debit d1, which nobody asked for",
            id="a stranger's debit",
        ),
        pytest.param(
            record(told(DECLINED, debit_id=None), (debit("requested", from_credit_card_id=None),)),
            Kind.LOST,
            "the books hold debit d1, which nobody asked for",
            id="a debit without a card",
        ),
    ],
)
def test_what_differs_is_found(doctored: Record, kind: Kind, what: str) -> None:
    """Each kind of lost or doubled outcome is found and said in words."""
    assert (kind, what) in [(problem.kind, problem.what) for problem in audit(doctored).problems]


def test_the_counts() -> None:
    """Each card is counted once by its verdict, and the captures by how they came about."""
    stories = (
        told(captured()),
        told(captured(confirmed_by_status=True)),
        told(captured("processing", attempts=2)),
        told(TransactionFailedError("no")),
        told(DECLINED, debit_id=None),
        told(LOST, debit_id=None),
        told(NotSentError("no"), debit_id=None),
    )

    report = audit(attrs.evolve(record(told(captured())), stories=stories))

    assert (report.asked, report.captured, report.accepted, report.failed) == (7, 2, 1, 1)
    assert (report.declined, report.unknown, report.not_done) == (1, 1, 1)
    assert (report.confirmed_by_status, report.sent_again) == (1, 1)
    assert (report.seconds, report.per_second) == (2.0, 5.5)
    assert report.faults == {"reset_after": 1}


def test_the_counts_of_the_webhooks() -> None:
    """Paid and failed events are counted; of debits taken twice, each counts once."""
    debits = (debit("paid", captures=2), debit("failed", captures=3, identifier="d2"), debit("paid", captures=1))

    report = audit(record(told(captured()), debits, events("preauthorized", "paid", "paid", "failed")))

    assert (report.events_made, report.events_received, report.events_paid, report.events_failed) == (4, 4, 2, 1)
    assert report.captured_twice == 2


def test_a_doubt_is_matched_with_the_books() -> None:
    """An unknown outcome is reported with all that is known of it, and what the sandbox says."""
    (doubt,) = audit(record(told(LOST, debit_id=None), (RESERVED,))).doubts

    assert attrs.asdict(doubt) == {
        "operation": "preauthorize",
        "debit_id": None,
        "arguments": {"amount": "5.00"},
        "started_at": NOW,
        "cause": "connection lost",
        "books": "preauthorized, not captured: d1",
    }
