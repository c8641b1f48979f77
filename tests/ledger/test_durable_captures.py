"""Capturing a batch from a ledger, by one run over real sockets: what it sends, and what it reports."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import (
    Captured,
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    OutcomeUnknownError,
    Rejected,
    RetryPolicy,
    ServiceError,
    TransactionFailedError,
    TransactionState,
    Unknown,
)
from jetpay_async.ledger import (
    BatchMismatchError,
    Ledger,
    Progress,
    UnknownBatchError,
)
from tests.ledger.service import LOSE, LOSE_AFTERWARDS, WAIT, debits, serving

KEY = "2026-11-22"


async def outcomes_of(batch: Any) -> list[Any]:
    return [outcome async for outcome in batch.outcomes()]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "captures.db")


@pytest.mark.asyncio
async def test_each_debit_is_captured_and_reported_once(path: str) -> None:
    """A batch ends with one outcome for each debit, and one capture at the service."""
    async with serving() as (service, client), client.durable_captures(path, concurrency=8) as captures:
        batch = await captures.submit(KEY, debits(300))

        outcomes = await outcomes_of(batch)

        assert Counter(outcome.debit_id for outcome in outcomes) == Counter(debits(300))
        assert all(isinstance(outcome, Captured) and outcome.attempts == 1 for outcome in outcomes)
        assert {outcome.capture.state for outcome in outcomes} == {TransactionState.PAID}
        assert service.captures == Counter(debits(300))
        assert service.peak <= 8
        report = await batch.wait()
        assert (report.key, report.total, report.captured) == (KEY, 300, 300)
        assert report.submitted_at <= report.finished_at
        assert (await batch.progress()).complete


@pytest.mark.asyncio
async def test_the_same_lines_go_on_after_the_end(path: str) -> None:
    """Submitted again, a batch that is complete sends nothing, and reports every outcome again."""
    async with serving() as (service, client):
        for _ in range(2):
            async with client.durable_captures(path) as captures:
                outcomes = await outcomes_of(await captures.submit(KEY, debits(20)))
                assert Counter(outcome.debit_id for outcome in outcomes) == Counter(debits(20))

        assert service.requests == Counter(debits(20))


@pytest.mark.asyncio
async def test_an_empty_batch_is_complete(path: str) -> None:
    """A night without debits is a batch like any other."""
    async with serving() as (_, client), client.durable_captures(path) as captures:
        batch = await captures.submit(KEY, [])

        assert await outcomes_of(batch) == []
        assert (await batch.wait()).total == 0


@pytest.mark.asyncio
async def test_a_debit_given_twice_is_captured_once(path: str) -> None:
    """Within a batch each debit counts once."""

    async def given() -> AsyncIterator[str]:
        for debit_id in debits(5) + debits(5):
            yield debit_id

    async with serving() as (service, client), client.durable_captures(path) as captures:
        batch = await captures.submit(KEY, given())

        assert len(await outcomes_of(batch)) == 5
        assert service.requests == Counter(debits(5))


@pytest.mark.asyncio
async def test_what_another_batch_has_captured_is_not_asked_for_again(path: str) -> None:
    """A debit that an earlier batch has captured is an answer: nothing is sent, and nothing is read."""
    async with serving() as (service, client), client.durable_captures(path) as captures:
        await (await captures.submit("first", debits(3))).wait()

        outcomes = await outcomes_of(await captures.submit("second", debits(4)))

        assert {outcome.debit_id: outcome.attempts for outcome in outcomes} == {
            "debit_0": 0,
            "debit_1": 0,
            "debit_2": 0,
            "debit_3": 1,
        }
        assert all(isinstance(outcome, Captured) for outcome in outcomes)
        assert service.requests == Counter(debits(4))


@pytest.mark.asyncio
async def test_the_debits_of_two_batches_at_once_are_captured_once(path: str) -> None:
    """Two batches that share debits, submitted together, capture each of them once."""
    async with serving() as (service, client), client.durable_captures(path, concurrency=4) as captures:
        one = await captures.submit("one", debits(40))
        two = await captures.submit("two", list(reversed(debits(40))))

        assert (await one.wait()).captured == 40
        assert (await two.wait()).captured == 40
        assert service.captures == Counter(debits(40))


@pytest.mark.asyncio
async def test_other_debits_under_the_same_key_are_an_error(path: str) -> None:
    """A key stands for one set of debits; another set changes nothing and is not sent."""
    async with serving() as (service, client), client.durable_captures(path) as captures:
        await (await captures.submit(KEY, debits(3))).wait()

        with pytest.raises(BatchMismatchError, match=r"3, now 4 were given.*another key"):
            await captures.submit(KEY, debits(4))

        assert service.requests.total() == 3


@pytest.mark.asyncio
async def test_the_order_of_the_debits_makes_no_other_batch(path: str) -> None:
    """The same debits in another order are the same batch."""
    async with serving() as (_, client), client.durable_captures(path) as captures:
        await captures.submit(KEY, debits(3))

        assert (await (await captures.submit(KEY, reversed(debits(3)))).wait()).captured == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["debit_1", "a/b"], r"item 2: debit_id: 'a/b' is not an id"),
        (["debit_1", 7], r"item 2: debit_id: an id is a str, not int"),
        ("debit_1", "is many ids, not one"),
        (7, "is an iterable or an async iterable, not int"),
    ],
    ids=["a path", "a number", "one id", "no collection"],
)
@pytest.mark.asyncio
async def test_bad_debits_are_refused_before_anything_is_sent(path: str, given: Any, said: str) -> None:
    """One id that can't be one, and nothing of the batch is added or sent; the error names its place."""
    async with serving() as (service, client), client.durable_captures(path) as captures:
        with pytest.raises(InvalidArgumentError, match=said) as caught:
            await captures.submit(KEY, given)

        assert caught.value.field == "debit_ids"
        with pytest.raises(UnknownBatchError, match="no batch '2026-11-22'"):
            await captures.batch(KEY)
        assert not service.requests


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", 7, None])
@pytest.mark.asyncio
async def test_a_bad_key_is_refused(path: str, key: Any) -> None:
    """A batch has a name that can be printed."""
    async with serving() as (_, client), client.durable_captures(path) as captures:
        with pytest.raises(InvalidArgumentError, match="key: a batch's name"):
            await captures.submit(key, debits(1))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("concurrency", 0),
        ("concurrency", True),
        ("rate", 0),
        ("rate", float("inf")),
        ("lease_seconds", 0),
        ("lease_seconds", "15"),
    ],
)
@pytest.mark.asyncio
async def test_a_bad_number_is_refused(path: str, option: str, value: Any) -> None:
    """A setting out of range is named before the ledger is touched."""
    async with serving() as (_, client):
        with pytest.raises(InvalidArgumentError, match=option):
            client.durable_captures(path, **{option: value})
    assert not Path(path).exists()


