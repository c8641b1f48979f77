"""What a claim takes, what it leaves, and what has to be resolved first: the same for a file and for PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import DebitState, UnknownBatchError, Waiting, _intents, _repository
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._backend_choice import choose_backend
from jetpay_async.ledger._claimer import _claim_first
from jetpay_async.ledger._intents import Claim, ClaimResult, OutcomeRecord, UnresolvedDebit
from jetpay_async.ledger._repository import Scope
from tests.ledger.owners import add_owner
from tests.ledger.service import debits

LOW = 1 << 32
"""The place before the outcomes of the first batch."""
BOUND = 93.0
"""Seconds until a request can no longer be on its way."""


@pytest.fixture
def connection(ledger: str) -> Iterator[Connection]:
    """A connection on a new ledger with a batch of 600, inside a transaction."""
    with closing(choose_backend(ledger, SYSTEM_CLOCK).connect(create=True)) as connection:
        connection.begin(writes=True)
        submit(connection, "night", 600)
        add_owner(connection, 2)
        yield connection
        connection.rollback()


def submit(connection: Connection, key: str, count: int) -> None:
    _repository.submit(connection, key, enumerate(debits(count)), given=count, chunks=3, fingerprint=key)


def claim_all(connection: Connection, owner: int, limit: int = 5, batch: int = 1, **options: Any) -> ClaimResult:
    options = {"resolve": BOUND, "rate": None, "scope": Scope(batch), **options}
    return _intents.claim(connection, owner=owner, limit=limit, **options)


def claim_first(connection: Connection, scopes: list[Scope], rate: float | None = None) -> tuple[int, ClaimResult]:
    return _claim_first(connection, scopes=scopes, owner=1, limit=5, resolve=BOUND, rate=rate, restored_until=None)


def claim(connection: Connection, owner: int, limit: int = 5, batch: int = 1, **options: Any) -> list[Claim]:
    claims = claim_all(connection, owner, limit, batch, **options)
    assert not claims.resolve
    assert not claims.known
    return claims.send


def record(
    connection: Connection, owner: int, state: DebitState, *debits: Claim | UnresolvedDebit, **values: Any
) -> None:
    entries = [
        OutcomeRecord(
            **{
                "id": each.id,
                "debit_id": each.debit_id,
                "intent": each.intent,
                "state": state,
                "attempts": each.attempts,
            }
            | values
        )
        for each in debits
    ]
    _intents.record(connection, entries, owner=owner)


def states(connection: Connection) -> dict[str, str]:
    return dict(connection.query("SELECT debit_id, state FROM jetpay_debit WHERE state <> 'pending'", {}))


def let_time_pass(connection: Connection, seconds: float) -> None:
    connection.change(
        "UPDATE jetpay_debit SET intent_at = intent_at - :seconds, certain_at = certain_at - :seconds",
        {"seconds": seconds},
    )


# --- who claims what --------------------------------------------------------------------------------------------------


def test_what_is_claimed_is_claimed_by_one(connection: Connection) -> None:
    """Two owners never hold the same debit, and both go through the batch in its order."""
    first, second = claim(connection, 1), claim(connection, 2)

    assert [each.debit_id for each in first + second] == debits(10)
    assert [each.attempts for each in first] == [1] * 5
    assert set(states(connection).values()) == {"sending"}


def test_a_chunk_is_claimed_alone(connection: Connection) -> None:
    """A claim for a chunk takes nothing else, and no more than there is."""
    claimed = claim(connection, 1, 1000, scope=Scope(1, 2))

    assert [each.debit_id for each in claimed] == debits(600)[500:]
    assert claim_all(connection, 1, 1000, scope=Scope(1, 3)) == ClaimResult()


def test_the_first_scope_that_has_something_is_claimed_from(connection: Connection) -> None:
    """Scopes are asked in their order; those before it, which had nothing, are counted."""
    submit(connection, "other", 3)
    claim(connection, 1, 3, 2)
    scopes = [Scope(2), Scope(1, 3), Scope(1, 1), Scope(1, 0)]

    empty, claims = claim_first(connection, scopes)

    assert (empty, [each.debit_id for each in claims.send]) == (2, debits(600)[250:255])
    assert claim_first(connection, scopes[:2]) == (2, ClaimResult())


def test_a_scope_is_not_empty_because_it_is_too_early(connection: Connection) -> None:
    """Where the next slot of the rate is too far ahead, nothing is known of what is pending."""
    sent = [claim_first(connection, [Scope(1)], rate=1.0) for _ in range(3)]

    assert [(empty, len(claims.send), claims.too_early) for empty, claims in sent] == [
        (0, 1, False),
        (0, 1, False),
        (0, 0, True),
    ]


def test_an_intent_says_how_long_its_request_may_take(connection: Connection) -> None:
    """What is committed before a request leaves is the longest time: a killed process proves nothing shorter."""
    claim(connection, 1)

    covered = connection.query("SELECT certain_at - intent_at FROM jetpay_debit WHERE state = 'sending'", {})
    assert [seconds for (seconds,) in covered] == pytest.approx([BOUND] * 5)


def test_what_is_released_is_claimed_again(connection: Connection) -> None:
    """A debit proven not captured is sent by the next claim; one whose status has to be read first is not."""
    first, second = claim(connection, 1, 2)
    record(connection, 1, DebitState.PENDING, first, attempts=0, certain_in=0.0)
    record(connection, 1, DebitState.PENDING, second, attempts=3, resolve_first=True)

    claims = claim_all(connection, 2, 2)

    assert [(each.debit_id, each.attempts, each.intent) for each in claims.send] == [("debit_0", 1, 2)]
    assert [(each.debit_id, each.attempts, each.intent) for each in claims.resolve] == [("debit_1", 3, 2)]
    assert claims.resolve[0].wait == pytest.approx(BOUND, abs=2)


def test_no_debit_is_under_way_twice(connection: Connection) -> None:
    """Whatever the code above it does, the ledger itself refuses a second 'sending' of a debit."""
    submit(connection, "other", 3)
    claim(connection, 1, 1)

    with pytest.raises(Exception, match=r"(?i)unique constraint"):
        connection.change("UPDATE jetpay_debit SET state = 'sending' WHERE debit_id = 'debit_0'", {})


def test_a_debit_in_doubt_keeps_its_shorter_time(connection: Connection) -> None:
    """What is known of an unanswered request is recorded: a later run waits for no more than that."""
    (claimed,) = claim(connection, 1, 1)

    record(connection, 1, DebitState.SENDING, claimed, resolve_first=True, certain_in=5.0, attempts=2)

    (taken,) = _intents.take_over(connection, [Scope(1)], owner=2)
    assert taken.wait == pytest.approx(5.0, abs=2)
    assert (taken.attempts, taken.intent) == (2, 2)


# --- the rate ---------------------------------------------------------------------------------------------------------


def test_slots_of_the_rate_follow_each_other(connection: Connection) -> None:
    """Two owners share one rate: the second one's slots begin where the first one's end."""
    first = claim(connection, 1, 3, rate=10)
    second = claim(connection, 2, 2, rate=10)

    delays = [each.delay for each in second]
    assert [each.delay for each in first] == pytest.approx([0.0, 0.1, 0.2])
    assert delays[0] == pytest.approx(0.3, abs=0.25), "less the time between the two claims"
    assert delays[1] - delays[0] == pytest.approx(0.1)


def test_an_intent_covers_the_wait_for_its_slot(connection: Connection) -> None:
    """When a request can no longer be on its way counts from the last slot of its claim."""
    claim(connection, 1, 2, rate=4)

    covered = connection.query("SELECT certain_at - intent_at FROM jetpay_debit WHERE state = 'sending'", {})
    assert [seconds for (seconds,) in covered] == pytest.approx([BOUND + 0.5] * 2)


def test_no_more_is_claimed_than_the_rate_takes_in_a_moment(connection: Connection) -> None:
    """At one capture in two seconds, one debit is claimed; and no second one before its slot is near."""
    assert len(claim(connection, 1, 100, rate=0.5)) == 1
    assert claim_all(connection, 1, 100, rate=0.5) == ClaimResult(too_early=True)
    assert claim_all(connection, 2, 100, rate=0.5) == ClaimResult(too_early=True)

    connection.change("UPDATE jetpay_ledger SET next_slot = next_slot - 1.5", {})
    (near,) = claim(connection, 1, 100, rate=0.5)
    assert near.delay <= 0.5, "less the time between the two claims"


def test_a_slot_of_a_clock_that_was_ahead_is_forgotten(connection: Connection) -> None:
    """Slots that were reserved by a clock two hours ahead delay nothing once the clock is right."""
    connection.change("UPDATE jetpay_ledger SET next_slot = :ahead", {"ahead": _repository.now(connection) + 7200})

    assert [each.delay for each in claim(connection, 1, 2, rate=10)] == pytest.approx([0.0, 0.1], abs=0.05)


# --- the same debit in two batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "transaction_state"), [(DebitState.CAPTURED, "paid"), (DebitState.ACCEPTED, "processing")]
)
def test_what_another_batch_has_captured_is_known(
    connection: Connection, state: DebitState, transaction_state: str
) -> None:
    """The ledger's own row is an answer: nothing has to be read, and nothing is sent."""
    submit(connection, "other", 3)
    record(connection, 1, state, *claim(connection, 1, 2), transaction_state=transaction_state)

    claims = claim_all(connection, 2, batch=2)

    assert [each.debit_id for each in claims.send] == ["debit_2"]
    assert [(each.debit_id, each.state, each.transaction_state, each.attempts) for each in claims.known] == [
        ("debit_0", state, transaction_state, 0),
        ("debit_1", state, transaction_state, 0),
    ]
    _intents.record(connection, claims.known, owner=2)
    assert getattr(_repository.progress(connection, 2).progress, state.value) == 2


