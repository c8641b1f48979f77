"""What the tests of the receiver share: a shop with handlers, verifiers without cryptography, an inbox that fails."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

from jetpay_async.webhooks.events import Delivery, Event, TransactionPaid, decode
from jetpay_async.webhooks.receiver import WebhookReceiver
from jetpay_async.webhooks.router import EventRouter
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.receiving import body_of, document, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from jetpay_async.webhooks._inbox_rows import InboxRows
    from jetpay_async.webhooks.errors import WebhookError
    from jetpay_async.webhooks.inbox import EventInbox, Leased

TOKEN = "Bearer let-me-in"


class Trusting:
    """Verification has tests of its own; here whatever decodes is authentic."""

    async def verify(
        self, body: bytes, authorization: str | bytes | None = None, *, headers: object = None
    ) -> Delivery:
        assert authorization == TOKEN
        return decode(body)


class Rejecting:
    def __init__(self, error: WebhookError) -> None:
        self.error = error

    async def verify(
        self, body: bytes, authorization: str | bytes | None = None, *, headers: object = None
    ) -> Delivery:
        raise self.error


class Shop:
    """A router whose handler notes each event, and fails or waits where a test says so."""

    def __init__(self, *, concurrency: int = 1) -> None:
        self.router = EventRouter(concurrency=concurrency)
        self.seen: list[int] = []
        self.done: list[int] = []
        self.failing: set[int] = set()
        self.gates: dict[int, asyncio.Event] = {}
        self.router.on(TransactionPaid)(self.take)

    async def take(self, event: TransactionPaid) -> None:
        self.seen.append(event.id)
        if event.id in self.gates:
            await self.gates[event.id].wait()
        if event.id in self.failing:
            raise ZeroDivisionError("the shop's own trouble")
        self.done.append(event.id)

    async def started(self, *event_ids: int) -> None:
        await until(lambda: set(event_ids) <= set(self.seen))

    async def finished(self, *event_ids: int) -> None:
        await until(lambda: set(event_ids) <= set(self.done))


def delivery_of(*event_ids: int, **fields: str) -> bytes:
    return body_of(document(event_id, **fields) for event_id in event_ids)  # type: ignore[arg-type]


def receiver_for(shop: Shop, inbox: EventInbox, **settings: object) -> WebhookReceiver:
    return WebhookReceiver(Trusting(), shop.router, inbox=inbox, **settings)  # type: ignore[arg-type]


async def steal(inbox: MemoryInbox | SqliteInbox) -> None:
    """Let another worker take everything over, as it could if this one had been stalled."""

    def write(rows: InboxRows) -> None:
        rows._connection.execute("UPDATE jetpay_inbox SET owner = 'thief' WHERE handled_at IS NULL")

    await inbox._run(write)


class BrokenInbox(MemoryInbox):
    """An inbox of somebody else's, which fails where a test says so, with an error of its own."""

    def __init__(self, *failing: str, error: type[BaseException] = ConnectionError) -> None:
        super().__init__()
        self.failing = set(failing)
        self.error = error
        self.renewals = 0

    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        self._fail("lease")
        return await super().lease(events, owner=owner, seconds=seconds)

    async def renew(self, event_ids: object, *, owner: str, seconds: float) -> frozenset[int]:
        self.renewals += 1
        self._fail("renew")
        return await super().renew(cast("list[int]", event_ids), owner=owner, seconds=seconds)

    @asynccontextmanager
    async def handling(self, event: Event, *, owner: str) -> AsyncIterator[None]:
        async with super().handling(event, owner=owner):
            yield
            self._fail("mark")

    async def mark(self, events: Sequence[Event], *, owner: str) -> frozenset[int]:
        self._fail("mark")
        return await super().mark(events, owner=owner)

    async def release(self, *, owner: str) -> None:
        self._fail("release")
        await super().release(owner=owner)

    def _fail(self, step: str) -> None:
        if step in self.failing:
            raise self.error(f"no {step}: the database is away")
