"""Events are delivered in signed batches, and retried."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import attrs
import pytest
from cryptography.exceptions import InvalidSignature

from jetpay_async import Clock
from jetpay_async.sandbox import (
    CALLBACK_API_KEY_HEADER,
    DeliveryPolicy,
    Sandbox,
    WebhookState,
)
from jetpay_async.webhooks._signing import sign

from .calling import Caller, Received, Receiver, until
from .deliveries import claims_of, decode_number, make_events, read_webhook

if TYPE_CHECKING:
    pass


@pytest.mark.asyncio
async def test_delivery(caller: Caller, receiver: Receiver) -> None:
    """A delivery has the documented body, header and claims, and its signature verifies with the published keys."""
    clock = Clock(time=lambda: 1_769_076_930.123456)
    policy = DeliveryPolicy(speedup=1e6)
    async with Sandbox(clock=clock, delivery=policy) as sandbox:
        local = Caller(sandbox, caller.session)
        sandbox.add_webhook(receiver.url, callback_api_key="shared secret")
        debit_id = await local.reserve()
        await local.capture(debit_id)
        await sandbox.drain_deliveries()
        published = await local.call("GET", "/.well-known/jwks.json", headers={"Authorization": ""})

    (delivery,) = receiver.received
    created = "2026-01-22T10:15:30.123456Z"
    kind = "transactions.debits.created"
    assert delivery.document == {
        "webhookId": 1,
        "events": [
            {
                "id": 1,
                "createdAt": created,
                "type": kind,
                "data": {"state": "preauthorized", "transactionId": debit_id},
            },
            {"id": 2, "createdAt": created, "type": kind, "data": {"state": "paid", "transactionId": debit_id}},
        ],
    }
    assert delivery.headers["Content-Type"] == "application/json"
    assert delivery.headers[CALLBACK_API_KEY_HEADER] == "shared secret"
    claims = claims_of(delivery, published.document)
    assert published.document == sandbox.jwks
    assert set(claims) == {"jti", "iat", "exp", "iss", "sub", "payload_hash"}
    assert (claims["iat"], claims["exp"], claims["iss"], claims["sub"]) == (
        1_769_076_930,
        1_769_077_020,
        "jetpay",
        "webhook",
    )
    assert [{**each} for each in map(attrs.asdict, sandbox.deliveries)] == [
        {
            "webhook": sandbox.deliveries[0].webhook,
            "url": receiver.url,
            "event_ids": (1, 2),
            "attempt": 1,
            "status": 204,
            "error": "",
            "time": 1_769_076_930.123456,
            "kid": published.document["keys"][0]["kid"],
            "fault": None,
        }
    ]


@pytest.mark.asyncio
async def test_no_api_key_no_header(caller: Caller, receiver: Receiver) -> None:
    """Without a `callback_api_key` there is no header for it."""
    caller.sandbox.add_webhook(receiver.url)

    await caller.reserve()
    await caller.sandbox.drain_deliveries()

    assert CALLBACK_API_KEY_HEADER not in receiver.received[0].headers


def test_jwk() -> None:
    """The key set is standard: one RSA signing key of 2048 bits, with an id of its own, and nothing private."""
    (key,) = Sandbox().jwks["keys"]
    (other,) = Sandbox().jwks["keys"]

    assert set(key) == {"kty", "use", "alg", "kid", "n", "e"}
    assert (key["kty"], key["use"], key["alg"], key["e"]) == ("RSA", "sig", "RS256", "AQAB")
    assert decode_number(key["n"]).bit_length() == 2048
    assert key["kid"] != other["kid"]


@pytest.mark.parametrize("keep_old", [True, False])
def test_rotation(*, keep_old: bool) -> None:
    """A rotated set begins with the new key, and holds the old ones only if asked to."""
    sandbox = Sandbox()
    (old,) = sandbox.jwks["keys"]

    sandbox.rotate_key(keep_old=keep_old)
    sandbox.rotate_key(keep_old=keep_old)

    new, *rest = sandbox.jwks["keys"]
    assert new not in rest
    assert len(rest) == (2 if keep_old else 0)
    assert (old in rest) is keep_old


def test_rotation_of_a_key_that_was_never_read() -> None:
    """The old key is kept also if it had never been read."""
    sandbox = Sandbox()

    sandbox.rotate_key()

    assert len(sandbox.jwks["keys"]) == 2


@pytest.mark.asyncio
async def test_batches(caller: Caller, receiver: Receiver) -> None:
    """Events come in the order of their ids, none left out, at most `max_batch_size` in a delivery."""
    caller.sandbox.add_webhook(receiver.url, max_batch_size=3)

    await make_events(caller, 8)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[1, 2, 3], [4, 5, 6], [7, 8]]


@pytest.mark.asyncio
async def test_a_full_batch_does_not_wait(receiver: Receiver) -> None:
    """A full batch leaves at once; the rest is scheduled until its time has come."""
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        identifier = sandbox.add_webhook(receiver.url, max_batch_size=3)
        await make_events(caller, 4)

        await until(lambda: len(sandbox.deliveries) == 1)
        shown = await read_webhook(caller, identifier)

    assert receiver.event_ids == [[1, 2, 3]]
    assert (shown["state"], shown["last_sent_event_id"]) == ("scheduled", 3)


@pytest.mark.asyncio
async def test_an_unfilled_batch_leaves_in_time(caller: Caller, receiver: Receiver) -> None:
    """A batch that does not fill leaves after `max_wait_seconds`, divided by the speedup, without any drain."""
    identifier = caller.sandbox.add_webhook(receiver.url)
    await make_events(caller, 2)

    await until(lambda: len(caller.sandbox.deliveries) == 1)

    assert receiver.event_ids == [[1, 2]]
    assert (await read_webhook(caller, identifier))["state"] == "active"


@pytest.mark.asyncio
async def test_retries(caller: Caller, receiver: Receiver) -> None:
    """What is not answered with 2xx is sent again, the same events with another token, before anything newer."""
    receiver.answers = [500, 302, 404, 200]
    identifier = caller.sandbox.add_webhook(receiver.url, max_batch_size=2)

    await make_events(caller, 3)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[1, 2], [1, 2], [1, 2], [1, 2], [3]]
    assert len({claims_of(each, caller.sandbox.jwks)["jti"] for each in receiver.received}) == 5
    assert [(each.attempt, each.status, each.accepted) for each in caller.sandbox.deliveries] == [
        (1, 500, False),
        (2, 302, False),
        (3, 404, False),
        (4, 200, True),
        (1, 204, True),
    ]
    shown = await read_webhook(caller, identifier)
    assert (shown["state"], shown["last_sent_event_id"]) == ("active", 3)


@pytest.mark.asyncio
async def test_giving_up(receiver: Receiver) -> None:
    """After the last attempt a webhook is failed and keeps its events; changing it delivers them."""
    receiver.answers = [500, 500, 500]
    policy = DeliveryPolicy(speedup=1e6, max_attempts=3)
    async with Sandbox(delivery=policy) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        identifier = sandbox.add_webhook(receiver.url)
        await make_events(caller, 2)
        await sandbox.drain_deliveries()

        given_up = await read_webhook(caller, identifier)
        assert len(receiver.received) == 3
        await sandbox.stop()
        await sandbox.start()
        await sandbox.drain_deliveries()
        assert await read_webhook(caller, identifier) == given_up
        assert len(receiver.received) == 3
        await caller.call("PATCH", f"/webhooks/{identifier}", {})
        await sandbox.drain_deliveries()
        revived = await read_webhook(caller, identifier)

    assert (given_up["state"], given_up["last_sent_event_id"]) == ("failed", None)
    assert (revived["state"], revived["last_sent_event_id"]) == ("active", 2)
    assert receiver.event_ids == [[1, 2]] * 4


@pytest.mark.asyncio
async def test_backing_off(receiver: Receiver) -> None:
    """Between attempts a webhook is shown as backing off; the waits double up to their limit."""
    receiver.answers = [500] * 4
    slept: list[float] = []
    states: list[WebhookState] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        states.extend(webhook.state for webhook in sandbox._webhooks)  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(0)

    clock = Clock(sleep=sleep)
    policy = DeliveryPolicy(speedup=10, base_delay=1, max_delay=3)
    async with Sandbox(clock=clock, delivery=policy) as sandbox, aiohttp.ClientSession() as session:
        sandbox.add_webhook(receiver.url)
        await Caller(sandbox, session).reserve()
        await until(lambda: len(sandbox.deliveries) == 5)

    assert slept == [6.0, 0.1, 0.2, 0.3, 0.3]
    assert states == ["scheduled", "backing_off", "backing_off", "backing_off", "backing_off"]


@pytest.mark.asyncio
async def test_dispatching(caller: Caller, receiver: Receiver) -> None:
    """While a receiver has not answered, the webhook is shown as dispatching."""
    receiver.silent = True
    identifier = caller.sandbox.add_webhook(receiver.url)
    await make_events(caller, 1)
    await until(lambda: bool(receiver.received))

    shown = await read_webhook(caller, identifier)

    assert shown["state"] == "dispatching"


@pytest.mark.asyncio
async def test_a_receiver_that_is_silent(caller: Caller, receiver: Receiver) -> None:
    """A receiver that does not answer in time is tried again."""
    receiver.silent = True
    policy = DeliveryPolicy(speedup=1e6, timeout=0.02, max_attempts=2)
    async with Sandbox(delivery=policy) as sandbox:
        sandbox.add_webhook(receiver.url)
        await Caller(sandbox, caller.session).reserve()
        await sandbox.drain_deliveries()

    assert [(each.status, each.error) for each in sandbox.deliveries] == [(None, "TimeoutError")] * 2


@pytest.mark.asyncio
async def test_a_receiver_that_is_down(caller: Caller, unused_tcp_port: int) -> None:
    """A receiver that can't be reached is retried, and the log says why."""
    caller.sandbox.add_webhook(f"http://127.0.0.1:{unused_tcp_port}/")

    await make_events(caller, 1)
    await caller.sandbox.drain_deliveries()

    assert {(each.status, each.error, each.accepted) for each in caller.sandbox.deliveries} == {
        (None, "ClientConnectorError", False)
    }
    assert [each.attempt for each in caller.sandbox.deliveries] == list(range(1, 11))


