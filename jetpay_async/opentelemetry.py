"""Traces and metrics of the client by OpenTelemetry: ``pip install 'jetpay-async[otel]'``.

::

    client = JetpayClient(token, on_operation=OpenTelemetry())

**A span for each operation**, such as ``jetpay capture``, with the times at which the call began and ended, below the
span that was current where the client was called; and below it a span for each request, such as ``attempt capture``,
unless the only request brought the result: its span would repeat the operation's, and cost as much. They are made when
the operation has ended, so the span is not the current one while it lasts: what instruments aiohttp puts its spans
beside it.

**A histogram**, ``jetpay.client.operation.duration``, in seconds. Its count says how many operations there were, so
how many have an unknown outcome is the count where ``jetpay.outcome`` is ``unknown``; in Prometheus::

    jetpay_client_operation_duration_seconds_count{jetpay_outcome="unknown"}

================================= ============ =================================================================
attribute                         where        meaning
================================= ============ =================================================================
``jetpay.operation``              span, metric `Operation.name`
``jetpay.outcome``                span, metric `Operation.outcome`
``error.type``                    span, metric the class of the error, or an attempt's `Attempt.result`
``jetpay.confirmed_by_status``    span         true, if `Operation.confirmed_by_status`; absent otherwise
``jetpay.debit_id``               span         `Operation.debit_id`; never in the metric
``http.response.status_code``     attempt      `Attempt.status`; in the operation's span if it has none below it
``http.request.resend_count``     attempt      how many requests of the same kind came before, if any
================================= ============ =================================================================

No text of an error gets into a span: the API's words may repeat what was asked.

**Webhooks**: an `OpenTelemetryDeliveries` records what a receiver answers::

    operations = OpenTelemetry()
    client = JetpayClient(token, on_operation=operations)
    deliveries = OpenTelemetryDeliveries(operations)
    receiver = WebhookReceiver(
        ...,
        on_delivery=deliveries,
        on_stored_event=deliveries.record_stored_event,
        on_backlog=deliveries.record_backlog,
    )

**A span for each delivery**, ``jetpay webhook delivery``, below the span that was current where the receiver was
called, with a **link** to the capture (or charge) of each debit that the delivery is about, if this process made it.
**A span for each attempt to handle an event after the answer**, ``jetpay webhook event``, with a link to the delivery
that brought the event, if this process received it, and to the capture. An attempt that ends before its delivery's span
does is linked from there.

======================================= ======== ===================================================================
``jetpay.webhook.delivery.duration``    metric   histogram, in seconds
``jetpay.webhook.delivery.lag``         metric   histogram: `DeliveryReport.lag`, in seconds
``jetpay.webhook.events``               metric   counter, by ``jetpay.webhook.result``: ``handled``, ``unhandled``,
                                                 ``skipped``, ``stored``, ``dead``, ``outdated`` or ``left``
``jetpay.webhook.event.duration``       metric   histogram of attempts after the answer, in seconds, by
                                                 ``jetpay.webhook.result``
``jetpay.webhook.events.missing``       metric   counter: `DeliveryReport.missing`
``jetpay.webhook.backlog``              metric   gauge: `Backlog.pending`
``jetpay.webhook.oldest_pending``       metric   gauge: `Backlog.age`, in seconds; 0 if nothing waits
``jetpay.webhook.reason``               both     `DeliveryResponse.reason`: of the span, and of both histograms
``http.response.status_code``           both     the same of `DeliveryResponse.status`
``jetpay.webhook.id``                   span     which webhook was delivered
``jetpay.webhook.event_count``          span     how many events it brought
``jetpay.webhook.lag``                  span     `DeliveryReport.lag`
``jetpay.webhook.missing``              span     `DeliveryReport.missing`, if any
``error.type``                          span     the reason, if the status is 400 or more; the class of the error, if an
                                                 attempt failed
``jetpay.webhook.result``               event    `StoredEventReport.result`: of the span, and of the histogram
``jetpay.webhook.event_id``             event    which event: of the span, and of the links to and from it
``jetpay.webhook.event_type``           event    its type
``jetpay.debit_id``                     both     the debit: of the span of an event, and of a link to the capture
======================================= ======== ===================================================================
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, TypeVar

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
except ImportError as _missing:
    raise ImportError("jetpay_async.opentelemetry needs opentelemetry: pip install 'jetpay-async[otel]'") from _missing

from jetpay_async._text import canonical_id
from jetpay_async._version import __version__
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.telemetry import Attempt, AttemptResult, Operation, OperationOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jetpay_async.webhooks import DeliveryReport, StoredEventReport
    from jetpay_async.webhooks.events import Event
    from jetpay_async.webhooks.inbox import Backlog
else:
    # Clients that receive no webhooks need not import them. What reads annotations at run time gets Any.
    Backlog = DeliveryReport = Event = StoredEventReport = Any

__all__ = ["OpenTelemetry", "OpenTelemetryDeliveries"]

_Key = TypeVar("_Key")

_SCOPE = "jetpay_async"
# The operations that take the money of a debit. What becomes of it is reported by events.
_TAKING = frozenset({"capture", "charge"})
_ERROR_TYPE = "error.type"
# An enumeration is asked for its members at length.
_CLIENT = trace.SpanKind.CLIENT
_NO_CONTEXT = Context()
_NANOSECONDS = 1_000_000_000

# In seconds: from a response within the data center to a call that was resolved until its deadline.
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0)


class OpenTelemetry:
    """Turns operations into spans and a metric; an instance is an ``on_operation`` of `JetpayClient`.

    Args:
        tracer_provider: Where the spans go; by default to OpenTelemetry's global provider.
        meter_provider: Where the metric goes; by default to OpenTelemetry's global provider.
        remembered: Of how many debits the span of the last capture (or charge) is remembered, for the links of an
            `OpenTelemetryDeliveries`; some hundred bytes each. 0 for none.

    Raises:
        InvalidArgumentError: ``remembered`` is less than 0.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        remembered: int = 10_000,
    ) -> None:
        if remembered < 0:
            raise InvalidArgumentError(f"remembered: must be at least 0, not {remembered}", field="remembered")
        self._remembered = remembered
        self._captures: OrderedDict[str, trace.SpanContext] = OrderedDict()
        self._prepared: dict[tuple[str, OperationOutcome, str | None], tuple[str, dict[str, str]]] = {}
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
        error = operation.error
        kind = (operation.name, operation.outcome, None if error is None else type(error).__qualname__)
        name, labels = self._prepared.get(kind) or self._prepare(*kind)
        # The measurement knows its span, so that a metric can show examples of what it counts.
        self._duration.record(operation.duration, labels, self._trace(operation, name, labels))

    def capture_of(self, debit_id: str) -> trace.SpanContext | None:
        """Return the span of the last capture (or charge) of a debit, to link another span to it.

        Args:
            debit_id: The debit's id, in any spelling.

        Returns:
            None if this object was not called with one that was sampled, or has forgotten it.
        """
        return self._captures.get(canonical_id(debit_id))

    def _prepare(self, name: str, outcome: OperationOutcome, error_type: str | None) -> tuple[str, dict[str, str]]:
        """Make the name of the span of such operations, and what span and metric both say of them, once."""
        labels = {"jetpay.operation": name, "jetpay.outcome": outcome.value}
        if error_type is not None:
            labels[_ERROR_TYPE] = error_type
        prepared = f"jetpay {name}", labels
        self._prepared[name, outcome, error_type] = prepared
        return prepared

    def _trace(self, operation: Operation, name: str, labels: dict[str, str]) -> Context:
        """Make the spans; return a context with the operation's own."""
        attributes: dict[str, str | bool | int] = {**labels}
        if operation.confirmed_by_status:
            attributes["jetpay.confirmed_by_status"] = True
        if (debit_id := operation.debit_id) is not None:
            attributes["jetpay.debit_id"] = debit_id
        attempts = operation.attempts
        if len(attempts) == 1 and operation.error is None and attempts[0].result is AttemptResult.ANSWERED:
            if (status := attempts[0].status) is not None:
                attributes["http.response.status_code"] = status
            attempts = ()
        span = self._tracer.start_span(
            name,
            kind=_CLIENT,
            attributes=attributes,
            start_time=_nanoseconds(operation.started_at),
        )
        if debit_id is not None and operation.name in _TAKING and (own := span.get_span_context()).trace_flags.sampled:
            # Events will be about this debit.
            _remember(self._captures, canonical_id(debit_id), own, most=self._remembered)
        # What else the caller's context holds is for the spans alone.
        context = trace.set_span_in_context(span, None if attempts else _NO_CONTEXT)
        if attempts and span.is_recording():
            earlier: Counter[str] = Counter()
            for attempt in attempts:
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


