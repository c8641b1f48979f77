"""What a status read proves, and when: the whole table, and the reads until one proves something."""

from __future__ import annotations

import math

import pytest

from jetpay_async import (
    ConfigurationError,
    ConflictError,
    OutcomeUnknownError,
    TransactionFailedError,
    TransactionState,
)
from jetpay_async._core.http import RawResponse, ResolveBound
from jetpay_async._core.operations import CANCEL, CAPTURE, PREAUTHORIZE, ApiOperation
from jetpay_async._core.resolve import Proof, prove
from tests.core import scripted
from tests.core.scripted import ScriptedService, Sent, answer, begin, executor, from_memory, lost, says
from tests.loopback import DEBIT_ID, FASTAPI

# --- the table ------------------------------------------------------------------------------------------------------

CERTAIN_FROM = 100.0
IN_TIME, TOO_EARLY, NEVER_LEFT = 100.0, 99.999, None
DONE, ACCEPTED, OVER, NOT_DONE, NOTHING = Proof

# The state that is read; what it proves where the read left in time, too early, and never; and where a state other than
# "not done" was seen before, again in time.
CAPTURE_PROOFS = [
    ("preauthorized", NOT_DONE, NOTHING, NOTHING, NOTHING),
    ("paid", DONE, DONE, NOTHING, DONE),
    ("completed", DONE, DONE, NOTHING, DONE),
    ("failed", OVER, OVER, NOTHING, OVER),
    ("cancelled", OVER, OVER, NOTHING, OVER),
    ("processing", ACCEPTED, ACCEPTED, NOTHING, ACCEPTED),
    ("requested", ACCEPTED, ACCEPTED, NOTHING, ACCEPTED),
    ("initiated", ACCEPTED, ACCEPTED, NOTHING, ACCEPTED),
    ("pondering", NOTHING, NOTHING, NOTHING, NOTHING),
]
CANCEL_PROOFS = [
    ("preauthorized", NOT_DONE, NOTHING, NOTHING, NOTHING),
    ("requested", NOT_DONE, NOTHING, NOTHING, NOTHING),
    ("initiated", NOT_DONE, NOTHING, NOTHING, NOTHING),
    ("cancelled", DONE, DONE, NOTHING, DONE),
    ("paid", OVER, OVER, NOTHING, OVER),
    ("completed", OVER, OVER, NOTHING, OVER),
    ("failed", OVER, OVER, NOTHING, OVER),
    ("processing", NOTHING, NOTHING, NOTHING, NOTHING),
    ("pondering", NOTHING, NOTHING, NOTHING, NOTHING),
]
PREAUTHORIZE_PROOFS = [
    ("preauthorized", DONE, DONE, NOTHING, DONE),
    ("paid", DONE, DONE, NOTHING, DONE),
    ("completed", DONE, DONE, NOTHING, DONE),
    ("failed", OVER, OVER, NOTHING, OVER),
    ("cancelled", OVER, OVER, NOTHING, OVER),
    ("processing", ACCEPTED, ACCEPTED, NOTHING, ACCEPTED),
    ("requested", ACCEPTED, ACCEPTED, NOTHING, ACCEPTED),
    ("initiated", ACCEPTED, ACCEPTED, NOTHING, ACCEPTED),
    ("pondering", NOTHING, NOTHING, NOTHING, NOTHING),
]
Row = tuple[ApiOperation[object], str, float | None, str | None, Proof]
ROWS: list[Row] = [
    (operation, state, true_at, seen, proof)  # type: ignore[misc] # whatever their results are
    for operation, proofs in ((CAPTURE, CAPTURE_PROOFS), (CANCEL, CANCEL_PROOFS), (PREAUTHORIZE, PREAUTHORIZE_PROOFS))
    for state, *expected in proofs
    for (true_at, seen), proof in zip(
        ((IN_TIME, None), (TOO_EARLY, None), (NEVER_LEFT, None), (IN_TIME, "processing")), expected, strict=True
    )
]


def named(row: Row) -> str:
    operation, state, true_at, seen, _ = row
    when = {IN_TIME: "in time", TOO_EARLY: "too early", NEVER_LEFT: "never left"}[true_at]
    return f"{operation.name}, {state} {when}{f' after {seen}' if seen else ''}"


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_what_a_status_proves(row: Row) -> None:
    """Only states that mean done prove "done"; "not done" needs a fresh read, in time, that nothing belies."""
    operation, state, true_at, seen, proof = row
    assert operation.states is not None

    assert (
        prove(
            operation.states,
            TransactionState(state),
            true_at=true_at,
            certain_from=CERTAIN_FROM,
            seen_state=None if seen is None else TransactionState(seen),
        )
        is proof
    )


