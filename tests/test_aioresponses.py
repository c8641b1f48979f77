"""The guide's own replies, canned: what each method makes of them. No socket is involved."""

from __future__ import annotations

from decimal import Decimal

import aiohttp
import pytest
from aioresponses import aioresponses

from jetpay_async import DEMO_URL, PRODUCTION_URL, Capture, JetpayClient, NotSentError, TransactionState
from tests.network import FAST, preauthorize

PREAUTHORIZE = f"{PRODUCTION_URL}/contact/contact_123/creditcards/cc_456/preauthorize"
CAPTURE = f"{PRODUCTION_URL}/debit/debit_123/capture"
STATUS = f"{PRODUCTION_URL}/transaction/debit_123/status"
TRANSACTION = f"{PRODUCTION_URL}/transaction/debit_123"


@pytest.mark.asyncio
async def test_preauthorize_as_in_the_guide(canned: aioresponses) -> None:
    """The guide's reply becomes a value with an exact amount, and what it does not name is kept."""
    canned.post(
        PREAUTHORIZE,
        body=b'{"debit_id": "debit_123", "amount": 100.50, "statement": "Test statement",'
        b' "to_bank_account_id": "bank_789", "contact_id": "contact_123",'
        b' "from_credit_card_id": "cc_456", "transaction_state": "preauthorized", "fee": 2.90}',
    )
    async with JetpayClient("token") as client:
        reserved = await preauthorize(client)

    assert reserved.debit_id == "debit_123"
    assert reserved.amount == Decimal("100.50")
    assert str(reserved.amount) == "100.50"
    assert reserved.state is TransactionState.PREAUTHORIZED
    assert reserved.raw["fee"] == Decimal("2.90")
    assert reserved.attempts == 1


@pytest.mark.asyncio
async def test_capture_as_in_the_guide(canned: aioresponses) -> None:
    """The guide's reply becomes a capture that was confirmed by its own reply."""
    canned.post(CAPTURE, payload={"identifier": "debit_123", "state": "paid"})
    async with JetpayClient("token") as client:
        capture = await client.capture("debit_123")

    assert capture == Capture(debit_id="debit_123", state=TransactionState.PAID, raw={})
    assert not capture.confirmed_by_status


@pytest.mark.asyncio
async def test_status_as_in_the_guide(canned: aioresponses) -> None:
    """A failed transaction tells its reason and direction."""
    canned.get(STATUS, payload={"state": "failed", "fail_reason": "account_frozen", "fail_direction": "pull"})
    async with JetpayClient("token") as client:
        status = await client.transaction_status("debit_123")

    assert (status.state, status.fail_reason, status.fail_direction) == ("failed", "account_frozen", "pull")


@pytest.mark.asyncio
async def test_cancel_as_in_the_guide(canned: aioresponses) -> None:
    """`{"ok": true}` is all there is to say."""
    canned.delete(TRANSACTION, payload={"ok": True})
    async with JetpayClient("token") as client:
        await client.cancel_transaction("debit_123")

    canned.assert_called_once()


@pytest.mark.asyncio
async def test_the_demo_host(canned: aioresponses) -> None:
    """The demo service is one constant away."""
    canned.get(f"{DEMO_URL}/transaction/t/status", payload={"state": "requested"})
    async with JetpayClient("token", base_url=DEMO_URL) as client:
        assert (await client.transaction_status("t")).state == "requested"


@pytest.mark.asyncio
async def test_a_canned_exception_was_never_sent(canned: aioresponses) -> None:
    """A fake that raises without writing the request is seen for what it is: nothing left."""
    canned.post(PREAUTHORIZE, exception=aiohttp.ServerDisconnectedError(), repeat=True)
    async with JetpayClient("token", retry=FAST) as client:
        with pytest.raises(NotSentError):
            await preauthorize(client)
