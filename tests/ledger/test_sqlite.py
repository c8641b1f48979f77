"""A ledger in a file: how it is kept, who is alive, and what it says when it can't be used."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from jetpay_async import ConfigurationError
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import Ledger, LedgerError, UnknownBatchError, _repository, _sql
from jetpay_async.ledger._repository import Scope
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
    "mark_sending": STATEMENTS.mark_sending,
    "claimed": STATEMENTS.claimed,
    "record": STATEMENTS.record,
    "recorded": STATEMENTS.recorded,
    "reserve_sequence": STATEMENTS.reserve_sequence,
    "count": STATEMENTS.count,
    "outcomes": STATEMENTS.outcomes,
    "items": STATEMENTS.items,
    "items in a state": STATEMENTS.items_in["rejected"],
    "progress": STATEMENTS.progress_of,
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


# --- who is alive -----------------------------------------------------------------------------------------------------


@pytest.fixture
def backend(path: Path) -> SqliteBackend:
    return SqliteBackend(path, SYSTEM_CLOCK)


def take_over(connection: SqliteConnection, owner: int) -> list[str]:
    connection.begin(writes=True)
    doubts = _repository.take_over(connection, [Scope(1)], owner=owner)
    connection.commit()
    return [doubt.debit_id for doubt in doubts]


def start(connection: SqliteConnection, limit: int) -> int:
    """Register, and claim some debits of a batch of five."""
    connection.begin(writes=True)
    _repository.submit(connection, KEY, enumerate(debits(5)), given=5, chunks=1, fingerprint="f")
    owner = connection.register(0.0)
    _repository.claim(connection, Scope(1), owner=owner, limit=limit, resolve=30.0, rate=None)
    connection.commit()
    return owner


def test_an_owner_is_alive_while_it_holds_its_lock(backend: SqliteBackend) -> None:
    """What an owner is sending is taken over once its process has let go of the lock, and not before."""
    dead, heir = backend.connect(create=True), backend.connect(create=False)
    start(dead, 2)
    owner = start(heir, 1)
    assert _repository.sees_others(heir, owner)
    assert take_over(heir, owner) == []

    # As a kill does: the lock goes, the ledger still names the owner.
    dead.close()

    assert sorted(take_over(heir, owner)) == ["debit_0", "debit_1"]
    assert take_over(heir, owner) == []
    assert not _repository.sees_others(heir, owner)
    heir.close()


def test_an_owner_whose_lock_file_was_removed_counts_as_dead(backend: SqliteBackend, path: Path) -> None:
    """Somebody tidied up: its debits are settled all the same, once their requests can no longer be on their way."""
    lost, heir = backend.connect(create=True), backend.connect(create=False)
    start(lost, 2)
    owner = start(heir, 1)
    for lock in path.parent.glob("captures.db-owner-*"):
        lock.unlink()

    assert sorted(take_over(heir, owner)) == ["debit_0", "debit_1"]
    lost.close()
    heir.close()


def test_a_clock_that_was_set_in_between_proves_nothing(backend: SqliteBackend, path: Path) -> None:
    """Where the clock was set after a process died, its requests are waited for anew."""
    dead = backend.connect(create=True)
    start(dead, 2)
    dead.close()
    later = attrs.evolve(SYSTEM_CLOCK, time=lambda: time.time() + 3600)
    heir = SqliteBackend(path, later).connect(create=False)
    owner = start(heir, 0)

    heir.begin(writes=True)
    doubts = _repository.take_over(heir, [Scope(1)], owner=owner)
    heir.commit()

    assert [doubt.wait for doubt in doubts] == [pytest.approx(30.0, abs=1.0)] * 2
    heir.close()


def test_a_lock_needs_no_renewal(backend: SqliteBackend) -> None:
    """An owner of a file is alive as long as it holds its lock, however late it says so."""
    connection = backend.connect(create=True)
    owner = start(connection, 0)

    assert connection.renew(owner, 0.0)
    connection.close()


def test_leaving_tidies_up(backend: SqliteBackend, path: Path) -> None:
    """An owner that leaves takes its own traces with it, and those of the dead that left nothing to resolve."""
    dead, last = backend.connect(create=True), backend.connect(create=False)
    start(dead, 0)
    owner = start(last, 0)
    dead._connection.close()
    os.close(dead._lock or 0)

    last.begin(writes=True)
    last.leave(owner)
    last.commit()
    assert last.query("SELECT id FROM jetpay_owner", {}) == []
    last.close()


def test_leaving_keeps_the_clock_of_a_doubt(backend: SqliteBackend, path: Path) -> None:
    """An owner that leaves a debit in doubt stays until it is buried: its clock tells how long that one is to wait."""
    leaving, heir = backend.connect(create=True), backend.connect(create=False)
    owner = start(leaving, 1)

    leaving.begin(writes=True)
    leaving.leave(owner)
    leaving.commit()
    leaving.close()

    assert heir.query("SELECT id FROM jetpay_owner", {}) == [(owner,)]
    assert take_over(heir, start(heir, 0)) == ["debit_0"]
    assert heir.query("SELECT COUNT(*) FROM jetpay_owner", {}) == [(1,)]
    heir.close()

    assert sorted(file.name for file in path.parent.iterdir()) == ["captures.db"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    """A child that outlives its parent doesn't make the parent look alive."""
    script = """
import os, sys, time
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger._sqlite import SqliteBackend
connection = SqliteBackend(sys.argv[1], SYSTEM_CLOCK).connect(create=True)
connection.begin(writes=True)
connection.register(0.0)
connection.commit()
child = os.fork()
if child == 0:
    os.close(1)
    sys.stdin.read()
else:
    print(child, flush=True)
    os._exit(0)
"""
    path = tmp_path / "captures.db"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.stdout.read()
        with closing(SqliteBackend(path, SYSTEM_CLOCK).connect(create=False)) as connection:
            connection.begin(writes=True)
            connection.leave(connection.register(0.0))
            connection.commit()
            assert connection.query("SELECT COUNT(*) FROM jetpay_owner", {}) == [(0,)]


