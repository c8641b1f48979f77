"""The inbox as rows of one SQLite database. Synchronous: the caller decides in which thread.

An event has a row from the moment it arrives: open (``handled_at`` is null; leased if it has an owner) and then
handled. Old handled rows are folded into ranges of ids. Ids are never skipped [docs], so a few ranges stand for any
number of events; a gap is the space between two of them.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from jetpay_async.webhooks.errors import InboxError, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

SCHEMA_VERSION = 1

# SQLite uses a partial index only for a WHERE that repeats the condition of the index exactly, which is why some
# queries below name a condition that seems redundant.
_SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS jetpay_inbox_schema (version INTEGER NOT NULL)
    """,
    """
    CREATE TABLE IF NOT EXISTS jetpay_inbox (
        source TEXT NOT NULL,
        event_id INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        transaction_id TEXT,
        owner TEXT,
        leased_until REAL NOT NULL,
        handled_at REAL,
        document BLOB,
        PRIMARY KEY (source, event_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE INDEX IF NOT EXISTS jetpay_inbox_open ON jetpay_inbox (source, event_id) WHERE handled_at IS NULL
    """,
    """
    CREATE INDEX IF NOT EXISTS jetpay_inbox_leased ON jetpay_inbox (source, owner)
    WHERE handled_at IS NULL AND owner IS NOT NULL
    """,
    """
    CREATE INDEX IF NOT EXISTS jetpay_inbox_handled ON jetpay_inbox (source, handled_at) WHERE handled_at IS NOT NULL
    """,
    """
    CREATE TABLE IF NOT EXISTS jetpay_inbox_range (
        source TEXT NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (source, first)
    ) WITHOUT ROWID
    """,
)

# More than a delivery has at most (100 events [docs]), so folding keeps up with what arrives, and yet never delays one
# delivery for long.
_FOLDED_AT_ONCE = 256

_ERRORS = {
    sqlite3.SQLITE_BUSY: ("locked", "another process holds the inbox's write lock for too long"),
    sqlite3.SQLITE_LOCKED: ("locked", "another connection holds the inbox's tables for too long"),
    sqlite3.SQLITE_READONLY: (
        "readonly",
        "the inbox's file or its folder can't be written; give this user the right to",
    ),
    sqlite3.SQLITE_PERM: ("readonly", "the inbox's file can't be accessed; give this user the right to"),
    sqlite3.SQLITE_FULL: ("full", "the disk that the inbox's file is on is full"),
    sqlite3.SQLITE_CORRUPT: ("damaged", "the inbox's file is damaged; restore it, or recover it with sqlite3 .recover"),
    sqlite3.SQLITE_NOTADB: ("damaged", "the inbox's file is not a SQLite database"),
}


