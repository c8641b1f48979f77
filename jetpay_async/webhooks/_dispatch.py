"""Run the handlers of leased events, in order, and mark each event as its handler ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, cast

import attrs

from jetpay_async._core.log import logger
from jetpay_async.webhooks._event_reports import AttemptEnd
from jetpay_async.webhooks._failures import log_failure, must_propagate
from jetpay_async.webhooks._handler_watch import HandlerRun, HandlerWatch
from jetpay_async.webhooks._latest import calling_for_latest
from jetpay_async.webhooks._lease import LeaseLimit
from jetpay_async.webhooks._mark_group import MarkGroup
from jetpay_async.webhooks._records import transaction_id_of
from jetpay_async.webhooks._time_limits import SharedTimer, TimeLimit
from jetpay_async.webhooks.errors import InboxError, LeaseLostError, OutdatedEventError, shown
from jetpay_async.webhooks.events import TransactionEvent
from jetpay_async.webhooks.inbox import DeadLetter, DeadLetterInbox, GroupedMarksInbox, LatestStateInbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence

    from jetpay_async.webhooks._event_reports import EventReporter
    from jetpay_async.webhooks._lease import EventLease
    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import EventInbox
    from jetpay_async.webhooks.router import EventRouter


MARK_TIMEOUT_SECONDS = 5.0
"""How long the marks of a group may take at the end."""
MAX_ERROR_CHARACTERS = 500
"""How much of an exception's text a dead letter keeps."""


@attrs.frozen(kw_only=True)
class DispatchLimits:
    """How long and how often the handler of an event may be run, and what happens after a failure."""

    continue_on_error: bool
    handler_timeout: float | None
    """In seconds; None for no limit."""
    max_attempts: int | None
    """None for no limit."""
    on_dead_letter: Callable[[DeadLetter], Awaitable[object]] | None
    mark_within: float | None
    """In seconds; None marks each event by itself, before another handler starts."""
    reporter: EventReporter | None
    """Reports each attempt, if any."""


@attrs.frozen
class InboxAbilities:
    """What an inbox can do beside what each has to: itself, or None. Asking takes long, so it is asked once."""

    dead_letters: DeadLetterInbox | None
    grouped_marks: GroupedMarksInbox | None
    latest_states: LatestStateInbox | None

    @classmethod
    def of(cls, inbox: EventInbox) -> Self:
        """Look at the methods that it has."""
        return cls(
            inbox if isinstance(inbox, DeadLetterInbox) else None,
            inbox if isinstance(inbox, GroupedMarksInbox) else None,
            inbox if isinstance(inbox, LatestStateInbox) else None,
        )


class _HandlerTask:
    """A task that runs handlers one after the other.

    Args:
        task: The task.
        watch: Watches the handlers.
        is_cancelled: Says whether somebody else than a handler has cancelled it.
    """

    __slots__ = ("_is_cancelled", "task", "watch")

    def __init__(self, task: asyncio.Task[Any], watch: HandlerWatch, is_cancelled: Callable[[], bool]) -> None:
        self.task = task
        self.watch = watch
        self._is_cancelled = is_cancelled

    async def fail_if_cancelled_from_within(self) -> None:
        """Raise if the handler has cancelled its task: that would end this task, and the event would never fail."""
        if self._is_cancelled():
            return
        while self.task.uncancel():
            pass
        with suppress(asyncio.CancelledError):
            # A request that was not delivered yet would be delivered while the event is marked.
            await asyncio.sleep(0)
        # Also if it was cancelled by somebody else meanwhile, and then it is no failure of the handler.
        raise asyncio.CancelledError("the handler cancelled its own task")


