"""What keeps a pool of workers from running into a service that is overloaded or dead.

Three means, from the mildest on:

- *rate*: so many starts a second, whatever the service bears;
- *window*: how many may be in shared. 429 and 5xx halve it, each answer lets it grow a little (additive increase,
  multiplicative decrease, as in TCP), and ``Retry-After`` holds back every start;
- *breaker*: once some items in a row end without the API's word on them, or the token is refused, nothing is started
  any more but for one item now and then, to see whether the service is back.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from typing import TYPE_CHECKING

from jetpay_async._core.log import logger
from jetpay_async.errors import AuthenticationError, ConfigurationError, InvalidArgumentError
from jetpay_async.outcomes import Captured, Preauthorized, Rejected

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async.errors import JetpayError
    from jetpay_async.outcomes import CaptureOutcome, PreauthorizationOutcome

# So many in a row are no coincidence: each of them has been tried several times by itself.
_FAILURES = 8

# Rounds of answers in which a closed window opens wide; a narrow one grows by one place a round. If a wide one grew no
# faster, a service that answers one request in a hundred with 500, which is no overload, would hold 64 down to 14.
_ROUNDS = 16

# Seconds until an open breaker lets one item through.
_COOLDOWN = 30.0

# Seconds of pause that are granted at most. Asking once more does no harm, and a batch must not hang for a misprint.
_LONGEST_PAUSE = 300.0

# Seconds of starts that are made up for: timers ring late, and without it every start would be late by as much.
_LATENESS = 0.02

_DONE = (Captured, Preauthorized)
_THE_SAME_FOR_ALL = (AuthenticationError, ConfigurationError)


class AdmissionControl:
    """The admission of one pool, on one event loop.

    Args:
        concurrency: The most that may be in shared, and where the window begins.
        rate: Starts per second, evenly spaced; None for as many as the window allows.
        clock: Time, and how to wait.
    """

    def __init__(self, concurrency: int, *, rate: float | None, clock: Clock) -> None:
        self.in_flight = 0
        self.tripped: JetpayError | None = None
        """Why the breaker is open; None while it is closed."""
        self.window = float(concurrency)
        """How many may be in shared, and a fraction on the way to one more."""
        self.generation = 0
        """How often the window was cut."""
        self._widest = concurrency
        self._growth = max(1.0, concurrency / _ROUNDS)
        self._interval = 0.0 if rate is None else 1.0 / rate
        self._clock = clock
        # When the next start may be, on the monotonic clock; looked at unless the road is known to be clear.
        self._next_start = -math.inf
        self._clear = rate is None
        self._failures = 0
        self._probe_at = -math.inf
        self._probing = False
        self._waiting: deque[asyncio.Future[JetpayError | None]] = deque()
        self._pacer: asyncio.Task[None] | None = None

    def enter_at_once(self) -> bool:
        """Take a turn if nothing at all stands in the way."""
        if self._clear and self.in_flight + 1 <= self.window:
            self.in_flight += 1
            return True
        return False

    async def enter(self) -> JetpayError | None:
        """Wait for a turn to start, in order of arrival.

        Returns:
            None when the turn has come: call `leave` when it is over. Otherwise why nothing is started at present:
            the error that opened the breaker.
        """
        if self.enter_at_once():
            return None
        if self.tripped is not None:
            return self._probe(self.tripped)
        turn: asyncio.Future[JetpayError | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._forget(turn)
            elif turn.result() is None:
                self.leave()
            raise

    def leave(self) -> None:
        """End a turn."""
        self.in_flight -= 1
        self._probing = False
        if self._waiting:
            self._admit()

    def record(self, outcome: CaptureOutcome | PreauthorizationOutcome) -> None:
        """Judge the service by what became of an item whose turn had come; before `leave`."""
        error = None if isinstance(outcome, _DONE) else outcome.error
        if error is None or (not isinstance(error, _THE_SAME_FOR_ALL) and isinstance(outcome, Rejected)):
            self._failures = 0
            if self.tripped is not None and not self._is_shut:
                logger.warning("the service answers again: going on")
                self.tripped = None
            if self.window < self._widest:
                self.window = min(self._widest, self.window + self._growth / self.window)
        elif not isinstance(error, InvalidArgumentError):
            self._failures += 1
            if self._failures >= _FAILURES or self.tripped is not None or isinstance(error, _THE_SAME_FOR_ALL):
                self._trip(error)

    def shut(self, error: JetpayError) -> None:
        """Start nothing more, for this reason, whatever the service says."""
        self._open(error, math.inf)

    def slow_down(self, generation: int, status: int | None, retry_after: float | None) -> None:
        """Take an attempt without a result for a sign of overload, if it is one.

        Args:
            generation: That of the admission when the attempt began: what was on its way when the window was cut says
                nothing about the window that it was cut to.
            status: The HTTP status, if there was any.
            retry_after: Seconds that the service asked to wait.
        """
        if retry_after is not None:
            pause = min(retry_after, _LONGEST_PAUSE)
            self._next_start = max(self._next_start, self._clock.monotonic() + pause)
            self._clear = False
            logger.info("the service asked to wait %g s: starting nothing for %g s", retry_after, pause)
        if status is not None and (status == 429 or status >= 500) and generation == self.generation:
            self.generation += 1
            self.window = max(1.0, self.window / 2)
            logger.info("status %d: no more than %d in shared", status, self.window)

    def _admit(self) -> None:
        """Let in those whose turn it is, and see to it that the next are let in in time."""
        while self._waiting and self.in_flight + 1 <= self.window:
            now = self._clock.monotonic()
            if now < self._next_start:
                if self._pacer is None:
                    self._pacer = asyncio.get_running_loop().create_task(self._pace())
                return
            self._clear = not self._interval
            turn = self._waiting.popleft()
            if turn.done():  # cancelled, and not told yet
                continue
            made_up_for = self._pacer is not None and now - self._next_start < _LATENESS
            self._next_start = (self._next_start if made_up_for else now) + self._interval
            self.in_flight += 1
            turn.set_result(None)

    async def _pace(self) -> None:
        """Wait for the time of the next start, for as long as that is what is waited for."""
        while self._waiting and self.in_flight + 1 <= self.window:
            await self._clock.sleep(max(0.0, self._next_start - self._clock.monotonic()))
            self._admit()
        self._pacer = None

    def _forget(self, turn: asyncio.Future[JetpayError | None]) -> None:
        if turn in self._waiting:
            self._waiting.remove(turn)
        if not self._waiting:
            self._stop_pacing()

    def _stop_pacing(self) -> None:
        if self._pacer is not None:
            self._pacer.cancel()
            self._pacer = None

    @property
    def _is_shut(self) -> bool:
        return self._probe_at == math.inf

    def _trip(self, error: JetpayError) -> None:
        if self._is_shut:
            return
        if self.tripped is None:
            logger.warning("starting nothing for %g s, then one item to see: %s", _COOLDOWN, error)
        self._open(error, max(self._clock.monotonic() + _COOLDOWN, self._next_start))

    def _open(self, error: JetpayError, probe_at: float) -> None:
        self.tripped = error
        self._clear = False
        self._probing = False
        self._probe_at = probe_at
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(error)
        self._stop_pacing()

    def _probe(self, error: JetpayError) -> JetpayError | None:
        """Let one in to see whether the service is back."""
        if self._probing or self._clock.monotonic() < self._probe_at:
            return error
        self._probing = True
        self.in_flight += 1
        return None


class Slot:
    """One worker's way past the admission, one item at a time."""

    __slots__ = ("_admission", "_generation", "busy")

    def __init__(self, admission: AdmissionControl) -> None:
        self._admission = admission
        self._generation = 0
        self.busy = False
        """Whether an item's turn has come and is not over."""

    def enter_at_once(self) -> bool:
        """Take a turn if nothing at all stands in the way."""
        admission = self._admission
        self.busy = admission.enter_at_once()
        self._generation = admission.generation
        return self.busy

    async def enter(self) -> JetpayError | None:
        """Wait for a turn, as `AdmissionControl.enter`."""
        refusal = await self._admission.enter()
        self.busy = refusal is None
        self._generation = self._admission.generation
        return refusal

    def on_trouble(self, status: int | None, retry_after: float | None) -> None:
        """Hear of an attempt without a result; what `CallExecutor.begin` wants."""
        self._admission.slow_down(self._generation, status, retry_after)
        # Another attempt would begin after this.
        self._generation = self._admission.generation

    def leave(self, outcome: CaptureOutcome | PreauthorizationOutcome | None) -> None:
        """End the turn with what became of the item; None if nothing can be learnt from it."""
        self.busy = False
        if outcome is not None:
            self._admission.record(outcome)
        self._admission.leave()
