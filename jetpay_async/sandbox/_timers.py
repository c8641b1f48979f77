"""Timers that a stop of the sandbox ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async._core.clock import Clock

__all__ = ["Timers"]


class Timers:
    """The timers of requests and of banks, so that none outlives the sandbox.

    aiohttp doesn't cancel a request's task when its client disconnects. So slow work is done late, and without these
    timers it would be done even after the sandbox has stopped.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: set[asyncio.Future[None]] = set()
        self._actions: set[asyncio.Future[None]] = set()

    async def wait(self, seconds: float | None) -> None:
        """Wait for some seconds, or until the sandbox stops, which raises `asyncio.CancelledError`."""
        await self._begin(seconds)

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Call a function after some seconds, unless the sandbox stops before."""
        timer = self._begin(seconds)
        self._actions.add(timer)
        timer.add_done_callback(self._actions.discard)
        timer.add_done_callback(lambda timer: timer.cancelled() or action())

    def forget(self) -> None:
        """Drop every function that is still to be called."""
        for timer in tuple(self._actions):
            timer.cancel()

    async def stop(self) -> None:
        """End every wait."""
        running = tuple(self._running)
        for timer in running:
            timer.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _begin(self, seconds: float | None) -> asyncio.Future[None]:
        timer: asyncio.Future[None]
        if seconds is None:
            timer = asyncio.get_running_loop().create_future()
        else:
            timer = asyncio.ensure_future(self._clock.sleep(seconds))
        self._running.add(timer)
        timer.add_done_callback(self._running.discard)
        return timer
