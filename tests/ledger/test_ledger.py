"""A ledger looked at without a client: what it tells, and what can be put right in it."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jetpay_async import InvalidArgumentError, JetpayError, TransactionState
from jetpay_async.errors import (
    APIError,
    NotFoundError,
    OutcomeUnknownError,
    RateLimitedError,
    ServiceError,
    TransactionFailedError,
)
from jetpay_async.ledger import BatchMismatchError, CapturesStoppedError, DebitState, Ledger, Progress
from jetpay_async.ledger._intents import UnresolvedDebit
from jetpay_async.ledger._rows import read, write
from jetpay_async.outcomes import Rejected, Unknown
from tests.ledger.service import debits, serving

TOKEN = b"token-that-must-not-show"

DEBIT = UnresolvedDebit(7, "debit_1", 1, 0, 0.0)


@pytest.mark.asyncio
async def test_a_ledger_tells_all_of_each_debit(ledger: str) -> None:
    """Ids, states, times and reasons, in the order in which the debits were given; of a state only those in it."""
    before = datetime.now(UTC) - timedelta(seconds=5)
    async with serving() as (service, client):
        service.script["debit_1"] = [(404, {"detail": "none"})]
        service.states["debit_1"] = (404, {"detail": "none"})
        async with client.durable_captures(ledger) as captures:
            await (await captures.submit("night", debits(3))).wait()

    async with Ledger(ledger, create=False) as opened:
        items = [item async for item in opened.items("night")]
        rejected = [item async for item in opened.items("night", "rejected")]
        captured = [item async for item in opened.items("night", DebitState.CAPTURED)]
        (batch,) = await opened.batches()

    assert [item.debit_id for item in items] == debits(3)
    assert [item.debit_id for item in captured] == ["debit_0", "debit_2"]
    assert rejected == [items[1]]
    assert (rejected[0].error, rejected[0].status, rejected[0].attempts) == ("NotFoundError", 404, 1)
    assert "the API answered 404: none" in (rejected[0].reason or "")
    assert items[0].transaction_state is TransactionState.PAID
    assert not items[0].confirmed_by_status
    for item in items:
        assert item.intent_at is not None
        assert item.finished_at is not None
        assert before < item.intent_at <= item.finished_at < datetime.now(UTC) + timedelta(seconds=5)
    assert (batch.key, batch.chunks, batch.finished_at is not None) == ("night", 1, True)
    assert batch.progress == Progress(total=3, pending=0, sending=0, captured=2, rejected=1, unknown=0)


@pytest.mark.asyncio
async def test_many_debits_are_read_page_by_page(ledger: str) -> None:
    """A reader gets every debit, however many pages there are, and a page's end is no end."""

    async def given() -> AsyncIterator[str]:
        for debit_id in debits(1000):
            yield debit_id

    async with Ledger(ledger) as opened:
        submitted = await opened.submit("night", given())

        assert (submitted.total, submitted.duplicates, submitted.chunks) == (1000, 0, 4)
        assert [item.debit_id async for item in opened.items("night")] == debits(1000)
        assert [item async for item in opened.items("night", "captured")] == []


@pytest.mark.asyncio
async def test_submitting_again_says_so(ledger: str) -> None:
    """The same batch is found, not made; another one under its key is rejected; duplicates are counted."""
    async with Ledger(ledger) as opened:
        first = await opened.submit("night", [*debits(3), "debit_1"])
        again = await opened.submit("night", ["debit_1", *debits(3)])

        assert (first.created, first.total, first.duplicates) == (True, 3, 1)
        assert (again.created, again.total, again.duplicates) == (False, 3, 1)
        assert await opened.submit("night", debits(3)) == again, "the same debits, given otherwise"
        for other in (debits(2), debits(4), ["debit_7", *debits(2)], []):
            with pytest.raises(BatchMismatchError):
                await opened.submit("night", other)
        await opened.submit("another", debits(3))
        assert [batch.key for batch in await opened.batches()] == ["night", "another"]


@pytest.mark.asyncio
async def test_two_submissions_at_once_make_one_batch(ledger: str) -> None:
    """Submitted by several at the same moment, a batch is made by one of them."""
    async with Ledger(ledger) as one, Ledger(ledger) as two:
        made = await asyncio.gather(
            *(opened.submit("night", debits(500)) for opened in (one, two, one, two)),
        )

    assert sorted(submitted.created for submitted in made) == [False, False, False, True]


@pytest.mark.asyncio
async def test_an_unknown_state_is_refused(ledger: str) -> None:
    """A state that no debit can be in is named, with those it can be in."""
    async with Ledger(ledger) as opened:
        await opened.submit("night", debits(1))
        with pytest.raises(InvalidArgumentError, match="state: 'done' is none of pending, sending, captured"):
            async for _ in opened.items("night", "done"):
                pass


