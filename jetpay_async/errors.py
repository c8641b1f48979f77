"""Every error of this package.

::

    JetpayError
     ├── ConfigurationError          the client is set up or used in a way that can't work
     ├── InvalidArgumentError        a bad argument; nothing was sent (also a ValueError)
     ├── NotSentError                nothing had begun to leave; calling again is safe
     ├── ServiceError                what may be repeated got no usable answer; calling again is safe
     ├── OutcomeUnknownError         a write may have happened; look before you do anything
     └── APIError                    a parsed answer of the API said no
          ├── InvalidRequestError    400, 422
          ├── AuthenticationError    401
          ├── PermissionDeniedError  403
          ├── NotFoundError          404
          ├── ConflictError          409
          ├── RateLimitedError       429
          └── TransactionFailedError the transaction itself is failed or cancelled

Which one to expect is decided by two questions. *Did the request begin to leave?* If not: `NotSentError`.
*Did the API itself answer?* If it said no: `APIError`. If a write began to leave and no usable answer came:
`OutcomeUnknownError`, never anything milder.

Webhook errors hang below `JetpayError` too and live in `jetpay_async.webhooks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import ClassVar, TypedDict, Unpack

import attrs

from jetpay_async._text import printable
from jetpay_async.models import TransactionState

__all__ = [
    "APIError",
    "AuthenticationError",
    "ConfigurationError",
    "ConflictError",
    "FieldError",
    "InvalidArgumentError",
    "InvalidRequestError",
    "JetpayError",
    "NotFoundError",
    "NotSentError",
    "Outcome",
    "OutcomeUnknownError",
    "PermissionDeniedError",
    "RateLimitedError",
    "ServiceError",
    "TransactionFailedError",
]


class Outcome(StrEnum):
    """What an error says about the operation that raised it."""

    NOT_SENT = "not_sent"
    """Nothing left this process."""
    REJECTED = "rejected"
    """The API received it and said no."""
    NO_ANSWER = "no_answer"
    """A read got no answer; reading moves no money."""
    UNKNOWN = "unknown"
    """It may have happened."""


@attrs.frozen(kw_only=True)
class FieldError:
    """One complaint of a 422: which field, and what is wrong with it."""

    path: str
    """Where in the request, for example ``body.amount``."""
    message: str
    """The API's words."""
    type: str = ""
    """The API's code for the complaint, for example ``value_error``."""


class Context(TypedDict, total=False):
    """What every error can report of its circumstances; see `JetpayError` for the meanings."""

    operation: str | None
    debit_id: str | None
    status: int | None
    request_id: str | None
    attempts: int
    elapsed: float


class JetpayError(Exception):
    """The root of every error of this package.

    Attributes:
        message: What happened and what to do, without the context that the other attributes carry.
        outcome: What this says about the operation; the same for every instance of a class.
        operation: The client's method, for example ``"capture"``, or None outside of a call.
        debit_id: The debit (or transaction) concerned, or None where there is none yet.
        status: The HTTP status of the answer that decided, or None.
        request_id: The service's id of that answer, whichever header carried it, or None.
        attempts: How many requests of the operation itself were tried.
        elapsed: Seconds from the call to the error.
    """

    outcome: ClassVar[Outcome] = Outcome.NOT_SENT

    # Every argument but the message is optional and every attribute lives in __dict__:
    # that is what makes the default pickling of exceptions hold for the whole tree.
    def __init__(self, message: str, **context: Unpack[Context]) -> None:
        super().__init__(message)
        self.message = message
        self.operation: str | None = context.get("operation")
        self.debit_id: str | None = context.get("debit_id")
        self.status: int | None = context.get("status")
        self.request_id: str | None = context.get("request_id")
        self.attempts: int = context.get("attempts", 0)
        self.elapsed: float = context.get("elapsed", 0.0)

    @property
    def retryable(self) -> bool:
        """Whether calling the same method again can't move money twice and may help."""
        return False

    def __str__(self) -> str:
        context = [
            f"{name}={printable(str(value))}"
            for name, value in (
                ("operation", self.operation),
                ("debit_id", self.debit_id),
                ("status", self.status),
                ("request_id", self.request_id),
                ("attempts", self.attempts or None),
            )
            if value is not None
        ]
        # Our own messages may have several lines; what they quote from elsewhere is escaped before it gets here.
        message = printable(self.message, None, keep="\n")
        return f"{message} [{', '.join(context)}]" if context else message


class ConfigurationError(JetpayError):
    """The client is set up, or used, in a way that can't work: nothing was sent.

    A token for another host, plain ``http://`` to a public host, a session that isn't aiohttp's, a client
    that is closed, or used from another event loop or after a fork.
    """


