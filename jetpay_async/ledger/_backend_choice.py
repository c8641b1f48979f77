"""Which backend keeps a ledger."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from jetpay_async._core.sqlite import check_path
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger._sqlite import SqliteBackend

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async.ledger._backend import Backend

# libpq's other form of a connection string.
_KEYWORD = re.compile(r"\s*(?:host|hostaddr|port|dbname|user|password|passfile|service|sslmode)\s*=", re.IGNORECASE)
_POSTGRES_SCHEME = re.compile(r"(?:jdbc:)?postgres(?:ql)?(?:\+\w+)?:", re.IGNORECASE)
# Without its scheme: a password before a host, or a host with a port.
_BARE_ADDRESS = re.compile(r"[^/\\@]*:[^/\\@]*@|[\w.-]+:\d+(?:/|$)|postgres(?:ql)?//", re.IGNORECASE)
_FILE_SCHEME = re.compile(r"(?:sqlite3?(?:\+\w+)?|file):", re.IGNORECASE)
_POSTGRES = ("postgresql://", "postgres://")


def choose_backend(ledger: str | os.PathLike[str], clock: Clock) -> Backend:
    """Choose by what the ledger is called: a path, or a ``postgresql://`` URL.

    Raises:
        ConfigurationError: It is neither, or the driver is not installed.
    """
    if not isinstance(ledger, str | os.PathLike) or not os.fspath(ledger):
        raise ConfigurationError("ledger: is the path of a file, or a postgresql:// URL")
    if not isinstance(ledger, str) or not ledger.startswith(_POSTGRES):
        _check_not_url(check_path("ledger", ledger))
        return SqliteBackend(ledger, clock)
    try:
        from jetpay_async.ledger._postgres import PostgresBackend  # noqa: PLC0415 - the base install has no driver
    except ImportError as error:
        raise ConfigurationError(
            "a ledger in PostgreSQL needs psycopg: pip install 'jetpay-async[postgres]'"
        ) from error
    return PostgresBackend(ledger)


def _check_not_url(path: str) -> None:
    """Refuse what was meant for a database and would become a file of that name, with the password in it.

    Raises:
        ConfigurationError: It is no path. The message does not repeat it.
    """
    if _KEYWORD.match(path) or _POSTGRES_SCHEME.match(path) or _BARE_ADDRESS.match(path):
        raise ConfigurationError("ledger: is not a path; write a database as a URL: postgresql://USER@HOST/DATABASE")
    if _FILE_SCHEME.match(path):
        raise ConfigurationError("ledger: is not a path; write the path of the file alone, without a scheme")
    if path.startswith(":"):
        raise ConfigurationError("ledger: is the path of a file; one in memory would lose every outcome")
    if "://" in path:
        raise ConfigurationError("ledger: is the path of a file, or a postgresql:// URL; no other URL will do")
