"""A ledger in one SQLite file, for the processes of one machine.

An owner is alive as long as it holds the lock on a file of its own, so a paused process is never taken for dead, and
the debits of a killed one are free at once.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from jetpay_async._core import json, sqlite
from jetpay_async._core.migrations import NewerSchemaError
from jetpay_async._core.sqlite import FileIdentity, FileIdentityError, SqliteSchema
from jetpay_async.errors import ConfigurationError
from jetpay_async.ledger import _maintenance, _sql, _version_check
from jetpay_async.ledger._dialect import Dialect
from jetpay_async.ledger._owner_lock import OwnerLock, is_released
from jetpay_async.ledger._sql import Statements
from jetpay_async.ledger.errors import LedgerError, LedgerNotFoundError
from jetpay_async.ledger.migrations import migrations

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from jetpay_async._core.clock import Clock

DIALECT = Dialect(
    key="INTEGER PRIMARY KEY AUTOINCREMENT",
    number="INTEGER",
    real="REAL",
    now=":now",
    # A clock that was set is noticed before this is read.
    wait="certain_at - :now",
    among="IN (SELECT value FROM json_each(:ids))",
    among_texts="IN (SELECT value FROM json_each(:debit_ids))",
    page_first="",
    numbered="(SELECT value AS id, key + 1 AS place FROM json_each(:ids)) AS o",
    outcomes="""(
        SELECT value ->> 'id' AS id, value ->> 'intent' AS intent, value ->> 'state' AS state,
            value ->> 'attempts' AS attempts, value ->> 'certain_in' AS certain_in,
            value ->> 'seen_state' AS seen_state,
            value ->> 'resolve_first' AS resolve_first, value ->> 'seq' AS seq,
            value ->> 'transaction_state' AS transaction_state, value ->> 'confirmed_by_status' AS confirmed_by_status,
            value ->> 'error' AS error, value ->> 'status' AS status, value ->> 'request_id' AS request_id,
            value ->> 'reason' AS reason
        FROM json_each(:outcomes)) AS o""",
    pending="INDEXED BY jetpay_debit_pending",
    sending="INDEXED BY jetpay_debit_sending",
    claim="",
    lock_rows="",
    submitted="""(
        SELECT value ->> 'reference' AS reference, value ->> 'arguments' AS arguments FROM json_each(:rows)) AS s""",
    items_left="INDEXED BY jetpay_payment_item_left",
    analyze_payments="",
    often_changed="",
)

SCHEMA = SqliteSchema("jetpay_ledger", _sql.schema(DIALECT), migrations(DIALECT))

# The first release with the ->> operator; the other features are older.
_OLDEST_SQLITE = (3, 38)

_BUSY_TIMEOUT_SECONDS = 60.0
"""How long to wait for other processes; a million debits are submitted in a few seconds."""

_CLOCK_STEP_SECONDS = 0.1
"""By how much a clock that was set differs, at least; where a slow machine looks the same, it costs a wait."""

_CLOCK_NOTE_SECONDS = 1.0
"""How old the time that the ledger was changed last may become before it is noted again."""


class SqliteBackend:
    """A ledger's file.

    Args:
        path: The file; a symbolic link is followed.
        clock: Wall clock and monotonic clock.
    """

    leases = False
    in_user_transactions = False

    def __init__(self, path: str | os.PathLike[str], clock: Clock) -> None:
        # Unlike `Path.resolve`, it raises nothing where links lead in a circle: opening fails, with a reason.
        self.path = Path(os.path.realpath(path))
        self.name = str(self.path)
        self._clock = clock

    def connect(self, *, create: bool) -> SqliteConnection:
        """Open the file, and make the tables or bring them up to date.

        Raises:
            LedgerError: It can't be used.
            FileIdentityError: The same: it has another name.
            ConfigurationError: SQLite is too old, or the platform lacks file locks.
        """
        if sys.platform == "win32":  # pragma: no cover - not measured there
            raise ConfigurationError("a ledger in a file needs flock, which this platform lacks; use PostgreSQL")
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise ConfigurationError(
                f"SQLite {sqlite3.sqlite_version} is too old for a ledger; 3.38 or later is needed"
            )
        if not create and not self.path.exists():
            raise LedgerNotFoundError(f"there is no ledger at {self.path}; check the path")
        connection = sqlite.connect(self.path, busy_timeout=_BUSY_TIMEOUT_SECONDS)
        try:
            opened = SqliteConnection(connection, self.path, self._clock)
            opened.prepare()
        except BaseException:
            connection.close()
            raise
        return opened

    def explain(self, error: Exception) -> str | None:
        """Say what an error of SQLite, or of the file system, means and what to do."""
        if isinstance(error, FileIdentityError):
            return f"the ledger {error}"
        if not isinstance(error, sqlite3.Error | OSError):
            return None
        explanation = sqlite.explain(error)
        if explanation is None:
            return f"the ledger {self.path}: {error} {getattr(error, 'sqlite_errorname', '')}".rstrip()
        return f"the ledger {self.path}: {error}; {explanation.advice}, {_NEXT_STEPS[explanation.reason]}"

    def repeatable(self, error: Exception) -> bool:
        """Return False: transactions that write wait for each other, so none of them collides."""
        del error
        return False


_RUN_AGAIN = "and run the same again"

_NEXT_STEPS: dict[sqlite.Reason, str] = {
    "locked": _RUN_AGAIN,
    "readonly": _RUN_AGAIN,
    "full": _RUN_AGAIN,
    "damaged": "and look up at Jetpay what was captured since",
    "unavailable": _RUN_AGAIN,
}


class SqliteConnection:
    """One connection to a ledger's file."""

    statements = Statements(DIALECT)

    def __init__(self, connection: sqlite3.Connection, path: Path, clock: Clock) -> None:
        self._connection = connection
        self._path = path
        self._time = clock.time
        self._monotonic = clock.monotonic
        self._lock: OwnerLock | None = None
        self._identity: FileIdentity | None = None
        """Known from the end of `prepare` on."""
        self._offset = 0.0
        """That of the clock on which the ledger's times are, as the latest transaction that writes has read it."""
        self._noted_at = -math.inf
        """When this connection noted it last, on the monotonic clock."""
        self._changes = 0
        """Rows that the connection had changed when the clock was noted or a transaction ended."""

    def prepare(self) -> None:
        """Set the connection up, and make the tables or bring them up to date; touch nothing that is not a ledger."""
        # Before the log is made: another application's database may not want one.
        self.begin(writes=False)
        self._refuse_others()
        self.commit()
        if not sqlite.make_durable(self._connection, within=_BUSY_TIMEOUT_SECONDS):
            raise LedgerError(f"the ledger {self._path} can't use a write-ahead log; it needs a local disk")
        self.begin(writes=True)
        self._refuse_others()
        SCHEMA.install(self._connection, before_migrating=self._require_no_owners)
        self._check_clock(*self.query(self.statements.version_and_clock, {})[0][1:])
        self.commit()
        self._identity = FileIdentity.of(self._path)

    def _refuse_others(self) -> None:
        try:
            pending = SCHEMA.pending(self._connection)
        except NewerSchemaError as error:
            raise LedgerError(_version_check.newer_schema_message(str(self._path), error)) from None
        if pending is None and self.query("SELECT 1 FROM sqlite_master WHERE type = 'table'", {}):
            raise LedgerError(f"{self._path} is another application's database; give the ledger a file of its own")

    def _require_no_owners(self, pending: Sequence[sqlite.Step]) -> None:
        for owner, token in self.query(self.statements.all_owners, {}):
            self._remove_if_dead(owner, token)
        for host, pid in self.query(self.statements.any_owner, {}):
            raise LedgerError(_version_check.migration_blocked_message(str(self._path), pending, host, pid))

    def begin(self, *, writes: bool) -> None:
        """Open a transaction.

        Raises:
            LedgerError: Another release has migrated the ledger while it was open.
        """
        self._connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        if self._identity is not None:
            version, offset, noted_at = self._connection.execute(self.statements.version_and_clock).fetchone()
            _version_check.check_version(version, str(self._path))
            if writes:
                self._check_clock(offset, noted_at)
        if writes and self._lock is not None:
            self._lock.restore()

    def commit(self) -> None:
        """Make it durable.

        Raises:
            FileIdentityError: It went into a file that nobody will find.
        """
        if self._identity is not None and self._connection.total_changes > self._changes:
            if self._monotonic() - self._noted_at >= _CLOCK_NOTE_SECONDS:
                self._note_clock()
            self._changes = self._connection.total_changes
        self._connection.execute("COMMIT")
        if self._identity is not None:
            self._identity.check()

    def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        # What was noted of the clock is undone with the rest.
        self._noted_at = -math.inf
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def query(self, statement: str, parameters: Mapping[str, Any]) -> list[Sequence[Any]]:
        """Execute a statement and return its rows."""
        return self._connection.execute(statement, {"now": self._time(), **parameters}).fetchall()

    def change(self, statement: str, parameters: Mapping[str, Any]) -> int:
        """Execute a statement and return how many rows it changed."""
        return self._connection.execute(statement, {"now": self._time(), **parameters}).rowcount

    def change_later(self, statement: str, parameters: Mapping[str, Any]) -> None:
        """Execute a statement at once: there is no way that it would share."""
        self._connection.execute(statement, {"now": self._time(), **parameters})

    def among(self, ids: Sequence[int]) -> object:
        """Return the value for ``:ids``."""
        return json.dump(list(ids)).decode()

    def among_texts(self, texts: Sequence[str]) -> object:
        """Return the value for ``:debit_ids``."""
        return json.dump(list(texts)).decode()

    def insert_debits(self, rows: Iterable[tuple[int, str]]) -> int:
        """Add debits, each once within its batch, and return how many are new."""
        statement = "INSERT INTO jetpay_debit (id, debit_id) VALUES (?, ?) ON CONFLICT DO NOTHING"
        return self._connection.executemany(statement, rows).rowcount

    def guard_submission(self) -> None:
        """Do nothing: transactions that write wait for each other anyway."""

    def lock_transaction(self, transaction_id: str) -> None:
        """Do nothing: transactions that write wait for each other anyway."""

    def allow_long_statements(self) -> None:
        """Do nothing: no statement is limited."""

    def objects(self) -> frozenset[str]:
        """Name the columns of the tables, and the indexes."""
        return _maintenance.objects_of(self._connection)

    def integrity_problems(self) -> list[str]:
        """Read the whole file, and say what is wrong with it."""
        rows = self._connection.execute("PRAGMA integrity_check").fetchall()
        return [] if rows == [("ok",)] else [f"the file is damaged: {text}" for (text,) in rows]

    def back_up(self, path: str | os.PathLike[str]) -> None:
        """Copy the ledger, as it is at this moment, to a new file that only its owner can read.

        Raises:
            ConfigurationError: There is such a file, its directory can't be written, or it has a name that belongs to
                the ledger.
        """
        copied, own = Path(os.path.realpath(path)), self._path.name
        if copied.parent == self._path.parent and copied.name.startswith(
            (f"{own}-wal", f"{own}-shm", f"{own}-journal", f"{own}-owner-")
        ):
            raise ConfigurationError(
                f"path: {os.fspath(path)} is the name of a file that belongs to the ledger, and is removed when "
                "that is next opened; choose another"
            )
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except OSError as error:
            raise ConfigurationError(f"path: can't make {os.fspath(path)}: {error.strerror}") from None
        try:
            with closing(sqlite3.connect(path)) as copy:
                self._connection.backup(copy)
        except BaseException:
            os.unlink(path)  # noqa: PTH108 - of whatever type
            raise

    def register(self, lease: float) -> int:
        """Make this connection an owner of debits, alive from now on, and return its number."""
        del lease  # the lock shows it
        token = secrets.token_hex(8)
        # Locked before the ledger names it: others take an owner whose lock is free for dead.
        self._lock = OwnerLock(self._lock_path(token))
        owner: int = self.query(
            self.statements.register,
            {
                "token": token,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "lease": None,
            },
        )[0][0]
        return owner

    def renew(self, owner: int, lease: float) -> bool:
        """Say whether the owner is still in the ledger; as long as it is, its lock says that it is alive."""
        del lease
        return bool(self.query(self.statements.is_owner, {"owner": owner}))

    def expire_owners(self, owner: int) -> None:
        """Remove the owners whose lock nobody holds from the ledger."""
        for other, token in self.query(self.statements.others, {"owner": owner}):
            self._remove_if_dead(other, token)

    def leave(self, owner: int) -> None:
        """Remove this owner from the ledger, and with it the dead ones that hold no debit."""
        for other, token in self.query(self.statements.idle_others, {"owner": owner}):
            self._remove_if_dead(other, token)
        self.change(self.statements.remove_owner, {"owner": owner})

    def close(self) -> None:
        """Close the connection and release the lock."""
        self._connection.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _remove_if_dead(self, owner: int, token: str) -> None:
        path = self._lock_path(token)
        if not is_released(path):
            return
        self.change(self.statements.remove_owner, {"owner": owner})
        path.unlink(missing_ok=True)

    def _check_clock(self, known: float | None, noted_at: float | None) -> None:
        """Have what is in doubt waited for anew if the clock was set since the ledger was changed last.

        Its times then don't show how long ago a request left: by the clock of now, that may be hours ago, or yet to
        come. What was left to wait at the last change is left now, at most.

        Args:
            known: The offset of the clock on which the ledger's times are. It is read in the same transaction: another
                process may have moved them to another clock, and the clock may have been set back to this one since.
            noted_at: What that clock said when the ledger was changed last.
        """
        offset = self._clock_offset()
        if known is not None and abs(offset - known) <= _CLOCK_STEP_SECONDS:
            self._offset = known
            return
        for statement in self.statements.move_to_clock:
            self.change(statement, {"noted_at": noted_at})
        self._offset = offset
        self._note_clock()

    def _note_clock(self) -> None:
        self.change(self.statements.note_clock, {"offset": self._offset})
        self._noted_at = self._monotonic()

    def _clock_offset(self) -> float:
        """Return the wall clock minus the monotonic clock: it changes when the clock is set or the machine restarts."""
        return self._time() - self._monotonic()

    def _lock_path(self, token: str) -> Path:
        return self._path.with_name(f"{self._path.name}-owner-{token}")
