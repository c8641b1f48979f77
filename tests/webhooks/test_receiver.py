"""The receiver: from a verified delivery to handled events and an answer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

import pytest

from jetpay_async._core.clock import Clock
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks import receiver as receiver_module
from jetpay_async.webhooks._signing import sign
from jetpay_async.webhooks.errors import (
    InvalidTokenError,
    KeysUnavailableError,
    MalformedDeliveryError,
    PayloadMismatchError,
    Reason,
    StaleDeliveryError,
    WebhookError,
)
from jetpay_async.webhooks.events import Event
from jetpay_async.webhooks.receiver import DeliveryResponse, WebhookReceiver
from jetpay_async.webhooks.router import EventRouter
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from jetpay_async.webhooks.verifier import WebhookVerifier
from tests.webhooks.receivers import TOKEN, BrokenInbox, Rejecting, Shop, delivery_of, receiver_for
from tests.webhooks.receiving import body_of, document, events, until
from tests.webhooks.signing import KEYS, KID, PRIVATE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class TestHandling:
    @pytest.mark.asyncio
    async def test_events_are_handled_in_the_order_of_their_ids(self, shop: Shop, inbox: MemoryInbox) -> None:
        """Unless told otherwise a delivery is handled strictly in order, whatever the transactions."""
        body = body_of(document(n, transaction=name) for n, name in ((3, "a"), (1, "a"), (2, "b")))
        answer = await receiver_for(shop, inbox).receive(body, TOKEN)

        assert answer == DeliveryResponse(status=200, reason="handled", handled=3)
        assert shop.done == [1, 2, 3]

    @pytest.mark.asyncio
    async def test_a_redelivery_is_skipped(self, shop: Shop, inbox: MemoryInbox) -> None:
        """Whatever comes again, in whatever cut, is handled once."""
        receiver = receiver_for(shop, inbox)
        await receiver.receive(delivery_of(1, 2), TOKEN)

        again = await receiver.receive(delivery_of(1, 2), TOKEN)
        recut = await receiver.receive(delivery_of(2, 3), TOKEN)

        assert again == DeliveryResponse(status=200, reason="handled", skipped=2)
        assert recut == DeliveryResponse(status=200, reason="handled", handled=1, skipped=1)
        assert shop.done == [1, 2, 3]

    @pytest.mark.asyncio
    async def test_events_that_nobody_takes_are_acknowledged(self, shop: Shop, inbox: MemoryInbox) -> None:
        """An event without a handler is counted and marked, and never makes Jetpay send again."""
        receiver = receiver_for(shop, inbox)
        body = body_of([document(1), document(2, type="cards.tokenized")])

        first, second = await receiver.receive(body, TOKEN), await receiver.receive(body, TOKEN)

        assert first == DeliveryResponse(status=200, reason="handled", handled=1, unhandled=1)
        assert second == DeliveryResponse(status=200, reason="handled", skipped=2)
        assert shop.router.unhandled == {"cards.tokenized": 1}

    @pytest.mark.asyncio
    async def test_an_empty_delivery_is_fine(self, shop: Shop, inbox: MemoryInbox) -> None:
        """Jetpay sends no empty deliveries [docs]; if it did, there would be nothing to do."""
        assert await receiver_for(shop, inbox).receive(body_of([]), TOKEN) == DeliveryResponse(
            status=200, reason="handled"
        )

    @pytest.mark.asyncio
    async def test_a_failure_stops_the_delivery(
        self, shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With on_error='stop' nothing is started after a failure; what was done stays, a redelivery does the rest."""
        receiver = receiver_for(shop, inbox, on_error="stop")
        shop.failing = {2}
        first = await receiver.receive(delivery_of(1, 2, 3), TOKEN)
        shop.failing = set()
        second = await receiver.receive(delivery_of(1, 2, 3), TOKEN)

        assert first == DeliveryResponse(status=500, reason="handler_failed", handled=1, left=2)
        assert second == DeliveryResponse(status=200, reason="handled", handled=2, skipped=1)
        assert shop.seen == [1, 2, 2, 3]
        assert "the handler of event 2 (transactions.debits.created) failed" in caplog.text
        assert "the shop's own trouble" in caplog.text

    @pytest.mark.asyncio
    async def test_or_it_goes_on_with_the_other_transactions(self, shop: Shop, inbox: MemoryInbox) -> None:
        """Unless told otherwise only later events of the failed one's transaction wait for the redelivery."""
        receiver = receiver_for(shop, inbox)
        body = body_of(document(n, transaction=name) for n, name in enumerate("abac", start=1))
        shop.failing = {1}
        first = await receiver.receive(body, TOKEN)
        shop.failing = set()
        second = await receiver.receive(body, TOKEN)

        assert first == DeliveryResponse(status=500, reason="handler_failed", handled=2, left=2)
        assert second == DeliveryResponse(status=200, reason="handled", handled=2, skipped=2)
        assert shop.seen == [1, 2, 4, 1, 3]

    @pytest.mark.asyncio
    async def test_a_failed_event_without_a_transaction_holds_nothing(self, shop: Shop, inbox: MemoryInbox) -> None:
        """With on_error='continue' events without a transaction don't wait for each other."""
        seen: list[int] = []

        @shop.router.on("cards.*")
        async def fail(event: Event) -> None:
            seen.append(event.id)
            raise ZeroDivisionError

        answer = await receiver_for(shop, inbox, on_error="continue").receive(
            delivery_of(1, 2, type="cards.tokenized"), TOKEN
        )

        assert answer == DeliveryResponse(status=500, reason="handler_failed", left=2)
        assert seen == [1, 2]

    @pytest.mark.asyncio
    async def test_context_variables_reach_the_handlers(self, shop: Shop, inbox: MemoryInbox) -> None:
        """What the web application has put into its context, a request id or a span, is visible in handlers."""
        request_id: ContextVar[str] = ContextVar("request_id")
        found: list[str] = []

        @shop.router.on("cards.*")
        async def look(event: Event) -> None:
            found.append(request_id.get())

        request_id.set("r-17")
        await receiver_for(shop, inbox).receive(delivery_of(1, type="cards.tokenized"), TOKEN)

        assert found == ["r-17"]

    @pytest.mark.asyncio
    async def test_a_handlers_own_timeout_is_a_failure(self, shop: Shop, inbox: MemoryInbox) -> None:
        """A TimeoutError of the handler is its failure, and is not mistaken for a lost lease."""

        @shop.router.on("cards.*")
        async def time_out(event: Event) -> None:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()

        answer = await receiver_for(shop, inbox).receive(delivery_of(1, type="cards.tokenized"), TOKEN)

        assert answer == DeliveryResponse(status=500, reason="handler_failed", left=1)

    @pytest.mark.asyncio
    async def test_a_handler_whose_own_task_was_cancelled_has_failed(
        self, shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A CancelledError of a task that the handler awaited is its failure, logged with the traceback."""

        @shop.router.on("cards.*")
        async def wait_for_a_cancelled_task(event: Event) -> None:
            task = asyncio.create_task(asyncio.sleep(1))
            task.cancel()
            await task

        receiver = receiver_for(shop, inbox)
        answer = await receiver.receive(delivery_of(1, type="cards.tokenized"), TOKEN)

        assert answer == DeliveryResponse(status=500, reason="handler_failed", left=1)
        assert "wait_for_a_cancelled_task" in caplog.text
        assert (await inbox.lease(events(1), owner="b", seconds=1)).mine == {1}

    @pytest.mark.asyncio
    @pytest.mark.parametrize("when", ["before it waits", "at its end"])
    async def test_a_handler_that_cancels_itself_has_failed(
        self, shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture, when: str
    ) -> None:
        """A handler that cancels the task it runs in has failed; the other events of the delivery are handled."""

        @shop.router.on("cards.*")
        async def give_up(event: Event) -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if when == "before it waits":
                await asyncio.sleep(0)

        receiver = receiver_for(shop, inbox)
        delivery = body_of([document(1, type="cards.tokenized"), document(2)])
        answer = await receiver.receive(delivery, TOKEN)

        assert answer == DeliveryResponse(status=500, reason="handler_failed", handled=1, left=1)
        assert "the handler of event 1 (cards.tokenized) failed" in caplog.text
        assert (await inbox.lease(events(1), owner="b", seconds=1)).mine == {1}

    @pytest.mark.asyncio
    async def test_a_handler_that_ignores_a_cancelled_request_is_the_last_one(
        self, shop: Shop, inbox: MemoryInbox
    ) -> None:
        """Of a delivery that was cancelled no further handler is started; what the handler has done is marked."""
        started = asyncio.Event()

        @shop.router.on("cards.*")
        async def insist(event: Event) -> None:
            started.set()
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await asyncio.sleep(0)

        receiver = receiver_for(shop, inbox)
        delivery = body_of([document(1, type="cards.tokenized"), document(2)])
        receiving = asyncio.create_task(receiver.receive(delivery, TOKEN))
        await started.wait()
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving

        assert shop.seen == []
        leased = await inbox.lease(events(1, 2), owner="b", seconds=1)
        assert (leased.handled, leased.mine) == ({1}, {2})

    @pytest.mark.asyncio
    async def test_a_late_handler_that_cancels_its_task_fails(self, shop: Shop, disk: SqliteInbox) -> None:
        """Also after the answer was due, or it would never be a dead letter, and block what follows for ever."""
        gate = asyncio.Event()

        @shop.router.on("cards.*")
        async def give_up(event: Event) -> None:
            await gate.wait()
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

        receiver = receiver_for(shop, disk, response_timeout=0.03, handler_timeout=None, max_attempts=1)
        answer = await receiver.receive(body_of([document(1, type="cards.tokenized"), document(2)]), TOKEN)
        gate.set()
        await until(lambda: not receiver._deliveries)

        assert answer == DeliveryResponse(status=503, reason="out_of_time", left=2)
        assert shop.done == [2]
        assert [letter.event.id for letter in await disk.dead_letters()] == [1]
        await until(lambda: len(asyncio.all_tasks()) == 1)

    @pytest.mark.asyncio
    async def test_the_end_of_the_loop_is_no_failure_of_a_late_handler(self, shop: Shop, disk: SqliteInbox) -> None:
        """Where all tasks are cancelled at once after the answer was due, no attempt is counted, and none is begun."""
        shop.gates = {1: asyncio.Event()}
        receiver = receiver_for(shop, disk, response_timeout=0.03, handler_timeout=None, max_attempts=1)
        answer = await receiver.receive(delivery_of(1, 2), TOKEN)
        await shop.started(1)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert answer.reason == "out_of_time"
        assert shop.seen == [1]
        assert (await disk.lease(events(1, 2), owner="b", seconds=1)).mine == {1, 2}
        assert await disk.dead_letters() == ()

    @pytest.mark.asyncio
    async def test_the_end_of_the_loop_is_no_failure_of_a_handler(
        self, shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where all tasks are cancelled at once, as asyncio.run() does, no attempt is counted, and none is begun."""
        shop.gates = {1: asyncio.Event()}
        receiver = receiver_for(shop, disk, max_attempts=1)
        receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
        await shop.started(1)
        (delivery,) = receiver._deliveries
        for task in (delivery, receiving):
            task.cancel()
        await asyncio.gather(delivery, receiving, return_exceptions=True)

        assert receiving.cancelled()
        assert delivery.cancelled()
        assert shop.seen == [1]
        assert "failed" not in caplog.text
        assert await disk.dead_letters() == ()

    @pytest.mark.asyncio
    async def test_a_delivery_that_is_cancelled_before_it_begins_is_answered(
        self, shop: Shop, inbox: MemoryInbox
    ) -> None:
        """Also then nobody waits for the answer until it is due."""

        def cancel_what_was_created() -> float:
            for delivery in receiver._deliveries:
                delivery.cancel()
            return 0.0

        receiver = receiver_for(shop, inbox, clock=Clock(monotonic=cancel_what_was_created))
        async with asyncio.timeout(5):
            answer = await receiver.receive(delivery_of(1), TOKEN)

        assert answer == DeliveryResponse(status=503, reason="cancelled", left=1)
        assert shop.seen == []

    @pytest.mark.asyncio
    async def test_an_inbox_that_cancels_the_task_leaves_the_events(self, shop: Shop) -> None:
        """Where an inbox of somebody's own cancels the task it is called in, its events are left to the redelivery."""

        class Cancelling(MemoryInbox):
            @asynccontextmanager
            async def handling(self, event: Event, *, owner: str) -> AsyncIterator[None]:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
                yield

        answer = await receiver_for(shop, Cancelling(), mark_within=None).receive(delivery_of(1), TOKEN)

        assert answer == DeliveryResponse(status=503, reason="cancelled", left=1)


class TestConcurrency:
    @pytest.mark.asyncio
    async def test_transactions_run_side_by_side(self, inbox: MemoryInbox) -> None:
        """With concurrency, events of one transaction stay in order while others overtake; never more than allowed."""
        shop = Shop(concurrency=2)
        shop.gates = {1: asyncio.Event(), 2: asyncio.Event()}
        body = body_of(document(n, transaction=name) for n, name in enumerate("abac", start=1))
        receiving = asyncio.create_task(receiver_for(shop, inbox).receive(body, TOKEN))
        await shop.started(1, 2)
        await asyncio.sleep(0.01)
        only_two = list(shop.seen)
        shop.gates[2].set()
        await shop.finished(2, 4)
        overtaken = list(shop.seen)
        shop.gates[1].set()

        assert (await receiving).handled == 4
        assert only_two == [1, 2]
        assert overtaken == [1, 2, 4]
        assert shop.done == [2, 4, 1, 3]

    @pytest.mark.asyncio
    async def test_a_failure_lets_the_running_ones_end(self, inbox: MemoryInbox) -> None:
        """With on_error='stop' nothing new is started, and what runs side by side is not cancelled."""
        shop = Shop(concurrency=2)
        shop.gates = {1: asyncio.Event()}
        shop.failing = {2}
        receiving = asyncio.create_task(receiver_for(shop, inbox, on_error="stop").receive(delivery_of(1, 2, 3), TOKEN))
        await shop.started(1, 2)
        shop.gates[1].set()

        assert await receiving == DeliveryResponse(status=500, reason="handler_failed", handled=1, left=2)
        assert shop.done == [1]

    @pytest.mark.asyncio
    async def test_two_deliveries_at_once_handle_each_event_once(self, shop: Shop, inbox: MemoryInbox) -> None:
        """While one worker has an event, another that receives it too answers 503 and does not touch it."""
        receiver = receiver_for(shop, inbox)
        shop.gates = {1: asyncio.Event()}
        first = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
        await shop.started(1)
        second = await receiver.receive(delivery_of(1, 2), TOKEN)
        shop.gates[1].set()

        assert second == DeliveryResponse(status=503, reason="busy", left=2)
        assert await first == DeliveryResponse(status=200, reason="handled", handled=2)
        assert shop.seen == [1, 2]


class TestRejecting:
    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        ("error", "status", "level"),
        [
            (MalformedDeliveryError(Reason.MALFORMED_BODY), 400, "INFO"),
            (MalformedDeliveryError(Reason.BODY_TOO_LARGE), 413, "INFO"),
            (InvalidTokenError(Reason.BAD_SIGNATURE), 401, "INFO"),
            (StaleDeliveryError(Reason.EXPIRED), 401, "WARNING"),
            (PayloadMismatchError(Reason.PAYLOAD_MISMATCH), 401, "WARNING"),
            (KeysUnavailableError(Reason.KEYS_UNREACHABLE), 503, "WARNING"),
        ],
        ids=lambda value: value.reason if isinstance(value, WebhookError) else None,
    )
    async def test_a_rejected_delivery_is_answered_as_the_error_says(
        self,
        inbox: MemoryInbox,
        caplog: pytest.LogCaptureFixture,
        error: WebhookError,
        status: int,
        level: str,
    ) -> None:
        """Verification decides the status; the log tells the reason, and neither the token nor the body."""
        caplog.set_level(logging.DEBUG)
        receiver = WebhookReceiver(Rejecting(error), EventRouter(), inbox=inbox)

        answer = await receiver.receive(b'{"secret": "of the body"}', TOKEN)

        assert answer == DeliveryResponse(status=status, reason=error.reason)
        assert [record.levelname for record in caplog.records] == [level]
        assert str(error.reason) in caplog.text
        assert "of the body" not in caplog.text
        assert "let-me-in" not in caplog.text


