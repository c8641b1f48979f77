"""What is claimed of a batch of payments, and the places of its outcomes, on one connection of each backend."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import PaymentState, _payment_batches, _payments, _reports
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._payment_batches import PendingClaims
from jetpay_async.ledger._payment_staging import StagedRequests
from jetpay_async.ledger._payments import PaymentRecord
from jetpay_async.ledger._postgres import PostgresBackend, PostgresConnection
from tests.ledger.test_payment_blocks import wait_for_a_lock

OWNER, DEAD_OWNER = 8, 7
ARGUMENTS = {"amount": "1.00"}

S = PaymentState


def submit(connection: Connection, *references: str, key: str = "night") -> int:
    """Submit a batch; return its number."""
    staged: StagedRequests[str] = StagedRequests(lambda reference: (reference, ARGUMENTS))
    with staged:
        for reference in references:
            staged._add(reference)
        return _payment_batches.submit(
            connection, key, "preauthorize", "debit", staged, certain_after=60.0, restored=False
        ).id


def claim(connection: Connection, batch: int, *, limit: int = 10, rate: float | None = None) -> PendingClaims:
    return _payment_batches.claim(connection, batch, owner=OWNER, limit=limit, certain_after=60.0, rate=rate)


def record(connection: Connection, number: int, intent: int, state: PaymentState) -> None:
    _reports.record(connection, PaymentRecord(number, intent, state, 1), "debit")


def read(connection: Connection, batch: int, after: int = 0) -> tuple[bool, list[str], int]:
    complete, page, place = _payment_batches.outcomes(connection, batch, after)
    return complete, [f"{payment.reference} {payment.state}" for payment in page], place


@pytest.fixture
def connection(ledger: str) -> Iterator[Connection]:
    """A connection on a new ledger, inside a transaction."""
    with closing(choose_backend(ledger, SYSTEM_CLOCK).connect(create=True)) as connection:
        connection.begin(writes=True)
        yield connection
        connection.rollback()


def test_what_is_claimed_is_sent_by_its_owner_alone(connection: Connection) -> None:
    """Each pending payment is claimed once, in the order given, until it is released."""
    batch = submit(connection, "b0", "b1", "b2")

    first = claim(connection, batch, limit=2).send
    second = claim(connection, batch).send
    assert [pending.payment.reference for pending in first + second] == ["b0", "b1", "b2"]
    assert [pending.claimed.intent for pending in first + second] == [1, 1, 1]
    assert not claim(connection, batch).send

    record(connection, first[1].claimed.id, 1, S.PENDING)
    again = claim(connection, batch).send
    assert [(pending.payment.reference, pending.claimed.intent) for pending in again] == [("b1", 2)]


def test_outcomes_are_read_in_the_order_in_which_they_were_recorded(connection: Connection) -> None:
    """Whoever reads on from a place misses none; a payment in two batches has a place in each."""
    batch = submit(connection, "b0", "b1", "b2")
    other = submit(connection, "b2", "b9", key="other")
    numbers = {pending.payment.reference: pending.claimed.id for pending in claim(connection, batch).send}
    record(connection, numbers["b1"], 1, S.REJECTED)
    complete, page, place = read(connection, batch)
    assert (complete, page) == (False, ["b1 rejected"])

    record(connection, numbers["b2"], 1, S.UNKNOWN)
    record(connection, numbers["b0"], 1, S.REJECTED)

    assert read(connection, batch, place)[:2] == (True, ["b2 unknown", "b0 rejected"])
    assert read(connection, other)[:2] == (False, ["b2 unknown"])


def test_what_a_dead_owner_was_sending_is_an_unknown_outcome(connection: Connection) -> None:
    """It is never claimed again; a late answer of its owner changes the outcome, in its place."""
    batch = submit(connection, "b0", "b1")
    sent = claim(connection, batch, limit=1).send[0].claimed
    connection.change("UPDATE jetpay_payment SET owner = :dead WHERE state = 'sending'", {"dead": DEAD_OWNER})

    assert _payments.expire(connection, owner=OWNER) == 1
    _, page, place = read(connection, batch)
    assert page == ["b0 unknown"]
    assert [pending.payment.reference for pending in claim(connection, batch).send] == ["b1"]

    record(connection, sent.id, sent.intent, S.REJECTED)
    assert read(connection, batch)[1:] == (["b0 rejected"], place)


def test_what_is_released_late_is_pending_without_a_place(connection: Connection) -> None:
    """Its owner was taken for dead, and has sent nothing: it is claimed again, and gets a place with its outcome."""
    batch = submit(connection, "b0")
    sent = claim(connection, batch).send[0].claimed
    connection.change("UPDATE jetpay_payment SET owner = :dead", {"dead": DEAD_OWNER})
    _payments.expire(connection, owner=OWNER)

    record(connection, sent.id, sent.intent, S.PENDING)
    assert read(connection, batch)[:2] == (False, [])

    again = claim(connection, batch).send[0].claimed
    record(connection, again.id, again.intent, S.REJECTED)
    assert read(connection, batch)[:2] == (True, ["b0 rejected"])


def test_slots_of_the_rate_are_shared_by_all_owners(connection: Connection) -> None:
    """Nothing is claimed further ahead than a second; a request's time counts from its slot."""
    batch = submit(connection, *(f"b{number}" for number in range(10)))

    delays = [pending.delay for _ in range(2) for pending in claim(connection, batch, rate=1.0).send]
    assert delays[0] == 0.0
    assert 0.5 < delays[1] <= 1.0
    last = claim(connection, batch, rate=1.0)
    assert (last.send, last.too_early) == ([], True)

    rows = connection.query("SELECT certain_at - intent_at FROM jetpay_payment WHERE state = 'sending' ORDER BY id", {})
    assert [round(seconds) for (seconds,) in rows] == [61, 62]


