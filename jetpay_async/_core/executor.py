"""Carry one call out, within one deadline: attempts, and the pauses between them.

What sending an operation twice would mean is declared in `operations`, what follows an attempt is decided in `retry`,
what a status proves in `resolve`; here it is done.

A call is *in doubt* from the moment a write begins to leave until a usable answer comes. It ends in exactly one of
three ways: the status proves what happened, the status proves that nothing happened (and the request may be sent
again), or `OutcomeUnknownError`.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from jetpay_async._core import call_errors, responses
from jetpay_async._core.execution import CallObserver, Execution, OnFailure, Options
from jetpay_async._core.fork import after_fork_in_child
from jetpay_async._core.http import ResolveBound
from jetpay_async._core.listing import ListFinding, find_in_list
from jetpay_async._core.log import is_enabled_for, logger
from jetpay_async._core.operations import ReplaySafety, ResponseContext, StatusMapping, transaction_failed_error
from jetpay_async._core.resolve import Finding, Proof, StatusResolver
from jetpay_async._core.responses import Unanswered
from jetpay_async._core.retry import NextAction, RetryDecision, decide
from jetpay_async._core.send_guard import PreSendCheck, SendGuard
from jetpay_async.errors import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    JetpayError,
    NotFoundError,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    TransactionFailedError,
)
from jetpay_async.models import Capture
from jetpay_async.telemetry import AttemptResult

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.http import HttpTransport, RawResponse
    from jetpay_async._core.operations import Call, Listing

_T = TypeVar("_T")
_Read = TypeVar("_Read")

# A capture is given up after this share of the time that was left when it was sent: the rest is to read its status in.
RESPONSE_SHARE = 2 / 3

# A read may take this share of the time that is left, so that one that stalls is not the last one.
READ_SHARE = 1 / 2

# A call that is no older counts as one that has just begun.
_FRESH_SECONDS = 0.001

# Reading a member of an enumeration takes longer.
_ANSWERED = AttemptResult.ANSWERED

OnUnknown = Callable[[OutcomeUnknownError], None]
"""Called with the error of each unknown outcome, also where the call is interrupted and the error is not raised."""


@attrs.frozen(eq=False)
class Resolution(Generic[_T]):
    """Wraps a result, which may itself be None."""

    result: _T


class CallExecutor:
    """Carries calls out over one transport.

    Args:
        transport: Sends one request.
        clock: Time, chance and how to wait.
        on_unknown: Called for each unknown outcome.
        observer: Called for each request and each call.
    """

    def __init__(
        self,
        transport: HttpTransport,
        clock: Clock,
        on_unknown: OnUnknown | None = None,
        observer: CallObserver | None = None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self._on_unknown = on_unknown
        self._observer = observer
        self._resolver = StatusResolver(self._ask, clock)
        self._under_way: set[Execution[Any]] = set()
        _executors.add(self)

    def begin(
        self,
        call: Call[_T],
        options: Options,
        on_failure: OnFailure | None = None,
        pre_send_check: PreSendCheck | None = None,
        *,
        wait_until_final: bool = False,
    ) -> Execution[_T]:
        """Start the clock for a call.

        Args:
            call: What to send.
            options: Its timeout and retry policy.
            on_failure: Called with each attempt that brings no result.
            pre_send_check: Asked before each write leaves.
            wait_until_final: Whether what the API has accepted is followed until it is done, within the timeout.
        """
        now = self._clock.monotonic()
        return Execution(call, options, now, now + options.timeout, on_failure, pre_send_check, wait_until_final)

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

    async def execute(self, execution: Execution[_T]) -> _T:  # noqa: C901 - the course of a call, in one place
        """Carry the call out.

        Raises:
            JetpayError: As documented for the client's methods.
            asyncio.CancelledError: With a note, if the outcome is unknown.
        """
        call = execution.call
        operation = call.operation
        self._under_way.add(execution)
        try:
            while True:
                if execution.in_doubt and (resolution := await self._resolve(execution)) is not None:
                    result = resolution.result
                    break
                failure: Unanswered | APIError
                try:
                    within = self._begin_attempt(execution)
                    response = await self._transport.exchange(
                        operation.method, call.path, call.body, execution.guard, within=within
                    )
                    result = self._read(call, response, execution)
                except Unanswered as unanswered:
                    execution.failure = failure = unanswered
                    execution.unanswered |= unanswered.started
                except APIError as rejection:
                    execution.guard = None
                    failure = rejection
                else:
                    if self._observer is not None:
                        self._observer.attempt_ended(
                            execution, operation.name, execution.attempt_began, _ANSWERED, response.status
                        )
                    if is_enabled_for(logging.DEBUG):
                        _log_answer(execution, response)
                    break
                if (resolution := await self._carry_on(execution, failure)) is not None:
                    result = resolution.result
                    break
            if execution.wait_until_final:
                result = await self._follow(execution, result)
        except BaseException as error:
            self._end_without_result(execution, error)
            raise
        finally:
            self._under_way.discard(execution)
        if self._observer is not None:
            self._observer.call_succeeded(execution, result)
        return result

    async def resolve(self, execution: Execution[_T]) -> _T | None:
        """Find out what became of a request in doubt, and send nothing; None if it is proven not carried out.

        Raises:
            APIError: It is proven that it never will be carried out.
            OutcomeUnknownError: The status did not decide before the deadline.
        """
        try:
            resolution = await self._resolve(execution)
        except BaseException as error:
            if self._observer is not None:
                self._observer.call_failed(execution, error)
            raise
        if self._observer is not None:
            if resolution is None:
                self._observer.call_undone(execution)
            else:
                self._observer.call_succeeded(execution, resolution.result)
        return None if resolution is None else resolution.result

    def waiter_timeout_error(self, execution: Execution[_T]) -> JetpayError:
        """Make the error for a caller whose time is up while the call goes on for another."""
        if execution.unknown:
            return self._unknown(execution, "no answer in time; the request is still under way for another caller")
        return call_errors.not_sent(execution, self._clock, "nothing was sent in time")

    # --- one attempt

    def _begin_attempt(self, execution: Execution[_T]) -> float:
        """Count an attempt, and give it a guard if it is a write; return how many seconds it may take."""
        operation = execution.call.operation
        replay_safety = operation.replay_safety
        options = execution.options
        deadline = execution.deadline
        clock = self._clock
        execution.attempts += 1
        execution.attempt_began = now = clock.monotonic()
        within = deadline - now
        if within > options.timeout - _FRESH_SECONDS:
            # The same number for each fresh call: what aiohttp needs for it is made once.
            within = options.timeout
        if replay_safety is ReplaySafety.IDEMPOTENT and execution.attempts < options.retry.max_attempts:
            within *= READ_SHARE
        if operation.method == "GET":
            return within
        # Writes that may be repeated have a guard too: aiohttp resends PUT and DELETE by itself.
        response_timeout = within * RESPONSE_SHARE if replay_safety is ReplaySafety.RESOLVE else within
        execution.guard = SendGuard(deadline, clock, response_timeout, execution.pre_send_check)
        return within

    def _read(self, call: Call[_Read], response: RawResponse, execution: Execution[_T]) -> _Read:
        elapsed = self._clock.monotonic() - execution.began
        return responses.read(call, response, attempts=execution.attempts, elapsed=elapsed, now=self._clock.time())

    # --- what follows it

    async def _carry_on(self, execution: Execution[_T], failure: Unanswered | APIError) -> Resolution[_T] | None:
        """Do what follows an attempt without a result; None if that is another round."""
        decision = self._decide(execution, failure)
        if decision.action is NextAction.AGAIN:
            await self._clock.sleep(decision.delay)
            return None
        if isinstance(failure, APIError):
            return await self._confirm(execution, failure)
        if decision.action is NextAction.STOP:
            raise call_errors.stopped(execution, self._clock) or self._unknown(execution, failure.reason)
        execution.mark_in_doubt(self.certain_from(execution, failure.bound))
        if failure.state is not None:
            execution.note_state(failure.state)
        return None

    def _decide(self, execution: Execution[_T], failure: Unanswered | APIError) -> RetryDecision:
        result = classify(failure)
        name = execution.call.operation.name
        if self._observer is not None:
            self._observer.attempt_ended(execution, name, execution.attempt_began, result, failure.status)
        retry_after = failure.retry_after if isinstance(failure, Unanswered | RateLimitedError) else None
        if execution.on_failure is not None:
            execution.on_failure(failure.status, retry_after)
        if self._renews_token(execution, failure):
            decision = RetryDecision(NextAction.AGAIN)
        elif isinstance(failure, Unanswered) and failure.state is not None:
            decision = RetryDecision(NextAction.RESOLVE)
        else:
            decision = decide(
                result,
                execution.call.operation.replay_safety,
                execution.options.retry,
                attempt=execution.attempts,
                remaining=self.remaining(execution),
                chance=self._clock.random(),
                retry_after=retry_after,
                harmless=execution.call.operation.harmless,
            )
        _log_failure(execution, failure, decision)
        return decision

    def _renews_token(self, execution: Execution[_T], failure: Unanswered | APIError) -> bool:
        """Say whether to ask for the token again, once a call: it may have been replaced meanwhile.

        A 401 means that nothing was done, so the request may be sent again.
        """
        if not isinstance(failure, AuthenticationError) or execution.token_renewed or not self._transport.token_changes:
            return False
        execution.token_renewed = True
        return True

    # --- what the status says

    async def _resolve(self, execution: Execution[_T]) -> Resolution[_T] | None:
        """Find out what became of a request in doubt; None if it is proven not carried out, and may be sent again."""
        if (make_listing := execution.call.operation.listing) is not None:
            return await self._resolve_by_list(execution, make_listing(execution.call))
        finding = await self._resolver.resolve(execution, _states(execution), certain_from=execution.certain_from)
        if (resolution := self._conclude(execution, finding)) is not None:
            return resolution
        if isinstance(finding.obstacle, ConfigurationError) and not execution.unanswered:
            execution.in_doubt = False
            raise finding.obstacle
        if finding.proof is Proof.NOTHING:
            reason = call_errors.reason_of(execution)
            if finding.obstacle is not None:
                reason = f"{reason}, and the status can't be read: {finding.obstacle}"
            raise self._unknown(execution, reason) from finding.obstacle
        self._note_undone(execution)
        return None

    async def _resolve_by_list(self, execution: Execution[_T], listing: Listing[_T]) -> Resolution[_T] | None:
        """Do the same by the list that the result would be in."""
        finding = await find_in_list(execution, listing, self._ask, self._clock)
        if finding.found is not None:
            return Resolution(finding.found)
        if not finding.absent:
            raise self._unlisted(execution, finding) from finding.obstacle
        self._note_undone(execution)
        return None

    async def _confirm_by_list(
        self, execution: Execution[_T], listing: Listing[_T], rejection: APIError
    ) -> Resolution[_T]:
        """Read the list before a rejection is believed that may be due to an earlier request of ours."""
        finding = await find_in_list(execution, listing, self._ask, self._clock)
        if finding.found is not None:
            return Resolution(finding.found)
        raise rejection if finding.absent else self._unlisted(execution, finding) from finding.obstacle

    def _unlisted(self, execution: Execution[_T], finding: ListFinding[_T]) -> OutcomeUnknownError:
        reason = call_errors.reason_of(execution)
        if finding.obstacle is not None:
            reason = f"{reason}, and the list can't be read: {finding.obstacle}"
        return self._unknown(execution, reason)

    def _note_undone(self, execution: Execution[_T]) -> None:
        """Note that no request was carried out, or can be any more; raise that if none may be sent again."""
        execution.in_doubt = False
        execution.guard = None
        if execution.attempts >= execution.options.retry.max_attempts:
            raise call_errors.proven_undone(execution, self._clock)

    async def _confirm(self, execution: Execution[_T], rejection: APIError) -> Resolution[_T]:
        """Read the status before a rejection is believed: the debit may be captured already.

        A rejection is believed at once if the status does not contradict it, unless

        - it is a 409, which may be said of a request that is being worked on: not before `RetryPolicy.resolve_after`;
        - an earlier request of ours was not answered: only once the status proves that nothing was done.
        """
        operation = execution.call.operation
        if execution.unanswered and (answer := self._judge_by_earlier(execution, rejection)) is not None:
            return answer
        not_about_this = isinstance(rejection, AuthenticationError | PermissionDeniedError | RateLimitedError)
        if operation.replay_safety is not ReplaySafety.RESOLVE or not_about_this:
            raise rejection
        if operation.listing is not None:
            if execution.unanswered:
                return await self._confirm_by_list(execution, operation.listing(execution.call), rejection)
            raise rejection
        policy = execution.options.retry
        certain_from = execution.certain_from
        enough_at = math.inf
        max_reads: float = policy.max_attempts
        undecided = execution.unanswered and not isinstance(rejection, TransactionFailedError)
        if isinstance(rejection, ConflictError):
            certain_from = max(certain_from, self._clock.monotonic() + policy.resolve_after)
            enough_at = certain_from
            max_reads = math.inf
        if undecided:
            enough_at = max_reads = math.inf
        finding = await self._resolver.resolve(
            execution, _states(execution), certain_from=certain_from, enough_at=enough_at, max_reads=max_reads
        )
        if (resolution := self._conclude(execution, finding)) is not None:
            return resolution
        too_early = isinstance(rejection, ConflictError) and self._clock.monotonic() < certain_from
        if finding.proof is Proof.NOTHING and (undecided or too_early):
            execution.mark_in_doubt(certain_from)
            raise self._unknown(execution, rejection.message) from rejection
        raise rejection

    def _judge_by_earlier(self, execution: Execution[_T], rejection: APIError) -> Resolution[_T] | None:
        """Say what a rejection means after a request without an answer: it is of the last request, and of no other."""
        operation = execution.call.operation
        if operation.missing_is_done and isinstance(rejection, NotFoundError):
            context = ResponseContext(
                execution.attempts, self._clock.monotonic() - execution.began, rejection.status or 0
            )
            return Resolution(operation.read(execution.call, None, context))
        if operation.replay_safety is ReplaySafety.NEVER:
            raise self._unknown(execution, f"an earlier request got no answer; then {rejection.message}") from rejection
        return None

    def _conclude(self, execution: Execution[_T], finding: Finding) -> Resolution[_T] | None:
        """Make the result of what was found, or raise that the transaction is over; None if there is neither."""
        status = finding.status
        if status is None or finding.proof is Proof.NOT_DONE:
            return None
        context = ResponseContext(execution.attempts, self._clock.monotonic() - execution.began)
        if finding.proof is Proof.OVER:
            raise transaction_failed_error(execution.call, status, context)
        return Resolution(_states(execution).result(execution.call, status, context))

    async def _follow(self, execution: Execution[_T], result: _T) -> _T:
        """Read the status of what the API has accepted until it is done; at the deadline, return what it was last."""
        if not isinstance(result, Capture) or result.final:
            return result
        execution.note_state(result.state)
        if execution.on_accepted is not None:
            execution.on_accepted(result)
        finding = await self._resolver.resolve(
            execution, _states(execution), certain_from=math.inf, wait_until_final=True
        )
        resolution = self._conclude(execution, finding)
        return result if resolution is None else resolution.result

    async def _ask(self, call: Call[_Read], execution: Execution[Any]) -> tuple[RawResponse, _Read]:
        """Send one read on behalf of an execution."""
        while True:
            began = self._clock.monotonic()
            within = self.remaining(execution) * READ_SHARE
            result, http_status = AttemptResult.CANCELLED, None
            try:
                response = await self._transport.exchange(
                    call.operation.method, call.path, call.body, None, within=within
                )
                http_status = response.status
                answer = self._read(call, response, execution)
                result = AttemptResult.ANSWERED
            except (Unanswered, APIError) as failure:
                result, http_status = classify(failure), failure.status
                if self._renews_token(execution, failure):
                    continue
                raise
            finally:
                if self._observer is not None:
                    self._observer.attempt_ended(execution, call.operation.name, began, result, http_status)
            return response, answer

    # --- calls without a result

    def _end_without_result(self, execution: Execution[_T], error: BaseException) -> None:
        """Report what may have happened, however the call was broken off."""
        if not isinstance(error, JetpayError):
            if execution.guard is not None:
                execution.guard.seal()
            if execution.unknown and execution in self._under_way:
                if not execution.in_doubt:
                    execution.mark_in_doubt(self.certain_from(execution))
                error.add_note(str(self._unknown(execution, _why_broken_off(error))))
        if self._observer is not None:
            self._observer.call_failed(execution, error)

    def report_under_way(self) -> None:
        """Report what is under way as unknown, since the process ends and nobody will wait for it any more."""
        while self._under_way:
            execution = self._under_way.pop()
            if execution.unknown:
                self._unknown(execution, "the process ended before there was an answer")

    def forget_under_way(self) -> None:
        """Leave what is under way to the process that this one was forked from."""
        self._under_way.clear()

    def _unknown(self, execution: Execution[_T], reason: str) -> OutcomeUnknownError:
        """Make the error for an unknown outcome, and report it to the log and the hook."""
        error = call_errors.unknown(execution, self._clock, reason)
        logger.warning(
            "outcome unknown: %s",
            error,
            extra=_fields(error, reason),
        )
        if self._on_unknown is not None:
            try:
                self._on_unknown(error)
            except BaseException:  # noqa: BLE001 - whatever the hook does, the outcome must reach its caller
                logger.exception(
                    "on_unknown failed for %s %s", error.operation, error.debit_id or "", extra=_fields(error, reason)
                )
        return error


def classify(failure: Unanswered | APIError) -> AttemptResult:
    """Say what became of an attempt that brought no result."""
    if isinstance(failure, RateLimitedError):
        return AttemptResult.RATE_LIMITED
    if isinstance(failure, APIError):
        return AttemptResult.REJECTED
    return AttemptResult.UNANSWERED if failure.started else AttemptResult.NOT_SENT


def _states(execution: Execution[_T]) -> StatusMapping[_T]:
    states = execution.call.operation.states
    if states is None:  # pragma: no cover - only reads have none, and nothing is in doubt of them
        raise AssertionError(f"{execution.call.operation.name} has no status")
    return states


def _why_broken_off(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "the call was cancelled"
    if isinstance(error, GeneratorExit):
        return "the event loop ended before there was an answer"
    return f"the call was broken off by {type(error).__name__}"


_RESULT_IN_WORDS = {
    AttemptResult.RATE_LIMITED: "was rejected for now",
    AttemptResult.REJECTED: "was rejected",
    AttemptResult.UNANSWERED: "got no usable response",
    AttemptResult.NOT_SENT: "was not sent",
}


def _log_answer(execution: Execution[_T], response: RawResponse) -> None:
    name, debit_id = execution.call.operation.name, execution.call.debit_id
    logger.debug(
        "%s %s: attempt %d was answered with status %d",
        *(name, debit_id or "", execution.attempts, response.status),
        extra={"operation": name, "debit_id": debit_id, "status": response.status},
    )


def _log_failure(execution: Execution[_T], failure: Unanswered | APIError, decision: RetryDecision) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    name, debit_id = execution.call.operation.name, execution.transaction_id or None
    reason = failure.reason if isinstance(failure, Unanswered) else failure.message
    pause = f" in {decision.delay:.3g} s" if decision.action is NextAction.AGAIN else ""
    logger.info(
        "%s %s: attempt %d %s (%s%s); next: %s%s",
        name,
        debit_id or "",
        execution.attempts,
        _RESULT_IN_WORDS[classify(failure)],
        reason,
        f"; request id {failure.request_id}" if failure.request_id else "",
        decision.action.value,
        pause,
        extra={
            "operation": name,
            "debit_id": debit_id,
            "reason": reason,
            "status": failure.status,
            "request_id": failure.request_id,
        },
    )


def _fields(error: OutcomeUnknownError, reason: str) -> dict[str, object]:
    """Return what an unknown outcome is about, for the fields of a log record."""
    return {
        "operation": error.operation,
        "debit_id": error.debit_id,
        "reason": reason,
        "status": error.status,
        "request_id": error.request_id,
    }


_executors: weakref.WeakSet[CallExecutor] = weakref.WeakSet()


def _report_at_exit() -> None:
    for executor in list(_executors):
        executor.report_under_way()


def _forget_in_child() -> None:
    for executor in list(_executors):
        executor.forget_under_way()


atexit.register(_report_at_exit)
after_fork_in_child(_forget_in_child)
