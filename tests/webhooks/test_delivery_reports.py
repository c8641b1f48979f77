"""Each answered delivery is reported, and OpenTelemetry counts it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from jetpay_async.errors import ConfigurationError
from jetpay_async.opentelemetry import OpenTelemetryDeliveries
from jetpay_async.webhooks import WebhookReceiver, WebhookVerifier
from jetpay_async.webhooks.events import Delivery
from jetpay_async.webhooks.inbox import Backlog, EventInbox
from jetpay_async.webhooks.receiver import DeliveryReport, DeliveryResponse
from tests.webhooks.receivers import TOKEN, BrokenInbox, Shop, delivery_of, receiver_for
from tests.webhooks.receiving import FakeClock, events, until
from tests.webhooks.signing import KEYS

if TYPE_CHECKING:
    from jetpay_async.webhooks.sqlite_inbox import MemoryInbox, SqliteInbox

CREATED_AT = 1_769_076_930.123456


@pytest.mark.asyncio
async def test_deliveries_are_reported(inbox: MemoryInbox, time: FakeClock) -> None:
    """A report has what was answered, when, how long it took, and how old the oldest event was."""
    reports: list[DeliveryReport] = []
    time.now = CREATED_AT + 60
    shop = Shop()

    @shop.router.on("cards.*")
    async def take_time(_: object) -> None:
        time.tick(2)

    receiver = receiver_for(shop, inbox, on_delivery=reports.append, clock=time.clock)
    response = await receiver.receive(delivery_of(1, type="cards.tokenized"), TOKEN)
    await receiver.aclose()
    closed = await receiver.receive(delivery_of(2), TOKEN)

    assert [report.response for report in reports] == [response, closed]
    assert reports[0].started_at == CREATED_AT + 60
    assert reports[0].duration >= 2
    assert reports[0].lag == pytest.approx(60)
    assert reports[0].delivery is not None
    assert [event.id for event in reports[0].delivery.events] == [1]
    assert (reports[1].response.reason, reports[1].delivery, reports[1].lag) == ("closed", None, None)


@pytest.mark.asyncio
async def test_rejections_are_reported(inbox: MemoryInbox) -> None:
    """What is rejected, by its headers or as a whole, is reported once."""
    reports: list[DeliveryReport] = []
    receiver = WebhookReceiver(WebhookVerifier(KEYS), Shop().router, inbox=inbox, on_delivery=reports.append)
    await receiver.receive(b"{}", headers={})
    await receiver.check_headers({})
    await receiver.aclose()
    await receiver.check_headers({})

    assert [report.response.reason for report in reports] == ["missing_token", "missing_token", "closed"]


@pytest.mark.asyncio
async def test_a_hook_that_fails_changes_nothing(
    shop: Shop, inbox: MemoryInbox, caplog: pytest.LogCaptureFixture
) -> None:
    """What on_delivery raises is logged, and the delivery is answered as ever."""

    def fail(_: DeliveryReport) -> None:
        raise ZeroDivisionError

    response = await receiver_for(shop, inbox, on_delivery=fail).receive(delivery_of(1), TOKEN)

    assert response.status == 200
    assert "on_delivery failed" in caplog.text


@pytest.mark.asyncio
async def test_the_backlog_of_an_inbox(any_inbox: EventInbox) -> None:
    """What has arrived and is not handled is counted, with the creation time of the one with the lowest id."""
    assert hasattr(any_inbox, "backlog")
    assert await any_inbox.backlog() == Backlog(pending=0, oldest_created_at=None)

    await any_inbox.lease(events(1, 2, 3), owner="a", seconds=30)
    async with any_inbox.handling(events(1)[0], owner="a"):
        pass

    backlog = await any_inbox.backlog()
    assert backlog.pending == 2
    assert backlog.oldest_created_at == events(2)[0].created_at
    assert backlog.age(CREATED_AT + 5) == pytest.approx(5)
    assert backlog.age(CREATED_AT - 5) == 0


@pytest.mark.asyncio
async def test_what_waits_is_reported(disk: SqliteInbox, time: FakeClock) -> None:
    """A report says how many events wait, how old the oldest is, and how many had not arrived."""
    reports: list[DeliveryReport] = []
    time.now = CREATED_AT + 60
    shop = Shop()
    shop.gates[1] = asyncio.Event()
    receiver = receiver_for(
        shop, disk, on_delivery=reports.append, clock=time.clock, acknowledge="after_storing", poll_interval=60.0
    )
    async with receiver:
        await receiver.receive(delivery_of(1, 2), TOKEN)
        await receiver.receive(delivery_of(6, 8), TOKEN)
        shop.gates[1].set()
        await shop.finished(1, 2, 6, 8)

    assert [report.missing for report in reports] == [0, 3 + 1]
    assert [report.backlog and report.backlog.pending for report in reports] == [2, 4]
    first = reports[0]
    assert first.oldest_pending == pytest.approx(first.started_at + first.duration - CREATED_AT)
    assert first.started_at == pytest.approx(CREATED_AT + 60)


@pytest.mark.asyncio
async def test_what_waits_is_reported_while_nothing_is_delivered(disk: SqliteInbox) -> None:
    """The backlog is reported at intervals for as long as the receiver is entered, so that a gauge falls again."""
    backlogs: list[int] = []

    def note(backlog: Backlog) -> None:
        backlogs.append(backlog.pending)

    shop = Shop()
    receiver = receiver_for(shop, disk, on_backlog=note, acknowledge="after_storing", poll_interval=0.01)
    for event_id in (1, 2):
        backlogs.clear()
        shop.gates[event_id] = asyncio.Event()
        async with receiver:
            await receiver.receive(delivery_of(event_id), TOKEN)
            await until(lambda: 1 in backlogs)
            shop.gates[event_id].set()
            await until(lambda: backlogs[-1] == 0)

    assert "jetpay webhook backlog" not in {task.get_name() for task in asyncio.all_tasks()}


@pytest.mark.asyncio
async def test_a_backlog_hook_that_fails_is_called_again(
    shop: Shop, inbox: MemoryInbox, time: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """What on_backlog raises is logged, and the next backlog is reported all the same."""
    calls: list[Backlog] = []

    def fail(backlog: Backlog) -> None:
        calls.append(backlog)
        raise ZeroDivisionError

    async with receiver_for(shop, inbox, on_backlog=fail, clock=time.clock):
        await until(lambda: len(calls) > 1)

    assert "on_backlog failed" in caplog.text


@pytest.mark.asyncio
async def test_a_receiver_that_is_entered_twice_reads_the_backlog_once(shop: Shop, inbox: MemoryInbox) -> None:
    """One task reads it, however often the receiver is entered."""
    receiver = receiver_for(shop, inbox, on_backlog=lambda _: None)
    async with receiver, receiver:
        names = [task.get_name() for task in asyncio.all_tasks()]

    assert names.count("jetpay webhook backlog") == 1


class Uncounted(BrokenInbox):
    """An inbox whose backlog can't be read."""

    async def backlog(self) -> Backlog:
        self._fail("backlog")
        return await super().backlog()


