"""Two thousand payments at once against a service that loses, breaks and refuses: the money is taken once each."""

from __future__ import annotations

import asyncio
import gc
import warnings

import pytest

from jetpay_async import Capture, JetpayClient, OutcomeUnknownError, Preauthorization, RetryPolicy
from jetpay_async.sandbox import Fault, FaultKind, Sandbox

PAIRS = 2000
IN_FLIGHT = 64


def trouble(route: str) -> list[Fault]:
    """5 % of the replies lost before the work, 5 % after it, 5 % answered with a 5xx that says nothing of the work."""
    return [
        Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route=route, probability=0.05),
        Fault(kind=FaultKind.LOSE_REPLY_AFTER, route=route, probability=0.05),
        Fault(kind=FaultKind.ERROR_BEFORE, route=route, probability=0.025, status=503, body="html"),
        Fault(kind=FaultKind.ERROR_AFTER, route=route, probability=0.025, status=500),
    ]


# Takes some seconds: the number of payments is what it is about.
@pytest.mark.asyncio
async def test_every_debit_is_captured_exactly_once() -> None:
    """Each preauthorize is done or unknown, each debit known to the client is captured once, nothing is left over."""
    tasks_before = asyncio.all_tasks()
    reported: list[OutcomeUnknownError] = []
    async with Sandbox(seed=20261122, refuses_second_capture=False) as sandbox:
        for route in ("preauthorize", "capture"):
            for fault in trouble(route):
                sandbox.faults.add(fault)
        async with JetpayClient(
            sandbox.api_token,
            base_url=sandbox.url,
            max_connections=IN_FLIGHT,
            # As many attempts as make it unlikely, one run in a million, that each one of a debit's meets a fault.
            retry=RetryPolicy(
                max_attempts=8, base_delay=0.02, max_delay=0.2, resolve_after=0.2, resolve_after_timeout=0.2
            ),
            on_unknown=reported.append,
        ) as client:
            outcomes = await pay(client, sandbox)

        captured = [outcome for outcome in outcomes if isinstance(outcome, Capture)]
        unknown = [outcome for outcome in outcomes if isinstance(outcome, OutcomeUnknownError)]
        made = {debit.identifier: debit for debit in sandbox.debits}

        assert len(captured) + len(unknown) == PAIRS
        assert {error.operation for error in unknown} == {"preauthorize"}
        assert reported == unknown
        assert 0.10 < len(unknown) / PAIRS < 0.20
        assert all(made[capture.debit_id].captures == 1 for capture in captured)
        assert len({capture.debit_id for capture in captured}) == len(captured)
        assert sum(debit.captures for debit in made.values()) == len(captured)
        assert sandbox.captured_twice == ()
        assert sandbox.requests("preauthorize") == PAIRS
        assert any(capture.confirmed_by_status for capture in captured)
        assert any(capture.attempts > 1 for capture in captured)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert asyncio.all_tasks() == tasks_before


async def pay(client: JetpayClient, sandbox: Sandbox) -> list[Capture | OutcomeUnknownError]:
    """Preauthorize and capture, `IN_FLIGHT` at a time."""
    payer = sandbox.add_payer()
    numbers = iter(range(PAIRS))
    outcomes: list[Capture | OutcomeUnknownError] = []

    async def reserve() -> Preauthorization:
        return await client.preauthorize(
            contact_id=payer.contact_id,
            credit_card_id=payer.credit_card_id,
            amount="100.50",
            to_bank_account_id=sandbox.merchant_account_id,
            statement="Test statement",
        )

    async def work() -> None:
        for _ in numbers:
            try:
                reserved = await reserve()
                outcomes.append(await client.capture(reserved.debit_id))
            except OutcomeUnknownError as error:
                outcomes.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(work())
    return outcomes
