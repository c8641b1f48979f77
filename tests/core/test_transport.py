"""Session manners: whose session it is, where it may be used, and what aiohttp is kept from doing by itself."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from jetpay_async import (
    DEMO_URL,
    PRODUCTION_URL,
    ConfigurationError,
    InvalidRequestError,
    JetpayClient,
    NotSentError,
    OutcomeUnknownError,
    RetryPolicy,
    ServiceError,
)
from jetpay_async._core import fork
from jetpay_async._core.clock import Clock
from jetpay_async._core.transport import _describe
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Exchange, Loopback, replies, work_then
from tests.network import FAST, TOKEN, preauthorize


@asynccontextmanager
async def given(server: Loopback, session: aiohttp.ClientSession, **options: float) -> AsyncIterator[JetpayClient]:
    async with JetpayClient(TOKEN, base_url=server.url, session=session, retry=FAST, **options) as client:  # type: ignore[arg-type] # floats only
        yield client


@pytest.mark.asyncio
async def test_headers_of_our_own_session() -> None:
    """Each request carries the token, says JSON, and names the SDK and the application."""
    async with Loopback().listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, user_agent_suffix="rentals/2.1") as client:
            await preauthorize(client)

    (request,) = server.requests
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "application/json"
    assert request.headers["user-agent"].startswith("jetpay-async/")
    assert request.headers["user-agent"].endswith(" rentals/2.1")
    assert request.body == b'{"amount":100.50,"to_bank_account_id":"bank_789","statement":"Test statement"}'


@pytest.mark.asyncio
async def test_a_capture_has_no_body() -> None:
    """The guide's capture is a POST without a body."""
    async with Loopback().listen() as server, JetpayClient(TOKEN, base_url=server.url) as client:
        await client.capture(DEBIT_ID)

    (request,) = server.requests
    assert (request.method, request.target) == ("POST", "/debit/debit_123/capture")
    assert request.body == b""
    assert request.headers["content-length"] == "0"


@pytest.mark.asyncio
async def test_a_path_prefix_of_the_base_url_is_kept() -> None:
    """A gateway may serve the API below a path."""
    async with Loopback().listen() as server, JetpayClient(TOKEN, base_url=f"{server.url}/jetpay/v1/") as client:
        await client.transaction_status("a b")

    assert server.requests[0].target == "/jetpay/v1/transaction/a%20b/status"


@pytest.mark.asyncio
async def test_a_given_session_is_left_as_it_was() -> None:
    """It is not closed, its headers, cookies and timeouts are not touched, and the token is not in it."""
    async with Loopback().listen() as server, aiohttp.ClientSession(headers={"X-Mine": "1"}) as session:
        before = {name: repr(value) for name, value in vars(session).items() if name != "_cookie_jar"}
        async with given(server, session) as client:
            await client.capture(DEBIT_ID)

        assert not session.closed
        assert {name: repr(value) for name, value in vars(session).items() if name != "_cookie_jar"} == before
        assert server.requests[0].headers["x-mine"] == "1"
        assert server.requests[0].headers["authorization"] == f"Bearer {TOKEN}"
        with pytest.raises(ConfigurationError, match="client is closed"):
            await client.capture(DEBIT_ID)


@pytest.mark.asyncio
async def test_a_given_session_s_settings_do_not_change_the_outcome() -> None:
    """`raise_for_status`, a base URL and timeouts of the session do not reach into the client."""
    async with Loopback(scripts={"preauthorize": [replies(422, FASTAPI[422])]}).listen() as server:
        async with aiohttp.ClientSession(
            base_url="http://elsewhere.example/", raise_for_status=True, timeout=aiohttp.ClientTimeout(total=0.000001)
        ) as session:
            async with given(server, session) as client:
                with pytest.raises(InvalidRequestError, match=r"body\.amount"):
                    await preauthorize(client)

    assert server.count("preauthorize") == 1


@pytest.mark.parametrize("wrapper", [object(), "session", aiohttp.TCPConnector], ids=["object", "str", "connector"])
def test_a_wrapper_is_refused(wrapper: object) -> None:
    """What isn't a ClientSession may send a write twice behind our back."""
    with pytest.raises(ConfigurationError, match="may send a write twice"):
        JetpayClient(TOKEN, session=wrapper)  # type: ignore[arg-type] # the point


