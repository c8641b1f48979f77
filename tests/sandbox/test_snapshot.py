"""Snapshots: the whole state as JSON, put back in the same sandbox or in another, and going back to the start."""

from __future__ import annotations

import asyncio
import copy
import json
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from jetpay_async.sandbox import (
    DeliveryFault,
    DeliveryFaultKind,
    DeliveryPolicy,
    Fault,
    FaultKind,
    Sandbox,
    TokenScope,
    _page_html,
)
from jetpay_async.sandbox._snapshot import ACCOUNT

from .calling import Caller, Receiver, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# What an account has besides what a snapshot keeps of it.
NOT_KEPT = {"events", "random", "_defer", "_refuses_second_capture"}


def through_json(sandbox: Sandbox) -> dict[str, Any]:
    """A snapshot, written as JSON and read again."""
    from jetpay_async._core import json as api_json

    document = api_json.parse_object(api_json.dump(sandbox.snapshot()))
    return dict(document)


def test_every_attribute_of_an_account_is_kept() -> None:
    """An attribute that is added to the account is in snapshots, too, or is named here."""
    assert set(vars(Sandbox()._account)) == set(ACCOUNT) | NOT_KEPT


@pytest.mark.asyncio
async def test_another_sandbox_goes_on(caller: Caller, receiver: Receiver) -> None:
    """A sandbox that restores another's snapshot has its ids, debits, tokens, keys, faults, webhooks and counts."""
    first = caller.sandbox
    webhook = first.add_webhook(receiver.url, callback_api_key="key")
    scoped = first.issue_token(TokenScope.WEBHOOKS)
    first.faults.add(
        Fault(kind=FaultKind.ERROR_AFTER, route="cancel", status=503, count=3),
        Fault(kind=FaultKind.RATE_LIMIT, route="contact", probability=0.5, retry_after=3),
        Fault(kind=FaultKind.RATE_LIMIT, route="jwks", retry_after=datetime(2026, 1, 1, tzinfo=UTC)),
    )
    first.delivery_faults.add(DeliveryFault(kind=DeliveryFaultKind.DUPLICATE, probability=0.5))
    form = (await caller.call("POST", "/contact/contact_123/creditcards/url")).document
    paid, reserved = await caller.reserve(card_number="4000000000000085"), await caller.reserve()
    await caller.capture(paid)
    await until(lambda: first.debit(paid).state == "failed")
    first.set_state(reserved, "clearing")
    await caller.call("PUT", "/contact", {"email": "a@b.test", "name": "A"})
    await first.drain_deliveries()

    async with Sandbox(delivery=DeliveryPolicy(speedup=10_000)) as second:
        second.restore(through_json(first))
        moved = Caller(second, caller.session)

        assert second.debits == first.debits
        assert (second.events, second.deliveries, second.jwks) == (first.events, first.deliveries, first.jwks)
        assert second.faults.active == first.faults.active
        assert second.faults.injected == first.faults.injected
        assert second.delivery_faults.active == first.delivery_faults.active
        assert (second.requests(), second.requests("capture", paid)) == (first.requests(), 1)
        assert second.api_token == first.api_token
        assert (await moved.call("GET", f"/webhooks/{webhook}", token=scoped)).document["callback_api_key"] == "key"
        assert (await moved.call("GET", form["url"].replace(first.url, second.url))).status == 200
        for sandbox in (first, second):
            sandbox.faults.match(lambda fault: fault.kind is FaultKind.RATE_LIMIT)
        assert second.faults.active == first.faults.active
        assert second.add_payer() == first.add_payer()


@pytest.mark.asyncio
async def test_a_bank_reports_after_a_restart() -> None:
    """A state that a slow bank still has to report follows after a restart; where one was set by hand, none does."""
    first = Sandbox(slow_bank_seconds=600)
    async with first, aiohttp.ClientSession() as session:
        caller = Caller(first, session)
        slow, by_hand = [await caller.reserve(card_number="4000000000000051") for _ in range(2)]
        await caller.capture(slow)
        await caller.capture(by_hand)
        first.set_state(by_hand, "processing")
        snapshot = first.snapshot()

    second = Sandbox(slow_bank_seconds=0)
    second.restore(snapshot)
    async with second:
        await until(lambda: second.debit(slow).state == "paid")

        assert second.debit(by_hand).state == "processing"