def test_captured_counts_more_than_accepted(connection: Connection) -> None:
    """Of two batches that know the debit, the one that knows more is believed."""
    submit(connection, "second", 1)
    submit(connection, "third", 1)
    record(connection, 1, DebitState.ACCEPTED, *claim(connection, 1, 1), transaction_state="processing")
    (known,) = claim_all(connection, 1, batch=2).known
    connection.change("UPDATE jetpay_debit SET state = 'captured', transaction_state = 'paid' WHERE id >> 32 = 1", {})
    _intents.record(connection, [known], owner=1)

    (known,) = claim_all(connection, 1, batch=3).known

    assert (known.state, known.transaction_state) == (DebitState.CAPTURED, "paid")


@pytest.mark.parametrize("state", [DebitState.REJECTED, DebitState.UNKNOWN])
def test_what_another_batch_leaves_open_is_resolved_first(connection: Connection, state: DebitState) -> None:
    """A debit that another batch may have sent is not sent before its status, read late enough, allows it."""
    submit(connection, "other", 1)
    record(connection, 1, state, *claim(connection, 1, 1), seen_state="declined")

    claims = claim_all(connection, 2, batch=2)

    assert not claims.send
    (unresolved,) = claims.resolve
    assert unresolved.wait == pytest.approx(BOUND, abs=2)
    assert (unresolved.attempts, unresolved.seen_state) == (0, "declined")


