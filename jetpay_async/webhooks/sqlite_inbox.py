"""The inboxes over SQLite: in a file, which survives a restart, or in memory, for tests."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import weakref
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async._core.fork import ForkGuard
from jetpay_async._core.sqlite import check_path
from jetpay_async._core.validation import check_seconds
from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks._inbox_rows import InboxRows, mark
from jetpay_async.webhooks._latest import latest_only
from jetpay_async.webhooks._records import (
    backlog_from,
    dead_letters_from,
    handled_event,
    key_of,
    outdated,
    record_of,
    require_dead_letter,
)
from jetpay_async.webhooks._rows_thread import RowsThread
from jetpay_async.webhooks.events import Event, decode_stored
from jetpay_async.webhooks.inbox import Backlog, DeadLetter, FailedAttempt, Leased, Stored, TransactionRecord

__all__ = ["MemoryInbox", "SqliteInbox"]

T = TypeVar("T")

DEFAULT_RETENTION_SECONDS = 30 * 86_400.0
_owner: ContextVar[str] = ContextVar("jetpay_inbox_owner")


class _RowsInbox(ABC):
    """An inbox over `InboxRows`, in whatever thread they are used."""

    _remembers = False

    @abstractmethod
    async def _run(self, step: Callable[[InboxRows], T]) -> T: ...

    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        """Lease the events that are not handled; see `EventInbox.lease`."""
        keys = [key_of(event) for event in events]
        mine, handled, busy, last_seen = await self._run(lambda rows: rows.lease(keys, owner=owner, seconds=seconds))
        return Leased(mine=mine, handled=handled, busy=busy, last_seen=last_seen)

    async def renew(self, event_ids: Iterable[int], *, owner: str, seconds: float) -> frozenset[int]:
        """Extend the leases by some seconds; see `EventInbox.renew`."""
        wanted = tuple(event_ids)
        return await self._run(lambda rows: rows.renew(wanted, owner=owner, seconds=seconds))

    @asynccontextmanager
    async def handling(self, event: Event, *, owner: str) -> AsyncGenerator[None]:
        """Mark the event when the block succeeds; see `EventInbox.handling`."""
        with self.handling_unmarked(owner=owner):
            yield
        handled = handled_event(event, remembers=self._remembers)
        # A cancellation that comes now must not take the mark back: the handler has ended.
        await asyncio.shield(self._run(lambda rows: rows.mark(handled, owner=owner)))

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
        handled = [handled_event(event, remembers=self._remembers) for event in events]
        return await self._run(lambda rows: rows.mark_all(handled, owner=owner))

    def remember_states(self) -> None:
        """Remember the last event of each transaction; see `LatestStateInbox.remember_states`."""
        self._remembers = True

    async def last_handled(self, transaction_id: str) -> TransactionRecord | None:
        """Return the transaction's last event that was marked; see `LatestStateInbox.last_handled`."""
        row = await self._run(lambda rows: rows.last_handled(transaction_id))
        return None if row is None else TransactionRecord(event_id=row[0], state=row[1])

    async def release(self, *, owner: str) -> None:
        """Release what is leased and not marked; see `EventInbox.release`."""
        await self._run(lambda rows: rows.release(owner=owner))

    async def last_contiguous_event_id(self) -> int | None:
        """Return the id up to which nothing is missing; see `EventInbox.last_contiguous_event_id`."""
        return await self._run(lambda rows: rows.last_contiguous_event_id())

    async def first_missing_event_id(self, start: int = 0) -> int | None:
        """Return the first id that never arrived; see `MissingEventsInbox.first_missing_event_id`."""
        return await self._run(lambda rows: rows.first_missing_event_id(start))

    async def backlog(self) -> Backlog:
        """Return how many events wait to be handled; see `BacklogInbox.backlog`."""
        return backlog_from(*await self._run(lambda rows: rows.backlog()))


class MemoryInbox(_RowsInbox):
    """Remember handled events in this process's memory: for tests and demonstrations only.

    **It forgets everything at a restart, and it belongs to one process**: two workers (``uvicorn --workers 2``, two
    machines, two containers) have two inboxes that know nothing of each other, and each of them handles every event
    that reaches it. Where money is at stake, use `SqliteInbox`, or an `EventInbox` in your own database.

    Args:
        clock: Where the time comes from.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._rows = InboxRows.open(
            ":memory:", source="", retention=DEFAULT_RETENTION_SECONDS, busy_timeout=0.0, now=clock.time
        )
        # There is nothing to save, so nobody should have to close it.
        weakref.finalize(self, self._rows.close)

    async def _run(self, step: Callable[[InboxRows], T]) -> T:
        return step(self._rows)

    async def aclose(self) -> None:
        """Do nothing: it is there so that another inbox can take this one's place."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return "MemoryInbox()"


