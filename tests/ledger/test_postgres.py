"""A ledger in PostgreSQL: how it is kept, who is alive, and what it says when it can't be used."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
import tracemalloc
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from jetpay_async import ConfigurationError
from jetpay_async.ledger import (
    CapturesStoppedError,
    DebitState,
    Ledger,
    LedgerError,
    Progress,
    UnknownBatchError,
    _intents,
    _repository,
    _sql,
)
from jetpay_async.ledger._backend import Connection
from jetpay_async.ledger._group_commit import GroupCommitExecutor
from jetpay_async.ledger._postgres import PostgresBackend, PostgresConnection, _placeholders
from jetpay_async.ledger._intents import Claim, OutcomeRecord, UnresolvedDebit
from jetpay_async.ledger._repository import Scope
from tests.ledger.service import PAID, WAIT, debits, serving

KEY = "night"


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


def submit(connection: Connection, key: str, debit_ids: list[str]) -> int:
    connection.begin(writes=True)
    _repository.submit(connection, key, enumerate(debit_ids), given=len(debit_ids), chunks=1, fingerprint=key)
    connection.commit()
    return _repository.find_batch(connection, key)[0]


def register(connection: Connection, lease: float = 60.0) -> int:
    connection.begin(writes=True)
    owner = connection.register(lease)
    connection.commit()
    return owner


def claim(connection: Connection, owner: int, limit: int, scope: Scope = Scope(1)) -> list[Claim]:  # noqa: B008
    return _intents.claim(connection, scope, owner=owner, limit=limit, resolve=30.0, rate=None).send


def record(connection: Connection, claimed: Sequence[Claim | UnresolvedDebit], owner: int) -> None:
    """Say that they are captured, every other one as nearly all are."""
    entries = [
        OutcomeRecord(
            each.id,
            each.debit_id,
            each.intent,
            DebitState.CAPTURED,
            each.attempts,
            transaction_state="paid",
            as_expected=bool(place % 2),
        )
        for place, each in enumerate(claimed)
    ]
    connection.begin(writes=True)
    _intents.record(connection, entries, owner=owner)
    connection.commit()


def progress(connection: Connection, batch: int = 1) -> Progress:
    return _repository.progress(connection, batch).progress


# --- how it is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writes", [True, False], ids=["writing", "reading"])
def test_a_transaction_does_not_rely_on_the_servers_defaults(
    backend: PostgresBackend, connection: PostgresConnection, writes: bool
) -> None:
    """A commit is on the disk, and sees what others have committed, whatever the database is set to."""
    connection.change("ALTER ROLE CURRENT_USER SET synchronous_commit = off", {})
    connection.change("ALTER ROLE CURRENT_USER SET default_transaction_isolation = 'serializable'", {})
    connection.change("ALTER ROLE CURRENT_USER SET default_transaction_read_only = on", {})
    try:
        with closing(backend.connect(create=False)) as fresh:
            fresh.begin(writes=writes)
            settings = ("synchronous_commit", "transaction_isolation", "transaction_read_only")
            said = [fresh.query("SELECT current_setting(:name)", {"name": name})[0][0] for name in settings]
            fresh.rollback()
    finally:
        connection.change("SET default_transaction_read_only = off", {})
        connection.change("ALTER ROLE CURRENT_USER RESET ALL", {})

    assert said == ["on", "read committed", "off" if writes else "on"]


def test_settings_end_with_the_transaction(connection: PostgresConnection) -> None:
    """A connection that a pooler lends to others is as it was."""
    before = connection.query("SHOW enable_seqscan", {})

    connection.begin(writes=True)
    assert connection.query("SHOW enable_seqscan", {}) == [("off",)]
    connection.commit()

    assert connection.query("SHOW enable_seqscan", {}) == before == [("on",)]


def test_processes_that_start_together_make_one_ledger(backend: PostgresBackend) -> None:
    """Those that find no tables at the same moment make them once, and all go on."""
    together = threading.Barrier(6)

    def start() -> str:
        together.wait()
        with closing(backend.connect(create=True)) as connection:
            return str(connection.query("SELECT COUNT(*), MIN(version) FROM jetpay_ledger", {}))

    with ThreadPoolExecutor(6) as pool:
        said = [future.result() for future in [pool.submit(start) for _ in range(6)]]

    assert said == [f"[(1, {_sql.SCHEMA_VERSION})]"] * 6


def test_the_tables_made_while_one_waited_are_not_made_again(
    backend: PostgresBackend, connection: PostgresConnection
) -> None:
    """Who waited for the tables of another looks again before it makes its own."""
    answers = iter([False])

    class Late(PostgresConnection):
        def _has_tables(self) -> bool:
            return next(answers, None) is None and super()._has_tables()

    with closing(Late(psycopg.connect(backend._conninfo, autocommit=True))) as late:
        late.prepare("here", create=True)

        assert late.query("SELECT COUNT(*) FROM jetpay_ledger", {}) == [(1,)]


def test_an_id_given_twice_keeps_its_first_place(connection: PostgresConnection) -> None:
    """A debit counts once, where it was given first."""
    submit(connection, KEY, ["a", "b", "a", "c", "b"])

    assert connection.query("SELECT id & 255, debit_id FROM jetpay_debit ORDER BY id", {}) == [
        (0, "a"),
        (1, "b"),
        (3, "c"),
    ]


def test_a_submission_needs_no_more_memory_for_more_debits(connection: PostgresConnection) -> None:
    """Debits go to the server page by page, and are never all in memory."""
    connection.begin(writes=True)
    tracemalloc.start()
    count = connection.insert_debits((number, f"debit-{number:030}") for number in range(60_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    connection.commit()

    assert count == 60_000
    assert peak < 8_000_000, "a page, and not 60,000 rows"


def test_two_submissions_of_one_key_make_one_batch(connection: PostgresConnection, other: PostgresConnection) -> None:
    """The second waits for the first, and finds its batch."""
    connection.begin(writes=True)
    _repository.submit(connection, KEY, enumerate(debits(3)), given=3, chunks=1, fingerprint="f")
    with ThreadPoolExecutor(1) as pool:
        other.begin(writes=True)
        second = pool.submit(_repository.submit, other, KEY, enumerate(debits(3)), given=3, chunks=1, fingerprint="f")
        time.sleep(0.1)
        waited = not second.done()
        connection.commit()
        submitted = second.result()
        other.commit()

    assert waited
    assert (submitted.created, submitted.total) == (False, 3)


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("id = :id", b"id = %(id)s"),
        ("id = ANY(:ids) AND now() + :lease", b"id = ANY(%(ids)s) AND now() + %(lease)s"),
        ("now()::text", b"now()::text"),
        ("debit_id LIKE 'a%' AND id = :id", b"debit_id LIKE 'a%%' AND id = %(id)s"),
    ],
    ids=["one", "some", "a cast", "a percent sign"],
)
def test_names_become_the_drivers_placeholders(statement: str, wanted: bytes) -> None:
    """Only names are replaced."""
    assert _placeholders(statement) == wanted


# --- speed ------------------------------------------------------------------------------------------------------------

LOW, HIGH = 1 << 32, 2 << 32
SPAN = {"low": LOW, "high": HIGH}

# What each statement goes by: never the whole table.
PLANS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "pending": ({**SPAN, "limit": 32}, {"jetpay_debit_pending", "jetpay_debit_sending"}),
    "claimed": ({"ids": [LOW, LOW + 1]}, {"jetpay_debit_pkey", "jetpay_debit_once"}),
    "mark_sending": ({"ids": [LOW, LOW + 1], "owner": 1, "resolve": 1.0}, {"jetpay_debit_pkey"}),
    "known": ({"debit_ids": ["debit_1"]}, {"jetpay_debit_once"}),
    "resolve_first": ({"ids": [LOW, LOW + 1]}, {"jetpay_debit_pkey", "jetpay_debit_once"}),
    "hand_over_resolution": ({"debit_ids": ["debit_1"]}, {"jetpay_debit_once"}),
    "expect_lost_requests": ({"ids": [LOW, LOW + 1], "certain_at": 1.0}, {"jetpay_debit_pkey"}),
    "take_over": ({**SPAN, "owner": 1}, {"jetpay_debit_sending", "jetpay_debit_once", "jetpay_debit_pending"}),
    "waiting": ({**SPAN, "batch": 1}, {"jetpay_debit_sending", "jetpay_debit_once", "jetpay_debit_pending"}),
    "sees_others": ({"owner": 1}, {"jetpay_debit_sending"}),
    "record": (
        {"outcomes": f'[{{"id": {LOW}, "state": "captured"}}]', "base": LOW, "owner": 1},
        {"jetpay_debit_sending", "jetpay_debit_pkey"},
    ),
    "record_paid": (
        {"ids": [LOW], "intents": [1], "base": LOW, "owner": 1},
        {"jetpay_debit_sending", "jetpay_debit_pkey"},
    ),
    "record_followed": (
        {"outcomes": f'[{{"id": {LOW}, "state": "captured"}}]', "base": LOW},
        {"jetpay_debit_accepted", "jetpay_debit_pkey"},
    ),
    "recorded": ({"ids": [LOW], "base": LOW, "finished": 1}, {"jetpay_debit_seq", "jetpay_debit_pkey"}),
    "outcomes": ({"after": LOW, "high": HIGH, "limit": 500}, {"jetpay_debit_seq"}),
    "last_outcomes": (
        {"after": LOW, "high": HIGH, "seq": LOW, "limit": 500},
        {"jetpay_debit_accepted", "jetpay_debit_seq", "jetpay_debit_pkey"},
    ),
    "items": ({"after": LOW, "high": HIGH, "limit": 500}, {"jetpay_debit_pkey"}),
    "progress_of": ({"batch": 1}, {"jetpay_debit_sending", "jetpay_batch_pkey"}),
    "chunk_counts": ({"low": LOW, "high": LOW + 250}, {"jetpay_debit_pkey"}),
    "mine_or_free": (
        {"low": LOW, "high": LOW + 250, "owner": 1},
        {"jetpay_debit_pkey", "jetpay_debit_pending", "jetpay_debit_sending"},
    ),
    "chunks_accepted": (SPAN, {"jetpay_debit_accepted"}),
    "chunks_left": (SPAN, {"jetpay_debit_pending", "jetpay_debit_sending"}),
    "reopen_unknown": (SPAN, {"jetpay_debit_unknown"}),
    "reopen_rejected": (SPAN, {"jetpay_debit_rejected"}),
}


def indexes_of(plan: dict[str, Any]) -> set[str]:
    """The indexes of the debits' and batches' tables that a plan goes by; a scan of a whole table is one of them."""
    found: set[str] = set()
    if plan["Node Type"] == "Seq Scan":
        found.add(f"all of {plan['Relation Name']}")
    if str(name := plan.get("Index Name")).startswith(("jetpay_debit", "jetpay_batch")):
        found.add(str(name))
    return found.union(*(indexes_of(part) for part in plan.get("Plans", ())))


@pytest.mark.parametrize("captured", [0, 50_000, 99_900], ids=["all pending", "half done", "nearly done"])
def test_no_statement_slows_down_with_the_table(connection: PostgresConnection, captured: int) -> None:
    """Of 100,000 debits, every statement of a run finds its own by the small index of a state or by their numbers."""
    connection.begin(writes=True)
    numbered = enumerate(debits(100_000))
    _repository.submit(connection, KEY, numbered, given=100_000, chunks=400, fingerprint="f")
    connection.commit()
    if captured:
        connection.change(
            "UPDATE jetpay_debit SET state = 'captured', seq = id + 1 WHERE id < :end", {"end": LOW + captured}
        )
        connection.change("VACUUM ANALYZE jetpay_debit", {})

    went: dict[str, set[str]] = {}
    for name, (parameters, _) in PLANS.items():
        connection.begin(writes=True)
        ((plan,),) = connection.query(f"EXPLAIN (FORMAT JSON) {getattr(connection.statements, name)}", parameters)
        went[name] = indexes_of(plan[0]["Plan"])
        connection.rollback()

    assert {name: indexes - PLANS[name][1] for name, indexes in went.items() if indexes - PLANS[name][1]} == {}
    assert "jetpay_debit_pending" in went["pending"]


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

    doubts = _intents.take_over(other, [Scope(1)], owner=heir)

    assert [(doubt.debit_id, doubt.attempts) for doubt in doubts] == [("debit_0", 1), ("debit_1", 1)]
    assert all(29 < doubt.wait <= 30 for doubt in doubts)
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
            await asyncio.sleep(0.2)
            yield debit_id

    async with serving() as (_, client), client.durable_captures(postgres_ledger, lease_seconds=0.4) as captures:
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
    async with serving() as (service, client):
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


# --- what is wrong with it --------------------------------------------------------------------------------------------

PASSWORD = "p4ss/w#rd"

REFUSED = "postgresql://jetpay:p4ss%2Fw%23rd@127.0.0.1:1/shop?connect_timeout=2"


async def open_ledger(url: str, *, create: bool = True) -> None:
    async with Ledger(url, create=create):
        pass


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://jetpay:{PASSWORD}@localhost/shop",
        f"postgresql://jetpay:p4ss@localhost:{PASSWORD}/shop",
        f"postgresql://localhost/shop?{PASSWORD}=1",
        "postgresql://jetpay:1234/w#rd@localhost/shop",
        "postgresql://jetpay:p4ss@w#rd@localhost/shop",
    ],
    ids=["with a slash", "as a port", "as an option", "with digits and a slash", "with an at sign"],
)
def test_a_url_that_can_not_be_read_is_not_quoted(url: str) -> None:
    """The error says how to write it, and shows nothing of it: part of it may be the password."""
    with pytest.raises(ConfigurationError, match="special characters in the password as %XX") as caught:
        Ledger(url)

    text = "".join(traceback.format_exception(caught.value))
    assert "w#rd" not in text


@pytest.mark.asyncio
async def test_a_server_that_can_not_be_reached_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """The error says what to check; the password is in no message."""
    with caplog.at_level(0), pytest.raises(LedgerError, match=r"shop at 127\.0\.0\.1:1.*can be reached") as caught:
        await open_ledger(REFUSED)

    text = "".join(traceback.format_exception(caught.value)) + caplog.text + PostgresBackend(REFUSED).name
    assert "p4ss" not in text


def test_a_password_that_a_server_repeats_is_taken_out() -> None:
    """What the server says is told without the password."""
    said = PostgresBackend(REFUSED).explain(psycopg.OperationalError(f"odd: {PASSWORD}\n  and more"))

    assert said is not None
    assert "odd: *** and more" in said


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://", "of PostgreSQL at its usual place"),
        ("postgresql:///shop", "shop at its usual place"),
        ("postgresql://me:secret@db.example/shop", "shop at db.example"),
        ("postgresql://me:secret@db.example:5433/shop", "shop at db.example:5433"),
        ("postgresql://me@a,b/shop", "shop at a,b:,"),
    ],
)
def test_what_a_ledger_is_called(url: str, name: str) -> None:
    """Errors name the database and its host."""
    assert PostgresBackend(url).name == name


def test_a_url_may_set_what_we_set() -> None:
    """Our settings of the connection are defaults."""
    settings = conninfo_to_dict(PostgresBackend("postgresql://h/d?connect_timeout=3")._conninfo)

    assert settings["connect_timeout"] == "3"
    assert settings["application_name"] == "jetpay_async"


@pytest.mark.asyncio
async def test_an_absent_ledger_is_not_made_by_looking(postgres_ledger: str) -> None:
    """A tool that only looks makes no tables."""
    with pytest.raises(LedgerError, match=r"there is no ledger in jetpay_test_\w+ at .*; check the URL"):
        await open_ledger(postgres_ledger, create=False)

    with psycopg.connect(postgres_ledger) as connection:
        assert connection.execute("SELECT to_regclass('jetpay_ledger')").fetchone() == (None,)


@pytest.mark.asyncio
async def test_a_newer_schema_is_left_alone(postgres_ledger: str, connection: PostgresConnection) -> None:
    """A ledger of a later release is rejected, in words."""
    connection.change("UPDATE jetpay_ledger SET version = 99", {})

    with pytest.raises(LedgerError, match=r"schema version 99.*upgrade jetpay_async"):
        await open_ledger(postgres_ledger)


@pytest.mark.asyncio
async def test_a_database_that_can_not_hold_every_text_is_refused(postgres: str) -> None:
    """A reason in any language must be storable: the encoding is UTF8."""
    name = "jetpay_test_latin"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(LedgerError, match="is in LATIN1; a ledger needs one in UTF8"):
            await open_ledger(make_url(postgres, name))
    finally:
        with psycopg.connect(postgres, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def make_url(postgres: str, name: str) -> str:
    return urlunsplit(urlsplit(postgres)._replace(path=f"/{name}"))


@pytest.mark.asyncio
async def test_a_database_that_is_not_there_says_so(postgres: str) -> None:
    """The error names the database, and what to do."""
    with pytest.raises(LedgerError, match='database "no_such_shop" does not exist'):
        await open_ledger(make_url(postgres, "no_such_shop"))


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("25006", "URL of the primary"),
        ("25P03", "was paused"),
        ("28P01", "user and the password"),
        ("3D000", "create the database"),
        ("42501", "grant the user"),
        ("42P01", "tables are gone"),
        ("53100", "disk is full"),
        ("53300", "lacks resources"),
        ("55P03", "another connection holds"),
        ("57014", "took too long"),
        ("57P01", "server was stopped"),
        ("58030", "disk does not work"),
        ("XX001", "damaged"),
        ("XX002", "REINDEX"),
        ("22012", "check that the server runs"),
    ],
)
def test_an_error_of_the_server_says_what_to_do(code: str, said: str) -> None:
    """Each kind of trouble has its next step."""
    error = psycopg.errors.lookup(code)("trouble")

    explained = PostgresBackend("postgresql://h/shop").explain(error)

    assert explained is not None
    assert explained.startswith("the ledger shop at h: trouble; ")
    assert said in explained


def test_the_errors_of_others_are_not_ours_to_explain() -> None:
    """What is no error of PostgreSQL stays as it is."""
    assert PostgresBackend("postgresql://").explain(ValueError("odd")) is None


@pytest.mark.asyncio
async def test_an_unknown_batch(postgres_ledger: str) -> None:
    """Asking for a batch that is not there is an error of its own, and the ledger goes on."""
    async with Ledger(postgres_ledger) as ledger:
        with pytest.raises(UnknownBatchError):
            await ledger.progress("none")
        assert (await ledger.submit(KEY, debits(600))).chunks == 3
        assert await ledger.chunks_left(KEY) == [0, 1, 2]
