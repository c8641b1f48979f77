"""Version 2: the states and words of the field, whose ledger it is, and what fences an outcome.

Version 1 held some outcomes for certain that are not. They are recorded as what is known of them: any state in an
answer of 200 was a capture there, and any 4xx in JSON a rejection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetpay_async.ledger._dialect import Dialect

_LONGER_SECONDS = 60
"""Version 1 held that a lost request is over after 5 seconds; now that takes 60 unless the other side ended it."""

_NO_VERDICT = "status BETWEEN 400 AND 499 AND status NOT IN (400, 401, 402, 403, 404, 405, 410, 413, 415, 422, 429)"


def statements(dialect: Dialect) -> list[str]:
    """Return the statements that make version 2 of version 1."""
    number = dialect.number
    counted = ", ".join(
        f"""{state} = (
            SELECT COUNT(*) FROM jetpay_debit d
            WHERE d.state = '{state}' AND d.id >= jetpay_batch.id << 32 AND d.id < (jetpay_batch.id + 1) << 32)"""
        for state in ("captured", "accepted", "rejected", "unknown")
    )
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
        f"UPDATE jetpay_debit SET certain_at = certain_at + {_LONGER_SECONDS} WHERE state <> 'captured'",
        """
        UPDATE jetpay_debit SET seen_state = transaction_state
        WHERE transaction_state NOT IN ('preauthorized', 'paid', 'completed')
        """,
        f"""
        UPDATE jetpay_debit SET state = CASE
            WHEN state = 'refused' AND {_NO_VERDICT} THEN 'unknown'
            WHEN state = 'refused' THEN 'rejected'
            WHEN transaction_state IN ('requested', 'initiated', 'processing') THEN 'accepted'
            ELSE 'unknown' END
        WHERE state = 'refused' OR (state = 'captured' AND transaction_state NOT IN ('paid', 'completed'))
        """,
        f"UPDATE jetpay_batch SET {counted}",
        "DROP INDEX jetpay_debit_refused",
        "CREATE INDEX jetpay_debit_rejected ON jetpay_debit (id) WHERE state = 'rejected'",
        "CREATE INDEX jetpay_debit_accepted ON jetpay_debit (id) WHERE state = 'accepted'",
        "UPDATE jetpay_ledger SET version = 2",
    ]
