"""Hand events that are leased to their handlers, in order, and mark each as its handler ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jetpay_async._core.log import logger
from jetpay_async.webhooks.inbox import InboxError, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from jetpay_async.webhooks._lease import EventLease
    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import EventInbox
    from jetpay_async.webhooks.router import EventRouter


class LeasedDispatch:
    """One owner's turn at some events.

    Attributes:
        handled: How many events a handler has taken.
        unhandled: How many were marked although no handler takes their kind.
        failed: The events whose handler raised.
        problem: Why not all of them are done, as one code; None if nothing went wrong.
        stopped: Whether no further event is started.
    """

    def __init__(self, inbox: EventInbox, router: EventRouter, lease: EventLease, *, goes_on: bool) -> None:
        self.lease = lease
        self.handled = 0
        self.unhandled = 0
        self.failed: list[Event] = []
        self.problem: str | None = None
        self.stopped = False
        self._inbox = inbox
        self._router = router
        self._goes_on = goes_on

    def stop(self, problem: str) -> None:
        """Start no further event. The handlers that run go on to their end."""
        self.stopped = True
        self.problem = self.problem or problem

    async def work(self, events: Sequence[Event]) -> None:
        """Handle events that the lease holds, given in the order of their ids."""
        if not events:
            return
        lanes = _lanes(events, self._router.concurrency)
        rest = iter(lanes)
        try:
            async with self.lease.kept(), asyncio.TaskGroup() as crew:
                for _ in range(min(self._router.concurrency, len(lanes))):
                    crew.create_task(self._walk(rest))
        except LeaseLostError as error:
            self.stop_for(error)

    def stop_for(self, error: Exception) -> None:
        """Stop because the inbox failed."""
        self.stop(inbox_failed(error))

    async def _walk(self, lanes: Iterator[Sequence[Event]]) -> None:
        for lane in lanes:
            for event in lane:
                if self.stopped:
                    return
                if not self._waits_for_failed(event):
                    await self._hand_over(event)

    async def _hand_over(self, event: Event) -> None:
        failure: Exception | None = None
        found = False
        try:
            async with self._inbox.handling(event, owner=self.lease.owner):
                try:
                    found = await self._router.dispatch(event)
                except Exception as error:
                    failure = error
                    raise
        except Exception as error:  # noqa: BLE001 - a handler, or an inbox, may raise anything; nothing gets out
            if error is failure and not isinstance(error, LeaseLostError):
                self._fail(event, error)
            else:
                self.stop_for(error)
            return
        self.lease.pending -= {event.id}
        self.handled += found
        self.unhandled += not found

    def _fail(self, event: Event, error: Exception) -> None:
        logger.error("the handler of event %d (%s) failed", event.id, event.type, exc_info=error)
        self.failed.append(event)
        self.problem = self.problem or "handler_failed"
        self.stopped = self.stopped or not self._goes_on

    def _waits_for_failed(self, event: Event) -> bool:
        transaction = _transaction_of(event)
        return transaction is not None and any(_transaction_of(failed) == transaction for failed in self.failed)


def inbox_failed(error: Exception) -> str:
    """Log what an inbox raised, and name it with one code."""
    reason = error.reason if isinstance(error, InboxError) else "unavailable"
    logger.error("the inbox failed (%s): %s", reason, error, exc_info=error)
    return reason


def _lanes(events: Sequence[Event], concurrency: int) -> Sequence[Sequence[Event]]:
    """Split into what must stay in order: all of it, or the events of each transaction."""
    if concurrency == 1:
        return [events]
    lanes: dict[Hashable, list[Event]] = {}
    for event in events:
        lanes.setdefault(_transaction_of(event), []).append(event)
    return list(lanes.values())


def _transaction_of(event: Event) -> str | None:
    transaction: str | None = getattr(event, "transaction_id", None)
    return transaction
