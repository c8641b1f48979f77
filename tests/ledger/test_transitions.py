"""The table of the states of a debit against the ledger itself: the same for a file and for PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import DebitState, _intents, _repository
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._intents import OutcomeRecord
from jetpay_async.ledger._repository import Scope
from jetpay_async.ledger._transitions import TRANSITIONS, DebitEvent
from tests.ledger.owners import add_owner

DEAD_OWNER, OWNER, OTHER_OWNER = 7, 8, 9
INTENT = 3
DEBIT = (1 << 32) + 0

S, E = DebitState, DebitEvent

FINISHED = {S.CAPTURED, S.ACCEPTED, S.REJECTED, S.UNKNOWN}


@pytest.fixture
def connection(ledger: str) -> Iterator[Connection]:
    """A connection on a new ledger with a batch of one debit, inside a transaction."""
    with closing(choose_backend(ledger, SYSTEM_CLOCK).connect(create=True)) as connection:
        connection.begin(writes=True)
        _repository.submit(connection, "night", [(0, "debit_0")], given=1, chunks=1, fingerprint="f")
        add_owner(connection, OTHER_OWNER)
        yield connection
        connection.rollback()


def put(connection: Connection, state: DebitState, *, owner: int | None) -> None:
    """Put the debit into a state, with the counts of its batch that belong to it."""
    finished = state in FINISHED
    connection.change(
        """UPDATE jetpay_debit SET state = :state, owner = :owner, intent = :intent, attempts = 2, intent_at = 100,
        certain_at = 193, seq = :seq, finished_at = :finished_at, look_first = 0, error = NULL""",
        {
            "state": state.value,
            "owner": owner,
            "intent": INTENT,
            "seq": DEBIT + 1 if finished else None,
            "finished_at": 150.0 if finished else None,
        },
    )
    counts = {each.value: int(each is state) for each in FINISHED}
    connection.change(
        """UPDATE jetpay_batch SET captured = :captured, accepted = :accepted, rejected = :rejected, unknown = :unknown,
        last_seq = 1, finished_at = :finished_at""",
        {**counts, "finished_at": 150.0 if finished else None},
    )


def outcome(state: DebitState, **values: Any) -> OutcomeRecord:
    return OutcomeRecord(DEBIT, "debit_0", values.pop("intent", INTENT), state, 2, **values)


def record(state: DebitState, owner: int = OWNER, **values: Any) -> Callable[[Connection], object]:
    return lambda connection: _intents.record(connection, [outcome(state, **values)], owner=owner)


EVENTS: dict[DebitEvent, Callable[[Connection], object]] = {
    E.CLAIM: lambda connection: _intents.claim(connection, Scope(1), owner=OWNER, limit=5, resolve=93.0, rate=None),
    E.RECORD_IN_DOUBT: record(S.SENDING, resolve_first=True, certain_in=5.0),
    E.RELEASE: record(S.PENDING, certain_in=0.0),
    E.RECORD_CAPTURED: record(S.CAPTURED, as_expected=True, transaction_state="paid"),
    E.RECORD_ACCEPTED: record(S.ACCEPTED, transaction_state="processing"),
    E.RECORD_REJECTED: record(S.REJECTED, error="ConflictError"),
    E.RECORD_UNKNOWN: record(S.UNKNOWN, error="OutcomeUnknownError"),
    E.FOLLOW_UP_CAPTURED: record(S.CAPTURED, intent=None, transaction_state="paid"),
    E.FOLLOW_UP_ACCEPTED: record(S.ACCEPTED, intent=None, transaction_state="initiated"),
    E.FOLLOW_UP_REJECTED: record(S.REJECTED, intent=None, transaction_state="failed"),
    E.RESOLVE_CAPTURED: record(S.CAPTURED, intent=None, follows=S.UNKNOWN, transaction_state="paid"),
    E.RESOLVE_ACCEPTED: record(S.ACCEPTED, intent=None, follows=S.UNKNOWN, transaction_state="initiated"),
    E.RESOLVE_REJECTED: record(S.REJECTED, intent=None, follows=S.UNKNOWN, transaction_state="failed"),
    E.RESOLVE_UNKNOWN: record(S.UNKNOWN, intent=None, follows=S.UNKNOWN, seen_state="odd"),
    E.TAKE_OVER: lambda connection: _intents.take_over(connection, [Scope(1)], owner=OTHER_OWNER),
    E.RESUBMIT: lambda connection: _repository.reopen_unknown(connection, 1),
    E.RETRY_REJECTED: lambda connection: _repository.reopen_rejected(connection, 1),
}


def owner_before(event: DebitEvent) -> int:
    return DEAD_OWNER if event is E.TAKE_OVER else OWNER


def everything(connection: Connection) -> list[Any]:
    """All that the ledger holds of the debit and its batch."""
    rows = connection.query("SELECT * FROM jetpay_debit", {}) + connection.query(
        "SELECT captured, accepted, rejected, unknown, finished_at FROM jetpay_batch", {}
    )
    return [tuple(row) for row in rows]


def test_every_event_is_tried() -> None:
    """The table knows no event that the test does not try."""
    assert set(EVENTS) == set(DebitEvent)


@pytest.mark.parametrize("event", DebitEvent)
def test_an_event_does_what_the_table_says(connection: Connection, event: DebitEvent) -> None:
    """Each event leads from each state where the table says; what it doesn't list changes nothing at all."""
    for state in DebitState:
        put(connection, state, owner=owner_before(event))
        before = everything(connection)

        EVENTS[event](connection)

        reached = TRANSITIONS.get((state, event))
        if reached is None:
            assert everything(connection) == before, state
            continue
        assert everything(connection) != before, state
        assert connection.query("SELECT state FROM jetpay_debit", {})[0][0] == reached.value, state
        progress = _repository.progress(connection, 1)
        counts = {each: getattr(progress.progress, each.value) for each in DebitState}
        assert counts == {each: int(each is reached) for each in DebitState}, state
        assert (progress.finished_at is not None) is (reached in FINISHED), state


