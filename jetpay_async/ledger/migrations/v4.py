"""Version 4: payments that survive a crash, and what events report after an outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async.ledger._payment_sql import payment_schema

if TYPE_CHECKING:
    from jetpay_async.ledger._dialect import Dialect


def statements(dialect: Dialect) -> list[str]:
    """Return the statements that make version 4 of version 3."""
    return [
        "ALTER TABLE jetpay_debit ADD COLUMN later_state TEXT",
        *payment_schema(dialect),
        "UPDATE jetpay_ledger SET version = 4",
    ]
