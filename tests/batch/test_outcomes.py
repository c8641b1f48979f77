"""Many captures, streamed: one outcome for each item, whatever happens to it or to others."""

from __future__ import annotations

from collections import Counter

import attrs
import pytest

from jetpay_async import (
    Accepted,
    Capture,
    Captured,
    ConflictError,
    InvalidArgumentError,
    InvalidRequestError,
    JetpayClient,
    NotSent,
    OutcomeUnknownError,
    RateLimitedError,
    Rejected,
    RetryPolicy,
    ServiceError,
    Unknown,
)
from jetpay_async._core.executor import CallExecutor
from jetpay_async.sandbox import Fault, FaultKind
from tests import loopback
from tests.batch.consumers import capture
from tests.ledger.processes import counting_api
from tests.loopback import FASTAPI, HTML, Act, Exchange, replies, work_then
from tests.network import FAST, SLOW, TOKEN, Network, every_network
from tests.recording_server import RecordingServer, connect, debits
from tests.sandboxed import reserve_many, sandboxed


@every_network
def test_all_are_captured(network: Network) -> None:
    """Each debit is captured once, and reported once."""

    async def main() -> None:
        async with network.serve(RecordingServer()) as server:
            assert isinstance(server, RecordingServer)
            async with network.connect(server) as client:
                outcomes = await capture(client, debits(100))

            assert list(server.carried_out.values()) == [1] * 100
            assert set(outcomes) == set(server.carried_out)
            assert all(isinstance(outcome, Captured) for outcome in outcomes.values())

    network.run(main)


async def drop(exchange: Exchange) -> None:
    exchange.hang_up()


RESPONSES: dict[str, tuple[str, list[Act], type[object], type[object]]] = {
    "captured": ("debit_x", [], Captured, Capture),
    "no such id": ("no/id", [], NotSent, InvalidArgumentError),
    "an empty id": ("", [], NotSent, InvalidArgumentError),
    "rejected": ("debit_x", [replies(422, FASTAPI[422])], Rejected, InvalidRequestError),
    "captured already": ("debit_x", [replies(409, FASTAPI[409])], Rejected, ConflictError),
    "rate limited": ("debit_x", [replies(429, FASTAPI[429])] * 3, NotSent, RateLimitedError),
    "lost, and not processed each time": ("debit_x", [drop] * 3, NotSent, ServiceError),
    "lost, and processed": ("debit_x", [work_then(drop)], Captured, Capture),
    "an error page of a proxy": ("debit_x", [replies(502, HTML)], Captured, Capture),
}


@pytest.mark.parametrize(("debit_id", "responses", "outcome_class", "content"), RESPONSES.values(), ids=RESPONSES)
@pytest.mark.asyncio
async def test_each_item_has_its_outcome(
    debit_id: str, responses: list[Act], outcome_class: type[object], content: type[object]
) -> None:
    """What happens to one item is its outcome, and does not disturb the others."""
    ids = debits(10)
    ids.insert(5, debit_id)
    async with RecordingServer(responses={debit_id: [*responses]}).listen() as server, connect(server) as client:
        outcomes = await capture(client, ids)

    outcome = outcomes.pop(debit_id)
    assert type(outcome) is outcome_class
    assert type(outcome.capture if isinstance(outcome, Captured | Accepted) else outcome.error) is content
    assert [type(other) for other in outcomes.values()] == [Captured] * 10
    assert server.twice == []


@pytest.mark.asyncio
async def test_a_429_that_may_have_been_processed_is_unknown() -> None:
    """Where the policy does not trust a 429, nothing says that retrying is safe; a retry reads the status first."""
    policy = attrs.evolve(FAST, resend_rate_limited=False)
    responses: dict[str, list[Act]] = {"debit_1": [work_then(replies(429, FASTAPI[429]))]}
    async with RecordingServer(responses=responses).listen() as server, connect(server, retry=policy) as client:
        first = (await capture(client, debits(3)))["debit_1"]
        again = (await capture(client, ["debit_1"]))["debit_1"]

    assert isinstance(first, Unknown)
    assert isinstance(first.error, RateLimitedError)
    assert isinstance(again, Captured)
    assert again.confirmed_by_status
    assert server.twice == []


