"""Ask Jetpay to deliver missing events again, instead of only reporting them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.log import logger
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks._failures import log_failure, must_propagate
from jetpay_async.webhooks.inbox import EventInbox, MissingEventsInbox

__all__ = ["MissingEventReplay"]


class MissingEventReplay:
    """An ``on_missing_events`` that waits for late events, and then asks for a replay from the first missing one.

    ::

        def replay(event_id: int) -> Awaitable[object]:
            return client.replay_webhook(identifier, replay_from=event_id)


        async with MissingEventReplay(inbox, replay) as on_missing_events:
            receiver = WebhookReceiver(verifier, router, inbox=inbox, on_missing_events=on_missing_events)

    It asks only for what never arrived, and stops asking as soon as nothing is missing up to the last id that was
    reported. After ``max_replays`` replays that brought nothing it logs an error and gives up, until more events are
    missing. Events that were handled are skipped when they come again. It remembers nothing beyond the process; ask for
    a replay by hand after a long outage.

    Args:
        inbox: The receiver's. With one of your own that is no `~jetpay_async.webhooks.inbox.MissingEventsInbox`, an
            event that arrived and can't be handled counts as missing, too, and so do later ones.
        replay: Asks Jetpay to deliver again from an event id, inclusive. What it raises is logged, and counts as a
            replay that brought nothing.
        wait: Seconds that missing events have to arrive by themselves, before the first replay and after each. A
            webhook delivers at the latest every ``max_wait_seconds``, 60 by default [docs].
        max_replays: How many replays in a row may bring nothing.
        clock: Where time comes from.

    Raises:
        InvalidArgumentError: ``wait`` is not a number of seconds above 0, or ``max_replays`` is less than 1.
    """

    def __init__(
        self,
        inbox: EventInbox,
        replay: Callable[[int], Awaitable[object]],
        *,
        wait: float = 150.0,
        max_replays: int = 3,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if max_replays < 1:
            raise InvalidArgumentError(f"max_replays: must be at least 1, not {max_replays}", field="max_replays")
        self._inbox = inbox
        self._replay = replay
        self._wait = check_seconds("wait", wait)
        self._max_replays = max_replays
        self._clock = clock
        self._first = self._last = 0
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, first: int, last: int) -> None:
        """Note that the events from ``first`` to ``last`` are missing; return at once.

        Args:
            first: The lowest missing id.
            last: The highest one.
        """
        if self._task is None or self._task.done():
            self._first, self._last = first, last
            self._task = asyncio.create_task(self._close_gap(), name="jetpay webhook replay")
        else:
            self._first, self._last = min(self._first, first), max(self._last, last)

    async def aclose(self) -> None:
        """Ask for no more replays. Calling it again does nothing."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _close_gap(self) -> None:
        fruitless = 0
        before = self._first
        while True:
            await self._clock.sleep(self._wait)
            missing = await self._first_missing()
            if missing is None or missing > self._last:
                return
            if missing > before:
                fruitless = 0
            before = missing
            if fruitless == self._max_replays:
                logger.error(
                    "events %d to %d have not arrived after %d replays: ask Jetpay for them",
                    missing,
                    self._last,
                    fruitless,
                )
                return
            fruitless += 1
            try:
                await self._replay(missing)
            except BaseException as error:
                if must_propagate(error):
                    raise
                log_failure(error, "the replay from event %d failed", missing)

    async def _first_missing(self) -> int | None:
        """Return the first missing id of those that were reported; the first of them if that can't be read."""
        try:
            if isinstance(self._inbox, MissingEventsInbox):
                return await self._inbox.first_missing_event_id(self._first)
            # Of other inboxes: what has arrived and is not handled counts as missing, too.
            reached = await self._inbox.last_contiguous_event_id()
        except BaseException as error:
            if must_propagate(error):
                raise
            log_failure(error, "the inbox failed")
            return self._first
        return self._first if reached is None else max(self._first, reached + 1)
