"""The inbox: each event handled once, by one worker at a time."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, TypeAlias, cast

import pytest
import pytest_asyncio

from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks._inbox_rows import _use_wal
from jetpay_async.webhooks.inbox import (
    DurableEventInbox,
    EventInbox,
    InboxError,
    LeaseLostError,
    MemoryInbox,
    SqliteInbox,
)
from tests.webhooks.receiving import HandClock, event, events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from jetpay_async.webhooks._inbox_rows import InboxRows

Inbox: TypeAlias = MemoryInbox | SqliteInbox

SECONDS = 30.0


@pytest.fixture
def time() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inbox.db"


@pytest_asyncio.fixture
async def sqlite_inbox(path: Path, time: HandClock) -> AsyncIterator[SqliteInbox]:
    async with SqliteInbox(path, clock=time.clock, busy_timeout=0.05) as inbox:
        yield inbox


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def inbox(request: pytest.FixtureRequest, path: Path, time: HandClock) -> AsyncIterator[Inbox]:
    if request.param == "memory":
        yield MemoryInbox(clock=time.clock)
    else:
        async with SqliteInbox(path, clock=time.clock) as inbox:
            yield inbox


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


@pytest.mark.asyncio
async def test_new_events_are_leased_to_who_asks_first(inbox: Inbox) -> None:
    """Of two owners the first gets the events, and the second is told that they are busy."""
    first = await inbox.lease(events(1, 2), owner="a", seconds=SECONDS)
    second = await inbox.lease(events(1, 2), owner="b", seconds=SECONDS)

    assert (first.mine, first.handled, first.busy) == ({1, 2}, set(), set())
    assert (second.mine, second.handled, second.busy) == (set(), set(), {1, 2})


@pytest.mark.asyncio
async def test_an_owner_may_ask_twice(inbox: Inbox) -> None:
    """Events that the owner holds already are its own, not busy."""
    await inbox.lease(events(1), owner="a", seconds=SECONDS)

    assert (await inbox.lease(events(1, 2), owner="a", seconds=SECONDS)).mine == {1, 2}


@pytest.mark.asyncio
async def test_nothing_behind_a_busy_event_is_taken(inbox: Inbox) -> None:
    """Events at and after the first busy one stay untaken, handled or not, since they could not be handled in order."""
    await handle(inbox, 1, 5)
    await inbox.lease(events(3), owner="a", seconds=SECONDS)

    leased = await inbox.lease(events(1, 2, 3, 4, 5), owner="b", seconds=SECONDS)

    assert (leased.handled, leased.mine, leased.busy) == ({1, 5}, {2}, {3, 4})
    assert (await inbox.lease(events(4), owner="c", seconds=SECONDS)).mine == {4}


@pytest.mark.asyncio
async def test_marked_events_are_handled_for_everyone(inbox: Inbox) -> None:
    """A marked event is skipped for every owner, also the one that marked it, however late."""
    await handle(inbox, 1, owner="a")

    for owner in ("a", "b"):
        assert (await inbox.lease(events(1), owner=owner, seconds=SECONDS)).handled == {1}


@pytest.mark.asyncio
async def test_a_lease_that_ran_out_is_taken_over(inbox: Inbox, time: HandClock) -> None:
    """After its time a lease goes to whoever asks, and the one who had it can neither renew nor mark."""
    await inbox.lease(events(1, 2), owner="a", seconds=SECONDS)
    time.tick(SECONDS)
    taken = await inbox.lease(events(1), owner="b", seconds=SECONDS)

    assert taken.mine == {1}
    assert await inbox.renew([1, 2], owner="a", seconds=SECONDS) == {2}
    with pytest.raises(LeaseLostError, match="event 1 was taken over"):
        async with inbox.handling(event(1), owner="a"):
            pass
    async with inbox.handling(event(1), owner="b"):
        pass
    with pytest.raises(LeaseLostError):
        async with inbox.handling(event(1), owner="a"):
            pass


@pytest.mark.asyncio
async def test_a_lease_lasts_until_the_very_end(inbox: Inbox, time: HandClock) -> None:
    """A moment before its time is up a lease still keeps the others out."""
    await inbox.lease(events(1), owner="a", seconds=SECONDS)
    time.tick(SECONDS - 0.001)

    assert (await inbox.lease(events(1), owner="b", seconds=SECONDS)).busy == {1}


@pytest.mark.asyncio
async def test_renewing_counts_from_now(inbox: Inbox, time: HandClock) -> None:
    """A renewed lease keeps the others out for its whole length again."""
    await inbox.lease(events(1), owner="a", seconds=SECONDS)
    time.tick(20)
    renewed = await inbox.renew([1], owner="a", seconds=SECONDS)
    time.tick(20)

    assert renewed == {1}
    assert (await inbox.lease(events(1), owner="b", seconds=SECONDS)).busy == {1}


@pytest.mark.asyncio
async def test_renewing_tells_marked_events_as_the_owners(inbox: Inbox) -> None:
    """An event that was marked while the renewal was on its way does not look lost."""
    await handle(inbox, 1, owner="a")

    assert await inbox.renew([1, 99], owner="a", seconds=SECONDS) == {1}


@pytest.mark.asyncio
async def test_released_events_are_free_at_once(inbox: Inbox) -> None:
    """Releasing frees what is not marked, and only the owner's."""
    await inbox.lease(events(1, 2), owner="a", seconds=SECONDS)
    await inbox.lease(events(3), owner="b", seconds=SECONDS)
    async with inbox.handling(event(1), owner="a"):
        pass

    await inbox.release(owner="a")

    leased = await inbox.lease(events(1, 2, 3), owner="c", seconds=SECONDS)
    assert (leased.handled, leased.mine, leased.busy) == ({1}, {2}, {3})


