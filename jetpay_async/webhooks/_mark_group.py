"""Mark several events in one commit, within a bounded time after their handlers have ended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jetpay_async.webhooks._failures import must_propagate
from jetpay_async.webhooks._records import taken_over

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import GroupedMarksInbox


class MarkGroup:
    """The events of one owner whose handlers have ended, and which are not marked yet.

    Args:
        inbox: Where they are marked.
        owner: Who has leased them.
        within: Seconds after the end of a handler by which its event is marked, or its marking has begun.
        on_marked: Called with each event that is marked, and with whether a handler was found for it.
        on_failure: Called with what the inbox raised.
    """

    def __init__(
        self,
        inbox: GroupedMarksInbox,
        *,
        owner: str,
        within: float,
        on_marked: Callable[[Event, bool], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._inbox = inbox
        self._owner = owner
        self._within = within
        self._on_marked = on_marked
        self._on_failure = on_failure
        self._waiting: list[tuple[Event, bool]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._marking = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, event: Event, *, found: bool) -> None:
        """Add an event whose handler has just ended."""
        self._waiting.append((event, found))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._within, self._mark_in_background)

    async def mark(self) -> None:
        """Mark what waits, and wait until what is being marked is marked."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        async with self._marking:
            group, self._waiting = self._waiting, []
            if group:
                await self._mark(group)

    async def _mark(self, group: Sequence[tuple[Event, bool]]) -> None:
        try:
            lost = await self._inbox.mark([event for event, _ in group], owner=self._owner)
        except BaseException as error:
            if must_propagate(error):
                raise
            self._on_failure(error)
            return
        for event, found in group:
            if event.id not in lost:
                self._on_marked(event, found)
        if lost:
            self._on_failure(taken_over(min(lost)))

    def _mark_in_background(self) -> None:
        self._timer = None
        task = asyncio.create_task(self.mark(), name="jetpay webhook marks")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
