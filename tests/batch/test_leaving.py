"""Leaving a batch early: nothing more is begun, what is in flight is finished, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import pytest

from jetpay_async import (
    Captured,
    CaptureOutcome,
    ConfigurationError,
    JetpayClient,
    NotSent,
)
from tests import loopback
from tests.batch.consumers import Ids, ended, not_consumed
from tests.recording_server import RecordingServer, connect, debits, until


class EnoughError(Exception):
    """Raised by a consumer."""


@pytest.mark.parametrize("way", ["break", "return", "an exception"])
@pytest.mark.asyncio
async def test_leaving_the_loop(way: str, caplog: pytest.LogCaptureFixture) -> None:
    """No further item is taken from the moment the loop is left, and each that was has its outcome reported."""
    ids = Ids()
    reported: list[CaptureOutcome] = []
    taken_when_left = 0

    async def consume(client: JetpayClient) -> None:
        nonlocal taken_when_left
        async for outcome in client.capture_many(ids, concurrency=8, on_outcome=reported.append):
            assert isinstance(outcome, Captured)
            if len(reported) > 30:
                taken_when_left = ids.taken
                if way == "return":
                    return
                if way == "an exception":
                    raise EnoughError
                break

    with caplog.at_level(logging.WARNING, "jetpay_async"):
        async with RecordingServer().listen() as server, connect(server) as client:
            with suppress(EnoughError):
                await consume(client)

    assert ids.taken == taken_when_left
    assert sorted(outcome.debit_id for outcome in reported) == sorted(server.carried_out)
    assert len(reported) == ids.taken
    assert server.twice == []
    assert set(not_consumed(caplog)) <= {outcome.debit_id for outcome in reported}


@pytest.mark.asyncio
async def test_it_ends_with_the_very_step_in_which_it_is_left() -> None:
    """Nothing begins between leaving the loop and the end of its iterator, which the event loop sees to later."""
    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = client.capture_many(Ids(), concurrency=2)
        await anext(outcomes)
        (pool,) = client._pools
        assert not pool._ended

        del outcomes

        assert pool._ended
        assert pool._halted
    assert server.twice == []


@pytest.mark.asyncio
async def test_closing_the_client_waits_for_what_is_in_flight(caplog: pytest.LogCaptureFixture) -> None:
    """After a break the connections stay open until every capture under way has its answer; the log tells each."""
    server = RecordingServer(held={debit_id: asyncio.Event() for debit_id in debits(5)[1:]})
    with caplog.at_level(logging.WARNING, "jetpay_async"):
        async with server.listen():
            client = connect(server)
            async for _ in client.capture_many(debits(5), concurrency=5):
                break
            await until(lambda: server.in_flight == 4)
            closing = asyncio.create_task(client.aclose())
            await asyncio.sleep(0.02)
            assert not client.closed
            for held in server.held.values():
                held.set()
            await closing

    assert client.closed
    assert list(server.carried_out.values()) == [1] * 5
    assert sorted(not_consumed(caplog)) == debits(5)[1:]
    assert all("Captured" in record.message for record in caplog.records)


@pytest.mark.asyncio
async def test_a_copy_of_the_client_is_waited_for_too() -> None:
    """What `with_options` made shares the connections, and so the wait."""
    release = asyncio.Event()
    server = RecordingServer(held={"debit_1": release})
    async with server.listen():
        client = connect(server)
        other = client.with_options(timeout=1.5)
        async for _ in other.capture_many(debits(2), concurrency=2):
            break
        await other.aclose()
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0.01)
        release.set()
        await closing

    assert list(server.carried_out.values()) == [1] * 2


@pytest.mark.asyncio
async def test_closing_waits_no_longer_than_the_timeout(caplog: pytest.LogCaptureFixture) -> None:
    """A service that never answers does not keep the client open: each capture has its deadline."""
    server = RecordingServer(held={"debit_1": asyncio.Event()}, scripts={"status": loopback_silence()})
    async with server.listen():
        async with asyncio.timeout(5), connect(server, timeout=0.2) as client:
            async for _ in client.capture_many(debits(2), concurrency=2):
                break

    assert not_consumed(caplog) == ["debit_1"]
    assert "Unknown" in caplog.text


def loopback_silence() -> list[loopback.Act]:
    return [loopback.silence] * 100


@pytest.mark.asyncio
async def test_aclosing_ends_it_on_the_spot() -> None:
    """With `contextlib.aclosing` everything is over when its block is."""
    ids = Ids()
    async with RecordingServer().listen() as server, connect(server) as client:
        before = asyncio.all_tasks() - server._tasks
        async with aclosing(client.capture_many(ids, concurrency=8)) as outcomes:
            async for _ in outcomes:
                break
        assert len(server.carried_out) == ids.taken
        assert server.in_flight == 0
        assert asyncio.all_tasks() - server._tasks == before
        await asyncio.sleep(0.01)

    assert len(server.carried_out) == ids.taken


@pytest.mark.asyncio
async def test_a_loop_may_be_taken_up_again() -> None:
    """As long as somebody holds the iterator the batch is not over."""
    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = client.capture_many(debits(20), concurrency=2)
        reported = [(await anext(outcomes)).debit_id]
        await asyncio.sleep(0.01)
        reported += [outcome.debit_id async for outcome in outcomes]

    assert sorted(reported) == sorted(debits(20))
    assert server.twice == []


@pytest.mark.asyncio
async def test_the_client_is_closed_under_a_loop() -> None:
    """What was in flight is still reported, then an error says that there was more; nothing more was begun."""
    ids = Ids()
    reported = []
    async with RecordingServer().listen() as server:
        client = connect(server)
        with pytest.raises(ConfigurationError, match="closed before all items"):
            async for outcome in client.capture_many(ids, concurrency=4):
                reported.append(outcome)
                if len(reported) == 10:
                    await client.aclose()
                    taken = ids.taken

    assert ids.taken == taken == len(reported) == len(server.carried_out)
    assert all(isinstance(outcome, Captured) for outcome in reported)


@pytest.mark.parametrize("waiting", [True, False], ids=["it waits for an outcome", "it is busy with one"])
@pytest.mark.asyncio
async def test_the_client_is_closed_while_another_task_consumes(waiting: bool) -> None:
    """The other task gets what was in flight, then an error that says that there was more; nobody waits for ever."""
    reported: list[CaptureOutcome] = []
    busy, go_on = asyncio.Event(), asyncio.Event()
    server = RecordingServer()
    async with server.listen():
        client = connect(server)

        async def consume_all() -> None:
            async for outcome in client.capture_many(Ids(), concurrency=4):
                reported.append(outcome)
                if len(reported) == 8:
                    server.open.clear()
                    busy.set()
                    if not waiting:
                        await go_on.wait()

        consumer = asyncio.create_task(consume_all())
        await busy.wait()
        closing = asyncio.create_task(client.aclose())
        server.open.set()
        await closing
        go_on.set()
        async with asyncio.timeout(5):
            error = await ended(consumer)

    assert isinstance(error, ConfigurationError)
    assert sorted(outcome.debit_id for outcome in reported) == sorted(server.carried_out)


@pytest.mark.asyncio
async def test_each_outcome_may_be_taken_by_another_task() -> None:
    """The workers belong to the batch, and not to the task that takes its first outcome."""
    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = client.capture_many(debits(20), concurrency=4)
        reported = [(await asyncio.create_task(take_one(outcomes))).debit_id for _ in range(20)]
        with pytest.raises(StopAsyncIteration):
            await anext(outcomes)

    assert sorted(reported) == sorted(debits(20))
    assert server.twice == []


async def take_one(outcomes: AsyncIterator[CaptureOutcome]) -> CaptureOutcome:
    return await anext(outcomes)


@pytest.mark.asyncio
async def test_the_client_is_closed_when_all_is_taken() -> None:
    """If there was nothing more to take, there is nothing to complain of."""
    async with RecordingServer().listen() as server:
        client = connect(server)
        outcomes = client.capture_many(debits(5), concurrency=8)
        reported = [await anext(outcomes)]
        await client.aclose()
        reported += [outcome async for outcome in outcomes]

    assert sorted(outcome.debit_id for outcome in reported) == debits(5)
    assert server.twice == []


@pytest.mark.asyncio
async def test_one_that_waits_for_its_turn_is_given_back(caplog: pytest.LogCaptureFixture) -> None:
    """An item that was taken and not begun is reported as `NotSent`, and nothing is sent for it."""
    reported: list[CaptureOutcome] = []
    async with RecordingServer().listen() as server, connect(server) as client:
        async for _ in client.capture_many(debits(10), rate=0.01, concurrency=4, on_outcome=reported.append):
            await asyncio.sleep(0.01)
            break

    assert len(server.carried_out) == 1
    assert [type(outcome) for outcome in reported] == [Captured, NotSent, NotSent, NotSent, NotSent]
    assert all("not sent" in str(outcome.error) for outcome in reported if isinstance(outcome, NotSent))
    assert sorted(not_consumed(caplog)) == sorted(outcome.debit_id for outcome in reported[1:])


@pytest.mark.timeout(10)
@pytest.mark.asyncio
async def test_a_turn_that_comes_when_the_loop_was_left_is_not_used() -> None:
    """Between leaving the loop and the end of its iterator nothing is begun either."""
    reported: list[CaptureOutcome] = []
    release = asyncio.Event()
    async with RecordingServer(held={"debit_1": release}).listen() as server, connect(server) as client:
        outcomes = client.capture_many(debits(6), concurrency=2, on_outcome=reported.append)
        await anext(outcomes)
        (pool,) = client._pools
        pool._admission.limiter.limit = pool._admission.limiter.maximum = 1
        await until(lambda: server.in_flight == 1 and len(pool._admission.waiting) == 1)
        began = server.count("capture")
        pool.halt()
        release.set()
        await until(lambda: any(isinstance(outcome, NotSent) for outcome in reported))
        await outcomes.aclose()

    assert server.count("capture") == began
    assert server.twice == []


@pytest.mark.parametrize("held", [True, False], ids=["while the input is waited for", "right away"])
@pytest.mark.asyncio
async def test_an_input_that_keeps_one_waiting_keeps_nobody_from_leaving(held: bool) -> None:
    """An async input that has nothing for hours is not waited for."""
    cleaned_up = asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        try:
            yield "debit_1"
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    async with RecordingServer().listen() as server, connect(server) as client:
        async with asyncio.timeout(5):
            async for _ in client.capture_many(slow(), concurrency=4):
                if held:
                    await asyncio.sleep(0.01)
                break
            await cleaned_up.wait()

    assert list(server.carried_out) == ["debit_1"]


@pytest.mark.asyncio
async def test_those_that_waited_for_an_earlier_one_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """In order, an outcome may wait for another's: left then, the log has all of them."""
    reported: list[CaptureOutcome] = []
    release = asyncio.Event()
    async with RecordingServer(held={"debit_1": release}).listen() as server, connect(server) as client:
        async for _ in client.capture_many(debits(5), concurrency=5, ordered=True, on_outcome=reported.append):
            await until(lambda: len(reported) == 4)
            break
        release.set()

    assert sorted(not_consumed(caplog)) == debits(5)[1:]
    assert server.twice == []


@pytest.mark.asyncio
async def test_never_begun_it_takes_nothing() -> None:
    """A batch that nobody iterates has no workers and takes no item."""
    ids = Ids()
    async with RecordingServer().listen() as server, connect(server) as client:
        client.capture_many(ids)
        await client.capture_many(ids).aclose()
        await asyncio.sleep(0)

    assert ids.taken == 0
    assert server.requests == []


@pytest.mark.asyncio
async def test_nothing_of_it_stays_in_memory() -> None:
    """A batch that was left is let go of."""
    async with RecordingServer().listen() as server, connect(server) as client:
        async for _ in client.capture_many(debits(50), concurrency=4):
            (pool,) = client._pools
            gone = weakref.ref(pool)
            del pool
            break
        await until(lambda: not client._pools)
        gc.collect()

        assert gone() is None
    assert server.twice == []
