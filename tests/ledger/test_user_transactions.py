"""`Ledger.apply` in the user's own transaction, by every driver that it takes, together with the inbox's mark."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest
import pytest_asyncio
from psycopg.rows import dict_row

from jetpay_async import ConfigurationError
from jetpay_async.ledger import EventEffect, Ledger, LedgerError
from jetpay_async.ledger._postgres import PostgresBackend
from jetpay_async.webhooks import Event, KeySet, LeaseLostError, PostgresInbox, WebhookReceiver, WebhookVerifier
from tests.ledger.payment_events import OURS, event
from tests.ledger.test_events import captured
from tests.webhooks.receiving import body_of, document
from tests.webhooks.serving import JWKS, Pages, authorization
from tests.webhooks.test_postgres_transactions import _sqlalchemy_url, asyncpg_connection, engine

pytestmark = pytest.mark.asyncio

E = EventEffect

Apply: TypeAlias = Callable[[str, Ledger, Any], Awaitable[EventEffect]]
"""Applies an event in a transaction, and commits."""


@pytest_asyncio.fixture
async def ledger(postgres_database: str) -> AsyncIterator[Ledger]:
    """A ledger whose one capture is unknown."""
    async with Ledger(postgres_database, webhook_ids={OURS}) as opened:
        await captured(opened, postgres_database, "unknown")
        yield opened


async def by_psycopg(url: str, ledger: Ledger, one: Any) -> EventEffect:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        effect = await ledger.apply(one, connection=connection)
        assert (await ledger.progress("night")).unknown == 1, "it is not committed yet"
        return effect


async def by_psycopg_with_rows_of_its_own(url: str, ledger: Ledger, one: Any) -> EventEffect:
    made = await psycopg.AsyncConnection.connect(url, autocommit=True, row_factory=dict_row)
    async with made as connection, connection.transaction():
        return await ledger.apply(one, connection=connection)


async def by_psycopg_in_a_thread(url: str, ledger: Ledger, one: Any) -> EventEffect:
    def write() -> EventEffect:
        with psycopg.connect(url, row_factory=dict_row) as connection:
            return ledger.apply_in_thread(one, connection=connection)

    return await asyncio.to_thread(write)


async def by_asyncpg(url: str, ledger: Ledger, one: Any) -> EventEffect:
    async with asyncpg_connection(url) as connection, connection.transaction():
        return await ledger.apply(one, connection=connection)


async def by_sqlalchemy_session(url: str, ledger: Ledger, one: Any) -> EventEffect:
    pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install --group frameworks")
    from sqlalchemy.ext.asyncio import AsyncSession

    async with engine(url) as made, AsyncSession(made) as session, session.begin():
        return await ledger.apply(one, connection=session)


async def by_sqlalchemy_in_a_thread(url: str, ledger: Ledger, one: Any) -> EventEffect:
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install --group frameworks")
    from sqlalchemy.orm import Session

    def write() -> EventEffect:
        made = sqlalchemy.create_engine(_sqlalchemy_url(url))
        try:
            with Session(made) as session, session.begin():
                return ledger.apply_in_thread(one, connection=session)
        finally:
            made.dispose()

    return await asyncio.to_thread(write)


WAYS: dict[str, Apply] = {
    "psycopg": by_psycopg,
    "psycopg, dict_row": by_psycopg_with_rows_of_its_own,
    "psycopg in a thread": by_psycopg_in_a_thread,
    "asyncpg": by_asyncpg,
    "SQLAlchemy session": by_sqlalchemy_session,
    "SQLAlchemy session in a thread": by_sqlalchemy_in_a_thread,
}


@pytest.mark.parametrize("apply", WAYS.values(), ids=WAYS)
async def test_an_event_changes_the_ledger_when_the_user_commits(
    postgres_database: str, ledger: Ledger, apply: Apply
) -> None:
    """By each driver, what an event resolves, reverses or offers is in the ledger when the transaction commits."""
    assert await apply(postgres_database, ledger, event("paid", webhook_id=9)) is E.FOREIGN
    await ledger.commits.run(
        lambda connection: connection.change(
            """INSERT INTO jetpay_payment (reference, operation, kind, arguments, state, intent, attempts, intent_at,
            certain_at) VALUES ('b1', 'preauthorize', 'debit', '{}', 'unknown', 1, 1, 0, 9999999999)""",
            {},
        )
    )

    assert await apply(postgres_database, ledger, event("preauthorized", "debit_9")) is E.OFFERED
    assert await apply(postgres_database, ledger, event("paid")) is E.RESOLVED

    assert [each.transaction_id for each in await ledger.candidates("b1")] == ["debit_9"]
    progress = await ledger.progress("night")
    assert (progress.captured, progress.unknown) == (1, 0)
    assert (await ledger.verify()).problems == ()


async def test_a_reversal_is_logged(postgres_database: str, ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """What had succeeded and has failed is logged in the user's transaction too."""
    await by_psycopg_in_a_thread(postgres_database, ledger, event("paid"))

    assert await by_psycopg_in_a_thread(postgres_database, ledger, event("failed")) is E.REVERSED

    assert "debit_0 is failed, after it had succeeded" in caplog.text


