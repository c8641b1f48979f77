"""What an error means for the item that met it, and what outcomes tell."""

from __future__ import annotations

import pickle

import attrs
import pytest

from jetpay_async import (
    Accepted,
    APIError,
    AuthenticationError,
    Capture,
    Captured,
    ConfigurationError,
    ConflictError,
    InvalidArgumentError,
    InvalidRequestError,
    JetpayError,
    NotFoundError,
    NotSent,
    NotSentError,
    OutcomeUnknownError,
    PermissionDeniedError,
    Preauthorization,
    PreauthorizationRequest,
    Preauthorized,
    RateLimitedError,
    Rejected,
    ServiceError,
    TransactionFailedError,
    TransactionState,
    Unknown,
    errors,
)
from jetpay_async.money import to_amount
from jetpay_async.outcomes import undone

MEANINGS: dict[type[JetpayError], type[Rejected[None] | NotSent[None] | Unknown[None]]] = {
    JetpayError: Unknown,
    ConfigurationError: NotSent,
    InvalidArgumentError: NotSent,
    NotSentError: NotSent,
    ServiceError: NotSent,
    OutcomeUnknownError: Unknown,
    APIError: Rejected,
    InvalidRequestError: Rejected,
    AuthenticationError: Rejected,
    PermissionDeniedError: Rejected,
    NotFoundError: Rejected,
    ConflictError: Rejected,
    RateLimitedError: NotSent,
    TransactionFailedError: Rejected,
}

REQUEST = PreauthorizationRequest(
    contact_id="contact_123", credit_card_id="cc_456", amount="100.50", to_bank_account_id="bank_789", statement="Test"
)


def test_every_error_has_a_meaning() -> None:
    """The table knows each error of the package."""
    assert set(MEANINGS) == {
        error
        for name in errors.__all__
        if isinstance(error := getattr(errors, name), type) and issubclass(error, JetpayError)
    }


@pytest.mark.parametrize(("error", "meaning"), MEANINGS.items(), ids=lambda each: each.__name__)
def test_what_an_error_means(error: type[JetpayError], meaning: type[object]) -> None:
    """No money moved, the API said no, or it is not known; what is in doubt counts as not known."""
    met = error("it happened", attempts=3)

    outcome = undone(met, debit_id="debit_123", request=None, trust_rate_limited=True)

    assert type(outcome) is meaning
    assert (outcome.debit_id, outcome.request, outcome.error, outcome.attempts) == ("debit_123", None, met, 3)


def test_a_429_that_is_not_trusted_is_unknown() -> None:
    """Whether the API has processed it is for the caller's policy to say; any other error means what it meant."""
    expected = {
        error: undone(error("no"), debit_id="debit_123", request=None, trust_rate_limited=False) for error in MEANINGS
    }

    assert type(expected.pop(RateLimitedError)) is Unknown
    assert {error: type(outcome) for error, outcome in expected.items()} == {
        error: meaning for error, meaning in MEANINGS.items() if error is not RateLimitedError
    }


def test_a_captured_debit_tells_how() -> None:
    """Whether its status had to be read, and how many requests it took, is reported by the capture."""
    capture = Capture(
        debit_id="debit_123", state=TransactionState.PAID, confirmed_by_status=True, raw={}, attempts=2, elapsed=0.1
    )

    outcome = Captured(debit_id="debit_123", capture=capture)

    assert (outcome.confirmed_by_status, outcome.attempts) == (True, 2)


def test_a_preauthorized_request_tells_its_debit() -> None:
    """What to store is at hand, beside the request that it belongs to."""
    reserved = Preauthorization(
        debit_id="debit_123",
        amount=to_amount("100.50"),
        statement="Test",
        to_bank_account_id="bank_789",
        contact_id="contact_123",
        from_credit_card_id="cc_456",
        state=TransactionState.PREAUTHORIZED,
        raw={},
        attempts=2,
        elapsed=0.1,
    )

    outcome = Preauthorized(request=REQUEST, preauthorization=reserved)

    assert (outcome.debit_id, outcome.attempts) == ("debit_123", 2)


@pytest.mark.parametrize(
    "outcome", [undone(NotSentError("no"), debit_id="d", request=REQUEST, trust_rate_limited=True), REQUEST], ids=str
)
def test_outcomes_are_values(outcome: NotSent[PreauthorizationRequest] | PreauthorizationRequest) -> None:
    """They can't be changed, and they can be stored."""
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        outcome.reference = "another"  # type: ignore[misc, union-attr] # as a user might

    assert type(pickle.loads(pickle.dumps(outcome))) is type(outcome)


def test_an_accepted_capture_tells_how_it_was_found() -> None:
    """By whom it was reported, and after how many requests."""
    capture = Capture(
        debit_id="debit_1", state=TransactionState.PROCESSING, confirmed_by_status=True, raw={}, attempts=2
    )

    accepted = Accepted(debit_id="debit_1", capture=capture)

    assert (accepted.confirmed_by_status, accepted.attempts) == (True, 2)
