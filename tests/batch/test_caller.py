"""What a batch takes from its caller: context, options, and other batches at the same time."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from jetpay_async import (
    Captured,
    ConfigurationError,
    JetpayClient,
)
from tests.batch.consumers import capture
from tests.network import TOKEN
from tests.recording_server import RecordingServer, connect, debits, until

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")


@pytest.mark.asyncio
async def test_the_caller_s_context_is_there() -> None:
    """Context variables of the caller are seen where the work is done."""
    seen: set[str] = set()

    async def token() -> str:
        seen.add(tenant.get())
        return TOKEN

    async with RecordingServer().listen() as server:
        async with JetpayClient(token, base_url=server.url) as client:
            tenant.set("rentals")
            await capture(client, debits(5))

    assert seen == {"rentals"}


@pytest.mark.asyncio
async def test_several_batches_at_once() -> None:
    """Each has its own pool, and debits in both are captured once."""
    async with RecordingServer().listen() as server, connect(server) as client:
        release = asyncio.Event()
        server.held = dict.fromkeys(debits(10), release)
        both = [asyncio.create_task(capture(client, debits(10), concurrency=10)) for _ in range(2)]
        await until(lambda: server.in_flight == 10)
        await asyncio.sleep(0.01)
        release.set()
        first, second = await asyncio.gather(*both)

    assert set(first) == set(second) == set(debits(10))
    assert server.twice == []


@pytest.mark.asyncio
async def test_the_options_of_the_client_apply() -> None:
    """The timeout of the client that is asked counts for each of its items."""
    server = RecordingServer(held={"debit_1": asyncio.Event()})
    async with server.listen(), connect(server, timeout=60.0) as client:
        outcomes = await capture(client.with_options(timeout=0.2), debits(3))

    assert isinstance(outcomes["debit_0"], Captured)
    assert not isinstance(outcomes["debit_1"], Captured)


@pytest.mark.asyncio
async def test_a_closed_client_says_so_when_it_is_called() -> None:
    """Not only for each item."""
    client = JetpayClient(TOKEN, base_url="http://127.0.0.1:1")
    await client.aclose()

    with pytest.raises(ConfigurationError, match="closed"):
        client.capture_many(debits(3))
    with pytest.raises(ConfigurationError, match="closed"):
        client.preauthorize_many([])
