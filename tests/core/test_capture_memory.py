"""What a client knows of a debit decides what its next capture sends."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest

from jetpay_async import (
    Capture,
    ConfigurationError,
    JetpayClient,
    NotSentError,
    OutcomeUnknownError,
    RateLimitedError,
    TransactionFailedError,
    TransactionState,
)
from jetpay_async._core import single_flight
from jetpay_async._core.single_flight import CAPTURED_LIMIT, SingleFlight, _put_last
from tests.core import scripted
from tests.core.scripted import ScriptedService, answer, begin, executor, lost, says
from tests.loopback import DEBIT_ID, FASTAPI, Loopback
from tests.network import FAST, TOKEN

ACCEPTED = answer(200, {"identifier": DEBIT_ID, "state": "processing"})


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.fixture
def captures(service: ScriptedService) -> SingleFlight:
    return SingleFlight(executor(service))


def again(service: ScriptedService, captures: SingleFlight, **options: float) -> asyncio.Task[Capture]:
    """Capture the debit, in a call of its own."""
    execution = begin(captures._executor, **options)  # type: ignore[arg-type] # the timeout
    return asyncio.ensure_future(captures.capture(execution))


@pytest.mark.asyncio
async def test_a_captured_debit_is_not_sent_again_on_a_status_that_lags(
    service: ScriptedService, captures: SingleFlight
) -> None:
    """The client itself was told "paid": a replica that still says "preauthorized" sends nothing, now or in an hour."""
    first = await again(service, captures)
    service.now += 3600.0
    service.scripts["status"] = [says("preauthorized")] * 3

    second = await again(service, captures)

    assert (first.confirmed_by_status, second.confirmed_by_status) == (False, True)
    assert second.attempts == 0
    assert (service.captures, service.count("capture"), service.count("status")) == (1, 1, 4)


@pytest.mark.asyncio
async def test_a_captured_debit_whose_status_does_not_tell_is_unknown(
    service: ScriptedService, captures: SingleFlight
) -> None:
    """It may have failed since, so nothing is claimed; and it stays known that nothing is to be sent."""
    await again(service, captures)
    service.scripts["status"] = [says("preauthorized")] * 999

    for _ in range(2):
        with pytest.raises(OutcomeUnknownError, match=r"this client has captured the debit before.*was paid"):
            await again(service, captures, timeout=30.0)

    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_a_captured_debit_may_fail_later(service: ScriptedService, captures: SingleFlight) -> None:
    """What the API told first is not the last that it tells."""
    await again(service, captures)
    service.state = "failed"

    with pytest.raises(TransactionFailedError):
        await again(service, captures)

    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_a_captured_debit_on_a_closed_client_is_a_matter_of_the_client() -> None:
    """Nothing of it is unknown: the error says that the client is closed."""
    async with Loopback().listen() as server:
        client = JetpayClient(TOKEN, base_url=server.url, retry=FAST)
        await client.capture(DEBIT_ID)
        await client.aclose()

        with pytest.raises(ConfigurationError, match="the client is closed"):
            await client.capture(DEBIT_ID)


@pytest.mark.parametrize("state", ["preauthorized", "pondering"])
@pytest.mark.asyncio
async def test_an_accepted_debit_is_never_sent_again(
    state: str, service: ScriptedService, captures: SingleFlight
) -> None:
    """Whatever a status says later, the API has accepted the capture."""
    service.scripts["capture"] = [ACCEPTED]
    accepted = await again(service, captures)
    service.scripts["status"] = [says(state)] * 999

    with pytest.raises(OutcomeUnknownError):
        await again(service, captures, timeout=1000.0)

    assert not accepted.final
    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_an_accepted_debit_is_found_captured_later(service: ScriptedService, captures: SingleFlight) -> None:
    """The next capture of an accepted debit reads its status, which tells how it ended."""
    service.scripts["capture"] = [ACCEPTED]
    await again(service, captures)
    service.state = "completed"

    capture = await again(service, captures)

    assert (capture.state, capture.final, capture.confirmed_by_status) == ("completed", True, True)
    assert service.count("capture") == 1


@pytest.mark.parametrize("seen", ["processing", "pondering"])
@pytest.mark.asyncio
async def test_a_state_that_was_seen_is_remembered(seen: str, service: ScriptedService, captures: SingleFlight) -> None:
    """A call that ended as unknown leaves what it saw to the next one, which sends nothing on "preauthorized"."""
    odd = answer(200, {"identifier": DEBIT_ID, "state": "pondering"})
    service.scripts = {"capture": [odd], "status": [says("pondering")] * 999}
    with pytest.raises(OutcomeUnknownError):
        await again(service, captures, timeout=30.0)
    service.scripts["status"] = [says("preauthorized")] * 999

    with pytest.raises(OutcomeUnknownError):
        await again(service, captures, timeout=1000.0)

    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_the_next_call_waits_for_what_is_left_of_the_time(
    service: ScriptedService, captures: SingleFlight
) -> None:
    """A call that can't wait so long ends as unknown; the next one goes on where it stood, and finishes it."""
    service.scripts["capture"] = [lost(seconds=20.0)]
    with pytest.raises(OutcomeUnknownError):
        await again(service, captures, timeout=30.0)
    service.now = scripted.START + 70.0

    capture = await again(service, captures, timeout=30.0)

    assert (capture.attempts, service.captures) == (1, 1)
    assert [sent.at - scripted.START for sent in service.sent if sent.route == "capture"] == [0.0, 80.0]