@pytest.mark.parametrize("event", [e for (state, e) in TRANSITIONS if state is S.SENDING and e is not E.TAKE_OVER])
@pytest.mark.parametrize("how", ["another owner", "another intent"])
def test_an_outcome_of_another_intent_changes_nothing(connection: Connection, event: DebitEvent, how: str) -> None:
    """What another owner took over, or what was claimed anew since, is not changed by an outcome that comes late."""
    put(connection, S.SENDING, owner=OWNER)
    if how == "another owner":
        connection.change("UPDATE jetpay_debit SET owner = :owner", {"owner": OTHER_OWNER})
    else:
        connection.change("UPDATE jetpay_debit SET intent = intent + 1", {})
    before = everything(connection)

    EVENTS[event](connection)

    assert everything(connection) == before


def test_a_living_owner_keeps_its_debits(connection: Connection) -> None:
    """Only what a dead owner was sending is taken over, and never one's own, even if one is taken for dead oneself."""
    alive = connection.register(60.0)
    for owner in (alive, OTHER_OWNER):
        put(connection, S.SENDING, owner=owner)

        assert _intents.take_over(connection, [Scope(1)], owner=OTHER_OWNER) == []


def test_what_an_event_saw_while_it_was_being_sent_ends_resending(connection: Connection) -> None:
    """A debit whose owner found it not captured is resolved, not sent, if an event has reported a state beyond that."""
    put(connection, S.SENDING, owner=OWNER)
    connection.change(connection.statements.payments.note_seen_state, {"id": DEBIT, "state": "paid"})

    released = OutcomeRecord(DEBIT, "debit_0", INTENT, S.PENDING, attempts=2, certain_in=0.0)
    _intents.record(connection, [released], owner=OWNER)
    claims = _intents.claim(connection, Scope(1), owner=OTHER_OWNER, limit=1, resolve=93.0, rate=None)

    assert claims.send == []
    assert [(each.debit_id, each.seen_state) for each in claims.resolve] == [("debit_0", "paid")]
