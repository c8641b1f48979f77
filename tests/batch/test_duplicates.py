"""An id that is given twice is captured once and reported twice, also where its status lags behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest

from jetpay_async import Captured, CaptureOutcome, JetpayClient, NotSent, OutcomeUnknownError, Rejected, Unknown
from jetpay_async._batch import capture_history
from jetpay_async._batch.bloom_filter import BloomFilter
from jetpay_async._core import single_flight
from jetpay_async.sandbox import Fault, FaultKind
from tests.batch.consumers import capture, take_all
from tests.loopback import FASTAPI, replies
from tests.network import SLOW
from tests.recording_server import Always, RecordingServer, connect, debits, until
from tests.sandboxed import LAGGING_STATUS, reserve, reserve_many, sandboxed


async def in_order(client: JetpayClient, ids: Iterable[str], *, concurrency: int = 1) -> list[CaptureOutcome]:
    return [each async for each in client.capture_many(ids, concurrency=concurrency, ordered=True)]


def narrow(client: JetpayClient) -> Callable[[CaptureOutcome], None]:
    """Make a hook that lets only one item be in flight from the first outcome on."""

    def on_outcome(_: CaptureOutcome) -> None:
        for pool in client._pools:
            pool._admission.limiter.limit = pool._admission.limiter.maximum = 1

    return on_outcome


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the answers of the latest capture alone, or of two."""
    monkeypatch.setattr(capture_history, "RECENT_CAPTURES", 1)


@pytest.mark.asyncio
async def test_an_id_given_twice_at_once_is_captured_once() -> None:
    """Those under way share one request, and each is reported."""
    release = asyncio.Event()
    server = RecordingServer(held={"debit_1": release})
    async with server.listen(), connect(server) as client:
        taking = asyncio.create_task(in_order(client, ["debit_1"] * 20, concurrency=20))
        await server.arrived.wait()
        release.set()
        outcomes = await taking

    assert [type(outcome) for outcome in outcomes] == [Captured] * 20
    assert server.carried_out == {"debit_1": 1}
    assert server.count("capture") == 1


@pytest.mark.asyncio
async def test_an_id_given_again_has_the_same_answer() -> None:
    """What this batch knows is an answer: nothing is sent, and no status is read, which may lag behind."""
    async with sandboxed(LAGGING_STATUS) as (sandbox, client):
        debit_id = await reserve(sandbox, client)
        first, second = await in_order(client, [debit_id] * 2)

        assert sandbox.debit(debit_id).captures == sandbox.requests("capture") == 1
        assert sandbox.requests("status") == 0
    assert isinstance(first, Captured)
    assert isinstance(second, Captured)
    assert second.capture is first.capture


@pytest.mark.asyncio
async def test_a_duplicate_that_waits_for_its_turn_has_the_same_answer() -> None:
    """Also where the first was captured while it waited."""
    release = asyncio.Event()
    server = RecordingServer(held={"debit_1": release})
    async with server.listen(), connect(server) as client:
        ids = ["debit_0", "debit_1", "debit_1"]
        taking = asyncio.create_task(take_all(client.capture_many(ids, concurrency=2, on_outcome=narrow(client))))
        await until(lambda: client._pools and len(next(iter(client._pools))._admission.waiting) == 1)
        release.set()
        outcomes = await taking

    assert [type(outcome) for outcome in outcomes] == [Captured] * 3
    assert server.carried_out == {"debit_0": 1, "debit_1": 1}
    assert server.count("status") == 0


@pytest.mark.usefixtures("forgetful")
@pytest.mark.asyncio
async def test_an_id_given_again_much_later_is_captured_once() -> None:
    """Its answer is forgotten, and the service would take the money again: its status is read first."""
    async with RecordingServer().listen() as server, connect(server) as client:
        ids = ["debit_0", *debits(200), "debit_0", "debit_7"]
        outcomes = await in_order(client, ids, concurrency=4)

    assert [outcome.debit_id for outcome in outcomes] == ids
    assert all(isinstance(outcome, Captured) for outcome in outcomes)
    assert server.twice == []
    assert server.count("capture") == 200
    assert [outcome.confirmed_by_status for outcome in outcomes[-2:] if isinstance(outcome, Captured)] == [True, True]


@pytest.mark.usefixtures("forgetful")
@pytest.mark.asyncio
async def test_another_spelling_of_an_id_is_the_same_debit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also much later, when the client itself has forgotten the debit."""
    monkeypatch.setattr(single_flight, "CAPTURED_LIMIT", 1)
    async with sandboxed(LAGGING_STATUS, retry=SLOW) as (sandbox, client):
        ids = await reserve_many(sandbox, client, 10)
        spellings = [ids[0].upper(), ids[0].replace("-", "")]
        outcomes = await in_order(client.with_options(timeout=0.3), [*ids, *spellings])

        assert [type(outcome) for outcome in outcomes] == [Captured] * 10 + [Unknown] * 2
        assert sandbox.requests("capture") == 10


@pytest.mark.usefixtures("forgetful")
@pytest.mark.asyncio
async def test_a_forgotten_answer_is_not_guessed_from_a_status_that_lags() -> None:
    """A status that says preauthorized within the bound proves nothing: the outcome is unknown, nothing is sent."""
    async with sandboxed(LAGGING_STATUS, retry=SLOW) as (sandbox, client):
        ids = await reserve_many(sandbox, client, 9)
        outcomes = await in_order(client.with_options(timeout=0.3), [*ids, ids[0]])

        assert [type(outcome) for outcome in outcomes] == [Captured] * 9 + [Unknown]
        assert sandbox.captured_twice == ()
        assert sandbox.requests("capture") == 9


@pytest.mark.parametrize("forgotten", [False, True], ids=["at once", "much later"])
@pytest.mark.asyncio
async def test_an_id_of_unknown_outcome_is_not_sent_again(forgotten: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its capture got no answer and its status lags behind: given again within the bound, it is unknown again."""
    if forgotten:
        monkeypatch.setattr(capture_history, "RECENT_CAPTURES", 1)
    async with sandboxed(LAGGING_STATUS, retry=SLOW) as (sandbox, client):
        ids = await reserve_many(sandbox, client, 4)
        sandbox.faults.add(Fault(kind=FaultKind.PROXY_PAGE_AFTER, route="capture", status=504))
        outcomes = await in_order(client.with_options(timeout=0.3), [*ids, ids[0]])

        assert [type(outcome) for outcome in outcomes] == [Unknown, Captured, Captured, Captured, Unknown]
        assert sandbox.debit(ids[0]).captures == 1
        assert sandbox.requests("capture") == 4


