"""Rate limit for batch workers: starts are evenly spaced, and held back while ``Retry-After`` lasts."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async._core.clock import Clock

# A longer pause is cut to this: asking once more does no harm, and a batch must not hang for a misprint.
MAX_PAUSE_SECONDS = 300.0

# A start that a late timer delayed by less than this is made up for by the next one. Timers ring some milliseconds late
# as a rule, and without it every start would be late by as much.
MAX_LATENESS_SECONDS = 0.02


class Pacer:
    """When the next item may start.

    Args:
        rate: Starts per second, evenly spaced; None for no limit but the pauses.
        clock: Time, and how to wait.
    """

    __slots__ = ("_clock", "_interval", "_next_start", "_timer", "unrestricted")

    def __init__(self, rate: float | None, clock: Clock) -> None:
        self.unrestricted = rate is None
        """Whether it is known, without reading the clock, that an item may start now."""
        self._interval = 0.0 if rate is None else 1.0 / rate
        self._clock = clock
        # Monotonic.
        self._next_start = -math.inf
        self._timer: asyncio.Task[None] | None = None

    def try_start(self) -> bool:
        """Start an item if its time has come."""
        now = self._clock.monotonic()
        if now < self._next_start:
            return False
        self.unrestricted = not self._interval
        late_timer = self._timer is not None and now - self._next_start < MAX_LATENESS_SECONDS
        self._next_start = (self._next_start if late_timer else now) + self._interval
        return True

    def pause(self, seconds: float) -> float:
        """Start nothing for some seconds, `MAX_PAUSE_SECONDS` at most; return how many."""
        seconds = min(seconds, MAX_PAUSE_SECONDS)
        self._next_start = max(self._next_start, self._clock.monotonic() + seconds)
        self.unrestricted = False
        return seconds

    def schedule(self, admit: Callable[[], bool]) -> None:
        """Call this function at each time that an item may start, until it returns False."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().create_task(self._call_at_each_start(admit))

    def cancel(self) -> None:
        """Call nothing any more until `schedule` is called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _call_at_each_start(self, admit: Callable[[], bool]) -> None:
        more = True
        while more:
            await self._clock.sleep(max(0.0, self._next_start - self._clock.monotonic()))
            more = admit()
        self._timer = None
