"""A capture of unknown outcome reads the status, and decides only on what proves something."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from jetpay_async import (
    APIError,
    Capture,
    ConflictError,
    InvalidRequestError,
    NotSentError,
    OutcomeUnknownError,
    RetryPolicy,
    ServiceError,
    TransactionFailedError,
    TransactionState,
)
from jetpay_async._core import responses
from jetpay_async._core.clock import Clock
from jetpay_async.sandbox import Fault, FaultKind
from tests import loopback
from tests.loopback import DEBIT_ID, FASTAPI, HTML, Act, Exchange, Loopback, replies, work_then
from tests.network import FAST, connect, status
from tests.sandboxed import reserve, sandboxed

SLOW_BANK = "4000000000000051"
PATIENT = attrs.evolve(FAST, resolve_after=60.0, resolve_after_timeout=60.0)


@pytest.mark.parametrize("state", ["paid", "completed"])
@pytest.mark.asyncio
async def test_a_lost_reply_is_resolved_by_the_status(state: str) -> None:
    """A status of paid or completed is the capture's result, marked as confirmed_by_status."""
    scripts = {"capture": [loopback.hang_up], "status": [status(state)]}
    async with Loopback(scripts=scripts).listen() as server, connect(server) as client:
        capture = await client.capture(DEBIT_ID)

    assert capture == Capture(debit_id=DEBIT_ID, state=TransactionState(state), confirmed_by_status=True, raw={})
    assert capture.raw == {"state": state}
    assert capture.attempts == 1


@pytest.mark.parametrize("state", ["failed", "cancelled"])
@pytest.mark.asyncio
async def test_a_status_of_failure_is_the_error_that_says_so(state: str) -> None:
    """A final state other than paid raises with the state and the API's reason."""
    reported = status(state, fail_reason="account_frozen", fail_direction="pull")
    scripts = {"capture": [loopback.hang_up], "status": [reported]}
    async with Loopback(scripts=scripts).listen() as server, connect(server) as client:
        with pytest.raises(TransactionFailedError, match="account_frozen") as caught:
            await client.capture(DEBIT_ID)

    assert caught.value.state == state
    assert caught.value.fail_reason == "account_frozen"
    assert caught.value.fail_direction == "pull"
    assert caught.value.debit_id == DEBIT_ID
    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_an_early_preauthorized_proves_nothing() -> None:
    """A capture that the service carries out late is not sent again while it may still be on its way."""
    late = Fault(kind=FaultKind.PROCESS_LATE, route="capture", seconds=0.1)
    async with sandboxed(late, timeout=20.0, retry=PATIENT) as (sandbox, client):
        debit_id = await reserve(sandbox, client)
        capture = await client.capture(debit_id)

        assert capture.confirmed_by_status
        assert sandbox.debit(debit_id).captures == sandbox.requests("capture") == 1
        assert sandbox.requests("status") > 1


@pytest.mark.asyncio
async def test_a_proven_undone_capture_is_sent_again() -> None:
    """Still preauthorized once the first request can't be on its way any more: captured again, once."""
    async with Loopback(scripts={"capture": [loopback.hang_up]}).listen() as server, connect(server) as client:
        capture = await client.capture(DEBIT_ID)

    assert not capture.confirmed_by_status
    assert capture.attempts == 2
    assert server.captures == 1


@pytest.mark.asyncio
async def test_the_time_is_waited_on_the_clock() -> None:
    """Between losing the reply and capturing again lie at least `resolve_after` seconds."""
    now = 1000.0
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    clock = Clock(monotonic=lambda: now, sleep=sleep)
    retry = RetryPolicy(base_delay=1.0, max_delay=4.0, resolve_after=5.0, resolve_after_timeout=5.0)
    async with Loopback(scripts={"capture": [loopback.hang_up]}).listen() as server:
        async with connect(server, timeout=30.0, retry=retry, clock=clock) as client:
            capture = await client.capture(DEBIT_ID)

    assert capture.attempts == 2
    assert sum(slept) == pytest.approx(5.0)
    assert capture.elapsed == pytest.approx(5.0)


UNREADABLE = {
    "no answer": [loopback.hang_up] * 2000,
    "reset": [loopback.reset] * 2000,
    "503": [replies(503, HTML)] * 2000,
    "429": [replies(429, FASTAPI[429])] * 2000,
    "HTML": [replies(200, HTML)] * 2000,
    "wrong shape": [replies(200, {"status": "paid"})] * 2000,
    "silence": [loopback.silence] * 2000,
    "404": [replies(404, FASTAPI[404])] * 2000,
    "a state nobody knows": [status("pondering")] * 2000,
}


