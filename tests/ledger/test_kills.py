"""Killed, paused, ended and started again at random: no debit is captured twice, and none is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from pathlib import Path

import attrs
import pytest

from tests.ledger.assertions import captured_once, progress_of, until
from tests.ledger.processes import counting_api, keep_running, kill_at_random, make_trouble, pipeline
from tests.ledger.scale import DEBITS, KILLS, LIFELIKE, SLOWEST_SECONDS, TIME_LIMIT_SECONDS, TIMES

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(TIME_LIMIT_SECONDS + 10)]


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [pytest.param(1, id="one process"), pytest.param(3, id="three processes")])
async def test_kill_9(tmp_path: Path, ledger: str, size: int) -> None:
    """Killed at random moments, with an API that is slow and sometimes silent, each debit is captured once."""
    chance = random.Random(7)
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(**LIFELIKE) as api,
        pipeline(api, tmp_path, size, debits=DEBITS, ledger=ledger, **TIMES) as runners,
    ):
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(keep_running(each)) for each in runners]
            killing = group.create_task(kill_at_random(api, runners, KILLS, chance))
        ends = [task.result() for task in running]

        totals = await captured_once(api, ledger, DEBITS)
    logger.info("%d kills, %d lives: %s", killing.result(), sum(each.lives for each in runners), totals["by_owner"])
    assert sum(each.lives for each in runners) >= size + killing.result()
    assert [end["outcomes"] for end in ends] == [{"Captured": DEBITS}] * size


@pytest.mark.asyncio
async def test_killed_paused_and_ended(tmp_path: Path, ledger: str) -> None:
    """Three processes that are killed, paused for longer than their leases, and ended: each debit is captured once."""
    lease = 1.0
    chance = random.Random(11)
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(**LIFELIKE) as api,
        pipeline(api, tmp_path, 3, debits=DEBITS, ledger=ledger, lease_seconds=lease, **TIMES) as runners,
    ):
        async with asyncio.TaskGroup() as group:
            for each in runners:
                group.create_task(keep_running(each))
            trouble = group.create_task(make_trouble(api, runners, max(KILLS, 3), chance, lease))

        totals = await captured_once(api, ledger, DEBITS)
    logger.info("%s, %d lives: %s", trouble.result(), sum(each.lives for each in runners), totals["by_owner"])
    assert len(trouble.result()) == 3


@pytest.mark.asyncio
async def test_a_paused_process_keeps_its_debits(tmp_path: Path) -> None:
    """On SQLite nobody takes over from a process that is paused, however long: it goes on when it wakes."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api() as api,
        pipeline(api, tmp_path, 2, debits=100, pause_at=20, **TIMES) as (paused, other),
    ):
        other.options = attrs.evolve(other.options, pause_at=None)
        await paused.start()
        await paused.says("paused")
        await other.start()
        await until(lambda progress: progress.pending == 0, other.options.ledger)
        held = []
        for _ in range(2):
            await asyncio.sleep(1.5 * TIMES["timeout"] + TIMES["resolve_after"])
            held.append((await progress_of(other.options.ledger)).sending)
        paused.send(signal.SIGCONT)
        ends = [(await each.end())["said"] for each in (paused, other)]

        await captured_once(api, other.options.ledger, 100)
    assert held[0] == held[1] > 0
    assert ends == ["done", "done"]


@pytest.mark.asyncio
async def test_a_replaced_process_sends_nothing_when_it_wakes(tmp_path: Path, postgres_ledger: str) -> None:
    """On PostgreSQL a paused process is replaced after its lease; when it wakes it stops before a byte leaves."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api() as api,
        pipeline(api, tmp_path, 2, debits=100, pause_at=20, ledger=postgres_ledger, lease_seconds=1.0, **TIMES) as (
            paused,
            other,
        ),
    ):
        other.options = attrs.evolve(other.options, pause_at=None)
        await paused.start()
        await paused.says("paused")
        await other.start()
        await other.says("done")
        before = await api.totals()
        paused.send(signal.SIGCONT)
        await paused.end()

        after = await captured_once(api, postgres_ledger, 100)
    assert after["requests"] == before["requests"]
    assert after["by_owner"]["runner-0"]["capture"] < 20


@pytest.mark.asyncio
async def test_sigterm_leaves_nothing_in_doubt(tmp_path: Path, ledger: str) -> None:
    """On SIGTERM, a run finishes what is in flight and gives back the rest; the next one has nothing to resolve."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(latency=0.05) as api,
        pipeline(api, tmp_path, debits=200, ledger=ledger, **TIMES) as (each,),
    ):
        await each.start()
        await each.says("submitted")
        await api.wait(captured=60)
        each.send(signal.SIGTERM)
        end = await each.end()
        between = await progress_of(ledger)
        captured = (await api.totals())["captured"]
        await each.start()
        last = await each.end()

        totals = await captured_once(api, ledger, 200)
    assert end["said"] == "stopped"
    assert (between.sending, between.unknown) == (0, 0)
    assert between.pending > 0
    assert between.captured == captured
    assert last["said"] == "done"
    assert totals["statuses"] == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["swept away", "under another name"])
