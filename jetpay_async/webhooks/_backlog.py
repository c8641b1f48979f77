"""Read how many events wait to be handled, for metrics; a failure to do so changes nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jetpay_async._core.log import logger
from jetpay_async.webhooks._failures import log_failure, must_propagate

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async._core.clock import Clock
    from jetpay_async.webhooks.inbox import Backlog, BacklogInbox


async def read_backlog(inbox: BacklogInbox, *, within: float) -> Backlog | None:
    """Return the inbox's backlog; None if it can't be read within some seconds."""
    try:
        async with asyncio.timeout(within):
            return await inbox.backlog()
    except BaseException as error:
        if must_propagate(error):
            raise
        logger.debug("the inbox's backlog could not be read: %s", type(error).__name__)
        return None


class BacklogReporter:
    """The task that reports the backlog at intervals.

    Args:
        inbox: Whose backlog.
        report: Called with it; what it raises is logged.
        interval: Seconds between two reads, and the most that one may take.
        clock: Where time comes from.
    """

    def __init__(
        self, inbox: BacklogInbox, report: Callable[[Backlog], object], *, interval: float, clock: Clock
    ) -> None:
        self._inbox = inbox
        self._report = report
        self._interval = interval
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task, unless it runs."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="jetpay webhook backlog")

    def forget(self) -> None:
        """Leave the task to the process that was forked from."""
        self._task = None

    async def aclose(self) -> None:
        """End the task."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            backlog = await read_backlog(self._inbox, within=self._interval)
            if backlog is not None:
                try:
                    self._report(backlog)
                except Exception as error:  # noqa: BLE001 - the user's, and the next backlog is reported all the same
                    log_failure(error, "on_backlog failed")
            await self._clock.sleep(self._interval)
