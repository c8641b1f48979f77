"""Workers of procrastinate, killed, paused and ended at random: no debit is captured twice, and none is lost."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path

import pytest

from tests.ledger import runner
from tests.ledger.assertions import captured_once
from tests.ledger.processes import counting_api, keep_alive, make_trouble, pipeline
from tests.ledger.scale import DEBITS, KILLS, LIFELIKE, TIME_LIMIT_SECONDS, TIMES

pytest.importorskip("procrastinate", reason="procrastinate is not installed: pip install 'jetpay-async[distributed]'")

from tests.ledger import worker

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(TIME_LIMIT_SECONDS + 40)]

CHUNKED = max(DEBITS, 1_000)
"""Enough for four chunks."""


@pytest.mark.asyncio
async def test_workers_killed_paused_and_ended(tmp_path: Path, postgres_ledger: str) -> None:
    """Three workers on one queue and one ledger, replaced whenever they end: each debit is captured once."""
    lease = 1.0
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS + 30),
        counting_api(**LIFELIKE) as api,
        pipeline(
            api,
            tmp_path,
            3,
            debits=CHUNKED,
            ledger=postgres_ledger,
            script=worker.__file__,
            lease_seconds=lease,
            **TIMES,
        ) as workers,
    ):
        app, captures = worker.make_app(workers[0].options)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            await captures.submit(runner.KEY, runner.debit_ids(CHUNKED))
            alive = [asyncio.create_task(keep_alive(each)) for each in workers]
            making_trouble = asyncio.create_task(make_trouble(api, workers, max(KILLS, 3), random.Random(13), lease))
            waiting = asyncio.create_task(captures.wait(runner.KEY))
            await asyncio.wait([waiting, *alive], return_when=asyncio.FIRST_COMPLETED)
            assert waiting.done(), [task for task in alive if task.done()]
            trouble = await making_trouble
            for task in alive:
                task.cancel()
            await asyncio.wait(alive)

        totals = await captured_once(api, postgres_ledger, CHUNKED)
    logger.info("%s, %d lives: %s", trouble, sum(each.lives for each in workers), totals["by_owner"])
    assert waiting.result().captured == CHUNKED
    assert len(trouble) == 3