class InboxRows:
    """The rows of one source. Each public method is one transaction."""

    def __init__(
        self, connection: sqlite3.Connection, *, source: str, retention: float, now: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._source = source
        self._retention = retention
        self._now = now

    @classmethod
    def open(cls, path: str, *, source: str, retention: float, busy_timeout: float, now: Callable[[], float]) -> Self:
        """Open or create the database, and reject one that a newer release has written."""
        with _translated():
            connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
        try:
            with _translated():
                _use_wal(connection, within=busy_timeout)
                connection.execute("PRAGMA synchronous=FULL")
                _install(connection)
        except BaseException:
            connection.close()
            raise
        return cls(connection, source=source, retention=retention, now=now)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def lease(
        self, keys: Sequence[tuple[int, int]], *, owner: str, seconds: float
    ) -> tuple[frozenset[int], frozenset[int], frozenset[int], int | None]:
        """Lease events, given by id and creation; return what is leased, handled, busy, and the last id seen before."""
        with self._transaction():
            now = self._now()
            last_seen = self._last_seen()
            handled = {event_id for event_id, created_at in keys if self._is_handled(event_id, created_at)}
            open_keys = [key for key in keys if key[0] not in handled]
            taken: list[tuple[int, int]] = []
            for event_id, created_at in open_keys:
                if self._is_busy(event_id, owner=owner, now=now):
                    break
                taken.append((event_id, created_at))
            self._connection.executemany(
                "INSERT INTO jetpay_inbox (source, event_id, created_at, owner, leased_until) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET owner = excluded.owner, leased_until = excluded.leased_until",
                [(self._source, event_id, created_at, owner, now + seconds) for event_id, created_at in taken],
            )
            self._fold(now)
        mine = frozenset(event_id for event_id, _ in taken)
        busy = frozenset(event_id for event_id, _ in open_keys[len(taken) :])
        return mine, frozenset(handled), busy, last_seen

    def renew(self, event_ids: Sequence[int], *, owner: str, seconds: float) -> frozenset[int]:
        """Extend the owner's leases; return which of the ids are the owner's."""
        with self._transaction():
            self._connection.execute(
                "UPDATE jetpay_inbox SET leased_until = ?"
                " WHERE source = ? AND owner = ? AND handled_at IS NULL AND owner IS NOT NULL",
                (self._now() + seconds, self._source, owner),
            )
            return frozenset(event_id for event_id in event_ids if self._owner(event_id) == owner)

    def mark(self, event_id: int, *, owner: str) -> None:
        """Mark one event handled, or raise if it is not the owner's."""
        with self._transaction():
            mark(self._connection, self._source, event_id, owner=owner, now=self._now())

    def release(self, *, owner: str) -> None:
        """Release what the owner has not marked."""
        with self._transaction():
            self._connection.execute(
                "UPDATE jetpay_inbox SET owner = NULL, leased_until = 0"
                " WHERE source = ? AND owner = ? AND handled_at IS NULL AND owner IS NOT NULL",
                (self._source, owner),
            )

    def last_contiguous_event_id(self) -> int | None:
        """Find the last id before the first one that is missing or open."""
        with self._transaction():
            reached: int | None = None
            for first, last, handled in self._connection.execute(
                "SELECT first, last, 1 FROM jetpay_inbox_range WHERE source = ?"
                " UNION ALL SELECT event_id, event_id, handled_at IS NOT NULL FROM jetpay_inbox WHERE source = ?"
                " ORDER BY 1",
                (self._source, self._source),
            ):
                if not handled or (reached is not None and first != reached + 1):
                    break
                reached = last
            return reached

    def store(
        self, rows: Sequence[tuple[int, int, str | None, bytes]]
    ) -> tuple[frozenset[int], frozenset[int], int | None]:
        """Store events with their JSON; return what is new, what was known, and the last id seen before."""
        with self._transaction():
            now = self._now()
            last_seen = self._last_seen()
            new = [row for row in rows if not self._is_handled(row[0], row[1]) and not self._is_stored(row[0])]
            self._connection.executemany(
                "INSERT INTO jetpay_inbox (source, event_id, created_at, transaction_id, document, leased_until)"
                " VALUES (?, ?, ?, ?, ?, 0)"
                " ON CONFLICT DO UPDATE SET document = excluded.document, transaction_id = excluded.transaction_id",
                [(self._source, *row) for row in new],
            )
            self._fold(now)
        new_ids = frozenset(row[0] for row in new)
        return new_ids, frozenset(row[0] for row in rows) - new_ids, last_seen

    def claim(self, *, owner: str, seconds: float, limit: int) -> Sequence[bytes]:
        """Lease the first stored events that are due, unless another owner holds some."""
        # This read takes no write lock, so that an idle worker delays no other.
        with _translated():
            pending = self._connection.execute(
                "SELECT 1 FROM jetpay_inbox WHERE source = ? AND handled_at IS NULL AND document IS NOT NULL LIMIT 1",
                (self._source,),
            ).fetchone()
        if pending is None:
            return []
        with self._transaction():
            now = self._now()
            held = self._connection.execute(
                "SELECT 1 FROM jetpay_inbox WHERE source = ? AND handled_at IS NULL AND owner IS NOT NULL"
                " AND leased_until > ? LIMIT 1",
                (self._source, now),
            ).fetchone()
            if held is not None:
                return []
            taken: list[tuple[int, bytes]] = []
            waiting: set[str] = set()
            for event_id, transaction_id, leased_until, document in self._connection.execute(
                "SELECT event_id, transaction_id, leased_until, document FROM jetpay_inbox"
                " WHERE source = ? AND handled_at IS NULL AND document IS NOT NULL ORDER BY event_id",
                (self._source,),
            ):
                if leased_until > now and transaction_id is not None:
                    waiting.add(transaction_id)
                if leased_until > now or transaction_id in waiting:
                    continue
                taken.append((event_id, document))
                if len(taken) == limit:
                    break
            self._connection.executemany(
                "UPDATE jetpay_inbox SET owner = ?, leased_until = ? WHERE source = ? AND event_id = ?",
                [(owner, now + seconds, self._source, event_id) for event_id, _ in taken],
            )
        return [document for _, document in taken]

    def reschedule(self, event_id: int, *, owner: str, seconds: float) -> None:
        """Release one event of the owner's, after some seconds."""
        with self._transaction():
            self._connection.execute(
                "UPDATE jetpay_inbox SET owner = NULL, leased_until = ?"
                " WHERE source = ? AND event_id = ? AND owner = ? AND handled_at IS NULL",
                (self._now() + seconds, self._source, event_id, owner),
            )

    @contextmanager
    def _transaction(self) -> Generator[None]:
        with _translated(), self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def _last_seen(self) -> int | None:
        highest: int | None = self._connection.execute(
            "SELECT max(id) FROM (SELECT max(event_id) AS id FROM jetpay_inbox WHERE source = ?"
            " UNION ALL SELECT max(last) FROM jetpay_inbox_range WHERE source = ?)",
            (self._source, self._source),
        ).fetchone()[0]
        return highest

    def _is_handled(self, event_id: int, created_at: int) -> bool:
        row = self._connection.execute(
            "SELECT created_at, handled_at FROM jetpay_inbox WHERE source = ? AND event_id = ?",
            (self._source, event_id),
        ).fetchone()
        if row is None:
            below = self._connection.execute(
                "SELECT last FROM jetpay_inbox_range WHERE source = ? AND first <= ? ORDER BY first DESC LIMIT 1",
                (self._source, event_id),
            ).fetchone()
            return below is not None and event_id <= below[0]
        if row[0] != created_at:
            raise InboxError(
                f"event {event_id} is known with another createdAt, so it comes from another Jetpay account (or from a"
                f" sandbox that was started anew); give each account a source of its own, and each sandbox a new file",
                reason="conflict",
            )
        return row[1] is not None

    def _is_busy(self, event_id: int, *, owner: str, now: float) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM jetpay_inbox WHERE source = ? AND event_id = ? AND owner <> ? AND leased_until > ?",
            (self._source, event_id, owner, now),
        ).fetchone()
        return row is not None

    def _is_stored(self, event_id: int) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM jetpay_inbox WHERE source = ? AND event_id = ? AND document IS NOT NULL",
            (self._source, event_id),
        ).fetchone()
        return row is not None

    def _owner(self, event_id: int) -> str | None:
        row = self._connection.execute(
            "SELECT owner FROM jetpay_inbox WHERE source = ? AND event_id = ?", (self._source, event_id)
        ).fetchone()
        return None if row is None else row[0]

    def _fold(self, now: float) -> None:
        old = self._connection.execute(
            "SELECT event_id FROM jetpay_inbox WHERE source = ? AND handled_at < ? ORDER BY handled_at LIMIT ?",
            (self._source, now - self._retention, _FOLDED_AT_ONCE),
        ).fetchall()
        for first, last in _runs(sorted(event_id for (event_id,) in old)):
            self._connection.execute(
                "DELETE FROM jetpay_inbox WHERE source = ? AND event_id BETWEEN ? AND ?", (self._source, first, last)
            )
            self._add_range(first, last)

    def _add_range(self, first: int, last: int) -> None:
        below = self._connection.execute(
            "SELECT first FROM jetpay_inbox_range WHERE source = ? AND first < ? AND last = ?"
            " ORDER BY first DESC LIMIT 1",
            (self._source, first, first - 1),
        ).fetchone()
        above = self._connection.execute(
            "DELETE FROM jetpay_inbox_range WHERE source = ? AND first = ? RETURNING last", (self._source, last + 1)
        ).fetchone()
        self._connection.execute(
            "INSERT OR REPLACE INTO jetpay_inbox_range (source, first, last) VALUES (?, ?, ?)",
            (self._source, first if below is None else below[0], last if above is None else above[0]),
        )


