"""How runs of batches of payments stop and go on: nothing is sent twice, and what was not sent stays pending."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest

from jetpay_async import (
    AuthenticationError,
    ConfigurationError,
    InvalidArgumentError,
    JetpayClient,
    NotSentError,
    Preauthorized,
    RateLimitedError,
    Rejected,
    RetryPolicy,
    Unknown,
)
from jetpay_async._core.clock import Clock
from jetpay_async.ledger import (
    DurablePreauthorizations,
    Ledger,
    LedgerError,
    PaymentBatch,
    PaymentCounts,
    PaymentsStoppedError,
    _payment_batches,
)
from jetpay_async.ledger._account_check import FIRST_ANSWERS
from jetpay_async.ledger._resolver import MAX_ATTEMPTS
from tests.ledger.payment_batch import outcomes, request, requests, states
from tests.ledger.payment_service import FAST, HANG, LOSE, REQUEST, WAIT, PaymentService, serving

pytestmark = pytest.mark.asyncio

Batch = PaymentBatch[Any]
CLAIM = _payment_batches.claim
NOT_FOUND = (404, {"detail": "no such card"})


async def finish(client: JetpayClient, ledger: str, count: int, **options: Any) -> dict[str, Any]:
    """Submit the same batch again, to its end."""
    async with client.durable_preauthorizations(ledger, **options) as reservations:
        return await outcomes(await reservations.submit("night", requests(count)))


async def until_asked(service: PaymentService, count: int = 1) -> None:
    async with asyncio.timeout(20):
        while service.requests.total() < count:
            await asyncio.sleep(0.005)


# --- errors of the whole run ------------------------------------------------------------------------------------------


async def test_a_rejected_token_stops_the_run(ledger: str) -> None:
    """After a 401 nothing more is sent; all that was not done is pending, and goes on in the next run."""
    async with serving() as (service, client):
        for number in range(20):
            service.script[f"b{number}"] = [(401, {"detail": "expired"})]
        async with client.durable_preauthorizations(ledger, concurrency=2) as reservations:
            batch = await reservations.submit("night", requests(20))
            with pytest.raises(PaymentsStoppedError, match=r"batch 'night' stopped \(.*20 of 20 are left") as caught:
                await outcomes(batch)
            with pytest.raises(PaymentsStoppedError):  # nor does it go on in this block
                await (await reservations.submit("night", requests(20))).wait()
        assert await states(ledger) == {"pending": 20}
        assert service.requests.total() < 10
        service.script.clear()

        assert len(await finish(client, ledger, 20)) == 20

    assert isinstance(caught.value.__cause__, AuthenticationError)
    assert (caught.value.progress, caught.value.retryable) == (PaymentCounts(pending=20), True)
    assert set(service.made.values()) == {1}


async def test_a_dead_api_stops_the_run(ledger: str) -> None:
    """Where nothing can be sent the circuit breaker opens, and everything stays pending."""
    async with JetpayClient("t", base_url="http://127.0.0.1:9", timeout=5.0, retry=FAST) as dead:
        async with dead.durable_preauthorizations(ledger, concurrency=4) as reservations:
            with pytest.raises(PaymentsStoppedError) as caught:
                await (await reservations.submit("night", requests(20))).wait()
    assert isinstance(caught.value.__cause__, NotSentError)
    assert await states(ledger) == {"pending": 20}


async def test_lost_answers_are_unknown_and_stop_the_run(ledger: str) -> None:
    """What got no answer is never sent again, by no run; the circuit breaker keeps the rest."""
    async with serving() as (service, client):
        for number in range(20):
            service.script[f"b{number}"] = [LOSE]
        async with client.durable_preauthorizations(ledger, concurrency=2) as reservations:
            with pytest.raises(PaymentsStoppedError):
                await (await reservations.submit("night", requests(20))).wait()
        lost = (await states(ledger))["unknown"]
        assert 8 <= lost < 20
        service.script.clear()

        found = await finish(client, ledger, 20)

    assert sum(isinstance(outcome, Unknown) for outcome in found.values()) == lost
    assert service.requests == {f"b{number}": 1 for number in range(20)}


async def test_a_payment_that_is_always_put_off_is_given_up(ledger: str) -> None:
    """One that the API answers by 429 again and again is rejected, and does not keep the others."""
    policy = RetryPolicy(max_attempts=1, base_delay=0.001, max_delay=0.001, resolve_after=0.02, resolve_after_timeout=1)
    async with serving(retry=policy) as (service, client):
        service.script["b0"] = [(429, {"detail": "slow down"})] * 100
        # Between its tries others succeed, so that the circuit breaker stays closed.
        found = await finish(client, ledger, 200, concurrency=6)

    assert isinstance(found["b0"], Rejected)
    assert isinstance(found["b0"].error, RateLimitedError)
    assert service.requests["b0"] == MAX_ATTEMPTS


async def test_another_account_stops_the_run(ledger: str) -> None:
    """Where the first answers are all 404, none is recorded."""
    async with serving() as (service, client):
        for number in range(40):
            service.script[f"b{number}"] = [NOT_FOUND]
        async with client.durable_preauthorizations(ledger, concurrency=4) as reservations:
            with pytest.raises(PaymentsStoppedError, match="is this the right account") as caught:
                await (await reservations.submit("night", requests(40))).wait()
        assert isinstance(caught.value.__cause__, ConfigurationError)
        assert await states(ledger) == {"pending": 40}
        assert service.requests.total() < 20

        found = await finish(client, ledger, 40, accept_rejections=True)

    assert {type(outcome) for outcome in found.values()} == {Preauthorized, Rejected}


async def test_a_few_rejections_are_recorded(ledger: str) -> None:
    """Another answer shows that the account is the right one; and so does a batch that is shorter than the check."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger, concurrency=1) as reservations:
        for number in (0, 1, 5):
            service.script[f"b{number}"] = [NOT_FOUND]
        short = await outcomes(await reservations.submit("short", requests(2)))
        longer = await outcomes(await reservations.submit("longer", requests(6)))
        service.script["b6"] = [NOT_FOUND]
        last = await outcomes(await reservations.submit("last", [request(6)]))

    assert {type(outcome) for outcome in short.values()} == {Rejected}
    assert isinstance(longer["b2"], Preauthorized)
    assert isinstance(longer["b5"], Rejected)
    assert isinstance(last["b6"], Rejected)


