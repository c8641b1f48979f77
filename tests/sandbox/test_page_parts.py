"""The page at /_sandbox/, its buttons and its stream, without a browser."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from jetpay_async.sandbox import CARDS, DeliveryPolicy, Fault, FaultKind, Sandbox, _page, _page_html
from jetpay_async.sandbox._page_html import ACTIONS

from .calling import Caller, Receiver, Reply, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PAGE = "/_sandbox/"


async def shown(caller: Caller) -> str:
    return (await caller.call("GET", PAGE, headers={"Authorization": ""})).body.decode()


async def press(caller: Caller, name: str, data: bytes = b"", **headers: str) -> Reply:
    """Do what the page does when a button is pressed."""
    sent = {
        "Origin": caller.sandbox.url,
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
        "Authorization": "",
    }
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return await caller.call("POST", f"{PAGE}actions/{name}", data=data, headers={**sent, **headers})


async def stream(caller: Caller) -> AsyncIterator[dict[str, str]]:
    async with caller.session.get(f"{caller.sandbox.url}{PAGE}stream") as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        async for line in response.content:
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
            elif line.startswith(b":"):
                yield {}


@pytest.mark.asyncio
async def test_what_it_shows(caller: Caller, receiver: Receiver) -> None:
    """Debits with states and requests, requests with faults, deliveries with key and verdict, faults and webhooks."""
    sandbox = caller.sandbox
    empty = await shown(caller)
    sandbox.add_webhook(receiver.url)
    debit_id = await caller.reserve(card_number="4000000000000036")
    sandbox.faults.add(Fault(kind=FaultKind.ERROR_AFTER, route="capture", status=503))
    sandbox.faults.add(Fault(kind=FaultKind.STALE_STATUS, seconds=3))
    await caller.capture(debit_id)
    receiver.answers = [500]
    await sandbox.drain_deliveries()
    sandbox.rotate_key()

    page = await shown(caller)

    assert empty.count("None yet") == 5
    assert "None yet" not in page
    for text in (
        debit_id,
        "failed (account_frozen)",
        "preauthorized → failed",
        "capture: 503 (error_after)",
        f"/debit/{debit_id}/capture",
        "older key",
        "not accepted",
        "A status as it was &lt;seconds&gt; ago",
        f"{receiver.url}</code>",
    ):
        assert text in page, text
    assert "current key" not in page


@pytest.mark.asyncio
async def test_a_debit_captured_twice_stands_out(receiver: Receiver) -> None:
    """The counter and the debit say that its money was taken twice; what is in progress says so."""
    policy = DeliveryPolicy(speedup=10_000)
    async with Sandbox(refuses_second_capture=False, delivery=policy) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        await caller.capture(debit_id)
        await caller.capture(debit_id)
        sandbox.faults.add(Fault(kind=FaultKind.STALL_AFTER, route="status"))
        stalled = asyncio.create_task(caller.status(debit_id))
        await until(lambda: sandbox.requests("status") == 1)

        page = await shown(caller)

        stalled.cancel()
    assert '<span class="bad">1</span>' in page
    assert '<span class="bad">2 times</span>' in page
    assert "status: in progress (stall_after)" in page


@pytest.mark.asyncio
async def test_it_has_no_secret_and_no_other_host(caller: Caller) -> None:
    """No token, no card number, no script or style in the page itself, and nothing from another host."""
    for number in CARDS:
        await caller.reserve(card_number=number) if CARDS[number].declined is None else None
    await caller.call("GET", "/_sandbox/&<script>alert(1)</script>")
    await caller.call("GET", f"/transaction/{caller.sandbox.api_token}/status")
    await caller.call("POST", "/debit/4111%201111-11111111/capture")
    caller.sandbox.add_webhook("http://user:secret@127.0.0.1:9/hook?key=secret#secret")
    await caller.reserve()
    await until(lambda: len(caller.sandbox.deliveries) > 0)

    reply = await caller.call("GET", PAGE)
    page = reply.body.decode()

    assert not [number for number in CARDS if number in page]
    assert caller.sandbox.api_token not in page
    assert "<code>/transaction/jetpay_sandbox_" + caller.sandbox.api_token[15:19] + "…/status</code>" in page
    assert "<code>/debit/4111…/capture</code>" in page
    assert page.count("<code>http://127.0.0.1:9/hook?…</code>") > 1
    assert "secret" not in page
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["data:,", "page.css", "page.js", "#debits-title"]
    assert "<script>" not in page
    assert "style=" not in page
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';")
    assert "frame-ancestors 'none'" in policy


@pytest.mark.asyncio
async def test_texts_from_outside_are_escaped(caller: Caller) -> None:
    """A path or a report with markup is shown as text."""
    await caller.call("GET", "/<b>bold</b>")

    page = (await caller.call("GET", f"{PAGE}?report=<i>x</i>")).body.decode()

    assert "/&lt;b&gt;bold&lt;/b&gt;" in page
    assert "&lt;i&gt;x&lt;/i&gt;" in page


@pytest.mark.asyncio
async def test_only_the_newest_debits_are_shown(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debits beyond the newest are counted, and left out of the table."""
    monkeypatch.setattr(_page_html, "_DEBITS", 1)
    older, newest = await caller.reserve(), await caller.reserve()

    page = _page_html.sections(caller.sandbox._parts)

    assert newest in page["debits"]
    assert older not in page["debits"]
    assert "<dt>Debits</dt><dd>2</dd>" in page["counters"]