@pytest.mark.asyncio
async def test_a_resolution_learns_from_what_the_client_knows(service: ScriptedService, captures: SingleFlight) -> None:
    """A ledger that resolves a debit which this client has captured is not told that nothing was done."""
    await again(service, captures)
    service.scripts["status"] = [says("preauthorized")] * 999
    execution = begin(captures._executor, timeout=30.0)
    execution.mark_in_doubt(scripted.START)

    with pytest.raises(OutcomeUnknownError):
        await captures.resolve(execution)

    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_a_resolution_that_proves_nothing_done_is_forgotten(
    service: ScriptedService, captures: SingleFlight
) -> None:
    """What a resolution proves ends what the client remembers: the next capture is sent at once."""
    service.scripts["capture"] = [lost(seconds=20.0)]
    with pytest.raises(OutcomeUnknownError):
        await again(service, captures, timeout=30.0)
    execution = begin(captures._executor, timeout=200.0)
    execution.mark_in_doubt(scripted.START)

    assert await captures.resolve(execution) is None
    service.sent.clear()
    await again(service, captures)

    assert [sent.route for sent in service.sent] == ["capture"]


@pytest.mark.asyncio
async def test_a_resolution_that_fails_keeps_what_was_seen(service: ScriptedService, captures: SingleFlight) -> None:
    """What a resolution saw and could not prove is remembered, if the client knew the debit to be in doubt."""
    service.scripts["capture"] = [lost(seconds=20.0)]
    with pytest.raises(OutcomeUnknownError):
        await again(service, captures, timeout=30.0)
    execution = begin(captures._executor, timeout=30.0)
    execution.mark_in_doubt(scripted.START)
    service.scripts["status"] = [says("pondering")] * 999

    with pytest.raises(OutcomeUnknownError):
        await captures.resolve(execution)

    assert captures._unresolved[DEBIT_ID].seen_state == "pondering"


@pytest.mark.asyncio
async def test_a_resolution_of_what_another_run_sent_is_remembered(
    service: ScriptedService, captures: SingleFlight
) -> None:
    """What a ledger left unknown is in doubt for the client: its next capture reads the status first."""
    execution = begin(captures._executor, timeout=30.0)
    execution.mark_in_doubt(scripted.START)
    service.scripts["status"] = [lost()] * 999
    with pytest.raises(OutcomeUnknownError) as caught:
        await captures.resolve(execution)
    assert "calling capture() again on the same client does that first" in caught.value.next_step
    service.scripts["status"] = [says("paid")]

    captured = await again(service, captures)

    assert captured.confirmed_by_status
    assert service.count("capture") == 0


@pytest.mark.asyncio
async def test_a_resolution_of_what_is_over_is_forgotten(service: ScriptedService, captures: SingleFlight) -> None:
    """A debit that has failed is in doubt no more."""
    service.scripts["capture"] = [lost(seconds=20.0)]
    with pytest.raises(OutcomeUnknownError):
        await again(service, captures, timeout=30.0)
    execution = begin(captures._executor)
    execution.mark_in_doubt(scripted.START)
    service.state = "failed"

    with pytest.raises(TransactionFailedError):
        await captures.resolve(execution)

    assert captures._unresolved == {}


@pytest.mark.asyncio
async def test_a_429_that_is_not_trusted_stays_in_doubt(service: ScriptedService, captures: SingleFlight) -> None:
    """With `resend_rate_limited=False` it may have been processed: the next capture reads the status first."""
    service.scripts["capture"] = [answer(429, FASTAPI[429])]
    execution = begin(captures._executor, retry=scripted.CAREFUL)
    with pytest.raises(RateLimitedError):
        await captures.capture(execution)

    service.sent.clear()
    await again(service, captures)

    assert service.sent[0].route == "status"


