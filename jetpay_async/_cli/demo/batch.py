"""The demo's second part: a batch through a ledger, whose run is stopped half-way and goes on where it was."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jetpay_async._cli.demo.records import BatchRecord, DemoStep, Stage
from jetpay_async.client import JetpayClient
from jetpay_async.outcomes import Captured, PreauthorizationRequest
from jetpay_async.sandbox import Fault, FaultKind, Sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jetpay_async._cli.demo.records import Plan
    from jetpay_async._cli.demo.screens import StageCallback
    from jetpay_async._core.retry import RetryPolicy
    from jetpay_async.ledger import Batch
    from jetpay_async.outcomes import CaptureOutcome

__all__ = ["DEBITS", "play_batch"]

DEBITS = 50
"""In the batch."""

_KEY = "demo"
_CONCURRENCY = 8
_LATENCY = 0.1
# A doubt that a run leaves is confirmed_by_status after the timeout and a little: nobody watches a demo that waits for long.
_TIMEOUT = 3.0

_FAULTS = (
    Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="capture", count=2),
    Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route="capture", count=1),
)


async def play_batch(plan: Plan, policy: RetryPolicy, watch: StageCallback) -> BatchRecord:
    """Reserve some amounts, and capture them from a ledger in a temporary directory.

    Args:
        plan: Whether there are faults.
        policy: The client's.
        watch: Told of each step.

    Returns:
        What the ledger and the sandbox remember.
    """
    sandbox = Sandbox(seed=plan.seed, latency=_LATENCY, rejects_second_capture=False)
    with tempfile.TemporaryDirectory(prefix="jetpay-demo-") as directory:
        ledger = Path(directory, "captures.db")
        async with (
            sandbox,
            JetpayClient(sandbox.api_token, base_url=sandbox.url, timeout=_TIMEOUT, retry=policy) as client,
        ):
            debit_ids = await _reserve(client, sandbox)
            if plan.faults:
                sandbox.faults.add(*_FAULTS)
            stopped_after = 0
            async with client.durable_captures(ledger, concurrency=_CONCURRENCY) as captures:
                batch = await captures.submit(_KEY, debit_ids)
                async for _ in _watched(batch, watch):
                    stopped_after += 1
                    if stopped_after == DEBITS // 2:
                        break
            async with client.durable_captures(ledger, concurrency=_CONCURRENCY) as captures:
                batch = await captures.submit(_KEY, debit_ids)
                outcomes = [outcome async for outcome in _watched(batch, watch)]
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
    requests = itertools.repeat(request, DEBITS)
    return [outcome.debit_id async for outcome in client.preauthorize_many(requests, concurrency=DEBITS)]


async def _watched(batch: Batch, watch: StageCallback) -> AsyncIterator[CaptureOutcome]:
    confirmed_by_status = 0
    done = 0
    async for outcome in batch.outcomes():
        done += 1
        confirmed_by_status += isinstance(outcome, Captured) and outcome.confirmed_by_status
        notes = {"confirmed_by_status": confirmed_by_status} if confirmed_by_status else {}
        watch(Stage(step=DemoStep.BATCH, done=done, total=DEBITS, notes=notes))
        yield outcome
