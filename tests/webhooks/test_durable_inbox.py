"""Storing events, in a file or in PostgreSQL, and marking them in the application's own transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks.errors import LeaseLostError
from jetpay_async.webhooks.events import decode
from jetpay_async.webhooks.sqlite_inbox import SqliteInbox
from tests.webhooks.inboxes import SECONDS, Durable, handle, rows
from tests.webhooks.receiving import FakeClock, body_of, document, event, events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


@pytest.mark.asyncio
async def test_a_cancellation_does_not_take_a_mark_back(
    durable_inbox: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a handler has ended, its event is marked, also where the delivery is cancelled before the commit."""
    await durable_inbox.lease(events(1), owner="a", seconds=SECONDS)
    entered, gate = asyncio.Event(), asyncio.Event()
    run: Callable[..., Awaitable[object]] = durable_inbox._run

    async def wait_and_run(step: object, **options: object) -> object:
        entered.set()
        await gate.wait()
        return await run(step, **options)

    async def mark() -> None:
        async with durable_inbox.handling(event(1), owner="a"):
            pass

    with monkeypatch.context() as slowly:
        slowly.setattr(durable_inbox, "_run", wait_and_run)
        marking = asyncio.create_task(mark())
        await entered.wait()
        marking.cancel()
        await asyncio.wait([marking])
        committing = asyncio.all_tasks() - {asyncio.current_task()}
        gate.set()
        await asyncio.gather(*committing)

    assert marking.cancelled()
    assert (await durable_inbox.lease(events(1), owner="b", seconds=SECONDS)).handled == {1}


