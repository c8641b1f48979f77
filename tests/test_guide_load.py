"""Many clients at once, with mixed calls, while responses get lost and the service fails."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from jetpay_async import JetpayClient, JetpayError, OutcomeUnknownError, RetryPolicy, Webhook
from jetpay_async.sandbox import DeliveryPolicy, Fault, FaultKind, Sandbox

CLIENTS = 300
URL = "http://127.0.0.1:9/hook"
POLICY = RetryPolicy(max_attempts=8, base_delay=0.01, max_delay=0.1, resolve_after=0.05, resolve_after_timeout=0.05)
FAULTS = [
    Fault(kind=kind, route=route, probability=0.05, status=status)
    for route in ("charge", "credit", "debit", "capture", "contact", "webhooks")
    for kind, status in (
        (FaultKind.LOSE_REPLY_BEFORE, None),
        (FaultKind.LOSE_REPLY_AFTER, None),
        (FaultKind.ERROR_BEFORE, 503),
        (FaultKind.ERROR_BEFORE, 429),
    )
]


@pytest.mark.asyncio
async def test_nothing_moves_money_twice() -> None:
    """Each charge, credit, debit and capture of 300 clients happens once at most, and what is unknown is reported."""
    unknown: list[OutcomeUnknownError] = []
    outcomes: dict[str, object] = {}

    async def note(name: str, call: object) -> object:
        try:
            outcomes[name] = result = await call  # type: ignore[misc] # any of the client's coroutines
        except JetpayError as error:
            outcomes[name] = error
            return None
        return result

    async def work(number: int, sandbox: Sandbox, payee: str, account: str) -> None:
        payer = sandbox.add_payer()
        card = {
            "contact_id": payer.contact_id,
            "credit_card_id": payer.credit_card_id,
            "amount": "5.00",
            "to_bank_account_id": sandbox.merchant_account_id,
        }
        reserved = await client_of[number].preauthorize(**card, statement=f"reserve {number}")
        client = client_of[number]
        await asyncio.gather(
            note(f"charge {number}", client.charge(**card, statement=f"charge {number}")),
            note(f"capture {number}", client.capture(reserved.debit_id)),
            note(
                f"credit {number}",
                client.send_credit(
                    amount=1,
                    from_bank_account_id=sandbox.merchant_account_id,
                    to_bank_account_id=account,
                    contact_id=payee,
                    statement=f"credit {number}",
                ),
            ),
            note(
                f"debit {number}",
                client.create_debit(
                    amount=1,
                    to_bank_account_id=sandbox.merchant_account_id,
                    contact_id=payee,
                    statement=f"debit {number}",
                ),
            ),
            note(f"webhook {number}", client.ensure_webhook(URL)),
        )

    async with Sandbox(seed=5, refuses_second_capture=False, delivery=DeliveryPolicy(max_attempts=1)) as sandbox:
        client_of = [
            JetpayClient(
                sandbox.api_token,
                base_url=sandbox.url,
                retry=POLICY,
                timeout=110.0,  # 300 clients on a busy machine
                max_connections=2,
                on_unknown=unknown.append,
            )
            for _ in range(CLIENTS)
        ]
        sandbox.faults.add(*FAULTS)
        payee = sandbox.add_contact()
        account = sandbox.add_bank_account(payee)
        await asyncio.gather(*(work(number, sandbox, payee, account) for number in range(CLIENTS)))
        injected = sum(sandbox.faults.injected.values())
        for client in client_of:
            await client.aclose()

    made = Counter(each.statement for each in (*sandbox.debits, *sandbox.credits))
    assert injected > CLIENTS / 10
    assert max(made.values()) == 1
    assert sandbox.captured_twice == ()
    for name, outcome in outcomes.items():
        kind = name.split()[0]
        if kind in {"charge", "credit", "debit"} and not isinstance(outcome, OutcomeUnknownError):
            # What is reported as done was done, and what is reported as not done was not.
            assert made[name] == (not isinstance(outcome, JetpayError)), (name, outcome)
    lost = [outcome for outcome in outcomes.values() if isinstance(outcome, OutcomeUnknownError)]
    assert lost
    assert {id(error) for error in lost} == {id(error) for error in unknown}
    webhooks = {outcome.identifier for name, outcome in outcomes.items() if isinstance(outcome, Webhook)}
    assert len(webhooks) == 1
    assert len(outcomes) == 5 * CLIENTS
