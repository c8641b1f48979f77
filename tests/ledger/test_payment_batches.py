"""Batches of payments: each reference is sent once, whoever asks for it, and what was interrupted goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import attrs
import pytest

from jetpay_async import (
    AcceptedPreauthorization,
    Charged,
    CreditSent,
    InvalidArgumentError,
    JetpayClient,
    PreauthorizationRequest,
    Preauthorized,
    Rejected,
    Unknown,
)
from jetpay_async.ledger import (
    BatchMismatchError,
    Ledger,
    PaymentCounts,
    PaymentDiscardedError,
    ReferenceMismatchError,
    UnknownBatchError,
    _payment_batches,
    _payment_staging,
)
from tests.ledger.payment_batch import charge, credit, outcomes, request, requests, states
from tests.ledger.payment_service import LOSE, REQUEST, WAIT, serving

pytestmark = pytest.mark.asyncio


async def test_each_reference_is_sent_once_and_reported_once(ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is sent, its outcomes are read by pages, and the same submission later sends nothing."""
    monkeypatch.setattr(_payment_batches, "PAGE", 4)
    monkeypatch.setattr(_payment_staging, "PAGE", 3)
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger, concurrency=4) as reservations:
            batch = await reservations.submit("night", requests(10))
            first = await outcomes(batch)
            report = await batch.wait()
            given = [payment.reference async for payment in batch.payments()]
        async with client.durable_preauthorizations(ledger) as reservations:
            again = await reservations.submit("night", reversed(requests(10)))
            assert list(await outcomes(again)) == list(first)
            assert await again.wait() == report

    assert given == [f"b{number}" for number in range(10)]
    assert set(first) == set(given)
    assert all(isinstance(outcome, Preauthorized) for outcome in first.values())
    assert first["b3"].request == request(3, amount=Decimal("100.50"))
    assert service.requests == {f"b{number}": 1 for number in range(10)}
    assert (report.key, report.counts, batch.total) == ("night", PaymentCounts(succeeded=10), 10)
    assert report.submitted_at <= report.finished_at


async def test_charges_and_credits_too(ledger: str) -> None:
    """One implementation serves preauthorizations, charges and credits, whose batches are apart."""
    async with serving() as (service, client):
        async with client.durable_charges(ledger) as charges:
            charged = await outcomes(await charges.submit("day", [charge(number) for number in range(3)]))
        async with client.durable_credits(ledger) as credits_:
            sent = await outcomes(await credits_.submit("refunds", [credit(number) for number in range(3, 6)]))
            with pytest.raises(BatchMismatchError, match="is one of charge, not of send_credit"):
                await credits_.batch("day")

    assert {type(outcome) for outcome in charged.values()} == {Charged}
    assert {type(outcome) for outcome in sent.values()} == {CreditSent}
    assert sent["b3"].request.note == "with a note"
    assert service.made.total() == 6


async def test_an_outcome_says_what_became_of_its_request(ledger: str) -> None:
    """What is accepted, rejected, unknown or discarded is reported as such, with its request."""
    async with serving() as (service, client):
        service.script["b1"] = [(422, {"detail": "card declined"})]
        service.script["b2"] = [LOSE]
        service.script["b3"] = [LOSE]
        async with client.durable_preauthorizations(ledger) as reservations:
            batch = await reservations.submit("night", requests(4))
            await batch.wait()
            async with Ledger(ledger) as opened:
                await opened.commits.run(
                    lambda connection: connection.change("UPDATE jetpay_payment SET certain_at = 1", {})
                )
                await opened.discard("b3")
            service.state = "processing"
            await reservations.preauthorize(**{**REQUEST, "reference": "b9"})
            later = await reservations.submit("later", [request(9, statement="booking 1")])
            accepted = (await outcomes(later))["b9"]
            found = await outcomes(batch)

            counts = await batch.progress()

    assert isinstance(accepted, AcceptedPreauthorization)
    assert isinstance(found["b0"], Preauthorized)
    assert isinstance(found["b1"], Rejected)
    assert "card declined" in str(found["b1"].error)
    assert isinstance(found["b2"], Unknown)
    assert isinstance(found["b3"].error, PaymentDiscardedError)
    assert {name: outcome.request for name, outcome in found.items()} == {
        each.reference: attrs.evolve(each, amount=Decimal("100.50")) for each in requests(4)
    }
    assert (counts.finished, counts.complete, counts.unresolved) == (4, True, 1)


