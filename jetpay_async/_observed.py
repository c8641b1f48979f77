"""A runner that tells of each operation it has carried through.

The plain runner knows nothing of this: a client that nobody watches pays nothing for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from jetpay_async._log import logger
from jetpay_async._replies import Unanswered
from jetpay_async._retry import Happened
from jetpay_async._runner import Runner, classify
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
_Read = TypeVar("_Read")

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
    """Carries calls through, and tells of each one when it ends, in the context of whoever called."""

    def __init__(
        self, transport: Transport, clock: Clock, on_unknown: OnUnknown | None, on_operation: OnOperation
    ) -> None:
        super().__init__(transport, clock, on_unknown)
        self._on_operation = on_operation

    async def run(self, pursuit: Pursuit[_T]) -> _T:
        recorder = _Recorder(self._transport, self._clock, self._on_unknown)
        try:
            result = await recorder.run(pursuit)
        except BaseException as error:
            self._tell(recorder.fail(pursuit, error))
            raise
        debit_id = result.debit_id if isinstance(result, Preauthorization) else pursuit.call.debit_id
        self._tell(recorder.sum_up(pursuit, _DONE, debit_id))
        return result

    async def settle(self, pursuit: Pursuit[_T]) -> _T | None:
        recorder = _Recorder(self._transport, self._clock, self._on_unknown)
        try:
            result = await recorder.settle(pursuit)
        except BaseException as error:
            self._tell(recorder.fail(pursuit, error))
            raise
        outcome = OperationOutcome.UNDONE if result is None else _DONE
        self._tell(recorder.sum_up(pursuit, outcome, pursuit.call.debit_id))
        return result

    def _tell(self, operation: Operation) -> None:
        try:
            self._on_operation(operation)
        except Exception:  # noqa: BLE001 - the outcome must reach its caller whatever the hook does
            logger.exception("on_operation failed for %s %s", operation.name, operation.debit_id or "")


class _Recorder(Runner):
    """Carries a single operation through, and writes down each request that it takes.

    What the operation itself carries through on the way, such as the reads after a refusal, is run by the recorder too,
    and so becomes a part of the same record.
    """

    def __init__(self, transport: Transport, clock: Clock, on_unknown: OnUnknown | None) -> None:
        super().__init__(transport, clock, on_unknown)
        self._epoch = clock.time() - clock.monotonic()
        self._attempts: list[Attempt] = []
        # Of the latest request:
        self._name = ""
        self._began = 0.0
        self._under_way = False

    def sum_up(
        self,
        pursuit: Pursuit[_T],
        outcome: OperationOutcome,
        debit_id: str | None,
        error: BaseException | None = None,
    ) -> Operation:
        """Make one value of all that there is to tell."""
        return Operation(
            name=pursuit.call.operation.name,
            outcome=outcome,
            debit_id=debit_id,
            started_at=self._epoch + pursuit.began,
            duration=self._clock.monotonic() - pursuit.began,
            attempts=tuple(self._attempts),
            error=error,
        )

    def fail(self, pursuit: Pursuit[_T], error: BaseException) -> Operation:
        """Make one value of all that there is to tell of an operation without a result."""
        if isinstance(error, JetpayError):
            debit_id = pursuit.call.debit_id or error.debit_id
            return self.sum_up(pursuit, OperationOutcome(error.outcome.value), debit_id, error)
        if self._under_way:
            self._end(AttemptResult.CANCELLED, None)
        if pursuit.unknown:
            outcome = OperationOutcome.UNKNOWN
        else:
            outcome = OperationOutcome.FAILED if isinstance(error, Exception) else OperationOutcome.CANCELLED
        return self.sum_up(pursuit, outcome, pursuit.call.debit_id, error)

    def _start(self, call: Call[_Read]) -> None:
        self._name = call.operation.name
        self._began = self._clock.monotonic()
        self._under_way = True

    def _end(self, result: AttemptResult, status: int | None) -> None:
        self._under_way = False
        began = self._began
        self._attempts.append(
            Attempt(
                request=self._name,
                started_at=self._epoch + began,
                duration=self._clock.monotonic() - began,
                status=status,
                result=result,
            )
        )

    def _begin(self, pursuit: Pursuit[_T]) -> float:
        self._start(pursuit.call)
        return super()._begin(pursuit)

    def _read(self, call: Call[_Read], reply: Reply, pursuit: Pursuit[_T]) -> _Read:
        result = super()._read(call, reply, pursuit)
        self._end(_ANSWERED, reply.status)
        return result

    def _decide(self, pursuit: Pursuit[_T], failure: Unanswered | APIError) -> Decision:
        self._end(_RESULTS[classify(failure)], failure.status)
        return super()._decide(pursuit, failure)

    async def _ask(self, call: Call[TransactionStatus], pursuit: Pursuit[_T]) -> TransactionStatus:
        self._start(call)
        try:
            return await super()._ask(call, pursuit)
        except (Unanswered, APIError) as failure:
            self._end(_RESULTS[classify(failure)], failure.status)
            raise
