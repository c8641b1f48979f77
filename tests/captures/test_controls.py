"""The harness finds doubles: with the fence or the settle time switched off, the same moments take money twice.

Nothing here is left to chance: the process pauses itself before a request leaves, and the API holds captures back until
their status has been read.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import attrs
import pytest

from tests.captures.processes import counting_api, crew
from tests.captures.scale import TIME_LIMIT, TIMES
from tests.captures.verdict import captured_once

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(TIME_LIMIT + 10)]

DEBITS = 60


@pytest.mark.asyncio
@pytest.mark.parametrize("fence", [pytest.param(True, id="with the fence"), pytest.param(False, id="without")])
async def test_the_fence_is_what_keeps_a_woken_process_from_sending(
    tmp_path: Path, postgres_ledger: str, fence: bool
) -> None:
    """Paused when its requests are about to leave, replaced and woken: without the fence, it sends them again."""
    async with (
        asyncio.timeout(TIME_LIMIT),
        counting_api() as api,
        crew(api, tmp_path, 2, debits=DEBITS, ledger=postgres_ledger, pause_at=20, lease=1.0, fence=fence, **TIMES) as (
            paused,
            other,
        ),
    ):
        other.options = attrs.evolve(other.options, pause_at=None)
        await paused.start()
        await paused.says("paused")
        await other.start()
        await other.says("done")
        paused.send(signal.SIGCONT)
        await paused.end()

        totals = await api.totals()
    assert totals["captured"] == DEBITS
    assert (totals["twice"] == []) is fence


@pytest.mark.asyncio
@pytest.mark.parametrize("settle", [pytest.param(True, id="with the settle time"), pytest.param(False, id="without")])
async def test_the_settle_time_is_what_makes_a_status_prove_something(tmp_path: Path, settle: bool) -> None:
    """Killed while requests are on their way: without the settle time, they are sent again before they take effect."""
    # Time enough to start, to notice and to ask before the captures take effect by themselves.
    times = {"timeout": 4.0, "settle_after": 0.4, "lease": 0.6}
    async with (
        asyncio.timeout(TIME_LIMIT),
        counting_api(hold=True, slowest=2.5) as api,
        crew(api, tmp_path, 2, debits=32, settle=settle, **times) as (killed, other),
    ):
        await killed.start()
        await killed.says("submitted")
        await api.wait(requests=8)
        await other.start()
        await other.says("submitted")
        await killed.kill()
        await other.says("done")

        totals = await api.totals()
        if settle:
            await captured_once(api, other.options.ledger, 32)
    assert totals["captured"] == 32
    assert (totals["twice"] == []) is settle