class InvalidArgumentError(JetpayError, ValueError):
    """An argument was refused before anything was sent.

    Attributes:
        field: The name of the argument.
    """

    def __init__(self, message: str, *, field: str = "", **context: Unpack[Context]) -> None:
        super().__init__(message, **context)
        self.field = field


class NotSentError(JetpayError):
    """Nothing had begun to leave: connecting failed, or the deadline passed in the queue.

    Calling again is safe.
    """

    @property
    def retryable(self) -> bool:
        """Always: no byte of the request has left."""
        return True


class ServiceError(JetpayError):
    """A read, or a write that may be repeated, got no usable answer within its attempts or its deadline.

    It says nothing about the transaction. Calling again is safe.
    """

    outcome = Outcome.NO_ANSWER

    @property
    def retryable(self) -> bool:
        """Always: what is repeated moves no money."""
        return True


class OutcomeUnknownError(JetpayError):
    """A write began to leave and no usable answer came: it may have been carried out.

    Do not call again blindly. The attributes hold what a person, or a later job, needs to find out.

    Attributes:
        moves_money: Whether money may have moved, or may move without a further step of yours. False for a contact, a
            bank account and a webhook: there, calling again makes a duplicate at worst.
        arguments: What was asked, by argument name. No secrets.
        started_at: When the last request began to leave (aware, UTC), or None if that is not known.
        state: The last state that the status endpoint reported, or None if it reported none.
        reason: What went wrong, in words: the cause's type and message.
        next_step: What to do now.
    """

    outcome = Outcome.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        arguments: Mapping[str, str] | None = None,
        started_at: datetime | None = None,
        state: TransactionState | None = None,
        reason: str = "",
        next_step: str = "",
        moves_money: bool = True,
        **context: Unpack[Context],
    ) -> None:
        super().__init__(message, **context)
        self.moves_money = moves_money
        self.arguments: dict[str, str] = dict(arguments or {})
        self.started_at = started_at
        self.state = state
        self.reason = reason
        self.next_step = next_step

    def __str__(self) -> str:
        asked = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        when = self.started_at.isoformat(timespec="milliseconds") if self.started_at else "an unknown time"
        parts = [super().__str__(), f"Asked at {when}: {asked or 'nothing'}."]
        if self.state is not None:
            parts.append(f"Last known state: {printable(self.state)}.")
        if self.reason:
            parts.append(f"Cause: {printable(self.reason)}.")
        if self.next_step:
            parts.append(printable(self.next_step, None))
        return " ".join(parts)


class APIError(JetpayError):
    """The API answered, and the answer is no. Nothing was done.

    Attributes:
        detail: The API's words, or its JSON where it used no words; empty if it gave none.
        fields: The complaints of a 422, one per field.
    """

    outcome = Outcome.REJECTED

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        fields: Sequence[FieldError] = (),
        **context: Unpack[Context],
    ) -> None:
        super().__init__(message, **context)
        self.detail = detail
        self.fields: tuple[FieldError, ...] = tuple(fields)


class InvalidRequestError(APIError):
    """400 or 422: the API did not accept the request's content. See `fields`."""


class AuthenticationError(APIError):
    """401: the API token is missing, wrong, expired or revoked."""


class PermissionDeniedError(APIError):
    """403: the token's scopes, or the account, do not allow this.

    Card-on-file calls (preauthorize) must first be enabled for the account by Jetpay.
    """


class NotFoundError(APIError):
    """404: no such contact, card, debit or transaction for this account."""


class ConflictError(APIError):
    """409: the state of the transaction does not allow this."""


class RateLimitedError(APIError):
    """429: too many requests. The request was not processed [inferred, see `RetryPolicy`].

    Attributes:
        retry_after: Seconds to wait, from the ``Retry-After`` header, or None if the API gave none.
    """

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        fields: Sequence[FieldError] = (),
        retry_after: float | None = None,
        **context: Unpack[Context],
    ) -> None:
        super().__init__(message, detail=detail, fields=fields, **context)
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """Always: a rate-limited request was not processed [inferred]."""
        return True


class TransactionFailedError(APIError):
    """The API's answer says that the transaction is failed, cancelled or otherwise over.

    Raised when a capture, a preauthorization or a cancellation ends in a state that is final and not the
    one asked for.

    Attributes:
        state: That state.
        fail_reason: The API's reason, for example ``account_frozen``, or None.
        fail_direction: ``pull`` or ``push``, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        detail: str = "",
        fields: Sequence[FieldError] = (),
        state: TransactionState | None = None,
        fail_reason: str | None = None,
        fail_direction: str | None = None,
        **context: Unpack[Context],
    ) -> None:
        super().__init__(message, detail=detail, fields=fields, **context)
        self.state = state
        self.fail_reason = fail_reason
        self.fail_direction = fail_direction
