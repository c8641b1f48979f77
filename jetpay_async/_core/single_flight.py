"""Captures, one request for each debit at a time, and none forgotten.

Tasks that capture the same debit at the same time share one request and its answer. The first of them carries it out;
if that one is cancelled, the next takes over where it stood.

What this client knows of a debit is used by its next capture: one whose outcome stayed unknown, or that was accepted or
captured, reads the status before it sends anything, and a status that lags behind what was seen sends nothing.
"""

from __future__ import annotations

import asyncio
import copy
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NoReturn, TypeVar

import attrs

from jetpay_async.errors import APIError, RateLimitedError
from jetpay_async.models import TransactionState

if TYPE_CHECKING:
    from jetpay_async._core.execution import Execution
    from jetpay_async._core.executor import CallExecutor
    from jetpay_async.models import Capture

UNRESOLVED_LIMIT = 100_000
"""Debits in doubt, or accepted, that are remembered; beyond that the oldest are forgotten."""

CAPTURED_LIMIT = 10_000
"""Captured debits that are remembered: enough for the seconds that a status may lag behind. The API itself refuses to
capture what it knows to be captured."""

_V = TypeVar("_V")


@attrs.frozen(eq=False)
class UnresolvedCapture:
    """What is known of a capture without a final result."""

    certain_from: float
    """See `Execution.certain_from`."""
    seen_state: TransactionState | None
    """See `Execution.seen_state`."""


class SingleFlight:
    """All captures of a client that are under way.

    Args:
        executor: Carries them out.
    """

    def __init__(self, executor: CallExecutor) -> None:
        self._executor = executor
        self._in_flight: dict[str, Execution[Capture]] = {}
        """The call that all who capture a debit share."""
        # In order of their latest capture.
        self._unresolved: dict[str, UnresolvedCapture] = {}
        self._captured: dict[str, TransactionState] = {}

    async def capture(self, execution: Execution[Capture]) -> Capture:
        """Capture a debit, or share the answer of the capture that is under way.

        Raises:
            JetpayError: As documented for `JetpayClient.capture`.
        """
        key = execution.call.key or _raise_without_key()
        in_flight = self._in_flight
        while (shared := in_flight.get(key)) is not None:
            waits = execution.wait_until_final
            capture = shared.accepted if shared.accepted and not waits else await self._follow(shared, execution)
            if capture is not None and (capture.final or not waits):
                return capture
        if key in self._captured or key in self._unresolved:
            self._recall(key, execution)
        in_flight[key] = execution
        if execution.wait_until_final:
            execution.on_accepted = partial(_accept, execution)
        try:
            capture = await self._executor.execute(execution)
        except BaseException as error:
            del in_flight[key]
            if _stays_in_doubt(execution, error):
                self._note_unresolved(key, execution)
            else:
                self._unresolved.pop(key, None)
            _land(execution, error if isinstance(error, Exception) else None)
            raise
        del in_flight[key]
        self._note_result(key, execution, capture)
        if execution.followers:
            _land(execution, capture)
        return capture

    def is_in_flight(self, key: str) -> bool:
        """Whether a capture of the debit of this `Call.key` is under way."""
        return key in self._in_flight

    async def resolve(self, execution: Execution[Capture]) -> Capture | None:
        """Find out what became of an earlier capture, whoever sent it, and send nothing; None if it did nothing.

        Args:
            execution: Marked in doubt.

        Raises:
            JetpayError: The debit is over, or its status did not decide before the deadline.
        """
        key = execution.call.key or _raise_without_key()
        while (shared := self._in_flight.get(key)) is not None:
            if (capture := await self._follow(shared, execution)) is not None:
                return capture
        self._recall(key, execution)
        self._in_flight[key] = execution
        try:
            capture = await self._executor.resolve(execution)
        except BaseException as error:
            del self._in_flight[key]
            if isinstance(error, APIError):
                self._unresolved.pop(key, None)
            else:
                self._note_unresolved(key, execution)
            _land(execution, error if isinstance(error, Exception) else None)
            raise
        del self._in_flight[key]
        if capture is None:
            self._unresolved.pop(key, None)
        else:
            self._note_result(key, execution, capture)
        _land(execution, capture)
        return capture

    async def _follow(self, shared: Execution[Capture], execution: Execution[Capture]) -> Capture | None:
        follower: asyncio.Future[Capture | None] = asyncio.get_running_loop().create_future()
        shared.followers = (*shared.followers, follower)
        try:
            async with asyncio.timeout(self._executor.remaining(execution)):
                return await follower
        except TimeoutError:
            raise self._executor.waiter_timeout_error(shared) from None
        except asyncio.CancelledError:
            if shared.unknown:
                execution.mark_in_doubt(self._executor.certain_from(shared))
            raise

    def _recall(self, key: str, execution: Execution[Capture]) -> None:
        """Mark a capture with what is known of its debit."""
        if (state := self._captured.get(key)) is not None:
            # Nothing is unanswered, and no time needs to pass: a state that was seen ends sending.
            execution.in_doubt = True
            execution.seen_state = state
        elif (unresolved := self._unresolved.get(key)) is not None:
            # A request of this client may be on its way for longer than one that the execution was marked for.
            execution.mark_in_doubt(unresolved.certain_from)
            execution.seen_state = execution.seen_state or unresolved.seen_state

    def _note_unresolved(self, key: str, execution: Execution[Capture]) -> None:
        if key in self._captured:
            return
        if not execution.in_doubt:
            execution.mark_in_doubt(self._executor.certain_from(execution))
        unresolved = UnresolvedCapture(execution.certain_from, execution.seen_state)
        _put_last(self._unresolved, key, unresolved, UNRESOLVED_LIMIT)

    def _note_result(self, key: str, execution: Execution[Capture], capture: Capture) -> None:
        if capture.final:
            if self._unresolved:
                self._unresolved.pop(key, None)
            _put_last(self._captured, key, capture.state, CAPTURED_LIMIT)
        else:
            unresolved = UnresolvedCapture(execution.certain_from, capture.state)
            _put_last(self._unresolved, key, unresolved, UNRESOLVED_LIMIT)


