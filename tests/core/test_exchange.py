"""What the transport says of one request: whether and when it left, how old its response is, and who ended it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp.http_exceptions import ContentLengthError, TransferEncodingError
from yarl import URL

from jetpay_async import JetpayClient
from jetpay_async._core import transport
from jetpay_async._core.clock import Clock
from jetpay_async._core.http import RawResponse, ResolveBound
from jetpay_async._core.responses import Unanswered
from jetpay_async._core.send_guard import SendGuard
from jetpay_async._core.transport import _HOST_PARTS as HOST_PARTS
from jetpay_async._core.transport import _host_parts, _is_lost
from tests import loopback
from tests.loopback import DEBIT_ID, HTML, Act, Exchange, Loopback, replies
from tests.network import FAST, TOKEN, Network, every_network

CAPTURE = f"/debit/{DEBIT_ID}/capture"
STATUS = f"/transaction/{DEBIT_ID}/status"
DIRECT, TIMEOUT = ResolveBound.DIRECT, ResolveBound.TIMEOUT


@attrs.define
class Ticking:
    """A clock that goes on by a second with each look at it."""

    now: float = 100.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


async def read(client: JetpayClient, *, within: float = 5.0) -> RawResponse:
    return await client._transport.exchange("GET", STATUS, b"", None, within=within)


async def write(client: JetpayClient, *, within: float = 5.0, response_timeout: float = 5.0) -> RawResponse:
    clock = client._clock
    guard = SendGuard(clock.monotonic() + within, clock, response_timeout)
    return await client._transport.exchange("POST", CAPTURE, b"", guard, within=within)


async def unanswered(exchange: Any) -> Unanswered:
    with pytest.raises(Unanswered) as caught:
        await exchange
    return caught.value


# --- when it left ---------------------------------------------------------------------------------------------------


@every_network
def test_a_response_says_when_its_request_left(network: Network) -> None:
    """Between the time of asking and that of the answer, for a read and for a write."""

    async def main() -> None:
        async with network.serve(Loopback()) as server, network.connect(server) as client:
            for exchange in (read, write):
                before = client._clock.monotonic()
                response = await exchange(client)
                after = client._clock.monotonic()

                assert response.left_at is not None
                assert before <= response.left_at <= after

    network.run(main)


@every_network
def test_a_read_asks_for_a_fresh_answer(network: Network) -> None:
    """Reads tell caches to ask the service; a write has no such header, a read no body."""

    async def main() -> None:
        async with network.serve(Loopback()) as server, network.connect(server) as client:
            await read(client)
            await write(client)

        asked, wrote = (request.headers for request in server.requests)
        assert (asked["cache-control"], asked["pragma"]) == ("no-cache", "no-cache")
        assert not asked.keys() & {"content-length", "content-type", "transfer-encoding"}
        assert not wrote.keys() & {"cache-control", "pragma"}

    network.run(main)


@pytest.mark.parametrize(("headers", "age"), [({}, 0.0), ({"Age": "12"}, 12.0), ({"Age": "old"}, float("inf"))])
@pytest.mark.asyncio
async def test_a_response_says_how_long_it_lay_in_caches(headers: dict[str, str], age: float) -> None:
    """`Age` is read from the response to a read."""
    server = Loopback(scripts={"status": [replies(200, {"state": "paid"}, **headers)]})
    async with server.listen(), JetpayClient(TOKEN, base_url=server.url) as client:
        assert (await read(client)).age == age


def session_class(**methods: Any) -> type[aiohttp.ClientSession]:
    """A subclass of aiohttp's session, which aiohttp advises against."""
    with pytest.warns(DeprecationWarning, match="Inheritance"):
        return type("Session", (aiohttp.ClientSession,), methods)


def caching_session() -> aiohttp.ClientSession:
    """A session that remembers what it was asked, as caching sessions do."""
    remembered: list[aiohttp.ClientResponse] = []

    async def request(session: aiohttp.ClientSession, *args: Any, **options: Any) -> aiohttp.ClientResponse:
        if not remembered:
            remembered.append(await aiohttp.ClientSession._request(session, *args, **options))
            await remembered[0].read()
        return remembered[0]

    return session_class(_request=request)()


class CachingMiddleware:
    """Remembers what it was asked, as caching middlewares do."""

    remembered: aiohttp.ClientResponse | None = None

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if self.remembered is None:
            self.remembered = await handler(request)
            await self.remembered.read()
        return self.remembered


