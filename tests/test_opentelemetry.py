"""Operations as spans and as a metric, as OpenTelemetry's own SDK sees them."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, StaticSampler
from opentelemetry.trace import SpanKind, StatusCode

from jetpay_async import (
    Attempt,
    AttemptResult,
    Capture,
    ConflictError,
    JetpayClient,
    JetpayError,
    Operation,
    OperationOutcome,
    OutcomeUnknownError,
    __version__,
)
from jetpay_async.opentelemetry import OpenTelemetry
from tests import loopback
from tests.loopback import DEBIT_ID, HTML, Loopback, replies, work_then
from tests.network import FAST, TOKEN, preauthorize

BEGAN = 1_700_000_000.0
NANOSECONDS = 1_000_000_000


class Collector:
    """An `OpenTelemetry` with somewhere for its spans and measurements to go."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(**options)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider(metric_readers=[self.reader])
        self.telemetry = OpenTelemetry(tracer_provider=self.tracers, meter_provider=self.meters)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        """In the order in which they ended."""
        return self.exporter.get_finished_spans()

    @property
    def metric(self) -> Any:
        """The only metric there is."""
        data = self.reader.get_metrics_data()
        assert data is not None
        ((metric,),) = [scope.metrics for resource in data.resource_metrics for scope in resource.scope_metrics]
        return metric

    def points(self) -> dict[tuple[Any, ...], HistogramDataPoint]:
        """The metric's points by operation, outcome and type of error."""
        names = ("jetpay.operation", "jetpay.outcome", "error.type")
        found = {}
        for point in self.metric.data.data_points:
            assert set(point.attributes) <= set(names)
            found[tuple(point.attributes.get(name) for name in names)] = point
        return found


def reported(
    *attempts: tuple[str, AttemptResult, int | None],
    outcome: OperationOutcome = OperationOutcome.DONE,
    error: BaseException | None = None,
    debit_id: str | None = DEBIT_ID,
) -> Operation:
    """An operation of 10 seconds, with an attempt of half a second in each second."""
    return Operation(
        name="capture",
        outcome=outcome,
        debit_id=debit_id,
        started_at=BEGAN,
        duration=10.0,
        attempts=tuple(
            Attempt(request=request, started_at=BEGAN + second, duration=0.5, status=status, result=result)
            for second, (request, result, status) in enumerate(attempts)
        ),
        error=error,
    )


CAPTURED = ("capture", AttemptResult.ANSWERED, 200)
LOST = ("capture", AttemptResult.UNANSWERED, None)
READ = ("transaction_status", AttemptResult.ANSWERED, 200)
NOT_SENT = ("capture", AttemptResult.NOT_SENT, None)


# --- spans -----------------------------------------------------------------------------------------------------------


def test_an_operation_is_a_span_and_each_attempt_a_span_below_it() -> None:
    """Names, kinds, times and attributes of a capture that was answered at the second attempt."""
    collector = Collector()

    collector.telemetry(reported(NOT_SENT, CAPTURED))

    _, attempt, operation = collector.spans
    assert operation.name == "jetpay capture"
    assert operation.kind is SpanKind.CLIENT
    assert operation.parent is None
    assert operation.attributes == {
        "jetpay.operation": "capture",
        "jetpay.outcome": "done",
        "jetpay.debit_id": DEBIT_ID,
    }
    assert operation.status.status_code is StatusCode.UNSET
    assert operation.start_time == BEGAN * NANOSECONDS
    assert operation.end_time == (BEGAN + 10) * NANOSECONDS
    assert attempt.name == "attempt capture"
    assert attempt.kind is SpanKind.INTERNAL
    assert attempt.parent == operation.context
    assert attempt.attributes == {"http.response.status_code": 200, "http.request.resend_count": 1}
    assert attempt.status.status_code is StatusCode.UNSET
    assert attempt.start_time == (BEGAN + 1) * NANOSECONDS
    assert attempt.end_time == (BEGAN + 1.5) * NANOSECONDS
    assert operation.instrumentation_scope is not None
    assert operation.instrumentation_scope.name == "jetpay_async"
    assert operation.instrumentation_scope.version == __version__


