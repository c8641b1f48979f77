"""``jetpay webhooks init``, and dead letters in PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

import psycopg
import pytest

from jetpay_async.webhooks import PostgresInbox
from tests.cli.conftest import CommandResult
from tests.webhooks.receiving import event, events

Jetpay = Callable[..., CommandResult]


def test_the_tables_are_made(jetpay: Jetpay, postgres_database: str) -> None:
    """The command makes the tables, does no harm the second time, and dead letters are listed and replayed by URL."""
    for _ in range(2):
        made = jetpay("webhooks", "init", f"--inbox={postgres_database}")
        assert (made.status, made.out) == (0, "")
        assert "the inbox's tables are there" in made.err

    async def fail() -> None:
        async with PostgresInbox(postgres_database) as inbox:
            await inbox.lease(events(1), owner="a", seconds=30)
            await inbox.record_failure(event(1), owner="a", error="ValueError: no order", max_attempts=1)

    asyncio.run(fail())
    listed = jetpay("webhooks", "dead-letters", "list", f"--inbox={postgres_database}", "--json")
    replayed = jetpay("webhooks", "dead-letters", "replay", f"--inbox={postgres_database}", "1")

    assert json.loads(listed.out)["event_id"] == 1
    assert replayed.status == 0
    assert jetpay("webhooks", "dead-letters", "list", f"--inbox={postgres_database}").out == ""


def test_the_statements_are_printed(jetpay: Jetpay, postgres_database: str) -> None:
    """What is printed, run as a script, makes the tables."""
    printed = jetpay("webhooks", "init", "--print-sql")

    assert printed.status == 0
    with psycopg.connect(postgres_database) as connection:
        connection.execute(printed.out.encode())
        connection.execute("SELECT 1 FROM jetpay_inbox")


@pytest.mark.parametrize("arguments", [[], ["--inbox=inbox.db"]], ids=["none", "a file"])
def test_a_file_needs_no_init(jetpay: Jetpay, arguments: list[str]) -> None:
    """Without the URL of a database there is nothing to make, and that is said."""
    rejected = jetpay("webhooks", "init", *arguments)

    assert rejected.status == 2
    assert "postgresql://user@host/database" in rejected.err


def test_without_the_extra_it_is_named(jetpay: Jetpay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no psycopg is told what to install."""
    from jetpay_async import webhooks

    monkeypatch.delitem(webhooks.__dict__, "PostgresInbox", raising=False)
    monkeypatch.delitem(sys.modules, "jetpay_async.webhooks.postgres_inbox", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    rejected = jetpay("webhooks", "init", "--print-sql")

    assert rejected.status == 2
    assert "pip install 'jetpay-async[postgres]'" in rejected.err
