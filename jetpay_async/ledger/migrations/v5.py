"""Version 5: batches of payments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async.ledger._payment_batch_sql import payment_batch_schema

if TYPE_CHECKING:
    from jetpay_async.ledger._dialect import Dialect


def statements(dialect: Dialect) -> list[str]:
    """Return the statements that make version 5 of version 4."""
    return [*payment_batch_schema(dialect), "UPDATE jetpay_ledger SET version = 5"]
