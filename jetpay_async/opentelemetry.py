"""Traces and metrics of the client by OpenTelemetry: ``pip install 'jetpay-async[otel]'``.

::

    client = JetpayClient(token, on_operation=OpenTelemetry())

**A span for each operation**, such as ``jetpay capture``, with the times at which the call began and ended, below the
span that was current where the client was called; and below it a span for each request, such as ``attempt capture``.
They are made when the operation has ended, so the span is not the current one while it lasts: what instruments aiohttp
puts its spans beside it.

**A histogram**, ``jetpay.client.operation.duration``, in seconds. Its count says how many operations there were, so
how many have an unknown outcome is the count where ``jetpay.outcome`` is ``unknown``; in Prometheus::

    jetpay_client_operation_duration_seconds_count{jetpay_outcome="unknown"}

================================= ============ =================================================================
attribute                         where        meaning
================================= ============ =================================================================
``jetpay.operation``              span, metric `Operation.name`
``jetpay.outcome``                span, metric `Operation.outcome`
``error.type``                    span, metric the class of the error, or an attempt's `Attempt.result`
``jetpay.confirmed_by_status``    span         `Operation.confirmed_by_status`
``jetpay.debit_id``               span         `Operation.debit_id`; never in the metric
``http.response.status_code``     attempt      `Attempt.status`
``http.request.resend_count``     attempt      how many requests of the same kind came before, if any
================================= ============ =================================================================

No text of an error gets into a span: the API's words may repeat what was asked.

**Webhooks**: ``WebhookReceiver(..., on_delivery=OpenTelemetryDeliveries())`` records what it answers, by
``jetpay.webhook.reason`` and ``http.response.status_code``:

======================================= =============================================================================
``jetpay.webhook.delivery.duration``    histogram, in seconds
``jetpay.webhook.delivery.lag``         histogram: `DeliveryReport.lag`, in seconds
``jetpay.webhook.events``               counter, by ``jetpay.webhook.result``: ``handled``, ``unhandled``, ``skipped``,
                                        ``stored``, ``dead``, ``outdated`` or ``left``
======================================= =============================================================================
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

try:
    from opentelemetry import metrics, trace
except ImportError as _missing:
    raise ImportError("jetpay_async.opentelemetry needs opentelemetry: pip install 'jetpay-async[otel]'") from _missing

from jetpay_async._version import __version__
from jetpay_async.telemetry import Attempt, AttemptResult, Operation

if TYPE_CHECKING:
    from opentelemetry.context import Context

    from jetpay_async.webhooks import DeliveryReport
else:
    # Clients that receive no webhooks need not import them. What reads annotations at run time gets Any.
    DeliveryReport = Any

__all__ = ["OpenTelemetry", "OpenTelemetryDeliveries"]

_SCOPE = "jetpay_async"
_ERROR_TYPE = "error.type"
_NANOSECONDS = 1_000_000_000

# In seconds: from a response within the data center to a call that was resolved until its deadline.
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0)


class OpenTelemetry:
    """Turns operations into spans and a metric; an instance is an ``on_operation`` of `JetpayClient`.

    Args:
        tracer_provider: Where the spans go; by default to OpenTelemetry's global provider.
        meter_provider: Where the metric goes; by default to OpenTelemetry's global provider.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
        self._duration = metrics.get_meter(_SCOPE, __version__, meter_provider).create_histogram(
            "jetpay.client.operation.duration",
            unit="s",
            description="Duration of the client's operations, from the call to its end.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )

    def __call__(self, operation: Operation) -> None:
        """Report one operation.

        Args:
            operation: What the client reports.
        """
        labels = {"jetpay.operation": operation.name, "jetpay.outcome": operation.outcome.value}
        if operation.error is not None:
            labels[_ERROR_TYPE] = type(operation.error).__qualname__
        # The measurement knows its span, so that a metric can show examples of what it counts.
        self._duration.record(operation.duration, labels, self._trace(operation, labels))

    def _trace(self, operation: Operation, labels: dict[str, str]) -> Context:
        """Make the spans; return the context of the operation's own."""
        attributes: dict[str, str | bool] = {**labels, "jetpay.confirmed_by_status": operation.confirmed_by_status}
        if operation.debit_id is not None:
            attributes["jetpay.debit_id"] = operation.debit_id
        span = self._tracer.start_span(
            f"jetpay {operation.name}",
            kind=trace.SpanKind.CLIENT,
            attributes=attributes,
            start_time=_nanoseconds(operation.started_at),
        )
        context = trace.set_span_in_context(span)
        if span.is_recording():
            earlier: Counter[str] = Counter()
            for attempt in operation.attempts:
                self._trace_attempt(attempt, earlier[attempt.request], context)
                earlier[attempt.request] += 1
        if operation.error is not None:
            span.set_status(trace.StatusCode.ERROR)
        span.end(_nanoseconds(operation.started_at + operation.duration))
        return context

    def _trace_attempt(self, attempt: Attempt, earlier: int, context: Context) -> None:
        attributes: dict[str, str | int] = {}
        if attempt.status is not None:
            attributes["http.response.status_code"] = attempt.status
        if earlier:
            attributes["http.request.resend_count"] = earlier
        answered = attempt.result is AttemptResult.ANSWERED
        if not answered:
            attributes[_ERROR_TYPE] = attempt.result.value
        # Not another CLIENT: what counts calls from those would count each twice.
        span = self._tracer.start_span(
            f"attempt {attempt.request}", context, attributes=attributes, start_time=_nanoseconds(attempt.started_at)
        )
        if not answered:
            span.set_status(trace.StatusCode.ERROR)
        span.end(_nanoseconds(attempt.started_at + attempt.duration))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)


_LAG_BUCKETS = (1.0, 5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
_RESULTS = ("handled", "unhandled", "skipped", "stored", "dead", "outdated", "left")


class OpenTelemetryDeliveries:
    """Turns answered webhook deliveries into metrics; an instance is an ``on_delivery`` of `WebhookReceiver`.

    Args:
        meter_provider: Where the metrics go; by default to OpenTelemetry's global provider.
    """

    def __init__(self, *, meter_provider: metrics.MeterProvider | None = None) -> None:
        meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
        self._duration = meter.create_histogram(
            "jetpay.webhook.delivery.duration",
            unit="s",
            description="Duration of webhook deliveries, from the request to the answer.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._lag = meter.create_histogram(
            "jetpay.webhook.delivery.lag",
            unit="s",
            description="Age of the oldest event of a delivery when it arrives.",
            explicit_bucket_boundaries_advisory=_LAG_BUCKETS,
        )
        self._events = meter.create_counter(
            "jetpay.webhook.events", unit="{event}", description="Events of deliveries, by what became of them."
        )

    def __call__(self, report: DeliveryReport) -> None:
        """Record one delivery.

        Args:
            report: What the receiver reports.
        """
        response = report.response
        labels: dict[str, str | int] = {
            "jetpay.webhook.reason": response.reason,
            "http.response.status_code": response.status,
        }
        self._duration.record(report.duration, labels)
        if report.lag is not None:
            self._lag.record(report.lag, labels)
        for result in _RESULTS:
            count: int = getattr(response, result)
            if count:
                self._events.add(count, {"jetpay.webhook.result": result})
