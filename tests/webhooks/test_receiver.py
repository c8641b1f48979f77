"""The receiver: from a verified delivery to handled events and an answer."""

from __future__ import annotations

import asyncio
import gc
import logging
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, cast

import pytest
import pytest_asyncio

from jetpay_async._core.clock import Clock
from jetpay_async.errors import ConfigurationError, InvalidArgumentError
from jetpay_async.webhooks import receiver as receiver_module
from jetpay_async.webhooks.errors import (
    InvalidTokenError,
    KeysUnavailableError,
    MalformedDeliveryError,
    PayloadMismatchError,
    Reason,
    StaleDeliveryError,
    WebhookError,
)
from jetpay_async.webhooks.events import Delivery, Event, TransactionPaid, decode
from jetpay_async.webhooks.inbox import EventInbox, InboxError, Leased, MemoryInbox, SqliteInbox
from jetpay_async.webhooks.receiver import DeliveryResponse, WebhookReceiver, ensure_leased
from jetpay_async.webhooks.router import EventRouter
from tests.webhooks.receiving import HandClock, body_of, document, event, events, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from jetpay_async.webhooks._inbox_rows import InboxRows

TOKEN = "Bearer let-me-in"


class Trusting:
    """Verification has tests of its own; here whatever decodes is authentic."""

    async def verify(self, body: bytes, authorization: str | bytes | None) -> Delivery:
        assert authorization == TOKEN
        return decode(body)


class Refusing:
    def __init__(self, error: WebhookError) -> None:
        self.error = error

    async def verify(self, body: bytes, authorization: str | bytes | None) -> Delivery:
        raise self.error


class Shop:
    """A router whose handler notes each event, and fails or waits where a test says so."""

    def __init__(self, *, concurrency: int = 1) -> None:
        self.router = EventRouter(concurrency=concurrency)
        self.seen: list[int] = []
        self.done: list[int] = []
        self.failing: set[int] = set()
        self.gates: dict[int, asyncio.Event] = {}
        self.router.on(TransactionPaid)(self.take)

    async def take(self, event: TransactionPaid) -> None:
        self.seen.append(event.id)
        if event.id in self.gates:
            await self.gates[event.id].wait()
        if event.id in self.failing:
            raise ZeroDivisionError("the shop's own trouble")
        self.done.append(event.id)

    async def started(self, *event_ids: int) -> None:
        await until(lambda: set(event_ids) <= set(self.seen))

    async def finished(self, *event_ids: int) -> None:
        await until(lambda: set(event_ids) <= set(self.done))


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def inbox() -> MemoryInbox:
    return MemoryInbox()


@pytest_asyncio.fixture
async def disk(tmp_path: Path) -> AsyncIterator[SqliteInbox]:
    async with SqliteInbox(tmp_path / "inbox.db") as inbox:
        yield inbox


def delivery_of(*event_ids: int, **fields: str) -> bytes:
    return body_of(document(event_id, **fields) for event_id in event_ids)  # type: ignore[arg-type]


def receiver_for(shop: Shop, inbox: EventInbox, **settings: object) -> WebhookReceiver:
    return WebhookReceiver(Trusting(), shop.router, inbox=inbox, **settings)  # type: ignore[arg-type]


