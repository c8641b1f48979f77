"""The inbox in PostgreSQL, shared by the processes of many machines: ``pip install 'jetpay-async[postgres]'``."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

try:
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as _missing:
    raise ImportError(
        "jetpay_async.webhooks.PostgresInbox needs psycopg: pip install 'jetpay-async[postgres]'"
    ) from _missing

from jetpay_async._core.foreign_transaction import fetch_rows, fetch_rows_in_thread
from jetpay_async._core.fork import ForkGuard
from jetpay_async._core.log import logger
from jetpay_async._core.secret import Secret
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks import _postgres_sql as sql
from jetpay_async.webhooks._latest import latest_only
from jetpay_async.webhooks._missing_ids import IdRange, SeenIds, last_contiguous, late, new_gaps, without
from jetpay_async.webhooks._records import (
    MAX_COUNTED,
    DeadLetterRow,
    EventKey,
    backlog_from,
    conflict,
    dead_letters_from,
    key_of,
    outdated,
    record_of,
    require_dead_letter,
    taken_over,
)
from jetpay_async.webhooks.errors import InboxError, LeaseLostError
from jetpay_async.webhooks.events import Event, StoredDocument, TransactionEvent, decode_stored
from jetpay_async.webhooks.inbox import Backlog, DeadLetter, FailedAttempt, Leased, Stored, TransactionRecord

__all__ = ["PostgresInbox"]

T = TypeVar("T")

_Connection: TypeAlias = "psycopg.AsyncConnection[tuple[Any, ...]]"

# What the URL does not set itself. A dead network is noticed before a lease is over.
_DEFAULTS: Final[Mapping[str, str | int]] = {
    "application_name": "jetpay_async",
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
# Of how many ranges of missing ids those that have arrived are removed, when they are read.
_SHORTENED_AT_ONCE = 100
_LISTEN_PAUSE_SECONDS = 5.0
# In characters of up to four bytes; an entry of an index has 2,700 at most.
_LONGEST_KEY = 500

_owner: ContextVar[str] = ContextVar("jetpay_postgres_inbox_owner")


class PostgresInbox:
    """Remember handled events in PostgreSQL: the inbox for receivers on any number of machines.

    It is also a `DurableEventInbox`, which stores the events of ``WebhookReceiver(acknowledge="after_storing")``, and a
    `DeadLetterInbox`, which sets aside what can't be handled. Make its tables once, with ``jetpay webhooks init``, with
    `create_tables`, or by a migration of yours with the statements of `create_statements`.

    **In your own transaction.** `mark_handled` marks the event in the transaction that your handler writes in, on your
    own connection to the same database: of psycopg, asyncpg or SQLAlchemy. The mark and what you wrote commit together,
    which makes the effect exactly once.

    Each process holds one connection, opened on first use, and one more while stored events are handled. A row stays
    for each event, some hundred bytes.

    Args:
        url: ``postgresql://user:password@host:5432/database``. Through a pooler, one that pools transactions will do.
        source: Which Jetpay account the events come from, if several share the tables: ids are unique within one
            account.
        lock_timeout: Seconds to wait for the locks of other transactions, before an `InboxError` says ``locked``.

    Raises:
        ConfigurationError: The URL can't be read.
        InvalidArgumentError: ``lock_timeout`` is not a number of seconds above 0.
    """

    def __init__(self, url: str, *, source: str = "", lock_timeout: float = 5.0) -> None:
        secret = Secret(url)
        del url  # error reporters collect local variables, those of a constructor that fails too
        self._source = source
        self._lock_timeout = check_seconds("lock_timeout", lock_timeout)
        self._conninfo = _conninfo(secret)
        self._begin = sql.BEGIN.format(lock_timeout=self._lock_timeout * 1000)
        self._now = sql.NOW
        self._connection: _Connection | None = None
        self._in_use = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened_in: ForkGuard | None = None
        self._identity: str | None = None
        self._listening: asyncio.Task[None] | None = None
        self._closed = False
        self._remembers = False

    # Tables

    @staticmethod
    def create_statements() -> Sequence[str]:
        """Return the statements that make the tables, in their order, for a migration of yours."""
        return tuple("\n".join(line.strip() for line in each.strip().splitlines()) for each in sql.CREATE)

    async def create_tables(self) -> None:
        """Make the tables, unless they are there, or bring those of an older release up to date.

        Raises:
            InboxError: The database can't be reached or written, or its tables are of a newer release.
        """

        async def create(connection: _Connection) -> None:
            await _execute(connection, sql.SCHEMA_LOCK)
            if await _value(connection, sql.HAS_TABLES) is None:
                for statement in sql.CREATE:
                    await _execute(connection, statement)
            found: int = await _value(connection, sql.VERSION_FOUND)
            for version in range(found + 1, sql.VERSION + 1):
                for statement in sql.MIGRATIONS[version]:
                    await _execute(connection, statement)

        await self._run(create, check=False)
        await self._run(_nothing)

    # EventInbox

    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        """Lease the events that are not handled; see `EventInbox.lease`."""
        keys = [key_of(event) for event in events]
        ids = [key.event_id for key in keys]
        if keys and self._identity is not None:
            leased = await self._lease_new(keys, owner=owner, seconds=seconds)
            if leased is not None:
                return leased

        async def lease(connection: _Connection) -> Leased:
            last_seen = await self._arrive(connection, keys)
            handled = frozenset(await self._ids(connection, sql.HANDLED, ids=ids))
            free = frozenset(await self._ids(connection, sql.FREE, ids=ids, owner=owner))
            waiting = [event_id for event_id in ids if event_id not in handled]
            first_busy = next((place for place, event_id in enumerate(waiting) if event_id not in free), len(waiting))
            mine = waiting[:first_busy]
            await self._change(connection, sql.TAKE, ids=mine, owner=owner, seconds=seconds)
            return Leased(
                mine=frozenset(mine), handled=handled, busy=frozenset(waiting[first_busy:]), last_seen=last_seen
            )

        return await self._run(lease)

    async def _lease_new(self, keys: Sequence[EventKey], *, owner: str, seconds: float) -> Leased | None:
        """Lease events in one round trip if they are all new; None, and nothing is done, if they are not."""
        ids, times, webhooks = (list(column) for column in zip(*keys, strict=True))

        async def lease(connection: _Connection) -> Leased | None:
            try:
                cursor = await self._run_statement(
                    connection,
                    sql.LEASE_NEW,
                    ids=_array(ids),
                    times=_array(times),
                    webhooks=_array(webhooks),
                    first=min(ids),
                    owner=owner,
                    seconds=seconds,
                )
            except psycopg.errors.UniqueViolation:
                # Another worker has received one of them at the same moment, or the delivery repeats one.
                await connection.execute("ROLLBACK")
                return None
            ((last_seen, arrived),) = await cursor.fetchall()
            if arrived != len(ids):
                return None
            return Leased(mine=frozenset(ids), handled=frozenset(), busy=frozenset(), last_seen=last_seen)

        return await self._run(lease, in_transaction=False)

    async def renew(self, event_ids: Iterable[int], *, owner: str, seconds: float) -> frozenset[int]:
        """Extend the leases by some seconds; see `EventInbox.renew`."""
        ids = list(event_ids)

        async def renew(connection: _Connection) -> frozenset[int]:
            await self._change(connection, sql.RENEW, owner=owner, seconds=seconds)
            return frozenset(await self._ids(connection, sql.OWNED, ids=ids, owner=owner))

        return await self._run(renew)

    @asynccontextmanager
    async def handling(self, event: Event, *, owner: str) -> AsyncGenerator[None]:
        """Mark the event when the block succeeds; see `EventInbox.handling`."""
        with self.handling_unmarked(owner=owner):
            yield
        # A cancellation that comes now must not take the mark back: the handler has ended.
        if await asyncio.shield(self.mark([event], owner=owner)):
            raise taken_over(event.id)

    @contextmanager
    def handling_unmarked(self, *, owner: str) -> Generator[None]:
        """Surround a handler without marking its event; see `GroupedMarksInbox.handling_unmarked`."""
        token = _owner.set(owner)
        try:
            yield
        finally:
            _owner.reset(token)

    async def mark(self, events: Sequence[Event], *, owner: str) -> frozenset[int]:
        """Mark events in one commit; see `GroupedMarksInbox.mark`."""
        ids = [event.id for event in events]
        remembered = [one for one in events if self._remembers and isinstance(one, TransactionEvent)]

        async def mark(connection: _Connection) -> frozenset[int]:
            marked = await self._change(connection, sql.MARK, ids=ids, owner=owner)
            lost: frozenset[int] = frozenset()
            if marked != len(ids):
                lost = frozenset(ids).difference(await self._ids(connection, sql.OWNED, ids=ids, owner=owner))
            known = [event for event in remembered if event.id not in lost]
            if known:
                await self._change(
                    connection,
                    sql.REMEMBER,
                    ids=[event.id for event in known],
                    transactions=[_key(event.transaction_id) for event in known],
                    states=[_text(event.state) for event in known],
                )
            return lost

        if self._identity is not None and not remembered:

            async def mark_new(connection: _Connection) -> int:
                return (await self._run_statement(connection, sql.MARK, ids=_array(ids), owner=owner)).rowcount

            if await self._run(mark_new, in_transaction=False) == len(ids):
                return frozenset()
        return await self._run(mark)

    def remember_states(self) -> None:
        """Remember the last event of each transaction; see `LatestStateInbox.remember_states`."""
        self._remembers = True

    async def last_handled(self, transaction_id: str) -> TransactionRecord | None:
        """Return the transaction's last event that was marked; see `LatestStateInbox.last_handled`."""

        async def read(connection: _Connection) -> list[tuple[Any, ...]]:
            return await self._rows(connection, sql.LAST_HANDLED, transaction=_key(transaction_id))

        rows = await self._run(read)
        return TransactionRecord(event_id=rows[0][0], state=rows[0][1]) if rows else None

    async def release(self, *, owner: str) -> None:
        """Release what is leased and not marked; see `EventInbox.release`."""
        await self._run(lambda connection: self._change(connection, sql.RELEASE, owner=owner))

    async def last_contiguous_event_id(self) -> int | None:
        """Return the id up to which nothing is missing; see `EventInbox.last_contiguous_event_id`."""

        async def read(connection: _Connection) -> int | None:
            lowest, highest, first_open, first_missing, expected = await self._row(connection, sql.CONTIGUOUS, start=0)
            if first_missing != expected:
                await self._change(connection, sql.SHORTEN_MISSING, limit=_SHORTENED_AT_ONCE)
            seen = None if lowest is None else SeenIds(lowest, highest)
            return last_contiguous(seen, first_open=first_open, first_missing=first_missing)

        return await self._run(read)

    async def first_missing_event_id(self, start: int = 0) -> int | None:
        """Return the first id that never arrived; see `MissingEventsInbox.first_missing_event_id`."""

        async def read(connection: _Connection) -> int | None:
            missing: int | None = await self._value(connection, sql.FIRST_MISSING, start=start)
            return missing

        return await self._run(read)

    async def backlog(self) -> Backlog:
        """Return how many events wait to be handled; see `BacklogInbox.backlog`."""

        async def read(connection: _Connection) -> tuple[Any, ...]:
            return await self._row(connection, sql.BACKLOG, limit=MAX_COUNTED)

        return backlog_from(*await self._run(read))

    # DurableEventInbox

    async def store(self, events: Sequence[Event]) -> Stored:
        """Write events to disk, all or none; see `DurableEventInbox.store`."""
        records = {event.id: record_of(event) for event in events}
        ids = list(records)

        async def store(connection: _Connection) -> Stored:
            last_seen = await self._arrive(connection, [record.key for record in records.values()])
            known = frozenset(await self._ids(connection, sql.STORED, ids=ids))
            new = [record for event_id, record in records.items() if event_id not in known]
            await self._change(
                connection,
                sql.STORE,
                ids=[record.key.event_id for record in new],
                transactions=[_key(record.transaction_id) for record in new],
                documents=[record.document for record in new],
            )
            if new:
                await self._change(connection, sql.NOTIFY)
            return Stored(new=frozenset(records) - known, known=known, last_seen=last_seen)

        return await self._run(store)

    async def claim(self, *, owner: str, seconds: float, limit: int, exclusive: bool) -> Sequence[Event]:
        """Lease the first stored events that are due; see `DurableEventInbox.claim`."""

        async def claim(connection: _Connection) -> Sequence[StoredDocument]:
            if not await self._value(connection, sql.CLAIM_LOCK):
                return ()
            if await self._value(connection, sql.CLAIMED, exclusive=exclusive) is not None:
                return ()
            try:
                async with connection.transaction():
                    due = await self._rows(connection, sql.DUE, limit=limit)
            except psycopg.errors.LockNotAvailable:
                # Somebody's own transaction is about to mark one of them.
                return ()
            await self._change(connection, sql.TAKE, ids=[row[0] for row in due], owner=owner, seconds=seconds)
            return tuple(StoredDocument(webhook_id, document) for _, webhook_id, document in due)

        return decode_stored(await self._run(claim))

    async def reschedule(self, event: Event, *, owner: str, seconds: float) -> None:
        """Release one event for later; see `DurableEventInbox.reschedule`."""
        await self._run(
            lambda connection: self._change(connection, sql.RESCHEDULE, id=event.id, owner=owner, seconds=seconds)
        )

    def notify_of_stored(self, wake: Callable[[], None]) -> None:
        """Call a function when any process has stored events: a hint, besides which the receiver polls.

        Args:
            wake: Called in the event loop that this is called in, until the inbox is closed.
        """
        if self._listening is None or self._listening.done():
            self._listening = asyncio.create_task(self._listen(wake), name="jetpay inbox notifications")

    # DeadLetterInbox

    async def record_failure(self, event: Event, *, owner: str, error: str, max_attempts: int) -> FailedAttempt:
        """Count a failed attempt; see `DeadLetterInbox.record_failure`."""
        record = record_of(event)

        async def record_attempt(connection: _Connection) -> FailedAttempt:
            attempts = await self._value(connection, sql.COUNT_FAILURE, id=event.id, owner=owner)
            if attempts is None:
                # A handler may fail after it has marked its event in a transaction of its own.
                attempts = await self._value(connection, sql.ATTEMPTS, id=event.id, owner=owner)
                if attempts is None:
                    raise LeaseLostError(f"event {event.id} was taken over by another worker")
                return FailedAttempt(attempts=attempts, is_dead=False)
            if attempts < max_attempts:
                return FailedAttempt(attempts=attempts, is_dead=False)
            await self._change(
                connection,
                sql.ADD_DEAD_LETTER,
                id=event.id,
                transaction=_key(record.transaction_id),
                webhook=record.key.webhook_id,
                document=record.document,
                attempts=attempts,
                error=_text(error),
            )
            await self._change(connection, sql.MARK, ids=[event.id], owner=owner)
            return FailedAttempt(attempts=attempts, is_dead=True)

        return await self._run(record_attempt)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Return all dead letters; see `DeadLetterInbox.dead_letters`."""

        async def read(connection: _Connection) -> Sequence[DeadLetterRow]:
            return [DeadLetterRow(*row) for row in await self._rows(connection, sql.DEAD_LETTERS)]

        return dead_letters_from(await self._run(read))

    async def replay_dead_letter(self, event_id: int) -> None:
        """Store a dead letter's event again; see `DeadLetterInbox.replay_dead_letter`."""

        async def replay(connection: _Connection) -> bool:
            rows = await self._rows(connection, sql.REMOVE_DEAD_LETTER, id=event_id)
            for document, transaction_id in rows:
                await self._change(connection, sql.REPLAY, id=event_id, document=document, transaction=transaction_id)
                await self._change(connection, sql.NOTIFY)
            return bool(rows)

        require_dead_letter(event_id, found=await self._run(replay))

    async def discard_dead_letter(self, event_id: int) -> None:
        """Forget a dead letter; see `DeadLetterInbox.discard_dead_letter`."""

        async def discard(connection: _Connection) -> bool:
            return bool(await self._rows(connection, sql.REMOVE_DEAD_LETTER, id=event_id))

        require_dead_letter(event_id, found=await self._run(discard))

    # In a transaction of the user's

    async def mark_handled(self, connection: object, event: Event) -> None:
        """Mark the event in your own transaction, on your own connection to the same database.

        Call it in a handler, before you commit. The mark and what you wrote then commit together, which makes the
        effect exactly once. It works the same with a Session whose ``rowcount`` would say nothing.

        Args:
            connection: With your writes in an open transaction: psycopg's AsyncConnection, asyncpg's Connection,
                SQLAlchemy's AsyncSession or AsyncConnection.
            event: The handler's event.

        Raises:
            LeaseLostError: Another worker has the event: let it propagate, so that your transaction is rolled back.
            OutdatedEventError: The handler was registered with ``latest=True``, and a later event of the transaction
                was handled meanwhile: let it propagate, too.
            ConfigurationError: Called outside of a handler; or the connection is none of these, commits each statement
                by itself (autocommit), or is to another database.
        """
        owner = _current_owner()
        txid, found = await _fetch_row(connection, sql.WHICH_TRANSACTION, {})
        _check_identity(found, self._identity)
        row = await _fetch_row(connection, self._sql(sql.MARK_IN_TRANSACTION), self._mark(event, owner, txid))
        _check_marked(event, row)
        if self._remembers and isinstance(event, TransactionEvent):
            _check_latest(event, await _fetch_row(connection, sql.REMEMBER_IN_TRANSACTION, self._state_of(event)))

    def mark_handled_in_thread(self, connection: object, event: Event) -> None:
        """Do the same on a synchronous connection, in a thread that the handler started with `asyncio.to_thread`.

        Args:
            connection: psycopg's Connection, SQLAlchemy's Session or Connection.
            event: The handler's event.

        Raises:
            LeaseLostError: As for `mark_handled`.
            OutdatedEventError: As for `mark_handled`.
            ConfigurationError: As for `mark_handled`.
        """
        owner = _current_owner()
        txid, found = _fetch_row_in_thread(connection, sql.WHICH_TRANSACTION, {})
        _check_identity(found, self._identity)
        row = _fetch_row_in_thread(connection, self._sql(sql.MARK_IN_TRANSACTION), self._mark(event, owner, txid))
        _check_marked(event, row)
        if self._remembers and isinstance(event, TransactionEvent):
            _check_latest(event, _fetch_row_in_thread(connection, sql.REMEMBER_IN_TRANSACTION, self._state_of(event)))

    def _mark(self, event: Event, owner: str, txid: int) -> Mapping[str, object]:
        return {"source": self._source, "id": event.id, "owner": owner, "txid": txid}

    def _state_of(self, event: TransactionEvent) -> Mapping[str, object]:
        return {
            "source": self._source,
            "transaction": _key(event.transaction_id),
            "id": event.id,
            "state": _text(event.state),
        }

    # Life

    async def aclose(self) -> None:
        """Close the connections. Using the inbox afterwards raises `ConfigurationError`; closing it twice does nothing.

        In a forked child this leaves them alone: they are the parent's.
        """
        self._closed = True
        if self._opened_in is not None and self._opened_in.forked:
            return
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.wait([listening])
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> Self:
        if self._closed:
            self._closed = False
            self._in_use = asyncio.Lock()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        shown = self._conninfo.reveal() if hasattr(self, "_conninfo") else ""
        parts = conninfo_to_dict(shown)
        place = f"{parts.get('host', '')}/{parts.get('dbname', '')}"
        return f"PostgresInbox({place!r}, source={self._source!r})"

    # Statements

    def _sql(self, statement: str) -> str:
        return statement.replace("{now}", f"CAST(extract(epoch FROM {self._now}) AS float8)")

    async def _rows(self, connection: _Connection, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
        cursor = await connection.execute(self._sql(statement).encode(), {"source": self._source, **parameters})
        return await cursor.fetchall()

    async def _row(self, connection: _Connection, statement: str, **parameters: object) -> tuple[Any, ...]:
        (row,) = await self._rows(connection, statement, **parameters)
        return row

    async def _value(self, connection: _Connection, statement: str, **parameters: object) -> Any:
        rows = await self._rows(connection, statement, **parameters)
        return rows[0][0] if rows else None

    async def _ids(self, connection: _Connection, statement: str, **parameters: object) -> list[int]:
        return [row[0] for row in await self._rows(connection, statement, **parameters)]

    async def _change(self, connection: _Connection, statement: str, **parameters: object) -> int:
        return (
            await connection.execute(self._sql(statement).encode(), {"source": self._source, **parameters})
        ).rowcount

    async def _run_statement(
        self, connection: _Connection, statement: str, **parameters: object
    ) -> psycopg.AsyncClientCursor[tuple[Any, ...]]:
        """Run one statement in a transaction of its own, all in one round trip; return a cursor at its result."""
        cursor = psycopg.AsyncClientCursor(connection)
        text = f"{self._begin};{self._sql(statement)};COMMIT"
        await cursor.execute(text.encode(), {"source": self._source, **parameters})
        for _ in range(sql.STATEMENTS_OF_BEGIN):
            cursor.nextset()
        return cursor

    async def _arrive(self, connection: _Connection, keys: Sequence[EventKey]) -> int | None:
        """Add a row for each event that has none; return the highest id that was there before."""
        seen = await self._seen(connection)
        if seen is None:
            # Of several first arrivals each would think that nothing can be missing.
            await self._value(connection, sql.FIRST_ARRIVAL_LOCK)
            seen = await self._seen(connection)
        ids, times, webhooks = (list(column) for column in zip(*keys, strict=True)) if keys else ([], [], [])
        arrived = sorted(await self._ids(connection, sql.ARRIVE, ids=ids, times=times, webhooks=webhooks))
        for event_id, webhook_id in await self._rows(connection, sql.CONFLICTS, ids=ids, times=times):
            raise conflict(next(key for key in keys if key.event_id == event_id), webhook_id)
        await self._note_arrivals(connection, arrived, seen)
        return None if seen is None else seen.highest

    async def _seen(self, connection: _Connection) -> SeenIds | None:
        lowest, highest = await self._row(connection, sql.SEEN)
        return None if lowest is None else SeenIds(lowest, highest)

    async def _note_arrivals(self, connection: _Connection, arrived: Sequence[int], seen: SeenIds | None) -> None:
        gaps: list[IdRange] = []
        runs = late(arrived, seen)
        if runs:
            rows = await self._rows(connection, sql.REMOVE_MISSING, first=runs[0].first, last=runs[-1].last)
            gaps = [IdRange(*row) for row in rows]
        for run in runs:
            gaps = [left for gap in gaps for left in without(gap, run)]
        gaps += new_gaps(arrived, seen)
        if gaps:
            firsts, lasts = (list(column) for column in zip(*gaps, strict=True))
            await self._change(connection, sql.ADD_MISSING, firsts=firsts, lasts=lasts)

    # Connections

    async def _run(
        self, step: Callable[[_Connection], Awaitable[T]], *, check: bool = True, in_transaction: bool = True
    ) -> T:
        """Run a step in a transaction; once more on a new connection if the old one turns out to be lost.

        Each step may be repeated: it gives the same owner the same events, or marks what is marked.
        """
        self._check_usable()
        async with self._in_use:
            had_one = self._connection is not None
            try:
                return await self._run_once(step, check=check, in_transaction=in_transaction)
            except psycopg.OperationalError as error:
                if not had_one or self._connection is not None:
                    raise self._explained(error) from None
            except psycopg.Error as error:
                raise self._explained(error) from None
            try:
                return await self._run_once(step, check=check, in_transaction=in_transaction)
            except psycopg.Error as error:
                raise self._explained(error) from None

    async def _run_once(self, step: Callable[[_Connection], Awaitable[T]], *, check: bool, in_transaction: bool) -> T:
        connection = self._connection
        try:
            if connection is None:
                connection = self._connection = await self._connect()
            if not in_transaction:  # the step begins and commits one itself
                return await step(connection)
            await connection.execute(self._begin.encode())
            if check and self._identity is None:
                self._identity = await self._checked_identity(connection)
            result = await step(connection)
            await connection.execute("COMMIT")
        except BaseException:
            if connection is not None:
                await self._recover(connection)
            raise
        return result

    async def _recover(self, connection: _Connection) -> None:
        with contextlib.suppress(psycopg.Error):
            await connection.execute("ROLLBACK")
        if connection.closed:
            self._connection = None

    async def _connect(self) -> _Connection:
        self._opened_in = ForkGuard()
        self._loop = asyncio.get_running_loop()
        return await psycopg.AsyncConnection.connect(self._conninfo.reveal(), autocommit=True, prepare_threshold=None)

    async def _checked_identity(self, connection: _Connection) -> str:
        if await _value(connection, sql.HAS_TABLES) is None:
            raise ConfigurationError(
                f"{self!r} has no tables yet: run 'jetpay webhooks init', or await inbox.create_tables()"
            )
        version: int = await _value(connection, sql.VERSION_FOUND)
        if version > sql.VERSION:
            raise InboxError(
                f"the inbox's tables were made by a newer release (schema {version}, this one knows {sql.VERSION});"
                f" upgrade jetpay-async",
                reason="newer_schema",
            )
        if version < sql.VERSION:
            raise ConfigurationError(
                f"the tables of {self!r} were made by an older release (schema {version}, this one needs"
                f" {sql.VERSION}): run 'jetpay webhooks init', or await inbox.create_tables()"
            )
        identity: str = await _value(connection, sql.IDENTITY)
        return identity

    def _check_usable(self) -> None:
        if self._closed:
            raise ConfigurationError(f"{self!r} is closed")
        if self._connection is None:
            return
        if self._opened_in is not None and self._opened_in.forked:
            raise ConfigurationError(f"{self!r} was opened before a fork; make one in each worker")
        if self._loop is not asyncio.get_running_loop():
            raise ConfigurationError(f"{self!r} was opened in another event loop; close it there, or make one in each")

    def _explained(self, error: psycopg.Error) -> InboxError:
        """Say what an error of PostgreSQL means; its frames hold the documents, and its texts may hold the password."""
        said = " ".join((error.diag.message_primary or str(error)).split())
        password = conninfo_to_dict(self._conninfo.reveal()).get("password")
        if password:
            said = said.replace(str(password), "***")
        reason = _REASONS.get(error.sqlstate or "", "unavailable")
        return InboxError(f"the inbox's database: {said}", reason=reason)

    async def _listen(self, wake: Callable[[], None]) -> None:
        while True:
            try:
                async with await self._connect_to_listen() as connection:
                    await connection.execute("LISTEN jetpay_inbox")
                    # What was stored before this moment was not heard of.
                    wake()
                    async for notification in connection.notifies():
                        if notification.payload == self._source:
                            wake()
            except psycopg.Error as error:
                logger.debug("the inbox hears no notifications, so it polls: %s", type(error).__name__)
            await asyncio.sleep(_LISTEN_PAUSE_SECONDS)

    async def _connect_to_listen(self) -> _Connection:
        return await psycopg.AsyncConnection.connect(self._conninfo.reveal(), autocommit=True)


_PORTS = re.compile(r"[0-9,]*")
_REASONS = {
    "55P03": "locked",
    "57014": "locked",
    "25006": "readonly",
    "42501": "readonly",
    "53100": "full",
    "XX001": "damaged",
    "XX002": "damaged",
}


def _array(numbers: Iterable[int | None]) -> str:
    """Write an array as PostgreSQL reads it, which costs much less than to have the driver find out of what it is."""
    return f"{{{','.join('NULL' if number is None else str(number) for number in numbers)}}}"


def _text(value: str) -> str:
    """Return a text that PostgreSQL can hold."""
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _key(transaction_id: str | None) -> str | None:
    """Return what stands for a transaction's id: itself, or a hash of one that no index of PostgreSQL can hold."""
    if transaction_id is None or ("\0" not in transaction_id and len(transaction_id) <= _LONGEST_KEY):
        return transaction_id
    return f"sha256:{hashlib.sha256(transaction_id.encode()).hexdigest()}"


async def _nothing(_: _Connection) -> None:
    """Do nothing but what every step does: check the tables."""


async def _execute(connection: _Connection, statement: str) -> None:
    await connection.execute(statement.encode())


async def _value(connection: _Connection, statement: str) -> Any:
    row = await (await connection.execute(statement.encode())).fetchone()
    return None if row is None else row[0]


async def _fetch_row(connection: object, statement: str, parameters: Mapping[str, object]) -> Sequence[Any]:
    return (await fetch_rows(connection, statement, parameters, method="mark_handled"))[0]


def _fetch_row_in_thread(connection: object, statement: str, parameters: Mapping[str, object]) -> Sequence[Any]:
    return fetch_rows_in_thread(connection, statement, parameters, method="mark_handled_in_thread")[0]


def _conninfo(secret: Secret[str]) -> Secret[str]:
    """Read a URL, and quote nothing of one that can't be read: any part of it may be one of a password."""
    with contextlib.suppress(psycopg.ProgrammingError):
        parts = conninfo_to_dict(secret.reveal())
        place, port, name = (str(parts.get(part) or "") for part in ("host", "port", "dbname"))
        # A password with an @ or a / in it is read up to there, and the rest of it as one of these.
        if "://" in secret.reveal() and "@" not in place and not set("@/") & set(name) and _PORTS.fullmatch(port):
            return Secret(make_conninfo("", **{**_DEFAULTS, **parts}))
        del parts, place, port, name
    raise ConfigurationError(
        "url: this URL can't be read; write postgresql://user:password@host:5432/database, and special characters in"
        " the password as %XX"
    )


def _current_owner() -> str:
    owner = _owner.get(None)
    if owner is None:
        raise ConfigurationError("mark_handled() belongs in a handler that a WebhookReceiver called")
    return owner


def _check_identity(found: str, expected: str | None) -> None:
    if found != expected:
        raise ConfigurationError(
            "mark_handled() was given a connection to another database than the inbox's: mark and effect would not"
            " commit together"
        )


def _check_latest(event: Event, row: Sequence[Any]) -> None:
    if latest_only.get() and not row[0]:
        raise outdated(event.id)


def _check_marked(event: Event, row: Sequence[Any]) -> None:
    in_transaction, marked, owned = row
    if not in_transaction:
        raise ConfigurationError(
            "mark_handled() was given a connection that commits each statement by itself (autocommit): open a"
            " transaction, so that mark and effect commit together"
        )
    if not marked and not owned:
        raise taken_over(event.id)