@pytest.mark.asyncio
async def test_its_files(caller: Caller) -> None:
    """The style and the script come from the sandbox, and the address without a slash leads to the page."""
    style, script = [await caller.call("GET", PAGE + name) for name in ("page.css", "page.js")]
    moved = await caller.call("GET", PAGE.rstrip("/"))

    assert style.headers["Content-Type"] == "text/css; charset=utf-8"
    assert b"prefers-color-scheme: dark" in style.body
    assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert (moved.status, moved.headers["Location"]) == (308, PAGE)


@pytest.mark.asyncio
async def test_every_button(caller: Caller, receiver: Receiver) -> None:
    """Each button does what it says, and reports it."""
    sandbox = caller.sandbox
    sandbox.add_webhook(receiver.url)
    debit_id = await caller.reserve()
    await sandbox.drain_deliveries()
    (key,) = sandbox.jwks["keys"]
    reports: dict[str, Any] = {}
    for name in ("lose_reply", "slow_bank", "fail_capture", "pause", "redeliver", "rotate_key"):
        reports[name] = (await press(caller, name)).document["message"]
    assert [(each.fault.kind, each.fault.route, each.left) for each in sandbox.faults.active] == [
        ("lose_reply_after", None, 1),
        ("slow_after", "capture", None),
        ("error_before", "capture", 1),
    ]
    assert receiver.event_ids == [[1]]
    reports["resume"] = (await press(caller, "resume")).document["message"]
    reports["remove_faults"] = (await press(caller, "remove_faults")).document["message"]
    await sandbox.drain_deliveries()
    payers = [
        (await press(caller, "add_payer", card)).document["message"] for card in (b"card=0051", b"", b"card=9999")
    ]
    behaviors = [each.behavior.number for each in sandbox._account.credit_cards.values()][-3:]
    reports["reset"] = (await press(caller, "reset")).document["message"]

    assert receiver.event_ids == [[1], [1]]
    assert len(sandbox.jwks["keys"]) == 2
    assert sandbox.jwks["keys"][1] == key
    assert behaviors == ["4000000000000051", "4111111111111111", "4111111111111111"]
    assert payers[0].startswith("Added a payer: contact ")
    assert sandbox.faults.active == ()
    with pytest.raises(KeyError):
        sandbox.debit(debit_id)
    assert set(reports) == set(ACTIONS)
    assert reports["redeliver"] == "Delivering the last event again, to 1 webhook."
    assert (await press(caller, "redeliver")).document["message"].endswith("to 0 webhooks.")


@pytest.mark.asyncio
async def test_without_scripts(caller: Caller) -> None:
    """A browser without scripts comes back to the page, which has the report."""
    reply = await press(caller, "pause", Accept="text/html")
    page = (await caller.call("GET", reply.headers["Location"])).body.decode()

    assert reply.status == 303
    assert '<p id="report" role="status">Deliveries are paused.</p>' in page


@pytest.mark.asyncio
async def test_who_may_press(caller: Caller) -> None:
    """A button's request has the page's origin, and only the buttons that there are do something."""
    foreign = await press(caller, "pause", Origin="http://evil.test")
    without = await caller.call("POST", f"{PAGE}actions/pause")
    unknown = await press(caller, "explode")

    assert [each.status for each in (foreign, without, unknown)] == [403, 403, 404]
    assert not caller.sandbox._parts.deliveries.paused


@pytest.mark.asyncio
async def test_the_stream(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream sends every section first, then those that changed, and a sign of life when nothing happens."""
    monkeypatch.setattr(_page, "_BETWEEN_UPDATES_SECONDS", 0.0)
    monkeypatch.setattr(_page, "_BETWEEN_HEARTBEATS_SECONDS", 0.05)
    received = stream(caller)
    async with asyncio.timeout(20):
        first = await anext(received)
        silent = await anext(received)
        debit_id = await caller.reserve()
        changed: dict[str, str] = {}
        while not {"counters", "debits", "requests"} <= set(changed) or "preauthorized" not in changed["debits"]:
            changed.update(await anext(received))

    assert set(first) == {"counters", "debits", "requests", "deliveries", "faults", "webhooks"}
    assert silent == {}
    assert debit_id in changed["debits"]
    assert "faults" not in changed
    await received.aclose()  # type: ignore[attr-defined] # it is a generator


@pytest.mark.asyncio
async def test_a_browser_that_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stream of a browser that has gone ends by itself."""
    monkeypatch.setattr(_page, "_BETWEEN_UPDATES_SECONDS", 0.0)
    monkeypatch.setattr(_page, "_BETWEEN_HEARTBEATS_SECONDS", 0.01)
    ended = asyncio.Event()
    original = _page.Page._stream

    async def watched(page: _page.Page, request: web.Request) -> web.StreamResponse:
        response = await original(page, request)
        ended.set()
        return response

    monkeypatch.setattr(_page.Page, "_stream", watched)
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        async with session.get(f"{sandbox.url}{PAGE}stream") as response:
            await response.content.readany()
            response.close()

        await asyncio.wait_for(ended.wait(), 20)
