"""What became of one item of a batch: exactly one of these for each.

==========================  ===============================================  =================================
outcome                     what it says                                     what to do
==========================  ===============================================  =================================
`Captured`                  the money was taken                              nothing
`Accepted`                  the API accepted the capture; it is in progress  read the transaction's status later
`Preauthorized`             the money is reserved                            store its ``debit_id``
`AcceptedPreauthorization`  the API accepted it; it is in progress           store its ``debit_id``, read its status
`Charged`                   the money was taken at once                      store its ``debit_id``
`AcceptedCharge`            the API accepted it; it is in progress           store its ``debit_id``, read its status
`CreditSent`                the money is on its way                          store its ``transaction_id``
`Rejected`                  the API said no; no money moved                  correct what it complains about
`NotSent`                   no money moved, and asking again is safe         ask again
`Unknown`                   it may have happened                             read the status before anything else
==========================  ===============================================  =================================
"""

from __future__ import annotations

from typing import Generic, TypeAlias, TypeVar

import attrs

from jetpay_async.errors import (
    APIError,
    ConfigurationError,
    InvalidArgumentError,
    JetpayError,
    NotSentError,
    RateLimitedError,
    ServiceError,
)
from jetpay_async.models import CAPTURED_STATES, Capture, Charge, Credit, Preauthorization
from jetpay_async.money import Amount

__all__ = [
    "Accepted",
    "AcceptedCharge",
    "AcceptedPreauthorization",
    "CaptureOutcome",
    "Captured",
    "ChargeOutcome",
    "ChargeRequest",
    "Charged",
    "CreditOutcome",
    "CreditRequest",
    "CreditSent",
    "NotSent",
    "PreauthorizationOutcome",
    "PreauthorizationRequest",
    "Preauthorized",
    "Rejected",
    "Unknown",
]

_R = TypeVar("_R")


@attrs.frozen(kw_only=True)
class PreauthorizationRequest:
    """The arguments of one `JetpayClient.preauthorize`; they are checked when its turn comes.

    Attributes:
        contact_id: The payer.
        credit_card_id: A card saved on that contact.
        amount: Major units of the account's currency (CAD), at most two decimals.
        to_bank_account_id: The merchant's bank account.
        statement: What the payer's bank statement shows; at most 30 characters [docs].
        reference: Yours, to tell the outcomes apart; never sent.
    """

    contact_id: str
    credit_card_id: str
    amount: Amount
    to_bank_account_id: str
    statement: str
    reference: str = ""


@attrs.frozen(kw_only=True)
class ChargeRequest:
    """The arguments of one `JetpayClient.charge`; they are checked when its turn comes.

    Attributes:
        contact_id: The payer.
        credit_card_id: A card saved on that contact.
        amount: Major units of the account's currency (CAD), at most two decimals.
        to_bank_account_id: The merchant's bank account.
        statement: What the payer's bank statement shows; at most 30 characters [docs].
        reference: Yours, to tell the outcomes apart; never sent.
    """

    contact_id: str
    credit_card_id: str
    amount: Amount
    to_bank_account_id: str
    statement: str
    reference: str = ""


@attrs.frozen(kw_only=True)
class CreditRequest:
    """The arguments of one `JetpayClient.send_credit`; they are checked when its turn comes.

    Attributes:
        amount: Major units of the account's currency (CAD), at most two decimals; the client's ``link_amounts`` says
            how it is sent.
        from_bank_account_id: The merchant's bank account.
        to_bank_account_id: The payee's, from `JetpayClient.create_bank_account`.
        contact_id: The payee.
        statement: What the bank statement shows; at most 30 characters [docs].
        note: Shown in Jetpay's app; it may be longer than the statement [docs].
        reference: Yours, to tell the outcomes apart; never sent.
    """

    amount: Amount
    from_bank_account_id: str
    to_bank_account_id: str
    contact_id: str
    statement: str
    note: str | None = None
    reference: str = ""


