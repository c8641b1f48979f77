"""The sandbox as the other side of a test: it takes the money again if it is asked again."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from jetpay_async import JetpayClient, RetryPolicy
from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from tests.network import FAST

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LAGGING_STATUS = Fault(kind=FaultKind.REPORT_STATE_BEFORE, route="status", state="preauthorized", count=None)
"""Statuses are those from before all captures, of any id, as a replica that lags behind reports them."""


@asynccontextmanager
async def sandboxed(
    *faults: Fault, timeout: float = 2.0, retry: RetryPolicy = FAST
) -> AsyncIterator[tuple[Sandbox, JetpayClient]]:
    """A sandbox with some faults, and a client of it."""
    async with (
        Sandbox(refuses_second_capture=False, slow_bank_seconds=0.05) as sandbox,
        JetpayClient(sandbox.api_token, base_url=sandbox.url, timeout=timeout, retry=retry) as client,
    ):
        sandbox.faults.add(*faults)
        yield sandbox, client


async def reserve(sandbox: Sandbox, client: JetpayClient, *, card_number: str = "4111111111111111") -> str:
    """Reserve an amount on a card of its own, and return the debit's id."""
    payer = sandbox.add_payer(card_number=card_number)
    reserved = await client.preauthorize(
        contact_id=payer.contact_id,
        credit_card_id=payer.credit_card_id,
        amount="100.50",
        to_bank_account_id=sandbox.merchant_account_id,
        statement="Stay",
    )
    return reserved.debit_id


async def reserve_many(sandbox: Sandbox, client: JetpayClient, count: int) -> list[str]:
    """Reserve as often, one after the other."""
    return [await reserve(sandbox, client) for _ in range(count)]
