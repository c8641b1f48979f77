"""Where a ledger lives in these tests: a file, or a database of its own in PostgreSQL."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform == "win32":  # no signal pauses a process there, and a ledger in a file needs flock
    collect_ignore = [f"test_{name}.py" for name in ("bounds", "controls", "kills", "stopped_postgres", "storage")]


@pytest.fixture
def postgres_ledger(postgres_database: str) -> str:
    """A database of its own, dropped afterwards."""
    return postgres_database


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger that doesn't exist yet, of each backend."""
    if request.param == "sqlite":
        return str(tmp_path / "captures.db")
    url: str = request.getfixturevalue("postgres_ledger")
    return url
