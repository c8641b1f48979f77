"""The inbox in PostgreSQL leases a delivery of new events in one round trip, and marks it in another, or falls back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from jetpay_async.webhooks.errors import InboxError
from jetpay_async.webhooks.inbox import Leased
from tests.webhooks.inboxes import SECONDS, TimedPostgresInbox, handle
from tests.webhooks.receiving import event, events

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from jetpay_async.webhooks.postgres_inbox import PostgresInbox
    from tests.webhooks.receiving import FakeClock

INSERT = """
    INSERT INTO jetpay_inbox (source, event_id, created_at, owner, leased_until)
    SELECT source, event_id + 1, created_at, 'b', 'infinity' FROM jetpay_inbox
"""


@pytest.fixture
def inbox(postgres_inbox: TimedPostgresInbox) -> TimedPostgresInbox:
    return postgres_inbox


async def count_round_trips(monkeypatch: pytest.MonkeyPatch, step: Awaitable[object]) -> int:
    """Count the exchanges with the server that a step waits for."""
    wait = psycopg.AsyncConnection.wait
    trips = 0

    async def counted(connection: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal trips
        trips += 1
        return await wait(connection, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(psycopg.AsyncConnection, "wait", counted)
        await step
    return trips


def lose_answer(inbox: PostgresInbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the connection break once, after the next statement that begins and commits by itself has committed."""
    run = inbox._run_statement

    async def run_and_break(connection: Any, statement: str, **parameters: object) -> Any:
        monkeypatch.undo()
        await run(connection, statement, **parameters)
        await connection.close()
        raise psycopg.OperationalError("the connection was lost")

    monkeypatch.setattr(inbox, "_run_statement", run_and_break)