@pytest.mark.parametrize("script", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.asyncio
async def test_a_status_that_does_not_tell_leaves_it_unknown(script: list[Act]) -> None:
    """An unreachable or undecided status is never read as not captured."""
    scripts = {"capture": [loopback.hang_up], "status": list(script)}
    async with Loopback(scripts=scripts).listen() as server, connect(server, timeout=0.3) as client:
        with pytest.raises(OutcomeUnknownError) as caught:
            await client.capture(DEBIT_ID)

    error = caught.value
    assert server.count("capture") == 1
    assert error.operation == "capture"
    assert error.debit_id == DEBIT_ID
    assert error.arguments == {"debit_id": DEBIT_ID}
    assert error.started_at is not None
    assert error.reason
    assert "transaction_status('debit_123')" in error.next_step
    assert error.elapsed <= 0.6


@pytest.mark.parametrize("code", [400, 401, 403, 422])
@pytest.mark.asyncio
async def test_a_status_that_may_not_be_read_is_not_asked_again(code: int) -> None:
    """If the API rejects the status itself, asking on is useless: the outcome is unknown at once."""
    scripts = {"capture": [work_then(loopback.hang_up)], "status": [replies(code, FASTAPI[code])]}
    async with Loopback(scripts=scripts).listen() as server, connect(server) as client:
        with pytest.raises(OutcomeUnknownError, match="status can't be read") as caught:
            await client.capture(DEBIT_ID)

    assert server.count("status") == 1
    assert isinstance(caught.value.__cause__, APIError)


@pytest.mark.asyncio
async def test_silence_leaves_time_to_resolve() -> None:
    """A server that takes the money and says nothing is given up early enough to read the status."""
    scripts = {"capture": [work_then(loopback.silence)]}
    async with Loopback(scripts=scripts).listen() as server, connect(server, timeout=1.5) as client:
        capture = await client.capture(DEBIT_ID)

    assert capture.confirmed_by_status
    assert capture.elapsed < 1.5


@pytest.mark.asyncio
async def test_silence_without_work_stays_unknown_until_it_can_be_proven() -> None:
    """A silent server that may still take the money is not asked again before the resolve time is over."""
    async with Loopback(scripts={"capture": [loopback.silence]}).listen() as server:
        async with connect(server, timeout=1.5, retry=PATIENT) as client:
            with pytest.raises(OutcomeUnknownError) as caught:
                await client.capture(DEBIT_ID)

    assert caught.value.state == "preauthorized"
    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_attempts_are_bounded_and_end_as_proven_undone() -> None:
    """After the last attempt the proof that none was carried out is passed on: nothing was taken."""
    async with Loopback(scripts={"capture": [replies(503, HTML)] * 9}).listen() as server, connect(server) as client:
        with pytest.raises(ServiceError, match="still preauthorized; calling again is safe") as caught:
            await client.capture(DEBIT_ID)

    assert caught.value.attempts == server.count("capture") == FAST.max_attempts
    assert caught.value.status == 503
    assert server.captures == 0


REJECTIONS = [400, 404, 409, 422]


@pytest.mark.parametrize("code", REJECTIONS)
@pytest.mark.asyncio
async def test_a_rejection_of_what_is_captured_already_is_success(code: int) -> None:
    """A 4xx for an already captured debit is success once the status says paid."""
    async with sandboxed(Fault(kind=FaultKind.ERROR_BEFORE, route="capture", status=code)) as (sandbox, client):
        debit_id = await reserve(sandbox, client)
        sandbox.set_state(debit_id, "paid")
        capture = await client.capture(debit_id)

    assert capture.confirmed_by_status
    assert capture.state == "paid"


@pytest.mark.parametrize("answer", [replies(503, HTML), replies(404, FASTAPI[404])], ids=["unreachable", "not found"])
@pytest.mark.asyncio
async def test_a_rejection_stands_where_the_status_does_not_contradict(answer: Act) -> None:
    """The API's no is the outcome if the status can't be read: this request took nothing."""
    scripts = {"capture": [replies(409, FASTAPI[409])], "status": [answer] * 9}
    async with Loopback(scripts=scripts).listen() as server, connect(server) as client:
        with pytest.raises(ConflictError):
            await client.capture(DEBIT_ID)

    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_a_rejection_after_what_is_in_doubt_is_checked_until_it_is_certain() -> None:
    """If an earlier attempt may stand in the way of the second, only the status decides."""
    scripts = {
        "capture": [loopback.hang_up, replies(409, FASTAPI[409])],
        "status": [status("preauthorized")] * 20,
    }
    server = Loopback(scripts=scripts)

    async def confirm(exchange: Exchange) -> None:
        server.scripts["status"] = [status("processing"), status("processing"), status("paid")]
        await exchange.reply(409, FASTAPI[409])

    scripts["capture"][1] = confirm
    async with server.listen(), connect(server) as client:
        capture = await client.capture(DEBIT_ID)

    assert capture.confirmed_by_status
    assert capture.attempts == 2


@pytest.mark.asyncio
async def test_a_rejection_after_an_earlier_call_s_unknown_outcome_is_checked_too() -> None:
    """It makes no difference whether the earlier attempt belongs to this call or to the one before."""
    server = Loopback(scripts={"capture": [loopback.hang_up], "status": [replies(401, FASTAPI[401])]})

    async def confirm(exchange: Exchange) -> None:
        server.scripts["status"] = [status("processing"), status("paid")]
        await exchange.reply(409, FASTAPI[409])

    async with server.listen(), connect(server) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.capture(DEBIT_ID)
        server.scripts["capture"] = [confirm]
        capture = await client.capture(DEBIT_ID)

    assert capture.confirmed_by_status
    assert capture.attempts == 1


@pytest.mark.asyncio
async def test_a_rejection_of_what_was_only_delayed_stands() -> None:
    """Attempts that never left, or were rate-limited, leave nothing in doubt: the rejection is the answer."""
    scripts = {
        "capture": [replies(429, FASTAPI[429]), replies(422, FASTAPI[422])],
        "status": [status("pondering")] * 99,
    }
    async with Loopback(scripts=scripts).listen() as server, connect(server) as client:
        with pytest.raises(InvalidRequestError):
            await client.capture(DEBIT_ID)

    assert server.count("capture") == 2


@pytest.mark.asyncio
async def test_a_capture_answered_by_failed_tells_the_reason() -> None:
    """A 200 that says failed is an error, with the reason from the status."""
    scripts = {
        "capture": [replies(200, {"identifier": DEBIT_ID, "state": "failed"})],
        "status": [status("failed", fail_reason="insufficient_funds", fail_direction="pull")],
    }
    async with Loopback(scripts=scripts).listen() as server, connect(server) as client:
        with pytest.raises(TransactionFailedError, match="insufficient_funds") as caught:
            await client.capture(DEBIT_ID)

    assert caught.value.fail_reason == "insufficient_funds"
    assert server.count("capture") == 1


@pytest.mark.parametrize(
    "answer",
    [{"identifier": "debit_999", "state": "paid"}, {"identifier": DEBIT_ID, "state": "preauthorized"}],
    ids=["another debit", "still preauthorized"],
)
@pytest.mark.asyncio
async def test_a_reply_that_contradicts_the_request_is_no_answer(answer: dict[str, str]) -> None:
    """A reply about another debit, or one that says it is not done, leaves it to the status."""
    async with Loopback(scripts={"capture": [work_then(replies(200, answer))]}).listen() as server:
        async with connect(server) as client:
            capture = await client.capture(DEBIT_ID)

    assert capture.confirmed_by_status
    assert capture.debit_id == DEBIT_ID


@pytest.mark.asyncio
async def test_a_capture_in_progress_is_accepted() -> None:
    """The API said 200 with a state of progress: that is its answer, and `wait_until_final` reads on."""
    async with sandboxed(timeout=20.0) as (sandbox, client):
        first, second = [await reserve(sandbox, client, card_number=SLOW_BANK) for _ in range(2)]
        accepted = await client.capture(first)
        captured = await client.capture(second, wait_until_final=True)

        assert sandbox.requests("capture") == 2
    raw = {"identifier": first, "state": "processing"}
    assert (accepted.state, accepted.final, accepted.raw) == ("processing", False, raw)
    assert captured.final
    assert captured.confirmed_by_status


@pytest.mark.asyncio
async def test_what_is_in_doubt_is_resolved_before_the_next_capture() -> None:
    """After an unknown outcome, capturing again on the same client reads the status before it sends anything."""
    scripts = {"capture": [work_then(loopback.hang_up)], "status": [replies(503, HTML)] * 500}
    server = Loopback(scripts=scripts)
    async with server.listen(), connect(server, timeout=0.1) as client:
        with pytest.raises(OutcomeUnknownError):
            await client.capture(DEBIT_ID)
        with pytest.raises(OutcomeUnknownError) as again:
            await client.capture(DEBIT_ID)
        server.scripts["status"].clear()
        capture = await client.with_options(timeout=2.0).capture(DEBIT_ID)

    assert again.value.attempts == 0
    assert again.value.reason == "an earlier call was left without an answer"
    assert capture.confirmed_by_status
    assert capture.attempts == 0
    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_what_is_in_doubt_survives_a_fault_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever interrupts a capture that had begun to leave, the next one reads the status first."""

    def broken(*_: object, **__: object) -> None:
        raise LookupError("a fault of our own")

    async with Loopback().listen() as server, connect(server) as client:
        with monkeypatch.context() as fault:
            fault.setattr(responses, "read", broken)
            with pytest.raises(LookupError):
                await client.capture(DEBIT_ID)
        capture = await client.capture(DEBIT_ID)

    assert capture.confirmed_by_status
    assert server.captures == server.count("capture") == 1


@pytest.mark.asyncio
async def test_what_is_in_doubt_after_a_fault_of_our_own_is_not_proven_away_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The resolve time of such a capture counts from the fault: an early "preauthorized" sends nothing again."""

    def broken(*_: object, **__: object) -> None:
        raise LookupError("a fault of our own")

    undone = replies(200, {"identifier": DEBIT_ID, "state": "paid"})
    async with Loopback(scripts={"capture": [undone]}).listen() as server:
        async with connect(server, timeout=0.2, retry=PATIENT) as client:
            with monkeypatch.context() as fault:
                fault.setattr(responses, "read", broken)
                with pytest.raises(LookupError):
                    await client.capture(DEBIT_ID)
            with pytest.raises(OutcomeUnknownError):
                await client.capture(DEBIT_ID)

    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_what_is_remembered_is_bounded() -> None:
    """A client that never gets an answer does not grow without end."""
    from jetpay_async._core import single_flight

    limit, single_flight.UNRESOLVED_LIMIT = single_flight.UNRESOLVED_LIMIT, 2
    try:
        async with Loopback(
            scripts={"capture": [loopback.hang_up] * 3, "status": [replies(401, FASTAPI[401])] * 3}
        ).listen() as server:
            async with connect(server) as client:
                for number in range(3):
                    with pytest.raises(OutcomeUnknownError):
                        await client.capture(f"debit_{number}")

                assert list(client._single_flight._unresolved) == ["debit_1", "debit_2"]
    finally:
        single_flight.UNRESOLVED_LIMIT = limit


def test_not_sent_and_unknown_are_apart() -> None:
    """Neither of the two is the other: catching one never catches what needs the other's care."""
    assert not issubclass(NotSentError, OutcomeUnknownError)
    assert not issubclass(OutcomeUnknownError, NotSentError | APIError | ServiceError)


@pytest.mark.asyncio
async def test_a_deadline_that_passes_while_waiting_ends_the_reads() -> None:
    """A process that wakes up after its deadline asks nobody any more, and does not wait for an answer for ever."""
    now = 1000.0

    async def oversleep(_: float) -> None:
        nonlocal now
        now += 3600.0

    scripts = {"capture": [loopback.hang_up], "status": [status("pondering"), loopback.silence]}
    clock = Clock(monotonic=lambda: now, sleep=oversleep)
    async with Loopback(scripts=scripts).listen() as server, connect(server, timeout=30.0, clock=clock) as client:
        with pytest.raises(OutcomeUnknownError):
            async with asyncio.timeout(0.5):
                await client.capture(DEBIT_ID)

    assert server.count("status") == 1


@pytest.mark.asyncio
async def test_a_deadline_that_passed_before_a_read_reads_nothing() -> None:
    """The same holds for a read: no time left means no request."""
    now = 1000.0

    async def oversleep(_: float) -> None:
        nonlocal now
        now += 3600.0

    clock = Clock(monotonic=lambda: now, sleep=oversleep)
    async with Loopback(scripts={"status": [replies(503, HTML), loopback.silence]}).listen() as server:
        async with connect(server, timeout=30.0, clock=clock) as client:
            with pytest.raises(ServiceError, match="deadline had passed"):
                async with asyncio.timeout(0.5):
                    await client.transaction_status(DEBIT_ID)

    assert server.count("status") == 1