@pytest.mark.asyncio
async def test_drain_has_a_limit(receiver: Receiver) -> None:
    """A drain that takes too long is a TimeoutError; without a running sandbox it is a RuntimeError."""
    receiver.answers = [500]
    async with Sandbox(delivery=DeliveryPolicy(speedup=1)) as sandbox, aiohttp.ClientSession() as session:
        sandbox.add_webhook(receiver.url)
        await Caller(sandbox, session).reserve()

        with pytest.raises(TimeoutError):
            await sandbox.drain_deliveries(timeout=0.05)

    with pytest.raises(RuntimeError, match="does not run"):
        await sandbox.drain_deliveries()


@pytest.mark.asyncio
async def test_batches_wait_again_after_a_drain(caller: Caller, receiver: Receiver) -> None:
    """A drain ends the waiting for what there is, not for what comes later."""
    async with Sandbox() as sandbox:
        local = Caller(sandbox, caller.session)
        identifier = sandbox.add_webhook(receiver.url)
        await make_events(local, 1)
        await sandbox.drain_deliveries()

        await make_events(local, 1)
        shown = await read_webhook(local, identifier)

    assert (shown["state"], shown["last_sent_event_id"]) == ("scheduled", 1)


@pytest.mark.asyncio
async def test_delivered_after_a_restart(caller: Caller, receiver: Receiver) -> None:
    """What was not delivered before a stop is delivered after the next start, whenever the webhook was added."""
    sandbox = caller.sandbox
    await sandbox.stop()
    sandbox.add_webhook(receiver.url)
    await sandbox.start()
    await make_events(caller, 1)
    await sandbox.stop()
    sandbox.set_state(sandbox.debits[0].identifier, "paid")
    await sandbox.start()

    await sandbox.drain_deliveries()

    assert [number for batch in receiver.event_ids for number in batch] == [1, 2]


def test_verification_can_fail() -> None:
    """These tests' own verification rejects a token that was signed with another key of the same id."""
    sandbox, other = Sandbox(), Sandbox()
    key = sandbox._keys.current  # pyright: ignore[reportPrivateUsage]
    body = b"{}"
    delivery = Received({"Authorization": sign(body, key.private_key, kid=key.kid)}, body)
    forged = {"keys": [other.jwks["keys"][0] | {"kid": key.kid}]}

    assert claims_of(delivery, sandbox.jwks)
    with pytest.raises(InvalidSignature):
        claims_of(delivery, forged)
    with pytest.raises(AssertionError):
        claims_of(attrs.evolve(delivery, body=b"{ }"), sandbox.jwks)
