"""What the API answers, as frozen values.

Two values are equal when what the API said is equal; ``raw``, ``attempts`` and ``elapsed`` do not take part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "BankAccount",
    "Capture",
    "CardForm",
    "Charge",
    "Contact",
    "Credit",
    "JSONValue",
    "Payer",
    "PaymentLink",
    "Preauthorization",
    "RawAnswer",
    "TransactionState",
    "TransactionStatus",
    "Webhook",
]

JSONValue: TypeAlias = Mapping[str, "JSONValue"] | Sequence["JSONValue"] | str | int | Decimal | bool | None
"""Anything JSON can hold. Numbers with a point or an exponent are `decimal.Decimal`, never float."""


class TransactionState(StrEnum):
    """The state of a transaction: an open enumeration.

    The members are the states that the vendor's guide names (``processing`` and ``cancelled`` are inferred). The
    service has more, and may add some: ``TransactionState("clearing")`` is a value too. It compares and hashes
    like its string, prints it, and survives pickling and copying; only `known` separates the two kinds.
    """

    REQUESTED = "requested"
    INITIATED = "initiated"
    PREAUTHORIZED = "preauthorized"
    PROCESSING = "processing"
    PAID = "paid"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        state = str.__new__(cls, value)
        state._name_ = value
        state._value_ = value
        return state

    @property
    def known(self) -> bool:
        """Whether this is one of the states that this release names."""
        return self._value_ in _KNOWN_STATES

    def __repr__(self) -> str:
        return f"<TransactionState.{self.name}>" if self.known else f"TransactionState({self.value!r})"


_KNOWN_STATES = frozenset(state.value for state in TransactionState)

CAPTURED_STATES = frozenset({TransactionState.PAID, TransactionState.COMPLETED})
"""The states that mean that a capture is done."""

RESERVED_STATES = CAPTURED_STATES | {TransactionState.PREAUTHORIZED}
"""The states that mean that a preauthorization is done."""

IN_PROGRESS_STATES = frozenset({TransactionState.REQUESTED, TransactionState.INITIATED, TransactionState.PROCESSING})
"""The states of what the API has accepted and not finished."""


# One of these is made for each call, and attrs fills a frozen dictionary quicker than frozen slots.
@attrs.frozen(kw_only=True, slots=False)
class Preauthorization:
    """Funds reserved on a saved card [guide]. Store ``debit_id``: it is the only way to capture them."""

    debit_id: str
    """What `JetpayClient.capture` takes."""
    amount: Decimal
    """Major units, exact, in the account's currency (CAD)."""
    statement: str
    """What the payer's bank statement shows."""
    to_bank_account_id: str
    """The merchant's account that the money goes to."""
    contact_id: str
    """The payer."""
    from_credit_card_id: str
    """The saved card."""
    state: TransactionState
    """``preauthorized``, as a rule; the reply's ``transaction_state``."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took; more than one only where the earlier ones never began to leave."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""

    @property
    def final(self) -> bool:
        """Whether the amount is reserved, rather than accepted and still in progress."""
        return self.state in RESERVED_STATES


@attrs.frozen(kw_only=True, slots=False)
class Capture:
    """A capture of a debit in full [guide]: done if it is ``final``, otherwise accepted and still in progress."""

    debit_id: str
    """The debit's id."""
    state: TransactionState
    """``paid``, as a rule."""
    confirmed_by_status: bool = False
    """True if learnt by reading the transaction's status rather than from the capture's own reply."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply that reported it: the capture's, or the status's where ``confirmed_by_status``."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many capture requests were made; 0 if it was found captured before any."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""

    @property
    def final(self) -> bool:
        """Whether the money was taken: only ``paid`` and ``completed`` mean that."""
        return self.state in CAPTURED_STATES


@attrs.frozen(kw_only=True, slots=False)
class Charge:
    """An amount taken from a saved card at once [docs]: done if it is ``final``, otherwise accepted and in progress.

    An event ``completed`` or ``failed`` follows [docs].
    """

    debit_id: str
    """The debit's id, which is its transaction's too."""
    amount: Decimal
    """Major units, exact, in the account's currency (CAD)."""
    statement: str
    """What the payer's bank statement shows."""
    to_bank_account_id: str
    """The merchant's account that the money goes to."""
    contact_id: str
    """The payer."""
    from_credit_card_id: str
    """The saved card."""
    state: TransactionState
    """``paid``, as a rule; the reply's ``transaction_state``."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took; more than one only where the earlier ones never began to leave."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""

    @property
    def final(self) -> bool:
        """Whether the money was taken: only ``paid`` and ``completed`` mean that."""
        return self.state in CAPTURED_STATES


@attrs.frozen(kw_only=True)
class Contact:
    """A payer or payee [docs]. Store ``contact_id``."""

    contact_id: str
    """What the other calls take; the reply's ``identifier``."""
    email: str
    """As it was given."""
    name: str
    """As it was given."""
    tags: tuple[str, ...] = ()
    """As they were given."""
    language: str = "en"
    """As it was given."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""


@attrs.frozen(kw_only=True)
class CardForm:
    """A hosted form in which the payer types a card's number [docs]. Show its ``url`` to nobody else."""

    contact_id: str
    """Whose card it will be."""
    credit_card_id: str
    """The card's id once the form was submitted; the event of its tokenization says whether it was saved."""
    url: str = attrs.field(repr=False)
    """For an iframe, once. Not shown where the value is printed: whoever has it can type a card."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included; it holds the ``url`` too."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""


@attrs.frozen(kw_only=True)
class BankAccount:
    """A contact's bank account [docs]; for debits and credits. Store ``bank_account_id``."""

    bank_account_id: str
    """What the other calls take; the reply's ``identifier``."""
    contact_id: str
    """Whose it is."""
    title: str
    """As it was given."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included; it may hold the account number."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""


@attrs.frozen(kw_only=True)
class Payer:
    """Who pays a debit, where there is no contact yet."""

    email: str
    """The reply's link is not sent there: nobody is e-mailed [docs]."""
    name: str
    """As the payment page shows it."""


