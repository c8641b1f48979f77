"""What a watched client reports each call, and that a client which nobody watches does nothing for it."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path

import attrs
import pytest

from jetpay_async import (
    Attempt,
    AttemptResult,
    Capture,
    ConfigurationError,
    JetpayClient,
    JetpayError,
    NotSent,
    Operation,
    OperationOutcome,
    Outcome,
    OutcomeUnknownError,
    RetryPolicy,
    TransactionFailedError,
)
from jetpay_async._core import operations
from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.execution import Execution
from jetpay_async._core.instrumented import OperationObserver
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Exchange, Loopback, held, replies, work_then
from tests.network import FAST, TOKEN, preauthorize
from tests.recording_server import RecordingServer, debits, request

ANSWERED = AttemptResult.ANSWERED
REJECTED = AttemptResult.REJECTED
RATE_LIMITED = AttemptResult.RATE_LIMITED
UNANSWERED = AttemptResult.UNANSWERED
NOT_SENT = AttemptResult.NOT_SENT
CANCELLED = AttemptResult.CANCELLED

OPERATIONS: dict[str, Callable[[JetpayClient], Awaitable[object]]] = {
    "preauthorize": preauthorize,
    "capture": lambda client: client.capture(DEBIT_ID),
    "cancel_transaction": lambda client: client.cancel_transaction(DEBIT_ID),
    "transaction_status": lambda client: client.transaction_status(DEBIT_ID),
}

Row = tuple[str, AttemptResult, int | None]


def watched(
    server: Loopback,
    on_operation: Callable[[Operation], None],
    *,
    timeout: float = 2.0,
    retry: RetryPolicy = FAST,
    clock: Clock | None = None,
    on_unknown: Callable[[OutcomeUnknownError], None] | None = None,
) -> JetpayClient:
    return JetpayClient(
        TOKEN,
        base_url=server.url,
        timeout=timeout,
        retry=retry,
        on_unknown=on_unknown,
        on_operation=on_operation,
        clock=clock or Clock(),
    )


def status(state: str) -> Act:
    return replies(200, {"state": state})


def rows(operation: Operation) -> list[Row]:
    """Of each attempt, what was asked, and what came of it."""
    return [(attempt.request, attempt.result, attempt.status) for attempt in operation.attempts]


async def ended(call: Awaitable[object]) -> BaseException | None:
    """Whatever the call ended by, cancellation included."""
    try:
        await call
    except BaseException as error:  # noqa: BLE001 - all of them are reported
        return error
    return None


# --- what is reported of one call ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.asyncio
async def test_a_call_that_is_answered_at_once(name: str) -> None:
    """Each of the client's methods is reported under its name, with its debit and one answered attempt."""
    reported: list[Operation] = []
    async with Loopback().listen() as server, watched(server, reported.append) as client:
        await OPERATIONS[name](client)

    (operation,) = reported
    assert operation.name == name
    assert operation.outcome is OperationOutcome.DONE
    assert operation.debit_id == DEBIT_ID
    assert rows(operation) == [(name, ANSWERED, 200)]
    assert not operation.confirmed_by_status
    assert operation.error is None


@pytest.mark.asyncio
async def test_a_request_that_never_left_is_an_attempt() -> None:
    """What failed before anything left is reported as not sent, and what was sent after it beside it."""
    reported: list[Operation] = []
    tokens: list[str | Exception] = [OSError("the vault is closed"), TOKEN]

    async def ask() -> str:
        token = tokens.pop(0)
        if isinstance(token, Exception):
            raise token
        return token

    async with Loopback().listen() as server:
        async with JetpayClient(ask, base_url=server.url, retry=FAST, on_operation=reported.append) as client:
            await client.capture(DEBIT_ID)

    (operation,) = reported
    assert operation.outcome is OperationOutcome.DONE
    assert rows(operation) == [("capture", NOT_SENT, None), ("capture", ANSWERED, 200)]


LOOKS: dict[str, tuple[Act, Row]] = {
    "503": (replies(503, HTML), ("transaction_status", UNANSWERED, 503)),
    "cut": (loopback.cut_body, ("transaction_status", UNANSWERED, None)),
    "429": (replies(429, FASTAPI[429]), ("transaction_status", RATE_LIMITED, 429)),
    "a state nobody knows": (status("pondering"), ("transaction_status", ANSWERED, 200)),
    "201": (replies(201, {"state": "pondering"}), ("transaction_status", ANSWERED, 201)),
}