async def test_a_paused_process_that_is_taken_for_dead(tmp_path: Path, how: str) -> None:
    """Where its lock is deleted, or looked for beside a link, it is replaced; when it wakes it sends nothing."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api() as api,
        pipeline(api, tmp_path, 2, debits=100, pause_at=20, **TIMES) as (paused, other),
    ):
        ledger = Path(paused.options.ledger)
        other.options = attrs.evolve(other.options, pause_at=None)
        await paused.start()
        await paused.says("paused")
        if how == "swept away":
            for lock in tmp_path.glob("captures.db-owner-*"):
                lock.unlink()
        else:
            (tmp_path / "elsewhere").mkdir()
            (tmp_path / "elsewhere" / "link.db").symlink_to(ledger)
            other.options = attrs.evolve(other.options, ledger=str(tmp_path / "elsewhere" / "link.db"))
        await other.start()
        if how == "swept away":
            await other.says("done")
        else:
            await asyncio.sleep(1.5 * TIMES["timeout"] + TIMES["resolve_after"] + 1.0)
        paused.send(signal.SIGCONT)
        await paused.end()
        await other.says("done")

        await captured_once(api, str(ledger), 100)


@pytest.mark.asyncio
async def test_a_child_does_not_keep_its_parent_alive(tmp_path: Path) -> None:
    """What a killed process was sending is taken over though a child that it forked lives on."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(latency=0.05) as api,
        pipeline(api, tmp_path, debits=100, fork=True, **TIMES) as (each,),
    ):
        await each.start()
        child = (await each.says("forked"))["pid"]
        try:
            await api.wait(captured=20)
            await each.kill()
            each.options = attrs.evolve(each.options, fork=False)
            await each.start()
            done = await each.says("done")
            os.kill(child, 0)
        finally:
            os.kill(child, signal.SIGKILL)

        await captured_once(api, each.options.ledger, 100)
    assert done["captured"] == 100


@pytest.mark.asyncio
async def test_machines_whose_clocks_differ(tmp_path: Path, postgres_ledger: str) -> None:
    """On PostgreSQL the machines' own clocks decide nothing: one that is an hour ahead takes over no earlier."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(hold=True, slowest=SLOWEST_SECONDS) as api,
        pipeline(api, tmp_path, 2, debits=100, ledger=postgres_ledger, lease_seconds=1.0, **TIMES) as (one, ahead),
    ):
        ahead.options = attrs.evolve(ahead.options, clock=3600.0)
        await one.start()
        await one.says("submitted")
        await api.wait(requests=16)
        await ahead.start()
        await ahead.says("submitted")
        await one.kill()
        await keep_running(one)
        end = await ahead.end()

        await captured_once(api, postgres_ledger, 100)
    assert end["said"] == "done"


@pytest.mark.asyncio
async def test_a_clock_that_is_set_anew(tmp_path: Path) -> None:
    """On SQLite, where the clock was set after a process was killed, what it was sending is waited for from then on."""
    # Time enough to start, to notice and to ask before the captures take effect by themselves.
    times = {"timeout": 4.0, "resolve_after": 0.4}
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(hold=True, slowest=2.5) as api,
        pipeline(api, tmp_path, 2, debits=32, **times) as (killed, later),
    ):
        later.options = attrs.evolve(later.options, clock=3600.0)
        await killed.start()
        await killed.says("submitted")
        await api.wait(requests=8)
        await later.start()
        await later.says("submitted")
        await killed.kill()
        await later.says("done")

        await captured_once(api, killed.options.ledger, 32)


@pytest.mark.asyncio
async def test_kill_9_while_nothing_is_sent(tmp_path: Path, ledger: str) -> None:
    """A process that is killed between an intent and its request leaves a debit that the next one captures."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api() as api,
        pipeline(api, tmp_path, debits=30, ledger=ledger, pause_at=1, lease_seconds=1.0, **TIMES) as (each,),
    ):
        await each.start()
        await each.says("paused")
        await each.kill()
        between = await progress_of(ledger)
        each.options = attrs.evolve(each.options, pause_at=None)
        await keep_running(each)

        await captured_once(api, ledger, 30)
    assert between.sending > 0


@pytest.mark.asyncio
async def test_faults_of_the_api(tmp_path: Path, ledger: str) -> None:
    """5xx, resets, silence and 429, before and after the money was taken: each debit is captured once."""
    faults = {"broken": 0.02, "cut": 0.02, "limited": 0.02, "silent": 0.01}
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(latency=0.005, **faults) as api,
        pipeline(api, tmp_path, debits=DEBITS, ledger=ledger, **TIMES) as (each,),
    ):
        await keep_running(each)

        totals = await captured_once(api, ledger, DEBITS)
    assert totals["requests"] > DEBITS


@pytest.mark.asyncio
async def test_two_batches_with_the_same_debits(tmp_path: Path, ledger: str) -> None:
    """A debit that is in two batches is captured once, though two processes run them at the same time."""
    async with (
        asyncio.timeout(TIME_LIMIT_SECONDS),
        counting_api(latency=0.02) as api,
        pipeline(api, tmp_path, 2, debits=100, ledger=ledger, **TIMES) as (one, other),
    ):
        other.options = attrs.evolve(other.options, key="another")
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(keep_running(each)) for each in (one, other)]

        await captured_once(api, ledger, 100)
    assert [task.result()["outcomes"] for task in running] == [{"Captured": 100}] * 2
