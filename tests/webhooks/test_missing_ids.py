"""What is missing: ids that never arrived between ids that have, as every inbox keeps them."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetpay_async.webhooks import _postgres_sql as sql
from jetpay_async.webhooks._missing_ids import IdRange, SeenIds, late, new_gaps, without
from jetpay_async.webhooks.inbox import MissingEventsInbox
from jetpay_async.webhooks.postgres_inbox import PostgresInbox
from tests.webhooks.inboxes import SECONDS, TimedPostgresInbox, handle, rows
from tests.webhooks.receiving import events

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jetpay_async.webhooks._inbox_rows import InboxRows
    from jetpay_async.webhooks.sqlite_inbox import SqliteInbox
    from tests.webhooks.receiving import FakeClock

_MANY = 3_000


def missing_of(arrived: Iterable[int]) -> list[int]:
    """Every id between the lowest and the highest that is not there."""
    ids = set(arrived)
    return [event_id for event_id in range(min(ids), max(ids)) if event_id not in ids]


@given(st.lists(st.sets(st.integers(1, 30), min_size=1, max_size=5), min_size=1, max_size=12))
def test_ranges_hold_exactly_what_is_missing(batches: list[set[int]]) -> None:
    """In whatever order ids arrive, the ranges hold what a search of all ids would find, and none twice."""
    arrived: set[int] = set()
    gaps: list[IdRange] = []
    for batch in batches:
        seen = SeenIds(min(arrived), max(arrived)) if arrived else None
        new = sorted(batch - arrived)
        for run in late(new, seen):
            gaps = [left for gap in gaps for left in without(gap, run)]
        gaps += new_gaps(new, seen)
        arrived |= batch

        assert sorted(event_id for gap in gaps for event_id in range(gap.first, gap.last + 1)) == missing_of(arrived)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.asyncio
async def test_an_inbox_knows_what_never_arrived(any_inbox: MissingEventsInbox, seed: int) -> None:
    """Whatever comes in whatever order, and whether it is handled or not, the first missing id from any on is known."""
    chance = random.Random(seed)
    order = chance.sample(range(1, 13), 10)
    arrived: set[int] = set()
    handled: set[int] = set()
    assert isinstance(any_inbox, MissingEventsInbox)
    assert await any_inbox.first_missing_event_id() is None
    for batch in (order[:1], order[1:4], order[4:6], order[6:9], order[9:]):
        await any_inbox.lease(events(*sorted(batch)), owner="a", seconds=SECONDS)
        await any_inbox.release(owner="a")
        arrived.update(batch)
        done = {event_id for event_id in sorted(arrived - handled) if chance.random() < 0.7}
        if done:
            await handle(any_inbox, *sorted(done))
        handled |= done

        missing = missing_of(arrived)
        for start in range(14):
            expected = next((event_id for event_id in missing if event_id >= start), None)
            assert await any_inbox.first_missing_event_id(start) == expected
        below = set(range(min(arrived), max(arrived) + 2)) - handled
        last = min(below) - 1
        assert await any_inbox.last_contiguous_event_id() == (last if last >= min(arrived) else None)


@pytest.mark.asyncio
async def test_what_is_busy_has_arrived(any_inbox: MissingEventsInbox) -> None:
    """Events that can't be leased yet, since another worker holds one below them, are not taken for missing."""
    await any_inbox.lease(events(1), owner="a", seconds=SECONDS)
    leased = await any_inbox.lease(events(1, 2, 3), owner="b", seconds=SECONDS)
    later = await any_inbox.lease(events(4), owner="c", seconds=SECONDS)

    assert leased.busy == {1, 2, 3}
    assert (later.mine, later.last_seen) == ({4}, 3)
    assert await any_inbox.first_missing_event_id() is None
    await any_inbox.release(owner="a")
    assert (await any_inbox.lease(events(1, 2, 3), owner="b", seconds=SECONDS)).mine == {1, 2, 3}


