"""Version 2: the states and words of the field, whose ledger it is, and what fences an outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetpay_async.ledger._sql import Dialect

_LONGER_SECONDS = 60
"""Version 1 held that a lost request is over after 5 seconds; now that takes 60 unless the other side ended it."""

_NO_VERDICT = "status BETWEEN 400 AND 499 AND status NOT IN (400, 401, 402, 403, 404, 405, 410, 413, 415, 422, 429)"
"""What version 1 took for a rejection, although the request may still have been processed."""


def statements(dialect: Dialect) -> list[str]:
    """Return the statements that make version 2 of version 1."""
    number = dialect.number
    return [
        "ALTER TABLE jetpay_ledger ADD COLUMN origin TEXT",
        "ALTER TABLE jetpay_ledger ADD COLUMN account TEXT",
        # Without a default: a process of version 1 that has the ledger open can't become an owner any more.
        f"ALTER TABLE jetpay_owner ADD COLUMN schema_version {number} NOT NULL",
        "ALTER TABLE jetpay_batch RENAME COLUMN refused TO rejected",
        f"ALTER TABLE jetpay_batch ADD COLUMN accepted {number} NOT NULL DEFAULT 0",
        "ALTER TABLE jetpay_debit RENAME COLUMN settled TO confirmed_by_status",
        "ALTER TABLE jetpay_debit ADD COLUMN seen_state TEXT",
        f"ALTER TABLE jetpay_debit ADD COLUMN intent {number} NOT NULL DEFAULT 0",
        f"UPDATE jetpay_debit SET certain_at = certain_at + {_LONGER_SECONDS} WHERE state = 'pending'",
        f"UPDATE jetpay_debit SET certain_at = certain_at + {_LONGER_SECONDS} WHERE state = 'sending'",
        f"UPDATE jetpay_debit SET certain_at = certain_at + {_LONGER_SECONDS} WHERE state = 'refused'",
        f"UPDATE jetpay_debit SET certain_at = certain_at + {_LONGER_SECONDS} WHERE state = 'unknown'",
        f"""
        UPDATE jetpay_batch SET rejected = rejected - moved.number, unknown = unknown + moved.number
        FROM (SELECT id >> 32 AS batch, COUNT(*) AS number FROM jetpay_debit
              WHERE state = 'refused' AND {_NO_VERDICT} GROUP BY id >> 32) AS moved
        WHERE jetpay_batch.id = moved.batch
        """,
        f"UPDATE jetpay_debit SET state = 'unknown' WHERE state = 'refused' AND {_NO_VERDICT}",
        "UPDATE jetpay_debit SET state = 'rejected' WHERE state = 'refused'",
        "DROP INDEX jetpay_debit_refused",
        "CREATE INDEX jetpay_debit_rejected ON jetpay_debit (id) WHERE state = 'rejected'",
        "CREATE INDEX jetpay_debit_accepted ON jetpay_debit (id) WHERE state = 'accepted'",
        "UPDATE jetpay_ledger SET version = 2",
    ]
