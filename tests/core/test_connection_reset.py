"""What is given up does not arrive any more: its connection is reset, not closed."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import ssl
import struct
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import aiohttp
import attrs
import pytest

from jetpay_async import Capture, JetpayClient
from jetpay_async._core import connection_reset
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async._core.connection_reset import (
    SWEEP_SECONDS,
    ConnectionReset,
    OwnConnections,
    SharedConnections,
    to_milliseconds,
)
from jetpay_async._core.responses import Unanswered
from jetpay_async._core.send_guard import SendGuard
from tests import loopback
from tests.loopback import DEBIT_ID, Loopback, Relay, RelayedConnection
from tests.network import CA, FAST, NETWORKS, TOKEN, Network, every_network


@asynccontextmanager
async def relayed(network: Network) -> AsyncIterator[tuple[Loopback, Relay, str]]:
    """A server that never answers a capture, the machine before it, and the URL to use."""
    async with network.serve(Loopback(scripts={"capture": [loopback.silence]})) as server:
        async with Relay(to=None if network.proxy else server.url).listen() as relay:
            yield server, relay, server.url if network.proxy else relay.url


@asynccontextmanager
async def client_of(network: Network, relay: Relay, url: str, timeout: float) -> AsyncIterator[JetpayClient]:
    """A client whose way to the server leads through the relay."""
    if not network.given:
        async with JetpayClient(TOKEN, base_url=url, timeout=timeout, retry=FAST) as client:
            yield client
        return
    trust = ssl.create_default_context(cadata=CA.cert_pem.bytes().decode()) if network.tls else True
    connector = aiohttp.TCPConnector(ssl=trust)
    async with aiohttp.ClientSession(connector=connector, proxy=relay.url if network.proxy else None) as session:
        yield JetpayClient(TOKEN, base_url=url, session=session, timeout=timeout, retry=FAST)


async def ended(connection: RelayedConnection) -> str:
    async with asyncio.timeout(10):
        return await connection.ended


@every_network
def test_a_capture_that_is_given_up_is_reset(network: Network) -> None:
    """When no response comes, the other side sees a reset, and not a byte after the request."""

    async def main() -> None:
        async with relayed(network) as (server, relay, url), client_of(network, relay, url, timeout=0.3) as client:
            capture = asyncio.ensure_future(client.capture(DEBIT_ID))
            await server.arrived.wait()
            sent = relay.connections[0].received

            assert await ended(relay.connections[0]) == "reset"
            assert relay.connections[0].received == sent
            await asyncio.gather(capture, return_exceptions=True)

    network.run(main)


@every_network
def test_a_capture_that_is_cancelled_is_reset(network: Network) -> None:
    """When its task is cancelled, the other side sees a reset, and not a byte after the request."""

    async def main() -> None:
        async with relayed(network) as (server, relay, url), client_of(network, relay, url, timeout=30.0) as client:
            capture = asyncio.ensure_future(client.capture(DEBIT_ID))
            await server.arrived.wait()
            sent = relay.connections[0].received

            capture.cancel()
            assert await ended(relay.connections[0]) == "reset"
            assert relay.connections[0].received == sent
            with pytest.raises(asyncio.CancelledError):
                await capture

    network.run(main)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this platform has no such signal")
@pytest.mark.parametrize("network", [*NETWORKS, Network("own session over TLS", tls=True)], ids=lambda each: each.name)
def test_a_capture_whose_process_is_killed_is_reset(network: Network) -> None:
    """When the process is killed, the kernel resets the connection in its place."""
    if network.uvloop:
        pytest.importorskip("uvloop", reason="uvloop does not run on this platform")

    async def main() -> None:
        with CA.cert_pem.tempfile() as trusted:
            async with relayed(network) as (server, relay, url):
                command = [sys.executable, "-m", "tests.core.capture_once", url, relay.url if network.proxy else ""]
                flags = [name for name in ("given", "uvloop") if getattr(network, name)]
                process = await asyncio.create_subprocess_exec(
                    *command, *flags, env={**os.environ, "SSL_CERT_FILE": trusted}
                )
                try:
                    async with asyncio.timeout(60):
                        await server.arrived.wait()
                finally:
                    process.kill()
                    await process.wait()

                assert await ended(relay.connections[0]) == "reset"

    asyncio.run(main())


@every_network
def test_a_connection_is_closed_properly_once_the_response_was_read(network: Network) -> None:
    """A connection that goes back to the pool ends as any other, and may serve again."""

    async def main() -> None:
        async with relayed(network) as (server, relay, url):
            server.scripts.clear()
            async with client_of(network, relay, url, timeout=10.0) as client:
                for _ in range(3):
                    await client.capture(DEBIT_ID)

            assert len(relay.connections) == 1
            # Over TLS aiohttp aborts idle connections; without unread data that sends no reset either.
            assert await ended(relay.connections[0]) == "EOF"

    network.run(main)


def carry_out(conversation: Coroutine[Any, Any, Any], guard: SendGuard) -> Generator[Any, Any, Any]:
    """The steps of a request whose conversation with the service this is."""
    transport = cast("Any", JetpayClient(TOKEN, base_url="http://127.0.0.1:1")._transport)
    steps: Generator[Any, Any, Any] = transport._carry_out(conversation, guard, 1.0)
    return steps


@pytest.mark.parametrize(
    "interrupt",
    [
        pytest.param(lambda steps: steps.throw(asyncio.CancelledError()), id="cancelled"),
        pytest.param(lambda steps: steps.throw(OSError()), id="lost"),
        pytest.param(lambda steps: steps.close(), id="thrown away with its event loop"),
    ],
)
def test_a_connection_is_aborted_before_aiohttp_closes_it(
    interrupt: Callable[[Generator[Any, Any, None]], Any],
) -> None:
    """Whatever interrupts a request, its connection is aborted before aiohttp's own clean-up says farewell on it."""
    happened: list[str] = []

    class Recorder(SendGuard):
        def abort(self) -> None:
            happened.append("aborted")

    @types.coroutine
    def response() -> Generator[str, None, None]:
        yield "the connection"

    async def conversation() -> Any:
        try:
            await response()
        finally:
            happened.append("closed by aiohttp")

    steps = carry_out(conversation(), Recorder(math.inf, SYSTEM_CLOCK))
    assert next(steps) == "the connection"
    assert happened == []

    with contextlib.suppress(asyncio.CancelledError, Unanswered):
        interrupt(steps)

    assert happened == ["aborted", "closed by aiohttp"]


