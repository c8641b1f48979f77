"""The demo's second part: a batch through a ledger, whose run is stopped half-way and continued by the next."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jetpay_async._cli.demo.records import BATCH_SIZE, BatchRecord, DemoStep, StepProgress
from jetpay_async.client import JetpayClient
from jetpay_async.outcomes import Captured, PreauthorizationRequest
from jetpay_async.sandbox import Fault, FaultKind, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jetpay_async._cli.demo.records import OnProgress, Plan
    from jetpay_async._core.retry import RetryPolicy
    from jetpay_async.ledger import Batch
    from jetpay_async.outcomes import CaptureOutcome

__all__ = ["capture_batch"]

_KEY = "demo"
_CONCURRENCY = 8
_LATENCY_SECONDS = 0.1
# A debit that a run leaves in doubt is resolved a little later than this: short, since somebody watches.
_TIMEOUT_SECONDS = 3.0

_FAULTS = (
    Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture", count=2),
    Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route="capture", count=1),
)


async def capture_batch(plan: Plan, policy: RetryPolicy, on_progress: OnProgress) -> BatchRecord:
    """Reserve some amounts, and capture them from a ledger in a temporary directory.

    Args:
        plan: Whether there are faults.
        policy: The client's.
        on_progress: Called for each outcome.

    Returns:
        What the ledger and the sandbox recorded.
    """
    sandbox = Sandbox(seed=plan.seed, latency=_LATENCY_SECONDS, refuses_second_capture=False)
    with tempfile.TemporaryDirectory(prefix="jetpay-demo-") as directory:
        ledger = Path(directory, "captures.db")
        async with (
            sandbox,
            JetpayClient(sandbox.api_token, base_url=sandbox.url, timeout=_TIMEOUT_SECONDS, retry=policy) as client,
        ):
            debit_ids = await _reserve(client, sandbox)
            if plan.faults:
                sandbox.faults.add(*_FAULTS)
            stopped_after = 0
            async with client.durable_captures(ledger, concurrency=_CONCURRENCY) as captures:
                batch = await captures.submit(_KEY, debit_ids)
                async for _ in _outcomes(batch, on_progress):
                    stopped_after += 1
                    if stopped_after == BATCH_SIZE // 2:
                        break
            async with client.durable_captures(ledger, concurrency=_CONCURRENCY) as captures:
                batch = await captures.submit(_KEY, debit_ids)
                outcomes = [outcome async for outcome in _outcomes(batch, on_progress)]
        return BatchRecord(
            debit_ids=tuple(debit_ids),
            stopped_after=stopped_after,
            outcomes=tuple(outcomes),
            debits=sandbox.debits,
            faults=dict(sandbox.faults.injected),
        )


async def _reserve(client: JetpayClient, sandbox: Sandbox) -> list[str]:
    payer = sandbox.add_payer()
    request = PreauthorizationRequest(
        contact_id=payer.contact_id,
        credit_card_id=payer.credit_card_id,
        amount="5.00",
        to_bank_account_id=sandbox.merchant_account_id,
        statement="Demo batch",
    )
    requests = itertools.repeat(request, BATCH_SIZE)
    return [outcome.debit_id async for outcome in client.preauthorize_many(requests, concurrency=BATCH_SIZE)]


async def _outcomes(batch: Batch, on_progress: OnProgress) -> AsyncIterator[CaptureOutcome]:
    confirmed_by_status = 0
    done = 0
    async for outcome in batch.outcomes():
        done += 1
        confirmed_by_status += isinstance(outcome, Captured) and outcome.confirmed_by_status
        notes = {"resolved": confirmed_by_status} if confirmed_by_status else {}
        on_progress(StepProgress(step=DemoStep.BATCH, done=done, total=BATCH_SIZE, notes=notes))
        yield outcome
