"""Inbox files of older releases are brought up to date, and nothing in them is lost."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from jetpay_async._core.migrations import Migrations
from jetpay_async.webhooks import _inbox_rows
from jetpay_async.webhooks._inbox_rows import SCHEMA
from jetpay_async.webhooks.errors import InboxError
from jetpay_async.webhooks.sqlite_inbox import SqliteInbox
from tests.webhooks.inboxes import SECONDS, handle, rows
from tests.webhooks.receiving import FakeClock, event, events

# What the first release wrote, as SQL: events 1 to 3 and 5 folded, 6 and 7 handled, 8 to 10 stored (8 leased by a dead
# process), 12 leased; and events 1 and 2 of the source "shop" handled.
OLD = {1: Path(__file__).parent / "data" / "inbox_v1.sql"}
WRITTEN_AT = 1_802_678_400.0


@pytest.fixture(params=sorted(OLD))
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "old.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(OLD[request.param].read_text())
    return path


def schema_of(path: Path) -> list[tuple[str, list[str]]]:
    """The tables and indexes, by name, with their columns."""
    with closing(sqlite3.connect(path)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'jetpay%'")]
        pragma = "SELECT name FROM pragma_table_info(?) UNION ALL SELECT name FROM pragma_index_info(?)"
        return sorted(
            (name, sorted(column for (column,) in connection.execute(pragma, (name, name)))) for name in names
        )


@pytest.mark.asyncio
async def test_an_old_file_keeps_what_it_knows(old: Path) -> None:
    """Handled events stay handled, leases last, and stored events are claimed in order."""
    time = FakeClock(now=WRITTEN_AT)
    async with SqliteInbox(old, clock=time.clock) as inbox, SqliteInbox(old, source="shop", clock=time.clock) as shop:
        missing = [await inbox.first_missing_event_id(start) for start in (0, 5, 12)]
        leased = await inbox.lease(events(1, 2, 3, 4, 5, 6, 7, 11, 12), owner="b", seconds=SECONDS)
        await inbox.release(owner="b")
        other_source = await shop.lease(events(1, 2, 3), owner="b", seconds=SECONDS)
        time.tick(SECONDS)
        claimed = await inbox.claim(owner="c", seconds=SECONDS, limit=9, exclusive=False)

        assert missing == [4, 11, None]
        assert (leased.handled, leased.mine, leased.busy) == ({1, 2, 3, 5, 6, 7}, {4, 11}, {12})
        assert (other_source.handled, other_source.mine) == ({1, 2}, {3})
        assert [(one.id, one.webhook_id) for one in claimed] == [(8, None), (9, None), (10, None)]
        assert await inbox.last_contiguous_event_id() == 3


@pytest.mark.asyncio
async def test_an_old_file_gets_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    """After the migration the tables are those that a new file has, and its version is the present one."""
    for path in (old, tmp_path / "new.db"):
        async with SqliteInbox(path) as inbox:
            await inbox.last_contiguous_event_id()
            assert await rows(inbox, "SELECT version FROM jetpay_inbox_schema") == [(SCHEMA.migrations.version,)]

    assert schema_of(old) == schema_of(tmp_path / "new.db")


@pytest.mark.asyncio
async def test_an_old_range_grows(old: Path) -> None:
    """Events that are folded later are remembered beside the ranges of old, which knew no webhook and no creation."""
    time = FakeClock(now=WRITTEN_AT)
    async with SqliteInbox(old, clock=time.clock) as inbox:
        await handle(inbox, 4)
        time.tick(31 * 86_400)
        await handle(inbox, 20)

        assert await rows(inbox, "SELECT first, last, webhook_id FROM jetpay_inbox_range ORDER BY 1") == [
            (1, 3, None),
            (4, 4, 123),
            (5, 7, None),
        ]
        unknown = event(2, created_at="2020-01-01T00:00:00Z")
        assert (await inbox.lease([unknown], owner="b", seconds=SECONDS)).handled == {2}
        with pytest.raises(InboxError, match="event 4 was delivered before"):
            await inbox.lease([event(4, created_at="2020-01-01T00:00:00Z")], owner="b", seconds=SECONDS)


@pytest.mark.asyncio
async def test_several_processes_may_migrate_at_once(old: Path) -> None:
    """The migration is one transaction: who comes second finds it done, and a writer in between is waited for."""
    async with SqliteInbox(old, busy_timeout=0.02) as hasty, SqliteInbox(old) as patient:
        with closing(sqlite3.connect(old, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(InboxError) as caught:
                await hasty.last_contiguous_event_id()
            other.execute("ROLLBACK")
        assert caught.value.reason == "locked"
        assert await patient.last_contiguous_event_id() == 3
        assert await hasty.last_contiguous_event_id() == 3


@pytest.mark.asyncio
async def test_a_migration_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a migration that ends half way nothing is left, so that the next try begins where this one did."""
    before = schema_of(old)
    broken = {version: (*steps[:-1], "NONSENSE") for version, steps in SCHEMA.migrations.steps.items()}
    with monkeypatch.context() as patched:
        patched.setattr(
            _inbox_rows, "SCHEMA", attrs.evolve(SCHEMA, migrations=Migrations(SCHEMA.migrations.version, broken))
        )
        async with SqliteInbox(old) as inbox:
            with pytest.raises(InboxError):
                await inbox.last_contiguous_event_id()
    assert schema_of(old) == before

    async with SqliteInbox(old) as inbox:
        assert await inbox.last_contiguous_event_id() == 3