async def steal(inbox: MemoryInbox | SqliteInbox) -> None:
    """Let another worker take everything over, as it could if this one had been stalled."""

    def write(rows: InboxRows) -> None:
        rows._connection.execute("UPDATE jetpay_inbox SET owner = 'thief' WHERE handled_at IS NULL")

    await inbox._run(write)


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
        """By default nothing is started after a failure; what was done stays done, and a redelivery does the rest."""
        receiver = receiver_for(shop, inbox)
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
        """With on_error='continue' only later events of the failed one's transaction wait for the redelivery."""
        receiver = receiver_for(shop, inbox, on_error="continue")
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
    async def test_a_handler_that_was_cancelled_by_others_is_told(self, shop: Shop, inbox: MemoryInbox) -> None:
        """A handler that ends by a cancellation which nobody here asked for leaves its event to the redelivery."""

        @shop.router.on("cards.*")
        async def give_up(event: Event) -> None:
            raise asyncio.CancelledError

        receiver = receiver_for(shop, inbox)
        answer = await receiver.receive(delivery_of(1, type="cards.tokenized"), TOKEN)

        assert answer == DeliveryResponse(status=503, reason="cancelled", left=1)
        assert (await inbox.lease(events(1), owner="b", seconds=1)).mine == {1}


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
        receiving = asyncio.create_task(receiver_for(shop, inbox).receive(delivery_of(1, 2, 3), TOKEN))
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


class TestRefusing:
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
    async def test_a_refused_delivery_is_answered_as_the_error_says(
        self,
        inbox: MemoryInbox,
        caplog: pytest.LogCaptureFixture,
        error: WebhookError,
        status: int,
        level: str,
    ) -> None:
        """Verification decides the status; the log tells the reason, and neither the token nor the body."""
        caplog.set_level(logging.DEBUG)
        receiver = WebhookReceiver(Refusing(error), EventRouter(), inbox=inbox)

        answer = await receiver.receive(b'{"secret": "of the body"}', TOKEN)

        assert answer == DeliveryResponse(status=status, reason=error.reason)
        assert [record.levelname for record in caplog.records] == [level]
        assert str(error.reason) in caplog.text
        assert "of the body" not in caplog.text
        assert "let-me-in" not in caplog.text


class BrokenInbox(MemoryInbox):
    """An inbox of somebody else's, which fails where a test says so, with an error of its own."""

    def __init__(self, *failing: str) -> None:
        super().__init__()
        self.failing = set(failing)
        self.renewals = 0

    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        self._fail("lease")
        return await super().lease(events, owner=owner, seconds=seconds)

    async def renew(self, event_ids: object, *, owner: str, seconds: float) -> frozenset[int]:
        self.renewals += 1
        self._fail("renew")
        return await super().renew(cast("list[int]", event_ids), owner=owner, seconds=seconds)

    @asynccontextmanager
    async def handling(self, event: Event, *, owner: str) -> AsyncIterator[None]:
        async with super().handling(event, owner=owner):
            yield
            self._fail("mark")

    async def release(self, *, owner: str) -> None:
        self._fail("release")
        await super().release(owner=owner)

    def _fail(self, step: str) -> None:
        if step in self.failing:
            raise ConnectionError(f"no {step}: the database is away")


class TestInboxTrouble:
    @pytest.mark.asyncio
    @pytest.mark.parametrize(
        ("step", "seen"), [pytest.param("lease", [], id="lease"), pytest.param("mark", [1], id="mark")]
    )
    async def test_an_inbox_that_fails_is_a_503(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, step: str, seen: list[int]
    ) -> None:
        """Whatever an inbox raises stays inside, is logged, and makes Jetpay send again."""
        receiver = receiver_for(shop, BrokenInbox(step))

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
        assert "could not give events back; they are free again in 30 s" in caplog.text


