"""Never more in flight than asked for, no faster than asked for, and little for a service that is dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import attrs
import pytest

from jetpay_async import (
    AuthenticationError,
    Captured,
    JetpayClient,
    NotSent,
    NotSentError,
    OutcomeUnknownError,
    Rejected,
    ServiceError,
)
from tests.batch.consumers import capture, take_all
from tests.loopback import FASTAPI, HTML, Loopback, replies, work_then
from tests.network import FAST, TOKEN
from tests.recording_server import RecordingServer, connect, debits, until


@pytest.mark.parametrize("concurrency", [1, 2, 7, 64])
@pytest.mark.asyncio
async def test_never_more_in_flight_than_asked_for(concurrency: int) -> None:
    """So many are in flight while there are enough, and never one more, by the server's own count."""
    server = RecordingServer()
    server.open.clear()
    async with server.listen(), connect(server) as client:
        capturing = asyncio.create_task(capture(client, debits(4 * concurrency), concurrency=concurrency))
        await until(lambda: server.in_flight == concurrency)
        server.open.set()
        await capturing

    assert server.most_in_flight == concurrency


@pytest.mark.asyncio
async def test_a_slow_item_holds_up_no_other() -> None:
    """All others are captured and reported while one is not answered."""
    release = asyncio.Event()
    async with RecordingServer(held={"debit_0": release}).listen() as server, connect(server, timeout=60.0) as client:
        reported: list[str] = []
        async for outcome in client.capture_many(debits(500), concurrency=4):
            reported.append(outcome.debit_id)
            if len(reported) == 499:
                release.set()

    assert reported[-1] == "debit_0"


@pytest.mark.asyncio
async def test_input_is_taken_as_it_is_needed() -> None:
    """Endless input is no trouble: an id is taken when its turn comes, and the loop may be left."""
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"debit_{taken}"

    async with RecordingServer().listen() as server, connect(server) as client:
        reported = 0
        async with aclosing(client.capture_many(endless(), concurrency=8)) as outcomes:
            async for _ in outcomes:
                reported += 1
                assert taken - reported <= 16
                if reported == 300:
                    break

    assert taken <= 316
    assert server.twice == []


@pytest.mark.asyncio
async def test_workers_that_wait_for_input_find_its_room_taken() -> None:
    """Twice the concurrency is begun before its outcomes are taken, and not one more, however slow the input."""
    taken: list[str] = []

    async def slowly() -> AsyncIterator[str]:
        while True:
            # Until all workers wait for the next id.
            await until(lambda: len(server.carried_out) == len(taken))
            taken.append(f"debit_{len(taken)}")
            yield taken[-1]

    async with RecordingServer().listen() as server, connect(server) as client:
        async with aclosing(client.capture_many(slowly(), concurrency=4)) as outcomes:
            for reported in range(1, 9):
                await anext(outcomes)
                await until(lambda begun=reported + 8: len(server.carried_out) >= begun)
                await asyncio.sleep(0.01)
                assert len(taken) == reported + 8


@pytest.mark.asyncio
async def test_a_slow_consumer_slows_the_captures() -> None:
    """While nobody takes outcomes, no more than twice the concurrency is begun."""
    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = client.capture_many(debits(100), concurrency=5)
        await anext(outcomes)
        await until(lambda: len(server.carried_out) == 11)
        await asyncio.sleep(0.05)
        assert len(server.carried_out) == 11
        await anext(outcomes)
        await until(lambda: len(server.carried_out) == 12)
        await outcomes.aclose()

    assert len(server.carried_out) == 12


@pytest.mark.asyncio
async def test_a_slow_consumer_gets_all() -> None:
    """A consumer that takes its time for each outcome misses none."""
    async with RecordingServer().listen() as server, connect(server) as client:
        reported = []
        async for outcome in client.capture_many(debits(60), concurrency=4):
            await asyncio.sleep(0.001)
            reported.append(outcome.debit_id)

    assert sorted(reported) == sorted(debits(60))
    assert server.twice == []


