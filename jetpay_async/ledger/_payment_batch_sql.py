"""The tables and statements of batches of durable payments, the same for SQLite and PostgreSQL but for the dialect.

An item's ``id`` is its batch's number and its position, as a debit's is. What an item lacks until its payment has an
outcome is ``seq``, its place among the outcomes of the batch: the places are given while the row of the batch is
locked, so that they become visible in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetpay_async.ledger._dialect import Dialect


def payment_batch_schema(dialect: Dialect) -> list[str]:
    """Return the statements that make the tables of batches of payments."""
    key, number, real = dialect.key, dialect.number, dialect.real
    return [
        f"""CREATE TABLE jetpay_payment_batch (
            id {key}, key TEXT NOT NULL UNIQUE, operation TEXT NOT NULL, fingerprint TEXT NOT NULL,
            total {number} NOT NULL, duplicates {number} NOT NULL, submitted_at {real} NOT NULL,
            last_seq {number} NOT NULL DEFAULT 0)""",
        f"""CREATE TABLE jetpay_payment_item (
            id {number} PRIMARY KEY, payment {number} NOT NULL, seq {number})
            {dialect.often_changed}""",
        "CREATE UNIQUE INDEX jetpay_payment_item_once ON jetpay_payment_item (payment, (id >> 32))",
        "CREATE INDEX jetpay_payment_item_left ON jetpay_payment_item (id) WHERE seq IS NULL",
        "CREATE UNIQUE INDEX jetpay_payment_item_seq ON jetpay_payment_item (seq) WHERE seq IS NOT NULL",
    ]


class PaymentBatchStatements:
    """Every statement about batches of durable payments in one dialect, with ``:name`` for its parameters.

    Args:
        dialect: The backend's.
        columns: Those of a payment.
    """

    def __init__(self, dialect: Dialect, columns: str) -> None:
        now = dialect.now
        left = f"""
            FROM jetpay_payment_item i {dialect.items_left}
            CROSS JOIN jetpay_payment d
            WHERE d.id = i.payment AND i.seq IS NULL AND i.id >= :low AND i.id < :high"""
        of_payment = ", ".join(f"d.{name.strip()}" for name in columns.split(","))
        self.find = """
            SELECT id, operation, fingerprint, total, duplicates, submitted_at
            FROM jetpay_payment_batch WHERE key = :key"""
        self.add = f"""
            INSERT INTO jetpay_payment_batch (key, operation, fingerprint, total, duplicates, submitted_at)
            VALUES (:key, :operation, :fingerprint, 0, 0, {now}) RETURNING id"""
        self.count = """
            UPDATE jetpay_payment_batch SET total = :total, duplicates = :duplicates, last_seq = :last_seq
            WHERE id = :batch"""
        self.add_payments = f"""
            INSERT INTO jetpay_payment (reference, operation, kind, arguments, state, intent, attempts)
            SELECT s.reference, CAST(:operation AS TEXT), CAST(:kind AS TEXT), s.arguments, 'pending', 0, 0
            FROM {dialect.submitted} WHERE true ON CONFLICT (reference) DO NOTHING"""
        # What another process is about to record of them waits until their items are there.
        self.find_payments = f"""
            SELECT b.id, b.reference, b.operation, b.arguments, b.state FROM jetpay_payment b
            WHERE b.reference {dialect.among_texts} ORDER BY b.id {dialect.lock_rows}"""
        self.add_items = f"""
            INSERT INTO jetpay_payment_item (id, payment) SELECT :below + o.place, o.id FROM {dialect.numbered}
            WHERE true ON CONFLICT DO NOTHING"""
        self.number_known = f"""
            UPDATE jetpay_payment_item SET seq = :below + o.place FROM {dialect.numbered}
            WHERE jetpay_payment_item.payment = o.id AND jetpay_payment_item.seq IS NULL
                AND jetpay_payment_item.id >= :low AND jetpay_payment_item.id < :high"""
        self.analyze = dialect.analyze_payments
        self.find_items = f"""
            SELECT i.id, d.reference, d.arguments FROM jetpay_payment d
            JOIN jetpay_payment_item i ON i.payment = d.id AND i.id >> 32 = :batch
            WHERE d.reference {dialect.among_texts}"""
        self.pending = f"SELECT d.id {left} AND d.state = 'pending' ORDER BY i.id LIMIT :limit {dialect.claim}"
        self.mark_sending = f"""
            UPDATE jetpay_payment
            SET state = 'sending', owner = :owner, intent = intent + 1, attempts = 1, intent_at = {now},
                certain_at = {now} + :certain, finished_at = NULL, transaction_id = NULL, transaction_state = NULL,
                resolved_by = NULL, error = NULL, status = NULL, request_id = NULL, reason = NULL
            WHERE id {dialect.among} RETURNING {columns}"""
        # In the order of the batches, as far as one statement can.
        self.next_places = """
            UPDATE jetpay_payment_batch SET last_seq = last_seq + 1
            WHERE id IN (SELECT id >> 32 FROM jetpay_payment_item WHERE payment = :payment AND seq IS NULL)
            RETURNING id, last_seq"""
        self.number = """
            UPDATE jetpay_payment_item SET seq = :seq WHERE payment = :payment AND id >= :low AND id < :high"""
        # The copy is as old as its latest payment, or younger: what was pending in it was sent after that, if it was.
        self.leave_pending_unknown = f"""
            UPDATE jetpay_payment
            SET state = 'unknown', intent = intent + 1, attempts = 1, certain_at = {now} + :certain,
                finished_at = {now}, transaction_id = NULL, transaction_state = NULL, resolved_by = NULL,
                error = 'OutcomeUnknownError', status = NULL, request_id = NULL, reason = :reason,
                intent_at = COALESCE((SELECT MAX(o.intent_at) FROM jetpay_payment o), 0)
            WHERE state = 'pending'"""
        self.locked = f"SELECT b.id, b.last_seq FROM jetpay_payment_batch b ORDER BY b.id {dialect.lock_rows}"
        self.number_finished = """
            UPDATE jetpay_payment_item SET seq = :below + o.place
            FROM (
                SELECT i.id, ROW_NUMBER() OVER (ORDER BY i.id) AS place
                FROM jetpay_payment_item i CROSS JOIN jetpay_payment d
                WHERE d.id = i.payment AND i.seq IS NULL AND i.id >= :low AND i.id < :high
                    AND d.state NOT IN ('pending', 'sending')) o
            WHERE jetpay_payment_item.id = o.id"""
        self.advance = "UPDATE jetpay_payment_batch SET last_seq = last_seq + :places WHERE id = :batch"
        self.reopen = "UPDATE jetpay_payment_item SET seq = NULL WHERE payment = :payment AND seq IS NOT NULL"
        self.any_left = f"SELECT 1 {left} LIMIT 1"
        self.outcomes = f"""
            SELECT {of_payment}, i.seq FROM jetpay_payment_item i JOIN jetpay_payment d ON d.id = i.payment
            WHERE i.seq > :after AND i.seq < :high ORDER BY i.seq LIMIT :limit"""
        self.payments = f"""
            SELECT {of_payment}, i.id FROM jetpay_payment_item i JOIN jetpay_payment d ON d.id = i.payment
            WHERE i.id > :after AND i.id < :high ORDER BY i.id LIMIT :limit"""
        self.counts = """
            SELECT d.state, COUNT(*), MAX(d.finished_at)
            FROM jetpay_payment_item i CROSS JOIN jetpay_payment d
            WHERE d.id = i.payment AND i.id >= :low AND i.id < :high GROUP BY d.state"""
        # For `Ledger.verify`.
        self.out_of_order = """
            SELECT COUNT(*) FROM jetpay_payment_item i LEFT JOIN jetpay_payment d ON d.id = i.payment
            WHERE d.id IS NULL OR (d.state IN ('pending', 'sending')) = (i.seq IS NOT NULL)"""
