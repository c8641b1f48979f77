"""Attempts within one deadline: what is sent, how often, and what the log and the caller get to know."""

from __future__ import annotations

import logging
from typing import Any

import attrs
import pytest

from jetpay_async import (
    APIError,
    AuthenticationError,
    ConflictError,
    NotFoundError,
    OutcomeUnknownError,
    Preauthorization,
    ServiceError,
    TransactionFailedError,
)
from jetpay_async._core import operations
from jetpay_async._core.execution import Options
from jetpay_async._core.http import RawResponse, ResolveBound
from tests.core import scripted
from tests.core.scripted import PREAUTHORIZED, ScriptedService, Sent, answer, begin, executor, lost
from tests.loopback import DEBIT_ID, FASTAPI

REJECTED_TOKEN = answer(401, FASTAPI[401])


async def call(service: ScriptedService, name: str, *, timeout: float = 100.0, max_attempts: int = 3) -> Any:
    """Make a call of this name."""
    client = executor(service)
    calls = {
        "capture": operations.capture(DEBIT_ID),
        "preauthorize": scripted.preauthorization(),
        "cancel": operations.cancel_transaction(DEBIT_ID),
        "status": operations.transaction_status(DEBIT_ID),
    }
    policy = attrs.evolve(scripted.POLICY, max_attempts=max_attempts)
    return await client.execute(client.begin(calls[name], Options(timeout, policy)))  # type: ignore[var-annotated] # of any


# --- the token ------------------------------------------------------------------------------------------------------

every_call = pytest.mark.parametrize("name", ["capture", "preauthorize", "cancel", "status"])


@every_call
@pytest.mark.parametrize("max_attempts", [1, 3])
@pytest.mark.asyncio
async def test_a_token_that_changes_is_asked_for_once_more(name: str, max_attempts: int) -> None:
    """A 401 in the middle of a rotation is answered by a fresh token: nothing was done, so it is sent at once."""
    service = ScriptedService(scripts={name: [REJECTED_TOKEN]}, token_changes=True)

    await call(service, name, max_attempts=max_attempts)

    assert service.count(name) == 2
    assert service.slept == [0.0]


@every_call
@pytest.mark.asyncio
async def test_a_second_401_is_believed(name: str) -> None:
    """The token function had its chance: once a call."""
    service = ScriptedService(scripts={name: [REJECTED_TOKEN] * 9}, token_changes=True)

    with pytest.raises(AuthenticationError):
        await call(service, name)

    assert service.count(name) == 2


@every_call
@pytest.mark.asyncio
async def test_a_token_that_does_not_change_is_believed_to_be_wrong(name: str) -> None:
    """A token that was given as it is would be the same once more."""
    service = ScriptedService(scripts={name: [REJECTED_TOKEN] * 9})

    with pytest.raises(AuthenticationError):
        await call(service, name)

    assert service.count(name) == 1


@pytest.mark.asyncio
async def test_the_reads_that_resolve_ask_for_the_token_once_more_too() -> None:
    """A rotation while a capture is resolved does not leave it unknown."""
    service = ScriptedService(scripts={"capture": [lost(works=True)], "status": [REJECTED_TOKEN]}, token_changes=True)

    capture = await call(service, "capture")

    assert capture.confirmed_by_status
    assert service.count("status") == 2


# --- reads ------------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_read_that_stalls_does_not_use_up_the_deadline() -> None:
    """Each attempt but the last may take half of the time that is left."""

    def stall(service: ScriptedService, sent: Sent) -> RawResponse:
        service.now += sent.within
        return lost()(service, sent)

    service = ScriptedService(scripts={"status": [stall]})

    status = await call(service, "status", timeout=10.0)

    assert status.state == "preauthorized"
    assert service.sent[0].within == 5.0
    assert service.now < scripted.START + 10.0


@pytest.mark.asyncio
async def test_the_last_read_may_take_what_is_left() -> None:
    """There is no other attempt to keep time for."""
    service = ScriptedService(scripts={"status": [lost()] * 9})

    with pytest.raises(ServiceError):
        await call(service, "status", timeout=10.0, max_attempts=2)

    assert [sent.within for sent in service.sent] == [5.0, 10.0 - service.slept[0]]