def test_one_resolution_is_enough(connection: Connection) -> None:
    """A debit that is proven not captured is sent, though another batch still has it as unknown."""
    submit(connection, "other", 1)
    record(connection, 1, DebitState.UNKNOWN, *claim(connection, 1, 1))
    (unresolved,) = claim_all(connection, 2, batch=2).resolve

    record(connection, 2, DebitState.PENDING, unresolved)

    assert [each.debit_id for each in claim(connection, 2, batch=2)] == ["debit_0"]


def test_one_resolution_is_enough_for_what_waits_in_another_batch_too(connection: Connection) -> None:
    """A debit that is proven not captured is sent, though another batch, which nobody runs, has it to be resolved."""
    submit(connection, "other", 1)
    record(connection, 1, DebitState.PENDING, *claim(connection, 1, 1), resolve_first=True)
    (unresolved,) = claim_all(connection, 2, batch=2).resolve
    assert unresolved.wait == pytest.approx(BOUND, abs=2)

    record(connection, 2, DebitState.PENDING, unresolved)

    assert [each.debit_id for each in claim(connection, 2, batch=2)] == ["debit_0"]


def test_a_state_that_was_seen_in_another_batch_stays_a_reason(connection: Connection) -> None:
    """What is beyond preauthorized is not sent, whichever batch learned it, and however often a status is read."""
    submit(connection, "other", 1)
    record(connection, 1, DebitState.PENDING, *claim(connection, 1, 1), resolve_first=True)
    connection.change("UPDATE jetpay_debit SET seen_state = 'processing' WHERE id >> 32 = 1", {})

    for _ in range(2):
        (unresolved,) = claim_all(connection, 2, batch=2).resolve
        assert unresolved.seen_state == "processing"
        record(connection, 2, DebitState.PENDING, unresolved)


