"""What is done with the payments of a ledger; each function is one operation on a connection.

`jetpay_async.ledger._payment_states` lists the changes that they make. ``claim`` is committed before the request
leaves, and ``record`` changes only what belongs to the intent that was answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import attrs

from jetpay_async.ledger._sql import span
from jetpay_async.ledger.errors import ReferenceMismatchError, UnknownReferenceError
from jetpay_async.ledger.payment_records import LedgerPayment, PaymentState
from jetpay_async.models import TransactionState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async.ledger._backend import Connection
    from jetpay_async.ledger._repository import Row

PAGE = 500
"""Rows that are read at a time."""

ENDED_REASON = "the process that sent it ended before it recorded an answer"

RESTORED_REASON = "the ledger was restored from a copy, which may have been made before this was sent"


@attrs.frozen
class PaymentIntent:
    """What is to be sent, and under which name."""

    reference: str
    operation: str
    kind: str
    """Of the transaction that it makes: ``debit`` or ``credit``."""
    arguments: Mapping[str, str]


@attrs.frozen
class ClaimedPayment:
    """What a claim found, or made."""

    id: int
    intent: int
    """Which intent of the payment this is; an answer belongs to one."""
    payment: LedgerPayment | None
    """What is known of it; None if it is to be sent."""


@attrs.frozen
class PaymentRecord:
    """What became of a payment, as it is recorded."""

    id: int
    intent: int
    state: PaymentState
    attempts: int
    transaction_id: str | None = None
    transaction_state: str | None = None
    resolved_by: str | None = None
    error: str | None = None
    status: int | None = None
    request_id: str | None = None
    reason: str | None = None


def claim(
    connection: Connection,
    intent: PaymentIntent,
    *,
    owner: int,
    certain_after: float,
    retry_rejected: bool,
    restored: bool = False,
) -> ClaimedPayment:
    """Intend to send a payment, durable when the transaction is; or return what is known of it.

    Args:
        connection: The connection.
        intent: What is to be sent.
        owner: Who sends it.
        certain_after: Seconds until no request for it can be on its way.
        retry_rejected: Whether what was rejected or discarded is sent again.
        restored: Whether the ledger may have forgotten what was sent: then what would be sent is unknown instead.

    Raises:
        ReferenceMismatchError: The ledger has one of this reference, with other arguments.
    """
    statements = connection.statements.payments
    parameters = {"owner": owner, "certain": certain_after}
    added = connection.query(
        statements.add,
        {
            **parameters,
            "reference": intent.reference,
            "operation": intent.operation,
            "kind": intent.kind,
            "arguments": json.dumps(intent.arguments, ensure_ascii=False),
        },
    )
    if added:
        return _claimed(connection, intent, added[0][0], 1, restored=restored)
    row = connection.query(statements.find_locked, {"reference": intent.reference})[0]
    number, payment = row[0], read_payment(row)
    _check_same(intent, payment)
    if payment.state in _claimable(retry_rejected=retry_rejected):
        if payment.state is not PaymentState.PENDING:
            _reopen(connection, number)
        again = connection.query(statements.claim, {**parameters, "id": number, "earlier": payment.state.value})
        return _claimed(connection, intent, number, again[0][0], restored=restored)
    return ClaimedPayment(number, row[1], payment)


def _claimed(
    connection: Connection, intent: PaymentIntent, number: int, count: int, *, restored: bool
) -> ClaimedPayment:
    if not restored:
        return ClaimedPayment(number, count, None)
    leave_unknown(connection, number)
    return ClaimedPayment(number, count, find(connection, intent.reference))


def leave_unknown(connection: Connection, payment: int) -> None:
    """Record as unknown what would be sent, since a ledger that was restored may have forgotten that it was."""
    connection.change(connection.statements.payments.leave_unknown, {"id": payment, "reason": RESTORED_REASON})
    _number(connection, payment)


def _claimable(*, retry_rejected: bool) -> Sequence[PaymentState]:
    if retry_rejected:
        return (PaymentState.PENDING, PaymentState.REJECTED, PaymentState.DISCARDED)
    return (PaymentState.PENDING,)


def differences(held: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Name what differs between the operation and arguments that a reference stands for, and those that were given."""
    return [
        f"{name} (the ledger has {held.get(name)!r}, and {given.get(name)!r} was given)"
        for name in {**held, **given}
        if held.get(name) != given.get(name)
    ]


