"""Admission control for batch workers: concurrency limit, rate limit and circuit breaker combined."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from jetpay_async._batch.circuit_breaker import CircuitBreaker
from jetpay_async._batch.concurrency_limit import AIMDLimiter
from jetpay_async._batch.rate_limit import Pacer
from jetpay_async._core.log import logger
from jetpay_async.errors import AuthenticationError, ConfigurationError, InvalidArgumentError, OutcomeUnknownError
from jetpay_async.outcomes import NotSent, Rejected, Unknown

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async.errors import JetpayError
    from jetpay_async.outcomes import BatchOutcome

_WITHOUT_RESULT = (Rejected, NotSent, Unknown)
_RUN_WIDE_ERRORS = (AuthenticationError, ConfigurationError)


class AdmissionControl:
    """Decides when the workers of one pool, on one event loop, may start their items.

    Args:
        concurrency: The most items in flight.
        rate: Starts per second, evenly spaced; None for no limit.
        clock: Time, and how to wait.
    """

    def __init__(self, concurrency: int, *, rate: float | None, clock: Clock) -> None:
        self.limiter = AIMDLimiter(concurrency)
        self.pacer = Pacer(rate, clock)
        self.breaker = CircuitBreaker(clock)
        self.waiting: deque[asyncio.Future[JetpayError | None]] = deque()
        """Who waits, in order of arrival. The result is None when the item may start, or why nothing is started."""
        self.undisturbed = rate is None
        """Whether nothing but `AIMDLimiter.maximum` limits the starts, and an item that has a result changes nothing.

        Each disturbance ends it, and only `leave` finds out that there is none any more.
        """

    @property
    def limit(self) -> float:
        """How many items may be in flight at present."""
        return self.limiter.limit

    def disable(self, error: JetpayError) -> None:
        """Start nothing more, for this reason, whatever the service answers."""
        self.undisturbed = False
        self.breaker.disable(error)
        self._reject_waiting(error)

    async def enter(self) -> JetpayError | None:
        """Wait until an item may start; return None, or why nothing is started at present."""
        turn: asyncio.Future[JetpayError | None] = asyncio.get_running_loop().create_future()
        self.undisturbed = False
        self.waiting.append(turn)
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(turn)
            elif turn.result() is None:
                self.leave()
            raise

    def try_probe(self) -> bool:
        """Start an item as the probe of an open circuit breaker, if it is time for one."""
        if not (self.breaker.may_probe() and self.pacer.try_start()):
            return False
        self.breaker.begin_probe()
        self.limiter.in_flight += 1
        return True

    def leave(self) -> None:
        """End an item that was started."""
        self.limiter.in_flight -= 1
        if self.waiting:
            self._admit()
        self.undisturbed = (
            self.pacer.unrestricted
            and self.limiter.limit == self.limiter.maximum
            and self.breaker.failure_row is None
            and self.breaker.error is None
            and not self.waiting
        )

    def record(self, outcome: BatchOutcome, *, failure_row: int | None) -> None:
        """Learn from the outcome of an item that was started, before `leave`.

        Args:
            outcome: Of the item. An answer of the service, whatever it says, shows that the service works.
            failure_row: That of the circuit breaker when the item was started.
        """
        self.undisturbed = False
        breaker = self.breaker
        error = outcome.error if isinstance(outcome, _WITHOUT_RESULT) else None
        run_wide = error is not None and isinstance(error, _RUN_WIDE_ERRORS)
        if error is None or (isinstance(outcome, Rejected) and not run_wide):
            breaker.on_answer()
            self.limiter.on_answer()
        elif not isinstance(error, InvalidArgumentError):
            # A lost connection leaves as many outcomes unknown as were in flight, and all reach their deadline at the
            # same time. While statuses are read, that does not show that the next item would fare the same.
            began_after_failures = failure_row is not None and failure_row == breaker.failure_row
            status_was_read = isinstance(error, OutcomeUnknownError) and error.state is not None
            conclusive = began_after_failures or not status_was_read
            breaker.on_failure(error, run_wide=run_wide, conclusive=conclusive)
            if breaker.error is not None:
                self._reject_waiting(breaker.error)

    def on_failure(self, generation: int, status: int | None, retry_after: float | None) -> None:
        """Learn from an attempt that brought no result.

        Args:
            generation: That of the limiter when the attempt began.
            status: The HTTP status, if there was one.
            retry_after: Seconds that the service asked to wait.
        """
        self.undisturbed = False
        if retry_after is not None:
            pause = self.pacer.pause(retry_after)
            logger.info("the service asked to wait %g s: nothing is started for %g s", retry_after, pause)
        if status is not None and (status == 429 or status >= 500) and self.limiter.on_overload(generation):
            logger.info(
                "status %d: the concurrency limit is %d now", status, self.limiter.limit, extra={"status": status}
            )

    def _admit(self) -> bool:
        """Start those who wait, as far as they may; return whether the next one waits for its time alone."""
        limiter = self.limiter
        while self.waiting and limiter.has_room:
            if self.waiting[0].done():  # cancelled, and its task has not run since
                self.waiting.popleft()
            elif self.pacer.try_start():
                limiter.in_flight += 1
                self.waiting.popleft().set_result(None)
            else:
                self.pacer.schedule(self._admit)
                return True
        return False

    def _forget(self, turn: asyncio.Future[JetpayError | None]) -> None:
        if turn in self.waiting:
            self.waiting.remove(turn)
        if not self.waiting:
            self.pacer.cancel()

    def _reject_waiting(self, error: JetpayError) -> None:
        while self.waiting:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(error)
        self.pacer.cancel()


class Slot:
    """One worker's place in an `AdmissionControl`, used for one item after the other.

    Args:
        admission: Shared by all workers of the pool.
    """

    __slots__ = ("_admission", "_failure_row", "_generation", "_is_probe", "busy")

    def __init__(self, admission: AdmissionControl) -> None:
        self._admission = admission
        # When the latest item was started that had to ask. Such a row is over when one need not, and comes no more.
        self._failure_row: int | None = None
        self._generation = 0
        self._is_probe = False
        self.busy = False
        """Whether an item was started and has not ended."""

    def enter_at_once(self) -> bool:
        """Start an item if nothing at all prevents it."""
        admission = self._admission
        limiter = admission.limiter
        if admission.undisturbed and limiter.in_flight < limiter.maximum:
            limiter.in_flight += 1
            self.busy = True
            self._generation = limiter.generation
            return True
        return False

    async def enter(self) -> JetpayError | None:
        """Wait until an item may start, in order of arrival.

        Returns:
            None when the item may start: call `leave` when it has ended. Otherwise the error for which the circuit
            breaker is open, and nothing is started.
        """
        if self.enter_at_once():
            return None
        admission = self._admission
        error = admission.breaker.error
        if error is None:
            error = await admission.enter()
        elif admission.try_probe():
            self._is_probe = True
            error = None
        self.busy = error is None
        self._generation = admission.limiter.generation
        self._failure_row = admission.breaker.failure_row
        return error

    def on_failure(self, status: int | None, retry_after: float | None) -> None:
        """Report an attempt that brought no result; pass it to `CallExecutor.begin`."""
        self._admission.on_failure(self._generation, status, retry_after)
        # The next attempt begins after this.
        self._generation = self._admission.limiter.generation

    def leave(self, outcome: BatchOutcome | None) -> None:
        """End the item with its outcome; None if it says nothing about the service."""
        admission = self._admission
        self.busy = False
        if admission.undisturbed and not (self._is_probe or isinstance(outcome, _WITHOUT_RESULT)):
            admission.limiter.in_flight -= 1
            return
        if outcome is not None:
            admission.record(outcome, failure_row=self._failure_row)
        if self._is_probe:
            self._is_probe = False
            admission.breaker.end_probe()
        admission.leave()
