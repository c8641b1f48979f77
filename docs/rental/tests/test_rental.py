"""The shop, without a server: the same in asyncio_mode auto and strict, in a loop of any scope, and under xdist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
from fastapi.testclient import TestClient

from jetpay_async.sandbox import Fault, FaultKind, Sandbox
from jetpay_async.testing import DeliveryBuilder, SigningKeys
from rental.app import create_app
from rental.payments import Settings


@asynccontextmanager
async def running(settings: Settings, keys: SigningKeys) -> AsyncIterator[httpx.AsyncClient]:
    """Run the application in the test's own event loop."""
    app = create_app(settings, keys=keys.key_set)
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://shop") as http:
        yield http


def booking_of(sandbox: Sandbox) -> dict[str, str]:
    """Return a booking's body, for a customer with a good card."""
    payer = sandbox.add_payer()
    return {"contact_id": payer.contact_id, "credit_card_id": payer.credit_card_id, "amount": "250.00"}


def test_booked_returned_and_paid_once(
    settings: Settings, jetpay_sandbox: Sandbox, jetpay_keys: SigningKeys, signed_delivery: DeliveryBuilder
) -> None:
    """However often each request comes, one amount is reserved and captured; an event counts once."""
    new = booking_of(jetpay_sandbox)
    with TestClient(create_app(settings, keys=jetpay_keys.key_set)) as http:
        booked = [http.put("/bookings/b1", json=new).json() for _ in range(2)]
        returned = [http.post("/bookings/b1/return").json() for _ in range(2)]
        paid = signed_delivery(signed_delivery.event("paid", transaction_id=booked[0]["debit_id"]))
        statuses = [
            http.post("/webhooks/jetpay", content=paid.body, headers=paid.headers).status_code for _ in range(2)
        ]
        shown = http.get("/bookings/b1").json()

    assert booked[0] == booked[1]
    assert (booked[0]["state"], returned[1]["state"]) == ("reserved", "returned")
    assert statuses == [200, 200]
    assert (shown["state"], shown["payments"]) == ("paid", 1)
    assert [debit.captures for debit in jetpay_sandbox.debits] == [1]


def test_a_rejected_token_declines_no_booking(
    settings: Settings, jetpay_sandbox: Sandbox, jetpay_keys: SigningKeys
) -> None:
    """The booking stays open, and the same request reserves it once the token is right."""
    new = booking_of(jetpay_sandbox)
    with TestClient(create_app(replace(settings, api_token="old"), keys=jetpay_keys.key_set)) as http:  # noqa: S106 - no secret
        rejected = http.put("/bookings/b1", json=new).status_code
    with TestClient(create_app(settings, keys=jetpay_keys.key_set)) as http:
        booked = http.put("/bookings/b1", json=new).json()

    assert rejected == httpx.codes.SERVICE_UNAVAILABLE
    assert booked["state"] == "reserved"


@pytest.mark.asyncio
async def test_an_unknown_reservation_is_adopted(
    settings: Settings, jetpay_sandbox: Sandbox, jetpay_keys: SigningKeys, signed_delivery: DeliveryBuilder
) -> None:
    """A lost answer leaves the booking to the staff, who see which debit the event offers; nothing is sent again."""
    jetpay_sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="preauthorize"))
    async with running(settings, jetpay_keys) as http:
        booked = (await http.put("/bookings/b1", json=booking_of(jetpay_sandbox))).json()
        (debit,) = jetpay_sandbox.debits
        event = signed_delivery.event("preauthorized", transaction_id=debit.identifier)
        delivery = signed_delivery(event)
        await http.post("/webhooks/jetpay", content=delivery.body, headers=delivery.headers)
        (unknown,) = (await http.get("/staff/unknown")).json()
        decision = {"debit_id": unknown["candidates"][0]["debit_id"]}
        adopted = (await http.post("/staff/unknown/b1/adopt", json=decision)).json()
        left = (await http.get("/staff/unknown")).json()

    assert booked["state"] == "unknown"
    assert unknown["booking"] == "b1"
    assert (adopted["state"], adopted["debit_id"]) == ("reserved", debit.identifier)
    assert left == []
    assert jetpay_sandbox.requests("preauthorize") == 1


@pytest.mark.asyncio
async def test_orphans_are_released_but_none_that_a_booking_holds(
    settings: Settings, jetpay_sandbox: Sandbox, jetpay_keys: SigningKeys, signed_delivery: DeliveryBuilder
) -> None:
    """What no booking holds is cancelled, once the staff has decided about the booking that may have made it."""
    new = booking_of(jetpay_sandbox)
    async with running(settings, jetpay_keys) as http:
        shop = http._transport.app.state.shop  # type: ignore[attr-defined] # noqa: SLF001 - the job's way in
        held = (await http.put("/bookings/b1", json=new)).json()["debit_id"]
        jetpay_sandbox.faults.add(Fault(kind=FaultKind.LOSE_REPLY_AFTER, route="preauthorize"))
        await http.put("/bookings/b2", json=new)
        (lost,) = {debit.identifier for debit in jetpay_sandbox.debits} - {held}
        events = [signed_delivery.event("preauthorized", transaction_id=debit_id) for debit_id in (held, lost)]
        delivery = signed_delivery(*events)
        await http.post("/webhooks/jetpay", content=delivery.body, headers=delivery.headers)

        undecided = await shop.release_orphans(older_than=0.001)
        discarded = (await discard_when_certain(http, "b2")).json()
        released = await shop.release_orphans(older_than=0.001)

    assert [report.result for report in undecided] == ["kept"]
    assert discarded["state"] == "declined"
    assert [(report.transaction_id, report.result) for report in released] == [(lost, "released")]
    assert jetpay_sandbox.debit(held).state == "preauthorized"


async def discard_when_certain(http: httpx.AsyncClient, booking_id: str) -> httpx.Response:
    """Ask again until the lost request can't be on its way any more."""
    while True:
        response = await http.post(f"/staff/unknown/{booking_id}/discard")
        if response.status_code != httpx.codes.CONFLICT:
            return response
        await asyncio.sleep(0.05)
