"""What a ledger reports of durable payments, as frozen values. Times are aware, in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Literal, Protocol

import attrs

from jetpay_async.models import TransactionState

__all__ = [
    "Candidate",
    "EventEffect",
    "LedgerPayment",
    "OrphanReport",
    "PaymentCounts",
    "PaymentReport",
    "PaymentState",
    "TransactionUpdate",
]


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
class PaymentCounts:
    """The durable payments of a ledger, by state."""

    pending: int = 0
    sending: int = 0
    succeeded: int = 0
    accepted: int = 0
    rejected: int = 0
    unknown: int = 0
    discarded: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(attrs.astuple(self))

    @property
    def unresolved(self) -> int:
        """Those that may have been done and are not known to be: in flight, or unknown."""
        return self.sending + self.unknown

    @property
    def finished(self) -> int:
        """Those that have an outcome."""
        return self.total - self.pending - self.sending

    @property
    def complete(self) -> bool:
        """Whether each of them has an outcome."""
        return self.finished == self.total


@attrs.frozen(kw_only=True)
class PaymentReport:
    """What became of a whole batch of payments."""

    key: str
    counts: PaymentCounts
    """Its payments by state, each reference counted once."""
    submitted_at: datetime
    finished_at: datetime
    """When the last payment got an outcome."""


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


class TransactionUpdate(Protocol):
    """What a ledger reads of an event: a `jetpay_async.webhooks.TransactionEvent` is one."""

    @property
    def webhook_id(self) -> int | None:
        """The webhook that delivered it."""
        ...

    @property
    def created_at(self) -> datetime:
        """When it happened."""
        ...

    @property
    def transaction_id(self) -> str:
        """Whose state it is."""
        ...

    @property
    def state(self) -> TransactionState:
        """The state that the transaction is in."""
        ...

    @property
    def kind(self) -> Literal["debit", "credit"] | None:
        """What the transaction is, if the event says so."""
        ...


class EventEffect(StrEnum):
    """What an event has changed in the ledger."""

    FOREIGN = "foreign"
    """Nothing: it is not of one of the webhooks that the ledger was opened with."""
    NOTHING = "nothing"
    """Nothing: it is of no concern to the ledger, or says nothing new."""
    OFFERED = "offered"
    """Its transaction is known to nothing in the ledger, and is a candidate for an unresolved payment."""
    RECORDED = "recorded"
    """The new state of a payment that had succeeded, or one that its run reads the status after."""
    RESOLVED = "resolved"
    """What was unknown, accepted or in doubt has become what it says."""
    REVERSED = "reversed"
    """What was done is failed or cancelled. It is never sent again by itself."""


@attrs.frozen(kw_only=True)
class OrphanReport:
    """What became of a transaction that `JetpayClient.release_orphans` found."""

    transaction_id: str
    result: Literal["released", "kept", "not_released"]
    """``kept``: by ``keep``, or since it was adopted meanwhile."""
    state: TransactionState
    """What was said of it last."""
    error: str | None = None
    """Why it was not released."""