@pytest.mark.asyncio
async def test_what_is_no_id_at_all_is_an_item_like_any_other() -> None:
    """Items of any type are reported as they were given."""
    odd: list[object] = [5, None, b"debit", ["debit"]]
    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = [each async for each in client.capture_many([*odd, "debit_1"], ordered=True)]  # type: ignore[list-item] # as an untyped caller might

    assert [outcome.debit_id for outcome in outcomes] == [*odd, "debit_1"]
    assert [type(outcome) for outcome in outcomes] == [NotSent] * 4 + [Captured]


@pytest.mark.asyncio
async def test_what_the_status_does_not_tell_is_unknown() -> None:
    """What can't be resolved within the deadline is `Unknown`, with its error."""
    server = RecordingServer(responses={"debit_1": [loopback.hang_up]}, scripts={"status": [loopback.silence] * 9})
    async with server.listen(), connect(server, timeout=0.3) as client:
        outcomes = await capture(client, debits(3))

    unknown = outcomes["debit_1"]
    assert isinstance(unknown, Unknown)
    assert isinstance(unknown.error, OutcomeUnknownError)
    assert (unknown.attempts, unknown.error.debit_id) == (1, "debit_1")


@pytest.mark.parametrize("ordered", [True, False], ids=["in order", "as they come"])
@pytest.mark.asyncio
async def test_an_item_ends_as_unknown_at_its_deadline(ordered: bool) -> None:
    """Its status says preauthorized, which proves nothing yet; the others keep their order, and go on afterwards."""
    lost: dict[str, list[Act]] = {"debit_2": [loopback.hang_up], "debit_5": [replies(504, HTML)]}
    async with RecordingServer(responses=lost).listen() as server:
        # Long enough for a busy machine to answer the others: two captures wait for it.
        async with connect(server, timeout=1.5, retry=SLOW) as client:
            reported = [each async for each in client.capture_many(debits(60), concurrency=2, ordered=ordered)]

    outcomes = {outcome.debit_id: outcome for outcome in reported}
    unknown = [outcomes.pop(debit_id) for debit_id in lost]
    assert [type(outcome) for outcome in unknown] == [Unknown] * 2
    assert all(isinstance(outcome.error, OutcomeUnknownError) for outcome in unknown if isinstance(outcome, Unknown))
    assert {type(outcome) for outcome in outcomes.values()} == {Captured}
    assert len(outcomes) == 58
    assert not ordered or [outcome.debit_id for outcome in reported] == debits(60)
    assert server.twice == []
    assert server.count("capture") == 60


@pytest.mark.asyncio
async def test_one_lost_connection_does_not_end_the_batch() -> None:
    """All in flight are unknown at the same time, more than open the circuit breaker; the rest is captured."""
    lost: dict[str, list[Act]] = {debit_id: [replies(504, HTML)] for debit_id in debits(16)}
    async with RecordingServer(responses=lost).listen() as server:
        async with connect(server, timeout=0.4, retry=SLOW) as client:
            outcomes = await capture(client, debits(100), concurrency=16)

    kinds = Counter(type(outcome) for outcome in outcomes.values())
    assert kinds == {Unknown: 16, Captured: 84}


@pytest.mark.parametrize("state", ["requested", "initiated", "processing"])
@pytest.mark.asyncio
async def test_a_capture_in_progress_is_accepted(state: str) -> None:
    """It is reported as such at once, counts as an answer, and is not sent again for a duplicate."""
    async with sandboxed() as (sandbox, client):
        first, second, third = await reserve_many(sandbox, client, 3)
        sandbox.faults.add(Fault(kind=FaultKind.REPORT_STATE_BEFORE, identifier=second, state=state, count=None))
        ids = [first, second, third, second]
        outcomes = [each async for each in client.capture_many(ids, concurrency=1, ordered=True)]

        assert sandbox.requests("capture") == 3
    assert [type(outcome) for outcome in outcomes] == [Captured, Accepted, Captured, Accepted]
    accepted = outcomes[1]
    assert isinstance(accepted, Accepted)
    assert (accepted.debit_id, accepted.capture.state, accepted.capture.final) == (second, state, False)


