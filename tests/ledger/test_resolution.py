"""What a client remembers of a debit in doubt, and what a run may believe of its status, are one."""

from __future__ import annotations

import asyncio
import math

import attrs
import pytest

from jetpay_async import (
    JetpayClient,
    NotSentError,
    OutcomeUnknownError,
    RetryPolicy,
    TransactionFailedError,
)
from jetpay_async._core import operations
from jetpay_async._core.executor import Execution
from jetpay_async.models import Capture
from tests import loopback
from tests.loopback import DEBIT_ID, Exchange, Loopback, work_then
from tests.network import FAST, TOKEN


def connect(server: Loopback, *, timeout: float, retry: RetryPolicy = FAST) -> JetpayClient:
    return JetpayClient(TOKEN, base_url=server.url, timeout=timeout, retry=retry)


def left_by_a_dead_run(client: JetpayClient) -> Execution[Capture]:
    """A request of another process for the debit, which can no longer be on its way."""
    execution = client._executor.begin(operations.capture(DEBIT_ID), client._options)
    execution.mark_in_doubt(-math.inf)
    return execution


@pytest.mark.asyncio
async def test_a_debit_stays_in_doubt_when_its_resolution_is_cut_off() -> None:
    """Where the status could not tell before the run ended, the next capture of the debit reads it first."""
    silent_status = [loopback.silence] * 100
    server = Loopback(scripts={"capture": [work_then(loopback.hang_up)], "status": silent_status})
    async with server.listen(), connect(server, timeout=0.1) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.capture(DEBIT_ID)
        resolving = asyncio.create_task(client._single_flight.resolve(left_by_a_dead_run(client)))
        await asyncio.sleep(0)
        resolving.cancel()
        await asyncio.wait([resolving])
        silent_status.clear()
        capture = await client.with_options(timeout=2.0).capture(DEBIT_ID)

    assert resolving.cancelled()
    assert capture.confirmed_by_status
    assert server.captures == 1


@pytest.mark.asyncio
async def test_a_request_of_the_same_client_may_still_be_on_its_way() -> None:
    """However old the request of a dead run is, a status proves nothing while the client's own may take effect."""
    late = asyncio.Event()

    async def take_effect_late(exchange: Exchange) -> None:
        await late.wait()
        exchange.work()

    server = Loopback(scripts={"capture": [take_effect_late]})
    retry = attrs.evolve(FAST, resolve_after=60.0, resolve_after_timeout=60.0)
    async with server.listen(), connect(server, timeout=0.2, retry=retry) as client:
        capturing = asyncio.create_task(client.with_options(timeout=5.0).capture(DEBIT_ID))
        await server.arrived.wait()
        capturing.cancel()
        await asyncio.wait([capturing])
        with pytest.raises(OutcomeUnknownError):
            await client._single_flight.resolve(left_by_a_dead_run(client))
        late.set()

    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_a_resolution_shares_the_answer_of_a_capture_under_way() -> None:
    """While the same client is capturing the debit, its answer resolves it: no status is read."""
    late = asyncio.Event()

    async def answer_late(exchange: Exchange) -> None:
        await late.wait()
        await exchange.behave()

    server = Loopback(scripts={"capture": [answer_late]})
    async with server.listen(), connect(server, timeout=5.0) as client:
        capturing = asyncio.create_task(client.capture(DEBIT_ID))
        await server.arrived.wait()
        resolving = asyncio.create_task(client._single_flight.resolve(left_by_a_dead_run(client)))
        await asyncio.sleep(0)
        late.set()

        assert await resolving == await capturing

    assert server.count("status") == 0


@pytest.mark.asyncio
async def test_a_resolution_goes_on_where_a_capture_under_way_was_cancelled() -> None:
    """A capture that is cut off leaves the debit to whoever resolves it."""
    server = Loopback(scripts={"capture": [work_then(loopback.silence)]})
    async with server.listen(), connect(server, timeout=5.0) as client:
        capturing = asyncio.create_task(client.capture(DEBIT_ID))
        await server.arrived.wait()
        resolving = asyncio.create_task(client._single_flight.resolve(left_by_a_dead_run(client)))
        await asyncio.sleep(0)
        capturing.cancel()
        capture = await resolving
        await asyncio.wait([capturing])

    assert capture is not None
    assert capture.confirmed_by_status
    assert server.captures == 1


@pytest.mark.asyncio
async def test_a_debit_that_is_over_is_no_longer_in_doubt() -> None:
    """A status that is final and another one resolves the debit for the client, too."""
    server = Loopback(scripts={"capture": [loopback.hang_up], "status": [loopback.silence] * 100})
    async with server.listen(), connect(server, timeout=0.1) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.capture(DEBIT_ID)
        server.scripts["status"] = [loopback.replies(200, {"state": "failed"})]
        patient = client.with_options(timeout=2.0)
        with pytest.raises(TransactionFailedError):
            await client._single_flight.resolve(left_by_a_dead_run(patient))

        assert DEBIT_ID not in client._single_flight._unresolved


@pytest.mark.asyncio
async def test_nothing_leaves_where_the_check_forbids_it() -> None:
    """What a lease forbids is rejected in the write of the request: not a byte of it reaches the server."""
    server = Loopback()
    async with server.listen(), connect(server, timeout=1.0) as client:
        call = operations.capture(DEBIT_ID)
        execution = client._executor.begin(call, client._options, pre_send_check=lambda: "the lease is over")
        with pytest.raises(NotSentError, match="the lease is over"):
            await client._executor.execute(execution)

    assert server.count("capture") == 0