def mark(connection: sqlite3.Connection, source: str, event_id: int, *, owner: str, now: float) -> None:
    """Mark one event handled in the transaction that is open, or raise if it is not the owner's."""
    marked = connection.execute(
        "UPDATE jetpay_inbox SET handled_at = ?, document = NULL"
        " WHERE source = ? AND event_id = ? AND owner = ? AND handled_at IS NULL",
        (now, source, event_id, owner),
    )
    if marked.rowcount:
        return
    mine = connection.execute(
        "SELECT 1 FROM jetpay_inbox WHERE source = ? AND event_id = ? AND owner = ?", (source, event_id, owner)
    ).fetchone()
    if mine is None:
        raise LeaseLostError(
            f"event {event_id} was taken over by another worker; its effects must not be committed here"
        )


def _use_wal(connection: sqlite3.Connection, *, within: float) -> None:
    # SQLite's busy timeout does not cover this change, and workers that start together all try it on a new file.
    deadline = time.monotonic() + within
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return


def _install(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        row = connection.execute("SELECT max(version) FROM jetpay_inbox_schema").fetchone()
        if row[0] is None:
            connection.execute("INSERT INTO jetpay_inbox_schema (version) VALUES (?)", (SCHEMA_VERSION,))
        elif row[0] > SCHEMA_VERSION:
            raise InboxError(
                f"the inbox's file was written by a newer release (schema {row[0]}, this one knows {SCHEMA_VERSION});"
                f" upgrade jetpay-async",
                reason="newer_schema",
            )


def _runs(event_ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    first: int | None = None
    for position, event_id in enumerate(event_ids):
        if first is None:
            first = event_id
        if position + 1 == len(event_ids) or event_ids[position + 1] != event_id + 1:
            yield first, event_id
            first = None


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the primary code; the rest is its extension.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        reason, problem = _ERRORS.get(code, ("unavailable", "the inbox's file can't be opened, read or written"))
        raise InboxError(f"{problem} ({error})", reason=reason) from error
