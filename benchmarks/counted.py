"""What `benchmarks.against` counts: one loop, by the public API of whatever tree this process finds the package in."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterable, Sequence
from pathlib import Path
from typing import Any

from jetpay_async import JetpayClient

IN_FLIGHT = 8


async def carry_out(loop: str, items: int, url: str) -> int:
    """Capture so many debits, and return how many outcomes there were."""
    debit_ids = [f"debit_{number}" for number in range(items)]
    client: Any
    async with JetpayClient("benchmark", base_url=url) as client:
        if loop == "capture":
            return await _one_by_one(client, debit_ids)
        if loop == "batch":
            return await _exhaust(client.capture_many(debit_ids, concurrency=IN_FLIGHT))
        # At first it had another name.
        durable = getattr(client, "durable_captures", None) or client.captures
        with tempfile.TemporaryDirectory() as directory:
            async with durable(Path(directory) / "ledger.db", concurrency=IN_FLIGHT) as captures:
                return await _exhaust((await captures.submit("a", debit_ids)).outcomes())


async def _one_by_one(client: Any, debit_ids: Sequence[str]) -> int:
    left = iter(debit_ids)
    done = 0

    async def work() -> None:
        nonlocal done
        for debit_id in left:
            await client.capture(debit_id)
            done += 1

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return done


async def _exhaust(outcomes: AsyncIterable[object]) -> int:
    return len([outcome async for outcome in outcomes])


if __name__ == "__main__":
    _, counted, number, address = sys.argv
    if asyncio.run(carry_out(counted, int(number), address)) != int(number):
        sys.exit("some outcomes are missing")
