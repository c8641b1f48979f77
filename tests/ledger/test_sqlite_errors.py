"""A ledger in a file: what it says when it can't be used."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import ConfigurationError
from jetpay_async._core import sqlite
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import Ledger, LedgerError
from jetpay_async.ledger._sqlite import SqliteBackend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captures.db"


async def open_ledger(path: Path, *, create: bool = True) -> None:
    async with Ledger(path, create=create):
        pass


@pytest.mark.asyncio
async def test_an_absent_ledger_is_not_made_by_looking(path: Path) -> None:
    """A tool that only looks at a ledger doesn't leave an empty one behind."""
    with pytest.raises(LedgerError, match=r"there is no ledger at .*captures\.db; check the path"):
        await open_ledger(path, create=False)

    assert not path.exists()


def a_text(path: Path) -> None:
    path.write_text("not a database, but something of more than a few bytes" * 100)


def another_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE rentals (id)")


def a_newer_schema(path: Path) -> None:
    asyncio.run(open_ledger(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE jetpay_ledger SET version = 99")


def damaged(path: Path) -> None:
    asyncio.run(open_ledger(path))
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)


def a_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (a_text, "no SQLite database"),
        (another_database, "another application's database"),
        (a_newer_schema, "schema version 99.*upgrade jetpay_async"),
        (damaged, "damaged"),
        (a_directory, "can't be opened"),
    ],
    ids=["a text", "another application's", "a newer schema", "damaged", "a directory"],
)
def test_what_is_no_ledger_says_what_to_do(path: Path, make: Any, said: str) -> None:
    """A file that can't be used is rejected when it is opened, in words, and is left as it was."""
    make(path)
    before = path.read_bytes() if path.is_file() else b""

    with pytest.raises(LedgerError, match=said):
        asyncio.run(open_ledger(path))

    assert (path.read_bytes() if path.is_file() else b"") == before


@pytest.mark.asyncio
async def test_a_directory_that_is_not_there_says_so(path: Path) -> None:
    """A path into nowhere is an error, with what to check."""
    with pytest.raises(LedgerError, match="check that the directory exists"):
        await open_ledger(path / "captures.db")


@pytest.mark.asyncio
async def test_a_ledger_without_a_log_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite can't write ahead, as on some network drives, the ledger is rejected."""
    monkeypatch.setattr(sqlite, "make_durable", lambda *_, **__: False)

    with pytest.raises(LedgerError, match="needs a local disk"):
        await open_ledger(path)


def test_an_old_sqlite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of SQLite that lacks what the statements need is named, with the one that has it."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 37, 2))

    with pytest.raises(ConfigurationError, match="too old for a ledger"):
        SqliteBackend(path, SYSTEM_CLOCK).connect(create=True)


@pytest.mark.parametrize("ledger", ["", None, 7, "mysql://host/db", b"captures.db"])
def test_what_is_neither_path_nor_url_is_refused(ledger: Any) -> None:
    """A ledger is a path or a postgresql:// URL."""
    with pytest.raises(ConfigurationError, match="is the path of a file, or a postgresql:// URL"):
        Ledger(ledger)


def test_an_error_without_a_name_is_told_as_it_is(path: Path) -> None:
    """An error of SQLite that we know nothing about is reported in its own words; another's is not ours to tell."""
    backend = SqliteBackend(path, SYSTEM_CLOCK)

    assert backend.explain(sqlite3.ProgrammingError("odd")) == f"the ledger {path}: odd"
    assert backend.explain(ValueError("odd")) is None
    assert "check that the directory exists and can be written" in str(backend.explain(PermissionError("no")))
    assert "the disk is full" in str(backend.explain(OSError(errno.ENOSPC, "No space left on device")))


@pytest.mark.asyncio
@pytest.mark.parametrize("create", [False, True])
async def test_links_in_a_circle_are_an_error_of_the_ledger(path: Path, *, create: bool) -> None:
    """A link that leads to itself is a name at which there is no ledger."""
    path.symlink_to(path)

    with pytest.raises(LedgerError, match=r"captures\.db"):
        await open_ledger(path, create=create)
