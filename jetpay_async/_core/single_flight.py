"""Captures, one request for each debit at a time, and none forgotten.

Tasks that capture the same debit at the same time share one request and its answer. The first of them carries it
through; if that one is cancelled, the next takes over where it stood.

A capture whose outcome stayed unknown is remembered: the next one for that debit, on this client, reads the status
before it sends anything.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING

from jetpay_async.errors import APIError, RateLimitedError

if TYPE_CHECKING:
    from jetpay_async._core.executor import CallExecutor, Execution
    from jetpay_async.models import Capture

UNRESOLVED_LIMIT = 100_000
"""Debits of unknown outcome that are remembered; beyond that the oldest are forgotten."""


class _SharedCall:
    """A capture under way, and who else waits for its answer."""

    __slots__ = ("execution", "followers")

    def __init__(self, execution: Execution[Capture]) -> None:
        self.execution = execution
        self.followers: list[asyncio.Future[Capture | None]] = []

    def land(self, outcome: Capture | Exception | None) -> None:
        """Tell the followers; None tells them to carry on themselves."""
        for follower in self.followers:
            if follower.done():
                continue
            if isinstance(outcome, Exception):
                # Each task raises its own: a traceback shared between tasks grows with each of them.
                again = copy.copy(outcome)
                again.__cause__ = outcome.__cause__
                follower.set_exception(again)
            else:
                follower.set_result(outcome)


class SingleFlight:
    """All captures of a client that are under way."""

    def __init__(self, executor: CallExecutor) -> None:
        self._executor = executor
        self._in_flight: dict[str, _SharedCall] = {}
        self._unresolved: dict[str, float] = {}

    async def capture(self, debit_id: str, execution: Execution[Capture]) -> Capture:
        """Capture a debit, or share the answer of the capture that is under way.

        Raises:
            JetpayError: As documented for `JetpayClient.capture`.
        """
        while (shared := self._in_flight.get(debit_id)) is not None:
            if (capture := await self._follow(shared, execution)) is not None:
                return capture
        if (certain_from := self._unresolved.pop(debit_id, None)) is not None:
            execution.mark_in_doubt(certain_from)
        shared = self._in_flight[debit_id] = _SharedCall(execution)
        try:
            capture = await self._executor.execute(execution)
        except BaseException as error:
            del self._in_flight[debit_id]
            if _leaves_doubt(execution, error):
                self._remember(debit_id, execution)
            shared.land(error if isinstance(error, Exception) else None)
            raise
        del self._in_flight[debit_id]
        shared.land(capture)
        return capture

    def is_in_flight(self, debit_id: str) -> bool:
        """Whether a capture of this debit is under way."""
        return debit_id in self._in_flight

    async def resolve(self, debit_id: str, execution: Execution[Capture]) -> Capture | None:
        """Find out what became of an earlier capture, whoever sent it, and send nothing; None if it did nothing.

        Args:
            debit_id: The debit.
            execution: With its doubt noted.

        Raises:
            JetpayError: The debit is over, or its status could not tell before the deadline.
        """
        while (shared := self._in_flight.get(debit_id)) is not None:
            if (capture := await self._follow(shared, execution)) is not None:
                return capture
        if (certain_from := self._unresolved.get(debit_id)) is not None:
            # A request of this client may be on its way for longer than the one that is asked about.
            execution.mark_in_doubt(certain_from)
        shared = self._in_flight[debit_id] = _SharedCall(execution)
        try:
            capture = await self._executor.resolve(execution)
        except BaseException as error:
            del self._in_flight[debit_id]
            if isinstance(error, APIError):
                self._unresolved.pop(debit_id, None)
            shared.land(error if isinstance(error, Exception) else None)
            raise
        del self._in_flight[debit_id]
        self._unresolved.pop(debit_id, None)
        shared.land(capture)
        return capture

    async def _follow(self, shared: _SharedCall, execution: Execution[Capture]) -> Capture | None:
        follower: asyncio.Future[Capture | None] = asyncio.get_running_loop().create_future()
        shared.followers.append(follower)
        try:
            async with asyncio.timeout(self._executor.remaining(execution)):
                return await follower
        except TimeoutError:
            raise self._executor.waiter_timeout_error(shared.execution) from None
        except asyncio.CancelledError:
            if shared.execution.unknown:
                execution.mark_in_doubt(self._executor.certain_from(shared.execution))
            raise

    def _remember(self, debit_id: str, execution: Execution[Capture]) -> None:
        if not execution.in_doubt:
            execution.mark_in_doubt(self._executor.certain_from(execution))
        self._unresolved[debit_id] = execution.certain_from
        if len(self._unresolved) > UNRESOLVED_LIMIT:
            del self._unresolved[next(iter(self._unresolved))]


def _leaves_doubt(execution: Execution[Capture], error: BaseException) -> bool:
    """Only the API's word ends a doubt; anything else, an interruption or a fault of our own, leaves it."""
    if isinstance(error, RateLimitedError) and not execution.options.retry.resend_rate_limited:
        return True
    return execution.unknown and not isinstance(error, APIError)
