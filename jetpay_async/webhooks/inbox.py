"""Remember which events were handled, so that each is handled once.

Jetpay delivers at least once [docs]: a lost answer, a slow one or a replay brings the same events again, and several
workers may receive them at the same moment. The inbox turns that into *once per event* with leases. A worker takes the
events of a delivery for some seconds (`EventInbox.lease`), renews while it works, and marks each event as it is done.
Of two workers only one gets an event, and what a dead one leaves behind is free again when its lease has run out.

What that guarantees depends on where the mark is written:

==============================  =======================================================================================
the inbox                       each event
==============================  =======================================================================================
`SqliteInbox`, marked after     is never lost and never handled twice at once. It is handled a second time only after a
the handler                     crash (or a lost lease) between the handler's effect and the mark
your own transaction            has its effect exactly once: the mark commits together with what the handler wrote, or
                                neither does. `SqliteInbox.mark_handled` does it for SQLite; an `EventInbox` of yours, whose
                                `~EventInbox.handling` opens the transaction, for any other database
`MemoryInbox`                   is handled twice at every restart and by every further worker
==============================  =======================================================================================

Event ids count per company [docs], not per webhook: a webhook that is removed and registered again, or a second one of
the same company, brings the same events under the same ids. So events are known by their id alone. **One inbox belongs
to one Jetpay account**; give every account a `source` of its own. As a safeguard, an id that comes back with another
``createdAt`` is refused instead of being taken for handled.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from abc import ABC, abstractmethod
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol, Self, TypeVar, runtime_checkable

import attrs

from jetpay_async._core import json
from jetpay_async._core.clock import SYSTEM_CLOCK, Clock
from jetpay_async.errors import ConfigurationError, Context, JetpayError
from jetpay_async.webhooks.events import Event, decode

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from concurrent.futures import ThreadPoolExecutor
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType
    from typing import Unpack

    from jetpay_async.webhooks._inbox_rows import InboxRows

__all__ = [
    "DurableEventInbox",
    "EventInbox",
    "InboxError",
    "LeaseLostError",
    "Leased",
    "MemoryInbox",
    "SqliteInbox",
    "Stored",
]

T = TypeVar("T")

_KEEP = 30 * 86_400.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_owner: ContextVar[str] = ContextVar("jetpay_inbox_owner")


class InboxError(JetpayError):
    """The inbox could not be read or written; nothing is known to be handled, so the sender should try again.

    Attributes:
        reason: One stable code: ``locked``, ``readonly``, ``full``, ``damaged``, ``newer_schema``, ``unavailable``
            (cannot be opened, read or written), ``conflict`` (a known id with another ``createdAt``: another account's
            event) or ``lease_lost``.
    """

    def __init__(self, message: str, *, reason: str = "unavailable", **context: Unpack[Context]) -> None:
        super().__init__(message, **context)
        self.reason = reason

    @property
    def retryable(self) -> bool:
        """Always: an event that is not marked can be marked later."""
        return True


class LeaseLostError(InboxError):
    """Another worker has the event, or has handled it: stop, and undo what is not committed."""

    def __init__(self, message: str, *, reason: str = "lease_lost", **context: Unpack[Context]) -> None:
        super().__init__(message, reason=reason, **context)


@attrs.frozen(kw_only=True)
class Leased:
    """What `EventInbox.lease` found, by event id."""

    mine: frozenset[int]
    """Leased to the caller now."""
    handled: frozenset[int]
    """Done before: skip them."""
    busy: frozenset[int]
    """Another worker holds the lowest of these, so none of them can be taken in order yet."""
    last_seen: int | None
    """The highest id that had ever arrived before these, or None if they are the first."""


@attrs.frozen(kw_only=True)
class Stored:
    """What `DurableEventInbox.store` did, by event id."""

    new: frozenset[int]
    """On disk now, to be handled."""
    known: frozenset[int]
    """On disk, or handled, before."""
    last_seen: int | None
    """The highest id that had ever arrived before these, or None if they are the first."""


class EventInbox(Protocol):
    """What a `~jetpay_async.webhooks.WebhookReceiver` needs to know which events were handled.

    Implement it to keep the marks in a database of your own. Each method is one atomic step, and ``owner`` is a token
    that no two deliveries share. An implementation whose `handling` inserts the mark in the transaction that the handler
    writes in needs no leases: the row is the lease. It answers `lease` from the rows that are there, `renew` with the
    ids that it was given, and does nothing in `release`.
    """

    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        """Take the events that nobody has handled, for some seconds; all in one atomic step.

        Args:
            events: A delivery's events, in the order of their ids.
            owner: Who takes them.
            seconds: After this time without `renew` they are free for others.

        Returns:
            Every id in exactly one of the sets. Nothing at or after the first event that another owner holds is taken.
        """
        ...

    async def renew(self, event_ids: Iterable[int], *, owner: str, seconds: float) -> frozenset[int]:
        """Hold the leases for some more seconds, from now.

        Returns:
            Which of these ids are still the owner's, those that it has marked included.
        """
        ...

    def handling(self, event: Event, *, owner: str) -> AbstractAsyncContextManager[object]:
        """Surround the handler of one event: mark the event when the block ends well, and not when it raises.

        Raises:
            LeaseLostError: At either end: the event is not the owner's any more. Whatever the block wrote in a
                transaction of this method's must be rolled back.
        """
        ...

    async def release(self, *, owner: str) -> None:
        """Give back what is leased and not marked, so that a redelivery need not wait for the lease to end."""
        ...

    async def last_contiguous_event_id(self) -> int | None:
        """Tell up to which id nothing is missing: what to give as ``replay_from_event_id``.

        Returns:
            The highest id such that every event from the lowest ever seen up to it is handled; None if there is none.
        """
        ...


@runtime_checkable
class DurableEventInbox(EventInbox, Protocol):
    """An inbox that also keeps the events themselves, durably, to be handled after the sender got its answer."""

    async def store(self, events: Sequence[Event]) -> Stored:
        """Write events to disk, all or none.

        Args:
            events: The events of a delivery, in the order of their ids.

        Returns:
            What was new. When this returns, the events survive a crash of the machine.
        """
        ...

    async def take(self, *, owner: str, seconds: float, limit: int) -> Sequence[Event]:
        """Lease the first stored events that are due, in the order of their ids.

        Only one owner at a time gets any, so that the order holds across workers. Events of a transaction one of whose
        earlier events is deferred wait for that one.

        Returns:
            At most ``limit`` events; none if nothing is due or another worker is at it.
        """
        ...

    async def reschedule(self, event: Event, *, owner: str, seconds: float) -> None:
        """Give one event back, not to be taken again for some seconds."""
        ...


class _RowsInbox(ABC):
    """The inbox over a `InboxRows`, wherever that lives."""

    @abstractmethod
    async def _run(self, step: Callable[[InboxRows], T]) -> T: ...

    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        """Take the events that nobody has handled; see `EventInbox.lease`."""
        keys = [(event.id, _microseconds(event.created_at)) for event in events]
        mine, handled, busy, last_seen = await self._run(lambda inbox: inbox.lease(keys, owner=owner, seconds=seconds))
        return Leased(mine=mine, handled=handled, busy=busy, last_seen=last_seen)

    async def renew(self, event_ids: Iterable[int], *, owner: str, seconds: float) -> frozenset[int]:
        """Hold the leases for some more seconds; see `EventInbox.renew`."""
        wanted = tuple(event_ids)
        return await self._run(lambda inbox: inbox.renew(wanted, owner=owner, seconds=seconds))

    @asynccontextmanager
    async def handling(self, event: Event, *, owner: str) -> AsyncGenerator[None]:
        """Mark the event when the block ends well; see `EventInbox.handling`."""
        token = _owner.set(owner)
        try:
            yield
        finally:
            _owner.reset(token)
        await self._run(lambda inbox: inbox.mark(event.id, owner=owner))

    async def release(self, *, owner: str) -> None:
        """Give back what is leased and not marked; see `EventInbox.release`."""
        await self._run(lambda inbox: inbox.release(owner=owner))

    async def last_contiguous_event_id(self) -> int | None:
        """Tell up to which id nothing is missing; see `EventInbox.last_contiguous_event_id`."""
        return await self._run(lambda inbox: inbox.last_contiguous_event_id())


class MemoryInbox(_RowsInbox):
    """Remember handled events in this process's memory: for tests and demonstrations only.

    **It forgets everything at a restart, and it is one process's**: two workers (``uvicorn --workers 2``, two machines,
    two containers) are two inboxes that know nothing of each other, and each of them handles every event that reaches
    it. With money at stake use `SqliteInbox`, or an `EventInbox` in your own database.

    Args:
        clock: Where the time comes from.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        from jetpay_async.webhooks._inbox_rows import InboxRows  # noqa: PLC0415 - sqlite3 only for those who use it

        self._rows = InboxRows.open(":memory:", source="", retention=_KEEP, busy_timeout=0.0, now=clock.time)
        # There is nothing to save, so nobody should have to close it.
        weakref.finalize(self, self._rows.close)

    async def _run(self, step: Callable[[InboxRows], T]) -> T:
        return step(self._rows)

    def __repr__(self) -> str:
        return "MemoryInbox()"


