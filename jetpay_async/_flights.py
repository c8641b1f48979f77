"""Captures, one request for each debit at a time, and none forgotten.

Tasks that capture the same debit at the same time share one request and its answer. A capture whose outcome stayed
unknown is remembered: the next one for that debit, on this client, reads the status before it sends anything.
"""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING

from jetpay_async.errors import OutcomeUnknownError

if TYPE_CHECKING:
    from jetpay_async._calls import Call
    from jetpay_async._runner import Options, Pursuit, Runner
    from jetpay_async.models import Capture

DOUBTS_LIMIT = 100_000
"""Debits of unknown outcome that are remembered; beyond that the oldest are forgotten."""


class Flight:
    """A capture under way, in a task of its own: it outlives whoever asked first."""

    def __init__(self, pursuit: Pursuit[Capture], task: asyncio.Task[Capture]) -> None:
        self.pursuit = pursuit
        self.task = task
        self.waiters: list[asyncio.Future[None]] = []
        self.abandoned = False

    def land(self, _: object) -> None:
        """Wake all who wait."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


class Flights:
    """All captures of a client that are under way."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._flights: dict[str, Flight] = {}
        self._doubts: dict[str, float] = {}

    async def capture(self, debit_id: str, call: Call[Capture], options: Options) -> Capture:
        """Capture a debit, or share the capture that is under way.

        A cancelled caller leaves the others their answer. The last one takes the request down with it, and does not
        return before it is down.

        Raises:
            JetpayError: As documented for `JetpayClient.capture`.
        """
        flight = self._flights.get(debit_id)
        while flight is not None and flight.abandoned:
            await asyncio.wait([flight.task])
            flight = self._flights.get(debit_id)
        if flight is None:
            flight = self._begin(debit_id, call, options)
            await _wait(flight)
            return flight.task.result()
        try:
            async with asyncio.timeout(options.timeout):
                await _wait(flight)
        except TimeoutError:
            raise self._runner.late(flight.pursuit) from None
        if flight.task.cancelled() or (error := flight.task.exception()) is None:
            return flight.task.result()
        # Each task raises its own: a traceback shared between tasks grows with each of them.
        again = copy.copy(error)
        again.__cause__ = error.__cause__
        raise again

    def _begin(self, debit_id: str, call: Call[Capture], options: Options) -> Flight:
        pursuit = self._runner.pursue(call, options, given_up_at=self._doubts.pop(debit_id, None))
        task = asyncio.get_running_loop().create_task(self._run(debit_id, pursuit))
        flight = self._flights[debit_id] = Flight(pursuit, task)
        task.add_done_callback(flight.land)
        return flight

    async def _run(self, debit_id: str, pursuit: Pursuit[Capture]) -> Capture:
        try:
            return await self._runner.run(pursuit)
        except (OutcomeUnknownError, asyncio.CancelledError):
            if pursuit.unknown:
                self._doubts[debit_id] = pursuit.given_up_at
                if len(self._doubts) > DOUBTS_LIMIT:
                    del self._doubts[next(iter(self._doubts))]
            raise
        finally:
            del self._flights[debit_id]


async def _wait(flight: Flight) -> None:
    waiter = asyncio.get_running_loop().create_future()
    flight.waiters.append(waiter)
    try:
        await waiter
    except asyncio.CancelledError as cancel:
        flight.waiters.remove(waiter)
        if not flight.waiters:
            await _take_down(flight, cancel)
        raise


async def _take_down(flight: Flight, cancel: asyncio.CancelledError) -> None:
    """End a capture that nobody waits for, and hand what is known of it to the one who left last."""
    flight.abandoned = True
    flight.task.cancel()
    await asyncio.wait([flight.task])
    try:
        result = flight.task.result()
    except asyncio.CancelledError as inner:
        for note in getattr(inner, "__notes__", ()):
            cancel.add_note(note)
    except Exception as error:  # noqa: BLE001 - it goes to the one who is being cancelled
        cancel.add_note(f"It ended as it was cancelled: {error}")
    else:
        cancel.add_note(f"It was done as it was cancelled: {result}")
