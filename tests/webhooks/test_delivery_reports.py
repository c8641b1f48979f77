"""Each answered delivery is reported, and OpenTelemetry counts it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from jetpay_async.opentelemetry import OpenTelemetryDeliveries
from jetpay_async.webhooks import WebhookReceiver, WebhookVerifier
from jetpay_async.webhooks.events import Delivery
from jetpay_async.webhooks.receiver import DeliveryReport, DeliveryResponse
from tests.webhooks.receivers import TOKEN, Shop, delivery_of, receiver_for
from tests.webhooks.receiving import FakeClock
from tests.webhooks.signing import KEYS

if TYPE_CHECKING:
    from jetpay_async.webhooks.sqlite_inbox import MemoryInbox

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
