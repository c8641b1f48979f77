"""What never began to leave: it is said so, it may be sent again, and the server saw nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from jetpay_async import JetpayClient, NotSentError, Outcome, RetryPolicy
from jetpay_async._core.clock import Clock
from tests import loopback
from tests.loopback import DEBIT_ID, Loopback
from tests.network import FAST, TOKEN, Network, preauthorize

OPERATIONS: dict[str, Callable[[JetpayClient], Awaitable[object]]] = {
    "preauthorize": preauthorize,
    "capture": lambda client: client.capture(DEBIT_ID),
    "status": lambda client: client.transaction_status(DEBIT_ID),
    "cancel": lambda client: client.cancel_transaction(DEBIT_ID),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


class _NoSuchHost(aiohttp.abc.AbstractResolver):
    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
        raise OSError(None, "no such host")

    async def close(self) -> None:
        pass


@every_operation
@pytest.mark.asyncio
async def test_an_unknown_host_is_tried_again_and_then_not_sent(
    operation: Callable[[JetpayClient], Awaitable[object]],
) -> None:
    """A failed name resolution is safe to repeat, and ends as not sent."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=_NoSuchHost())) as session:
        client = JetpayClient(
            TOKEN,
            base_url="https://nowhere.example",
            trusted_origins=["https://nowhere.example"],
            session=session,
            retry=FAST,
        )

        with pytest.raises(NotSentError, match="nowhere") as caught:
            await operation(client)

        assert caught.value.attempts == FAST.max_attempts
        assert caught.value.outcome is Outcome.NOT_SENT
        assert caught.value.retryable


@every_operation
@pytest.mark.asyncio
async def test_a_refused_connection_is_tried_again_and_then_not_sent(
    operation: Callable[[JetpayClient], Awaitable[object]],
) -> None:
    """A refused connection is safe to repeat, and ends as not sent."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    async with JetpayClient(TOKEN, base_url=f"http://127.0.0.1:{port}", retry=FAST) as client:
        with pytest.raises(NotSentError, match="Cannot connect") as caught:
            await operation(client)

        assert caught.value.attempts == FAST.max_attempts


@every_operation
@pytest.mark.asyncio
async def test_an_untrusted_certificate_is_not_sent_to(operation: Callable[[JetpayClient], Awaitable[object]]) -> None:
    """A failed TLS handshake means that nothing left."""
    async with Network("tls", tls=True).serve(Loopback()) as server:
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
            with pytest.raises(NotSentError, match="certificate"):
                await operation(client)

        assert server.requests == []


@every_operation
@pytest.mark.asyncio
async def test_a_proxy_that_refuses_the_tunnel_is_not_sent_through(
    operation: Callable[[JetpayClient], Awaitable[object]],
) -> None:
    """A refused CONNECT means that nothing left, and the proxy's password does not show."""
    async with loopback.connect_proxy(refuse=True) as proxy, Network("tls", tls=True).serve(Loopback()) as server:
        secret = proxy.replace("//", "//user:proxy-password@")
        async with aiohttp.ClientSession(proxy=secret) as session:
            client = JetpayClient(TOKEN, base_url=server.url, session=session, retry=FAST)

            with pytest.raises(NotSentError, match="407") as caught:
                await operation(client)

        assert (
            "proxy-password" not in f"{caught.value} {caught.value!r} {vars(caught.value)} {caught.value.__cause__!r}"
        )
        assert server.requests == []


@pytest.mark.parametrize("name", ["preauthorize", "capture", "cancel"])
@pytest.mark.asyncio
async def test_a_deadline_in_the_queue_for_a_connection_is_not_sent(name: str) -> None:
    """A write whose time runs out while it waits for a connection is known not to have left."""
    async with Loopback(scripts={"status": [loopback.silence]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, max_connections=1, retry=FAST, timeout=1.0) as client:
            hog = asyncio.create_task(client.transaction_status("other"))
            await server.arrived.wait()

            with pytest.raises(NotSentError):
                await OPERATIONS[name](client.with_options(timeout=0.1))

            assert server.count(name) == 0
            hog.cancel()
            await asyncio.gather(hog, return_exceptions=True)


@pytest.mark.parametrize("name", ["preauthorize", "capture", "cancel"])
@pytest.mark.asyncio
async def test_a_call_stalled_past_its_deadline_sends_nothing(name: str) -> None:
    """The deadline is checked at the last moment, inside the write: a process that slept through it sends nothing."""
    now = 0.0

    class SleepsThroughConnecting(aiohttp.ThreadedResolver):
        async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[aiohttp.abc.ResolveResult]:
            nonlocal now
            now += 60.0
            return await super().resolve("127.0.0.1", port, socket.AF_INET)

    async with Loopback().listen() as server:
        connector = aiohttp.TCPConnector(resolver=SleepsThroughConnecting())
        async with aiohttp.ClientSession(connector=connector) as session:
            url = server.url.replace("127.0.0.1", "nowhere.example")
            client = JetpayClient(
                TOKEN,
                base_url=url,
                trusted_origins=[url],
                session=session,
                timeout=30.0,
                clock=Clock(monotonic=lambda: now),
            )

            with pytest.raises(NotSentError, match="deadline had passed before anything left"):
                await OPERATIONS[name](client)

        assert server.requests == []


@pytest.mark.asyncio
async def test_what_was_not_sent_is_sent_again_by_itself() -> None:
    """A server that comes back within the deadline gets the write once."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    server = Loopback()
    opened = asyncio.Event()

    async def sleep(_: float) -> None:
        opened.set()
        await listening.wait()

    listening = asyncio.Event()

    async def open_late() -> None:
        await opened.wait()
        async with server.listen(port=port):
            listening.set()
            await done.wait()

    done = asyncio.Event()
    late = asyncio.create_task(open_late())
    async with JetpayClient(TOKEN, base_url=f"http://127.0.0.1:{port}", clock=Clock(sleep=sleep)) as client:
        result = await preauthorize(client)
    done.set()
    await late

    assert result.attempts == 2
    assert server.preauthorizations == 1


@pytest.mark.asyncio
async def test_no_second_attempt_that_could_not_end_before_the_deadline() -> None:
    """A wait that would outlast the deadline is not begun."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    slow = RetryPolicy(base_delay=60.0, max_delay=60.0)
    async with JetpayClient(TOKEN, base_url=f"http://127.0.0.1:{port}", retry=slow, timeout=5.0) as client:
        with pytest.raises(NotSentError) as caught:
            await preauthorize(client)

    assert caught.value.attempts == 1
    assert caught.value.elapsed < 5.0
