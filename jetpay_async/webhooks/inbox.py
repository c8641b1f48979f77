"""Remember which events were handled, so that each is handled once.

Jetpay delivers at least once [docs]: a lost answer, a slow one or a replay brings the same events again, and several
workers may receive them at the same time. The inbox turns that into *once per event* with leases. A worker leases the
events of a delivery for some seconds (`EventInbox.lease`), renews the leases while it works, and marks each event when
it is done. Of two workers only one gets an event, and what a dead one leaves behind is free again when its lease has
run out.

What that guarantees depends on where the mark is written:

==============================  =======================================================================================
the inbox                       each event
==============================  =======================================================================================
`SqliteInbox`, marked after     is never lost and never handled twice at the same time. It is handled a second time only
the handler                     after a crash (or a lost lease) between the handler's effect and the mark
`PostgresInbox`, marked after   the same, for workers on any number of machines
the handler
your own transaction            has its effect exactly once: the mark commits together with what the handler wrote, or
                                neither does. `SqliteInbox.mark_handled` and `PostgresInbox.mark_handled` do it; an
                                `EventInbox` of your own, whose `~EventInbox.handling` opens the transaction, for any
                                other database
`MemoryInbox`                   is handled again after every restart and by every further worker
==============================  =======================================================================================

Event ids count per company [docs], not per webhook: a webhook that is removed and registered again, or a second one of
the same company, brings the same events under the same ids. So events are known by their id alone. **One inbox belongs
to one Jetpay account**; give every account a `source` of its own. As a safeguard, an id that comes back with another
``createdAt`` is rejected instead of being taken for handled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime
from typing import Protocol, runtime_checkable

import attrs

from jetpay_async.webhooks.events import Event

__all__ = [
    "Backlog",
    "BacklogInbox",
    "DeadLetter",
    "DeadLetterInbox",
    "DurableEventInbox",
    "EventInbox",
    "FailedAttempt",
    "GroupedMarksInbox",
    "LatestStateInbox",
    "Leased",
    "MissingEventsInbox",
    "Stored",
    "TransactionRecord",
]


@attrs.frozen(kw_only=True)
class Leased:
    """What `EventInbox.lease` found, by event id."""

    mine: frozenset[int]
    """Leased to the caller now."""
    handled: frozenset[int]
    """Handled before: skip them."""
    busy: frozenset[int]
    """Another worker holds the lowest of these, so none of them can be leased in order yet."""
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


@attrs.frozen(kw_only=True)
class FailedAttempt:
    """What `DeadLetterInbox.record_failure` did."""

    attempts: int
    """How many attempts to handle the event have failed."""
    is_dead: bool
    """Whether the event is a dead letter now."""


@attrs.frozen(kw_only=True)
class DeadLetter:
    """An event that was set aside, since handling it failed too often."""

    event: Event
    attempts: int
    """How many attempts to handle it have failed."""
    error: str
    """The last failure: the kind of the exception, and its text, shortened."""
    failed_at: datetime
    """When the last attempt failed; aware, in UTC."""


@attrs.frozen(kw_only=True)
class Backlog:
    """The events that have arrived and are not handled yet, those of other workers included."""

    pending: int
    """How many there are; at most 10,000 are counted."""
    oldest_created_at: datetime | None
    """The ``created_at`` of the one with the lowest id; None if there is none."""

    def age(self, now: float) -> float | None:
        """Return how old the oldest one is.

        Args:
            now: In seconds since the epoch.

        Returns:
            Seconds, never less than 0; None if there is none.
        """
        if self.oldest_created_at is None:
            return None
        return max(0.0, now - self.oldest_created_at.timestamp())


@attrs.frozen(kw_only=True)
class TransactionRecord:
    """The last event of a transaction that was handled."""

    event_id: int
    state: str


class EventInbox(Protocol):
    """What a `~jetpay_async.webhooks.WebhookReceiver` needs to know which events were handled.

    `jetpay_async.testing.check_inbox` tries an implementation of yours.

    Implement it to keep the marks in a database of your own. Each method is one atomic step, and ``owner`` is a token
    that no two deliveries share. An implementation whose `handling` inserts the mark in the transaction that the
    handler writes in needs no leases: the row is the lease. Its `lease` reads the rows that exist, its `renew` returns
    the ids that it is given, and its `release` does nothing.
    """

    async def lease(self, events: Sequence[Event], *, owner: str, seconds: float) -> Leased:
        """Lease the events that are not handled, for some seconds; all in one atomic step.

        Args:
            events: A delivery's events, in the order of their ids.
            owner: Who leases them.
            seconds: After this time without `renew` they are free for others.

        Returns:
            Every id in exactly one of the sets. Nothing at or after the first event that another owner holds is leased.
        """
        ...

    async def renew(self, event_ids: Iterable[int], *, owner: str, seconds: float) -> frozenset[int]:
        """Extend the leases by some seconds, from now.

        Returns:
            Which of these ids are still the owner's, those that it has marked included.
        """
        ...

    def handling(self, event: Event, *, owner: str) -> AbstractAsyncContextManager[object]:
        """Surround the handler of one event: mark the event when the block succeeds, and not when it raises.

        Raises:
            LeaseLostError: At either end: the event is no longer the owner's. Whatever the block wrote in a transaction
                of this method must be rolled back.
        """
        ...

    async def release(self, *, owner: str) -> None:
        """Release what is leased and not marked, so that a redelivery need not wait for the lease to end."""
        ...

    async def last_contiguous_event_id(self) -> int | None:
        """Return the id up to which nothing is missing: the value for ``replay_from_event_id``.

        Returns:
            The highest id such that every event from the lowest ever seen up to it is handled; None if there is none.
        """
        ...


@runtime_checkable
class DurableEventInbox(EventInbox, Protocol):
    """An inbox that also stores the events themselves durably, to be handled after the delivery is acknowledged."""

    async def store(self, events: Sequence[Event]) -> Stored:
        """Write events to disk, all or none.

        Args:
            events: The events of a delivery, in the order of their ids.

        Returns:
            What was new. When this returns, the events survive a crash of the machine.
        """
        ...

    async def claim(self, *, owner: str, seconds: float, limit: int, exclusive: bool) -> Sequence[Event]:
        """Lease the first stored events that are due, in the order of their ids.

        While an owner has leased an event, nobody else gets one of its transaction; while a delivery's events are
        leased by `lease`, none. If an event is rescheduled, later
        events of its transaction wait for it.

        Args:
            owner: Who leases them.
            seconds: After this time without `renew` they are free for others.
            limit: How many at most.
            exclusive: Whether nothing is leased while another owner has leased some, of whatever transaction, so that
                the order of ids holds across workers.
        """
        ...

    async def reschedule(self, event: Event, *, owner: str, seconds: float) -> None:
        """Release one event, not to be claimed again for some seconds."""
        ...


@runtime_checkable
class GroupedMarksInbox(EventInbox, Protocol):
    """An inbox that can mark several events in one commit, for ``WebhookReceiver(mark_within=...)``."""

    def handling_unmarked(self, *, owner: str) -> AbstractContextManager[object]:
        """Surround the handler of an event that the owner has leased, without marking it."""
        ...

    async def mark(self, events: Sequence[Event], *, owner: str) -> frozenset[int]:
        """Mark events that the owner has leased, in one atomic step.

        It is called again for the same events if a cancellation has cut it off.

        Returns:
            Which of their ids are not the owner's any more, and were not marked. What the owner has marked is its own.
        """
        ...


@runtime_checkable
class LatestStateInbox(EventInbox, Protocol):
    """An inbox that remembers the last event of each transaction, for handlers with ``EventRouter.on(latest=True)``."""

    def remember_states(self) -> None:
        """Remember from now on, with each mark of a `TransactionEvent` and in its transaction, the event's state.

        Of two events of a transaction the one with the higher id is remembered, whichever is marked first.
        """
        ...

    async def last_handled(self, transaction_id: str) -> TransactionRecord | None:
        """Return the event of this transaction with the highest id that was marked; None if none is remembered."""
        ...


@runtime_checkable
class MissingEventsInbox(EventInbox, Protocol):
    """An inbox that says what never arrived, for `~jetpay_async.webhooks.MissingEventReplay`."""

    async def first_missing_event_id(self, start: int = 0) -> int | None:
        """Return the first id that never arrived, although a higher one has, and a lower one.

        An event that arrived and is not handled is not missing: Jetpay, or the receiver, tries it again.

        Args:
            start: Of this id and higher ones.

        Returns:
            None if none is missing.
        """
        ...


@runtime_checkable
class BacklogInbox(EventInbox, Protocol):
    """An inbox that says how many events wait to be handled, for metrics and alarms."""

    async def backlog(self) -> Backlog:
        """Return how many events have arrived and are not handled, and how old the oldest one is."""
        ...


@runtime_checkable
class DeadLetterInbox(EventInbox, Protocol):
    """An inbox that counts failed attempts, and sets an event aside after too many: a dead letter.

    A dead letter counts as handled: redeliveries skip it, and later events of its transaction are handled. Somebody has
    to look into it, and replay or discard it.
    """

    async def record_failure(self, event: Event, *, owner: str, error: str, max_attempts: int) -> FailedAttempt:
        """Count a failed attempt, and make the event a dead letter if it was the last one.

        Args:
            event: An event that the owner has leased.
            owner: Who tried to handle it.
            error: What went wrong.
            max_attempts: How many attempts there are.

        Raises:
            LeaseLostError: The event is no longer the owner's.
        """
        ...

    async def dead_letters(self) -> Sequence[DeadLetter]:
        """Return all dead letters, in the order of their ids."""
        ...

    async def replay_dead_letter(self, event_id: int) -> None:
        """Store the event again, to be handled like a new one: **after** later events of its transaction.

        Raises:
            InvalidArgumentError: There is no such dead letter.
        """
        ...

    async def discard_dead_letter(self, event_id: int) -> None:
        """Forget the dead letter: its event counts as handled, for good.

        Raises:
            InvalidArgumentError: There is no such dead letter.
        """
        ...
