"""Exactly once: the mark commits together with what the handler wrote. The documentation's shops, on real databases."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol, TypeAlias
from unittest.mock import patch

import pytest
import pytest_asyncio

from jetpay_async.webhooks import EventInbox, EventRouter, KeySet, WebhookReceiver, WebhookVerifier
from tests.webhooks.receiving import body_of, document
from tests.webhooks.serving import JWKS, Pages, authorization

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from jetpay_async.webhooks.receiver import DeliveryResponse

Payments: TypeAlias = "dict[str, int]"


class Shop(Protocol):
    """One of the documentation's shops, with an order for each debit."""

    router: EventRouter
    inbox: EventInbox

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    def failing(self) -> AbstractContextManager[None]: ...
    async def payments(self) -> Payments: ...


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    with Pages(tmp_path, monkeypatch) as pages:
        yield pages


class SqliteShop:
    def __init__(self, pages: Pages) -> None:
        self._module = pages.load("shop_sqlite")
        self.router: EventRouter = self._module.router
        self.inbox: EventInbox = self._module.inbox

    async def open(self) -> None:
        with closing(sqlite3.connect("shop.db")) as connection, connection:
            connection.execute("CREATE TABLE orders (debit_id TEXT PRIMARY KEY, payments INTEGER DEFAULT 0)")
            connection.executemany("INSERT INTO orders (debit_id) VALUES (?)", [(f"t-{n}",) for n in range(1, 4)])

    async def close(self) -> None:
        await self._module.inbox.aclose()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Let the transaction fail once everything is written."""
        mark_handled = self._module.inbox.mark_handled

        def fail(*arguments: object) -> None:
            mark_handled(*arguments)
            raise ZeroDivisionError

        with patch.object(self._module.inbox, "mark_handled", fail):
            yield

    async def payments(self) -> Payments:
        with closing(sqlite3.connect("shop.db")) as connection:
            return dict(connection.execute("SELECT debit_id, payments FROM orders"))


class PostgresShop:
    def __init__(self, pages: Pages) -> None:
        self._module = pages.load("shop_postgres")
        self.router: EventRouter = self._module.router
        self.inbox: EventInbox = self._module.inbox
        self._connect = self._module.AsyncConnection.connect
        self._dsn = self._module.DATABASE

    async def open(self) -> None:
        await self._module.inbox.create_tables()
        async with await self._connect(self._dsn) as connection:
            await connection.execute("CREATE TABLE orders (debit_id text PRIMARY KEY, payments int DEFAULT 0)")
            for n in range(1, 4):
                await connection.execute("INSERT INTO orders (debit_id) VALUES (%s)", [f"t-{n}"])

    async def close(self) -> None:
        await self._module.inbox.aclose()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Let the transaction fail once everything is written."""
        mark_handled = self._module.inbox.mark_handled

        async def fail(*arguments: object) -> None:
            await mark_handled(*arguments)
            raise ZeroDivisionError

        with patch.object(self._module.inbox, "mark_handled", fail):
            yield

    async def payments(self) -> Payments:
        async with await self._connect(self._dsn) as connection:
            cursor = await connection.execute("SELECT debit_id, payments FROM orders")
            return {str(row[0]): int(row[1]) for row in await cursor.fetchall()}


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def shop(request: pytest.FixtureRequest, pages: Pages, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shop]:
    if request.param == "postgres":
        monkeypatch.setenv("DATABASE_URL", request.getfixturevalue("postgres_database"))
    shop: Shop = SqliteShop(pages) if request.param == "sqlite" else PostgresShop(pages)
    await shop.open()
    yield shop
    await shop.close()


def receiver_for(shop: Shop, on_missing_events: Callable[[int, int], Awaitable[None]] | None = None) -> WebhookReceiver:
    verifier = WebhookVerifier(KeySet.from_jwks(JWKS))
    return WebhookReceiver(verifier, shop.router, inbox=shop.inbox, on_missing_events=on_missing_events)


