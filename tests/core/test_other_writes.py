"""A cancellation or a preauthorization without a usable answer: what is reported, and what is read."""

from __future__ import annotations

import pytest

from jetpay_async import (
    InvalidRequestError,
    OutcomeUnknownError,
    TransactionFailedError,
)
from jetpay_async.sandbox import Fault, FaultKind
from tests.loopback import FASTAPI, Exchange, Loopback, replies
from tests.network import connect, preauthorize
from tests.sandboxed import reserve, sandboxed


@pytest.mark.asyncio
async def test_a_lost_cancellation_is_resolved_too() -> None:
    """A cancellation whose reply is lost is done if the status says cancelled."""
    async with sandboxed(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="cancel")) as (sandbox, client):
        debit_id = await reserve(sandbox, client)
        await client.cancel_transaction(debit_id)

        assert sandbox.debit(debit_id).state == "cancelled"
        assert sandbox.requests("cancel") == 1


@pytest.mark.asyncio
async def test_a_cancellation_that_comes_too_late_says_what_happened() -> None:
    """A lost cancellation of what turns out to be paid is an error with that state."""
    async with sandboxed(Fault(kind=FaultKind.LOSE_REPLY_BEFORE, route="cancel")) as (sandbox, client):
        debit_id = await reserve(sandbox, client)
        await client.capture(debit_id)
        with pytest.raises(TransactionFailedError) as caught:
            await client.cancel_transaction(debit_id)

        assert caught.value.state == "paid"
        assert sandbox.requests("cancel") == 1


@pytest.mark.asyncio
async def test_a_cancellation_that_is_not_confirmed_is_no_answer() -> None:
    """`{"ok": false}` is neither a yes nor a documented no: the status decides."""
    not_ok = Fault(kind=FaultKind.WRONG_SHAPE_BEFORE, route="cancel", document={"ok": False})
    async with sandboxed(not_ok) as (sandbox, client):
        debit_id = await reserve(sandbox, client)
        await client.cancel_transaction(debit_id)

        assert sandbox.requests("cancel") == 2
        assert sandbox.debit(debit_id).state == "cancelled"


@pytest.mark.asyncio
async def test_an_unknown_preauthorize_names_the_debit_if_the_reply_did() -> None:
    """Nothing that the reply reported is lost, even where the reply as a whole can't be used."""
    partial = replies(200, {"debit_id": "debit_777", "amount": "not a number"}, X_Request_ID="req-2")
    async with Loopback(scripts={"preauthorize": [partial]}).listen() as server, connect(server) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await preauthorize(client)

    assert caught.value.debit_id == "debit_777"
    assert caught.value.request_id == "req-2"
    assert "transaction_status" in caught.value.next_step


@pytest.mark.parametrize("field", ["contact_id", "from_credit_card_id", "amount"])
@pytest.mark.asyncio
async def test_a_preauthorization_of_something_else_is_not_taken_for_ours(field: str) -> None:
    """A reply about another card, contact or amount is not the answer to this request."""
    server = Loopback()

    async def other(exchange: Exchange) -> None:
        await exchange.reply(200, {**server.answer(exchange.request), field: 1 if field == "amount" else "other"})

    server.scripts["preauthorize"] = [other]
    async with server.listen(), connect(server) as client:
        with pytest.raises(OutcomeUnknownError, match="another"):
            await preauthorize(client)


@pytest.mark.asyncio
async def test_a_preauthorization_that_failed_is_an_error() -> None:
    """A 200 that says failed reserves nothing: it is an error that names the debit."""
    failed = Fault(kind=FaultKind.REPORT_STATE_AFTER, route="preauthorize", state="failed")
    async with sandboxed(failed) as (sandbox, client):
        with pytest.raises(TransactionFailedError) as caught:
            await reserve(sandbox, client)

        assert [debit.identifier for debit in sandbox.debits] == [caught.value.debit_id]
    assert caught.value.state == "failed"


@pytest.mark.asyncio
async def test_fields_of_a_422_are_paths_and_messages() -> None:
    """A validation error names each field."""
    async with Loopback(scripts={"preauthorize": [replies(422, FASTAPI[422])]}).listen() as server:
        async with connect(server) as client:
            with pytest.raises(InvalidRequestError, match=r"body\.amount: must be positive") as caught:
                await preauthorize(client)

    (field,) = caught.value.fields
    assert (field.path, field.message, field.type) == ("body.amount", "must be positive", "value_error")
