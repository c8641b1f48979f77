"""What a ledger reports of durable payments, as frozen values. Times are aware, in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import attrs

from jetpay_async.models import TransactionState

__all__ = ["Candidate", "LedgerPayment", "PaymentState"]


class PaymentState(StrEnum):
    """Where a durable payment stands: a preauthorization, a charge or a credit.

    ::

        pending ◀──▶ sending ──▶ succeeded | accepted | rejected
                        │            ▲
                        └─▶ unknown ─┘ an event, or a person
                               └─────▶ discarded

    Every change is listed in `jetpay_async.ledger._payment_states`.
    """

    PENDING = "pending"
    """Nothing was sent."""
    SENDING = "sending"
    """A process intends to send it, or has: committed before the request."""
    SUCCEEDED = "succeeded"
    """It is done; its transaction is known."""
    ACCEPTED = "accepted"
    """The API is processing it; its transaction is known."""
    REJECTED = "rejected"
    """The API said no, or its transaction is over: no money is reserved or moved."""
    UNKNOWN = "unknown"
    """It may have been done. It is never sent again by itself."""
    DISCARDED = "discarded"
    """It was unknown, and a person found that there is no transaction of it."""


@attrs.frozen(kw_only=True)
class LedgerPayment:
    """A durable payment, as the ledger holds it."""

    reference: str
    """The caller's name for it, the key."""
    operation: str
    """``preauthorize``, ``charge`` or ``send_credit``."""
    arguments: Mapping[str, str] = attrs.field(hash=False)
    """What was asked."""
    state: PaymentState
    attempts: int
    """Requests that were made, or may have been."""
    intent_at: datetime | None
    """When the intent to send it was committed, last."""
    certain_at: datetime | None
    """From when on no request of that intent can be on its way."""
    finished_at: datetime | None
    """When its outcome was recorded, or found to be unknown."""
    transaction_id: str | None = None
    """The debit, or the credit; None if none is known."""
    transaction_state: TransactionState | None = None
    """What the API or an event said of the transaction last."""
    resolved_by: str | None = None
    """Whence the outcome is known: ``answer``, ``event``, ``adopted`` or ``discarded``."""
    error: str | None = None
    """The class of the error."""
    status: int | None = None
    """The HTTP status of the answer that decided."""
    request_id: str | None = None
    """The API's id of that answer."""
    reason: str | None = None
    """The error's message."""


@attrs.frozen(kw_only=True)
class Candidate:
    """A transaction that an event reported and nothing in the ledger knows.

    It may be what an unknown payment made. Events have no amounts, so that a person or the application decides.
    """

    transaction_id: str
    state: TransactionState
    """What the latest event said of it."""
    created_at: datetime
    """When the first event about it happened."""
    releasing: bool = False
    """Whether somebody began to release it: it can't be adopted any more."""