@pytest.mark.asyncio
async def test_late_work_is_dropped() -> None:
    """Work that a fault still had to do is not done on the restored state."""
    async with Sandbox() as sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        debit_id = await caller.reserve()
        sandbox.faults.add(Fault(kind=FaultKind.PROCESS_LATE, route="capture", seconds=60, status=504))
        await caller.capture(debit_id)
        sandbox.restore(sandbox.snapshot())

        sandbox._parts.clock.advance(120)
        for _ in range(10):
            await asyncio.sleep(0)

        assert sandbox.debit(debit_id).captures == 0


@pytest.mark.asyncio
async def test_reset(receiver: Receiver) -> None:
    """A reset goes back to the start: payers and faults of then, the same ids again; tokens and keys stay valid."""
    sandbox = Sandbox(delivery=DeliveryPolicy(speedup=10_000))
    sandbox.faults.add(Fault(kind=FaultKind.RATE_LIMIT, route="capture"))
    payer = sandbox.add_payer()
    sandbox.add_webhook(receiver.url)
    async with sandbox, aiohttp.ClientSession() as session:
        caller = Caller(sandbox, session)
        keys = sandbox.jwks
        ids, tokens = [], []
        for _ in range(2):
            ids.append((await caller.preauthorize(payer)).document["debit_id"])
            assert (await caller.capture(ids[-1])).status == 429
            await sandbox.drain_deliveries()
            tokens.append(sandbox.issue_token(TokenScope.WEBHOOKS))

            sandbox.reset()

        assert ids[0] == ids[1]
        assert (sandbox.debits, sandbox.events, sandbox.deliveries, sandbox.requests()) == ((), (), (), 0)
        assert (await caller.call("GET", "/webhooks/", token=tokens[0])).status == 200
        assert sandbox.jwks == keys
    assert receiver.event_ids == [[1], [1]]


@pytest.mark.asyncio
async def test_reset_before_the_start() -> None:
    """A sandbox that was never started stays as it is."""
    sandbox = Sandbox()
    payer = sandbox.add_payer()

    sandbox.reset()

    assert payer.contact_id in sandbox._account.contacts


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.pop(name)


def _put(*path: str | int, value: object) -> Callable[[dict[str, Any]], object]:
    def change(document: Any) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return change


def _event(**changes: object) -> dict[str, object]:
    return {"id": 1, "created_at": "2026-01-01T00:00:00Z", "type": "x", "data": {}, **changes}


def _debit(**changes: object) -> dict[str, object]:
    known = {"identifier": "x", "kind": "debit", "amount": "1.00", "statement": "a", "state": "paid"}
    return {**known, "contact_id": "contact_123", **changes}


def _webhook(**changes: object) -> dict[str, object]:
    return {"id": 1, "identifier": "x", "callback_url": "http://127.0.0.1/", "next_event_id": 1, **changes}


def _attempt(**changes: object) -> dict[str, object]:
    known: dict[str, object] = {"webhook": "x", "url": "http://127.0.0.1/", "event_ids": [1], "attempt": 1}
    return {**known, "status": 200, "error": "", "time": 0.0, "kid": "k", "fault": None, **changes}


