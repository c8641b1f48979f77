"""Batches of payments: submit them, claim what is pending, read the outcomes; each is one operation on a connection.

A reference is one payment, in however many batches it is, and whoever sends it: a batch is a list of payments, with the
order in which their outcomes were recorded.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import attrs

from jetpay_async.ledger import _payments
from jetpay_async.ledger._intents import CLOCK_TOLERANCE_SECONDS, SLOT_LEAD_SECONDS, SLOTS_AHEAD_SECONDS
from jetpay_async.ledger._payments import ClaimedPayment
from jetpay_async.ledger._sql import span
from jetpay_async.ledger.errors import BatchMismatchError, ReferenceMismatchError, UnknownBatchError
from jetpay_async.ledger.payment_records import LedgerPayment, PaymentCounts, PaymentReport, PaymentState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async.ledger._backend import Connection
    from jetpay_async.ledger._payment_staging import StagedRequests
    from jetpay_async.ledger._repository import Row

PAGE = 500
"""Rows that are read at a time."""

_UNFINISHED = frozenset({PaymentState.PENDING.value, PaymentState.SENDING.value})


class SubmissionMismatchError(Exception):
    """A submission was refused after a part of it had been added: the transaction has to be undone.

    Attributes:
        error: What the caller gets.
    """

    def __init__(self, error: ReferenceMismatchError) -> None:
        super().__init__(error.message)
        self.error = error


@attrs.frozen
class SubmittedBatch:
    """A batch as the ledger has it."""

    id: int
    operation: str
    fingerprint: str
    total: int
    duplicates: int
    submitted_at: float


@attrs.frozen
class PendingPayment:
    """A payment that this owner intends to send."""

    claimed: ClaimedPayment
    payment: LedgerPayment
    """What is asked."""
    delay: float
    """Seconds to wait for its slot in the rate."""


@attrs.frozen
class PendingClaims:
    """What a claim brought."""

    send: list[PendingPayment] = attrs.Factory(list["PendingPayment"])
    """What is to be sent."""
    too_early: bool = False
    """Whether nothing was claimed because the next slot of the rate is still too far ahead."""


def find(connection: Connection, key: str, operation: str) -> SubmittedBatch:
    """Return a batch.

    Raises:
        UnknownBatchError: There is none of this key.
        BatchMismatchError: It is one of another operation.
    """
    rows = connection.query(connection.statements.payment_batches.find, {"key": key})
    if not rows:
        raise UnknownBatchError(f"the ledger has no batch {key!r} of payments; check the key, or submit it")
    batch = SubmittedBatch(*rows[0])
    if batch.operation != operation:
        raise BatchMismatchError(f"batch {key!r} is one of {batch.operation}, not of {operation}; nothing was changed")
    return batch


def submit(
    connection: Connection,
    key: str,
    operation: str,
    kind: str,
    staged: StagedRequests[Any],
    *,
    certain_after: float,
    restored: bool,
) -> SubmittedBatch:
    """Add a batch, whole; or find it, if it is there with the same requests.

    In a restored ledger nothing is pending when this is committed: what it added is unknown.

    Raises:
        BatchMismatchError: It is there with other requests.
        SubmissionMismatchError: A reference stands for another payment; the transaction must be undone.
    """
    connection.guard_submission()
    batch = _find_or_add(connection, key, operation, kind, staged)
    if restored:
        leave_pending_unknown(connection, certain_after=certain_after)
    return batch


def _find_or_add(
    connection: Connection, key: str, operation: str, kind: str, staged: StagedRequests[Any]
) -> SubmittedBatch:
    try:
        batch = find(connection, key, operation)
    except UnknownBatchError:
        return _add(connection, key, operation, kind, staged)
    # With other repetitions the fingerprint differs, though the payments are the same.
    if batch.fingerprint != staged.fingerprint and not _has_all(connection, batch, staged):
        raise BatchMismatchError(
            f"batch {key!r} exists with other requests ({batch.total}, now {staged.given} were given); nothing was "
            "changed: give the same ones to go on with it, or others under another key"
        )
    return batch


def _add(connection: Connection, key: str, operation: str, kind: str, staged: StagedRequests[Any]) -> SubmittedBatch:
    statements = connection.statements.payment_batches
    batch = connection.query(statements.add, {"key": key, "operation": operation, "fingerprint": staged.fingerprint})[
        0
    ][0]
    ids = span(batch)
    total = given = known = 0
    for page in staged.pages():
        rows = [{"reference": reference, "arguments": arguments} for reference, arguments in page]
        connection.change(
            statements.add_payments,
            {"operation": operation, "kind": kind, "rows": json.dumps(rows, ensure_ascii=False)},
        )
        found = {row[1]: row for row in _find(connection, [reference for reference, _ in page])}
        for number, (reference, arguments) in enumerate(page, given + 1):
            _check(number, reference, operation, arguments, found[reference])
        payments = list(dict.fromkeys(found[reference][0] for reference, _ in page))
        items = {"ids": connection.among(payments), "below": ids["low"] + given - 1}
        total += connection.change(statements.add_items, items)
        given += len(page)
        # What the ledger knows already is an outcome of this batch too.
        finished = [row[0] for row in found.values() if row[4] not in _UNFINISHED]
        if finished:
            places = {"ids": connection.among(finished), "below": ids["low"] + known}
            connection.change(statements.number_known, {**places, **ids})
            known += len(finished)
    counts = {"total": total, "duplicates": given - total, "last_seq": known}
    connection.change(statements.count, {"batch": batch, **counts})
    if statements.analyze:
        connection.change(statements.analyze, {})
    return find(connection, key, operation)


def _find(connection: Connection, references: Sequence[str]) -> list[Row]:
    parameters = {"debit_ids": connection.among_texts(references)}
    return connection.query(connection.statements.payment_batches.find_payments, parameters)


def _check(number: int, reference: str, operation: str, arguments: str, found: Row) -> None:
    if found[2] == operation and found[3] == arguments:  # nearly always
        return
    differing = _payments.differences(
        {"operation": found[2], **json.loads(found[3])}, {"operation": operation, **json.loads(arguments)}
    )
    if differing:
        raise SubmissionMismatchError(
            ReferenceMismatchError(
                f"item {number}: reference {reference!r} stands for another payment, of the ledger or of this "
                f"submission; these differ: {', '.join(differing)}; nothing was added"
            )
        )


def _has_all(connection: Connection, batch: SubmittedBatch, staged: StagedRequests[Any]) -> bool:
    """Say whether these are the requests of a batch, each at least once, and no other."""
    low = span(batch.id)["low"]
    seen = bytearray()
    for page in staged.pages():
        given = dict(page)
        parameters = {"debit_ids": connection.among_texts(list(given)), "batch": batch.id}
        rows = connection.query(connection.statements.payment_batches.find_items, parameters)
        if len(rows) < len(given) or any(
            json.loads(given[reference]) != json.loads(arguments) for _, reference, arguments in rows
        ):
            return False
        places = [number - low for number, _, _ in rows]
        seen.extend(bytes(max(0, max(places) // 8 + 1 - len(seen))))
        for place in places:
            seen[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(seen).bit_count() == batch.total


def leave_pending_unknown(connection: Connection, *, certain_after: float) -> int:
    """Record as unknown all that is pending: the ledger was restored, and may have forgotten that it was sent.

    Whatever operation or batch it is of: a run without the flag would send it, today or next month.

    Args:
        connection: The connection.
        certain_after: Seconds until no request can be on its way any more.

    Returns:
        How many payments that were.
    """
    connection.guard_submission()
    statements = connection.statements.payment_batches
    left = connection.change(
        statements.leave_pending_unknown, {"certain": certain_after, "reason": _payments.RESTORED_REASON}
    )
    if left:
        for batch, last_place in connection.query(statements.locked, {}):
            ids = span(batch)
            places = connection.change(statements.number_finished, {"below": ids["low"] + last_place, **ids})
            connection.change(statements.advance, {"batch": batch, "places": places})
    return left


def claim(
    connection: Connection,
    batch: int,
    *,
    owner: int,
    limit: int,
    certain_after: float,
    rate: float | None,
) -> PendingClaims:
    """Intend to send some payments of a batch that are pending, durable when the transaction is.

    Args:
        connection: The connection.
        batch: The batch.
        owner: Who sends them.
        limit: How many at most.
        certain_after: Seconds from a request's slot until it can no longer be on its way.
        rate: Requests per second, of all owners together.
    """
    statements = connection.statements
    lead, step = 0.0, 0.0
    if rate is not None:
        step = 1 / rate
        farthest = SLOT_LEAD_SECONDS + max(SLOTS_AHEAD_SECONDS, step) + CLOCK_TOLERANCE_SECONDS
        lead = max(0.0, connection.query(statements.next_slot, {"farthest": farthest})[0][0])
        if lead > SLOT_LEAD_SECONDS:
            return PendingClaims(too_early=True)
        limit = max(1, min(limit, int(rate * SLOTS_AHEAD_SECONDS)))
    rows = connection.query(statements.payment_batches.pending, {**span(batch), "limit": limit})
    if not rows:
        return PendingClaims()
    certain = certain_after + lead + len(rows) * step
    marked = sorted(
        connection.query(
            statements.payment_batches.mark_sending,
            {"ids": connection.among([number for (number,) in rows]), "owner": owner, "certain": certain},
        ),
        key=itemgetter(0),
    )
    if step:
        connection.change(statements.reserve_slots, {"span": len(marked) * step})
    return PendingClaims(
        [
            PendingPayment(ClaimedPayment(row[0], row[1], None), _payments.read_payment(row), lead + place * step)
            for place, row in enumerate(marked)
        ]
    )


def outcomes(connection: Connection, batch: int, after: int) -> tuple[bool, list[LedgerPayment], int]:
    """Return whether each payment of a batch has an outcome; then read its next outcomes, and where to go on.

    These may be more than there were when the first was read.
    """
    statements = connection.statements.payment_batches
    ids = span(batch)
    complete = not connection.query(statements.any_left, ids)
    parameters = {"after": max(after, ids["low"]), "high": ids["high"], "limit": PAGE}
    rows = connection.query(statements.outcomes, parameters)
    return complete, [_payments.read_payment(row[:-1]) for row in rows], rows[-1][-1] if rows else after


def payments(connection: Connection, batch: int, after: int) -> tuple[list[LedgerPayment], int]:
    """Read the next payments of a batch in the order they were given, and where to go on."""
    ids = span(batch)
    parameters = {"after": max(after, ids["low"] - 1), "high": ids["high"], "limit": PAGE}
    rows = connection.query(connection.statements.payment_batches.payments, parameters)
    return [_payments.read_payment(row[:-1]) for row in rows], rows[-1][-1] if rows else after


def progress(connection: Connection, batch: int) -> PaymentCounts:
    """Count the payments of a batch by state."""
    return _count(connection, batch)[0]


def report(connection: Connection, batch: SubmittedBatch, key: str) -> PaymentReport | None:
    """Report on a batch; None while there are payments without an outcome."""
    if connection.query(connection.statements.payment_batches.any_left, span(batch.id)):
        return None
    counts, finished_at = _count(connection, batch.id)
    return PaymentReport(
        key=key,
        counts=counts,
        submitted_at=_time(batch.submitted_at),
        finished_at=_time(batch.submitted_at if finished_at is None else finished_at),
    )


def _count(connection: Connection, batch: int) -> tuple[PaymentCounts, float | None]:
    rows = connection.query(connection.statements.payment_batches.counts, span(batch))
    counts = Counter({state: count for state, count, _ in rows})
    latest = max((finished for _, _, finished in rows if finished is not None), default=None)
    return PaymentCounts(**{state.value: counts[state.value] for state in PaymentState}), latest


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