@pytest.mark.asyncio
async def test_stored_events_have_arrived(durable_inbox: SqliteInbox) -> None:
    """Storing counts like leasing: late ones close the gap, though none is handled."""
    await durable_inbox.store(events(1, 5))
    before = await durable_inbox.first_missing_event_id()
    await durable_inbox.store(events(2, 3, 4, 5))

    assert (before, await durable_inbox.first_missing_event_id()) == (2, None)
    assert await durable_inbox.last_contiguous_event_id() is None


@pytest.mark.asyncio
async def test_reading_costs_the_same_however_many_events_there_are(sqlite_inbox: SqliteInbox) -> None:
    """The number of steps that SQLite takes is that of a short table, also when it is asked for the first time."""

    def steps_of(inbox: InboxRows) -> int:
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        inbox._connection.set_progress_handler(count, 1)
        inbox.last_contiguous_event_id()
        inbox.first_missing_event_id(1)
        inbox._connection.set_progress_handler(None, 0)
        return steps

    await handle(sqlite_inbox, *range(1, 4), 5)
    few = await sqlite_inbox._run(steps_of)
    await sqlite_inbox.lease(events(*range(6, _MANY)), owner="a", seconds=SECONDS)
    await rows(sqlite_inbox, "UPDATE jetpay_inbox SET handled_at = 1")

    assert await sqlite_inbox._run(steps_of) < few + 50
    assert await sqlite_inbox.last_contiguous_event_id() == 3


@pytest.mark.asyncio
async def test_rows_that_another_release_added_do_no_harm(sqlite_inbox: SqliteInbox) -> None:
    """An id that arrived unnoticed leaves a range too long or too short, and no delivery is rejected for it."""
    await handle(sqlite_inbox, 1)
    await rows(sqlite_inbox, "INSERT INTO jetpay_inbox VALUES ('', 9, 0, NULL, NULL, 0, 1, NULL, NULL, 0)")
    await handle(sqlite_inbox, 5)
    await handle(sqlite_inbox, 12)
    await handle(sqlite_inbox, 7)

    assert await sqlite_inbox.first_missing_event_id() == 10


