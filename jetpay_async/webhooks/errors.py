"""Every reason for which a delivery is rejected, and what may go wrong with an inbox.

::

    JetpayError
     ├── WebhookError
     │    ├── MalformedDeliveryError  400, 413  the body isn't what Jetpay sends, or something is too large
     │    ├── InvalidTokenError       401       the token doesn't prove that Jetpay sent this
     │    ├── ForeignDeliveryError    403       authentic, but meant for another customer of Jetpay
     │    ├── StaleDeliveryError      401       authentic, but outside of the token's time window
     │    ├── PayloadMismatchError    401       authentic, but signed for another body
     │    └── KeysUnavailableError    503       there are no keys to verify with; the sender should try again
     └── InboxError                   503       the inbox could not be read or written
          ├── LeaseLostError                    another worker has the event
          └── OutdatedEventError                a later event of the transaction was handled before

A `WebhookError` has a reason (one stable code each: `Reason`) and a few figures, never the token, the body or a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias, TypeVar, Unpack

from jetpay_async._text import printable
from jetpay_async.errors import Context, JetpayError, Outcome
from jetpay_async.webhooks._messages import explanation

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "Fact",
    "ForeignDeliveryError",
    "InboxError",
    "InvalidTokenError",
    "KeysUnavailableError",
    "LeaseLostError",
    "MalformedDeliveryError",
    "OutdatedEventError",
    "PayloadMismatchError",
    "Reason",
    "StaleDeliveryError",
    "WebhookError",
]

Fact: TypeAlias = str | int | float
"""A figure or a name that an error may keep."""


class Reason(StrEnum):
    """Why a delivery was rejected: a stable code for logs and metrics, the HTTP status to answer, and a message.

    413 and 503 say that a smaller delivery, or the same one a little later, may be accepted. Jetpay sends the delivery
    again after any of these statuses [docs].
    """

    BODY_TOO_LARGE = "body_too_large", 413, "the body is larger than this receiver accepts"
    TOKEN_TOO_LARGE = "token_too_large", 413, "the Authorization value is larger than any token of Jetpay"
    MALFORMED_BODY = "malformed_body", 400, "the body isn't a delivery"
    CONFLICTING_EVENTS = "conflicting_events", 400, "two different events of the delivery have the same id"

    MISSING_TOKEN = "missing_token", 401, "the delivery has no Authorization value"
    SEVERAL_TOKENS = "several_tokens", 401, "the delivery has more than one Authorization value"
    WRONG_SCHEME = "wrong_scheme", 401, "the Authorization value isn't of the form 'Bearer <token>'"
    MALFORMED_TOKEN = "malformed_token", 401, "the token isn't a well-formed JWT"
    WRONG_ALGORITHM = "wrong_algorithm", 401, "the token isn't signed with RS256"
    FORBIDDEN_HEADER = "forbidden_header", 401, "the token's header has a field that could change its meaning"
    UNKNOWN_KEY = "unknown_key", 401, "the token names a key that isn't in the key set"
    UNUSABLE_KEY = "unusable_key", 401, "the token names a key that isn't fit for verifying it"
    BAD_SIGNATURE = "bad_signature", 401, "the token's signature doesn't match"
    MISSING_CLAIM = "missing_claim", 401, "the token lacks a required claim"
    INVALID_CLAIM = "invalid_claim", 401, "a claim of the token has a wrong type or value"
    WRONG_WEBHOOK = "wrong_webhook", 403, "the delivery is meant for another webhook"
    WRONG_CALLBACK_KEY = "wrong_callback_key", 403, "the delivery doesn't carry the callback's key"

    EXPIRED = "expired", 401, "the token has expired"
    TOO_OLD = "too_old", 401, "the token was signed too long ago"
    NOT_YET_VALID = "not_yet_valid", 401, "the token is from the future, by this host's clock"

    PAYLOAD_MISMATCH = "payload_mismatch", 401, "the body isn't the one that was signed"

    KEY_SET_TOO_LARGE = "key_set_too_large", 503, "the key set is too large"
    MALFORMED_KEY_SET = "malformed_key_set", 503, "the key set isn't a JWK Set"
    NO_USABLE_KEY = "no_usable_key", 503, "the key set holds no key that can verify RS256"
    KEYS_UNREACHABLE = "keys_unreachable", 503, "the key set could not be fetched"
    KEYS_OUTDATED = "keys_outdated", 503, "the key set could not be refreshed for too long"
    KEYS_CLOSED = "keys_closed", 503, "the key set is closed"

    status_hint: int
    message: str

    def __new__(cls, code: str, status_hint: int, message: str) -> Self:  # noqa: D102 - called by the lines above
        reason = str.__new__(cls, code)
        reason._value_ = code
        reason.status_hint = status_hint
        reason.message = message
        return reason


class WebhookError(JetpayError):
    """A delivery was rejected, or what is needed to verify it is missing.

    Attributes:
        reason: Why, as a stable code.
        facts: The figures behind it, for example ``{"late_by": 12.4}``. Never a part of the body, and of the token
            nothing but the key id that it names.
    """

    outcome = Outcome.REJECTED

    # These are set more quickly than members of a dictionary. Pickling calls the constructor again, which sets them.
    __slots__ = ("facts", "message", "reason")

    # What the constructor of `JetpayError` sets is the same for every delivery, and rejecting a forged one must cost
    # next to nothing: so these are class attributes, and that constructor is not called.
    operation: str | None = None
    debit_id: str | None = None
    status: int | None = None
    request_id: str | None = None
    attempts: int = 0
    elapsed: float = 0.0

    def __init__(self, reason: Reason, facts: Mapping[str, Fact] | None = None, /) -> None:
        self.message: str = reason.message
        self.reason: Reason = reason
        self.facts: Mapping[str, Fact] = facts or {}

    @property
    def status_hint(self) -> int:
        """The HTTP status to answer with: 400, 401, 403, 413 or 503. Jetpay sends again after any of them."""
        return self.reason.status_hint

    def explain(self) -> str:
        """Explain in words why it was rejected, with the figures and the next step.

        Returns:
            A few sentences, without the body, the token or a key in them.
        """
        return explanation(self.reason, self.message, self.facts)


class MalformedDeliveryError(WebhookError):
    """The body isn't what Jetpay sends, or something is too large."""