class TestInboxTrouble:
    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        ("step", "within"), [("lease", 0.0), ("mark", 0.0), ("mark", None), ("release", 0.0), ("release", None)]
    )
    async def test_an_inbox_whose_own_task_was_cancelled_has_failed(
        self, shop: Shop, step: str, within: float | None
    ) -> None:
        """A CancelledError out of an inbox, as of a database driver that was closed, is a failure like any other."""
        shop.failing = {1} if step == "release" else set()
        receiver = receiver_for(shop, BrokenInbox(step, error=asyncio.CancelledError), mark_within=within)

        answer = await receiver.receive(delivery_of(1), TOKEN)

        expected = (500, "handler_failed") if step == "release" else (503, "unavailable")
        assert (answer.status, answer.reason, answer.left) == (*expected, 1)

    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        ("step", "within", "seen"),
        [
            pytest.param("lease", 0.0, [], id="lease"),
            pytest.param("mark", 0.0, [1, 2], id="mark"),
            pytest.param("mark", None, [1], id="mark each"),
        ],
    )
    async def test_an_inbox_that_fails_is_a_503(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, step: str, within: float | None, seen: list[int]
    ) -> None:
        """Whatever an inbox raises stays inside, is logged, and makes Jetpay send again."""
        receiver = receiver_for(shop, BrokenInbox(step), mark_within=within)

        assert await receiver.receive(delivery_of(1, 2), TOKEN) == DeliveryResponse(
            status=503, reason="unavailable", left=2
        )
        assert shop.seen == seen
        assert f"no {step}: the database is away" in caplog.text

    @pytest.mark.asyncio
    async def test_the_inboxs_own_reason_is_told(self, shop: Shop, inbox: MemoryInbox) -> None:
        """An InboxError's reason becomes the answer's, so that it can be counted."""
        receiver = receiver_for(shop, inbox)
        await receiver.receive(delivery_of(1), TOKEN)

        other_account = await receiver.receive(delivery_of(1, created_at="2020-01-01T00:00:00Z"), TOKEN)

        assert other_account == DeliveryResponse(status=503, reason="conflict", left=1)

    @pytest.mark.asyncio
    async def test_leases_that_cannot_be_given_back_run_out(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        """A release that fails changes nothing about the answer."""
        shop.failing = {1}

        answer = await receiver_for(shop, BrokenInbox("release")).receive(delivery_of(1), TOKEN)

        assert answer == DeliveryResponse(status=500, reason="handler_failed", left=1)
        assert "could not release events; their lease runs out in 30 s" in caplog.text


class TestGaps:
    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        ("deliveries", "expected"),
        [
            pytest.param([[5], [6, 7], [8]], [], id="none"),
            pytest.param([[5, 6], [9, 10]], [(7, 8)], id="between-deliveries"),
            pytest.param([[5, 7, 10]], [(6, 6), (8, 9)], id="within-the-first"),
            pytest.param([[5], [9], [6, 7], [10]], [(6, 8)], id="late-ones-come"),
            pytest.param([[5], [5], [3]], [], id="old-ones-come"),
            pytest.param([[5], [9], [6, 8, 11]], [(6, 8), (10, 10)], id="late-and-new-ones"),
        ],
    )
    async def test_ids_that_did_not_arrive_are_told(
        self, shop: Shop, inbox: MemoryInbox, deliveries: list[list[int]], expected: list[tuple[int, int]]
    ) -> None:
        """Jetpay doesn't skip ids, so a gap is reported, once, with its first and last id."""
        gaps: list[tuple[int, int]] = []

        async def on_missing_events(first: int, last: int) -> None:
            gaps.append((first, last))

        receiver = receiver_for(shop, inbox, on_missing_events=on_missing_events)
        for event_ids in deliveries:
            assert (await receiver.receive(delivery_of(*event_ids), TOKEN)).status == 200

        assert gaps == expected

    @pytest.mark.asyncio
    async def test_a_watch_that_fails_stops_nothing(
        self, shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The events that did arrive are handled, whatever `on_missing_events` raises."""

        async def on_missing_events(first: int, last: int) -> None:
            raise ZeroDivisionError

        answer = await receiver_for(shop, inbox, on_missing_events=on_missing_events).receive(delivery_of(1, 5), TOKEN)

        assert answer.handled == 2
        assert "on_missing_events failed for 2 to 4" in caplog.text

    @pytest.mark.asyncio
    async def test_a_watch_that_is_cancelled_within_stops_nothing(self, shop: Shop, inbox: MemoryInbox) -> None:
        """A CancelledError of its own making is a failure of `on_missing_events` too."""

        async def on_missing_events(first: int, last: int) -> None:
            raise asyncio.CancelledError

        answer = await receiver_for(shop, inbox, on_missing_events=on_missing_events).receive(delivery_of(1, 5), TOKEN)

        assert answer.handled == 2

    @pytest.mark.asyncio
    async def test_a_watch_that_hangs_stops_nothing(
        self, shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """`on_missing_events` has the time that a handler has; then the events that did arrive are handled."""

        async def on_missing_events(first: int, last: int) -> None:
            await asyncio.Event().wait()

        receiver = receiver_for(shop, inbox, on_missing_events=on_missing_events, handler_timeout=0.05)
        answer = await receiver.receive(delivery_of(1, 5), TOKEN)

        assert answer.handled == 2
        assert "on_missing_events failed for 2 to 4" in caplog.text

    @pytest.mark.asyncio
    async def test_a_cancelled_request_ends_the_watch(self, shop: Shop, inbox: MemoryInbox) -> None:
        """A watch that runs when the server cancels the request is cancelled with it."""
        watching = asyncio.Event()

        async def on_missing_events(first: int, last: int) -> None:
            watching.set()
            await asyncio.Event().wait()

        receiver = receiver_for(shop, inbox, on_missing_events=on_missing_events)
        receiving = asyncio.create_task(receiver.receive(delivery_of(1, 5), TOKEN))
        await watching.wait()
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving

        assert (await inbox.lease(events(1, 5), owner="b", seconds=1)).mine == {1, 5}

    @pytest.mark.asyncio
    async def test_where_to_start_a_replay(self, shop: Shop, inbox: MemoryInbox) -> None:
        """The last event id is the inbox's: the end of what is handled without a hole."""
        receiver = receiver_for(shop, inbox)
        before = await receiver.last_contiguous_event_id()
        await receiver.receive(delivery_of(1, 2, 4), TOKEN)

        assert (before, await receiver.last_contiguous_event_id()) == (None, 2)


class TestClosing:
    @pytest.mark.asyncio
    async def test_what_runs_may_end(self, shop: Shop, inbox: MemoryInbox) -> None:
        """Closing lets the running handler end, starts no further event, and answers later deliveries with 503."""
        shop.gates = {1: asyncio.Event()}
        async with receiver_for(shop, inbox) as receiver:
            receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
            await shop.started(1)
            closing = asyncio.create_task(receiver.aclose())
            await asyncio.sleep(0.01)
            assert not closing.done()
            shop.gates[1].set()
            await closing

        assert await receiving == DeliveryResponse(status=503, reason="closed", handled=1, left=1)
        assert await receiver.receive(delivery_of(1, 2), TOKEN) == DeliveryResponse(status=503, reason="closed")
        assert shop.seen == [1]

    @pytest.mark.asyncio
    async def test_what_does_not_end_is_cancelled(
        self, shop: Shop, inbox: MemoryInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A handler that is still running after the grace is cancelled, and its event released."""
        monkeypatch.setattr(receiver_module, "_CLOSE_TIMEOUT_SECONDS", 0.02)
        shop.gates = {1: asyncio.Event()}
        async with receiver_for(shop, inbox) as receiver:
            receiving = asyncio.create_task(receiver.receive(delivery_of(1), TOKEN))
            await shop.started(1)

        assert await receiving == DeliveryResponse(status=503, reason="closed", left=1)
        assert (await inbox.lease(events(1), owner="b", seconds=1)).mine == {1}

    @pytest.mark.asyncio
    async def test_a_closed_one_is_opened_again(self, shop: Shop, inbox: MemoryInbox) -> None:
        """Closing again is no mistake, and entering it again opens it."""
        receiver = receiver_for(shop, inbox)
        async with receiver:
            pass
        await receiver.aclose()
        closed = await receiver.receive(delivery_of(1), TOKEN)
        async with receiver:
            opened = await receiver.receive(delivery_of(1), TOKEN)

        assert (closed.reason, opened.reason) == ("closed", "handled")


class TestForeignDeliveries:
    @pytest.mark.asyncio
    async def test_a_verifier_that_accepts_any_webhook_is_warned_of(
        self, shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without webhook_ids and a callback key, a warning says once what that means, entered or not."""
        verifier = WebhookVerifier(KEYS)
        entered = WebhookReceiver(verifier, shop.router, inbox=inbox)
        async with entered:
            at_start = caplog.text.count("any customer of Jetpay")
            await entered.receive(b"", None)
        bare = WebhookReceiver(verifier, shop.router, inbox=inbox)
        for _ in range(2):
            await bare.receive(b"", None)

        assert at_start == 1
        assert caplog.text.count("any customer of Jetpay") == 2

    @pytest.mark.asyncio
    async def test_one_that_knows_its_own_is_not(
        self, shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where the deliveries of others are rejected, with a 403, there is nothing to warn of."""
        verifier = WebhookVerifier(KEYS, webhook_ids={9})
        body = delivery_of(1)
        async with WebhookReceiver(verifier, shop.router, inbox=inbox) as receiver:
            answer = await receiver.receive(body, headers={"Authorization": sign(body, PRIVATE, kid=KID)})

        assert answer == DeliveryResponse(status=403, reason="wrong_webhook")
        assert "any customer of Jetpay" not in caplog.text


class TestArguments:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("response_timeout", 0),
            ("lease_seconds", -1.0),
            ("poll_interval", float("nan")),
            ("handler_timeout", 0),
            ("max_attempts", 0),
            ("on_error", "ignore"),
            ("acknowledge", "received"),
        ],
    )
    def test_nonsense_is_rejected(self, shop: Shop, inbox: MemoryInbox, field: str, value: object) -> None:
        """A setting that can't work is rejected when the receiver is made."""
        with pytest.raises(InvalidArgumentError, match=field) as rejected:
            receiver_for(shop, inbox, **{field: value})
        assert rejected.value.field == field

    def test_early_answers_need_a_disk(self, shop: Shop, inbox: MemoryInbox) -> None:
        """An inbox that forgets can't promise to handle an event after the answer."""
        with pytest.raises(ConfigurationError, match="MemoryInbox does not, SqliteInbox does"):
            receiver_for(shop, inbox, acknowledge="after_storing")


@pytest.mark.asyncio
async def test_headers_are_checked_before_the_body_is_read(shop: Shop, inbox: MemoryInbox) -> None:
    """What its headers condemn is answered without a body; what can't be judged by them is to be read."""
    headers = {"Authorization": sign(b"{}", PRIVATE, kid=KID)}
    receiver = WebhookReceiver(WebhookVerifier(KEYS), shop.router, inbox=inbox)
    good, bad = await receiver.check_headers(headers), await receiver.check_headers({})
    unknown = await receiver_for(shop, inbox).check_headers({})
    await receiver.aclose()

    assert good is unknown is None
    assert bad == DeliveryResponse(status=401, reason="missing_token")
    assert await receiver.check_headers(headers) == DeliveryResponse(status=503, reason="closed")