@pytest.mark.asyncio
async def test_an_id_given_again_is_captured_if_it_was_not() -> None:
    """Rejected the first time, which is a sure no, it is sent again at once; no bound is waited for."""
    server = RecordingServer(responses={"debit_1": [replies(402, {"detail": "declined"})]})
    async with server.listen(), connect(server, retry=SLOW) as client:
        outcomes = await in_order(client, ["debit_1", "debit_1"])

    assert [type(outcome) for outcome in outcomes] == [Rejected, Captured]
    assert server.carried_out == {"debit_1": 1}


@pytest.mark.asyncio
async def test_a_mistaken_filter_costs_a_read_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that the filter wrongly takes for known has its status read once, waits for nothing, and is captured."""
    monkeypatch.setattr(BloomFilter, "may_contain", lambda _, __: True)
    async with RecordingServer().listen() as server, connect(server, retry=SLOW) as client:
        outcomes = await capture(client, debits(20))

    assert all(isinstance(outcome, Captured) and outcome.attempts == 1 for outcome in outcomes.values())
    assert list(server.carried_out.values()) == [1] * 20
    assert server.count("status") == 20


@pytest.mark.asyncio
async def test_another_batch_reads_the_status_first() -> None:
    """What an earlier batch of the same client has captured is not sent again: its status says what became of it."""
    async with RecordingServer().listen() as server, connect(server) as client:
        await capture(client, ["debit_1"])
        again = await capture(client, ["debit_1"])

    outcome = again["debit_1"]
    assert isinstance(outcome, Captured)
    assert outcome.confirmed_by_status
    assert (server.count("capture"), server.count("status")) == (1, 1)


# --- not sent ---------------------------------------------------------------------------------------------------------


def rejecting_tokens_after(count: int) -> RecordingServer:
    """Make a server that rejects the token from some capture on."""
    server = RecordingServer()
    server.scripts["capture"] = [*[server._respond] * count, *Always([replies(401, FASTAPI[401])]) * 100]
    return server


@pytest.mark.asyncio
async def test_a_known_answer_needs_no_service() -> None:
    """A duplicate of a captured debit is captured, although nothing is sent any more."""
    server = rejecting_tokens_after(1)
    async with server.listen(), connect(server) as client:
        outcomes = await in_order(client, ["debit_0", "debit_1", "debit_2", "debit_0"])

    assert [type(outcome) for outcome in outcomes] == [Captured, Rejected, NotSent, Captured]


@pytest.mark.usefixtures("forgetful")
@pytest.mark.asyncio
async def test_a_duplicate_that_is_not_sent_is_not_safe_to_retry() -> None:
    """Where the breaker is open, and the answer of the first is forgotten, the outcome is unknown and says why."""
    server = rejecting_tokens_after(5)
    async with server.listen(), connect(server) as client:
        outcomes = await in_order(client, [*debits(6), "debit_7", "debit_0"])

    assert [type(outcome) for outcome in outcomes] == [Captured] * 5 + [Rejected, NotSent, Unknown]
    duplicate = outcomes[-1]
    assert isinstance(duplicate, Unknown)
    assert isinstance(duplicate.error, OutcomeUnknownError)
    assert duplicate.attempts == 0
    assert str(duplicate.error).startswith("not sent: the circuit breaker is open (last error: ")
    assert "an earlier item of the batch was the same, and may have been processed" in str(duplicate.error)


@pytest.mark.parametrize("client_closes", [True, False], ids=["the client is closed", "the batch is left"])
@pytest.mark.asyncio
async def test_a_duplicate_of_one_in_flight_is_not_safe_to_retry(client_closes: bool) -> None:
    """Given up while the first has no answer yet, the second is unknown, although nothing was sent for it."""
    release = asyncio.Event()
    reported: list[CaptureOutcome] = []
    server = RecordingServer(held={"debit_1": release})
    async with server.listen(), connect(server) as client:
        narrow_limit = narrow(client)

        def report(outcome: CaptureOutcome) -> None:
            narrow_limit(outcome)
            reported.append(outcome)

        outcomes = client.capture_many(["debit_0", "debit_1", "debit_1"], concurrency=2, on_outcome=report)
        await anext(outcomes)
        (pool,) = client._pools
        await until(lambda: len(pool._admission.waiting) == 1)
        ending = asyncio.create_task(client.aclose() if client_closes else outcomes.aclose())
        await until(lambda: len(reported) == 2)
        release.set()
        await ending
        await outcomes.aclose()

    assert [(outcome.debit_id, type(outcome)) for outcome in reported] == [
        ("debit_0", Captured),
        ("debit_1", Unknown),
        ("debit_1", Captured),
    ]
    assert server.carried_out == {"debit_0": 1, "debit_1": 1}