class LeasedDispatch:
    """The handling of the events that one owner has leased.

    Attributes:
        handled: How many events a handler has handled.
        unhandled: How many were marked although there is no handler for their kind.
        failed: The events whose handler raised.
        dead: How many were set aside as dead letters.
        outdated: How many were marked without their handler, since a later event of the transaction was handled.
        problem: Why not all of them are done, as one code; None if nothing went wrong.
        stopped: Whether no further event is started.
        on_slow: Called when a handler takes long, and no further event is started since; None to go on.
        is_cancelled: Says whether the task that calls `run` was cancelled by somebody else than a handler. If it is
            set, events that are handled one after the other are handled in that task, which saves one.
        given_back: The ids of the events that were not started, and are not leased any more.
    """

    def __init__(
        self,
        inbox: EventInbox,
        router: EventRouter,
        lease: EventLease,
        limits: DispatchLimits,
        abilities: InboxAbilities,
        *,
        timer: SharedTimer,
    ) -> None:
        self.lease = lease
        self.handled = 0
        self.unhandled = 0
        self.dead = 0
        self.outdated = 0
        self.failed: list[Event] = []
        self.problem: str | None = None
        self.stopped = False
        self.on_slow: Callable[[], None] | None = None
        self.is_cancelled: Callable[[], bool] | None = None
        self.given_back: frozenset[int] = frozenset()
        self._events: Sequence[Event] = ()
        self._started: set[int] = set()
        self._slow = False
        self._inbox = inbox
        self._router = router
        self._limits = limits
        self._dead_letters = abilities.dead_letters
        self._latest_states = abilities.latest_states if router.has_latest else None
        if self._latest_states is not None:
            self._latest_states.remember_states()
        self._grouping = abilities.grouped_marks if self._may_group else None
        self._group: MarkGroup | None = None
        self._unfinished = 0
        self._timer = timer

    @property
    def _may_group(self) -> bool:
        # The mark says which event of a transaction is the last one, so it can't come later than its handler's end; and
        # a report says whether the event was marked, unless grouping was asked for.
        within = self._limits.mark_within
        if within is None or self._latest_states is not None:
            return False
        return within > 0 or self._limits.reporter is None

    def stop(self, problem: str) -> None:
        """Start no further event. Handlers that are running go on to their end."""
        self.stopped = True
        self.problem = self.problem or problem

    def stop_for(self, error: BaseException) -> None:
        """Stop because the inbox failed."""
        self.stop(log_inbox_failure(error))

    def give_back(self) -> Sequence[Event]:
        """Take what has not been started out of the lease, and return it, for the inbox to release."""
        self.given_back = frozenset(self.lease.pending - self._started)
        self.lease.pending -= self.given_back
        return [event for event in self._events if event.id in self.given_back]

    async def run(self, events: Sequence[Event]) -> None:
        """Handle events that the lease holds, given in the order of their ids."""
        task = asyncio.current_task()
        if not events or task is None:
            return
        self._events = events
        self._unfinished = len(events)
        watch = HandlerWatch(
            self._limits.handler_timeout, None if self.on_slow is None else self._go_on_without, self._timer
        )
        if self._grouping is not None:
            self._group = MarkGroup(
                self._grouping,
                owner=self.lease.owner,
                within=self._limits.mark_within or 0.0,
                on_marked=self._count_marked,
                on_failure=self.stop_for,
            )
        try:
            with LeaseLimit(self.lease, task, self._timer) as limit:
                try:
                    await self._handle_all(_sequences(events, self._router.concurrency), watch, task, limit)
                finally:
                    await limit.stop_renewing()
        except LeaseLostError as error:
            self.stop_for(error)
        finally:
            # Also when this is cancelled: what is not marked is handled again.
            if self._group is not None:
                await self._mark_rest(self._group, task)

    async def _handle_all(
        self, sequences: Sequence[Sequence[Event]], watch: HandlerWatch, task: asyncio.Task[Any], limit: LeaseLimit
    ) -> None:
        remaining = iter(sequences)
        is_cancelled = self.is_cancelled
        if len(sequences) == 1 and is_cancelled is not None:
            here = _HandlerTask(task, watch, lambda: limit.expired or is_cancelled())
            await self._handle_sequences(remaining, here)
            if task.cancelling():
                # A handler has ignored that.
                raise asyncio.CancelledError
            return

        async def work() -> None:
            own_task = cast("asyncio.Task[None]", asyncio.current_task())
            await self._handle_sequences(remaining, _HandlerTask(own_task, watch, lambda: task.cancelling() > 0))

        async with asyncio.TaskGroup() as workers:
            for _ in range(min(self._router.concurrency, len(sequences))):
                workers.create_task(work())

    async def _mark_rest(self, group: MarkGroup, task: asyncio.Task[Any]) -> None:
        """Mark all that is left, also if this is cancelled meanwhile; the lease is released after it."""
        until = self._timer.loop.time() + MARK_TIMEOUT_SECONDS
        cancellation: asyncio.CancelledError | None = None
        mark = group.mark_here
        while group.has_unmarked:
            limit = TimeLimit(task, self._timer)
            limit.when = until
            try:
                with limit:
                    await mark()
            except TimeoutError:
                # To be begun before the lease is released.
                group.mark_in_background()
                await asyncio.sleep(0)
                break
            except asyncio.CancelledError as error:
                cancellation = error
            mark = group.mark
        if group.has_unmarked:
            self.stop_for(TimeoutError(f"events could not be marked within {MARK_TIMEOUT_SECONDS:g} s"))
        if cancellation is not None:
            raise cancellation

    async def _handle_sequences(self, remaining: Iterator[Sequence[Event]], worker: _HandlerTask) -> None:
        for sequence in remaining:
            for event in sequence:
                if self._group is not None:
                    if self._group.is_due_before(event):
                        await self._group.mark()
                    self._check_lease()
                if self.stopped or self._slow or worker.task.cancelling():
                    return
                if self.failed and self._waits_for_failed(event):
                    continue
                self._started.add(event.id)
                if self._limits.reporter is None:
                    await self._attempt(event, worker)
                else:
                    await self._limits.reporter.observe(event, self._attempt(event, worker))
                self._unfinished -= 1

    def _check_lease(self) -> None:
        """Stop before the next handler starts if the lease has run out."""
        if not self.lease.held:
            # A handler that blocked the loop for so long; what else notices that needs the loop.
            self.stop_for(LeaseLostError("the lease has run out; another worker may have the events"))

    async def _attempt(self, event: Event, worker: _HandlerTask) -> AttemptEnd:
        if self._latest_states is None or not isinstance(event, TransactionEvent):
            return await self._handle(event, worker)
        async with self._router.in_order(event.transaction_id):
            return await self._handle_if_latest(event, self._latest_states, worker)

    async def _handle_if_latest(
        self, event: TransactionEvent, inbox: LatestStateInbox, worker: _HandlerTask
    ) -> AttemptEnd:
        """Handle an event of a transaction whose events are handled one at a time in this process."""
        if not self._router.latest_only(event):
            return await self._handle(event, worker)
        try:
            last = await inbox.last_handled(event.transaction_id)
        except BaseException as error:
            if must_propagate(error):
                raise
            return self._leave(error)
        if last is not None and last.event_id > event.id:
            return await self._mark_outdated(event)
        with calling_for_latest():
            return await self._handle(event, worker)

    async def _mark_outdated(self, event: Event) -> AttemptEnd:
        logger.debug("event %d (%s) is outdated: marked without calling its handler", event.id, shown(event.type))
        try:
            async with self._inbox.handling(event, owner=self.lease.owner):
                pass
        except BaseException as error:
            if must_propagate(error):
                raise
            return self._leave(error)
        self.lease.pending.discard(event.id)
        self.outdated += 1
        return AttemptEnd("outdated")

    async def _handle(self, event: Event, worker: _HandlerTask) -> AttemptEnd:
        run = HandlerRun(worker.watch, event, worker.task)
        try:
            if self._grouping is None:
                async with self._inbox.handling(event, owner=self.lease.owner):
                    found = await self._run_handler(run, worker)
            else:
                with self._grouping.handling_unmarked(owner=self.lease.owner):
                    found = await self._run_handler(run, worker)
        except BaseException as error:
            if must_propagate(error):
                raise
            if error is run.failure and isinstance(error, OutdatedEventError):
                return await self._mark_outdated(event)
            if error is run.failure and await self._is_handlers_own(event, error):
                return await self._record_failure(event, error)
            return self._leave(error)
        if self._group is None:
            self._count_marked(event, found)
        else:
            # After the last one, `run` marks at once.
            self._group.add(event, found=found, more=self._unfinished > 1)
        return AttemptEnd("handled" if found else "unhandled")

    async def _is_handlers_own(self, event: Event, error: BaseException) -> bool:
        """Whether what a handler raised is its failure: a LeaseLostError is not, unless the event is still leased."""
        if not isinstance(error, LeaseLostError):
            return True
        if self._dead_letters is None:
            return False
        try:
            return await self.lease.confirm(event)
        except BaseException as inbox_error:
            if must_propagate(inbox_error):
                raise
            return False

    def _leave(self, error: BaseException) -> AttemptEnd:
        self.stop_for(error)
        return AttemptEnd("left", error)

    def _count_marked(self, event: Event, found: bool) -> None:  # noqa: FBT001 - called by position
        self.lease.pending.discard(event.id)
        self.handled += found
        self.unhandled += not found

    async def _run_handler(self, run: HandlerRun, worker: _HandlerTask) -> bool:
        try:
            try:
                with run:
                    return await self._router.dispatch(run.event)
            except TimeoutError as error:
                if run.expired:
                    seconds = self._limits.handler_timeout
                    raise TimeoutError(f"the handler was cancelled after {seconds:g} s (handler_timeout)") from error
                raise
            finally:
                if worker.task.cancelling():
                    await worker.fail_if_cancelled_from_within()
        except BaseException as error:
            run.failure = error
            raise

    def _go_on_without(self) -> None:
        if self.on_slow is not None and not self._slow:
            self._slow = True
            self.on_slow()

    async def _record_failure(self, event: Event, error: BaseException) -> AttemptEnd:
        log_failure(error, "the handler of event %d (%s) failed", event.id, shown(event.type))
        try:
            if await self._set_aside(event, error):
                return AttemptEnd("dead", error)
        except BaseException as inbox_error:
            if must_propagate(inbox_error):
                raise
            self.stop_for(inbox_error)
        self.failed.append(event)
        self.problem = self.problem or "handler_failed"
        self.stopped = self.stopped or not self._limits.continue_on_error
        return AttemptEnd("failed", error)

    async def _set_aside(self, event: Event, error: BaseException) -> bool:
        """Count the failure, and return whether the event is a dead letter now."""
        if self._dead_letters is None or self._limits.max_attempts is None:
            return False
        text = f"{type(error).__name__}: {shown(str(error), MAX_ERROR_CHARACTERS)}"
        attempt = await self._dead_letters.record_failure(
            event, owner=self.lease.owner, error=text, max_attempts=self._limits.max_attempts
        )
        if not attempt.is_dead:
            return False
        self.dead += 1
        self.lease.pending.discard(event.id)
        logger.error(
            "event %d (%s) is a dead letter now: %d attempts failed", event.id, shown(event.type), attempt.attempts
        )
        if self._limits.on_dead_letter is not None:
            letter = DeadLetter(event=event, attempts=attempt.attempts, error=text, failed_at=datetime.now(UTC))
            try:
                async with asyncio.timeout(self._limits.handler_timeout):
                    await self._limits.on_dead_letter(letter)
            except BaseException as hook_error:
                if must_propagate(hook_error):
                    raise
                log_failure(hook_error, "on_dead_letter failed for event %d", event.id)
        return True

    def _waits_for_failed(self, event: Event) -> bool:
        transaction_id = transaction_id_of(event)
        return transaction_id is not None and any(transaction_id_of(failed) == transaction_id for failed in self.failed)


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
        sequences.setdefault(transaction_id_of(event), []).append(event)
    return list(sequences.values())
