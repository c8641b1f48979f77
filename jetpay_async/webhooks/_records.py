"""What inboxes write of an event, and read back, whatever the database."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import attrs

from jetpay_async._core import json
from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks.errors import InboxError, LeaseLostError, OutdatedEventError
from jetpay_async.webhooks.events import Event, StoredDocument, TransactionEvent, decode_stored
from jetpay_async.webhooks.inbox import Backlog, DeadLetter

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FINGERPRINT_BYTES = 4
MAX_COUNTED = 10_000
"""How many events of a backlog are counted, so that a large one costs milliseconds at most."""


class EventKey(NamedTuple):
    """By what an event is known."""

    event_id: int
    created_at: int
    """Microseconds since the epoch."""
    webhook_id: int | None
    """Which webhook delivered it, for people; another webhook of the account may deliver it again."""

    @property
    def fingerprint(self) -> bytes:
        """Four bytes of its creation time, by which another account's event of the same id is noticed later."""
        # Zero stands for an unknown one.
        return (zlib.crc32(self.created_at.to_bytes(8, signed=True)) or 1).to_bytes(FINGERPRINT_BYTES)


@attrs.frozen(kw_only=True)
class EventRecord:
    """An event to be written. Its content is hidden from error reporters, which collect local variables."""

    key: EventKey
    transaction_id: str | None
    document: bytes = attrs.field(repr=False)
    """The event as in a delivery, so that it can be read back like one."""


class HandledEvent(NamedTuple):
    """An event to be marked."""

    event_id: int
    transaction_id: str | None = None
    """None if the last state of its transaction is not remembered, or it has none."""
    state: str = ""


@attrs.frozen
class DeadLetterRow:
    """A dead letter as it was written, with its content hidden as in `EventRecord`."""

    webhook_id: int | None
    document: bytes = attrs.field(repr=False)
    attempts: int
    error: str
    failed_at: float
    """In seconds since the epoch."""


def key_of(event: Event) -> EventKey:
    """Return by what an event is known."""
    since = event.created_at - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return EventKey(event.id, microseconds, event.webhook_id)


def transaction_id_of(event: Event) -> str | None:
    """Return the id of the event's transaction; None if it has none."""
    transaction_id: str | None = getattr(event, "transaction_id", None)
    return transaction_id


def handled_event(event: Event, *, remembers: bool) -> HandledEvent:
    """Return what to write when the event is marked."""
    if remembers and isinstance(event, TransactionEvent):
        return HandledEvent(event.id, event.transaction_id, event.state)
    return HandledEvent(event.id)


def record_of(event: Event) -> EventRecord:
    """Return what to write of an event."""
    created_at = event.created_at.isoformat()
    return EventRecord(
        key=key_of(event),
        transaction_id=event.transaction_id if isinstance(event, TransactionEvent) else None,
        document=json.dump({"id": event.id, "createdAt": created_at, "type": event.type, "data": event.data}),
    )


def dead_letters_from(rows: Sequence[DeadLetterRow]) -> Sequence[DeadLetter]:
    """Read dead letters back."""
    events = decode_stored(StoredDocument(row.webhook_id, row.document) for row in rows)
    return tuple(
        DeadLetter(
            event=event, attempts=row.attempts, error=row.error, failed_at=datetime.fromtimestamp(row.failed_at, UTC)
        )
        for event, row in zip(events, rows, strict=True)
    )


def backlog_from(pending: int, oldest_created_at: int | None) -> Backlog:
    """Read a backlog back; the time is in microseconds since the epoch."""
    oldest = None if oldest_created_at is None else _EPOCH + timedelta(microseconds=oldest_created_at)
    return Backlog(pending=pending, oldest_created_at=oldest)


def require_dead_letter(event_id: int, *, found: bool) -> None:
    """Raise if there was no such dead letter."""
    if not found:
        raise InvalidArgumentError(f"event {event_id} is not a dead letter", field="event_id")


def conflict(key: EventKey, webhook_id: int | None) -> InboxError:
    """Make the error of an id that is known with another creation time."""
    webhooks = "" if webhook_id is None else f" (then by webhook {webhook_id}, now by webhook {key.webhook_id})"
    return InboxError(
        f"event {key.event_id} was delivered before with another createdAt{webhooks}, so it comes from another Jetpay"
        f" account, or from a sandbox that was started again: set webhook_ids, give each account a source of its own,"
        f" and each sandbox a new file",
        reason="conflict",
    )


def outdated(event_id: int) -> OutdatedEventError:
    """Make the error of an event whose transaction has a later one that was handled."""
    return OutdatedEventError(
        f"event {event_id} is outdated: a later event of its transaction was handled; its effects must not be committed"
    )


def taken_over(event_id: int) -> LeaseLostError:
    """Make the error of an event that is not the owner's any more."""
    return LeaseLostError(f"event {event_id} was taken over by another worker; its effects must not be committed here")
