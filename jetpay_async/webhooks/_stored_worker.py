"""Handle stored events: after the answer, after a crash, after another process has died."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from jetpay_async._core.backoff import exponential_backoff
from jetpay_async._core.log import logger
from jetpay_async.webhooks._failures import log_failure, must_propagate

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from jetpay_async._core.clock import Clock
    from jetpay_async.webhooks._dispatch import LeasedDispatch
    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import DurableEventInbox

# As many as a delivery has at most [docs].
_MAX_CLAIMED = 100
_FIRST_BACKOFF_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 60.0
_CLOCK_SLACK_SECONDS = 0.02
_MAX_ROUNDS = 50
"""How many may be under way, each with a handler that takes long but for the latest one."""


class _Round(Enum):
    """The result of claiming and handling events once."""

    IDLE = auto()
    PROGRESS = auto()
    NO_PROGRESS = auto()


class StoredEventWorker:
    """The task that handles the stored events of an inbox.

    Args:
        inbox: Where the events are.
        dispatching: Opens a dispatch, and releases what it leaves.
        continue_on_error: Whether events of other transactions are handled while a failed one waits.
        poll_interval: Seconds between reads of what another process has stored.
        clock: Where time comes from.
    """

    def __init__(
        self,
        inbox: DurableEventInbox,
        dispatching: Callable[[], AbstractAsyncContextManager[LeasedDispatch]],
        *,
        continue_on_error: bool,
        poll_interval: float,
        clock: Clock,
    ) -> None:
        self.inbox = inbox
        self._dispatching = dispatching
        self._continue_on_error = continue_on_error
        self._poll_interval = poll_interval
        self._clock = clock
        self._failures: dict[int, int] = {}
        self._stored = asyncio.Event()
        self._rounds: set[asyncio.Task[_Round]] = set()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether stored events will be handled by this process."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the task, in the context of the caller."""
        # An earlier start may have been in another event loop.
        self._stored = asyncio.Event()
        self._rounds = set()
        self._closing = False
        notify = getattr(self.inbox, "notify_of_stored", None)
        if notify is not None:
            notify(self.wake)
        self._task = asyncio.create_task(self._run())

    def wake(self) -> None:
        """Claim events now, without waiting for the poll interval."""
        self._stored.set()

    def forget(self) -> None:
        """Leave the task alone: it is the parent's, and this process is a forked child."""
        self._task = None
        self._rounds = set()

    async def aclose(self, *, timeout: float) -> None:  # noqa: ASYNC109 - a soft limit, after which it is cancelled
        """End after what is in progress; cancel it after some seconds, and wait as long again for its end."""
        if self._task is None:
            return
        self._closing = True
        if self._rounds:
            await asyncio.wait(self._rounds, timeout=timeout)
        tasks = [self._task, *self._rounds]
        for task in tasks:
            task.cancel()
        _, stuck = await asyncio.wait(tasks, timeout=timeout)
        if stuck:
            logger.error("a handler ignores its cancellation, and is left behind; its lease runs out with this process")
        self._task = None

    async def _run(self) -> None:
        failures = 0
        while not self._closing:
            self._stored.clear()
            result = await self._run_round()
            failures = failures + 1 if result is _Round.NO_PROGRESS else 0
            if failures:
                await self._clock.sleep(_backoff(failures))
            elif result is _Round.IDLE:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_interval):
                        await self._stored.wait()

    async def _run_round(self) -> _Round:
        """Claim events and handle them; go on without a handler that takes long, unless the order of ids is kept."""
        slow: asyncio.Future[LeasedDispatch] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._handle_once(slow))
        self._rounds.add(task)
        task.add_done_callback(self._rounds.discard)
        either: list[asyncio.Future[Any]] = [task, slow]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        # Later events of its transaction are due then.
        task.add_done_callback(lambda _: self.wake())
        await self._give_back(slow.result())
        if len(self._rounds) >= _MAX_ROUNDS:
            logger.error("%d handlers of stored events take long: nothing more is started", len(self._rounds))
            await asyncio.wait(self._rounds, return_when=asyncio.FIRST_COMPLETED)
        return _Round.PROGRESS

    async def _give_back(self, dispatch: LeasedDispatch) -> None:
        """Release what has not been started, for the next round and other processes."""
        try:
            for event in dispatch.give_back():
                await self.inbox.reschedule(event, owner=dispatch.lease.owner, seconds=0.0)
        except BaseException as error:
            if must_propagate(error):
                raise
            dispatch.lease.mark_in_doubt()
            log_failure(error, "could not release stored events, which wait for a handler that takes long")

    async def _handle_once(self, slow: asyncio.Future[LeasedDispatch]) -> _Round:
        try:
            async with self._dispatching() as dispatch:
                events = await dispatch.lease.claim(
                    self.inbox, limit=_MAX_CLAIMED, exclusive=not self._continue_on_error
                )
                if not events:
                    return _Round.IDLE
                if self._continue_on_error:
                    dispatch.on_slow = partial(slow.set_result, dispatch)
                await dispatch.run(events)
                rescheduled = dispatch.failed if self._continue_on_error else []
                for event in rescheduled:
                    await self._reschedule(event, dispatch)
                open_ids = dispatch.lease.pending | dispatch.given_back
                marked = [event for event in events if event.id not in open_ids]
                for event in marked:
                    self._failures.pop(event.id, None)
        except BaseException as error:
            if must_propagate(error):
                raise
            # The events are still stored.
            log_failure(error, "could not handle stored events")
            return _Round.NO_PROGRESS
        if dispatch.stopped:
            return _Round.NO_PROGRESS
        if not (marked or rescheduled):
            logger.error("the handling of %d stored events ended without an error, and none was handled", len(events))
            return _Round.NO_PROGRESS
        return _Round.PROGRESS

    async def _reschedule(self, event: Event, dispatch: LeasedDispatch) -> None:
        failures = self._failures[event.id] = self._failures.get(event.id, 0) + 1
        seconds = _backoff(failures)
        await self.inbox.reschedule(event, owner=dispatch.lease.owner, seconds=seconds)
        # Or it would wait for the next poll. The inbox has a clock of its own.
        asyncio.get_running_loop().call_later(seconds + _CLOCK_SLACK_SECONDS, self.wake)


def _backoff(failures: int) -> float:
    return exponential_backoff(failures, base=_FIRST_BACKOFF_SECONDS, longest=_MAX_BACKOFF_SECONDS)
