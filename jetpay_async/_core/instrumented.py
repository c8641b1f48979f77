"""Observe the executor, and report each operation when it has ended.

A client without ``on_operation`` has no observer, and pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from jetpay_async._core.draft import draft_of
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
# Reading a member of an enumeration takes longer.
_DONE = OperationOutcome.DONE

_new_attempt = draft_of(Attempt)
_new_operation = draft_of(Operation)

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
        attempt = _new_attempt()
        attempt.request = request
        attempt.started_at = self._clock.time() - duration
        attempt.duration = duration
        attempt.status = status
        attempt.result = result
        attempt.__class__ = Attempt
        execution.trail += (attempt,)

    def call_succeeded(self, execution: Execution[_T], result: object) -> None:
        """Report a call that has its result."""
        debit_id, outcome = execution.call.debit_id, _DONE
        if isinstance(result, _DEBITS):
            debit_id = result.debit_id
            if not result.final:
                outcome = OperationOutcome.ACCEPTED
        elif isinstance(result, _TRANSACTIONS):
            debit_id = result.transaction_id
        trail = execution.trail
        if execution.attempts == len(trail) == 1 and not execution.wait_until_final:
            # It ended with its only request, at the same instant.
            (attempt,) = trail
            earlier = execution.attempt_began - execution.began
            self._tell(execution, outcome, debit_id, None, attempt.started_at - earlier, attempt.duration + earlier)
        else:
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
        if execution.attempts > sum(attempt.request == name for attempt in execution.trail):
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
        self._tell(execution, outcome, debit_id, error, self._clock.time() - duration, duration)

    def _tell(  # noqa: PLR0917 - called in two places, for each call
        self,
        execution: Execution[_T],
        outcome: OperationOutcome,
        debit_id: str | None,
        error: BaseException | None,
        started_at: float,
        duration: float,
    ) -> None:
        operation = _new_operation()
        operation.name = execution.call.operation.name
        operation.outcome = outcome
        operation.debit_id = debit_id
        operation.started_at = started_at
        operation.duration = duration
        operation.attempts = execution.trail
        operation.error = error
        operation.__class__ = Operation
        try:
            self._on_operation(operation)
        except BaseException:  # noqa: BLE001 - whatever the hook does, the outcome must reach its caller
            logger.exception(
                "on_operation failed for %s %s",
                *(operation.name, operation.debit_id or ""),
                extra={"operation": operation.name, "debit_id": operation.debit_id},
            )