class TestPostgres:
    """Machines that receive at the same moment don't see what the others are about to insert."""

    @pytest.mark.asyncio
    async def test_what_is_missing_is_known_whoever_came_first(self, postgres_database: str) -> None:
        """Deliveries at once to several machines, the first ones too, hide nothing that is missing."""
        async with PostgresInbox(postgres_database) as one, PostgresInbox(postgres_database) as other:
            await one.create_tables()
            arrivals = [event_id for event_id in random.Random(1).sample(range(1, 60), 59) if event_id % 7]
            await asyncio.gather(
                *(
                    (one, other)[place % 2].lease(events(event_id), owner=str(place), seconds=SECONDS)
                    for place, event_id in enumerate(arrivals)
                )
            )
            found: list[int] = []
            start: int | None = 0
            while (start := await one.first_missing_event_id(start + 1 if found else 0)) is not None:
                found.append(start)

        assert found == missing_of(arrivals)

    @pytest.mark.asyncio
    async def test_a_first_arrival_waits_for_another(self, postgres_database: str) -> None:
        """Of two machines whose first events arrive at once, the second one sees those of the first."""
        async with PostgresInbox(postgres_database) as one, PostgresInbox(postgres_database) as other:
            await one.create_tables()
            await other.last_contiguous_event_id()
            async with await psycopg.AsyncConnection.connect(postgres_database) as own:
                await own.execute(sql.FIRST_ARRIVAL_LOCK.encode(), {"source": ""})
                await own.execute("INSERT INTO jetpay_inbox (source, event_id, created_at) VALUES ('', 1, 0)")
                leasing = asyncio.create_task(other.lease(events(5), owner="b", seconds=SECONDS))
                await self._until_one_waits(postgres_database)
                await own.commit()

            assert (await leasing).last_seen == 1
            assert await one.first_missing_event_id() == 2

    @pytest.mark.asyncio
    async def test_ranges_are_shortened_by_what_has_arrived(
        self, postgres_inbox: TimedPostgresInbox, postgres_database: str
    ) -> None:
        """A range that a slower machine noted, and that has arrived, is passed over, and shortened when read."""
        await handle(postgres_inbox, *range(1, 8), 9, 10)
        stale = {"source": "", "firsts": [2, 3, 5], "lasts": [3, 8, 5]}
        async with await psycopg.AsyncConnection.connect(postgres_database, autocommit=True) as own:
            await own.execute(sql.ADD_MISSING.encode(), stale)

            assert await postgres_inbox.first_missing_event_id(5) == 8
            assert await postgres_inbox.first_missing_event_id(9) is None
            assert await postgres_inbox.last_contiguous_event_id() == 7
            ranges = await (await own.execute("SELECT first, last FROM jetpay_inbox_missing")).fetchall()

        assert ranges == [(8, 8)]
        assert await postgres_inbox.last_contiguous_event_id() == 7

    @pytest.mark.asyncio
    async def test_a_range_that_another_transaction_changes_keeps_nobody_waiting(
        self, postgres_inbox: TimedPostgresInbox, postgres_database: str
    ) -> None:
        """A late event arrives while somebody else holds its range, and is not missing."""
        await handle(postgres_inbox, 1, 4)
        async with await psycopg.AsyncConnection.connect(postgres_database) as own:
            await own.execute("SELECT FROM jetpay_inbox_missing FOR UPDATE")
            await handle(postgres_inbox, 2)
            await own.rollback()

        assert await postgres_inbox.first_missing_event_id() == 3

    @pytest.mark.asyncio
    async def test_tables_of_an_older_release_are_searched_once(self, postgres_database: str, time: FakeClock) -> None:
        """What is missing in a table of version 2 is noted by the migration."""
        await self._make_version_2(postgres_database, [1, 2, 5, 6, 9])
        async with TimedPostgresInbox(postgres_database, time) as inbox:
            await inbox.create_tables()

            assert [await inbox.first_missing_event_id(start) for start in (0, 4, 5, 9)] == [3, 4, 7, None]
            assert await inbox.last_contiguous_event_id() == 2

    @pytest.mark.asyncio
    async def test_reading_needs_few_pages(self, postgres_inbox: TimedPostgresInbox, postgres_database: str) -> None:
        """However many events there are, the plan reads by index: some pages, not the table."""
        await handle(postgres_inbox, 1, 2, 4)
        async with await psycopg.AsyncConnection.connect(postgres_database, autocommit=True) as own:
            await own.execute(
                "INSERT INTO jetpay_inbox (source, event_id, created_at, handled_at)"
                f" SELECT '', id, 0, 1 FROM generate_series(5, {10 * _MANY}) AS id"
            )
            explain = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
            for statement in (sql.CONTIGUOUS, sql.FIRST_MISSING):
                cursor = await own.execute(explain + statement.encode(), {"source": "", "start": 0})
                (((plan,),),) = await cursor.fetchall()

                assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 60

    async def _until_one_waits(self, url: str) -> None:
        async with asyncio.timeout(20), await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            while True:
                cursor = await connection.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                if await cursor.fetchone() is not None:
                    return
                await asyncio.sleep(0.01)

    async def _make_version_2(self, url: str, event_ids: Sequence[int]) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            for statement in PostgresInbox.create_statements():
                await connection.execute(statement.encode())
            await connection.execute("DROP TABLE jetpay_inbox_missing")
            await connection.execute("CREATE TABLE jetpay_inbox_contiguous (source text PRIMARY KEY)")
            await connection.execute("UPDATE jetpay_inbox_schema SET version = 2")
            await connection.execute(
                "INSERT INTO jetpay_inbox (source, event_id, created_at, handled_at)"
                " SELECT '', id, 0, 1 FROM unnest(%s::bigint[]) AS id",
                [list(event_ids)],
            )
