"""Capturing from a ledger, by one run: what it tells, what it sends, and how it stops."""

from __future__ import annotations

import asyncio
import pickle
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from jetpay_async import (
    AuthenticationError,
    Captured,
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    JetpayClient,
    NotSentError,
    OutcomeUnknownError,
    Rejected,
    RetryPolicy,
    ServiceError,
    TransactionFailedError,
    TransactionState,
    Unknown,
)
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import (
    BatchMismatchError,
    CapturesStoppedError,
    ChunkBusyError,
    Ledger,
    LedgerError,
    Progress,
    UnknownBatchError,
    run_chunk,
)
from tests.ledger.service import FAST, LOSE, LOSE_AFTERWARDS, WAIT, Service, debits, serving

KEY = "2026-11-22"


async def outcomes_of(batch: Any) -> list[Any]:
    return [outcome async for outcome in batch.outcomes()]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "captures.db")


@pytest.mark.asyncio
async def test_each_debit_is_captured_once_and_told_once(path: str) -> None:
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
    """Submitted again, a batch that is complete sends nothing, and tells every outcome again."""
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
async def test_other_debits_under_the_same_key_are_refused(path: str) -> None:
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
async def test_what_the_api_refuses_is_refused_and_disturbs_nobody(path: str) -> None:
    """A refusal is told with the API's words, in this run and from the ledger of a later one."""
    async with serving() as (service, client):
        service.script["debit_1"] = [(409, {"detail": "no"}), (409, {"detail": "no"})]
        service.states["debit_1"] = "preauthorized"
        service.script["debit_2"] = [LOSE]
        service.states["debit_2"] = "failed"
        for _ in range(2):
            async with client.durable_captures(path) as captures:
                batch = await captures.submit(KEY, debits(4))
                told = {outcome.debit_id: outcome for outcome in await outcomes_of(batch)}

                assert isinstance(told["debit_0"], Captured)
                assert isinstance(told["debit_3"], Captured)
                rejected, failed = told["debit_1"], told["debit_2"]
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
async def test_refused_debits_can_be_tried_again(path: str) -> None:
    """What was rejected is put back on request, and looked at before it is sent."""
    async with serving() as (service, client):
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
        looks = service.requests["status"]
        async with client.durable_captures(path) as captures:
            report = await (await captures.batch(KEY)).wait()

        assert (report.captured, report.rejected) == (3, 0)
        assert service.requests["status"] == looks + 1
        assert service.captures == Counter(debits(3))


@pytest.mark.asyncio
async def test_a_lost_reply_is_settled_by_the_status(path: str) -> None:
    """Whether the reply was lost after the capture or before it, the money is taken once."""
    async with serving() as (service, client), client.durable_captures(path) as captures:
        service.script["debit_1"] = [LOSE_AFTERWARDS]
        service.script["debit_2"] = [LOSE]

        told = {o.debit_id: o for o in await outcomes_of(await captures.submit(KEY, debits(4)))}

        assert [told[debit_id].confirmed_by_status for debit_id in debits(4)] == [False, True, False, False]
        assert [told[debit_id].attempts for debit_id in debits(4)] == [1, 1, 2, 1]
        assert service.captures == Counter(debits(4))


@pytest.mark.asyncio
async def test_an_outcome_that_the_status_cant_tell_is_unknown_until_the_next_run(path: str) -> None:
    """A state that says neither yes nor no is told as unknown; submitted again, it is looked at again."""
    async with serving(timeout=0.3) as (service, client):
        service.script["debit_1"] = [LOSE_AFTERWARDS]
        service.states["debit_1"] = "pondering"
        async with client.durable_captures(path) as captures:
            told = {o.debit_id: o for o in await outcomes_of(await captures.submit(KEY, debits(2)))}
            unknown = told["debit_1"]
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
            told = {o.debit_id: o for o in await outcomes_of(batch)}

        assert told["debit_1"].confirmed_by_status
        assert service.captures == Counter(debits(2))


