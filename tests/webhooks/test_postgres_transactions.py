"""`PostgresInbox.mark_handled` in the user's own transaction, by every driver that it knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.rows import dict_row

from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks.errors import LeaseLostError
from jetpay_async.webhooks.events import Event
from jetpay_async.webhooks.postgres_inbox import PostgresInbox
from tests.webhooks.inboxes import SECONDS, handle
from tests.webhooks.receiving import event, events

INSERT = "INSERT INTO orders VALUES ('t-1')"

Transaction: TypeAlias = Callable[[str, PostgresInbox, Event], Awaitable[None]]
"""Writes an order, marks the event, and commits; rolls back if the mark raises."""


async def by_psycopg(url: str, inbox: PostgresInbox, one: Event) -> None:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute(INSERT)
        await inbox.mark_handled(connection, one)


async def by_psycopg_with_rows_of_its_own(url: str, inbox: PostgresInbox, one: Event) -> None:
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        await connection.execute(INSERT)
        await inbox.mark_handled(connection, one)


async def by_psycopg_with_a_block(url: str, inbox: PostgresInbox, one: Event) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection, connection.transaction():
        await connection.execute(INSERT)
        await inbox.mark_handled(connection, one)


async def by_psycopg_in_a_thread(url: str, inbox: PostgresInbox, one: Event) -> None:
    def write() -> None:
        with psycopg.connect(url) as connection:
            connection.execute(INSERT)
            inbox.mark_handled_in_thread(connection, one)

    await asyncio.to_thread(write)


async def by_asyncpg(url: str, inbox: PostgresInbox, one: Event) -> None:
    async with asyncpg_connection(url) as connection, connection.transaction():
        await connection.execute(INSERT)
        await inbox.mark_handled(connection, one)


@asynccontextmanager
async def asyncpg_connection(url: str) -> AsyncIterator[Any]:
    asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed: pip install --group test")
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def engine(url: str, **options: object) -> AsyncIterator[Any]:
    sqlalchemy = pytest.importorskip("sqlalchemy.ext.asyncio", reason="sqlalchemy is not installed")
    made = sqlalchemy.create_async_engine(_sqlalchemy_url(url), **options)
    try:
        yield made
    finally:
        await made.dispose()


def _sqlalchemy_url(url: str) -> str:
    return urlsplit(url)._replace(scheme="postgresql+psycopg").geturl()


async def by_sqlalchemy_session(url: str, inbox: PostgresInbox, one: Event) -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession

    async with engine(url) as made, AsyncSession(made) as session, session.begin():
        await session.execute(text(INSERT))
        await inbox.mark_handled(session, one)


async def by_sqlalchemy_connection(url: str, inbox: PostgresInbox, one: Event) -> None:
    from sqlalchemy import text

    async with engine(url) as made, made.begin() as connection:
        await connection.execute(text(INSERT))
        await inbox.mark_handled(connection, one)


async def by_sqlalchemy_in_a_thread(url: str, inbox: PostgresInbox, one: Event) -> None:
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")
    from sqlalchemy.orm import Session

    def write() -> None:
        made = sqlalchemy.create_engine(_sqlalchemy_url(url))
        try:
            with Session(made) as session, session.begin():
                session.execute(sqlalchemy.text(INSERT))
                inbox.mark_handled_in_thread(session, one)
        finally:
            made.dispose()

    await asyncio.to_thread(write)


TRANSACTIONS: dict[str, Transaction] = {
    "psycopg": by_psycopg,
    "psycopg, dict_row": by_psycopg_with_rows_of_its_own,
    "psycopg, transaction()": by_psycopg_with_a_block,
    "psycopg in a thread": by_psycopg_in_a_thread,
    "asyncpg": by_asyncpg,
    "SQLAlchemy session": by_sqlalchemy_session,
    "SQLAlchemy connection": by_sqlalchemy_connection,
    "SQLAlchemy session in a thread": by_sqlalchemy_in_a_thread,
}


@pytest.fixture(params=TRANSACTIONS.values(), ids=TRANSACTIONS)
def transaction(request: pytest.FixtureRequest) -> Transaction:
    if "SQLAlchemy" in request.node.callspec.id:
        pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed: pip install --group frameworks")
    found: Transaction = request.param
    return found


Opened: TypeAlias = AbstractAsyncContextManager[PostgresInbox]


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresInbox]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("CREATE TABLE orders (debit_id text)")
    async with PostgresInbox(url) as inbox:
        await inbox.create_tables()
        await inbox.lease(events(1), owner="a", seconds=SECONDS)
        yield inbox


async def orders(url: str) -> int:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        row = await (await connection.execute("SELECT count(*) FROM orders")).fetchone()
    assert row is not None
    return int(row[0])


@pytest.mark.asyncio
async def test_mark_and_effect_commit_together(postgres_database: str, transaction: Transaction) -> None:
    """What the handler wrote and the mark appear at once, and the mark after the handler does no harm."""
    async with opened(postgres_database) as inbox:
        async with inbox.handling(event(1), owner="a"):
            await transaction(postgres_database, inbox, event(1))
            assert (await inbox.lease(events(1), owner="b", seconds=SECONDS)).handled == {1}

    assert await orders(postgres_database) == 1


@pytest.mark.asyncio
async def test_marking_twice_is_marking_once(postgres_database: str, transaction: Transaction) -> None:
    """A handler that marks its event in two transactions of its own has both."""
    async with opened(postgres_database) as inbox, inbox.handling(event(1), owner="a"):
        for _ in range(2):
            await transaction(postgres_database, inbox, event(1))

    assert await orders(postgres_database) == 2


@pytest.mark.asyncio
async def test_a_lost_lease_rolls_the_effect_back(postgres_database: str, transaction: Transaction) -> None:
    """A worker whose event another one has taken over can't commit what its successor may have done already."""
    async with opened(postgres_database) as inbox:
        await inbox.release(owner="a")
        await handle(inbox, 1, owner="b")
        with pytest.raises(LeaseLostError, match="must not be committed"):
            async with inbox.handling(event(1), owner="a"):
                await transaction(postgres_database, inbox, event(1))

    assert await orders(postgres_database) == 0