class SqliteInbox(_RowsInbox):
    """Remember handled events in a SQLite file: the inbox that survives a restart.

    Any number of processes of one machine share the file. Marks and stored events are on the disk before they count
    (``WAL`` with ``synchronous=FULL``). A lease survives the end of any process, but need not survive a power cut,
    which ends all of them: its events are delivered again. The inbox uses the file in a thread of its own, so the event
    loop never waits for the disk. The file is opened on first use; open it after forking workers. It must be on a local
    disk, not on a network file system.

    It is also a `DurableEventInbox`, which stores the events of ``WebhookReceiver(acknowledge="after_storing")``, and a
    `DeadLetterInbox`, which sets aside what can't be handled.

    **In your own transaction.** If the file is your application's own database, `mark_handled` marks the event in the
    transaction that your handler writes in. The names of the inbox's tables begin with ``jetpay_inbox``.

    Args:
        path: The file; created if it doesn't exist, but not its folder.
        source: Which Jetpay account the events come from, if several share the file: ids are unique within one account.
        retention: Seconds to remember each handled event by itself. After that, consecutive ids are remembered as
            ranges, so the file stays small and yet no event is ever forgotten.
        busy_timeout: Seconds to wait for another process's write, before an `InboxError` says ``locked``.
        clock: Where the time comes from.

    Raises:
        InvalidArgumentError: ``retention`` or ``busy_timeout`` is no number of seconds, 0 or more.
        ConfigurationError: ``path`` can't be the path of a file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        source: str = "",
        retention: float = DEFAULT_RETENTION_SECONDS,
        busy_timeout: float = 5.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_seconds("retention", retention, zero=True)
        check_seconds("busy_timeout", busy_timeout, zero=True)
        self._path = check_path("path", path)
        self._source = source
        self._retention = retention
        self._busy_timeout = busy_timeout
        self._clock = clock
        self._thread: RowsThread | None = None
        self._opened_in: ForkGuard | None = None
        self._closed = False

    async def store(self, events: Sequence[Event]) -> Stored:
        """Write events to disk, all or none; see `DurableEventInbox.store`."""
        records = [record_of(event) for event in events]
        new, known, last_seen = await self._run(lambda rows: rows.store(records))
        return Stored(new=new, known=known, last_seen=last_seen)

    async def claim(self, *, owner: str, seconds: float, limit: int, exclusive: bool) -> Sequence[Event]:
        """Lease the first stored events that are due; see `DurableEventInbox.claim`."""
        documents = await self._run(
            lambda rows: rows.claim(owner=owner, seconds=seconds, limit=limit, exclusive=exclusive)
        )
        return decode_stored(documents)

    async def reschedule(self, event: Event, *, owner: str, seconds: float) -> None:
        """Release one event for later; see `DurableEventInbox.reschedule`."""
        await self._run(lambda rows: rows.reschedule(event.id, owner=owner, seconds=seconds))

    async def record_failure(self, event: Event, *, owner: str, error: str, max_attempts: int) -> FailedAttempt:
        """Count a failed attempt; see `DeadLetterInbox.record_failure`."""
        record = record_of(event)
        attempts, is_dead = await self._run(
            lambda rows: rows.record_failure(record, owner=owner, error=error, max_attempts=max_attempts)
        )
        return FailedAttempt(attempts=attempts, is_dead=is_dead)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Return all dead letters; see `DeadLetterInbox.dead_letters`."""
        return dead_letters_from(await self._run(lambda rows: rows.dead_letters()))

    async def discard_dead_letter(self, event_id: int) -> None:
        """Forget a dead letter; see `DeadLetterInbox.discard_dead_letter`."""
        require_dead_letter(event_id, found=await self._run(lambda rows: rows.discard_dead_letter(event_id)))

    async def replay_dead_letter(self, event_id: int) -> None:
        """Store a dead letter's event again; see `DeadLetterInbox.replay_dead_letter`."""
        require_dead_letter(event_id, found=await self._run(lambda rows: rows.replay_dead_letter(event_id)))

    def mark_handled(self, connection: sqlite3.Connection, event: Event) -> None:
        """Mark the event in your own transaction, on your own connection to the same file.

        Call it in a handler, or in a thread that the handler started with `asyncio.to_thread`, before you commit. The
        mark and what you wrote then commit together, which makes the effect exactly once.

        Args:
            connection: A connection to the inbox's file, with your writes in an open transaction.
            event: The handler's event.

        Raises:
            LeaseLostError: Another worker has the event: let it propagate, so that your transaction is rolled back.
            OutdatedEventError: The handler was registered with ``latest=True``, and a later event of the transaction
                was handled meanwhile: let it propagate, too.
            ConfigurationError: Called outside of a handler.
        """
        owner = _owner.get(None)
        if owner is None:
            raise ConfigurationError("mark_handled() belongs in a handler that a WebhookReceiver called")
        handled = handled_event(event, remembers=self._remembers)
        is_latest = mark(connection, self._source, handled, owner=owner, now=self._clock.time())
        if latest_only.get() and not is_latest:
            raise outdated(event.id)

    async def aclose(self) -> None:
        """Close the file. Using the inbox afterwards raises `ConfigurationError`, until it is entered again.

        Closing it twice does nothing.

        In a forked child this leaves the file alone: it is the parent's.
        """
        self._closed = True
        if self._thread is not None and not self._forked:
            thread, self._thread = self._thread, None
            await thread.aclose()

    async def __aenter__(self) -> Self:
        self._closed = False
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"SqliteInbox({self._path!r}, source={self._source!r})"

    @property
    def _forked(self) -> bool:
        return self._opened_in is not None and self._opened_in.forked

    async def _run(self, step: Callable[[InboxRows], T]) -> T:
        if self._closed:
            raise ConfigurationError(f"{self!r} is closed")
        if self._thread is None:
            self._thread = RowsThread(
                partial(
                    InboxRows.open,
                    self._path,
                    source=self._source,
                    retention=self._retention,
                    busy_timeout=self._busy_timeout,
                    now=self._clock.time,
                )
            )
            self._opened_in = ForkGuard()
        if self._forked:
            raise ConfigurationError(f"{self!r} was opened before a fork; make one in each worker")
        return await self._thread.run(step)
