"""The tables and statements of durable payments, the same for SQLite and PostgreSQL but for the dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetpay_async.ledger._dialect import Dialect

CLOCK_TOLERANCE_SECONDS = 300.0
"""How far the clock of the API may be from the ledger's, for a transaction to be offered as a payment's own."""

PAYMENT_COLUMNS = """id, intent, reference, operation, arguments, state, attempts, intent_at, certain_at, finished_at,
            transaction_id, transaction_state, resolved_by, error, status, request_id, reason"""
"""Of a payment, as its rows are read."""


def payment_schema(dialect: Dialect) -> list[str]:
    """Return the statements that make the tables of durable payments."""
    key, number, real = dialect.key, dialect.number, dialect.real
    return [
        f"""CREATE TABLE jetpay_payment (
            id {key}, reference TEXT NOT NULL, operation TEXT NOT NULL, kind TEXT NOT NULL, arguments TEXT NOT NULL,
            state TEXT NOT NULL, owner {number}, intent {number} NOT NULL, attempts {number} NOT NULL,
            intent_at {real}, certain_at {real}, finished_at {real}, transaction_id TEXT, transaction_state TEXT,
            resolved_by TEXT, error TEXT, status {number}, request_id TEXT, reason TEXT)""",
        "CREATE UNIQUE INDEX jetpay_payment_reference ON jetpay_payment (reference)",
        "CREATE INDEX jetpay_payment_sending ON jetpay_payment (id) WHERE state = 'sending'",
        "CREATE INDEX jetpay_payment_unknown ON jetpay_payment (id) WHERE state = 'unknown'",
        """CREATE INDEX jetpay_payment_transaction ON jetpay_payment (transaction_id)
            WHERE transaction_id IS NOT NULL""",
        # Transactions that events reported, and that nothing else in the ledger knows.
        f"""CREATE TABLE jetpay_transaction (
            transaction_id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, created_at {real} NOT NULL,
            releasing {number} NOT NULL DEFAULT 0)""",
        "CREATE INDEX jetpay_transaction_time ON jetpay_transaction (created_at)",
    ]


class PaymentStatements:
    """Every statement about durable payments in one dialect, with ``:name`` for its parameters."""

    def __init__(self, dialect: Dialect) -> None:
        now = dialect.now
        columns = PAYMENT_COLUMNS
        self.add = f"""
            INSERT INTO jetpay_payment (reference, operation, kind, arguments, state, owner, intent, attempts,
                intent_at, certain_at)
            VALUES (:reference, :operation, :kind, :arguments, 'sending', :owner, 1, 1, {now}, {now} + :certain)
            ON CONFLICT (reference) DO NOTHING RETURNING id"""
        self.find = f"SELECT {columns} FROM jetpay_payment WHERE reference = :reference"
        self.find_locked = f"SELECT {columns} FROM jetpay_payment b WHERE b.reference = :reference {dialect.lock_rows}"
        self.claim = f"""
            UPDATE jetpay_payment
            SET state = 'sending', owner = :owner, intent = intent + 1, attempts = 1, intent_at = {now},
                certain_at = {now} + :certain, finished_at = NULL, transaction_id = NULL, transaction_state = NULL,
                resolved_by = NULL, error = NULL, status = NULL, request_id = NULL, reason = NULL
            WHERE id = :id AND state = :earlier RETURNING intent"""
        # The copy is as old as its latest payment, or younger: what it has forgotten was made after that.
        self.leave_unknown = """
            UPDATE jetpay_payment
            SET state = 'unknown', finished_at = intent_at, error = 'OutcomeUnknownError', reason = :reason,
                intent_at = COALESCE((
                    SELECT o.intent_at FROM jetpay_payment o
                    WHERE o.id < jetpay_payment.id AND o.intent_at <= jetpay_payment.intent_at
                    ORDER BY o.id DESC LIMIT 1), 0)
            WHERE id = :id"""
        # By the intent that the answer belongs to: also if its owner was taken for dead meanwhile.
        self.record = f"""
            UPDATE jetpay_payment
            SET state = :state, attempts = :attempts, transaction_id = :transaction_id,
                transaction_state = :transaction_state, resolved_by = :resolved_by, error = :error, status = :status,
                request_id = :request_id, reason = :reason,
                finished_at = CASE WHEN CAST(:state AS TEXT) = 'pending' THEN NULL ELSE {now} END
            WHERE id = :id AND intent = :intent AND state IN ('sending', 'unknown')"""
        self.sees_others = "SELECT 1 FROM jetpay_payment WHERE state = 'sending' AND owner <> :owner LIMIT 1"
        self.expire = f"""
            UPDATE jetpay_payment
            SET state = 'unknown', finished_at = {now}, error = 'OutcomeUnknownError', reason = :reason
            WHERE state = 'sending' AND owner <> :owner AND owner NOT IN (SELECT id FROM jetpay_owner)
            RETURNING id"""
        self.after = f"SELECT {columns} FROM jetpay_payment WHERE id > :after ORDER BY id LIMIT :limit"
        self.after_in = f"""
            SELECT {columns} FROM jetpay_payment WHERE id > :after AND state = :state ORDER BY id LIMIT :limit"""
        self.of_transaction = f"""
            SELECT {columns} FROM jetpay_payment b WHERE b.transaction_id = :transaction_id ORDER BY id
            {dialect.lock_rows}"""
        self.debits_of = """
            SELECT id, state, attempts, look_first, transaction_state FROM jetpay_debit
            WHERE debit_id = :transaction_id ORDER BY id"""
        self.report = f"""
            UPDATE jetpay_payment
            SET state = :state, transaction_state = :transaction_state, resolved_by = :resolved_by, error = :error,
                reason = :reason, finished_at = {now}
            WHERE id = :id"""
        self.note_later_state = """
            UPDATE jetpay_debit SET later_state = :state
            WHERE debit_id = :transaction_id AND state = 'captured' AND later_state IS NULL"""
        # Its status is read before anything is sent for it.
        self.note_seen_state = """
            UPDATE jetpay_debit
            SET seen_state = :state, look_first = CASE WHEN state = 'pending' THEN 1 ELSE look_first END
            WHERE id = :id AND seen_state IS NULL"""
        window = f"""
            {{0}}.intent_at - {CLOCK_TOLERANCE_SECONDS} <= {{1}}
                AND {{0}}.certain_at + {CLOCK_TOLERANCE_SECONDS} >= {{1}}"""
        # What was discarded may have been made after all, as an event that comes late says.
        self.awaits = f"""
            SELECT 1 FROM jetpay_payment p
            WHERE p.state IN ('sending', 'unknown', 'discarded') AND p.kind = :kind AND p.transaction_id IS NULL
                AND {window.format("p", ":created_at")} LIMIT 1"""
        seen = "t.transaction_id, t.state, t.created_at, t.releasing"
        self.transaction = f"""
            SELECT {seen}, t.kind FROM jetpay_transaction t WHERE t.transaction_id = :transaction_id"""
        self.note_transaction = """
            INSERT INTO jetpay_transaction (transaction_id, kind, state, created_at)
            VALUES (:transaction_id, :kind, :state, :created_at) ON CONFLICT (transaction_id) DO NOTHING"""
        self.change_transaction = """
            UPDATE jetpay_transaction SET state = :state WHERE transaction_id = :transaction_id"""
        self.forget_transaction = """
            DELETE FROM jetpay_transaction WHERE transaction_id = :transaction_id"""
        self.set_releasing = """
            UPDATE jetpay_transaction SET releasing = :releasing
            WHERE transaction_id = :transaction_id
                AND transaction_id NOT IN (SELECT transaction_id FROM jetpay_payment WHERE transaction_id IS NOT NULL)
                AND transaction_id NOT IN (SELECT debit_id FROM jetpay_debit WHERE debit_id = :transaction_id)"""
        over = "('failed', 'cancelled')"
        self.candidates = f"""
            SELECT {seen} FROM jetpay_transaction t JOIN jetpay_payment p ON p.kind = t.kind
            WHERE p.reference = :reference AND t.state NOT IN {over} AND {window.format("p", "t.created_at")}
            ORDER BY t.created_at, t.transaction_id"""
        # What may be the answer that a living process waits for is no orphan yet.
        self.orphans = f"""
            SELECT {seen} FROM jetpay_transaction t
            WHERE t.kind = 'debit' AND t.state NOT IN {over} AND t.created_at <= {now} - :older_than
                AND NOT EXISTS (
                    SELECT 1 FROM jetpay_payment p
                    WHERE p.state = 'sending' AND p.kind = t.kind AND {window.format("p", "t.created_at")})
            ORDER BY t.created_at, t.transaction_id"""
        self.adopt = f"""
            UPDATE jetpay_payment
            SET state = :state, transaction_id = :transaction_id, transaction_state = :transaction_state,
                resolved_by = 'adopted', error = NULL, reason = NULL, finished_at = {now}
            WHERE reference = :reference AND state = 'unknown'"""
        # For `Ledger.verify`.
        self.counts_by_state = "SELECT state, COUNT(*) FROM jetpay_payment GROUP BY state"
        self.count_transactions = "SELECT COUNT(*) FROM jetpay_transaction"
        self.without_time = """
            SELECT COUNT(*) FROM jetpay_payment
            WHERE state IN ('sending', 'unknown') AND (intent_at IS NULL OR certain_at IS NULL)
                OR state = 'sending' AND owner IS NULL"""
        self.without_transaction = """
            SELECT COUNT(*) FROM jetpay_payment WHERE state IN ('succeeded', 'accepted') AND transaction_id IS NULL"""
        self.shared_transactions = """
            SELECT COUNT(*) FROM (
                SELECT transaction_id FROM jetpay_payment
                WHERE transaction_id IS NOT NULL AND state IN ('succeeded', 'accepted')
                GROUP BY transaction_id HAVING COUNT(*) > 1) AS shared"""
        self.discard = f"""
            UPDATE jetpay_payment SET state = 'discarded', resolved_by = 'discarded', finished_at = {now}
            WHERE reference = :reference AND state = 'unknown' AND {dialect.wait} <= 0"""
