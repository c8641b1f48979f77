"""A ledger in a file: which owners are alive, and what is taken over from those that are not."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async.ledger import _intents, _repository
from jetpay_async.ledger._repository import Scope
from jetpay_async.ledger._sqlite import SqliteBackend, SqliteConnection
from tests.ledger.service import debits

KEY = "night"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "captures.db"


@pytest.fixture
def backend(path: Path) -> SqliteBackend:
    return SqliteBackend(path, SYSTEM_CLOCK)


def take_over(connection: SqliteConnection, owner: int) -> list[str]:
    connection.begin(writes=True)
    unresolved = _intents.take_over(connection, [Scope(1)], owner=owner)
    connection.commit()
    return [debit.debit_id for debit in unresolved]


def start(connection: SqliteConnection, limit: int) -> int:
    """Register, and claim some debits of a batch of five."""
    connection.begin(writes=True)
    _repository.submit(connection, KEY, enumerate(debits(5)), given=5, chunks=1, fingerprint="f")
    owner = connection.register(0.0)
    _intents.claim(connection, Scope(1), owner=owner, limit=limit, resolve=30.0, rate=None)
    connection.commit()
    return owner


def test_an_owner_is_alive_while_it_holds_its_lock(backend: SqliteBackend) -> None:
    """What an owner is sending is taken over once its process has let go of the lock, and not before."""
    dead, heir = backend.connect(create=True), backend.connect(create=False)
    start(dead, 2)
    owner = start(heir, 1)
    assert _intents.sees_others(heir, owner)
    assert take_over(heir, owner) == []

    # As a kill does: the lock goes, the ledger still names the owner.
    dead.close()

    assert sorted(take_over(heir, owner)) == ["debit_0", "debit_1"]
    assert take_over(heir, owner) == []
    assert not _intents.sees_others(heir, owner)
    heir.close()


def kill(connection: SqliteConnection) -> None:
    """Leave what a killed process leaves behind: its row, its file, and no lock on it."""
    connection._connection.close()
    assert connection._lock is not None
    connection._lock.forget()


def remove_locks(path: Path) -> None:
    """Do as a cleaner of temporary files does."""
    for lock in path.parent.glob("captures.db-owner-*"):
        lock.unlink()


def renew(connection: SqliteConnection, owner: int) -> bool:
    connection.begin(writes=True)
    renewed = connection.renew(owner, 0.0)
    connection.commit()
    return renewed


def test_an_owner_whose_lock_file_was_removed_counts_as_dead(backend: SqliteBackend, path: Path) -> None:
    """What it was sending is taken over by another owner, not by itself; and it learns that it is no owner any more."""
    lost, heir = backend.connect(create=True), backend.connect(create=False)
    owner_lost = start(lost, 2)
    owner = start(heir, 1)
    remove_locks(path)
    heir.begin(writes=True)
    heir.expire_owners(owner)
    heir.commit()
    assert take_over(lost, owner_lost) == []

    assert sorted(take_over(heir, owner)) == ["debit_0", "debit_1"]
    assert not renew(lost, owner_lost)
    assert renew(heir, owner)
    lost.close()
    heir.close()


def test_an_owner_makes_its_lock_file_again(backend: SqliteBackend, path: Path) -> None:
    """An owner whose lock file was removed, and who is the first to notice, goes on as before."""
    alive, other = backend.connect(create=True), backend.connect(create=False)
    owner_alive = start(alive, 2)
    owner = start(other, 1)
    remove_locks(path)

    assert renew(alive, owner_alive)
    assert take_over(other, owner) == []
    alive.close()
    assert sorted(take_over(other, owner)) == ["debit_0", "debit_1"]
    other.close()


def test_an_owner_lives_as_long_as_its_row(backend: SqliteBackend) -> None:
    """However late an owner of a file renews, it is alive; once it is out of the ledger, it is not."""
    connection = backend.connect(create=True)
    owner = start(connection, 0)

    assert connection.renew(owner, 0.0)
    connection.leave(owner)
    assert not connection.renew(owner, 0.0)
    connection.close()


def test_leaving_tidies_up(backend: SqliteBackend, path: Path) -> None:
    """An owner that leaves takes its own traces with it, and those of the dead that left nothing to resolve."""
    dead, last = backend.connect(create=True), backend.connect(create=False)
    start(dead, 0)
    owner = start(last, 0)
    kill(dead)

    last.begin(writes=True)
    last.leave(owner)
    last.commit()
    assert last.query("SELECT id FROM jetpay_owner", {}) == []
    last.close()


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


def test_lock_files_are_private(backend: SqliteBackend, path: Path) -> None:
    """Another user can't hold a run's lock in its stead."""
    connection = backend.connect(create=True)
    start(connection, 0)
    (lock,) = path.parent.glob("captures.db-owner-*")

    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    connection.close()