# --- what is wrong with it --------------------------------------------------------------------------------------------


async def open_ledger(path: Path, *, create: bool = True) -> None:
    async with Ledger(path, create=create):
        pass


@pytest.mark.asyncio
async def test_an_absent_ledger_is_not_made_by_looking(path: Path) -> None:
    """A tool that only looks at a ledger doesn't leave an empty one behind."""
    with pytest.raises(LedgerError, match=r"there is no ledger at .*captures\.db; check the path"):
        await open_ledger(path, create=False)

    assert not path.exists()


def a_text(path: Path) -> None:
    path.write_text("not a database, but something of more than a few bytes" * 100)


def another_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE rentals (id)")


def a_newer_schema(path: Path) -> None:
    asyncio.run(open_ledger(path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE jetpay_ledger SET version = 99")


def damaged(path: Path) -> None:
    asyncio.run(open_ledger(path))
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)


def a_directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (a_text, "no SQLite database"),
        (another_database, "another application's database"),
        (a_newer_schema, "schema version 99.*upgrade jetpay_async"),
        (damaged, "damaged"),
        (a_directory, "can't be opened"),
    ],
    ids=["a text", "another application's", "a newer schema", "damaged", "a directory"],
)
def test_what_is_no_ledger_says_what_to_do(path: Path, make: Any, said: str) -> None:
    """A file that can't be used is rejected when it is opened, in words, and is left as it was."""
    make(path)
    before = path.read_bytes() if path.is_file() else b""

    with pytest.raises(LedgerError, match=said):
        asyncio.run(open_ledger(path))

    assert (path.read_bytes() if path.is_file() else b"") == before


@pytest.mark.asyncio
async def test_a_directory_that_is_not_there_says_so(path: Path) -> None:
    """A path into nowhere is an error, with what to check."""
    with pytest.raises(LedgerError, match="check that the directory exists"):
        await open_ledger(path / "captures.db")


@pytest.mark.asyncio
async def test_a_ledger_without_a_log_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where SQLite can't write ahead, as on some network drives, the ledger is rejected."""
    monkeypatch.setattr("jetpay_async.ledger._sqlite.sqlite3.connect", lambda *_, **__: _NoLog())

    with pytest.raises(LedgerError, match="needs a local disk"):
        await open_ledger(path)


class _NoLog:
    def execute(self, statement: str, parameters: object = None) -> _NoLog:
        return self

    def fetchall(self) -> list[tuple[str]]:
        return []

    def fetchone(self) -> tuple[str]:
        return ("delete",)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("ledger", ["", None, 7, "mysql://host/db", b"captures.db"])
def test_what_is_neither_path_nor_url_is_refused(ledger: Any) -> None:
    """A ledger is a path or a postgresql:// URL."""
    with pytest.raises(ConfigurationError, match="is the path of a file, or a postgresql:// URL"):
        Ledger(ledger)


def test_an_error_without_a_name_is_told_as_it_is(path: Path) -> None:
    """An error of SQLite that we know nothing about is told in its own words; another's is not ours to tell."""
    backend = SqliteBackend(path, SYSTEM_CLOCK)

    assert backend.explain(sqlite3.ProgrammingError("odd")) == f"the ledger {path}: odd"
    assert backend.explain(ValueError("odd")) is None
    assert "check that the directory exists and can be written" in str(backend.explain(PermissionError("no")))