@pytest.mark.asyncio
async def test_no_task_for_an_item() -> None:
    """However many items, there are as many tasks as workers, the same from the first to the last."""
    async with RecordingServer().listen() as server, connect(server) as client:
        workers: set[asyncio.Task[object] | None] = set()
        outcomes = client.capture_many(
            debits(300), concurrency=6, on_outcome=lambda _: workers.add(asyncio.current_task())
        )
        assert len(await take_all(outcomes)) == 300

    assert len(workers) == 6
    assert server.twice == []


@pytest.mark.asyncio
async def test_a_dead_api_does_not_cost_each_item_its_deadline() -> None:
    """Of 5,000 items a few are tried; the rest is `NotSent`, safe to retry, and says why."""
    server = Loopback(refuse_to_read=10**9)
    # Each item that is tried reads its status to its end, so seldom that a fast machine makes few connections, too.
    seldom = attrs.evolve(FAST, base_delay=0.2, max_delay=0.2)
    async with server.listen():
        async with JetpayClient(TOKEN, base_url=server.url, timeout=2.0, retry=seldom) as client:
            outcomes = await capture(client, debits(5000), concurrency=64)

    assert len(outcomes) == 5000
    assert server.connections < len(outcomes)
    not_sent = [
        outcome for outcome in outcomes.values() if "circuit breaker is open" in str(getattr(outcome, "error", ""))
    ]
    assert len(not_sent) > 4800
    for outcome in not_sent:
        assert isinstance(outcome, NotSent)
        assert isinstance(outcome.error, NotSentError)
        assert outcome.error.debit_id == outcome.debit_id
        assert outcome.error.operation == "capture"
        assert isinstance(outcome.error.__cause__, NotSentError | OutcomeUnknownError | ServiceError)


@pytest.mark.asyncio
async def test_a_rejected_token_stops_the_batch_at_once() -> None:
    """One 401 says enough: nothing further is sent with that token."""
    server = RecordingServer(scripts={"capture": [replies(401, FASTAPI[401])] * 100})
    async with server.listen(), connect(server) as client:
        outcomes = await capture(client, debits(50), concurrency=1)

    first, *others = outcomes.values()
    assert server.count("capture") == 1
    assert isinstance(first, Rejected)
    assert isinstance(first.error, AuthenticationError)
    assert {type(other) for other in others} == {NotSent}
    assert all(isinstance(other, NotSent) and other.error.__cause__ is first.error for other in others)


@pytest.mark.asyncio
async def test_overload_slows_the_whole_pool() -> None:
    """When all in flight were answered by 503, only half as many are let in."""
    server = RecordingServer(responses={debit_id: [work_then(replies(503, HTML))] for debit_id in debits(8)})
    server.held = {debit_id: asyncio.Event() for debit_id in debits(40)[8:]}
    server.open.clear()
    async with server.listen(), connect(server) as client:
        taking = asyncio.create_task(capture(client, debits(40), concurrency=8))
        await until(lambda: server.in_flight == 8)
        server.open.set()
        await until(lambda: len(server.carried_out) == 8)
        await until(lambda: server.in_flight >= 4)
        await asyncio.sleep(0.05)
        # The eight were resolved by their status: answers, each of which raises the limit by a fraction.
        assert 4 <= server.in_flight < 7
        for held in server.held.values():
            held.set()
        outcomes = await taking

    assert len(outcomes) == 40
    assert server.twice == []


@pytest.mark.asyncio
async def test_the_rate_holds_by_the_server_s_count() -> None:
    """At 200 a second, 40 items take at least 39 slots."""
    loop = asyncio.get_running_loop()
    async with RecordingServer().listen() as server, connect(server) as client:
        began = loop.time()
        outcomes = [each async for each in client.capture_many(debits(40), rate=200)]
        took = loop.time() - began

    assert len(outcomes) == len(server.carried_out) == 40
    assert took > 0.19 - 0.02


@pytest.mark.asyncio
async def test_queueing_costs_an_item_none_of_its_time() -> None:
    """The client's timeout counts from an item's start, however long it waits for its turn."""
    async with RecordingServer().listen() as server, connect(server, timeout=2.0) as client:
        outcomes = [each async for each in client.capture_many(debits(6), rate=2, concurrency=6)]

    assert [type(outcome) for outcome in outcomes] == [Captured] * 6
    assert len(server.carried_out) == 6
