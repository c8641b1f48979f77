"""What the client reports about its calls, for metrics and tracing.

Give `JetpayClient` a function as ``on_operation``; it is called with one `Operation` for each call, when the call ends.
Without it nothing is recorded. `jetpay_async.opentelemetry` is such a function, for those who use OpenTelemetry.

No value in here holds the token, an amount or an argument other than the debit's id. The error of an
`Operation` is the caller's own: that of an unknown outcome holds what was asked, but is not shown where an operation
is printed.
"""

from __future__ import annotations

from enum import StrEnum

import attrs

__all__ = ["Attempt", "AttemptResult", "Operation", "OperationOutcome"]


class AttemptResult(StrEnum):
    """What became of one request."""

    ANSWERED = "answered"
    """The API answered with what was asked for."""
    REJECTED = "rejected"
    """The API said no."""
    RATE_LIMITED = "rate_limited"
    """The API said 429."""
    UNANSWERED = "unanswered"
    """It began to leave, and no usable answer came."""
    NOT_SENT = "not_sent"
    """It never began to leave."""
    CANCELLED = "cancelled"
    """The call was broken off before there was an answer."""


class OperationOutcome(StrEnum):
    """What became of one call: `Outcome`, and what no error reports."""

    DONE = "done"
    """It has its result."""
    ACCEPTED = "accepted"
    """The API has accepted it, and has not finished it: it may still fail."""
    UNDONE = "undone"
    """An earlier capture from a ledger is proven to have done nothing, and will be sent again."""
    NOT_SENT = "not_sent"
    """Nothing left this process."""
    REJECTED = "rejected"
    """The API said no."""
    NO_ANSWER = "no_answer"
    """A read got no answer, or the status proves that a write was not carried out."""
    UNKNOWN = "unknown"
    """It may have happened: count these, and look at each."""
    CANCELLED = "cancelled"
    """It was cancelled, or broken off otherwise, while nothing was in doubt."""
    FAILED = "failed"
    """An unexpected fault ended it while nothing was in doubt."""


@attrs.frozen(kw_only=True)
class Attempt:
    """One request to the API, whatever came of it."""

    request: str
    """What it asked for: the name of a method of the client, such as ``"capture"``. A capture that is resolved reads
    the status, a registration the list of webhooks, so attempts may be of two kinds."""
    started_at: float
    """When it was begun, in seconds since the epoch; waiting for a connection comes after."""
    duration: float
    """Seconds until the whole answer was read and understood, or until it was given up."""
    status: int | None = None
    """The HTTP status, or None if no whole answer came."""
    result: AttemptResult
    """What became of it."""


_WITH_RESULT = (OperationOutcome.DONE, OperationOutcome.ACCEPTED)


def _show_class(error: BaseException | None) -> str:
    """Leave out the text: the API's words may repeat what was asked."""
    return "None" if error is None else type(error).__name__


@attrs.frozen(kw_only=True)
class Operation:
    """One call carried through, from its start to its end, with all its attempts."""

    name: str
    """The client's method, such as ``"capture"``. Captures of many debits and captures from a ledger are ``"capture"``,
    one for each debit; `JetpayClient.ensure_webhook` is the calls that it makes."""
    outcome: OperationOutcome
    """What became of it."""
    debit_id: str | None = None
    """The debit (or transaction) concerned, or None where there is none yet. It is different for each call: a label
    of a metric must not hold it."""
    started_at: float
    """When it was called, in seconds since the epoch."""
    duration: float
    """Seconds from the call to its end: attempts, waiting between them, and resolving."""
    attempts: tuple[Attempt, ...] = ()
    """Its requests in the order in which they were made, the reads of the status that resolved it included."""
    error: BaseException | None = attrs.field(default=None, repr=_show_class)
    """What the caller gets instead of a result: a `JetpayError`, `asyncio.CancelledError`, or an unexpected fault."""

    @property
    def confirmed_by_status(self) -> bool:
        """Whether the transaction's status says what became of it, and not its own response."""
        last = self.attempts[-1].request if self.attempts else self.name
        return self.outcome in _WITH_RESULT and last != self.name