@pytest.mark.asyncio
async def test_a_read_that_is_rejected_is_not_repeated() -> None:
    """The API has answered."""
    service = ScriptedService(scripts={"status": [answer(404, FASTAPI[404])] * 9})

    with pytest.raises(NotFoundError):
        await call(service, "status")

    assert service.count("status") == 1


# --- preauthorizations ------------------------------------------------------------------------------------------------


def in_state(state: str) -> scripted.Act:
    return answer(200, {**PREAUTHORIZED, "transaction_state": state})


@pytest.mark.parametrize("state", ["requested", "initiated", "processing"])
@pytest.mark.asyncio
async def test_a_preauthorization_in_progress_is_accepted(state: str) -> None:
    """It is a result that is not final, and names its debit."""
    service = ScriptedService(scripts={"preauthorize": [in_state(state)]})

    reserved = await call(service, "preauthorize")

    assert (reserved.debit_id, reserved.state, reserved.final) == (DEBIT_ID, state, False)
    assert len(service.sent) == 1


@pytest.mark.parametrize(("state", "final"), [("preauthorized", True), ("processing", False)])
@pytest.mark.asyncio
async def test_a_preauthorization_in_an_unknown_state_is_resolved(state: str, *, final: bool) -> None:
    """The response named the debit, so its status says what became of it."""
    service = ScriptedService(scripts={"preauthorize": [in_state("pondering")]}, state=state)

    reserved = await call(service, "preauthorize")

    assert isinstance(reserved, Preauthorization)
    assert (reserved.debit_id, reserved.state, reserved.final) == (DEBIT_ID, state, final)
    assert service.count("preauthorize") == 1


@pytest.mark.asyncio
async def test_a_preauthorization_in_an_unknown_state_may_have_failed() -> None:
    """The error names the debit and the state."""
    service = ScriptedService(scripts={"preauthorize": [in_state("pondering")]}, state="failed")

    with pytest.raises(TransactionFailedError) as caught:
        await call(service, "preauthorize")

    assert caught.value.state == "failed"


@pytest.mark.parametrize("debit_id", [DEBIT_ID, "debit/123"])
@pytest.mark.asyncio
async def test_a_preauthorization_in_a_state_that_stays_unknown_names_its_debit(debit_id: str) -> None:
    """Where the status does not help, or can't be read for such an id, a person needs the debit."""
    odd = answer(200, {**PREAUTHORIZED, "transaction_state": "pondering", "debit_id": debit_id})
    service = ScriptedService(scripts={"preauthorize": [odd]}, state="pondering")

    with pytest.raises(OutcomeUnknownError) as caught:
        await call(service, "preauthorize", timeout=10.0)

    assert (caught.value.debit_id, caught.value.state) == (debit_id, "pondering")
    assert service.count("preauthorize") == 1


@pytest.mark.parametrize("code", [400, 401, 402, 403, 404, 405, 409, 410, 413, 415, 422])
@pytest.mark.asyncio
async def test_a_sure_rejection_of_a_preauthorization_is_believed_at_once(code: int) -> None:
    """There is no transaction yet whose status could contradict."""
    service = ScriptedService(scripts={"preauthorize": [answer(code, {"detail": "no"})]})

    with pytest.raises(APIError):
        await call(service, "preauthorize")

    assert len(service.sent) == 1


@pytest.mark.parametrize("code", [406, 408, 423, 424, 425, 451, 499])
@pytest.mark.parametrize("name", ["preauthorize", "capture"])
@pytest.mark.asyncio
async def test_another_4xx_leaves_the_outcome_unknown(name: str, code: int) -> None:
    """It may be said of a request that goes on: a preauthorization is unknown, a capture is resolved by its status."""
    service = ScriptedService(scripts={name: [answer(code, {"detail": "timeout"})]})

    with pytest.raises(OutcomeUnknownError, match=f"HTTP {code}"):
        await call(service, name, timeout=30.0)

    assert service.count(name) == 1


