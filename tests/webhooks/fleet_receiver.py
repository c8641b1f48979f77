"""A receiver of several on one PostgreSQL: ``fleet_receiver.py PORT DATABASE_URL JETPAY_URL WEBHOOK_IDS MODE``.

Each event adds a row to the table ``effects``, in the transaction that marks it. MODE says when the delivery is
acknowledged: ``after_handling`` or ``after_storing``. The handler of an event in the state ``poison`` always fails, and
one in the state ``hang`` never ends until two attempts were given up. Of the others one in thirty fails before its
transaction commits, and one in thirty after it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, cast

import psycopg
from aiohttp import web

from jetpay_async.webhooks import Event, EventRouter, PostgresInbox, RemoteKeySet, TransactionEvent, WebhookReceiver
from jetpay_async.webhooks.aiohttp import handler
from jetpay_async.webhooks.verifier import WebhookVerifier

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

# Less than the stalls that the test makes, so that leases run out while their owner sleeps.
LEASE_SECONDS = 0.5
# Less than the sandbox waits there.
RESPONSE_TIMEOUT_SECONDS = 4.0
HANDLER_TIMEOUT_SECONDS = 1.0
MAX_ATTEMPTS = 6
HANGING_ATTEMPTS = 2


class Database:
    """A few connections, each used by one handler at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[psycopg.AsyncConnection[tuple[object, ...]]] = []

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[psycopg.AsyncConnection[tuple[object, ...]]]:
        connection = self._idle.pop() if self._idle else await psycopg.AsyncConnection.connect(self._url)
        try:
            async with connection.transaction():
                yield connection
        finally:
            if not connection.closed:
                self._idle.append(connection)


async def main(port: int, url: str, jetpay: str, webhook_ids: str, mode: str) -> None:
    chance = random.Random(os.getpid())
    inbox = PostgresInbox(url)
    database = Database(url)
    router = EventRouter(concurrency=4)

    @router.on(Event)
    async def take(event: Event) -> None:
        state = event.state if isinstance(event, TransactionEvent) else ""
        if state == "hang":
            await hang(event)
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO effects (event_id, pid) VALUES (%s, %s)", (event.id, os.getpid()))
            await inbox.mark_handled(connection, event)
            if state == "poison" or chance.random() < 1 / 30:
                raise RuntimeError("before the commit")
        if chance.random() < 1 / 30:
            raise RuntimeError("after the commit")

    async def hang(event: Event) -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO attempts (event_id) VALUES (%s)", (event.id,))
            cursor = await connection.execute("SELECT count(*) FROM attempts WHERE event_id = %s", (event.id,))
            (attempts,) = cast("tuple[int]", await cursor.fetchone())
        if attempts <= HANGING_ATTEMPTS:
            await asyncio.Event().wait()

    async with RemoteKeySet(jetpay) as keys, inbox:
        receiver = WebhookReceiver(
            WebhookVerifier(keys, webhook_ids={int(number) for number in webhook_ids.split(",")}),
            router,
            inbox=inbox,
            acknowledge=cast("Literal['after_handling', 'after_storing']", mode),
            handler_timeout=HANDLER_TIMEOUT_SECONDS,
            max_attempts=MAX_ATTEMPTS,
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
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
