"""Preauthorize, capture, read, cancel: what the vendor's guide says of the main flow."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING

import aiohttp
import attrs
import pytest

from jetpay_async import TransactionState
from jetpay_async.sandbox import Sandbox

from .calling import Caller, until

if TYPE_CHECKING:
    from jetpay_async.sandbox import SandboxPayer


@pytest.mark.asyncio
async def test_preauthorize_reserves_and_echoes(caller: Caller) -> None:
    """A preauthorization answers with all seven documented fields, and takes no money."""
    payer = caller.sandbox.add_payer()

    answer = await caller.preauthorize(payer)

    (debit,) = caller.sandbox.debits
    assert answer.status == 200
    assert answer.document == {
        "debit_id": debit.identifier,
        "amount": 100.5,
        "statement": "Deposit",
        "to_bank_account_id": caller.sandbox.merchant_account_id,
        "contact_id": payer.contact_id,
        "from_credit_card_id": payer.credit_card_id,
        "transaction_state": "preauthorized",
    }
    assert b'"amount":100.50,' in answer.body
    assert (debit.amount, debit.captures) == (Decimal("100.50"), 0)


@pytest.mark.asyncio
async def test_capture_takes_the_money_once(caller: Caller) -> None:
    """A capture answers with the identifier and paid, and counts one taking of the money."""
    debit_id = await caller.reserve()

    answer = await caller.capture(debit_id)

    assert (answer.status, answer.document) == (200, {"identifier": debit_id, "state": "paid"})
    assert caller.sandbox.debit(debit_id).captures == 1
    assert caller.sandbox.debit(debit_id).state is TransactionState.PAID


@pytest.mark.asyncio
async def test_second_capture_is_rejected(caller: Caller) -> None:
    """Capturing a paid debit is a 409 that takes no money, yet counts as a request."""
    debit_id = await caller.reserve()
    await caller.capture(debit_id)

    answer = await caller.capture(debit_id)

    assert answer.status == 409
    assert answer.document == {"detail": "Debit is paid: only a preauthorized debit can be captured"}
    assert caller.sandbox.debit(debit_id).captures == 1
    assert caller.sandbox.requests("capture", debit_id) == 2
    assert caller.sandbox.captured_twice == ()


@pytest.mark.asyncio
@pytest.mark.parametrize("card_number", ["4111111111111111", "4000000000000051"], ids=["paid", "slow bank"])
async def test_unguarded_service_takes_the_money_again(card_number: str) -> None:
    """Without its guard the service takes the money at every capture, and lists the debits that were captured twice."""
    async with (
        Sandbox(refuses_second_capture=False, slow_bank_seconds=0) as sandbox,
        aiohttp.ClientSession() as session,
    ):
        caller = Caller(sandbox, session)
        debit_id, once = await caller.reserve(card_number=card_number), await caller.reserve()

        statuses = [(await caller.capture(each)).status for each in (debit_id, debit_id, once)]
        await until(lambda: sandbox.debit(debit_id).captures == 2)

        assert statuses == [200, 200, 200]
        assert sandbox.debit(debit_id).captures == 2
        assert sandbox.captured_twice == (debit_id,)


@pytest.mark.asyncio
@pytest.mark.parametrize("state", ["cancelled", "failed"])
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "unguarded"])
async def test_capture_of_a_debit_that_is_over_is_rejected(state: str, *, guarded: bool) -> None:
    """A cancelled or failed debit can't be captured, whatever the guard."""
    async with Sandbox(refuses_second_capture=guarded) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        sandbox.set_state(debit_id, state)

        answer = await caller.capture(debit_id)

        assert answer.status == 409
        assert sandbox.debit(debit_id).captures == 0


@pytest.mark.asyncio
async def test_status_has_the_state_alone(caller: Caller) -> None:
    """The status of a debit that did not fail has no other field than its state."""
    debit_id = await caller.reserve()

    answer = await caller.status(debit_id)

    assert (answer.status, answer.document) == (200, {"state": "preauthorized"})


@pytest.mark.asyncio
async def test_status_says_why_it_failed(caller: Caller) -> None:
    """The status of a failed debit has the reason and the direction."""
    debit_id = await caller.reserve()
    caller.sandbox.set_state(debit_id, "failed", fail_reason="account_frozen", fail_direction="pull")

    answer = await caller.status(debit_id)

    assert answer.document == {"state": "failed", "fail_reason": "account_frozen", "fail_direction": "pull"}


@pytest.mark.asyncio
@pytest.mark.parametrize("state", ["requested", "initiated", "preauthorized"])
async def test_cancel_before_funds_are_pulled(caller: Caller, state: str) -> None:
    """A transaction of which no funds were pulled is cancelled with ok."""
    debit_id = await caller.reserve()
    caller.sandbox.set_state(debit_id, state)

    answer = await caller.cancel(debit_id)

    assert (answer.status, answer.document) == (200, {"ok": True})
    assert caller.sandbox.debit(debit_id).state is TransactionState.CANCELLED


