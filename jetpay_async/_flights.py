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
    from jetpay_async._runner import Pursuit, Runner
    from jetpay_async.models import Capture

DOUBTS_LIMIT = 100_000
"""Debits of unknown outcome that are remembered; beyond that the oldest are forgotten."""


class _Flight:
    """A capture under way, and who else waits for its answer."""

    __slots__ = ("followers", "pursuit")

    def __init__(self, pursuit: Pursuit[Capture]) -> None:
        self.pursuit = pursuit
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


class Flights:
    """All captures of a client that are under way."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._flights: dict[str, _Flight] = {}
        self._doubts: dict[str, float] = {}

    async def capture(self, debit_id: str, pursuit: Pursuit[Capture]) -> Capture:
        """Capture a debit, or share the answer of the capture that is under way.

        Raises:
            JetpayError: As documented for `JetpayClient.capture`.
        """
        while (flight := self._flights.get(debit_id)) is not None:
            if (capture := await self._follow(flight, pursuit)) is not None:
                return capture
        if (given_up_at := self._doubts.pop(debit_id, None)) is not None:
            pursuit.doubt(given_up_at)
        flight = self._flights[debit_id] = _Flight(pursuit)
        try:
            capture = await self._runner.run(pursuit)
        except BaseException as error:
            del self._flights[debit_id]
            if _leaves_doubt(pursuit, error):
                self._remember(debit_id, pursuit)
            flight.land(error if isinstance(error, Exception) else None)
            raise
        del self._flights[debit_id]
        flight.land(capture)
        return capture

    async def settle(self, debit_id: str, pursuit: Pursuit[Capture]) -> Capture | None:
        """Find out what became of an earlier capture, whoever sent it, and send nothing; None if it did nothing.

        Args:
            debit_id: The debit.
            pursuit: With its doubt noted.

        Raises:
            JetpayError: The debit is over, or its status could not tell before the deadline.
        """
        while (flight := self._flights.get(debit_id)) is not None:
            if (capture := await self._follow(flight, pursuit)) is not None:
                return capture
        if (given_up_at := self._doubts.get(debit_id)) is not None:
            # A request of this client may be on its way for longer than the one that is asked about.
            pursuit.doubt(max(pursuit.given_up_at, given_up_at))
        flight = self._flights[debit_id] = _Flight(pursuit)
        try:
            capture = await self._runner.settle(pursuit)
        except BaseException as error:
            del self._flights[debit_id]
            if isinstance(error, APIError):
                self._doubts.pop(debit_id, None)
            flight.land(error if isinstance(error, Exception) else None)
            raise
        del self._flights[debit_id]
        self._doubts.pop(debit_id, None)
        flight.land(capture)
        return capture

    async def _follow(self, flight: _Flight, pursuit: Pursuit[Capture]) -> Capture | None:
        follower: asyncio.Future[Capture | None] = asyncio.get_running_loop().create_future()
        flight.followers.append(follower)
        try:
            async with asyncio.timeout(self._runner.remaining(pursuit)):
                return await follower
        except TimeoutError:
            raise self._runner.late(flight.pursuit) from None
        except asyncio.CancelledError:
            if flight.pursuit.unknown:
                pursuit.doubt(self._runner.now())
            raise

    def _remember(self, debit_id: str, pursuit: Pursuit[Capture]) -> None:
        if not pursuit.doubtful:
            pursuit.doubt(self._runner.now())
        self._doubts[debit_id] = pursuit.given_up_at
        if len(self._doubts) > DOUBTS_LIMIT:
            del self._doubts[next(iter(self._doubts))]


def _leaves_doubt(pursuit: Pursuit[Capture], error: BaseException) -> bool:
    """Only the API's word ends a doubt; anything else, an interruption or a fault of our own, leaves it."""
    if isinstance(error, RateLimitedError) and not pursuit.options.retry.resend_rate_limited:
        return True
    return pursuit.unknown and not isinstance(error, APIError)
