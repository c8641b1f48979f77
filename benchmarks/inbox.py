"""What does it cost to handle each event once, with an inbox in memory, in a file or in PostgreSQL?"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

from benchmarks.measuring import CLIENT_CORE, compare_calls, on_core
from benchmarks.reports import Plan, Report
from benchmarks.serving import Server
from jetpay_async._core import json
from jetpay_async.models import JSONValue
from jetpay_async.webhooks import (
    DebitPaid,
    Delivery,
    EventRouter,
    MemoryInbox,
    PostgresInbox,
    SqliteInbox,
    WebhookReceiver,
    decode,
)
from jetpay_async.webhooks.inbox import EventInbox

QUESTION = "What does an inbox cost?"
COUNTS = (1, 10, 100)
MARK_WITHIN_SECONDS = 0.05
POSTGRES = "JETPAY_TEST_POSTGRES"
BY_HAND = "SQLite by hand: one INSERT ON CONFLICT an event, one commit a delivery"

_ids = itertools.count(1)


class Trusting:
    """Verifying has a question of its own."""

    async def verify(self, body: bytes | bytearray | memoryview, *_: object, **__: object) -> Delivery:
        """Decode."""
        return decode(body)


def measure(plan: Plan, _: Server) -> Report:
    """Compare at 1, 10 and 100 events a delivery, all of them new."""
    with on_core(CLIENT_CORE), asyncio.Runner() as runner, variants(runner.get_loop()) as receivers:
        comparisons = [
            compare_calls(
                f"Deliveries of {count} events",
                {name: _delivering(receive, count) for name, receive in receivers.items()},
                baseline=BY_HAND,
                rounds=plan.rounds,
                seconds=plan.seconds / 4,
            )
            for count in COUNTS
        ]
    notes = ["A figure is of a delivery: divide by its events. What a commit waits for the disk is no CPU."]
    if POSTGRES not in os.environ:
        notes.append(f"PostgreSQL was not measured: {POSTGRES} names no server.")
    return Report(question=QUESTION, comparisons=comparisons, notes=notes)


@contextmanager
def variants(loop: asyncio.AbstractEventLoop) -> Iterator[Mapping[str, Callable[[bytes], object]]]:
    """Open each inbox, and yield what receives a delivery through it."""
    router = EventRouter()

    @router.on(DebitPaid)
    async def handle(event: DebitPaid) -> None:
        """Take no time."""

    def through(inbox: EventInbox, within: float = 0.0) -> Callable[[bytes], object]:
        receiver = WebhookReceiver(Trusting(), router, inbox=inbox, mark_within=within)

        def receive(body: bytes) -> None:
            response = loop.run_until_complete(receiver.receive(body))
            if response.status != 200 or response.left:
                raise AssertionError(response)

        return receive

    async def open_postgres(stack: AsyncExitStack) -> PostgresInbox:
        inbox = await stack.enter_async_context(PostgresInbox(os.environ[POSTGRES], source=uuid.uuid4().hex))
        await inbox.create_tables()
        return inbox

    stack = AsyncExitStack()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        file, grouped = SqliteInbox(place / "each.db"), SqliteInbox(place / "grouped.db")
        stack.push_async_callback(file.aclose)
        stack.push_async_callback(grouped.aclose)
        found = {
            "MemoryInbox": through(MemoryInbox()),
            "SqliteInbox": through(file),
            "SqliteInbox, mark_within": through(grouped, MARK_WITHIN_SECONDS),
        }
        if POSTGRES in os.environ:
            inbox = loop.run_until_complete(open_postgres(stack))
            found["PostgresInbox"] = through(inbox)
            found["PostgresInbox, mark_within"] = through(inbox, MARK_WITHIN_SECONDS)
        try:
            with closing(sqlite3.connect(place / "by_hand.db", isolation_level=None)) as connection:
                yield {BY_HAND: _by_hand(connection), **found}
        finally:
            loop.run_until_complete(stack.aclose())


def _by_hand(connection: sqlite3.Connection) -> Callable[[bytes], object]:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE handled (event_id INTEGER PRIMARY KEY)")

    def receive(body: bytes) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for event in decode(body).events:
            connection.execute("INSERT INTO handled VALUES (?) ON CONFLICT DO NOTHING", (event.id,))
        connection.execute("COMMIT")

    return receive


def _delivering(receive: Callable[[bytes], object], count: int) -> Callable[[], object]:
    def deliver() -> None:
        events: list[JSONValue] = [
            {
                "id": event_id,
                "createdAt": "2026-01-22T10:15:30Z",
                "type": "transactions.debits.created",
                "data": {"state": "paid", "transactionId": f"debit-{event_id}"},
            }
            for event_id in itertools.islice(_ids, count)
        ]
        receive(json.dump({"webhookId": 1, "events": events}))

    return deliver
