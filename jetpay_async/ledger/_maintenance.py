"""Maintenance of a ledger: check it, and remove what is no longer needed. Each is one operation on a connection.

A batch that is pruned leaves the ids of its captured debits behind, under a key that no user can give: they are what
keeps a later batch from capturing the same debit again.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

from jetpay_async.ledger import _sql
from jetpay_async.ledger._sql import span
from jetpay_async.ledger.payment_records import PaymentCounts, PaymentState
from jetpay_async.ledger.records import DebitState, LedgerCheck, Progress, Pruned

if TYPE_CHECKING:
    from jetpay_async.ledger._backend import Connection
    from jetpay_async.ledger._dialect import Dialect


def expected_objects(dialect: Dialect) -> frozenset[str]:
    """Name the tables' columns and the indexes that a ledger of this release has.

    Args:
        dialect: SQLite's; the names are the same elsewhere.
    """
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in _sql.schema(dialect):
            connection.execute(statement)
        return objects_of(connection)


def objects_of(connection: sqlite3.Connection) -> frozenset[str]:
    """Name the columns and indexes of a ledger in SQLite, but for those that SQLite makes by itself."""
    columns = connection.execute(
        "SELECT m.name || '.' || c.name FROM sqlite_master m, pragma_table_info(m.name) c "
        "WHERE m.type = 'table' AND m.name LIKE 'jetpay_%'"
    )
    indexes = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'index' AND name LIKE 'jetpay_%' AND sql IS NOT NULL"
    )
    return frozenset(name for rows in (columns, indexes) for (name,) in rows)


def check(connection: Connection, expected: frozenset[str]) -> LedgerCheck:
    """Check the database, the tables, and what the rows of a ledger say of each other."""
    statements = connection.statements
    connection.allow_long_statements()
    problems = list(connection.integrity_problems())
    problems.extend(f"{name} is missing from the tables" for name in sorted(expected - connection.objects()))
    problems.extend(
        f"batch {key!r}: its counts are not those of its debits"
        for (key,) in connection.query(statements.miscounted, {})
    )
    for statement, what in (
        (statements.without_batch, "debits belong to no batch"),
        (statements.odd_states, "debits are in a state that this release does not know"),
        (statements.without_time, "debits are being sent by nobody, or since no known time"),
        (statements.out_of_order, "debits have an outcome without a place, or a place without an outcome"),
    ):
        count = connection.query(statement, {})[0][0]
        if count:
            problems.append(f"{count} {what}")
    payments, payment_problems = _check_payments(connection)
    problems.extend(payment_problems)
    counts = Counter({row[0]: row[1] for row in connection.query(statements.counts_by_state, {})})
    origin, account = connection.query(statements.origin, {})[0]
    batches, kept = connection.query(statements.counts_of_batches, {})[0]
    return LedgerCheck(
        problems=tuple(problems),
        schema_version=connection.query(statements.version, {})[0][0],
        origin=origin,
        account=account,
        batches=batches or 0,
        pruned_captured=kept or 0,
        runs=connection.query(statements.count_owners, {})[0][0],
        debits=Progress(
            total=counts.total(),
            pending=counts[DebitState.PENDING],
            sending=counts[DebitState.SENDING],
            captured=counts[DebitState.CAPTURED],
            accepted=counts[DebitState.ACCEPTED],
            rejected=counts[DebitState.REJECTED],
            unknown=counts[DebitState.UNKNOWN],
        ),
        payments=payments,
        orphans=connection.query(statements.payments.count_transactions, {})[0][0],
    )


def _check_payments(connection: Connection) -> tuple[PaymentCounts, list[str]]:
    """Count the payments, and say what is wrong with them."""
    statements = connection.statements.payments
    counts: dict[str, int] = {row[0]: row[1] for row in connection.query(statements.counts_by_state, {})}
    odd = sum(count for state, count in counts.items() if state not in set(PaymentState))
    found = [(odd, "payments are in a state that this release does not know")]
    for statement, what in (
        (statements.without_time, "payments are being sent by nobody, or unresolved since no known time"),
        (statements.without_transaction, "payments have succeeded without a transaction"),
        (statements.shared_transactions, "transactions belong to several payments"),
    ):
        found.append((connection.query(statement, {})[0][0], what))
    unplaced = connection.query(connection.statements.payment_batches.out_of_order, {})[0][0]
    found.append((unplaced, "items of batches of payments have an outcome without a place, or a place without one"))
    known = {state.value: counts.get(state.value, 0) for state in PaymentState}
    return PaymentCounts(**known), [f"{count} {what}" for count, what in found if count]


def prune(connection: Connection, *, before: float) -> Pruned:
    """Remove the batches that are finished since before a time, but for the ids of their captured debits.

    Args:
        connection: The connection.
        before: Seconds since the epoch.
    """
    statements = connection.statements
    connection.guard_submission()  # it takes the locks of batches and debits, as a submission does
    finished = connection.query(statements.lock_finished, {"before": before})
    rejected = captured = 0
    for (batch,) in finished:
        rejected += connection.change(statements.remove_rejected, span(batch))
        kept = connection.change(statements.reduce_captured, span(batch))
        captured += kept
        connection.change(statements.archive if kept else statements.remove_batch, {"batch": batch, "kept": kept})
    left = connection.query(statements.count_unresolved_batches, {"before": before})[0][0]
    return Pruned(batches=len(finished), captured_kept=captured, rejected_removed=rejected, unresolved_batches=left)
