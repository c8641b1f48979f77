"""Run the handlers of leased events, in order, and mark each event as its handler ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jetpay_async.webhooks._failures import log_failure, must_propagate
from jetpay_async.webhooks.errors import InboxError, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from jetpay_async.webhooks._lease import EventLease
    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import EventInbox
    from jetpay_async.webhooks.router import EventRouter


class LeasedDispatch:
    """The handling of the events that one owner has leased.

    Attributes:
        handled: How many events a handler has handled.
        unhandled: How many were marked although there is no handler for their kind.
        failed: The events whose handler raised.
        problem: Why not all of them are done, as one code; None if nothing went wrong.
        stopped: Whether no further event is started.
    """

    def __init__(self, inbox: EventInbox, router: EventRouter, lease: EventLease, *, continue_on_error: bool) -> None:
        self.lease = lease
        self.handled = 0
        self.unhandled = 0
        self.failed: list[Event] = []
        self.problem: str | None = None
        self.stopped = False
        self._inbox = inbox
        self._router = router
        self._continue_on_error = continue_on_error

    def stop(self, problem: str) -> None:
        """Start no further event. Handlers that are running go on to their end."""
        self.stopped = True
        self.problem = self.problem or problem

    def stop_for(self, error: BaseException) -> None:
        """Stop because the inbox failed."""
        self.stop(log_inbox_failure(error))

    async def run(self, events: Sequence[Event]) -> None:
        """Handle events that the lease holds, given in the order of their ids."""
        if not events:
            return
        sequences = _sequences(events, self._router.concurrency)
        remaining = iter(sequences)
        try:
            async with self.lease.renewed(), asyncio.TaskGroup() as workers:
                for _ in range(min(self._router.concurrency, len(sequences))):
                    workers.create_task(self._handle_sequences(remaining))
        except LeaseLostError as error:
            self.stop_for(error)

    async def _handle_sequences(self, remaining: Iterator[Sequence[Event]]) -> None:
        for sequence in remaining:
            for event in sequence:
                if self.stopped:
                    return
                if not self._waits_for_failed(event):
                    await self._handle(event)

    async def _handle(self, event: Event) -> None:
        failure: BaseException | None = None
        found = False
        try:
            async with self._inbox.handling(event, owner=self.lease.owner):
                try:
                    found = await self._router.dispatch(event)
                except BaseException as error:
                    failure = error
                    raise
        except BaseException as error:
            if must_propagate(error):
                raise
            if error is failure and not isinstance(error, LeaseLostError):
                self._record_failure(event, error)
            else:
                self.stop_for(error)
            return
        self.lease.pending -= {event.id}
        self.handled += found
        self.unhandled += not found

    def _record_failure(self, event: Event, error: BaseException) -> None:
        log_failure(error, "the handler of event %d (%s) failed", event.id, event.type)
        self.failed.append(event)
        self.problem = self.problem or "handler_failed"
        self.stopped = self.stopped or not self._continue_on_error

    def _waits_for_failed(self, event: Event) -> bool:
        transaction_id = _transaction_id(event)
        return transaction_id is not None and any(_transaction_id(failed) == transaction_id for failed in self.failed)


def log_inbox_failure(error: BaseException) -> str:
    """Log what an inbox raised, and return its code."""
    reason = error.reason if isinstance(error, InboxError) else "unavailable"
    log_failure(error, "the inbox failed (%s): %s", reason, error)
    return reason


def _sequences(events: Sequence[Event], concurrency: int) -> Sequence[Sequence[Event]]:
    """Split the events into sequences that must stay in order: all of them, or those of each transaction."""
    if concurrency == 1:
        return [events]
    sequences: dict[Hashable, list[Event]] = {}
    for event in events:
        sequences.setdefault(_transaction_id(event), []).append(event)
    return list(sequences.values())


def _transaction_id(event: Event) -> str | None:
    transaction_id: str | None = getattr(event, "transaction_id", None)
    return transaction_id
