"""Snapshots: the whole state as JSON, put back in the same sandbox or in another, and going back to the start."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
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
)
from jetpay_async.sandbox._snapshot import ACCOUNT

from .calling import Caller, Receiver, until

if TYPE_CHECKING:
    from collections.abc import Callable
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
