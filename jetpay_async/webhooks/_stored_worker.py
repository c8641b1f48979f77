"""Work off the stored events: after the answer, after a crash, after another process has died."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING

from jetpay_async._core.log import logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from jetpay_async._core.clock import Clock
    from jetpay_async.webhooks._dispatch import LeasedDispatch
    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import DurableEventInbox

# As many as a delivery has at most [docs].
_PORTION = 100
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0


class _Round(Enum):
    IDLE = auto()
    DONE = auto()
    TROUBLE = auto()


class StoredEventWorker:
    """The events of a store that are still to be handled.

    Args:
        store: Where they are.
        on_shift: Opens a dispatch, and gives back what it leaves.
        goes_on: Whether a failed event lets those of other transactions pass.
        poll_interval: Seconds between looks for what another process has stored.
        clock: Where time comes from.
    """

    def __init__(
        self,
        store: DurableEventInbox,
        on_shift: Callable[[], AbstractAsyncContextManager[LeasedDispatch]],
        *,
        goes_on: bool,
        poll_interval: float,
        clock: Clock,
    ) -> None:
        self.store = store
        self._dispatching = on_shift
        self._goes_on = goes_on
        self._poll_interval = poll_interval
        self._clock = clock
        self._attempts: dict[int, int] = {}
        self._news = asyncio.Event()
        self._at_work = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether stored events will be handled by this process."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin, in the context of the caller."""
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Look for events now."""
        self._news.set()

    async def aclose(self, *, within: float) -> None:
        """End after the round that is in progress, but at the latest after some seconds."""
        if self._task is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                # Whoever holds it keeps the next round from starting.
                await self._at_work.acquire()
        self._task.cancel()
        await asyncio.wait([self._task])
        self._task = None

    async def _run(self) -> None:
        troubles = 0
        while True:
            self._news.clear()
            async with self._at_work:
                result = await self._round()
            troubles = troubles + 1 if result is _Round.TROUBLE else 0
            if troubles:
                await self._clock.sleep(_pause(troubles))
            elif result is _Round.IDLE:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_interval):
                        await self._news.wait()

    async def _round(self) -> _Round:
        try:
            async with self._dispatching() as dispatch:
                events = await dispatch.lease.take_stored(self.store, limit=_PORTION)
                if not events:
                    return _Round.IDLE
                await dispatch.work(events)
                for event in dispatch.failed if self._goes_on else ():
                    await self._put_off(event, dispatch)
                for event in events:
                    if event.id not in dispatch.lease.pending:
                        self._attempts.pop(event.id, None)
        except Exception as error:  # noqa: BLE001 - a store may be anybody's, and the events are still in it
            logger.error("could not work off stored events", exc_info=error)
            return _Round.TROUBLE
        return _Round.TROUBLE if dispatch.stopped else _Round.DONE

    async def _put_off(self, event: Event, dispatch: LeasedDispatch) -> None:
        attempts = self._attempts[event.id] = self._attempts.get(event.id, 0) + 1
        await self.store.reschedule(event, owner=dispatch.lease.owner, seconds=_pause(attempts))


def _pause(attempts: int) -> float:
    # Beyond this many doublings only the limit counts, and floats end.
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempts - 1, 10))