@pytest.mark.parametrize(
    "act", [loopback.hang_up, work_then(loopback.hang_up), replies(503, HTML)], ids=["hang up", "done", "503"]
)
@pytest.mark.asyncio
async def test_a_middleware_can_not_send_a_write_twice(act: loopback.Act) -> None:
    """A session middleware that retries is stopped before a byte of the second attempt leaves."""

    async def insist(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        for _ in range(3):
            try:
                response = await handler(request)
            except aiohttp.ClientError:
                continue
            if response.status < 500:
                return response
            response.close()
        return await handler(request)

    async with Loopback(scripts={"preauthorize": [act]}).listen() as server:
        async with aiohttp.ClientSession(middlewares=[insist]) as session, given(server, session) as client:
            with pytest.raises(OutcomeUnknownError, match="second time"):
                await preauthorize(client)

        assert server.count("preauthorize") == 1


@pytest.mark.asyncio
async def test_what_a_middleware_raises_is_told_without_its_words() -> None:
    """Whatever fails below the client before the write means that nothing left."""

    async def broken(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        raise LookupError("hunter2")

    async with Loopback().listen() as server, aiohttp.ClientSession(middlewares=[broken]) as session:
        async with given(server, session) as client:
            with pytest.raises(NotSentError, match="LookupError: raised below the client") as caught:
                await preauthorize(client)

    assert "hunter2" not in str(caught.value)
    assert server.requests == []


@pytest.mark.asyncio
async def test_a_middleware_can_not_send_a_write_after_it_was_given_up() -> None:
    """Once the caller was told that nothing left, nothing leaves: not from a task that a middleware left behind."""
    behind: list[asyncio.Task[aiohttp.ClientResponse]] = []
    reported = asyncio.Event()

    async def dawdle(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        async def later() -> aiohttp.ClientResponse:
            await reported.wait()
            return await handler(request)

        behind.append(asyncio.create_task(later()))
        raise aiohttp.ClientError("impatient")

    async with Loopback().listen() as server, aiohttp.ClientSession(middlewares=[dawdle]) as session:
        async with given(server, session) as client:
            with pytest.raises(NotSentError):
                await preauthorize(client.with_options(retry=RetryPolicy(max_attempts=1)))
            reported.set()
            await asyncio.wait(behind)

    assert isinstance(behind[0].exception(), aiohttp.ClientConnectionError)
    assert server.requests == []


@pytest.mark.parametrize("worked", [True, False], ids=["done", "not done"])
@pytest.mark.asyncio
async def test_aiohttp_does_not_resend_a_delete_by_itself(worked: bool) -> None:  # the row of the stale connection
    """A DELETE on a kept-alive connection that the server drops arrives once, and we resolve it."""
    act = work_then(loopback.hang_up) if worked else loopback.hang_up
    server = Loopback(scripts={"cancel": [act]})
    arrived: list[int] = []

    async def note(exchange: Exchange) -> None:
        arrived.append(server.count("cancel"))
        await exchange.behave()

    server.scripts["status"] = [replies(200, {"state": "preauthorized"}), note]
    async with server.listen(), JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
        await client.transaction_status(DEBIT_ID)
        await client.cancel_transaction(DEBIT_ID)

    assert server.state == "cancelled"
    assert arrived[0] == 1
    assert server.count("cancel") == (1 if worked else 2)


@pytest.mark.asyncio
async def test_a_write_on_a_stale_connection_is_unknown() -> None:
    """A preauthorize on a kept-alive connection that the server drops is sent once and unknown."""
    server = Loopback(scripts={"preauthorize": [loopback.hang_up]})
    async with server.listen(), JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
        await client.transaction_status(DEBIT_ID)
        with pytest.raises(OutcomeUnknownError):
            await preauthorize(client)

    assert server.connections == 1
    assert server.count("preauthorize") == 1


@pytest.mark.parametrize(("operation", "error"), [("preauthorize", OutcomeUnknownError), ("capture", None)])
@pytest.mark.asyncio
async def test_a_reset_before_a_byte_was_read(operation: str, error: type[Exception] | None) -> None:
    """The client can't know that the server never read it: unknown, and for a capture confirmed_by_status."""
    server = Loopback(refuse_to_read=1)
    async with server.listen(), JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
        if error is None:
            capture = await client.capture(DEBIT_ID)
            assert capture.attempts == 2
        else:
            with pytest.raises(error):
                await preauthorize(client)

    assert server.count(operation) == (1 if error is None else 0)


@pytest.mark.asyncio
async def test_no_cookies_and_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own session keeps no cookies and asks no proxy unless told to."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    server = Loopback(scripts={"status": [replies(200, {"state": "paid"}, Set_Cookie="session=1; Path=/")]})
    async with server.listen(), JetpayClient(TOKEN, base_url=server.url) as client:
        await client.transaction_status(DEBIT_ID)
        await client.transaction_status(DEBIT_ID)

    assert all("cookie" not in request.headers for request in server.requests)
    assert len(server.requests) == 2


@pytest.mark.asyncio
async def test_the_proxy_of_the_environment_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`trust_env=True` uses it: here one that nobody runs."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    async with Loopback().listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, trust_env=True, retry=FAST) as client:
            with pytest.raises(NotSentError):
                await client.capture(DEBIT_ID)

    assert server.requests == []


@pytest.mark.asyncio
async def test_a_closed_client_says_so() -> None:
    """After closing, each use is a ConfigurationError, and closing again is fine."""
    async with Loopback().listen() as server:
        client = JetpayClient(TOKEN, base_url=server.url)
        async with client as same:
            assert same is client
            assert not client.closed
            await client.capture(DEBIT_ID)
        await client.aclose()
        await client.aclose()

        assert client.closed
        for call in (client.capture(DEBIT_ID), client.transaction_status(DEBIT_ID), client.__aenter__()):
            with pytest.raises(ConfigurationError, match="client is closed"):
                await call
        assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_closing_in_the_middle_is_an_unknown_outcome() -> None:
    """A write that is cut off by closing the client may have happened."""
    async with Loopback(scripts={"capture": [loopback.silence]}).listen() as server:
        client = JetpayClient(TOKEN, base_url=server.url, timeout=1.0)
        task = asyncio.create_task(client.capture(DEBIT_ID))
        await server.arrived.wait()
        await client.aclose()

        with pytest.raises(OutcomeUnknownError, match="client is closed"):
            await task


@pytest.mark.asyncio
async def test_a_copy_closes_nothing() -> None:
    """A client made by `with_options` shares the session and leaves it open."""
    async with Loopback().listen() as server, JetpayClient(TOKEN, base_url=server.url) as client:
        async with client.with_options(timeout=1.0, retry=FAST) as copy:
            await copy.capture(DEBIT_ID)
        assert not client.closed
        assert not copy.closed
        await client.capture("other")
        await client.aclose()
        assert copy.closed
    assert server.connections == 1


@pytest.mark.asyncio
async def test_a_closed_session_of_the_caller() -> None:
    """A given session that was closed is named as the cause."""
    async with aiohttp.ClientSession() as session:
        client = JetpayClient(TOKEN, session=session)
    assert client.closed
    with pytest.raises(ConfigurationError, match="session given to the client is closed"):
        await client.capture(DEBIT_ID)


def test_a_client_is_made_before_there_is_a_loop_and_used_in_one() -> None:
    """Making it needs no event loop; using it in a second loop is refused with the way out."""
    client = JetpayClient(TOKEN, base_url="http://127.0.0.1:1", retry=RetryPolicy(max_attempts=1))

    async def use() -> None:
        await client.transaction_status(DEBIT_ID)

    async def close() -> None:
        await client.aclose()

    with asyncio.Runner() as first, asyncio.Runner() as second:
        with pytest.raises(NotSentError):
            first.run(use())
        with pytest.raises(ConfigurationError, match="another event loop; make one for each loop"):
            second.run(use())
        with pytest.raises(ConfigurationError, match="another event loop; close it there"):
            second.run(close())
        first.run(close())


@pytest.mark.asyncio
async def test_a_client_from_before_a_fork_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork, the client can't be used, and closing it leaves the session that the parent uses."""
    monkeypatch.setattr(fork, "_generation", fork._generation)
    monkeypatch.setattr(fork, "_kept", [])
    async with Loopback().listen() as server:
        client = JetpayClient(TOKEN, base_url=server.url)
        await client.transaction_status(DEBIT_ID)
        fork._count_fork()

        with pytest.raises(ConfigurationError, match="used before this process was forked"):
            await client.capture(DEBIT_ID)
        await client.aclose()

        (session,) = fork._kept
        assert client.closed
        assert isinstance(session, aiohttp.ClientSession)
        assert not session.closed
        await session.close()
        assert server.count("capture") == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_child_is_refused_and_harms_nothing() -> None:
    """In a forked child the client can't be used, closing it there leaves the parent's connection alone."""

    async def main() -> None:
        async with Loopback().listen() as server, JetpayClient(TOKEN, base_url=server.url) as client:
            await client.transaction_status(DEBIT_ID)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                os._exit(_in_the_child(client))
            _, status = os.waitpid(child, 0)
            await client.transaction_status(DEBIT_ID)

            assert os.waitstatus_to_exitcode(status) == 0
            assert server.connections == 1

    def _in_the_child(client: JetpayClient) -> int:
        async def use() -> int:
            try:
                await client.capture(DEBIT_ID)
            except ConfigurationError as error:
                await client.aclose()
                return 0 if "forked" in str(error) and client.closed else 1
            return 2

        asyncio.events._set_running_loop(None)
        loop = asyncio.new_event_loop()
        return loop.run_until_complete(use())

    asyncio.run(main())


@pytest.mark.asyncio
async def test_a_rotating_token_is_asked_for_each_request() -> None:
    """An async function gives a new token to each request; it never stays in the session."""
    tokens = iter(["first-token", "second-token"])

    async def provide() -> str:
        return next(tokens)

    async with Loopback().listen() as server, JetpayClient(provide, base_url=server.url) as client:
        await client.transaction_status(DEBIT_ID)
        await client.capture(DEBIT_ID)

    assert [request.headers["authorization"] for request in server.requests] == [
        "Bearer first-token",
        "Bearer second-token",
    ]


async def _no_vault() -> str:
    raise LookupError("the vault is sealed: hunter2")


async def _slow_vault() -> str:
    await asyncio.Event().wait()
    return "late"


@pytest.mark.parametrize(("provide", "reason"), [(_no_vault, "LookupError"), (_slow_vault, "TimeoutError")])
@pytest.mark.asyncio
async def test_a_token_that_can_not_be_had_means_not_sent(provide: Callable[[], Awaitable[str]], reason: str) -> None:
    """If the token's source fails or is slow, nothing left, and its words are not repeated."""
    async with (
        Loopback().listen() as server,
        JetpayClient(provide, base_url=server.url, retry=FAST, timeout=0.2) as client,
    ):
        for call in (preauthorize(client), client.transaction_status(DEBIT_ID)):
            with pytest.raises(NotSentError, match=rf"api_token\(\) raised {reason}") as caught:
                await call
            assert "hunter2" not in str(caught.value)

    assert server.requests == []


@pytest.mark.asyncio
async def test_a_token_that_comes_after_the_deadline_is_not_used() -> None:
    """Waiting for the token is part of the call: if that took all the time, nothing is asked of anybody."""
    now = 0.0

    async def provide() -> str:
        nonlocal now
        now += 60.0
        return "late-token"

    async with Loopback().listen() as server:
        async with JetpayClient(provide, base_url=server.url, clock=Clock(monotonic=lambda: now)) as client:
            for call in (preauthorize(client), client.transaction_status(DEBIT_ID)):
                with pytest.raises(NotSentError, match="deadline had passed"):
                    await call

    assert server.requests == []


@pytest.mark.asyncio
async def test_a_bad_token_from_the_source_is_a_configuration_error() -> None:
    """What the function returns is checked like a token that was given."""

    async def provide() -> str:
        return "two words"

    async with JetpayClient(provide, base_url="http://127.0.0.1:1") as client:
        with pytest.raises(ConfigurationError, match="api_token") as caught:
            await client.capture(DEBIT_ID)

    assert "two words" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.asyncio
async def test_a_compressed_reply_is_read(encoding: str) -> None:
    """A proxy may compress; what it says is the same."""
    import gzip
    import zlib

    body = b'{"state": "paid"}'
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)

    async def act(exchange: Exchange) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(packed)}\r\n\r\n"
        exchange.writer.write(head.encode() + packed)
        await exchange.writer.drain()

    async with (
        Loopback(scripts={"status": [act]}).listen() as server,
        JetpayClient(TOKEN, base_url=server.url) as client,
    ):
        assert (await client.transaction_status(DEBIT_ID)).state == "paid"


@pytest.mark.asyncio
async def test_a_bomb_is_not_unpacked() -> None:
    """A small reply that unpacks to more than a mebibyte is no usable answer."""
    import zlib

    packed = zlib.compress(b" " * 50_000_000)

    async def act(exchange: Exchange) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: {len(packed)}\r\n\r\n"
        exchange.writer.write(head.encode() + packed)
        await exchange.writer.drain()

    async with Loopback(scripts={"status": [act]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, retry=RetryPolicy(max_attempts=1)) as client:
            with pytest.raises(ServiceError, match="larger than"):
                await client.transaction_status(DEBIT_ID)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this platform's sockets have no such option")
@pytest.mark.parametrize(("seconds", "milliseconds"), [(70.0, 70_000), (0.02, 1000)])
@pytest.mark.asyncio
async def test_the_kernel_gives_up_with_the_time_to_resolve_after(seconds: float, milliseconds: int) -> None:
    """What the network held back is not delivered once the capture may count as undone, even in a paused process."""
    made: list[socket.socket] = []

    async with Loopback().listen() as server:
        retry = RetryPolicy(resolve_after=0.02, resolve_after_timeout=seconds)
        client = JetpayClient(TOKEN, base_url=server.url, retry=retry)
        factory = client._transport._make_socket
        assert factory is not None
        client._transport._make_socket = lambda address: made.append(factory(address)) or made[-1]
        async with client:
            await client.capture(DEBIT_ID)

            (sock,) = made
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == milliseconds


DESCRIBED: dict[str, tuple[Exception, str]] = {
    "reset": (aiohttp.ClientOSError(104, "Connection reset by peer"), "ClientOSError: Connection reset by peer"),
    "no words": (aiohttp.ClientOSError(), "ClientOSError: connection lost"),
    "disconnected": (aiohttp.ServerDisconnectedError(), "ServerDisconnectedError: connection lost"),
    "timeout": (aiohttp.ServerTimeoutError("secret"), "ServerTimeoutError: no response in time"),
    "connection": (aiohttp.ClientConnectionError("proxy_auth=secret"), "ClientConnectionError: connection lost"),
    "payload": (aiohttp.ClientPayloadError("not completed"), "ClientPayloadError: not completed"),
    "url": (aiohttp.ClientPayloadError("http://user:secret@proxy/"), "ClientPayloadError: http://***@proxy/"),
    "foreign": (LookupError("secret"), "LookupError: raised below the client"),
}


@pytest.mark.parametrize(("error", "words"), DESCRIBED.values(), ids=DESCRIBED)
def test_foreign_errors_are_described_without_their_secrets(error: Exception, words: str) -> None:
    """Of foreign texts only those are passed on that can't hold a header or a proxy's password."""
    described = _describe(error)

    assert described.startswith(words)
    assert "secret" not in described


def test_it_is_not_pickled() -> None:
    """A client holds a secret and sockets; neither belongs into a pickle."""
    with pytest.raises(TypeError, match="make one in each process"):
        pickle.dumps(JetpayClient(TOKEN))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": -1.0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"timeout": 10**400}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": None}, "timeout"),
        ({"timeout": True}, "timeout"),
        ({"retry": 3}, "retry"),
        ({"max_connections": 0}, "max_connections"),
        ({"max_connections": 1.5}, "max_connections"),
        ({"user_agent_suffix": "two\r\nlines"}, "user_agent_suffix"),
        ({"user_agent_suffix": ""}, "user_agent_suffix"),
    ],
)
def test_options_are_checked(options: dict[str, object], match: str) -> None:
    """An option that can't work is named when the client is made."""
    with pytest.raises(ConfigurationError, match=match):
        JetpayClient(TOKEN, **options)  # type: ignore[arg-type] # the point


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment gives token and host; without a token it says which variable is missing."""
    monkeypatch.setenv("JETPAY_API_TOKEN", TOKEN)
    monkeypatch.delenv("JETPAY_BASE_URL", raising=False)
    assert repr(JetpayClient.from_env()) == f"<JetpayClient {PRODUCTION_URL}>"
    monkeypatch.setenv("JETPAY_BASE_URL", DEMO_URL)
    assert repr(JetpayClient.from_env(timeout=5.0, retry=FAST)) == f"<JetpayClient {DEMO_URL}>"
    monkeypatch.delenv("JETPAY_API_TOKEN")
    with pytest.raises(ConfigurationError, match=r"JETPAY_API_TOKEN is not set.*jetpay sandbox"):
        JetpayClient.from_env()
