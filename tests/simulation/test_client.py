"""Captures of one client, one and many at once, cancelled and called again, against a service that fails at random."""

from __future__ import annotations

import asyncio
import random

import attrs
import pytest

from jetpay_async import Capture, JetpayError, RetryPolicy
from jetpay_async._core import operations
from jetpay_async._core.clock import Clock
from jetpay_async._core.executor import CallExecutor, Options
from jetpay_async._core.single_flight import SingleFlight
from jetpay_async.errors import Outcome
from tests.simulation.loop import VirtualTimeLoop, run
from tests.simulation.service import Network, Service

# Thousands of schedules take a while on a busy machine.
pytestmark = [pytest.mark.endurance, pytest.mark.timeout(600)]

SCHEDULES = 2000
POLICY = RetryPolicy(base_delay=0.2, max_delay=4.0, resolve_after=5.0, resolve_after_timeout=60.0)
LONGEST_SECONDS = 400.0
"""By then all that the service works on is done."""


class ViolationError(AssertionError):
    """What must never happen, with what led to it."""


@attrs.define
class Said:
    """What a call said of a debit, and when."""

    debit_id: str
    outcome: Capture | JetpayError | None


async def play(service: Service, chance: random.Random) -> list[Said]:
    """Call capture some times, for some debits, in some tasks."""
    loop = asyncio.get_running_loop()
    clock = Clock(monotonic=loop.time, time=lambda: 1.8e9 + loop.time(), sleep=asyncio.sleep, random=chance.random)
    executor = CallExecutor(Network(service), clock, None)
    flight = SingleFlight(executor)
    said: list[Said] = []

    async def call(debit_id: str, after: float, timeout: float, cancel_after: float | None) -> None:
        await asyncio.sleep(after)
        execution = executor.begin(operations.capture(debit_id), Options(timeout, POLICY))
        try:
            async with asyncio.timeout(cancel_after):
                outcome: Capture | JetpayError | None = await flight.capture(execution)
        except JetpayError as error:
            outcome = error
        except TimeoutError:
            outcome = None
        service.note(f"said of {debit_id}: {outcome!r}"[:200])
        check_now(service, debit_id, outcome)
        said.append(Said(debit_id, outcome))

    debits = ["debit_1", "debit_2"][: chance.choice((1, 1, 2))]
    async with asyncio.TaskGroup() as group:
        for _ in range(chance.randint(1, 4)):
            after = chance.choice((0.0, 0.1, 1.0, 10.0, 40.0, 100.0))
            cancel_after = chance.choice((None, None, None, 0.05, 2.0, 15.0))
            group.create_task(call(chance.choice(debits), after, chance.choice((3.0, 20.0, 30.0, 100.0)), cancel_after))
    await asyncio.sleep(LONGEST_SECONDS)
    return said


def check_now(service: Service, debit_id: str, outcome: Capture | JetpayError | None) -> None:
    """Refuse what is not true when it is said."""
    debit = service.debit(debit_id)
    if isinstance(outcome, Capture) and outcome.final and not debit.processed:
        raise ViolationError(f"{debit_id} was said to be captured, and was not")


def check_at_the_end(service: Service, said: list[Said]) -> None:
    """Refuse money that was taken twice, and what turned out not to be true."""
    for debit_id, debit in service.debits.items():
        if debit.processed > 1:
            raise ViolationError(f"{debit_id} was processed {debit.processed} times")
    last = {each.debit_id: each.outcome for each in said}
    for debit_id, outcome in last.items():
        nothing_done = isinstance(outcome, JetpayError) and outcome.outcome in {Outcome.REJECTED, Outcome.NOT_SENT}
        debit = service.debit(debit_id)
        ended = any(state == "failed" for _, state in debit.history)
        if nothing_done and debit.processed and not ended:
            raise ViolationError(f"{debit_id} was said not to be captured ({outcome!r}), and was")


def drive(seed: int) -> None:
    """Play one schedule; what went wrong tells what led to it."""
    chance = random.Random(seed)
    loop = VirtualTimeLoop()
    service = Service(loop, chance, POLICY)
    try:
        check_at_the_end(service, run(play(service, chance), loop))
    except BaseException as error:
        error.add_note(f"schedule {seed}:\n" + "\n".join(service.log))
        raise


def test_no_schedule_captures_twice_or_says_what_is_not_so() -> None:
    """Whatever is lost, late, stale or cancelled within the bounds: taken once at most, and what is said is true."""
    for seed in range(SCHEDULES):
        drive(seed)
