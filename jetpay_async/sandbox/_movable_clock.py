"""A clock that can be put forward while its sleepers sleep."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock

__all__ = ["MovableClock"]


class MovableClock:
    """A clock that can be put forward.

    Args:
        inner: Whose time it shows, until it is put forward.
    """

    def __init__(self, inner: Clock) -> None:
        self._inner = inner
        self._sleeping: set[asyncio.Future[None]] = set()
        self.ahead = 0.0
        """Seconds that it was put forward in all."""
        self.clock = attrs.evolve(inner, monotonic=self._monotonic, time=self._time, sleep=self._sleep)
        """The clock."""

    def advance(self, seconds: float) -> None:
        """Put the clock forward: who sleeps wakes up so much earlier."""
        self.ahead += seconds
        for sleeping in tuple(self._sleeping):
            sleeping.cancel()

    def _time(self) -> float:
        return self._inner.time() + self.ahead

    def _monotonic(self) -> float:
        return self._inner.monotonic() + self.ahead

    async def _sleep(self, seconds: float) -> None:
        end = self._monotonic() + seconds
        while True:
            sleeping = asyncio.ensure_future(self._inner.sleep(seconds))
            self._sleeping.add(sleeping)
            try:
                await asyncio.wait([sleeping])
            except asyncio.CancelledError:
                sleeping.cancel()
                await asyncio.wait([sleeping])  # nothing goes on once the sleeper has ended
                raise
            finally:
                self._sleeping.discard(sleeping)
            if not sleeping.cancelled():
                return sleeping.result()
            seconds = end - self._monotonic()
            if seconds <= 0:
                return None
