"""A delivery as OpenTelemetry's own SDK sees it: its span, linked to the captures in this process, and its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Sampler
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from jetpay_async import InvalidArgumentError, JetpayClient, Operation, OperationOutcome
from jetpay_async.opentelemetry import OpenTelemetry, OpenTelemetryDeliveries
from jetpay_async.sandbox import Sandbox
from jetpay_async.webhooks.asgi import WebhookApp
from jetpay_async.webhooks.events import decode
from jetpay_async.webhooks.inbox import Backlog
from jetpay_async.webhooks.receiver import DeliveryReport, DeliveryResponse
from tests.webhooks.receivers import TOKEN, Shop, delivery_of, receiver_for
from tests.webhooks.receiving import event

if TYPE_CHECKING:
    from pathlib import Path

    from jetpay_async.webhooks.sqlite_inbox import MemoryInbox

BEGAN = 1_769_077_000.0
DEBIT_ID = "41fc05d5-3148-4ee2-bfdf-9ad5ab7172c6"


class Collector:
    """Telemetry of a client and of a receiver, with somewhere for the spans and measurements to go."""

    def __init__(self, *, remembered: int = 10_000, sampler: Sampler | None = None, linked: bool = True) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(sampler=sampler)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        meters = MeterProvider(metric_readers=[self.reader])
        self.operations = OpenTelemetry(tracer_provider=self.tracers, meter_provider=meters, remembered=remembered)
        self.deliveries = OpenTelemetryDeliveries(
            self.operations if linked else None, tracer_provider=self.tracers, meter_provider=meters
        )

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def linked(self) -> list[SpanContext]:
        """The targets of the links of the only delivery."""
        (span,) = self.spans("jetpay webhook delivery")
        return [link.context for link in span.links]

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        found = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]
        return [point for metric in found if metric.name == name for point in metric.data.data_points]


def operation(name: str = "capture", debit_id: str | None = DEBIT_ID) -> Operation:
    return Operation(name=name, outcome=OperationOutcome.DONE, debit_id=debit_id, started_at=BEGAN, duration=1.0)


def report(body: bytes | None, *, status: int = 200, reason: str = "handled", **fields: Any) -> DeliveryReport:
    return DeliveryReport(
        response=DeliveryResponse(status=status, reason=reason),
        started_at=BEGAN,
        duration=0.5,
        delivery=None if body is None else decode(body),
        **fields,
    )


# --- the span --------------------------------------------------------------------------------------------------------


def test_a_delivery_is_a_span() -> None:
    """It has the times of the delivery, what was answered, and how many events of which webhook there were."""
    collector = Collector()

    collector.deliveries(report(delivery_of(1, 2), missing=3))

    (span,) = collector.spans("jetpay webhook delivery")
    assert span.kind is SpanKind.CONSUMER
    assert (span.start_time, span.end_time) == (BEGAN * 1e9, (BEGAN + 0.5) * 1e9)
    assert span.attributes is not None
    assert dict(span.attributes) == {
        "jetpay.webhook.reason": "handled",
        "http.response.status_code": 200,
        "jetpay.webhook.id": 123,
        "jetpay.webhook.event_count": 2,
        "jetpay.webhook.lag": pytest.approx(BEGAN - event(1).created_at.timestamp()),
        "jetpay.webhook.missing": 3,
    }
    assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("status", "expected"), [(401, StatusCode.UNSET), (500, StatusCode.ERROR)])
def test_what_fails_says_why(status: int, expected: StatusCode) -> None:
    """The reason is the type of the error; only what this side did wrong is an error of its span."""
    collector = Collector()

    collector.deliveries(report(None, status=status, reason="why"))

    (span,) = collector.spans("jetpay webhook delivery")
    assert span.attributes is not None
    assert span.attributes["error.type"] == "why"
    assert span.status.status_code is expected


# --- the links -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["capture", "charge"])
@pytest.mark.parametrize("spelling", [DEBIT_ID, DEBIT_ID.upper(), DEBIT_ID.replace("-", "")])
def test_a_delivery_is_linked_to_the_capture_of_its_debit(name: str, spelling: str) -> None:
    """The link leads from the event to the span of the last operation that took the debit's money."""
    collector = Collector()
    for each in (operation(name), operation(name), operation("transaction_status"), operation(name, None)):
        collector.operations(each)

    collector.deliveries(report(delivery_of(7, transaction=spelling)))

    capture = collector.spans(f"jetpay {name}")[1].context
    assert collector.linked() == [capture]
    (link,) = collector.spans("jetpay webhook delivery")[0].links
    assert link.attributes is not None
    assert dict(link.attributes) == {"jetpay.debit_id": spelling, "jetpay.webhook.event_id": 7}


