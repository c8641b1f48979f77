"""A batch of any size in the same memory."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.ledger.processes import counting_api
from tests.ledger.scale import MILLION

pytestmark = pytest.mark.endurance

# What is kept of each item, and be it an id, would be over 2 MB of this many.
SOME, MANY = 1_000, 1_000_000 if MILLION else 25_000


@pytest.mark.asyncio
@pytest.mark.timeout(3600 if MILLION else 120)
async def test_many_need_no_more_memory_than_a_thousand() -> None:
    """Nothing is kept of an item whose outcome was taken: less than 2 MB between a thousand and many of them."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    async with counting_api(latency=0.0, record=False) as api:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.batch.streaming", api.url, str(SOME), str(MANY)),
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            cwd=Path(__file__).parent.parent,
        )
        said, _ = await process.communicate()
        totals = await api.totals()

    some, many = map(json.loads, said.splitlines())
    assert (some["captured"], many["captured"]) == (SOME, MANY)
    assert totals["captured"] == totals["requests"] == SOME + MANY
    assert totals["by_owner"][""]["peak"] <= 64
    assert many["memory"] - some["memory"] < 2_000_000
