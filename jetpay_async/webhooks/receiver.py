"""From the raw body of a delivery to handled events and the status to answer with.

::

    receive(body, authorization)
        │
        ├─ verify ───────────── refused: 400, 401, 413 or 503, as the error says
        ├─ take from the inbox ─ what was handled before is skipped; what another worker holds: 503
        ├─ dispatch ─────────── each event to its handler, in the order of ids
        ├─ mark ─────────────── each event as its handler ends, so that a redelivery skips it
        ▼
    Answer(status=200) if nothing is left; 500 or 503 otherwise, and Jetpay sends the delivery again
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, Protocol, Self

import attrs

from jetpay_async._clock import SYSTEM_CLOCK, Clock
from jetpay_async._log import logger
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks._backlog import Backlog
from jetpay_async.webhooks._lease import RELEASE_WITHIN, Lease, ensure_leased
from jetpay_async.webhooks._shift import Shift, inbox_failed
from jetpay_async.webhooks.errors import InvalidTokenError, MalformedDeliveryError, WebhookError
from jetpay_async.webhooks.inbox import EventStore

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
    from types import TracebackType

    from jetpay_async.webhooks.events import Delivery, Event
    from jetpay_async.webhooks.inbox import EventInbox
    from jetpay_async.webhooks.router import EventRouter

__all__ = ["Answer", "DeliveryVerifier", "WebhookReceiver", "ensure_leased"]

# The answer still has to travel.
_SHARE_OF_THE_TIME = 0.9
# What handlers that run get to end when the receiver is closed: less than servers wait before they kill.
_CLOSE_WITHIN = 5.0


class DeliveryVerifier(Protocol):
    """What checks and decodes a delivery: a `~jetpay_async.webhooks.WebhookVerifier`."""

    async def verify(self, body: bytes, authorization: str | bytes | None) -> Delivery:
        """Return the delivery, or raise a `WebhookError`."""
        ...


@attrs.frozen(kw_only=True)
class Answer:
    """What to answer, and why."""

    status: int
    """The HTTP status. Jetpay takes any 2xx for "received" and sends again after anything else [docs]."""
    reason: str
    """One stable code. ``handled`` or ``stored``; the `WebhookError.reason` of a refused delivery; ``handler_failed``;
    ``busy`` (another worker is at it), ``lease_lost``, ``out_of_time``, ``closed``, or the `InboxError.reason`."""
    handled: int = 0
    """How many events a handler has taken now."""
    unhandled: int = 0
    """How many were acknowledged although no handler takes their kind."""
    skipped: int = 0
    """How many had been handled, or stored, before."""
    stored: int = 0
    """How many were written to disk, to be handled after this answer."""
    left: int = 0
    """How many are still to be handled, after Jetpay has sent them again."""


class WebhookReceiver:
    """Receive deliveries: verify, skip what is done, hand each event to its handler once, and say what to answer.

    Use it as an async context manager around the life of the web application: leaving it lets work in progress end, and
    with ``answer_when="stored"`` entering it starts the work on stored events.

    ::

        receiver = WebhookReceiver(WebhookVerifier(keys), router, inbox=SqliteInbox("inbox.db"))
        answer = await receiver.receive(await request.body(), request.headers.get("authorization"))
        return Response(status_code=answer.status)

    Context variables of the caller are visible in the handlers. A handler that never ends blocks its event: give your
    requests a timeout.

    Args:
        verifier: Checks and decodes; see `~jetpay_async.webhooks.WebhookVerifier`.
        router: Knows the handlers.
        inbox: Knows what was handled. See `~jetpay_async.webhooks.inbox` for what each kind guarantees.
        on_error: When a handler raises: ``"stop"`` starts no further event of the delivery; ``"continue"`` goes on with
            the others, except later ones of the same transaction. Either way what is done stays done, and the answer
            is a 500, so Jetpay sends the delivery again and what is left gets its turn.
        answer_when: ``"handled"``: a 2xx means that every event is handled. ``"stored"``: a 2xx means that every event
            is on disk; they are handled right after that, and after a crash at the next start. Failed ones are tried
            again after 1 s, 2 s, 4 s, ... up to a minute, where ``on_error="stop"`` keeps all the others waiting.
            Needs an `~jetpay_async.webhooks.inbox.EventStore` such as `SqliteInbox`, and ``async with``.
        respond_within: Seconds that Jetpay waits for the answer: 15 [docs]. When nine tenths have passed, the answer is
            a 503 ``out_of_time``. Handlers that run are not interrupted, so the redelivery finds their events done.
        lease: Seconds after which another worker may take the events of one that has died. They are renewed while
            handlers run, so this doesn't limit a handler; it must be longer than any stall of the event loop.
        poll: Seconds between looks for events that another, dead process has stored.
        on_gap: An async function that is told ``first, last``: these ids have not arrived, although a later one has.
            Jetpay doesn't skip ids [docs], so they are late or lost; late ones are handled when they come, lost ones
            come after a replay with ``replay_from_event_id=first``. It runs before the events are handled.
        clock: Where time and chance come from.

    Raises:
        InvalidArgumentError: A number is not positive, or a word is unknown.
        ConfigurationError: The inbox can't store events and ``answer_when="stored"``.
    """

    def __init__(
        self,
        verifier: DeliveryVerifier,
        router: EventRouter,
        *,
        inbox: EventInbox,
        on_error: Literal["stop", "continue"] = "stop",
        answer_when: Literal["handled", "stored"] = "handled",
        respond_within: float = 15.0,
        lease: float = 30.0,
        poll: float = 5.0,
        on_gap: Callable[[int, int], Awaitable[object]] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        for name, seconds in (("respond_within", respond_within), ("lease", lease), ("poll", poll)):
            if not seconds > 0:
                raise InvalidArgumentError(f"{name}: {seconds!r} is not a positive number of seconds", field=name)
        if on_error not in ("stop", "continue"):
            raise InvalidArgumentError(f"on_error: {on_error!r} is neither 'stop' nor 'continue'", field="on_error")
        if answer_when not in ("handled", "stored"):
            raise InvalidArgumentError(
                f"answer_when: {answer_when!r} is neither 'handled' nor 'stored'", field="answer_when"
            )
        store = inbox if isinstance(inbox, EventStore) else None
        if answer_when == "stored" and store is None:
            raise ConfigurationError(
                f"answer_when='stored' needs an inbox that keeps events on disk; {type(inbox).__name__} does not,"
                f" SqliteInbox does"
            )
        goes_on = on_error == "continue"
        self._verifier = verifier
        self._router = router
        self._inbox = inbox
        self._goes_on = goes_on
        self._respond_within = respond_within
        self._lease = lease
        self._on_gap = on_gap
        self._clock = clock
        self._backlog: Backlog | None = None
        if store is not None:
            # Also without answer_when="stored": an earlier run may have left stored events.
            self._backlog = Backlog(store, self._on_shift, goes_on=goes_on, poll=poll, clock=clock)
        self._stores_in = self._backlog if answer_when == "stored" else None
        self._shifts: set[Shift] = set()
        self._at_work: set[asyncio.Task[Answer]] = set()
        self._closed = False

    async def receive(self, body: bytes, authorization: str | bytes | None) -> Answer:
        """Take one delivery.

        Args:
            body: The bytes of the request exactly as received, before any parsing.
            authorization: The value of the ``Authorization`` header, or None if there was none.

        Returns:
            What to answer. What handlers, the inbox and the verification raise is logged, and doesn't get out.

        Raises:
            ConfigurationError: ``answer_when="stored"``, and the receiver was not entered with ``async with``.
        """
        started = self._clock.monotonic()
        if self._closed:
            return Answer(status=503, reason="closed")
        if self._stores_in is not None and not self._stores_in.running:
            raise ConfigurationError("answer_when='stored' needs 'async with receiver:' around the application's life")
        try:
            delivery = await self._verifier.verify(body, authorization)
        except WebhookError as error:
            return _refused(error)
        step = self._handle(delivery) if self._stores_in is None else self._store(delivery, self._stores_in)
        work = asyncio.create_task(step)
        self._at_work.add(work)
        work.add_done_callback(self._at_work.discard)
        passed = self._clock.monotonic() - started
        try:
            await asyncio.wait([work], timeout=max(0.0, self._respond_within * _SHARE_OF_THE_TIME - passed))
        except asyncio.CancelledError:
            await _cancelled([work])
            raise
        if not work.done():
            answer = Answer(status=503, reason="out_of_time", left=len(delivery.events))
        elif work.cancelled():
            answer = Answer(status=503, reason="closed", left=len(delivery.events))
        else:
            answer = work.result()
        if answer.left:
            logger.warning("answering %d (%s): %d events are left", answer.status, answer.reason, answer.left)
        return answer

    async def last_event_id(self) -> int | None:
        """Tell up to which id nothing is missing: what to give as ``replay_from_event_id``.

        A replay is inclusive [docs] and events that were handled are skipped, so too low an id does no harm.

        Returns:
            The highest id such that every event from the lowest ever seen up to it is handled; None if there is none.
        """
        return await self._inbox.last_event_id()

    async def aclose(self) -> None:
        """Take no more deliveries, let handlers that run end for some seconds, cancel them then.

        The inbox stays open: close it after this.
        """
        self._closed = True
        for shift in self._shifts:
            shift.stop("closed")
        if self._backlog is not None:
            await self._backlog.aclose(within=_CLOSE_WITHIN)
        if self._at_work:
            _, late = await asyncio.wait(self._at_work, timeout=_CLOSE_WITHIN)
            await _cancelled(late)

    async def __aenter__(self) -> Self:
        if self._closed:
            raise ConfigurationError("this receiver was closed; make another")
        if self._backlog is not None:
            self._backlog.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @asynccontextmanager
    async def _on_shift(self) -> AsyncGenerator[Shift]:
        lease = Lease(self._inbox, seconds=self._lease, clock=self._clock)
        shift = Shift(self._inbox, self._router, lease, goes_on=self._goes_on)
        self._shifts.add(shift)
        try:
            yield shift
        finally:
            self._shifts.discard(shift)
            await lease.give_back()

    async def _handle(self, delivery: Delivery) -> Answer:
        events = delivery.events
        skipped = 0
        async with self._on_shift() as shift:
            try:
                leased = await shift.lease.take(events)
                skipped = len(leased.handled)
                await self._tell_gaps(events, leased.last_seen)
                await shift.work([event for event in events if event.id in leased.mine])
                if leased.busy:
                    shift.stop("busy")
            except Exception as error:  # noqa: BLE001 - an inbox may raise anything; nothing gets out
                shift.stop_for(error)
        left = len(events) - skipped - shift.handled - shift.unhandled
        status, reason = 200, "handled"
        if left:
            # A handler may have been cancelled by somebody else, which stops the shift without a word.
            status, reason = (500 if shift.failed else 503), shift.problem or "cancelled"
        return Answer(
            status=status, reason=reason, handled=shift.handled, unhandled=shift.unhandled, skipped=skipped, left=left
        )

    async def _store(self, delivery: Delivery, backlog: Backlog) -> Answer:
        events = delivery.events
        try:
            stored = await backlog.store.store(events)
        except Exception as error:  # noqa: BLE001 - a store may raise anything; nothing gets out
            return Answer(status=503, reason=inbox_failed(error), left=len(events))
        await self._tell_gaps(events, stored.last_seen)
        backlog.wake()
        return Answer(status=200, reason="stored", stored=len(stored.new), skipped=len(stored.known))

    async def _tell_gaps(self, events: Sequence[Event], last_seen: int | None) -> None:
        if self._on_gap is None:
            return
        for event in events:
            if last_seen is not None and event.id > last_seen + 1:
                try:
                    await self._on_gap(last_seen + 1, event.id - 1)
                except Exception as error:  # noqa: BLE001 - it must not keep the events from being handled
                    logger.error("on_gap failed for %d to %d", last_seen + 1, event.id - 1, exc_info=error)
            last_seen = event.id if last_seen is None else max(last_seen, event.id)


async def _cancelled(tasks: Collection[asyncio.Task[Answer]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=2 * RELEASE_WITHIN)


def _refused(error: WebhookError) -> Answer:
    # Anybody can send rubbish to a public address; what has the right signature deserves a look.
    level = logging.INFO if isinstance(error, InvalidTokenError | MalformedDeliveryError) else logging.WARNING
    logger.log(level, "refused a delivery with %d (%s): %s", error.status_hint, error.reason, error)
    return Answer(status=error.status_hint, reason=str(error.reason))
