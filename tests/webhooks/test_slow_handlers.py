"""Stored events whose handlers take long, or hang: only their own transaction waits for them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jetpay_async.webhooks import _handler_watch, _stored_worker
from jetpay_async.webhooks import receiver as receiver_module
from jetpay_async.webhooks.events import TransactionEvent
from jetpay_async.webhooks.receiver import WebhookReceiver
from jetpay_async.webhooks.router import EventRouter
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.receivers import TOKEN, Shop, Trusting, delivery_of, receiver_for
from tests.webhooks.receiving import body_of, document, event, until

if TYPE_CHECKING:
    from pathlib import Path

    from jetpay_async.webhooks.events import Event

STORING = {"acknowledge": "after_storing", "poll_interval": 0.01}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler takes long at once."""
    monkeypatch.setattr(_handler_watch, "SLOW_SECONDS", 0.01)


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.asyncio
async def test_only_its_own_transaction_waits(disk: SqliteInbox, concurrency: int) -> None:
    """While a handler hangs, the events that came with it and those that come later are handled, but for its own."""
    shop = Shop(concurrency=concurrency)
    shop.gates = {1: asyncio.Event()}
    stored = [event(number, transaction=name) for number, name in enumerate("abac", start=1)]
    async with receiver_for(shop, disk, **STORING) as receiver:
        await disk.store(stored)
        await shop.finished(2, 4)
        await receiver.receive(delivery_of(5, transaction="d"), TOKEN)
        await disk.store([event(6, transaction="a")])
        await shop.finished(5)
        waiting = list(shop.done)
        shop.gates[1].set()
        await shop.finished(1, 3, 6)

    assert sorted(waiting) == [2, 4, 5]
    assert shop.done[3:] == [1, 3, 6]
    assert sorted(shop.seen) == [1, 2, 3, 4, 5, 6]


@pytest.mark.asyncio
async def test_two_that_take_long_are_left_behind_together(disk: SqliteInbox, caplog: pytest.LogCaptureFixture) -> None:
    """When a second handler of the same round takes long too, there is nothing more to do about it."""
    shop = Shop(concurrency=2)
    shop.gates = {1: asyncio.Event(), 2: asyncio.Event()}
    async with receiver_for(shop, disk, **STORING):
        await disk.store([event(number, transaction=name) for number, name in enumerate("abc", start=1)])
        await shop.finished(3)
        await asyncio.sleep(0.05)
        for gate in shop.gates.values():
            gate.set()
        await shop.finished(1, 2)

    assert sorted(shop.seen) == [1, 2, 3]
    assert caplog.text == ""


@pytest.mark.asyncio
async def test_another_process_goes_on(shop: Shop, tmp_path: Path) -> None:
    """What a process had leased and not begun when a handler hangs is handled by the others."""
    hanging, other = Shop(), shop
    hanging.gates = {number: asyncio.Event() for number in range(1, 4)}
    async with SqliteInbox(tmp_path / "inbox.db") as one, SqliteInbox(tmp_path / "inbox.db") as two:
        await one.store([event(number, transaction=name) for number, name in enumerate("abca", start=1)])
        async with receiver_for(hanging, one, **{**STORING, "poll_interval": 600.0}):
            await hanging.started(1)
            async with receiver_for(other, two, **STORING):
                await until(lambda: len({*hanging.seen, *other.seen}) == 3)
                assert 4 not in {*hanging.seen, *other.seen}
                for gate in hanging.gates.values():
                    gate.set()
                await until(lambda: len(hanging.done + other.done) == 4)

    assert sorted(hanging.done + other.done) == [1, 2, 3, 4]


@pytest.mark.asyncio
async def test_the_order_of_ids_is_kept_if_that_is_asked_for(shop: Shop, disk: SqliteInbox) -> None:
    """With on_error='stop' all wait for a handler that takes long, in every process."""
    shop.gates = {1: asyncio.Event()}
    await disk.store([event(1, transaction="a"), event(2, transaction="b")])
    async with receiver_for(shop, disk, on_error="stop", **STORING):
        await shop.started(1)
        await asyncio.sleep(0.05)
        seen = list(shop.seen)
        claimed = await disk.claim(owner="another", seconds=1, limit=9, exclusive=True)
        shop.gates[1].set()
        await shop.finished(1, 2)

    assert (seen, claimed) == ([1], ())