@pytest.mark.asyncio
async def test_a_status_that_never_comes_leaves_the_outcome_unknown(path: str) -> None:
    """A status that can't be read is looked for several times before the outcome is told as unknown."""
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

        told = {o.debit_id: o for o in await outcomes_of(await captures.submit(KEY, debits(30)))}

        assert isinstance(told["debit_1"], Rejected)
        assert isinstance(told["debit_1"].error, ServiceError)
        assert service.requests["debit_1"] == 15
        assert service.captures["debit_1"] == 0
        assert sum(isinstance(outcome, Captured) for outcome in told.values()) == 29


@pytest.mark.asyncio
async def test_a_token_that_is_refused_stops_the_run_and_refuses_no_debit(path: str) -> None:
    """A 401 is no word on a debit: all stay pending, and with a good token the same lines capture them."""
    async with serving() as (service, client):
        service.always = (401, {"detail": "expired"})
        async with client.durable_captures(path, concurrency=4) as captures:
            batch = await captures.submit(KEY, debits(50))
            with pytest.raises(CapturesStoppedError, match=r"expired.*50 of 50 debits are left") as caught:
                await batch.wait()
            assert isinstance(caught.value.__cause__, AuthenticationError)
            assert caught.value.progress == Progress(total=50, pending=50, sending=0, captured=0, rejected=0, unknown=0)
            assert service.requests.total() <= 8
            with pytest.raises(CapturesStoppedError):
                await outcomes_of(batch)
        service.always = None
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(50))).wait()).captured == 50


@pytest.mark.asyncio
async def test_a_token_that_is_refused_while_a_status_is_read_stops_the_run(path: str) -> None:
    """A 401 to a question about a debit is no word on it either: it is looked at first by the next run, too."""
    async with serving() as (service, client):
        service.captures["debit_0"] = 1
        service.states["debit_0"] = (401, {"detail": "expired"})
        async with client.durable_captures(path, restored=True, concurrency=1) as captures:
            batch = await captures.submit(KEY, debits(1))
            with pytest.raises(CapturesStoppedError, match="expired") as caught:
                await batch.wait()
            assert isinstance(caught.value.__cause__, AuthenticationError)
            assert caught.value.progress is not None
            assert caught.value.progress.pending == 1
        del service.states["debit_0"]
        async with client.durable_captures(path) as captures:
            told = await outcomes_of(await captures.submit(KEY, debits(1)))

        assert [outcome.confirmed_by_status for outcome in told] == [True]
        assert service.requests["debit_0"] == 0


@pytest.mark.asyncio
async def test_a_token_that_is_refused_while_doubts_are_settled_stops_the_run(path: str) -> None:
    """A debit in doubt stays in doubt until its status can be read."""
    async with serving(timeout=0.3) as (service, client):
        service.script["debit_0"] = [LOSE_AFTERWARDS]
        service.states["debit_0"] = (503, {})
        async with client.durable_captures(path, concurrency=1) as captures:
            batch = await captures.submit(KEY, debits(1))
            while service.requests["status"] < 2:
                await asyncio.sleep(0.01)
            service.states["debit_0"] = (401, {"detail": "expired"})
            with pytest.raises(CapturesStoppedError, match="expired") as caught:
                await batch.wait()
            assert caught.value.progress is not None
            assert caught.value.progress.sending == 1
        del service.states["debit_0"]
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(1))).wait()).captured == 1

        assert service.captures == Counter(debits(1))


async def leave_in_doubt(service: Service, client: JetpayClient, path: str) -> None:
    """Capture one debit, and be cut off before the answer comes."""
    service.always = WAIT

    async def run() -> None:
        async with client.durable_captures(path, concurrency=1) as captures:
            await captures.submit(KEY, debits(1))
            await service.arrived.wait()

    task = asyncio.create_task(run())
    await service.arrived.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.wait([task])
    service.always = None


