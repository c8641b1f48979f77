"""Serve a sandbox until it is cancelled: what ``jetpay sandbox`` runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from jetpay_async.sandbox._sandbox import Sandbox  # noqa: TC001 - `typing.get_type_hints` reads it

__all__ = ["serve"]


async def serve(sandbox: Sandbox, *, announce: Callable[[str], None]) -> None:
    """Run a sandbox until cancelled, and announce first how to reach it.

    Args:
        sandbox: Not started yet. Its faults, payers and webhooks may have been added.
        announce: Called once, with several lines of text: what to export, a payer, and a first call.
    """
    async with sandbox:
        payer = sandbox.add_payer()
        announce(
            f"""\
The sandbox is listening. Stop it with Ctrl-C; it keeps nothing.

export JETPAY_BASE_URL={sandbox.url}
export JETPAY_API_TOKEN={sandbox.api_token}

merchant bank account  {sandbox.merchant_account_id}
contact                {payer.contact_id}
credit card            {payer.credit_card_id}

curl -X POST "$JETPAY_BASE_URL/contact/{payer.contact_id}/creditcards/{payer.credit_card_id}/preauthorize" \\
  -H "Authorization: Bearer $JETPAY_API_TOKEN" -H "Content-Type: application/json" \\
  -d '{{"amount": 100.50, "to_bank_account_id": "{sandbox.merchant_account_id}", "statement": "Test statement"}}'
"""
        )
        await asyncio.Event().wait()
