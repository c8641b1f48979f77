"""What a connection checks of the ledger's schema before it goes on, and what it says if it can't."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async.ledger._sql import SCHEMA_VERSION
from jetpay_async.ledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async._core.migrations import NewerSchemaError


def newer_schema_message(name: str, error: NewerSchemaError) -> str:
    """Say why a ledger of a newer release can't be used."""
    return f"the ledger {name} has {error}; upgrade jetpay_async"


def migration_blocked_message(name: str, pending: Sequence[tuple[int, object]], host: str, pid: int) -> str:
    """Say why a ledger of an older release can't be brought up to date now."""
    return (
        f"the ledger {name} has schema version {pending[0][0] - 1} and is brought to {SCHEMA_VERSION} when no run uses "
        f"it, but one is alive (process {pid} on {host}): let it end, and run the same again"
    )


def check_version(found: int, name: str) -> None:
    """Stop a process whose ledger was brought to another version while it was open.

    Raises:
        LedgerError: The version is not the one of this release any more.
    """
    if found != SCHEMA_VERSION:
        raise LedgerError(
            f"the ledger {name} was brought to schema version {found} while it was open, and this release of "
            f"jetpay_async knows {SCHEMA_VERSION}; start this process again with the newer release"
        )
