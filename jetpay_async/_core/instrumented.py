"""A runner that tells of each operation it has carried through.

The plain runner knows nothing of this: a client that nobody watches pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from jetpay_async._core.executor import CallExecutor, Resolution, classify
from jetpay_async._core.log import logger
from jetpay_async._core.responses import Unanswered
from jetpay_async.errors import APIError, JetpayError
from jetpay_async.models import Preauthorization
from jetpay_async.telemetry import Attempt, AttemptResult, Operation, OperationOutcome

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.executor import Execution, OnUnknown
    from jetpay_async._core.http import RawResponse
    from jetpay_async._core.operations import Call
    from jetpay_async._core.retry import RetryDecision
    from jetpay_async._core.transport import Transport
    from jetpay_async.models import TransactionStatus

_T = TypeVar("_T")
_Sent = TypeVar("_Sent")

OnOperation = Callable[[Operation], None]
"""Told of each operation when it ends."""

# Looking up the member of an enumeration takes as long as reading the clock.
_DONE = OperationOutcome.DONE
_ANSWERED = AttemptResult.ANSWERED


class InstrumentedExecutor(CallExecutor):
    """Carries calls through, and tells of each one when it ends, in the context of whoever called.

    What is carried through for another call, such as the reads after a refusal, becomes a part of its trail.
    """

    def __init__(
        self, transport: Transport, clock: Clock, on_unknown: OnUnknown | None, on_operation: OnOperation
    ) -> None:
        super().__init__(transport, clock, on_unknown)
        self._on_operation = on_operation

    async def resolve(self, execution: Execution[_T]) -> _T | None:
        try:
            result = await super().resolve(execution)
        except BaseException as error:
            self._fail(execution, error)
            raise
        self._tell(execution, OperationOutcome.UNDONE if result is None else _DONE, execution.call.debit_id)
        return result

    def _take(self, reply: RawResponse, execution: Execution[_T]) -> _T:
        result = super()._take(reply, execution)
        call = execution.call
        self._note(execution, call, execution.attempt_began, _ANSWERED, reply.status)
        self._tell(execution, _DONE, result.debit_id if isinstance(result, Preauthorization) else call.debit_id)
        return result

    def _conclude(self, execution: Execution[_T], confirmed_by_status: Resolution[_T]) -> _T:
        self._tell(execution, _DONE, execution.call.debit_id)
        return super()._conclude(execution, confirmed_by_status)

    def _break_off(self, execution: Execution[_T], error: BaseException) -> None:
        super()._break_off(execution, error)
        self._fail(execution, error)

    def _decide(self, execution: Execution[_T], failure: Unanswered | APIError) -> RetryDecision:
        result = classify(failure)
        self._note(execution, execution.call, execution.attempt_began, result, failure.status)
        return super()._decide(execution, failure)

    async def _ask(self, call: Call[TransactionStatus], execution: Execution[_T]) -> tuple[int, TransactionStatus]:
        began = self._clock.monotonic()
        try:
            answer = await super()._ask(call, execution)
        except (Unanswered, APIError) as failure:
            self._note(execution, call, began, classify(failure), failure.status)
            raise
        except BaseException:
            self._note(execution, call, began, AttemptResult.CANCELLED, None)
            raise
        self._note(execution, call, began, _ANSWERED, answer[0])
        return answer

    def _note(
        self, execution: Execution[_T], call: Call[_Sent], began: float, result: AttemptResult, status: int | None
    ) -> None:
        duration = self._clock.monotonic() - began
        attempt = Attempt(
            request=call.operation.name,
            started_at=self._clock.time() - duration,
            duration=duration,
            status=status,
            result=result,
        )
        if execution.trail is None:
            execution.trail = [attempt]
        else:
            execution.trail.append(attempt)

    def _fail(self, execution: Execution[_T], error: BaseException) -> None:
        """Tell of a call that has no result."""
        debit_id = execution.call.debit_id
        if isinstance(error, JetpayError):
            self._tell(execution, OperationOutcome(error.outcome.value), debit_id or error.debit_id, error)
            return
        name = execution.call.operation.name
        if execution.attempts > sum(attempt.request == name for attempt in execution.trail or ()):
            self._note(execution, execution.call, execution.attempt_began, AttemptResult.CANCELLED, None)
        if execution.unknown:
            outcome = OperationOutcome.UNKNOWN
        else:
            outcome = OperationOutcome.FAILED if isinstance(error, Exception) else OperationOutcome.CANCELLED
        self._tell(execution, outcome, debit_id, error)

    def _tell(
        self,
        execution: Execution[_T],
        outcome: OperationOutcome,
        debit_id: str | None,
        error: BaseException | None = None,
    ) -> None:
        trail = execution.trail or ()
        if execution.part_of is not None:
            execution.part_of.trail = [*(execution.part_of.trail or ()), *trail]
            return
        duration = self._clock.monotonic() - execution.began
        operation = Operation(
            name=execution.call.operation.name,
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
