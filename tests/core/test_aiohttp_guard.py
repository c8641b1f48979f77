"""Where a guard stands in aiohttp: at its own request, whatever is around it."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import math
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict
from yarl import URL

from jetpay_async import JetpayClient, NotSentError, OutcomeUnknownError
from jetpay_async._core import transport
from jetpay_async._core.aiohttp_guard import Credential, GuardedBody, GuardedRequest, NoBody, is_known
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async._core.send_guard import ReadGuard, SendGuard
from tests import loopback
from tests.loopback import DEBIT_ID, Loopback
from tests.network import FAST, TOKEN, Network, every_network, preauthorize


@pytest.mark.parametrize("requests", [True, False], ids=["in the request", "in the body"])
@pytest.mark.asyncio
async def test_wherever_the_guard_stands_it_knows_what_left(requests: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an aiohttp whose requests can't be guarded, a capture that left and was lost is no less unknown."""
    monkeypatch.setattr(transport, "REQUESTS_CAN_BE_GUARDED", requests)
    scripts = {"capture": [loopback.hang_up], "status": [loopback.silence] * 9}
    async with (
        Loopback(scripts=scripts).listen() as server,
        JetpayClient(TOKEN, base_url=server.url, timeout=0.3, retry=FAST) as client,
    ):
        with pytest.raises(OutcomeUnknownError):
            await client.capture(DEBIT_ID)

        assert server.count("capture") == 1


