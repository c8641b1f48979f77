"""Each attempt to handle an event after the answer is reported, and is a span that leads to what brought it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from jetpay_async.errors import InvalidArgumentError
from jetpay_async.opentelemetry import OpenTelemetryDeliveries
from jetpay_async.webhooks import StoredEventReport
from jetpay_async.webhooks.errors import OutdatedEventError
from jetpay_async.webhooks.events import Event, TransactionPaid
from jetpay_async.webhooks.receiver import DeliveryReport, DeliveryResponse
from jetpay_async.webhooks.sqlite_inbox import SqliteInbox
from tests.webhooks.receivers import TOKEN, Shop, delivery_of, receiver_for, steal
from tests.webhooks.receiving import FakeClock, event, events, until
from tests.webhooks.test_delivery_spans import BEGAN, DEBIT_ID, Collector, operation, report

if TYPE_CHECKING:
    from pathlib import Path


def attempt(of: Event, *, result: Any = "handled", error: BaseException | None = None) -> StoredEventReport:
    return StoredEventReport(event=of, result=result, started_at=BEGAN + 1, duration=0.25, error=error)


def brought(*event_ids: int) -> DeliveryReport:
    """A delivery whose events were stored."""
    delivery = report(delivery_of(*event_ids, transaction=DEBIT_ID)).delivery
    response = DeliveryResponse(status=200, reason="stored", stored=len(event_ids))
    return DeliveryReport(response=response, started_at=BEGAN, duration=0.5, delivery=delivery)


# --- the reports -----------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_attempt_is_reported(path: Path, time: FakeClock) -> None:
    """The report has the event, when it was handled and for how long; what was handled before the answer has none."""
    reports: list[StoredEventReport] = []
    shop = Shop()

    @shop.router.on("cards.*")
    async def take_time(_: object) -> None:
        time.tick(2)

    async with SqliteInbox(path) as inbox:
        options: dict[str, Any] = {"on_stored_event": reports.append, "clock": time.clock}
        async with receiver_for(shop, inbox, **options) as receiver:
            await receiver.receive(delivery_of(1), TOKEN)
        async with receiver_for(shop, inbox, acknowledge="after_storing", **options) as receiver:
            began = time.now
            await receiver.receive(delivery_of(2, type="cards.tokenized"), TOKEN)
            await receiver.receive(delivery_of(3, type="kyc.approved"), TOKEN)
            await until(lambda: len(reports) == 2)

    assert [(each.event.id, each.result, each.error) for each in reports] == [
        (2, "handled", None),
        (3, "unhandled", None),
    ]
    assert reports[0].started_at >= began
    assert reports[0].duration >= 2


@pytest.mark.asyncio
async def test_what_becomes_of_an_attempt_is_reported(tmp_path: Path) -> None:
    """A failure that will be tried again, a dead letter, what came too late, and what another worker has."""
    reports: list[StoredEventReport] = []

    class Troubled(Shop):
        async def take(self, event: TransactionPaid) -> None:
            await super().take(event)
            if event.id == 3:
                raise OutdatedEventError("overtaken")
            if event.id == 5:
                await steal(inbox)

    shop = Troubled()
    shop.failing = {2, 4}
    for event_ids, max_attempts in (((2, 3), None), ((4, 5), 1)):
        async with SqliteInbox(tmp_path / f"{max_attempts}.db") as inbox:
            await inbox.store(events(*event_ids))
            async with receiver_for(shop, inbox, max_attempts=max_attempts, on_stored_event=reports.append):
                await until(lambda: len(reports) >= event_ids[-1] - 1)  # noqa: B023 - called at once

    assert [(each.event.id, each.result, type(each.error).__name__) for each in reports] == [
        (2, "failed", "ZeroDivisionError"),
        (3, "outdated", "NoneType"),
        (4, "dead", "ZeroDivisionError"),
        (5, "left", "LeaseLostError"),
    ]


@pytest.mark.asyncio
async def test_a_hook_that_fails_changes_nothing(
    shop: Shop, disk: SqliteInbox, caplog: pytest.LogCaptureFixture
) -> None:
    """What it raises is logged, and the next event is handled."""

    def fail(_: StoredEventReport) -> None:
        raise ZeroDivisionError("the hook's own trouble")

    async with receiver_for(shop, disk, acknowledge="after_storing", on_stored_event=fail) as receiver:
        await receiver.receive(delivery_of(1, 2), TOKEN)
        await shop.finished(1, 2)

    assert caplog.text.count("on_stored_event failed") == 2
    assert (await disk.backlog()).pending == 0


# --- the spans -------------------------------------------------------------------------------------------------------


def test_an_attempt_is_a_span() -> None:
    """It has the times of the attempt, what became of it, and links to the delivery and the capture."""
    collector = Collector()
    collector.operations(operation())
    collector.deliveries(brought(7))

    collector.deliveries.record_stored_event(attempt(event(7, transaction=DEBIT_ID)))

    (span,) = collector.spans("jetpay webhook event")
    (capture,) = collector.spans("jetpay capture")
    (delivery,) = collector.spans("jetpay webhook delivery")
    assert span.kind is SpanKind.CONSUMER
    assert (span.start_time, span.end_time) == ((BEGAN + 1) * 1e9, (BEGAN + 1.25) * 1e9)
    assert span.attributes is not None
    assert dict(span.attributes) == {
        "jetpay.webhook.result": "handled",
        "jetpay.webhook.event_id": 7,
        "jetpay.webhook.event_type": "transactions.debits.created",
        "jetpay.debit_id": DEBIT_ID,
    }
    assert span.status.status_code is StatusCode.UNSET
    assert [(link.context, dict(link.attributes or {})) for link in span.links] == [
        (capture.context, {"jetpay.debit_id": DEBIT_ID, "jetpay.webhook.event_id": 7}),
        (delivery.context, {"jetpay.webhook.event_id": 7}),
    ]
    (point,) = collector.points("jetpay.webhook.event.duration")
    assert (point.sum, dict(point.attributes)) == (0.25, {"jetpay.webhook.result": "handled"})


def test_a_failed_attempt_says_why() -> None:
    """The class of the error is its type; no text of it gets into the span. The next attempt is linked, too."""
    collector = Collector()
    collector.deliveries(brought(7))
    of = event(7, type="cards.tokenized")

    collector.deliveries.record_stored_event(attempt(of, result="failed", error=ZeroDivisionError("card 4711")))
    for _ in range(2):
        collector.deliveries.record_stored_event(attempt(of))

    failed, handled, again = collector.spans("jetpay webhook event")
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "ZeroDivisionError"
    assert "4711" not in failed.to_json()
    # Once the event is handled its delivery is forgotten.
    assert [len(span.links) for span in (failed, handled, again)] == [1, 1, 0]


def test_an_attempt_may_end_before_its_delivery() -> None:
    """The event is handled while the backlog is read for the report: then the link leads from the delivery to it."""
    collector = Collector()

    collector.deliveries.record_stored_event(attempt(event(7)))
    collector.deliveries(brought(6, 7))
    collector.deliveries(brought(7, 8))

    (span,) = collector.spans("jetpay webhook event")
    first, second = collector.spans("jetpay webhook delivery")
    assert [(link.context, dict(link.attributes or {})) for link in first.links] == [
        (span.context, {"jetpay.webhook.event_id": 7})
    ]
    assert not second.links


def test_the_first_delivery_of_an_event_is_linked() -> None:
    """A redelivery that brings something new as well does not take its place."""
    collector = Collector()
    collector.deliveries(brought(7))
    collector.deliveries(brought(7, 8))

    for event_id in (7, 8):
        collector.deliveries.record_stored_event(attempt(event(event_id)))

    deliveries = collector.spans("jetpay webhook delivery")
    assert [span.links[0].context for span in collector.spans("jetpay webhook event")] == [
        span.context for span in deliveries
    ]


def test_the_memory_of_deliveries_is_bounded() -> None:
    """Of more events than are remembered the oldest is forgotten; what is not sampled is not remembered."""
    collector, unsampled = Collector(), Collector(sampler=ALWAYS_OFF)
    few = OpenTelemetryDeliveries(tracer_provider=collector.tracers, remembered=1)
    few(brought(7, 8))
    for event_id in (7, 8):
        few.record_stored_event(attempt(event(event_id)))
    unsampled.deliveries(brought(7))
    unsampled.deliveries.record_stored_event(attempt(event(7)))

    assert [len(span.links) for span in collector.spans("jetpay webhook event")] == [0, 1]
    assert not unsampled.exporter.get_finished_spans()
    with pytest.raises(InvalidArgumentError, match="remembered"):
        OpenTelemetryDeliveries(remembered=-1)


@pytest.mark.asyncio
async def test_a_receiver_s_events_are_linked(disk: SqliteInbox) -> None:
    """From the delivery to the handler after the answer: one of the two spans leads to the other."""
    collector = Collector()
    shop = Shop()
    options = {"on_delivery": collector.deliveries, "on_stored_event": collector.deliveries.record_stored_event}
    async with receiver_for(shop, disk, acknowledge="after_storing", **options) as receiver:
        await receiver.receive(delivery_of(1), TOKEN)
        await until(lambda: bool(collector.spans("jetpay webhook event")))

    (handled,) = collector.spans("jetpay webhook event")
    (delivery,) = collector.spans("jetpay webhook delivery")
    assert delivery.context in [link.context for link in handled.links] or handled.context in [
        link.context for link in delivery.links
    ]
