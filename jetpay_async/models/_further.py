"""What the API answers to everything but card payments: classes that are made when one of them is used.

Users, and their pickles, find them in `jetpay_async.models`.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import attrs

from jetpay_async.models import JSONValue

_HOME = "jetpay_async.models"


@attrs.frozen(kw_only=True)
class Contact:
    """A payer or payee [docs]. Store ``contact_id``."""

    __module__ = _HOME

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

    __module__ = _HOME

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

    __module__ = _HOME

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

    __module__ = _HOME

    email: str
    """The reply's link is not sent there: nobody is e-mailed [docs]."""
    name: str
    """As the payment page shows it."""


@attrs.frozen(kw_only=True)
class PaymentLink:
    """A debit or a credit that waits for its payer or payee [docs]. Hand ``link`` over yourself: nobody is e-mailed."""

    __module__ = _HOME

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

    __module__ = _HOME

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

    __module__ = _HOME

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

    __module__ = _HOME

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
