"""Captures that stay open in a worker's process, for all its jobs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jetpay_async._log import logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from jetpay_async.captures import Captures


class Shift:
    """From the first job to the end of the event loop, or until the captures broke.

    A task holds them open, so that they are also closed when the loop ends: what runs a worker cancels what is left.
    """

    def __init__(self, open_captures: Callable[[], AbstractAsyncContextManager[Captures]]) -> None:
        self.loop = asyncio.get_running_loop()
        self._open_captures = open_captures
        self._opened: asyncio.Future[Captures] = self.loop.create_future()
        self._ending = asyncio.Event()
        self._task = self.loop.create_task(self._keep_open())

    async def captures(self) -> Captures:
        """Return them once they are open.

        Raises:
            Exception: What kept them from being opened.
        """
        return await asyncio.shield(self._opened)

    async def end(self) -> None:
        """Stop them, wait for those in flight, and close."""
        self._ending.set()
        await asyncio.shield(self._task)

    async def _keep_open(self) -> None:
        try:
            async with self._open_captures() as captures:
                self._opened.set_result(captures)
                await self._ending.wait()
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait for the captures
            if self._opened.done():
                logger.warning("captures could not be closed: %s", error)
            else:
                self._opened.set_exception(error)
