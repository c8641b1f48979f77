"""Handlers that hang, and events that can't be handled: neither blocks the others."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from jetpay_async._core.clock import Clock
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks import _handler_watch
from jetpay_async.webhooks import receiver as receiver_module
from jetpay_async.webhooks.errors import LeaseLostError
from jetpay_async.webhooks.inbox import DeadLetter, DeadLetterInbox, FailedAttempt
from jetpay_async.webhooks.receiver import DeliveryResponse
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.inboxes import SECONDS, handle, rows
from tests.webhooks.receivers import TOKEN, Shop, delivery_of, receiver_for, steal
from tests.webhooks.receiving import FakeClock, body_of, document, event, events, until

if TYPE_CHECKING:
    from pathlib import Path

    from jetpay_async.webhooks.events import Event


class TestHandlerTimeout:
    @pytest.mark.asyncio
    async def test_a_handler_that_hangs_fails(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A handler is cancelled after its time; the events of other transactions are handled."""
        shop.gates = {1: asyncio.Event()}
        body = body_of(document(n, transaction=name) for n, name in enumerate("abac", start=1))

        answer = await receiver_for(shop, disk, handler_timeout=0.02).receive(body, TOKEN)

        assert answer == DeliveryResponse(status=500, reason="handler_failed", handled=2, left=2)
        assert shop.done == [2, 4]
        assert "the handler was cancelled after 0.02 s" in caplog.text

    def test_a_handler_fails_before_the_answer_is_due(self, shop: Shop, disk: SqliteInbox) -> None:
        """Where the answer waits for the handlers, their limit leaves time for it; for stored events it is as given."""
        for settings, delivered, stored in (
            ({}, 12.0, 60.0),
            ({"handler_timeout": 5.0}, 5.0, 5.0),
            ({"handler_timeout": 60.0, "response_timeout": 100.0}, 60.0, 60.0),
            ({"handler_timeout": None}, None, None),
        ):
            receiver = receiver_for(shop, disk, **settings)
            assert receiver._delivery_limits.handler_timeout == delivered
            assert receiver._limits.handler_timeout == stored

    @pytest.mark.asyncio
    async def test_a_stored_event_whose_handler_hangs_lets_the_others_pass(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With stored events only the later events of its transaction wait for a hung handler."""
        shop.gates = {1: asyncio.Event()}
        await disk.store([event(n, transaction=name) for n, name in enumerate("abac", start=1)])

        async with receiver_for(shop, disk, acknowledge="after_storing", handler_timeout=0.02):
            await shop.finished(2, 4)

        assert 3 not in shop.seen
        assert "the handler was cancelled after 0.02 s" in caplog.text

    @pytest.mark.asyncio
    async def test_a_long_run_is_logged(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A handler that runs for long is logged while it runs, with or without a limit; a quick one is not."""
        monkeypatch.setattr(_handler_watch, "LONG_RUN_SECONDS", 0.01)
        shop.gates = {1: asyncio.Event()}
        receiving = asyncio.create_task(receiver_for(shop, disk, handler_timeout=None).receive(delivery_of(1), TOKEN))
        await until(
            lambda: caplog.text.count("the handler of event 1 (transactions.debits.created) is still running") > 1
        )
        shop.gates[1].set()

        assert (await receiving).handled == 1
        monkeypatch.setattr(_handler_watch, "LONG_RUN_SECONDS", 30.0)
        assert (await receiver_for(shop, disk).receive(delivery_of(2), TOKEN)).handled == 1
        assert "the handler of event 2" not in caplog.text

    @pytest.mark.asyncio
    async def test_a_handler_that_ignores_its_cancellation_is_named(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It can't be stopped, so it is logged again and again; closing the receiver does not wait for it."""
        monkeypatch.setattr(_handler_watch, "LONG_RUN_SECONDS", 0.01)
        monkeypatch.setattr(receiver_module, "_CLOSE_TIMEOUT_SECONDS", 0.05)
        end = asyncio.Event()

        @shop.router.on("cards.*")
        async def hang(_: object) -> None:
            while not end.is_set():
                with suppress(asyncio.CancelledError):
                    await end.wait()

        tasks = asyncio.all_tasks()
        async with receiver_for(shop, disk, acknowledge="after_storing", handler_timeout=0.01) as receiver:
            await receiver.receive(delivery_of(1, type="cards.tokenized"), TOKEN)
            await until(lambda: caplog.text.count("event 1 (cards.tokenized) ignores its cancellation") > 1)
        assert "a handler ignores its cancellation, and is left behind" in caplog.text
        end.set()
        await asyncio.wait(asyncio.all_tasks() - tasks)


class TestDeadLetters:
    @pytest.mark.asyncio
    async def test_an_event_that_always_fails_is_set_aside(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After its last attempt an event is a dead letter: answered 200, reported, and its transaction goes on."""
        reported: list[DeadLetter] = []

        async def on_dead_letter(letter: DeadLetter) -> None:
            reported.append(letter)

        receiver = receiver_for(shop, disk, max_attempts=3, on_dead_letter=on_dead_letter)
        body = body_of(document(n, transaction="a") for n in (1, 2))
        shop.failing = {1}
        answers = [await receiver.receive(body, TOKEN) for _ in range(4)]

        assert [(answer.status, answer.handled, answer.dead, answer.left) for answer in answers] == [
            (500, 0, 0, 2),
            (500, 0, 0, 2),
            (200, 1, 1, 0),
            (200, 0, 0, 0),
        ]
        assert answers[3].skipped == 2
        assert shop.seen == [1, 1, 1, 2]
        (kept,) = await disk.dead_letters()
        for letter in (kept, *reported):
            assert (letter.event, letter.attempts) == (event(1, transaction="a"), 3)
            assert letter.error == "ZeroDivisionError: the shop's own trouble"
            assert letter.failed_at.tzinfo is not None
        assert kept.event.webhook_id == 123
        assert "event 1 (transactions.debits.created) is a dead letter now: 3 attempts failed" in caplog.text

    @pytest.mark.asyncio
    async def test_a_type_is_escaped_in_the_log(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The type of an event is a text from outside: it forges no line of the log, and moves no cursor."""
        shop.failing = {1}
        delivery = body_of([document(1, type="transactions.debits.\x1b[2J\nforged")])

        await receiver_for(shop, disk, max_attempts=1).receive(delivery, TOKEN)

        messages = [record.getMessage() for record in caplog.records if "event 1" in record.getMessage()]
        assert len(messages) == 2
        assert all(r"(transactions.debits.\x1b[2J\nforged)" in message for message in messages)

    @pytest.mark.asyncio
    async def test_a_poison_event_does_not_block_stored_ones(self, shop: Shop, disk: SqliteInbox) -> None:
        """Stored events are handled past a dead letter, also where all wait for a failed event."""
        shop.failing = {1}
        async with receiver_for(shop, disk, acknowledge="after_storing", on_error="stop", max_attempts=1) as receiver:
            await receiver.receive(delivery_of(1, 2, 3), TOKEN)
            await shop.finished(2, 3)

        assert shop.seen == [1, 2, 3]
        assert await disk.last_contiguous_event_id() == 3

    @pytest.mark.asyncio
    async def test_a_lease_that_is_not_lost_is_no_excuse(self, shop: Shop, disk: SqliteInbox) -> None:
        """A handler that raises LeaseLostError for an event that it still holds has failed, like any other."""

        @shop.router.on("cards.*")
        async def lose(_: object) -> None:
            raise LeaseLostError("mark_handled() was given another event")

        async with receiver_for(shop, disk, acknowledge="after_storing", max_attempts=1) as receiver:
            await receiver.receive(body_of([document(1, type="cards.tokenized"), document(2)]), TOKEN)
            await shop.finished(2)

        assert [letter.error for letter in await disk.dead_letters()] == [
            "LeaseLostError: mark_handled() was given another event"
        ]

    @pytest.mark.parametrize("trouble", ["taken over", "run out", "inbox", "cancelled inbox"])
    @pytest.mark.asyncio
    async def test_a_lease_that_may_be_lost_counts_no_attempt(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch, trouble: str
    ) -> None:
        """A handler that raises LeaseLostError when another worker has the event, or may have it, has not failed."""
        time = FakeClock()

        async def fail(*_: object, **__: object) -> frozenset[int]:
            raise asyncio.CancelledError if trouble == "cancelled inbox" else ConnectionError

        @shop.router.on("cards.*")
        async def lose(_: object) -> None:
            if trouble == "taken over":
                await steal(disk)
            elif trouble == "run out":
                time.tick(60)
            else:
                monkeypatch.setattr(disk, "renew", fail)
            raise LeaseLostError("lost")

        async def never(_: float) -> None:
            await asyncio.Event().wait()

        clock = Clock(time=lambda: time.now, monotonic=lambda: time.now, sleep=never)
        receiver = receiver_for(shop, disk, max_attempts=1, clock=clock)
        answer = await receiver.receive(delivery_of(1, type="cards.tokenized"), TOKEN)

        assert answer == DeliveryResponse(status=503, reason="lease_lost", left=1)
        assert await disk.dead_letters() == ()

    @pytest.mark.asyncio
    async def test_a_cancelled_request_ends_the_question_about_the_lease(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the inbox is asked whether the event is still leased, the server may cancel the request."""
        asked = asyncio.Event()

        async def hang(*_: object, **__: object) -> frozenset[int]:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        @shop.router.on("cards.*")
        async def lose(_: object) -> None:
            monkeypatch.setattr(disk, "renew", hang)
            raise LeaseLostError("lost")

        receiver = receiver_for(shop, disk)
        receiving = asyncio.create_task(receiver.receive(delivery_of(1, type="cards.tokenized"), TOKEN))
        await asked.wait()
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving

        assert (await disk.lease(events(1), owner="b", seconds=1)).mine == {1}

    @pytest.mark.asyncio
    async def test_a_hook_that_hangs_blocks_nothing(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """`on_dead_letter` has the time that a handler has; then the next events are handled."""

        async def hang(_: DeadLetter) -> None:
            await asyncio.Event().wait()

        shop.failing = {1}
        options = {"on_dead_letter": hang, "max_attempts": 1, "handler_timeout": 0.05}
        async with receiver_for(shop, disk, acknowledge="after_storing", **options) as receiver:
            await receiver.receive(delivery_of(1, 2), TOKEN)
            await shop.finished(2)

        assert "on_dead_letter failed for event 1" in caplog.text

    @pytest.mark.asyncio
    async def test_a_replayed_one_is_handled_like_a_new_event(self, shop: Shop, disk: SqliteInbox) -> None:
        """A dead letter that is replayed is handled by a running receiver, with all its attempts."""
        shop.failing = {1}
        async with receiver_for(shop, disk, poll_interval=0.01, max_attempts=1) as receiver:
            await receiver.receive(delivery_of(1, 2), TOKEN)
            shop.failing = set()
            await disk.replay_dead_letter(1)
            await shop.finished(1, 2)

        assert shop.seen == [1, 2, 1]
        assert await disk.dead_letters() == ()
        assert await rows(disk, "SELECT attempts FROM jetpay_inbox WHERE event_id = 1") == [(0,)]

    @pytest.mark.asyncio
    async def test_a_discarded_one_stays_handled(self, shop: Shop, disk: SqliteInbox) -> None:
        """A dead letter that is discarded is forgotten, and its event is skipped for good."""
        shop.failing = {1}
        receiver = receiver_for(shop, disk, max_attempts=1)
        await receiver.receive(delivery_of(1), TOKEN)
        await disk.discard_dead_letter(1)

        assert await disk.dead_letters() == ()
        assert (await receiver.receive(delivery_of(1), TOKEN)).skipped == 1

    @pytest.mark.asyncio
    async def test_what_is_no_dead_letter_is_rejected(self, disk: SqliteInbox) -> None:
        """A wrong id changes nothing, and says so."""
        await handle(disk, 1)
        for step in (disk.replay_dead_letter, disk.discard_dead_letter):
            with pytest.raises(InvalidArgumentError, match="event 1 is not a dead letter"):
                await step(1)

        assert (await disk.lease(events(1), owner="b", seconds=SECONDS)).handled == {1}

    @pytest.mark.asyncio
    async def test_a_dead_letter_outlives_its_retention(self, sqlite_inbox: SqliteInbox, time: FakeClock) -> None:
        """A dead letter can be replayed however late; a discarded one is folded like any handled event."""
        await sqlite_inbox.lease(events(1, 2), owner="a", seconds=SECONDS)
        for one in events(1, 2):
            attempt = await sqlite_inbox.record_failure(one, owner="a", error="x", max_attempts=1)
            assert attempt == FailedAttempt(attempts=1, is_dead=True)
        await sqlite_inbox.discard_dead_letter(2)
        time.tick(40 * 86_400)
        await handle(sqlite_inbox, 3)

        assert await rows(sqlite_inbox, "SELECT first, last FROM jetpay_inbox_range") == [(2, 2)]
        assert await sqlite_inbox.last_contiguous_event_id() == 3
        await sqlite_inbox.replay_dead_letter(1)
        assert await sqlite_inbox.claim(owner="b", seconds=SECONDS, limit=9, exclusive=False) == events(1)

    @pytest.mark.asyncio
    async def test_only_the_owner_counts_a_failure(self, sqlite_inbox: SqliteInbox) -> None:
        """A worker that has lost an event can't set it aside for the one that has it."""
        await sqlite_inbox.lease(events(1), owner="a", seconds=SECONDS)

        with pytest.raises(LeaseLostError, match="event 1 was taken over"):
            await sqlite_inbox.record_failure(event(1), owner="b", error="x", max_attempts=1)
        assert await sqlite_inbox.dead_letters() == ()

    @pytest.mark.asyncio
    async def test_a_handler_that_fails_after_its_commit_stops_nothing(
        self, shop: Shop, disk: SqliteInbox, tmp_path: Path
    ) -> None:
        """An event that was marked in the handler's own transaction is done, though the handler raised after that."""

        @shop.router.on("cards.*")
        async def commit_and_fail(event: Event) -> None:
            with closing(sqlite3.connect(tmp_path / "inbox.db")) as connection, connection:
                disk.mark_handled(connection, event)
            raise ZeroDivisionError

        receiver = receiver_for(shop, disk, max_attempts=1)
        body = body_of([document(1, type="cards.tokenized"), document(2)])
        first, second = await receiver.receive(body, TOKEN), await receiver.receive(body, TOKEN)

        assert first == DeliveryResponse(status=500, reason="handler_failed", handled=1, left=1)
        assert second == DeliveryResponse(status=200, reason="handled", skipped=2)
        assert await disk.dead_letters() == ()

    @pytest.mark.asyncio
    @pytest.mark.parametrize("limit", [None, 2], ids=["no limit", "limit"])
    async def test_without_a_limit_or_dead_letters_events_are_tried_for_ever(
        self, shop: Shop, disk: SqliteInbox, inbox: MemoryInbox, limit: int | None
    ) -> None:
        """Nothing is set aside if that was not asked for, or if the inbox can't."""
        shop.failing = {1}
        receiver = receiver_for(shop, disk if limit is None else inbox, max_attempts=limit)

        answers = [await receiver.receive(delivery_of(1), TOKEN) for _ in range(5)]

        assert {(answer.status, answer.dead) for answer in answers} == {(500, 0)}
        assert isinstance(disk, DeadLetterInbox)
        assert not isinstance(inbox, DeadLetterInbox)

    @pytest.mark.asyncio
    @pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
    async def test_a_hook_that_fails_changes_nothing(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture, error: type[BaseException]
    ) -> None:
        """The event is a dead letter, whatever `on_dead_letter` raises."""

        async def on_dead_letter(letter: DeadLetter) -> None:
            raise error

        shop.failing = {1}
        receiver = receiver_for(shop, disk, max_attempts=1, on_dead_letter=on_dead_letter)

        assert (await receiver.receive(delivery_of(1), TOKEN)).dead == 1
        assert len(await disk.dead_letters()) == 1
        assert "on_dead_letter failed for event 1" in caplog.text

    @pytest.mark.asyncio
    @pytest.mark.parametrize("step", ["hook", "inbox"])
    async def test_a_cancelled_request_is_no_failure_of_them(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """When the server cancels the request in the middle of it, the cancellation goes on."""
        waiting = asyncio.Event()

        async def wait(*_: object, **__: object) -> None:
            waiting.set()
            await asyncio.Event().wait()

        if step == "inbox":
            monkeypatch.setattr(disk, "record_failure", wait)
        shop.failing = {1}
        receiver = receiver_for(shop, disk, max_attempts=1, on_dead_letter=wait)
        receiving = asyncio.create_task(receiver.receive(delivery_of(1), TOKEN))
        await waiting.wait()
        receiving.cancel()

        with pytest.raises(asyncio.CancelledError):
            await receiving

    @pytest.mark.asyncio
    async def test_an_inbox_that_cannot_count_stops_the_delivery(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Trouble with the inbox while a failure is counted is answered like any other trouble with it."""

        async def fail(event: Event, **_: object) -> None:
            raise LeaseLostError("taken over")

        monkeypatch.setattr(disk, "record_failure", fail)
        shop.failing = {1}
        answer = await receiver_for(shop, disk).receive(delivery_of(1, 2), TOKEN)

        assert (answer.status, answer.reason, answer.left) == (500, "lease_lost", 2)
        assert shop.seen == [1]
        assert "the inbox failed (lease_lost)" in caplog.text