class TestStore:
    @pytest.mark.asyncio
    async def test_stored_events_come_back_whole(self, durable_inbox: Durable) -> None:
        """What is taken equals what was stored: class, exact numbers, unknown fields."""
        stored = (event(1), event(2, state="failed"), event(3, type="cards.tokenized"), event(4, state="new-to-us"))
        await durable_inbox.store(stored)

        taken = await durable_inbox.claim(owner="a", seconds=SECONDS, limit=100, exclusive=False)

        assert tuple(taken) == stored
        assert [type(one) for one in taken] == [type(one) for one in stored]

    @pytest.mark.asyncio
    async def test_stored_events_know_their_webhook(self, durable_inbox: Durable) -> None:
        """Each stored event comes back with the webhook that delivered it first."""
        for webhook_id, event_id in ((7, 1), (8, 2), (9, 1)):
            await durable_inbox.store(decode(body_of([document(event_id)], webhook_id=webhook_id)).events)

        claimed = await durable_inbox.claim(owner="a", seconds=SECONDS, limit=9, exclusive=False)

        assert [(one.id, one.webhook_id) for one in claimed] == [(1, 7), (2, 8)]

    @pytest.mark.asyncio
    async def test_storing_twice_stores_once(self, durable_inbox: Durable) -> None:
        """A redelivery adds only what is not there yet, whether that was handled or not."""
        first = await durable_inbox.store(events(1, 2))
        await durable_inbox.claim(owner="a", seconds=SECONDS, limit=1, exclusive=False)
        async with durable_inbox.handling(event(1), owner="a"):
            pass
        second = await durable_inbox.store(events(1, 2, 3))

        assert (first.new, first.known, first.last_seen) == ({1, 2}, set(), None)
        assert (second.new, second.known, second.last_seen) == ({3}, {1, 2}, 2)

    @pytest.mark.asyncio
    async def test_marking_drops_the_event_itself(self, sqlite_inbox: SqliteInbox) -> None:
        """A handled event leaves its mark, not its data."""
        await sqlite_inbox.store(events(1))
        await sqlite_inbox.claim(owner="a", seconds=SECONDS, limit=9, exclusive=False)
        async with sqlite_inbox.handling(event(1), owner="a"):
            pass

        assert await rows(sqlite_inbox, "SELECT document FROM jetpay_inbox") == [(None,)]
        assert await sqlite_inbox.claim(owner="a", seconds=SECONDS, limit=9, exclusive=False) == ()

    @pytest.mark.asyncio
    async def test_an_event_that_was_only_leased_is_stored_too(self, durable_inbox: Durable) -> None:
        """An event that an earlier delivery left unhandled, without storing it, is on disk after storing."""
        await durable_inbox.lease(events(1), owner="a", seconds=SECONDS)
        await durable_inbox.release(owner="a")

        assert await durable_inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False) == ()
        assert (await durable_inbox.store(events(1))).new == {1}
        assert await durable_inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False) == events(1)

    @pytest.mark.asyncio
    async def test_one_owner_takes_at_a_time(self, durable_inbox: Durable, time: FakeClock) -> None:
        """While one worker has stored events, one that keeps the order of ids gets none, until the lease ends."""
        await durable_inbox.store(events(1, 2, 3))
        first = await durable_inbox.claim(owner="a", seconds=SECONDS, limit=2, exclusive=True)
        second = await durable_inbox.claim(owner="b", seconds=SECONDS, limit=2, exclusive=True)
        time.tick(SECONDS)
        third = await durable_inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=True)

        assert [first, second, third] == [events(1, 2), (), events(1, 2, 3)]

    @pytest.mark.asyncio
    async def test_one_owner_has_a_transaction_at_a_time(self, durable_inbox: Durable, time: FakeClock) -> None:
        """Other transactions are free for others; of one that is leased nobody gets an event, not an earlier one."""
        await durable_inbox.store([event(2, transaction="x"), event(3, transaction="y")])
        await durable_inbox.claim(owner="a", seconds=SECONDS, limit=1, exclusive=False)
        late = [event(1, transaction="x"), event(4, transaction="x"), event(5, type="cards.tokenized")]
        await durable_inbox.store(late)

        others = await durable_inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False)
        time.tick(SECONDS)
        left = await durable_inbox.claim(owner="c", seconds=SECONDS, limit=9, exclusive=False)

        assert [each.id for each in others] == [3, 5]
        assert [each.id for each in left] == [1, 2, 3, 4, 5]

    @pytest.mark.asyncio
    async def test_a_delivery_that_is_being_handled_is_waited_for(self, durable_inbox: Durable) -> None:
        """What a delivery has leased and not stored may be of any transaction."""
        await durable_inbox.lease([event(1, transaction="x")], owner="a", seconds=SECONDS)
        await durable_inbox.store([event(2, transaction="x"), event(3, transaction="y")])

        early = await durable_inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False)
        await durable_inbox.release(owner="a")
        late = await durable_inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False)

        assert early == ()
        assert [each.id for each in late] == [2, 3]

    @pytest.mark.asyncio
    async def test_deferred_events_hold_their_transaction(self, durable_inbox: Durable, time: FakeClock) -> None:
        """A deferred event keeps the later ones of its transaction waiting, and nothing else."""
        stored = [event(n, transaction=transaction) for n, transaction in ((1, "x"), (2, "y"), (3, "x"))]
        stored += [event(4, type="cards.tokenized"), event(5, type="cards.tokenized")]
        await durable_inbox.store(stored)
        await durable_inbox.claim(owner="a", seconds=SECONDS, limit=9, exclusive=False)
        for one in (stored[0], stored[3]):
            await durable_inbox.reschedule(one, owner="a", seconds=10)
        await durable_inbox.release(owner="a")

        early = await durable_inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False)
        await durable_inbox.release(owner="b")
        time.tick(10)
        late = await durable_inbox.claim(owner="c", seconds=SECONDS, limit=9, exclusive=False)

        assert [one.id for one in early] == [2, 5]
        assert [one.id for one in late] == [1, 2, 3, 4, 5]

    @pytest.mark.asyncio
    async def test_only_the_owner_defers(self, durable_inbox: Durable) -> None:
        """A worker that lost an event can't put it off for the one that has it."""
        await durable_inbox.store(events(1))
        await durable_inbox.claim(owner="a", seconds=SECONDS, limit=9, exclusive=False)
        await durable_inbox.reschedule(event(1), owner="b", seconds=10)

        assert await durable_inbox.renew([1], owner="a", seconds=SECONDS) == {1}

    @pytest.mark.asyncio
    async def test_a_replayed_event_is_open_again(self, durable_inbox: Durable) -> None:
        """What a person has stored again is not handled yet, though a later id was reached."""
        await handle(durable_inbox, 1)
        await durable_inbox.lease(events(2), owner="a", seconds=SECONDS)
        await durable_inbox.record_failure(event(2), owner="a", error="x", max_attempts=1)
        await handle(durable_inbox, 3)
        before = await durable_inbox.last_contiguous_event_id()
        await durable_inbox.replay_dead_letter(2)

        assert (before, await durable_inbox.last_contiguous_event_id()) == (3, 1)


