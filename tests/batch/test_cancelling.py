"""Cancelling a batch: once, it carries through what is in flight; twice, it breaks that off, and reports it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from jetpay_async import (
    Captured,
    CaptureOutcome,
    JetpayClient,
    NotSent,
    OutcomeUnknownError,
    Unknown,
)
from tests.batch.consumers import Ids, consume, ended, not_consumed
from tests.network import FAST, TOKEN
from tests.recording_server import RecordingServer, connect, debits, until


@pytest.mark.parametrize("where", ["waiting for an outcome", "in the loop's body"])
@pytest.mark.asyncio
async def test_cancelled_it_carries_through_what_is_in_flight(where: str, caplog: pytest.LogCaptureFixture) -> None:
    """The cancellation comes out of the loop, nothing more is begun, and each debit in flight is captured."""
    ids = Ids()
    reported: list[CaptureOutcome] = []
    server = RecordingServer()

    async def consume(client: JetpayClient) -> None:
        async for _ in client.capture_many(ids, concurrency=4, on_outcome=reported.append):
            if where == "in the loop's body":
                await asyncio.Event().wait()
            elif len(reported) >= 8:
                server.open.clear()

    async with server.listen(), connect(server) as client:
        task = asyncio.create_task(consume(client))
        await until(lambda: reported if where == "in the loop's body" else server.in_flight == 4)
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        taken = ids.taken
        server.open.set()
        assert isinstance(await ended(task), asyncio.CancelledError)

    assert ids.taken == taken == len(reported) == len(server.carried_out)
    assert all(isinstance(outcome, Captured) for outcome in reported)
    assert set(not_consumed(caplog)) <= set(server.carried_out)


@pytest.mark.asyncio
async def test_cancelled_it_waits(caplog: pytest.LogCaptureFixture) -> None:
    """A cancelled loop ends when the last in flight has its answer, not before; the log tells each."""
    server = RecordingServer()
    server.open.clear()
    async with server.listen(), connect(server) as client:
        task = asyncio.create_task(consume(client, debits(9), concurrency=3))
        await until(lambda: server.in_flight == 3)
        task.cancel()
        await asyncio.sleep(0.02)
        assert not task.done()
        server.open.set()
        assert isinstance(await ended(task), asyncio.CancelledError)
        assert len(server.carried_out) == 3

    assert sorted(not_consumed(caplog)) == sorted(server.carried_out)


@pytest.mark.asyncio
async def test_cancelled_twice_it_breaks_them_off() -> None:
    """A second cancellation does not wait: what was on its way is unknown, and each hook is called with it."""
    unknown: list[OutcomeUnknownError] = []
    reported: list[CaptureOutcome] = []
    server = RecordingServer()
    server.open.clear()
    async with server.listen():
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST, on_unknown=unknown.append) as client:
            task = asyncio.create_task(consume(client, debits(9), concurrency=3, reported=reported))
            await until(lambda: server.in_flight == 3)
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
            task.cancel()
            assert isinstance(await ended(task), asyncio.CancelledError)

    assert sorted(error.debit_id or "" for error in unknown) == debits(3)
    assert sorted(outcome.debit_id for outcome in reported) == debits(3)
    assert {type(outcome) for outcome in reported} == {Unknown}
    assert all(isinstance(outcome.error, OutcomeUnknownError) for outcome in reported if isinstance(outcome, Unknown))
    assert all(outcome.attempts == 1 for outcome in reported)


@pytest.mark.asyncio
async def test_broken_off_before_anything_left_it_is_not_sent() -> None:
    """What was still in the queue for a connection has sent nothing, and is reported as such."""
    reported: list[CaptureOutcome] = []
    server = RecordingServer()
    server.open.clear()
    async with server.listen():
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST, max_connections=1) as client:
            task = asyncio.create_task(consume(client, debits(3), concurrency=3, reported=reported))
            await until(lambda: server.in_flight == 1)
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()
            await ended(task)

    kinds = {outcome.debit_id: type(outcome) for outcome in reported}
    assert sorted(kinds.values(), key=str) == sorted([Unknown, NotSent, NotSent], key=str)
    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_broken_off_with_its_duplicate_it_is_unknown() -> None:
    """An item that shared the request of another is as unknown as that one."""
    reported: list[CaptureOutcome] = []
    server = RecordingServer()
    server.open.clear()
    async with server.listen(), connect(server) as client:
        single = asyncio.create_task(client.capture("debit_0"))
        await until(lambda: server.in_flight == 1)
        task = asyncio.create_task(consume(client, debits(1), concurrency=1, reported=reported))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        await ended(task)
        server.open.set()
        await single

    assert [type(outcome) for outcome in reported] == [Unknown]
    assert server.carried_out == {"debit_0": 1}


@pytest.mark.asyncio
async def test_broken_off_with_a_duplicate_that_goes_on_it_is_unknown() -> None:
    """The shared request waits for a connection, and is sent for another caller: to retry is not known to be safe."""
    reported: list[CaptureOutcome] = []
    server = RecordingServer()
    server.open.clear()
    async with server.listen():
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST, max_connections=1) as client:
            hog = asyncio.create_task(client.capture("debit_5"))
            await until(lambda: server.in_flight == 1)
            single = asyncio.create_task(client.capture("debit_0"))
            await asyncio.sleep(0)
            task = asyncio.create_task(consume(client, debits(1), concurrency=1, reported=reported))
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0.01)
            task.cancel()
            await ended(task)
            server.open.set()
            await asyncio.gather(hog, single)

    (outcome,) = reported
    assert isinstance(outcome, Unknown)
    assert "may have been processed" in str(outcome.error)
    assert server.carried_out["debit_0"] == 1


@pytest.mark.asyncio
async def test_a_broken_off_capture_is_resolved_when_asked_for_again() -> None:
    """What was broken off is remembered by the client: asked for again, the status is read first."""
    server = RecordingServer()
    server.open.clear()
    async with server.listen(), connect(server) as client:
        task = asyncio.create_task(consume(client, debits(1), concurrency=1))
        await until(lambda: server.in_flight == 1)
        task.cancel()
        await asyncio.sleep(0.01)
        task.cancel()
        await ended(task)
        server.open.set()
        await until(lambda: server.carried_out)
        capture = await client.capture("debit_0")

    assert capture.confirmed_by_status
    assert server.carried_out == {"debit_0": 1}


@pytest.mark.asyncio
async def test_closing_may_be_cancelled() -> None:
    """A cancelled `aclose` breaks off what it waited for, and closes all the same."""
    reported: list[CaptureOutcome] = []
    server = RecordingServer(held={"debit_1": asyncio.Event()})
    async with server.listen():
        client = connect(server, timeout=60.0)
        async for _ in client.capture_many(debits(2), concurrency=2, on_outcome=reported.append):
            break
        closing = asyncio.create_task(client.aclose())
        await until(lambda: server.in_flight == 1)
        await asyncio.sleep(0)
        closing.cancel()
        assert isinstance(await ended(closing), asyncio.CancelledError)

        assert client.closed
        assert [type(outcome) for outcome in reported] == [Captured, Unknown]


@pytest.mark.asyncio
async def test_the_caller_s_timeout_works() -> None:
    """`asyncio.timeout` around a loop ends it with TimeoutError, and what was in flight is carried through."""
    reported: list[CaptureOutcome] = []
    async with RecordingServer().listen() as server, connect(server) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async for _ in client.capture_many(Ids(), concurrency=4, on_outcome=reported.append):
                    await asyncio.sleep(0.001)

    assert sorted(outcome.debit_id for outcome in reported) == sorted(server.carried_out)
    assert server.twice == []


@pytest.mark.asyncio
async def test_a_task_group_works() -> None:
    """A sibling that fails ends the batch like any cancellation."""
    reported: list[CaptureOutcome] = []
    async with RecordingServer().listen() as server, connect(server) as client:

        async def fail() -> None:
            await until(lambda: len(reported) > 5)
            raise LookupError

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(consume(client, Ids(), concurrency=4, reported=reported))
                group.create_task(fail())

    assert caught.group_contains(LookupError)
    assert sorted(outcome.debit_id for outcome in reported) == sorted(server.carried_out)


@pytest.mark.asyncio
async def test_a_cancelled_worker_ends_the_batch() -> None:
    """Cancelled from outside, by one who cancels every task, a batch does not look complete; nothing is lost."""
    server = RecordingServer()
    server.open.clear()
    reported: list[CaptureOutcome] = []

    async def consume(client: JetpayClient) -> None:
        async for outcome in client.capture_many(debits(20), concurrency=4):
            reported.append(outcome)  # noqa: PERF401 - kept when it ends

    async with server.listen(), connect(server) as client:
        task = asyncio.create_task(consume(client))
        await until(lambda: server.in_flight == 4)
        (pool,) = client._pools
        worker = next(iter(pool._workers))
        worker.cancel()
        await asyncio.sleep(0.01)
        server.open.set()
        assert isinstance(await ended(task), asyncio.CancelledError)

    assert sorted(type(outcome).__name__ for outcome in reported) == ["Captured"] * 3 + ["Unknown"]


@pytest.mark.asyncio
async def test_an_input_that_is_cancelled_by_itself_says_so() -> None:
    """If the input ends in a CancelledError of its own, so does the loop."""

    async def cancelled() -> AsyncIterator[str]:
        yield "debit_1"
        raise asyncio.CancelledError("the queue was shut down")

    reported: list[CaptureOutcome] = []
    async with RecordingServer().listen() as server, connect(server) as client:

        async def consume() -> None:
            async for outcome in client.capture_many(cancelled()):
                reported.append(outcome)  # noqa: PERF401 - kept when it ends

        with pytest.raises(asyncio.CancelledError, match="the queue was shut down"):
            await consume()

    assert [outcome.debit_id for outcome in reported] == list(server.carried_out) == ["debit_1"]