class InvalidTokenError(WebhookError):
    """The token doesn't prove that Jetpay sent this."""


class ForeignDeliveryError(WebhookError):
    """Jetpay sent this, but it is not meant for you: tokens name no recipient [docs]."""


class StaleDeliveryError(WebhookError):
    """The token is authentic, but outside of its time window."""


class PayloadMismatchError(WebhookError):
    """The token is authentic, but was signed for another body."""


class KeysUnavailableError(WebhookError):
    """There are no keys to verify with: not the delivery's fault, so it should be sent again."""

    @property
    def retryable(self) -> bool:
        """Always True: the same delivery may be accepted once the keys are there."""
        return True


class InboxError(JetpayError):
    """The inbox could not be read or written; nothing is known to be handled, so the sender should try again.

    Attributes:
        reason: One stable code: ``locked``, ``readonly``, ``full``, ``damaged``, ``newer_schema``, ``unavailable``
            (cannot be opened, read or written), ``conflict`` (a known id with another ``createdAt``: another account's
            event), ``lease_lost`` or ``outdated``.
    """

    def __init__(self, message: str, *, reason: str = "unavailable", **context: Unpack[Context]) -> None:
        super().__init__(message, **context)
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """Always True: an event that is not marked can be marked later."""
        return True


class LeaseLostError(InboxError):
    """Another worker has the event, or has handled it: stop, and roll back what is not committed."""

    def __init__(self, message: str, *, reason: str = "lease_lost", **context: Unpack[Context]) -> None:
        super().__init__(message, reason=reason, **context)


class OutdatedEventError(InboxError):
    """A later event of the transaction was handled while this one's handler ran: let it propagate, which rolls back.

    Raised by ``mark_handled()`` in a handler that was registered with ``latest=True``. The receiver marks the event.
    """

    def __init__(self, message: str, *, reason: str = "outdated", **context: Unpack[Context]) -> None:
        super().__init__(message, reason=reason, **context)


def shown(text: str, limit: int = 64) -> str:
    """Make text from outside fit for logs: short, and on one line."""
    return printable(text, limit)


_Rejection = TypeVar("_Rejection", bound=WebhookError)


def bare(error: _Rejection) -> _Rejection:
    """Remove what leads from an error to the frames it came from, and so to the body and the token."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)
