"""The adapter for aiohttp.web, over a real socket."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING

import aiohttp
import pytest
from aiohttp import web

from jetpay_async.webhooks import EventRouter, KeySet, MemoryInbox, TransactionPaid, WebhookReceiver, WebhookVerifier
from jetpay_async.webhooks.aiohttp import add_receiver, handler
from tests.webhooks.receiving import body_of, document, until
from tests.webhooks.serving import JWKS, PATH, aiohttp_web, authorization, post

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jetpay_async.webhooks import DeliveryReport, TransactionEvent

BODY = body_of([document(1)])


@pytest.fixture
def paid() -> list[str]:
    return []


@pytest.fixture
def receiver(paid: list[str]) -> WebhookReceiver:
    router = EventRouter()

    @router.on(TransactionPaid)
    async def note(event: TransactionEvent) -> None:
        paid.append(event.transaction_id)

    return WebhookReceiver(WebhookVerifier(KeySet.from_jwks(JWKS)), router, inbox=MemoryInbox())


@pytest.mark.asyncio
async def test_the_receiver_lives_as_long_as_the_application(receiver: WebhookReceiver, paid: list[str]) -> None:
    """A route receives while the application runs; when it has stopped the receiver is closed."""
    app = web.Application()
    add_receiver(app, PATH, receiver)

    async with aiohttp_web(app) as url:
        status = await post(url + PATH, BODY, authorization(BODY))

    assert (status, paid) == (200, ["t-1"])
    assert (await receiver.receive(BODY, authorization(BODY))).reason == "closed"


@pytest.mark.asyncio
async def test_the_handler_alone_leaves_the_receiver_open(receiver: WebhookReceiver, paid: list[str]) -> None:
    """An application that opens and closes the receiver itself takes just the handler."""
    app = web.Application()
    app.router.add_post(PATH, handler(receiver))

    async with aiohttp_web(app) as url:
        status = await post(url + PATH, BODY, authorization(BODY))

    assert (status, paid) == (200, ["t-1"])
    assert (await receiver.receive(BODY, authorization(BODY))).skipped == 1


@pytest.mark.asyncio
async def test_several_tokens_are_rejected(receiver: WebhookReceiver, paid: list[str]) -> None:
    """Which of two different tokens counts must not depend on who reads them."""
    app = web.Application()
    app.router.add_post(PATH, handler(receiver))
    headers = [("Authorization", authorization(BODY)), ("Authorization", "Bearer another")]

    async with aiohttp_web(app) as url, aiohttp.request("POST", url + PATH, data=BODY, headers=headers) as response:
        status = response.status

    assert (status, paid) == (401, [])


@pytest.mark.asyncio
async def test_the_applications_own_limit_holds(receiver: WebhookReceiver, paid: list[str]) -> None:
    """A body above ``client_max_size`` is answered with a 413."""
    app = web.Application(client_max_size=10)
    add_receiver(app, PATH, receiver)

    async with aiohttp_web(app) as url:
        assert await post(url + PATH, BODY, authorization(BODY)) == 413
    assert paid == []


@pytest.mark.asyncio
async def test_bodies_that_are_not_read_are_reported() -> None:
    """A body that is too large, or never ends, is answered by its status, and reported like any delivery."""
    reports: list[DeliveryReport] = []
    verifier = WebhookVerifier(KeySet.from_jwks(JWKS), webhook_ids={123})
    receiver = WebhookReceiver(verifier, EventRouter(), inbox=MemoryInbox(), on_delivery=reports.append)
    large, slow = web.Application(client_max_size=10), web.Application()
    add_receiver(large, PATH, receiver)
    add_receiver(slow, PATH, receiver, body_timeout=0.01)
    never = asyncio.Event()

    async def trickle() -> AsyncIterator[bytes]:
        yield BODY[:3]
        await never.wait()

    async with aiohttp_web(large) as url:
        assert await post(url + PATH, BODY, authorization(BODY)) == 413
    headers = {"Authorization": authorization(BODY)}
    async with (
        aiohttp_web(slow) as url,
        aiohttp.request("POST", url + PATH, data=trickle(), headers=headers) as response,
    ):
        assert response.status == 408
        never.set()

    assert [report.response.reason for report in reports] == ["body_too_large", "body_timeout"]
    assert all(report.duration >= 0 and report.delivery is None for report in reports)


@pytest.mark.asyncio
async def test_bodies_that_can_not_be_read_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A body that is not compressed as its headers say, or is cut off, fails in no handler of ours."""
    reports: list[DeliveryReport] = []
    verifier = WebhookVerifier(KeySet.from_jwks(JWKS), webhook_ids={123})
    receiver = WebhookReceiver(verifier, EventRouter(), inbox=MemoryInbox(), on_delivery=reports.append)
    app = web.Application()
    add_receiver(app, PATH, receiver)
    lines = [f"POST {PATH} HTTP/1.1", "Host: shop", f"Authorization: {authorization(BODY)}", "Content-Length: 1000"]

    async with aiohttp_web(app) as url:
        headers = {"Authorization": authorization(BODY), "Content-Encoding": "gzip"}
        # Not compressed by aiohttp's own client, which would do it right.
        async with (
            aiohttp.ClientSession() as session,
            session.post(url + PATH, data=BODY, headers=headers, compress=False) as response,
        ):
            assert response.status == 400
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write("\r\n".join([*lines, "", "cut"]).encode())
        await writer.drain()
        writer.close()
        await until(lambda: len(reports) == 2)

    assert [report.response.reason for report in reports] == ["body_unreadable"] * 2
    assert "Error handling request" not in caplog.text


def test_the_adapter_does_not_hide_the_library() -> None:
    """Inside the package ``import aiohttp`` is still the library."""
    adapter = importlib.import_module("jetpay_async.webhooks.aiohttp")

    assert adapter.web is web
    assert not hasattr(adapter, "ClientSession")
