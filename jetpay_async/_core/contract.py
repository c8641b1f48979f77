"""What is believed about the API, each fact with its standing: one place to correct it.

[guide] and [docs] are stated by the vendor's pages. [inferred] is a reading of what they leave out, [open] a question
that only the vendor can answer. The client, the webhooks and the sandbox all take the facts from here, so a correction
is one line, and what the sandbox does stays what the client expects.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final, Literal

import attrs

PRODUCTION_URL: Final = "https://extapi.jetpay.baselinepayments.com"
"""The live service [guide]: real cards, real money."""

DEMO_URL: Final = "https://extapi.demo.jetpay.baselinepayments.com"
"""The vendor's demo service. The host's spelling is inferred: dots or dashes were lost in print."""

VENDOR_DOMAIN: Final = "baselinepayments.com"
"""All of the vendor's hosts are below it [inferred]."""


class Standing(StrEnum):
    """How a fact is known."""

    GUIDE = "guide"
    """Stated by the guide "Preauthorize and capture"."""
    DOCS = "docs"
    """Stated by another page of the vendor."""
    INFERRED = "inferred"
    """Our reading of what the pages leave out."""
    OPEN = "open"
    """Not known."""


@attrs.frozen(eq=False)
class Endpoint:
    """One call of the API: where it goes, and the fields that are sent and read."""

    method: str
    path: str
    """With its parameters in braces."""
    standing: Standing
    required: tuple[str, ...] = ()
    """Fields of the request that are always sent."""
    optional: tuple[str, ...] = ()
    """Fields of the request that are sent where they are given."""
    reply: tuple[str, ...] = ()
    """Fields of the reply without which there is no result."""

    @property
    def line(self) -> tuple[str, str]:
        """The method and the path."""
        return self.method, self.path

    def fill(self, **segments: str) -> str:
        """Return the path with its parameters, which are percent-encoded already."""
        return self.path.format(**segments)


_CARD: Final = "/contact/{contact_id}/creditcards/{credit_card_id}"
_CARD_PAYMENT: Final = ("amount", "to_bank_account_id", "statement")
_CARD_REPLY: Final = ("debit_id", "transaction_state")

PREAUTHORIZE: Final = Endpoint("POST", f"{_CARD}/preauthorize", Standing.GUIDE, _CARD_PAYMENT, (), _CARD_REPLY)
CHARGE: Final = Endpoint("POST", f"{_CARD}/charge", Standing.DOCS, _CARD_PAYMENT, (), _CARD_REPLY)
CAPTURE: Final = Endpoint("POST", "/debit/{debit_id}/capture", Standing.GUIDE, reply=("identifier", "state"))
STATUS: Final = Endpoint("GET", "/transaction/{identifier}/status", Standing.DOCS, reply=("state",))
CANCEL: Final = Endpoint("DELETE", "/transaction/{identifier}", Standing.DOCS, reply=("ok",))
CREATE_CONTACT: Final = Endpoint(
    "PUT", "/contact", Standing.DOCS, ("email", "name", "tags", "language"), reply=("identifier",)
)
CARD_FORM_URL: Final = "url"
"""The field with the address of the hosted card form [inferred]."""
CARD_FORM_CARD: Final = "credit_card_id"
"""The field with the id that the card will have [inferred]."""
CARD_FORM: Final = Endpoint(
    "POST", "/contact/{contact_id}/creditcards/url", Standing.INFERRED, reply=(CARD_FORM_URL, CARD_FORM_CARD)
)
# Printed without its underscore or hyphen: the path is inferred.
CREATE_BANK_ACCOUNT: Final = Endpoint(
    "PUT",
    "/contact/bank_account",
    Standing.INFERRED,
    (
        "institution",
        "title",
        "holder_name",
        "contact_id",
        "account_type",
        "transit_number",
        "institution_number",
        "account_number",
        "holder_address",
        "holder_address_postal_code",
        "holder_address_city",
        "holder_address_country",
        "holder_email",
    ),
    reply=("identifier",),
)
CREATE_DEBIT: Final = Endpoint(
    "PUT",
    "/debit",
    Standing.DOCS,
    ("amount", "statement", "to_bank_account"),
    ("note", "contact_id", "contact_email", "contact_name"),
    ("identifier", "link"),
)
CREATE_CREDIT: Final = Endpoint(
    "PUT",
    "/credit",
    Standing.DOCS,
    ("amount", "statement", "from_bank_account", "contact_id"),
    ("note", "to_bank_account"),
    ("identifier",),
)
_WEBHOOK: Final = ("id", "identifier", "callback_url")
_WEBHOOK_SETTINGS: Final = ("callback_api_key", "max_batch_size", "max_wait_seconds")
_REPLAY: Final = ("replay_from_event_id", "replay_from_timestamp")
REGISTER_WEBHOOK: Final = Endpoint(
    "POST", "/webhooks/", Standing.DOCS, ("callback_url",), (*_WEBHOOK_SETTINGS, *_REPLAY), _WEBHOOK
)
LIST_WEBHOOKS: Final = Endpoint("GET", "/webhooks/", Standing.DOCS)
"""Its reply is an array, or an object with one array in it [inferred]."""
READ_WEBHOOK: Final = Endpoint("GET", "/webhooks/{identifier}", Standing.DOCS, reply=_WEBHOOK)
CHANGE_WEBHOOK: Final = Endpoint(
    "PATCH",
    "/webhooks/{identifier}",
    Standing.DOCS,  # that it takes `replay_from_…` too, and clears a callback key by null, is inferred
    (),
    ("callback_url", *_WEBHOOK_SETTINGS, *_REPLAY),
    _WEBHOOK,
)
REMOVE_WEBHOOK: Final = Endpoint("DELETE", "/webhooks/{identifier}", Standing.DOCS)
KEY_SET: Final = Endpoint("GET", "/.well-known/jwks.json", Standing.DOCS, reply=("keys",))

