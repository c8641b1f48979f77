"""From the raw body of a delivery to handled events and the status to answer with.

::

    receive(body, authorization)
        │
        ├─ verify ───────── rejected: 400, 401, 403, 413 or 503, as the error says
        ├─ lease ────────── what was handled before is skipped; what another worker holds: 503
        ├─ dispatch ─────── each event to its handler, in the order of ids
        ├─ mark ─────────── each event as its handler ends, so that a redelivery skips it
        ▼
    DeliveryResponse(status=200) if nothing is left; 500 or 503 otherwise, and Jetpay sends the delivery again
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Literal, Protocol, Self

import attrs

from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.fork import ForkGuard
from jetpay_async._core.log import logger
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks._backlog import BacklogReporter, read_backlog
from jetpay_async.webhooks._dispatch import DispatchLimits, InboxAbilities, LeasedDispatch, log_inbox_failure
from jetpay_async.webhooks._event_reports import StoredEventReport, reporter_for
from jetpay_async.webhooks._failures import log_failure, must_propagate
from jetpay_async.webhooks._lease import RELEASE_TIMEOUT_SECONDS, EventLease, ensure_leased
from jetpay_async.webhooks._request import DeliveryRequest, Headers
from jetpay_async.webhooks._stored_worker import StoredEventWorker
from jetpay_async.webhooks._time_limits import Alarm, SharedTimer
from jetpay_async.webhooks.errors import InvalidTokenError, MalformedDeliveryError, WebhookError
from jetpay_async.webhooks.events import Delivery, Event
from jetpay_async.webhooks.inbox import (
    Backlog,
    BacklogInbox,
    DeadLetter,
    DurableEventInbox,
    EventInbox,
    LatestStateInbox,
)
from jetpay_async.webhooks.router import EventRouter

__all__ = [
    "DeliveryReport",
    "DeliveryResponse",
    "DeliveryVerifier",
    "StoredEventReport",
    "WebhookReceiver",
    "ensure_leased",
]

# The rest of the response timeout is for the way of the answer.
_RESPONSE_SHARE = 0.9
# A handler that takes too long fails, and is logged as such, before the answer is due.
_HANDLER_SHARE = 0.8
# How much of it the reading of the backlog may take, after the rest is done.
_BACKLOG_SHARE = 0.05
# How long running handlers may take to end when the receiver is closed: less than servers wait before they kill.
_CLOSE_TIMEOUT_SECONDS = 5.0


class DeliveryVerifier(Protocol):
    """Verifies and decodes deliveries: a `~jetpay_async.webhooks.WebhookVerifier`, or a fake of it in tests."""

    async def verify(
        self,
        body: bytes | bytearray | memoryview,
        authorization: str | bytes | None = None,
        *,
        headers: Headers | None = None,
    ) -> Delivery:
        """Return the delivery, or raise a `WebhookError`."""
        ...


@attrs.frozen(kw_only=True)
class DeliveryResponse:
    """What to answer, and why."""

    status: int
    """The HTTP status. Jetpay takes any 2xx as "received" and sends the delivery again after any other [docs]."""
    reason: str
    """One stable code. ``handled`` or ``stored``; the `WebhookError.reason` of a rejected delivery; ``handler_failed``;
    ``busy`` (another worker holds the events), ``lease_lost``, ``out_of_time``, ``closed``, ``cancelled`` (by the inbox
    itself), or the `InboxError.reason`. An adapter that gives up reading a body: ``body_too_large`` (413),
    ``body_timeout`` (408), ``body_unreadable`` (400)."""
    handled: int = 0
    """How many events were handled now."""
    unhandled: int = 0
    """How many were acknowledged although there is no handler for their kind."""
    skipped: int = 0
    """How many had been handled, or stored, before."""
    stored: int = 0
    """How many were written to disk, to be handled after this answer."""
    dead: int = 0
    """How many were set aside as dead letters, since handling them failed too often."""
    outdated: int = 0
    """How many were marked without calling their handler, which is registered with ``latest=True``: a later event of
    the transaction was handled before."""
    left: int = 0
    """How many are still to be handled, after Jetpay has sent them again."""


@attrs.frozen(kw_only=True)
class DeliveryReport:
    """A delivery that was answered, for ``WebhookReceiver(on_delivery=...)``: metrics, tracing, alarms."""

    response: DeliveryResponse
    """What was answered: the status, the reason, and how many events were handled, skipped, stored or left."""
    started_at: float
    """When it began, in seconds since the epoch."""
    duration: float
    """Seconds until the answer."""
    delivery: Delivery | None
    """What was delivered; None if it was rejected."""
    missing: int = 0
    """How many ids below those of the delivery had never arrived, although Jetpay skips none [docs], and were not
    reported by a delivery before: see ``on_missing_events``."""
    backlog: Backlog | None = None
    """What waited to be handled at the end of the delivery. None if it was rejected or ran out of time, if the inbox is
    no `~jetpay_async.webhooks.inbox.BacklogInbox`, or if it could not be read quickly."""

    @property
    def oldest_pending(self) -> float | None:
        """Seconds from ``created_at`` of the oldest event that waits to the answer; None if none is known to wait."""
        return None if self.backlog is None else self.backlog.age(self.started_at + self.duration)

    @property
    def lag(self) -> float | None:
        """Seconds from the oldest event's ``created_at`` to the start; None if it was rejected or empty.

        A batch waits up to ``max_wait_seconds`` at Jetpay [docs]; more is the time that deliveries had to be repeated.
        """
        if self.delivery is None or not self.delivery.events:
            return None
        return self.started_at - min(event.created_at for event in self.delivery.events).timestamp()


_CLOSED = DeliveryResponse(status=503, reason="closed")


class _Progress(Alarm):
    """What a delivery, its task and the answer to it know of each other; rings when the answer is due.

    Attributes:
        answered: Done when there is something to answer.
        missing: How many ids below those of the delivery had never arrived.
        is_cancelled: Whether the receiver has cancelled the task.
    """

    __slots__ = ("_witness", "answered", "is_cancelled", "missing")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answered: asyncio.Future[None] = loop.create_future()
        self.missing = 0
        self.is_cancelled = False
        self._witness: asyncio.Task[object] | None = None

    @property
    def is_abandoned(self) -> bool:
        """Whether the task was cancelled by the receiver, or, since nobody waits for it, with all others of the loop.

        A handler that cancels its own task has failed, and the events after it are still to be handled.
        """
        return self.is_cancelled or (self._witness is not None and self._witness.cancelling() > 0)

    def go_on_unawaited(self, task: asyncio.Task[DeliveryResponse]) -> None:
        """Note that nobody waits for the task any more, who would cancel it when the program ends."""
        self._witness = task.get_loop().create_task(_wait_for(task))

    def ring(self) -> None:
        """Let the delivery be answered now."""
        if not self.answered.done():
            self.answered.set_result(None)


class WebhookReceiver:
    """Receive deliveries: verify, skip what is done, run the handler of each event once, and return what to answer.

    Use it as an async context manager around the life of the web application: leaving it lets running handlers end, and
    entering it starts the handling of stored events, which ``acknowledge="after_storing"`` needs. Entering it again
    opens it again.

    ::

        receiver = WebhookReceiver(WebhookVerifier(keys, webhook_ids={123}), router, inbox=SqliteInbox("inbox.db"))
        response = await receiver.receive(await request.body(), headers=request.headers)
        return Response(status_code=response.status)

    Context variables of the caller are visible in the handlers.

    Args:
        verifier: Verifies and decodes; see `~jetpay_async.webhooks.WebhookVerifier`.
        router: Has the handlers.
        inbox: Remembers what was handled. See `~jetpay_async.webhooks.inbox` for what each kind guarantees.
        on_error: When a handler raises: ``"continue"`` goes on with the other events, except later ones of the same
            transaction; ``"stop"`` starts no further event, so that the order of ids is kept. Either way what is done
            stays done, and the answer is a 500, so Jetpay sends the delivery again, and the remaining events are
            handled then.
        acknowledge: ``"after_handling"``: a 2xx means that every event is handled. ``"after_storing"``: a 2xx means
            that every event is on disk; they are handled right after that, and after a crash at the next start. Failed
            ones are tried again after 1 s, 2 s, 4 s, ... up to a minute; later events of the same transaction wait for
            them, with ``on_error="stop"`` all later events. Needs a
            `~jetpay_async.webhooks.inbox.DurableEventInbox` such as `SqliteInbox`, and ``async with``.
        response_timeout: Seconds that Jetpay waits for the answer: 15 [docs]. When nine tenths have passed, the answer
            is a 503 ``out_of_time``. Running handlers are not interrupted, so the redelivery finds their events done.
        handler_timeout: Seconds after which a handler is cancelled; that counts as a failure. With
            ``acknowledge="after_handling"`` it is at most eight tenths of ``response_timeout``. None for no limit: a
            handler that never ends then blocks its worker. A handler that runs for long is logged before. Threads are
            not interrupted (`asyncio.to_thread`); what one commits with `SqliteInbox.mark_handled` after the time is
            rolled back. It bounds ``on_dead_letter`` and ``on_missing_events``, too.
        max_attempts: How often an event may fail before it is set aside as a **dead letter**: it counts as handled,
            later events of its transaction go on, and it waits to be replayed or discarded. None for no limit. Has an
            effect with an inbox that keeps dead letters, such as `SqliteInbox`.
        mark_within: Seconds by which the mark of an event may come after the end of its handler, so that several events
            are marked in one commit. 0: its marking begins as its handler ends, and the events whose handlers end while
            a commit is written share the next one. No handler starts while an event of its transaction, or one whose
            handler ended more than ``mark_within`` and 50 ms ago, is not marked, and all are marked before the answer;
            so a crash lets those events be handled again whose handlers ended in this time, and no others. None: each
            event is marked before its worker starts another handler (so it is with ``on_stored_event`` and 0, whose
            reports say whether the event was marked). Handlers that mark in your own transaction need none of this. At
            most a quarter of ``lease_seconds``.
        on_dead_letter: An async function that is called with each new `~jetpay_async.webhooks.inbox.DeadLetter`.
        lease_seconds: Seconds after which another worker may take over the events of one that has died. Leases are
            renewed while handlers run, so this doesn't limit a handler; it must be longer than any stall of the event
            loop.
        poll_interval: Seconds between reads of the events that another, dead process has stored.
        on_missing_events: An async function that is called with ``first, last``: these ids have not arrived, although a
            later one has. Jetpay doesn't skip ids [docs], so they are late or lost; late ones are handled when they
            come, lost ones come after a replay with ``replay_from_event_id=first``. It runs before the events are
            handled.
        on_delivery: Called with a `DeliveryReport` for each delivery that is answered, rejected ones too: for metrics
            and tracing; `jetpay_async.opentelemetry.OpenTelemetryDeliveries` is one. Synchronous and quick; what it
            raises is logged.
        on_stored_event: Called with a `StoredEventReport` for each attempt to handle an event after its delivery was
            answered (``acknowledge="after_storing"``, and what was stored before);
            `OpenTelemetryDeliveries.record_stored_event` is one. Synchronous and quick; what it raises is logged.
        on_backlog: Called with a `~jetpay_async.webhooks.inbox.Backlog` every ``poll_interval`` seconds while the
            receiver is entered, so that a gauge falls when stored events are handled, and shows those that wait while
            nothing is delivered; `OpenTelemetryDeliveries.record_backlog` is one. Synchronous and quick; what it raises
            is logged.
        clock: Where time and chance come from.

    Raises:
        InvalidArgumentError: A number is not positive, ``max_attempts`` is less than 1, or ``on_error`` or
            ``acknowledge`` is none of the above.
        ConfigurationError: ``acknowledge="after_storing"`` with an inbox that can't store events, or ``on_backlog``
            with one that can't say how many wait (`~jetpay_async.webhooks.inbox.BacklogInbox`).
    """

    def __init__(
        self,
        verifier: DeliveryVerifier,
        router: EventRouter,
        *,
        inbox: EventInbox,
        on_error: Literal["stop", "continue"] = "continue",
        acknowledge: Literal["after_handling", "after_storing"] = "after_handling",
        response_timeout: float = 15.0,
        handler_timeout: float | None = 60.0,
        max_attempts: int | None = 100,
        mark_within: float | None = 0.0,
        on_dead_letter: Callable[[DeadLetter], Awaitable[object]] | None = None,
        lease_seconds: float = 30.0,
        poll_interval: float = 5.0,
        on_missing_events: Callable[[int, int], Awaitable[object]] | None = None,
        on_delivery: Callable[[DeliveryReport], object] | None = None,
        on_stored_event: Callable[[StoredEventReport], object] | None = None,
        on_backlog: Callable[[Backlog], object] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        for name, seconds in (
            ("response_timeout", response_timeout),
            ("lease_seconds", lease_seconds),
            ("poll_interval", poll_interval),
        ):
            check_seconds(name, seconds)
        if handler_timeout is not None:
            check_seconds("handler_timeout", handler_timeout)
        check_seconds("mark_within", 0.0 if mark_within is None else mark_within, zero=True, most=lease_seconds / 4)
        if max_attempts is not None and max_attempts < 1:
            raise InvalidArgumentError(f"max_attempts: must be at least 1, not {max_attempts}", field="max_attempts")
        if on_error not in ("stop", "continue"):
            raise InvalidArgumentError(f"on_error: {on_error!r} is neither 'stop' nor 'continue'", field="on_error")
        if acknowledge not in ("after_handling", "after_storing"):
            raise InvalidArgumentError(
                f"acknowledge: {acknowledge!r} is neither 'after_handling' nor 'after_storing'", field="acknowledge"
            )
        durable = inbox if isinstance(inbox, DurableEventInbox) else None
        if acknowledge == "after_storing" and durable is None:
            raise ConfigurationError(
                f"acknowledge='after_storing' needs an inbox that stores events on disk; {type(inbox).__name__} does"
                f" not, SqliteInbox does"
            )
        counting = inbox if isinstance(inbox, BacklogInbox) else None
        self._backlog_reporter: BacklogReporter | None = None
        if on_backlog is not None:
            self._backlog_reporter = BacklogReporter(_counting(inbox), on_backlog, interval=poll_interval, clock=clock)
        self._backlog_of = None if on_delivery is None else counting
        self._verifier = verifier
        self._router = router
        self._inbox = inbox
        self._abilities = InboxAbilities.of(inbox)
        self._limits = DispatchLimits(
            continue_on_error=on_error == "continue",
            handler_timeout=handler_timeout,
            max_attempts=max_attempts,
            on_dead_letter=on_dead_letter,
            mark_within=mark_within,
            reporter=reporter_for(on_stored_event, clock),
        )
        self._delivery_limits = attrs.evolve(self._limits, reporter=None)
        if handler_timeout is not None:
            in_time = min(handler_timeout, response_timeout * _HANDLER_SHARE)
            self._delivery_limits = attrs.evolve(self._delivery_limits, handler_timeout=in_time)
        self._response_timeout = response_timeout
        self._lease_seconds = lease_seconds
        self._on_missing_events = on_missing_events
        self._on_delivery = on_delivery
        self._clock = clock
        self._stored_worker: StoredEventWorker | None = None
        if durable is not None:
            # Also without acknowledge="after_storing": an earlier run may have left stored events.
            self._stored_worker = StoredEventWorker(
                durable,
                self._dispatching,
                continue_on_error=self._limits.continue_on_error,
                poll_interval=poll_interval,
                clock=clock,
            )
        self._stores_with = self._stored_worker if acknowledge == "after_storing" else None
        self._dispatches: set[LeasedDispatch] = set()
        self._deliveries: dict[asyncio.Task[DeliveryResponse], _Progress] = {}
        self._timer: SharedTimer | None = None
        self._closed = False
        self._has_warned = False
        self._entered_in: ForkGuard | None = None

    async def receive(
        self,
        body: bytes | bytearray | memoryview,
        authorization: str | bytes | None = None,
        *,
        headers: Headers | None = None,
    ) -> DeliveryResponse:
        """Receive one delivery.

        Args:
            body: The bytes of the request exactly as received, before any parsing.
            authorization: The value of the ``Authorization`` header; None if there was none, or to take it from
                ``headers``.
            headers: All headers of the request, as the framework has them; needed for a ``callback_api_key``.

        Returns:
            What to answer. Errors of handlers, of the inbox and of the verification are logged and not raised.

        Raises:
            ConfigurationError: ``acknowledge="after_storing"``, and the receiver was not entered with ``async with``;
                a handler is registered with ``latest=True``, and the inbox does not remember states; or the verifier
                needs ``headers``, and they were not passed.
            InvalidArgumentError: The body isn't bytes.
        """
        request = DeliveryRequest(body, authorization, headers)
        del body, authorization, headers  # error reporters collect local variables
        started = self._clock.monotonic()
        started_at = self._clock.time()
        if self._closed:
            return self._report(_CLOSED, None, started_at, started)
        self._warn_of_foreign_deliveries()
        self._check_latest()
        if self._stores_with is not None and not self._stores_with.running:
            raise ConfigurationError(
                "acknowledge='after_storing' needs 'async with receiver:' around the application's life"
            )
        try:
            delivery = await self._verifier.verify(request.body, request.authorization, headers=request.headers)
        except WebhookError as error:
            return self._report(_rejected(error), None, started_at, started)
        loop = asyncio.get_running_loop()
        timer = self._timer_of(loop)
        progress = _Progress(loop)
        if self._stores_with is None:
            work = self._handle(delivery, progress, timer)
        else:
            work = self._store(delivery, progress, self._stores_with)
        task = loop.create_task(work)
        self._deliveries[task] = progress
        task.add_done_callback(self._end)
        elapsed = self._clock.monotonic() - started
        progress.when = loop.time() + max(0.0, self._response_timeout * _RESPONSE_SHARE - elapsed)
        timer.start(progress)
        try:
            await progress.answered
        except asyncio.CancelledError:
            progress.is_cancelled = True
            await _cancel([task])
            raise
        finally:
            timer.stop(progress)
        if not task.done():
            progress.go_on_unawaited(task)
            response = DeliveryResponse(status=503, reason="out_of_time", left=len(delivery.events))
        elif task.cancelled():
            # An inbox may have cancelled the task that it was called in.
            reason = "closed" if self._closed else "cancelled"
            response = DeliveryResponse(status=503, reason=reason, left=len(delivery.events))
        else:
            response = task.result()
        if response.left:
            logger.warning("answering %d (%s): %d events are left", response.status, response.reason, response.left)
        backlog: Backlog | None = None
        if self._backlog_of is not None and task.done():
            backlog = await read_backlog(self._backlog_of, within=self._response_timeout * _BACKLOG_SHARE)
        return self._report(response, delivery, started_at, started, missing=progress.missing, backlog=backlog)

    async def check_headers(self, headers: Headers) -> DeliveryResponse | None:
        """Reject a delivery before its body is read, if its headers suffice for that: the token, the callback's key.

        The adapters do this. Otherwise anybody can make this process read and keep bodies that it rejects later.

        Args:
            headers: All headers of the request, as the framework has them.

        Returns:
            What to answer without reading the body; None to read it and call `receive`.
        """
        check = getattr(self._verifier, "check_headers", None)
        started, started_at = self._clock.monotonic(), self._clock.time()
        if self._closed:
            return self._report(_CLOSED, None, started_at, started)
        if check is None:  # a verifier of the user's own
            return None
        checking: Awaitable[object] = check(headers)
        del headers  # as above
        try:
            await checking
        except WebhookError as error:
            return self._report(_rejected(error), None, started_at, started)
        return None

    def reject_unread(self, status: int, reason: str, *, duration: float) -> DeliveryResponse:
        """Reject a delivery while its body is read, and report it: for adapters, which limit what they read.

        Args:
            status: What to answer: 413 for a body that is too large, 408 for one that takes too long, 400 for one that
                can't be read to its end.
            reason: One stable code, such as ``body_too_large``, ``body_timeout`` or ``body_unreadable``.
            duration: Seconds that it took until now.

        Returns:
            What to answer.
        """
        logger.warning("rejected a delivery with %d (%s) before its body was read", status, reason)
        started = self._clock.monotonic() - duration
        response = DeliveryResponse(status=status, reason=reason)
        return self._report(response, None, self._clock.time() - duration, started)

    async def last_contiguous_event_id(self) -> int | None:
        """Return the id up to which nothing is missing: the value for ``replay_from_event_id``.

        A replay is inclusive [docs] and events that were handled are skipped, so too low an id does no harm.

        Returns:
            The highest id such that every event from the lowest ever seen up to it is handled; None if there is none.
        """
        return await self._inbox.last_contiguous_event_id()

    async def aclose(self) -> None:
        """Accept no more deliveries, let running handlers end for some seconds, then cancel them.

        The inbox stays open: close it after this. In a forked child this leaves the parent's tasks alone.
        """
        self._closed = True
        if self._entered_in is not None and self._entered_in.forked:
            self._dispatches.clear()
            self._deliveries.clear()
            if self._stored_worker is not None:
                self._stored_worker.forget()
            if self._backlog_reporter is not None:
                self._backlog_reporter.forget()
            return
        if self._backlog_reporter is not None:
            await self._backlog_reporter.aclose()
        for dispatch in self._dispatches:
            dispatch.stop("closed")
        if self._stored_worker is not None:
            await self._stored_worker.aclose(timeout=_CLOSE_TIMEOUT_SECONDS)
        if self._deliveries:
            _, late = await asyncio.wait(self._deliveries, timeout=_CLOSE_TIMEOUT_SECONDS)
            for task in late:
                self._deliveries[task].is_cancelled = True
            await _cancel(late)

    async def __aenter__(self) -> Self:
        # An application may be started again in the same process, as each of its tests does.
        self._closed = False
        self._warn_of_foreign_deliveries()
        self._check_latest()
        self._entered_in = ForkGuard()
        if self._stored_worker is not None:
            self._stored_worker.start()
        if self._backlog_reporter is not None:
            self._backlog_reporter.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _warn_of_foreign_deliveries(self) -> None:
        # Not when the receiver is made: that is often while modules are imported, before logging is configured.
        if not self._has_warned and getattr(self._verifier, "accepts_any_webhook", False):
            logger.warning(
                "any customer of Jetpay can send its deliveries to this receiver, since tokens name no recipient: pass "
                "webhook_ids=, or callback_api_key=, to WebhookVerifier"
            )
        self._has_warned = True

    def _check_latest(self) -> None:
        # Not when the receiver is made: handlers may be registered later.
        if self._router.has_latest and not isinstance(self._inbox, LatestStateInbox):
            raise ConfigurationError(
                f"a handler is registered with latest=True, which needs an inbox that remembers the last event of a"
                f" transaction (LatestStateInbox); {type(self._inbox).__name__} does not"
            )

    def _report(
        self,
        response: DeliveryResponse,
        delivery: Delivery | None,
        started_at: float,
        started: float,
        *,
        missing: int = 0,
        backlog: Backlog | None = None,
    ) -> DeliveryResponse:
        """Call on_delivery, and return the response."""
        if self._on_delivery is not None:
            report = DeliveryReport(
                response=response,
                started_at=started_at,
                duration=self._clock.monotonic() - started,
                delivery=delivery,
                missing=missing,
                backlog=backlog,
            )
            try:
                self._on_delivery(report)
            except Exception as error:  # noqa: BLE001 - the user's, and the delivery is answered all the same
                log_failure(error, "on_delivery failed")
        return response

    def _timer_of(self, loop: asyncio.AbstractEventLoop) -> SharedTimer:
        if self._timer is None or self._timer.loop is not loop:
            self._timer = SharedTimer(loop)
        return self._timer

    def _end(self, task: asyncio.Task[DeliveryResponse]) -> None:
        # A task that is cancelled before it starts, or fails, answers nothing itself.
        self._deliveries.pop(task).ring()

    def _new_dispatch(self, limits: DispatchLimits, timer: SharedTimer) -> LeasedDispatch:
        lease = EventLease(self._inbox, seconds=self._lease_seconds, clock=self._clock)
        dispatch = LeasedDispatch(self._inbox, self._router, lease, limits, self._abilities, timer=timer)
        self._dispatches.add(dispatch)
        return dispatch

    @asynccontextmanager
    async def _dispatching(self) -> AsyncGenerator[LeasedDispatch]:
        dispatch = self._new_dispatch(self._limits, self._timer_of(asyncio.get_running_loop()))
        try:
            yield dispatch
        finally:
            self._dispatches.discard(dispatch)
            await dispatch.lease.release()

    async def _handle(self, delivery: Delivery, progress: _Progress, timer: SharedTimer) -> DeliveryResponse:
        events = delivery.events
        skipped = 0
        dispatch = self._new_dispatch(self._delivery_limits, timer)
        dispatch.is_cancelled = lambda: progress.is_abandoned
        try:
            try:
                leased = await dispatch.lease.acquire(events)
                skipped = len(leased.handled)
                await self._report_missing(events, leased.last_seen, progress)
                await dispatch.run([event for event in events if event.id in leased.mine])
                if leased.busy:
                    dispatch.stop("busy")
            except BaseException as error:
                if must_propagate(error):
                    raise
                dispatch.stop_for(error)
        finally:
            self._dispatches.discard(dispatch)
            await dispatch.lease.release()
        left = len(events) - skipped - dispatch.handled - dispatch.unhandled - dispatch.dead - dispatch.outdated
        status, reason = 200, "handled"
        if left:
            # A handler may have cancelled its own task, which ends the dispatch without a problem.
            status, reason = (500 if dispatch.failed else 503), dispatch.problem or "cancelled"
        response = DeliveryResponse(
            status=status,
            reason=reason,
            handled=dispatch.handled,
            unhandled=dispatch.unhandled,
            skipped=skipped,
            dead=dispatch.dead,
            outdated=dispatch.outdated,
            left=left,
        )
        # One round of the loop earlier than the end of the task is noticed.
        progress.ring()
        return response

    async def _store(
        self, delivery: Delivery, progress: _Progress, stored_worker: StoredEventWorker
    ) -> DeliveryResponse:
        events = delivery.events
        try:
            stored = await stored_worker.inbox.store(events)
        except BaseException as error:
            if must_propagate(error):
                raise
            return DeliveryResponse(status=503, reason=log_inbox_failure(error), left=len(events))
        await self._report_missing(events, stored.last_seen, progress)
        stored_worker.wake()
        return DeliveryResponse(status=200, reason="stored", stored=len(stored.new), skipped=len(stored.known))

    async def _report_missing(self, events: Sequence[Event], last_seen: int | None, progress: _Progress) -> None:
        for event in events:
            if last_seen is not None and event.id > last_seen + 1:
                progress.missing += event.id - last_seen - 1
                if self._on_missing_events is not None:
                    await self._call_on_missing(self._on_missing_events, last_seen + 1, event.id - 1)
            last_seen = event.id if last_seen is None else max(last_seen, event.id)

    async def _call_on_missing(self, report: Callable[[int, int], Awaitable[object]], first: int, last: int) -> None:
        try:
            async with asyncio.timeout(self._delivery_limits.handler_timeout):
                await report(first, last)
        except BaseException as error:
            if must_propagate(error):
                raise
            # The events are handled all the same.
            log_failure(error, "on_missing_events failed for %d to %d", first, last)


def _counting(inbox: EventInbox) -> BacklogInbox:
    if not isinstance(inbox, BacklogInbox):
        raise ConfigurationError(
            f"on_backlog needs an inbox that says how many events wait (BacklogInbox); {type(inbox).__name__} does not"
        )
    return inbox


async def _wait_for(task: asyncio.Task[DeliveryResponse]) -> None:
    await asyncio.wait([task])


async def _cancel(tasks: Collection[asyncio.Task[DeliveryResponse]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=2 * RELEASE_TIMEOUT_SECONDS)


def _rejected(error: WebhookError) -> DeliveryResponse:
    # Anybody can send anything to a public address; what has a valid signature deserves attention.
    level = logging.INFO if isinstance(error, InvalidTokenError | MalformedDeliveryError) else logging.WARNING
    logger.log(level, "rejected a delivery with %d (%s): %s", error.status_hint, error.reason, error)
    return DeliveryResponse(status=error.status_hint, reason=str(error.reason))