def _check_same(intent: PaymentIntent, payment: LedgerPayment) -> None:
    differing = differences(
        {"operation": payment.operation, **payment.arguments}, {"operation": intent.operation, **intent.arguments}
    )
    if differing:
        raise ReferenceMismatchError(
            f"reference {intent.reference!r} stands for another payment; these differ: {', '.join(differing)}; nothing "
            "was sent: give the same arguments to learn what became of it, or another reference for another payment"
        )


def record(connection: Connection, entry: PaymentRecord) -> bool:
    """Record what became of a payment; return False if it is not one that waits for this answer any more."""
    if not connection.change(connection.statements.payments.record, attrs.asdict(entry)):
        return False
    if entry.state is PaymentState.PENDING:
        _reopen(connection, entry.id)
    else:
        _number(connection, entry.id)
    return True


def _number(connection: Connection, payment: int) -> None:
    """Give an outcome its place in each batch of its payment."""
    statements = connection.statements.payment_batches
    for batch, place in connection.query(statements.next_places, {"payment": payment}):
        ids = span(batch)
        connection.change(statements.number, {"payment": payment, "seq": ids["low"] + place, **ids})


def _reopen(connection: Connection, payment: int) -> None:
    """Take the place among the outcomes away from a payment that has none any more: it gets another one."""
    connection.change(connection.statements.payment_batches.reopen, {"payment": payment})


def sees_others(connection: Connection, owner: int) -> bool:
    """Say whether another owner has payments under way."""
    return bool(connection.query(connection.statements.payments.sees_others, {"owner": owner}))


def expire(connection: Connection, owner: int) -> int:
    """Record as unknown what owners that are dead have been sending; return how many payments that were."""
    connection.expire_owners(owner)
    expired = connection.query(connection.statements.payments.expire, {"owner": owner, "reason": ENDED_REASON})
    for (payment,) in expired:
        _number(connection, payment)
    return len(expired)


def find(connection: Connection, reference: str) -> LedgerPayment:
    """Return the payment of a reference.

    Raises:
        UnknownReferenceError: There is none.
    """
    rows = connection.query(connection.statements.payments.find, {"reference": reference})
    if not rows:
        raise UnknownReferenceError(f"the ledger has no payment of reference {reference!r}; check the reference")
    return read_payment(rows[0])


def page(connection: Connection, after: int, state: PaymentState | None) -> tuple[list[LedgerPayment], int]:
    """Read the next payments in the order in which they were asked for, and where to go on."""
    statements = connection.statements.payments
    statement = statements.after if state is None else statements.after_in
    rows = connection.query(statement, {"after": after, "limit": PAGE, "state": state and state.value})
    return [read_payment(row) for row in rows], rows[-1][0] if rows else after


def read_payment(row: Row) -> LedgerPayment:
    """Read what a row holds of a payment."""
    _, _, reference, operation, arguments, state, attempts, intent_at, certain_at, finished_at, *rest = row
    transaction_id, transaction_state, resolved_by, error, status, request_id, reason = rest
    return LedgerPayment(
        reference=reference,
        operation=operation,
        arguments=json.loads(arguments),
        state=PaymentState(state),
        attempts=attempts,
        intent_at=_time(intent_at),
        certain_at=_time(certain_at),
        finished_at=_time(finished_at),
        transaction_id=transaction_id,
        transaction_state=None if transaction_state is None else TransactionState(transaction_state),
        resolved_by=resolved_by,
        error=error,
        status=status,
        request_id=request_id,
        reason=reason,
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
