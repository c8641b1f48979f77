"""A ledger in PostgreSQL: owners beside each other, in place of each other, and cut off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial

import psycopg
import pytest

from jetpay_async.ledger import CapturesStoppedError, LedgerError, Progress, _intents
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._group_commit import GroupCommitExecutor
from jetpay_async.ledger._postgres import PostgresBackend, PostgresConnection
from jetpay_async.ledger._repository import Scope
from tests.ledger.service import PAID, WAIT, debits, serving
from tests.ledger.steps import claim, progress, record, register, submit

KEY = "night"
LOW = 1 << 32


@pytest.fixture
def backend(postgres_ledger: str) -> PostgresBackend:
    return PostgresBackend(postgres_ledger)


@pytest.fixture
def connection(backend: PostgresBackend) -> Iterator[PostgresConnection]:
    """A connection on a new ledger."""
    with closing(backend.connect(create=True)) as connection:
        yield connection


@pytest.fixture
def other(backend: PostgresBackend, connection: PostgresConnection) -> Iterator[PostgresConnection]:
    """Another connection on the same ledger."""
    with closing(backend.connect(create=False)) as other:
        yield other


# --- several owners ---------------------------------------------------------------------------------------------------


def test_claims_do_not_wait_for_each_other(connection: PostgresConnection, other: PostgresConnection) -> None:
    """While one claim is not committed, another takes the next debits."""
    submit(connection, KEY, debits(10))
    connection.begin(writes=True)
    other.begin(writes=True)

    first, second = claim(connection, 1, 4), claim(other, 2, 4)
    connection.commit()
    other.commit()

    assert [each.debit_id for each in first + second] == debits(8)


def test_many_owners_share_a_batch(backend: PostgresBackend, connection: PostgresConnection) -> None:
    """Owners that claim and record at the same time get each debit once, and count right."""
    submit(connection, KEY, debits(600))

    def work(_: int) -> list[str]:
        taken: list[str] = []
        with closing(backend.connect(create=False)) as mine:
            owner = register(mine)
            while True:
                mine.begin(writes=True)
                claimed = claim(mine, owner, 7)
                mine.commit()
                if not claimed:
                    return taken
                taken += [each.debit_id for each in claimed]
                record(mine, claimed, owner)

    with ThreadPoolExecutor(4) as pool:
        taken = [debit_id for share in pool.map(work, range(4)) for debit_id in share]

    assert sorted(taken) == sorted(debits(600))
    assert progress(connection) == Progress(total=600, pending=0, sending=0, captured=600, rejected=0, unknown=0)
    assert connection.query("SELECT COUNT(DISTINCT seq), MAX(seq) - :low FROM jetpay_debit", {"low": LOW}) == [
        (600, 600)
    ]


@pytest.mark.asyncio
async def test_the_same_debit_claimed_twice_at_once(backend: PostgresBackend, connection: PostgresConnection) -> None:
    """Of two claims of one debit, in two batches at the same moment, one gets it; the other one gets the rest."""
    submit(connection, "one", debits(2))
    two = submit(connection, "two", debits(3))
    commits = GroupCommitExecutor(backend)
    await commits.open(create=False)
    connection.begin(writes=True)
    held = claim(connection, 1, 2)

    waiting = asyncio.ensure_future(
        commits.run(partial(_intents.claim, scope=Scope(two), owner=2, limit=5, resolve=30.0, rate=None))
    )
    await asyncio.sleep(0.1)
    waited = not waiting.done()
    connection.commit()
    claimed = (await waiting).send
    await commits.close()

    assert waited
    assert [each.debit_id for each in held] == debits(2)
    assert [each.debit_id for each in claimed] == ["debit_2"]


@pytest.mark.asyncio
async def test_a_deadlock_is_tried_again(backend: PostgresBackend, connection: PostgresConnection) -> None:
    """Two transactions that wait for each other both go through in the end."""
    batches = [submit(connection, key, debits(1)) for key in ("one", "two")]
    both = threading.Barrier(2)

    def lock(connection: Connection, first: int, second: int) -> None:
        for batch in (first, second):
            connection.query(connection.statements.reserve_sequence, {"batch": batch, "finished": 1})
            with suppress(threading.BrokenBarrierError):
                both.wait(0.5)

    desks = [GroupCommitExecutor(backend), GroupCommitExecutor(backend)]
    for commits in desks:
        await commits.open(create=False)
    await asyncio.gather(
        desks[0].run(partial(lock, first=batches[0], second=batches[1])),
        desks[1].run(partial(lock, first=batches[1], second=batches[0])),
    )
    for commits in desks:
        await commits.close()

    assert connection.query("SELECT last_seq FROM jetpay_batch", {}) == [(2,), (2,)]


def test_only_collisions_are_tried_again(backend: PostgresBackend, connection: PostgresConnection) -> None:
    """A violation that no other owner can be the reason of is a fault."""
    submit(connection, KEY, debits(1))
    connection.begin(writes=True)

    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        connection.query(connection.statements.add_batch, {"key": KEY, "fingerprint": "", "chunks": 0})
    connection.rollback()

    assert not backend.repeatable(caught.value)
    assert not backend.repeatable(ValueError())
    assert backend.repeatable(psycopg.errors.SerializationFailure())


def test_a_lease_that_has_run_out_can_not_be_renewed(connection: PostgresConnection) -> None:
    """An owner is alive until the end of its lease, by the server's clock, and no longer."""
    alive, dead = register(connection, 60.0), register(connection, 0.0)

    assert connection.renew(alive, 60.0)
    assert not connection.renew(dead, 60.0)
    connection.leave(alive)
    assert not connection.renew(alive, 60.0)