@pytest.mark.asyncio
async def test_accepted_captures_do_not_open_the_circuit_breaker() -> None:
    """A service that finishes nothing at once works."""
    async with sandboxed(Fault(kind=FaultKind.REPORT_STATE_AFTER, route="capture", count=None)) as (sandbox, client):
        outcomes = await capture(client, await reserve_many(sandbox, client, 50))

        assert sandbox.requests("capture") == 50
    assert {type(outcome) for outcome in outcomes.values()} == {Accepted}


@pytest.mark.timeout(60)
@pytest.mark.asyncio
async def test_under_a_mixture_of_faults_each_has_one_outcome() -> None:
    """Whatever the service loses, breaks, rejects and limits: each debit is captured once at most, reported once."""
    faults = {"silent": 0.01, "broken": 0.02, "cut": 0.03, "limited": 0.01, "rejected": 0.05}
    quick = RetryPolicy(max_attempts=4, base_delay=0.005, max_delay=0.05, resolve_after=0.3, resolve_after_timeout=0.3)
    async with counting_api(latency=0.002, slow=0.02, slowest=0.1, **faults) as api:
        async with JetpayClient(TOKEN, base_url=api.url, timeout=3.0, retry=quick) as client:
            outcomes = await capture(client, debits(1000), concurrency=64)
        totals = await api.totals()

    kinds = Counter(type(outcome) for outcome in outcomes.values())
    assert len(outcomes) == 1000
    assert totals["twice"] == []
    assert kinds[Rejected] == totals["rejected"] > 20
    assert kinds[Captured] <= totals["captured"] <= kinds[Captured] + kinds[Unknown]
    assert kinds[Captured] > 900
    # On a machine that is too busy, a deadline may pass before a status can be believed.
    assert kinds[NotSent] + kinds[Unknown] < 20


@pytest.mark.asyncio
async def test_an_unexpected_error_costs_no_other_item_its_outcome(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is that item's outcome, unknown if its request was sent; the log has its traceback and fields."""
    execute = CallExecutor.execute

    async def sometimes(self: CallExecutor, execution: object) -> object:
        result = await execute(self, execution)  # type: ignore[arg-type, var-annotated] # of any type
        if result.debit_id == "debit_3":
            raise LookupError("a fault")
        return result

    monkeypatch.setattr(CallExecutor, "execute", sometimes)
    async with RecordingServer().listen() as server, connect(server) as client:
        outcomes = await capture(client, debits(10), concurrency=1)

    unknown = outcomes.pop("debit_3")
    assert isinstance(unknown, Unknown)
    assert isinstance(unknown.error.__cause__, LookupError)
    assert "an unexpected LookupError" in str(unknown.error)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.message == "capture debit_3: unexpected error; the outcome is Unknown"
    assert (record.__dict__["operation"], record.__dict__["debit_id"]) == ("capture", "debit_3")
    assert "an unexpected LookupError" in record.__dict__["reason"]
    assert "a fault" in caplog.text
    assert [type(outcome) for outcome in outcomes.values()] == [Captured] * 9


@pytest.mark.asyncio
async def test_an_unexpected_error_before_the_request_is_not_sent() -> None:
    """If it happens while the item is prepared, nothing was sent."""

    class Broken(str):
        __slots__ = ()

        def __len__(self) -> int:
            raise LookupError("a fault")

        def __bool__(self) -> bool:
            raise LookupError("a fault")

    async with RecordingServer().listen() as server, connect(server) as client:
        (outcome,) = [each async for each in client.capture_many([Broken("debit_1")])]

    assert isinstance(outcome, NotSent)
    assert isinstance(outcome.error.__cause__, LookupError)
    assert server.requests == []