class TestRoundTrips:
    @pytest.mark.asyncio
    async def test_a_delivery_of_new_events(self, inbox: TimedPostgresInbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """The lease of any number of new events takes one round trip, and so do their marks."""
        await handle(inbox, 1)
        new = events(*range(2, 102))

        leasing = await count_round_trips(monkeypatch, inbox.lease(new, owner="a", seconds=SECONDS))
        marking = await count_round_trips(monkeypatch, inbox.mark(new, owner="a"))

        assert (leasing, marking) == (1, 1)
        assert (await inbox.lease(new, owner="b", seconds=SECONDS)).handled == set(range(2, 102))

    @pytest.mark.asyncio
    async def test_without_events_there_is_nothing_to_lease(self, inbox: TimedPostgresInbox) -> None:
        """An empty delivery is answered like one that needs more than one statement."""
        await handle(inbox, 1)

        leased = await inbox.lease((), owner="a", seconds=SECONDS)

        assert leased == Leased(mine=frozenset(), handled=frozenset(), busy=frozenset(), last_seen=1)


class TestLease:
    @pytest.mark.asyncio
    async def test_what_is_missing_is_noted(self, inbox: TimedPostgresInbox) -> None:
        """The ids that a delivery of new events jumps over are missing: before its first one, and between."""
        await handle(inbox, 1)

        leased = await inbox.lease(events(3, 4, 7), owner="a", seconds=SECONDS)

        assert leased == Leased(mine=frozenset({3, 4, 7}), handled=frozenset(), busy=frozenset(), last_seen=1)
        assert [await inbox.first_missing_event_id(start) for start in (0, 3, 6, 7)] == [2, 5, 6, None]

    @pytest.mark.asyncio
    async def test_a_delivery_in_which_some_are_known(self, inbox: TimedPostgresInbox) -> None:
        """If one event has arrived before, what is handled is skipped and the others are leased, new ones included."""
        await handle(inbox, 1)
        await inbox.lease(events(3), owner="b", seconds=SECONDS)

        leased = await inbox.lease(events(1, 2, 3, 4), owner="a", seconds=SECONDS)

        assert leased == Leased(mine=frozenset({2}), handled=frozenset({1}), busy=frozenset({3, 4}), last_seen=3)
        assert await inbox.first_missing_event_id() is None

    @pytest.mark.asyncio
    async def test_events_that_come_late(self, inbox: TimedPostgresInbox) -> None:
        """New events below the highest one that has arrived are leased, and are not missing any more."""
        await handle(inbox, 1, 5)

        leased = await inbox.lease(events(3, 4), owner="a", seconds=SECONDS)

        assert (leased.mine, leased.last_seen) == ({3, 4}, 5)
        assert [await inbox.first_missing_event_id(start) for start in (0, 3)] == [2, None]

    @pytest.mark.asyncio
    async def test_events_below_all_others(self, inbox: TimedPostgresInbox) -> None:
        """What is between new events and the lowest one that has arrived is missing then."""
        await handle(inbox, 5)

        leased = await inbox.lease(events(2), owner="a", seconds=SECONDS)

        assert (leased.mine, leased.last_seen) == ({2}, 5)
        assert [await inbox.first_missing_event_id(start) for start in (0, 4, 5)] == [3, 4, None]

    @pytest.mark.asyncio
    async def test_the_same_event_twice_in_one_delivery(self, inbox: TimedPostgresInbox) -> None:
        """An id that a delivery repeats is leased once and marked once."""
        await handle(inbox, 1)
        repeated = (event(2), event(2), event(3))

        leased = await inbox.lease(repeated, owner="a", seconds=SECONDS)
        lost = await inbox.mark(repeated, owner="a")

        assert leased == Leased(mine=frozenset({2, 3}), handled=frozenset(), busy=frozenset(), last_seen=1)
        assert lost == frozenset()
        assert (await inbox.lease(repeated, owner="b", seconds=SECONDS)).handled == {2, 3}

    @pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
    @pytest.mark.asyncio
    async def test_two_that_insert_the_same_event(
        self, inbox: TimedPostgresInbox, postgres_database: str, commits: bool
    ) -> None:
        """Of two machines that receive an event at the same moment the second one waits; one of them has it."""
        await handle(inbox, 1)
        async with await psycopg.AsyncConnection.connect(postgres_database) as other:
            await other.execute(INSERT)
            leasing = asyncio.create_task(inbox.lease(events(2, 3), owner="a", seconds=SECONDS))
            await until_waiting(postgres_database)
            await (other.commit() if commits else other.rollback())

            leased = await leasing

        # A lease ends at last: only the mark is for ever.
        assert (leased.mine, leased.busy) == ((set(), {2, 3}) if commits else ({2, 3}, set()))
        assert await inbox.first_missing_event_id() is None
        await inbox.release(owner="a")

    @pytest.mark.asyncio
    async def test_another_account_of_the_same_ids(self, inbox: TimedPostgresInbox) -> None:
        """An id that has arrived with another creation time is rejected, and nothing of its delivery is leased."""
        await handle(inbox, 1, 2)
        foreign = event(2, created_at="2020-01-01T00:00:00Z")

        with pytest.raises(InboxError, match="event 2 was delivered before with another createdAt"):
            await inbox.lease((foreign, event(3)), owner="a", seconds=SECONDS)

        assert (await inbox.lease(events(3), owner="b", seconds=SECONDS)).mine == {3}

    @pytest.mark.asyncio
    async def test_an_answer_that_is_lost(self, inbox: TimedPostgresInbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """A lease that has committed, though its answer did not come, is found by its owner and by nobody else."""
        await handle(inbox, 1)
        lose_answer(inbox, monkeypatch)

        leased = await inbox.lease(events(2, 3), owner="a", seconds=SECONDS)

        assert leased.mine == {2, 3}
        assert (await inbox.lease(events(2, 3), owner="b", seconds=SECONDS)).busy == {2, 3}

    @pytest.mark.asyncio
    async def test_an_error_leaves_the_connection_fit(
        self, inbox: TimedPostgresInbox, postgres_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A lock that can't be had in time is said to be the reason, nothing is leased, and the next lease works."""
        await handle(inbox, 1)
        monkeypatch.setattr(inbox, "_begin", inbox._begin.replace("'5000ms'", "'20ms'"))
        async with await psycopg.AsyncConnection.connect(postgres_database) as other:
            await other.execute(INSERT)
            with pytest.raises(InboxError) as caught:
                await inbox.lease(events(2, 3), owner="a", seconds=SECONDS)
            await other.rollback()

        assert caught.value.reason == "locked"
        assert (await inbox.lease(events(2, 3), owner="b", seconds=SECONDS)).mine == {2, 3}


class TestMark:
    @pytest.mark.parametrize("stolen", [{2}, {2, 3}], ids=["one of them", "all of them"])
    @pytest.mark.asyncio
    async def test_events_that_were_taken_over(
        self, inbox: TimedPostgresInbox, time: FakeClock, stolen: set[int]
    ) -> None:
        """Events that another worker has leased meanwhile are lost, and stay open; the others are marked."""
        await handle(inbox, 1)
        await inbox.lease(events(2, 3), owner="a", seconds=SECONDS)
        time.tick(SECONDS)
        await inbox.lease(events(*stolen), owner="b", seconds=SECONDS)

        lost = await inbox.mark(events(2, 3), owner="a")

        assert lost == stolen
        again = await inbox.lease(events(2, 3), owner="b", seconds=SECONDS)
        assert (again.mine, again.handled) == (stolen, {2, 3} - stolen)

    @pytest.mark.asyncio
    async def test_marking_twice(self, inbox: TimedPostgresInbox) -> None:
        """An event that its owner has marked, as in a transaction of its own, is not lost."""
        await handle(inbox, 1)
        await inbox.lease(events(2, 3), owner="a", seconds=SECONDS)
        await inbox.mark(events(3), owner="a")

        assert await inbox.mark(events(2, 3), owner="a") == frozenset()
        assert (await inbox.lease(events(2, 3), owner="b", seconds=SECONDS)).handled == {2, 3}

    @pytest.mark.asyncio
    async def test_an_answer_that_is_lost(self, inbox: TimedPostgresInbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """Marks that have committed, though their answer did not come, are the owner's."""
        await handle(inbox, 1)
        await inbox.lease(events(2, 3), owner="a", seconds=SECONDS)
        lose_answer(inbox, monkeypatch)

        assert await inbox.mark(events(2, 3), owner="a") == frozenset()
        assert (await inbox.lease(events(2, 3), owner="b", seconds=SECONDS)).handled == {2, 3}


async def until_waiting(url: str) -> None:
    """Wait until a statement waits for another transaction."""
    async with asyncio.timeout(20), await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while not await (
            await connection.execute(
                "SELECT 1 FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE NOT l.granted AND a.datname = current_database()"
            )
        ).fetchall():
            await asyncio.sleep(0.005)