@pytest.mark.parametrize(("look", "row"), LOOKS.values(), ids=LOOKS)
@pytest.mark.asyncio
async def test_the_reads_that_resolve_are_attempts(look: Act, row: Row) -> None:
    """Each look at the status is an attempt of the capture that it resolves, whatever it brought."""
    reported: list[Operation] = []
    scripts = {"capture": [work_then(replies(503, HTML))], "status": [look]}
    async with Loopback(scripts=scripts).listen() as server, watched(server, reported.append) as client:
        capture = await client.capture(DEBIT_ID)

    (operation,) = reported
    assert operation.outcome is OperationOutcome.DONE
    assert rows(operation) == [("capture", UNANSWERED, 503), row, ("transaction_status", ANSWERED, 200)]
    assert operation.confirmed_by_status
    assert capture.confirmed_by_status


@pytest.mark.parametrize("by_status", [False, True], ids=["by its response", "by its status"])
@pytest.mark.asyncio
async def test_an_accepted_capture_is_reported_as_accepted(*, by_status: bool) -> None:
    """What is in progress has a result, and is not done."""
    reported: list[Operation] = []
    answer = replies(503, HTML) if by_status else replies(200, {"identifier": DEBIT_ID, "state": "processing"})
    scripts = {"capture": [answer], "status": [status("processing")]}
    async with Loopback(scripts=scripts).listen() as server, watched(server, reported.append) as client:
        await client.capture(DEBIT_ID)

    (operation,) = reported
    assert operation.outcome is OperationOutcome.ACCEPTED
    assert operation.debit_id == DEBIT_ID
    assert operation.confirmed_by_status is by_status


@pytest.mark.asyncio
async def test_a_cancellation_that_the_status_confirms() -> None:
    """A cancellation, which has no result to tell by, is reported as confirmed by the status, too."""
    reported: list[Operation] = []
    scripts = {"cancel": [work_then(loopback.hang_up)]}
    async with Loopback(scripts=scripts).listen() as server, watched(server, reported.append) as client:
        await client.cancel_transaction(DEBIT_ID)

    assert reported[0].outcome is OperationOutcome.DONE
    assert reported[0].confirmed_by_status


@pytest.mark.asyncio
async def test_what_is_sent_again_after_a_proof_is_not_confirmed_by_status() -> None:
    """Where the status said that nothing had happened, the second capture's own reply is the last word."""
    reported: list[Operation] = []
    server = Loopback(scripts={"capture": [loopback.hang_up]})
    async with server.listen(), watched(server, reported.append) as client:
        await client.capture(DEBIT_ID)

    (operation,) = reported
    kinds = [attempt.request for attempt in operation.attempts]
    assert kinds == ["capture", *["transaction_status"] * server.count("status"), "capture"]
    assert operation.outcome is OperationOutcome.DONE
    assert not operation.confirmed_by_status


STATUS_READ = ("transaction_status", ANSWERED, 200)

REFUSALS: dict[str, tuple[str, Act, list[Row]]] = {
    "preauthorize 422": ("preauthorize", replies(422, FASTAPI[422]), [("preauthorize", REJECTED, 422)]),
    "capture 422": ("capture", replies(422, FASTAPI[422]), [("capture", REJECTED, 422), STATUS_READ]),
    "capture 401": ("capture", replies(401, FASTAPI[401]), [("capture", REJECTED, 401)]),
    "capture 429": ("capture", replies(429, FASTAPI[429]), [("capture", RATE_LIMITED, 429)]),
    "status 404": ("status", replies(404, FASTAPI[404]), [("transaction_status", REJECTED, 404)]),
}


@pytest.mark.parametrize(("route", "act", "expected"), REFUSALS.values(), ids=REFUSALS)
@pytest.mark.asyncio
async def test_a_refusal(route: str, act: Act, expected: list[Row]) -> None:
    """The API's no is reported as rejected, with the error that the caller gets and the reads that confirmed it."""
    reported: list[Operation] = []
    once = attrs.evolve(FAST, resend_rate_limited=False)
    async with (
        Loopback(scripts={route: [act]}).listen() as server,
        watched(server, reported.append, retry=once) as client,
    ):
        error = await ended(OPERATIONS["transaction_status" if route == "status" else route](client))

    (operation,) = reported
    assert isinstance(error, JetpayError)
    assert operation.error is error
    assert operation.outcome is OperationOutcome.REJECTED
    assert rows(operation) == expected
    assert not operation.confirmed_by_status