@pytest.mark.asyncio
async def test_what_the_api_rejects_is_rejected_and_disturbs_nobody(path: str) -> None:
    """A rejection is reported with the API's words, in this run and from the ledger of a later one."""
    async with serving() as (service, client):
        service.script["debit_1"] = [(409, {"detail": "no"}), (409, {"detail": "no"})]
        service.states["debit_1"] = "preauthorized"
        service.script["debit_2"] = [LOSE]
        service.states["debit_2"] = "failed"
        for _ in range(2):
            async with client.durable_captures(path) as captures:
                batch = await captures.submit(KEY, debits(4))
                outcomes = {outcome.debit_id: outcome for outcome in await outcomes_of(batch)}

                assert isinstance(outcomes["debit_0"], Captured)
                assert isinstance(outcomes["debit_3"], Captured)
                rejected, failed = outcomes["debit_1"], outcomes["debit_2"]
                assert isinstance(rejected, Rejected)
                assert isinstance(rejected.error, ConflictError)
                assert (rejected.error.status, rejected.attempts) == (409, 1)
                assert "the API answered 409: no" in str(rejected.error)
                assert isinstance(failed, Rejected)
                assert isinstance(failed.error, TransactionFailedError)
                assert failed.error.state is TransactionState.FAILED
                assert await batch.progress() == Progress(
                    total=4, pending=0, sending=0, captured=2, rejected=2, unknown=0
                )


