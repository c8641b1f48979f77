"""The hook that operations are reported to, and the values that it gets."""

from __future__ import annotations

import asyncio
import itertools
import math
import pickle
from collections import Counter
from contextvars import ContextVar
from pathlib import Path

import attrs
import pytest

from jetpay_async import (
    Attempt,
    Capture,
    JetpayClient,
    JetpayError,
    NotSent,
    Operation,
    OperationOutcome,
    Outcome,
    OutcomeUnknownError,
    RetryPolicy,
)
from jetpay_async._core import operations
from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.execution import Execution
from jetpay_async._core.instrumented import OperationObserver
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Exchange, Loopback, held, replies
from tests.network import TOKEN, preauthorize
from tests.recording_server import RecordingServer, debits, request
from tests.reported import ANSWERED, CANCELLED, STATUS_READ, UNANSWERED, ended, rows, status, watched

# --- the hook --------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_failing_hook_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """What the hook raises is logged; the caller gets the result, or the error, all the same."""

    def broken(_: Operation) -> None:
        raise LookupError("no metrics")

    scripts = {"capture": [replies(400, FASTAPI[400])]}
    async with Loopback(scripts=scripts).listen() as server, watched(server, broken) as client:
        error = await ended(client.capture(DEBIT_ID))
        capture = await client.capture(DEBIT_ID)

    assert isinstance(error, JetpayError)
    assert capture.state == "paid"
    assert caplog.text.count(f"on_operation failed for capture {DEBIT_ID}") == 2
    assert "no metrics" in caplog.text


@pytest.mark.asyncio
async def test_the_hook_runs_in_the_context_of_the_caller() -> None:
    """A context variable of the task that called is what the hook sees, for each of several tasks, result or error."""
    variable: ContextVar[str] = ContextVar("variable")
    seen: dict[str | None, str] = {}

    def look(operation: Operation) -> None:
        seen[operation.debit_id] = variable.get()

    async def call(client: JetpayClient, debit_id: str) -> None:
        variable.set(f"context of {debit_id}")
        await ended(client.capture(debit_id))

    async with RecordingServer(responses={"debit_1": [replies(422, FASTAPI[422])]}).listen() as server:
        async with watched(server, look) as client:
            async with asyncio.TaskGroup() as group:
                for debit_id in debits(3):
                    group.create_task(call(client, debit_id))

    assert seen == {debit_id: f"context of {debit_id}" for debit_id in debits(3)}


@pytest.mark.asyncio
async def test_copies_of_a_client_are_watched_too() -> None:
    """`with_options` keeps the hook."""
    reported: list[Operation] = []
    async with Loopback().listen() as server, watched(server, reported.append) as client:
        await client.with_options(timeout=1.0).transaction_status(DEBIT_ID)

    assert [operation.name for operation in reported] == ["transaction_status"]


@pytest.mark.asyncio
async def test_a_client_from_the_environment_is_watched_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """`from_env` passes the hook on."""
    reported: list[Operation] = []
    async with Loopback().listen() as server:
        monkeypatch.setenv("JETPAY_API_TOKEN", TOKEN)
        monkeypatch.setenv("JETPAY_BASE_URL", server.url)
        async with JetpayClient.from_env(on_operation=reported.append) as client:
            await client.transaction_status(DEBIT_ID)

    assert [operation.name for operation in reported] == ["transaction_status"]


def test_a_client_that_nobody_observes_records_nothing() -> None:
    """Without a hook there is no observer, and nothing is kept of the requests."""
    assert JetpayClient(TOKEN)._executor._observer is None
    assert isinstance(JetpayClient(TOKEN, on_operation=print)._executor._observer, OperationObserver)


# --- many, shared, and from a ledger ---------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_shared_capture_is_told_once() -> None:
    """Tasks that share a request are one operation, that of the task which carries it."""
    reported: list[Operation] = []
    server = Loopback()
    released = held(server)
    async with server.listen(), watched(server, reported.append) as client:
        tasks = [asyncio.create_task(client.capture(DEBIT_ID)) for _ in range(10)]
        await server.arrived.wait()
        assert isinstance(await ended(client.with_options(timeout=0.01).capture(DEBIT_ID)), OutcomeUnknownError)
        released.set()
        await asyncio.gather(*tasks)

    assert len(reported) == server.count("capture") == 1