# --- the thread -------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_operations_that_meet_share_a_commit(path: Path) -> None:
    """What is ordered while another commit is under way is committed together; and in order."""
    async with Ledger(path) as ledger:
        commits = ledger.commits
        gate = threading.Event()
        first = asyncio.ensure_future(commits.run(lambda _: gate.wait(5)))
        await asyncio.sleep(0.05)
        before = commits.commits
        numbers = [asyncio.ensure_future(commits.run(lambda _, n=n: n)) for n in range(20)]
        await asyncio.sleep(0)
        gate.set()

        assert await first
        assert await asyncio.gather(*numbers) == list(range(20))
        assert commits.commits == before + 2


@pytest.mark.asyncio
async def test_a_transaction_that_fails_fails_for_all_its_parts(path: Path) -> None:
    """Nothing of a transaction that failed counts; the next one is not concerned."""
    async with Ledger(path) as ledger:
        commits = ledger.commits
        gate = threading.Event()
        first = asyncio.ensure_future(commits.run(lambda _: gate.wait(5)))
        await asyncio.sleep(0.05)
        insert = partial(_insert, key="a")
        shared = [
            asyncio.ensure_future(commits.run(insert)),
            asyncio.ensure_future(commits.run(lambda connection: connection.query("SELECT nonsense", {}))),
        ]
        await asyncio.sleep(0)
        gate.set()

        await first
        for part in shared:
            with pytest.raises(LedgerError, match="no such column"):
                await part
        await commits.run(partial(_insert, key="b"))
        assert [batch.key for batch in await ledger.batches()] == ["b"]


def _insert(connection: Any, key: str) -> None:
    connection.query(connection.statements.add_batch, {"key": key, "fingerprint": "", "chunks": 0})


@pytest.mark.asyncio
async def test_what_the_ledger_refuses_spoils_no_other_part(path: Path) -> None:
    """An operation that the ledger refuses has changed nothing: those that shared its transaction stand."""
    async with Ledger(path) as ledger:
        gate = threading.Event()
        first = asyncio.ensure_future(ledger.commits.run(lambda _: gate.wait(5)))
        await asyncio.sleep(0.05)
        rejected = asyncio.ensure_future(ledger.progress("none"))
        kept = asyncio.ensure_future(ledger.commits.run(partial(_insert, key="a")))
        await asyncio.sleep(0)
        gate.set()

        await first
        with pytest.raises(UnknownBatchError):
            await rejected
        await kept
        assert [batch.key for batch in await ledger.batches()] == ["a"]


@pytest.mark.asyncio
async def test_an_order_that_is_no_longer_wanted_is_carried_out_all_the_same(path: Path) -> None:
    """Who stops waiting gets no answer, and nobody else is disturbed."""
    async with Ledger(path) as ledger:
        unwanted = asyncio.ensure_future(ledger.commits.run(partial(_insert, key="a")))
        await asyncio.sleep(0)
        unwanted.cancel()

        assert [batch.key for batch in await ledger.batches()] == ["a"]


@pytest.mark.asyncio
async def test_a_closed_ledger_says_so(path: Path) -> None:
    """Outside of its block a ledger can't be used."""
    ledger = Ledger(path)
    with pytest.raises(ConfigurationError, match="ledger is not open"):
        await ledger.batches()
    async with ledger:
        commits = ledger.commits
    with pytest.raises(LedgerError, match="is closed; open it again"):
        await commits.run(_repository.batches)


@pytest.mark.asyncio
async def test_opening_can_be_cancelled(path: Path) -> None:
    """A cancelled opening leaves no thread behind."""
    before = threading.active_count()
    task = asyncio.ensure_future(open_ledger(path))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    for _ in range(200):
        if threading.active_count() == before:
            break
        await asyncio.sleep(0.01)
    assert threading.active_count() == before


def test_a_program_that_does_not_close_its_ledger_still_ends(path: Path) -> None:
    """A ledger left open keeps no process alive, and what was submitted is there."""
    script = """
import asyncio, sys
from jetpay_async.ledger import Ledger
async def main():
    ledger = await Ledger(sys.argv[1]).__aenter__()
    await ledger.submit("night", ["debit_1"])
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=30)

    async def read() -> int:
        async with Ledger(path, create=False) as ledger:
            return (await ledger.progress("night")).total

    assert asyncio.run(read()) == 1


def test_lock_files_are_private(backend: SqliteBackend, path: Path) -> None:
    """Another user can't hold a run's lock in its stead."""
    connection = backend.connect(create=True)
    start(connection, 0)
    (lock,) = path.parent.glob("captures.db-owner-*")

    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    connection.close()


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