@attrs.frozen(kw_only=True)
class PaymentLink:
    """A debit or a credit that waits for its payer or payee [docs]. Hand ``link`` over yourself: nobody is e-mailed."""

    transaction_id: str
    """The debit's or credit's id: what `JetpayClient.transaction_status` takes."""
    link: str = attrs.field(repr=False)
    """Single-use. Not shown where the value is printed: who has a credit's link says where the money goes."""
    amount: Decimal
    """As it was given, exact, in major units."""
    statement: str
    """What the bank statement shows."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included; it holds the ``link`` too."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took; more than one only where the earlier ones never began to leave."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""


@attrs.frozen(kw_only=True)
class Credit:
    """Money on its way to a saved bank account [docs]: ``processing``, then ``initiated``, then ``completed``.

    The reply names no state: `JetpayClient.transaction_status` and the events do.
    """

    transaction_id: str
    """The credit's id: what `JetpayClient.transaction_status` takes."""
    amount: Decimal
    """As it was given, exact, in major units."""
    statement: str
    """What the bank statement shows."""
    from_bank_account_id: str
    """The merchant's account that the money comes from."""
    to_bank_account_id: str
    """Where it goes."""
    contact_id: str
    """The payee."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took; more than one only where the earlier ones never began to leave."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""


@attrs.frozen(kw_only=True)
class Webhook:
    """A registered webhook [docs]."""

    identifier: str
    """What `JetpayClient.change_webhook` and the like take."""
    id: int
    """What its deliveries carry as ``webhookId``: `jetpay_async.webhooks.WebhookVerifier` takes it."""
    callback_url: str
    """Where it delivers to."""
    callback_api_key: str | None = attrs.field(default=None, repr=False)
    """The secret that is sent along, if there is one."""
    state: str = "active"
    """``active``, ``scheduled``, ``dispatching``, ``backing_off``, ``failed`` [docs], or one that is not published."""
    last_sent_event_id: int | None = None
    """The highest event id that was delivered."""
    max_batch_size: int | None = None
    """Events of a delivery, at most."""
    max_wait_seconds: int | None = None
    """Seconds that the oldest undelivered event waits for others."""
    confirmed_by_list: bool = False
    """True if a registration without an answer was found in the list of webhooks."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, or this webhook's part of the list; it may hold the secret too."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""


@attrs.frozen(kw_only=True)
class RawAnswer:
    """What the API answered to `JetpayClient.request`."""

    status: int
    """The HTTP status, 2xx."""
    json: JSONValue = attrs.field(repr=False, hash=False)
    """The body, None if it was empty. Numbers with a point are `decimal.Decimal`."""
    headers: Mapping[str, str] = attrs.field(repr=False, eq=False, factory=dict[str, str])
    """The headers, by their names in lower case."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""


@attrs.frozen(kw_only=True, slots=False)
class TransactionStatus:
    """Where a transaction stands [docs]."""

    transaction_id: str
    """What was asked about; of a debit, its ``debit_id``."""
    state: TransactionState
    """Known or not: unknown states are carried through."""
    fail_reason: str | None = None
    """The API's code, for example ``account_frozen``; accompanies ``failed``."""
    fail_direction: str | None = None
    """``pull`` or ``push``; accompanies ``failed``."""
    raw: Mapping[str, JSONValue] = attrs.field(repr=False, eq=False)
    """The whole reply, unknown fields included."""
    attempts: int = attrs.field(default=1, eq=False)
    """How many requests it took."""
    elapsed: float = attrs.field(default=0.0, eq=False)
    """Seconds from the call to the result."""
