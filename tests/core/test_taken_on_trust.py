"""What a session, a gateway, a token function, a spelling or a state could be mistaken for."""

from __future__ import annotations

import asyncio
import uuid

import aiohttp
import pytest

from jetpay_async import DEMO_URL, InvalidRequestError, JetpayClient, NotSentError, RetryPolicy
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async._core.executor import CallExecutor
from jetpay_async._core.http import ResolveBound
from jetpay_async._core.responses import Unanswered
from jetpay_async._core.send_guard import SendGuard
from tests import loopback
from tests.core.scripted import ScriptedService, answer, begin, executor
from tests.loopback import DEBIT_ID, Loopback, held
from tests.network import FAST, TOKEN

ONCE = RetryPolicy(max_attempts=1)


def expecting_default() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"Expect": "100-continue"})


def expecting_middleware() -> aiohttp.ClientSession:
    async def expect(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        request.update_expect_continue(True)
        return await handler(request)

    return aiohttp.ClientSession(middlewares=[expect])


def expecting_trace() -> aiohttp.ClientSession:
    async def expect(_: object, __: object, params: aiohttp.TraceRequestStartParams) -> None:
        params.headers["Expect"] = "100-continue"

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(expect)
    return aiohttp.ClientSession(trace_configs=[trace])


@pytest.mark.parametrize("make", [expecting_default, expecting_middleware, expecting_trace])
@pytest.mark.asyncio
async def test_a_session_that_sends_heads_first_is_refused(make: object) -> None:
    """The head of a capture is the whole of it; it does not leave before the guard was asked."""
    async with Loopback().listen() as server, make() as session:  # type: ignore[operator] # one of those above
        async with JetpayClient(TOKEN, base_url=server.url, session=session, retry=ONCE) as client:
            with pytest.raises(NotSentError, match="sets Expect: 100-continue; take that out"):
                await client.capture(DEBIT_ID)

    assert server.requests == []


@pytest.mark.parametrize(
    ("url", "itself"), [(DEMO_URL, True), ("http://127.0.0.1:1", True), ("https://gateway.example", False)]
)
def test_another_host_may_be_a_gateway(url: str, itself: bool) -> None:
    """Only Jetpay's hosts, and this machine's, can say by a lost connection that a request has ended."""
    client = JetpayClient(TOKEN, base_url=url, trusted_origins=["https://gateway.example"])

    assert client._transport._reaches_api_itself is itself


@pytest.mark.parametrize(("itself", "bound"), [(True, ResolveBound.DIRECT), (False, ResolveBound.TIMEOUT)])
@pytest.mark.asyncio
async def test_what_a_gateway_lost_may_be_worked_on(itself: bool, bound: ResolveBound) -> None:
    """The longer time applies to it."""
    async with Loopback(scripts={"capture": [loopback.hang_up]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url) as client:
            client._transport._reaches_api_itself = itself
            guard = SendGuard(SYSTEM_CLOCK.monotonic() + 5.0, SYSTEM_CLOCK, 5.0)
            with pytest.raises(Unanswered) as caught:
                await client._transport.exchange("POST", f"/debit/{DEBIT_ID}/capture", b"", guard, within=5.0)

    assert caught.value.bound is bound


@pytest.mark.asyncio
async def test_a_token_function_that_is_cancelled_by_itself_cancels_nobody() -> None:
    """It awaited something that somebody else cancelled: nothing was sent."""

    async def token() -> str:
        raise asyncio.CancelledError

    async with Loopback().listen() as server, JetpayClient(token, base_url=server.url, retry=ONCE) as client:
        with pytest.raises(NotSentError, match="cancelled by itself"):
            await client.capture(DEBIT_ID)


@pytest.mark.asyncio
async def test_a_token_function_is_cancelled_with_its_caller() -> None:
    """A cancellation of the call is one."""

    async def token() -> str:
        await asyncio.Event().wait()
        return TOKEN

    async with Loopback().listen() as server, JetpayClient(token, base_url=server.url) as client:
        task = asyncio.create_task(client.capture(DEBIT_ID))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.asyncio
async def test_all_spellings_of_a_uuid_are_one_debit() -> None:
    """The API takes them for the same: they share a request."""
    plain = str(uuid.UUID(int=0xABCDEF))
    server = Loopback()
    released = held(server)
    async with server.listen(), JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
        spellings = [plain, plain.upper(), plain.replace("-", "")]
        tasks = [asyncio.create_task(client.capture(spelling)) for spelling in spellings]
        await server.arrived.wait()
        released.set()
        await asyncio.gather(*tasks)

    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_a_rejection_stands_while_the_preauthorization_is_in_progress() -> None:
    """The state is that of the reservation: nothing of the capture is in progress."""
    service = ScriptedService(scripts={"capture": [answer(422, {"detail": "not reserved yet"})]}, state="processing")
    calls: CallExecutor = executor(service)

    with pytest.raises(InvalidRequestError, match="not reserved yet"):
        await calls.execute(begin(calls))
