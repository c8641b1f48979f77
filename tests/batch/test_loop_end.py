"""The event loop ends while a batch is under way, by whatever means: what is in flight is reported."""

from __future__ import annotations

import asyncio

import pytest

from jetpay_async import (
    Captured,
    CaptureOutcome,
    ConfigurationError,
    JetpayClient,
    Unknown,
)
from tests.network import FAST, TOKEN
from tests.recording_server import RecordingServer, connect, debits, until


def test_the_loop_ends_while_a_batch_is_held() -> None:
    """A loop that is shut down breaks off what is in flight; the client can still be closed elsewhere."""
    reported: list[CaptureOutcome] = []
    clients: list[JetpayClient] = []

    async def main() -> None:
        server = RecordingServer(held={"debit_1": asyncio.Event()})
        async with server.listen():
            client = JetpayClient(TOKEN, base_url=server.url, retry=FAST)
            clients.append(client)
            held = client.capture_many(debits(2), concurrency=2, on_outcome=reported.append)
            keep.append(held)
            await anext(held)
            await until(lambda: server.in_flight == 1)
            await client._transport._session.close()  # type: ignore[union-attr] # nothing else would

    keep: list[object] = []
    asyncio.run(main())

    assert [type(outcome) for outcome in reported] == [Captured, Unknown]
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(clients[0].aclose())


@pytest.mark.asyncio
async def test_a_batch_of_another_loop_is_not_waited_for() -> None:
    """Closing in the wrong loop says so, rather than waiting for what can't end there."""
    async with (
        RecordingServer(held={"debit_1": asyncio.Event()}).listen() as server,
        connect(server, timeout=0.3) as client,
    ):
        async for _ in client.capture_many(debits(2), concurrency=2):
            break

        def close_elsewhere() -> None:
            with pytest.raises(ConfigurationError, match="another event loop"):
                asyncio.run(client.aclose())

        await asyncio.to_thread(close_elsewhere)

        assert server.in_flight == 1
