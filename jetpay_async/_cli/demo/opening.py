"""The demo's opening: from nothing to a payment that is taken and reported, as the tutorial does it, "The whole way".

The sandbox loses nothing here: what happens when it does is shown afterwards.
"""

from __future__ import annotations

from decimal import Decimal

import aiohttp
import attrs
from aiohttp import web

from jetpay_async.bank_accounts import BankAccountDetails
from jetpay_async.client import JetpayClient
from jetpay_async.models import TransactionState
from jetpay_async.sandbox import APPROVED, Sandbox
from jetpay_async.webhooks import DebitPaid, EventRouter, MemoryInbox, RemoteKeySet, WebhookReceiver, WebhookVerifier
from jetpay_async.webhooks.aiohttp import add_receiver

__all__ = ["FirstPayment", "take_first_payment"]

_HOST = "127.0.0.1"
_PATH = "/webhooks/jetpay"


@attrs.frozen(kw_only=True)
class FirstPayment:
    """What each call made."""

    webhook_id: int
    contact_id: str
    credit_card_id: str
    bank_account_id: str
    debit_id: str
    amount: Decimal
    state: TransactionState
    """Of the capture."""
    paid: tuple[str, ...]
    """The debits that the webhook's events reported as paid."""

    @property
    def complete(self) -> bool:
        """Whether the money was taken, and the event came."""
        return self.state == TransactionState.PAID and self.paid == (self.debit_id,)


async def take_first_payment() -> FirstPayment:
    """Have a contact's card typed, reserve an amount on it, take it, and handle the event."""
    paid: list[str] = []
    router = EventRouter()

    @router.on(DebitPaid)
    async def ship(event: DebitPaid) -> None:
        paid.append(event.transaction_id)

    app = web.Application()
    runner = web.AppRunner(app, access_log=None)
    async with (
        Sandbox() as sandbox,
        JetpayClient(sandbox.api_token, base_url=sandbox.url) as client,
        RemoteKeySet(sandbox.url) as keys,
        aiohttp.ClientSession() as browser,
    ):
        # The sandbox numbers its webhooks.
        receiver = WebhookReceiver(WebhookVerifier(keys, webhook_ids={1}), router, inbox=MemoryInbox())
        add_receiver(app, _PATH, receiver)
        await runner.setup()
        try:
            await web.TCPSite(runner, _HOST, 0).start()
            webhook = await client.ensure_webhook(f"http://{_HOST}:{runner.addresses[0][1]}{_PATH}")
            contact = await client.create_contact(email="ann@example.com", name="Ann Payer")
            form = await client.card_form(contact.contact_id)
            await browser.post(form.url, data={"card_number": APPROVED})  # Ann types her card
            account = await client.create_bank_account(_refunds(), contact_id=contact.contact_id)
            reserved = await client.preauthorize(
                contact_id=contact.contact_id,
                credit_card_id=form.credit_card_id,
                amount=Decimal("100.50"),
                to_bank_account_id=sandbox.merchant_account_id,
                statement="Cabin 12, July",
            )
            captured = await client.capture(reserved.debit_id)
            await sandbox.drain_deliveries()
        finally:
            await runner.cleanup()
    return FirstPayment(
        webhook_id=webhook.id,
        contact_id=contact.contact_id,
        credit_card_id=form.credit_card_id,
        bank_account_id=account.bank_account_id,
        debit_id=reserved.debit_id,
        amount=reserved.amount,
        state=captured.state,
        paid=tuple(paid),
    )


def _refunds() -> BankAccountDetails:
    return BankAccountDetails(
        institution="A Bank",
        title="Ann's account",
        holder_name="Ann Payer",
        transit_number="00001",
        institution_number="001",
        account_number="1234567",
        holder_address="1 Road",
        holder_address_postal_code="A1A1A1",
        holder_address_city="Town",
        holder_address_country="CA",
        holder_email="ann@example.com",
    )
