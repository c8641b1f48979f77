"""Whether a request began to leave, which aiohttp's exceptions do not show.

A deadline looks the same to aiohttp while a request is queued for a connection and after it was sent. A `SendGuard`
stands at the last moment at which nothing has left; there, and only there, is decided whether the request leaves at
all. `aiohttp_guard` binds each guard to its request.

What has left must not arrive late. Closing a connection does not stop the kernel from sending again what it still
holds, for minutes; so, from before a write's first byte until its whole response was read, its connection is one whose
closing resets it (`connection_reset`), and a write that is given up or cancelled has its connection aborted at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from jetpay_async._core.clock import Clock
    from jetpay_async._core.connection_reset import ConnectionReset

PreSendCheck = Callable[[], str | None]
"""Returns why nothing may leave any more, or None if it may."""

UNASKED = "the connection brought an answer before anything left"
"""Why nothing leaves on a connection that holds bytes that no request of it asked for: they would be taken for the
answer."""


class ResponseTimer:
    """Gives up each write whose response takes too long, on one event loop.

    One timer serves all: a timer for each request would cost more than the rest of its guard. It rings when the first
    of those that are under way is due; as a rule they end in the order in which they began, since each may take the
    same time.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # By when each is due. Dictionaries keep the order in which things were put into them.
        self._due: dict[SendGuard, float] = {}
        self._latest = -math.inf
        self._handle: asyncio.TimerHandle | None = None

    def start(self, guard: SendGuard, seconds: float) -> None:
        """Give the request up in so many seconds."""
        due = self._loop.time() + seconds
        if due < self._latest:
            # It overtakes another: those that do are few, and get a timer of their own.
            guard.own_timer = self._loop.call_later(seconds, guard.give_up)
            return
        self._latest = due
        self._due[guard] = due
        if self._handle is None:
            self._handle = self._loop.call_later(seconds, self._ring)

    def stop(self, guard: SendGuard) -> None:
        """Stop the response timer of this request."""
        if guard.own_timer is not None:
            guard.own_timer.cancel()
        self._due.pop(guard, None)

    def _ring(self) -> None:
        self._handle = None
        now = self._loop.time()
        for guard, due in list(self._due.items()):
            if due > now:
                self._handle = self._loop.call_later(due - now, self._ring)
                return
            del self._due[guard]
            guard.give_up()