@pytest.mark.parametrize("kind", ["session", "middleware"])
@pytest.mark.asyncio
async def test_a_read_that_a_cache_in_this_process_answers_never_left(kind: str) -> None:
    """What was answered from memory proves nothing of the present."""
    async with Loopback().listen() as server:
        session = caching_session() if kind == "session" else aiohttp.ClientSession(middlewares=[CachingMiddleware()])
        async with session:
            client = JetpayClient(TOKEN, base_url=server.url, session=session)

            assert (await read(client)).left_at is not None
            again = await read(client)

        assert again.left_at is None
        assert again.status == 200
        assert server.count("status") == 1


@pytest.mark.parametrize("given", [False, True], ids=["own session", "given session"])
@pytest.mark.asyncio
async def test_a_read_that_aiohttp_sends_again_left_at_the_first_time(given: bool) -> None:
    """On a kept-alive connection that turns out to be closed, aiohttp repeats a read; the earlier time is reported."""
    server = Loopback(scripts={"status": [loopback.behave, loopback.hang_up]})
    clock = Ticking()
    async with server.listen(), aiohttp.ClientSession() as session:
        async with JetpayClient(
            TOKEN, base_url=server.url, session=session if given else None, clock=Clock(monotonic=clock.monotonic)
        ) as client:
            first = await read(client)
            second = await read(client)

    assert server.count("status") == 3
    assert first.left_at is not None
    assert second.left_at == first.left_at + 1.0


