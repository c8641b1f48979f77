"""How a transaction travels to PostgreSQL: with its first statement, and what nobody waits for with the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from jetpay_async.ledger import DebitState, LedgerError, _intents, _repository
from jetpay_async.ledger._group_commit import GroupCommitExecutor
from jetpay_async.ledger._intents import OutcomeRecord
from jetpay_async.ledger._postgres import PostgresBackend, PostgresConnection
from jetpay_async.ledger._repository import Scope
from tests.ledger.service import debits
from tests.ledger.steps import register, submit

MIGRATED = "start this process again with the newer release"
COUNT = "UPDATE jetpay_batch SET duplicates = duplicates + 1 WHERE id = :batch"


@pytest.fixture
def backend(postgres_ledger: str) -> PostgresBackend:
    return PostgresBackend(postgres_ledger)


@pytest.fixture
def connection(backend: PostgresBackend) -> Iterator[PostgresConnection]:
    """A connection on a new ledger with a batch of 20."""
    with closing(backend.connect(create=True)) as connection:
        submit(connection, "night", debits(20))
        yield connection


@pytest.fixture
def plain(postgres_ledger: str, connection: PostgresConnection) -> Iterator[psycopg.Connection[Any]]:
    """Another session of the same database."""
    del connection
    with psycopg.connect(postgres_ledger, autocommit=True) as plain:
        yield plain


def duplicates(plain: psycopg.Connection[Any]) -> int:
    """What `COUNT` has counted."""
    return int(plain.execute("SELECT duplicates FROM jetpay_batch").fetchall()[0][0])


def migrate(plain: psycopg.Connection[Any]) -> None:
    plain.execute("UPDATE jetpay_ledger SET version = version + 1")


# --- how many round trips ---------------------------------------------------------------------------------------------


def claim(connection: PostgresConnection, rate: float | None = None) -> None:
    _intents.claim(connection, Scope(1), owner=1, limit=5, resolve=30.0, rate=rate)


def claim_at_a_rate(connection: PostgresConnection) -> None:
    claim(connection, 100.0)


def record(connection: PostgresConnection) -> None:
    rows = connection.query("SELECT id, debit_id, intent FROM jetpay_debit WHERE state = 'sending'", {})
    _intents.record(connection, [paid(*row) for row in rows], owner=1)


def paid(number: int, debit_id: str, intent: int) -> OutcomeRecord:
    return OutcomeRecord(number, debit_id, intent, DebitState.CAPTURED, 1, transaction_state="paid", as_expected=True)


def read_outcomes(connection: PostgresConnection) -> None:
    _repository.completion_and_outcomes(connection, batch=1, after=0)


@pytest.mark.parametrize(
    ("operation", "trips"),
    [
        pytest.param(claim, 3, id="claim"),
        pytest.param(claim_at_a_rate, 4, id="claim at a rate"),
        pytest.param(record, 3, id="record, after a read"),
        pytest.param(read_outcomes, 2, id="outcomes"),
    ],
)
def test_what_a_run_repeats_takes_few_round_trips(
    connection: PostgresConnection,
    monkeypatch: pytest.MonkeyPatch,
    operation: Callable[[PostgresConnection], None],
    trips: int,
) -> None:
    """A transaction is opened by its first statement, and what only counts waits for the next one."""
    connection.begin(writes=True)
    claim(connection)
    connection.commit()
    sent: list[object] = []
    execute = psycopg.Connection.execute

    def counting(self: psycopg.Connection[Any], query: Any, *arguments: Any) -> Any:
        sent.append(query)
        return execute(self, query, *arguments)

    monkeypatch.setattr(psycopg.Connection, "execute", counting)
    connection.begin(writes=True)
    operation(connection)
    connection.commit()

    assert len(sent) == trips


def test_what_nobody_waits_for_is_durable_with_the_commit(
    connection: PostgresConnection, plain: psycopg.Connection[Any]
) -> None:
    """A change that was put off is carried out, in its order, by the next statement or by the commit."""
    connection.begin(writes=True)
    connection.change_later(COUNT, {"batch": 1})
    assert connection.query("SELECT duplicates FROM jetpay_batch", {}) == [(1,)]
    connection.change_later(COUNT, {"batch": 1})
    connection.commit()
    assert duplicates(plain) == 2

    connection.begin(writes=True)
    connection.change_later(COUNT, {"batch": 1})
    connection.commit()
    assert duplicates(plain) == 3


def test_what_was_put_off_is_undone_with_the_rest(
    connection: PostgresConnection, plain: psycopg.Connection[Any]
) -> None:
    """Nothing of a transaction that is rolled back is left for what comes after it."""
    connection.begin(writes=True)
    connection.change(COUNT, {"batch": 1})
    connection.change_later(COUNT, {"batch": 1})
    connection.rollback()
    connection.begin(writes=True)
    connection.query("SELECT 1", {})
    connection.commit()

    connection.begin(writes=True)
    connection.change_later(COUNT, {"batch": 1})
    connection.rollback()
    connection.query("SELECT 1", {})
    connection.commit()

    assert duplicates(plain) == 0


@pytest.mark.parametrize("text", ["it's", 'a "b" %(c)s %', "back\\slash", "ünïcode ✓", "{1,2}", ";--"])
def test_a_text_arrives_as_it_is_in_a_first_statement(connection: PostgresConnection, text: str) -> None:
    """What is written into the statement by the driver can't be taken for a part of it."""
    connection.begin(writes=True)
    assert connection.query("SELECT CAST(:text AS text)", {"text": text}) == [(text,)]
    assert connection.query("SELECT CAST(:text AS text)", {"text": text}) == [(text,)]
    texts = {"debit_ids": connection.among_texts([text, "other"]), "text": text}
    connection.rollback()
    connection.begin(writes=True)
    assert connection.query("SELECT CAST(:text AS text) = ANY(:debit_ids)", texts) == [(True,)]
    connection.rollback()


