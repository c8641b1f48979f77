"""Every operation of the guide besides the four of a preauthorized debit, as the tests call them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import attrs

from jetpay_async import BankAccountDetails, JetpayClient

ACCOUNT_NUMBER = "0012345678"
API_KEY = "callback-key-that-must-not-show"
CALLBACK_URL = "https://shop.example.com/webhooks"
DETAILS = BankAccountDetails(
    institution="A Bank",
    title="Savings",
    holder_name="A Payee",
    transit_number="00001",
    institution_number="001",
    account_number=ACCOUNT_NUMBER,
    holder_address="1 Road",
    holder_address_postal_code="A1A1A1",
    holder_address_city="Town",
    holder_address_country="CA",
    holder_email="payee@example.com",
)


@attrs.frozen
class GuideCall:
    """One operation."""

    name: str
    route: str
    """At the loopback server."""
    line: str
    """What is sent."""
    twice: str
    """``never``, ``list`` or ``idempotent``."""
    moves_money: bool
    call: Callable[[JetpayClient], Coroutine[Any, Any, object]]


CALLS = [
    GuideCall(
        "charge",
        "charge",
        "POST /contact/contact_123/creditcards/cc_456/charge",
        "never",
        True,
        lambda client: client.charge(
            contact_id="contact_123",
            credit_card_id="cc_456",
            amount="100.50",
            to_bank_account_id="bank_789",
            statement="Test statement",
        ),
    ),
    GuideCall(
        "create_contact",
        "create_contact",
        "PUT /contact",
        "never",
        False,
        lambda client: client.create_contact(email="a@example.com", name="A Payer", tags=["vip"]),
    ),
    GuideCall(
        "create_bank_account",
        "create_bank_account",
        "PUT /contact/bank_account",
        "never",
        False,
        lambda client: client.create_bank_account(DETAILS, contact_id="contact_123"),
    ),
    GuideCall(
        "create_debit",
        "create_debit",
        "PUT /debit",
        "never",
        True,
        lambda client: client.create_debit(
            amount="100.50", to_bank_account_id="bank_789", statement="Rent", contact_id="contact_123"
        ),
    ),
    GuideCall(
        "create_credit",
        "credit",
        "PUT /credit",
        "never",
        True,
        lambda client: client.create_credit(
            amount="100.50", from_bank_account_id="bank_789", statement="Refund", contact_id="contact_123"
        ),
    ),
    GuideCall(
        "send_credit",
        "credit",
        "PUT /credit",
        "never",
        True,
        lambda client: client.send_credit(
            amount="100.50",
            from_bank_account_id="bank_789",
            to_bank_account_id="bank_790",
            statement="Refund",
            contact_id="contact_123",
        ),
    ),
    GuideCall(
        "register_webhook",
        "register_webhook",
        "POST /webhooks/",
        "list",
        False,
        lambda client: client.register_webhook(CALLBACK_URL, callback_api_key=API_KEY),
    ),
    GuideCall(
        "card_form",
        "card_form",
        "POST /contact/contact_123/creditcards/url",
        "idempotent",
        False,
        lambda client: client.card_form("contact_123"),
    ),
    GuideCall(
        "change_webhook",
        "change_webhook",
        "PATCH /webhooks/webhook_123",
        "idempotent",
        False,
        lambda client: client.change_webhook("webhook_123", max_batch_size=50),
    ),
    GuideCall(
        "replay_webhook",
        "change_webhook",
        "PATCH /webhooks/webhook_123",
        "idempotent",
        False,
        lambda client: client.replay_webhook("webhook_123", replay_from=7),
    ),
    GuideCall(
        "remove_webhook",
        "remove_webhook",
        "DELETE /webhooks/webhook_123",
        "idempotent",
        False,
        lambda client: client.remove_webhook("webhook_123"),
    ),
    GuideCall(
        "webhook",
        "webhook",
        "GET /webhooks/webhook_123",
        "idempotent",
        False,
        lambda client: client.webhook("webhook_123"),
    ),
    GuideCall(
        "list_webhooks",
        "list_webhooks",
        "GET /webhooks/",
        "idempotent",
        False,
        lambda client: client.list_webhooks(),
    ),
]
WRITES = [call for call in CALLS if not call.line.startswith("GET")]
