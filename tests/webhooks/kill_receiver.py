"""A receiver to be killed: ``kill_receiver.py PORT DATABASE JETPAY_URL MODE``.

Each event adds a row to the table ``effects``. MODE says when it is marked and when the delivery is answered:
``handled`` and ``stored`` mark in the transaction that adds the row, and acknowledge after handling or after storing;
``forgetful`` never marks durably. One handler in thirty fails before its transaction commits, and one in thirty
after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
import sys
import time
from contextlib import closing

from aiohttp import web

from jetpay_async.webhooks import Event, EventRouter, MemoryInbox, RemoteKeySet, SqliteInbox, WebhookReceiver
from jetpay_async.webhooks.aiohttp import handler
from jetpay_async.webhooks.verifier import WebhookVerifier

# Less than the stalls that the test makes, so that leases run out while their owner sleeps.
LEASE_SECONDS = 0.5
# Less than the sandbox waits there.
RESPONSE_TIMEOUT_SECONDS = 0.8


async def main(port: int, database: str, jetpay: str, mode: str) -> None:
    chance = random.Random(os.getpid())
    durable = SqliteInbox(database)
    router = EventRouter(concurrency=4)

    def add_effect(event: Event) -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("INSERT INTO effects (event_id, pid) VALUES (?, ?)", (event.id, os.getpid()))
            time.sleep(chance.random() * 0.002)
            if mode != "forgetful":
                durable.mark_handled(connection, event)
            if chance.random() < 1 / 30:
                raise RuntimeError("before the commit")

    @router.on(Event)
    async def take(event: Event) -> None:
        await asyncio.to_thread(add_effect, event)
        if chance.random() < 1 / 30:
            raise RuntimeError("after the commit")

    async with RemoteKeySet(jetpay) as keys, durable:
        receiver = WebhookReceiver(
            WebhookVerifier(keys),
            router,
            inbox=MemoryInbox() if mode == "forgetful" else durable,
            acknowledge="after_storing" if mode == "stored" else "after_handling",
            on_error="continue",
            lease_seconds=LEASE_SECONDS,
            poll_interval=LEASE_SECONDS,
            response_timeout=RESPONSE_TIMEOUT_SECONDS,
        )
        app = web.Application()
        app.router.add_post("/webhooks/jetpay", handler(receiver))
        runner = web.AppRunner(app, access_log=None)
        async with receiver:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            await asyncio.Event().wait()


if __name__ == "__main__":
    logging.basicConfig(format="%(process)d %(levelname)s %(message)s")
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]))