@asynccontextmanager
async def inbox_of(url: str, one: Event) -> AsyncIterator[PostgresInbox]:
    async with PostgresInbox(url) as inbox:
        await inbox.create_tables()
        await inbox.lease([one], owner="a", seconds=60)
        yield inbox


@pytest.mark.parametrize("ends", ["commit", "rollback", "lost lease"])
async def test_mark_and_change_commit_together(postgres_database: str, ledger: Ledger, ends: str) -> None:
    """A transaction that commits leaves the mark and the change; one that is rolled back leaves neither."""
    one = event("paid")
    async with inbox_of(postgres_database, one) as inbox:
        if ends == "lost lease":
            await inbox.release(owner="a")
            await inbox.lease([one], owner="b", seconds=60)
        try:
            with inbox.handling_unmarked(owner="a"):
                async with await psycopg.AsyncConnection.connect(postgres_database) as connection:
                    assert await ledger.apply(one, connection=connection) is E.RESOLVED
                    await inbox.mark_handled(connection, one)
                    assert ends != "rollback", "rolled back"
            committed = True
        except (AssertionError, LeaseLostError):
            committed = False
        handled = (await inbox.lease([one], owner="c", seconds=60)).handled

    assert committed is (ends == "commit")
    assert handled == (frozenset({one.id}) if committed else frozenset())
    assert (await ledger.progress("night")).captured == committed


async def autocommit_psycopg(url: str, ledger: Ledger) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await ledger.apply(event("paid"), connection=connection)


async def autocommit_asyncpg(url: str, ledger: Ledger) -> None:
    async with asyncpg_connection(url) as connection:
        await ledger.apply(event("paid"), connection=connection)


async def autocommit_in_a_thread(url: str, ledger: Ledger) -> None:
    def write() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            ledger.apply_in_thread(event("paid"), connection=connection)

    await asyncio.to_thread(write)


@pytest.mark.parametrize("without", [autocommit_psycopg, autocommit_asyncpg, autocommit_in_a_thread])
async def test_without_a_transaction_nothing_changes(
    postgres_database: str, ledger: Ledger, without: Callable[[str, Ledger], Awaitable[None]]
) -> None:
    """Where each statement commits by itself, that is said before anything is changed."""
    with pytest.raises(ConfigurationError, match="autocommit"):
        await without(postgres_database, ledger)

    assert (await ledger.progress("night")).unknown == 1


async def test_another_database_or_schema_is_refused(postgres_database: str, postgres: str, ledger: Ledger) -> None:
    """A connection that sees other tables is refused, though they are a ledger's."""
    with pytest.raises(ConfigurationError, match="another database"):
        await by_psycopg(postgres, ledger, event("paid"))
    async with await psycopg.AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        await connection.execute("CREATE SCHEMA other")
    options = f"{'&' if '?' in postgres_database else '?'}options=-csearch_path%3D"
    ours, other = (f"{postgres_database}{options}{schema}" for schema in ("public", "other"))
    async with Ledger(other), Ledger(ours, webhook_ids={OURS}) as chosen:
        with pytest.raises(ConfigurationError, match="another schema"):
            await by_psycopg(other, chosen, event("paid"))
        assert await by_psycopg(ours, chosen, event("paid")) is E.RESOLVED


async def test_an_old_snapshot_is_refused(postgres_database: str, ledger: Ledger) -> None:
    """A transaction that does not see what was committed since it began can't decide what is news."""
    async with await psycopg.AsyncConnection.connect(postgres_database) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        with pytest.raises(ConfigurationError, match="repeatable read"):
            await ledger.apply(event("paid"), connection=connection)


async def test_a_ledger_that_another_release_has_migrated_is_refused(postgres_database: str, ledger: Ledger) -> None:
    """The schema's version is read in the transaction that changes something."""
    async with await psycopg.AsyncConnection.connect(postgres_database) as connection:
        await connection.execute("UPDATE jetpay_ledger SET version = 99")
        with pytest.raises(LedgerError, match="version 99"):
            await ledger.apply(event("paid"), connection=connection)
        await connection.rollback()


