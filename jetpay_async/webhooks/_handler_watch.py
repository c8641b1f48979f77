"""Watch the handlers of one owner: cancel those that run for too long, and log those that run for long."""

from __future__ import annotations

import logging
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from jetpay_async._core.log import logger
from jetpay_async.webhooks._time_limits import NEVER, SharedTimer, TimeLimit
from jetpay_async.webhooks.errors import shown

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from jetpay_async.webhooks.events import Event

LONG_RUN_SECONDS = 30.0
"""After this time, or half of its timeout, a handler that is still running is logged."""
SLOW_SECONDS = 5.0
"""After this time a handler of stored events is not waited for: the others go on without it."""


class HandlerRun(TimeLimit):
    """One run of the handler of one event, to be entered around it.

    Attributes:
        event: What is handled.
        failure: What the handler raised, if it did.
    """

    __slots__ = ("_is_slow", "_started", "_warning_at", "_watch", "event", "failure")

    def __init__(self, watch: HandlerWatch, event: Event, task: asyncio.Task[Any]) -> None:
        super().__init__(task, watch.timer)
        self._watch = watch
        self.event = event
        self.failure: BaseException | None = None
        self._is_slow = False
        self._started = started = watch.timer.loop.time()
        self._warning_at = started + watch.warn_after
        self.when = started + watch.first_after

    def ring(self) -> None:
        """Do what is due, and ring again when something else is."""
        watch = self._watch
        now = self._timer.loop.time()
        if now >= self._started + watch.timeout:
            self.expire()
        if watch.on_slow is not None and not self._is_slow and now >= self._started + SLOW_SECONDS:
            self._is_slow = True
            watch.on_slow()
        if now >= self._warning_at:
            self._warning_at = now + LONG_RUN_SECONDS
            watch.warn(self.event, now - self._started)
        self.when = min(
            self._warning_at,
            NEVER if self.expired else self._started + watch.timeout,
            NEVER if watch.on_slow is None or self._is_slow else self._started + SLOW_SECONDS,
        )
        self._timer.start(self)


class HandlerWatch:
    """Cancels the handlers that run for too long, and logs those that run for long, again and again.

    Args:
        timeout: Seconds after which a handler is cancelled; None for no limit.
        on_slow: Called when a handler has run for `SLOW_SECONDS`; None to wait for any.
        timer: By which timer.
    """

    def __init__(self, timeout: float | None, on_slow: Callable[[], None] | None, timer: SharedTimer) -> None:
        self.timer = timer
        self._context = copy_context()
        self.on_slow = on_slow
        self.timeout = NEVER if timeout is None else timeout
        self.warn_after = min(LONG_RUN_SECONDS, self.timeout / 2)
        self.first_after = self.warn_after if on_slow is None else min(self.warn_after, SLOW_SECONDS)

    def warn(self, event: Event, elapsed: float) -> None:
        """Log a handler that has run for so many seconds."""
        level, text = logging.WARNING, "the handler of event %d (%s) is still running after %.3g s"
        if elapsed >= self.timeout:
            level, text = logging.ERROR, "the handler of event %d (%s) ignores its cancellation, after %.3g s"
        # What filters of the log read in the context is the delivery's.
        self._context.run(logger.log, level, text, event.id, shown(event.type), elapsed)
