"""Outcomes on their way to the consumer: their order, and how far the workers go ahead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.batch.consumers import take_all
from tests.recording_server import RecordingServer, connect, debits, until


@pytest.mark.asyncio
async def test_in_order_if_asked_for() -> None:
    """Outcomes come in the order of the ids, whatever the order of the answers."""
    gates = {debit_id: asyncio.Event() for debit_id in debits(10)}
    async with RecordingServer(held=gates).listen() as server, connect(server) as client:
        reported: list[str] = []

        async def take() -> None:
            reported.extend([outcome.debit_id async for outcome in client.capture_many(debits(10), ordered=True)])

        taking = asyncio.create_task(take())
        await until(lambda: server.in_flight == 10)
        for gate in reversed(gates.values()):
            gate.set()
            await asyncio.sleep(0.001)
        await taking

    assert reported == debits(10)


@pytest.mark.parametrize("ordered", [True, False], ids=["in order", "as they come"])
@pytest.mark.asyncio
async def test_in_order_the_workers_do_not_run_away(ordered: bool) -> None:
    """Behind one slow item no more than 16 times the concurrency is begun; without order all others are."""
    release = asyncio.Event()
    async with RecordingServer(held={"debit_0": release}).listen() as server, connect(server) as client:
        outcomes = client.capture_many(debits(100), concurrency=2, ordered=ordered)
        taking = asyncio.create_task(take_all(outcomes))
        expected = 2 * 16 - 1 if ordered else 99
        await until(lambda: len(server.carried_out) >= expected)
        await asyncio.sleep(0.02)
        assert len(server.carried_out) == expected
        release.set()

        assert len(await taking) == 100


@pytest.mark.asyncio
async def test_in_order_an_input_that_breaks_loses_nothing() -> None:
    """All that was taken comes in order, and then the error."""

    def broken() -> Iterator[str]:
        yield from debits(7)
        raise LookupError

    reported: list[str] = []
    async with RecordingServer().listen() as server, connect(server) as client:
        with pytest.raises(LookupError):
            async for outcome in client.capture_many(broken(), concurrency=3, ordered=True):
                reported += [outcome.debit_id]

    assert reported == debits(7)
    assert server.twice == []