def _remember(spans: OrderedDict[_Key, trace.SpanContext], key: _Key, context: trace.SpanContext, *, most: int) -> None:
    """Keep a span, and forget the one that was kept first if there are too many."""
    spans[key] = context
    spans.move_to_end(key)
    if len(spans) > most:
        spans.popitem(last=False)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)


_LAG_BUCKETS = (1.0, 5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
_RESULTS = ("handled", "unhandled", "skipped", "stored", "dead", "outdated", "left")
# What an attempt to handle an event ends in if there will be another one.
_TRIED_AGAIN = frozenset({"failed", "left"})


class OpenTelemetryDeliveries:
    """Turns answered webhook deliveries into spans and metrics; an instance is an ``on_delivery`` of `WebhookReceiver`.

    Args:
        operations: The ``on_operation`` of the client in this process, to whose captures the spans of deliveries are
            linked. None for no links.
        tracer_provider: Where the spans go; by default to OpenTelemetry's global provider.
        meter_provider: Where the metrics go; by default to OpenTelemetry's global provider.
        remembered: Of how many stored events the span of the delivery is remembered, for the links of the attempts to
            handle them; some hundred bytes each. 0 for none.

    Raises:
        InvalidArgumentError: ``remembered`` is less than 0.
    """

    def __init__(
        self,
        operations: OpenTelemetry | None = None,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        remembered: int = 10_000,
    ) -> None:
        if remembered < 0:
            raise InvalidArgumentError(f"remembered: must be at least 0, not {remembered}", field="remembered")
        self._remembered = remembered
        # By webhook and event id: the delivery that brought an event, and an attempt that was reported before it was.
        self._brought: OrderedDict[tuple[int | None, int], trace.SpanContext] = OrderedDict()
        self._early: OrderedDict[tuple[int | None, int], trace.SpanContext] = OrderedDict()
        self._operations = operations
        self._tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
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
        self._event_duration = meter.create_histogram(
            "jetpay.webhook.event.duration",
            unit="s",
            description="Duration of attempts to handle stored events.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._events = meter.create_counter(
            "jetpay.webhook.events", unit="{event}", description="Events of deliveries, by what became of them."
        )
        self._missing = meter.create_counter(
            "jetpay.webhook.events.missing",
            unit="{event}",
            description="Events that had not arrived when a later one did.",
        )
        self._waiting: tuple[int, float] | None = None
        # Observed rather than set: older SDKs forget what was set once it has been read.
        meter.create_observable_gauge(
            "jetpay.webhook.backlog",
            [lambda _: self._observe(0)],
            unit="{event}",
            description="Events that have arrived and are not handled.",
        )
        meter.create_observable_gauge(
            "jetpay.webhook.oldest_pending",
            [lambda _: self._observe(1)],
            unit="s",
            description="Age of the oldest event that has arrived and is not handled; 0 if there is none.",
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
        context = self._trace(report, labels)
        self._duration.record(report.duration, labels, context)
        if report.lag is not None:
            self._lag.record(report.lag, labels, context)
        for result in _RESULTS:
            count: int = getattr(response, result)
            if count:
                self._events.add(count, {"jetpay.webhook.result": result})
        if report.missing:
            self._missing.add(report.missing)
        if report.backlog is not None:
            self._record_backlog(report.backlog, now=report.started_at + report.duration)

    def record_stored_event(self, report: StoredEventReport) -> None:
        """Record an attempt to handle an event after the answer: an ``on_stored_event`` of `WebhookReceiver`.

        Args:
            report: What the receiver reports.
        """
        event = report.event
        labels: dict[str, str] = {"jetpay.webhook.result": report.result}
        if report.error is not None:
            labels[_ERROR_TYPE] = type(report.error).__qualname__
        attributes: dict[str, str | int] = {
            **labels,
            "jetpay.webhook.event_id": event.id,
            "jetpay.webhook.event_type": event.type,
        }
        debit_id: str | None = getattr(event, "transaction_id", None)
        if debit_id is not None:
            attributes["jetpay.debit_id"] = debit_id
        key = (event.webhook_id, event.id)
        delivery = self._brought.get(key) if report.result in _TRIED_AGAIN else self._brought.pop(key, None)
        links = self._links_to_captures([event])
        if delivery is not None:
            links.append(trace.Link(delivery, {"jetpay.webhook.event_id": event.id}))
        span = self._tracer.start_span(
            "jetpay webhook event",
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
            start_time=_nanoseconds(report.started_at),
        )
        if delivery is None:
            self._remember(self._early, key, span)
        if report.error is not None:
            span.set_status(trace.StatusCode.ERROR)
        span.end(_nanoseconds(report.started_at + report.duration))
        self._event_duration.record(report.duration, labels, trace.set_span_in_context(span))

    def record_backlog(self, backlog: Backlog) -> None:
        """Record how many events wait: an ``on_backlog`` of `WebhookReceiver`.

        Args:
            backlog: What the receiver reports.
        """
        self._record_backlog(backlog, now=time.time())

    def _record_backlog(self, backlog: Backlog, *, now: float) -> None:
        self._waiting = (backlog.pending, backlog.age(now) or 0.0)

    def _observe(self, place: int) -> list[metrics.Observation]:
        """Return one half of the last backlog, in the thread of whoever reads the metrics."""
        waiting = self._waiting
        return [] if waiting is None else [metrics.Observation(waiting[place])]

    def _trace(self, report: DeliveryReport, labels: dict[str, str | int]) -> Context:
        """Make the span of a delivery; return its context."""
        attributes: dict[str, str | int | float] = {**labels}
        if report.delivery is not None:
            attributes["jetpay.webhook.id"] = report.delivery.webhook_id
            attributes["jetpay.webhook.event_count"] = len(report.delivery.events)
        if report.lag is not None:
            attributes["jetpay.webhook.lag"] = report.lag
        if report.missing:
            attributes["jetpay.webhook.missing"] = report.missing
        if report.response.status >= 400:
            attributes[_ERROR_TYPE] = report.response.reason
        span = self._tracer.start_span(
            "jetpay webhook delivery",
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=self._links_of(report),
            start_time=_nanoseconds(report.started_at),
        )
        # As for servers: a 4xx is the fault of who sent it.
        if report.response.status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(_nanoseconds(report.started_at + report.duration))
        if report.delivery is not None and report.response.stored:
            for event in report.delivery.events:
                key = (event.webhook_id, event.id)
                if key not in self._brought:
                    self._remember(self._brought, key, span)
        return trace.set_span_in_context(span)

    def _remember(
        self,
        spans: OrderedDict[tuple[int | None, int], trace.SpanContext],
        key: tuple[int | None, int],
        span: trace.Span,
    ) -> None:
        context = span.get_span_context()
        if context.trace_flags.sampled:
            _remember(spans, key, context, most=self._remembered)

    def _links_of(self, report: DeliveryReport) -> list[trace.Link]:
        events = () if report.delivery is None else report.delivery.events
        links = self._links_to_captures(events)
        if report.response.stored:
            for event in events:
                attempt = self._early.pop((event.webhook_id, event.id), None)
                if attempt is not None:
                    links.append(trace.Link(attempt, {"jetpay.webhook.event_id": event.id}))
        return links

    def _links_to_captures(self, events: Sequence[Event]) -> list[trace.Link]:
        links: list[trace.Link] = []
        if self._operations is None:
            return links
        for event in events:
            debit_id: str | None = getattr(event, "transaction_id", None)
            capture = None if debit_id is None else self._operations.capture_of(debit_id)
            if debit_id is not None and capture is not None:
                attributes: dict[str, str | int] = {"jetpay.debit_id": debit_id, "jetpay.webhook.event_id": event.id}
                links.append(trace.Link(capture, attributes))
        return links
