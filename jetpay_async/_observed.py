"""A runner that tells of each operation it has carried through.

The plain runner knows nothing of this: a client that nobody watches pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from jetpay_async._log import logger
from jetpay_async._replies import Unanswered
from jetpay_async._retry import Happened
from jetpay_async._runner import Runner, Settled, classify
from jetpay_async.errors import APIError, JetpayError
from jetpay_async.models import Preauthorization
from jetpay_async.telemetry import Attempt, AttemptResult, Operation, OperationOutcome

if TYPE_CHECKING:
    from jetpay_async._calls import Call
    from jetpay_async._clock import Clock
    from jetpay_async._retry import Decision
    from jetpay_async._runner import OnUnknown, Pursuit
    from jetpay_async._transport import Transport
    from jetpay_async._wire import Reply
    from jetpay_async.models import TransactionStatus

_T = TypeVar("_T")
_Sent = TypeVar("_Sent")

OnOperation = Callable[[Operation], None]
"""Told of each operation when it ends."""

# Looking up the member of an enumeration takes as long as reading the clock.
_DONE = OperationOutcome.DONE
_ANSWERED = AttemptResult.ANSWERED

_RESULTS = {
    Happened.UNSENT: AttemptResult.NOT_SENT,
    Happened.UNANSWERED: AttemptResult.UNANSWERED,
    Happened.RATE_LIMITED: AttemptResult.RATE_LIMITED,
    Happened.REFUSED: AttemptResult.REFUSED,
}


class ObservedRunner(Runner):
    """Carries calls through, and tells of each one when it ends, in the context of whoever called.

    What is carried through for another call, such as the reads after a refusal, becomes a part of its trail.
    """

    def __init__(
        self, transport: Transport, clock: Clock, on_unknown: OnUnknown | None, on_operation: OnOperation
    ) -> None:
        super().__init__(transport, clock, on_unknown)
        self._on_operation = on_operation

    async def settle(self, pursuit: Pursuit[_T]) -> _T | None:
        try:
            result = await super().settle(pursuit)
        except BaseException as error:
            self._fail(pursuit, error)
            raise
        self._tell(pursuit, OperationOutcome.UNDONE if result is None else _DONE, pursuit.call.debit_id)
        return result

    def _take(self, reply: Reply, pursuit: Pursuit[_T]) -> _T:
        result = super()._take(reply, pursuit)
        call = pursuit.call
        self._note(pursuit, call, pursuit.attempt_began, _ANSWERED, reply.status)
        self._tell(pursuit, _DONE, result.debit_id if isinstance(result, Preauthorization) else call.debit_id)
        return result

    def _conclude(self, pursuit: Pursuit[_T], settled: Settled[_T]) -> _T:
        self._tell(pursuit, _DONE, pursuit.call.debit_id)
        return super()._conclude(pursuit, settled)

    def _break_off(self, pursuit: Pursuit[_T], error: BaseException) -> None:
        super()._break_off(pursuit, error)
        self._fail(pursuit, error)

    def _decide(self, pursuit: Pursuit[_T], failure: Unanswered | APIError) -> Decision:
        result = _RESULTS[classify(failure)]
        self._note(pursuit, pursuit.call, pursuit.attempt_began, result, failure.status)
        return super()._decide(pursuit, failure)

    async def _ask(self, call: Call[TransactionStatus], pursuit: Pursuit[_T]) -> tuple[int, TransactionStatus]:
        began = self._clock.monotonic()
        try:
            answer = await super()._ask(call, pursuit)
        except (Unanswered, APIError) as failure:
            self._note(pursuit, call, began, _RESULTS[classify(failure)], failure.status)
            raise
        except BaseException:
            self._note(pursuit, call, began, AttemptResult.CANCELLED, None)
            raise
        self._note(pursuit, call, began, _ANSWERED, answer[0])
        return answer

    def _note(
        self, pursuit: Pursuit[_T], call: Call[_Sent], began: float, result: AttemptResult, status: int | None
    ) -> None:
        duration = self._clock.monotonic() - began
        attempt = Attempt(
            request=call.operation.name,
            started_at=self._clock.time() - duration,
            duration=duration,
            status=status,
            result=result,
        )
        if pursuit.trail is None:
            pursuit.trail = [attempt]
        else:
            pursuit.trail.append(attempt)

    def _fail(self, pursuit: Pursuit[_T], error: BaseException) -> None:
        """Tell of a call that has no result."""
        debit_id = pursuit.call.debit_id
        if isinstance(error, JetpayError):
            self._tell(pursuit, OperationOutcome(error.outcome.value), debit_id or error.debit_id, error)
            return
        name = pursuit.call.operation.name
        if pursuit.attempts > sum(attempt.request == name for attempt in pursuit.trail or ()):
            self._note(pursuit, pursuit.call, pursuit.attempt_began, AttemptResult.CANCELLED, None)
        if pursuit.unknown:
            outcome = OperationOutcome.UNKNOWN
        else:
            outcome = OperationOutcome.FAILED if isinstance(error, Exception) else OperationOutcome.CANCELLED
        self._tell(pursuit, outcome, debit_id, error)

    def _tell(
        self,
        pursuit: Pursuit[_T],
        outcome: OperationOutcome,
        debit_id: str | None,
        error: BaseException | None = None,
    ) -> None:
        trail = pursuit.trail or ()
        if pursuit.part_of is not None:
            pursuit.part_of.trail = [*(pursuit.part_of.trail or ()), *trail]
            return
        duration = self._clock.monotonic() - pursuit.began
        operation = Operation(
            name=pursuit.call.operation.name,
            outcome=outcome,
            debit_id=debit_id,
            started_at=self._clock.time() - duration,
            duration=duration,
            attempts=tuple(trail),
            error=error,
        )
        try:
            self._on_operation(operation)
        except Exception:  # noqa: BLE001 - the outcome must reach its caller whatever the hook does
            logger.exception("on_operation failed for %s %s", operation.name, operation.debit_id or "")