@pytest.mark.asyncio
async def test_a_refusal_that_the_status_contradicts() -> None:
    """A capture that was refused because it had been made already is done, and confirmed_by_status."""
    reported: list[Operation] = []
    scripts = {"capture": [replies(409, FASTAPI[409])]}
    async with Loopback(state="paid", scripts=scripts).listen() as server, watched(server, reported.append) as client:
        await client.capture(DEBIT_ID)

    (operation,) = reported
    assert operation.outcome is OperationOutcome.DONE
    assert rows(operation) == [("capture", REJECTED, 409), STATUS_READ]
    assert operation.confirmed_by_status


@pytest.mark.asyncio
async def test_an_answer_that_it_is_over() -> None:
    """A reply that says that the debit is failed is a refusal, and no result of the status that confirmed it."""
    reported: list[Operation] = []
    scripts = {
        "capture": [replies(200, {"identifier": DEBIT_ID, "state": "failed"})],
        "status": [replies(503, HTML), status("failed")],
    }
    async with Loopback(scripts=scripts).listen() as server, watched(server, reported.append) as client:
        error = await ended(client.capture(DEBIT_ID))

    (operation,) = reported
    assert isinstance(error, TransactionFailedError)
    assert operation.outcome is OperationOutcome.REJECTED
    assert rows(operation) == [
        ("capture", REJECTED, 200),
        ("transaction_status", UNANSWERED, 503),
        STATUS_READ,
    ]
    assert not operation.confirmed_by_status


@pytest.mark.asyncio
async def test_an_unknown_outcome() -> None:
    """An unknown outcome is reported to both hooks, with the debit if the reply named one."""
    reported: list[Operation] = []
    unknown: list[OutcomeUnknownError] = []
    scripts = {"preauthorize": [loopback.hang_up, replies(200, {"debit_id": "debit_9"})]}
    async with Loopback(scripts=scripts).listen() as server:
        async with watched(server, reported.append, on_unknown=unknown.append) as client:
            errors = [await ended(preauthorize(client)) for _ in range(2)]

    assert [operation.error for operation in reported] == errors == unknown
    assert {operation.outcome for operation in reported} == {OperationOutcome.UNKNOWN}
    assert [operation.debit_id for operation in reported] == [None, "debit_9"]
    assert rows(reported[0]) == [("preauthorize", UNANSWERED, None)]
    assert rows(reported[1]) == [("preauthorize", UNANSWERED, 200)]


@pytest.mark.asyncio
async def test_a_status_that_may_not_be_read() -> None:
    """A refused look at the status is an attempt as well, and leaves the capture unknown."""
    reported: list[Operation] = []
    scripts = {"capture": [loopback.hang_up], "status": [replies(403, FASTAPI[403])]}
    async with Loopback(scripts=scripts).listen() as server, watched(server, reported.append) as client:
        await ended(client.capture(DEBIT_ID))

    assert reported[0].outcome is OperationOutcome.UNKNOWN
    assert rows(reported[0]) == [("capture", UNANSWERED, None), ("transaction_status", REJECTED, 403)]


@pytest.mark.asyncio
async def test_a_read_without_an_answer() -> None:
    """A read that is given up after its last attempt is reported with all of them."""
    reported: list[Operation] = []
    scripts = {"status": [replies(503, HTML)] * FAST.max_attempts}
    async with Loopback(scripts=scripts).listen() as server, watched(server, reported.append) as client:
        await ended(client.transaction_status(DEBIT_ID))

    assert reported[0].outcome is OperationOutcome.NO_ANSWER
    assert rows(reported[0]) == [("transaction_status", UNANSWERED, 503)] * FAST.max_attempts


@pytest.mark.asyncio
async def test_a_client_that_cant_be_used_makes_no_attempt() -> None:
    """A call on a closed client is reported as not sent, without a request."""
    reported: list[Operation] = []
    async with Loopback().listen() as server:
        client = watched(server, reported.append)
        await client.aclose()
        error = await ended(client.capture(DEBIT_ID))

    assert isinstance(error, ConfigurationError)
    assert reported[0].outcome is OperationOutcome.NOT_SENT
    assert reported[0].attempts == ()


@pytest.mark.asyncio
async def test_a_bad_argument_is_no_operation() -> None:
    """What is refused before the call begins is not reported."""
    reported: list[Operation] = []
    async with Loopback().listen() as server, watched(server, reported.append) as client:
        await ended(client.capture("a/b"))

    assert reported == []


# --- cancelled, or broken --------------------------------------------------------------------------------------------


async def cancelled_once(condition: Callable[[], bool], call: Awaitable[object]) -> BaseException | None:
    """Begin the call, and cancel it when the condition holds."""
    task = asyncio.ensure_future(call)
    while not condition():
        await asyncio.sleep(0.001)
    task.cancel()
    return await ended(task)


