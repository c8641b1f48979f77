"""An answer that was there before the request is not its answer."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock, Mock

import aiohttp
import pytest
from aiohttp.abc import AbstractStreamWriter

from jetpay_async import JetpayClient, OutcomeUnknownError, TransactionState
from jetpay_async._core import send_guard
from jetpay_async._core.aiohttp_guard import Credential, GuardedBody
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async._core.send_guard import SendGuard
from tests.loopback import DEBIT_ID, Exchange, Loopback, replies
from tests.network import FAST, TOKEN, Network, every_network, outcome, preauthorize

# None of these is true of the debit that the next request is about.
UNASKED: list[tuple[int, dict[str, object]]] = [
    (200, {"identifier": DEBIT_ID, "state": "failed"}),
    (401, {"detail": "Not authenticated"}),
    (429, {"detail": "Too many requests"}),
]


async def bring(server: Loopback, client: JetpayClient, status: int, body: dict[str, object]) -> None:
    """Use a connection, and have the server send on it what nobody asks for."""
    used: list[Exchange] = []

    async def note(exchange: Exchange) -> None:
        used.append(exchange)
        await replies(200, {"state": "requested"})(exchange)

    server.scripts["status"] = [note]
    await client.transaction_status("another_debit")
    await used[0].reply(status, body)
    session = client._transport._session
    assert session is not None
    connector: Any = session.connector
    ((protocol, _),) = (idle for idles in connector._conns.values() for idle in idles)
    async with asyncio.timeout(20):
        while not protocol.should_close:
            await asyncio.sleep(0.001)


@every_network
@pytest.mark.parametrize("unasked", UNASKED, ids=lambda unasked: str(unasked[0]))
def test_a_write_does_not_take_it(network: Network, unasked: tuple[int, dict[str, object]]) -> None:
    """A capture leaves on another connection; it is neither rejected, nor believed to be, nor sent twice."""

    async def main() -> None:
        server = Loopback()
        async with network.serve(server), network.connect(server) as client:
            await bring(server, client, *unasked)
            capture = await client.capture(DEBIT_ID)

            assert capture.state is TransactionState.PAID
            assert server.count("capture") == server.captures == 1

    network.run(main)


@every_network
def test_a_read_does_not_take_it(network: Network) -> None:
    """A status read does not report the state of what an earlier request was about."""

    async def main() -> None:
        server = Loopback()
        async with network.serve(server), network.connect(server) as client:
            await bring(server, client, 200, {"state": "paid"})

            assert (await client.transaction_status(DEBIT_ID)).state is TransactionState.PREAUTHORIZED

    network.run(main)


@pytest.mark.parametrize("given", [False, True], ids=["own session", "given session"])
@pytest.mark.parametrize("prepare", [[], [aiohttp.TraceConfig()]], ids=["plain", "watched"])
@pytest.mark.asyncio
async def test_what_creates_does_not_take_it(given: bool, prepare: list[aiohttp.TraceConfig]) -> None:
    """A request with a body is not believed to be carried out before it left; at worst its outcome is unknown."""
    answer: dict[str, object] = {
        "debit_id": "debit_of_somebody",
        "amount": 100.50,
        "statement": "Test statement",
        "to_bank_account_id": "bank_789",
        "contact_id": "contact_123",
        "from_credit_card_id": "cc_456",
        "transaction_state": "preauthorized",
    }
    async with Loopback().listen() as server, aiohttp.ClientSession(trace_configs=prepare) as session:
        client = JetpayClient(TOKEN, base_url=server.url, session=session if given else None, retry=FAST, timeout=2.0)
        await bring(server, client, 200, answer)
        result = await outcome(preauthorize(client))
        await client.aclose()

        assert server.preauthorizations == (0 if isinstance(result, OutcomeUnknownError) else 1)


@pytest.mark.asyncio
async def test_a_body_does_not_leave_on_such_a_connection() -> None:
    """Where a session makes requests of its own kind, the guard is asked by the body, which writes nothing."""
    guard = SendGuard(SYSTEM_CLOCK.monotonic() + 60.0, SYSTEM_CLOCK)
    writer = AsyncMock(spec=AbstractStreamWriter)
    writer.transport = Mock(spec=asyncio.Transport)
    writer.transport.get_protocol.return_value = Mock(should_close=True)

    with pytest.raises(Exception, match=send_guard.UNASKED):
        await GuardedBody(b"{}", guard, Credential(TOKEN, {})).write(writer)

    writer.write.assert_not_awaited()
    assert not guard.started
    assert guard.refusal == send_guard.UNASKED


def test_a_response_before_the_guard_was_asked_proves_nothing() -> None:
    """It counts as sent, unless the guard refused, and nothing may leave any more."""
    guard = SendGuard(SYSTEM_CLOCK.monotonic() + 60.0, SYSTEM_CLOCK)

    assert str(guard.disown_response()) == send_guard.UNASKED
    assert guard.started
    with pytest.raises(Exception, match="a second time"):
        guard.begin(None)


def test_a_refusal_goes_before_a_response() -> None:
    """What the guard refused has not left, whatever came."""
    guard = SendGuard(SYSTEM_CLOCK.monotonic() + 60.0, SYSTEM_CLOCK)
    guard.refuse("the lease has lapsed")

    assert str(guard.disown_response()) == "the lease has lapsed"
    assert not guard.started
