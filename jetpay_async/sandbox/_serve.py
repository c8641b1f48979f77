"""Serve a sandbox until it is cancelled: what ``jetpay sandbox`` runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from jetpay_async.sandbox import _state_file
from jetpay_async.sandbox._sandbox import Sandbox  # noqa: TC001 - `typing.get_type_hints` reads it

__all__ = ["serve"]


async def serve(
    sandbox: Sandbox,
    *,
    announce: Callable[[str], None],
    state_file: Path | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run a sandbox until cancelled, and announce first how to reach it.

    Args:
        sandbox: Not started yet. Its faults, payers and webhooks may have been added.
        announce: Called once, with several lines of text: what to export, a payer, and a first call.
        state_file: Where to keep the state: it is written at most a second after each change, and at the end. It is not
            read, see `Sandbox.load`.
        stop: Ends it when it is set.

    Raises:
        OSError: The address can't be listened on, or the file can't be written.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(sandbox)
        if state_file is not None:
            await stack.enter_async_context(_state_file.kept(sandbox, state_file))
        announce(_announcement(sandbox, state_file))
        await (stop or asyncio.Event()).wait()


def _announcement(sandbox: Sandbox, state_file: Path | None) -> str:
    kept = "it keeps nothing" if state_file is None else f"{state_file} keeps its state"
    return f"""\
The sandbox is listening. Stop it with Ctrl-C; {kept}.
Watch it at {sandbox.public_url}/_sandbox/

export JETPAY_BASE_URL={sandbox.public_url}
export JETPAY_API_TOKEN={sandbox.api_token}

merchant bank account  bank_789
contact                contact_123
credit card            cc_456

curl -X POST "$JETPAY_BASE_URL/contact/contact_123/creditcards/cc_456/preauthorize" \\
  -H "Authorization: Bearer $JETPAY_API_TOKEN" -H "Content-Type: application/json" \\
  -d '{{"amount": 100.50, "to_bank_account_id": "bank_789", "statement": "Test statement"}}'
"""
