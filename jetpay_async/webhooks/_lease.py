"""Hold the lease of some events while their handlers run, and cancel the handlers when it is lost."""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar, Token, copy_context
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Self

from jetpay_async._core.log import logger
from jetpay_async.webhooks._failures import must_propagate
from jetpay_async.webhooks._time_limits import TimeLimit
from jetpay_async.webhooks.errors import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from jetpay_async._core.clock import Clock
    from jetpay_async.webhooks._time_limits import SharedTimer
    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import DurableEventInbox, EventInbox, Leased

RELEASE_TIMEOUT_SECONDS = 1.0
"""How long work that was cancelled may take to release its leases; after that they run out by themselves."""
# A renewal may fail twice, and there is still time for a third.
_RENEWALS_PER_LEASE = 4
# By how much later the first one may be, so that quick handlers need no task for it.
_FIRST_RENEWAL_SECONDS = 0.05
_FIRST_RENEWAL_SHARE = 16

_current: ContextVar[EventLease] = ContextVar("jetpay_lease")


def ensure_leased() -> None:
    """Raise unless the events of the handler that calls this are still this worker's.

    Call it in a handler right before an effect that can't be undone or repeated: an e-mail, a request to another
    service. A process that was stalled for longer than the lease may find itself in the middle of a handler whose event
    another worker has taken over; such a handler is cancelled, but the line after an ``await`` may come first. Outside
    of a receiver, as in a test that calls the handler itself, this does nothing.

    Raises:
        LeaseLostError: The lease has run out. Let it propagate.
    """
    lease = _current.get(None)
    if lease is not None and not lease.held:
        raise LeaseLostError("the lease has run out; another worker may have the event")


class EventLease:
    """The events that one owner has leased, and until when.

    Attributes:
        owner: The token by which the inbox knows the owner.
        pending: The ids that are leased and not marked yet; the code that marks one removes it.
        seconds: How long a lease lasts that is not renewed.
    """

    def __init__(self, inbox: EventInbox, *, seconds: float, clock: Clock) -> None:
        self.owner = token_hex(16)
        self.pending: set[int] = set()
        self._inbox = inbox
        self.seconds = seconds
        self._clock = clock
        self._since = self._now()
        # Whether a request to the inbox was cut off, so that it may have leased events that are not in `pending`.
        self._in_doubt = False

    @property
    def held(self) -> bool:
        """Whether the lease has not run out, by the clock that shows more time.

        The monotonic clock may stand still while the machine is suspended, and the wall clock may be set back.
        """
        # Asked for before each handler.
        monotonic, wall = self._since
        return self._clock.monotonic() - monotonic < self.seconds and self._clock.time() - wall < self.seconds

    async def acquire(self, events: Sequence[Event]) -> Leased:
        """Lease the events of a delivery; see `EventInbox.lease`."""
        self._in_doubt = True
        leased = await self._inbox.lease(events, owner=self.owner, seconds=self.seconds)
        self._in_doubt = False
        self.pending = set(leased.mine)
        return leased

    async def claim(self, inbox: DurableEventInbox, *, limit: int, exclusive: bool) -> Sequence[Event]:
        """Lease stored events; see `DurableEventInbox.claim`."""
        self._in_doubt = True
        events = await inbox.claim(owner=self.owner, seconds=self.seconds, limit=limit, exclusive=exclusive)
        self._in_doubt = False
        self.pending = {event.id for event in events}
        return events

    async def confirm(self, event: Event) -> bool:
        """Ask the inbox whether an event is still the owner's, and renew the lease if it is."""
        return self.held and event.id in await self._inbox.renew([event.id], owner=self.owner, seconds=self.seconds)

    def mark_in_doubt(self) -> None:
        """Note that events may be leased that are not in `pending`, so that `release` releases them too."""
        self._in_doubt = True

    async def release(self) -> None:
        """Release what is not marked. If that fails, the lease runs out by itself."""
        if not self.pending and not self._in_doubt:
            return
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_SECONDS):
                await self._inbox.release(owner=self.owner)
        except BaseException as error:
            if must_propagate(error):
                raise
            logger.warning("could not release events; their lease runs out in %g s", self.seconds, exc_info=True)

    async def renew_until_cancelled(self, limit: LeaseLimit) -> None:
        """Renew the lease again and again; let a limit know when it runs out, and whether it is lost."""
        while True:
            await self._clock.sleep(self.seconds / _RENEWALS_PER_LEASE)
            asked_at = self._now()
            try:
                mine = await self._inbox.renew(frozenset(self.pending), owner=self.owner, seconds=self.seconds)
            except BaseException as error:
                if must_propagate(error):
                    raise
                # If this goes on, the limit expires.
                logger.warning("could not renew the lease of %d events", len(self.pending), exc_info=True)
                continue
            if limit.expired:
                return
            if not self.pending <= mine:
                limit.expire()
                return
            self._since = asked_at
            limit.runs_out_after(self.remaining)

    @property
    def remaining(self) -> float:
        """Seconds until the lease runs out."""
        return self.seconds - max(now - since for now, since in zip(self._now(), self._since, strict=True))

    def _now(self) -> tuple[float, float]:
        return self._clock.monotonic(), self._clock.time()


class LeaseLimit(TimeLimit):
    """Renews a lease while a block runs, to be entered around it; cancels the block when the lease is lost.

    Raises:
        LeaseLostError: At the end: it was lost.
    """

    __slots__ = ("_context", "_lease", "_renewing", "_runs_out_at", "_token")

    _context: Context
    _token: Token[EventLease]

    def __init__(self, lease: EventLease, task: asyncio.Task[Any], timer: SharedTimer) -> None:
        super().__init__(task, timer)
        self._lease = lease
        self._renewing: asyncio.Task[None] | None = None
        now = timer.loop.time()
        self._runs_out_at = now + lease.remaining
        # Most handlers have ended by then.
        first = now + min(_FIRST_RENEWAL_SECONDS, lease.seconds / _FIRST_RENEWAL_SHARE)
        self.when = min(first, self._runs_out_at)

    def ring(self) -> None:
        """Begin to renew the lease, or find that it has run out."""
        if self._renewing is not None or self._timer.loop.time() >= self._runs_out_at:
            self.expire()
            return
        # A task takes over the context that it is made in; not every program's task factory takes one as an argument.
        self._renewing = self._context.run(self._timer.loop.create_task, self._lease.renew_until_cancelled(self))
        self.when = self._runs_out_at
        self._timer.start(self)

    def runs_out_after(self, seconds: float) -> None:
        """Note when the lease runs out, after it was renewed."""
        self.when = self._timer.loop.time() + seconds
        self._timer.start(self)

    async def stop_renewing(self) -> None:
        """Renew the lease no longer; the block has ended."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])

    def __enter__(self) -> Self:
        self._token = _current.set(self._lease)
        self._context = copy_context()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        except TimeoutError:
            raise LeaseLostError("the lease was lost while its events were being handled") from None
        finally:
            _current.reset(self._token)
