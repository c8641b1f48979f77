"""Webhooks are registered, changed, removed, and start at the event that was asked for."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import TYPE_CHECKING

import aiohttp
import pytest

from jetpay_async import Clock
from jetpay_async.sandbox import (
    DeliveryPolicy,
    Sandbox,
)

from .calling import Caller, Receiver, until
from .deliveries import make_events, read_webhook

if TYPE_CHECKING:
    pass


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
    assert await read_webhook(caller, identifier) == expected
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
        ({"callback_url": None}, "callback_url", "url_type"),
        ({"callback_url": "nonsense"}, "callback_url", "url_parsing"),
        ({"callback_url": "ftp://127.0.0.1/"}, "callback_url", "url_scheme"),
        ({"callback_url": "http://"}, "callback_url", "url_parsing"),
        ({"callback_url": "http://[/"}, "callback_url", "url_parsing"),
        ({"callback_url": "https://example.com/hook"}, "callback_url", "value_error"),
        ({"callback_url": "http://10.0.0.1/hook"}, "callback_url", "value_error"),
        ({"callback_url": "http://127.0.0.1.example.com/"}, "callback_url", "value_error"),
        ({"callback_api_key": 1}, "callback_api_key", "string_type"),
        ({"max_batch_size": 0}, "max_batch_size", "greater_than_equal"),
        ({"max_batch_size": 101}, "max_batch_size", "less_than_equal"),
        ({"max_batch_size": []}, "max_batch_size", "int_type"),
        ({"max_batch_size": 1.5}, "max_batch_size", "int_from_float"),
        ({"max_wait_seconds": 59}, "max_wait_seconds", "greater_than_equal"),
        ({"max_wait_seconds": 3601}, "max_wait_seconds", "less_than_equal"),
        ({"replay_from_event_id": 0}, "replay_from_event_id", "greater_than_equal"),
        ({"replay_from_timestamp": "yesterday"}, "replay_from_timestamp", "datetime_from_date_parsing"),
        ({"replay_from_timestamp": []}, "replay_from_timestamp", "datetime_type"),
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
    assert created.document["detail"][0]["msg"] == "Value error, A webhook for this URL exists already"
    with pytest.raises(ValueError, match="exists already"):
        caller.sandbox.add_webhook(receiver.url)
    for url in ("ftp://127.0.0.1/", "http://[/"):
        with pytest.raises(ValueError, match="no URL of HTTP"):
            caller.sandbox.add_webhook(url)


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
async def test_only_events_from_now_on(caller: Caller, receiver: Receiver) -> None:
    """A webhook gets the events after its creation, two webhooks each get all of them."""
    await make_events(caller, 2)
    caller.sandbox.add_webhook(receiver.url)
    await caller.call("POST", "/webhooks/", {"callback_url": receiver.url + "?second"})

    await make_events(caller, 1)
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
        await make_events(caller, 3)
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
    await make_events(caller, 1)
    await caller.call("POST", "/webhooks/", {"callback_url": receiver.url, "replay_from_event_id": 4})
    await asyncio.sleep(0.02)

    await make_events(caller, 4)
    await caller.sandbox.drain_deliveries()

    assert receiver.event_ids == [[4, 5]]


@pytest.mark.asyncio
async def test_removed_while_busy(caller: Caller, receiver: Receiver) -> None:
    """A removed webhook gets nothing more, and a drain does not wait for it."""
    receiver.answers = [500] * 10
    async with Sandbox() as sandbox:
        local = Caller(sandbox, caller.session)
        identifier = sandbox.add_webhook(receiver.url)
        await make_events(local, 1)
        draining = asyncio.create_task(sandbox.drain_deliveries())
        await until(lambda: bool(receiver.received))
        await local.call("DELETE", f"/webhooks/{identifier}")

        await draining

    assert len(receiver.received) == 1