def test_a_conversation_may_go_on_after_an_error() -> None:
    """An error that the conversation handles does not end it, and its result is what it returns."""

    @types.coroutine
    def response(number: int) -> Generator[int, None, None]:
        yield number

    async def conversation() -> Any:
        with pytest.raises(OSError, match="lost"):
            await response(1)
        await response(2)
        return "whole"

    steps = carry_out(conversation(), SendGuard(math.inf, SYSTEM_CLOCK))
    assert next(steps) == 1
    assert steps.throw(OSError("lost")) == 2
    with pytest.raises(StopIteration) as end:
        next(steps)

    assert end.value.value == "whole"


class FakeTransport:
    """A connection that has a real socket, or something in its place."""

    def __init__(self, sock: object) -> None:
        self.sock = sock

    def get_extra_info(self, name: str) -> object:
        assert name == "socket"
        return self.sock


def lingers(sock: socket.socket) -> bool:
    return struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0] == 1


def transport_of(sock: object) -> Any:
    return FakeTransport(sock)


@attrs.define
class FakeLoop:
    """An event loop whose timers ring when a test says so."""

    timers: list[Callable[[], None]] = attrs.Factory(list)

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        assert delay == SWEEP_SECONDS
        self.timers.append(callback)

    def ring(self) -> None:
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()


def own(loop: FakeLoop | None = None) -> OwnConnections:
    return OwnConnections(cast("Any", loop or FakeLoop()))


def shared() -> SharedConnections:
    return SharedConnections(7.0)


both_kinds = pytest.mark.parametrize("make", [own, shared], ids=["own", "shared"])


@both_kinds
def test_the_next_owner_of_a_connection_keeps_it_resetting(make: Callable[[], ConnectionReset]) -> None:
    """A request that notices late that its response is whole does not switch off what the next one has switched on."""
    with socket.socket() as sock:
        transport, reset = transport_of(sock), make()
        assert reset.enable(transport, "first")
        assert reset.enable(transport, "second")

        reset.disable(transport, "first")
        if isinstance(reset, OwnConnections):
            reset.sweep()
        assert lingers(sock)
        reset.disable(transport, "second")
        if isinstance(reset, OwnConnections):
            reset.sweep()
        assert not lingers(sock)
        reset.disable(transport, "second")

        assert not lingers(sock)


@both_kinds
def test_an_aborted_connection_is_forgotten(make: Callable[[], ConnectionReset]) -> None:
    """Only its owner forgets it, and it is left as it is."""
    with socket.socket() as sock:
        transport, reset = transport_of(sock), make()
        owners = reset._owners if isinstance(reset, OwnConnections) else connection_reset._owners
        reset.enable(transport, "owner")

        reset.forget(transport, "another")
        assert transport in owners
        reset.forget(transport, "owner")

        assert transport not in owners
        assert lingers(sock)


