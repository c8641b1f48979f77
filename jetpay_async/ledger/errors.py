"""What can go wrong with a ledger, and with capturing from it.

::

    JetpayError
     ├── LedgerError              the ledger can't be read or written; nothing is sent without it
     │    ├── LedgerNotFoundError there is no ledger at this place
     │    ├── BatchMismatchError  the batch exists, with other debits
     │    ├── LedgerMismatchError the ledger belongs to another API or account
     │    ├── UnknownBatchError   there is no such batch
     │    ├── UnknownReferenceError   there is no payment of this reference
     │    ├── ReferenceMismatchError  there is one, with other arguments
     │    ├── PaymentStateError       the payment can't be adopted or discarded
     │    ├── PaymentDiscardedError   somebody found that nothing came of it
     │    └── ChunkBusyError      somebody else is capturing these debits
     ├── CapturesStoppedError     capturing stopped before the end; the ledger knows where
     └── PaymentsStoppedError     sending payments stopped before the end; the ledger knows where
"""

from __future__ import annotations

from jetpay_async.errors import JetpayError
from jetpay_async.ledger.payment_records import PaymentCounts  # noqa: TC001 - `typing.get_type_hints` reads it
from jetpay_async.ledger.records import Progress  # noqa: TC001 - `typing.get_type_hints` reads it

__all__ = [
    "BatchMismatchError",
    "CapturesStoppedError",
    "ChunkBusyError",
    "LedgerError",
    "LedgerMismatchError",
    "LedgerNotFoundError",
    "PaymentDiscardedError",
    "PaymentStateError",
    "PaymentsStoppedError",
    "ReferenceMismatchError",
    "UnknownBatchError",
    "UnknownReferenceError",
]


class LedgerError(JetpayError):
    """The ledger can't be read or written: a full disk, a damaged file, a lost connection, a newer schema.

    Nothing is sent without the ledger. What was sent before is recorded in it, and resolved by the next run.
    """


class LedgerNotFoundError(LedgerError):
    """There is no ledger at this place, and ``create`` is False."""


class LedgerMismatchError(LedgerError):
    """The ledger belongs to another API or account than the client. Nothing was sent.

    What it holds was captured there: for this client it would be wrong.
    """


class BatchMismatchError(LedgerError):
    """The batch exists, with other debits. Nothing was changed.

    A key stands for one set of debits: take another key for another set.
    """


class UnknownBatchError(LedgerError):
    """The ledger has no batch of this key."""


class UnknownReferenceError(LedgerError):
    """The ledger has no payment of this reference."""


class ReferenceMismatchError(LedgerError):
    """The ledger has a payment of this reference, with other arguments, which the message names. Nothing was sent.

    A reference stands for one payment: take another reference for another one.
    """


class PaymentStateError(LedgerError):
    """The payment can't be adopted or discarded, as the message says: it is not unknown, for example."""


class PaymentDiscardedError(LedgerError):
    """The payment was unknown, and somebody found that nothing came of it. Nothing was sent.

    To send it after all, pass ``retry_rejected=True``.
    """


class ChunkBusyError(LedgerError):
    """Debits of the chunk are being captured by another run that is alive. Run the chunk again later."""

    @property
    def retryable(self) -> bool:
        """Always: what is done is recorded in the ledger, and is not done again."""
        return True


class CapturesStoppedError(JetpayError):
    """Capturing stopped before the end of the batch; the cause, if there is one, says why.

    Nothing is lost: the ledger holds every outcome, and the same lines of code go on from there.

    Attributes:
        key: The batch.
        progress: Where it stands; None if the ledger can't be read.
    """

    def __init__(self, message: str, *, key: str, progress: Progress | None) -> None:
        super().__init__(message)
        self.key = key
        self.progress = progress

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.message, self.key, self.progress), self.__dict__

    @property
    def retryable(self) -> bool:
        """Always: what is done is recorded in the ledger, and is not done again."""
        return True


def _rebuild(message: str, key: str, progress: Progress | None) -> CapturesStoppedError:
    return CapturesStoppedError(message, key=key, progress=progress)


class PaymentsStoppedError(JetpayError):
    """Sending stopped before the end of the batch; the cause, if there is one, says why.

    Nothing is lost: the ledger holds every outcome, and the same lines of code go on with what was not sent.

    Attributes:
        key: The batch.
        progress: Where it stands; None if the ledger can't be read.
    """

    def __init__(self, message: str, *, key: str, progress: PaymentCounts | None) -> None:
        super().__init__(message)
        self.key = key
        self.progress = progress

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_payments, (self.message, self.key, self.progress), self.__dict__

    @property
    def retryable(self) -> bool:
        """Always: what is done is recorded in the ledger, and is not done again."""
        return True


def _rebuild_payments(message: str, key: str, progress: PaymentCounts | None) -> PaymentsStoppedError:
    return PaymentsStoppedError(message, key=key, progress=progress)
