"""Fixtures for the tests of receiving."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from jetpay_async.webhooks.inbox import EventInbox
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.inboxes import Durable, Inbox, TimedPostgresInbox
from tests.webhooks.receivers import Shop
from tests.webhooks.receiving import FakeClock


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def inbox() -> MemoryInbox:
    return MemoryInbox()


@pytest_asyncio.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SqliteInbox]:
    async with SqliteInbox(tmp_path / "inbox.db") as inbox:
        yield inbox


@pytest.fixture
def time() -> FakeClock:
    return FakeClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "inbox.db"


@pytest_asyncio.fixture
async def sqlite_inbox(path: Path, time: FakeClock) -> AsyncIterator[SqliteInbox]:
    async with SqliteInbox(path, clock=time.clock, busy_timeout=0.05) as inbox:
        yield inbox


@pytest_asyncio.fixture(params=["memory", "sqlite"])
async def sqlite_or_memory(request: pytest.FixtureRequest, path: Path, time: FakeClock) -> AsyncIterator[Inbox]:
    if request.param == "memory":
        yield MemoryInbox(clock=time.clock)
    else:
        async with SqliteInbox(path, clock=time.clock) as inbox:
            yield inbox


@pytest_asyncio.fixture
async def postgres_inbox(postgres_database: str, time: FakeClock) -> AsyncIterator[TimedPostgresInbox]:
    async with TimedPostgresInbox(postgres_database, time) as inbox:
        await inbox.create_tables()
        yield inbox


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def any_inbox(request: pytest.FixtureRequest, path: Path, time: FakeClock) -> Iterator[EventInbox]:
    if request.param == "memory":
        yield MemoryInbox(clock=time.clock)
    else:
        yield request.getfixturevalue(f"{request.param}_inbox")


@pytest.fixture(params=["sqlite", "postgres"])
def durable_inbox(request: pytest.FixtureRequest) -> Durable:
    """An inbox that stores events and has dead letters."""
    found: Durable = request.getfixturevalue(f"{request.param}_inbox")
    return found
