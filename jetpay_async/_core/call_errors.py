"""The errors of calls that end without an answer, made from what is known of the call."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from jetpay_async._core.operations import ReplaySafety
from jetpay_async._text import printable
from jetpay_async.errors import Context, NotSentError, OutcomeUnknownError, ServiceError

if TYPE_CHECKING:
    from jetpay_async._core.clock import Clock
    from jetpay_async._core.execution import Execution
    from jetpay_async._core.operations import Call

_T = TypeVar("_T")


def unknown(execution: Execution[_T], clock: Clock, reason: str) -> OutcomeUnknownError:
    """Make the error for an unknown outcome."""
    call = execution.call
    started_at = None
    if execution.guard is not None and execution.guard.started_at is not None:
        ago = clock.monotonic() - execution.guard.started_at
        started_at = datetime.fromtimestamp(clock.time() - ago, UTC)
    context = _context(execution, clock)
    moves_money = call.operation.moves_money
    states = call.operation.states
    if states is not None and execution.state in states.in_progress:
        message = f"the request was sent, and the transaction is {execution.state}; how it ends is not known yet"
    else:
        message = "the request was sent but no usable response was received; it may have been carried out"
    return OutcomeUnknownError(
        message + ("" if moves_money else ", which moves no money"),
        arguments=call.arguments,
        started_at=started_at,
        state=execution.state,
        reason=reason,
        next_step=_next_step(call, context.get("debit_id")),
        moves_money=moves_money,
        **context,
    )


def stopped(execution: Execution[_T], clock: Clock) -> NotSentError | ServiceError | None:
    """Make the error for a call that is given up without an answer; None if its outcome is unknown."""
    if execution.call.operation.replay_safety is ReplaySafety.IDEMPOTENT and execution.unanswered:
        return _failure(ServiceError, execution, clock, "no usable answer; calling again is safe")
    if execution.failure is not None and execution.failure.started:
        return None
    # Sent again because it is harmless, it may still have been carried out the first time.
    if execution.call.operation.replay_safety is ReplaySafety.NEVER and execution.unanswered:
        return None
    return not_sent(execution, clock, "nothing was sent; calling again is safe")


def not_sent(execution: Execution[_T], clock: Clock, message: str) -> NotSentError:
    """Make the error for a call of which nothing left."""
    return _failure(NotSentError, execution, clock, message)


def proven_undone(execution: Execution[_T], clock: Clock) -> ServiceError:
    """Make the error for a call that each time was not carried out, as its transaction's status proves."""
    shown = "the list does not have it" if execution.state is None else f"the transaction is still {execution.state}"
    message = f"not done: {shown}; calling again is safe"
    return _failure(ServiceError, execution, clock, message)


def reason_of(execution: Execution[_T]) -> str:
    """Say why there is no answer."""
    if execution.failure is not None:
        return execution.failure.reason
    if not execution.unanswered:
        seen = execution.seen_state or "?"
        return f"this client has captured the debit before, and the reported state was {printable(seen)}"
    return "an earlier call was left without an answer"


_Failure = TypeVar("_Failure", NotSentError, ServiceError)


def _failure(error_class: type[_Failure], execution: Execution[_T], clock: Clock, message: str) -> _Failure:
    return error_class(f"{message} ({reason_of(execution)})", **_context(execution, clock))


def _context(execution: Execution[_T], clock: Clock) -> Context:
    failure = execution.failure
    return Context(
        operation=execution.call.operation.name,
        debit_id=execution.transaction_id or None,
        status=failure.status if failure is not None else None,
        request_id=failure.request_id if failure is not None else None,
        attempts=execution.attempts,
        elapsed=clock.monotonic() - execution.began,
    )


def _next_step(call: Call[_T], debit_id: str | None) -> str:
    if call.operation.listing is not None:
        return "Read list_webhooks(), or call ensure_webhook(), which does that first."
    if not call.operation.moves_money:
        return "Look for it at Jetpay if a duplicate matters; calling again makes one at worst."
    if call.operation.replay_safety is ReplaySafety.RESOLVE:
        again = (
            "calling capture() again on the same client does that first."
            if call.operation.name == "capture"
            else f"calling {call.operation.name}() again moves no money."
        )
        return f"Read transaction_status({debit_id!r}) until it is final; {again}"
    if debit_id is not None:
        return f"The response named debit {debit_id!r}: read its transaction_status() before asking again."
    return "Look for it among the account's transactions at Jetpay before asking again."
