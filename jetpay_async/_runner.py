"""Carry one call through, within one deadline: attempts, waiting, settling.

What may be sent again is declared in `_calls`, when is decided in `_retry`; here it is done.

An outcome is *doubtful* from the moment a write begins to leave until a usable answer comes. A doubtful call ends in
exactly one of three ways: the status proves what happened, the status proves that nothing happened (and it may be sent
again), or `OutcomeUnknownError`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import attrs

from jetpay_async import _replies
from jetpay_async._calls import Call, Facts, Goal, Resend, over, transaction_status
from jetpay_async._guard import Fence, Guard
from jetpay_async._log import logger
from jetpay_async._replies import Unanswered
from jetpay_async._retry import Decision, Happened, RetryPolicy, Step, decide
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
from jetpay_async.telemetry import Attempt

if TYPE_CHECKING:
    from jetpay_async._clock import Clock
    from jetpay_async._transport import Transport
    from jetpay_async._wire import Reply

_T = TypeVar("_T")
_Read = TypeVar("_Read")

# A capture is given up after this share of the time that was left when it was sent: the rest is to settle it in.
_PATIENCE = 2 / 3

# Seconds that a call may be old to count as fresh.
_MOMENT = 0.001

# Seconds between two looks at a status, however short the policy's delays are.
_SHORTEST_LOOK = 0.05

OnUnknown = Callable[[OutcomeUnknownError], None]
"""Told of each unknown outcome, the cancelled ones included."""

OnTrouble = Callable[[int | None, float | None], None]
"""Told the HTTP status of each attempt without a result, if it had one, and the seconds that the API asked to wait."""


@attrs.frozen
class Options:
    """What a call may be given differently from another of the same client."""

    timeout: float
    retry: RetryPolicy


@attrs.define(eq=False)
class Pursuit(Generic[_T]):
    """One call on its way, and all that is known of it."""

    call: Call[_T]
    options: Options
    began: float
    """Monotonic."""
    deadline: float
    """Monotonic."""
    on_trouble: OnTrouble | None = None
    fence: Fence | None = None
    """Stands before each attempt, besides the deadline."""
    part_of: Pursuit[Any] | None = None
    """What it is carried through for, if that is another call."""
    attempts: int = 0
    attempt_began: float = 0.0
    """When the latest attempt began. Monotonic."""
    guard: Guard | None = None
    """Of the latest attempt."""
    doubtful: bool = False
    """An earlier request may have been carried out, or may still be."""
    given_up_at: float = 0.0
    """When the latest doubtful request was given up. Monotonic."""
    state: TransactionState | None = None
    """What the status said last."""
    trouble: Unanswered | None = None
    """Why there is no answer."""
    unanswered: bool = False
    """Some request for it, of this call or an earlier one, began to leave and was not answered."""
    trail: list[Attempt] | None = None
    """The requests so far, where somebody wants to know; the last one may be missing."""

    def doubt(self, given_up_at: float) -> None:
        """Note that a request may have been carried out, given up at this time: settle it before anything else."""
        self.doubtful = True
        self.unanswered = True
        self.given_up_at = given_up_at

    @property
    def unknown(self) -> bool:
        """Whether it would be a guess to say what became of it."""
        return self.doubtful or (self.guard is not None and self.guard.started)


@attrs.frozen
class Settled(Generic[_T]):
    """Wraps a result, which may itself be None."""

    result: _T


class Runner:
    """Carries calls through over one transport."""

    def __init__(self, transport: Transport, clock: Clock, on_unknown: OnUnknown | None) -> None:
        self._transport = transport
        self._clock = clock
        self._on_unknown = on_unknown

    def pursue(
        self,
        call: Call[_T],
        options: Options,
        on_trouble: OnTrouble | None = None,
        fence: Fence | None = None,
    ) -> Pursuit[_T]:
        """Start the clock for a call."""
        now = self._clock.monotonic()
        return Pursuit(call, options, now, now + options.timeout, on_trouble, fence)

    def now(self) -> float:
        """Seconds on the clock of all pursuits."""
        return self._clock.monotonic()

    def remaining(self, pursuit: Pursuit[_T]) -> float:
        """Seconds until its deadline."""
        return pursuit.deadline - self._clock.monotonic()

    async def run(self, pursuit: Pursuit[_T]) -> _T:
        """Carry it through.

        Raises:
            JetpayError: As documented for the client's methods.
            asyncio.CancelledError: With a note, if the outcome is unknown.
        """
        call = pursuit.call
        operation = call.operation
        exchange = self._transport.exchange
        try:
            while True:
                if pursuit.doubtful and (settled := await self._settle(pursuit)) is not None:
                    return self._conclude(pursuit, settled)
                failure: Unanswered | APIError
                try:
                    within = self._begin(pursuit)
                    reply = await exchange(operation.method, call.path, call.body, pursuit.guard, within=within)
                    return self._take(reply, pursuit)
                except Unanswered as trouble:
                    pursuit.trouble = failure = trouble
                    pursuit.unanswered |= trouble.started
                except APIError as refusal:
                    pursuit.guard = None
                    failure = refusal
                if (settled := await self._carry_on(pursuit, failure)) is not None:
                    return self._conclude(pursuit, settled)
        except BaseException as error:
            self._break_off(pursuit, error)
            raise

    async def settle(self, pursuit: Pursuit[_T]) -> _T | None:
        """Find out what became of a doubtful request, and send nothing; None if it is proven undone.

        Raises:
            APIError: It is proven that it never will be done.
            OutcomeUnknownError: The status could not tell before the deadline.
        """
        settled = await self._settle(pursuit)
        return None if settled is None else settled.result

    def late(self, pursuit: Pursuit[_T]) -> JetpayError:
        """Make the error for a caller whose time is up while the call goes on for another."""
        if pursuit.unknown:
            return self._unknown(pursuit, "no answer in time; the request is still under way for another caller")
        return self._failure(NotSentError, pursuit, "nothing was sent in time")

    async def _carry_on(self, pursuit: Pursuit[_T], failure: Unanswered | APIError) -> Settled[_T] | None:
        """Do what follows an attempt without a result; None if that is another round."""
        decision = self._decide(pursuit, failure)
        if decision.step is Step.STOP:
            if isinstance(failure, Unanswered):
                raise self._stopped(pursuit)
            return await self._confirm(pursuit, failure)
        if decision.step is Step.SETTLE:
            pursuit.doubt(self._clock.monotonic())
        else:
            await self._clock.sleep(decision.delay)
        return None

    def _decide(self, pursuit: Pursuit[_T], failure: Unanswered | APIError) -> Decision:
        happened = classify(failure)
        retry_after = failure.retry_after if isinstance(failure, Unanswered | RateLimitedError) else None
        if pursuit.on_trouble is not None:
            pursuit.on_trouble(failure.status, retry_after)
        operation = pursuit.call.operation
        decision = decide(
            happened,
            operation.resend,
            pursuit.options.retry,
            attempt=pursuit.attempts,
            remaining=self.remaining(pursuit),
            chance=self._clock.random(),
            retry_after=retry_after,
        )
        logger.info(
            "%s %s: attempt %d was %s; next: %s",
            operation.name,
            pursuit.call.debit_id or "",
            pursuit.attempts,
            happened.value,
            decision.step.value,
        )
        return decision

    def _begin(self, pursuit: Pursuit[_T]) -> float:
        """Count an attempt, and give it a guard if it is a write; return how many seconds it may take."""
        resend = pursuit.call.operation.resend
        pursuit.attempts += 1
        pursuit.attempt_began = now = self._clock.monotonic()
        within = pursuit.deadline - now
        if within > pursuit.options.timeout - _MOMENT:
            # The same number for each fresh call: what aiohttp needs for it is made once.
            within = pursuit.options.timeout
        if resend is not Resend.READ:
            patience = within * _PATIENCE if resend is Resend.SETTLE else within
            pursuit.guard = Guard(self._transport.watch, pursuit.deadline, self._clock, patience, pursuit.fence)
        return within

    def _take(self, reply: Reply, pursuit: Pursuit[_T]) -> _T:
        """Make the result of the reply to an attempt."""
        call = pursuit.call
        result = self._read(call, reply, pursuit)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s %s: done, attempt %d", call.operation.name, call.debit_id or "", pursuit.attempts)
        return result

    def _conclude(self, pursuit: Pursuit[_T], settled: Settled[_T]) -> _T:  # noqa: ARG002 - who watches needs it
        """Make the result of what the status says."""
        return settled.result

    def _break_off(self, pursuit: Pursuit[_T], error: BaseException) -> None:
        """Leave a record of what may have happened, if it was cancelled."""
        if not isinstance(error, asyncio.CancelledError):
            return
        if pursuit.guard is not None:
            pursuit.guard.seal()
        if pursuit.unknown:
            if not pursuit.doubtful:
                pursuit.doubt(self._clock.monotonic())
            error.add_note(str(self._unknown(pursuit, "the call was cancelled")))

    def _read(self, call: Call[_Read], reply: Reply, pursuit: Pursuit[_T]) -> _Read:
        elapsed = self._clock.monotonic() - pursuit.began
        return _replies.read(call, reply, attempts=pursuit.attempts, elapsed=elapsed, now=self._clock.time())

    async def _settle(self, pursuit: Pursuit[_T]) -> Settled[_T] | None:
        """Find out what became of a doubtful request; None if it is proven undone, and may be sent again."""
        goal = _goal(pursuit.call)
        policy = pursuit.options.retry
        certain_from = pursuit.given_up_at + policy.settle_after
        look = 0
        while True:
            look += 1
            asked_at = self._clock.monotonic()
            if (status := await self._look(pursuit)) is not None:
                pursuit.state = status.state
                if status.state in goal.done:
                    return Settled(goal.settled(pursuit.call, status, self._facts(pursuit)))
                if status.state in goal.over:
                    raise over(pursuit.call, status, self._facts(pursuit))
                # Read any earlier, "preauthorized" may only mean that the request has not arrived yet.
                if status.state in goal.undone and asked_at >= certain_from:
                    pursuit.doubtful = False
                    pursuit.guard = None
                    if pursuit.attempts >= policy.max_attempts:
                        message = f"not done: the transaction is still {status.state}; calling again is safe"
                        raise self._failure(ServiceError, pursuit, message)
                    return None
            now = self._clock.monotonic()
            wait = max(policy.delay(look, self._clock.random()), _SHORTEST_LOOK)
            if now < certain_from:
                wait = min(wait, certain_from - now)
            if now + wait >= pursuit.deadline:
                raise self._unknown(pursuit, _reason(pursuit))
            await self._clock.sleep(wait)

    async def _look(self, pursuit: Pursuit[_T]) -> TransactionStatus | None:
        """Read the status once; None if it can't be read now."""
        call = transaction_status(pursuit.call.debit_id or "")
        failure: JetpayError
        try:
            return (await self._ask(call, pursuit))[1]
        except (Unanswered, RateLimitedError):
            return None
        except (APIError, ConfigurationError) as error:
            failure = error
        raise self._unknown(pursuit, f"{_reason(pursuit)}, and the status can't be read: {failure}") from failure

    async def _ask(self, call: Call[TransactionStatus], pursuit: Pursuit[_T]) -> tuple[int, TransactionStatus]:
        """Send a read once; return the HTTP status with its result."""
        # Half of the time that is left, so that a look that stalls is not the last one.
        within = self.remaining(pursuit) / 2
        reply = await self._transport.exchange(call.operation.method, call.path, call.body, None, within=within)
        return reply.status, self._read(call, reply, pursuit)

    async def _confirm(self, pursuit: Pursuit[_T], failure: APIError) -> Settled[_T] | None:
        """Ask the status whether a refusal is the last word; None if it leaves an earlier attempt doubtful."""
        call = pursuit.call
        no_word_on_it = isinstance(failure, AuthenticationError | PermissionDeniedError | RateLimitedError)
        if call.operation.resend is not Resend.SETTLE or no_word_on_it:
            raise failure
        goal = _goal(call)
        status = await self._read_status(pursuit)
        if status is not None:
            pursuit.state = status.state
            if status.state in goal.done:
                return Settled(goal.settled(call, status, self._facts(pursuit)))
            if status.state in goal.over and isinstance(failure, TransactionFailedError):
                raise over(call, status, self._facts(pursuit))
        if pursuit.unanswered and (status is None or status.state not in goal.undone | goal.over):
            # It may be an earlier request of ours that stands in the way of this one.
            pursuit.doubt(self._clock.monotonic())
            return None
        raise failure

    async def _read_status(self, pursuit: Pursuit[_T]) -> TransactionStatus | None:
        options = Options(self.remaining(pursuit), pursuit.options.retry)
        read = self.pursue(transaction_status(pursuit.call.debit_id or ""), options)
        read.part_of = pursuit
        try:
            return await self.run(read)
        except JetpayError:
            return None

    def _facts(self, pursuit: Pursuit[_T]) -> Facts:
        return Facts(pursuit.attempts, self._clock.monotonic() - pursuit.began)

    def _stopped(self, pursuit: Pursuit[_T]) -> JetpayError:
        """Make the error for a call that is given up without an answer."""
        reads = pursuit.call.operation.resend is Resend.READ
        if reads and pursuit.unanswered:
            return self._failure(ServiceError, pursuit, "no usable answer; calling again is safe")
        if pursuit.trouble is not None and pursuit.trouble.started:
            return self._unknown(pursuit, _reason(pursuit))
        return self._failure(NotSentError, pursuit, "nothing was sent; calling again is safe")

    def _failure(
        self, error_class: type[NotSentError | ServiceError], pursuit: Pursuit[_T], message: str
    ) -> NotSentError | ServiceError:
        return error_class(f"{message} ({_reason(pursuit)})", **self._context(pursuit))

    def _unknown(self, pursuit: Pursuit[_T], reason: str) -> OutcomeUnknownError:
        """Make the error for an unknown outcome, and tell it to the log and the hook."""
        call = pursuit.call
        started_at = None
        if pursuit.guard is not None and pursuit.guard.started_at is not None:
            ago = self._clock.monotonic() - pursuit.guard.started_at
            started_at = datetime.fromtimestamp(self._clock.time() - ago, UTC)
        context = self._context(pursuit)
        error = OutcomeUnknownError(
            "the request began to leave and no usable answer came: it may have been carried out",
            arguments=call.arguments,
            started_at=started_at,
            state=pursuit.state,
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

    def _context(self, pursuit: Pursuit[_T]) -> Context:
        trouble = pursuit.trouble
        return Context(
            operation=pursuit.call.operation.name,
            debit_id=pursuit.call.debit_id or (trouble.debit_id if trouble is not None else None),
            status=trouble.status if trouble is not None else None,
            request_id=trouble.request_id if trouble is not None else None,
            attempts=pursuit.attempts,
            elapsed=self._clock.monotonic() - pursuit.began,
        )


def classify(failure: Unanswered | APIError) -> Happened:
    """Say what became of an attempt that brought no result."""
    if isinstance(failure, RateLimitedError):
        return Happened.RATE_LIMITED
    if isinstance(failure, APIError):
        return Happened.REFUSED
    return Happened.UNANSWERED if failure.started else Happened.UNSENT


def _goal(call: Call[_T]) -> Goal[_T]:
    if call.operation.goal is None:  # pragma: no cover - declared beside Resend.SETTLE
        raise AssertionError(f"{call.operation.name} can't be settled")
    return call.operation.goal


def _reason(pursuit: Pursuit[_T]) -> str:
    return pursuit.trouble.reason if pursuit.trouble is not None else "an earlier call was left without an answer"


def _next_step(call: Call[_T], debit_id: str | None) -> str:
    if call.operation.resend is Resend.SETTLE:
        return (
            f"Read transaction_status({debit_id!r}) until it is final; calling {call.operation.name}() again on the "
            f"same client does that first."
        )
    if debit_id is not None:
        return f"The reply named debit {debit_id!r}: read its transaction_status() before asking again."
    return "Look for it among the account's transactions at Jetpay before asking again."