async def test_what_is_no_connection_is_refused(ledger: Ledger, tmp_path: Any) -> None:
    """What can't hold the handler's transaction is named; a ledger in a file has no such transactions."""
    with pytest.raises(ConfigurationError, match=r"apply\(\) takes .*psycopg\.AsyncConnection.*; not builtins\.str"):
        await ledger.apply(event("paid"), connection="connection")
    with pytest.raises(ConfigurationError, match=r"apply_in_thread\(\) takes .*psycopg\.Connection"):
        ledger.apply_in_thread(event("paid"), connection="connection")
    async with Ledger(tmp_path / "captures.db", webhook_ids={OURS}) as in_a_file:
        with pytest.raises(ConfigurationError, match="leave the connection out"):
            await in_a_file.apply(event("paid"), connection="connection")
        with pytest.raises(ConfigurationError, match="leave the connection out"):
            in_a_file.apply_in_thread(event("paid"), connection="connection")


async def test_what_would_not_survive_a_crash_is_made_durable(postgres_database: str, ledger: Ledger) -> None:
    """A transaction whose commit would not wait for the disk waits for it: the event does not come again."""
    async with await psycopg.AsyncConnection.connect(postgres_database) as connection:
        await connection.execute("SET synchronous_commit = off")
        await ledger.apply(event("paid"), connection=connection)
        row = await (await connection.execute("SHOW synchronous_commit")).fetchone()

    assert row == ("on",)


async def test_a_server_that_was_started_again_is_known_again(postgres_database: str, ledger: Ledger) -> None:
    """What identifies the server changes when it is started, and is then read anew."""
    await by_psycopg(postgres_database, ledger, event("preauthorized"))
    assert ledger._in_user_transactions is not None
    ledger._in_user_transactions._identity = "of before"

    assert await by_psycopg(postgres_database, ledger, event("paid")) is E.RESOLVED


@pytest.mark.parametrize(
    ("error", "raised"), [(psycopg.OperationalError("refused"), LedgerError), (ValueError("odd"), ValueError)]
)
async def test_a_ledger_that_can_not_be_asked(
    postgres_database: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    """Nothing is changed while the ledger's own connection can't show which database it is in."""

    def refuse(_: PostgresBackend, *, create: bool) -> None:
        assert not create
        raise error

    monkeypatch.setattr(PostgresBackend, "connect", refuse)

    with pytest.raises(raised):
        await by_psycopg(postgres_database, ledger, event("paid"))


async def test_a_cancelled_handler_leaves_nothing_behind(postgres_database: str, ledger: Ledger) -> None:
    """Cancelled while it waits for a lock, `apply` ends its thread, and nothing more is done on the connection."""
    one = event("paid")
    async with (
        await psycopg.AsyncConnection.connect(postgres_database) as holds,
        await psycopg.AsyncConnection.connect(postgres_database) as waits,
    ):
        await ledger.apply(one, connection=holds)
        handling = asyncio.create_task(ledger.apply(one, connection=waits))
        async with await psycopg.AsyncConnection.connect(postgres_database, autocommit=True) as watcher:
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while (await (await watcher.execute(locks)).fetchone()) == (0,):
                await asyncio.sleep(0)
        handling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handling
        for thread in threading.enumerate():
            if thread.name == "jetpay-transaction":
                await asyncio.to_thread(thread.join)
        await waits.rollback()
        assert await ledger.apply(event("completed", "debit_7"), connection=waits) is E.NOTHING


async def test_the_documented_handler(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    """The page's handler writes its order, changes the ledger and marks the event at once, or does none of it."""
    monkeypatch.setenv("DATABASE_URL", postgres_database)
    with Pages(tmp_path, monkeypatch) as pages:
        page = pages.load("shop_ledger")
    async with await psycopg.AsyncConnection.connect(postgres_database, autocommit=True) as connection:
        await connection.execute("CREATE TABLE orders (debit_id text, payments int)")
        await connection.execute("INSERT INTO orders VALUES ('debit_0', 0)")

        async def deliver() -> int:
            body = body_of([document(1, state="paid", transaction="debit_0")])
            return (await receiver.receive(body, authorization(body))).status

        async with page.inbox, page.ledger:
            await page.inbox.create_tables()
            receiver = WebhookReceiver(WebhookVerifier(KeySet.from_jwks(JWKS)), page.router, inbox=page.inbox)
            await connection.execute("ALTER TABLE orders ADD CHECK (payments < 1)")
            failed = (await deliver(), (await ledger.progress("night")).captured)
            await connection.execute("ALTER TABLE orders DROP CONSTRAINT orders_payments_check")
            delivered = [await deliver(), await deliver()]
        row = await (await connection.execute("SELECT payments FROM orders")).fetchone()

    assert failed == (500, 0)
    assert delivered == [200, 200]
    assert (row, (await ledger.progress("night")).captured) == ((1,), 1)
