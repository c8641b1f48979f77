"""Faults of deliveries: duplicated, late, out of order, signed with a wrong clock or a rotated key."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import aiohttp
import pytest

from jetpay_async import Clock
from jetpay_async.sandbox import (
    DeliveryFault,
    DeliveryFaultKind,
    DeliveryPolicy,
    Sandbox,
)

from .calling import Caller, Receiver
from .deliveries import claims_of, make_events, read_webhook

if TYPE_CHECKING:
    pass


@pytest.mark.asyncio
async def test_duplicate(caller: Caller, receiver: Receiver) -> None:
    """A duplicated delivery arrives twice with the same body and a token of its own; the next one arrives once."""
    caller.sandbox.add_webhook(receiver.url, max_batch_size=2)
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.DUPLICATE))

    await make_events(caller, 3)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[1, 2], [1, 2], [3]]
    assert receiver.received[0].body == receiver.received[1].body
    assert len({claims_of(each, caller.sandbox.jwks)["jti"] for each in receiver.received}) == 3
    assert caller.sandbox.delivery_faults.injected == {"duplicate": 1}


@pytest.mark.asyncio
async def test_a_rejected_delivery_is_not_duplicated(caller: Caller, receiver: Receiver) -> None:
    """What was not accepted is retried, not duplicated."""
    receiver.answers = [500]
    caller.sandbox.add_webhook(receiver.url)
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.DUPLICATE))

    await make_events(caller, 1)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[1], [1]]


@pytest.mark.asyncio
async def test_reorder(caller: Caller, receiver: Receiver) -> None:
    """A reordered delivery arrives after the one that should follow it, and nothing is lost."""
    identifier = caller.sandbox.add_webhook(receiver.url, max_batch_size=2)
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.REORDER))

    await make_events(caller, 4)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[3, 4], [1, 2]]
    assert (await read_webhook(caller, identifier))["last_sent_event_id"] == 4


@pytest.mark.asyncio
async def test_reorder_with_nothing_to_follow(caller: Caller, receiver: Receiver) -> None:
    """Where nothing follows in time, a reordered delivery arrives all the same."""
    caller.sandbox.add_webhook(receiver.url)
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.REORDER))

    await make_events(caller, 1)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[1]]


@pytest.mark.asyncio
async def test_late(caller: Caller, receiver: Receiver) -> None:
    """A late delivery leaves that long after it was signed."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    async with Sandbox(clock=Clock(sleep=sleep)) as sandbox:
        sandbox.add_webhook(receiver.url)
        sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.LATE, seconds=120))
        await Caller(sandbox, caller.session).reserve()
        await sandbox.drain_deliveries()

    assert slept[-1] == 120
    assert receiver.event_ids == [[1]]


@pytest.mark.asyncio
@pytest.mark.parametrize("seconds", [-300, 300])
async def test_clock_skew(caller: Caller, receiver: Receiver, seconds: float) -> None:
    """A skewed clock moves both iat and exp, of as many attempts as are asked for."""
    receiver.answers = [401, 401]
    caller.sandbox.add_webhook(receiver.url)
    fault = DeliveryFault(kind=DeliveryFaultKind.CLOCK_SKEW, seconds=seconds, count=2)
    caller.sandbox.delivery_faults.add(fault)

    await make_events(caller, 1)
    await caller.sandbox.drain_deliveries()

    claims = [claims_of(each, caller.sandbox.jwks) for each in receiver.received]
    skews = [each["iat"] - time.time() for each in claims]
    assert [each["exp"] - each["iat"] for each in claims] == [90, 90, 90]
    assert skews == [pytest.approx(seconds, abs=5), pytest.approx(seconds, abs=5), pytest.approx(0, abs=5)]


@pytest.mark.asyncio
@pytest.mark.parametrize("keep_old", [True, False])
async def test_key_rotated_under_way(caller: Caller, receiver: Receiver, *, keep_old: bool) -> None:
    """A key rotated between signing and sending leaves a delivery that verifies only if the old key is kept."""
    receiver.answers = [401]
    caller.sandbox.add_webhook(receiver.url)
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.ROTATE_KEY, keep_old=keep_old))

    await make_events(caller, 1)
    await caller.sandbox.drain_deliveries()

    first, second = receiver.received
    assert claims_of(second, {"keys": caller.sandbox.jwks["keys"][:1]})
    if keep_old:
        assert claims_of(first, {"keys": caller.sandbox.jwks["keys"][1:]})
    else:
        with pytest.raises(ValueError, match="not enough values"):
            claims_of(first, caller.sandbox.jwks)


@pytest.mark.asyncio
async def test_faults_of_one_webhook(caller: Caller, receiver: Receiver) -> None:
    """A fault that names a webhook leaves the others alone."""
    first = caller.sandbox.add_webhook(receiver.url)
    second = caller.sandbox.add_webhook(receiver.url + "?second")
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.DUPLICATE, webhook=second))

    await make_events(caller, 1)
    await caller.sandbox.drain_deliveries()

    arrivals = [each.webhook for each in caller.sandbox.deliveries]
    assert (arrivals.count(first), arrivals.count(second)) == (1, 2)


@pytest.mark.asyncio
async def test_everything_at_once(receiver: Receiver) -> None:
    """With every fault on and a receiver that often says no, every event arrives at least once."""
    policy = DeliveryPolicy(speedup=1e6, max_attempts=50)
    async with Sandbox(delivery=policy) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        sandbox.add_webhook(receiver.url)
        for kind in DeliveryFaultKind:
            if kind is not DeliveryFaultKind.ROTATE_KEY:
                sandbox.delivery_faults.add(DeliveryFault(kind=kind, probability=0.2))
        receiver.answers = [500, 204, 204] * 10
        await make_events(caller, 300)

        await sandbox.drain_deliveries()

    assert {number for batch in receiver.event_ids for number in batch} == set(range(1, 301))
    assert all(batch == sorted(batch) for batch in receiver.event_ids)
    assert set(sandbox.delivery_faults.injected) == {"duplicate", "late", "reorder", "clock_skew"}