def test_the_table_is_complete() -> None:
    """Each state that this release knows, and one that it does not, has its row for each operation."""
    states = {*map(str, TransactionState), "pondering"}

    for proofs in (CAPTURE_PROOFS, CANCEL_PROOFS, PREAUTHORIZE_PROOFS):
        assert {state for state, *_ in proofs} == states


@pytest.mark.parametrize(
    ("state", "proof"),
    [
        ("requested", NOTHING),
        ("initiated", NOTHING),
        ("processing", NOTHING),
        ("paid", DONE),
        ("failed", OVER),
        ("preauthorized", NOT_DONE),
    ],
)
def test_a_debit_that_nobody_asked_to_capture_is_not_in_progress(state: str, proof: Proof) -> None:
    """States that come before "preauthorized", too, show no capture where no request was made."""
    assert CAPTURE.states is not None

    found = prove(CAPTURE.states, TransactionState(state), true_at=1.0, certain_from=-math.inf, requested=False)

    assert found is proof


# --- the reads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "seconds"), [(ResolveBound.DIRECT, 5.0), (ResolveBound.TIMEOUT, 60.0)], ids=["direct", "timeout"]
)
@pytest.mark.asyncio
async def test_a_capture_is_sent_again_only_after_the_time_of_its_attempt(bound: ResolveBound, seconds: float) -> None:
    """The short time holds only where the other side lost a direct connection; a status read earlier sends nothing."""
    service = ScriptedService(scripts={"capture": [lost(bound)]})

    capture = await executor(service).execute(begin(executor(service)))

    assert (capture.attempts, capture.confirmed_by_status) == (2, False)
    assert [sent.at - scripted.START for sent in service.sent if sent.route == "capture"] == [0.0, seconds]
    assert [sent.at for sent in service.sent if sent.route == "status"][-1] == scripted.START + seconds


@pytest.mark.asyncio
async def test_the_latest_time_of_several_attempts_counts() -> None:
    """An attempt with the short time does not shorten that of an earlier one with the long time."""
    service = ScriptedService(scripts={"capture": [lost(), lost(ResolveBound.DIRECT)]})
    client = executor(service)
    execution = begin(client, timeout=1000.0)
    execution.mark_in_doubt(client.now() + 300.0)

    capture = await client.execute(execution)

    assert capture.attempts == 3
    assert [sent.at - scripted.START for sent in service.sent if sent.route == "capture"] == [300.0, 360.0, 365.0]


@pytest.mark.asyncio
async def test_a_call_that_can_not_wait_so_long_ends_as_unknown_at_its_deadline() -> None:
    """The time is longer than the call: it ends as unknown, having read the status to the end, and sent nothing."""
    unknown: list[OutcomeUnknownError] = []
    service = ScriptedService(scripts={"capture": [lost(seconds=20.0)]})
    client = executor(service, unknown)
    execution = begin(client, timeout=30.0)

    with pytest.raises(OutcomeUnknownError, match="connection lost") as caught:
        await client.execute(execution)

    assert unknown == [caught.value]
    assert caught.value.state == "preauthorized"
    assert service.count("capture") == 1
    assert service.now <= scripted.START + 30.0
    assert (execution.in_doubt, execution.certain_from) == (True, scripted.START + 80.0)


@pytest.mark.parametrize("state", ["processing", "initiated", "requested", "paid"])
@pytest.mark.asyncio
async def test_a_status_that_goes_back_sends_nothing(state: str) -> None:
    """What was seen once ends sending, also if a replica that lags behind says "preauthorized" later."""
    service = ScriptedService(scripts={"capture": [lost()]})
    client = executor(service)
    execution = begin(client, timeout=300.0)
    execution.mark_in_doubt(-math.inf)
    execution.seen_state = TransactionState(state)

    with pytest.raises(OutcomeUnknownError) as caught:
        await client.execute(execution)

    assert caught.value.state == "preauthorized"
    assert service.count("capture") == 0