@pytest.mark.asyncio
async def test_rejected_debits_can_be_tried_again(path: str) -> None:
    """What was rejected is put back on request, and resolved before it is sent."""
    async with serving(timeout=2.0) as (service, client):
        service.script["debit_1"] = [(409, {"detail": "no"})]
        service.states["debit_1"] = "preauthorized"
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(3))).wait()).rejected == 1
        async with Ledger(path, create=False) as ledger:
            assert await ledger.retry_rejected(KEY) == 1
            assert await ledger.retry_rejected(KEY) == 0
            assert await ledger.progress(KEY) == Progress(
                total=3, pending=1, sending=0, captured=2, rejected=0, unknown=0
            )
        reads = service.requests["status"]
        async with client.durable_captures(path) as captures:
            report = await (await captures.batch(KEY)).wait()

        assert (report.captured, report.rejected) == (3, 0)
        assert service.requests["status"] == reads + 1
        assert service.captures == Counter(debits(3))


@pytest.mark.asyncio
async def test_a_lost_response_is_resolved_by_the_status(path: str) -> None:
    """Whether the response was lost after the capture or before it, the money is taken once."""
    async with serving() as (service, client), client.durable_captures(path) as captures:
        service.script["debit_1"] = [LOSE_AFTERWARDS]
        service.script["debit_2"] = [LOSE]

        outcomes = {o.debit_id: o for o in await outcomes_of(await captures.submit(KEY, debits(4)))}

        assert [outcomes[debit_id].confirmed_by_status for debit_id in debits(4)] == [False, True, False, False]
        assert [outcomes[debit_id].attempts for debit_id in debits(4)] == [1, 1, 2, 1]
        assert service.captures == Counter(debits(4))


@pytest.mark.asyncio
async def test_an_outcome_that_the_status_cant_tell_is_unknown_until_the_next_run(path: str) -> None:
    """A state that says neither yes nor no is reported as unknown; submitted again, the debit is resolved again."""
    async with serving(timeout=0.3) as (service, client):
        service.script["debit_1"] = [LOSE_AFTERWARDS]
        service.states["debit_1"] = "pondering"
        async with client.durable_captures(path) as captures:
            outcomes = {o.debit_id: o for o in await outcomes_of(await captures.submit(KEY, debits(2)))}
            unknown = outcomes["debit_1"]
            assert isinstance(unknown, Unknown)
            assert isinstance(unknown.error, OutcomeUnknownError)
            assert unknown.error.state == "pondering"
            assert unknown.error.started_at is not None
            assert unknown.attempts == 1
            assert "Submit the batch again" in unknown.error.next_step
        del service.states["debit_1"]
        async with client.durable_captures(path) as captures:
            batch = await captures.submit(KEY, debits(2))
            assert (await batch.wait()).captured == 2
            outcomes = {o.debit_id: o for o in await outcomes_of(batch)}

        assert outcomes["debit_1"].confirmed_by_status
        assert service.captures == Counter(debits(2))


@pytest.mark.asyncio
async def test_a_status_that_never_comes_leaves_the_outcome_unknown(path: str) -> None:
    """A status that can't be read is tried several times before the outcome is reported as unknown."""
    async with serving(timeout=0.15) as (service, client), client.durable_captures(path) as captures:
        service.script["debit_1"] = [LOSE_AFTERWARDS]
        service.states["debit_1"] = (503, {})

        report = await (await captures.submit(KEY, debits(2))).wait()

        assert (report.captured, report.unknown) == (1, 1)
        assert service.requests["status"] >= 6


