"""Outcomes as the ledger records them, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetpay_async._core import operations
from jetpay_async._core.operations import ResponseContext
from jetpay_async._text import printable
from jetpay_async.errors import Context, OutcomeUnknownError, TransactionFailedError
from jetpay_async.ledger._intents import OutcomeRecord
from jetpay_async.ledger._repository import read_time
from jetpay_async.ledger._stored_errors import REASON_LIMIT, storable, stored_rejection
from jetpay_async.ledger.records import DebitState
from jetpay_async.models import IN_PROGRESS_STATES, Capture, TransactionState
from jetpay_async.outcomes import Accepted, Captured, Rejected, Unknown, captured

if TYPE_CHECKING:
    from jetpay_async.ledger._intents import Claim, UnresolvedDebit
    from jetpay_async.ledger._repository import FollowedDebit, Row
    from jetpay_async.models import TransactionStatus
    from jetpay_async.outcomes import CaptureOutcome

_OVER = (TransactionState.FAILED, TransactionState.CANCELLED)

_WITH_CAPTURE = (Captured, Accepted)

_STATES = {state.value: state for state in TransactionState}

_DONE = (DebitState.CAPTURED, DebitState.ACCEPTED)

_NEXT_STEP = "Submit the batch again: the debit's status is read before anything is sent."


def follow(debit: FollowedDebit, status: TransactionStatus) -> OutcomeRecord | None:
    """Make the record of what the status of an accepted or unknown debit says; None if it says nothing new."""
    if (outcome := followed(debit.debit_id, status)) is None:
        return None
    if debit.state is DebitState.ACCEPTED:
        return None if status.state == debit.transaction_state else write(debit, outcome, earlier=debit.attempts)
    if isinstance(outcome, Accepted) and status.state not in IN_PROGRESS_STATES:
        # It decides nothing. That it was seen ends resending all the same.
        return OutcomeRecord(
            debit.id,
            debit.debit_id,
            debit.intent,
            DebitState.UNKNOWN,
            debit.attempts,
            transaction_state=status.state.value,
            seen_state=status.state.value,
            error=OutcomeUnknownError.__name__,
            reason=f"the transaction's status says {printable(status.state)}",
            follows=DebitState.UNKNOWN,
        )
    return write(debit, outcome, earlier=debit.attempts)


def followed(debit_id: str, status: TransactionStatus) -> Captured | Accepted | Rejected[None] | None:
    """Make the outcome of a debit from its status; None if the status is older than the capture, or proves nothing."""
    if status.state in _OVER:
        error = operations.transaction_failed_error(
            operations.capture(debit_id), status, ResponseContext(0, status.elapsed)
        )
        return Rejected(debit_id=debit_id, request=None, error=error)
    if status.state is TransactionState.PREAUTHORIZED:
        return None
    capture = Capture(debit_id=debit_id, state=status.state, confirmed_by_status=True, raw=status.raw, attempts=0)
    return captured(debit_id, capture)


def write(
    debit: Claim | UnresolvedDebit | FollowedDebit,
    outcome: Captured | Accepted | Rejected[None] | Unknown[None],
    *,
    earlier: int,
) -> OutcomeRecord:
    """Make the record of an outcome.

    Args:
        debit: As it was claimed, taken over or read.
        outcome: What became of it.
        earlier: Capture requests made before those that the outcome counts.
    """
    if isinstance(outcome, _WITH_CAPTURE):
        capture = outcome.capture
        state = capture.state
        value = state.value
        attempts = earlier + capture.attempts
        return OutcomeRecord(
            debit.id,
            debit.debit_id,
            debit.intent,
            DebitState.CAPTURED if isinstance(outcome, Captured) else DebitState.ACCEPTED,
            attempts,
            transaction_state=value,
            seen_state=value,
            confirmed_by_status=capture.confirmed_by_status,
            follows=_follows(debit),
            as_expected=capture.attempts == 1 and not capture.confirmed_by_status and state is TransactionState.PAID,
        )
    attempts = earlier + outcome.attempts
    error = outcome.error
    kind = DebitState.REJECTED if isinstance(outcome, Rejected) else DebitState.UNKNOWN
    found = error.state if isinstance(error, OutcomeUnknownError | TransactionFailedError) else None
    reason = error.reason if isinstance(error, OutcomeUnknownError) else error.message
    return OutcomeRecord(
        debit.id,
        debit.debit_id,
        debit.intent,
        kind,
        attempts,
        transaction_state=text(found),
        seen_state=None if found is TransactionState.PREAUTHORIZED else text(found),
        error=type(error).__name__,
        status=error.status,
        request_id=None if error.request_id is None else storable(error.request_id),
        reason=storable(reason[:REASON_LIMIT]),
        follows=_follows(debit),
    )


def _follows(debit: Claim | UnresolvedDebit | FollowedDebit) -> DebitState:
    return DebitState.ACCEPTED if debit.intent is not None else debit.state


def text(state: TransactionState | None) -> str | None:
    """Return a state as it is stored."""
    return None if state is None else storable(state.value)


def read(row: Row) -> CaptureOutcome:
    """Read the outcome of a debit, which has one."""
    _, debit_id, state, attempts, transaction_state, confirmed_by_status, intent_at, *rest = row
    if state in _DONE:
        # Nearly all: so by the shortest way.
        capture = Capture(
            debit_id=debit_id,
            state=_STATES.get(transaction_state) or TransactionState(transaction_state),
            confirmed_by_status=bool(confirmed_by_status),
            raw={},
            attempts=attempts,
        )
        return captured(debit_id, capture)
    error, status, request_id, reason = rest
    seen = None if transaction_state is None else TransactionState(transaction_state)
    context = Context(operation="capture", debit_id=debit_id, status=status, request_id=request_id, attempts=attempts)
    if state == DebitState.REJECTED:
        rejection = stored_rejection(error, reason, seen, **context)
        return Rejected(debit_id=debit_id, request=None, error=rejection)
    unknown = OutcomeUnknownError(
        "a request was sent but no usable response was received; it may have been processed",
        arguments={"debit_id": debit_id},
        started_at=read_time(intent_at),
        state=seen,
        reason=reason or "",
        next_step=_NEXT_STEP,
        **context,
    )
    return Unknown(debit_id=debit_id, request=None, error=unknown)