def test_a_batch_that_is_submitted_again_finds_what_another_one_sent_since(connection: Connection) -> None:
    """The time of the latest request of any batch counts for all of them."""
    submit(connection, "other", 1)
    record(connection, 1, DebitState.UNKNOWN, *claim(connection, 1, 1))
    let_time_pass(connection, 2 * BOUND)
    (unresolved,) = claim_all(connection, 2, batch=2).resolve
    assert unresolved.wait == 0
    record(connection, 2, DebitState.PENDING, unresolved)
    record(connection, 2, DebitState.UNKNOWN, *claim(connection, 2, batch=2))

    _repository.reopen_unknown(connection, 1)
    (again,) = claim_all(connection, 3, 1).resolve

    assert again.wait == pytest.approx(BOUND, abs=2)


def test_what_another_batch_only_has_pending_is_sent(connection: Connection) -> None:
    """A debit that waits in another batch, and was never sent, is no reason to read its status."""
    submit(connection, "other", 3)

    assert [each.debit_id for each in claim(connection, 2, batch=2)] == debits(3)


def test_a_debit_under_way_in_one_batch_waits_in_the_other(connection: Connection) -> None:
    """What one batch is sending, another doesn't claim."""
    submit(connection, "other", 3)
    claim(connection, 1, 2)

    assert [each.debit_id for each in claim(connection, 2, batch=2)] == ["debit_2"]


# --- taking over ------------------------------------------------------------------------------------------------------


def test_what_ones_batch_waits_for_is_taken_over(connection: Connection) -> None:
    """The debits of a dead run are resolved by whoever waits for them, in whatever batch they were; others are not."""
    submit(connection, "other", 3)
    held = claim(connection, 1, 5)

    taken = _intents.take_over(connection, [Scope(2)], owner=2)

    assert [each.debit_id for each in taken] == debits(3)
    assert [each.intent for each in taken] == [2] * 3
    record(connection, 1, DebitState.CAPTURED, *held)
    assert states(connection) == dict.fromkeys(debits(3), "sending") | {"debit_3": "captured", "debit_4": "captured"}


def test_a_batch_says_what_it_waits_for(connection: Connection) -> None:
    """Its progress counts the debits in doubt, its own or the same ones of another batch, and how long that takes."""
    submit(connection, "other", 3)
    claim(connection, 1, 5)
    assert _repository.full_progress(connection, 1).progress.waiting is None

    _intents.take_over(connection, [Scope(2)], owner=2)

    mine, other = (_repository.full_progress(connection, batch).progress.waiting for batch in (1, 2))
    assert mine is not None
    assert other is not None
    assert (mine.debits, other.debits) == (3, 3)
    assert other.seconds == pytest.approx(BOUND, abs=2)
    assert [info.progress.waiting is not None for info in _repository.batches(connection)] == [True, True]
    let_time_pass(connection, BOUND)
    assert _repository.full_progress(connection, 2).progress.waiting is None


def test_a_wait_is_a_sentence() -> None:
    """What is waited for can be printed as it is."""
    assert str(Waiting(debits=12, seconds=31.7)) == "waiting 32 s to resolve 12 debits in doubt"


# --- a ledger that was restored ---------------------------------------------------------------------------------------


def test_a_restored_ledger_resolves_each_debit_once(connection: Connection) -> None:
    """Every pending debit may have been sent; what is proven not captured after the time is sent then."""
    restored_until = _repository.now(connection) + BOUND
    claims = claim_all(connection, 1, 2, restored_until=restored_until)

    assert not claims.send
    assert [each.wait for each in claims.resolve] == pytest.approx([BOUND] * 2, abs=2)
    record(connection, 1, DebitState.PENDING, *claims.resolve)
    assert [each.debit_id for each in claim(connection, 1, 2, restored_until=restored_until)] == debits(2)