def test_a_group_of_slots_is_reserved_at_once(connection: Connection) -> None:
    """Of a high rate, half a second is claimed at a time, evenly spaced."""
    batch = submit(connection, *(f"b{number}" for number in range(10)))

    claims = claim(connection, batch, rate=10.0)

    assert [round(pending.delay, 3) for pending in claims.send] == [0.0, 0.1, 0.2, 0.3, 0.4]


# --- PostgreSQL: what two processes do at a time ----------------------------------------------------------------------


@pytest.fixture
def connections(postgres_ledger: str) -> Iterator[tuple[PostgresConnection, PostgresConnection]]:
    """Two connections to one ledger, in a transaction each, with a batch of one payment that is being sent."""
    backend = PostgresBackend(postgres_ledger)
    with closing(backend.connect(create=True)) as one, closing(backend.connect(create=False)) as other:
        one.begin(writes=True)
        claim(one, submit(one, "b0"))
        one.commit()
        for connection in (one, other):
            connection.begin(writes=True)
        yield one, other


def test_an_outcome_that_is_recorded_during_a_submission_has_a_place_in_it(
    connections: tuple[PostgresConnection, PostgresConnection],
) -> None:
    """Whoever records it waits for the items of the submission, and numbers them too."""
    one, other = connections
    batch = submit(one, "b0", key="second")
    with ThreadPoolExecutor(1) as pool:
        recording = pool.submit(record, other, 1, 1, S.REJECTED)
        wait_for_a_lock(one)
        one.commit()
        recording.result()
    other.commit()

    one.begin(writes=False)
    assert read(one, batch)[:2] == (True, ["b0 rejected"])


def test_an_outcome_that_is_recorded_before_a_submission_has_a_place_in_it(
    connections: tuple[PostgresConnection, PostgresConnection],
) -> None:
    """The submission waits for it, and numbers it itself."""
    one, other = connections
    record(other, 1, 1, S.REJECTED)
    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(submit, one, "b0", key="second")
        wait_for_a_lock(other)
        other.commit()
        batch = submitting.result()

    assert read(one, batch)[:2] == (True, ["b0 rejected"])


def test_what_another_owner_is_claiming_is_not_waited_for(
    connections: tuple[PostgresConnection, PostgresConnection],
) -> None:
    """Two owners claim different payments of a batch at a time."""
    one, other = connections
    batch = submit(one, "c0", "c1", key="second")
    one.commit()
    one.begin(writes=True)

    claims = [claim(connection, batch, limit=1).send for connection in (one, other)]

    assert [pending.payment.reference for (pending,) in claims] == ["c0", "c1"]