@pytest.mark.asyncio
async def test_a_task_that_takes_over_is_told_by_itself() -> None:
    """If the task that carries a shared capture is cancelled, that is one operation, and what follows another."""
    reported: list[Operation] = []
    server = Loopback()
    released = held(server)
    async with server.listen(), watched(server, reported.append) as client:
        leader, follower = (asyncio.create_task(client.capture(DEBIT_ID)) for _ in range(2))
        await server.arrived.wait()
        leader.cancel()
        await ended(leader)
        released.set()
        await follower

    assert [operation.outcome for operation in reported] == [OperationOutcome.UNKNOWN, OperationOutcome.DONE]
    assert rows(reported[0]) == [("capture", CANCELLED, None)]
    assert reported[1].attempts[0].request == "transaction_status"


@pytest.mark.asyncio
async def test_many_captures_are_told_one_by_one() -> None:
    """`capture_many` tells each debit once, also one that was given twice or refused."""
    reported: list[Operation] = []
    given = debits(20)
    async with RecordingServer(responses={"debit_7": [replies(402, {"detail": "declined"})]}).listen() as server:
        async with watched(server, reported.append) as client:
            outcomes = [outcome async for outcome in client.capture_many(given, concurrency=4)]

    assert len(outcomes) == len(given)
    assert Counter(operation.debit_id for operation in reported) == Counter(given)
    assert {o.debit_id for o in reported if o.outcome is OperationOutcome.REJECTED} == {"debit_7"}
    assert {operation.name for operation in reported} == {"capture"}


@pytest.mark.asyncio
async def test_many_preauthorizations_are_told_one_by_one() -> None:
    """`preauthorize_many` reports each reservation once, with its debit; what was not tried is not reported."""
    reported: list[Operation] = []
    impossible = attrs.evolve(request(9), statement="")
    async with RecordingServer().listen() as server, watched(server, reported.append) as client:
        requests = [request(1), request(2), impossible]
        outcomes = [outcome async for outcome in client.preauthorize_many(requests)]

    assert sum(isinstance(outcome, NotSent) for outcome in outcomes) == 1
    assert {operation.debit_id for operation in reported} == {"debit_of_contact_1", "debit_of_contact_2"}
    assert len(reported) == 2


@pytest.mark.asyncio
async def test_captures_from_a_ledger_are_told(tmp_path: Path) -> None:
    """A batch from a ledger tells each of its captures once."""
    reported: list[Operation] = []
    async with RecordingServer().listen() as server, watched(server, reported.append) as client:
        async with client.durable_captures(tmp_path / "captures.db", concurrency=4) as captures:
            batch = await captures.submit("night", debits(12))
            await batch.wait()

    assert Counter(operation.debit_id for operation in reported) == Counter(debits(12))
    assert {operation.outcome for operation in reported} == {OperationOutcome.DONE}


def left_by_a_dead_run(client: JetpayClient) -> Execution[Capture]:
    """A request of another process for the debit, which can no longer be on its way."""
    execution = client._executor.begin(operations.capture(DEBIT_ID), client._options)
    execution.mark_in_doubt(-math.inf)
    return execution


SETTLINGS = {
    "paid": ("paid", OperationOutcome.DONE, True),
    "preauthorized": ("preauthorized", OperationOutcome.UNDONE, False),
    "failed": ("failed", OperationOutcome.REJECTED, False),
}


@pytest.mark.parametrize(("state", "outcome", "confirmed_by_status"), SETTLINGS.values(), ids=SETTLINGS)
@pytest.mark.asyncio
async def test_what_a_dead_run_left_is_reported_when_it_is_resolved(
    state: str, outcome: OperationOutcome, confirmed_by_status: bool
) -> None:
    """Resolving alone is reported as a capture without a request of its own, and never as done where it was not."""
    reported: list[Operation] = []
    async with Loopback(state=state).listen() as server, watched(server, reported.append) as client:
        error = await ended(client._single_flight.resolve(left_by_a_dead_run(client)))

    (operation,) = reported
    assert (operation.name, operation.debit_id) == ("capture", DEBIT_ID)
    assert operation.outcome is outcome
    assert operation.confirmed_by_status is confirmed_by_status
    assert operation.error is error
    assert rows(operation) == [STATUS_READ]
    assert server.count("capture") == 0


