"""A batch of any size in the same memory."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.ledger.processes import counting_api

pytestmark = pytest.mark.endurance

SOME, MANY = 1_000, 100_000


# Takes some twenty seconds: the number of items is what it is about.
@pytest.mark.asyncio
async def test_a_hundred_thousand_need_no_more_memory_than_a_thousand() -> None:
    """Nothing is kept of an item whose outcome was taken: less than 2 MB between a thousand and a hundred thousand."""
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