@pytest.mark.asyncio
async def test_an_unknown_state_seen_once_ends_sending() -> None:
    """Nobody knows what it means, so it may mean that the capture is under way."""
    service = ScriptedService(scripts={"capture": [lost()], "status": [says("pondering")]})
    client = executor(service)
    execution = begin(client, timeout=300.0)

    with pytest.raises(OutcomeUnknownError):
        await client.execute(execution)

    assert execution.seen_state == "pondering"
    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_a_status_from_memory_proves_nothing() -> None:
    """A read that something in this process answered was true at some time, and says nothing of now."""
    service = ScriptedService(scripts={"capture": [lost()], "status": [from_memory("preauthorized")] * 100})
    client = executor(service)

    with pytest.raises(OutcomeUnknownError):
        await client.execute(begin(client, timeout=90.0))

    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_a_status_from_a_cache_is_as_old_as_it_says() -> None:
    """What a response spent in caches is subtracted from the time of asking."""
    old = says("preauthorized", age=4.0)
    service = ScriptedService(scripts={"capture": [lost(ResolveBound.DIRECT)], "status": [old] * 100})
    client = executor(service)

    capture = await client.execute(begin(client))

    assert capture.attempts == 2
    assert [sent.at - scripted.START for sent in service.sent if sent.route == "capture"][1] >= 9.0


@pytest.mark.asyncio
async def test_a_momentary_404_of_the_status_is_read_again() -> None:
    """A replica that does not know the debit yet costs a pause, not the outcome."""
    missing = answer(404, FASTAPI[404])
    service = ScriptedService(scripts={"capture": [lost(works=True)], "status": [missing, missing]})
    client = executor(service)

    capture = await client.execute(begin(client, timeout=8.0))

    assert capture.confirmed_by_status
    assert service.count("status") == 3


@pytest.mark.parametrize("code", [400, 401, 403, 422])
@pytest.mark.asyncio
async def test_a_lasting_rejection_of_the_status_ends_the_reads(code: int) -> None:
    """What will be said again is not asked again: the outcome is unknown at once, because of that."""
    service = ScriptedService(scripts={"capture": [lost()], "status": [answer(code, {"detail": "no"})] * 9})
    client = executor(service)

    with pytest.raises(OutcomeUnknownError, match=f"the status can't be read: the API answered {code}: no") as caught:
        await client.execute(begin(client))

    assert service.count("status") == 1
    assert caught.value.__cause__ is not None


@pytest.mark.asyncio
async def test_a_read_that_stalls_is_not_the_last_one() -> None:
    """Each read takes at most half of the time that is left."""

    def stall(service: ScriptedService, sent: Sent) -> RawResponse:
        service.now += sent.within
        return lost()(service, sent)

    service = ScriptedService(scripts={"capture": [lost(works=True)], "status": [stall, stall]})
    client = executor(service)

    capture = await client.execute(begin(client, timeout=20.0))

    assert capture.confirmed_by_status
    assert next(sent.within for sent in service.sent if sent.route == "status") == 10.0


# --- rejections -----------------------------------------------------------------------------------------------------

IN_PROGRESS = answer(409, {"detail": "a capture of this debit is in progress"})


@pytest.mark.asyncio
async def test_a_conflict_is_believed_once_its_time_has_passed() -> None:
    """A 409 may be about a request that is being worked on: the status is read for `resolve_after`, nothing is sent."""
    service = ScriptedService(scripts={"capture": [IN_PROGRESS]})
    client = executor(service)

    with pytest.raises(ConflictError):
        await client.execute(begin(client))

    assert service.count("capture") == 1
    assert [sent.at - scripted.START for sent in service.sent][-1] == 5.0


@pytest.mark.parametrize(
    "unreadable",
    [answer(403, FASTAPI[403]), answer(404, FASTAPI[404]), from_memory("paid")],
    ids=["403", "404", "memory"],
)
@pytest.mark.asyncio
async def test_a_conflict_is_believed_after_its_time_if_the_status_does_not_tell(unreadable: scripted.Act) -> None:
    """Nothing of ours is unanswered, so a status that can't be read leaves the conflict as it is."""
    service = ScriptedService(scripts={"capture": [IN_PROGRESS], "status": [unreadable] * 99})
    client = executor(service)

    with pytest.raises(ConflictError):
        await client.execute(begin(client))

    assert scripted.START + 5.0 <= service.now < scripted.START + 10.0


@pytest.mark.asyncio
async def test_a_conflict_before_its_time_is_unknown() -> None:
    """Where the deadline comes first, nobody can say yet."""
    service = ScriptedService(scripts={"capture": [IN_PROGRESS]})
    client = executor(service)
    execution = begin(client, timeout=3.0)

    with pytest.raises(OutcomeUnknownError, match="a capture of this debit is in progress"):
        await client.execute(execution)

    assert (execution.in_doubt, execution.certain_from) == (True, scripted.START + 5.0)


