"""A clock that is put forward while others sleep by it."""

from __future__ import annotations

import asyncio

import pytest

from jetpay_async import Clock
from jetpay_async.sandbox._movable_clock import MovableClock

from .calling import HeldClock


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_sleepers_wake_up_earlier() -> None:
    """Who sleeps longer than the clock is put forward sleeps the rest; who doesn't wakes up."""
    held = HeldClock()
    movable = MovableClock(Clock(sleep=held.sleep, monotonic=lambda: 100.0, time=lambda: 1000.0))
    short, long = (asyncio.create_task(movable.clock.sleep(seconds)) for seconds in (5.0, 60.0))
    await _turns()

    movable.advance(10.0)
    await asyncio.wait_for(short, 10)
    await _turns()

    assert held.slept == [5.0, 60.0, 50.0]
    assert not long.done()
    assert (movable.clock.time(), movable.clock.monotonic()) == (1010.0, 110.0)
    held.released.set()
    await asyncio.wait_for(long, 10)


@pytest.mark.asyncio
async def test_a_cancelled_sleeper_leaves_nothing() -> None:
    """When a sleeper has been cancelled, what it waited for has ended."""
    ended = asyncio.Event()

    async def sleep(seconds: float) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    sleeping = asyncio.create_task(MovableClock(Clock(sleep=sleep)).clock.sleep(5))
    await _turns()
    sleeping.cancel()

    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert ended.is_set()


@pytest.mark.asyncio
async def test_an_error_of_the_inner_clock_is_raised() -> None:
    """What the inner clock raises reaches the sleeper."""

    async def sleep(seconds: float) -> None:
        raise OverflowError

    with pytest.raises(OverflowError):
        await MovableClock(Clock(sleep=sleep)).clock.sleep(1e400)
