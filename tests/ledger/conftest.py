"""Where a ledger lives in these tests: a file, or a database of its own in PostgreSQL."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

if sys.platform == "win32":  # no signal pauses a process there, and a ledger in a file needs flock
    collect_ignore = [f"test_{name}.py" for name in ("bounds", "controls", "kills", "stopped_postgres", "storage")]

_numbers = itertools.count()


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
    """A ledger that doesn't exist yet, of each backend."""
    if request.param == "sqlite":
        return str(tmp_path / "captures.db")
    url: str = request.getfixturevalue("postgres_ledger")
    return url