async def test_rejections_that_are_held_back_are_recorded_after_another_answer(ledger: str) -> None:
    """The first answer that is none of them shows that the account is the right one."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger, concurrency=1) as reservations:
        service.script["b0"], service.script["b1"] = [NOT_FOUND], [NOT_FOUND]
        found = await outcomes(await reservations.submit("night", requests(4)))

    assert [isinstance(found[f"b{number}"], Rejected) for number in range(4)] == [True, True, False, False]


async def test_what_is_held_back_is_pending_when_the_run_is_stopped(ledger: str) -> None:
    """A run that ends before the account is known leaves those rejections to the next one."""
    async with serving() as (service, client):
        service.script["b0"] = [NOT_FOUND]
        service.script["b1"] = [WAIT]
        async with client.durable_preauthorizations(ledger, concurrency=2) as reservations:
            batch = await reservations.submit("night", requests(2))
            await until_asked(service, 2)
            await asyncio.sleep(0.05)
            reservations.stop()
            service.go.set()
            with pytest.raises(PaymentsStoppedError, match="on request, 1 of 2 are left"):
                await batch.wait()
        assert await states(ledger) == {"pending": 1, "succeeded": 1}
    assert FIRST_ANSWERS > 1


async def test_a_rejection_that_comes_after_the_stop_is_left_to_the_next_run(ledger: str) -> None:
    """It may be the wrong account still."""
    async with serving() as (service, client):
        service.script["b0"] = [WAIT]
        async with client.durable_preauthorizations(ledger, concurrency=1) as reservations:
            batch = await reservations.submit("night", requests(2))
            await until_asked(service)
            reservations.stop()
            reservations.stop()
            service.answer_after_wait = NOT_FOUND
            service.go.set()
            with pytest.raises(PaymentsStoppedError):
                await batch.wait()
    assert await states(ledger) == {"pending": 2}


# --- a ledger that was restored ---------------------------------------------------------------------------------------


async def test_a_restored_ledger_sends_no_batch(ledger: str) -> None:
    """What it would send is unknown, since it may have forgotten that it was sent."""
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger) as reservations:
            await reservations.preauthorize(**attrs.asdict(request(0)))
        found = await finish(client, ledger, 5, restored=True)

    assert service.requests == {"b0": 1}
    assert isinstance(found.pop("b0"), Preauthorized)
    assert {type(outcome) for outcome in found.values()} == {Unknown}
    assert "the restored ledger does not know" in str(found["b1"].error)


# --- stopping ---------------------------------------------------------------------------------------------------------


async def test_a_stopped_run_finishes_what_is_in_flight(ledger: str) -> None:
    """`stop` sends nothing more; the answer to what is in flight is recorded, and single calls go on."""
    async with serving() as (service, client):
        service.script["b0"] = [WAIT]
        async with client.durable_preauthorizations(ledger, concurrency=1) as reservations:
            batch = await reservations.submit("night", requests(5))
            await until_asked(service)
            reservations.stop()
            waiting = asyncio.ensure_future(batch.wait())
            await reservations.preauthorize(reference="b9", **REQUEST)
            service.go.set()
            with pytest.raises(PaymentsStoppedError, match="stopped on request, 4 of 5 are left"):
                await waiting
            assert await reservations._open_pipeline()._take() is None  # nor does a worker wait for more
        assert await states(ledger) == {"succeeded": 2, "pending": 4}

        await finish(client, ledger, 5)

    assert set(service.requests.values()) == {1}
    client.durable_preauthorizations(ledger).stop()  # not open


async def test_leaving_the_block_finishes_what_is_in_flight(ledger: str) -> None:
    """The rest stays pending; whoever still reads the batch learns that it stopped."""
    async with serving() as (service, client):
        service.script["b0"] = [WAIT]
        async with client.durable_preauthorizations(ledger, concurrency=1) as reservations:
            batch = await reservations.submit("night", requests(5))
            waiting = asyncio.ensure_future(batch.wait())
            await until_asked(service)
            asyncio.get_running_loop().call_later(0.05, service.go.set)
        with pytest.raises(PaymentsStoppedError):
            await waiting
        with pytest.raises(PaymentsStoppedError, match="stopped") as caught:
            await outcomes(batch)

    assert caught.value.progress is None
    assert await states(ledger) == {"succeeded": 1, "pending": 4}


async def test_what_is_cut_off_is_unknown(ledger: str) -> None:
    """If leaving the block is cancelled, what is in flight is cut off: unknown, and never sent again."""
    async with serving(timeout=20.0) as (service, client):
        for number in range(3):
            service.script[f"b{number}"] = [HANG]
        async with leaving(client, ledger, concurrency=3) as (reservations, leave):
            await reservations.submit("night", requests(5))
            await until_asked(service, 3)
            leave()
        service.script.clear()
        found = await finish(client, ledger, 5)

    assert sorted(name for name, outcome in found.items() if isinstance(outcome, Unknown)) == ["b0", "b1", "b2"]
    assert service.requests == {f"b{number}": 1 for number in range(5)}


@asynccontextmanager
async def leaving(
    client: JetpayClient, ledger: str, **options: Any
) -> AsyncIterator[tuple[DurablePreauthorizations, Any]]:
    """Reservations whose block is left, and whose end is cancelled at once."""
    reservations = client.durable_preauthorizations(ledger, **options)
    await reservations.__aenter__()
    ends: list[asyncio.Task[None]] = []

    def leave() -> None:
        ends.append(asyncio.ensure_future(reservations.__aexit__(None, None, None)))
        loop = asyncio.get_running_loop()
        # Once it has begun to wait.
        loop.call_soon(lambda: loop.call_soon(ends[0].cancel))

    yield reservations, leave
    with pytest.raises(asyncio.CancelledError):
        await ends[0]


@attrs.define
class SlowClaims:
    """Holds the ledger's thread after a claim of a batch, as a slow disk does."""

    claimed: threading.Event = attrs.Factory(threading.Event)
    go: threading.Event = attrs.Factory(threading.Event)
    closed: bool = True

    def claim(self, *arguments: Any, **options: Any) -> Any:
        claims = CLAIM(*arguments, **options)
        if claims.send and self.closed:
            self.claimed.set()
            assert self.go.wait(30)
        return claims


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowClaims]:
    slow = SlowClaims()
    monkeypatch.setattr(_payment_batches, "claim", slow.claim)
    yield slow
    slow.go.set()


