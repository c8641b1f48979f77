"""Circuit breaker for batch workers: after several failures in a row, only a probe is sent now and then."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from jetpay_async._core.log import logger

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async.errors import JetpayError

# So many failures in a row are no coincidence: each item has been tried several times by itself.
FAILURE_THRESHOLD = 8

# How long an open breaker lets nothing through before it lets one item through as a probe.
COOLDOWN_SECONDS = 30.0


class CircuitBreaker:
    """Whether items are sent at all: closed (yes), open (no), half-open (one probe), or disabled (never again).

    Args:
        clock: Time.
    """

    __slots__ = ("_clock", "_disabled", "_failures", "_probe_at", "_probing", "_rows", "error", "failure_row")

    def __init__(self, clock: Clock) -> None:
        self.error: JetpayError | None = None
        """The error that opened it, or the latest one since; None while it is closed."""
        self.failure_row: int | None = None
        """Identifies the present row of failures; None if the latest item had an answer."""
        self._clock = clock
        self._failures = 0
        self._rows = 0
        self._disabled = False
        # Monotonic.
        self._probe_at = -math.inf
        self._probing = False

    def on_answer(self) -> None:
        """Close: the service answered."""
        self._failures = 0
        self.failure_row = None
        if self.error is not None and not self._disabled:
            logger.warning("circuit breaker closed: the service answers again")
            self.error = None

    def on_failure(self, error: JetpayError, *, run_wide: bool = False, conclusive: bool = True) -> None:
        """Count an item that ended without an answer of the service; open when there are too many of them in a row.

        Args:
            error: What the item ended with.
            run_wide: Whether every other item would end with the same error, so that one is enough.
            conclusive: Whether this failure may be the last one that is missing. One that many items in flight had in
                common, such as a connection that was lost for a second, is not.
        """
        if self.failure_row is None:
            self._rows += 1
            self.failure_row = self._rows
        if conclusive or self._failures < FAILURE_THRESHOLD - 1:
            self._failures += 1
        if self._disabled or not (run_wide or self._failures >= FAILURE_THRESHOLD or self.error is not None):
            return
        if self.error is None:
            logger.warning(
                "circuit breaker opened: nothing is sent for %g s, then one item as a probe; last error: %s",
                COOLDOWN_SECONDS,
                error,
                extra={"reason": error.message, "status": error.status, "request_id": error.request_id},
            )
        self.error = error
        self._probe_at = self._clock.monotonic() + COOLDOWN_SECONDS
        self._probing = False

    def disable(self, error: JetpayError) -> None:
        """Open for good, whatever the service answers."""
        self.error = error
        self._disabled = True

    def may_probe(self) -> bool:
        """Whether the next item may be sent as a probe."""
        return not (self._disabled or self._probing) and self._clock.monotonic() >= self._probe_at

    def begin_probe(self) -> None:
        """Note that a probe is under way; others wait for its end."""
        self._probing = True

    def end_probe(self) -> None:
        """Note that the probe is over; if it brought neither an answer nor a failure, the next item is one."""
        self._probing = False