@pytest.mark.parametrize("status", [200, None])
def test_the_only_request_that_brought_the_result_is_no_span_of_its_own(status: int | None) -> None:
    """It would repeat the operation's span, which has its HTTP status instead."""
    collector = Collector()

    collector.telemetry(reported(("capture", AttemptResult.ANSWERED, status)))

    (operation,) = collector.spans
    assert operation.attributes is not None
    assert operation.attributes.get("http.response.status_code") == status


@pytest.mark.parametrize("attempt", [LOST, CAPTURED, NOT_SENT], ids=lambda attempt: attempt[1].value)
def test_the_only_request_of_what_failed_is_a_span(attempt: tuple[str, AttemptResult, int | None]) -> None:
    """How it ended, and what the operation made of it, are two things."""
    collector = Collector()

    collector.telemetry(reported(attempt, outcome=OperationOutcome.UNKNOWN, error=OutcomeUnknownError("unknown")))

    assert [span.name for span in collector.spans] == ["attempt capture", "jetpay capture"]


def test_attempts_tell_how_they_ended_and_how_often_they_were_tried() -> None:
    """A failed attempt is an error by its result; what came before it counts by kind; the operation is none."""
    collector = Collector()

    collector.telemetry(reported(LOST, READ, ("capture", AttemptResult.RATE_LIMITED, 429), READ))

    *attempts, operation = collector.spans
    assert [span.name for span in attempts] == [
        "attempt capture",
        "attempt transaction_status",
        "attempt capture",
        "attempt transaction_status",
    ]
    assert [span.attributes for span in attempts] == [
        {"error.type": "unanswered"},
        {"http.response.status_code": 200},
        {"http.response.status_code": 429, "http.request.resend_count": 1, "error.type": "rate_limited"},
        {"http.response.status_code": 200, "http.request.resend_count": 1},
    ]
    failed = [span.status.status_code is StatusCode.ERROR for span in attempts]
    assert failed == [True, False, True, False]
    assert operation.attributes is not None
    assert operation.attributes["jetpay.confirmed_by_status"] is True
    assert operation.status.status_code is StatusCode.UNSET


def test_an_error_shows_by_its_class_alone() -> None:
    """The span of an operation that failed is an error, with neither text nor trace of what was asked."""
    collector = Collector()
    error = ConflictError("the API answered 409: contact_123 has no 100.50", status=409)

    collector.telemetry(reported(CAPTURED, outcome=OperationOutcome.REJECTED, error=error))

    span = collector.spans[-1]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert span.events == ()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "ConflictError"
    assert span.attributes["jetpay.outcome"] == "rejected"
    assert "contact_123" not in span.to_json()


def test_a_debit_that_is_not_known_is_left_out() -> None:
    """A preauthorization without an answer has no debit to name."""
    collector = Collector()

    collector.telemetry(reported(LOST, debit_id=None))

    assert "jetpay.debit_id" not in (collector.spans[-1].attributes or {})


def test_what_is_not_sampled_is_counted_all_the_same() -> None:
    """Where an operation is not recorded, neither are its attempts, and the metric still has it."""

    class OnlyAttempts(StaticSampler):
        def should_sample(self, parent_context: Any, trace_id: int, name: str, *others: Any, **more: Any) -> Any:
            sampler = ALWAYS_ON if name.startswith("attempt") else ALWAYS_OFF
            return sampler.should_sample(parent_context, trace_id, name, *others, **more)

    collector = Collector(sampler=OnlyAttempts(Decision.DROP))

    collector.telemetry(reported(LOST, READ))

    assert collector.spans == ()
    assert collector.points()["capture", "done", None].count == 1


# --- the metric ------------------------------------------------------------------------------------------------------


def test_the_metric_counts_and_measures() -> None:
    """One histogram in seconds, whose points tell operation, outcome and error apart, and nothing that is unbounded."""
    collector = Collector()
    unknown = OutcomeUnknownError("it may have been carried out")

    for _ in range(3):
        collector.telemetry(reported(CAPTURED))
    collector.telemetry(reported(LOST, outcome=OperationOutcome.UNKNOWN, error=unknown))
    collector.telemetry(reported(LOST, outcome=OperationOutcome.UNKNOWN, error=asyncio.CancelledError()))

    assert (collector.metric.name, collector.metric.unit) == ("jetpay.client.operation.duration", "s")
    points = collector.points()
    assert {key: point.count for key, point in points.items()} == {
        ("capture", "done", None): 3,
        ("capture", "unknown", "OutcomeUnknownError"): 1,
        ("capture", "unknown", "CancelledError"): 1,
    }
    done = points["capture", "done", None]
    assert done.sum == 30.0
    assert sum(bound < 1.0 for bound in done.explicit_bounds) > 5, "most calls take less than a second"
    assert done.explicit_bounds[-1] >= 30.0


