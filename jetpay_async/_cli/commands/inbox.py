"""``jetpay webhooks init``: make the tables of an inbox in PostgreSQL. And what the commands about inboxes share."""

from __future__ import annotations

import asyncio
import os.path
from typing import TYPE_CHECKING

from jetpay_async._cli.io.console import write_message, write_output
from jetpay_async._cli.io.exit_codes import ExitStatus
from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks import SqliteInbox

if TYPE_CHECKING:
    from jetpay_async.webhooks import PostgresInbox

__all__ = ["init", "open_inbox"]


def init(*, inbox: str | None, print_sql: bool) -> int:
    """Make the tables of an inbox in PostgreSQL, or print the statements that make them."""
    postgres = _postgres()
    if print_sql:
        write_output("\n\n".join(f"{statement};" for statement in postgres.create_statements()))
        return ExitStatus.DONE
    if inbox is None or "://" not in inbox:
        raise ConfigurationError("argument --inbox: write postgresql://user@host/database; a SqliteInbox needs no init")

    async def create() -> None:
        async with postgres(inbox) as opened:
            await opened.create_tables()

    asyncio.run(create())
    write_message("the inbox's tables are there")
    return ExitStatus.DONE


def open_inbox(place: str, source: str) -> SqliteInbox | PostgresInbox:
    """Open an inbox that exists: a file, or a database by its URL."""
    if "://" in place:
        return _postgres()(place, source=source)
    if not os.path.isfile(place):  # noqa: PTH113 - what can't be a path is an answer too
        raise ConfigurationError(f"argument --inbox: there is no file {place}")
    return SqliteInbox(place, source=source)


def _postgres() -> type[PostgresInbox]:
    try:
        from jetpay_async.webhooks import PostgresInbox  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        raise ConfigurationError(str(error)) from None
    return PostgresInbox