@pytest.mark.parametrize("requests", [True, False], ids=["in the request", "in the body"])
@pytest.mark.asyncio
async def test_wherever_the_guard_stands_a_request_goes_to_its_own_place(
    requests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the base URL's path, with the API's host, whichever requests are under way beside it."""
    monkeypatch.setattr(transport, "REQUESTS_CAN_BE_GUARDED", requests)
    debits = [f"debit_{number}" for number in range(20)]
    async with (
        Loopback().listen() as server,
        JetpayClient(TOKEN, base_url=f"{server.url}/tenant/1", timeout=2.0, max_connections=4, retry=FAST) as client,
    ):
        outcomes = await asyncio.gather(
            *map(client.capture, debits), *map(client.transaction_status, debits), return_exceptions=True
        )

    targets = [f"/tenant/1/debit/{debit}/capture" for debit in debits]
    targets += [f"/tenant/1/transaction/{debit}/status" for debit in debits]
    assert len(outcomes) == len(targets)
    assert {request.target for request in server.requests} == set(targets)
    assert {request.headers["host"] for request in server.requests} == {server.url.removeprefix("http://")}


@pytest.mark.asyncio
async def test_a_forwarding_proxy_is_told_the_whole_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over plain HTTP, a proxy learns from the request line where to forward it."""
    async with Loopback().listen() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        async with JetpayClient(TOKEN, base_url="http://127.0.0.1:9/v1", trust_env=True, timeout=0.5) as client:
            with pytest.raises(OutcomeUnknownError):  # this proxy forwards nothing, and its answer is about no debit
                await client.capture(DEBIT_ID)

    assert proxy.requests[0].target == f"http://127.0.0.1:9/v1/debit/{DEBIT_ID}/capture"
    assert proxy.requests[0].headers["host"] == "127.0.0.1:9"


@pytest.mark.parametrize(
    ("release", "known"),
    [("3.12.0", True), ("3.14.9", True), ("3.15.0", False), ("3.15.0a1.dev0", False), ("4.0.0a1", False)],
)
def test_a_release_that_was_not_tried_is_not_trusted_with_the_quick_way(release: str, known: bool) -> None:
    """It may send in another way, and nothing but a payload of ours is then sure to be asked."""
    assert is_known(release) is known


def test_the_release_that_is_installed_is_known() -> None:
    """Where the tests pass with a new one, `aiohttp_guard` is to be told."""
    assert is_known(aiohttp.__version__)


@every_network
def test_tasks_that_share_a_context_have_a_guard_each(network: Network) -> None:
    """Two captures in tasks of one Context: a lost response is resolved, and neither is sent a second time."""

    async def main() -> None:
        server = Loopback(scripts={"capture": [loopback.work_then(loopback.cut_head), loopback.behave]})
        context = contextvars.copy_context()
        async with network.serve(server), network.connect(server) as client:
            captures = [
                asyncio.create_task(client.capture(debit_id), context=context) for debit_id in (DEBIT_ID, "debit_456")
            ]
            done = await asyncio.gather(*captures)

        assert sorted(capture.confirmed_by_status for capture in done) == [False, True]
        assert server.count("capture") == server.captures == 2

    network.run(main)


@every_network
def test_a_shared_context_does_not_keep_a_call_from_ending(network: Network) -> None:
    """A capture that is never answered ends at its deadline as unknown, whatever another task of its Context does."""

    async def main() -> None:
        server = Loopback(scripts={"capture": [loopback.silence, loopback.behave], "status": [loopback.silence] * 9})
        context = contextvars.copy_context()
        async with network.serve(server), network.connect(server, timeout=0.5) as client:
            first = asyncio.create_task(client.capture(DEBIT_ID), context=context)
            await server.arrived.wait()
            second = asyncio.create_task(client.capture("debit_456"), context=context)

            assert (await second).attempts == 1
            with pytest.raises(OutcomeUnknownError):
                await first

    network.run(main)


@pytest.mark.asyncio
async def test_a_request_of_the_own_session_without_a_guard_does_not_leave() -> None:
    """Whoever makes a request on the client's own session without a guard is refused before a byte leaves."""
    async with Loopback().listen() as server, JetpayClient(TOKEN, base_url=server.url) as client:
        await client.transaction_status(DEBIT_ID)
        session = client._transport._session
        assert session is not None
        for data in (None, b"{}"):
            with pytest.raises(TypeError, match="without a guard"):
                await session.post(f"{server.url}/debit/{DEBIT_ID}/capture", data=data)

        assert server.count("capture") == 0


@pytest.mark.parametrize("operation", [preauthorize, lambda client: client.capture(DEBIT_ID)], ids=["body", "no body"])
@pytest.mark.asyncio
async def test_a_write_whose_body_a_middleware_replaces_does_not_leave(
    operation: Callable[[JetpayClient], Awaitable[object]],
) -> None:
    """The guard is in the body: with another one, nobody would know whether the request left."""

    async def replace(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.update_body_from_data(b"{}")
        return await handler(request)

    async with Loopback().listen() as server, aiohttp.ClientSession(middlewares=[replace]) as session:
        client = JetpayClient(TOKEN, base_url=server.url, session=session, retry=FAST)
        with pytest.raises(NotSentError, match="replaced the request's body"):
            await operation(client)

        assert server.requests == []


@pytest.mark.asyncio
async def test_a_middleware_of_the_session_still_sees_each_request() -> None:
    """The client's own middleware stands behind those of the session, and takes the place of none."""
    seen: list[str] = []

    async def count(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        seen.append(request.method)
        return await handler(request)

    async with Loopback().listen() as server, aiohttp.ClientSession(middlewares=[count]) as session:
        client = JetpayClient(TOKEN, base_url=server.url, session=session, retry=FAST)
        await preauthorize(client)
        await client.transaction_status(DEBIT_ID)
        await client.capture(DEBIT_ID)

    assert seen == ["POST", "GET", "POST"]


class _Writer:
    """As much of aiohttp's writer as a payload meets."""

    transport = None

    def __init__(self) -> None:
        self.written: list[bytes] = []

    async def write(self, chunk: bytes) -> None:
        self.written.append(chunk)


def write_guard() -> SendGuard:
    return SendGuard(math.inf, SYSTEM_CLOCK)


CREDENTIAL = Credential(TOKEN, {"Accept": "application/json"})


@pytest.mark.asyncio
async def test_the_guarded_body_is_a_payload_like_any_other() -> None:
    """It answers what aiohttp may ask of a payload, writes once, and says then that it is used up."""
    body = GuardedBody(b'{"a":1}', write_guard(), CREDENTIAL)
    writer = _Writer()

    assert (body.size, body.decode(), body.autoclose, body.consumed) == (7, '{"a":1}', True, False)
    assert copy.deepcopy(body) is body
    await body.write(writer)  # type: ignore[arg-type] # as much of one as it needs
    await body.close()

    assert writer.written == [b'{"a":1}']
    assert body.consumed
    with pytest.raises(Exception, match="second time"):
        await body.write(writer)  # type: ignore[arg-type] # as much of one as it needs


@pytest.mark.asyncio
async def test_what_stands_for_no_body_writes_nothing() -> None:
    """aiohttp takes it for empty, but has it write where the connection is busy; the guard was asked by then."""
    guard = write_guard()
    body = NoBody(guard, CREDENTIAL)
    writer = _Writer()

    assert (bool(body), body.size) == (False, 0)
    await body.write(writer)  # type: ignore[arg-type] # as much of one as it needs

    assert writer.written == []
    assert not guard.started
    assert not NoBody(ReadGuard(SYSTEM_CLOCK), CREDENTIAL).consumed


async def make_request(headers: Any, skip: Any = None) -> GuardedRequest:
    return GuardedRequest(
        "POST",
        URL("http://localhost:8080/debit"),
        headers=headers,
        skip_auto_headers=skip,
        loop=asyncio.get_running_loop(),
        data=NoBody(SendGuard(math.inf, SYSTEM_CLOCK), CREDENTIAL),
    )


COMPLETE = {"Accept": "application/json", "Accept-Encoding": "gzip", "User-Agent": "rentals/2.1"}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", [dict, CIMultiDict], ids=["any mapping", "the session's"])
async def test_headers_that_are_complete_leave_as_they_are(kind: Callable[[Any], Any]) -> None:
    """Headers that have all that aiohttp adds leave as they are, after the host."""
    request = await make_request(kind(COMPLETE))

    assert list(request.headers.items()) == [
        ("Host", "localhost:8080"),
        *COMPLETE.items(),
        ("Content-Length", "0"),
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("missing", COMPLETE)
async def test_a_header_that_is_missing_is_added(missing: str) -> None:
    """What a session does not have among its headers, aiohttp adds as it always does."""
    request = await make_request(CIMultiDict({name: value for name, value in COMPLETE.items() if name != missing}))

    assert request.headers[missing]


@pytest.mark.asyncio
async def test_a_header_that_is_to_be_left_out_is_not_added() -> None:
    """aiohttp's way to leave a header out works as ever."""
    request = await make_request(CIMultiDict(), ["User-Agent"])

    assert "User-Agent" not in request.headers
    assert "Accept-Encoding" in request.headers