@pytest.mark.asyncio
async def test_a_block_that_raises_marks_nothing(inbox: Inbox) -> None:
    """The event of a handler that failed is still to be handled."""
    await inbox.lease(events(1), owner="a", seconds=SECONDS)

    with pytest.raises(ZeroDivisionError):
        async with inbox.handling(event(1), owner="a"):
            raise ZeroDivisionError
    await inbox.release(owner="a")

    assert (await inbox.lease(events(1), owner="b", seconds=SECONDS)).mine == {1}


@pytest.mark.asyncio
async def test_another_accounts_event_is_refused(inbox: Inbox) -> None:
    """A known id with another creation time is not taken for handled, in the same way however it is known."""
    await handle(inbox, 1)
    other = event(1, created_at="2026-01-22T10:15:30.123457Z")

    with pytest.raises(InboxError, match="event 1 is known with another createdAt") as refused:
        await inbox.lease([other], owner="b", seconds=SECONDS)
    assert refused.value.reason == "conflict"


@pytest.mark.asyncio
async def test_the_same_moment_in_another_zone_is_the_same_event(inbox: Inbox) -> None:
    """What counts is the moment of creation, not how it is written."""
    await handle(inbox, 1)
    again = event(1, created_at="2026-01-22T05:15:30.123456-05:00")

    assert (await inbox.lease([again], owner="b", seconds=SECONDS)).handled == {1}


@pytest.mark.asyncio
async def test_a_refused_lease_takes_nothing(inbox: Inbox) -> None:
    """Leasing is all or nothing: the events before a conflicting one are not taken either."""
    await handle(inbox, 2)

    with pytest.raises(InboxError):
        await inbox.lease([event(1), event(2, created_at="2020-01-01T00:00:00Z")], owner="a", seconds=SECONDS)

    assert (await inbox.lease(events(1), owner="b", seconds=SECONDS)).mine == {1}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("handled", "open_", "expected"),
    [
        pytest.param([], [], None, id="nothing"),
        pytest.param([], [7], None, id="only-open"),
        pytest.param([7, 8, 9], [], 9, id="all-handled"),
        pytest.param([7, 8, 10], [], 8, id="missing"),
        pytest.param([7, 9], [8, 10], 7, id="open-in-between"),
    ],
)
async def test_last_event_id_ends_before_what_is_missing(
    inbox: Inbox, handled: list[int], open_: list[int], expected: int | None
) -> None:
    """Everything from the lowest id to the last event id is handled, so a replay from there brings all that is not."""
    await inbox.lease(events(*open_), owner="a", seconds=SECONDS)
    await handle(inbox, *handled)

    assert await inbox.last_contiguous_event_id() == expected


@pytest.mark.asyncio
async def test_the_highest_id_seen_before_is_told(inbox: Inbox) -> None:
    """A lease tells the highest id that had arrived before it, handled or not, for the gap watch."""
    first = await inbox.lease(events(5), owner="a", seconds=SECONDS)
    second = await inbox.lease(events(3, 6), owner="a", seconds=SECONDS)
    third = await inbox.lease(events(4), owner="a", seconds=SECONDS)

    assert [first.last_seen, second.last_seen, third.last_seen] == [None, 5, 6]