class SendGuard:
    """Lets one write leave at most once, and not after its deadline.

    It is the single authority on whether the request began to leave: either `seal` comes first, and nothing can leave
    any more, or `begin` comes first. Both happen on the event loop, so there is no third case.

    Args:
        deadline: When it may not leave any more, on the monotonic clock.
        clock: That clock.
        response_timeout: Seconds to wait for the whole response, from when the request leaves; the connection is
            aborted then, and at the deadline.
        pre_send_check: Asked at the last moment; what it returns is why nothing may leave any more, None if it may.
    """

    _ended: bool = False
    _transport: asyncio.WriteTransport | None = None
    _timer: ResponseTimer | None = None
    _reset: ConnectionReset | None = None
    _holds_connection: Callable[[], bool] | None = None
    own_timer: asyncio.TimerHandle | None = None
    """For the `ResponseTimer`, which knows when a request needs one of its own."""
    direct: bool = False
    """Whether no proxy is known to be in between, and the connection was one that can be reset."""
    started_at: float | None = None
    """When the request began to leave, on the monotonic clock."""
    status: int | None = None
    """The HTTP status, once the head of the response was read."""
    refusal: str | None = None
    """Why it was not sent, not sent again, or given up."""

    def __init__(
        self,
        deadline: float,
        clock: Clock,
        response_timeout: float = math.inf,
        pre_send_check: PreSendCheck | None = None,
    ) -> None:
        self._deadline = deadline
        self._clock = clock
        self._pre_send_check = pre_send_check
        self.response_timeout: float = response_timeout
        """Seconds that the response may take; no more than is left until the deadline, once the request has left."""

    @property
    def started(self) -> bool:
        """Whether the request began to leave."""
        return self.started_at is not None

    def attach(self, timer: ResponseTimer | None, reset: ConnectionReset | None) -> None:
        """Have the response timed, and the connection reset where the response doesn't come.

        A transport that has no sockets, such as a simulated one, leaves this out, and watches `response_timeout`.
        """
        self._timer = timer
        self._reset = reset

    def share_connection(self, holds_connection: Callable[[], bool]) -> None:
        """Ask before the connection is aborted whether it is still this request's, and not back in the pool."""
        self._holds_connection = holds_connection

    def give_back(self) -> None:
        """Have no more to do with the connection, since the whole response has arrived on it."""
        transport = self._transport
        if transport is not None:
            self._transport = None
            if self._reset is not None:
                self._reset.disable(transport, self)

    def begin(self, transport: asyncio.WriteTransport | None) -> None:
        """Let the request leave on this connection now; raise, whatever aiohttp makes of that, if it may not."""
        now = self._clock.monotonic()
        if self.started_at is not None:
            raise self.refuse("it was to be sent a second time")
        if self._ended:
            raise self.refuse("it was to be sent after it had been given up")
        if now >= self._deadline:
            raise self.refuse("the deadline had passed before anything left")
        if transport is not None and transport.is_closing():
            raise self.refuse("the connection was lost before anything left")
        if self._pre_send_check is not None and (reason := self._pre_send_check()) is not None:
            raise self.refuse(reason)
        self.started_at = now
        self._transport = transport
        if self.response_timeout > (left := self._deadline - now):
            self.response_timeout = left
        if self._timer is not None:
            self._timer.start(self, self.response_timeout)
        if self._reset is not None and not self._reset.enable(transport, self):
            self.direct = False

    def refuse(self, reason: str) -> Exception:
        """Return what to raise in place of sending the request."""
        self.refusal = reason
        return _StopError(reason)

    def disown_response(self) -> Exception:
        """Return what to raise in place of a response that aiohttp returned before the guard let the request leave.

        Unless the guard refused, it counts as sent: there may be another way, of which the guard does not know.
        """
        if self.refusal is None:
            self.started_at = self._clock.monotonic()
        return self.refuse(self.refusal or UNASKED)

    def complete(self) -> None:
        """End it, since the whole response was read: its connection may be used again, and closed as any other."""
        self._ended = True
        if self._timer is not None:
            self._timer.stop(self)
        if self._transport is not None:
            self.give_back()

    def seal(self) -> bool:
        """End it without a whole response: nothing leaves any more. Return whether it had begun to leave."""
        self._ended = True
        if self.started_at is None:
            return False
        if self._timer is not None:
            self._timer.stop(self)
        self.abort()
        return True

    def give_up(self) -> None:
        """Stop waiting for the response."""
        self.refusal = no_whole_response(self.response_timeout)
        self.abort()

    def abort(self) -> None:
        """Reset the connection, if the request left on it and has not given it back."""
        transport = self._transport
        if transport is None:
            return
        if self._holds_connection is not None and not self._holds_connection():
            self.give_back()
            return
        self._transport = None
        if self._reset is not None:
            self._reset.forget(transport, self)
        # The event loop may be closed; the interpreter then closes the socket, which resets it too.
        with contextlib.suppress(RuntimeError):
            transport.abort()


class ReadGuard:
    """Notes whether, and when, a read left this process: a read that something in the process answered proves nothing.

    aiohttp may send a read a second time by itself, on a new connection; the first time counts. What the response says
    was true then or later, so counting from the earlier time can only make less of it.

    Args:
        clock: Whose monotonic time is noted.
    """

    __slots__ = ("_clock", "direct", "refusal", "started_at", "status")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.direct = False
        """Whether no proxy is known to be in between."""
        self.started_at: float | None = None
        """When it began to leave, on the monotonic clock; None if it did not."""
        self.status: int | None = None
        """The HTTP status, once the head of the response was read."""
        self.refusal: str | None = None
        """Why it was not sent."""

    @property
    def started(self) -> bool:
        """Whether it began to leave."""
        return self.started_at is not None

    def begin(self, transport: asyncio.WriteTransport | None) -> None:  # noqa: ARG002 - as a write's
        """Note that it leaves now."""
        if self.started_at is None:
            self.started_at = self._clock.monotonic()

    def refuse(self, reason: str) -> Exception:
        """Return what to raise in place of sending the request."""
        self.refusal = reason
        return _StopError(reason)


def no_whole_response(seconds: float) -> str:
    """Say how long a response was waited for."""
    return f"no whole response within {seconds:.3g} s"


class _StopError(Exception):
    """The guard refuses to send."""
