"""Many preauthorizations, streamed."""

from __future__ import annotations

import asyncio
import logging

import pytest

from jetpay_async import (
    AcceptedPreauthorization,
    InvalidArgumentError,
    NotSent,
    PreauthorizationOutcome,
    PreauthorizationRequest,
    Preauthorized,
    Rejected,
    Unknown,
)
from jetpay_async.sandbox import Fault, FaultKind
from tests import loopback
from tests.loopback import FASTAPI, replies, work_then
from tests.recording_server import RecordingServer, connect, request, until
from tests.sandboxed import sandboxed


@pytest.mark.asyncio
async def test_many_preauthorizations() -> None:
    """Each request has its outcome, which holds the debit to be stored; two equal ones are two reservations."""
    reported: list[PreauthorizationOutcome] = []
    requests = [*(request(number) for number in range(20)), request(3)]
    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = [
            each async for each in client.preauthorize_many(requests, concurrency=4, on_outcome=reported.append)
        ]

    assert {type(outcome) for outcome in outcomes} == {Preauthorized}
    assert sorted(outcome.debit_id for outcome in outcomes) == sorted(f"debit_of_{r.contact_id}" for r in requests)
    assert all(outcome.debit_id == f"debit_of_{outcome.request.contact_id}" for outcome in outcomes)
    assert server.preauthorizations == 21
    assert server.carried_out["contact_3"] == 2
    assert server.most_in_flight <= 4
    assert reported == outcomes


@pytest.mark.asyncio
async def test_each_outcome_of_a_preauthorization() -> None:
    """Rejected, impossible, unknown and done are reported apart, with the request."""
    impossible = request(2).__class__(
        contact_id="contact_2", credit_card_id="cc", amount="0.001", to_bank_account_id="b", statement="s"
    )
    server = RecordingServer(
        responses={"contact_1": [replies(402, {"detail": "declined"})], "contact_3": [work_then(loopback.hang_up)]},
    )
    items: list[object] = [request(0), request(1), impossible, request(3), "contact_4"]
    async with server.listen(), connect(server) as client:
        outcomes = {repr(each.request): each async for each in client.preauthorize_many(items)}  # type: ignore[arg-type] # as an untyped caller might

    assert [type(outcomes[repr(item)]) for item in items] == [Preauthorized, Rejected, NotSent, Unknown, NotSent]
    odd = outcomes[repr("contact_4")]
    assert isinstance(odd, NotSent)
    assert isinstance(odd.error, InvalidArgumentError)
    assert odd.error.field == "requests"
    assert server.preauthorizations == 2


@pytest.mark.asyncio
async def test_a_preauthorization_that_is_not_consumed_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Money is reserved: the log has the debit that nobody took."""
    server = RecordingServer()
    server.responses["contact_2"] = [replies(402, {"detail": "declined"})]
    server.open.clear()
    with caplog.at_level(logging.WARNING, "jetpay_async"):
        async with server.listen(), connect(server) as client:
            outcomes = client.preauthorize_many([request(number) for number in range(3)])
            taking = asyncio.ensure_future(anext(outcomes))
            await until(lambda: server.in_flight == 3)
            server.open.set()
            taking.cancel()
            await asyncio.wait([taking])

    messages = sorted(record.message for record in caplog.records)
    assert len(messages) == 3
    assert messages[1] == "preauthorize debit_of_contact_0: the outcome Preauthorized was not consumed"
    assert "reference='order 2'" in messages[0]
    assert "declined" in messages[0]


@pytest.mark.asyncio
async def test_an_equal_request_is_safe_to_retry_when_it_was_not_sent() -> None:
    """Two equal requests are two reservations: what became of the first says nothing about the second."""
    server = RecordingServer(responses={"contact_2": [replies(401, FASTAPI[401])]})
    requests = [request(1), request(2), request(1)]
    async with server.listen(), connect(server) as client:
        outcomes = [each async for each in client.preauthorize_many(requests, concurrency=1)]

    assert [type(outcome) for outcome in outcomes] == [Preauthorized, Rejected, NotSent]
    assert server.preauthorizations == 1


@pytest.mark.asyncio
async def test_a_preauthorization_in_progress_is_accepted() -> None:
    """It has a debit to store, and its status tells how it ends."""
    async with sandboxed(Fault(kind=FaultKind.REPORT_STATE_AFTER, route="preauthorize")) as (sandbox, client):
        payer = sandbox.add_payer()
        asked = PreauthorizationRequest(
            contact_id=payer.contact_id,
            credit_card_id=payer.credit_card_id,
            amount="100.50",
            to_bank_account_id=sandbox.merchant_account_id,
            statement="Stay",
        )
        (outcome,) = [each async for each in client.preauthorize_many([asked])]
        (debit,) = sandbox.debits

    assert isinstance(outcome, AcceptedPreauthorization)
    assert outcome.attempts == 1
    assert (outcome.debit_id, outcome.request, outcome.preauthorization.final) == (debit.identifier, asked, False)
