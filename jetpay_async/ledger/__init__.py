"""Captures that survive a crash: a ledger of intents and outcomes, and a pipeline that works it off.

It is an intent log of captures, not an accounting ledger::

    async with JetpayClient(token) as client, client.durable_captures("captures.db", rate=300) as captures:
        batch = await captures.submit("2026-11-22", debit_ids)  # durable when it returns
        async for outcome in batch.outcomes():                  # one for each debit
            ...                                                 # Captured | Accepted | Rejected | Unknown
        report = await batch.wait()

After a crash, a deploy or a power cut the same lines go on. An intent is committed before each request, the outcome
after it. A debit found between the two by a later run is in doubt: once its request can no longer be on its way, its
status is read, and only if that says that nothing happened, it is sent again.

How long a request can be on its way is the one number that this rests on: the client's ``timeout``, a tenth of it for
the time between the intent and the request, and `RetryPolicy.resolve_after_timeout` for the way through the network and
the API. Ask Jetpay how long its own processing may take.
"""

from typing import TYPE_CHECKING

from jetpay_async._core.lazy import lazily

if TYPE_CHECKING:
    from jetpay_async.ledger.durable_captures import Batch, DurableCaptures, run_chunk
    from jetpay_async.ledger.durable_payments import (
        DurableCharges,
        DurableCredits,
        DurablePreauthorizations,
        PaymentBatch,
    )
    from jetpay_async.ledger.errors import (
        BatchMismatchError,
        CapturesStoppedError,
        ChunkBusyError,
        LedgerError,
        LedgerMismatchError,
        LedgerNotFoundError,
        PaymentDiscardedError,
        PaymentsStoppedError,
        PaymentStateError,
        ReferenceMismatchError,
        UnknownBatchError,
        UnknownReferenceError,
    )
    from jetpay_async.ledger.ledger import Ledger
    from jetpay_async.ledger.payment_records import (
        Candidate,
        EventEffect,
        LedgerPayment,
        OrphanReport,
        PaymentCounts,
        PaymentReport,
        PaymentState,
        TransactionUpdate,
    )
    from jetpay_async.ledger.records import (
        BatchInfo,
        ChunkReport,
        DebitState,
        LedgerCheck,
        LedgerItem,
        Progress,
        Pruned,
        Report,
        ResolveReport,
        Submitted,
        Waiting,
    )

__all__ = [
    "Batch",
    "BatchInfo",
    "BatchMismatchError",
    "Candidate",
    "CapturesStoppedError",
    "ChunkBusyError",
    "ChunkReport",
    "DebitState",
    "DurableCaptures",
    "DurableCharges",
    "DurableCredits",
    "DurablePreauthorizations",
    "EventEffect",
    "Ledger",
    "LedgerCheck",
    "LedgerError",
    "LedgerItem",
    "LedgerMismatchError",
    "LedgerNotFoundError",
    "LedgerPayment",
    "OrphanReport",
    "PaymentBatch",
    "PaymentCounts",
    "PaymentDiscardedError",
    "PaymentReport",
    "PaymentState",
    "PaymentStateError",
    "PaymentsStoppedError",
    "Progress",
    "Pruned",
    "ReferenceMismatchError",
    "Report",
    "ResolveReport",
    "Submitted",
    "TransactionUpdate",
    "UnknownBatchError",
    "UnknownReferenceError",
    "Waiting",
    "run_chunk",
]

_HOMES = {
    "Batch": "durable_captures",
    "DurableCaptures": "durable_captures",
    "DurableCharges": "durable_payments",
    "DurableCredits": "durable_payments",
    "DurablePreauthorizations": "durable_payments",
    "Ledger": "ledger",
    "Candidate": "payment_records",
    "EventEffect": "payment_records",
    "LedgerPayment": "payment_records",
    "OrphanReport": "payment_records",
    "TransactionUpdate": "payment_records",
    "PaymentBatch": "durable_payments",
    "PaymentCounts": "payment_records",
    "PaymentReport": "payment_records",
    "PaymentState": "payment_records",
    "run_chunk": "durable_captures",
    "BatchMismatchError": "errors",
    "CapturesStoppedError": "errors",
    "ChunkBusyError": "errors",
    "LedgerError": "errors",
    "LedgerMismatchError": "errors",
    "LedgerNotFoundError": "errors",
    "PaymentDiscardedError": "errors",
    "PaymentStateError": "errors",
    "PaymentsStoppedError": "errors",
    "ReferenceMismatchError": "errors",
    "UnknownBatchError": "errors",
    "UnknownReferenceError": "errors",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, __all__, _HOMES, otherwise="records")