async def deliver(receiver: WebhookReceiver, *event_ids: int) -> DeliveryResponse:
    body = body_of(document(event_id) for event_id in event_ids)
    return await receiver.receive(body, authorization(body))


@pytest.mark.asyncio
async def test_each_payment_counts_once(shop: Shop) -> None:
    """Deliveries that come again, in any cut, add nothing."""
    receiver = receiver_for(shop)

    answers = [await deliver(receiver, *cut) for cut in ((1, 2), (1, 2), (2, 3), (1, 2, 3))]

    assert [(answer.status, answer.handled, answer.skipped) for answer in answers] == [
        (200, 2, 0),
        (200, 0, 2),
        (200, 1, 1),
        (200, 0, 3),
    ]
    assert await shop.payments() == {"t-1": 1, "t-2": 1, "t-3": 1}
    assert await receiver.last_contiguous_event_id() == 3


@pytest.mark.asyncio
async def test_a_transaction_that_fails_leaves_neither(shop: Shop) -> None:
    """When the commit doesn't happen there is no payment and no mark, and the redelivery makes both."""
    receiver = receiver_for(shop)
    with shop.failing():
        first = await deliver(receiver, 1)
    between = await shop.payments()
    second = await deliver(receiver, 1)

    assert (first.status, first.reason) == (500, "handler_failed")
    assert between["t-1"] == 0
    assert (second.status, second.handled) == (200, 1)
    assert (await shop.payments())["t-1"] == 1


@pytest.mark.asyncio
async def test_two_workers_at_once_count_once(shop: Shop) -> None:
    """Of two workers that receive the same events at the same moment, one handles each; the other is told to wait."""
    receivers = [receiver_for(shop) for _ in range(2)]

    answers = await asyncio.gather(*(deliver(receiver, 1, 2, 3) for receiver in receivers))
    last = await deliver(receivers[0], 1, 2, 3)

    assert sum(answer.handled for answer in answers) == 3
    assert {answer.status for answer in answers} <= {200, 503}
    assert (last.status, last.skipped) == (200, 3)
    assert await shop.payments() == {"t-1": 1, "t-2": 1, "t-3": 1}


@pytest.mark.asyncio
async def test_gaps_and_replays_are_told_by_any_database(shop: Shop) -> None:
    """An inbox of one's own tells what arrived last, and up to where nothing is missing."""
    gaps: list[tuple[int, int]] = []

    async def on_missing_events(first: int, last: int) -> None:
        gaps.append((first, last))

    receiver = receiver_for(shop, on_missing_events)
    before = await receiver.last_contiguous_event_id()
    for event_id in (1, 3):
        assert (await deliver(receiver, event_id)).handled == 1

    assert (before, await receiver.last_contiguous_event_id(), gaps) == (None, 1, [(2, 2)])


@pytest.mark.asyncio
async def test_a_late_event_overwrites_no_newer_state(pages: Pages) -> None:
    """The documentation's table of states keeps the newest state, in whatever order the events arrive."""
    shop = pages.load("shop_states")
    with closing(sqlite3.connect("shop.db")) as connection, connection:
        connection.execute("CREATE TABLE payments (debit_id TEXT PRIMARY KEY, state TEXT, event_id INTEGER)")
    receiver = WebhookReceiver(WebhookVerifier(KeySet.from_jwks(JWKS)), shop.router, inbox=shop.inbox)

    known: list[tuple[str, int]] = []
    for event_id, state in ((2, "paid"), (1, "requested"), (3, "failed")):
        body = body_of([document(event_id, state=state, transaction="t")])
        assert (await receiver.receive(body, authorization(body))).handled == 1
        with closing(sqlite3.connect("shop.db")) as connection:
            known.append(connection.execute("SELECT state, event_id FROM payments").fetchone())
    await shop.inbox.aclose()

    assert known == [("paid", 2), ("paid", 2), ("failed", 3)]
