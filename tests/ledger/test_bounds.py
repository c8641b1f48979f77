"""What stays within its bounds: captures in flight, their rate, memory; and who asks for what is not there."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from jetpay_async import JetpayClient
from jetpay_async.ledger import UnknownBatchError
from tests.ledger import runner
from tests.ledger.assertions import captured_once
from tests.ledger.processes import counting_api, keep_running, pipeline
from tests.ledger.scale import MILLION, TIME_LIMIT_SECONDS, TIMES

pytestmark = pytest.mark.endurance

logger = logging.getLogger(__name__)


@pytest.mark.asyncio
@pytest.mark.timeout(TIME_LIMIT_SECONDS)
async def test_captures_in_flight(tmp_path: Path, ledger: str) -> None:
    """No process has more captures in flight than its concurrency, and it makes use of all of it."""
    async with (
        counting_api(latency=0.02) as api,
        pipeline(api, tmp_path, 2, debits=400, ledger=ledger, concurrency=8, **TIMES) as runners,
    ):
        async with asyncio.TaskGroup() as group:
            for each in runners:
                group.create_task(keep_running(each))

        totals = await captured_once(api, ledger, 400)
    assert [totals["by_owner"][name]["peak"] for name in ("runner-0", "runner-1")] == [8, 8]
    assert totals["statuses"] == 0


@pytest.mark.asyncio
@pytest.mark.timeout(TIME_LIMIT_SECONDS)
async def test_one_rate_for_all(tmp_path: Path, ledger: str) -> None:
    """Three processes together keep to the rate, from the first capture to the last."""
    rate, debits = 100, 150
    async with (
        counting_api() as api,
        pipeline(api, tmp_path, 3, debits=debits, ledger=ledger, rate=rate, **TIMES) as runners,
    ):
        async with asyncio.TaskGroup() as group:
            for each in runners:
                group.create_task(keep_running(each))

        await captured_once(api, ledger, debits)
        sent_at = await api.ask("sent_at")
    began = sent_at[0]
    # What was reserved for one moment may be late by a busy machine, which is no burst: 0.2 s of the rate.
    assert all(number <= (at - began) * rate + 0.2 * rate for number, at in enumerate(sorted(sent_at)))


@pytest.mark.asyncio
@pytest.mark.timeout(TIME_LIMIT_SECONDS)
async def test_memory_stays_flat(tmp_path: Path) -> None:
    """Eight times the debits need no more memory."""
    peaks = []
    for debits in (1_000, 8_000):
        directory = tmp_path / str(debits)
        directory.mkdir()
        async with (
            counting_api(latency=0.001, record=False) as api,
            pipeline(api, directory, debits=debits, concurrency=64, timeout=30.0) as (each,),
        ):
            done = await keep_running(each)

            await captured_once(api, str(directory / "captures.db"), debits)
        logger.info("%s", done)
        peaks.append(done["peak"])
    # In MB. The client remembers the latest 10,000 debits that it captured.
    assert peaks[1] - peaks[0] < 4


@pytest.mark.skipif(not MILLION, reason="takes minutes; JETPAY_TEST_MILLION=1 runs it")
@pytest.mark.asyncio
@pytest.mark.timeout(3600)
async def test_a_million_debits(tmp_path: Path, ledger: str) -> None:
    """A million debits go through one process and one ledger, the last as quickly as the first, in flat memory."""
    async with (
        counting_api(latency=0.005, record=False) as api,
        pipeline(api, tmp_path, debits=1_000_000, ledger=ledger, concurrency=64, timeout=30.0, lease_seconds=15.0) as (
            each,
        ),
    ):
        done = await keep_running(each)
        submitted = await each.says("submitted")
        totals = await api.totals()
    marks = [said for said in each.said if said["said"] == "progress"]
    seconds, cpu, peaks = ([mark[name] for mark in marks] for name in ("seconds", "cpu", "peak"))
    spent = [later - sooner for sooner, later in pairwise(cpu)]
    logger.info("submitted in %.1f s, done in %.0f s", submitted["seconds"], done["seconds"])
    logger.info("debits/s by 100,000: %s", [round(100_000 / (later - sooner)) for sooner, later in pairwise(seconds)])
    logger.info("CPU s by 100,000: %s; peak MB %s", [round(each, 1) for each in spent], [round(peak) for peak in peaks])
    logger.info("size: %.0f MB", size_of(ledger) / 2**20)
    assert (totals["captured"], totals["twice"]) == (1_000_000, [])
    # CPU time, which what else runs on the machine hardly changes.
    assert spent[-1] < 1.3 * spent[0]
    assert peaks[-1] - peaks[0] < 4


def size_of(ledger: str) -> int:
    """Bytes that a ledger takes."""
    if "://" not in ledger:
        return Path(ledger).stat().st_size
    with psycopg.connect(ledger) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


@pytest.mark.asyncio
@pytest.mark.timeout(TIME_LIMIT_SECONDS)
async def test_asking_for_what_is_not_there_disturbs_nobody(ledger: str) -> None:
    """Whoever asks for a batch that doesn't exist gets an error; the captures under way go on."""
    async with (
        counting_api(latency=0.002) as api,
        JetpayClient("token-of-a-test", base_url=api.url) as client,
        client.durable_captures(ledger, concurrency=16) as captures,
    ):
        batch = await captures.submit(runner.KEY, runner.debit_ids(600))
        waiting = asyncio.create_task(batch.wait())
        while not waiting.done():
            with pytest.raises(UnknownBatchError):
                await captures.batch("no such batch")
            await asyncio.sleep(0)
        await waiting

        await captured_once(api, ledger, 600)
