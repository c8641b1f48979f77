"""Fixtures for all tests."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import sys
from collections.abc import Iterator
from unittest.mock import Mock
from urllib.parse import urlsplit, urlunsplit

import aiohttp
import pytest
from aioresponses import aioresponses
from hypothesis import settings

from tests.postgres_server import NoServerError, postgres_server

# A loaded machine is slow, which is no fault of the code: the time that an example takes is not judged.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

_numbers = itertools.count()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Measure the tests' own processes alone: one that a test starts may be killed, which damages what it measured."""
    starts_workers = session.config.getoption("numprocesses", None) and not hasattr(session.config, "workerinput")
    if not starts_workers:
        os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
        os.environ.pop("COVERAGE_PROCESS_START", None)
    # A shell ignores them for its background jobs, nohup does, and the processes that the tests start would, too.
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what a worker measured before it is told to exit: one that is slow at that is killed."""
    if hasattr(session.config, "workerinput") and "coverage" in sys.modules:
        measured = sys.modules["coverage"].Coverage.current()
        if measured is not None:
            measured.stop()
            measured.save()


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """Give loggers their levels back: commands that overlap in one process, in two threads, set them."""
    loggers = logging.getLogger(), logging.getLogger("jetpay_async")
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.fixture
def canned(monkeypatch: pytest.MonkeyPatch) -> Iterator[aioresponses]:
    """Canned replies, without a socket."""
    from aioresponses import core

    # aiohttp 3.14 wants the writer of a request, which aioresponses 0.7.9 does not know of.
    class Response(aiohttp.ClientResponse):
        def __init__(self, *args: object, **options: object) -> None:
            try:
                super().__init__(*args, stream_writer=Mock(output_size=0), **options)  # type: ignore[arg-type] # as given
            except TypeError:
                super().__init__(*args, **options)  # type: ignore[arg-type] # as given

    monkeypatch.setattr(core, "ClientResponse", Response)
    with aioresponses() as replies:
        yield replies


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL: the one that JETPAY_TEST_POSTGRES names, or one that lives as long as the tests."""
    try:
        with postgres_server(fsync=False) as url:
            yield url
            _empty_databases.clear()
    except NoServerError as error:
        pytest.skip(str(error))


# Making a database takes as long as many a test: one that is empty again serves the next test.
_empty_databases: list[str] = []


@pytest.fixture
def postgres_database(postgres: str) -> Iterator[str]:
    """A database of its own, empty but for what a new one has."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    if not _empty_databases:
        name = f"jetpay_test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
        _empty_databases.append(urlunsplit(urlsplit(postgres)._replace(path=f"/{name}")))
    url = _empty_databases.pop()
    yield url
    name = urlsplit(url).path[1:]
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(SQL("ALTER DATABASE {} RESET ALL").format(Identifier(name)))
        connection.execute("SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE datname = %s", [name])
    with psycopg.connect(url, autocommit=True) as connection:
        schemas = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        ).fetchall()
        for (schema,) in schemas:
            connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))
        connection.execute("CREATE SCHEMA public")
    _empty_databases.append(url)
