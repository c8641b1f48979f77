"""What is reported of one operation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import attrs
import pytest

from jetpay_async import (
    AttemptResult,
    ConfigurationError,
    JetpayClient,
    JetpayError,
    Operation,
    OperationOutcome,
    OutcomeUnknownError,
    TransactionFailedError,
)
from jetpay_async._core.clock import Clock
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Loopback, replies, work_then
from tests.network import FAST, TOKEN, preauthorize
from tests.reported import (
    ANSWERED,
    CANCELLED,
    NOT_SENT,
    OPERATIONS,
    RATE_LIMITED,
    REJECTED,
    STATUS_READ,
    UNANSWERED,
    Row,
    ended,
    rows,
    status,
    watched,
)

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
