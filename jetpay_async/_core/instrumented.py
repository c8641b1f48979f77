"""Observe the executor, and report each operation when it has ended.

A client without ``on_operation`` has no observer, and pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from jetpay_async._core.log import logger
from jetpay_async.errors import JetpayError
from jetpay_async.models import Capture, Charge, Credit, PaymentLink, Preauthorization
from jetpay_async.telemetry import Attempt, AttemptResult, Operation, OperationOutcome

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.execution import Execution

_T = TypeVar("_T")

_DEBITS = (Capture, Preauthorization, Charge)
_TRANSACTIONS = (PaymentLink, Credit)

OnOperation = Callable[[Operation], None]
"""Called with each operation when it ends."""


class OperationObserver:
    """Reports each call when it ends, in the context of whoever called.

    Args:
        clock: Of the executor.
        on_operation: Called with each operation.
    """

    def __init__(self, clock: Clock, on_operation: OnOperation) -> None:
        self._clock = clock
        self._on_operation = on_operation

    def attempt_ended(
        self, execution: Execution[_T], request: str, began: float, result: AttemptResult, status: int | None
    ) -> None:
        """Note a request."""
        duration = self._clock.monotonic() - began
        attempt = Attempt(
            request=request,
            started_at=self._clock.time() - duration,
            duration=duration,
            status=status,
            result=result,
        )
        if execution.trail is None:
            execution.trail = [attempt]
        else:
            execution.trail.append(attempt)

    def call_succeeded(self, execution: Execution[_T], result: object) -> None:
        """Report a call that has its result."""
        debit_id, outcome = execution.call.debit_id, OperationOutcome.DONE
        if isinstance(result, _DEBITS):
            debit_id = result.debit_id
            if not result.final:
                outcome = OperationOutcome.ACCEPTED
        elif isinstance(result, _TRANSACTIONS):
            debit_id = result.transaction_id
        self._report(execution, outcome, debit_id)

    def call_undone(self, execution: Execution[_T]) -> None:
        """Report an earlier request that is proven not carried out."""
        self._report(execution, OperationOutcome.UNDONE, execution.call.debit_id)

    def call_failed(self, execution: Execution[_T], error: BaseException) -> None:
        """Report a call that has no result."""
        debit_id = execution.call.debit_id
        if isinstance(error, JetpayError):
            self._report(execution, OperationOutcome(error.outcome.value), debit_id or error.debit_id, error)
            return
        name = execution.call.operation.name
        if execution.attempts > sum(attempt.request == name for attempt in execution.trail or ()):
            self.attempt_ended(execution, name, execution.attempt_began, AttemptResult.CANCELLED, None)
        if execution.unknown:
            outcome = OperationOutcome.UNKNOWN
        else:
            outcome = OperationOutcome.FAILED if isinstance(error, Exception) else OperationOutcome.CANCELLED
        self._report(execution, outcome, debit_id, error)

    def _report(
        self,
        execution: Execution[_T],
        outcome: OperationOutcome,
        debit_id: str | None,
        error: BaseException | None = None,
    ) -> None:
        duration = self._clock.monotonic() - execution.began
        operation = Operation(
            name=execution.call.operation.name,
            outcome=outcome,
            debit_id=debit_id,
            started_at=self._clock.time() - duration,
            duration=duration,
            attempts=tuple(execution.trail or ()),
            error=error,
        )
        try:
            self._on_operation(operation)
        except BaseException:  # noqa: BLE001 - whatever the hook does, the outcome must reach its caller
            logger.exception(
                "on_operation failed for %s %s",
                *(operation.name, operation.debit_id or ""),
                extra={"operation": operation.name, "debit_id": operation.debit_id},
            )
