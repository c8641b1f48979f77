"""The inbox as rows of one SQLite database. Synchronous: the caller decides in which thread.

An event has a row from the moment it arrives: open (``handled_at`` is null; leased if it has an owner) and then
handled. Old handled rows are folded into ranges of ids. Ids are never skipped [docs], so a few ranges stand for any
number of events. Of each folded event a fingerprint of its creation time stays, by which another account's event of the
same id is noticed: four bytes, in blocks of ids. What has not arrived, although a higher id has, is a range of its own.
"""

from __future__ import annotations

import sqlite3
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Self

from jetpay_async._core import sqlite
from jetpay_async._core.migrations import Migrations, NewerSchemaError
from jetpay_async._core.sqlite import FileIdentityError, SqliteSchema
from jetpay_async.webhooks._missing_ids import IdRange, SeenIds, last_contiguous, late, new_gaps, without
from jetpay_async.webhooks._records import (
    FINGERPRINT_BYTES,
    MAX_COUNTED,
    DeadLetterRow,
    EventKey,
    EventRecord,
    HandledEvent,
    conflict,
    taken_over,
)
from jetpay_async.webhooks.errors import InboxError, LeaseLostError
from jetpay_async.webhooks.events import StoredDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

BLOCK_SIZE = 256
"""How many ids share a row of fingerprints."""
_UNKNOWN = bytes(FINGERPRINT_BYTES)

# SQLite uses a partial index only for a WHERE that repeats the condition of the index exactly, which is why some
# queries below name a condition that seems redundant. Without statistics it prefers the primary key even then, and
# reads all events of the source, so the queries name their index.
_FINGERPRINT_TABLE = """
    CREATE TABLE jetpay_inbox_fingerprint (
        source TEXT NOT NULL,
        block INTEGER NOT NULL,
        fingerprints BLOB NOT NULL,
        PRIMARY KEY (source, block)
    )
    """
_DEAD_LETTER_TABLE = """
    CREATE TABLE jetpay_inbox_dead_letter (
        source TEXT NOT NULL,
        event_id INTEGER NOT NULL,
        transaction_id TEXT,
        webhook_id INTEGER,
        document BLOB NOT NULL,
        attempts INTEGER NOT NULL,
        error TEXT NOT NULL,
        failed_at REAL NOT NULL,
        PRIMARY KEY (source, event_id)
    )
    """
_CONTIGUOUS_TABLE = """
    CREATE TABLE jetpay_inbox_contiguous (
        source TEXT NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (source)
    )
    """
# The ranges are disjoint and as long as they can be, so one key serves both to find the first and what holds an id.
_MISSING_TABLE = """
    CREATE TABLE jetpay_inbox_missing (
        source TEXT NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        PRIMARY KEY (source, last)
    ) WITHOUT ROWID
    """
_TRANSACTION_TABLE = """
    CREATE TABLE jetpay_inbox_transaction (
        source TEXT NOT NULL,
        transaction_id TEXT NOT NULL,
        event_id INTEGER NOT NULL,
        state TEXT NOT NULL,
        handled_at REAL NOT NULL,
        PRIMARY KEY (source, transaction_id)
    ) WITHOUT ROWID
    """
_TRANSACTION_INDEX = """
    CREATE INDEX jetpay_inbox_transaction_handled ON jetpay_inbox_transaction (source, handled_at)
    """