@attrs.frozen(kw_only=True)
class Captured:
    """The debit was captured in full."""

    debit_id: str
    """As it was given."""
    capture: Capture
    """What the API said of it."""

    @property
    def confirmed_by_status(self) -> bool:
        """Whether the transaction's status reported it rather than the capture's own reply."""
        return self.capture.confirmed_by_status

    @property
    def attempts(self) -> int:
        """How many capture requests were made; 0 if it was found captured before any."""
        return self.capture.attempts


@attrs.frozen(kw_only=True)
class Accepted:
    """The API accepted the capture and has not finished it: it is never sent again, and may still fail.

    Its transaction's status reports how it ends.
    """

    debit_id: str
    """As it was given."""
    capture: Capture
    """What the API said of it; ``final`` is False."""

    @property
    def confirmed_by_status(self) -> bool:
        """Whether the transaction's status reported it rather than the capture's own reply."""
        return self.capture.confirmed_by_status

    @property
    def attempts(self) -> int:
        """How many capture requests were made; 0 if it was found in progress before any."""
        return self.capture.attempts


@attrs.frozen(kw_only=True)
class Preauthorized:
    """The amount was reserved."""

    request: PreauthorizationRequest
    """As it was given."""
    preauthorization: Preauthorization
    """What the API said of it."""

    @property
    def debit_id(self) -> str:
        """What to capture later. Store it."""
        return self.preauthorization.debit_id

    @property
    def attempts(self) -> int:
        """How many requests it took."""
        return self.preauthorization.attempts


@attrs.frozen(kw_only=True)
class AcceptedPreauthorization:
    """The API accepted the preauthorization and has not finished it: it may still fail.

    Its transaction's status reports how it ends.
    """

    request: PreauthorizationRequest
    """As it was given."""
    preauthorization: Preauthorization
    """What the API said of it; ``final`` is False."""

    @property
    def debit_id(self) -> str:
        """What to read the status of, and to capture later. Store it."""
        return self.preauthorization.debit_id

    @property
    def attempts(self) -> int:
        """How many requests it took."""
        return self.preauthorization.attempts


@attrs.frozen(kw_only=True)
class Charged:
    """The amount was taken."""

    request: ChargeRequest
    """As it was given."""
    charge: Charge
    """What the API said of it."""

    @property
    def debit_id(self) -> str:
        """The debit. Store it."""
        return self.charge.debit_id

    @property
    def attempts(self) -> int:
        """How many requests it took."""
        return self.charge.attempts


@attrs.frozen(kw_only=True)
class AcceptedCharge:
    """The API accepted the charge and has not finished it: it may still fail.

    Its transaction's status reports how it ends.
    """

    request: ChargeRequest
    """As it was given."""
    charge: Charge
    """What the API said of it; ``final`` is False."""

    @property
    def debit_id(self) -> str:
        """What to read the status of. Store it."""
        return self.charge.debit_id

    @property
    def attempts(self) -> int:
        """How many requests it took."""
        return self.charge.attempts


@attrs.frozen(kw_only=True)
class CreditSent:
    """The API took the credit, and the money is on its way: it may still fail.

    The reply names no state [docs]: the transaction's status and the events report how it ends.
    """

    request: CreditRequest
    """As it was given."""
    credit: Credit
    """What the API said of it."""

    @property
    def transaction_id(self) -> str:
        """What to read the status of. Store it."""
        return self.credit.transaction_id

    @property
    def attempts(self) -> int:
        """How many requests it took."""
        return self.credit.attempts


@attrs.frozen(kw_only=True)
class _Undone(Generic[_R]):
    debit_id: str
    """As it was given to be captured; of a preauthorization, the one that the API named, or empty."""
    request: _R
    """As it was given to be preauthorized; None for a capture."""

    error: JetpayError

    @property
    def attempts(self) -> int:
        """How many requests were tried."""
        return self.error.attempts


@attrs.frozen(kw_only=True)
class Rejected(_Undone[_R]):
    """The API said no, or that the transaction is over: no money moved, and asking again the same won't help."""

    error: JetpayError
    """The API's word, an `APIError`."""


