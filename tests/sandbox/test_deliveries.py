"""Webhooks: registered, delivered in signed batches, retried, and damaged on request."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import uuid
from base64 import urlsafe_b64decode
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING, Any

import aiohttp
import attrs
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jetpay_async import Clock
from jetpay_async.sandbox import (
    CALLBACK_API_KEY_HEADER,
    DeliveryFault,
    DeliveryFaultKind,
    DeliveryPolicy,
    Sandbox,
    WebhookState,
)
from jetpay_async.webhooks._signing import sign

from .calling import Caller, Received, Receiver, until

if TYPE_CHECKING:
    from collections.abc import Mapping


def _decode(segment: str) -> bytes:
    return urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _number(segment: str) -> int:
    return int.from_bytes(_decode(segment), "big")


def _claims(delivery: Received, jwks: Mapping[str, list[dict[str, str]]]) -> dict[str, Any]:
    """Verify a delivery with nothing but `cryptography`, and return its claims."""
    scheme, token = delivery.headers["Authorization"].split(" ")
    assert scheme == "Bearer"
    header, payload, signature = token.split(".")
    kid = json.loads(_decode(header))["kid"]
    (key,) = [key for key in jwks["keys"] if key["kid"] == kid]
    public = rsa.RSAPublicNumbers(e=_number(key["e"]), n=_number(key["n"])).public_key()
    public.verify(_decode(signature), f"{header}.{payload}".encode(), padding.PKCS1v15(), hashes.SHA256())
    claims: dict[str, Any] = json.loads(_decode(payload))
    assert _decode(claims["payload_hash"]) == hashlib.sha256(delivery.body).digest()
    return claims


async def _webhook(caller: Caller, identifier: str) -> Any:
    answer = await caller.call("GET", f"/webhooks/{identifier}")
    assert answer.status == 200
    return answer.document


async def _events(caller: Caller, total: int) -> None:
    """Make so many events."""
    debit_id = await caller.reserve()
    for number in range(total - 1):
        caller.sandbox.set_state(debit_id, f"state-{number}")


@pytest.mark.asyncio
async def test_registration(caller: Caller, receiver: Receiver) -> None:
    """A webhook is created with the documented defaults, listed, read and removed."""
    created = await caller.call("POST", "/webhooks/", {"callback_url": receiver.url})
    identifier = created.document["identifier"]
    expected = {
        "id": 1,
        "identifier": str(uuid.UUID(identifier)),
        "callback_url": receiver.url,
        "callback_api_key": None,
        "state": "active",
        "last_sent_event_id": None,
        "max_batch_size": 10,
        "max_wait_seconds": 60,
    }

    assert (created.status, created.document) == (200, expected)
    assert (await caller.call("GET", "/webhooks/")).document == [expected]
    assert await _webhook(caller, identifier) == expected
    removed = await caller.call("DELETE", f"/webhooks/{identifier}")
    assert (removed.status, removed.document) == (200, {"ok": True})
    assert (await caller.call("GET", "/webhooks/")).document == []
    for method in ("GET", "PATCH", "DELETE"):
        answer = await caller.call(method, f"/webhooks/{identifier}", {})
        assert (answer.status, answer.document) == (404, {"detail": "Webhook not found"})
    again = await caller.call("POST", "/webhooks/", {"callback_url": receiver.url})
    assert again.document["id"] == 2


@pytest.mark.asyncio
async def test_change(caller: Caller, receiver: Receiver) -> None:
    """A change touches the named fields and leaves the others; its own URL is no duplicate."""
    first = {"callback_url": receiver.url, "callback_api_key": "k", "max_batch_size": 1, "max_wait_seconds": 3600}
    created = (await caller.call("POST", "/webhooks/", first)).document
    path = f"/webhooks/{created['identifier']}"

    changed = await caller.call("PATCH", path, {"max_batch_size": 100})
    same_url = await caller.call("PATCH", path, {"callback_url": receiver.url, "max_wait_seconds": 60})
    new_url = await caller.call("PATCH", path, {"callback_url": receiver.url + "?v=2", "callback_api_key": "l"})

    assert (changed.status, changed.document) == (200, created | {"max_batch_size": 100})
    assert same_url.document == created | {"max_batch_size": 100, "max_wait_seconds": 60}
    assert new_url.document == same_url.document | {"callback_url": receiver.url + "?v=2", "callback_api_key": "l"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("changes", "place", "kind"),
    [
        ({"callback_url": None}, "callback_url", "missing"),
        ({"callback_url": "nonsense"}, "callback_url", "url_parsing"),
        ({"callback_url": "ftp://127.0.0.1/"}, "callback_url", "url_parsing"),
        ({"callback_url": "http://"}, "callback_url", "url_parsing"),
        ({"callback_url": "http://[/"}, "callback_url", "url_parsing"),
        ({"callback_url": "https://example.com/hook"}, "callback_url", "value_error"),
        ({"callback_url": "http://10.0.0.1/hook"}, "callback_url", "value_error"),
        ({"callback_url": "http://127.0.0.1.example.com/"}, "callback_url", "value_error"),
        ({"callback_api_key": 1}, "callback_api_key", "string_type"),
        ({"max_batch_size": 0}, "max_batch_size", "greater_than_equal"),
        ({"max_batch_size": 101}, "max_batch_size", "less_than_equal"),
        ({"max_batch_size": True}, "max_batch_size", "int_type"),
        ({"max_batch_size": 1.5}, "max_batch_size", "int_type"),
        ({"max_wait_seconds": 59}, "max_wait_seconds", "greater_than_equal"),
        ({"max_wait_seconds": 3601}, "max_wait_seconds", "less_than_equal"),
        ({"replay_from_event_id": 0}, "replay_from_event_id", "greater_than_equal"),
        ({"replay_from_timestamp": "yesterday"}, "replay_from_timestamp", "datetime_parsing"),
        ({"replay_from_timestamp": 5}, "replay_from_timestamp", "string_type"),
    ],
    ids=str,
)
async def test_bad_registrations(caller: Caller, changes: dict[str, object], place: str, kind: str) -> None:
    """Each bad field is rejected by its place and type, and nothing is registered."""
    answer = await caller.call("POST", "/webhooks/", {"callback_url": "http://localhost:1/"} | changes)

    assert answer.status == 422
    assert [(each["loc"], each["type"]) for each in answer.document["detail"]] == [(["body", place], kind)]
    assert (await caller.call("GET", "/webhooks/")).document == []


@pytest.mark.asyncio
async def test_one_webhook_per_url(caller: Caller, receiver: Receiver) -> None:
    """A second webhook for a URL is a validation error, made new, changed or in the process."""
    caller.sandbox.add_webhook(receiver.url)
    other = caller.sandbox.add_webhook(receiver.url + "?other")

    created = await caller.call("POST", "/webhooks/", {"callback_url": receiver.url})
    changed = await caller.call("PATCH", f"/webhooks/{other}", {"callback_url": receiver.url})

    assert created.status == changed.status == 422
    assert created.document["detail"][0]["msg"] == "A webhook for this URL exists already"
    with pytest.raises(ValueError, match="exists already"):
        caller.sandbox.add_webhook(receiver.url)


def test_this_machine_only() -> None:
    """Deliveries go to loopback only, unless that is said explicitly."""
    urls = ["https://example.com/hook", "http://localhost/", "http://127.0.0.1/", "http://[::1]/"]
    public = Sandbox(delivery=DeliveryPolicy(public_callbacks=True))

    with pytest.raises(ValueError, match="this machine only"):
        Sandbox().add_webhook(urls[0])
    here = Sandbox()
    assert len({here.add_webhook(url) for url in urls[1:]}) == 3
    assert len({public.add_webhook(url) for url in urls}) == 4


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
    claims = _claims(delivery, published.document)
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
    assert _number(key["n"]).bit_length() == 2048
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

    await _events(caller, 8)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[1, 2, 3], [4, 5, 6], [7, 8]]


@pytest.mark.asyncio
async def test_a_full_batch_does_not_wait(receiver: Receiver) -> None:
    """A full batch leaves at once; the rest is scheduled until its time has come."""
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        identifier = sandbox.add_webhook(receiver.url, max_batch_size=3)
        await _events(caller, 4)

        await until(lambda: len(sandbox.deliveries) == 1)
        shown = await _webhook(caller, identifier)

    assert receiver.event_ids == [[1, 2, 3]]
    assert (shown["state"], shown["last_sent_event_id"]) == ("scheduled", 3)


@pytest.mark.asyncio
async def test_an_unfilled_batch_leaves_in_time(caller: Caller, receiver: Receiver) -> None:
    """A batch that does not fill leaves after `max_wait_seconds`, divided by the speedup, without any drain."""
    identifier = caller.sandbox.add_webhook(receiver.url)
    await _events(caller, 2)

    await until(lambda: len(caller.sandbox.deliveries) == 1)

    assert receiver.event_ids == [[1, 2]]
    assert (await _webhook(caller, identifier))["state"] == "active"


@pytest.mark.asyncio
async def test_only_events_from_now_on(caller: Caller, receiver: Receiver) -> None:
    """A webhook gets the events after its creation, two webhooks each get all of them."""
    await _events(caller, 2)
    caller.sandbox.add_webhook(receiver.url)
    await caller.call("POST", "/webhooks/", {"callback_url": receiver.url + "?second"})

    await _events(caller, 1)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[3], [3]]
    assert {json.loads(each.body)["webhookId"] for each in receiver.received} == {1, 2}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("replay", "expected"),
    [
        ({"replay_from_event_id": 2}, [[2, 3]]),
        ({"replay_from_timestamp": "2026-01-01T00:00:02Z"}, [[2, 3]]),
        ({"replay_from_timestamp": "2026-01-01T01:00:02+01:00"}, [[2, 3]]),
        ({"replay_from_timestamp": "2026-01-01T00:00:02"}, [[2, 3]]),
        ({"replay_from_timestamp": "2030-01-01"}, []),
        ({"replay_from_event_id": 3, "replay_from_timestamp": "2026-01-01T00:00:02"}, [[3]]),
        ({"replay_from_event_id": 4}, []),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_replay(receiver: Receiver, method: str, replay: dict[str, object], expected: list[list[int]]) -> None:
    """A replay starts at the event, or at the first one of the moment, both inclusive."""
    moments = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number) for number in count(1))
    clock = Clock(time=lambda: next(moments).timestamp())
    async with Sandbox(clock=clock) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        await _events(caller, 3)
        if method == "POST":
            await caller.call("POST", "/webhooks/", {"callback_url": receiver.url, **replay})
        else:
            identifier = sandbox.add_webhook(receiver.url)
            await caller.call("PATCH", f"/webhooks/{identifier}", replay)

        await sandbox.drain_deliveries()

    assert receiver.event_ids == expected


@pytest.mark.asyncio
async def test_replay_from_the_future(caller: Caller, receiver: Receiver) -> None:
    """A webhook may start at an event that is still to come."""
    await _events(caller, 1)
    await caller.call("POST", "/webhooks/", {"callback_url": receiver.url, "replay_from_event_id": 4})
    await asyncio.sleep(0.02)

    await _events(caller, 4)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[4, 5]]


@pytest.mark.asyncio
async def test_retries(caller: Caller, receiver: Receiver) -> None:
    """What is not answered with 2xx is sent again, the same events with another token, before anything newer."""
    receiver.answers = [500, 302, 404, 200]
    identifier = caller.sandbox.add_webhook(receiver.url, max_batch_size=2)

    await _events(caller, 3)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[1, 2], [1, 2], [1, 2], [1, 2], [3]]
    assert len({_claims(each, caller.sandbox.jwks)["jti"] for each in receiver.received}) == 5
    assert [(each.attempt, each.status, each.accepted) for each in caller.sandbox.deliveries] == [
        (1, 500, False),
        (2, 302, False),
        (3, 404, False),
        (4, 200, True),
        (1, 204, True),
    ]
    shown = await _webhook(caller, identifier)
    assert (shown["state"], shown["last_sent_event_id"]) == ("active", 3)


@pytest.mark.asyncio
async def test_giving_up(receiver: Receiver) -> None:
    """After the last attempt a webhook is failed and keeps its events; changing it delivers them."""
    receiver.answers = [500, 500, 500]
    policy = DeliveryPolicy(speedup=1e6, max_attempts=3)
    async with Sandbox(delivery=policy) as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        identifier = sandbox.add_webhook(receiver.url)
        await _events(caller, 2)
        await sandbox.drain_deliveries()

        given_up = await _webhook(caller, identifier)
        assert len(receiver.received) == 3
        await sandbox.stop()
        await sandbox.start()
        await sandbox.drain_deliveries()
        assert await _webhook(caller, identifier) == given_up
        assert len(receiver.received) == 3
        await caller.call("PATCH", f"/webhooks/{identifier}", {})
        await sandbox.drain_deliveries()
        revived = await _webhook(caller, identifier)

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
    await _events(caller, 1)
    await until(lambda: bool(receiver.received))

    shown = await _webhook(caller, identifier)

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

    await _events(caller, 1)
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
        await _events(local, 1)
        await sandbox.drain_deliveries()

        await _events(local, 1)
        shown = await _webhook(local, identifier)

    assert (shown["state"], shown["last_sent_event_id"]) == ("scheduled", 1)


@pytest.mark.asyncio
async def test_removed_while_busy(caller: Caller, receiver: Receiver) -> None:
    """A removed webhook gets nothing more, and a drain does not wait for it."""
    receiver.answers = [500] * 10
    async with Sandbox() as sandbox:
        local = Caller(sandbox, caller.session)
        identifier = sandbox.add_webhook(receiver.url)
        await _events(local, 1)
        draining = asyncio.create_task(sandbox.drain_deliveries())
        await until(lambda: bool(receiver.received))
        await local.call("DELETE", f"/webhooks/{identifier}")

        await draining

    assert len(receiver.received) == 1


@pytest.mark.asyncio
async def test_delivered_after_a_restart(caller: Caller, receiver: Receiver) -> None:
    """What was not delivered before a stop is delivered after the next start, whenever the webhook was added."""
    sandbox = caller.sandbox
    await sandbox.stop()
    sandbox.add_webhook(receiver.url)
    await sandbox.start()
    await _events(caller, 1)
    await sandbox.stop()
    sandbox.set_state(sandbox.debits[0].identifier, "paid")
    await sandbox.start()

    await sandbox.drain_deliveries()

    assert [number for batch in receiver.event_ids for number in batch] == [1, 2]


@pytest.mark.asyncio
async def test_duplicate(caller: Caller, receiver: Receiver) -> None:
    """A duplicated delivery arrives twice with the same body and a token of its own; the next one arrives once."""
    caller.sandbox.add_webhook(receiver.url, max_batch_size=2)
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.DUPLICATE))

    await _events(caller, 3)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[1, 2], [1, 2], [3]]
    assert receiver.received[0].body == receiver.received[1].body
    assert len({_claims(each, caller.sandbox.jwks)["jti"] for each in receiver.received}) == 3
    assert caller.sandbox.delivery_faults.injected == {"duplicate": 1}


@pytest.mark.asyncio
async def test_a_rejected_delivery_is_not_duplicated(caller: Caller, receiver: Receiver) -> None:
    """What was not accepted is retried, not duplicated."""
    receiver.answers = [500]
    caller.sandbox.add_webhook(receiver.url)
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.DUPLICATE))

    await _events(caller, 1)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[1], [1]]


@pytest.mark.asyncio
async def test_reorder(caller: Caller, receiver: Receiver) -> None:
    """A reordered delivery arrives after the one that should follow it, and nothing is lost."""
    identifier = caller.sandbox.add_webhook(receiver.url, max_batch_size=2)
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.REORDER))

    await _events(caller, 4)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[3, 4], [1, 2]]
    assert (await _webhook(caller, identifier))["last_sent_event_id"] == 4


@pytest.mark.asyncio
async def test_reorder_with_nothing_to_follow(caller: Caller, receiver: Receiver) -> None:
    """Where nothing follows in time, a reordered delivery arrives all the same."""
    caller.sandbox.add_webhook(receiver.url)
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.REORDER))

    await _events(caller, 1)
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

    await _events(caller, 1)
    await caller.sandbox.drain_deliveries()

    claims = [_claims(each, caller.sandbox.jwks) for each in receiver.received]
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

    await _events(caller, 1)
    await caller.sandbox.drain_deliveries()

    first, second = receiver.received
    assert _claims(second, {"keys": caller.sandbox.jwks["keys"][:1]})
    if keep_old:
        assert _claims(first, {"keys": caller.sandbox.jwks["keys"][1:]})
    else:
        with pytest.raises(ValueError, match="not enough values"):
            _claims(first, caller.sandbox.jwks)


def test_verification_can_fail() -> None:
    """These tests' own verification rejects a token that was signed with another key of the same id."""
    sandbox, other = Sandbox(), Sandbox()
    key = sandbox._keys.current  # pyright: ignore[reportPrivateUsage]
    body = b"{}"
    delivery = Received({"Authorization": sign(body, key.private_key, kid=key.kid)}, body)
    forged = {"keys": [other.jwks["keys"][0] | {"kid": key.kid}]}

    assert _claims(delivery, sandbox.jwks)
    with pytest.raises(InvalidSignature):
        _claims(delivery, forged)
    with pytest.raises(AssertionError):
        _claims(attrs.evolve(delivery, body=b"{ }"), sandbox.jwks)


@pytest.mark.asyncio
async def test_faults_of_one_webhook(caller: Caller, receiver: Receiver) -> None:
    """A fault that names a webhook leaves the others alone."""
    first = caller.sandbox.add_webhook(receiver.url)
    second = caller.sandbox.add_webhook(receiver.url + "?second")
    caller.sandbox.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.DUPLICATE, webhook=second))

    await _events(caller, 1)
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
        await _events(caller, 300)

        await sandbox.drain_deliveries()

    assert {number for batch in receiver.event_ids for number in batch} == set(range(1, 301))
    assert all(batch == sorted(batch) for batch in receiver.event_ids)
    assert set(sandbox.delivery_faults.injected) == {"duplicate", "late", "reorder", "clock_skew"}
