"""Which backend keeps a ledger."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger._sqlite import SqliteBackend

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async.ledger._backend import Backend

_POSTGRES = ("postgresql://", "postgres://")


def choose_backend(ledger: str | os.PathLike[str], clock: Clock) -> Backend:
    """Choose by what the ledger is called: a path, or a ``postgresql://`` URL.

    Raises:
        ConfigurationError: It is neither, or the driver is not installed.
    """
    if not isinstance(ledger, str | os.PathLike) or not os.fspath(ledger):
        raise ConfigurationError("ledger: is the path of a file, or a postgresql:// URL")
    if not isinstance(ledger, str) or not ledger.startswith(_POSTGRES):
        if "://" in os.fspath(ledger):
            raise ConfigurationError("ledger: is the path of a file, or a postgresql:// URL; no other URL will do")
        return SqliteBackend(ledger, clock)
    try:
        from jetpay_async.ledger._postgres import PostgresBackend  # noqa: PLC0415 - the base install has no driver
    except ImportError as error:
        raise ConfigurationError(
            "a ledger in PostgreSQL needs psycopg: pip install 'jetpay-async[postgres]'"
        ) from error
    return PostgresBackend(ledger)
