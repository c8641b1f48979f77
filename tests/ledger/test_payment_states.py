"""The table of the states of a payment against the ledger itself: the same for a file and for PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from typing import Any

import pytest

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import PaymentState, PaymentStateError, _payment_batches, _payments, _reports
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._payment_states import TRANSITIONS, PaymentEvent
from jetpay_async.ledger._payments import PaymentIntent, PaymentRecord
from jetpay_async.models import TransactionState

OWNER, DEAD_OWNER = 8, 7
INTENT = 3
ARGUMENTS = {"amount": "1.00"}

S, E = PaymentState, PaymentEvent


@pytest.fixture
def connection(ledger: str) -> Iterator[Connection]:
    """A connection on a new ledger, inside a transaction."""
    with closing(choose_backend(ledger, SYSTEM_CLOCK).connect(create=True)) as connection:
        connection.begin(writes=True)
        _payments.claim(
            connection,
            PaymentIntent("b1", "preauthorize", "debit", ARGUMENTS),
            owner=OWNER,
            certain_after=60.0,
            retry_rejected=False,
        )
        yield connection
        connection.rollback()


def put(connection: Connection, state: PaymentState, owner: int) -> None:
    connection.change(
        """UPDATE jetpay_payment SET state = :state, owner = :owner, intent = :intent, certain_at = 1,
        transaction_id = 'debit_0', transaction_state = :said""",
        {
            "state": state.value,
            "owner": owner,
            "intent": INTENT,
            "said": {"succeeded": "preauthorized", "accepted": "requested"}.get(state.value),
        },
    )


def claim(*, retry_rejected: bool, restored: bool = False) -> Callable[[Connection], object]:
    return lambda connection: _payments.claim(
        connection,
        PaymentIntent("b1", "preauthorize", "debit", ARGUMENTS),
        owner=OWNER,
        certain_after=60.0,
        retry_rejected=retry_rejected,
        restored=restored,
    )


def record(state: PaymentState, **values: Any) -> Callable[[Connection], object]:
    number = 1
    return lambda connection: _payments.record(connection, PaymentRecord(number, INTENT, state, 1, **values))


def report(state: str) -> Callable[[Connection], object]:
    said = _reports.TransactionReport("debit_0", "debit", TransactionState(state), 100.0)
    return lambda connection: _reports.report(connection, said)


def decide(decision: Callable[..., object]) -> Callable[[Connection], object]:
    def decide(connection: Connection) -> None:
        with suppress(PaymentStateError):
            decision(connection, reference="b1")

    return decide


EVENTS: dict[PaymentEvent, Callable[[Connection], object]] = {
    E.CLAIM: claim(retry_rejected=False),
    E.RETRY: claim(retry_rejected=True),
    E.ASK_RESTORED: claim(retry_rejected=True, restored=True),
    E.OPEN_RESTORED: partial(_payment_batches.leave_pending_unknown, certain_after=60.0),
    E.RELEASE: record(S.PENDING),
    E.RECORD_SUCCEEDED: record(S.SUCCEEDED, transaction_id="debit_0", transaction_state="preauthorized"),
    E.RECORD_ACCEPTED: record(S.ACCEPTED, transaction_id="debit_0", transaction_state="processing"),
    E.RECORD_REJECTED: record(S.REJECTED, error="ConflictError"),
    E.RECORD_UNKNOWN: record(S.UNKNOWN, error="OutcomeUnknownError"),
    E.EXPIRE: lambda connection: _payments.expire(connection, owner=OWNER),
    E.REPORT_DONE: report("paid"),
    E.REPORT_IN_PROGRESS: report("initiated"),
    E.REPORT_OVER: report("failed"),
    E.ADOPT: decide(partial(_reports.adopt, transaction_id="debit_0", state=TransactionState.PREAUTHORIZED)),
    E.DISCARD: decide(_reports.discard),
}


def everything(connection: Connection) -> list[Any]:
    return [tuple(row) for row in connection.query("SELECT * FROM jetpay_payment", {})]


def test_every_event_is_tried() -> None:
    """The table knows no event that the test does not try."""
    assert set(EVENTS) == set(PaymentEvent)


@pytest.mark.parametrize("event", sorted(EVENTS))
def test_an_event_does_what_the_table_says(connection: Connection, event: PaymentEvent) -> None:
    """Each event leads from each state where the table says; what it doesn't list changes nothing at all."""
    for state in PaymentState:
        put(connection, state, DEAD_OWNER if event is E.EXPIRE else OWNER)
        before = everything(connection)

        EVENTS[event](connection)

        # A retry sends what is pending too.
        reached = TRANSITIONS.get((state, event)) or ((event is E.RETRY and TRANSITIONS.get((state, E.CLAIM))) or None)
        if reached is None:
            assert everything(connection) == before, state
            continue
        assert everything(connection) != before, state
        assert connection.query("SELECT state FROM jetpay_payment", {})[0][0] == reached.value, state


@pytest.mark.parametrize("event", [E.RELEASE, E.RECORD_SUCCEEDED, E.RECORD_REJECTED, E.RECORD_UNKNOWN])
def test_an_answer_to_another_intent_changes_nothing(connection: Connection, event: PaymentEvent) -> None:
    """What was sent anew since is not changed by an answer to what was sent before."""
    put(connection, S.SENDING, OWNER)
    connection.change("UPDATE jetpay_payment SET intent = intent + 1", {})
    before = everything(connection)

    EVENTS[event](connection)

    assert everything(connection) == before


def test_a_living_owner_keeps_its_payments(connection: Connection) -> None:
    """Only what dead owners were sending becomes unknown, and never one's own."""
    alive = connection.register(60.0)
    for owner in (alive, OWNER):
        put(connection, S.SENDING, owner)

        assert _payments.expire(connection, owner=OWNER) == 0
