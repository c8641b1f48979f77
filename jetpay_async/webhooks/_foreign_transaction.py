"""Execute statements in a transaction of the user's: on a connection of psycopg or asyncpg, or a session of SQLAlchemy.

No driver is imported: whoever passes a connection has imported its own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PARAMETER = re.compile(r":([a-z]+)\b")


async def fetch_row(connection: Any, statement: str, parameters: Mapping[str, object]) -> Sequence[Any]:
    """Execute a statement that returns one row, on an asynchronous connection.

    Args:
        connection: psycopg's AsyncConnection, asyncpg's Connection, SQLAlchemy's AsyncSession or AsyncConnection.
        statement: With parameters such as ``:source``.
        parameters: Their values.

    Raises:
        ConfigurationError: The connection is none of these.
    """
    family = _family(connection)
    if family == "psycopg" and _is_a(connection, "AsyncConnection"):
        cursor = await connection.execute(*_for_psycopg(statement, parameters))
        return tuple(await cursor.fetchone())
    if family == "asyncpg":
        return tuple(await connection.fetchrow(*_for_asyncpg(statement, parameters)))
    if family == "sqlalchemy" and (_is_a(connection, "AsyncSession") or _is_a(connection, "AsyncConnection")):
        return tuple((await connection.execute(_for_sqlalchemy(statement), dict(parameters))).one())
    raise _unfit(connection, "mark_handled", "psycopg.AsyncConnection, asyncpg.Connection, AsyncSession")


def fetch_row_in_thread(connection: Any, statement: str, parameters: Mapping[str, object]) -> Sequence[Any]:
    """Execute a statement that returns one row, on a synchronous connection, as `fetch_row` does."""
    family = _family(connection)
    if family == "psycopg" and _is_a(connection, "Connection"):
        return tuple(connection.execute(*_for_psycopg(statement, parameters)).fetchone())
    if family == "sqlalchemy" and (_is_a(connection, "Session") or _is_a(connection, "Connection")):
        return tuple(connection.execute(_for_sqlalchemy(statement), dict(parameters)).one())
    raise _unfit(connection, "mark_handled_in_thread", "psycopg.Connection, sqlalchemy.orm.Session")


def _family(connection: object) -> str:
    modules = (base.__module__.partition(".")[0] for base in type(connection).__mro__)
    return next((name for name in modules if name in {"psycopg", "asyncpg", "sqlalchemy"}), "")


def _is_a(connection: object, name: str) -> bool:
    return any(base.__name__ == name for base in type(connection).__mro__)


def _for_psycopg(statement: str, parameters: Mapping[str, object]) -> tuple[str, dict[str, object]]:
    return _PARAMETER.sub(r"%(\1)s", statement), dict(parameters)


def _for_asyncpg(statement: str, parameters: Mapping[str, object]) -> tuple[object, ...]:
    names = list(parameters)
    return _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", statement), *parameters.values()


def _for_sqlalchemy(statement: str) -> object:
    from sqlalchemy import text  # noqa: PLC0415 - the user has it, or there would be no session

    return text(statement)


def _unfit(connection: object, method: str, fitting: str) -> ConfigurationError:
    given = f"{type(connection).__module__}.{type(connection).__qualname__}"
    return ConfigurationError(
        f"{method}() takes a connection with your writes in an open transaction ({fitting}); not {given}"
    )