@pytest.mark.asyncio
async def test_a_debit_whose_requests_are_all_lost_is_given_up(path: str) -> None:
    """A debit that the API fails on each time, and provably does not capture, ends as rejected with the reason."""
    async with serving() as (service, client), client.durable_captures(path) as captures:
        service.script["debit_1"] = [LOSE] * 100

        outcomes = {o.debit_id: o for o in await outcomes_of(await captures.submit(KEY, debits(30)))}

        assert isinstance(outcomes["debit_1"], Rejected)
        assert isinstance(outcomes["debit_1"].error, ServiceError)
        assert service.requests["debit_1"] == 15
        assert service.captures["debit_1"] == 0
        assert sum(isinstance(outcome, Captured) for outcome in outcomes.values()) == 29


@pytest.mark.asyncio
async def test_a_429_that_may_have_been_processed_is_resolved(path: str) -> None:
    """Where a 429 is not trusted to mean "not processed", the status says what became of the debit."""
    policy = RetryPolicy(
        max_attempts=3,
        base_delay=0.005,
        max_delay=0.01,
        resolve_after=0.02,
        resolve_after_timeout=0.02,
        resend_rate_limited=False,
    )
    async with serving(timeout=0.3, retry=policy) as (service, client), client.durable_captures(path) as captures:
        service.script["debit_1"] = [(429, {"detail": "slow down"})]
        service.captures["debit_1"] = 1

        outcomes = {o.debit_id: o for o in await outcomes_of(await captures.submit(KEY, debits(3)))}

        assert outcomes["debit_1"].confirmed_by_status
        assert service.requests["debit_1"] == 1


@pytest.mark.asyncio
async def test_the_rate_is_kept(path: str) -> None:
    """DurableCaptures start no faster than the rate says, over all runs on the ledger."""
    async with serving() as (service, client):
        began = asyncio.get_running_loop().time()
        async with client.durable_captures(path, rate=100) as one, client.durable_captures(path, rate=100) as two:
            await asyncio.gather(
                (await one.submit("a", debits(20))).wait(),
                (await two.submit("b", [f"other_{debit_id}" for debit_id in debits(20)])).wait(),
            )

        assert asyncio.get_running_loop().time() - began >= 39 / 100
        assert service.captures.total() == 40


@pytest.mark.asyncio
async def test_debits_claimed_too_long_ago_are_claimed_anew(path: str) -> None:
    """What could not be sent soon after its intent goes back; its intent would say too little of its request."""
    async with serving(timeout=0.5) as (service, client), client.durable_captures(path, concurrency=4) as captures:
        service.script["debit_0"] = [(429, {"detail": "slow down"})]
        service.script["debit_1"] = [WAIT]
        batch = await captures.submit(KEY, debits(12))
        await service.arrived.wait()
        service.go.set()

        assert (await batch.wait()).captured == 12
        assert service.captures == Counter(debits(12))


@pytest.mark.asyncio
async def test_in_a_restored_ledger_each_debit_is_resolved_first(path: str) -> None:
    """After a failover that may have lost commits, the status of a pending debit is read before it is sent."""
    async with serving(timeout=2.0) as (service, client):
        service.captures["debit_1"] = 1
        async with client.durable_captures(path, restored=True) as captures:
            outcomes = await outcomes_of(await captures.submit(KEY, debits(3)))

        assert {outcome.debit_id: outcome.confirmed_by_status for outcome in outcomes} == {
            "debit_0": False,
            "debit_1": True,
            "debit_2": False,
        }
        assert service.requests == Counter({"debit_0": 1, "debit_2": 1, "status": 3})


@pytest.mark.asyncio
async def test_captures_are_used_in_their_block(path: str) -> None:
    """Outside of their block they say so; and inside, they can't be opened a second time."""
    async with serving() as (_, client):
        captures = client.durable_captures(path)
        with pytest.raises(ConfigurationError, match=r"within `async with client\.durable_captures"):
            await captures.submit(KEY, debits(1))
        captures.stop()
        async with captures:
            with pytest.raises(ConfigurationError, match="open already"):
                await captures.__aenter__()
        with pytest.raises(ConfigurationError, match="within"):
            await captures.batch(KEY)