async def test_a_run_that_is_stopped_while_it_claims(ledger: str, slow: SlowClaims) -> None:
    """What is claimed then is given back, and nothing of it is sent."""
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger, concurrency=2) as reservations:
            batch = await reservations.submit("night", requests(5))
            await asyncio.to_thread(slow.claimed.wait, 30)
            reservations.stop()
            slow.go.set()
            with pytest.raises(PaymentsStoppedError, match="5 of 5 are left"):
                await batch.wait()
    assert service.requests.total() == 0
    assert await states(ledger) == {"pending": 5}


async def test_a_call_for_a_reference_that_a_batch_is_claiming_gets_its_answer(ledger: str, slow: SlowClaims) -> None:
    """It finds that this process is sending it already, and waits for what becomes of it."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        batch = await reservations.submit("night", requests(1))
        await asyncio.to_thread(slow.claimed.wait, 30)
        asking = asyncio.ensure_future(reservations.preauthorize(**attrs.asdict(request(0))))
        await asyncio.sleep(0)
        slow.go.set()

        assert (await asking).debit_id == (await outcomes(batch))["b0"].debit_id
    assert service.requests == {"b0": 1}


async def test_a_block_whose_end_is_cancelled_while_it_claims(ledger: str, slow: SlowClaims) -> None:
    """The same, where what is in flight is cut off."""
    async with serving() as (service, client):
        async with leaving(client, ledger, concurrency=2) as (reservations, leave):
            await reservations.submit("night", requests(5))
            await asyncio.to_thread(slow.claimed.wait, 30)
            leave()
            asyncio.get_running_loop().call_later(0.1, slow.go.set)
    assert service.requests.total() == 0
    assert await states(ledger) == {"pending": 5}


@attrs.define
class Slots:
    """Where the slots of the rate begin when the test says so."""

    waiting: asyncio.Event = attrs.Factory(asyncio.Event)
    begin: asyncio.Event = attrs.Factory(asyncio.Event)

    async def sleep(self, seconds: float) -> None:
        if seconds < 10:
            await asyncio.sleep(seconds)
        else:
            self.waiting.set()
            await self.begin.wait()


@pytest.mark.parametrize("cut_off", [False, True])
async def test_what_waits_for_its_slot_in_the_rate_is_given_back(
    ledger: str, monkeypatch: pytest.MonkeyPatch, cut_off: bool
) -> None:
    """A payment that is claimed for a slot that has not begun is pending again when the run ends."""

    def claim_for_later(*arguments: Any, **options: Any) -> Any:
        claims = CLAIM(*arguments, **options)
        return attrs.evolve(claims, send=[attrs.evolve(pending, delay=100.0) for pending in claims.send])

    monkeypatch.setattr(_payment_batches, "claim", claim_for_later)
    slots = Slots()
    async with serving() as (service, client):
        async with leaving(client, ledger, concurrency=1) as (reservations, leave):
            pipeline = reservations._open_pipeline()
            monkeypatch.setattr(pipeline, "_context", attrs.evolve(pipeline._context, clock=Clock(sleep=slots.sleep)))
            batch = await reservations.submit("night", requests(4))
            await slots.waiting.wait()
            if not cut_off:
                reservations.stop()
                slots.begin.set()
                with pytest.raises(PaymentsStoppedError):
                    await batch.wait()
            leave()

    assert service.requests.total() == 0
    assert await states(ledger) == {"pending": 4}


async def test_a_worker_that_ends_with_a_payment_gives_it_back(ledger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off between the claim and the request, a payment is pending: nothing has left."""
    reservations: DurablePreauthorizations
    handed = asyncio.Event()

    async with serving() as (service, client):
        async with leaving(client, ledger, concurrency=2) as (reservations, leave):
            pipeline = reservations._open_pipeline()
            hand_out = pipeline._hand_out

            async def hand_out_and_leave(claimed: Any) -> None:
                await hand_out(claimed)
                if not handed.is_set():
                    handed.set()
                    for task in pipeline._working[1:]:
                        task.cancel()

            monkeypatch.setattr(pipeline, "_hand_out", hand_out_and_leave)
            await reservations.submit("night", requests(2))
            await handed.wait()
            leave()
        assert await states(ledger) == {"pending": 2}
    assert service.requests.total() == 0


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_a_ledger_that_can_not_be_written_stops_the_run(ledger: str) -> None:
    """An answer that can't be recorded ends the run, with the ledger's error as the cause."""
    async with serving() as (service, client):
        service.script["b0"] = [WAIT]
        async with client.durable_preauthorizations(ledger, concurrency=1) as reservations:
            batch = await reservations.submit("night", requests(3))
            await until_asked(service)
            async with Ledger(ledger) as other:
                await other.commits.run(
                    lambda connection: connection.change("UPDATE jetpay_ledger SET version = version + 1", {})
                )
            service.go.set()
            with pytest.raises(PaymentsStoppedError) as caught:
                await batch.wait()

    assert isinstance(caught.value.__cause__, LedgerError)
    assert caught.value.progress is None
    assert service.requests.total() == 1