@attrs.frozen(kw_only=True)
class NotSent(_Undone[_R]):
    """No money moved, and asking again is safe.

    Either no request began to leave, or each one that did is proven to have done nothing: the API answered 429, or the
    transaction's status says so.
    """

    error: JetpayError
    """Why. An `InvalidArgumentError` if the item itself can't be sent."""


@attrs.frozen(kw_only=True)
class Unknown(_Undone[_R]):
    """It may have happened: a request began to leave, and nothing could show what became of it."""

    error: JetpayError
    """An `OutcomeUnknownError`, whose ``next_step`` says how to find out; or a `RateLimitedError`, where
    ``RetryPolicy(resend_rate_limited=False)`` says that what is answered by 429 may have been processed."""


CaptureOutcome: TypeAlias = Captured | Accepted | Rejected[None] | NotSent[None] | Unknown[None]
"""What `JetpayClient.capture_many` yields."""

PreauthorizationOutcome: TypeAlias = (
    Preauthorized
    | AcceptedPreauthorization
    | Rejected[PreauthorizationRequest]
    | NotSent[PreauthorizationRequest]
    | Unknown[PreauthorizationRequest]
)
"""What `JetpayClient.preauthorize_many` yields."""

ChargeOutcome: TypeAlias = (
    Charged | AcceptedCharge | Rejected[ChargeRequest] | NotSent[ChargeRequest] | Unknown[ChargeRequest]
)
"""What `JetpayClient.charge_many` yields."""

CreditOutcome: TypeAlias = CreditSent | Rejected[CreditRequest] | NotSent[CreditRequest] | Unknown[CreditRequest]
"""What `JetpayClient.send_credit_many` yields."""

BatchOutcome: TypeAlias = CaptureOutcome | PreauthorizationOutcome | ChargeOutcome | CreditOutcome
"""What became of one item of any of these."""


# Each item of a batch has one, and the `__init__` of a frozen class takes twice as long.
_set_debit_id = Captured.__dict__["debit_id"].__set__
_set_capture = Captured.__dict__["capture"].__set__


def captured(debit_id: str, capture: Capture) -> Captured | Accepted:
    """Say what a capture means for the item that it is of."""
    if capture.state not in CAPTURED_STATES:
        return Accepted(debit_id=debit_id, capture=capture)
    outcome = Captured.__new__(Captured)
    _set_debit_id(outcome, debit_id)
    _set_capture(outcome, capture)
    return outcome


def preauthorized(
    request: PreauthorizationRequest, preauthorization: Preauthorization
) -> Preauthorized | AcceptedPreauthorization:
    """Say what a preauthorization means for the item that it is of."""
    kind = Preauthorized if preauthorization.final else AcceptedPreauthorization
    return kind(request=request, preauthorization=preauthorization)


def charged(request: ChargeRequest, charge: Charge) -> Charged | AcceptedCharge:
    """Say what a charge means for the item that it is of."""
    return (Charged if charge.final else AcceptedCharge)(request=request, charge=charge)


def undone(
    error: JetpayError, *, debit_id: str, request: _R, trust_rate_limited: bool
) -> Rejected[_R] | NotSent[_R] | Unknown[_R]:
    """Say what an error means for the item that met it.

    Args:
        error: What was raised.
        debit_id: The item's.
        request: The item's.
        trust_rate_limited: Whether a 429 means that the API has not processed the item, which is inferred; see
            `RetryPolicy`.
    """
    kind: type[Rejected[_R] | NotSent[_R] | Unknown[_R]] = Unknown  # of what is not known to be undone
    if isinstance(error, NotSentError | ServiceError | ConfigurationError | InvalidArgumentError):
        kind = NotSent
    elif isinstance(error, RateLimitedError):
        if trust_rate_limited:
            kind = NotSent
    elif isinstance(error, APIError):
        kind = Rejected
    return kind(debit_id=debit_id, request=request, error=error)
