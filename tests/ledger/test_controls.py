"""The harness finds what is captured twice: without the check before a request or the resolve time, it happens.

Nothing here is left to chance: the process pauses itself before a request leaves, and the API holds captures back until
their status has been read.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import attrs
import pytest

from tests.ledger.assertions import captured_once
from tests.ledger.processes import counting_api, pipeline
from tests.ledger.scale import TIME_LIMIT_SECONDS, TIMES

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(TIME_LIMIT_SECONDS + 10)]

DEBITS = 60


@pytest.mark.asyncio
@pytest.mark.parametrize("pre_send_check", [pytest.param(True, id="with the check"), pytest.param(False, id="without")])
async def test_the_check_keeps_a_woken_process_from_sending(
    tmp_path: Path, postgres_ledger: str, pre_send_check: bool
) -> None:
    """Paused when its requests are about to leave, replaced and woken: without the check, it sends them again."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api() as api,
        pipeline(
            api,
            tmp_path,
            2,
            debits=DEBITS,
            ledger=postgres_ledger,
            pause_at=20,
            lease_seconds=1.0,
            pre_send_check=pre_send_check,
            **TIMES,
        ) as (
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
    assert (totals["twice"] == []) is pre_send_check


@pytest.mark.asyncio
@pytest.mark.parametrize("resolve", [pytest.param(True, id="with the resolve time"), pytest.param(False, id="without")])
async def test_the_resolve_time_makes_a_status_prove_something(tmp_path: Path, resolve: bool) -> None:
    """Killed while requests are on their way: without the resolve time, they are sent again before they take effect."""
    # Time enough to start, to notice and to ask before the captures take effect by themselves.
    times = {"timeout": 4.0, "resolve_after": 0.4, "lease_seconds": 0.6}
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(hold=True, slowest=2.5) as api,
        pipeline(api, tmp_path, 2, debits=32, resolve=resolve, **times) as (killed, other),
    ):
        await killed.start()
        await killed.says("submitted")
        await api.wait(requests=8)
        await other.start()
        await other.says("submitted")
        await killed.kill()
        await other.says("done")

        totals = await api.totals()
        if resolve:
            await captured_once(api, other.options.ledger, 32)
    assert totals["captured"] == 32
    assert (totals["twice"] == []) is resolve