def test_the_metric_leads_to_its_spans() -> None:
    """A measurement carries its operation's span as its example."""
    collector = Collector()

    collector.telemetry(reported(CAPTURED))

    (example,) = collector.points()["capture", "done", None].exemplars
    context = collector.spans[-1].context
    assert context is not None
    assert (example.trace_id, example.span_id) == (context.trace_id, context.span_id)


# --- with the client -------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_spans_hang_below_the_span_of_the_caller() -> None:
    """A client's operation is a child of the span that was current where it was called, also with many at once."""
    collector = Collector()
    tracer = collector.tracers.get_tracer("shop")
    scripts = {"capture": [work_then(replies(503, HTML))]}
    async with Loopback(scripts=scripts).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, retry=FAST, on_operation=collector.telemetry) as client:

            async def rent(name: str, debit_id: str) -> Capture:
                with tracer.start_as_current_span(name):
                    return await client.capture(debit_id)

            await asyncio.gather(rent("one", "debit_1"), rent("two", "debit_2"))

    spans = {span.name: span for span in collector.spans if span.name in {"one", "two"}}
    for name, debit_id in (("one", "debit_1"), ("two", "debit_2")):
        (inner,) = [span for span in collector.spans if (span.attributes or {}).get("jetpay.debit_id") == debit_id]
        assert inner.parent == spans[name].context


@pytest.mark.asyncio
async def test_an_unknown_outcome_can_be_counted() -> None:
    """What a client left unknown is in the metric's count of unknown outcomes, and no secret is in the span."""
    collector = Collector()
    async with Loopback(scripts={"preauthorize": [loopback.hang_up]}).listen() as server:
        async with JetpayClient(TOKEN, base_url=server.url, on_operation=collector.telemetry) as client:
            with pytest.raises(JetpayError):
                await preauthorize(client)

    assert collector.points()["preauthorize", "unknown", "OutcomeUnknownError"].count == 1
    shown = "".join(span.to_json() for span in collector.spans)
    assert [secret for secret in (TOKEN, "100.5", "Test statement", "contact_123") if secret in shown] == []


# --- what is installed, and what is set ------------------------------------------------------------------------------


def run(script: str) -> str:
    """Run a script in an interpreter of its own, where providers can be set for good; return what it says."""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def test_without_the_extra_it_says_what_to_install() -> None:
    """The import alone fails, as an ImportError that names the extra."""
    script = """
import sys
sys.modules["opentelemetry"] = None
import jetpay_async
try:
    import jetpay_async.opentelemetry
except ImportError as error:
    print(error)
"""
    assert run(script) == "jetpay_async.opentelemetry needs opentelemetry: pip install 'jetpay-async[otel]'"


def test_a_missing_opentelemetry_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that has used it before, too, its import names the extra."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "jetpay_async.opentelemetry")

    with pytest.raises(ImportError, match=r"pip install 'jetpay-async\[otel\]'"):
        importlib.import_module("jetpay_async.opentelemetry")


def test_it_goes_to_the_global_providers_by_default() -> None:
    """Providers that the application sets later are used as well; until then nothing goes anywhere."""
    script = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from jetpay_async import Operation, OperationOutcome
from jetpay_async.opentelemetry import OpenTelemetry

telemetry = OpenTelemetry()
operation = Operation(name="capture", outcome=OperationOutcome.DONE, started_at=1.7e9, duration=1.0)
telemetry(operation)
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
tracers = TracerProvider()
tracers.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
telemetry(operation)
(metric,) = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
print([span.name for span in exporter.get_finished_spans()], [point.count for point in metric.data.data_points])
"""
    assert run(script) == "['jetpay capture'] [1]"
