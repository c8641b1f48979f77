"""The short way of a guarded POST to the connector: the same bytes, and nothing that watches a session misses one."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from jetpay_async import JetpayClient, NotSentError
from jetpay_async._core.direct_request import DirectRequests, own_method
from tests import loopback
from tests.loopback import DEBIT_ID, Loopback, Request
from tests.network import FAST, TOKEN, preauthorize

Seen = list[tuple[str, str]]
Watch = Callable[[pytest.MonkeyPatch, Seen], None]


def client_of(server: Loopback, **options: Any) -> JetpayClient:
    return JetpayClient(TOKEN, base_url=server.url, retry=FAST, **options)


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The URLs of the requests that take the short way."""
    taken: list[str] = []
    post = DirectRequests.post

    async def note(self: DirectRequests, url: Any, *rest: Any) -> aiohttp.ClientResponse:
        taken.append(str(url))
        return await post(self, url, *rest)

    monkeypatch.setattr(DirectRequests, "post", note)
    return taken


@pytest.mark.asyncio
async def test_a_post_takes_the_short_way_and_a_read_does_not(direct: list[str]) -> None:
    """What aiohttp may send again by itself is left to aiohttp."""
    async with Loopback().listen() as server, client_of(server) as client:
        await preauthorize(client)
        await client.capture(DEBIT_ID)
        await client.transaction_status(DEBIT_ID)
        await client.cancel_transaction(DEBIT_ID)

        assert direct == [server.url + request.target for request in server.requests[:2]]
        assert [request.target for request in server.requests[1:]] == [
            f"/debit/{DEBIT_ID}/capture",
            f"/transaction/{DEBIT_ID}/status",
            f"/transaction/{DEBIT_ID}",
        ]


@pytest.mark.parametrize("option", [{"trust_env": True}, {"session": True}], ids=["trust_env", "a given session"])
@pytest.mark.asyncio
async def test_where_a_session_has_more_to_do_it_is_used(option: dict[str, Any], direct: list[str]) -> None:
    """Only the client's own session, without the proxies of the environment, has nothing to do for a request."""
    async with Loopback().listen() as server, aiohttp.ClientSession() as session:
        async with client_of(server, **{name: session if name == "session" else True for name in option}) as client:
            await client.capture(DEBIT_ID)

        assert server.count("capture") == 1
    assert not direct


def what_left(request: Request, server: Loopback) -> tuple[object, ...]:
    """Everything that the server received, but for the port that differs from run to run."""
    port = server.url.rpartition(":")[2]
    headers = {name: value.replace(port, "PORT") for name, value in request.headers.items()}
    return request.method, request.target, headers, request.body


