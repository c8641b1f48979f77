"""A ledger in PostgreSQL: how it is kept, and how fast it is found."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import psycopg
import pytest

from jetpay_async.ledger import _repository, _sql
from jetpay_async.ledger._postgres import PostgresBackend, PostgresConnection, _placeholders
from tests.ledger.service import debits
from tests.ledger.steps import submit

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


@pytest.mark.parametrize("setting", ["enable_seqscan", "jit"])
def test_settings_end_with_the_transaction(connection: PostgresConnection, setting: str) -> None:
    """Scans and JIT, which would compile each statement, are off; a connection that a pooler lends on is as it was."""
    connection.change(f"SET {setting} = on", {})

    connection.begin(writes=True)
    assert connection.query(f"SHOW {setting}", {}) == [("off",)]
    connection.commit()

    assert connection.query(f"SHOW {setting}", {}) == [("on",)]


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_text_comes_back_as_it_was(
    postgres_ledger: str, monkeypatch: pytest.MonkeyPatch, encoding: str, connection: PostgresConnection
) -> None:
    """Whatever encoding the environment or the URL asks for, ids and reasons are text in any language."""
    submit(connection, KEY, ["débit_余额"])
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    mark = "&" if "?" in postgres_ledger else "?"

    for url in (postgres_ledger, f"{postgres_ledger}{mark}client_encoding={encoding}"):
        with closing(PostgresBackend(url).connect(create=False)) as other:
            assert other.query("SELECT debit_id FROM jetpay_debit", {}) == [("débit_余额",)]


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

    with closing(Late(psycopg.connect(backend._conninfo, autocommit=True), "here", schema_chosen=False)) as late:
        late.prepare(create=True)

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
    "claimed": ({"ids": f"{{{LOW},{LOW + 1}}}"}, {"jetpay_debit_pkey", "jetpay_debit_once"}),
    "claim_pending": (
        {**SPAN, "limit": 32, "owner": 1, "resolve": 1.0},
        {"jetpay_debit_pending", "jetpay_debit_sending", "jetpay_debit_pkey"},
    ),
    "mark_sending": ({"ids": f"{{{LOW},{LOW + 1}}}", "owner": 1, "resolve": 1.0}, {"jetpay_debit_pkey"}),
    "known": ({"debit_ids": ["debit_1"]}, {"jetpay_debit_once"}),
    "resolve_first": ({"ids": f"{{{LOW},{LOW + 1}}}"}, {"jetpay_debit_pkey", "jetpay_debit_once"}),
    "hand_over_resolution": ({"debit_ids": ["debit_1"]}, {"jetpay_debit_once"}),
    "expect_lost_requests": ({"ids": f"{{{LOW},{LOW + 1}}}", "certain_at": 1.0}, {"jetpay_debit_pkey"}),
    "take_over": ({**SPAN, "owner": 1}, {"jetpay_debit_sending", "jetpay_debit_once", "jetpay_debit_pending"}),
    "waiting": ({**SPAN, "batch": 1}, {"jetpay_debit_sending", "jetpay_debit_once", "jetpay_debit_pending"}),
    "sees_others": ({"owner": 1}, {"jetpay_debit_sending"}),
    "record": (
        {"outcomes": f'[{{"id": {LOW}, "state": "captured"}}]', "base": LOW, "batch": 1, "owner": 1},
        {"jetpay_debit_sending", "jetpay_debit_pkey", "jetpay_batch_pkey"},
    ),
    "record_paid": (
        {"ids": f"{{{LOW}}}", "intent": 1, "base": LOW, "batch": 1, "owner": 1},
        {"jetpay_debit_sending", "jetpay_debit_pkey", "jetpay_batch_pkey"},
    ),
    "record_followed": (
        {"outcomes": f'[{{"id": {LOW}, "state": "captured"}}]', "base": LOW, "earlier": "accepted"},
        {"jetpay_debit_accepted", "jetpay_debit_pkey"},
    ),
    "recorded": ({"ids": f"{{{LOW}}}", "base": LOW, "finished": 1}, {"jetpay_debit_seq", "jetpay_debit_pkey"}),
    "outcomes": ({"after": LOW, "high": HIGH, "limit": 500}, {"jetpay_debit_seq"}),
    "last_outcomes": (
        {"after": LOW, "high": HIGH, "seq": LOW, "limit": 500},
        {"jetpay_debit_accepted", "jetpay_debit_seq", "jetpay_debit_pkey"},
    ),
    "items": ({"after": LOW, "high": HIGH, "limit": 500}, {"jetpay_debit_pkey"}),
    "progress_of": ({"batch": 1}, {"jetpay_debit_sending", "jetpay_batch_pkey"}),
    "completion_and_outcomes": (
        {"batch": 1, "after": LOW, "high": HIGH, "limit": 500},
        {"jetpay_batch_pkey", "jetpay_debit_seq"},
    ),
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


def rows_of(plan: dict[str, Any]) -> float:
    """The most rows that a step of an executed plan has read, those that it left out included."""
    left_out = plan.get("Rows Removed by Join Filter", 0) + plan.get("Rows Removed by Filter", 0)
    own: float = (plan["Actual Rows"] + left_out) * plan["Actual Loops"]
    return max([own, *(rows_of(part) for part in plan.get("Plans", ()))])


@pytest.mark.parametrize("name", ["claim_pending", "completion_and_outcomes"])
def test_a_claim_and_a_page_read_no_more_than_they_return(connection: PostgresConnection, name: str) -> None:
    """With statistics of before the batch ran, as in a run, a claim neither joins all debits nor sorts all outcomes."""
    connection.begin(writes=True)
    _repository.submit(connection, KEY, enumerate(debits(10_000)), given=10_000, chunks=40, fingerprint="f")
    connection.commit()
    connection.begin(writes=True)
    connection.change("UPDATE jetpay_debit SET state = 'captured', seq = id + 1 WHERE id < :end", {"end": LOW + 2_000})
    connection.change(
        "UPDATE jetpay_debit SET state = 'sending' WHERE id >= :end AND id < :end + 200", {"end": LOW + 2_000}
    )
    parameters = {**PLANS["claim_pending"][0], **PLANS["completion_and_outcomes"][0], "limit": 100}

    ((plan,),) = connection.query(f"EXPLAIN (ANALYZE, FORMAT JSON) {getattr(connection.statements, name)}", parameters)

    assert 100 <= rows_of(plan[0]["Plan"]) <= 101