@pytest.mark.asyncio
async def test_a_backlog_that_can_not_be_read_changes_nothing(shop: Shop, time: FakeClock) -> None:
    """A delivery is answered, and reported, as ever; the reading at intervals goes on."""
    reports: list[DeliveryReport] = []
    backlogs: list[Backlog] = []
    inbox = Uncounted("backlog")
    receiver = receiver_for(
        shop, inbox, on_delivery=reports.append, on_backlog=backlogs.append, clock=time.clock, poll_interval=1.0
    )
    async with receiver:
        response = await receiver.receive(delivery_of(1), TOKEN)
        assert backlogs == []
        inbox.failing.clear()
        await until(lambda: bool(backlogs))

    assert response.status == 200
    assert (reports[0].backlog, reports[0].oldest_pending) == (None, None)


class Hanging(BrokenInbox):
    """An inbox whose backlog is never read to its end."""

    async def backlog(self) -> Backlog:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.asyncio
async def test_the_answer_does_not_wait_for_the_backlog(shop: Shop) -> None:
    """What takes longer than a small share of the time for the answer is left out of the report."""
    reports: list[DeliveryReport] = []
    receiver = receiver_for(shop, Hanging(), on_delivery=reports.append, response_timeout=0.2)

    response = await receiver.receive(delivery_of(1), TOKEN)

    assert (response.status, response.reason) == (200, "handled")
    assert reports[0].backlog is None


