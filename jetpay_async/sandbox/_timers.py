"""Timers that a stop of the sandbox ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async._core.clock import Clock

__all__ = ["Timers"]


class Timers:
    """Every wait of a request or of a bank, so that none outlives the sandbox.

    aiohttp leaves a request's task alone once its client has gone: that is what lets slow work be done late, and what
    would let it be done after the end.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waits: set[asyncio.Future[None]] = set()

    async def wait(self, seconds: float | None) -> None:
        """Wait so long, or for ever. When the sandbox stops, this raises `asyncio.CancelledError`."""
        await self._begin(seconds)

    def later(self, seconds: float, action: Callable[[], object]) -> None:
        """Do something after so long, unless the sandbox stops before."""
        self._begin(seconds).add_done_callback(lambda wait: wait.cancelled() or action())

    async def stop(self) -> None:
        """End every wait."""
        waits = tuple(self._waits)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    def _begin(self, seconds: float | None) -> asyncio.Future[None]:
        wait: asyncio.Future[None]
        if seconds is None:
            wait = asyncio.get_running_loop().create_future()
        else:
            wait = asyncio.ensure_future(self._clock.sleep(seconds))
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)
        return wait
