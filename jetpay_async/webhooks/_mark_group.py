"""Mark several events in one commit, within a bounded time after their handlers have ended.

While one commit is written, the events whose handlers end meanwhile wait for the next one. Two rules bound what a crash
lets be handled again: no handler starts while an event waits for its mark for longer than it may, nor while one of its
own transaction does.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from jetpay_async.webhooks._failures import must_propagate
from jetpay_async.webhooks._records import taken_over, transaction_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import GroupedMarksInbox

LONGEST_LAG_SECONDS = 0.05
"""How long a mark may take, after the time by which it may come, before no further handler starts."""


class _EndedEvent(NamedTuple):
    """An event whose handler has ended."""

    event: Event
    found: bool
    """Whether there was a handler."""
    at: float
    """When, by the time of the loop."""


class MarkGroup:
    """The events of one owner whose handlers have ended, and which are not marked yet.

    Args:
        inbox: Where they are marked.
        owner: Who has leased them.
        within: Seconds after the end of a handler by which the marking of its event begins, unless a commit is being
            written.
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
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_EndedEvent] = []
        self._being_marked: Sequence[_EndedEvent] = ()
        self._transactions: set[str | None] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._marking = asyncio.Lock()

    def add(self, event: Event, *, found: bool, more: bool) -> None:
        """Add an event whose handler has just ended.

        Args:
            event: The event.
            found: Whether there was a handler.
            more: Whether others may still follow; if not, the caller calls `mark` right after this.
        """
        self._waiting.append(_EndedEvent(event, found, self._loop.time()))
        self._transactions.add(transaction_id_of(event))
        if more:
            self._schedule()

    def is_due_before(self, event: Event) -> bool:
        """Whether `mark` has to come before the handler of this event."""
        transaction_id = transaction_id_of(event)
        if transaction_id is not None and transaction_id in self._transactions:
            return True
        oldest = self._being_marked or self._waiting
        return bool(oldest) and self._loop.time() - oldest[0].at > self._within + LONGEST_LAG_SECONDS

    @property
    def has_unmarked(self) -> bool:
        """Whether events wait for their mark, or are being marked."""
        return bool(self._waiting) or self._marking.locked()

    async def mark(self) -> None:
        """Mark what waits, and wait until what is being marked is marked.

        A cancellation ends the wait and not the commit, without which all these events would be handled again.
        """
        await asyncio.wait([self._start()])

    def mark_in_background(self) -> None:
        """Mark what waits, without waiting for that."""
        self._start()

    async def mark_here(self) -> None:
        """Do the same as `mark` in the caller's task, which costs less.

        A cancellation cuts off the commit, which may be written all the same: its events wait again, for another one.
        """
        async with self._marking:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            group = self._being_marked = self._waiting
            self._waiting = []
            try:
                if group:
                    await self._mark(group)
            except BaseException:
                # This task was cancelled: whoever waits for the last marks tries again.
                self._waiting = [*group, *self._waiting]
                raise
            else:
                self._transactions.difference_update(transaction_id_of(ended.event) for ended in group)
            finally:
                self._being_marked = ()
                self._schedule()

    async def _mark(self, group: Sequence[_EndedEvent]) -> None:
        try:
            lost = await self._inbox.mark([ended.event for ended in group], owner=self._owner)
        except BaseException as error:
            if must_propagate(error):
                raise
            self._on_failure(error)
            return
        for event, found, _ in group:
            if event.id not in lost:
                self._on_marked(event, found)
        if lost:
            self._on_failure(taken_over(min(lost)))

    def _schedule(self) -> None:
        """Mark later what waits, unless something is being marked, or a time is set already."""
        if self._waiting and self._timer is None and not self._being_marked:
            self._timer = self._loop.call_later(self._within, self.mark_in_background)

    def _start(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self.mark_here(), name="jetpay webhook marks")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