def test_what_is_released_by_a_restored_run_is_not_resolved_again(connection: Connection) -> None:
    """A debit that was resolved and then not sent is simply sent the next time."""
    restored_until = _repository.now(connection) - 1
    (unresolved,) = claim_all(connection, 1, 1, restored_until=restored_until).resolve
    record(connection, 1, DebitState.PENDING, unresolved)
    (claimed,) = claim(connection, 1, 1, restored_until=restored_until)

    record(connection, 1, DebitState.PENDING, claimed, attempts=0, certain_in=0.0)

    assert [each.debit_id for each in claim(connection, 1, 1, restored_until=restored_until)] == ["debit_0"]


def test_what_a_restored_ledger_takes_over_counts_from_the_restoration(connection: Connection) -> None:
    """The time of an intent in a copy says nothing about requests that were made after it."""
    claim(connection, 1, 1)
    let_time_pass(connection, 2 * BOUND)

    _intents.take_over(connection, [Scope(1)], owner=2, restored_until=_repository.now(connection) + BOUND)

    assert connection.query(
        "SELECT certain_at - :now FROM jetpay_debit WHERE state = 'sending'", {"now": _repository.now(connection)}
    )[0][0] == pytest.approx(BOUND, abs=2)


# --- outcomes ---------------------------------------------------------------------------------------------------------


def test_only_the_holder_records_an_outcome(connection: Connection) -> None:
    """An outcome from an owner that lost the debit changes nothing, and is not counted."""
    mine, theirs = claim(connection, 1, 2), claim(connection, 2, 2)

    record(connection, 1, DebitState.CAPTURED, *mine, *theirs)

    assert states(connection) == {
        "debit_0": "captured",
        "debit_1": "captured",
        "debit_2": "sending",
        "debit_3": "sending",
    }
    progress = _repository.progress(connection, 1).progress
    assert (progress.captured, progress.sending, progress.pending) == (2, 2, 596)


def test_outcomes_of_different_intents_are_recorded_together(connection: Connection) -> None:
    """Each outcome goes by the intent that it belongs to, and all of them get numbers that follow each other."""
    again, lost = claim(connection, 1, 2)
    record(connection, 1, DebitState.PENDING, again, lost, attempts=0, certain_in=0.0)
    again, renewed, first = claim(connection, 1, 3)
    assert (again.intent, renewed.intent, first.intent) == (2, 2, 1)

    record(connection, 1, DebitState.CAPTURED, again, first, lost, transaction_state="paid", as_expected=True)

    assert states(connection) == {"debit_0": "captured", "debit_1": "sending", "debit_2": "captured"}
    rows, place = _repository.outcomes(connection, 1, 0)
    assert sorted(row[1] for row in rows) == ["debit_0", "debit_2"]
    record(connection, 1, DebitState.CAPTURED, renewed, transaction_state="paid", as_expected=True)
    assert [row[1] for row in _repository.outcomes(connection, 1, place)[0]] == ["debit_1"]
    assert _repository.progress(connection, 1).progress.captured == 3


def test_a_late_resolution_does_not_undo_a_new_claim(connection: Connection) -> None:
    """A resolution that another owner finishes after the debit was claimed anew does not put it back."""
    claim(connection, 1, 1)
    (stale,) = _intents.take_over(connection, [Scope(1)], owner=2)
    add_owner(connection, 3)
    connection.change("DELETE FROM jetpay_owner WHERE id = 2", {})
    (fresh,) = _intents.take_over(connection, [Scope(1)], owner=3)
    record(connection, 3, DebitState.PENDING, fresh)
    claim(connection, 2, 1)

    record(connection, 2, DebitState.PENDING, stale)

    assert states(connection) == {"debit_0": "sending"}


def test_the_last_outcome_ends_the_batch(connection: Connection) -> None:
    """A batch is finished when its last debit has an outcome, and not before."""
    claimed = claim(connection, 1, 600)

    record(connection, 1, DebitState.CAPTURED, *claimed[:-1])
    assert _repository.progress(connection, 1).finished_at is None
    record(connection, 1, DebitState.ACCEPTED, claimed[-1], transaction_state="processing")
    assert _repository.progress(connection, 1).finished_at is not None


