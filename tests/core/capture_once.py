"""One capture in a process that is to be killed: ``python -m tests.core.capture_once URL PROXY [given] [uvloop]``."""

from __future__ import annotations

import asyncio
import ssl
import sys

import aiohttp

from jetpay_async import JetpayClient
from tests.loopback import DEBIT_ID

TOKEN = "token-of-a-test"


async def main(url: str, proxy: str, given: bool) -> None:
    if not given:
        async with JetpayClient(TOKEN, base_url=url) as client:
            await client.capture(DEBIT_ID)
        return
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context())
    async with aiohttp.ClientSession(connector=connector, proxy=proxy or None) as session:
        await JetpayClient(TOKEN, base_url=url, session=session).capture(DEBIT_ID)


if __name__ == "__main__":
    factory = None
    if "uvloop" in sys.argv[3:]:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], "given" in sys.argv[3:]))
