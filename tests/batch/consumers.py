"""What the tests of batches share: ways to consume outcomes, and to see which ones nobody consumed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator

import attrs
import pytest

from jetpay_async import CaptureOutcome, JetpayClient


async def capture(client: JetpayClient, ids: Iterable[str], *, concurrency: int = 8) -> dict[str, CaptureOutcome]:
    """Capture them all, and return the outcomes by debit."""
    outcomes = [outcome async for outcome in client.capture_many(ids, concurrency=concurrency)]
    by_debit = {outcome.debit_id: outcome for outcome in outcomes}
    assert len(by_debit) == len(outcomes)
    return by_debit


async def take_all(outcomes: AsyncIterator[CaptureOutcome]) -> list[CaptureOutcome]:
    return [outcome async for outcome in outcomes]


async def consume(
    client: JetpayClient, ids: Iterable[str], *, concurrency: int, reported: list[CaptureOutcome] | None = None
) -> None:
    """Take all outcomes and forget them; the hook keeps them."""
    hook = None if reported is None else reported.append
    async for _ in client.capture_many(ids, concurrency=concurrency, on_outcome=hook):
        pass


@attrs.define
class Ids:
    """Ids without end, and how many were taken."""

    taken: int = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.taken += 1
        return f"debit_{self.taken}"


def not_consumed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The debits whose outcome nobody consumed, by the log."""
    return [
        record.message.split(":")[0].removeprefix("capture ")
        for record in caplog.records
        if "was not consumed" in record.message and record.levelno == logging.WARNING
    ]


async def ended(task: asyncio.Task[object]) -> BaseException | None:
    """What a task ended with."""
    await asyncio.wait([task])
    return asyncio.CancelledError() if task.cancelled() else task.exception()