class SqliteInbox(_RowsInbox):
    """Remember handled events in a SQLite file: the inbox that survives a restart.

    Any number of processes of one machine share the file. A commit is on the disk before it counts (``WAL`` with
    ``synchronous=FULL``), and all of it happens in a thread of the inbox's own, so the event loop never waits for the
    disk. The file is opened on first use; open it after forking workers. It must be on a local disk, not on a network
    file system.

    It is also an `DurableEventInbox`, which keeps the events of ``WebhookReceiver(acknowledge="after_storing")``.

    **In your own transaction.** If the file is your application's own database, `mark_handled` marks the event in the
    transaction that your handler writes in. The inbox's tables are called ``jetpay_inbox``, ``jetpay_inbox_range`` and
    ``jetpay_inbox_schema``.

    Args:
        path: The file; made if it isn't there, but not its folder.
        source: Which Jetpay account the events come from, if several share the file: ids are unique within one account.
        retention: Seconds to remember each handled event by itself. After that runs of ids are remembered as ranges, so the
            file stays small and yet no event is ever forgotten.
        busy_timeout: Seconds to wait for another process's write, before an `InboxError` says ``locked``.
        clock: Where the time comes from.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        source: str = "",
        retention: float = _KEEP,
        busy_timeout: float = 5.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._path = os.fspath(path)
        self._source = source
        self._retention = retention
        self._busy_timeout = busy_timeout
        self._clock = clock
        self._rows: InboxRows | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._pid = 0
        self._closed = False

    async def store(self, events: Sequence[Event]) -> Stored:
        """Write events to disk, all or none; see `DurableEventInbox.store`."""
        rows = [
            (event.id, _microseconds(event.created_at), getattr(event, "transaction_id", None), _document(event))
            for event in events
        ]
        new, known, last_seen = await self._run(lambda inbox: inbox.store(rows))
        return Stored(new=new, known=known, last_seen=last_seen)

    async def take(self, *, owner: str, seconds: float, limit: int) -> Sequence[Event]:
        """Lease the first stored events that are due; see `DurableEventInbox.take`."""
        documents = await self._run(lambda inbox: inbox.take(owner=owner, seconds=seconds, limit=limit))
        return decode(b'{"webhookId":0,"events":[%b]}' % b",".join(documents)).events

    async def reschedule(self, event: Event, *, owner: str, seconds: float) -> None:
        """Give one event back for later; see `DurableEventInbox.reschedule`."""
        await self._run(lambda inbox: inbox.reschedule(event.id, owner=owner, seconds=seconds))

    def mark_handled(self, connection: sqlite3.Connection, event: Event) -> None:
        """Mark the event in a transaction of yours, on a connection of yours to the same file.

        Call it in a handler, or in a thread that the handler started with `asyncio.to_thread`, before you commit. The
        mark and what you wrote then commit together, which makes the effect exactly once.

        Args:
            connection: A connection to the inbox's file, with your writes in an open transaction.
            event: The handler's event.

        Raises:
            LeaseLostError: Another worker has the event: let it propagate, so that your transaction is rolled back.
            ConfigurationError: Called outside of a handler.
        """
        from jetpay_async.webhooks._inbox_rows import mark  # noqa: PLC0415

        owner = _owner.get(None)
        if owner is None:
            raise ConfigurationError("mark_handled() belongs in a handler that a WebhookReceiver called")
        mark(connection, self._source, event.id, owner=owner, now=self._clock.time())

    async def aclose(self) -> None:
        """Close the file. Using the inbox afterwards raises `ConfigurationError`; closing twice does nothing."""
        self._closed = True
        if self._thread is not None:
            thread, self._thread = self._thread, None
            await asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"SqliteInbox({self._path!r}, source={self._source!r})"

    async def _run(self, step: Callable[[InboxRows], T]) -> T:
        if self._closed:
            raise ConfigurationError(f"{self!r} is closed")
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

            self._thread = ThreadPoolExecutor(1, thread_name_prefix="jetpay-inbox")
            self._pid = os.getpid()
        if self._pid != os.getpid():
            raise ConfigurationError(f"{self!r} was opened before a fork; make one in each worker")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._step, step)

    def _step(self, step: Callable[[InboxRows], T]) -> T:
        if self._rows is None:
            from jetpay_async.webhooks._inbox_rows import InboxRows  # noqa: PLC0415

            self._rows = InboxRows.open(
                self._path,
                source=self._source,
                retention=self._retention,
                busy_timeout=self._busy_timeout,
                now=self._clock.time,
            )
        return step(self._rows)

    def _close(self) -> None:
        if self._rows is not None:
            self._rows.close()


def _document(event: Event) -> bytes:
    """Write an event as a delivery has it, so that it is read back by what reads deliveries."""
    created_at = event.created_at.isoformat()
    return json.dump({"id": event.id, "createdAt": created_at, "type": event.type, "data": event.data})


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
