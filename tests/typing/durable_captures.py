"""The public surface of captures from a ledger, as a user types it. Only type-checked; never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import assert_never, assert_type

from procrastinate import App

import jetpay_async.procrastinate
from jetpay_async import (
    Accepted,
    Captured,
    CaptureOutcome,
    JetpayClient,
    NotSent,
    Rejected,
    TransactionState,
    Unknown,
)
from jetpay_async.ledger import (
    Batch,
    BatchInfo,
    BatchMismatchError,
    CapturesStoppedError,
    ChunkBusyError,
    ChunkReport,
    DebitState,
    DurableCaptures,
    Ledger,
    LedgerError,
    LedgerItem,
    LedgerNotFoundError,
    Progress,
    Report,
    Submitted,
    UnknownBatchError,
    run_chunk,
)


async def ids() -> AsyncIterator[str]:
    yield "debit_1"


async def capture_a_night(client: JetpayClient) -> None:
    captures = client.durable_captures(Path("captures.db"), concurrency=64, rate=300, lease_seconds=15.0, restored=True)
    async with captures as opened:
        assert_type(opened, DurableCaptures)
        batch = await opened.submit("2026-11-22", ids())
        assert_type(batch, Batch)
        assert_type(batch.key, str)
        try:
            async for outcome in batch.outcomes():
                assert_type(tell(outcome), str)
        except CapturesStoppedError as stopped:
            assert_type(stopped.key, str)
            assert_type(stopped.progress, Progress | None)
        assert_type(await batch.progress(), Progress)
        report = await batch.wait()
        assert_type(report, Report)
        assert_type(report.finished_at, datetime)
        opened.stop()
        assert_type(await (await opened.batch("2026-11-22")).progress(), Progress)
        assert_type(await run_chunk(opened, "2026-11-22", 0, client=client), ChunkReport)


def tell(outcome: CaptureOutcome) -> str:
    match outcome:
        case Captured(debit_id=debit_id) | Accepted(debit_id=debit_id):
            return debit_id
        case Rejected() | NotSent() | Unknown():
            return str(outcome.error)
        case _:
            assert_never(outcome)


async def look_into_it() -> None:
    async with Ledger("captures.db", create=False) as ledger:
        batches: list[BatchInfo] = await ledger.batches()
        for info in batches:
            assert_type(info.progress.complete, bool)
        assert_type(await ledger.progress("2026-11-22"), Progress)
        async for item in ledger.items("2026-11-22", DebitState.REJECTED):
            assert_type(item, LedgerItem)
            assert_type(item.transaction_state, TransactionState | None)
        assert_type(await ledger.retry_rejected("2026-11-22"), int)
        assert_type(await ledger.chunks_left("2026-11-22"), list[int])
        assert_type(await ledger.submit("2026-11-22", ["debit_1"]), Submitted)


async def capture_a_chunk(client: JetpayClient) -> int:
    try:
        report = await run_chunk("postgresql://shop@db/shop", "2026-11-22", 7, client=client, concurrency=64, rate=300)
    except (ChunkBusyError, CapturesStoppedError) as later:
        return int(later.retryable)
    except (LedgerNotFoundError, UnknownBatchError, BatchMismatchError) as error:
        raise LedgerError("submit it first") from error
    return report.captured


async def capture_with_a_queue(app: App) -> Report:
    captures = jetpay_async.procrastinate.durable_captures(
        app, JetpayClient.from_env, ledger="postgresql://shop@db/shop", rate=300
    )
    assert_type(await captures.submit("2026-11-22", ids()), Submitted)
    assert_type(await captures.resume("2026-11-22"), int)
    assert_type(await captures.progress("2026-11-22"), Progress)
    async for outcome in captures.outcomes("2026-11-22"):
        assert_type(outcome, CaptureOutcome)
    return await captures.wait("2026-11-22")
