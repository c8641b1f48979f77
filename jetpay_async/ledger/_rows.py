"""Outcomes as the ledger writes them down, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async import errors
from jetpay_async.errors import APIError, JetpayError, OutcomeUnknownError, TransactionFailedError
from jetpay_async.ledger._repository import OutcomeRecord, Row, read_item
from jetpay_async.ledger.records import DebitState, LedgerItem
from jetpay_async.models import Capture, TransactionState
from jetpay_async.outcomes import Accepted, Captured, Rejected, Unknown

if TYPE_CHECKING:
    from jetpay_async.outcomes import CaptureOutcome

_REASON_LIMIT = 500

_NEXT_STEP = "Submit the batch again: its status is read before anything is sent."


def write(
    item_id: int, outcome: Captured | Accepted | Rejected[None] | Unknown[None], *, earlier: int
) -> OutcomeRecord:
    """Write an outcome down.

    Args:
        item_id: Of the debit.
        outcome: What became of it.
        earlier: Capture requests made before those that the outcome counts.
    """
    attempts = earlier + outcome.attempts
    if isinstance(outcome, Captured | Accepted):
        state = outcome.capture.state
        return OutcomeRecord(
            item_id,
            DebitState.CAPTURED,
            attempts,
            transaction_state=state.value,
            confirmed_by_status=outcome.confirmed_by_status,
            as_expected=outcome.attempts == 1 and not outcome.confirmed_by_status and state is TransactionState.PAID,
        )
    error = outcome.error
    kind = DebitState.REJECTED if isinstance(outcome, Rejected) else DebitState.UNKNOWN
    said = error.state if isinstance(error, OutcomeUnknownError | TransactionFailedError) else None
    reason = error.reason if isinstance(error, OutcomeUnknownError) else error.message
    return OutcomeRecord(
        item_id,
        kind,
        attempts,
        transaction_state=None if said is None else said.value,
        error=type(error).__name__,
        status=error.status,
        request_id=error.request_id,
        reason=reason[:_REASON_LIMIT],
    )


def read(key: str, row: Row) -> CaptureOutcome:
    """Read the outcome of a debit of this batch, which has one."""
    _, debit_id, state, attempts, _, _, transaction_state, confirmed_by_status, *_ = row
    if state == DebitState.CAPTURED:
        # Nearly all: so by the shortest way.
        capture = Capture(
            debit_id=debit_id,
            state=TransactionState(transaction_state),
            confirmed_by_status=bool(confirmed_by_status),
            raw={},
            attempts=attempts,
        )
        return Captured(debit_id=debit_id, capture=capture)
    item = read_item(key, row)
    if item.state is DebitState.REJECTED:
        return Rejected(debit_id=debit_id, request=None, error=_rejection(item))
    return Unknown(debit_id=debit_id, request=None, error=_unknown(item))


def _rejection(item: LedgerItem) -> JetpayError:
    kind = getattr(errors, item.error or "", APIError)
    error_class: type[JetpayError] = kind if isinstance(kind, type) and issubclass(kind, JetpayError) else APIError
    error = error_class(
        item.reason or "rejected",
        operation="capture",
        debit_id=item.debit_id,
        status=item.status,
        request_id=item.request_id,
        attempts=item.attempts,
    )
    if isinstance(error, TransactionFailedError):
        error.state = item.transaction_state
    return error


def _unknown(item: LedgerItem) -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "a request began to leave and no usable answer came: it may have been carried out",
        arguments={"debit_id": item.debit_id},
        started_at=item.intent_at,
        state=item.transaction_state,
        reason=item.reason or "",
        next_step=_NEXT_STEP,
        operation="capture",
        debit_id=item.debit_id,
        status=item.status,
        request_id=item.request_id,
        attempts=item.attempts,
    )