def test_outcomes_are_read_in_their_order(connection: Connection) -> None:
    """Outcomes come in the order in which they were recorded, page by page, each once."""
    claimed = list(reversed(claim(connection, 1, 600)))
    record(connection, 1, DebitState.CAPTURED, *claimed[:10])
    record(connection, 1, DebitState.CAPTURED, *claimed[10:])

    first, place = _repository.outcomes(connection, 1, 0)
    second, place = _repository.outcomes(connection, 1, place)
    last, end = _repository.outcomes(connection, 1, place)

    assert [row[1] for row in first + second] == list(reversed(debits(600)))
    assert (last, end) == ([], place)


def test_a_page_of_outcomes_says_where_the_batch_stands(connection: Connection) -> None:
    """With a full page of outcomes comes whether the batch has all, and how many of its debits are accepted."""
    claimed = claim(connection, 1, 600)
    record(connection, 1, DebitState.ACCEPTED, *claimed[:2], transaction_state="processing")
    assert _repository.completion_and_outcomes(connection, 1, 0) == (False, 2, [], LOW)
    record(connection, 1, DebitState.CAPTURED, *claimed[2:-1], transaction_state="paid")

    complete, accepted, rows, place = _repository.completion_and_outcomes(connection, 1, 0)
    assert (complete, accepted, len(rows)) == (False, 2, _repository.PAGE)
    record(connection, 1, DebitState.CAPTURED, claimed[-1], transaction_state="paid")
    complete, accepted, more, place = _repository.completion_and_outcomes(connection, 1, place)
    assert (complete, accepted) == (True, 2)
    assert [row[1] for row in [*rows, *more]] == debits(600)[2:]
    assert _repository.completion_and_outcomes(connection, 1, place) == (True, 2, [], place)


def test_outcomes_without_their_batch_are_not_taken_for_it(connection: Connection) -> None:
    """Where a damaged ledger has lost a batch, the first of its outcomes is not read as if it were the batch."""
    record(connection, 1, DebitState.CAPTURED, *claim(connection, 1, 2), transaction_state="paid")
    connection.change("DELETE FROM jetpay_batch", {})

    with pytest.raises(UnknownBatchError):
        _repository.completion_and_outcomes(connection, 1, 0)


def test_accepted_debits_are_read_last_and_once(connection: Connection) -> None:
    """What is accepted is read after all others, as what it is by then; nothing is read twice."""
    claimed = claim(connection, 1, 4)
    record(connection, 1, DebitState.CAPTURED, claimed[1])
    record(connection, 1, DebitState.ACCEPTED, claimed[0], *claimed[2:], transaction_state="processing")
    rows, place = _repository.outcomes(connection, 1, 0)
    assert [row[1] for row in rows] == ["debit_1"]

    followed = [each for each in claimed if each.debit_id == "debit_2"]
    _intents.record(
        connection,
        [
            OutcomeRecord(each.id, each.debit_id, None, DebitState.CAPTURED, 1, transaction_state="paid")
            for each in followed
        ],
        owner=1,
    )

    last, after = _repository.last_outcomes(connection, 1, after=0, since=place)
    assert [(row[1], row[2]) for row in last] == [
        ("debit_0", "accepted"),
        ("debit_2", "captured"),
        ("debit_3", "accepted"),
    ]
    assert _repository.last_outcomes(connection, 1, after=after, since=place) == ([], after)


def test_accepted_debits_are_found_by_chunk(connection: Connection) -> None:
    """What is to be followed is known by chunk and by scope."""
    claimed = claim(connection, 1, 600)
    record(connection, 1, DebitState.ACCEPTED, claimed[3], claimed[510], transaction_state="processing")

    assert _repository.chunks_accepted(connection, 1) == [0, 2]
    debits, after = _repository.followed(connection, Scope(1, 2), DebitState.ACCEPTED, 0)
    assert [(each.debit_id, each.transaction_state) for each in debits] == [("debit_510", "processing")]
    assert _repository.followed(connection, Scope(1, 2), DebitState.ACCEPTED, after) == ([], after)
