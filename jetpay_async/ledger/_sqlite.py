"""A ledger in one SQLite file, for the processes of one machine.

WAL with ``synchronous=FULL``: a commit is on the disk when it returns. NORMAL may lose the last commits on a power cut,
and a lost intent would be a blind second request.

An owner is alive as long as it holds the lock on a file of its own, which the kernel lets go when the process ends,
however it ends. So a paused process is never taken for dead, and the debits of a killed one are free at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jetpay_async._core.migrations import NewerSchemaError
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import _sql
from jetpay_async.ledger._sql import Dialect, Statements
from jetpay_async.ledger.errors import LedgerError, LedgerNotFoundError
from jetpay_async.ledger.migrations import migrations

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from jetpay_async._core.clock import Clock

DIALECT = Dialect(
    key="INTEGER PRIMARY KEY AUTOINCREMENT",
    number="INTEGER",
    real="REAL",
    now=":now",
    among="IN (SELECT value FROM json_each(:ids))",
    among_texts="IN (SELECT value FROM json_each(:debit_ids))",
    numbered="(SELECT value AS id, key + 1 AS place FROM json_each(:ids)) AS o",
    outcomes="""(
        SELECT value ->> 'id' AS id, value ->> 'state' AS state, value ->> 'attempts' AS attempts,
            value ->> 'look_first' AS look_first, value ->> 'seq' AS seq,
            value ->> 'transaction_state' AS transaction_state, value ->> 'confirmed_by_status' AS confirmed_by_status,
            value ->> 'error' AS error, value ->> 'status' AS status, value ->> 'request_id' AS request_id,
            value ->> 'reason' AS reason
        FROM json_each(:outcomes)) AS o""",
    pending="INDEXED BY jetpay_debit_pending",
    sending="INDEXED BY jetpay_debit_sending",
    claim="",
    often_changed="",
)

# The first release with the ->> operator; the other features are older.
_OLDEST = (3, 38)

_WAIT = 60.0
"""Seconds to wait for the other processes; a million debits are submitted in a few."""


_SET_ANEW = 0.1
"""Seconds by which a clock differs that was set anew; a slow machine looks the same, and waits in vain."""


class SqliteBackend:
    """One file."""

    leases = False

    def __init__(self, path: str | os.PathLike[str], clock: Clock) -> None:
        self.path = Path(path).resolve()
        self.name = str(self.path)
        self._clock = clock

    def connect(self, *, create: bool) -> SqliteConnection:
        """Open the file.

        Raises:
            LedgerError: It can't be used.
            ConfigurationError: This platform can't.
        """
        if sys.platform == "win32":  # pragma: no cover - not measured there
            raise ConfigurationError("a ledger in a file needs flock, which this platform lacks; use PostgreSQL")
        if sqlite3.sqlite_version_info < _OLDEST:  # pragma: no cover - a matter of the machine
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} is too old for a ledger; 3.38 or later is needed"
            )
        if not create and not self.path.exists():
            raise LedgerNotFoundError(f"there is no ledger at {self.path}; check the path")
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=_WAIT)
        try:
            opened = SqliteConnection(connection, self.path, self._clock)
            opened.prepare()
        except BaseException:
            connection.close()
            raise
        return opened

    def explain(self, error: Exception) -> str | None:
        """Say what an error of SQLite, or of the file system, means and what to do."""
        if isinstance(error, OSError):
            return f"the ledger {self.path}: {error}; {_ADVICE['SQLITE_CANTOPEN']}"
        if not isinstance(error, sqlite3.Error):
            return None
        code = str(getattr(error, "sqlite_errorname", "") or "")
        for name, advice in _ADVICE.items():
            if code.startswith(name):
                return f"the ledger {self.path}: {error}; {advice}"
        return f"the ledger {self.path}: {error} {code}".rstrip()

    def repeatable(self, error: Exception) -> bool:
        """Say no: a transaction that writes has all others wait, so that none is in its way."""
        del error
        return False


_ADVICE = {
    "SQLITE_FULL": "the disk is full: make room, and run the same again",
    "SQLITE_READONLY": "it can't be written: check the permissions of the file and of its directory",
    "SQLITE_BUSY": "another process holds it: end that one's transaction, and run the same again",
    "SQLITE_LOCKED": "another process holds it: end that one's transaction, and run the same again",
    "SQLITE_CORRUPT": "it is damaged: keep the file, restore a copy, and look up at Jetpay what was captured since",
    "SQLITE_NOTADB": "it is no SQLite database, or damaged: check the path",
    "SQLITE_CANTOPEN": "it can't be opened: check that the directory exists and can be written",
    "SQLITE_IOERR": "the disk does not work as it should: check it, and run the same again",
}


class SqliteConnection:
    """One connection."""

    statements = Statements(DIALECT)

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Clock) -> None:
        self._connection = connection
        self._path = path
        self._time = clock.time
        self._monotonic = clock.monotonic
        self._token = ""
        self._lock: int | None = None
        self._prepared = False

    def prepare(self) -> None:
        """Set the connection up, and make the tables or bring them up to date; touch nothing that is not a ledger."""
        self._pending_migrations()
        execute = self._connection.execute
        if execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise LedgerError(f"the ledger {self._path} can't use a write-ahead log; it needs a local disk")
        execute("PRAGMA synchronous=FULL")
        self.begin(writes=True)
        # Another process may have made or migrated them in the meantime.
        pending = self._pending_migrations()
        if pending is None:
            for statement in _sql.schema(DIALECT):
                execute(statement)
        elif pending:
            self._migrate(pending)
        self.commit()
        self._prepared = True

    def _pending_migrations(self) -> list[tuple[int, Sequence[str]]] | None:
        """Return the steps that the tables still need, or None if there are no tables."""
        tables = {name for (name,) in self.query("SELECT name FROM sqlite_master WHERE type = 'table'", {})}
        if not tables:
            return None
        if "jetpay_ledger" not in tables:
            raise LedgerError(f"{self._path} is another application's database; give the ledger a file of its own")
        found = self.query(self.statements.version, {})[0][0]
        try:
            return list(migrations(DIALECT).after(found))
        except NewerSchemaError as error:
            raise LedgerError(_sql.newer_schema_message(str(self._path), error)) from None

    def _migrate(self, pending: list[tuple[int, Sequence[str]]]) -> None:
        for owner, token, clock in self.query(self.statements.all_owners, {}):
            self._remove_if_dead(owner, token, clock)
        for host, pid in self.query(self.statements.any_owner, {}):
            raise LedgerError(_sql.migration_blocked_message(str(self._path), pending, host, pid))
        for _, statements in pending:
            for statement in statements:
                self.change(statement, {})

    def begin(self, *, writes: bool) -> None:
        """Open a transaction."""
        self._connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        if self._prepared:
            _sql.check_version(self.query(self.statements.version, {})[0][0], str(self._path))

    def commit(self) -> None:
        """Make it durable."""
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def query(self, statement: str, parameters: Mapping[str, Any]) -> list[Sequence[Any]]:
        """Execute a statement and return its rows."""
        return self._connection.execute(statement, {"now": self._time(), **parameters}).fetchall()

    def change(self, statement: str, parameters: Mapping[str, Any]) -> int:
        """Execute a statement and return how many rows it changed."""
        return self._connection.execute(statement, {"now": self._time(), **parameters}).rowcount

    def among(self, ids: Sequence[int]) -> object:
        """Return the value for ``:ids``."""
        return json.dumps(ids)

    def among_texts(self, texts: Sequence[str]) -> object:
        """Return the value for ``:debit_ids``."""
        return json.dumps(texts)

    def insert_debits(self, rows: Iterable[tuple[int, str]]) -> int:
        """Add debits, each once within its batch, and return how many are new."""
        statement = "INSERT INTO jetpay_debit (id, debit_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
        return self._connection.executemany(statement, rows).rowcount

    def guard_submission(self) -> None:
        """Nothing: a transaction that writes keeps all others waiting anyway."""

    def register(self, lease: float) -> int:
        """Make this connection an owner of debits, alive from now on, and return its number."""
        del lease  # the lock tells
        self._token = secrets.token_hex(8)
        # Held before the ledger names it: whoever finds the name can tell from the lock.
        self._lock = os.open(self._lock_path(self._token), os.O_RDWR | os.O_CREAT, 0o600)
        _held[self._token] = self._lock
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner: int = self.query(
            self.statements.register,
            {
                "token": self._token,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "clock": self._set_to(),
                "lease": None,
            },
        )[0][0]
        return owner

    def renew(self, owner: int, lease: float) -> bool:
        """Nothing to renew: the lock is held."""
        del owner, lease
        return True

    def expire_owners(self, owner: int) -> None:
        """Take the owners whose lock nobody holds out of the ledger."""
        for other, token, clock in self.query(self.statements.others, {"owner": owner}):
            self._remove_if_dead(other, token, clock)

    def leave(self, owner: int) -> None:
        """Take this owner out of the ledger, and with it the idle ones that are dead.

        If it leaves a debit in doubt, it stays there for the next one to remove_owner.
        """
        for other, token, clock in self.query(self.statements.idle_others, {"owner": owner}):
            self._remove_if_dead(other, token, clock)
        self.change(self.statements.remove_idle, {"owner": owner})

    def close(self) -> None:
        """Close the connection and let the lock go."""
        self._connection.close()
        if self._lock is not None:
            self._lock_path(self._token).unlink(missing_ok=True)
            if _held.pop(self._token, None) is not None:  # pragma: no branch - a forked child has let it go
                os.close(self._lock)
            self._lock = None

    def _remove_if_dead(self, owner: int, token: str, clock: float) -> None:
        path = self._lock_path(token)
        try:
            lock = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            lock = None
        try:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if abs(clock - self._set_to()) > _SET_ANEW:
                # Whether its requests can still be on their way can't be told by the times that it wrote down.
                self.change(self.statements.wait_anew, {"owner": owner})
            self.change(self.statements.remove_owner, {"owner": owner})
            path.unlink(missing_ok=True)
        except BlockingIOError:
            pass
        finally:
            if lock is not None:
                os.close(lock)

    def _set_to(self) -> float:
        """Say what the clock is set to: the same until somebody sets it, or the machine is started again."""
        return self._time() - self._monotonic()

    def _lock_path(self, token: str) -> Path:
        return self._path.with_name(f"{self._path.name}-owner-{token}")


_held: dict[str, int] = {}
"""The locks of this process, by token."""


def _let_go() -> None:  # pragma: no cover - in a forked child, not measured
    """Let a forked child go of its parent's locks: it would keep them when the parent dies."""
    for lock in _held.values():
        with contextlib.suppress(OSError):
            os.close(lock)
    _held.clear()


if hasattr(os, "register_at_fork"):  # pragma: no branch - where there is fork
    os.register_at_fork(after_in_child=_let_go)
