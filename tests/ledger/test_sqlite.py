"""A ledger in a file: how it is kept, and how fast it is found."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import _repository, _sql
from jetpay_async.ledger._sql import Statements
from jetpay_async.ledger._sqlite import DIALECT, SqliteBackend, SqliteConnection
from tests.ledger.service import debits

KEY = "night"
STATEMENTS = Statements(DIALECT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captures.db"


@pytest.fixture
def connection(path: Path) -> Iterator[SqliteConnection]:
    """A connection on a new ledger with a batch of 600, inside a transaction."""
    with closing(SqliteBackend(path, SYSTEM_CLOCK).connect(create=True)) as connection:
        connection.begin(writes=True)
        numbered = enumerate(debits(600))
        _repository.submit(connection, KEY, numbered, given=600, chunks=3, fingerprint="f")
        yield connection
        connection.rollback()


# --- durability -------------------------------------------------------------------------------------------------------


def test_a_commit_is_on_the_disk(connection: SqliteConnection) -> None:
    """The log is written ahead, and each commit waits for the disk."""
    assert connection.query("PRAGMA journal_mode", {}) == [("wal",)]
    assert connection.query("PRAGMA synchronous", {}) == [(2,)], "FULL"


# --- speed ------------------------------------------------------------------------------------------------------------

STEADY = {
    "pending": STATEMENTS.pending,
    "claim_pending": STATEMENTS.claim_pending,
    "mark_sending": STATEMENTS.mark_sending,
    "claimed": STATEMENTS.claimed,
    "record": STATEMENTS.record,
    "record_paid": STATEMENTS.record_paid,
    "recorded": STATEMENTS.recorded,
    "reserve_sequence": STATEMENTS.reserve_sequence,
    "count": STATEMENTS.count,
    "count_ahead": STATEMENTS.count_ahead,
    "outcomes": STATEMENTS.outcomes,
    "items": STATEMENTS.items,
    "items in a state": STATEMENTS.items_in["rejected"],
    "progress": STATEMENTS.progress_of,
    "completion_and_outcomes": STATEMENTS.completion_and_outcomes,
    "chunk_counts": STATEMENTS.chunk_counts,
    "mine_or_free": STATEMENTS.mine_or_free,
    "take_over": STATEMENTS.take_over,
    "sees_others": STATEMENTS.sees_others,
    "others": STATEMENTS.others,
    "reopen_rejected": STATEMENTS.reopen_rejected,
    "reopen_unknown": STATEMENTS.reopen_unknown,
}


@pytest.mark.parametrize("statement", STEADY.values(), ids=STEADY)
def test_no_statement_scans_the_debits(connection: SqliteConnection, statement: str) -> None:
    """Every statement of a run finds its debits by an index, however many there are."""
    parameters = dict.fromkeys(re.findall(r":([a-z_]+)", statement), 1) | {"ids": "[1]", "outcomes": "[]"}

    plan = [row[-1] for row in connection.query(f"EXPLAIN QUERY PLAN {statement}", parameters)]

    scans = [step for step in plan if re.match(r"SCAN (jetpay_debit|d|o)\b", step)]
    # What is being sent is never more than is in shared: its own index may be read from end to end.
    assert [step for step in scans if "USING" not in step or "jetpay_debit_sending" not in step] == []


def test_a_claim_goes_by_the_index_of_the_pending(connection: SqliteConnection) -> None:
    """The next debits come from the index of the pending ones, in their order, without sorting."""
    parameters = {"low": 0, "high": 1 << 40, "limit": 32}

    plan = [row[-1] for row in connection.query(f"EXPLAIN QUERY PLAN {STATEMENTS.pending}", parameters)]

    assert any("jetpay_debit_pending" in step for step in plan)
    assert not any("TEMP B-TREE" in step for step in plan)


@pytest.mark.parametrize(
    "statement",
    [STATEMENTS.progress_of, STATEMENTS.take_over, STATEMENTS.chunks_left, STATEMENTS.items_in["sending"]],
    ids=["progress", "take_over", "chunks_left", "items"],
)
def test_what_is_being_sent_is_found_by_its_own_index(connection: SqliteConnection, statement: str) -> None:
    """The few debits that are being sent are not looked for among all of their batch."""
    parameters = dict.fromkeys(re.findall(r":([a-z_]+)", statement), 1)

    plan = [row[-1] for row in connection.query(f"EXPLAIN QUERY PLAN {statement}", parameters)]

    steps = [step for step in plan if re.match(r"(SCAN|SEARCH) (jetpay_debit|d)\b", step)]
    assert any("jetpay_debit_sending" in step for step in steps)
    assert not any("PRIMARY KEY" in step for step in steps)


# --- a new ledger -----------------------------------------------------------------------------------------------------


def test_processes_that_start_together_make_one_ledger(path: Path) -> None:
    """Several processes that open a new ledger at the same moment all get it."""
    script = """
import asyncio, sys
from jetpay_async.ledger import Ledger
async def main():
    sys.stdin.readline()
    async with Ledger(sys.argv[1]) as ledger:
        print((await ledger.submit("night", ["debit_1"])).created)
asyncio.run(main())
"""
    command = [sys.executable, "-c", script, str(path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0].strip() for process in processes]

    assert sorted(said) == ["False", "False", "False", "True"]


def test_the_version_is_that_of_the_schema(connection: SqliteConnection) -> None:
    """A new ledger says which schema it has."""
    assert connection.query("SELECT version FROM jetpay_ledger", {}) == [(_sql.SCHEMA_VERSION,)]
