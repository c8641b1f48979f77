from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp
import pytest_asyncio
from aiohttp import web

from jetpay_async.sandbox import DeliveryPolicy, Sandbox

from .calling import Caller, Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest_asyncio.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(slow_bank_seconds=0.0, delivery=DeliveryPolicy(speedup=10_000)) as running:
        yield running


@pytest_asyncio.fixture
async def caller(sandbox: Sandbox) -> AsyncIterator[Caller]:
    async with aiohttp.ClientSession() as session:
        yield Caller(sandbox, session)


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    listening = Receiver()
    application = web.Application()
    application.router.add_post("/hook", listening.receive)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    listening.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield listening
    listening.silent = False
    await runner.cleanup()
