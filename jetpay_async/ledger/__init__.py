"""Captures that survive a crash: a ledger of intents and outcomes, and a pipeline that works it off.

::

    async with JetpayClient(token) as client, client.durable_captures("captures.db", concurrency=64, rate=300) as captures:
        batch = await captures.submit("2026-11-22", debit_ids)  # durable when it returns
        async for outcome in batch.outcomes():                  # Captured | Rejected | Unknown, each debit once
            ...
        report = await batch.wait()

After a crash, a deploy or a power cut the same lines go on. An intent is committed before each request, the outcome
after it. A debit found between the two by a later run is in doubt: once its request can no longer be on its way, its
status is read, and only if that says that nothing happened, it is sent again.

How long a request can be on its way is the one number that this rests on: the client's ``timeout``, a tenth of it for
the time between the intent and the request, and ``RetryPolicy.resolve_after`` for the way through the network and the
API. Ask Jetpay how long its own processing may take.
"""

from typing import TYPE_CHECKING

from jetpay_async._core.lazy import lazily

if TYPE_CHECKING:
    from jetpay_async.ledger.durable_captures import Batch, DurableCaptures, run_chunk
    from jetpay_async.ledger.errors import (
        BatchMismatchError,
        CapturesStoppedError,
        ChunkBusyError,
        LedgerError,
        LedgerNotFoundError,
        UnknownBatchError,
    )
    from jetpay_async.ledger.ledger import Ledger
    from jetpay_async.ledger.records import (
        BatchInfo,
        ChunkReport,
        DebitState,
        LedgerItem,
        Progress,
        Report,
        Submitted,
    )

__all__ = [
    "Batch",
    "BatchInfo",
    "BatchMismatchError",
    "CapturesStoppedError",
    "ChunkBusyError",
    "ChunkReport",
    "DebitState",
    "DurableCaptures",
    "Ledger",
    "LedgerError",
    "LedgerItem",
    "LedgerNotFoundError",
    "Progress",
    "Report",
    "Submitted",
    "UnknownBatchError",
    "run_chunk",
]

_HOMES = {
    "Batch": "durable_captures",
    "DurableCaptures": "durable_captures",
    "Ledger": "ledger",
    "run_chunk": "durable_captures",
    "BatchMismatchError": "errors",
    "CapturesStoppedError": "errors",
    "ChunkBusyError": "errors",
    "LedgerError": "errors",
    "LedgerNotFoundError": "errors",
    "UnknownBatchError": "errors",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, __all__, _HOMES, otherwise="records")