ENDPOINTS: Final = {
    "preauthorize": PREAUTHORIZE,
    "charge": CHARGE,
    "capture": CAPTURE,
    "transaction_status": STATUS,
    "cancel_transaction": CANCEL,
    "create_contact": CREATE_CONTACT,
    "card_form": CARD_FORM,
    "create_bank_account": CREATE_BANK_ACCOUNT,
    "create_debit": CREATE_DEBIT,
    "create_credit": CREATE_CREDIT,
    "register_webhook": REGISTER_WEBHOOK,
    "list_webhooks": LIST_WEBHOOKS,
    "webhook": READ_WEBHOOK,
    "change_webhook": CHANGE_WEBHOOK,
    "remove_webhook": REMOVE_WEBHOOK,
}
"""Every call of the client, by the name of its method."""

STATEMENT_LIMIT: Final = 30
"""Characters of ``statement`` [docs]."""

LinkAmounts = Literal["major", "minor"]
"""The unit of ``amount`` in `CREATE_DEBIT` and `CREATE_CREDIT`: dollars or cents."""

LINK_AMOUNTS: Final[LinkAmounts] = "major"
"""[open]: the guide prints ``10000`` there, and ``100.50`` for cards. Major units, as for cards, is our reading."""

# --- webhooks

MAX_BATCH_SIZE: Final = 100
"""Events of a delivery, at most; 10 by default [docs]."""
MIN_WAIT_SECONDS: Final = 60
"""The least ``max_wait_seconds``, and the default [docs]."""
MAX_WAIT_SECONDS: Final = 3600
"""The most ``max_wait_seconds`` [docs]."""

DEBIT_EVENT: Final = "transactions.debits.created"
"""An event of a debit [docs]; that later states carry the same name is inferred."""
CREDIT_EVENT: Final = "transactions.credits.created"
"""An event of a credit [docs]; that later states carry the same name is inferred."""
TRANSACTION_EVENTS: Final = "transactions."
"""How the types of transactions' events begin [docs]."""
CARD_EVENT: Final = "credit_cards.tokenization.created"
"""The result of a hosted card form: the vendor names the family and prints no type [inferred]."""
CARD_EVENTS: Final = re.compile(r"(?:credit_?)?cards?[._]tokeni[sz]ations?(?:\..+)?|(?:credit_?)?cards?\.tokeni[sz]ed")
"""What a type of that family may look like [inferred]."""

# --- errors

ERROR_DETAIL: Final = "detail"
"""Where FastAPI, which the API is made with [inferred], says what is wrong."""
ERROR_TEXTS: Final = (ERROR_DETAIL, "message", "error")
"""Where the text of an error is looked for, in this order [inferred]."""

_STATE_RANKS = {"requested": 0, "paid": 2, "completed": 3, "failed": 3, "cancelled": 3}
_RANK_ON_ITS_WAY = 1


def state_rank(state: str) -> int:
    """Say how far a transaction is: 0 requested, 1 on its way, 2 paid, 3 at its end [inferred].

    A state that this release doesn't know counts as on its way.
    """
    return _STATE_RANKS.get(state, _RANK_ON_ITS_WAY)
