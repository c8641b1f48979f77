"""Tasks that capture the same debit at the same time share one request and its answer."""

from __future__ import annotations

import asyncio
import gc

import pytest

from jetpay_async import (
    Capture,
    ConflictError,
    JetpayClient,
    NotSentError,
    OutcomeUnknownError,
)
from jetpay_async._core import operations
from jetpay_async._core.execution import Execution
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, Loopback, held, replies
from tests.network import FAST, TOKEN


def connect(server: Loopback, *, timeout: float = 2.0) -> JetpayClient:
    return JetpayClient(TOKEN, base_url=server.url, timeout=timeout, retry=FAST)


@pytest.mark.asyncio
async def test_one_request_serves_all() -> None:
    """A hundred tasks get one answer from one request."""
    server = Loopback()
    released = held(server)
    async with server.listen(), connect(server) as client:
        tasks = [asyncio.create_task(client.capture(DEBIT_ID)) for _ in range(100)]
        await server.arrived.wait()
        released.set()
        captures = await asyncio.gather(*tasks)

        assert server.count("capture") == 1
        assert {id(capture) for capture in captures} == {id(captures[0])}


@pytest.mark.asyncio
async def test_copies_of_a_client_share_too() -> None:
    """`with_options` makes no second request for a debit under way."""
    server = Loopback()
    released = held(server)
    async with server.listen(), connect(server) as client:
        first = asyncio.create_task(client.capture(DEBIT_ID))
        await server.arrived.wait()
        second = asyncio.create_task(client.with_options(timeout=5.0).capture(DEBIT_ID))
        await asyncio.sleep(0)
        released.set()

        assert await first is await second
        assert server.count("capture") == 1


@pytest.mark.parametrize("leaver", [0, 1], ids=["the first", "the second"])
@pytest.mark.asyncio
async def test_a_cancelled_task_leaves_the_other_its_answer(leaver: int) -> None:
    """Whoever is cancelled, the other learns what became of the debit, and the money is taken once."""
    server = Loopback()
    released = held(server)
    async with server.listen(), connect(server) as client:
        tasks = [asyncio.create_task(client.capture(DEBIT_ID)) for _ in range(2)]
        await server.arrived.wait()
        tasks[leaver].cancel()
        await asyncio.wait([tasks[leaver]])
        released.set()
        capture = await tasks[1 - leaver]

    assert tasks[leaver].cancelled()
    assert capture.state == "paid"
    assert server.captures == 1


@pytest.mark.asyncio
async def test_an_error_is_shared_but_not_its_traceback() -> None:
    """Each task raises an error of its own, with the same content and cause."""
    server = Loopback(scripts={"capture": [replies(409, FASTAPI[409])]})
    async with server.listen(), connect(server) as client:
        errors = await asyncio.gather(*(client.capture(DEBIT_ID) for _ in range(3)), return_exceptions=True)

    assert server.count("capture") == 1
    assert {type(error) for error in errors} == {ConflictError}
    assert len({id(error) for error in errors}) == 3
    assert len({str(error) for error in errors}) == 1


@pytest.mark.asyncio
async def test_a_follower_with_less_time_learns_that_it_is_unknown() -> None:
    """Its own deadline holds for each caller; the request goes on for the others."""
    server = Loopback()
    released = held(server)
    async with server.listen(), connect(server) as client:
        patient = asyncio.create_task(client.capture(DEBIT_ID))
        await server.arrived.wait()
        with pytest.raises(OutcomeUnknownError, match="under way for another caller"):
            await client.with_options(timeout=0.02).capture(DEBIT_ID)
        released.set()

        assert isinstance(await patient, Capture)
    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_a_follower_with_less_time_learns_that_nothing_was_sent() -> None:
    """While the shared request waits for a connection, a follower's deadline means not sent."""
    server = Loopback(scripts={"status": [loopback.silence]})
    async with server.listen():
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST, max_connections=1, timeout=0.4) as client:
            hog = asyncio.create_task(client.transaction_status("other"))
            await server.arrived.wait()
            patient = asyncio.create_task(client.capture(DEBIT_ID))
            await asyncio.sleep(0)
            with pytest.raises(NotSentError, match="in time"):
                await client.with_options(timeout=0.02).capture(DEBIT_ID)
            hog.cancel()

            assert isinstance(await patient, Capture)
            await asyncio.wait([hog])


@pytest.mark.asyncio
async def test_debits_do_not_wait_for_each_other() -> None:
    """Sharing is by debit: another debit has a request of its own."""
    server = Loopback()
    released = held(server)
    async with server.listen(), connect(server) as client:
        slow = asyncio.create_task(client.capture(DEBIT_ID))
        await server.arrived.wait()
        other = await client.capture("debit_other")
        released.set()
        await slow

    assert other.debit_id == "debit_other"
    assert server.count("capture") == 2


@pytest.mark.asyncio
async def test_a_capture_leaves_no_cycle_behind() -> None:
    """What was made for a capture is freed when it ends, and does not wait for the garbage collector."""
    server = Loopback()
    async with server.listen(), connect(server) as client:
        await client.capture(DEBIT_ID)
        gc.collect()
        gc.disable()
        try:
            for number in range(20):
                await client.capture(f"freed_{number}")
            # By its type: an object of something else may answer for its class by code of its own. And by its debit:
            # what other tests left is not meant.
            executions = [item for item in gc.get_objects() if type(item) is Execution]
            left = [item for item in executions if (item.call.debit_id or "").startswith("freed_")]
        finally:
            gc.enable()

        assert left == []


@pytest.mark.asyncio
async def test_what_captures_no_debit_is_not_shared() -> None:
    """Two calls without a debit's key would have one answer."""
    async with JetpayClient(TOKEN, retry=FAST) as client:
        execution = client._executor.begin(operations.transaction_status(DEBIT_ID), client._options)

        with pytest.raises(ValueError, match="no capture"):
            await client._single_flight.capture(execution)  # type: ignore[arg-type] # on purpose
        with pytest.raises(ValueError, match="no capture"):
            await client._single_flight.resolve(execution)  # type: ignore[arg-type] # on purpose