_CREATE = (
    """
    CREATE TABLE jetpay_inbox_schema (version INTEGER NOT NULL)
    """,
    """
    INSERT INTO jetpay_inbox_schema (version) VALUES (6)
    """,
    """
    CREATE TABLE jetpay_inbox (
        source TEXT NOT NULL,
        event_id INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        transaction_id TEXT,
        owner TEXT,
        leased_until REAL NOT NULL,
        handled_at REAL,
        document BLOB,
        webhook_id INTEGER,
        attempts INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (source, event_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE INDEX jetpay_inbox_open ON jetpay_inbox (source, event_id) WHERE handled_at IS NULL
    """,
    """
    CREATE INDEX jetpay_inbox_leased ON jetpay_inbox (source, owner)
    WHERE handled_at IS NULL AND owner IS NOT NULL
    """,
    """
    CREATE INDEX jetpay_inbox_handled ON jetpay_inbox (source, handled_at) WHERE handled_at IS NOT NULL
    """,
    """
    CREATE TABLE jetpay_inbox_range (
        source TEXT NOT NULL,
        first INTEGER NOT NULL,
        last INTEGER NOT NULL,
        webhook_id INTEGER,
        PRIMARY KEY (source, first)
    ) WITHOUT ROWID
    """,
    _FINGERPRINT_TABLE,
    _DEAD_LETTER_TABLE,
    _TRANSACTION_TABLE,
    _TRANSACTION_INDEX,
    _MISSING_TABLE,
)
_MIGRATIONS = Migrations(
    6,
    {
        2: (
            "ALTER TABLE jetpay_inbox ADD COLUMN webhook_id INTEGER",
            "ALTER TABLE jetpay_inbox_range ADD COLUMN webhook_id INTEGER",
            _FINGERPRINT_TABLE,
            "UPDATE jetpay_inbox_schema SET version = 2",
        ),
        3: (
            "ALTER TABLE jetpay_inbox ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0",
            _DEAD_LETTER_TABLE,
            "UPDATE jetpay_inbox_schema SET version = 3",
        ),
        4: (
            _CONTIGUOUS_TABLE,
            "UPDATE jetpay_inbox_schema SET version = 4",
        ),
        5: (
            _TRANSACTION_TABLE,
            _TRANSACTION_INDEX,
            "UPDATE jetpay_inbox_schema SET version = 5",
        ),
        6: (
            _MISSING_TABLE,
            """
            INSERT INTO jetpay_inbox_missing (source, first, last)
            SELECT source, before + 1, first - 1 FROM (
                SELECT source, first, lag(last) OVER (PARTITION BY source ORDER BY first) AS before FROM (
                    SELECT source, first, last FROM jetpay_inbox_range
                    UNION ALL SELECT source, event_id, event_id FROM jetpay_inbox
                )
            ) WHERE first > before + 1
            """,
            "DROP TABLE jetpay_inbox_contiguous",
            "UPDATE jetpay_inbox_schema SET version = 6",
        ),
    },
)

_FARTHEST_SECONDS = 3_600.0
"""No lease, and no wait for another attempt, ends later than this: one that does was written by a clock that has been
set back since, and has ended."""

# The time at which a dead letter counts as handled: never so old that its row is folded, since a replay needs the row.
_DEAD_HANDLED_AT = 1e18

# More than a delivery has at most (100 events [docs]), so folding keeps up with what arrives, and yet never delays one
# delivery for long.
_FOLDED_AT_ONCE = 256

_SEEN = """
    SELECT (SELECT min(id) FROM (
        SELECT min(event_id) AS id FROM jetpay_inbox WHERE source = :source
        UNION ALL SELECT min(first) FROM jetpay_inbox_range WHERE source = :source
    )), (SELECT max(id) FROM (
        SELECT max(event_id) AS id FROM jetpay_inbox WHERE source = :source
        UNION ALL SELECT last FROM (
            SELECT last FROM jetpay_inbox_range WHERE source = :source ORDER BY first DESC LIMIT 1
        )
    ))"""

# What an arrival has to know: also whether anything is old enough to be folded, or forgotten.
_ARRIVAL = f"""{_SEEN},
    EXISTS (SELECT 1 FROM jetpay_inbox WHERE source = :source AND handled_at < :old),
    EXISTS (SELECT 1 FROM jetpay_inbox_transaction WHERE source = :source AND handled_at < :old)"""  # noqa: S608 - ours

_MARK = (
    "UPDATE jetpay_inbox SET handled_at = ?, document = NULL"
    " WHERE source = ? AND event_id = ? AND owner = ? AND handled_at IS NULL"
)

SCHEMA = SqliteSchema("jetpay_inbox_schema", _CREATE, _MIGRATIONS)


class _Arrival(NamedTuple):
    """What was there before new events arrive."""

    seen: SeenIds | None
    """None if nothing had arrived before."""
    old: float
    """When what is folded now was handled, at the latest."""
    has_old_rows: bool
    has_old_transactions: bool

    def is_first(self, event_id: int) -> bool:
        """Whether no event of this id, and none above it, has arrived, so that there is no row to look for."""
        return self.seen is None or event_id > self.seen.highest