@pytest.mark.asyncio
@pytest.mark.parametrize("state", ["processing", "paid", "completed", "failed", "cancelled", "clearing"])
async def test_cancel_after_funds_are_pulled(caller: Caller, state: str) -> None:
    """Once funds may have been pulled, or all is over, a cancellation is a 409 and changes nothing."""
    debit_id = await caller.reserve()
    caller.sandbox.set_state(debit_id, state)

    answer = await caller.cancel(debit_id)

    assert answer.status == 409
    assert state in answer.document["detail"]
    assert caller.sandbox.debit(debit_id).state == state


@pytest.mark.asyncio
async def test_charge_reserves_and_takes_at_once(caller: Caller) -> None:
    """A charge answers as a preauthorization does, with the state paid."""
    answer = await caller.charge(caller.sandbox.add_payer())

    (debit,) = caller.sandbox.debits
    assert (answer.status, answer.document["transaction_state"]) == (200, "paid")
    assert (answer.document["debit_id"], debit.captures) == (debit.identifier, 1)


def _other_contact(payer: SandboxPayer, sandbox: Sandbox) -> SandboxPayer:
    return attrs.evolve(payer, contact_id=sandbox.add_contact())


@pytest.mark.asyncio
async def test_unknown_ids_are_not_found(caller: Caller) -> None:
    """Each unknown or foreign id of a preauthorization is a 404 that names it, and makes no debit."""
    sandbox = caller.sandbox
    payer = sandbox.add_payer()

    answers = [
        await caller.preauthorize(attrs.evolve(payer, contact_id="unknown")),
        await caller.preauthorize(attrs.evolve(payer, credit_card_id="nothing")),
        await caller.preauthorize(_other_contact(payer, sandbox)),
        await caller.preauthorize(payer, to_bank_account_id="nowhere"),
    ]

    assert [answer.status for answer in answers] == [404, 404, 404, 404]
    assert [answer.document["detail"] for answer in answers] == [
        "Contact not found",
        "Credit card not found",
        "Credit card not found",
        "Bank account not found",
    ]
    assert sandbox.debits == ()


@pytest.mark.asyncio
@pytest.mark.parametrize("debit_id", ["nothing", "..%2Fnothing", "a%20b", "%E2%82%AC"])
async def test_unknown_transactions_are_not_found(caller: Caller, debit_id: str) -> None:
    """Capture, status and cancel of an unknown id are 404, however the id is spelt."""
    answers = [await caller.capture(debit_id), await caller.status(debit_id), await caller.cancel(debit_id)]

    assert [answer.status for answer in answers] == [404, 404, 404]
    assert answers[0].document == {"detail": "Debit not found"}
    assert answers[1].document == answers[2].document == {"detail": "Transaction not found"}


@pytest.mark.asyncio
async def test_snapshots_do_not_change(caller: Caller) -> None:
    """A snapshot of a debit keeps showing the moment at which it was taken."""
    debit_id = await caller.reserve()
    before = caller.sandbox.debit(debit_id)

    await caller.capture(debit_id)

    assert before.state is TransactionState.PREAUTHORIZED
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        before.state = TransactionState.PAID  # type: ignore[misc] # frozen: the point


@pytest.mark.asyncio
async def test_every_step_makes_an_event(caller: Caller) -> None:
    """Each change of state makes one event, ids counting from 1, rejections none."""
    debit_id = await caller.reserve()
    await caller.capture(debit_id)
    await caller.capture(debit_id)
    caller.sandbox.set_state(debit_id, "failed", fail_reason="account_frozen", fail_direction="push")

    events = caller.sandbox.events

    assert [event.id for event in events] == [1, 2, 3]
    assert {event.type for event in events} == {"transactions.debits.created"}
    assert [event.data for event in events] == [
        {"state": "preauthorized", "transactionId": debit_id},
        {"state": "paid", "transactionId": debit_id},
        {"state": "failed", "transactionId": debit_id, "failReason": "account_frozen", "failDirection": "push"},
    ]


@pytest.mark.asyncio
async def test_many_at_once(caller: Caller) -> None:
    """A few hundred debits in flight at once are each captured once."""

    async def one() -> None:
        await caller.capture(await caller.reserve())

    await asyncio.gather(*(one() for _ in range(200)))

    assert [debit.captures for debit in caller.sandbox.debits] == [1] * 200
    assert caller.sandbox.requests("preauthorize") == caller.sandbox.requests("capture") == 200
    assert caller.sandbox.requests() == 400


@pytest.mark.asyncio
async def test_the_ids_of_the_guide_s_examples_exist() -> None:
    """The guide's example request works as it stands, but for the host and the token."""
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        response = await session.post(
            f"{sandbox.url}/contact/contact_123/creditcards/cc_456/preauthorize",
            headers={"Authorization": f"Bearer {sandbox.api_token}"},
            json={"amount": 100.50, "to_bank_account_id": "bank_789", "statement": "Test statement"},
        )
        answer = await response.json()

    assert response.status == 200
    assert answer["contact_id"] == "contact_123"
    assert answer["from_credit_card_id"] == "cc_456"