async def test_requests_may_come_asynchronously(ledger: str) -> None:
    """An async iterable is taken item by item; an empty batch is complete at once."""

    async def generate() -> AsyncIterator[PreauthorizationRequest]:
        for each in requests(3):
            yield each

    async with serving() as (_, client), client.durable_preauthorizations(ledger) as reservations:
        assert len(await outcomes(await reservations.submit("night", generate()))) == 3
        assert (await (await reservations.submit("nothing", [])).wait()).counts.total == 0


async def test_what_the_ledger_knows_is_not_sent_again(ledger: str) -> None:
    """A reference that was reserved by itself, or is in another batch, is one payment: its outcome is everyone's."""
    async with serving() as (service, client):
        service.script["b1"] = [(422, {"detail": "card declined"})]
        async with client.durable_preauthorizations(ledger) as reservations:
            await reservations.preauthorize(**attrs.asdict(request(0)))
            await (await reservations.submit("night", requests(3))).wait()
            found = await outcomes(await reservations.submit("all", [*requests(5), *requests(2)]))
            same = await reservations.preauthorize(**attrs.asdict(request(4)))

    assert service.requests == {f"b{number}": 1 for number in range(5)}
    assert {type(outcome) for outcome in found.values()} == {Preauthorized, Rejected}
    assert found["b4"].debit_id == same.debit_id


