"""Whether a request began to leave, which aiohttp's exceptions do not tell.

A deadline looks the same to aiohttp while a request is queued for a connection and after it was sent. A `SendGuard`
stands at the last moment at which nothing has left; there, and only there, is decided whether the request leaves at
all. How it gets there is the matter of `aiohttp_guard`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock

PreSendCheck = Callable[[], str | None]
"""Says why nothing may leave any more, or None if it may."""


class ResponseTimer:
    """Gives up what has been under way for too long, on one event loop.

    One timer serves all: a timer for each request would cost more than the rest of its guard. It rings when the first
    of those that are under way is due; as a rule they end in the order in which they began, since each may take the
    same time.
    """

    def __init__(self) -> None:
        # By when each is due. Dictionaries keep the order in which things were put into them.
        self._due: dict[SendGuard, float] = {}
        self._latest = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, guard: SendGuard, patience: float) -> None:
        """Have it give up in so many seconds."""
        due = time.monotonic() + patience
        if due < self._latest:
            # It overtakes another: those that do are few, and get a timer of their own.
            guard.alarm = asyncio.get_running_loop().call_later(patience, guard.give_up)
            return
        self._latest = due
        self._due[guard] = due
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(patience, self._ring, loop)

    def end(self, guard: SendGuard) -> None:
        """Let it be."""
        if guard.alarm is not None:
            guard.alarm.cancel()
        self._due.pop(guard, None)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = time.monotonic()
        for guard, due in list(self._due.items()):
            if due > now:
                self._timer = loop.call_later(due - now, self._ring, loop)
                return
            del self._due[guard]
            guard.give_up()


class SendGuard:
    """Lets one request leave at most once, and not after its deadline.

    It is the single authority on whether the request began to leave: either `seal` comes first, and nothing can leave
    any more, or `begin` comes first. Both happen on the event loop, so there is no third case.

    Args:
        watch: Gives up what takes too long.
        deadline: When it may not leave any more, on the monotonic clock.
        clock: That clock.
        patience: Seconds to wait for the whole reply, from when it leaves; the connection is aborted then, and at the
            deadline.
        pre_send_check: Asked at the last moment; what it returns is why nothing may leave any more, None if it may.
    """

    __slots__ = (
        "_clock",
        "_deadline",
        "_patience",
        "_pre_send_check",
        "_sealed",
        "_transport",
        "_watch",
        "alarm",
        "refusal",
        "started_at",
    )

    def __init__(
        self,
        watch: ResponseTimer,
        deadline: float,
        clock: Clock,
        patience: float = math.inf,
        pre_send_check: PreSendCheck | None = None,
    ) -> None:
        self._watch = watch
        self._deadline = deadline
        self._clock = clock
        self._patience = patience
        self._pre_send_check = pre_send_check
        self._sealed = False
        self._transport: asyncio.WriteTransport | None = None
        self.alarm: asyncio.TimerHandle | None = None
        """A timer of its own; the watch knows when it needs one."""
        self.started_at: float | None = None
        """When it began to leave, on the monotonic clock."""
        self.refusal: str | None = None
        """Why it was not sent, not sent again, or given up."""

    @property
    def started(self) -> bool:
        """Whether it began to leave."""
        return self.started_at is not None

    def begin(self, transport: asyncio.WriteTransport | None) -> None:
        """Let it leave on this transport now; raise, whatever aiohttp makes of that, if it may not."""
        now = self._clock.monotonic()
        if self.started_at is not None:
            raise self._refuse("it was to be sent a second time")
        if self._sealed:
            raise self._refuse("it was to be sent after it had been given up")
        if now >= self._deadline:
            raise self._refuse("the deadline had passed before anything left")
        if self._pre_send_check is not None and (reason := self._pre_send_check()) is not None:
            raise self._refuse(reason)
        self.started_at = now
        self._transport = transport
        if self._patience > (left := self._deadline - now):
            self._patience = left
        self._watch.begin(self, self._patience)

    def seal(self) -> bool:
        """End it: nothing leaves from now on, and no alarm goes off. Return whether it had begun to leave."""
        self._sealed = True
        if self.started_at is None:
            return False
        self._watch.end(self)
        return True

    def give_up(self) -> None:
        """Stop waiting for the reply."""
        self.refusal = f"no whole reply within {self._patience:.3g} s"
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, reason: str) -> _StopError:
        self.refusal = reason
        return _StopError(reason)


class _StopError(Exception):
    """The guard refuses to send."""
