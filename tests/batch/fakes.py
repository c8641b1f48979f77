"""A clock that is moved by hand, and outcomes to report."""

from __future__ import annotations

import asyncio
import heapq

import attrs

from jetpay_async import (
    Capture,
    Captured,
    CaptureOutcome,
    Clock,
    InvalidArgumentError,
    JetpayError,
    NotFoundError,
    NotSentError,
    OutcomeUnknownError,
    TransactionState,
)
from jetpay_async.outcomes import undone


@attrs.define
class FakeClock:
    """Moves when it is told to."""

    now: float = 1000.0
    late: float = 0.0
    """Seconds that each sleep takes too long."""
    each_read: float = 0.0
    """Seconds that pass whenever the time is read."""
    _sleepers: list[tuple[float, int, asyncio.Future[None]]] = attrs.Factory(list)

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=self._read, sleep=self._sleep)

    @property
    def sleepers(self) -> int:
        return sum(not sleeper.done() for _, _, sleeper in self._sleepers)

    def _read(self) -> float:
        self.now += self.each_read
        return self.now

    async def _sleep(self, seconds: float) -> None:
        sleeper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds + self.late, len(self._sleepers), sleeper))
        await sleeper

    async def forward(self, seconds: float) -> None:
        """Let time pass, and every task do what it does meanwhile."""
        end = self.now + seconds
        await run_ready_tasks()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, sleeper = heapq.heappop(self._sleepers)
            if not sleeper.done():
                sleeper.set_result(None)
            await run_ready_tasks()
        self.now = end


async def run_ready_tasks() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def outcome_of(error: JetpayError) -> CaptureOutcome:
    """The outcome of a capture that ended in an error."""
    return undone(error, debit_id="debit_123", request=None, trust_rate_limited=True)


CAPTURED = Captured(
    debit_id="debit_123",
    capture=Capture(debit_id="debit_123", state=TransactionState.PAID, raw={}, attempts=1, elapsed=0.1),
)
REJECTED = outcome_of(NotFoundError("no such debit"))
NOT_SENT = outcome_of(NotSentError("refused to connect"))
UNKNOWN = outcome_of(OutcomeUnknownError("silence"))
STILL_PREAUTHORIZED = outcome_of(OutcomeUnknownError("silence", state=TransactionState.PREAUTHORIZED))
INVALID = outcome_of(InvalidArgumentError("empty", field="debit_id"))
