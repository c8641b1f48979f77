"""The receiver's leases, and its time: who may handle an event, and for how long."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from jetpay_async._core.clock import Clock
from jetpay_async.webhooks._lease import EventLease
from jetpay_async.webhooks.events import Delivery, Event
from jetpay_async.webhooks.receiver import DeliveryResponse, WebhookReceiver, ensure_leased
from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox
from tests.webhooks.receivers import TOKEN, BrokenInbox, Shop, Trusting, delivery_of, receiver_for, steal
from tests.webhooks.receiving import FakeClock, body_of, document, events, until

if TYPE_CHECKING:
    from collections.abc import Iterable


class TestLease:
    @pytest.mark.asyncio
    async def test_it_is_renewed_as_long_as_a_handler_runs(self, shop: Shop) -> None:
        """A handler may take longer than the lease, as long as its worker is alive."""
        inbox = BrokenInbox()
        shop.gates = {1: asyncio.Event()}
        receiving = asyncio.create_task(receiver_for(shop, inbox, lease_seconds=0.6).receive(delivery_of(1), TOKEN))
        await until(lambda: inbox.renewals >= 4)
        busy = await inbox.lease(events(1), owner="b", seconds=1)
        shop.gates[1].set()

        assert busy.busy == {1}
        assert (await receiving).status == 200

    @pytest.mark.asyncio
    async def test_it_is_renewed_whatever_makes_the_tasks(self, shop: Shop) -> None:
        """A program's task factory may take no context, as those for Python before 3.11 do."""
        asyncio.get_running_loop().set_task_factory(lambda loop, work: asyncio.Task(work, loop=loop))
        inbox = BrokenInbox()
        shop.gates = {1: asyncio.Event()}
        receiving = asyncio.create_task(receiver_for(shop, inbox, lease_seconds=0.6).receive(delivery_of(1), TOKEN))
        await until(lambda: inbox.renewals >= 1)
        shop.gates[1].set()

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
    @pytest.mark.parametrize("error", [ConnectionError, asyncio.CancelledError])
    async def test_a_lease_that_cannot_be_renewed_ends(
        self, shop: Shop, caplog: pytest.LogCaptureFixture, error: type[BaseException]
    ) -> None:
        """When the inbox can't be reached for the whole lease, the handler is cancelled before others may take over."""
        shop.gates = {1: asyncio.Event()}
        inbox = BrokenInbox("renew", error=error)

        answer = await receiver_for(shop, inbox, lease_seconds=1.0).receive(delivery_of(1), TOKEN)

        assert answer == DeliveryResponse(status=503, reason="lease_lost", left=1)
        assert inbox.renewals
        assert "could not renew the lease of 1 events" in caplog.text

    @pytest.mark.asyncio
    async def test_a_renewal_that_is_answered_too_late(self, shop: Shop) -> None:
        """A renewal that the inbox answers after the lease has run out does not bring it back."""
        renew, answered, cancelled, end = (asyncio.Event() for _ in range(4))

        class Slow(MemoryInbox):
            async def renew(self, event_ids: Iterable[int], *, owner: str, seconds: float) -> frozenset[int]:
                await renew.wait()
                mine = await super().renew(event_ids, owner=owner, seconds=seconds)
                asyncio.get_running_loop().call_soon(answered.set)
                return mine

        @shop.router.on("cards.*")
        async def ignore_cancellation(_: Event) -> None:
            try:
                await end.wait()
            except asyncio.CancelledError:
                cancelled.set()
                await end.wait()
                raise

        receiver = receiver_for(shop, Slow(), lease_seconds=0.2)
        receiving = asyncio.create_task(receiver.receive(delivery_of(1, type="cards.tokenized"), TOKEN))
        async with asyncio.timeout(20):
            await cancelled.wait()
            renew.set()
            await answered.wait()
            end.set()

            assert await receiving == DeliveryResponse(status=503, reason="lease_lost", left=1)

    @pytest.mark.asyncio
    async def test_a_handler_that_ends_waits_for_no_renewal(self, shop: Shop) -> None:
        """A renewal that the inbox has not answered when the last handler ends is given up."""
        asked = asyncio.Event()

        class Stuck(MemoryInbox):
            async def renew(self, event_ids: Iterable[int], *, owner: str, seconds: float) -> frozenset[int]:
                asked.set()
                await asyncio.Event().wait()
                raise AssertionError

        shop.gates = {1: asyncio.Event()}
        async with asyncio.timeout(20):
            receiving = asyncio.create_task(
                receiver_for(shop, Stuck(), lease_seconds=4.0).receive(delivery_of(1), TOKEN)
            )
            await asked.wait()
            shop.gates[1].set()

            assert (await receiving).status == 200

    @pytest.mark.asyncio
    async def test_an_event_taken_over_is_not_marked(self, shop: Shop, inbox: MemoryInbox) -> None:
        """A handler that ended before it learnt of the takeover is not counted, and the next event is not started."""
        shop.gates = {1: asyncio.Event()}
        receiver = receiver_for(shop, inbox, mark_within=None)
        receiving = asyncio.create_task(receiver.receive(delivery_of(1, 2), TOKEN))
        await shop.started(1)
        await steal(inbox)
        shop.gates[1].set()

        assert await receiving == DeliveryResponse(status=503, reason="lease_lost", left=2)
        assert shop.seen == [1]

    @pytest.mark.asyncio
    @pytest.mark.parametrize("moved", ["wall", "monotonic"])
    async def test_no_handler_starts_after_a_stall(self, shop: Shop, inbox: MemoryInbox, moved: str) -> None:
        """After a handler that blocked the loop for longer than the lease no other starts, whichever clock says so."""
        wall, monotonic = FakeClock(), FakeClock()

        @shop.router.on("cards.*")
        async def block(event: Event) -> None:
            (wall if moved == "wall" else monotonic).tick(30)

        clock = Clock(monotonic=lambda: monotonic.now, time=lambda: wall.now)
        body = body_of([document(1, type="cards.tokenized"), document(2)])

        answer = await receiver_for(shop, inbox, clock=clock).receive(body, TOKEN)

        assert answer == DeliveryResponse(status=503, reason="lease_lost", handled=1, left=1)
        assert shop.seen == []

    @pytest.mark.asyncio
    @pytest.mark.parametrize("moved", ["wall", "monotonic"])
    async def test_the_check_in_a_handler_holds_after_a_stall(self, shop: Shop, inbox: MemoryInbox, moved: str) -> None:
        """A handler that asks before its effect is stopped there, whichever clock has noticed the stall."""
        wall, monotonic = FakeClock(), FakeClock()
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

    @pytest.mark.asyncio
    async def test_a_cancelled_release_is_cancelled(self) -> None:
        """Whoever cancels the task while it releases its lease is not kept waiting; the lease runs out by itself."""
        releasing = asyncio.Event()

        class Slow(BrokenInbox):
            async def release(self, *, owner: str) -> None:
                releasing.set()
                await asyncio.Event().wait()

        lease = EventLease(Slow(), seconds=30.0, clock=Clock())
        await lease.acquire(events(1))
        task = asyncio.create_task(lease.release())
        await releasing.wait()
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task

    def test_outside_of_a_receiver_it_does_nothing(self) -> None:
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
        receiver = receiver_for(shop, inbox, response_timeout=0.03, handler_timeout=None)
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
        time = FakeClock()

        class Slow(Trusting):
            async def verify(
                self, body: bytes, authorization: str | bytes | None = None, *, headers: object = None
            ) -> Delivery:
                time.tick(13.5)
                return await super().verify(body, authorization, headers=headers)

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
