"""Which engine keeps a ledger."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jetpay_async.captures._sqlite import SQLiteEngine
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from jetpay_async._clock import Clock
    from jetpay_async.captures._session import Engine

_POSTGRES = ("postgresql://", "postgres://")


def choose_engine(ledger: str | os.PathLike[str], clock: Clock) -> Engine:
    """Choose by what the ledger is called: a path, or a ``postgresql://`` URL.

    Raises:
        ConfigurationError: It is neither, or the driver is not installed.
    """
    if not isinstance(ledger, str | os.PathLike) or not os.fspath(ledger):
        raise ConfigurationError("ledger: is the path of a file, or a postgresql:// URL")
    if not isinstance(ledger, str) or not ledger.startswith(_POSTGRES):
        if "://" in os.fspath(ledger):
            raise ConfigurationError("ledger: is the path of a file, or a postgresql:// URL; no other URL will do")
        return SQLiteEngine(ledger, clock)
    try:
        from jetpay_async.captures._postgres import PostgresEngine  # noqa: PLC0415 - the base install has no driver
    except ImportError as error:
        raise ConfigurationError(
            "a ledger in PostgreSQL needs psycopg: pip install 'jetpay-async[postgres]'"
        ) from error
    return PostgresEngine(ledger)
