"""Hold the lease of some events while their handlers run, and cancel the handlers when it is lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from contextvars import ContextVar
from secrets import token_hex
from typing import TYPE_CHECKING

from jetpay_async._core.log import logger
from jetpay_async.webhooks._failures import must_propagate
from jetpay_async.webhooks.errors import LeaseLostError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from jetpay_async._core.clock import Clock
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
    """

    def __init__(self, inbox: EventInbox, *, seconds: float, clock: Clock) -> None:
        self.owner = token_hex(16)
        self.pending: frozenset[int] = frozenset()
        self._inbox = inbox
        self._seconds = seconds
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
        return self._clock.monotonic() - monotonic < self._seconds and self._clock.time() - wall < self._seconds

    async def acquire(self, events: Sequence[Event]) -> Leased:
        """Lease the events of a delivery; see `EventInbox.lease`."""
        self._in_doubt = True
        leased = await self._inbox.lease(events, owner=self.owner, seconds=self._seconds)
        self._in_doubt = False
        self.pending = leased.mine
        return leased

    async def claim(self, inbox: DurableEventInbox, *, limit: int, exclusive: bool) -> Sequence[Event]:
        """Lease stored events; see `DurableEventInbox.claim`."""
        self._in_doubt = True
        events = await inbox.claim(owner=self.owner, seconds=self._seconds, limit=limit, exclusive=exclusive)
        self._in_doubt = False
        self.pending = frozenset(event.id for event in events)
        return events

    async def confirm(self, event: Event) -> bool:
        """Ask the inbox whether an event is still the owner's, and renew the lease if it is."""
        return self.held and event.id in await self._inbox.renew([event.id], owner=self.owner, seconds=self._seconds)

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
            logger.warning("could not release events; their lease runs out in %g s", self._seconds, exc_info=True)

    @asynccontextmanager
    async def renewed(self) -> AsyncGenerator[None]:
        """Renew the lease while the block runs; cancel the block when the lease is lost.

        Raises:
            LeaseLostError: It was lost.
        """
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(self._seconds - self._age())
        renewing: asyncio.Task[None] | None = None

        def renew() -> None:
            nonlocal renewing
            renewing = loop.create_task(self._renew_until_cancelled(limit))

        token = _current.set(self)
        try:
            async with limit:
                # Most handlers have ended by then.
                starting = loop.call_later(min(_FIRST_RENEWAL_SECONDS, self._seconds / _FIRST_RENEWAL_SHARE), renew)
                try:
                    yield
                finally:
                    starting.cancel()
                    if renewing is not None:
                        renewing.cancel()
                        await asyncio.wait([renewing])
        except TimeoutError:
            raise LeaseLostError("the lease was lost while its events were being handled") from None
        finally:
            _current.reset(token)

    async def _renew_until_cancelled(self, limit: asyncio.Timeout) -> None:
        while True:
            await self._clock.sleep(self._seconds / _RENEWALS_PER_LEASE)
            asked_at = self._now()
            try:
                mine = await self._inbox.renew(self.pending, owner=self.owner, seconds=self._seconds)
            except BaseException as error:
                if must_propagate(error):
                    raise
                # If this goes on, the limit expires.
                logger.warning("could not renew the lease of %d events", len(self.pending), exc_info=True)
                continue
            if limit.expired():
                return
            if not self.pending <= mine:
                limit.reschedule(0)
                return
            self._since = asked_at
            limit.reschedule(asyncio.get_running_loop().time() + self._seconds - self._age())

    def _now(self) -> tuple[float, float]:
        return self._clock.monotonic(), self._clock.time()

    def _age(self) -> float:
        return max(now - since for now, since in zip(self._now(), self._since, strict=True))