IN_FLIGHT = {
    "preauthorize": OperationOutcome.UNKNOWN,
    "capture": OperationOutcome.UNKNOWN,
    "transaction_status": OperationOutcome.CANCELLED,
}


@pytest.mark.parametrize(("name", "outcome"), IN_FLIGHT.items(), ids=IN_FLIGHT)
@pytest.mark.asyncio
async def test_cancelled_in_flight(name: str, outcome: OperationOutcome) -> None:
    """A cancelled write that had begun to leave is unknown; a read is just cancelled."""
    reported: list[Operation] = []
    scripts = {route: [loopback.silence] for route in ("preauthorize", "capture", "status")}
    async with Loopback(scripts=scripts).listen() as server, watched(server, reported.append) as client:
        error = await cancelled_once(server.arrived.is_set, OPERATIONS[name](client))

    (operation,) = reported
    assert isinstance(error, asyncio.CancelledError)
    assert operation.error is error
    assert operation.outcome is outcome
    assert rows(operation) == [(name, CANCELLED, None)]


@pytest.mark.asyncio
async def test_cancelled_before_anything_left() -> None:
    """A capture that is cancelled in the queue for a connection is cancelled, with nothing in doubt."""
    reported: list[Operation] = []
    server = Loopback(scripts={"status": [loopback.silence]})
    async with server.listen():
        async with JetpayClient(TOKEN, base_url=server.url, max_connections=1, on_operation=reported.append) as client:
            hog = asyncio.create_task(client.transaction_status("other"))
            await server.arrived.wait()
            task = asyncio.create_task(client.capture(DEBIT_ID))
            await asyncio.sleep(0.01)
            task.cancel()
            await ended(task)
            hog.cancel()
            await ended(hog)

    assert server.count("capture") == 0
    assert reported[0].name == "capture"
    assert reported[0].outcome is OperationOutcome.CANCELLED
    assert rows(reported[0]) == [("capture", CANCELLED, None)]


@pytest.mark.asyncio
async def test_cancelled_between_two_attempts() -> None:
    """Where no request is under way, none is reported as cancelled."""
    reported: list[Operation] = []
    waiting = asyncio.Event()

    async def wait(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    scripts = {"capture": [replies(429, FASTAPI[429])]}
    async with Loopback(scripts=scripts).listen() as server:
        async with watched(server, reported.append, clock=Clock(sleep=wait)) as client:
            await cancelled_once(waiting.is_set, client.capture(DEBIT_ID))

    assert reported[0].outcome is OperationOutcome.CANCELLED
    assert rows(reported[0]) == [("capture", RATE_LIMITED, 429)]


@pytest.mark.asyncio
async def test_cancelled_while_it_is_resolved() -> None:
    """A look at the status that is broken off is reported as cancelled, and the capture as unknown."""
    reported: list[Operation] = []
    scripts = {"capture": [loopback.hang_up], "status": [loopback.silence]}
    async with Loopback(scripts=scripts).listen() as server, watched(server, reported.append) as client:
        await cancelled_once(lambda: server.count("status") > 0, client.capture(DEBIT_ID))

    assert reported[0].outcome is OperationOutcome.UNKNOWN
    assert rows(reported[0]) == [("capture", UNANSWERED, None), ("transaction_status", CANCELLED, None)]


FAULTS = {
    "transaction_status": (OperationOutcome.FAILED, UNANSWERED),
    "capture": (OperationOutcome.UNKNOWN, UNANSWERED),
}


@pytest.mark.parametrize(("name", "expected"), FAULTS.items(), ids=FAULTS)
@pytest.mark.asyncio
async def test_an_unexpected_fault(name: str, expected: tuple[OperationOutcome, AttemptResult]) -> None:
    """A fault of ours is reported as such, unless a write had begun to leave: then what became of it is unknown."""
    reported: list[Operation] = []
    outcome, result = expected

    def broken() -> float:
        raise LookupError("no chance")

    scripts = {route: [replies(503, HTML)] for route in ("capture", "status")}
    async with Loopback(scripts=scripts).listen() as server:
        async with watched(server, reported.append, clock=Clock(random=broken)) as client:
            error = await ended(OPERATIONS[name](client))

    assert isinstance(error, LookupError)
    assert reported[0].error is error
    assert reported[0].outcome is outcome
    assert rows(reported[0]) == [(name, result, 503)]


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
        error = await ended(client._single_flight.resolve(DEBIT_ID, left_by_a_dead_run(client)))

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