@pytest.mark.parametrize(
    "change",
    [
        _without("format"),
        _without("api_token"),
        _without("merchant_account_id"),
        _without("tokens"),
        _put("format", value="jetpay_sandbox/0"),
        _put("tokens", value={"a": ["everything"]}),
        _put("random", value=[1]),
        _put("random", value=[3, [1, 2], None]),
        _put("keys", value=["no key"]),
        _put("account", "contacts", value=[]),
        _put("account", value=[]),
        _put("events", value=[{"id": 1}]),
        _put("events", value=[_event(id=2)]),
        _put("events", value=[_event(created_at="2026-01-01T00:00:00")]),
        _put("events", value=[_event(data={"transactionId": "x"})]),
        _put("events", value=[_event(data={"transactionId": "x", "state": 1})]),
        _put("clock_ahead_seconds", value=1e300),
        _put("random", 1, 0, value=10**30),
        _put("account", "contacts", "other", value={"identifier": "x", "email": "a", "name": "b"}),
        _put("account", "transactions", "x", value=_debit(from_credit_card_id="lost")),
        _put("account", "transactions", "x", value=_debit(amount="NaN")),
        _put("webhooks", "registered", value=[_webhook(callback_url="")]),
        _put("webhooks", "registered", value=[_webhook(max_batch_size=0)]),
        _put("webhooks", "registered", value=[_webhook(next_event_id=0)]),
        _put("deliveries", value=[_attempt(event_ids=[])]),
        _put("deliveries", value=[_attempt(time=1e300)]),
        _put("faults", "active", value=[{"number": 0, "left": 1, "draws": 0, "fault": {"kind": "no kind"}}]),
    ],
)
def test_what_is_no_snapshot_is_refused(change: Callable[[dict[str, Any]], object]) -> None:
    """A document that is no snapshot, or a damaged one, is a ValueError, and nothing changes."""
    sandbox = Sandbox()
    damaged = through_json(sandbox)
    change(damaged)
    before = sandbox.snapshot()

    with pytest.raises(ValueError, match="this is not a snapshot of a sandbox"):
        sandbox.restore(damaged)

    assert sandbox.snapshot() == before


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is something in a document; of a list, the beginning is enough."""
    if path:
        yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for name, each in inner:
        yield from _places(each, (*path, name))


@pytest.mark.asyncio
async def test_a_damaged_snapshot_is_refused_or_works(caller: Caller, receiver: Receiver) -> None:
    """Whatever is put anywhere into a snapshot: it is a ValueError, or the sandbox can show and write what it has."""
    sandbox, random = caller.sandbox, Random(1)
    sandbox.add_webhook(receiver.url)
    sandbox.faults.add(Fault(kind=FaultKind.SLOW_AFTER, route="jwks", probability=0.5))
    await caller.capture(await caller.reserve(card_number="4000000000000036"))
    await sandbox.drain_deliveries()
    whole = {**through_json(sandbox), "keys": []}
    values = [None, True, -1, 10**30, 1e300, "", "x", [], {}, [None], {"a": 1}]
    accepted = 0

    for path in _places(whole):
        for value in random.sample(values, 3):
            damaged = copy.deepcopy(whole)
            _put(*path, value=value)(damaged)
            try:
                sandbox.restore(damaged)
            except ValueError as error:
                assert str(error).startswith("this is not a snapshot of a sandbox")
            else:
                accepted += 1
                assert _page_html.sections(sandbox._parts)
                assert json.dumps(sandbox.snapshot(), default=str)

    assert accepted > 20


@pytest.mark.asyncio
async def test_what_the_api_accepts_is_in_a_snapshot(caller: Caller) -> None:
    """A webhook that starts at an event far ahead is put back, too."""
    hook = {"callback_url": "http://127.0.0.1:9/hook", "replay_from_event_id": 10**26}
    assert (await caller.call("POST", "/webhooks/", hook)).status == 200

    caller.sandbox.restore(through_json(caller.sandbox))

    assert [webhook.next_event_id for webhook in caller.sandbox._webhooks] == [10**26]


def test_a_key_that_is_no_rsa_key() -> None:
    """A snapshot's keys are RSA keys."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    sandbox = Sandbox()

    with pytest.raises(ValueError, match="is not an RSA key"):
        sandbox.restore({**sandbox.snapshot(), "keys": [key.decode()]})


def test_load(tmp_path: Path) -> None:
    """A file that keeps a state is loaded; a token that is given joins those of the file."""
    first = Sandbox(api_token="jetpay_sandbox_first")
    payer = first.add_payer()
    file = tmp_path / "state.json"
    file.write_text(json.dumps(first.snapshot()))

    same, other = Sandbox(seed=1), Sandbox(seed=1)
    same.load(file)
    other.load(file, api_token="jetpay_sandbox_other")

    assert payer.contact_id in same._account.contacts
    assert same.api_token == "jetpay_sandbox_first"
    assert other.api_token == "jetpay_sandbox_other"
    assert set(other._api.tokens) == {"jetpay_sandbox_first", "jetpay_sandbox_other"}
