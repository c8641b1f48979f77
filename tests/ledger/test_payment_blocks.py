"""Payments whose callers, or whose block, end at an odd moment: nothing is lost, and nothing is sent unrecorded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing

import attrs
import pytest

from jetpay_async import JetpayClient, NotSentError, OutcomeUnknownError, Preauthorization
from jetpay_async.ledger import (
    DurablePreauthorizations,
    Ledger,
    PaymentState,
    PaymentStateError,
    ReferenceMismatchError,
    _payments,
    _reports,
)
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._payments import ClaimedPayment, PaymentIntent
from jetpay_async.ledger._postgres import PostgresBackend, PostgresConnection
from jetpay_async.models import TransactionState
from tests.ledger.payment_service import REQUEST, WAIT, serving


@attrs.define
class SlowClaims:
    """Holds the ledger's thread while it commits an intent, as a slow disk does."""

    claimed: threading.Event = attrs.Factory(threading.Event)
    go: threading.Event = attrs.Factory(threading.Event)

    def claim(self, *arguments: object, **options: object) -> ClaimedPayment:
        claimed = CLAIM(*arguments, **options)  # type: ignore[arg-type] # as given
        self.claimed.set()
        assert self.go.wait(30)
        return claimed

    async def arrive(self) -> None:
        await asyncio.to_thread(self.claimed.wait, 30)


CLAIM = _payments.claim


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowClaims]:
    slow = SlowClaims()
    monkeypatch.setattr(_payments, "claim", slow.claim)
    yield slow
    slow.go.set()


async def state_of(ledger: str) -> PaymentState:
    async with Ledger(ledger, create=False) as opened:
        return (await opened.payment("b1")).state


def reserve(reservations: DurablePreauthorizations) -> asyncio.Task[Preauthorization]:
    return asyncio.ensure_future(reservations.preauthorize(reference="b1", **REQUEST))


@asynccontextmanager
async def left(client: JetpayClient, ledger: str) -> AsyncIterator[tuple[DurablePreauthorizations, asyncio.Event]]:
    """Reservations whose block is left, in another task, when the event is set."""
    leave = asyncio.Event()
    opened: asyncio.Future[DurablePreauthorizations] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        async with client.durable_preauthorizations(ledger) as reservations:
            opened.set_result(reservations)
            await leave.wait()

    holding = asyncio.create_task(hold())
    yield await opened, leave
    leave.set()
    await holding