@pytest.mark.parametrize(
    ("states", "reported"),
    [
        (["preauthorized", "paid"], "paid"),
        (["preauthorized", "processing"], "processing"),
        (["pondering", "completed"], "completed"),
    ],
    ids=str,
)
@pytest.mark.asyncio
async def test_a_conflict_with_a_capture_that_is_done_is_success(states: list[str], reported: str) -> None:
    """Whoever captured the debit: its state is the result."""
    service = ScriptedService(scripts={"capture": [IN_PROGRESS], "status": [says(state) for state in states]})
    client = executor(service)

    capture = await client.execute(begin(client))

    assert (capture.state, capture.confirmed_by_status, capture.final) == (reported, True, reported != "processing")


@pytest.mark.parametrize("code", [400, 404, 405, 409, 410, 422])
@pytest.mark.parametrize("state", ["failed", "cancelled"])
@pytest.mark.asyncio
async def test_a_rejection_because_the_debit_is_over_says_so(state: str, code: int) -> None:
    """The status was read, so the error has its state and its reason."""
    over = answer(200, {"state": state, "fail_reason": "account_frozen", "fail_direction": "pull"})
    service = ScriptedService(scripts={"capture": [answer(code, {"detail": "no"})], "status": [over]})
    client = executor(service)

    with pytest.raises(TransactionFailedError, match="account_frozen") as caught:
        await client.execute(begin(client))

    assert (caught.value.state, caught.value.fail_reason, caught.value.fail_direction) == (
        state,
        "account_frozen",
        "pull",
    )


@pytest.mark.parametrize("code", [400, 422])
@pytest.mark.parametrize(
    "read", [lost(), answer(404, FASTAPI[404]), says("requested")], ids=["lost", "404", "requested"]
)
@pytest.mark.asyncio
async def test_a_rejection_stands_where_the_status_does_not_contradict(code: int, read: scripted.Act) -> None:
    """Nothing of ours is unanswered: this request took nothing, whether the status can be read or not."""
    service = ScriptedService(scripts={"capture": [answer(code, {"detail": "no"})], "status": [read] * 99})
    client = executor(service)

    with pytest.raises(Exception, match=f"the API answered {code}: no"):
        await client.execute(begin(client))

    assert service.count("capture") == 1
    assert service.count("status") <= scripted.POLICY.max_attempts


@pytest.mark.parametrize("code", [400, 404, 409, 422])
@pytest.mark.asyncio
async def test_a_rejection_after_an_unanswered_request_needs_proof(code: int) -> None:
    """An earlier request of ours may be why this one was rejected: as long as the status can't tell, it is unknown."""
    service = ScriptedService(
        scripts={
            "capture": [lost(ResolveBound.DIRECT), answer(code, {"detail": "no"})],
            "status": [*[says("preauthorized")] * 5, *[lost()] * 999],
        }
    )
    client = executor(service)
    execution = begin(client)

    with pytest.raises(OutcomeUnknownError, match=f"the API answered {code}"):
        await client.execute(execution)

    assert execution.in_doubt
    assert service.count("capture") == 2


@pytest.mark.parametrize("code", [400, 404, 409, 422])
@pytest.mark.asyncio
async def test_a_rejection_after_a_request_that_is_proven_undone_stands(code: int) -> None:
    """Both requests did nothing, as the status proves: the rejection is the outcome."""
    service = ScriptedService(scripts={"capture": [lost(ResolveBound.DIRECT), answer(code, {"detail": "no"})]})
    client = executor(service)

    with pytest.raises(Exception, match=f"the API answered {code}: no"):
        await client.execute(begin(client))

    assert service.captures == 0


# --- what is accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["requested", "initiated", "processing"])
@pytest.mark.asyncio
async def test_an_accepted_capture_is_returned_at_once(state: str) -> None:
    """A capture in progress is a result that is not final, and no status is read."""
    service = ScriptedService(scripts={"capture": [answer(200, {"identifier": DEBIT_ID, "state": state})]})
    client = executor(service)

    capture = await client.execute(begin(client))

    assert (capture.state, capture.final) == (state, False)
    assert service.count("status") == 0


