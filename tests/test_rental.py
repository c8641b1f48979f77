"""The documentation's rental shop: its own tests, run as its users run them, and two processes of it."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from jetpay_async.sandbox import DeliveryPolicy, Fault, FaultKind, Sandbox
from tests.webhooks import serving
from tests.webhooks.processes import ReceiverProcess

DOCS = Path(__file__).parents[1] / "docs"

VARIANTS = {
    "strict": ["-o", "asyncio_mode=strict"],
    "auto, session, xdist": [
        *("-o", "asyncio_mode=auto"),
        *("-o", "asyncio_default_fixture_loop_scope=session", "-o", "asyncio_default_test_loop_scope=session"),
        *("-n", "1", "-k", "not orphans"),
    ],
}


@pytest.mark.endurance
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_shop_s_own_tests_pass(options: list[str], postgres: str) -> None:
    """In each mode and loop scope of pytest-asyncio, and under xdist, by TestClient and in the test's own loop."""
    for needed in ("fastapi", "httpx", "sqlalchemy"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install --group frameworks")

    # Starlette's TestClient warns of httpx, where httpx2 is not installed: users need not heed it either.
    like_a_user = ["-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "rental/tests", *like_a_user, *options],
        cwd=DOCS,
        env={**os.environ, "TEST_DATABASE_URL": postgres, "PYTHONPATH": str(DOCS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )

    expected = 3 if "-k" in options else 4
    assert f"{expected} passed" in run.stdout, run.stdout + run.stderr
    assert run.returncode == 0


@asynccontextmanager
async def callback(urls: Sequence[str]) -> AsyncIterator[str]:
    """A webhook's address, where each delivery is given to every process that is alive, at the same time."""

    async def deliver(request: web.Request) -> web.Response:
        body, token = await request.read(), request.headers["Authorization"]
        statuses = await asyncio.gather(*(serving.post(url, body, token) for url in urls), return_exceptions=True)
        return web.Response(status=max(status for status in statuses if isinstance(status, int)))

    app = web.Application()
    app.router.add_post(serving.PATH, deliver)
    async with serving.aiohttp_web(app) as url:
        yield url + serving.PATH


@asynccontextmanager
async def two_shops(database: str, sandbox: Sandbox, folder: Path) -> AsyncIterator[list[ReceiverProcess]]:
    """Two processes of the shop, on one database."""
    settings = {
        "database_url": database,
        "api_token": sandbox.api_token,
        "base_url": sandbox.url,
        "merchant_account_id": sandbox.merchant_account_id,
    }
    script = str(Path(__file__).parent / "rental_process.py")
    shops = [ReceiverProcess(script, [json.dumps(settings)], folder / f"{number}.log") for number in range(2)]
    try:
        for shop in shops:
            await shop.start()
        for shop in shops:
            await until(partial(call, shop, "GET", "/staff/unknown"))
        yield shops
    finally:
        for shop in shops:
            if shop.process.returncode is None:
                await shop.end(signal.SIGKILL)


async def call(shop: ReceiverProcess, method: str, path: str, body: object = None) -> Any:
    url = f"http://127.0.0.1:{shop.port}{path}"
    async with aiohttp.request(method, url, json=body) as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def until(ask: Callable[[], Awaitable[Any]], accept: Callable[[Any], bool] = lambda _: True) -> Any:
    """Ask until the answer will do."""
    async with asyncio.timeout(30):
        while True:
            with suppress(aiohttp.ClientConnectionError):
                answer = await ask()
                if accept(answer):
                    return answer
            await asyncio.sleep(0.05)


@pytest.mark.endurance
@pytest.mark.asyncio
async def test_two_processes_one_of_which_is_killed(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request may come to either; a paid event counts once; what a killed one was reserving is adopted."""
    for needed in ("fastapi", "uvicorn", "sqlalchemy"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install --group frameworks")
    monkeypatch.syspath_prepend(DOCS)
    await importlib.import_module("rental.payments").create_tables(postgres_database)

    async with (
        Sandbox(delivery=DeliveryPolicy(speedup=100)) as sandbox,
        two_shops(postgres_database, sandbox, tmp_path) as (first, second),
        callback([first.url, second.url]) as url,
    ):
        sandbox.add_webhook(url)
        payer = sandbox.add_payer()
        new = {"contact_id": payer.contact_id, "credit_card_id": payer.credit_card_id, "amount": "250.00"}
        booked = [await call(shop, "PUT", "/bookings/b1", new) for shop in (first, second)]
        await asyncio.gather(*(call(shop, "POST", "/bookings/b1/return") for shop in (first, second)))
        await sandbox.drain_deliveries()
        paid = [await call(shop, "GET", "/bookings/b1") for shop in (first, second)]

        sandbox.faults.add(Fault(kind=FaultKind.STALL_AFTER, route="preauthorize"))
        booking = asyncio.create_task(call(first, "PUT", "/bookings/b2", new))
        await until(lambda: asyncio.sleep(0, len(sandbox.debits)), lambda count: count == 2)
        await first.end(signal.SIGKILL)
        with pytest.raises(aiohttp.ClientError):
            await booking
        (lost,) = {debit.identifier for debit in sandbox.debits} - {booked[0]["debit_id"]}
        await sandbox.drain_deliveries()
        (unknown,) = await until(lambda: call(second, "GET", "/staff/unknown"), bool)
        again = await call(second, "PUT", "/bookings/b2", new)
        adopted = await call(second, "POST", "/staff/unknown/b2/adopt", {"debit_id": lost})

        assert booked[0] == booked[1]
        assert [(each["state"], each["payments"]) for each in paid] == [("paid", 1)] * 2
        assert sandbox.debit(booked[0]["debit_id"]).captures == 1
        assert unknown["booking"] == "b2"
        assert [each["debit_id"] for each in unknown["candidates"]] == [lost]
        assert again["state"] == "unknown"
        assert (adopted["state"], adopted["debit_id"]) == ("reserved", lost)
        assert sandbox.requests("preauthorize") == 2