@pytest.mark.asyncio
async def test_a_stalled_read_says_so() -> None:
    """A read that got no response within its time is separated from one whose connection was lost."""
    async with Loopback(scripts={"status": [loopback.silence, loopback.hang_up, loopback.hang_up]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url) as client:
            stalled = await unanswered(read(client, within=0.1))
            lost = await unanswered(read(client))

    assert (stalled.reason, stalled.started) == ("no whole response within 0.1 s", True)
    assert (lost.reason, lost.started) == ("ServerDisconnectedError: connection lost", True)


@pytest.mark.asyncio
async def test_a_read_that_waits_for_a_connection_has_not_left() -> None:
    """A read whose time is up in the queue never began to leave."""
    async with Loopback(scripts={"status": [loopback.silence]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, max_connections=1) as client:
            stalled = asyncio.ensure_future(unanswered(read(client)))
            await server.arrived.wait()

            assert not (await unanswered(read(client, within=0.05))).started
            stalled.cancel()
            await asyncio.gather(stalled, return_exceptions=True)


# --- who ended it ---------------------------------------------------------------------------------------------------


def cut(status: int, body: object) -> Act:
    """Answer with this status, and stop in the middle of the body."""

    async def act(exchange: Exchange) -> None:
        await exchange.reply(status, body, length=1000)
        exchange.hang_up()

    return act


async def cut_chunk(exchange: Exchange) -> None:
    """Stop in the middle of a chunked body."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{")
    await exchange.writer.drain()
    exchange.hang_up()


ENDS: dict[str, tuple[Act, ResolveBound]] = {
    "hung up": (loopback.hang_up, DIRECT),
    "reset": (loopback.reset, DIRECT),
    "cut in the body": (cut(200, {}), DIRECT),
    "cut in a gateway's page": (cut(502, HTML), TIMEOUT),
    "cut in a chunk": (cut_chunk, TIMEOUT),
    "not HTTP": (loopback.garbage, TIMEOUT),
    "an endless body": (loopback.endless, TIMEOUT),
    "silence": (loopback.silence, TIMEOUT),
    "a stalled body": (loopback.stall_body, TIMEOUT),
}


@every_network
@pytest.mark.parametrize("end", ENDS)
def test_only_a_direct_connection_that_the_other_side_lost_has_the_short_bound(end: str, network: Network) -> None:
    """All else may still be on its way: what we gave up, what is no HTTP, what a gateway says, and all of a proxy."""
    act, bound = ENDS[end]

    async def main() -> None:
        async with network.serve(Loopback(scripts={"capture": [act]})) as server, network.connect(server) as client:
            failure = await unanswered(write(client, response_timeout=0.2))

            assert failure.started
            assert failure.bound is (TIMEOUT if network.proxy else bound)

    network.run(main)


@pytest.mark.asyncio
async def test_a_connection_that_the_client_closes_has_the_long_bound() -> None:
    """Closing the client breaks its requests off, wherever they are."""
    async with Loopback(scripts={"capture": [loopback.silence]}).listen() as server:
        client = JetpayClient(TOKEN, base_url=server.url)
        failure = asyncio.ensure_future(unanswered(write(client)))
        await server.arrived.wait()
        await client.aclose()

        assert (await failure).bound is TIMEOUT


async def pass_on(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    return await handler(request)


class OwnConnector(aiohttp.TCPConnector):
    """As connectors to SOCKS proxies are."""


class RestrictedRequest(aiohttp.ClientRequest):
    """A request class of the caller's."""


def subclassed_session() -> aiohttp.ClientSession:
    return session_class()()


SESSIONS: dict[str, tuple[Callable[[], aiohttp.ClientSession], bool]] = {
    "plain": (aiohttp.ClientSession, True),
    "with a middleware": (lambda: aiohttp.ClientSession(middlewares=[pass_on]), True),
    "with trace hooks": (lambda: aiohttp.ClientSession(trace_configs=[aiohttp.TraceConfig()]), True),
    "with the proxies of the environment, of which there are none": (
        lambda: aiohttp.ClientSession(trust_env=True),
        True,
    ),
    "with a request class": (lambda: aiohttp.ClientSession(request_class=RestrictedRequest), True),
    "with another connector": (lambda: aiohttp.ClientSession(connector=OwnConnector()), False),
    "of a subclass": (subclassed_session, False),
}


@pytest.mark.parametrize("kind", SESSIONS)
@pytest.mark.asyncio
async def test_a_given_session_is_direct_where_nothing_can_be_in_between(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connector or a session of another class may lead anywhere; what only changes requests does not."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    make, direct = SESSIONS[kind]
    server = Loopback(scripts={"capture": [loopback.behave, loopback.hang_up]})
    async with server.listen(), make() as session:
        client = JetpayClient(TOKEN, base_url=server.url, session=session)

        assert (await read(client)).direct is direct
        assert (await write(client)).direct is direct
        assert (await unanswered(write(client))).bound is (DIRECT if direct else TIMEOUT)


@pytest.mark.parametrize("way", ["own session", "own session, unknown aiohttp", "given session", "middleware"])
@pytest.mark.asyncio
async def test_a_proxy_is_known_however_it_is_named(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment, by the session or by a middleware: what goes through it is not direct."""

    async def through(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.update_proxy(proxy_url, None, None)
        return await handler(request)

    monkeypatch.setattr(transport, "REQUESTS_CAN_BE_GUARDED", way != "own session, unknown aiohttp")
    monkeypatch.setenv("NO_PROXY", "")
    # A forwarding proxy that does what the service would.
    server = Loopback(scripts={"elsewhere": [replies(200, {}), replies(200, {}), loopback.hang_up]})
    async with server.listen():
        proxy_url = aiohttp.client.URL(server.url)
        monkeypatch.setenv("HTTP_PROXY", server.url)
        session = {
            "given session": lambda: aiohttp.ClientSession(proxy=server.url),
            "middleware": lambda: aiohttp.ClientSession(middlewares=[through]),
        }.get(way, lambda: None)()
        async with JetpayClient(TOKEN, base_url="http://127.0.0.1:9", session=session, trust_env=True) as client:
            assert (await read(client)).direct is False
            assert (await write(client)).direct is False
            assert (await unanswered(write(client))).bound is TIMEOUT
        if session is not None:
            await session.close()


def payload_error(cause: Exception) -> aiohttp.ClientPayloadError:
    error = aiohttp.ClientPayloadError("not completed")
    error.__cause__ = cause
    return error


LOST: dict[str, tuple[Exception, int | None, bool]] = {
    "closed": (aiohttp.ServerDisconnectedError(), None, True),
    "reset": (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), None, True),
    "closed before the write": (aiohttp.ClientOSError(errno.EPIPE, "broken pipe"), None, True),
    "closed at the write": (aiohttp.ClientConnectionResetError("Cannot write to closing transport"), None, True),
    "not acknowledged": (aiohttp.ClientOSError(errno.ETIMEDOUT, "timed out"), None, False),
    "no route": (aiohttp.ClientOSError(errno.EHOSTUNREACH, "no route"), None, False),
    "no words": (aiohttp.ClientOSError(), None, False),
    "time is up": (TimeoutError(), None, False),
    "cut": (payload_error(ContentLengthError("not enough data")), 200, True),
    "cut, a gateway's": (payload_error(ContentLengthError("not enough data")), 504, False),
    "cut, chunked": (payload_error(TransferEncodingError("not enough data")), 200, False),
    "too large": (aiohttp.ClientPayloadError("larger"), 200, False),
    "lost in the body": (aiohttp.ServerDisconnectedError(), 502, False),
}


@pytest.mark.parametrize(("error", "status", "lost"), LOST.values(), ids=LOST)
def test_the_other_side_lost_it_only_if_it_said_so(error: Exception, status: int | None, lost: bool) -> None:
    """A reset or an end is the other side's; a time that is up is not, not even the kernel's."""
    assert _is_lost(error, status) is lost


@asynccontextmanager
async def slow_end(server: Loopback) -> AsyncIterator[tuple[JetpayClient, aiohttp.ClientSession, asyncio.Event]]:
    """A client on a session whose trace hook dawdles over each whole response to a capture."""
    dawdling = asyncio.Event()

    async def dawdle(session: aiohttp.ClientSession, context: object, params: aiohttp.TraceRequestEndParams) -> None:
        if params.method == "POST":
            dawdling.set()
            await asyncio.Event().wait()

    hooks = aiohttp.TraceConfig()
    hooks.on_request_end.append(dawdle)
    async with aiohttp.ClientSession(trace_configs=[hooks]) as session:
        yield JetpayClient(TOKEN, base_url=server.url, session=session, retry=FAST), session, dawdling


@pytest.mark.asyncio
async def test_a_connection_that_is_back_in_the_pool_is_not_aborted() -> None:
    """A capture that is cancelled with its response whole leaves alone the request that has its connection."""
    server = Loopback()
    gate = asyncio.Event()

    async def answer_late(exchange: Exchange) -> None:
        await gate.wait()
        await exchange.behave()

    server.scripts["status"] = [answer_late]
    async with server.listen(), slow_end(server) as (client, session, dawdling):
        capture = asyncio.ensure_future(write(client))
        await dawdling.wait()
        server.arrived.clear()
        other = asyncio.ensure_future(session.get(f"{server.url}{STATUS}"))
        await server.arrived.wait()

        capture.cancel()
        await asyncio.gather(capture, return_exceptions=True)
        gate.set()

        assert (await (await other).json()) == {"state": "paid"}
        assert server.connections == 1


# --- what each request of one origin has in common --------------------------------------------------------------------


@pytest.mark.parametrize(
    "origin", ["https://api.example", "http://127.0.0.1:8080", "http://[::1]:80", "https://ünï.ca"]
)
def test_the_parts_of_the_host_are_those_of_each_url(origin: str) -> None:
    """What is worked out once for an origin is what yarl works out of each of its URLs."""
    parts = _host_parts(URL(origin))
    url = URL(origin).with_path("/debit/a%20b/capture", encoded=True)

    assert parts == {name: getattr(url, name) for name in parts}
    assert parts["host_port_subcomponent"]


def test_without_yarls_cache_each_url_works_its_host_out() -> None:
    """A yarl that keeps them elsewhere is no reason to fail."""
    assert _host_parts(attrs.make_class("Origin", {name: attrs.field(default=1) for name in HOST_PARTS})()) == {}


@pytest.mark.asyncio
async def test_a_client_works_without_the_parts_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handing the host's parts on only saves time."""
    monkeypatch.setattr(transport, "_host_parts", lambda _: {})
    async with Loopback().listen() as server, JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
        assert (await client.capture(DEBIT_ID)).final


@pytest.mark.asyncio
@pytest.mark.parametrize("split", [1, 10, 20])
async def test_a_body_that_comes_in_parts_is_read_to_its_end(split: int) -> None:
    """Whether the body comes with the head, or later, makes no difference."""
    body = f'{{"identifier": "{DEBIT_ID}", "state": "paid"}}'.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    arrived = asyncio.Event()

    async def act(exchange: Exchange) -> None:
        exchange.writer.write(head + body[:split])
        await exchange.writer.drain()
        await arrived.wait()
        exchange.writer.write(body[split:])
        await exchange.writer.drain()

    async with (
        Loopback(scripts={"capture": [act]}).listen() as server,
        JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client,
    ):
        writing = asyncio.create_task(write(client))
        while not server.count("capture"):
            await asyncio.sleep(0)
        arrived.set()
        response = await writing

    assert response.body == body
