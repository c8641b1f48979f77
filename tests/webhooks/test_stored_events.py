"""The receiver with ``acknowledge="after_storing"``: on disk, answered, handled later."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import pytest

from jetpay_async._core.clock import Clock
from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks import receiver as receiver_module
from jetpay_async.webhooks.errors import (
    InboxError,
)
from jetpay_async.webhooks.events import Event
from jetpay_async.webhooks.receiver import DeliveryResponse
from jetpay_async.webhooks.remote_keyset import RemoteKeySet
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.receivers import TOKEN, Shop, delivery_of, receiver_for
from tests.webhooks.receiving import FakeClock, event, events, until
from tests.webhooks.signing import PRIVATE, jwk, jwks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path


class TestStored:
    """``acknowledge="after_storing"``: on disk, answered, handled later."""

    @pytest.mark.asyncio
    async def test_the_answer_does_not_wait_for_the_handlers(self, shop: Shop, disk: SqliteInbox) -> None:
        """Events are on disk when Jetpay gets its 2xx, and are handled after it; a redelivery adds nothing."""
        shop.gates = {1: asyncio.Event()}
        async with receiver_for(shop, disk, acknowledge="after_storing") as receiver:
            first = await receiver.receive(delivery_of(1, 2), TOKEN)
            done_then = list(shop.done)
            second = await receiver.receive(delivery_of(1, 2, 3), TOKEN)
            shop.gates[1].set()
            await shop.finished(1, 2, 3)

        assert first == DeliveryResponse(status=200, reason="stored", stored=2)
        assert second == DeliveryResponse(status=200, reason="stored", stored=1, skipped=2)
        assert (done_then, shop.done) == ([], [1, 2, 3])

    @pytest.mark.asyncio
    @pytest.mark.parametrize("acknowledge", ["after_storing", "after_handling"])
    async def test_what_a_dead_process_left_is_handled_at_the_next_start(
        self, shop: Shop, disk: SqliteInbox, acknowledge: Literal["after_storing", "after_handling"]
    ) -> None:
        """Stored events survive their process, also when the next one answers only after handling."""
        await disk.store(events(1, 2))

        async with receiver_for(shop, disk, acknowledge=acknowledge):
            await shop.finished(1, 2)

        assert shop.done == [1, 2]

    @pytest.mark.asyncio
    async def test_what_another_process_stored_is_found(self, shop: Shop, disk: SqliteInbox) -> None:
        """A worker looks now and then for events whose own process may have died."""
        async with receiver_for(shop, disk, acknowledge="after_storing", poll_interval=0.01):
            await asyncio.sleep(0.03)
            await disk.store(events(1))
            await shop.finished(1)

        assert shop.done == [1]

    @pytest.mark.asyncio
    async def test_a_failure_keeps_the_others_waiting(self, shop: Shop, disk: SqliteInbox) -> None:
        """With on_error='stop' a failed event is tried again, after longer and longer pauses, before any later one."""
        pauses: list[float] = []
        shop.failing = {2}

        async def sleep(seconds: float) -> None:
            if seconds == 7.5:  # the renewal of a lease of 30 s
                await asyncio.sleep(seconds)
            pauses.append(seconds)
            if len(pauses) == 9:
                shop.failing.clear()

        settings = {"acknowledge": "after_storing", "on_error": "stop", "clock": Clock(sleep=sleep)}
        async with receiver_for(shop, disk, **settings) as receiver:
            await receiver.receive(delivery_of(1, 2, 3), TOKEN)
            await shop.finished(1, 2, 3)

        assert pauses[:9] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert shop.seen == [1] + [2] * 10 + [3]

    @pytest.mark.asyncio
    async def test_or_keeps_only_its_transaction_waiting(self, shop: Shop, tmp_path: Path) -> None:
        """With on_error='continue' a failed event and its transaction are put off while the others pass."""
        time = FakeClock()
        deferred: list[float] = []

        class Inbox(SqliteInbox):
            async def reschedule(self, event: Event, *, owner: str, seconds: float) -> None:
                await super().reschedule(event, owner=owner, seconds=seconds)
                deferred.append(seconds)

        shop.failing = {1}
        async with (
            Inbox(tmp_path / "inbox.db", clock=time.clock) as disk,
            receiver_for(shop, disk, acknowledge="after_storing", on_error="continue", poll_interval=0.005) as receiver,
        ):
            await disk.store([event(n, transaction=name) for n, name in enumerate("abac", start=1)])
            await until(lambda: deferred == [1])
            seen_at_first = list(shop.seen)
            time.tick(1)
            await until(lambda: deferred == [1, 2])
            shop.failing = set()
            time.tick(2)
            await shop.finished(1, 3)

            await until(lambda: getattr(receiver._stored_worker, "_failures", None) == {})

        assert seen_at_first == [1, 2, 4]
        assert shop.seen == [1, 2, 4, 1, 1, 3]

    @pytest.mark.asyncio
    async def test_a_failed_event_does_not_wait_for_the_next_poll(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is tried again after its own pause, however long the poll interval is."""
        monkeypatch.setattr("jetpay_async.webhooks._stored_worker._FIRST_BACKOFF_SECONDS", 0.01)
        shop.failing = {1}
        async with receiver_for(shop, disk, acknowledge="after_storing", poll_interval=600.0) as receiver:
            await receiver.receive(delivery_of(1), TOKEN)
            await until(lambda: len(shop.seen) > 1)
            shop.failing = set()
            await shop.finished(1)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("ending", ["another-task", "own-task", "own-task-twice"])
    @pytest.mark.parametrize("on_error", ["stop", "continue"])
    async def test_a_handler_that_ends_in_a_cancellation_does_not_spin(
        self, shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture, on_error: str, ending: str
    ) -> None:
        """However a handler ends without handling its event, the next call comes after a growing pause."""
        clock = FakeClock()
        pauses: list[float] = []
        calls = 0

        @shop.router.on("cards.*")
        async def give_up(event: Event) -> None:
            nonlocal calls
            calls += 1
            task = asyncio.create_task(asyncio.sleep(9)) if ending == "another-task" else asyncio.current_task()
            assert task is not None
            task.cancel()
            if ending == "own-task-twice":
                task.cancel()
            await (task if ending == "another-task" else asyncio.sleep(0))

        async def sleep(seconds: float) -> None:
            if seconds != 7.5:  # the renewal of a lease of 30 s
                pauses.append(seconds)
            await (asyncio.sleep(0) if seconds != 7.5 and len(pauses) < 5 else asyncio.Event().wait())

        class Inbox(SqliteInbox):
            async def reschedule(self, event: Event, *, owner: str, seconds: float) -> None:
                await super().reschedule(event, owner=owner, seconds=seconds)
                pauses.append(seconds)
                clock.tick(seconds if len(pauses) < 5 else 0.0)

        settings = {"acknowledge": "after_storing", "on_error": on_error, "poll_interval": 0.001}
        async with Inbox(tmp_path / "inbox.db", clock=clock.clock) as disk:
            await disk.store([event(1, type="cards.tokenized")])
            async with receiver_for(shop, disk, clock=Clock(sleep=sleep), **settings):
                await until(lambda: len(pauses) >= 5)

        assert pauses[:5] == [1, 2, 4, 8, 16]
        assert calls <= 6
        assert "give_up" in caplog.text

    @pytest.mark.asyncio
    async def test_a_round_without_an_error_or_progress_does_not_spin(
        self, shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where an inbox of somebody's own cancels the task that it is called in, that is logged, and a pause made."""
        pauses: list[float] = []

        class Cancelling(SqliteInbox):
            @asynccontextmanager
            async def handling(self, event: Event, *, owner: str) -> AsyncIterator[None]:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
                yield

        async def sleep(seconds: float) -> None:
            if seconds != 7.5:  # the renewal of a lease of 30 s
                pauses.append(seconds)
            await (asyncio.sleep(0) if seconds != 7.5 and len(pauses) < 3 else asyncio.Event().wait())

        async with Cancelling(tmp_path / "inbox.db") as disk:
            await disk.store([event(1)])
            async with receiver_for(shop, disk, clock=Clock(sleep=sleep), mark_within=None):
                await until(lambda: len(pauses) >= 3)

        assert pauses[:3] == [1, 2, 4]
        assert "ended without an error, and none was handled" in caplog.text

    @pytest.mark.asyncio
    async def test_the_worker_survives_an_inbox_whose_own_task_was_cancelled(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A CancelledError out of the inbox doesn't end the worker, and is no reason to store nothing more."""
        claim = disk.claim

        async def fail(**_: object) -> Sequence[Event]:
            raise asyncio.CancelledError

        async def sleep(seconds: float) -> None:
            monkeypatch.setattr(disk, "claim", claim)

        monkeypatch.setattr(disk, "claim", fail)
        async with receiver_for(shop, disk, acknowledge="after_storing", clock=Clock(sleep=sleep)) as receiver:
            assert (await receiver.receive(delivery_of(1), TOKEN)).status == 200
            await shop.finished(1)

    @pytest.mark.asyncio
    async def test_storing_that_is_cancelled_within_is_a_failure(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A CancelledError out of the inbox while storing is answered like any other failure of it."""

        async def fail(*_: object) -> None:
            raise asyncio.CancelledError

        monkeypatch.setattr(disk, "store", fail)
        async with receiver_for(shop, disk, acknowledge="after_storing") as receiver:
            answer = await receiver.receive(delivery_of(1), TOKEN)

        assert answer == DeliveryResponse(status=503, reason="unavailable", left=1)

    @pytest.mark.asyncio
    async def test_a_cancelled_request_stores_nothing_more(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When the server cancels the request while it is stored, the cancellation is not taken for a failure."""
        storing = asyncio.Event()

        async def wait(*_: object) -> None:
            storing.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(disk, "store", wait)
        async with receiver_for(shop, disk, acknowledge="after_storing") as receiver:
            receiving = asyncio.create_task(receiver.receive(delivery_of(1), TOKEN))
            await storing.wait()
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving

    @pytest.mark.asyncio
    async def test_it_must_be_entered(self, shop: Shop, disk: SqliteInbox) -> None:
        """Nothing is promised that nobody would retention: without a worker the receiver rejects to work."""
        with pytest.raises(ConfigurationError, match="async with receiver"):
            await receiver_for(shop, disk, acknowledge="after_storing").receive(delivery_of(1), TOKEN)

    @pytest.mark.asyncio
    async def test_what_could_not_be_stored_is_sent_again(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """No 2xx without the events on disk."""
        async with receiver_for(shop, disk, acknowledge="after_storing") as receiver:
            await disk._run(lambda rows: rows._connection.execute("PRAGMA query_only = ON"))
            answer = await receiver.receive(delivery_of(1), TOKEN)

        assert answer == DeliveryResponse(status=503, reason="readonly", left=1)
        assert "the inbox failed (readonly)" in caplog.text

    @pytest.mark.asyncio
    async def test_gaps_are_told_here_too(self, shop: Shop, disk: SqliteInbox) -> None:
        """The gap watch looks at what arrives, not at what is handled."""
        gaps: list[tuple[int, int]] = []

        async def on_missing_events(first: int, last: int) -> None:
            gaps.append((first, last))

        async with receiver_for(
            shop, disk, acknowledge="after_storing", on_missing_events=on_missing_events
        ) as receiver:
            await receiver.receive(delivery_of(1, 4), TOKEN)

        assert gaps == [(2, 3)]

    @pytest.mark.asyncio
    async def test_a_store_that_fails_is_tried_again(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Trouble with the file ends neither the worker nor the order: it pauses and looks again."""
        take = disk.claim
        pauses: list[float] = []

        async def fail(**_: object) -> Sequence[Event]:
            raise InboxError("away for lunch", reason="locked")

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            monkeypatch.setattr(disk, "claim", take)

        monkeypatch.setattr(disk, "claim", fail)
        await disk.store(events(1))
        async with receiver_for(shop, disk, clock=Clock(sleep=sleep)):
            await shop.finished(1)

        assert pauses[0] == 1
        assert "could not handle stored events" in caplog.text

    @pytest.mark.asyncio
    async def test_closing_lets_the_running_handler_end(self, shop: Shop, disk: SqliteInbox) -> None:
        """The worker finishes the event it is at, and leaves the others on disk."""
        shop.gates = {1: asyncio.Event()}
        async with receiver_for(shop, disk, acknowledge="after_storing") as receiver:
            await receiver.receive(delivery_of(1, 2), TOKEN)
            await shop.started(1)
            asyncio.get_running_loop().call_later(0.01, shop.gates[1].set)

        assert shop.done == [1]
        assert await disk.claim(owner="next", seconds=1, limit=9, exclusive=False) == events(2)

    @pytest.mark.asyncio
    async def test_closing_does_not_wait_for_ever(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A handler of a stored event that doesn't end is cancelled, and the event stays on disk."""
        monkeypatch.setattr(receiver_module, "_CLOSE_TIMEOUT_SECONDS", 0.02)
        shop.gates = {1: asyncio.Event()}
        async with receiver_for(shop, disk, acknowledge="after_storing") as receiver:
            await receiver.receive(delivery_of(1), TOKEN)
            await shop.started(1)

        assert shop.done == []
        assert await disk.claim(owner="next", seconds=1, limit=9, exclusive=False) == events(1)

    @pytest.mark.asyncio
    async def test_a_store_needs_not_be_entered_to_be_closed(self, shop: Shop, disk: SqliteInbox) -> None:
        """A receiver that answers after handling works without `async with`, and can be closed all the same."""
        receiver = receiver_for(shop, disk)
        answer = await receiver.receive(delivery_of(1), TOKEN)
        await receiver.aclose()

        assert answer.handled == 1


def test_an_application_that_is_started_twice(tmp_path: Path) -> None:
    """Receiver, inbox and keys serve each start of an application, in event loops of their own."""
    shop = Shop()
    inbox = SqliteInbox(tmp_path / "inbox.db")
    receiver = receiver_for(shop, inbox, acknowledge="after_storing")
    fetches: list[str] = []

    async def fetch(url: str) -> bytes:
        fetches.append(url)
        return jwks(jwk(PRIVATE.public_key()))

    keys = RemoteKeySet("https://baselinepayments.com", fetch)

    async def run(event_id: int) -> None:
        async with keys, inbox, receiver:
            assert (await keys.current()).kids
            assert (await receiver.receive(delivery_of(event_id), TOKEN)).reason == "stored"
            await shop.finished(event_id)

    for event_id in (1, 2):
        asyncio.run(run(event_id))

    assert shop.done == [1, 2]
    assert len(fetches) == 1


@pytest.mark.asyncio
async def test_the_inbox_in_memory_can_take_the_place_of_another() -> None:
    """An application whose tests have a `MemoryInbox` opens and closes it like any other; it keeps what it knows."""
    inbox = MemoryInbox()
    for _ in range(2):
        async with inbox:
            await inbox.lease(events(1), owner="a", seconds=1)
    await inbox.aclose()

    assert (await inbox.lease(events(2), owner="a", seconds=1)).last_seen == 1
