"""The inbox in a SQLite file: shared, durable, and clear about what is wrong."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import pytest

from jetpay_async._core import fork
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks.errors import InboxError
from jetpay_async.webhooks.sqlite_inbox import SqliteInbox
from tests.webhooks.inboxes import SECONDS, handle, rows
from tests.webhooks.receiving import FakeClock, event, events

if TYPE_CHECKING:
    from pathlib import Path

    from jetpay_async.webhooks._inbox_rows import InboxRows


NORMAL, FULL = 1, 2
"""How SQLite counts what a commit waits for: nothing, in a file with a log, and the disk."""


class WatchedConnection:
    """A connection that notes what each commit will wait for, and whose commits fail where a test says so."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.levels: list[int] = []
        self.error: sqlite3.Error | None = None
        self.executemany = connection.executemany
        self.rollback = connection.rollback
        self.close = connection.close
        self._connection = connection

    def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        if statement == "COMMIT":
            self.levels += self._connection.execute("PRAGMA synchronous").fetchone()
            if self.error is not None:
                raise self.error
        return self._connection.execute(statement, *parameters)


async def watch_commits(inbox: SqliteInbox) -> WatchedConnection:
    def watch(rows: InboxRows) -> WatchedConnection:
        watched = WatchedConnection(rows._connection)
        rows._connection = cast("sqlite3.Connection", watched)
        return watched

    return await inbox._run(watch)


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
    async def test_a_commit_that_fails_leaves_no_transaction_open(self, sqlite_inbox: SqliteInbox) -> None:
        """What can't be committed is undone, so that the next transaction can begin."""
        watched = await watch_commits(sqlite_inbox)
        watched.error = sqlite3.OperationalError("the disk is on fire")
        with pytest.raises(InboxError, match="the disk is on fire"):
            await sqlite_inbox.lease(events(1), owner="a", seconds=SECONDS)
        watched.error = None

        leased = await sqlite_inbox.lease(events(1), owner="b", seconds=SECONDS)
        assert (leased.mine, leased.last_seen) == ({1}, None)

    @pytest.mark.asyncio
    async def test_commits_reach_the_disk(self, sqlite_inbox: SqliteInbox) -> None:
        """The file is in WAL mode, and a commit waits for the disk unless it says otherwise."""
        assert await rows(sqlite_inbox, "PRAGMA journal_mode") == [("wal",)]
        assert await rows(sqlite_inbox, "PRAGMA synchronous") == [(FULL,)]

    @pytest.mark.asyncio
    async def test_only_a_lease_need_not_reach_it(self, sqlite_inbox: SqliteInbox) -> None:
        """A power cut may undo a lease, of a delivery or of stored events: all else is on the disk, each time."""
        watched = await watch_commits(sqlite_inbox)
        for first in (1, 11, 21):
            one, two, three, stored = events(first, first + 1, first + 2, first + 3)
            await sqlite_inbox.lease([one, two, three], owner="a", seconds=SECONDS)
            await sqlite_inbox.mark([one], owner="a")
            await sqlite_inbox.renew([two.id], owner="a", seconds=SECONDS)
            async with sqlite_inbox.handling(two, owner="a"):
                pass
            await sqlite_inbox.record_failure(three, owner="a", error="", max_attempts=1)
            await sqlite_inbox.store([stored])
            await sqlite_inbox.claim(owner="b", seconds=SECONDS, limit=1, exclusive=False)
            await sqlite_inbox.reschedule(stored, owner="b", seconds=1.0)
            await sqlite_inbox.release(owner="a")
            await sqlite_inbox.replay_dead_letter(three.id)
            await sqlite_inbox.lease([stored, three], owner="c", seconds=SECONDS)
            await sqlite_inbox.mark([stored, three], owner="c")

        once = [NORMAL, FULL, FULL, FULL, FULL, FULL, NORMAL, FULL, FULL, FULL, NORMAL, FULL]
        assert watched.levels == once * 3

    @pytest.mark.asyncio
    async def test_a_power_cut_after_a_lease(self, path: Path, tmp_path: Path) -> None:
        """What was marked before is known, and the delivery whose lease is undone is received like a new one."""
        after = tmp_path / "after"
        after.mkdir()
        async with SqliteInbox(path) as inbox:
            await handle(inbox, 1)
            for name in ("inbox.db", "inbox.db-wal"):
                shutil.copy(path.with_name(name), after)
            await inbox.lease(events(3), owner="a", seconds=SECONDS)
        async with SqliteInbox(after / "inbox.db") as inbox:
            leased = await inbox.lease(events(1, 3), owner="b", seconds=SECONDS)

            assert (leased.handled, leased.mine, leased.last_seen) == ({1}, {3}, 1)
            assert await inbox.first_missing_event_id() == 2

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
            with pytest.raises(InboxError, match="another process holds it") as caught:
                await sqlite_inbox.lease(events(2), owner="b", seconds=SECONDS)

        assert (caught.value.reason, caught.value.retryable) == ("locked", True)
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

        with pytest.raises(InboxError) as caught:
            await sqlite_inbox.lease(events(*range(1, 2000)), owner="a", seconds=SECONDS)
        assert caught.value.reason == reason
        assert isinstance(caught.value.__cause__, sqlite3.Error)

    @pytest.mark.asyncio
    async def test_a_damaged_file_is_told(self, sqlite_inbox: SqliteInbox, path: Path) -> None:
        """A file that is no database is rejected, and is left as it is."""
        rubbish = b"not a database at all, but long enough to look at. " * 100
        await asyncio.to_thread(path.write_bytes, rubbish)

        with pytest.raises(InboxError, match="it is no SQLite database, or damaged") as caught:
            await sqlite_inbox.lease(events(1), owner="a", seconds=SECONDS)
        assert caught.value.reason == "damaged"
        assert await asyncio.to_thread(path.read_bytes) == rubbish

    @pytest.mark.asyncio
    async def test_opening_waits_for_the_others(self, path: Path) -> None:
        """Workers that start together on a new file wait for each other, as long as they would for a write."""
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            async with SqliteInbox(path, busy_timeout=0.02) as hasty, SqliteInbox(path) as patient:
                opening = asyncio.create_task(patient.last_contiguous_event_id())
                with pytest.raises(InboxError, match="another process holds it"):
                    await hasty.last_contiguous_event_id()
                assert not opening.done()
                other.execute("ROLLBACK")
                assert await opening is None

    @pytest.mark.asyncio
    async def test_a_file_with_two_names_is_rejected(self, path: Path, tmp_path: Path) -> None:
        """A hard link would have a log of its own, and each side would miss what the other one marks."""
        async with SqliteInbox(path) as inbox:
            await handle(inbox, 1)
        (tmp_path / "second.db").hardlink_to(path)

        async with SqliteInbox(path) as inbox:
            with pytest.raises(InboxError, match="hard links") as caught:
                await inbox.last_contiguous_event_id()
        assert caught.value.reason == "unavailable"

    @pytest.mark.asyncio
    async def test_any_error_of_sqlite_is_told(self, sqlite_inbox: SqliteInbox) -> None:
        """An error without an explanation is passed on in SQLite's own words."""

        def fail(rows: InboxRows) -> None:
            with rows._transaction():
                rows._connection.execute("NONSENSE")

        with pytest.raises(InboxError, match="can't be used: near") as caught:
            await sqlite_inbox._run(fail)
        assert caught.value.reason == "unavailable"

    @pytest.mark.asyncio
    async def test_a_missing_folder_is_told(self, tmp_path: Path) -> None:
        """A file that can't be opened is an error that may pass: the folder can still be made."""
        async with SqliteInbox(tmp_path / "later" / "inbox.db") as inbox:
            with pytest.raises(InboxError, match="can't be opened") as caught:
                await inbox.last_contiguous_event_id()
            (tmp_path / "later").mkdir()
            assert await inbox.last_contiguous_event_id() is None

        assert caught.value.reason == "unavailable"

    @pytest.mark.asyncio
    async def test_a_newer_schema_is_rejected(self, path: Path) -> None:
        """A file that a later release has changed is not written to."""
        async with SqliteInbox(path) as inbox:
            await handle(inbox, 1)
            await rows(inbox, "UPDATE jetpay_inbox_schema SET version = 99")
        async with SqliteInbox(path) as inbox:
            with pytest.raises(InboxError, match=r"schema 99.*upgrade jetpay-async") as caught:
                await inbox.lease(events(2), owner="a", seconds=SECONDS)

        assert caught.value.reason == "newer_schema"

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
            patched.setattr(fork, "_generation", fork._generation + 1)
            with pytest.raises(ConfigurationError, match="opened before a fork"):
                await sqlite_inbox.last_contiguous_event_id()

    @pytest.mark.asyncio
    async def test_closing_in_a_forked_child_returns(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a child `aclose` waits for no thread of the parent, and leaves the file to the parent."""
        inbox = SqliteInbox(path)
        await handle(inbox, 1)
        parents_thread = inbox._thread
        assert parents_thread is not None
        monkeypatch.setattr(parents_thread, "aclose", None)
        with monkeypatch.context() as patched:
            patched.setattr(fork, "_generation", fork._generation + 1)
            async with asyncio.timeout(5):
                await inbox.aclose()

        monkeypatch.undo()
        inbox._closed = False  # the parent's copy is another
        assert (await inbox.lease(events(1), owner="b", seconds=SECONDS)).handled == {1}
        await inbox.aclose()

    @pytest.mark.asyncio
    async def test_no_query_reads_the_whole_table(self, sqlite_inbox: SqliteInbox, time: FakeClock) -> None:
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
        await sqlite_inbox.claim(owner="b", seconds=SECONDS, limit=1, exclusive=False)
        await sqlite_inbox.reschedule(event(3), owner="b", seconds=1)
        time.tick(31 * 86_400)
        await handle(sqlite_inbox, 5)
        found = await sqlite_inbox._run(plans)

        assert len(found) > 20
        assert [plan for plan in found if "SCAN jetpay" in plan or "TEMP B-TREE" in plan] == []

    @pytest.mark.parametrize("field", ["retention", "busy_timeout"])
    @pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "5"])
    def test_a_number_of_seconds_is_checked_at_once(self, path: Path, field: str, seconds: object) -> None:
        """A time that can't be one is rejected when the inbox is made, not at the first delivery."""
        with pytest.raises(InvalidArgumentError, match=field):
            SqliteInbox(path, **{field: seconds})  # type: ignore[arg-type] # by name


@pytest.mark.asyncio
async def test_a_clock_that_is_set_back_holds_nothing_for_hours(tmp_path: Path) -> None:
    """A lease of a worker that died, and what it had stored, are free once the clock is right again."""
    ahead, right = FakeClock(1_800_007_200.0), FakeClock(1_800_000_000.0)
    async with SqliteInbox(tmp_path / "inbox.db", clock=ahead.clock) as died:
        await died.store(events(1, 2))
        assert [event.id for event in await died.claim(owner="a", seconds=30.0, limit=1, exclusive=False)] == [1]
        assert (await died.lease(events(3), owner="a", seconds=30.0)).mine == {3}

    async with SqliteInbox(tmp_path / "inbox.db", clock=right.clock) as inbox:
        assert (await inbox.lease(events(3), owner="b", seconds=30.0)).mine == {3}
        await inbox.release(owner="b")
        assert [event.id for event in await inbox.claim(owner="b", seconds=30.0, limit=9, exclusive=False)] == [1, 2]


@pytest.mark.asyncio
async def test_no_step_reads_all_that_was_handled(path: Path) -> None:
    """However many events were handled, each step finds its rows by an index: none reads the whole of a source."""
    steps: list[str] = []
    async with SqliteInbox(path) as inbox:

        def trace(rows: InboxRows) -> None:
            rows._connection.set_trace_callback(steps.append)

        await inbox._run(trace)
        await inbox.store(events(1, 2))
        claimed = await inbox.claim(owner="a", seconds=SECONDS, limit=10, exclusive=False)
        await inbox.renew([1, 2], owner="a", seconds=SECONDS)
        await inbox.record_failure(claimed[0], owner="a", error="", max_attempts=1)
        await inbox.reschedule(claimed[1], owner="a", seconds=1.0)
        await inbox.lease(events(3), owner="b", seconds=SECONDS)
        async with inbox.handling(event(3), owner="b"):
            pass
        await inbox.release(owner="b")
        await inbox.backlog()

        def plans(rows: InboxRows) -> set[str]:
            rows._connection.set_trace_callback(None)
            # The lowest and the highest id stand at the ends of the primary key.
            ends = ("SELECT min(id)", "SELECT max(id)")
            asked = [
                step for step in steps if step.startswith(("SELECT", "UPDATE", "DELETE")) and not step.startswith(ends)
            ]
            found = [rows._connection.execute(f"EXPLAIN QUERY PLAN {step}").fetchall() for step in asked]
            return {str(row[3]) for plan in found for row in plan}

        plan = await inbox._run(plans)

    assert len(steps) > 20
    # The primary key's first column alone is all that a source has.
    assert {line for line in plan if line.endswith("jetpay_inbox USING PRIMARY KEY (source=?)")} == set()
    assert {line for line in plan if line.startswith("SCAN jetpay_inbox")} == set()
