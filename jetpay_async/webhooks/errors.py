"""Every reason for which a delivery is refused.

::

    JetpayError
     └── WebhookError
          ├── MalformedDeliveryError  400, 413  the body isn't what Jetpay sends, or something is too large
          ├── InvalidTokenError       401       the token doesn't prove that Jetpay sent this
          ├── StaleDeliveryError      401       authentic, but outside of the token's window of time
          ├── PayloadMismatchError    401       authentic, but for other bytes than these
          └── KeysUnavailableError    503       there are no keys to check with; the sender should try again

An error knows a reason (one stable code each: `Reason`) and a few figures, never the token, the body or a key.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from jetpay_async.errors import JetpayError, Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Fact",
    "InvalidTokenError",
    "KeysUnavailableError",
    "MalformedDeliveryError",
    "PayloadMismatchError",
    "Reason",
    "StaleDeliveryError",
    "WebhookError",
]

Fact: TypeAlias = str | int | float
"""A figure or a name that an error may keep."""


class Reason(StrEnum):
    """Why a delivery was refused: stable codes, for logs and metrics."""

    BODY_TOO_LARGE = "body_too_large"
    TOKEN_TOO_LARGE = "token_too_large"  # noqa: S105 - a code
    MALFORMED_BODY = "malformed_body"
    CONFLICTING_EVENTS = "conflicting_events"

    MISSING_TOKEN = "missing_token"  # noqa: S105 - a code
    SEVERAL_TOKENS = "several_tokens"
    WRONG_SCHEME = "wrong_scheme"
    MALFORMED_TOKEN = "malformed_token"  # noqa: S105 - a code
    WRONG_ALGORITHM = "wrong_algorithm"
    FORBIDDEN_HEADER = "forbidden_header"
    UNKNOWN_KEY = "unknown_key"
    UNUSABLE_KEY = "unusable_key"
    BAD_SIGNATURE = "bad_signature"
    MISSING_CLAIM = "missing_claim"
    INVALID_CLAIM = "invalid_claim"
    WRONG_WEBHOOK = "wrong_webhook"

    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"

    PAYLOAD_MISMATCH = "payload_mismatch"

    KEY_SET_TOO_LARGE = "key_set_too_large"
    MALFORMED_KEY_SET = "malformed_key_set"
    NO_USABLE_KEY = "no_usable_key"
    KEYS_UNREACHABLE = "keys_unreachable"
    KEYS_OUTDATED = "keys_outdated"
    KEYS_CLOSED = "keys_closed"


# Reason: (the HTTP status to answer, the message). 413 and 503 differ from their class's neighbours on purpose: a
# smaller delivery, or the same one a little later, may pass.
_ANSWERS = {
    Reason.BODY_TOO_LARGE: (413, "the body is larger than this receiver takes"),
    Reason.TOKEN_TOO_LARGE: (413, "the Authorization value is larger than any token of Jetpay's"),
    Reason.MALFORMED_BODY: (400, "the body isn't a delivery"),
    Reason.CONFLICTING_EVENTS: (400, "two different events of the delivery share an id"),
    Reason.MISSING_TOKEN: (401, "the delivery has no Authorization value"),
    Reason.SEVERAL_TOKENS: (401, "the delivery has more than one Authorization value"),
    Reason.WRONG_SCHEME: (401, "the Authorization value isn't of the form 'Bearer <token>'"),
    Reason.MALFORMED_TOKEN: (401, "the token isn't a well-formed JWT"),
    Reason.WRONG_ALGORITHM: (401, "the token isn't signed with RS256"),
    Reason.FORBIDDEN_HEADER: (401, "the token's header has a field that Jetpay doesn't send"),
    Reason.UNKNOWN_KEY: (401, "the token names a key that isn't in the key set"),
    Reason.UNUSABLE_KEY: (401, "the token names a key that isn't fit for verifying signatures"),
    Reason.BAD_SIGNATURE: (401, "the token's signature doesn't match"),
    Reason.MISSING_CLAIM: (401, "the token lacks a required claim"),
    Reason.INVALID_CLAIM: (401, "a claim of the token has a wrong type or value"),
    Reason.WRONG_WEBHOOK: (401, "the delivery is meant for another webhook"),
    Reason.EXPIRED: (401, "the token has expired"),
    Reason.NOT_YET_VALID: (401, "the token was issued in the future, by this host's clock"),
    Reason.PAYLOAD_MISMATCH: (401, "the body isn't the one that was signed"),
    Reason.KEY_SET_TOO_LARGE: (503, "the key set is too large"),
    Reason.MALFORMED_KEY_SET: (503, "the key set isn't a JWK Set"),
    Reason.NO_USABLE_KEY: (503, "the key set holds no key that can verify RS256"),
    Reason.KEYS_UNREACHABLE: (503, "the key set could not be fetched"),
    Reason.KEYS_OUTDATED: (503, "the key set could not be refreshed for too long"),
    Reason.KEYS_CLOSED: (503, "the key set is closed"),
}


class WebhookError(JetpayError):
    """A delivery, or what is needed to check it, was refused.

    Attributes:
        reason: Why, as a stable code.
        facts: The figures behind it, for example ``{"late_by": 12.4}``. Never a part of the body, and of the token
            nothing but the key id it names.
    """

    outcome = Outcome.REJECTED

    def __init__(self, reason: Reason, facts: Mapping[str, Fact] = MappingProxyType({})) -> None:
        super().__init__(_ANSWERS[reason][1])
        self.reason = reason
        self.facts = dict(facts)

    # The message follows from the reason, so the default, which would pass the message, does not fit.
    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason,), self.__dict__

    @property
    def status_hint(self) -> int:
        """The HTTP status to answer with: 400, 401, 413 or 503. Jetpay sends again after any of them."""
        return _ANSWERS[self.reason][0]

    def explain(self) -> str:
        """Say why in words, with the figures and the next step.

        Returns:
            A few sentences, without the body, the token or a key in them.
        """
        from jetpay_async.webhooks._explanation import explanation_of  # noqa: PLC0415 - only read when needed

        return explanation_of(self)


class MalformedDeliveryError(WebhookError):
    """The body isn't what Jetpay sends, or something is too large."""


class InvalidTokenError(WebhookError):
    """The token doesn't prove that Jetpay sent this to you."""


class StaleDeliveryError(WebhookError):
    """The token is authentic, and outside of its window of time."""


class PayloadMismatchError(WebhookError):
    """The token is authentic, and vouches for other bytes than these."""


class KeysUnavailableError(WebhookError):
    """There are no keys to check with: not the delivery's fault, so it should be sent again."""

    @property
    def retryable(self) -> bool:
        """Always: the same delivery may pass once the keys are there."""
        return True


_Refusal = TypeVar("_Refusal", bound=WebhookError)


def bare(error: _Refusal) -> _Refusal:
    """Take everything off an error that leads back to the frames, and so to the body and the token, it came from."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)
