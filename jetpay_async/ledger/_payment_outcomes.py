"""What the ledger records of a payment's outcome, and what a caller gets of it later. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from jetpay_async.errors import AuthenticationError, JetpayError, OutcomeUnknownError, TransactionFailedError
from jetpay_async.ledger._payments import RESTORED_REASON, ClaimedPayment, PaymentRecord
from jetpay_async.ledger._stored_errors import REASON_LIMIT, storable, stored_rejection
from jetpay_async.ledger.errors import PaymentDiscardedError
from jetpay_async.ledger.payment_records import LedgerPayment, PaymentState
from jetpay_async.models import (
    CAPTURED_STATES,
    IN_PROGRESS_STATES,
    RESERVED_STATES,
    Charge,
    Credit,
    Preauthorization,
    TransactionState,
)
from jetpay_async.outcomes import NotSent, Rejected, undone

if TYPE_CHECKING:
    from jetpay_async.errors import Context

_R = TypeVar("_R")

ENDED_STATES = frozenset({TransactionState.FAILED, TransactionState.CANCELLED})


@attrs.frozen
class PaymentOperation(Generic[_R]):
    """One of the operations that the ledger makes durable."""

    name: str
    kind: str
    """Of its transaction: ``debit`` or ``credit``."""
    done: frozenset[TransactionState]
    """The states that mean that it is done."""
    in_progress: frozenset[TransactionState]
    """The states that mean that the API has accepted it."""
    restore: Callable[[LedgerPayment], _R]
    """Makes the result again of a payment that has one."""

    def state_after(self, state: TransactionState) -> PaymentState | None:
        """Say where a payment stands whose transaction is in a state; None if that says nothing."""
        if state in self.done:
            return PaymentState.SUCCEEDED
        if state in self.in_progress:
            return PaymentState.ACCEPTED
        return PaymentState.REJECTED if state in ENDED_STATES else None


def _card_payment(payment: LedgerPayment) -> dict[str, Any]:
    asked = payment.arguments
    return {
        "debit_id": payment.transaction_id,
        "amount": Decimal(asked["amount"]),
        "statement": asked["statement"],
        "to_bank_account_id": asked["to_bank_account_id"],
        "contact_id": asked["contact_id"],
        "from_credit_card_id": asked["credit_card_id"],
        "state": payment.transaction_state,
        "raw": {},
        "attempts": payment.attempts,
    }


def _credit(payment: LedgerPayment) -> Credit:
    asked = payment.arguments
    return Credit(
        transaction_id=payment.transaction_id or "",
        amount=Decimal(asked["amount"]),
        statement=asked["statement"],
        from_bank_account_id=asked["from_bank_account_id"],
        to_bank_account_id=asked["to_bank_account_id"],
        contact_id=asked["contact_id"],
        raw={},
        attempts=payment.attempts,
    )


PREAUTHORIZE = PaymentOperation(
    "preauthorize", "debit", RESERVED_STATES, IN_PROGRESS_STATES, lambda row: Preauthorization(**_card_payment(row))
)
CHARGE = PaymentOperation(
    "charge", "debit", CAPTURED_STATES, IN_PROGRESS_STATES, lambda row: Charge(**_card_payment(row))
)
# Its response names no state: that the credit exists is all that was asked for.
SEND_CREDIT = PaymentOperation("send_credit", "credit", IN_PROGRESS_STATES | CAPTURED_STATES, frozenset(), _credit)

OPERATIONS: Mapping[str, PaymentOperation[Any]] = MappingProxyType(
    {operation.name: operation for operation in (PREAUTHORIZE, CHARGE, SEND_CREDIT)}
)
"""By name."""


def write_result(claim: ClaimedPayment, result: Preauthorization | Charge | Credit) -> PaymentRecord:
    """Make the record of a payment that has a result."""
    if isinstance(result, Credit):
        transaction_id, state, succeeded = result.transaction_id, None, True
    else:
        transaction_id, state, succeeded = result.debit_id, result.state.value, result.final
    return PaymentRecord(
        claim.id,
        claim.intent,
        PaymentState.SUCCEEDED if succeeded else PaymentState.ACCEPTED,
        result.attempts,
        transaction_id=storable(transaction_id),
        transaction_state=state,
        resolved_by="answer",
    )


def write_error(claim: ClaimedPayment, error: JetpayError, *, trust_rate_limited: bool) -> PaymentRecord:
    """Make the record of a payment that ended with an error."""
    outcome = undone(error, debit_id="", request=None, trust_rate_limited=trust_rate_limited)
    # A rejected token says nothing of the payment.
    if isinstance(outcome, NotSent) or isinstance(error, AuthenticationError):
        return PaymentRecord(claim.id, claim.intent, PaymentState.PENDING, 0)
    rejected = isinstance(outcome, Rejected)
    state = error.state if isinstance(error, OutcomeUnknownError | TransactionFailedError) else None
    reason = error.reason if isinstance(error, OutcomeUnknownError) else error.message
    return PaymentRecord(
        claim.id,
        claim.intent,
        PaymentState.REJECTED if rejected else PaymentState.UNKNOWN,
        error.attempts,
        transaction_id=None if error.debit_id is None else storable(error.debit_id),
        transaction_state=None if state is None else storable(state.value),
        resolved_by="answer" if rejected else None,
        error=type(error).__name__,
        status=error.status,
        request_id=None if error.request_id is None else storable(error.request_id),
        reason=storable(reason[:REASON_LIMIT]),
    )


def write_rejection(claim: ClaimedPayment, error: JetpayError) -> PaymentRecord:
    """Make the record of a payment that is given up, of which it is certain that nothing was done."""
    return PaymentRecord(
        claim.id,
        claim.intent,
        PaymentState.REJECTED,
        error.attempts,
        resolved_by="answer",
        error=type(error).__name__,
        status=error.status,
        request_id=None if error.request_id is None else storable(error.request_id),
        reason=storable(error.message[:REASON_LIMIT]),
    )


def read_result(operation: PaymentOperation[_R], payment: LedgerPayment) -> _R:
    """Return the result of a payment that the ledger holds.

    Raises:
        TransactionFailedError: Its transaction is failed or cancelled.
        APIError: The API rejected it.
        PaymentDiscardedError: Somebody found that nothing came of it.
        OutcomeUnknownError: It may have been done.
    """
    state = payment.state
    if state in {PaymentState.SUCCEEDED, PaymentState.ACCEPTED}:
        if payment.transaction_state in ENDED_STATES:
            raise stored_rejection(
                TransactionFailedError.__name__,
                f"the transaction is {payment.transaction_state}, and final",
                payment.transaction_state,
                **_context(payment),
            )
        return operation.restore(payment)
    if state is PaymentState.REJECTED:
        raise stored_rejection(payment.error, payment.reason, payment.transaction_state, **_context(payment))
    if state is PaymentState.DISCARDED:
        raise PaymentDiscardedError(
            f"{payment.reference!r} was unknown and has been discarded; pass retry_rejected=True to send it after all",
            **_context(payment),
        )
    raise unknown_error(payment)


def unknown_error(payment: LedgerPayment) -> OutcomeUnknownError:
    """Make the error for a payment that may have been done."""
    reference = payment.reference
    under_way = payment.state is PaymentState.SENDING
    forgotten = payment.reason == RESTORED_REASON
    sent = (
        "may have been sent, and the restored ledger does not know"
        if forgotten
        else "was sent but no usable response was received"
    )
    return OutcomeUnknownError(
        f"{reference!r} is being sent by another process; what became of it is not known yet"
        if under_way
        else f"{reference!r} {sent}; it may have been carried out",
        arguments={"reference": reference, **payment.arguments},
        started_at=payment.intent_at,
        state=payment.transaction_state,
        reason=payment.reason or "",
        next_step="Ask again with the same reference: nothing is sent."
        if under_way
        else f"Nothing is sent again under this reference. `jetpay unresolved show {reference}` says what is known.",
        **_context(payment),
    )


def _context(payment: LedgerPayment) -> Context:
    return {
        "operation": payment.operation,
        "debit_id": payment.transaction_id,
        "status": payment.status,
        "request_id": payment.request_id,
        "attempts": payment.attempts,
    }