class InboxRows:
    """The rows of one source. Each public method is one transaction."""

    def __init__(
        self, connection: sqlite3.Connection, *, source: str, retention: float, now: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._source = source
        self._retention = retention
        self._now = now
        self._waits_for_disk: bool | None = None
        """Whether a commit waits for the disk; None if it has not been said yet."""

    @classmethod
    def open(cls, path: str, *, source: str, retention: float, busy_timeout: float, now: Callable[[], float]) -> Self:
        """Open or create the database, and bring its tables up to date."""
        with _translated():
            connection = sqlite.connect(path, busy_timeout=busy_timeout, check_same_thread=False)
            try:
                sqlite.make_durable(connection, within=busy_timeout)
                with connection:
                    # No other process writes before this transaction ends.
                    connection.execute("BEGIN IMMEDIATE")
                    SCHEMA.install(connection)
            except BaseException:
                connection.close()
                raise
        return cls(connection, source=source, retention=retention, now=now)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def lease(
        self, keys: Sequence[EventKey], *, owner: str, seconds: float
    ) -> tuple[frozenset[int], frozenset[int], frozenset[int], int | None]:
        """Lease events; return what is leased, handled, busy, and the last id seen before."""
        with self._transaction(durable=False):
            now = self._now()
            arrival = self._arrival(now)
            seen = arrival.seen
            known: dict[int, bool | None] = {}
            handled: set[int] = set()
            open_keys: Sequence[EventKey] = keys
            taken: Sequence[EventKey] = keys
            # By far most deliveries bring nothing but what is new.
            if not all(arrival.is_first(key.event_id) for key in keys):
                known = {
                    key.event_id: None if arrival.is_first(key.event_id) else self._is_handled(key) for key in keys
                }
                handled = {event_id for event_id, is_handled in known.items() if is_handled}
                open_keys = [key for key in keys if key.event_id not in handled]
                first_busy = (
                    place
                    for place, key in enumerate(open_keys)
                    if not arrival.is_first(key.event_id) and self._is_busy(key.event_id, owner=owner, now=now)
                )
                taken = open_keys[: next(first_busy, None)]
            until = now + seconds
            self._connection.executemany(
                "INSERT INTO jetpay_inbox (source, event_id, created_at, webhook_id, owner, leased_until)"
                " VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET owner = excluded.owner, leased_until = excluded.leased_until",
                [(self._source, *key, owner, until) for key in taken],
            )
            busy_keys = open_keys[len(taken) :]
            if busy_keys:
                # What can't be leased yet has arrived all the same.
                self._connection.executemany(
                    "INSERT INTO jetpay_inbox (source, event_id, created_at, webhook_id, leased_until)"
                    " VALUES (?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
                    [(self._source, *key) for key in busy_keys],
                )
            self._note_arrivals({key.event_id for key in keys if known.get(key.event_id) is None}, seen)
            self._fold(arrival)
        mine = frozenset(key.event_id for key in taken)
        busy = frozenset(key.event_id for key in busy_keys)
        return mine, frozenset(handled), busy, None if seen is None else seen.highest

    def renew(self, event_ids: Sequence[int], *, owner: str, seconds: float) -> frozenset[int]:
        """Extend the owner's leases; return which of the ids are the owner's."""
        with self._transaction():
            self._connection.execute(
                "UPDATE jetpay_inbox INDEXED BY jetpay_inbox_leased SET leased_until = ?"
                " WHERE source = ? AND owner = ? AND handled_at IS NULL AND owner IS NOT NULL",
                (self._now() + seconds, self._source, owner),
            )
            return frozenset(event_id for event_id in event_ids if self._owner(event_id) == owner)

    def mark(self, event: HandledEvent, *, owner: str) -> None:
        """Mark one event handled, or raise if it is not the owner's."""
        with self._transaction():
            mark(self._connection, self._source, event, owner=owner, now=self._now())

    def mark_all(self, events: Sequence[HandledEvent], *, owner: str) -> frozenset[int]:
        """Mark events handled; return which are not the owner's."""
        with self._transaction():
            now = self._now()
            marked = self._connection.executemany(
                _MARK, [(now, self._source, event.event_id, owner) for event in events]
            )
            lost: frozenset[int] = frozenset()
            if marked.rowcount != len(events):
                lost = frozenset(event.event_id for event in events if self._owner(event.event_id) != owner)
            for event in events:
                if event.transaction_id is not None and event.event_id not in lost:
                    _remember(self._connection, self._source, event, now=now)
        return lost

    def last_handled(self, transaction_id: str) -> tuple[int, str] | None:
        """Return the id and the state of the transaction's last event that is remembered."""
        with _translated():
            row: tuple[int, str] | None = self._connection.execute(
                "SELECT event_id, state FROM jetpay_inbox_transaction WHERE source = ? AND transaction_id = ?",
                (self._source, transaction_id),
            ).fetchone()
        return row

    def release(self, *, owner: str) -> None:
        """Release what the owner has not marked."""
        with self._transaction():
            self._connection.execute(
                "UPDATE jetpay_inbox INDEXED BY jetpay_inbox_leased SET owner = NULL, leased_until = 0"
                " WHERE source = ? AND owner = ? AND handled_at IS NULL AND owner IS NOT NULL",
                (self._source, owner),
            )

    def last_contiguous_event_id(self) -> int | None:
        """Find the last id before the first one that is missing or open."""
        # One statement sees one state.
        with _translated():
            lowest, highest, first_open, first_missing = self._connection.execute(
                f"{_SEEN}, (SELECT event_id FROM jetpay_inbox INDEXED BY jetpay_inbox_open"  # noqa: S608 - a constant
                " WHERE source = :source AND handled_at IS NULL ORDER BY event_id LIMIT 1),"
                " (SELECT first FROM jetpay_inbox_missing WHERE source = :source ORDER BY last LIMIT 1)",
                {"source": self._source},
            ).fetchone()
        seen = None if lowest is None else SeenIds(lowest, highest)
        return last_contiguous(seen, first_open=first_open, first_missing=first_missing)

    def first_missing_event_id(self, start: int) -> int | None:
        """Find the first id from a given one on that is missing."""
        with _translated():
            row = self._connection.execute(
                "SELECT max(?, first) FROM jetpay_inbox_missing WHERE source = ? AND last >= ? ORDER BY last LIMIT 1",
                (start, self._source, start),
            ).fetchone()
        return None if row is None else row[0]

    def backlog(self) -> tuple[int, int | None]:
        """Return how many events are open, and the creation time of the one with the lowest id."""
        with _translated():
            pending: int
            oldest: int | None
            pending, oldest = self._connection.execute(
                "SELECT (SELECT count(*) FROM (SELECT 1 FROM jetpay_inbox INDEXED BY jetpay_inbox_open"
                " WHERE source = ? AND handled_at IS NULL"
                " LIMIT ?)), (SELECT created_at FROM jetpay_inbox INDEXED BY jetpay_inbox_open"
                " WHERE source = ? AND handled_at IS NULL"
                " ORDER BY event_id LIMIT 1)",
                (self._source, MAX_COUNTED, self._source),
            ).fetchone()
        return pending, oldest

    def store(self, records: Sequence[EventRecord]) -> tuple[frozenset[int], frozenset[int], int | None]:
        """Store events with their JSON; return what is new, what was known, and the last id seen before."""
        with self._transaction():
            arrival = self._arrival(self._now())
            seen = arrival.seen
            first = {record.key.event_id for record in records if arrival.is_first(record.key.event_id)}
            known = {
                record.key.event_id: None if record.key.event_id in first else self._is_handled(record.key)
                for record in records
            }
            new = [
                record
                for record in records
                if record.key.event_id in first
                or not (known[record.key.event_id] or self._is_stored(record.key.event_id))
            ]
            self._connection.executemany(
                "INSERT INTO jetpay_inbox"
                " (source, event_id, created_at, webhook_id, transaction_id, document, leased_until)"
                " VALUES (?, ?, ?, ?, ?, ?, 0)"
                " ON CONFLICT DO UPDATE SET document = excluded.document, transaction_id = excluded.transaction_id",
                [(self._source, *record.key, record.transaction_id, record.document) for record in new],
            )
            self._note_arrivals([event_id for event_id, is_handled in known.items() if is_handled is None], seen)
            self._fold(arrival)
        new_ids = frozenset(record.key.event_id for record in new)
        last_seen = None if seen is None else seen.highest
        return new_ids, frozenset(known) - new_ids, last_seen

    def claim(self, *, owner: str, seconds: float, limit: int, exclusive: bool) -> Sequence[StoredDocument]:
        """Lease the first stored events that are due; see `DurableEventInbox.claim`."""
        # This read takes no write lock, so that an idle worker delays no other.
        with _translated():
            pending = self._connection.execute(
                "SELECT 1 FROM jetpay_inbox INDEXED BY jetpay_inbox_open"
                " WHERE source = ? AND handled_at IS NULL AND document IS NOT NULL LIMIT 1",
                (self._source,),
            ).fetchone()
        if pending is None:
            return []
        with self._transaction(durable=False):
            now = self._now()
            held = self._connection.execute(
                "SELECT transaction_id, document IS NULL FROM jetpay_inbox INDEXED BY jetpay_inbox_leased"
                " WHERE source = ? AND handled_at IS NULL AND owner IS NOT NULL"
                " AND leased_until > ? AND leased_until <= ?",
                (self._source, now, now + _FARTHEST_SECONDS),
            ).fetchall()
            # Of what a delivery has leased, the transaction is not known here.
            if any(exclusive or is_delivered for _, is_delivered in held):
                return []
            taken: dict[int, StoredDocument] = {}
            waiting = {transaction_id for transaction_id, _ in held if transaction_id is not None}
            for event_id, transaction_id, leased_until, *stored in self._connection.execute(
                "SELECT event_id, transaction_id, leased_until, webhook_id, document"
                " FROM jetpay_inbox INDEXED BY jetpay_inbox_open"
                " WHERE source = ? AND handled_at IS NULL AND document IS NOT NULL ORDER BY event_id",
                (self._source,),
            ):
                is_leased = now < leased_until <= now + _FARTHEST_SECONDS
                if is_leased and transaction_id is not None:
                    waiting.add(transaction_id)
                if is_leased or transaction_id in waiting:
                    continue
                taken[event_id] = StoredDocument(*stored)
                if len(taken) == limit:
                    break
            self._connection.executemany(
                "UPDATE jetpay_inbox SET owner = ?, leased_until = ? WHERE source = ? AND event_id = ?",
                [(owner, now + seconds, self._source, event_id) for event_id in taken],
            )
        return tuple(taken.values())

    def reschedule(self, event_id: int, *, owner: str, seconds: float) -> None:
        """Release one event of the owner's, after some seconds."""
        with self._transaction():
            self._connection.execute(
                "UPDATE jetpay_inbox SET owner = NULL, leased_until = ?"
                " WHERE source = ? AND event_id = ? AND owner = ? AND handled_at IS NULL",
                (self._now() + seconds, self._source, event_id, owner),
            )

    def record_failure(
        self,
        record: EventRecord,
        *,
        owner: str,
        error: str,
        max_attempts: int,
    ) -> tuple[int, bool]:
        """Count a failed attempt of the owner's; return how many there are, and whether the event is dead now."""
        key = record.key
        with self._transaction():
            counted = self._connection.execute(
                "UPDATE jetpay_inbox SET attempts = attempts + 1"
                " WHERE source = ? AND event_id = ? AND owner = ? AND handled_at IS NULL RETURNING attempts",
                (self._source, key.event_id, owner),
            ).fetchone()
            if counted is None:
                return self._attempts(key.event_id, owner=owner), False
            attempts: int = counted[0]
            if attempts < max_attempts:
                return attempts, False
            self._connection.execute(
                "INSERT OR REPLACE INTO jetpay_inbox_dead_letter"
                " (source, event_id, transaction_id, webhook_id, document, attempts, error, failed_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._source,
                    key.event_id,
                    record.transaction_id,
                    key.webhook_id,
                    record.document,
                    attempts,
                    error,
                    self._now(),
                ),
            )
            mark(self._connection, self._source, HandledEvent(key.event_id), owner=owner, now=_DEAD_HANDLED_AT)
        return attempts, True

    def dead_letters(self) -> Sequence[DeadLetterRow]:
        """Return all dead letters, in the order of their ids."""
        with _translated():
            return [
                DeadLetterRow(*row)
                for row in self._connection.execute(
                    "SELECT webhook_id, document, attempts, error, failed_at FROM jetpay_inbox_dead_letter"
                    " WHERE source = ? ORDER BY event_id",
                    (self._source,),
                )
            ]

    def replay_dead_letter(self, event_id: int) -> bool:
        """Store a dead letter's event again; return whether there was one."""
        with self._transaction():
            found = self._connection.execute(
                "DELETE FROM jetpay_inbox_dead_letter WHERE source = ? AND event_id = ?"
                " RETURNING document, transaction_id",
                (self._source, event_id),
            ).fetchone()
            if found is None:
                return False
            self._connection.execute(
                "UPDATE jetpay_inbox SET document = ?, transaction_id = ?, handled_at = NULL, owner = NULL,"
                " leased_until = 0, attempts = 0 WHERE source = ? AND event_id = ?",
                (*found, self._source, event_id),
            )
        return True

    def discard_dead_letter(self, event_id: int) -> bool:
        """Let a dead letter's event count as handled now; return whether there was one."""
        with self._transaction():
            found = self._connection.execute(
                "DELETE FROM jetpay_inbox_dead_letter WHERE source = ? AND event_id = ? RETURNING 1",
                (self._source, event_id),
            ).fetchone()
            self._connection.execute(
                "UPDATE jetpay_inbox SET handled_at = ? WHERE source = ? AND event_id = ? AND handled_at = ?",
                (self._now(), self._source, event_id, _DEAD_HANDLED_AT),
            )
        return found is not None

    def _transaction(self, *, durable: bool = True) -> _Transaction:
        """Run a transaction that is on the disk when it ends, unless it need not be.

        What is not durable survives the end of any process, though not that of the machine: a power cut may undo the
        last transactions, never an earlier one without the later ones, and none before the last durable one.
        """
        return _Transaction(self._connection, self._begin, durable)

    def _begin(self, durable: bool) -> None:  # noqa: FBT001 - called by position
        if durable is not self._waits_for_disk:
            # Fails in a transaction, and then leaves it as it was.
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._waits_for_disk = durable
        self._connection.execute("BEGIN IMMEDIATE")

    def _arrival(self, now: float) -> _Arrival:
        old = now - self._retention
        lowest, highest, *is_old = self._connection.execute(_ARRIVAL, {"source": self._source, "old": old}).fetchone()
        return _Arrival(None if lowest is None else SeenIds(lowest, highest), old, *map(bool, is_old))

    def _note_arrivals(self, event_ids: Iterable[int], seen: SeenIds | None) -> None:
        arrived = sorted(event_ids)
        if (
            seen is not None
            and arrived
            and (arrived[0], arrived[-1]) == (seen.highest + 1, seen.highest + len(arrived))
        ):
            # Nothing is missing before or between them, as they are all different.
            return
        for run in late(arrived, seen):
            gaps = self._connection.execute(
                "DELETE FROM jetpay_inbox_missing WHERE (source, last) = (SELECT source, last FROM jetpay_inbox_missing"
                " WHERE source = ? AND last >= ? ORDER BY last LIMIT 1) RETURNING first, last",
                (self._source, run.last),
            ).fetchall()
            # The next run may be in what is left.
            for gap in gaps:
                self._add_missing(without(IdRange(*gap), run))
        self._add_missing(new_gaps(arrived, seen))

    def _add_missing(self, gaps: Iterable[IdRange]) -> None:
        self._connection.executemany(
            "INSERT INTO jetpay_inbox_missing (source, first, last) VALUES (?, ?, ?)",
            [(self._source, *gap) for gap in gaps],
        )

    def _is_handled(self, key: EventKey) -> bool | None:
        """Return whether an event is handled; None if it has never arrived."""
        row = self._connection.execute(
            "SELECT created_at, handled_at, webhook_id FROM jetpay_inbox WHERE source = ? AND event_id = ?",
            (self._source, key.event_id),
        ).fetchone()
        if row is not None:
            if row[0] != key.created_at:
                raise conflict(key, row[2])
            return row[1] is not None
        below = self._connection.execute(
            "SELECT last, webhook_id FROM jetpay_inbox_range WHERE source = ? AND first <= ?"
            " ORDER BY first DESC LIMIT 1",
            (self._source, key.event_id),
        ).fetchone()
        if below is None or key.event_id > below[0]:
            return None
        if self._fingerprint(key.event_id) not in {_UNKNOWN, key.fingerprint}:
            raise conflict(key, below[1])
        return True

    def _fingerprint(self, event_id: int) -> bytes:
        block, position = divmod(event_id, BLOCK_SIZE)
        row = self._connection.execute(
            "SELECT substr(fingerprints, ?, ?) FROM jetpay_inbox_fingerprint WHERE source = ? AND block = ?",
            (position * FINGERPRINT_BYTES + 1, FINGERPRINT_BYTES, self._source, block),
        ).fetchone()
        # Ranges of schema version 1 have none.
        return _UNKNOWN if row is None else row[0]

    def _is_busy(self, event_id: int, *, owner: str, now: float) -> bool:
        row = self._connection.execute(
            "SELECT 1 FROM jetpay_inbox"
            " WHERE source = ? AND event_id = ? AND owner <> ? AND leased_until > ? AND leased_until <= ?",
            (self._source, event_id, owner, now, now + _FARTHEST_SECONDS),
        ).fetchone()
        return row is not None

    def _attempts(self, event_id: int, *, owner: str) -> int:
        # A handler may fail after it has marked its event in a transaction of its own.
        row = self._connection.execute(
            "SELECT attempts FROM jetpay_inbox WHERE source = ? AND event_id = ? AND owner = ?",
            (self._source, event_id, owner),
        ).fetchone()
        if row is None:
            raise LeaseLostError(f"event {event_id} was taken over by another worker")
        attempts: int = row[0]
        return attempts

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

    def _fold(self, arrival: _Arrival) -> None:
        if arrival.has_old_rows:
            self._fold_rows(arrival.old)
        if arrival.has_old_transactions:
            self._connection.execute(
                "DELETE FROM jetpay_inbox_transaction WHERE source = ? AND transaction_id IN"
                " (SELECT transaction_id FROM jetpay_inbox_transaction WHERE source = ? AND handled_at < ? LIMIT ?)",
                (self._source, self._source, arrival.old, _FOLDED_AT_ONCE),
            )

    def _fold_rows(self, handled_before: float) -> None:
        old = sorted(
            EventKey(*row)
            for row in self._connection.execute(
                "SELECT event_id, created_at, webhook_id FROM jetpay_inbox"
                " WHERE source = ? AND handled_at < ? ORDER BY handled_at LIMIT ?",
                (self._source, handled_before, _FOLDED_AT_ONCE),
            )
        )
        for block, keys in groupby(old, key=lambda key: key.event_id // BLOCK_SIZE):
            self._keep_fingerprints(block, keys)
        for first, last, webhook_id in _runs(old):
            self._connection.execute(
                "DELETE FROM jetpay_inbox WHERE source = ? AND event_id BETWEEN ? AND ?", (self._source, first, last)
            )
            self._add_range(first, last, webhook_id)

    def _keep_fingerprints(self, block: int, keys: Iterable[EventKey]) -> None:
        row = self._connection.execute(
            "SELECT fingerprints FROM jetpay_inbox_fingerprint WHERE source = ? AND block = ?", (self._source, block)
        ).fetchone()
        fingerprints = bytearray(BLOCK_SIZE * FINGERPRINT_BYTES if row is None else row[0])
        for key in keys:
            start = key.event_id % BLOCK_SIZE * FINGERPRINT_BYTES
            fingerprints[start : start + FINGERPRINT_BYTES] = key.fingerprint
        self._connection.execute(
            "INSERT OR REPLACE INTO jetpay_inbox_fingerprint (source, block, fingerprints) VALUES (?, ?, ?)",
            (self._source, block, bytes(fingerprints)),
        )

    def _add_range(self, first: int, last: int, webhook_id: int | None) -> None:
        below = self._connection.execute(
            "SELECT first FROM jetpay_inbox_range WHERE source = ? AND first < ? AND last = ? AND webhook_id IS ?"
            " ORDER BY first DESC LIMIT 1",
            (self._source, first, first - 1, webhook_id),
        ).fetchone()
        above = self._connection.execute(
            "DELETE FROM jetpay_inbox_range WHERE source = ? AND first = ? AND webhook_id IS ? RETURNING last",
            (self._source, last + 1, webhook_id),
        ).fetchone()
        self._connection.execute(
            "INSERT OR REPLACE INTO jetpay_inbox_range (source, first, last, webhook_id) VALUES (?, ?, ?, ?)",
            (
                self._source,
                first if below is None else below[0],
                last if above is None else above[0],
                webhook_id,
            ),
        )


def mark(connection: sqlite3.Connection, source: str, event: HandledEvent, *, owner: str, now: float) -> bool:
    """Mark one event handled in the transaction that is open, or raise if it is not the owner's.

    Returns:
        Whether it is the latest of its transaction, or that is not remembered.
    """
    marked = connection.execute(_MARK, (now, source, event.event_id, owner))
    if not marked.rowcount:
        mine = connection.execute(
            "SELECT 1 FROM jetpay_inbox WHERE source = ? AND event_id = ? AND owner = ?",
            (source, event.event_id, owner),
        ).fetchone()
        if mine is None:
            raise taken_over(event.event_id)
    return _remember(connection, source, event, now=now)


def _remember(connection: sqlite3.Connection, source: str, event: HandledEvent, *, now: float) -> bool:
    """Remember the event if it is the latest of its transaction; return whether it is, or has none to remember."""
    if event.transaction_id is None:
        return True
    remembered = connection.execute(
        "INSERT INTO jetpay_inbox_transaction (source, transaction_id, event_id, state, handled_at)"
        " VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
        " SET event_id = excluded.event_id, state = excluded.state, handled_at = excluded.handled_at"
        " WHERE event_id <= excluded.event_id",
        (source, event.transaction_id, event.event_id, event.state, now),
    )
    return remembered.rowcount > 0


def _runs(keys: Sequence[EventKey]) -> Iterator[tuple[int, int, int | None]]:
    """Yield the runs of consecutive ids of one webhook, by first, last and webhook."""
    first = 0
    for position, key in enumerate(keys, start=1):
        following = keys[position] if position < len(keys) else None
        if following is None or following[::2] != (key.event_id + 1, key.webhook_id):
            yield keys[first].event_id, key.event_id, key.webhook_id
            first = position


class _Translation:
    """Makes an InboxError of what the database raises, and of what its file does."""

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            _raise_translated(error)


class _Transaction:
    """A transaction, which is committed if the block succeeds; raises what `_Translation` does.

    A generator would cost as much as a statement.
    """

    __slots__ = ("_begin", "_connection", "_durable")

    def __init__(self, connection: sqlite3.Connection, begin: Callable[[bool], None], durable: bool) -> None:  # noqa: FBT001 - called by position
        self._connection = connection
        self._begin = begin
        self._durable = durable

    def __enter__(self) -> None:
        with _TRANSLATION:
            self._begin(self._durable)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _TRANSLATION:
            if error is None:
                try:
                    self._connection.execute("COMMIT")
                except BaseException:
                    # So that the database is unlocked.
                    self._connection.rollback()
                    raise
            else:
                self._connection.rollback()
        if error is not None:
            _raise_translated(error)


_TRANSLATION = _Translation()


def _translated() -> _Translation:
    return _TRANSLATION


def _raise_translated(error: BaseException) -> None:
    """Raise what an error of the database means; nothing if it is none."""
    if isinstance(error, NewerSchemaError):
        raise InboxError(
            f"the inbox's file was written by a newer release (schema {error.found}, this one knows {error.known});"
            f" upgrade jetpay-async",
            reason="newer_schema",
        ) from None
    if isinstance(error, FileIdentityError):
        raise InboxError(f"the inbox {error}", reason="unavailable") from error
    if isinstance(error, sqlite3.Error | OSError):
        explanation = sqlite.explain(error)
        if explanation is None:
            raise InboxError(f"the inbox's file can't be used: {error}", reason="unavailable") from error
        raise InboxError(f"the inbox's file: {error}; {explanation.advice}", reason=explanation.reason) from error