@pytest.mark.asyncio
async def test_a_caller_that_is_cancelled_while_the_backlog_is_read_ends(shop: Shop) -> None:
    """The cancellation of the caller is not swallowed."""
    receiver = receiver_for(shop, Hanging(), on_delivery=lambda _: None, response_timeout=600.0)
    delivery = asyncio.create_task(receiver.receive(delivery_of(1), TOKEN))
    await shop.finished(1)
    for _ in range(20):
        await asyncio.sleep(0)
    delivery.cancel()

    with pytest.raises(asyncio.CancelledError):
        await delivery


def test_a_backlog_needs_an_inbox_that_counts(shop: Shop) -> None:
    """An inbox of one's own without `backlog()` works, but not with on_backlog."""

    class Own:
        lease = renew = handling = release = last_contiguous_event_id = None

    receiver_for(shop, Own(), on_delivery=print)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"on_backlog needs .*BacklogInbox.*; Own does not"):
        receiver_for(shop, Own(), on_backlog=print)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_a_forked_child_leaves_the_backlog_alone(
    shop: Shop, inbox: MemoryInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task that reads the backlog is the parent's, which ends it."""
    receiver = receiver_for(shop, inbox, on_backlog=lambda _: None)
    async with receiver:
        parent = {task for task in asyncio.all_tasks() if task.get_name() == "jetpay webhook backlog"}
        with monkeypatch.context() as child:
            child.setattr("jetpay_async._core.fork.ForkGuard.forked", True)
            await receiver.aclose()
        assert not any(task.done() for task in parent)
        for task in parent:
            task.cancel()

    assert len(parent) == 1


def test_opentelemetry_counts() -> None:
    """Durations and lags are histograms by status and reason; events are counted by what became of them."""
    reader = InMemoryMetricReader()
    telemetry = OpenTelemetryDeliveries(meter_provider=MeterProvider(metric_readers=[reader]))
    good = DeliveryResponse(status=500, reason="handler_failed", handled=3, left=1)
    empty = Delivery(webhook_id=1, events=())
    for response, delivery in ((good, empty), (DeliveryResponse(status=401, reason="expired"), None)):
        telemetry(DeliveryReport(response=response, started_at=CREATED_AT, duration=0.2, delivery=delivery))
    telemetry(_of_one_event())

    data: Any = reader.get_metrics_data()
    found = {metric.name: list(metric.data.data_points) for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert {point.attributes["jetpay.webhook.reason"] for point in found["jetpay.webhook.delivery.duration"]} == {
        "handler_failed",
        "expired",
        "handled",
    }
    assert [point.sum for point in found["jetpay.webhook.delivery.lag"]] == [pytest.approx(10)]
    assert {point.attributes["jetpay.webhook.result"]: point.value for point in found["jetpay.webhook.events"]} == {
        "handled": 4,
        "left": 1,
    }


def _of_one_event() -> DeliveryReport:
    from jetpay_async.webhooks.events import decode

    return DeliveryReport(
        response=DeliveryResponse(status=200, reason="handled", handled=1),
        started_at=CREATED_AT + 10,
        duration=0.1,
        delivery=decode(delivery_of(1)),
    )