# --- cancellations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["paid", "completed", "failed"])
@pytest.mark.asyncio
async def test_a_cancellation_of_what_is_over_says_so(state: str) -> None:
    """The status was read, so the error has its state rather than the advice to read it."""
    service = ScriptedService(scripts={"cancel": [answer(409, {"detail": "no"})]}, state=state)

    with pytest.raises(TransactionFailedError) as caught:
        await call(service, "cancel")

    assert caught.value.state == state


@pytest.mark.asyncio
async def test_a_cancellation_that_conflicts_with_what_goes_on_is_a_conflict() -> None:
    """Once its time has passed, the rejection is believed."""
    service = ScriptedService(scripts={"cancel": [answer(409, {"detail": "no"})]}, state="processing")

    with pytest.raises(ConflictError):
        await call(service, "cancel")

    assert service.count("cancel") == 1


# --- the log ----------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_unknown_outcome_is_logged_for_an_operator(caplog: pytest.LogCaptureFixture) -> None:
    """As a warning with status, cause and debit in its text, and with fields for a structured log."""
    service = ScriptedService(scripts={"capture": [answer(502, {"detail": "bad gateway"})]}, state="pondering")
    with pytest.raises(OutcomeUnknownError) as caught:
        await call(service, "capture", timeout=10.0)

    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.message == f"outcome unknown: {caught.value}"
    assert "HTTP 502" in record.message
    assert "bad gateway" in record.message
    assert record.__dict__["operation"] == "capture"
    assert record.__dict__["debit_id"] == DEBIT_ID
    assert record.__dict__["reason"] == caught.value.reason


RESOLVES = "; next: read the transaction's status"
ATTEMPTS: list[tuple[str, scripted.Act, str]] = [
    (
        "lost",
        lost(ResolveBound.DIRECT),
        f"got no usable response (connection lost){RESOLVES}",
    ),
    (
        "503",
        answer(503, {"detail": "over\x1b[2Jload"}),
        rf"got no usable response (HTTP 503, which does not say what became of the request: over\x1b[2Jload){RESOLVES}",
    ),
    (
        "429",
        answer(429, {"detail": "slow down"}),
        "was rejected for now (the API answered 429: slow down; slow down); next: send again in 0.75 s",
    ),
]


@pytest.mark.parametrize(("act", "words"), [row[1:] for row in ATTEMPTS], ids=[row[0] for row in ATTEMPTS])
@pytest.mark.asyncio
async def test_an_attempt_without_a_result_is_logged(
    act: scripted.Act, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What happened, why, and what follows; what is quoted of the service is printable."""
    caplog.set_level(logging.INFO)
    service = ScriptedService(scripts={"capture": [act]})

    await call(service, "capture")

    record = caplog.records[0]
    assert record.message == f"capture {DEBIT_ID}: attempt 1 {words}"
    assert (record.__dict__["operation"], record.__dict__["debit_id"]) == ("capture", DEBIT_ID)
    assert record.__dict__["reason"] in record.message


@pytest.mark.asyncio
async def test_the_request_id_of_an_attempt_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It is what to ask the vendor about."""
    caplog.set_level(logging.INFO)

    def act(_: ScriptedService, sent: Sent) -> RawResponse:
        response = scripted.response(503, {"detail": "no"}, left_at=sent.at)
        response.headers = {"X-Request-ID": "req-7"}
        return response

    await call(ScriptedService(scripts={"capture": [act]}), "capture")

    assert "; request id req-7); next: " in caplog.records[0].message


@pytest.mark.asyncio
async def test_what_never_left_is_logged_as_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    """An operator sees that nothing was sent, and when it is tried again."""
    caplog.set_level(logging.INFO)
    service = ScriptedService(unreachable=True)

    with pytest.raises(Exception, match="nothing was sent"):
        await call(service, "capture")

    assert "attempt 1 was not sent (no connection); next: send again in 0.75 s" in caplog.records[0].message


def test_begin_starts_the_clock() -> None:
    """The deadline of a call counts from where it begins."""
    service = ScriptedService()
    client = executor(service)

    execution = begin(client, timeout=7.0)

    assert (execution.began, execution.deadline) == (scripted.START, scripted.START + 7.0)
    assert (client.now(), client.remaining(execution)) == (scripted.START, 7.0)