@pytest.mark.asyncio
async def test_both_ways_send_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Method, target, headers and body of a request do not depend on the way that it takes."""
    sent: list[list[tuple[object, ...]]] = []
    for _ in range(2):
        async with Loopback().listen() as server, client_of(server, user_agent_suffix="rentals/2.1") as client:
            await preauthorize(client)
            await client.capture(DEBIT_ID)
            sent.append([what_left(request, server) for request in server.requests])
        monkeypatch.setattr(DirectRequests, "usable", False)

    assert len(sent[0]) == 2
    assert sent[0] == sent[1]


def replace_steps(monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    steps: Any = vars(aiohttp.ClientSession)["_request"]

    async def record(self: aiohttp.ClientSession, method: str, url: Any, **options: Any) -> aiohttp.ClientResponse:
        seen.append((method, str(url)))
        response: aiohttp.ClientResponse = await steps(self, method, url, **options)
        return response

    monkeypatch.setattr(aiohttp.ClientSession, "_request", record)


def replace_request(monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    request = aiohttp.ClientSession.request

    def record(self: aiohttp.ClientSession, method: str, url: Any, **options: Any) -> Any:
        seen.append((method, str(url)))
        return request(self, method, url, **options)

    monkeypatch.setattr(aiohttp.ClientSession, "request", record)


def extend_new_sessions(monkeypatch: pytest.MonkeyPatch, **more: Any) -> None:
    make = aiohttp.ClientSession.__init__

    def extended(self: aiohttp.ClientSession, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **{**options, **more})

    monkeypatch.setattr(aiohttp.ClientSession, "__init__", extended)


def add_trace_hooks(monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    hooks = aiohttp.TraceConfig()

    async def record(_: object, __: object, started: aiohttp.TraceRequestStartParams) -> None:
        seen.append((started.method, str(started.url)))

    hooks.on_request_start.append(record)
    extend_new_sessions(monkeypatch, trace_configs=[hooks])


def add_middleware(monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    async def record(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        seen.append((request.method, str(request.url)))
        return await handler(request)

    extend_new_sessions(monkeypatch, middlewares=[record])


def replace_class(monkeypatch: pytest.MonkeyPatch, seen: Seen) -> None:
    with pytest.warns(DeprecationWarning, match="Inheritance"):

        class Recording(aiohttp.ClientSession):
            def request(self, method: str, url: Any, **options: Any) -> Any:
                seen.append((method, str(url)))
                return super().request(method, url, **options)

    monkeypatch.setattr(aiohttp, "ClientSession", Recording)


@pytest.mark.parametrize(
    "watch",
    [replace_steps, replace_request, add_trace_hooks, add_middleware, replace_class],
    ids=lambda watch: watch.__name__,
)
@pytest.mark.asyncio
async def test_whatever_watches_a_session_sees_each_request(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorders, tracers and mocks get the method and the whole URL, however they hook into aiohttp."""
    seen: Seen = []
    watch(monkeypatch, seen)
    async with Loopback().listen() as server, client_of(server) as client:
        await client.capture(DEBIT_ID)

    assert seen == [("POST", f"{server.url}/debit/{DEBIT_ID}/capture")]


@pytest.mark.asyncio
async def test_what_watches_a_session_may_come_and_go(monkeypatch: pytest.MonkeyPatch, direct: list[str]) -> None:
    """A client that is in use notices that the session's methods were replaced, and that they are aiohttp's again."""
    seen: Seen = []
    async with Loopback().listen() as server, client_of(server) as client:
        await client.capture("debit_1")
        with monkeypatch.context() as while_watched:
            replace_steps(while_watched, seen)
            await client.capture("debit_2")
        await client.capture("debit_3")

    assert [url for _, url in seen] == [f"{server.url}/debit/debit_2/capture"]
    assert direct == [f"{server.url}/debit/debit_{number}/capture" for number in (1, 3)]


def test_a_method_that_was_replaced_before_is_not_taken_for_aiohttps_own() -> None:
    """A tracer may have been there first, and may have copied the name and the module of what it replaces."""

    class Session:
        _request = vars(aiohttp.ClientSession)["_request"]

        @functools.wraps(aiohttp.ClientSession.request)
        def request(self) -> None: ...

        post = functools.partialmethod(aiohttp.ClientSession.post)

    assert own_method(Session, "_request") is vars(aiohttp.ClientSession)["_request"]
    assert own_method(Session, "request") is not Session.request
    assert own_method(Session, "post") is not vars(Session)["post"]
    assert own_method(Session, "get") is not None


@pytest.mark.asyncio
async def test_no_free_connection_in_time_is_not_sent() -> None:
    """A capture that waits for a connection until its deadline has not left, and says what it waited for."""
    server = Loopback(scripts={"capture": [loopback.silence]})
    async with server.listen(), client_of(server, max_connections=1, timeout=20.0) as client:
        busy = client.with_options(timeout=20.0)
        first = asyncio.create_task(busy.capture("debit_1"))
        while not server.requests:
            await asyncio.sleep(0.01)
        with pytest.raises(NotSentError, match="ConnectionTimeoutError: Connection timeout to host"):
            await client.with_options(timeout=0.05).capture("debit_2")
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    assert server.count("capture") == 1
