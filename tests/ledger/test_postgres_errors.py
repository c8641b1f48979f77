"""A ledger in PostgreSQL: what it says when it can't be used."""

from __future__ import annotations

import re
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from jetpay_async import ConfigurationError
from jetpay_async.ledger import Ledger, LedgerError, UnknownBatchError
from jetpay_async.ledger._postgres import PostgresBackend
from tests.ledger.service import debits

KEY = "night"

PASSWORD = "p4ss/w#rd"

UNREACHABLE = "postgresql://jetpay:p4ss%2Fw%23rd@127.0.0.1:1/shop?connect_timeout=2"


async def open_ledger(url: str, *, create: bool = True) -> None:
    async with Ledger(url, create=create):
        pass


def execute(url: str, *statements: str) -> None:
    """Do something as another application."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://jetpay:{PASSWORD}@localhost/shop",
        f"postgresql://jetpay:p4ss@localhost:{PASSWORD}/shop",
        f"postgresql://localhost/shop?{PASSWORD}=1",
        "postgresql://jetpay:1234/w#rd@localhost/shop",
        "postgresql://jetpay:p4ss@w#rd@localhost/shop",
    ],
    ids=["with a slash", "as a port", "as an option", "with digits and a slash", "with an at sign"],
)
def test_a_url_that_can_not_be_read_is_not_quoted(url: str) -> None:
    """The error says how to write it, and shows nothing of it: part of it may be the password."""
    with pytest.raises(ConfigurationError, match="special characters in the password as %XX") as caught:
        Ledger(url)

    text = "".join(traceback.format_exception(caught.value))
    assert "w#rd" not in text


@pytest.mark.asyncio
async def test_a_server_that_can_not_be_reached_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """The error says what to check; the password is in no message."""
    with caplog.at_level(0), pytest.raises(LedgerError, match=r"shop at 127\.0\.0\.1:1.*can be reached") as caught:
        await open_ledger(UNREACHABLE)

    text = "".join(traceback.format_exception(caught.value)) + caplog.text + PostgresBackend(UNREACHABLE).name
    assert "p4ss" not in text


def test_a_password_that_a_server_repeats_is_taken_out() -> None:
    """What the server says is reported without the password."""
    said = PostgresBackend(UNREACHABLE).explain(psycopg.OperationalError(f"odd: {PASSWORD}\n  and more"))

    assert said is not None
    assert "odd: *** and more" in said


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://", "of PostgreSQL at its usual place"),
        ("postgresql:///shop", "shop at its usual place"),
        ("postgresql://me:secret@db.example/shop", "shop at db.example"),
        ("postgresql://me:secret@db.example:5433/shop", "shop at db.example:5433"),
        ("postgresql://me@a,b/shop", "shop at a,b:,"),
    ],
)
def test_what_a_ledger_is_called(url: str, name: str) -> None:
    """Errors name the database and its host."""
    assert PostgresBackend(url).name == name


def test_a_url_may_set_what_we_set() -> None:
    """Our settings of the connection are defaults."""
    settings = conninfo_to_dict(PostgresBackend("postgresql://h/d?connect_timeout=3")._conninfo)

    assert settings["connect_timeout"] == "3"
    assert settings["application_name"] == "jetpay_async"


@pytest.mark.asyncio
async def test_an_absent_ledger_is_not_made_by_looking(postgres_ledger: str) -> None:
    """A tool that only looks makes no tables."""
    with pytest.raises(LedgerError, match=r"there is no ledger in jetpay_test_\w+ at .*; check the URL"):
        await open_ledger(postgres_ledger, create=False)

    with psycopg.connect(postgres_ledger) as connection:
        assert connection.execute("SELECT to_regclass('jetpay_ledger')").fetchone() == (None,)


@pytest.mark.asyncio
async def test_a_newer_schema_is_left_alone(postgres_ledger: str) -> None:
    """A ledger of a later release is rejected, in words."""
    await open_ledger(postgres_ledger)
    execute(postgres_ledger, "UPDATE jetpay_ledger SET version = 99")

    with pytest.raises(LedgerError, match=r"schema version 99.*upgrade jetpay_async"):
        await open_ledger(postgres_ledger)


@pytest.mark.asyncio
async def test_a_database_that_can_not_hold_every_text_is_refused(postgres: str) -> None:
    """A reason in any language must be storable: the encoding is UTF8."""
    name = "jetpay_test_latin"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(LedgerError, match="is in LATIN1; a ledger needs one in UTF8"):
            await open_ledger(make_url(postgres, name))
    finally:
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def make_url(postgres: str, name: str) -> str:
    return urlunsplit(urlsplit(postgres)._replace(path=f"/{name}"))


@pytest.mark.asyncio
async def test_a_database_that_is_not_there_says_so(postgres: str) -> None:
    """The error names the database, and what to do."""
    with pytest.raises(LedgerError, match='database "no_such_shop" does not exist'):
        await open_ledger(make_url(postgres, "no_such_shop"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("25006", "URL of the primary"),
        ("25P03", "was paused"),
        ("28P01", "user and the password"),
        ("3D000", "create the database"),
        ("42501", "grant the user"),
        ("42P01", "tables are gone"),
        ("53100", "disk is full"),
        ("53300", "lacks resources"),
        ("55P03", "another connection holds"),
        ("0A000", "URL of the primary"),
        ("57014", "an administrator canceled the statement, or it took too long"),
        ("57P01", "an administrator ended the connection, or stopped the server"),
        ("57P03", "starting or stopping, or is a standby"),
        ("57P02", "server was stopped"),
        ("58030", "disk does not work"),
        ("XX001", "damaged"),
        ("XX002", "REINDEX"),
        ("22012", "check that the server runs"),
    ],
)
def test_an_error_of_the_server_says_what_to_do(code: str, said: str) -> None:
    """Each kind of trouble has its next step."""
    error = psycopg.errors.lookup(code)("trouble")

    explained = PostgresBackend("postgresql://h/shop").explain(error)

    assert explained is not None
    assert explained.startswith("the ledger shop at h: trouble; ")
    assert said in explained


def interrupted(url: str, function: str) -> str:
    """What is said when another connection does this to one in the middle of a statement."""
    backend = PostgresBackend(url)
    with closing(backend.connect(create=True)) as connection, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(connection.query, "SELECT pg_sleep(60)", {})
        with psycopg.connect(url, autocommit=True) as other:
            asked = f"SELECT {function}(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"
            deadline = time.monotonic() + 30
            while not other.execute(asked.encode()).fetchall():
                assert time.monotonic() < deadline
        error = waiting.exception()
    assert isinstance(error, psycopg.Error)
    return str(backend.explain(error))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("pg_cancel_backend", "user request; an administrator canceled the statement"),
        (
            "pg_terminate_backend",
            "administrator command.*; (an administrator ended the connection|check that the server runs)",
        ),
    ],
    ids=["canceled", "terminated"],
)
def test_an_administrator_is_named(postgres_ledger: str, function: str, said: str) -> None:
    """What an administrator ended says so, and that the same can be run again.

    A driver that reads the end of a connection before its reason has the reason in words alone, without its code.
    """
    explained = interrupted(postgres_ledger, function)

    assert re.search(said, explained)
    assert "run the same again" in explained


@pytest.mark.asyncio
async def test_two_ledgers_in_one_database_are_refused(postgres_ledger: str) -> None:
    """Two roles whose search_path leads to a schema each would not see each other's captures: the second is refused."""
    name = urlsplit(postgres_ledger).path[1:]
    for schema in ("one", "two"):
        execute(postgres_ledger, f"CREATE SCHEMA {schema}")
    execute(postgres_ledger, f'ALTER DATABASE "{name}" SET search_path = one')
    await open_ledger(postgres_ledger)
    execute(postgres_ledger, f'ALTER DATABASE "{name}" SET search_path = two')

    for create in (True, False):
        with pytest.raises(LedgerError, match=r"another ledger in schema 'one'|there is no ledger"):
            await open_ledger(postgres_ledger, create=create)
    with psycopg.connect(postgres_ledger) as connection:
        assert connection.execute("SELECT to_regclass('two.jetpay_ledger')").fetchone() == (None,)


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["url", "environment"])
async def test_a_schema_may_be_chosen(postgres_ledger: str, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Where it is said which of several ledgers is meant, that one is used: they may be of different accounts."""
    execute(postgres_ledger, "CREATE SCHEMA one")
    await open_ledger(postgres_ledger)
    chosen = postgres_ledger
    if way == "url":
        chosen += ("&" if "?" in chosen else "?") + "options=-csearch_path%3Done"
    else:
        monkeypatch.setenv("PGOPTIONS", "-c search_path=one")

    await open_ledger(chosen)

    with psycopg.connect(postgres_ledger) as connection:
        rows = connection.execute("SELECT count(*) FROM pg_class WHERE relname = 'jetpay_ledger'").fetchall()
    assert rows == [(2,)]


def test_the_errors_of_others_are_not_ours_to_explain() -> None:
    """What is no error of PostgreSQL stays as it is."""
    assert PostgresBackend("postgresql://").explain(ValueError("odd")) is None


@pytest.mark.asyncio
async def test_an_unknown_batch(postgres_ledger: str) -> None:
    """Asking for a batch that is not there is an error of its own, and the ledger goes on."""
    async with Ledger(postgres_ledger) as ledger:
        with pytest.raises(UnknownBatchError):
            await ledger.progress("none")
        assert (await ledger.submit(KEY, debits(600))).chunks == 3
        assert await ledger.chunks_left(KEY) == [0, 1, 2]