@pytest.mark.asyncio
async def test_a_refused_token_leaves_in_doubt_what_was(path: str) -> None:
    """What an earlier run left in doubt is not decided by a 401 to the question about it."""
    async with serving(timeout=0.4) as (service, client):
        await leave_in_doubt(service, client, path)
        service.states["debit_0"] = (401, {"detail": "expired"})

        async with client.durable_captures(path) as captures:
            batch = await captures.submit(KEY, debits(1))
            with pytest.raises(CapturesStoppedError, match="expired") as caught:
                await batch.wait()

        assert caught.value.progress is not None
        assert caught.value.progress.sending == 1


@pytest.mark.asyncio
async def test_a_doubt_whose_debit_is_over_is_refused(path: str) -> None:
    """What an earlier run left in doubt, and has failed since, is told as rejected."""
    async with serving(timeout=0.4) as (service, client):
        await leave_in_doubt(service, client, path)
        service.states["debit_0"] = "failed"

        async with client.durable_captures(path) as captures:
            (outcome,) = await outcomes_of(await captures.submit(KEY, debits(1)))

        assert isinstance(outcome, Rejected)
        assert isinstance(outcome.error, TransactionFailedError)


@pytest.mark.asyncio
async def test_a_fault_of_our_own_stops_the_run(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in one part of a run ends all of them in order, and whoever waits hears of it."""

    def write(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with serving(timeout=0.4) as (service, client):
        async with client.durable_captures(path, concurrency=1) as captures:
            with monkeypatch.context() as broken:
                broken.setattr("jetpay_async.ledger._rows.write", write)
                with pytest.raises(CapturesStoppedError) as caught:
                    await (await captures.submit(KEY, debits(3))).wait()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(3))).wait()).captured == 3

        assert service.captures == Counter(debits(3))


@pytest.mark.asyncio
async def test_a_429_that_may_have_been_processed_is_settled(path: str) -> None:
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

        told = {o.debit_id: o for o in await outcomes_of(await captures.submit(KEY, debits(3)))}

        assert told["debit_1"].confirmed_by_status
        assert service.requests["debit_1"] == 1


@pytest.mark.asyncio
async def test_a_dead_api_stops_the_run(path: str, unused_tcp_port: int) -> None:
    """Nothing is asked of an API that does not answer again and again; every debit stays pending."""
    async with (
        JetpayClient("sandbox_t", base_url=f"http://127.0.0.1:{unused_tcp_port}", timeout=1.0, retry=FAST) as client,
        client.durable_captures(path, concurrency=4) as captures,
    ):
        batch = await captures.submit(KEY, debits(100))

        with pytest.raises(CapturesStoppedError, match="100 of 100 debits are left") as caught:
            await batch.wait()

        assert isinstance(caught.value.__cause__, NotSentError)
        assert pickle.loads(pickle.dumps(caught.value)).progress == caught.value.progress
        assert caught.value.retryable


@pytest.mark.parametrize("ask", [lambda batch: batch.wait(), outcomes_of], ids=["wait", "outcomes"])
@pytest.mark.asyncio
async def test_a_ledger_that_breaks_stops_the_run(path: str, ask: Any) -> None:
    """Whoever waits for a batch gets one kind of error, whichever part of the run met the broken ledger first."""
    async with serving() as (service, client), client.durable_captures(path, concurrency=4) as captures:
        service.always = WAIT
        batch = await captures.submit(KEY, debits(20))
        await service.arrived.wait()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE jetpay_batch")

        with pytest.raises(CapturesStoppedError, match="no such table") as caught:
            await ask(batch)

        assert isinstance(caught.value.__cause__, LedgerError)
        assert caught.value.progress is None
        service.go.set()


@pytest.mark.asyncio
async def test_a_closed_client_stops_the_run(path: str) -> None:
    """A client that is closed under the run leaves its debits pending."""
    async with serving() as (service, client), client.durable_captures(path) as captures:
        await client.aclose()

        with pytest.raises(CapturesStoppedError) as caught:
            await (await captures.submit(KEY, debits(3))).wait()

        assert isinstance(caught.value.__cause__, ConfigurationError)
        assert caught.value.progress is not None
        assert caught.value.progress.pending == 3
        assert not service.requests


@pytest.mark.asyncio
async def test_stopping_leaves_nothing_in_doubt(path: str) -> None:
    """Those in shared finish, nothing more is sent, and what was claimed goes back."""
    async with serving() as (service, client), client.durable_captures(path, concurrency=4) as captures:
        service.always = WAIT
        batch = await captures.submit(KEY, debits(100))
        while service.in_flight < 4:
            await asyncio.sleep(0.001)
        waiter = asyncio.create_task(batch.wait())

        captures.stop()
        captures.stop()
        service.go.set()
        with pytest.raises(CapturesStoppedError, match=r"stopped on request, 96 of 100 debits are left"):
            await waiter

        assert service.requests.total() == 4
        assert await batch.progress() == Progress(total=100, pending=96, sending=0, captured=4, rejected=0, unknown=0)
        assert len(await told_before_the_stop(batch)) == 4


async def told_before_the_stop(batch: Any) -> list[Any]:
    told = []
    with pytest.raises(CapturesStoppedError):
        async for outcome in batch.outcomes():
            told.append(outcome)  # noqa: PERF401 - the end is an error
    return told


@pytest.mark.asyncio
async def test_leaving_the_block_leaves_nothing_in_doubt(path: str) -> None:
    """An exception inside the block lets those in shared finish; the rest is captured by the next run."""
    async with serving() as (service, client):
        with pytest.raises(ZeroDivisionError):
            async with client.durable_captures(path, concurrency=4) as captures:
                await captures.submit(KEY, debits(100))
                await service.arrived.wait()
                raise ZeroDivisionError
        async with Ledger(path, create=False) as ledger:
            progress = await ledger.progress(KEY)
        assert progress.sending == 0
        assert progress.captured == service.captures.total() < 100
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(100))).wait()).captured == 100

        assert service.captures == Counter(debits(100))


@pytest.mark.asyncio
async def test_a_cancelled_stop_leaves_what_was_in_flight_to_the_next_run(path: str) -> None:
    """Cancelled while those in shared finish, the run cuts them off; the next one settles them, none twice."""
    async with serving(timeout=0.4) as (service, client):
        service.always = WAIT

        async def run() -> None:
            async with client.durable_captures(path, concurrency=4) as captures:
                await captures.submit(KEY, debits(20))
                while service.in_flight < 4:
                    await asyncio.sleep(0.001)

        task = asyncio.create_task(run())
        while service.in_flight < 4:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with Ledger(path, create=False) as ledger:
            assert (await ledger.progress(KEY)).sending == 4
        service.go.set()
        service.always = None
        async with client.durable_captures(path) as captures:
            batch = await captures.submit(KEY, debits(20))
            told = await outcomes_of(batch)

        assert Counter(outcome.debit_id for outcome in told) == Counter(debits(20))
        assert sum(outcome.confirmed_by_status for outcome in told) == 4
        assert service.captures == Counter(debits(20))


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
    """What could not be sent soon after its intent goes back; its intent would tell too little of its request."""
    async with serving(timeout=0.5) as (service, client), client.durable_captures(path, concurrency=4) as captures:
        service.script["debit_0"] = [(429, {"detail": "slow down"})]
        service.script["debit_1"] = [WAIT]
        batch = await captures.submit(KEY, debits(12))
        await service.arrived.wait()
        service.go.set()

        assert (await batch.wait()).captured == 12
        assert service.captures == Counter(debits(12))


@pytest.mark.asyncio
async def test_without_trust_each_debit_is_looked_at_first(path: str) -> None:
    """After a failover that may have lost commits, a debit that says pending is looked at before it is sent."""
    async with serving() as (service, client):
        service.captures["debit_1"] = 1
        async with client.durable_captures(path, restored=True) as captures:
            told = await outcomes_of(await captures.submit(KEY, debits(3)))

        assert {outcome.debit_id: outcome.confirmed_by_status for outcome in told} == {
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


# --- chunks -----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_chunk_is_captured_alone_and_again_for_nothing(path: str) -> None:
    """A chunk is a unit of work: run again it sends nothing, and the others are untouched."""
    async with serving() as (service, client):
        async with Ledger(path) as ledger:
            submitted = await ledger.submit(KEY, debits(600))
        assert (submitted.created, submitted.total, submitted.chunks) == (True, 600, 3)

        for _ in range(2):
            report = await run_chunk(path, KEY, 2, client=client)
            assert (report.key, report.chunk, report.total, report.captured) == (KEY, 2, 100, 100)
        assert service.requests == Counter(debits(600)[500:])

        async with client.durable_captures(path) as captures:
            await asyncio.gather(*(run_chunk(captures, KEY, chunk, client=client) for chunk in (0, 1)))
        assert service.captures == Counter(debits(600))


@pytest.mark.asyncio
async def test_a_chunk_run_twice_at_once_is_captured_once(path: str) -> None:
    """Two workers on one chunk share its debits, and both say when it is done."""
    async with serving() as (service, client):
        async with Ledger(path) as ledger:
            await ledger.submit(KEY, debits(250))

        reports = await asyncio.gather(*(run_chunk(path, KEY, 0, client=client, concurrency=8) for _ in range(2)))

        assert [report.captured for report in reports] == [250, 250]
        assert service.captures == Counter(debits(250))


@pytest.mark.asyncio
async def test_a_chunk_that_another_run_holds_is_busy(path: str) -> None:
    """While another run that is alive holds what is left, the chunk is reported as busy, and nothing is sent."""
    async with serving(timeout=5) as (service, client):
        service.always = WAIT
        async with client.durable_captures(path) as captures:
            await captures.submit(KEY, debits(2))
            await service.arrived.wait()

            with pytest.raises(ChunkBusyError, match="another run, which is alive") as caught:
                await run_chunk(path, KEY, 0, client=client, lease_seconds=0.2)

            assert caught.value.retryable
            service.go.set()
        assert service.requests == Counter(debits(2))


@pytest.mark.parametrize("chunk", [-1, True, "0"])
@pytest.mark.asyncio
async def test_a_bad_chunk_is_refused(path: str, chunk: Any) -> None:
    """A chunk is a number from 0."""
    async with serving() as (_, client):
        async with Ledger(path) as ledger:
            await ledger.submit(KEY, debits(2))
        with pytest.raises(InvalidArgumentError, match="chunk="):
            await run_chunk(path, KEY, chunk, client=client)
        with pytest.raises(UnknownBatchError, match="no batch 'other'"):
            await run_chunk(path, "other", 0, client=client)


@pytest.mark.asyncio
async def test_a_chunk_that_is_stopped_says_so(path: str) -> None:
    """A chunk that did not come to its end is never reported as done."""
    async with serving() as (service, client):
        service.always = (401, {"detail": "expired"})
        async with Ledger(path) as ledger:
            await ledger.submit(KEY, debits(5))

        with pytest.raises(CapturesStoppedError, match="expired"):
            await run_chunk(path, KEY, 0, client=client)


@pytest.mark.asyncio
async def test_a_pause_just_before_a_request_begins_counts_from_its_intent(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused between its last check and its request, a process sends nothing late: the debit is claimed anew."""
    paused_for = [0.0]
    clock = attrs.evolve(SYSTEM_CLOCK, monotonic=lambda: SYSTEM_CLOCK.monotonic() + paused_for[0])
    async with (
        Service().listen() as service,
        JetpayClient("sandbox_t", base_url=service.url, timeout=2.0, retry=FAST, clock=clock) as client,
    ):
        begin = client._executor.begin
        begun: list[int] = []

        def pause_and_pursue(*arguments: Any, **options: Any) -> Any:
            if not begun:
                paused_for[0] = 100.0
            begun.append(service.requests["debit_0"])
            return begin(*arguments, **options)

        monkeypatch.setattr(client._executor, "begin", pause_and_pursue)
        async with client.durable_captures(path) as captures:
            assert (await (await captures.submit(KEY, debits(1))).wait()).captured == 1

    assert begun == [0, 0], "the first one sent nothing"
    assert service.captures == Counter(debits(1))