# --- times, secrets, and the values themselves -----------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_times_are_those_of_the_clock() -> None:
    """Starts are seconds since the epoch, durations cover what lies between, and attempts lie within."""
    reported: list[Operation] = []
    now = 5000.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def taking(seconds: float, act: Act) -> Act:
        async def later(exchange: Exchange) -> None:
            await sleep(seconds)
            await act(exchange)

        return later

    def epoch() -> float:
        return 1_700_000_000.0 + now

    retry = RetryPolicy(base_delay=4.0, max_delay=4.0)
    clock = Clock(monotonic=lambda: now, time=epoch, sleep=sleep, random=lambda: 0.0)
    scripts = {"status": [taking(0.5, replies(503, HTML)), taking(0.25, status("paid"))]}
    async with Loopback(scripts=scripts).listen() as server:
        async with watched(server, reported.append, timeout=30.0, retry=retry, clock=clock) as client:
            await client.transaction_status(DEBIT_ID)

    began = 1_700_005_000.0
    assert reported == [
        Operation(
            name="transaction_status",
            outcome=OperationOutcome.DONE,
            debit_id=DEBIT_ID,
            started_at=began,
            duration=2.75,
            attempts=(
                Attempt(request="transaction_status", started_at=began, duration=0.5, status=503, result=UNANSWERED),
                Attempt(
                    request="transaction_status", started_at=began + 2.5, duration=0.25, status=200, result=ANSWERED
                ),
            ),
        )
    ]


@pytest.mark.asyncio
async def test_a_call_with_one_request_ends_with_it() -> None:
    """Its start, and how long it waited before its request, are taken into account; it ends at the same instant."""
    reported: list[Operation] = []
    ticks, seconds = itertools.count(5000), itertools.count(1_700_000_000)
    clock = attrs.evolve(SYSTEM_CLOCK, monotonic=lambda: float(next(ticks)), time=lambda: float(next(seconds)))
    async with Loopback().listen() as server:
        async with watched(server, reported.append, timeout=1000.0, clock=clock) as client:
            await client.transaction_status(DEBIT_ID)

    (operation,) = reported
    (attempt,) = operation.attempts
    assert operation.duration > attempt.duration
    assert operation.started_at + operation.duration == attempt.started_at + attempt.duration


@pytest.mark.asyncio
async def test_what_the_client_reports_is_as_if_it_had_been_constructed() -> None:
    """Values that the hook gets are frozen, compare, hash and can be pickled as those that its tests make."""
    reported: list[Operation] = []
    async with Loopback().listen() as server, watched(server, reported.append) as client:
        await client.transaction_status(DEBIT_ID)

    (operation,) = reported
    (attempt,) = operation.attempts
    assert (type(operation), type(attempt)) == (Operation, Attempt)
    for value in (operation, attempt):
        made = type(value)(**attrs.asdict(value, recurse=False))
        assert pickle.loads(pickle.dumps(value)) == made == value
        assert hash(made) == hash(value)
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            value.duration = 2.0  # type: ignore[misc] # that is the point


SECRETS = [TOKEN, "100.5", "Test statement", "contact_123", "cc_456", "bank_789"]
ENDS = {
    "503": replies(503, HTML),
    "unknown": loopback.hang_up,
    "echoed": replies(422, {"detail": f"{TOKEN} can't charge 100.50 to contact_123 for Test statement"}),
    "another amount": replies(
        200, {"debit_id": "d", "amount": 100.51, "contact_id": "contact_123", "from_credit_card_id": "cc_456"}
    ),
}


@pytest.mark.parametrize("act", ENDS.values(), ids=ENDS)
@pytest.mark.asyncio
async def test_nothing_secret_shows(act: Act) -> None:
    """What is printed of an operation holds neither token, amount nor argument, and of the error its class alone."""
    reported: list[Operation] = []
    # No time of day that has the digits of the amount in it.
    clock = attrs.evolve(SYSTEM_CLOCK, time=lambda: 1_700_000_000.0)
    async with (
        Loopback(scripts={"preauthorize": [act]}).listen() as server,
        watched(server, reported.append, clock=clock) as client,
    ):
        error = await ended(preauthorize(client))

    shown = repr(reported[0])
    assert [secret for secret in SECRETS if secret in shown] == []
    assert f"error={type(error).__name__}" in shown


def test_an_operation_without_error_says_so() -> None:
    """Where there is no error, none is shown."""
    operation = Operation(name="capture", outcome=OperationOutcome.DONE, started_at=0.0, duration=1.0)

    assert "error=None" in repr(operation)
    assert not operation.confirmed_by_status


@pytest.mark.parametrize("value", ["operation", "attempt"])
def test_the_values_are_frozen(value: str) -> None:
    """What one hook is reported, no other can change."""
    attempt = Attempt(request="capture", started_at=0.0, duration=1.0, result=ANSWERED)
    operation = Operation(name="capture", outcome=OperationOutcome.DONE, started_at=0.0, duration=1.0)

    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        (operation if value == "operation" else attempt).duration = 2.0  # type: ignore[misc] # that is the point


def test_each_outcome_of_an_error_is_one_of_an_operation() -> None:
    """Whatever an error says of its operation can be reported."""
    assert {outcome.value for outcome in Outcome} < {outcome.value for outcome in OperationOutcome}
