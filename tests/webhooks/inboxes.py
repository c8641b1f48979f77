"""What the tests of the inboxes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from jetpay_async.webhooks.postgres_inbox import PostgresInbox
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.receiving import FakeClock, events

if TYPE_CHECKING:
    from jetpay_async.webhooks._inbox_rows import InboxRows
    from jetpay_async.webhooks.inbox import EventInbox

Inbox: TypeAlias = MemoryInbox | SqliteInbox


class TimedPostgresInbox(PostgresInbox):
    """An inbox for which the server's time is that of a test's clock."""

    def __init__(self, url: str, time: FakeClock) -> None:
        super().__init__(url)
        self.time = time

    def _sql(self, statement: str) -> str:
        self._now = f"to_timestamp({self.time.now!r})"
        return super()._sql(statement)


class Plain:
    """What an inbox has to have, and nothing that it may have."""

    def __init__(self, inbox: EventInbox) -> None:
        self.lease = inbox.lease
        self.renew = inbox.renew
        self.handling = inbox.handling
        self.release = inbox.release
        self.last_contiguous_event_id = inbox.last_contiguous_event_id


Durable: TypeAlias = SqliteInbox | TimedPostgresInbox

SECONDS = 30.0


async def handle(inbox: EventInbox, *event_ids: int, owner: str = "someone") -> None:
    leased = await inbox.lease(events(*event_ids), owner=owner, seconds=SECONDS)
    assert leased.mine == set(event_ids)
    for one in events(*event_ids):
        async with inbox.handling(one, owner=owner):
            pass


async def rows(inbox: Inbox, query: str) -> list[tuple[object, ...]]:
    def read(rows: InboxRows) -> list[tuple[object, ...]]:
        return rows._connection.execute(query).fetchall()

    return await inbox._run(read)