async def test_a_repeated_request_is_one_payment(ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same reference with equal arguments counts once, however the amount is written, and is the same batch."""
    monkeypatch.setattr(_payment_staging, "PAGE", 2)
    repeated = [request(0), request(1), request(0, amount=Decimal("100.5")), request(0), request(2)]
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        batch = await reservations.submit("night", repeated)
        assert (batch.key, batch.total, batch.duplicates) == ("night", 3, 2)
        again = await reservations.submit("night", requests(3))
        assert (again.total, len(await outcomes(again))) == (3, 3)

    assert service.made.total() == 3


@pytest.mark.parametrize(
    "others",
    [requests(2), requests(4), [request(0), request(1), request(2, amount=5)], [request(0), request(1), request(7)]],
    ids=["fewer", "more", "other arguments", "another reference"],
)
async def test_a_key_stands_for_one_set_of_requests(ledger: str, others: list[PreauthorizationRequest]) -> None:
    """The same key with other requests is an error, and nothing of them is added or sent."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        batch = await reservations.submit("night", requests(3))
        await batch.wait()
        with pytest.raises(BatchMismatchError, match="batch 'night' exists with other requests"):
            await reservations.submit("night", others)

    assert service.made.total() == 3
    assert (await states(ledger)).total() == 3


@pytest.mark.parametrize("pages", [1, 100])
async def test_one_reference_with_differing_arguments_is_refused(
    ledger: str, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """Within a submission, or against what is stored: nothing of the submission is added, and nothing is sent."""
    monkeypatch.setattr(_payment_staging, "PAGE", pages)
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger) as reservations:
            with pytest.raises(
                ReferenceMismatchError, match=r"item 4: reference 'b1' .* differ: amount .*'100.50', .*"
            ):
                await reservations.submit("night", [*requests(3), request(1, amount=7)])
            with pytest.raises(UnknownBatchError):
                await reservations.batch("night")
            await reservations.preauthorize(**attrs.asdict(request(5)))
            with pytest.raises(ReferenceMismatchError, match=r"item 6: reference 'b5' .* differ: contact_id"):
                await reservations.submit("night", [*requests(5), request(5, contact_id="another")])
        async with client.durable_charges(ledger) as charges:
            with pytest.raises(ReferenceMismatchError, match=r"differ: operation \(the ledger has 'preauthorize'"):
                await charges.submit("night", [charge(5)])

    assert service.requests == {"b5": 1}
    assert await states(ledger) == {"succeeded": 1}


async def test_what_is_stored_in_another_order_is_the_same(ledger: str) -> None:
    """Arguments are compared by name, as another release may have stored them in another order."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        await reservations.preauthorize(**attrs.asdict(request(0)))
        async with Ledger(ledger) as opened:
            await opened.commits.run(turn_arguments_round)
        assert len(await outcomes(await reservations.submit("night", [request(0)]))) == 1

    assert service.made.total() == 1


def turn_arguments_round(connection: Any) -> None:
    import json

    stored = json.loads(connection.query("SELECT arguments FROM jetpay_payment", {})[0][0])
    turned = json.dumps(dict(reversed(stored.items())))
    connection.change("UPDATE jetpay_payment SET arguments = :turned", {"turned": turned})


@pytest.mark.parametrize(
    ("given", "message", "field"),
    [
        ([request(0), request(1, amount="1.005")], "item 2: amount", "amount"),
        ([request(0, reference="")], "item 1: reference", "reference"),
        ([request(0), "b1"], "item 2: requests: an item is a PreauthorizationRequest, not str", "requests"),
        (5, "requests: is an iterable or an async iterable, not int", "requests"),
    ],
)
async def test_what_can_not_be_sent_is_refused_before_anything_is_added(
    ledger: str, given: Any, message: str, field: str
) -> None:
    """The first item that can't be right is named, and nothing is added."""
    async with serving() as (_, client), client.durable_preauthorizations(ledger) as reservations:
        with pytest.raises(InvalidArgumentError, match=message) as caught:
            await reservations.submit("night", given)

    assert caught.value.field == field
    assert await states(ledger) == {}


async def test_keys_and_limits_are_checked(ledger: str) -> None:
    """A key that can't be one, and a number that is out of range, are refused."""
    async with serving() as (_, client), client.durable_preauthorizations(ledger) as reservations:
        with pytest.raises(InvalidArgumentError, match="key:"):
            await reservations.submit("", [])
        with pytest.raises(InvalidArgumentError, match="key:"):
            await reservations.batch("\n")
        with pytest.raises(UnknownBatchError, match="'night'"):
            await reservations.batch("night")
        for make in (client.durable_preauthorizations, client.durable_charges, client.durable_credits):
            with pytest.raises(InvalidArgumentError, match="concurrency"):
                make(ledger, concurrency=0)


async def test_a_call_for_a_reference_of_a_batch_in_flight_gets_its_answer(ledger: str) -> None:
    """Whoever asks for one by itself meanwhile waits for it, and nothing is sent twice."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        service.script["b0"] = [WAIT]
        batch = await reservations.submit("night", requests(2))
        await service.arrived.wait()
        while not service.requests["b0"]:
            await asyncio.sleep(0)
        asking = asyncio.ensure_future(reservations.preauthorize(**attrs.asdict(request(0))))
        await asyncio.sleep(0)
        service.go.set()
        reserved = await asking

        assert (await outcomes(batch))["b0"].debit_id == reserved.debit_id
    assert service.requests == {"b0": 1, "b1": 1}


async def test_two_processes_share_a_batch(ledger: str) -> None:
    """Each payment is sent by one of them, and both see all outcomes."""
    async with (
        serving() as (service, client),
        JetpayClient("t", base_url=service.url) as other,
        client.durable_preauthorizations(ledger, concurrency=3) as mine,
        other.durable_preauthorizations(ledger, concurrency=3) as theirs,
    ):
        first = await mine.submit("night", requests(30))
        second = await theirs.batch("night")
        found = await asyncio.gather(outcomes(first), outcomes(second))

    assert [len(each) for each in found] == [30, 30]
    assert service.requests == {f"b{number}": 1 for number in range(30)}


async def test_a_rejection_that_is_retried_gets_another_place(ledger: str) -> None:
    """Sent again by a call with ``retry_rejected``, a payment of a batch is reported anew to whoever reads on."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        service.script["b0"] = [(422, {"detail": "card declined"})]
        batch = await reservations.submit("night", [request(0)])
        assert isinstance((await outcomes(batch))["b0"], Rejected)
        service.script["b0"] = [WAIT]
        service.arrived.clear()
        asking = asyncio.ensure_future(reservations.preauthorize(retry_rejected=True, **attrs.asdict(request(0))))
        await service.arrived.wait()
        assert not (await batch.progress()).complete
        service.go.set()
        await asking

        assert isinstance((await outcomes(batch))["b0"], Preauthorized)


async def test_a_place_that_is_missing_is_a_problem(ledger: str) -> None:
    """`Ledger.verify` finds items of batches whose place does not agree with their payment."""
    async with serving() as (_, client), client.durable_preauthorizations(ledger) as reservations:
        await (await reservations.submit("night", requests(2))).wait()
    async with Ledger(ledger) as opened:
        await opened.commits.run(lambda connection: connection.change("UPDATE jetpay_payment_item SET seq = NULL", {}))
        assert (await opened.verify()).problems == (
            "2 items of batches of payments have an outcome without a place, or a place without one",
        )