@pytest.mark.asyncio
async def test_a_ledger_holds_no_secret(tmp_path: Path) -> None:
    """Whatever the API repeats of a request, the token gets into no file of the ledger."""
    async with serving() as (service, client), client.durable_captures(tmp_path / "captures.db") as captures:
        service.script["debit_1"] = [(400, {"detail": f"bad header Bearer {TOKEN.decode()}"})]
        await (await captures.submit("night", debits(2))).wait()
        written = b"".join(file.read_bytes() for file in tmp_path.iterdir())

    assert b"bad header" in written
    assert TOKEN not in written


# --- outcomes, written down and read back -----------------------------------------------------------------------------

CONTEXT = {"operation": "capture", "debit_id": "debit_1", "status": 404, "request_id": "req_1", "attempts": 2}


def row(state: DebitState, **more: object) -> list[object]:
    """The outcome of a debit as it is read from the ledger."""
    values: dict[str, object] = {
        "place": 7,
        "debit_id": "debit_1",
        "state": state.value,
        "attempts": 3,
        "transaction_state": None,
        "confirmed_by_status": 0,
        "intent_at": None,
        "error": None,
        "status": None,
        "request_id": None,
        "reason": None,
    }
    return list((values | more).values())


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("no such debit", operation="capture", debit_id="debit_1", status=404, request_id="r", attempts=2),
        APIError("no", operation="capture", debit_id="debit_1", status=418, request_id=None, attempts=1),
        RateLimitedError("slow down", operation="capture", debit_id="debit_1", status=429, attempts=5),
        ServiceError("all lost", operation="capture", debit_id="debit_1", attempts=15),
        TransactionFailedError(
            "it failed", operation="capture", debit_id="debit_1", state=TransactionState.FAILED, attempts=1
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_refusal_comes_back_as_it_was(error: JetpayError) -> None:
    """Class, message, status, request id and attempts of a refusal survive the ledger."""
    entry = write(DEBIT, Rejected(debit_id="debit_1", request=None, error=error), earlier=0)
    state = None if entry.transaction_state is None else TransactionState(entry.transaction_state)

    outcome = read(
        row(
            DebitState.REJECTED,
            attempts=entry.attempts,
            error=entry.error,
            status=entry.status,
            request_id=entry.request_id,
            reason=entry.reason,
            transaction_state=state,
        ),
    )

    assert isinstance(outcome, Rejected)
    assert type(outcome.error) is type(error)
    assert str(outcome.error) == str(error)
    if isinstance(error, TransactionFailedError):
        assert isinstance(outcome.error, TransactionFailedError)
        assert outcome.error.state is error.state


@pytest.mark.parametrize("name", [None, "NoSuchError", "Outcome", "annotations"])
def test_a_refusal_of_another_release_is_read_all_the_same(name: str | None) -> None:
    """An error class that this release does not have comes back as an APIError."""
    outcome = read(row(DebitState.REJECTED, error=name))

    assert isinstance(outcome, Rejected)
    assert type(outcome.error) is APIError
    assert outcome.attempts == 3


def test_an_unknown_outcome_comes_back_with_what_is_known() -> None:
    """What is not known is reported with the state that was read last and the reason."""
    error = OutcomeUnknownError("lost", state=TransactionState.PROCESSING, reason="cut off", attempts=1)
    entry = write(DEBIT, Unknown(debit_id="debit_1", request=None, error=error), earlier=2)

    outcome = read(
        row(
            DebitState.UNKNOWN,
            attempts=entry.attempts,
            transaction_state=TransactionState.PROCESSING,
            reason=entry.reason,
        ),
    )

    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.error, OutcomeUnknownError)
    assert (outcome.error.state, outcome.error.reason) == (TransactionState.PROCESSING, "cut off")
    assert outcome.attempts == 3


def test_a_reason_is_cut_to_a_line() -> None:
    """A page of a proxy does not fill the ledger."""
    error = APIError("x" * 5000)

    assert len(write(DEBIT, Rejected(debit_id="debit_1", request=None, error=error), earlier=0).reason or "") == 500


def test_a_stop_without_a_known_progress_survives_pickling() -> None:
    """The error of a stopped run crosses to another process whole."""
    error = CapturesStoppedError("stopped", key="night", progress=None)
    error.status = 7

    again = pickle.loads(pickle.dumps(error))

    assert (again.message, again.key, again.progress, again.status) == ("stopped", "night", None, 7)
