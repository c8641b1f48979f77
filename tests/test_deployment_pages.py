"""The pages about many machines and about proxies: their programs run, together and through a proxy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetpay_async import JetpayClient, OutcomeUnknownError, RetryPolicy
from jetpay_async.sandbox import Sandbox
from tests import loopback
from tests.loopback import Exchange, Loopback
from tests.webhooks.receiving import body_of, document
from tests.webhooks.serving import JWKS, PATH, Pages, aiohttp_web, authorization, key_server, post


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    with Pages(tmp_path, monkeypatch) as pages:
        yield pages


@pytest.mark.asyncio
async def test_two_runs_capture_one_night(
    pages: Pages, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of the program with one list share the batch: both see its end, and each debit is captured once."""
    monkeypatch.setenv("DATABASE_URL", postgres_database)
    async with Sandbox() as sandbox:
        monkeypatch.setenv("JETPAY_API_TOKEN", sandbox.api_token)
        monkeypatch.setenv("JETPAY_BASE_URL", sandbox.url)
        payer = sandbox.add_payer()
        async with JetpayClient.from_env() as client:
            reserved = [
                await client.preauthorize(
                    contact_id=payer.contact_id,
                    credit_card_id=payer.credit_card_id,
                    amount=10,
                    to_bank_account_id=sandbox.merchant_account_id,
                    statement="Stay",
                )
                for _ in range(20)
            ]
        debit_ids = [each.debit_id for each in reserved]

        machine = pages.load("machine")
        reports = await asyncio.gather(*(machine.capture_night("2026-11-22", debit_ids) for _ in range(2)))

    assert [report.captured for report in reports] == [20, 20]
    assert [sandbox.debit(debit_id).captures for debit_id in debit_ids] == [1] * 20


@pytest.mark.asyncio
async def test_two_receivers_handle_each_event_once(
    pages: Pages, postgres_database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What one machine has handled, another one answers without handling it again."""
    body = body_of([document(1)])
    monkeypatch.setenv("DATABASE_URL", postgres_database)
    monkeypatch.setenv("JETPAY_WEBHOOK_ID", "123")
    statuses = []
    async with key_server() as url:
        monkeypatch.setenv("JETPAY_BASE_URL", url)
        for _ in range(2):
            with pages:  # the next one is loaded anew, as by another process
                machine = pages.load("machine_webhooks")
            await machine.inbox.create_tables()
            async with aiohttp_web(machine.app) as address:
                statuses.append(await post(address + PATH, body, authorization(body)))

    assert statuses == [200, 200]
    assert capsys.readouterr().out.count("paid: ") == 1


async def paid(exchange: Exchange) -> None:
    """Answer like the service, as a proxy does that has asked it."""
    await exchange.reply(200, {"state": "paid"})


@pytest.mark.parametrize("block", ["proxy_environment", "proxy_session"])
@pytest.mark.asyncio
async def test_a_status_through_a_proxy(block: str, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request goes to the proxy, with the whole URL, and its login stays with the proxy."""
    async with Loopback(scripts={"elsewhere": [paid]}).listen() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("SHOP_PROXY", proxy.url.replace("://", "://shop:let-me-out@"))
        monkeypatch.setenv("JETPAY_API_TOKEN", "token")
        monkeypatch.setenv("JETPAY_BASE_URL", "http://127.0.0.1:9")  # nobody listens there

        state = await pages.load(block).status("debit_1")

    assert state == "paid"
    (request,) = proxy.requests
    assert request.target == "http://127.0.0.1:9/transaction/debit_1/status"
    assert ("proxy-authorization" in request.headers) is (block == "proxy_session")


@pytest.mark.asyncio
async def test_keys_through_a_proxy(pages: Pages) -> None:
    """The function fetches the key set through the proxy, and the keys verify."""

    async def keys(exchange: Exchange) -> None:
        await exchange.reply(200, JWKS)

    async with Loopback(scripts={"elsewhere": [keys]}).listen() as proxy:
        pages.change("proxy_keys", "http://127.0.0.1:3128", proxy.url)
        pages.change("proxy_keys", "RemoteKeySet(PRODUCTION_URL, fetch)", "RemoteKeySet('http://127.0.0.1:9', fetch)")
        async with pages.load("proxy_keys").keys as fetched:
            assert "key-1" in repr(await fetched.current())

    assert [request.target for request in proxy.requests] == ["http://127.0.0.1:9/.well-known/jwks.json"]


@pytest.mark.parametrize(("state", "known"), [("paid", True), ("preauthorized", False)])
@pytest.mark.asyncio
async def test_a_response_that_a_proxy_lost(state: str, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer bound holds: "paid" resolves the capture at once, "preauthorized" can't within the timeout."""

    async def status(exchange: Exchange) -> None:
        await exchange.reply(200, {"state": state})

    async with Loopback(scripts={"elsewhere": [loopback.hang_up, *[status] * 50]}).listen() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "")
        policy = RetryPolicy(resolve_after=0.01, resolve_after_timeout=60.0)
        client = JetpayClient("token", base_url="http://127.0.0.1:9", trust_env=True, timeout=1.0, retry=policy)
        async with client:
            if known:
                assert (await client.capture("debit_1")).confirmed_by_status
            else:
                with pytest.raises(OutcomeUnknownError):
                    await client.capture("debit_1")

    assert [request.method for request in proxy.requests].count("POST") == 1