@pytest.mark.asyncio
async def test_a_hung_handler_fails_at_its_limit(
    shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture
) -> None:
    """It is cancelled after handler_timeout, and its event is tried again, though the others went on meanwhile."""
    shop.gates = {1: asyncio.Event()}
    await disk.store([event(1, transaction="a"), event(2, transaction="b")])
    async with receiver_for(shop, disk, handler_timeout=0.2, **STORING):
        await shop.finished(2)
        await until(lambda: "handler_timeout" in caplog.text)
        shop.gates[1].set()
        await shop.finished(1)

    assert shop.done == [2, 1]


@pytest.mark.asyncio
async def test_no_more_than_some_handlers_are_left_behind(
    shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When as many handlers hang as may, nothing more is started until one ends."""
    monkeypatch.setattr(_stored_worker, "_MAX_ROUNDS", 2)
    shop.gates = {1: asyncio.Event(), 2: asyncio.Event()}
    await disk.store([event(number, transaction=str(number)) for number in (1, 2, 3)])
    async with receiver_for(shop, disk, **STORING):
        await until(lambda: "nothing more is started" in caplog.text)
        seen = list(shop.seen)
        shop.gates[2].set()
        await shop.finished(2, 3)
        shop.gates[1].set()
        await shop.finished(1)

    assert seen == [1, 2]


@pytest.mark.asyncio
async def test_an_inbox_that_fails_meanwhile_loses_nothing(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What can't be released waits for the handler that takes long."""

    class Failing(SqliteInbox):
        async def reschedule(self, event: Event, *, owner: str, seconds: float) -> None:
            raise ConnectionError("the disk is away")

    shop.gates = {1: asyncio.Event()}
    async with Failing(tmp_path / "inbox.db") as inbox:
        await inbox.store([event(1, transaction="a"), event(2, transaction="b")])
        async with receiver_for(shop, inbox, **STORING):
            await until(lambda: "could not release stored events" in caplog.text)
            shop.gates[1].set()
            await shop.finished(1, 2)

    assert shop.done == [1, 2]


@pytest.mark.asyncio
async def test_closing_ends_what_was_left_behind(
    shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler that hangs when the receiver is closed is cancelled, and its event stays on disk."""
    monkeypatch.setattr(receiver_module, "_CLOSE_TIMEOUT_SECONDS", 0.02)
    shop.gates = {1: asyncio.Event()}
    await disk.store([event(1, transaction="a"), event(2, transaction="b")])
    async with receiver_for(shop, disk, **STORING):
        await shop.finished(2)

    assert shop.done == [2]
    claimed = await disk.claim(owner="next", seconds=1, limit=9, exclusive=True)
    assert [each.id for each in claimed] == [1]


@pytest.mark.asyncio
async def test_closing_does_not_wait_for_a_release(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where an inbox is stuck while events are released, closing cancels that, which is no failure of the inbox."""
    monkeypatch.setattr(receiver_module, "_CLOSE_TIMEOUT_SECONDS", 0.02)
    releasing = asyncio.Event()

    class Stuck(SqliteInbox):
        async def reschedule(self, event: Event, *, owner: str, seconds: float) -> None:
            releasing.set()
            await asyncio.Event().wait()

    shop.gates = {1: asyncio.Event()}
    async with Stuck(tmp_path / "inbox.db") as inbox:
        await inbox.store([event(1, transaction="a"), event(2, transaction="b")])
        async with receiver_for(shop, inbox, **STORING):
            await releasing.wait()

    assert shop.done == []
    assert "could not release" not in caplog.text


@pytest.mark.asyncio
async def test_a_handler_that_ignores_its_cancellation_delays_no_other_timeout() -> None:
    """Each handler is cancelled after its own time, also one that starts while another one can't be stopped."""
    router = EventRouter(concurrency=2)
    ignored, released = asyncio.Event(), asyncio.Event()
    cancelled: list[int] = []

    @router.on(TransactionEvent)
    async def handle(event: TransactionEvent) -> None:
        if event.id == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ignored.set()
            await released.wait()
        elif event.id == 2:
            await ignored.wait()
        else:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(event.id)
                released.set()
                raise

    body = body_of(document(event_id, transaction=name) for event_id, name in ((1, "a"), (2, "b"), (3, "c")))
    receiver = WebhookReceiver(Trusting(), router, inbox=MemoryInbox(), handler_timeout=0.02, response_timeout=60.0)
    async with asyncio.timeout(20):
        await receiver.receive(body, TOKEN)

    assert cancelled == [3]