@pytest.mark.asyncio
async def test_a_caller_that_is_cancelled_while_the_intent_is_committed(ledger: str, slow: SlowClaims) -> None:
    """The payment goes on without it, and the next caller has its outcome."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        caller = reserve(reservations)
        await slow.arrive()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        slow.go.set()

        reserved = await reserve(reservations)

    assert reserved.debit_id == "debit_0"
    assert service.made == {"booking 1": 1}
    assert await state_of(ledger) is PaymentState.SUCCEEDED


@pytest.mark.asyncio
async def test_a_cancelled_caller_leaves_no_error_behind(ledger: str) -> None:
    """What nobody waits for any more is not reported as an exception that was never retrieved."""
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    async with serving() as (_, client), client.durable_preauthorizations(ledger) as reservations:
        await reserve(reservations)
        other = asyncio.ensure_future(reservations.preauthorize(reference="b1", **{**REQUEST, "amount": "1"}))
        await asyncio.sleep(0)
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other
        with pytest.raises(ReferenceMismatchError):
            await reservations.preauthorize(reference="b1", **{**REQUEST, "amount": "1"})

    assert unhandled == []


@pytest.mark.asyncio
async def test_a_block_that_is_left_while_an_intent_is_committed(ledger: str, slow: SlowClaims) -> None:
    """Nothing is sent any more, the caller learns it, and the same call sends it in the next block."""
    async with serving() as (service, client):
        async with left(client, ledger) as (reservations, leave):
            caller = reserve(reservations)
            await slow.arrive()
            leave.set()
            await asyncio.sleep(0)
            slow.go.set()
            with pytest.raises(NotSentError, match="the block of the payments is being left"):
                await caller
        assert await state_of(ledger) is PaymentState.PENDING
        assert service.requests.total() == 0

        async with client.durable_preauthorizations(ledger) as reservations:
            assert (await reserve(reservations)).debit_id == "debit_0"


@pytest.mark.asyncio
async def test_a_block_whose_end_is_cancelled_while_an_intent_is_committed(ledger: str, slow: SlowClaims) -> None:
    """The intent is withdrawn, since nothing has left."""
    async with serving() as (service, client):
        reservations = client.durable_preauthorizations(ledger)
        await reservations.__aenter__()
        caller = reserve(reservations)
        await slow.arrive()
        leaving = asyncio.create_task(reservations.__aexit__(None, None, None))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        slow.go.set()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        with pytest.raises(asyncio.CancelledError):
            await caller

    assert await state_of(ledger) is PaymentState.PENDING
    assert service.requests.total() == 0


@pytest.mark.asyncio
async def test_a_block_whose_end_is_cancelled_while_a_known_payment_is_read(ledger: str, slow: SlowClaims) -> None:
    """What the ledger knows stays as it is."""
    slow.go.set()
    async with serving() as (service, client):
        async with client.durable_preauthorizations(ledger) as reservations:
            await reserve(reservations)
        slow.go.clear()
        slow.claimed.clear()
        reservations = client.durable_preauthorizations(ledger)
        await reservations.__aenter__()
        caller = reserve(reservations)
        await slow.arrive()
        leaving = asyncio.create_task(reservations.__aexit__(None, None, None))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        slow.go.set()
        await asyncio.wait([leaving, caller])

    assert await state_of(ledger) is PaymentState.SUCCEEDED
    assert service.made == {"booking 1": 1}


@pytest.mark.asyncio
async def test_callers_of_one_reference_share_what_is_under_way(ledger: str) -> None:
    """However many ask, one request leaves."""
    async with serving() as (service, client), client.durable_preauthorizations(ledger) as reservations:
        service.script["booking 1"] = [WAIT]
        first = reserve(reservations)
        await service.arrived.wait()
        others = [reserve(reservations) for _ in range(5)]
        await asyncio.sleep(0.05)
        service.go.set()

        results = await asyncio.gather(first, *others)

    assert {each.debit_id for each in results} == {"debit_0"}
    assert service.requests == {"booking 1": 1}


@pytest.mark.parametrize("state", ["odd\0state", "odd\ud800"], ids=["NUL", "surrogate"])
@pytest.mark.asyncio
async def test_a_state_that_no_database_can_hold(ledger: str, state: str) -> None:
    """It is stored escaped, and the payments that share its commit are recorded as ever."""
    async with serving(timeout=2.0) as (service, client), client.durable_preauthorizations(ledger) as reservations:
        service.state = state
        odd = reserve(reservations)
        await service.arrived.wait()
        service.state = None
        good = asyncio.ensure_future(reservations.preauthorize(reference="b2", **{**REQUEST, "statement": "booking 2"}))
        with pytest.raises(OutcomeUnknownError):
            await odd
        assert (await good).state == "preauthorized"

    assert await state_of(ledger) is PaymentState.UNKNOWN


# --- PostgreSQL: what two processes record at a time ------------------------------------------------------------------


@pytest.fixture
def connections(postgres_ledger: str) -> Iterator[tuple[PostgresConnection, PostgresConnection]]:
    """Two connections to a ledger with two unknown payments and two transactions that may be theirs."""
    backend = PostgresBackend(postgres_ledger)
    with closing(backend.connect(create=True)) as one, closing(backend.connect(create=False)) as other:
        one.begin(writes=True)
        for reference in ("b1", "b2"):
            intent = PaymentIntent(reference, "preauthorize", "debit", {})
            CLAIM(one, intent, owner=7, certain_after=30.0, retry_rejected=False)
        _payments.expire(one, 0)
        now = one.query(one.statements.now, {})[0][0]
        for debit in ("debit_1", "debit_2"):
            said = _reports.TransactionReport(debit, "debit", TransactionState.PREAUTHORIZED, now)
            _reports.report(one, said)
        one.commit()
        yield one, other


def adopt_in(connection: Connection, reference: str, debit_id: str) -> None:
    connection.begin(writes=True)
    try:
        _reports.adopt(connection, reference, debit_id, None)
    finally:
        connection.commit()


def test_one_debit_is_adopted_once(connections: tuple[PostgresConnection, PostgresConnection]) -> None:
    """Whoever adopts a debit waits for another one that is doing so, and is refused then."""
    one, other = connections
    one.begin(writes=True)
    _reports.adopt(one, "b1", "debit_1", None)
    with ThreadPoolExecutor(1) as pool:
        adopting = pool.submit(adopt_in, other, "b2", "debit_1")
        wait_for_a_lock(one)
        one.commit()
        with pytest.raises(PaymentStateError, match="is the transaction of 'b1'"):
            adopting.result()


def test_one_payment_adopts_one_debit(connections: tuple[PostgresConnection, PostgresConnection]) -> None:
    """Of two debits for one payment the first one counts, and the second is refused."""
    one, other = connections
    one.begin(writes=True)
    _reports.adopt(one, "b1", "debit_1", None)
    with ThreadPoolExecutor(1) as pool:
        adopting = pool.submit(adopt_in, other, "b1", "debit_2")
        wait_for_a_lock(one)
        one.commit()
        with pytest.raises(PaymentStateError, match="was adopted or discarded meanwhile"):
            adopting.result()


def test_what_is_being_released_is_not_adopted(connections: tuple[PostgresConnection, PostgresConnection]) -> None:
    """Whoever adopts a debit waits for the mark of a release that is being made."""
    one, other = connections
    one.begin(writes=True)
    assert _reports.begin_release(one, "debit_1") is False
    with ThreadPoolExecutor(1) as pool:
        adopting = pool.submit(adopt_in, other, "b1", "debit_1")
        wait_for_a_lock(one)
        one.commit()
        with pytest.raises(PaymentStateError, match="is being released"):
            adopting.result()


def wait_for_a_lock(connection: PostgresConnection) -> None:
    """Wait until another connection to the same database waits for a lock."""
    waiting = """
        SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND pg_stat_clear_snapshot() IS NOT NULL"""
    while not connection.query(waiting, {}):
        threading.Event().wait(0.01)
