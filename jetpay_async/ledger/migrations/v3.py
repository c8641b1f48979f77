"""Version 3: which clock the times are on, so that one that was set is noticed, whoever opens the ledger next."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetpay_async.ledger._dialect import Dialect


def statements(dialect: Dialect) -> list[str]:
    """Return the statements that make version 3 of version 2."""
    return [
        f"ALTER TABLE jetpay_ledger ADD COLUMN clock_offset {dialect.real}",
        f"ALTER TABLE jetpay_ledger ADD COLUMN clock_noted_at {dialect.real}",
        "ALTER TABLE jetpay_owner DROP COLUMN clock",
        "UPDATE jetpay_ledger SET version = 3",
    ]
