"""What a client remembers of a debit in doubt, and what a run may believe of its status, are one."""

from __future__ import annotations

import asyncio
import math

import attrs
import pytest

from jetpay_async import JetpayClient, OutcomeUnknownError, RetryPolicy, _calls
from jetpay_async._runner import Pursuit
from jetpay_async.models import Capture
from tests import loopback
from tests.loopback import DEBIT_ID, Exchange, Loopback, work_then
from tests.network import FAST, TOKEN


def connect(server: Loopback, *, timeout: float, retry: RetryPolicy = FAST) -> JetpayClient:
    return JetpayClient(TOKEN, base_url=server.url, timeout=timeout, retry=retry)


def left_by_a_dead_run(client: JetpayClient) -> Pursuit[Capture]:
    """A request of another process for the debit, which can no longer be on its way."""
    pursuit = client._runner.pursue(_calls.capture(DEBIT_ID), client._options)
    pursuit.doubt(-math.inf)
    return pursuit


@pytest.mark.asyncio
async def test_a_doubt_outlives_a_run_that_ends_while_it_is_settled() -> None:
    """Where settling is cut off before the status could tell, the next capture of the debit reads the status first."""
    silent_status = [loopback.silence] * 100
    server = Loopback(scripts={"capture": [work_then(loopback.hang_up)], "status": silent_status})
    async with server.listen(), connect(server, timeout=0.1) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.capture(DEBIT_ID)
        settling = asyncio.create_task(client._flights.settle(DEBIT_ID, left_by_a_dead_run(client)))
        await asyncio.sleep(0)
        settling.cancel()
        await asyncio.wait([settling])
        silent_status.clear()
        capture = await client.with_options(timeout=2.0).capture(DEBIT_ID)

    assert settling.cancelled()
    assert capture.settled
    assert server.captures == 1


@pytest.mark.asyncio
async def test_a_request_of_the_same_client_may_still_be_on_its_way() -> None:
    """However old the doubt of a run is, a status proves nothing while the client's own request may take effect."""
    late = asyncio.Event()

    async def take_effect_late(exchange: Exchange) -> None:
        await late.wait()
        exchange.work()

    server = Loopback(scripts={"capture": [take_effect_late]})
    retry = attrs.evolve(FAST, settle_after=60.0)
    async with server.listen(), connect(server, timeout=0.2, retry=retry) as client:
        capturing = asyncio.create_task(client.with_options(timeout=5.0).capture(DEBIT_ID))
        await server.arrived.wait()
        capturing.cancel()
        await asyncio.wait([capturing])
        with pytest.raises(OutcomeUnknownError):
            await client._flights.settle(DEBIT_ID, left_by_a_dead_run(client))
        late.set()

    assert server.count("capture") == 1
