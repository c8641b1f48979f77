"""Ledgers that several processes use, are killed with, taken over and restored from a copy of, in virtual time."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from jetpay_async import RetryPolicy
from jetpay_async.ledger import CapturesStoppedError, LedgerError
from jetpay_async.outcomes import Accepted, Captured, Rejected
from tests.simulation.loop import VirtualTimeLoop, run
from tests.simulation.service import Service
from tests.simulation.world import World, rows

if TYPE_CHECKING:
    from jetpay_async.outcomes import CaptureOutcome
    from tests.simulation.world import Process

# Hundreds of schedules take a while on a busy machine.
pytestmark = [pytest.mark.endurance, pytest.mark.timeout(600)]

SCHEDULES = 150
POLICY = RetryPolicy(base_delay=0.2, max_delay=2.0, resolve_after=3.0, resolve_after_timeout=15.0)
DEBITS = {"a": ["d1", "d2", "d3", "d4"], "b": ["d3", "d4", "d5"]}
ENOUGH_SECONDS = 3000.0


async def play(world: World, chance: random.Random) -> dict[str, list[CaptureOutcome]]:
    """Have processes capture two batches that overlap, kill them, and let a last one come to the end."""
    copies = []
    for _ in range(chance.randint(0, 4)):
        restored = False
        if copies and chance.random() < 0.3:
            for process in world.processes:
                process.kill()
            world.restore(chance.choice(copies))
            copies.clear()
            restored = True
        process = world.start(chance.choice((3.0, 6.0, 20.0)), restored=restored)
        work = asyncio.ensure_future(capture(process, chance.choice(("a", "b", "ab"))))
        if chance.random() < 0.4 and world.holds(DEBITS):
            copies.append(world.backup())
        if world.leases and chance.random() < 0.4:
            # Others take its debits over, and it comes back while they are sent anew.
            await asyncio.sleep(chance.choice((0.3, 0.6, 1.0)))
            process.cut_off(chance.choice((6.0, 22.0, 28.0, 35.0)))
            await asyncio.sleep(chance.choice((0.05, 1.0, 3.0)))
            continue
        await asyncio.sleep(chance.choice((0.05, 0.3, 1.0, 5.0, 20.0)))
        what = chance.random()
        if what < 0.5:
            process.kill()
        elif what < 0.75:
            process.captures.stop()
            await asyncio.wait([work])
    last = world.start(6.0)
    async with asyncio.timeout(ENOUGH_SECONDS):
        found = await capture(last, "ab")
    await asyncio.sleep(200.0)
    return found


async def capture(process: Process, keys: str) -> dict[str, list[CaptureOutcome]]:
    """Capture batches to their end, whatever stops."""
    found: dict[str, list[CaptureOutcome]] = {}
    try:
        async with process.captures as captures:
            batches = {key: await captures.submit(key, DEBITS[key]) for key in keys}
            for key, batch in batches.items():
                found[key] = [outcome async for outcome in batch.outcomes()]
    except (CapturesStoppedError, LedgerError) as error:
        process.world.service.note(f"{process.name} stopped: {error}")
    finally:
        process.alive = False
    return found


def check(world: World, found: dict[str, list[CaptureOutcome]]) -> None:
    """Refuse money that was taken twice, an outcome that is not so, and one that is missing."""
    service = world.service
    for debit_id, debit in service.debits.items():
        assert debit.processed <= 1, f"{debit_id} was processed {debit.processed} times"
    for key, outcomes in found.items():
        assert {outcome.debit_id for outcome in outcomes} == set(DEBITS[key]), key
        for outcome in outcomes:
            debit = service.debit(outcome.debit_id)
            if isinstance(outcome, Captured | Accepted):
                assert debit.processed, f"{outcome.debit_id} was said to be captured, and was not"
            if isinstance(outcome, Rejected):
                ended = debit.history[-1][1] == "failed"
                assert ended or not debit.processed, f"{outcome.debit_id} was said not to be captured, and was"


def drive(seed: int) -> None:
    """Play one schedule; what went wrong tells what led to it."""
    chance = random.Random(seed)
    loop = VirtualTimeLoop()
    service = Service(loop, chance, POLICY)
    world = World(service, chance, POLICY, leases=chance.random() < 0.5)
    try:
        check(world, run(play(world, chance), loop))
    except BaseException as error:
        error.add_note(f"schedule {seed}:\n" + "\n".join([*service.log, *map(str, rows(world.database))]))
        raise
    finally:
        world.close()


def test_no_schedule_captures_twice_loses_an_outcome_or_never_ends() -> None:
    """Whoever is killed, cut off, stopped or restored: each debit taken once at most, each outcome there and true."""
    for seed in range(SCHEDULES):
        drive(seed)