def test_owners_that_are_dead_are_replaced(connection: PostgresConnection, other: PostgresConnection) -> None:
    """What a dead owner was sending is taken over, with the time to wait; what a live one sends is not."""
    submit(connection, KEY, debits(10))
    dead, alive, heir = register(connection, 60.0), register(connection), register(other)
    claim(connection, dead, 2)
    claim(connection, alive, 2)
    assert _intents.take_over(other, [Scope(1)], owner=heir) == []
    connection.change("UPDATE jetpay_owner SET lease_until = lease_until - 61 WHERE id = :dead", {"dead": dead})

    unresolved = _intents.take_over(other, [Scope(1)], owner=heir)

    assert [(debit.debit_id, debit.attempts) for debit in unresolved] == [("debit_0", 1), ("debit_1", 1)]
    assert all(29 < debit.wait <= 30 for debit in unresolved)
    assert not connection.renew(dead, 60.0)
    assert _intents.take_over(connection, [Scope(1)], owner=alive) == []


def test_who_was_replaced_has_no_say(connection: PostgresConnection, other: PostgresConnection) -> None:
    """An outcome of an owner that was taken over from changes nothing: its heir tells."""
    submit(connection, KEY, debits(2))
    dead, heir = register(connection, 0.0), register(other)
    held = claim(connection, dead, 2)
    taken = _intents.take_over(other, [Scope(1)], owner=heir)

    record(connection, held, dead)
    assert progress(connection) == Progress(total=2, pending=0, sending=2, captured=0, rejected=0, unknown=0)

    record(other, taken, heir)
    assert progress(connection) == Progress(total=2, pending=0, sending=0, captured=2, rejected=0, unknown=0)


def test_who_stands_still_in_a_transaction_does_not_stop_the_others(
    connection: PostgresConnection, other: PostgresConnection
) -> None:
    """The server ends the transaction of an owner that is paused in it, in a fraction of its lease."""
    submit(connection, KEY, debits(4))
    paused, alive = register(connection, 0.6), register(other)
    held = claim(other, alive, 2)
    connection.begin(writes=True)
    connection.query(connection.statements.reserve_sequence, {"batch": 1, "finished": 1})

    record(other, held, alive)

    with pytest.raises(psycopg.Error) as caught:
        connection.commit()
    assert PostgresBackend("postgresql://").explain(caught.value)
    connection.rollback()
    assert progress(other).captured == 2
    assert paused != alive


# --- a whole run ------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_lease_is_kept_while_nothing_is_captured(postgres_ledger: str) -> None:
    """Captures that are open and wait for something to do are alive, however long a submission takes."""

    async def slowly() -> AsyncIterator[str]:
        for debit_id in debits(4):
            await asyncio.sleep(0.5)
            yield debit_id

    async with serving() as (_, client), client.durable_captures(postgres_ledger, lease_seconds=1.2) as captures:
        batch = await captures.submit(KEY, slowly())

        assert (await batch.wait()).captured == 4


@pytest.mark.asyncio
async def test_two_runs_share_a_batch(postgres_ledger: str) -> None:
    """Two runs on one ledger capture each debit once, and both see the end."""
    async with (
        serving() as (service, client),
        client.durable_captures(postgres_ledger, concurrency=4) as one,
        client.durable_captures(postgres_ledger, concurrency=4) as another,
    ):
        batches = [await captures.submit(KEY, debits(200)) for captures in (one, another)]

        reports = await asyncio.gather(*(batch.wait() for batch in batches))

        assert [report.captured for report in reports] == [200, 200]
        assert set(service.captures.values()) == {1}


async def cut_off(url: str) -> None:
    """End all other connections to a ledger, as a restart of the server does."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.asyncio
async def test_a_lost_connection_stops_the_run(postgres_ledger: str) -> None:
    """Without its ledger a run stops; the same lines go on, and what was in shared is looked up, not sent again."""
    async with serving(timeout=2.0) as (service, client):
        async with client.durable_captures(postgres_ledger, concurrency=4, lease_seconds=1.0) as captures:
            service.always = WAIT
            batch = await captures.submit(KEY, debits(20))
            await service.arrived.wait()
            await cut_off(postgres_ledger)
            with pytest.raises((CapturesStoppedError, LedgerError), match="run the same again"):
                service.go.set()
                await batch.wait()
        service.always = PAID

        async with client.durable_captures(postgres_ledger) as captures:
            report = await (await captures.submit(KEY, debits(20))).wait()

        assert report.captured == 20
        assert set(service.captures.values()) == {1}


@pytest.mark.asyncio
async def test_what_an_api_says_can_be_written_down(ledger: str) -> None:
    """Whatever the reason of a refusal holds, the ledger takes it."""
    said = "no \x00 funds \ud83d 余额不足 %s :id ' \\u0000"
    async with serving() as (service, client), client.durable_captures(ledger) as captures:
        service.always = (409, {"message": said, "detail": said, "error": said})
        batch = await captures.submit(KEY, debits(1))

        (outcome,) = [outcome async for outcome in batch.outcomes()]

        assert (await batch.wait()).rejected == 1
        assert outcome.debit_id == "debit_0"


def test_a_server_clock_that_was_set_back_has_the_time_waited_anew(connection: PostgresConnection) -> None:
    """Two hours back make a wait no longer than the time that the intent was given."""
    submit(connection, KEY, debits(1))
    owner = register(connection)
    connection.begin(writes=True)
    claim(connection, owner + 1, 1)
    connection.change("UPDATE jetpay_debit SET intent_at = intent_at + 7200, certain_at = certain_at + 7200", {})

    (taken,) = _intents.take_over(connection, [Scope(1)], owner=owner)
    connection.commit()

    assert taken.wait == pytest.approx(30.0, abs=2)
