"""The rules of the states, in the ledger itself: the same for a file and for PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from jetpay_async._clock import SYSTEM_CLOCK
from jetpay_async.captures import DebitState, _book
from jetpay_async.captures._book import Entry, Scope
from jetpay_async.captures._engines import choose_engine
from jetpay_async.captures._session import Session
from tests.captures.service import debits

KEY = "night"


@pytest.fixture
def session(ledger: str) -> Iterator[Session]:
    """A session on a new ledger with a batch of 600, inside a transaction."""
    with closing(choose_engine(ledger, SYSTEM_CLOCK).connect(create=True)) as session:
        session.begin(writes=True)
        _book.submit(session, KEY, enumerate(debits(600)), given=600, chunks=3, fingerprint="f")
        yield session
        session.rollback()


def claim(session: Session, owner: int, limit: int = 5, scope: Scope = Scope(1)) -> list[_book.Claimed]:  # noqa: B008
    return _book.claim(session, scope, owner=owner, limit=limit, settle=30.0, rate=None)


def states(session: Session) -> dict[str, str]:
    return dict(session.query("SELECT debit_id, state FROM jetpay_debit WHERE state <> 'pending'", {}))


def test_what_is_claimed_is_claimed_by_one(session: Session) -> None:
    """Two owners never hold the same debit, and both go through the batch in its order."""
    first, second = claim(session, 1), claim(session, 2)

    assert [each.debit_id for each in first + second] == debits(10)
    assert [each.attempts for each in first] == [1] * 5
    assert set(states(session).values()) == {"sending"}


def test_a_chunk_is_claimed_alone(session: Session) -> None:
    """A claim for a chunk takes nothing else, and no more than there is."""
    claimed = claim(session, 1, 1000, Scope(1, 2))

    assert [each.debit_id for each in claimed] == debits(600)[500:]
    assert claim(session, 1, 1000, Scope(1, 3)) == []


def test_only_the_holder_tells_the_outcome(session: Session) -> None:
    """An outcome from an owner that lost the debit changes nothing, and is not counted."""
    mine, theirs = claim(session, 1, 2), claim(session, 2, 2)

    _book.record(session, [Entry(each.id, DebitState.CAPTURED, 1) for each in mine + theirs], owner=1)

    assert states(session) == {
        "debit_0": "captured",
        "debit_1": "captured",
        "debit_2": "sending",
        "debit_3": "sending",
    }
    progress = _book.progress(session, 1).progress
    assert (progress.captured, progress.sending, progress.pending) == (2, 2, 596)


def test_an_outcome_is_told_once(session: Session) -> None:
    """A second outcome for the same debit, from whomever, changes nothing."""
    (claimed,) = claim(session, 1, 1)
    _book.record(session, [Entry(claimed.id, DebitState.CAPTURED, 1)], owner=1)

    _book.record(session, [Entry(claimed.id, DebitState.REFUSED, 1)], owner=1)

    assert states(session) == {"debit_0": "captured"}
    progress = _book.progress(session, 1).progress
    assert (progress.captured, progress.refused) == (1, 0)


def test_what_is_given_back_is_claimed_again(session: Session) -> None:
    """A debit proven not captured is pending again; what has to come first for it still does."""
    first, second = claim(session, 1, 2)

    _book.record(
        session,
        [
            Entry(first.id, DebitState.PENDING, 0),
            Entry(second.id, DebitState.PENDING, 3, look_first=True),
        ],
        owner=1,
    )

    assert [(each.debit_id, each.attempts, each.repeated) for each in claim(session, 2, 2)] == [
        ("debit_0", 1, False),
        ("debit_1", 4, True),
    ]


def test_a_debit_under_way_in_one_batch_waits_in_the_other(session: Session) -> None:
    """What one batch is sending, another doesn't claim; afterwards it does, and looks at it first."""
    _book.submit(session, "other", enumerate(debits(3)), given=3, chunks=1, fingerprint="g")
    held = claim(session, 1, 2)

    assert [each.debit_id for each in claim(session, 2, 5, Scope(2))] == ["debit_2"]
    _book.record(session, [Entry(each.id, DebitState.CAPTURED, 1) for each in held], owner=1)
    assert [(each.debit_id, each.repeated) for each in claim(session, 2, 5, Scope(2))] == [
        ("debit_0", True),
        ("debit_1", True),
    ]


def test_no_debit_is_under_way_twice(session: Session) -> None:
    """Whatever the code above it does, the ledger itself refuses a second 'sending' of a debit."""
    _book.submit(session, "other", enumerate(debits(3)), given=3, chunks=1, fingerprint="g")
    claim(session, 1, 1)

    with pytest.raises(Exception, match=r"(?i)unique constraint"):
        session.change("UPDATE jetpay_debit SET state = 'sending' WHERE debit_id = 'debit_0'", {})


def test_slots_of_the_rate_follow_each_other(session: Session) -> None:
    """Two owners share one rate: the second one's slots begin where the first one's end."""
    first = _book.claim(session, Scope(1), owner=1, limit=3, settle=30.0, rate=10)
    second = _book.claim(session, Scope(1), owner=2, limit=2, settle=30.0, rate=10)

    delays = [each.delay for each in first + second]
    assert delays == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=0.05)


def test_an_intent_covers_the_wait_for_its_slot(session: Session) -> None:
    """When a request can no longer be on its way counts from the last slot of its claim."""
    _book.claim(session, Scope(1), owner=1, limit=5, settle=30.0, rate=1)

    covered = session.query("SELECT certain_at - intent_at FROM jetpay_debit WHERE state = 'sending'", {})
    assert [seconds for (seconds,) in covered] == pytest.approx([35.0] * 5)


def test_the_last_outcome_ends_the_batch(session: Session) -> None:
    """A batch is finished when its last debit has an outcome, and not before."""
    claimed = claim(session, 1, 600)
    entries = [Entry(each.id, DebitState.CAPTURED, 1) for each in claimed]

    _book.record(session, entries[:-1], owner=1)
    assert _book.progress(session, 1).finished_at is None
    _book.record(session, entries[-1:], owner=1)
    assert _book.progress(session, 1).finished_at is not None


def test_outcomes_are_read_in_their_order(session: Session) -> None:
    """Outcomes come in the order in which they were written down, page by page, each once."""
    claimed = claim(session, 1, 600)
    backwards = [Entry(each.id, DebitState.CAPTURED, 1) for each in reversed(claimed)]
    _book.record(session, backwards[:10], owner=1)
    _book.record(session, backwards[10:], owner=1)

    first, place = _book.outcomes(session, 1, 0)
    second, place = _book.outcomes(session, 1, place)
    last, end = _book.outcomes(session, 1, place)

    assert [row[1] for row in first + second] == list(reversed(debits(600)))
    assert (last, end) == ([], place)