async def test_a_lost_lease_stops_the_run(ledger: str) -> None:
    """An owner that the ledger does not name any more sends nothing more of its batches."""
    async with serving(timeout=20.0) as (service, client):
        service.script["b0"] = [WAIT]
        async with client.durable_preauthorizations(ledger, concurrency=1, lease_seconds=0.5) as reservations:
            batch = await reservations.submit("night", requests(3))
            await until_asked(service)
            async with Ledger(ledger) as other:
                await other.commits.run(lambda connection: connection.change("DELETE FROM jetpay_owner", {}))
            async with asyncio.timeout(20):
                while not reservations._open_pipeline().stopping:
                    await asyncio.sleep(0.01)
            service.go.set()
            with pytest.raises(PaymentsStoppedError, match=r"lease|lock"):
                await batch.wait()

    assert service.requests.total() == 1


@pytest.mark.parametrize("error", [RuntimeError("odd"), LedgerError("odd")])
async def test_a_fault_stops_the_run(
    ledger: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """An error that nobody expects ends the run in order, and is logged with its traceback; so does the ledger's."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:

        async def fail() -> bool:
            raise error

        monkeypatch.setattr(reservations._open_pipeline(), "_claim", fail)
        with pytest.raises(PaymentsStoppedError, match="odd"):
            await (await reservations.submit("night", requests(3))).wait()

    assert ("sending payments stops for a fault" in caplog.text) is isinstance(error, RuntimeError)
    assert service.requests.total() == 0


async def test_what_this_release_would_not_send_is_rejected(ledger: str) -> None:
    """A stored request that can't be sent any more is an outcome of its own, and the others go on."""
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger) as reservations:
            reservations.stop()
            await reservations.submit("night", requests(2))
        async with Ledger(ledger) as opened:
            await opened.commits.run(
                lambda connection: connection.change(
                    "UPDATE jetpay_payment SET arguments = replace(arguments, '100.50', '-1') WHERE reference = 'b0'",
                    {},
                )
            )
        async with client.durable_preauthorizations(ledger) as reservations:
            found = await outcomes(await reservations.batch("night"))

    assert isinstance(found["b0"], Rejected)
    assert isinstance(found["b0"].error, InvalidArgumentError)
    assert service.requests == {"b1": 1}


async def test_an_error_of_a_stopped_run_can_be_pickled() -> None:
    """It crosses processes with what it says."""
    error = PaymentsStoppedError("stopped", key="night", progress=PaymentCounts(pending=2))

    copy = pickle.loads(pickle.dumps(error))

    assert (str(copy), copy.key, copy.progress) == (str(error), "night", PaymentCounts(pending=2))


async def test_a_reader_that_left_is_not_woken(ledger: str) -> None:
    """A caller that gives up waiting leaves nothing behind."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger, concurrency=1) as reservations:
        service.script["b0"] = [WAIT]
        batch = await reservations.submit("night", [request(0)])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await batch.wait()
        service.go.set()
        assert (await batch.wait()).counts.succeeded == 1