class TestOwnTransaction:
    """`SqliteInbox.mark_handled`, on the application's own connection to the same file."""

    @pytest.fixture
    def shop(self, path: Path) -> Callable[[], sqlite3.Connection]:
        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(path)
            connection.execute("CREATE TABLE IF NOT EXISTS orders (debit_id TEXT)")
            return connection

        return connect

    @pytest.mark.asyncio
    async def test_mark_and_effect_commit_together(
        self, sqlite_inbox: SqliteInbox, shop: Callable[[], sqlite3.Connection]
    ) -> None:
        """What the handler wrote and the mark appear at once, and the mark after the handler does no harm."""
        await sqlite_inbox.lease(events(1), owner="a", seconds=SECONDS)

        def write() -> None:
            with closing(shop()) as connection, connection:
                connection.execute("INSERT INTO orders VALUES ('t-1')")
                sqlite_inbox.mark_handled(connection, event(1))

        async with sqlite_inbox.handling(event(1), owner="a"):
            await asyncio.to_thread(write)
            assert (await sqlite_inbox.lease(events(1), owner="b", seconds=SECONDS)).handled == {1}

        assert await rows(sqlite_inbox, "SELECT * FROM orders") == [("t-1",)]

    @pytest.mark.asyncio
    async def test_rolled_back_is_not_marked(
        self, sqlite_inbox: SqliteInbox, shop: Callable[[], sqlite3.Connection]
    ) -> None:
        """A transaction that fails after the mark leaves neither the effect nor the mark."""
        await sqlite_inbox.lease(events(1), owner="a", seconds=SECONDS)

        def write() -> None:
            with closing(shop()) as connection, connection:
                connection.execute("INSERT INTO orders VALUES ('t-1')")
                sqlite_inbox.mark_handled(connection, event(1))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            async with sqlite_inbox.handling(event(1), owner="a"):
                write()

        assert await rows(sqlite_inbox, "SELECT * FROM orders") == []
        assert await rows(sqlite_inbox, "SELECT handled_at FROM jetpay_inbox") == [(None,)]

    @pytest.mark.asyncio
    async def test_a_lost_lease_rolls_the_effect_back(
        self, sqlite_inbox: SqliteInbox, shop: Callable[[], sqlite3.Connection], time: FakeClock
    ) -> None:
        """A worker that was stalled past its lease can't commit what its successor may have done already."""
        await sqlite_inbox.lease(events(1), owner="a", seconds=SECONDS)
        time.tick(SECONDS)
        await handle(sqlite_inbox, 1, owner="b")

        def write() -> None:
            with closing(shop()) as connection, connection:
                connection.execute("INSERT INTO orders VALUES ('t-1')")
                sqlite_inbox.mark_handled(connection, event(1))

        with pytest.raises(LeaseLostError, match="must not be committed"):
            async with sqlite_inbox.handling(event(1), owner="a"):
                write()

        assert await rows(sqlite_inbox, "SELECT * FROM orders") == []

    @pytest.mark.asyncio
    async def test_outside_of_a_handler_there_is_no_owner(
        self, sqlite_inbox: SqliteInbox, shop: Callable[[], sqlite3.Connection]
    ) -> None:
        """Without a receiver around it `mark_handled` says what is wrong."""
        with closing(shop()) as connection, pytest.raises(ConfigurationError, match="belongs in a handler"):
            sqlite_inbox.mark_handled(connection, event(1))
