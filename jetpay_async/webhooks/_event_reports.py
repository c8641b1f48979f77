"""Report each attempt to handle a stored event: for metrics and tracing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple, TypeAlias

import attrs

from jetpay_async._core.clock import Clock
from jetpay_async.webhooks._failures import log_failure
from jetpay_async.webhooks.events import Event

EventResult: TypeAlias = Literal["handled", "unhandled", "outdated", "failed", "dead", "left"]


@attrs.frozen(kw_only=True)
class StoredEventReport:
    """An attempt to handle a stored event that has ended, for ``WebhookReceiver(on_stored_event=...)``."""

    event: Event
    """Which event."""
    result: EventResult
    """``handled``; ``unhandled``, since there is no handler for its kind; ``outdated``, since a later event of the
    transaction was handled before; ``failed``, to be tried again; ``dead``: a dead letter now; ``left``: the lease was
    lost or the inbox failed, so it is handled again."""
    started_at: float
    """When the attempt began, in seconds since the epoch."""
    duration: float
    """Seconds until its end. With ``mark_within`` the mark may come later."""
    error: BaseException | None = None
    """What the handler or the inbox raised."""


class AttemptEnd(NamedTuple):
    """How an attempt ended."""

    result: EventResult
    error: BaseException | None = None


class EventReporter:
    """Measures attempts.

    Args:
        report: Called with each; what it raises is logged.
        clock: Where time comes from.
    """

    def __init__(self, report: Callable[[StoredEventReport], object], clock: Clock) -> None:
        self._report = report
        self._clock = clock

    async def observe(self, event: Event, attempt: Awaitable[AttemptEnd]) -> None:
        """Await an attempt and report it, unless it is cancelled."""
        started_at, started = self._clock.time(), self._clock.monotonic()
        end = await attempt
        report = StoredEventReport(
            event=event,
            result=end.result,
            started_at=started_at,
            duration=self._clock.monotonic() - started,
            error=end.error,
        )
        try:
            self._report(report)
        except Exception as error:  # noqa: BLE001 - the user's, and the event is done all the same
            log_failure(error, "on_stored_event failed")


def reporter_for(report: Callable[[StoredEventReport], object] | None, clock: Clock) -> EventReporter | None:
    """Return what reports attempts; None if nobody wants to know."""
    return None if report is None else EventReporter(report, clock)