@pytest.mark.asyncio
async def test_a_transaction_that_fails_leaves_neither(postgres_database: str) -> None:
    """A transaction that is rolled back after the mark leaves neither the effect nor the mark."""
    async with opened(postgres_database) as inbox:
        with pytest.raises(ZeroDivisionError):
            async with inbox.handling(event(1), owner="a"):
                async with await psycopg.AsyncConnection.connect(postgres_database) as connection:
                    await connection.execute(INSERT)
                    await inbox.mark_handled(connection, event(1))
                    raise ZeroDivisionError
        await inbox.release(owner="a")

        assert (await inbox.lease(events(1), owner="b", seconds=SECONDS)).mine == {1}
    assert await orders(postgres_database) == 0


async def autocommit_psycopg(url: str, inbox: PostgresInbox) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await inbox.mark_handled(connection, event(1))


async def autocommit_asyncpg(url: str, inbox: PostgresInbox) -> None:
    async with asyncpg_connection(url) as connection:
        await inbox.mark_handled(connection, event(1))


async def autocommit_sqlalchemy(url: str, inbox: PostgresInbox) -> None:
    async with engine(url, isolation_level="AUTOCOMMIT") as made, made.begin() as connection:
        await inbox.mark_handled(connection, event(1))


async def autocommit_in_a_thread(url: str, inbox: PostgresInbox) -> None:
    def write() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            inbox.mark_handled_in_thread(connection, event(1))

    await asyncio.to_thread(write)


@pytest.mark.parametrize(
    "without",
    [autocommit_psycopg, autocommit_asyncpg, autocommit_sqlalchemy, autocommit_in_a_thread],
    ids=lambda each: each.__name__,
)
@pytest.mark.asyncio
async def test_without_a_transaction_nothing_is_marked(
    postgres_database: str, without: Callable[[str, PostgresInbox], Awaitable[None]]
) -> None:
    """Where each statement commits by itself, mark and effect can't commit together: that is said before the mark."""
    async with opened(postgres_database) as inbox:
        with pytest.raises(ConfigurationError, match="autocommit"):
            async with inbox.handling(event(1), owner="a"):
                await without(postgres_database, inbox)
        await inbox.release(owner="a")

        assert (await inbox.lease(events(1), owner="b", seconds=SECONDS)).mine == {1}


@pytest.mark.asyncio
async def test_another_database_is_rejected(postgres_database: str, postgres: str) -> None:
    """A connection to another database with an inbox of its own is not taken for the inbox's."""
    async with opened(postgres_database) as inbox, await psycopg.AsyncConnection.connect(postgres) as elsewhere:
        for statement in PostgresInbox.create_statements():
            await elsewhere.execute(statement.replace("TABLE", "TEMPORARY TABLE").encode())
        async with inbox.handling(event(1), owner="a"):
            with pytest.raises(ConfigurationError, match="another database"):
                await inbox.mark_handled(elsewhere, event(1))


@pytest.mark.asyncio
async def test_what_is_no_connection_is_rejected(postgres_database: str) -> None:
    """What can't hold the handler's transaction is named, and so is what can."""
    async with opened(postgres_database) as inbox, inbox.handling(event(1), owner="a"):
        async with await psycopg.AsyncConnection.connect(postgres_database) as connection:
            with pytest.raises(ConfigurationError, match=r"psycopg\.AsyncConnection.*; not builtins\.str"):
                await inbox.mark_handled("connection", event(1))
            with pytest.raises(ConfigurationError, match=r"psycopg\.Connection"):
                inbox.mark_handled_in_thread(connection, event(1))
        with psycopg.connect(postgres_database) as in_thread, pytest.raises(ConfigurationError, match="AsyncSession"):
            await inbox.mark_handled(in_thread, event(1))


@pytest.mark.asyncio
async def test_outside_of_a_handler_there_is_no_owner(postgres_database: str) -> None:
    """Without a receiver around it `mark_handled` says what is wrong."""
    async with opened(postgres_database) as inbox:
        with pytest.raises(ConfigurationError, match="belongs in a handler"):
            await inbox.mark_handled(None, event(1))
