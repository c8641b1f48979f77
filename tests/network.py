"""The ways from the client to the server, and what all socket tests share."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import attrs
import pytest
import trustme

from jetpay_async import JetpayClient, JetpayError, Preauthorization, RetryPolicy
from jetpay_async._core.clock import Clock
from tests import loopback
from tests.loopback import Act, Loopback, replies

TOKEN = "token-that-must-not-show"
FAST = RetryPolicy(max_attempts=3, base_delay=0.005, max_delay=0.01, resolve_after=0.02, resolve_after_timeout=0.02)
SLOW = RetryPolicy(max_attempts=3, base_delay=0.005, max_delay=0.01, resolve_after=60.0, resolve_after_timeout=60.0)

CA = trustme.CA()
CERTIFICATE = CA.issue_cert("127.0.0.1")


@attrs.frozen
class Network:
    """How the client reaches the server."""

    name: str
    tls: bool = False
    proxy: bool = False
    given: bool = False
    uvloop: bool = False

    def run(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a test's coroutine on this network's event loop."""
        factory = None
        if self.uvloop:
            factory = pytest.importorskip("uvloop", reason="uvloop does not run on this platform").new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(main())

    @asynccontextmanager
    async def serve(self, server: Loopback) -> AsyncIterator[Loopback]:
        """Start the server."""
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            CERTIFICATE.configure_cert(context)
        async with server.listen(context):
            yield server

    @asynccontextmanager
    async def connect(
        self, server: Loopback, *, timeout: float = 2.0, retry: RetryPolicy = FAST
    ) -> AsyncIterator[JetpayClient]:
        """Open a client to the server."""
        if not self.given:
            async with JetpayClient(TOKEN, base_url=server.url, timeout=timeout, retry=retry) as client:
                yield client
            return
        trust: Any = True
        if self.tls:
            trust = ssl.create_default_context(cadata=CA.cert_pem.bytes().decode())
        async with loopback.connect_proxy() as proxy:
            connector = aiohttp.TCPConnector(ssl=trust)
            async with aiohttp.ClientSession(connector=connector, proxy=proxy if self.proxy else None) as session:
                client = JetpayClient(TOKEN, base_url=server.url, session=session, timeout=timeout, retry=retry)
                yield client
                await client.aclose()
                assert not session.closed
                assert TOKEN not in str(session.headers)


NETWORKS = [
    Network("plain"),
    Network("given", given=True),
    Network("tls", tls=True, given=True),
    Network("proxy", tls=True, given=True, proxy=True),
    Network("uvloop", uvloop=True),
]
every_network = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)


async def preauthorize(client: JetpayClient) -> Preauthorization:
    return await client.preauthorize(
        contact_id="contact_123",
        credit_card_id="cc_456",
        amount="100.50",
        to_bank_account_id="bank_789",
        statement="Test statement",
    )


async def outcome(call: Coroutine[Any, Any, object]) -> object:
    """The result, or the error; anything but ours is a failure of the test."""
    try:
        return await call
    except JetpayError as error:
        assert error.elapsed >= 0
        assert TOKEN not in f"{error!r} {error} {vars(error)} {error.__cause__!r}"
        return error


def connect(
    server: Loopback, *, timeout: float = 2.0, retry: RetryPolicy = FAST, clock: Clock | None = None
) -> JetpayClient:
    """Make a client of a server."""
    return JetpayClient(TOKEN, base_url=server.url, timeout=timeout, retry=retry, clock=clock or Clock())


def status(state: str, **more: str) -> Act:
    """Answer a status read."""
    return replies(200, {"state": state, **more})