class TestLease:
    @pytest.mark.asyncio
    async def test_it_is_renewed_as_long_as_a_handler_runs(self, shop: Shop) -> None:
        """A handler may take longer than the lease, as long as its worker is alive."""
        inbox = BrokenInbox()
        shop.gates = {1: asyncio.Event()}
        receiving = asyncio.create_task(receiver_for(shop, inbox, lease_seconds=0.04).receive(delivery_of(1), TOKEN))
        await until(lambda: inbox.renewals == 6)
        busy = await inbox.lease(events(1), owner="b", seconds=1)
        shop.gates[1].set()

        assert busy.busy == {1}
        assert (await receiving).status == 200

    @pytest.mark.asyncio
    async def test_a_handler_whose_event_was_taken_over_is_cancelled(
        self, shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """When a renewal tells that another worker has the event, the handler is cancelled and nothing is marked."""

        async def soon(_: float) -> None:
            await asyncio.sleep(0.005)

        shop.gates = {1: asyncio.Event()}
        receiver = receiver_for(shop, inbox, clock=Clock(sleep=soon))
        receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
        await shop.started(1)
        await steal(inbox)

        assert await receiving == DeliveryResponse(status=503, reason="lease_lost", left=2)
        assert (shop.seen, shop.done) == ([1], [])
        assert "the lease was lost" in caplog.text

    @pytest.mark.asyncio
    async def test_a_lease_that_cannot_be_renewed_ends(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        """When the inbox can't be reached for the whole lease, the handler is cancelled before others may take over."""
        shop.gates = {1: asyncio.Event()}
        inbox = BrokenInbox("renew")

        answer = await receiver_for(shop, inbox, lease_seconds=0.04).receive(delivery_of(1), TOKEN)

        assert answer == DeliveryResponse(status=503, reason="lease_lost", left=1)
        assert inbox.renewals >= 2
        assert "could not renew the lease of 1 events" in caplog.text

    @pytest.mark.asyncio
    async def test_an_event_taken_over_is_not_marked(self, shop: Shop, inbox: MemoryInbox) -> None:
        """A handler that ended before it learnt of the takeover is not counted, and the next event is not started."""
        shop.gates = {1: asyncio.Event()}
        receiving = asyncio.create_task(receiver_for(shop, inbox).receive(delivery_of(1, 2), TOKEN))
        await shop.started(1)
        await steal(inbox)
        shop.gates[1].set()

        assert await receiving == DeliveryResponse(status=503, reason="lease_lost", left=2)
        assert shop.seen == [1]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("moved", ["wall", "monotonic"])
    async def test_the_fence_holds_after_a_stall(self, shop: Shop, inbox: MemoryInbox, moved: str) -> None:
        """A handler that asks before its effect is stopped there, whichever clock has noticed the stall."""
        wall, monotonic = HandClock(), HandClock()
        sent: list[int] = []

        @shop.router.on("cards.*")
        async def send(event: Event) -> None:
            ensure_leased()
            sent.append(event.id)
            (wall if moved == "wall" else monotonic).tick(30)
            ensure_leased()
            sent.append(-event.id)

        clock = Clock(time=lambda: wall.now, monotonic=lambda: monotonic.now)
        answer = await receiver_for(shop, inbox, clock=clock).receive(delivery_of(1, type="cards.tokenized"), TOKEN)

        assert answer == DeliveryResponse(status=503, reason="lease_lost", left=1)
        assert sent == [1]

    def test_outside_of_a_receiver_the_fence_is_open(self) -> None:
        """A test that calls a handler itself needs no receiver around it."""
        ensure_leased()

    @pytest.mark.asyncio
    async def test_a_late_renewal_does_not_revive_a_lost_lease(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A renewal that comes back after the lease's time is up, while the handler tidies up, changes nothing."""
        back = asyncio.Event()

        class Slow(BrokenInbox):
            async def renew(self, event_ids: object, *, owner: str, seconds: float) -> frozenset[int]:
                await back.wait()
                return await super().renew(event_ids, owner=owner, seconds=seconds)

        @shop.router.on("cards.*")
        async def tidy_up(event: Event) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                back.set()
                await asyncio.sleep(0.01)

        inbox = Slow()

        answer = await receiver_for(shop, inbox, lease_seconds=0.04).receive(
            delivery_of(1, type="cards.tokenized"), TOKEN
        )

        gc.collect()
        assert answer == DeliveryResponse(status=503, reason="lease_lost", left=1)
        assert inbox.renewals == 1
        assert "exception was never retrieved" not in caplog.text


class TestTime:
    @pytest.mark.asyncio
    async def test_a_slow_delivery_is_answered_in_time(
        self, shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        """When time runs out the answer is a 503, the handlers go on, and the redelivery finds them done."""
        receiver = receiver_for(shop, inbox, response_timeout=0.03)
        shop.gates = {1: asyncio.Event()}
        first = await receiver.receive(delivery_of(1, 2), TOKEN)
        shop.gates[1].set()
        await shop.finished(1, 2)
        second = await receiver.receive(delivery_of(1, 2), TOKEN)

        assert first == DeliveryResponse(status=503, reason="out_of_time", left=2)
        assert second == DeliveryResponse(status=200, reason="handled", skipped=2)
        assert "answering 503 (out_of_time): 2 events are left" in caplog.text

    @pytest.mark.asyncio
    async def test_verification_counts(self, shop: Shop, inbox: MemoryInbox) -> None:
        """The time that fetching the keys took is gone for the handlers; nine tenths of 15 s are all there is."""
        time = HandClock()

        class Slow(Trusting):
            async def verify(self, body: bytes, authorization: str | bytes | None) -> Delivery:
                time.tick(13.5)
                return await super().verify(body, authorization)

        shop.gates = {1: asyncio.Event()}
        clock = Clock(monotonic=lambda: time.now)
        async with WebhookReceiver(Slow(), shop.router, inbox=inbox, clock=clock) as receiver:
            async with asyncio.timeout(1):
                answer = await receiver.receive(delivery_of(1), TOKEN)
            shop.gates[1].set()

        assert answer.reason == "out_of_time"

    @pytest.mark.asyncio
    async def test_a_cancelled_request_cancels_and_releases(self, shop: Shop, inbox: MemoryInbox) -> None:
        """When the server cancels the request, the handler is cancelled and its events are free at once."""
        receiver = receiver_for(shop, inbox)
        shop.gates = {1: asyncio.Event()}
        receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
        await shop.started(1)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        shop.gates = {}

        assert await receiver.receive(delivery_of(1, 2), TOKEN) == DeliveryResponse(
            status=200, reason="handled", handled=2
        )
        assert shop.seen == [1, 1, 2]

    @pytest.mark.asyncio
    async def test_a_cancellation_while_leasing_releases_too(self, shop: Shop, disk: SqliteInbox) -> None:
        """Events that were leased while the request was being cancelled don't stay leased."""
        receiver = receiver_for(shop, disk)
        receiving = asyncio.create_task(receiver.receive(delivery_of(1), TOKEN))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving

        assert (await disk.lease(events(1), owner="b", seconds=1)).mine == {1}
        assert shop.seen == []


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
        """Jetpay doesn't skip ids, so a gap is told, once, with its first and last id."""
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
        monkeypatch.setattr(receiver_module, "_CLOSE_WITHIN", 0.02)
        shop.gates = {1: asyncio.Event()}
        async with receiver_for(shop, inbox) as receiver:
            receiving = asyncio.create_task(receiver.receive(delivery_of(1), TOKEN))
            await shop.started(1)

        assert await receiving == DeliveryResponse(status=503, reason="closed", left=1)
        assert (await inbox.lease(events(1), owner="b", seconds=1)).mine == {1}

    @pytest.mark.asyncio
    async def test_closed_is_closed(self, shop: Shop, inbox: MemoryInbox) -> None:
        """Entering a closed receiver is a mistake that is told; closing again is none."""
        receiver = receiver_for(shop, inbox)
        await receiver.aclose()
        await receiver.aclose()

        with pytest.raises(ConfigurationError, match="was closed"):
            await receiver.__aenter__()


class TestArguments:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("response_timeout", 0),
            ("lease", -1.0),
            ("poll", float("nan")),
            ("on_error", "ignore"),
            ("acknowledge", "received"),
        ],
    )
    def test_nonsense_is_refused(self, shop: Shop, inbox: MemoryInbox, field: str, value: object) -> None:
        """A setting that can't work is refused when the receiver is made."""
        with pytest.raises(InvalidArgumentError, match=field) as refused:
            receiver_for(shop, inbox, **{field: value})
        assert refused.value.field == field

    def test_early_answers_need_a_disk(self, shop: Shop, inbox: MemoryInbox) -> None:
        """An inbox that forgets can't promise to handle an event after the answer."""
        with pytest.raises(ConfigurationError, match="MemoryInbox does not, SqliteInbox does"):
            receiver_for(shop, inbox, acknowledge="after_storing")


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
    @pytest.mark.parametrize("acknowledge", ["stored", "handled"])
    async def test_what_a_dead_process_left_is_handled_at_the_next_start(
        self, shop: Shop, disk: SqliteInbox, acknowledge: Literal["stored", "handled"]
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

        async with receiver_for(shop, disk, acknowledge="after_storing", clock=Clock(sleep=sleep)) as receiver:
            await receiver.receive(delivery_of(1, 2, 3), TOKEN)
            await shop.finished(1, 2, 3)

        assert pauses[:9] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert shop.seen == [1] + [2] * 10 + [3]

    @pytest.mark.asyncio
    async def test_or_keeps_only_its_transaction_waiting(self, shop: Shop, tmp_path: Path) -> None:
        """With on_error='continue' a failed event and its transaction are put off while the others pass."""
        time = HandClock()
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

            await until(lambda: getattr(receiver._stored_worker, "_attempts", None) == {})

        assert seen_at_first == [1, 2, 4]
        assert shop.seen == [1, 2, 4, 1, 1, 3]

    @pytest.mark.asyncio
    async def test_it_must_be_entered(self, shop: Shop, disk: SqliteInbox) -> None:
        """Nothing is promised that nobody would retention: without a worker the receiver refuses to work."""
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
        take = disk.take
        pauses: list[float] = []

        async def fail(**_: object) -> Sequence[Event]:
            raise InboxError("away for lunch", reason="locked")

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            monkeypatch.setattr(disk, "take", take)

        monkeypatch.setattr(disk, "take", fail)
        await disk.store(events(1))
        async with receiver_for(shop, disk, clock=Clock(sleep=sleep)):
            await shop.finished(1)

        assert pauses[0] == 1
        assert "could not work off stored events" in caplog.text

    @pytest.mark.asyncio
    async def test_closing_lets_the_running_handler_end(self, shop: Shop, disk: SqliteInbox) -> None:
        """The worker finishes the event it is at, and leaves the others on disk."""
        shop.gates = {1: asyncio.Event()}
        async with receiver_for(shop, disk, acknowledge="after_storing") as receiver:
            await receiver.receive(delivery_of(1, 2), TOKEN)
            await shop.started(1)
            asyncio.get_running_loop().call_later(0.01, shop.gates[1].set)

        assert shop.done == [1]
        assert await disk.take(owner="next", seconds=1, limit=9) == events(2)

    @pytest.mark.asyncio
    async def test_closing_does_not_wait_for_ever(
        self, shop: Shop, disk: SqliteInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A handler of a stored event that doesn't end is cancelled, and the event stays on disk."""
        monkeypatch.setattr(receiver_module, "_CLOSE_WITHIN", 0.02)
        shop.gates = {1: asyncio.Event()}
        async with receiver_for(shop, disk, acknowledge="after_storing") as receiver:
            await receiver.receive(delivery_of(1), TOKEN)
            await shop.started(1)

        assert shop.done == []
        assert await disk.take(owner="next", seconds=1, limit=9) == events(1)

    @pytest.mark.asyncio
    async def test_a_store_needs_not_be_entered_to_be_closed(self, shop: Shop, disk: SqliteInbox) -> None:
        """A receiver that answers after handling works without `async with`, and can be closed all the same."""
        receiver = receiver_for(shop, disk)
        answer = await receiver.receive(delivery_of(1), TOKEN)
        await receiver.aclose()

        assert answer.handled == 1
