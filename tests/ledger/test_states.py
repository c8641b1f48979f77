"""The rules of the states, in the ledger itself: the same for a file and for PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import DebitState, _repository
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._repository import OutcomeRecord, Scope
from tests.ledger.service import debits

KEY = "night"


@pytest.fixture
def connection(ledger: str) -> Iterator[Connection]:
    """A connection on a new ledger with a batch of 600, inside a transaction."""
    with closing(choose_backend(ledger, SYSTEM_CLOCK).connect(create=True)) as connection:
        connection.begin(writes=True)
        _repository.submit(connection, KEY, enumerate(debits(600)), given=600, chunks=3, fingerprint="f")
        yield connection
        connection.rollback()


def claim(connection: Connection, owner: int, limit: int = 5, scope: Scope = Scope(1)) -> list[_repository.Claim]:  # noqa: B008
    return _repository.claim(connection, scope, owner=owner, limit=limit, resolve=30.0, rate=None)


def states(connection: Connection) -> dict[str, str]:
    return dict(connection.query("SELECT debit_id, state FROM jetpay_debit WHERE state <> 'pending'", {}))


def test_what_is_claimed_is_claimed_by_one(connection: Connection) -> None:
    """Two owners never hold the same debit, and both go through the batch in its order."""
    first, second = claim(connection, 1), claim(connection, 2)

    assert [each.debit_id for each in first + second] == debits(10)
    assert [each.attempts for each in first] == [1] * 5
    assert set(states(connection).values()) == {"sending"}


def test_a_chunk_is_claimed_alone(connection: Connection) -> None:
    """A claim for a chunk takes nothing else, and no more than there is."""
    claimed = claim(connection, 1, 1000, Scope(1, 2))

    assert [each.debit_id for each in claimed] == debits(600)[500:]
    assert claim(connection, 1, 1000, Scope(1, 3)) == []


def test_only_the_holder_tells_the_outcome(connection: Connection) -> None:
    """An outcome from an owner that lost the debit changes nothing, and is not counted."""
    mine, theirs = claim(connection, 1, 2), claim(connection, 2, 2)

    _repository.record(connection, [OutcomeRecord(each.id, DebitState.CAPTURED, 1) for each in mine + theirs], owner=1)

    assert states(connection) == {
        "debit_0": "captured",
        "debit_1": "captured",
        "debit_2": "sending",
        "debit_3": "sending",
    }
    progress = _repository.progress(connection, 1).progress
    assert (progress.captured, progress.sending, progress.pending) == (2, 2, 596)


def test_an_outcome_is_told_once(connection: Connection) -> None:
    """A second outcome for the same debit, from whomever, changes nothing."""
    (claimed,) = claim(connection, 1, 1)
    _repository.record(connection, [OutcomeRecord(claimed.id, DebitState.CAPTURED, 1)], owner=1)

    _repository.record(connection, [OutcomeRecord(claimed.id, DebitState.REJECTED, 1)], owner=1)

    assert states(connection) == {"debit_0": "captured"}
    progress = _repository.progress(connection, 1).progress
    assert (progress.captured, progress.rejected) == (1, 0)


def test_what_is_given_back_is_claimed_again(connection: Connection) -> None:
    """A debit proven not captured is pending again; what has to come first for it still does."""
    first, second = claim(connection, 1, 2)

    _repository.record(
        connection,
        [
            OutcomeRecord(first.id, DebitState.PENDING, 0),
            OutcomeRecord(second.id, DebitState.PENDING, 3, look_first=True),
        ],
        owner=1,
    )

    assert [(each.debit_id, each.attempts, each.repeated) for each in claim(connection, 2, 2)] == [
        ("debit_0", 1, False),
        ("debit_1", 4, True),
    ]


def test_a_debit_under_way_in_one_batch_waits_in_the_other(connection: Connection) -> None:
    """What one batch is sending, another doesn't claim; afterwards it does, and looks at it first."""
    _repository.submit(connection, "other", enumerate(debits(3)), given=3, chunks=1, fingerprint="g")
    held = claim(connection, 1, 2)

    assert [each.debit_id for each in claim(connection, 2, 5, Scope(2))] == ["debit_2"]
    _repository.record(connection, [OutcomeRecord(each.id, DebitState.CAPTURED, 1) for each in held], owner=1)
    assert [(each.debit_id, each.repeated) for each in claim(connection, 2, 5, Scope(2))] == [
        ("debit_0", True),
        ("debit_1", True),
    ]


def test_no_debit_is_under_way_twice(connection: Connection) -> None:
    """Whatever the code above it does, the ledger itself refuses a second 'sending' of a debit."""
    _repository.submit(connection, "other", enumerate(debits(3)), given=3, chunks=1, fingerprint="g")
    claim(connection, 1, 1)

    with pytest.raises(Exception, match=r"(?i)unique constraint"):
        connection.change("UPDATE jetpay_debit SET state = 'sending' WHERE debit_id = 'debit_0'", {})


def test_slots_of_the_rate_follow_each_other(connection: Connection) -> None:
    """Two owners share one rate: the second one's slots begin where the first one's end."""
    first = _repository.claim(connection, Scope(1), owner=1, limit=3, resolve=30.0, rate=10)
    second = _repository.claim(connection, Scope(1), owner=2, limit=2, resolve=30.0, rate=10)

    delays = [each.delay for each in first + second]
    assert delays == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=0.05)


def test_an_intent_covers_the_wait_for_its_slot(connection: Connection) -> None:
    """When a request can no longer be on its way counts from the last slot of its claim."""
    _repository.claim(connection, Scope(1), owner=1, limit=5, resolve=30.0, rate=1)

    covered = connection.query("SELECT certain_at - intent_at FROM jetpay_debit WHERE state = 'sending'", {})
    assert [seconds for (seconds,) in covered] == pytest.approx([35.0] * 5)


def test_the_last_outcome_ends_the_batch(connection: Connection) -> None:
    """A batch is finished when its last debit has an outcome, and not before."""
    claimed = claim(connection, 1, 600)
    entries = [OutcomeRecord(each.id, DebitState.CAPTURED, 1) for each in claimed]

    _repository.record(connection, entries[:-1], owner=1)
    assert _repository.progress(connection, 1).finished_at is None
    _repository.record(connection, entries[-1:], owner=1)
    assert _repository.progress(connection, 1).finished_at is not None


def test_outcomes_are_read_in_their_order(connection: Connection) -> None:
    """Outcomes come in the order in which they were written down, page by page, each once."""
    claimed = claim(connection, 1, 600)
    backwards = [OutcomeRecord(each.id, DebitState.CAPTURED, 1) for each in reversed(claimed)]
    _repository.record(connection, backwards[:10], owner=1)
    _repository.record(connection, backwards[10:], owner=1)

    first, place = _repository.outcomes(connection, 1, 0)
    second, place = _repository.outcomes(connection, 1, place)
    last, end = _repository.outcomes(connection, 1, place)

    assert [row[1] for row in first + second] == list(reversed(debits(600)))
    assert (last, end) == ([], place)