@pytest.mark.asyncio
async def test_old_events_are_folded_and_never_forgotten(inbox: Inbox, time: HandClock) -> None:
    """Handled events past the time to keep take no rows any more, and are still known; gaps and open ones stay."""
    await handle(inbox, 1, 2, 3, 5, 6, 9)
    await inbox.lease(events(7), owner="dead", seconds=1)
    time.tick(40 * 86_400)
    await handle(inbox, 10)

    assert await rows(inbox, "SELECT event_id FROM jetpay_inbox ORDER BY 1") == [(7,), (10,)]
    assert await rows(inbox, "SELECT first, last FROM jetpay_inbox_range ORDER BY 1") == [(1, 3), (5, 6), (9, 9)]
    leased = await inbox.lease(events(0, 1, 3, 4, 6, 7, 8, 9), owner="b", seconds=SECONDS)
    assert (leased.handled, leased.mine, leased.last_seen) == ({1, 3, 6, 9}, {0, 4, 7, 8}, 10)


@pytest.mark.asyncio
async def test_ranges_grow_together(inbox: Inbox, time: HandClock) -> None:
    """Folding joins a run with the range below it and the one above it, so a history without gaps is one range."""
    for part in ([1, 2], [5, 6], [3, 4], [7]):
        await handle(inbox, *part)
        time.tick(31 * 86_400)
    await handle(inbox, 8)

    assert await rows(inbox, "SELECT first, last FROM jetpay_inbox_range") == [(1, 7)]
    assert await inbox.last_contiguous_event_id() == 8


@pytest.mark.asyncio
async def test_folding_keeps_up(inbox: Inbox, time: HandClock) -> None:
    """However many events grow old at once, each delivery folds more of them than it brings."""
    await inbox.lease(events(*range(1, 601)), owner="a", seconds=SECONDS)
    await rows(inbox, f"UPDATE jetpay_inbox SET handled_at = {time.now}")
    time.tick(31 * 86_400)
    for event_id in (601, 602, 603):
        await handle(inbox, event_id)

    assert await rows(inbox, "SELECT count(*) FROM jetpay_inbox") == [(3,)]
    assert await rows(inbox, "SELECT first, last FROM jetpay_inbox_range") == [(1, 600)]


def test_only_the_inbox_on_disk_is_a_store() -> None:
    """An inbox that forgets does not pass for one that keeps events for later."""
    assert isinstance(SqliteInbox("unused.db"), DurableEventInbox)
    assert not isinstance(MemoryInbox(), DurableEventInbox)
    assert not os.path.exists("unused.db")  # noqa: PTH110


def test_inboxes_tell_what_they_are() -> None:
    """The representation names the file and the source."""
    assert repr(SqliteInbox("a.db", source="shop")) == "SqliteInbox('a.db', source='shop')"
    assert repr(MemoryInbox()) == "MemoryInbox()"


def test_memory_inbox_says_what_it_does_not_do() -> None:
    """Whoever reads the first lines of its documentation knows that it forgets and is one process's."""
    words = " ".join((MemoryInbox.__doc__ or "").split())

    assert "tests and demonstrations only" in words
    assert "forgets everything at a restart, and it is one process's" in words


@pytest.mark.asyncio
async def test_memory_inboxes_do_not_share() -> None:
    """Two memory inboxes know nothing of each other, as their documentation says."""
    await handle(MemoryInbox(), 1)

    assert (await MemoryInbox().lease(events(1), owner="b", seconds=SECONDS)).mine == {1}


