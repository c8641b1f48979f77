"""What a test says at its end: nothing twice, nothing lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from jetpay_async.ledger import Ledger, Progress
from tests.ledger import runner
from tests.ledger.processes import CountingApi


async def captured_once(api: CountingApi, ledger: str, debits: int) -> dict[str, Any]:
    """Assert that the API took the money of each debit exactly once, and that the ledger says the same."""
    totals = await api.totals()
    assert totals["twice"] == [], [await api.ask("history", debit_id=debit_id) for debit_id in totals["twice"]]
    assert totals["captured"] == debits
    async with Ledger(ledger, create=False) as opened:
        progress = await opened.progress(runner.KEY)
        states = Counter([(item.debit_id, item.state.value) async for item in opened.items(runner.KEY)])
    assert progress == Progress(total=debits, pending=0, sending=0, captured=debits, rejected=0, unknown=0)
    assert states == Counter((debit_id, "captured") for debit_id in runner.debit_ids(debits))
    return totals


async def progress_of(ledger: str) -> Progress:
    """Read where the batch stands."""
    async with Ledger(ledger, create=False) as opened:
        return await opened.progress(runner.KEY)


async def until(true: Callable[[Progress], bool], ledger: str) -> None:
    """Wait until the batch stands like that."""
    async with Ledger(ledger, create=False) as opened:
        while not true(await opened.progress(runner.KEY)):
            await asyncio.sleep(0.02)
