"""Captures, one request for each debit at a time, and none forgotten.

Tasks that capture the same debit at the same time share one request and its answer. The first of them carries it out;
if that one is cancelled, the next takes over where it stood.

What this client knows of a debit is used by its next capture: one whose outcome stayed unknown, or that was accepted or
captured, reads the status before it sends anything, and a status that lags behind what was seen sends nothing.
"""

from __future__ import annotations

import asyncio
import copy
import re
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, TypeVar

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


@attrs.frozen
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
        # In order of their latest capture. A plain dict finds its first key only after all that were removed before it.
        self._unresolved: OrderedDict[str, UnresolvedCapture] = OrderedDict()
        self._captured: OrderedDict[str, TransactionState] = OrderedDict()

    async def capture(self, debit_id: str, execution: Execution[Capture]) -> Capture:
        """Capture a debit, or share the answer of the capture that is under way.

        Raises:
            JetpayError: As documented for `JetpayClient.capture`.
        """
        if len(debit_id) in _UUID_LENGTHS:
            debit_id = key_of(debit_id)
        in_flight = self._in_flight
        while (shared := in_flight.get(debit_id)) is not None:
            waits = execution.wait_until_final
            capture = shared.accepted if shared.accepted and not waits else await self._follow(shared, execution)
            if capture is not None and (capture.final or not waits):
                return capture
        if debit_id in self._captured or debit_id in self._unresolved:
            self._recall(debit_id, execution)
        in_flight[debit_id] = execution
        if execution.wait_until_final:
            execution.on_accepted = partial(_accept, execution)
        try:
            capture = await self._executor.execute(execution)
        except BaseException as error:
            del in_flight[debit_id]
            if _stays_in_doubt(execution, error):
                self._note_unresolved(debit_id, execution)
            else:
                self._unresolved.pop(debit_id, None)
            _land(execution, error if isinstance(error, Exception) else None)
            raise
        del in_flight[debit_id]
        self._note_result(debit_id, execution, capture)
        if execution.followers:
            _land(execution, capture)
        return capture

    def is_in_flight(self, debit_id: str) -> bool:
        """Whether a capture of this debit is under way."""
        return key_of(debit_id) in self._in_flight

    async def resolve(self, debit_id: str, execution: Execution[Capture]) -> Capture | None:
        """Find out what became of an earlier capture, whoever sent it, and send nothing; None if it did nothing.

        Args:
            debit_id: The debit.
            execution: Marked in doubt.

        Raises:
            JetpayError: The debit is over, or its status did not decide before the deadline.
        """
        debit_id = key_of(debit_id)
        while (shared := self._in_flight.get(debit_id)) is not None:
            if (capture := await self._follow(shared, execution)) is not None:
                return capture
        self._recall(debit_id, execution)
        self._in_flight[debit_id] = execution
        try:
            capture = await self._executor.resolve(execution)
        except BaseException as error:
            del self._in_flight[debit_id]
            if isinstance(error, APIError):
                self._unresolved.pop(debit_id, None)
            else:
                self._note_unresolved(debit_id, execution)
            _land(execution, error if isinstance(error, Exception) else None)
            raise
        del self._in_flight[debit_id]
        if capture is None:
            self._unresolved.pop(debit_id, None)
        else:
            self._note_result(debit_id, execution, capture)
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

    def _recall(self, debit_id: str, execution: Execution[Capture]) -> None:
        """Mark a capture with what is known of its debit."""
        if (state := self._captured.get(debit_id)) is not None:
            # Nothing is unanswered, and no time needs to pass: a state that was seen ends sending.
            execution.in_doubt = True
            execution.seen_state = state
        elif (unresolved := self._unresolved.get(debit_id)) is not None:
            # A request of this client may be on its way for longer than one that the execution was marked for.
            execution.mark_in_doubt(unresolved.certain_from)
            execution.seen_state = execution.seen_state or unresolved.seen_state

    def _note_unresolved(self, debit_id: str, execution: Execution[Capture]) -> None:
        if debit_id in self._captured:
            return
        if not execution.in_doubt:
            execution.mark_in_doubt(self._executor.certain_from(execution))
        unresolved = UnresolvedCapture(execution.certain_from, execution.seen_state)
        _put_last(self._unresolved, debit_id, unresolved, UNRESOLVED_LIMIT)

    def _note_result(self, debit_id: str, execution: Execution[Capture], capture: Capture) -> None:
        if capture.final:
            if self._unresolved:
                self._unresolved.pop(debit_id, None)
            _put_last(self._captured, debit_id, capture.state, CAPTURED_LIMIT)
        else:
            unresolved = UnresolvedCapture(execution.certain_from, capture.state)
            _put_last(self._unresolved, debit_id, unresolved, UNRESOLVED_LIMIT)


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


_UUID_LENGTHS = (36, 32)
_is_uuid = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE).fullmatch


def key_of(debit_id: str) -> str:
    """Spell an id in one way: the API takes a UUID in both cases, with and without hyphens, for the same debit."""
    if len(debit_id) in _UUID_LENGTHS and _is_uuid(debit_id):
        return debit_id.lower().replace("-", "")
    return debit_id


def _put_last(known: OrderedDict[str, _V], debit_id: str, value: _V, limit: int) -> None:
    """Remember it as the latest, and forget the oldest beyond the limit."""
    known[debit_id] = value
    known.move_to_end(debit_id)
    if len(known) > limit:
        known.popitem(last=False)


def _stays_in_doubt(execution: Execution[Capture], error: BaseException) -> bool:
    """Only an answer of the API ends it: an interruption or a fault of our own does not."""
    if isinstance(error, RateLimitedError) and not execution.options.retry.resend_rate_limited:
        return True
    return execution.unknown and not isinstance(error, APIError)
