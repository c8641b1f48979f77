"""Batches of payments for the tests of this folder."""

from __future__ import annotations

from collections import Counter
from typing import Any

from jetpay_async import ChargeRequest, CreditRequest, PreauthorizationRequest
from jetpay_async.ledger import Ledger, PaymentBatch
from tests.ledger.payment_service import CREDIT, REQUEST


def request(number: int, **changes: Any) -> PreauthorizationRequest:
    """Make the request of ``b<number>``, whose statement at the service is the same."""
    name = f"b{number}"
    return PreauthorizationRequest(**{**REQUEST, "statement": name, "reference": name, **changes})


def requests(count: int) -> list[PreauthorizationRequest]:
    return [request(number) for number in range(count)]


def charge(number: int) -> ChargeRequest:
    name = f"b{number}"
    return ChargeRequest(**{**REQUEST, "statement": name, "reference": name})


def credit(number: int) -> CreditRequest:
    name = f"b{number}"
    return CreditRequest(**{**CREDIT, "statement": name, "reference": name, "note": "with a note" if number else None})


async def outcomes(batch: PaymentBatch[Any]) -> dict[str, Any]:
    """Read the outcomes of a batch by their references, each once."""
    found: dict[str, Any] = {}
    async for outcome in batch.outcomes():
        assert outcome.request.reference not in found
        found[outcome.request.reference] = outcome
    return found


async def states(ledger: str) -> Counter[str]:
    """Count the payments of a ledger by state."""
    async with Ledger(ledger, create=False) as opened:
        check = await opened.verify()
        assert check.problems == ()
        return Counter([str(payment.state) async for payment in opened.payments()])