@pytest.mark.asyncio
async def test_what_never_left_is_not_remembered(service: ScriptedService, captures: SingleFlight) -> None:
    """Calling again is safe, and sends at once."""
    service.unreachable = True
    execution = begin(captures._executor)
    with pytest.raises(NotSentError):
        await captures.capture(execution)

    assert (captures._unresolved, captures._captured) == ({}, {})


@pytest.mark.asyncio
async def test_captured_debits_are_forgotten_from_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that captures without end does not grow without end."""
    monkeypatch.setattr(single_flight, "CAPTURED_LIMIT", 2)
    async with Loopback().listen() as server, JetpayClient(TOKEN, base_url=server.url, retry=FAST) as client:
        for name in ("debit_1", "debit_2", "debit_1", "debit_3"):
            await client.capture(name)

        assert client._single_flight._captured == {
            "debit_1": TransactionState.PAID,
            "debit_3": TransactionState.PAID,
        }


# --- who waits for an accepted capture --------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_who_does_not_wait_gets_the_accepted_capture_at_once() -> None:
    """Of those who share a request, only those who asked for it wait until the capture is final."""
    server = Loopback()
    finished = asyncio.Event()

    async def accept(exchange: object) -> None:
        await server_reply(exchange, {"identifier": DEBIT_ID, "state": "processing"})

    async def progress(exchange: object) -> None:
        await server_reply(exchange, {"state": "paid" if finished.is_set() else "processing"})

    async def server_reply(exchange: object, document: dict[str, str]) -> None:
        await exchange.reply(200, document)  # type: ignore[attr-defined] # an Exchange

    server.scripts = {"capture": [accept], "status": [progress] * 9999}
    async with server.listen(), JetpayClient(TOKEN, base_url=server.url, timeout=30, retry=FAST) as client:
        waiting = [asyncio.create_task(client.capture(DEBIT_ID, wait_until_final=True)) for _ in range(2)]
        early = asyncio.create_task(client.capture(DEBIT_ID))
        accepted = await early
        late = await client.capture(DEBIT_ID)
        still_waiting = [task.done() for task in waiting]
        finished.set()
        final = await asyncio.gather(*waiting)

    assert (accepted.state, late.state) == ("processing", "processing")
    assert still_waiting == [False, False]
    assert {capture.state for capture in final} == {"paid"}
    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_who_waits_later_follows_the_accepted_capture(service: ScriptedService, captures: SingleFlight) -> None:
    """A capture that was returned as accepted can be waited for by the next call."""
    service.scripts = {"capture": [ACCEPTED], "status": [says("processing"), says("processing"), says("paid")]}
    await again(service, captures)

    capture = await captures.capture(begin(captures._executor, wait_until_final=True))

    assert capture.final
    assert service.count("capture") == 1


@pytest.mark.asyncio
async def test_a_cancelled_wait_for_an_accepted_capture_is_reported() -> None:
    """Whoever breaks off the wait has no result: it is reported with its state, and not sent again."""
    unknown: list[OutcomeUnknownError] = []
    waiting = asyncio.Event()
    service = ScriptedService(scripts={"capture": [ACCEPTED], "status": [says("processing")] * 99})

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    client = executor(service, unknown)
    client._clock = client._resolver._clock = scripted.Clock(monotonic=lambda: service.now, sleep=sleep)
    captures = SingleFlight(client)
    task = asyncio.ensure_future(captures.capture(begin(client, wait_until_final=True)))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [error.state for error in unknown] == ["processing"]
    assert captures._unresolved[DEBIT_ID].seen_state == "processing"


def test_the_latest_are_remembered() -> None:
    """As many as the limit says, and a twentieth more at most; the one that came again is one of the latest."""
    known: dict[str, int] = {}
    for number in range(1_000):
        _put_last(known, f"debit_{number}", number, 100)
        _put_last(known, "debit_0", number, 100)
        latest = [f"debit_{earlier}" for earlier in range(max(0, number - 98), number + 1)]

        assert {"debit_0", *latest} <= known.keys()
        assert len(known) <= 105
        assert next(reversed(known)) == "debit_0"

    assert known["debit_0"] == 999


def test_a_remembered_debit_takes_little_memory() -> None:
    """Its key, and a place in a dictionary: 150 bytes at most."""
    known: dict[str, TransactionState] = {}
    tracemalloc.start()
    try:
        for number in range(2 * CAPTURED_LIMIT):
            _put_last(known, f"{number:032x}", TransactionState.PAID, CAPTURED_LIMIT)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(known) >= CAPTURED_LIMIT
    assert size / len(known) < 150