def test_a_busy_connection_of_our_own_is_switched_once() -> None:
    """One request after another on a connection sets nothing; once idle, the sweep switches it back, and rests."""
    loop = FakeLoop()
    reset = own(loop)
    with socket.socket() as sock, socket.socket() as another:
        transport, second = transport_of(sock), transport_of(another)
        for owner in ("first", "second", "third"):
            reset.enable(transport, owner)
            assert lingers(sock)
            reset.disable(transport, owner)
        reset.enable(second, "long")
        assert len(loop.timers) == 1

        loop.ring()
        assert (lingers(sock), lingers(another)) == (False, True)
        assert len(loop.timers) == 1
        reset.disable(second, "long")
        loop.ring()
        assert not lingers(another)
        assert loop.timers == []

        reset.enable(transport, "fourth")
        assert lingers(sock)
        assert len(loop.timers) == 1


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this platform's sockets have no such option")
@pytest.mark.parametrize(("seconds", "milliseconds"), [(7.0, 7000), (0.02, 1000)])
def test_the_kernel_stops_delivering_after_the_time(seconds: float, milliseconds: int) -> None:
    """A write's connection has its own time for what is not acknowledged, and gets back what it had."""

    def timeout(sock: socket.socket) -> int:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 120_000)
        transport, reset = transport_of(sock), SharedConnections(seconds)

        reset.enable(transport, "first")
        assert timeout(sock) == milliseconds == to_milliseconds(seconds)
        reset.enable(transport, "second")
        reset.disable(transport, "second")

        assert timeout(sock) == 120_000


def test_a_platform_without_the_option_resets_nevertheless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel has no such time, the rest is the same."""
    monkeypatch.setattr(connection_reset, "_USER_TIMEOUT", None)
    with socket.socket() as sock:
        transport, reset = transport_of(sock), shared()

        assert reset.enable(transport, "owner")
        assert lingers(sock)
        reset.disable(transport, "owner")
        assert not lingers(sock)


def closed_socket() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


@both_kinds
@pytest.mark.parametrize("sock", [None, object(), closed_socket()], ids=["none", "something else", "closed"])
def test_what_has_no_socket_can_not_be_reset(sock: object, make: Callable[[], ConnectionReset]) -> None:
    """It is said so, and the table of owners holds nothing."""
    transport, reset = transport_of(sock), make()

    assert reset.enable(transport, "owner") is False
    assert reset.enable(None, "owner") is False
    assert transport not in connection_reset._owners


def test_a_socket_that_is_no_tcp_is_reset_without_a_time() -> None:
    """A socket that does not know the kernel's time is switched all the same, and closing it meanwhile is no fault."""
    pair = socket.socketpair() if hasattr(socket, "AF_UNIX") else pytest.skip("this platform has no such sockets")
    transport, reset = transport_of(pair[0]), shared()

    assert reset.enable(transport, "owner")
    assert connection_reset._owners[transport] == ("owner", None)
    for sock in pair:
        sock.close()
    reset.disable(transport, "owner")

    assert transport not in connection_reset._owners


def serve_in_two_parts(listener: socket.socket, go_on: threading.Event, body_sent: threading.Event) -> list[bytes]:
    """Answer the first request in two parts, and the second at once, on one connection; return what was asked."""
    asked: list[bytes] = []
    connection, _ = listener.accept()
    with connection:
        for number in (1, 2):
            received = b""
            while not received.endswith(b"\r\n\r\n"):
                if not (some := connection.recv(65536)):
                    return asked
                received += some
            asked.append(received.split()[1])
            body = b'{"identifier":"debit_%d","state":"paid"}' % number
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
            if number == 1:
                go_on.wait()
            connection.sendall(body)
            body_sent.set()
    return asked


@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
@pytest.mark.asyncio
async def test_a_connection_that_another_request_uses_by_then_is_not_reset(
    given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp gives a connection back with the last byte; who is cancelled in the same moment leaves it to the next."""
    go_on, body_sent, head_read = threading.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    read = aiohttp.ClientResponse.read

    async def read_body(response: aiohttp.ClientResponse) -> bytes:
        head_read.set()
        return await read(response)

    monkeypatch.setattr(aiohttp.ClientResponse, "read", read_body)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = loop.run_in_executor(None, serve_in_two_parts, listener, go_on, body_sent)
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession()) if given else None
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            client = await stack.enter_async_context(JetpayClient("token-of-a-test", base_url=url, session=session))
            first = asyncio.create_task(client.capture("debit_1"))
            await head_read.wait()
            turn = loop.create_future()

            async def second() -> Capture:
                await turn
                first.cancel()
                return await client.capture("debit_2")

            capturing = asyncio.create_task(second())
            await asyncio.sleep(0)
            # The rest is read in the round in which the second one begins.
            loop.call_soon(turn.set_result, None)
            go_on.set()
            body_sent.wait()
            captured = await capturing

        assert await serving == [b"/debit/debit_1/capture", b"/debit/debit_2/capture"]
    assert (captured.attempts, captured.confirmed_by_status) == (1, False)
    assert first.cancelled()