# --- another release --------------------------------------------------------------------------------------------------


def test_nothing_of_a_transaction_is_committed_once_the_ledger_was_migrated(
    connection: PostgresConnection, plain: psycopg.Connection[Any]
) -> None:
    """The version arrives with the first statement: what that one and others have changed does not commit."""
    migrate(plain)

    connection.begin(writes=True)
    for step in (connection.change, connection.change, connection.query):
        with pytest.raises(LedgerError, match=MIGRATED):
            step(COUNT, {"batch": 1})
    with pytest.raises(LedgerError, match=MIGRATED):
        connection.commit()
    connection.rollback()

    connection.begin(writes=True)
    connection.change_later(COUNT, {"batch": 1})
    with pytest.raises(LedgerError, match=MIGRATED):
        connection.commit()
    connection.rollback()
    assert duplicates(plain) == 0


@pytest.mark.asyncio
async def test_all_that_share_a_transaction_fail_once_the_ledger_was_migrated(
    backend: PostgresBackend, connection: PostgresConnection, plain: psycopg.Connection[Any]
) -> None:
    """A unit of work that catches the error of the version can't have the others commit."""
    del connection
    commits = GroupCommitExecutor(backend)
    await commits.open(create=False)
    migrate(plain)

    def careless(connection: Any) -> None:
        with pytest.raises(LedgerError, match=MIGRATED):
            connection.change(COUNT, {"batch": 1})

    with pytest.raises(LedgerError, match=MIGRATED):
        await commits.run(careless)
    await commits.close()
    assert duplicates(plain) == 0


def test_a_statement_about_what_a_migration_took_away(
    connection: PostgresConnection, plain: psycopg.Connection[Any]
) -> None:
    """Where the first statement fails because another release has changed the tables, the error says so."""
    plain.execute("ALTER TABLE jetpay_batch RENAME COLUMN duplicates TO repeated")
    connection.begin(writes=True)
    with pytest.raises(psycopg.errors.UndefinedColumn):
        connection.change(COUNT, {"batch": 1})
    connection.rollback()

    migrate(plain)
    connection.begin(writes=True)
    with pytest.raises(LedgerError, match=MIGRATED):
        connection.change(COUNT, {"batch": 1})
    with pytest.raises(LedgerError, match=MIGRATED):
        connection.commit()
    connection.rollback()


# --- counts -----------------------------------------------------------------------------------------------------------


def test_an_outcome_that_another_owner_records_finishes_nothing(connection: PostgresConnection) -> None:
    """Outcomes are counted before they are recorded: of those that were lost meanwhile, the count is taken back."""
    owner = register(connection)
    connection.begin(writes=True)
    claims = _intents.claim(connection, Scope(1), owner=owner, limit=20, resolve=30.0, rate=None).send
    connection.change("UPDATE jetpay_debit SET owner = 99 WHERE debit_id = 'debit_0'", {})
    entries = [paid(each.id, each.debit_id, each.intent) for each in claims]
    _intents.record(connection, entries, owner=owner)
    connection.commit()

    info = _repository.progress(connection, 1)
    assert (info.progress.captured, info.progress.sending, info.finished_at) == (19, 1, None)

    connection.begin(writes=True)
    _intents.record(connection, entries[:1], owner=99)
    connection.commit()
    info = _repository.progress(connection, 1)
    assert info.progress.captured == 20
    assert info.finished_at is not None