@pytest.mark.parametrize(
    "collector",
    [Collector(linked=False), Collector(remembered=0), Collector(sampler=ALWAYS_OFF)],
    ids=["no client's telemetry", "nothing remembered", "not sampled"],
)
def test_where_nothing_is_known_nothing_is_linked(collector: Collector) -> None:
    """Without a capture to link to, the delivery is recorded as ever."""
    collector.operations(operation())

    collector.deliveries(report(delivery_of(7, transaction=DEBIT_ID)))
    collector.deliveries(report(delivery_of(8, type="cards.tokenized")))

    assert [len(span.links) for span in collector.spans("jetpay webhook delivery")] in ([0, 0], [])


def test_the_memory_of_captures_is_bounded() -> None:
    """Of more debits than are remembered, the one that was captured first is forgotten."""
    collector = Collector(remembered=2)
    for debit_id in ("a", "b", "a", "c"):
        collector.operations(operation(debit_id=debit_id))

    known = [debit_id for debit_id in "abc" if collector.operations.capture_of(debit_id) is not None]

    assert known == ["a", "c"]
    with pytest.raises(InvalidArgumentError, match="remembered"):
        OpenTelemetry(remembered=-1)


@pytest.mark.parametrize("way", ["capture", "capture_many", "ledger"])
@pytest.mark.asyncio
async def test_captures_of_every_way_are_linked(way: str, inbox: MemoryInbox, tmp_path: Path) -> None:
    """A client's capture, one of many, and one from a ledger are each found by the delivery that reports the debit."""
    collector = Collector()
    async with Sandbox() as sandbox:
        async with JetpayClient(sandbox.api_token, base_url=sandbox.url, on_operation=collector.operations) as client:
            payer = sandbox.add_payer()
            reserved = await client.preauthorize(
                contact_id=payer.contact_id,
                credit_card_id=payer.credit_card_id,
                amount="100.50",
                to_bank_account_id=sandbox.merchant_account_id,
                statement="Rental 4711",
            )
            debit_id = reserved.debit_id
            if way == "capture":
                await client.capture(debit_id)
            elif way == "capture_many":
                assert len([outcome async for outcome in client.capture_many([debit_id])]) == 1
            else:
                async with client.durable_captures(tmp_path / "ledger.db") as captures:
                    batch = await captures.submit("night", [debit_id])
                    assert len([outcome async for outcome in batch.outcomes()]) == 1
    receiver = receiver_for(Shop(), inbox, on_delivery=collector.deliveries)

    await receiver.receive(delivery_of(1, transaction=debit_id), TOKEN)

    (capture,) = collector.spans("jetpay capture")
    assert collector.linked() == [capture.context]


@pytest.mark.asyncio
async def test_a_delivery_is_below_the_span_of_its_request(shop: Shop, inbox: MemoryInbox) -> None:
    """The span that is current where the receiver is called, such as the server's, is its parent."""
    collector = Collector()
    receiver = receiver_for(shop, inbox, on_delivery=collector.deliveries)

    with collector.tracers.get_tracer("server").start_as_current_span("POST") as server:
        await receiver.receive(delivery_of(1), TOKEN)

    (span,) = collector.spans("jetpay webhook delivery")
    assert span.parent == server.get_span_context()


# --- the metrics -----------------------------------------------------------------------------------------------------


def test_what_waits_is_a_gauge() -> None:
    """The last backlog is what the gauges show, whether a delivery reported it or nothing was delivered."""
    collector = Collector()
    waiting = Backlog(pending=4, oldest_created_at=event(1).created_at)

    collector.deliveries(report(delivery_of(1), backlog=waiting, missing=2))

    assert [point.value for point in collector.points("jetpay.webhook.backlog")] == [4]
    (age,) = collector.points("jetpay.webhook.oldest_pending")
    assert age.value == pytest.approx(BEGAN + 0.5 - event(1).created_at.timestamp())
    assert [point.value for point in collector.points("jetpay.webhook.events.missing")] == [2]

    collector.deliveries.record_backlog(Backlog(pending=0, oldest_created_at=None))

    assert [point.value for point in collector.points("jetpay.webhook.backlog")] == [0]
    assert [point.value for point in collector.points("jetpay.webhook.oldest_pending")] == [0]


@pytest.mark.asyncio
async def test_what_an_adapter_rejects_is_recorded(shop: Shop, inbox: MemoryInbox) -> None:
    """A body that an adapter does not read to its end is recorded like what the receiver rejects."""
    collector = Collector()
    app = WebhookApp(receiver_for(shop, inbox, on_delivery=collector.deliveries), max_body_bytes=3)
    sent: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"long", "more_body": True}

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "headers": []}, receive, send)

    (span,) = collector.spans("jetpay webhook delivery")
    assert span.attributes is not None
    assert span.attributes["jetpay.webhook.reason"] == "body_too_large"
    assert [point.count for point in collector.points("jetpay.webhook.delivery.duration")] == [1]
    assert sent[0]["status"] == 413