class TestSqlite:
    @pytest.mark.asyncio
    async def test_survives_a_restart(self, path: Path) -> None:
        """What one process marked, the next one knows."""
        async with SqliteInbox(path) as before:
            await handle(before, 1, 2)
        async with SqliteInbox(path) as after:
            leased = await after.lease(events(1, 2, 3), owner="b", seconds=SECONDS)
            last = await after.last_contiguous_event_id()

        assert (leased.handled, leased.mine, last) == ({1, 2}, {3}, 2)

    @pytest.mark.asyncio
    async def test_commits_reach_the_disk(self, sqlite_inbox: SqliteInbox) -> None:
        """The file is in WAL mode, and each commit waits for the disk."""
        assert await rows(sqlite_inbox, "PRAGMA journal_mode") == [("wal",)]
        assert await rows(sqlite_inbox, "PRAGMA synchronous") == [(2,)]

    @pytest.mark.asyncio
    async def test_sources_share_a_file_but_no_ids(self, path: Path) -> None:
        """The same id of two accounts is two events."""
        async with SqliteInbox(path, source="a") as a, SqliteInbox(path, source="b") as b:
            await handle(a, 1)
            leased = await b.lease(events(1), owner="b", seconds=SECONDS)

            assert (leased.mine, leased.last_seen) == ({1}, None)
            assert await b.last_contiguous_event_id() is None

    @pytest.mark.asyncio
    async def test_racing_workers_get_each_event_once(self, path: Path) -> None:
        """However many workers ask at the same moment, every event goes to exactly one of them."""
        inboxes = [SqliteInbox(path) for _ in range(4)]
        taken = [
            await asyncio.gather(*(inbox.lease(events(n), owner=str(i), seconds=9) for i, inbox in enumerate(inboxes)))
            for n in range(20)
        ]
        for inbox in inboxes:
            await inbox.aclose()

        assert [sum(len(leased.mine) for leased in round_) for round_ in taken] == [1] * 20

    @pytest.mark.asyncio
    async def test_the_loop_never_waits_for_the_file(self, path: Path) -> None:
        """While another process holds the write lock, the event loop runs on."""
        async with SqliteInbox(path, busy_timeout=5) as inbox:
            await handle(inbox, 1)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                waiting = asyncio.create_task(inbox.lease(events(2), owner="b", seconds=SECONDS))
                await asyncio.sleep(0.02)
                assert not waiting.done()
                other.execute("ROLLBACK")
            assert (await waiting).mine == {2}

    @pytest.mark.asyncio
    async def test_a_locked_file_is_told(self, sqlite_inbox: SqliteInbox, path: Path) -> None:
        """A write lock that another holds for too long is an error that says so and may pass."""
        await handle(sqlite_inbox, 1)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(InboxError, match="another process holds the inbox's write lock") as told:
                await sqlite_inbox.lease(events(2), owner="b", seconds=SECONDS)

        assert (told.value.reason, told.value.retryable) == ("locked", True)
        assert (await sqlite_inbox.lease(events(2), owner="b", seconds=SECONDS)).mine == {2}

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        ("pragma", "reason"),
        [
            pytest.param("PRAGMA query_only = ON", "readonly", id="readonly"),
            pytest.param("PRAGMA max_page_count = 1", "full", id="full"),
        ],
    )
    async def test_a_file_that_cannot_grow_is_told(self, sqlite_inbox: SqliteInbox, pragma: str, reason: str) -> None:
        """A read-only file and a full disk are different errors, and nothing counts as marked."""
        await rows(sqlite_inbox, pragma)

        with pytest.raises(InboxError) as told:
            await sqlite_inbox.lease(events(*range(1, 2000)), owner="a", seconds=SECONDS)
        assert told.value.reason == reason
        assert isinstance(told.value.__cause__, sqlite3.Error)

    @pytest.mark.asyncio
    async def test_a_damaged_file_is_told(self, sqlite_inbox: SqliteInbox, path: Path) -> None:
        """A file that is no database is refused, and is left as it is."""
        rubbish = b"not a database at all, but long enough to look at. " * 100
        await asyncio.to_thread(path.write_bytes, rubbish)

        with pytest.raises(InboxError, match="is not a SQLite database") as told:
            await sqlite_inbox.lease(events(1), owner="a", seconds=SECONDS)
        assert told.value.reason == "damaged"
        assert await asyncio.to_thread(path.read_bytes) == rubbish

    @pytest.mark.asyncio
    async def test_opening_waits_for_the_others(self, path: Path) -> None:
        """Workers that start together on a new file wait for each other, as long as they would for a write."""
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            async with SqliteInbox(path, busy_timeout=0.02) as hasty, SqliteInbox(path) as patient:
                opening = asyncio.create_task(patient.last_contiguous_event_id())
                with pytest.raises(InboxError, match="write lock"):
                    await hasty.last_contiguous_event_id()
                assert not opening.done()
                other.execute("ROLLBACK")
                assert await opening is None

    def test_opening_tries_again_where_sqlite_does_not_wait(self) -> None:
        """SQLite refuses some changes to WAL at once instead of waiting; the inbox waits for it, but not for ever."""

        class Contended:
            calls = 0

            def execute(self, _: str) -> None:
                self.calls += 1
                if self.calls < 3:
                    error = sqlite3.OperationalError("database is locked")
                    error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                    raise error

        patient, hasty = Contended(), Contended()
        _use_wal(cast("sqlite3.Connection", patient), within=5)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            _use_wal(cast("sqlite3.Connection", hasty), within=-1)

        assert (patient.calls, hasty.calls) == (3, 1)

    @pytest.mark.asyncio
    async def test_a_missing_folder_is_told(self, tmp_path: Path) -> None:
        """A file that can't be opened is an error that may pass: the folder can still be made."""
        async with SqliteInbox(tmp_path / "later" / "inbox.db") as inbox:
            with pytest.raises(InboxError, match="can't be opened") as told:
                await inbox.last_contiguous_event_id()
            (tmp_path / "later").mkdir()
            assert await inbox.last_contiguous_event_id() is None

        assert told.value.reason == "unavailable"

    @pytest.mark.asyncio
    async def test_a_newer_schema_is_refused(self, path: Path) -> None:
        """A file that a later release has changed is not written to."""
        async with SqliteInbox(path) as inbox:
            await handle(inbox, 1)
            await rows(inbox, "UPDATE jetpay_inbox_schema SET version = 99")
        async with SqliteInbox(path) as inbox:
            with pytest.raises(InboxError, match=r"schema 99.*upgrade jetpay-async") as told:
                await inbox.lease(events(2), owner="a", seconds=SECONDS)

        assert told.value.reason == "newer_schema"

    @pytest.mark.asyncio
    async def test_closed_is_closed(self, path: Path) -> None:
        """A closed inbox says so instead of opening its file again; closing twice, or unopened, is fine."""
        inbox = SqliteInbox(path)
        await handle(inbox, 1)
        await inbox.aclose()
        await inbox.aclose()
        await SqliteInbox(path).aclose()

        with pytest.raises(ConfigurationError, match="is closed"):
            await inbox.last_contiguous_event_id()

    @pytest.mark.asyncio
    async def test_closing_what_could_not_be_opened(self, tmp_path: Path) -> None:
        """An inbox whose file never opened can still be closed."""
        inbox = SqliteInbox(tmp_path / "nowhere" / "inbox.db")
        with pytest.raises(InboxError):
            await inbox.last_contiguous_event_id()

        await inbox.aclose()

    @pytest.mark.asyncio
    async def test_a_fork_is_noticed(self, sqlite_inbox: SqliteInbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """An inbox that was opened before a fork says so in the child, whose copy has no thread."""
        await sqlite_inbox.last_contiguous_event_id()
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: -1)
            with pytest.raises(ConfigurationError, match="opened before a fork"):
                await sqlite_inbox.last_contiguous_event_id()

    @pytest.mark.asyncio
    async def test_no_query_reads_the_whole_table(self, sqlite_inbox: SqliteInbox, time: HandClock) -> None:
        """Every statement of the daily work finds its rows by an index, however many there are."""
        statements: list[str] = []

        def spy(rows: InboxRows) -> None:
            rows._connection.set_trace_callback(statements.append)

        def plans(rows: InboxRows) -> list[str]:
            rows._connection.set_trace_callback(None)
            explained = [text for text in statements if text.split()[0] in ("SELECT", "UPDATE", "INSERT", "DELETE")]
            return [
                f"{row[3]} <- {text}"
                for text in explained
                for row in rows._connection.execute(f"EXPLAIN QUERY PLAN {text}")
            ]

        await sqlite_inbox._run(spy)
        await handle(sqlite_inbox, 1, 2, owner="a")
        await sqlite_inbox.renew([1], owner="a", seconds=SECONDS)
        await sqlite_inbox.release(owner="a")
        await sqlite_inbox.store(events(3, 4))
        await sqlite_inbox.take(owner="b", seconds=SECONDS, limit=1)
        await sqlite_inbox.reschedule(event(3), owner="b", seconds=1)
        time.tick(31 * 86_400)
        await handle(sqlite_inbox, 5)
        found = await sqlite_inbox._run(plans)

        assert len(found) > 20
        assert [plan for plan in found if "SCAN jetpay" in plan or "TEMP B-TREE" in plan] == []


