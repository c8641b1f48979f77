"""Watch the handlers of one owner with one timer: almost all of them end long before it runs out."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from jetpay_async._core.log import logger
from jetpay_async.webhooks.errors import shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from jetpay_async.webhooks.events import Event

LONG_RUN_SECONDS = 30.0
"""After this time, or half of its timeout, a handler that is still running is logged."""
SLOW_SECONDS = 5.0
"""After this time a handler of stored events is not waited for: the others go on without it."""


_NEVER = math.inf


class HandlerRun:
    """One run of the handler of one event.

    Attributes:
        event: What is handled.
        limit: Cancels the handler when it has run for too long; entered around it.
        failure: What the handler raised, if it did.
    """

    __slots__ = ("deadline", "event", "failure", "limit", "slow_at", "started", "warning_at")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.failure: BaseException | None = None
        self.limit = asyncio.Timeout(None)
        self.started = 0.0
        self.deadline = self.slow_at = self.warning_at = _NEVER

    @property
    def due(self) -> float:
        """When there is something to do."""
        return min(self.deadline, self.slow_at, self.warning_at)


class HandlerWatch:
    """Cancels the handlers that run for too long, and logs those that run for long, again and again.

    Args:
        timeout: Seconds after which a handler is cancelled; None for no limit.
        on_slow: Called when a handler has run for `SLOW_SECONDS`; None to wait for any.
    """

    def __init__(self, timeout: float | None, on_slow: Callable[[], None] | None) -> None:
        self._timeout = timeout
        self._on_slow = on_slow
        self._loop = asyncio.get_running_loop()
        self._running: dict[HandlerRun, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, run: HandlerRun) -> None:
        """Watch a run from now on, until `end`; its limit is entered."""
        run.started = now = self._loop.time()
        warn_after = LONG_RUN_SECONDS
        if self._timeout is not None:
            run.deadline = now + self._timeout
            warn_after = min(warn_after, self._timeout / 2)
        if self._on_slow is not None:
            run.slow_at = now + SLOW_SECONDS
        run.warning_at = now + warn_after
        self._running[run] = None
        # As a rule a later run is due later; but not than the next warning of one that ignores its cancellation.
        if self._timer is not None and run.due < self._timer.when():
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self._loop.call_at(run.due, self._check)

    def end(self, run: HandlerRun) -> None:
        """Watch a run no longer."""
        del self._running[run]

    def close(self) -> None:
        """Watch nothing any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _check(self) -> None:
        now = self._loop.time()
        for run in tuple(self._running):
            if run.deadline <= now:
                run.deadline = _NEVER
                run.limit.reschedule(now)
            if run.slow_at <= now and self._on_slow is not None:
                run.slow_at = _NEVER
                self._on_slow()
            if run.warning_at <= now:
                run.warning_at = now + LONG_RUN_SECONDS
                self._warn(run, now - run.started)
        self._timer = None
        if self._running:
            self._timer = self._loop.call_at(min(run.due for run in self._running), self._check)

    def _warn(self, run: HandlerRun, elapsed: float) -> None:
        what = run.event.id, shown(run.event.type), elapsed
        if self._timeout is None or elapsed < self._timeout:
            logger.warning("the handler of event %d (%s) is still running after %.3g s", *what)
        else:
            logger.error("the handler of event %d (%s) ignores its cancellation, after %.3g s", *what)
