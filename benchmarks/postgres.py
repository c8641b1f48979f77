"""A database of a stock PostgreSQL: default settings, every commit synced, on the server's core where it is started."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit, urlunsplit

from benchmarks.measuring import SERVER_CORE, on_core
from tests.postgres_server import postgres_server


@contextmanager
def stock_database() -> Generator[str]:
    """Yield the URL of a new database.

    Raises:
        NoServerError: There is no PostgreSQL.
    """
    with ExitStack() as stack:
        with on_core(SERVER_CORE):
            url = stack.enter_context(postgres_server(fsync=True))
        import psycopg  # noqa: PLC0415 - where there is a server, there is its driver
        from psycopg.sql import SQL, Identifier  # noqa: PLC0415 - as above

        name = f"jetpay_benchmark_{secrets.token_hex(8)}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
            try:
                yield urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
            finally:
                connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def describe(url: str) -> str:
    """Say which server it is, and whether it has a JIT compiler."""
    import psycopg  # noqa: PLC0415 - as above

    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT current_setting('server_version'), current_setting('fsync'), pg_jit_available()"
        ).fetchone()
    version, fsync, jit = found or ("", "", False)
    return f"PostgreSQL {version}, fsync {fsync}, {'its JIT compiler on' if jit else 'without a JIT compiler'}."