@pytest.mark.parametrize("state", ["requested", "initiated", "processing"])
@pytest.mark.asyncio
async def test_a_status_can_say_that_a_capture_is_accepted(state: str) -> None:
    """A capture whose response was lost is accepted if its status says that it is in progress."""
    service = ScriptedService(scripts={"capture": [lost()], "status": [says(state)]})
    client = executor(service)

    capture = await client.execute(begin(client))

    assert (capture.state, capture.final, capture.confirmed_by_status) == (state, False, True)
    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_an_accepted_capture_is_followed_until_it_is_final() -> None:
    """With `wait_until_final`, the status is read until it says that the capture is done."""
    accepted = answer(200, {"identifier": DEBIT_ID, "state": "processing"})
    reads = [says("processing"), lost(), says("preauthorized"), says("pondering"), says("completed")]
    service = ScriptedService(scripts={"capture": [accepted], "status": reads})
    client = executor(service)

    capture = await client.execute(begin(client, wait_until_final=True))

    assert (capture.state, capture.final, capture.confirmed_by_status) == ("completed", True, True)
    assert (service.count("capture"), service.count("status")) == (1, 5)


@pytest.mark.asyncio
async def test_an_accepted_capture_that_fails_is_an_error() -> None:
    """Followed, it may turn out to have failed."""
    accepted = answer(200, {"identifier": DEBIT_ID, "state": "processing"})
    service = ScriptedService(scripts={"capture": [accepted], "status": [says("processing"), says("failed")]})
    client = executor(service)

    with pytest.raises(TransactionFailedError):
        await client.execute(begin(client, wait_until_final=True))


@pytest.mark.parametrize(
    ("read", "confirmed"),
    [(says("processing"), True), (lost(), False), (answer(403, FASTAPI[403]), False)],
    ids=["read", "lost", "403"],
)
@pytest.mark.asyncio
async def test_an_accepted_capture_stays_accepted_at_the_deadline(read: scripted.Act, *, confirmed: bool) -> None:
    """It is known to be accepted, however little the status says until then."""
    accepted = answer(200, {"identifier": DEBIT_ID, "state": "processing"})
    service = ScriptedService(scripts={"capture": [accepted], "status": [read] * 99})
    client = executor(service)

    capture = await client.execute(begin(client, timeout=30.0, wait_until_final=True))

    assert (capture.state, capture.final, capture.confirmed_by_status) == ("processing", False, confirmed)
    assert service.now <= scripted.START + 30.0


@pytest.mark.asyncio
async def test_a_final_capture_is_not_followed() -> None:
    """`wait_until_final` costs nothing where there is nothing to wait for."""
    service = ScriptedService()
    client = executor(service)

    capture = await client.execute(begin(client, wait_until_final=True))

    assert capture.final
    assert service.count("status") == 0


@pytest.mark.parametrize("state", ["declined", "error", "expired", "pondering"])
@pytest.mark.asyncio
async def test_an_unknown_state_of_a_capture_is_resolved_by_the_status(state: str) -> None:
    """A 200 in a state that nobody knows is no success: the status decides, and nothing is sent again."""
    odd = answer(200, {"identifier": DEBIT_ID, "state": state})
    service = ScriptedService(
        scripts={"capture": [odd], "status": [says(state), says("preauthorized"), says("failed")]}
    )
    client = executor(service)

    with pytest.raises(TransactionFailedError):
        await client.execute(begin(client, timeout=300.0))

    assert service.count("capture") == 1


@pytest.mark.parametrize("later", ["declined", "preauthorized"])
@pytest.mark.asyncio
async def test_an_unknown_state_that_stays_is_an_unknown_outcome(later: str) -> None:
    """If the status does not help, nobody knows; "preauthorized" is no proof any more."""
    odd = answer(200, {"identifier": DEBIT_ID, "state": "declined"})
    service = ScriptedService(scripts={"capture": [odd], "status": [says(later)] * 999})
    client = executor(service)

    with pytest.raises(OutcomeUnknownError, match="the transaction is declined") as caught:
        await client.execute(begin(client, timeout=300.0))

    assert caught.value.state == later
    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_a_client_that_is_closed_meanwhile_leaves_it_unknown() -> None:
    """A read that can't be made at all is a reason to stop reading."""

    def closed(_: ScriptedService, __: Sent) -> RawResponse:
        raise ConfigurationError("the client is closed; make a new one")

    service = ScriptedService(scripts={"capture": [lost()], "status": [closed]})
    client = executor(service)

    with pytest.raises(OutcomeUnknownError, match="the client is closed"):
        await client.execute(begin(client))


def test_no_mark_without_a_time() -> None:
    """An execution is marked in doubt with the time from which its status can be believed; the latest counts."""
    execution = begin(executor(ScriptedService()))

    execution.mark_in_doubt(20.0)
    execution.mark_in_doubt(10.0)

    assert (execution.in_doubt, execution.unanswered, execution.certain_from) == (True, True, 20.0)
