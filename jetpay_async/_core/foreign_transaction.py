"""Execute statements in a transaction of the user's: on a connection of psycopg or asyncpg, or a session of SQLAlchemy.

No driver is imported before a connection of it is passed: whoever passes one has imported its driver.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# In ``::`` there is no name.
_PARAMETER = re.compile(r"(?<!:):([a-z_]+)\b")


async def fetch_rows(
    connection: Any, statement: str, parameters: Mapping[str, object], *, method: str
) -> list[Sequence[Any]]:
    """Execute a statement that returns rows, on an asynchronous connection.

    Args:
        connection: psycopg's AsyncConnection, asyncpg's Connection, SQLAlchemy's AsyncSession or AsyncConnection.
        statement: With parameters such as ``:source``.
        parameters: Their values; those that the statement does not name are left out.
        method: Which method of ours was given the connection, for the error.

    Raises:
        ConfigurationError: The connection is none of these.
    """
    family = _family(connection)
    named = _named(statement, parameters)
    if family == "psycopg" and _is_a(connection, "AsyncConnection"):
        cursor = await _psycopg_cursor(connection).execute(_for_psycopg(statement), named)
        return list(await cursor.fetchall())
    if family == "asyncpg":
        return [tuple(row) for row in await connection.fetch(*_for_asyncpg(statement, named))]
    if family == "sqlalchemy" and (_is_a(connection, "AsyncSession") or _is_a(connection, "AsyncConnection")):
        return [tuple(row) for row in (await connection.execute(_for_sqlalchemy(statement), named)).all()]
    raise _unfit(connection, method, "psycopg.AsyncConnection, asyncpg.Connection, AsyncSession")


def fetch_rows_in_thread(
    connection: Any, statement: str, parameters: Mapping[str, object], *, method: str
) -> list[Sequence[Any]]:
    """Execute a statement that returns rows, on a synchronous connection, as `fetch_rows` does."""
    family = _family(connection)
    named = _named(statement, parameters)
    if family == "psycopg" and _is_a(connection, "Connection"):
        return list(_psycopg_cursor(connection).execute(_for_psycopg(statement), named).fetchall())
    if family == "sqlalchemy" and (_is_a(connection, "Session") or _is_a(connection, "Connection")):
        return [tuple(row) for row in connection.execute(_for_sqlalchemy(statement), named).all()]
    raise _unfit(connection, method, "psycopg.Connection, sqlalchemy.orm.Session")


def _family(connection: object) -> str:
    modules = (base.__module__.partition(".")[0] for base in type(connection).__mro__)
    return next((name for name in modules if name in {"psycopg", "asyncpg", "sqlalchemy"}), "")


def _is_a(connection: object, name: str) -> bool:
    return any(base.__name__ == name for base in type(connection).__mro__)


def _named(statement: str, parameters: Mapping[str, object]) -> dict[str, object]:
    # asyncpg refuses a value that the statement does not use.
    return {name: parameters[name] for name in dict.fromkeys(_PARAMETER.findall(statement))}


def _psycopg_cursor(connection: Any) -> Any:
    """Make a cursor whose rows are tuples, whatever the user's connection makes of rows."""
    from psycopg.rows import tuple_row  # noqa: PLC0415 - the user has it, or there would be no connection

    return connection.cursor(row_factory=tuple_row)


def _for_psycopg(statement: str) -> str:
    return _PARAMETER.sub(r"%(\1)s", statement.replace("%", "%%"))


def _for_asyncpg(statement: str, named: Mapping[str, object]) -> tuple[object, ...]:
    names = list(named)
    return _PARAMETER.sub(lambda found: f"${names.index(found[1]) + 1}", statement), *named.values()


def _for_sqlalchemy(statement: str) -> object:
    from sqlalchemy import text  # noqa: PLC0415 - the user has it, or there would be no session

    return text(statement)


def _unfit(connection: object, method: str, fitting: str) -> ConfigurationError:
    given = f"{type(connection).__module__}.{type(connection).__qualname__}"
    return ConfigurationError(
        f"{method}() takes a connection with your writes in an open transaction ({fitting}); not {given}"
    )
