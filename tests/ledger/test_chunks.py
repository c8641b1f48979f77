"""Chunks of a batch: the unit of work for any engine that runs each job at least once."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jetpay_async import (
    InvalidArgumentError,
)
from jetpay_async.ledger import (
    CapturesStoppedError,
    ChunkBusyError,
    Ledger,
    LedgerMismatchError,
    UnknownBatchError,
    run_chunk,
)
from jetpay_async.ledger._sql import CHUNK_SIZE
from tests.ledger.service import WAIT, debits, serving

KEY = "2026-11-22"


async def outcomes_of(batch: Any) -> list[Any]:
    return [outcome async for outcome in batch.outcomes()]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "captures.db")


@pytest.mark.asyncio
async def test_a_chunk_is_captured_alone_and_again_for_nothing(path: str) -> None:
    """A chunk is a unit of work: run again it sends nothing, and the others are untouched."""
    async with serving() as (service, client):
        async with Ledger(path) as ledger:
            submitted = await ledger.submit(KEY, debits(600))
        assert (submitted.created, submitted.total, submitted.chunks) == (True, 600, 3)

        for _ in range(2):
            report = await run_chunk(path, KEY, 2, client=client)
            assert (report.key, report.chunk, report.total, report.captured) == (KEY, 2, 100, 100)
        assert service.requests == Counter(debits(600)[500:])

        async with client.durable_captures(path) as captures:
            await asyncio.gather(*(run_chunk(captures, KEY, chunk, client=client) for chunk in (0, 1)))
        assert service.captures == Counter(debits(600))


@pytest.mark.asyncio
async def test_a_chunk_run_twice_at_once_is_captured_once(path: str) -> None:
    """Two workers on one chunk share its debits, and both say when it is done."""
    async with serving() as (service, client):
        async with Ledger(path) as ledger:
            await ledger.submit(KEY, debits(250))

        reports = await asyncio.gather(*(run_chunk(path, KEY, 0, client=client, concurrency=8) for _ in range(2)))

        assert [report.captured for report in reports] == [250, 250]
        assert service.captures == Counter(debits(250))


@pytest.mark.asyncio
async def test_a_chunk_that_another_run_holds_is_busy(path: str) -> None:
    """While another run that is alive holds what is left, the chunk is reported as busy, and nothing is sent."""
    async with serving(timeout=5) as (service, client):
        service.always = WAIT
        async with client.durable_captures(path) as captures:
            await captures.submit(KEY, debits(2))
            await service.arrived.wait()

            with pytest.raises(ChunkBusyError, match="another run, which is alive") as caught:
                await run_chunk(path, KEY, 0, client=client, lease_seconds=0.2)

            assert caught.value.retryable
            service.go.set()
        assert service.requests == Counter(debits(2))


@pytest.mark.parametrize("chunk", [-1, True, "0"])
@pytest.mark.asyncio
async def test_a_bad_chunk_is_refused(path: str, chunk: Any) -> None:
    """A chunk is a number from 0."""
    async with serving() as (_, client):
        async with Ledger(path) as ledger:
            await ledger.submit(KEY, debits(2))
        with pytest.raises(InvalidArgumentError, match="chunk="):
            await run_chunk(path, KEY, chunk, client=client)
        with pytest.raises(UnknownBatchError, match="no batch 'other'"):
            await run_chunk(path, "other", 0, client=client)


@pytest.mark.parametrize("chunk", [1, (1 << 32) // CHUNK_SIZE, 1 << 40])
@pytest.mark.asyncio
async def test_a_chunk_beyond_the_batch_is_refused(path: str, chunk: int) -> None:
    """A chunk that the batch does not have is an error: it would be debits of another batch."""
    async with serving() as (service, client):
        async with Ledger(path) as ledger:
            await ledger.submit("one", debits(2)[:1])
            await ledger.submit("two", debits(2)[1:])
        with pytest.raises(InvalidArgumentError, match=f"chunk={chunk} must be an int from 0 on and below 1") as caught:
            await run_chunk(path, "one", chunk, client=client)

        assert caught.value.field == "chunk"
        assert not service.requests


@pytest.mark.asyncio
async def test_a_chunk_of_a_restored_ledger_is_resolved_first(path: str) -> None:
    """What `DurableCaptures` can be given, a chunk can be given too."""
    async with serving(timeout=0.3) as (service, client):
        service.captures["debit_0"] = 1
        async with Ledger(path) as ledger:
            await ledger.submit(KEY, debits(2))

        report = await run_chunk(path, KEY, 0, client=client, restored=True, account="rentals", accept_rejections=True)

        assert report.captured == 2
        assert service.requests == Counter({"debit_1": 1, "status": 2})
        with pytest.raises(LedgerMismatchError, match="rentals"):
            await run_chunk(path, KEY, 0, client=client, account="sales")


@pytest.mark.asyncio
async def test_a_chunk_that_is_stopped_says_so(path: str) -> None:
    """A chunk that did not come to its end is never reported as done."""
    async with serving() as (service, client):
        service.always = (401, {"detail": "expired"})
        async with Ledger(path) as ledger:
            await ledger.submit(KEY, debits(5))

        with pytest.raises(CapturesStoppedError, match="expired"):
            await run_chunk(path, KEY, 0, client=client)