def _raise_without_key() -> NoReturn:
    """Share nothing by accident: without a key, captures of two debits would be taken for one."""
    raise ValueError("a call that is no capture of a debit can't be shared")


def _accept(execution: Execution[Capture], capture: Capture) -> None:
    """Give the followers the result that is followed from now on."""
    execution.accepted = capture
    _land(execution, capture)


def _land(execution: Execution[Capture], outcome: Capture | Exception | None) -> None:
    """Give the followers the outcome; None means that one of them must carry on."""
    followers, execution.followers = execution.followers, ()
    for follower in followers:
        if follower.done() or follower.get_loop().is_closed():
            continue
        if isinstance(outcome, Exception):
            # Each task raises its own: a traceback shared between tasks grows with each of them.
            again = copy.copy(outcome)
            again.__cause__ = outcome.__cause__
            follower.set_exception(again)
        else:
            follower.set_result(outcome)


def _put_last(known: dict[str, _V], key: str, value: _V, limit: int) -> None:
    """Remember it as the latest; keep as many as the limit says, and a twentieth more at most.

    Several are forgotten together, since a dict finds its first key only after all that were removed before it. An
    `OrderedDict` finds it at once, and takes 50 bytes more for each.
    """
    known.pop(key, None)
    known[key] = value
    if len(known) > limit + limit // 20:
        for oldest in tuple(islice(known, limit // 20 + 1)):
            del known[oldest]


def _stays_in_doubt(execution: Execution[Capture], error: BaseException) -> bool:
    """Only an answer of the API ends it: an interruption or a fault of our own does not."""
    if isinstance(error, RateLimitedError) and not execution.options.retry.resend_rate_limited:
        return True
    return execution.unknown and not isinstance(error, APIError)
