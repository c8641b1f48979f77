"""Carry one call through, within one deadline: attempts, waiting, settling.

What may be sent again is declared in `_calls`, when is decided in `_retry`; here it is done.

An outcome is *in_doubt* from the moment a write begins to leave until a usable answer comes. A in_doubt call ends in
exactly one of three ways: the status proves what happened, the status proves that nothing happened (and it may be sent
again), or `OutcomeUnknownError`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from jetpay_async._core import responses
from jetpay_async._core.http import ResolveBound
from jetpay_async._core.log import logger
from jetpay_async._core.operations import (
    Call,
    ReplaySafety,
    ResponseContext,
    StatusMapping,
    transaction_failed_error,
    transaction_status,
)
from jetpay_async._core.responses import Unanswered
from jetpay_async._core.retry import NextAction, RetryDecision, RetryPolicy, decide
from jetpay_async._core.send_guard import PreSendCheck, SendGuard
from jetpay_async.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    Context,
    JetpayError,
    NotSentError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    ServiceError,
    TransactionFailedError,
)
from jetpay_async.models import TransactionState, TransactionStatus
from jetpay_async.telemetry import Attempt, AttemptResult

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.http import RawResponse
    from jetpay_async._core.transport import Transport

_T = TypeVar("_T")
_Read = TypeVar("_Read")

# A capture is given up after this share of the time that was left when it was sent: the rest is to resolve it in.
RESPONSE_SHARE = 2 / 3

# Seconds that a call may be old to count as fresh.
_MOMENT = 0.001

# Seconds between two looks at a status, however short the policy's delays are.
_SHORTEST_LOOK = 0.05

OnUnknown = Callable[[OutcomeUnknownError], None]
"""Told of each unknown outcome, the cancelled ones included."""

OnFailure = Callable[[int | None, float | None], None]
"""Told the HTTP status of each attempt without a result, if it had one, and the seconds that the API asked to wait."""


@attrs.frozen
class Options:
    """What a call may be given differently from another of the same client."""

    timeout: float
    retry: RetryPolicy


@attrs.define(eq=False)
class Execution(Generic[_T]):
    """One call on its way, and all that is known of it."""

    call: Call[_T]
    options: Options
    began: float
    """Monotonic."""
    deadline: float
    """Monotonic."""
    on_failure: OnFailure | None = None
    pre_send_check: PreSendCheck | None = None
    """Stands before each attempt, besides the deadline."""
    part_of: Execution[Any] | None = None
    """What it is carried through for, if that is another call."""
    attempts: int = 0
    attempt_began: float = 0.0
    """When the latest attempt began. Monotonic."""
    guard: SendGuard | None = None
    """Of the latest attempt."""
    in_doubt: bool = False
    """An earlier request may have been carried out, or may still be."""
    certain_from: float = -math.inf
    """A status read that begins earlier, on the monotonic clock, and says "not done" proves nothing."""
    state: TransactionState | None = None
    """What the status said last."""
    trouble: Unanswered | None = None
    """Why there is no answer."""
    unanswered: bool = False
    """Some request for it, of this call or an earlier one, began to leave and was not answered."""
    trail: list[Attempt] | None = None
    """The requests so far, where somebody wants to know; the last one may be missing."""

    def mark_in_doubt(self, certain_from: float) -> None:
        """Note that an earlier request for this call may have been carried out: read the status before sending.

        Args:
            certain_from: A status read that begins before this time, on the client's monotonic clock, and says "not
                done" proves nothing: until then the earlier request may still be on its way, or be worked on.
        """
        self.in_doubt = True
        self.unanswered = True
        self.certain_from = max(self.certain_from, certain_from)

    @property
    def unknown(self) -> bool:
        """Whether it would be a guess to say what became of it."""
        return self.in_doubt or (self.guard is not None and self.guard.started)


@attrs.frozen
class Resolution(Generic[_T]):
    """Wraps a result, which may itself be None."""

    result: _T


class CallExecutor:
    """Carries calls through over one transport."""

    def __init__(self, transport: Transport, clock: Clock, on_unknown: OnUnknown | None) -> None:
        self._transport = transport
        self._clock = clock
        self._on_unknown = on_unknown

    def begin(
        self,
        call: Call[_T],
        options: Options,
        on_failure: OnFailure | None = None,
        pre_send_check: PreSendCheck | None = None,
    ) -> Execution[_T]:
        """Start the clock for a call."""
        now = self._clock.monotonic()
        return Execution(call, options, now, now + options.timeout, on_failure, pre_send_check)

    def now(self) -> float:
        """Seconds on the clock of all executions."""
        return self._clock.monotonic()

    def remaining(self, execution: Execution[_T]) -> float:
        """Seconds until its deadline."""
        return execution.deadline - self._clock.monotonic()

    def certain_from(self, execution: Execution[_T], bound: ResolveBound = ResolveBound.TIMEOUT) -> float:
        """When a request that is given up now can no longer be on its way, nor be worked on."""
        policy = execution.options.retry
        after = policy.resolve_after if bound is ResolveBound.DIRECT else policy.resolve_after_timeout
        return self._clock.monotonic() + after

    async def execute(self, execution: Execution[_T]) -> _T:
        """Carry it through.

        Raises:
            JetpayError: As documented for the client's methods.
            asyncio.CancelledError: With a note, if the outcome is unknown.
        """
        call = execution.call
        operation = call.operation
        exchange = self._transport.exchange
        try:
            while True:
                if execution.in_doubt and (resolution := await self._resolve(execution)) is not None:
                    return self._conclude(execution, resolution)
                failure: Unanswered | APIError
                try:
                    within = self._begin(execution)
                    reply = await exchange(operation.method, call.path, call.body, execution.guard, within=within)
                    return self._take(reply, execution)
                except Unanswered as trouble:
                    execution.trouble = failure = trouble
                    execution.unanswered |= trouble.started
                except APIError as refusal:
                    execution.guard = None
                    failure = refusal
                if (resolution := await self._carry_on(execution, failure)) is not None:
                    return self._conclude(execution, resolution)
        except BaseException as error:
            self._break_off(execution, error)
            raise

    async def resolve(self, execution: Execution[_T]) -> _T | None:
        """Find out what became of a in_doubt request, and send nothing; None if it is proven undone.

        Raises:
            APIError: It is proven that it never will be done.
            OutcomeUnknownError: The status could not tell before the deadline.
        """
        resolution = await self._resolve(execution)
        return None if resolution is None else resolution.result

    def waiter_timeout_error(self, execution: Execution[_T]) -> JetpayError:
        """Make the error for a caller whose time is up while the call goes on for another."""
        if execution.unknown:
            return self._unknown(execution, "no answer in time; the request is still under way for another caller")
        return self._failure(NotSentError, execution, "nothing was sent in time")

    async def _carry_on(self, execution: Execution[_T], failure: Unanswered | APIError) -> Resolution[_T] | None:
        """Do what follows an attempt without a result; None if that is another round."""
        decision = self._decide(execution, failure)
        if decision.step is NextAction.STOP:
            if isinstance(failure, Unanswered):
                raise self._stopped(execution)
            return await self._confirm(execution, failure)
        if decision.step is NextAction.SETTLE:
            bound = failure.bound if isinstance(failure, Unanswered) else ResolveBound.TIMEOUT
            execution.mark_in_doubt(self.certain_from(execution, bound))
        else:
            await self._clock.sleep(decision.delay)
        return None

    def _decide(self, execution: Execution[_T], failure: Unanswered | APIError) -> RetryDecision:
        happened = classify(failure)
        retry_after = failure.retry_after if isinstance(failure, Unanswered | RateLimitedError) else None
        if execution.on_failure is not None:
            execution.on_failure(failure.status, retry_after)
        operation = execution.call.operation
        decision = decide(
            happened,
            operation.resend,
            execution.options.retry,
            attempt=execution.attempts,
            remaining=self.remaining(execution),
            chance=self._clock.random(),
            retry_after=retry_after,
        )
        logger.info(
            "%s %s: attempt %d was %s; next: %s",
            operation.name,
            execution.call.debit_id or "",
            execution.attempts,
            happened,
            decision.step.value,
        )
        return decision

    def _begin(self, execution: Execution[_T]) -> float:
        """Count an attempt, and give it a guard if it is a write; return how many seconds it may take."""
        resend = execution.call.operation.resend
        execution.attempts += 1
        execution.attempt_began = now = self._clock.monotonic()
        within = execution.deadline - now
        if within > execution.options.timeout - _MOMENT:
            # The same number for each fresh call: what aiohttp needs for it is made once.
            within = execution.options.timeout
        if resend is not ReplaySafety.IDEMPOTENT:
            patience = within * RESPONSE_SHARE if resend is ReplaySafety.RESOLVE else within
            execution.guard = SendGuard(execution.deadline, self._clock, patience, execution.pre_send_check)
        return within

    def _take(self, reply: RawResponse, execution: Execution[_T]) -> _T:
        """Make the result of the reply to an attempt."""
        call = execution.call
        result = self._read(call, reply, execution)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s %s: done, attempt %d", call.operation.name, call.debit_id or "", execution.attempts)
        return result

    def _conclude(self, execution: Execution[_T], resolution: Resolution[_T]) -> _T:  # noqa: ARG002 - who watches needs it
        """Make the result of what the status says."""
        return resolution.result

    def _break_off(self, execution: Execution[_T], error: BaseException) -> None:
        """Leave a record of what may have happened, if it was cancelled."""
        if not isinstance(error, asyncio.CancelledError):
            return
        if execution.guard is not None:
            execution.guard.seal()
        if execution.unknown:
            if not execution.in_doubt:
                execution.mark_in_doubt(self.certain_from(execution))
            error.add_note(str(self._unknown(execution, "the call was cancelled")))

    def _read(self, call: Call[_Read], reply: RawResponse, execution: Execution[_T]) -> _Read:
        elapsed = self._clock.monotonic() - execution.began
        return responses.read(call, reply, attempts=execution.attempts, elapsed=elapsed, now=self._clock.time())

    async def _resolve(self, execution: Execution[_T]) -> Resolution[_T] | None:
        """Find out what became of a in_doubt request; None if it is proven undone, and may be sent again."""
        goal = _goal(execution.call)
        policy = execution.options.retry
        certain_from = execution.certain_from
        look = 0
        while True:
            look += 1
            asked_at = self._clock.monotonic()
            if (status := await self._look(execution)) is not None:
                execution.state = status.state
                if status.state in goal.done:
                    return Resolution(goal.result(execution.call, status, self._facts(execution)))
                if status.state in goal.over:
                    raise transaction_failed_error(execution.call, status, self._facts(execution))
                # Read any earlier, "preauthorized" may only mean that the request has not arrived yet.
                if status.state in goal.undone and asked_at >= certain_from:
                    execution.in_doubt = False
                    execution.guard = None
                    if execution.attempts >= policy.max_attempts:
                        message = f"not done: the transaction is still {status.state}; calling again is safe"
                        raise self._failure(ServiceError, execution, message)
                    return None
            now = self._clock.monotonic()
            wait = max(policy.delay(look, self._clock.random()), _SHORTEST_LOOK)
            if now < certain_from:
                wait = min(wait, certain_from - now)
            if now + wait >= execution.deadline:
                raise self._unknown(execution, _reason(execution))
            await self._clock.sleep(wait)

    async def _look(self, execution: Execution[_T]) -> TransactionStatus | None:
        """Read the status once; None if it can't be read now."""
        call = transaction_status(execution.call.debit_id or "")
        failure: JetpayError
        try:
            return (await self._ask(call, execution))[1]
        except (Unanswered, RateLimitedError):
            return None
        except (APIError, ConfigurationError) as error:
            failure = error
        raise self._unknown(execution, f"{_reason(execution)}, and the status can't be read: {failure}") from failure

    async def _ask(self, call: Call[TransactionStatus], execution: Execution[_T]) -> tuple[int, TransactionStatus]:
        """Send a read once; return the HTTP status with its result."""
        # Half of the time that is left, so that a look that stalls is not the last one.
        within = self.remaining(execution) / 2
        reply = await self._transport.exchange(call.operation.method, call.path, call.body, None, within=within)
        return reply.status, self._read(call, reply, execution)

    async def _confirm(self, execution: Execution[_T], failure: APIError) -> Resolution[_T] | None:
        """Ask the status whether a refusal is the last word; None if it leaves an earlier attempt in_doubt."""
        call = execution.call
        no_word_on_it = isinstance(failure, AuthenticationError | PermissionDeniedError | RateLimitedError)
        if call.operation.resend is not ReplaySafety.RESOLVE or no_word_on_it:
            raise failure
        goal = _goal(call)
        status = await self._read_status(execution)
        if status is not None:
            execution.state = status.state
            if status.state in goal.done:
                return Resolution(goal.result(call, status, self._facts(execution)))
            if status.state in goal.over and isinstance(failure, TransactionFailedError):
                raise transaction_failed_error(call, status, self._facts(execution))
        if execution.unanswered and (status is None or status.state not in goal.undone | goal.over):
            # It may be an earlier request of ours that stands in the way of this one.
            execution.mark_in_doubt(self.certain_from(execution))
            return None
        raise failure

    async def _read_status(self, execution: Execution[_T]) -> TransactionStatus | None:
        options = Options(self.remaining(execution), execution.options.retry)
        read = self.begin(transaction_status(execution.call.debit_id or ""), options)
        read.part_of = execution
        try:
            return await self.execute(read)
        except JetpayError:
            return None

    def _facts(self, execution: Execution[_T]) -> ResponseContext:
        return ResponseContext(execution.attempts, self._clock.monotonic() - execution.began)

    def _stopped(self, execution: Execution[_T]) -> JetpayError:
        """Make the error for a call that is given up without an answer."""
        reads = execution.call.operation.resend is ReplaySafety.IDEMPOTENT
        if reads and execution.unanswered:
            return self._failure(ServiceError, execution, "no usable answer; calling again is safe")
        if execution.trouble is not None and execution.trouble.started:
            return self._unknown(execution, _reason(execution))
        return self._failure(NotSentError, execution, "nothing was sent; calling again is safe")

    def _failure(
        self, error_class: type[NotSentError | ServiceError], execution: Execution[_T], message: str
    ) -> NotSentError | ServiceError:
        return error_class(f"{message} ({_reason(execution)})", **self._context(execution))

    def _unknown(self, execution: Execution[_T], reason: str) -> OutcomeUnknownError:
        """Make the error for an unknown outcome, and tell it to the log and the hook."""
        call = execution.call
        started_at = None
        if execution.guard is not None and execution.guard.started_at is not None:
            ago = self._clock.monotonic() - execution.guard.started_at
            started_at = datetime.fromtimestamp(self._clock.time() - ago, UTC)
        context = self._context(execution)
        error = OutcomeUnknownError(
            "the request began to leave and no usable answer came: it may have been carried out",
            arguments=call.arguments,
            started_at=started_at,
            state=execution.state,
            reason=reason,
            next_step=_next_step(call, context.get("debit_id")),
            **context,
        )
        logger.warning("outcome unknown: %s", error)
        if self._on_unknown is not None:
            try:
                self._on_unknown(error)
            except Exception:  # noqa: BLE001 - the outcome must reach its caller whatever the hook does
                logger.exception("on_unknown failed for %s %s", call.operation.name, error.debit_id or "")
        return error

    def _context(self, execution: Execution[_T]) -> Context:
        trouble = execution.trouble
        return Context(
            operation=execution.call.operation.name,
            debit_id=execution.call.debit_id or (trouble.debit_id if trouble is not None else None),
            status=trouble.status if trouble is not None else None,
            request_id=trouble.request_id if trouble is not None else None,
            attempts=execution.attempts,
            elapsed=self._clock.monotonic() - execution.began,
        )


def classify(failure: Unanswered | APIError) -> AttemptResult:
    """Say what became of an attempt that brought no result."""
    if isinstance(failure, RateLimitedError):
        return AttemptResult.RATE_LIMITED
    if isinstance(failure, APIError):
        return AttemptResult.REJECTED
    return AttemptResult.UNANSWERED if failure.started else AttemptResult.NOT_SENT


def _goal(call: Call[_T]) -> StatusMapping[_T]:
    if call.operation.goal is None:  # pragma: no cover - declared beside ReplaySafety.RESOLVE
        raise AssertionError(f"{call.operation.name} can't be resolution")
    return call.operation.goal


def _reason(execution: Execution[_T]) -> str:
    return execution.trouble.reason if execution.trouble is not None else "an earlier call was left without an answer"


def _next_step(call: Call[_T], debit_id: str | None) -> str:
    if call.operation.resend is ReplaySafety.RESOLVE:
        return (
            f"Read transaction_status({debit_id!r}) until it is final; calling {call.operation.name}() again on the "
            f"same client does that first."
        )
    if debit_id is not None:
        return f"The reply named debit {debit_id!r}: read its transaction_status() before asking again."
    return "Look for it among the account's transactions at Jetpay before asking again."