class TestStore:
    @pytest.mark.asyncio
    async def test_stored_events_come_back_whole(self, sqlite_inbox: SqliteInbox) -> None:
        """What is taken equals what was stored: class, exact numbers, unknown fields."""
        stored = (event(1), event(2, state="failed"), event(3, type="cards.tokenized"), event(4, state="new-to-us"))
        await sqlite_inbox.store(stored)

        taken = await sqlite_inbox.take(owner="a", seconds=SECONDS, limit=100)

        assert tuple(taken) == stored
        assert [type(one) for one in taken] == [type(one) for one in stored]

    @pytest.mark.asyncio
    async def test_storing_twice_stores_once(self, sqlite_inbox: SqliteInbox) -> None:
        """A redelivery adds only what is not there yet, whether that was handled or not."""
        first = await sqlite_inbox.store(events(1, 2))
        await sqlite_inbox.take(owner="a", seconds=SECONDS, limit=1)
        async with sqlite_inbox.handling(event(1), owner="a"):
            pass
        second = await sqlite_inbox.store(events(1, 2, 3))

        assert (first.new, first.known, first.last_seen) == ({1, 2}, set(), None)
        assert (second.new, second.known, second.last_seen) == ({3}, {1, 2}, 2)

    @pytest.mark.asyncio
    async def test_marking_drops_the_event_itself(self, sqlite_inbox: SqliteInbox) -> None:
        """A handled event leaves its mark, not its data."""
        await sqlite_inbox.store(events(1))
        await sqlite_inbox.take(owner="a", seconds=SECONDS, limit=9)
        async with sqlite_inbox.handling(event(1), owner="a"):
            pass

        assert await rows(sqlite_inbox, "SELECT document FROM jetpay_inbox") == [(None,)]
        assert await sqlite_inbox.take(owner="a", seconds=SECONDS, limit=9) == ()

    @pytest.mark.asyncio
    async def test_an_event_that_was_only_leased_is_stored_too(self, sqlite_inbox: SqliteInbox) -> None:
        """An event that an earlier delivery left unhandled, without storing it, is on disk after storing."""
        await sqlite_inbox.lease(events(1), owner="a", seconds=SECONDS)
        await sqlite_inbox.release(owner="a")

        assert await sqlite_inbox.take(owner="b", seconds=SECONDS, limit=9) == ()
        assert (await sqlite_inbox.store(events(1))).new == {1}
        assert await sqlite_inbox.take(owner="b", seconds=SECONDS, limit=9) == events(1)

    @pytest.mark.asyncio
    async def test_one_owner_takes_at_a_time(self, sqlite_inbox: SqliteInbox, time: HandClock) -> None:
        """While one worker has stored events the others get none, and all of its rest once its lease has run out."""
        await sqlite_inbox.store(events(1, 2, 3))
        first = await sqlite_inbox.take(owner="a", seconds=SECONDS, limit=2)
        second = await sqlite_inbox.take(owner="b", seconds=SECONDS, limit=2)
        time.tick(SECONDS)
        third = await sqlite_inbox.take(owner="b", seconds=SECONDS, limit=9)

        assert [first, second, third] == [events(1, 2), (), events(1, 2, 3)]

    @pytest.mark.asyncio
    async def test_deferred_events_hold_their_transaction(self, sqlite_inbox: SqliteInbox, time: HandClock) -> None:
        """A deferred event keeps the later ones of its transaction waiting, and nothing else."""
        stored = [event(n, transaction=transaction) for n, transaction in ((1, "x"), (2, "y"), (3, "x"))]
        stored += [event(4, type="cards.tokenized"), event(5, type="cards.tokenized")]
        await sqlite_inbox.store(stored)
        await sqlite_inbox.take(owner="a", seconds=SECONDS, limit=9)
        for one in (stored[0], stored[3]):
            await sqlite_inbox.reschedule(one, owner="a", seconds=10)
        await sqlite_inbox.release(owner="a")

        early = await sqlite_inbox.take(owner="b", seconds=SECONDS, limit=9)
        await sqlite_inbox.release(owner="b")
        time.tick(10)
        late = await sqlite_inbox.take(owner="c", seconds=SECONDS, limit=9)

        assert [one.id for one in early] == [2, 5]
        assert [one.id for one in late] == [1, 2, 3, 4, 5]

    @pytest.mark.asyncio
    async def test_only_the_owner_defers(self, sqlite_inbox: SqliteInbox) -> None:
        """A worker that lost an event can't put it off for the one that has it."""
        await sqlite_inbox.store(events(1))
        await sqlite_inbox.take(owner="a", seconds=SECONDS, limit=9)
        await sqlite_inbox.reschedule(event(1), owner="b", seconds=10)

        assert await sqlite_inbox.renew([1], owner="a", seconds=SECONDS) == {1}


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
        self, sqlite_inbox: SqliteInbox, shop: Callable[[], sqlite3.Connection], time: HandClock
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
