"""What a delivery says, as frozen values: a class for each kind of event that decides over money, one for all others.

::

    Event
     ├── TransactionEvent      a `transactions.*` event that names its transaction and its state
     │    ├── TransactionPaid
     │    └── TransactionFailed
     └── UnknownEvent          any other: user actions, KYC, card tokenization, and whatever comes next

The vendor's list of event types is not public. What decides is ``data.state`` of a ``transactions.*`` event, or the
last segment of its type where ``data.state`` is missing [inferred]. A type, state or field that this release doesn't
know never makes a delivery fail, and ``data`` always holds everything that was sent.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import attrs
import cattrs
import msgspec

from jetpay_async.models import TransactionState
from jetpay_async.webhooks.errors import MalformedDeliveryError, Reason, bare

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jetpay_async.models import JSONValue
    from jetpay_async.webhooks._token import Claims

    Payload: TypeAlias = JSONValue
    TransactionPayload: TypeAlias = Mapping[str, JSONValue]
    _WirePayload: TypeAlias = dict[str, JSONValue] | None  # or any other JSON, but then nothing of it is read
else:
    # The readers of annotations at run time (cattrs, msgspec) are to pass the payload on as it is.
    Claims = Payload = TransactionPayload = _WirePayload = object

__all__ = [
    "Delivery",
    "Event",
    "TransactionEvent",
    "TransactionFailed",
    "TransactionPaid",
    "UnknownEvent",
    "converter",
    "decode",
]


@attrs.frozen(kw_only=True)
class Event:
    """One thing that happened at Jetpay [docs]. Always an instance of a subclass."""

    id: int
    """Grows monotonically; neither skipped nor reused. The key to handle an event once."""
    created_at: datetime
    """When it happened: aware, with microseconds. A time without an offset is taken as UTC [inferred]."""
    type: str
    """Dotted, for example ``transactions.debits.created``."""
    data: Payload = attrs.field(repr=False, hash=False)
    """Everything else that was sent, untouched; numbers with a point are `decimal.Decimal`. None if nothing was."""


@attrs.frozen(kw_only=True)
class TransactionEvent(Event):
    """A transaction (a debit or a credit) is in a new state."""

    data: TransactionPayload = attrs.field(repr=False, hash=False)
    """Everything else that was sent, untouched; numbers with a point are `decimal.Decimal`."""
    transaction_id: str
    """The debit's id for a debit: what `JetpayClient.capture` was called with."""
    state: TransactionState
    """Known or not: unknown states are carried through."""


@attrs.frozen(kw_only=True)
class TransactionPaid(TransactionEvent):
    """The money has moved: the state is ``paid``."""


@attrs.frozen(kw_only=True)
class TransactionFailed(TransactionEvent):
    """The money will not move: the state is ``failed``."""

    fail_reason: str | None = None
    """Why, for example ``account_frozen``; from ``failReason`` or ``fail_reason`` [inferred]."""
    fail_direction: str | None = None
    """``pull`` or ``push``; from ``failDirection`` or ``fail_direction`` [inferred]."""


@attrs.frozen(kw_only=True)
class UnknownEvent(Event):
    """An event that this release has no class for. Look at ``type`` and ``data``."""


@attrs.frozen(kw_only=True)
class Delivery:
    """One POST of Jetpay's: up to 100 events of one webhook [docs]."""

    webhook_id: int
    """The webhook's number, as told when it was registered."""
    events: tuple[Event, ...]
    """Ascending by id, each id once, whatever the order on the wire."""
    claims: Claims | None = None
    """The verified claims of its token; None if nobody verified it (`decode` alone does not)."""


def decode(body: bytes) -> Delivery:
    """Decode the body of a delivery **without verifying it**; `WebhookVerifier.verify` does both.

    Args:
        body: The bytes as received: ``{"webhookId": ..., "events": [...]}`` [docs].

    Returns:
        The delivery, with ``claims`` None. An event that was sent twice in it is there once.

    Raises:
        MalformedDeliveryError: It isn't JSON or not of this shape (`Reason.MALFORMED_BODY`; ``facts["problem"]`` names
            the place), or two different events have the same id (`Reason.CONFLICTING_EVENTS`).
    """
    try:
        delivery: Delivery = converter.structure(_read(body), Delivery)
    except MalformedDeliveryError as error:
        refusal = bare(error)
    else:
        return delivery
    del body  # a traceback with locals is not to show it
    raise refusal


# Ids go into the databases of users: no more than what a signed 64-bit column holds.
_Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _WireEvent(msgspec.Struct, rename={"created_at": "createdAt"}):
    id: _Id
    created_at: datetime
    type: str
    data: _WirePayload = None
    # Taken out of ``data`` for the classes that have them, which always overwrites what a sender puts here.
    transaction_id: object = None
    state: object = None
    fail_reason: object = None
    fail_direction: object = None


class _WireDelivery(msgspec.Struct, rename={"webhook_id": "webhookId"}):
    webhook_id: _Id
    events: list[_WireEvent]


_decoder = msgspec.json.Decoder(_WireDelivery, float_hook=Decimal)

# msgspec fills a tuple of attrs instances from the wire's attributes several times faster than their constructors do.
_TUPLES: dict[type[Event], type[tuple[Event, ...]]] = {
    UnknownEvent: tuple[UnknownEvent, ...],
    TransactionEvent: tuple[TransactionEvent, ...],
    TransactionPaid: tuple[TransactionPaid, ...],
    TransactionFailed: tuple[TransactionFailed, ...],
}
_KINDS_BY_STATE: dict[str, type[TransactionEvent]] = {"paid": TransactionPaid, "failed": TransactionFailed}


def _read(body: bytes) -> _WireDelivery:
    try:
        return _decoder.decode(body)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise MalformedDeliveryError(Reason.MALFORMED_BODY, {"problem": str(error)}) from None


def _structure_delivery(source: object, _: object) -> Delivery:
    wire = source if isinstance(source, _WireDelivery) else _converted(source, _WireDelivery)
    return Delivery(webhook_id=wire.webhook_id, events=_events(wire.events))


def _structure_event(source: object, _: object) -> Event:
    return _events([_converted(source, _WireEvent)])[0]


_Wire = TypeVar("_Wire", _WireDelivery, _WireEvent)


def _converted(source: object, wire: type[_Wire]) -> _Wire:
    try:
        return msgspec.convert(source, wire)
    except (ValueError, RecursionError) as error:
        raise MalformedDeliveryError(Reason.MALFORMED_BODY, {"problem": str(error)}) from None


def _events(wires: Iterable[_WireEvent]) -> tuple[Event, ...]:
    by_kind: dict[type[Event], list[_WireEvent]] = {}
    last = -1
    ascending = True
    for wire in wires:
        if wire.created_at.tzinfo is None:
            wire.created_at = wire.created_at.replace(tzinfo=UTC)
        if wire.id <= last:
            ascending = False
        last = wire.id
        kind = _kind(wire)
        if kind in by_kind:
            by_kind[kind].append(wire)
        else:
            by_kind[kind] = [wire]
    events: list[Event] = []
    for kind, members in by_kind.items():
        events += msgspec.convert(members, _TUPLES[kind], from_attributes=True)
    if len(by_kind) > 1 or not ascending:
        events.sort(key=attrgetter("id"))
    return tuple(events) if ascending else _each_once(events)


def _kind(wire: _WireEvent) -> type[Event]:
    """Tell an event's class by the rules of this module's docstring, and take out of its data what the class holds."""
    data = wire.data
    if not (isinstance(data, dict) and wire.type.startswith("transactions.")):
        return UnknownEvent
    state = data.get("state")
    if state is None:
        state = wire.type.rpartition(".")[2]
        if state not in _KINDS_BY_STATE:
            return UnknownEvent
    transaction_id = data.get("transactionId")
    if not (isinstance(state, str) and isinstance(transaction_id, str)):
        return UnknownEvent
    wire.transaction_id = transaction_id
    wire.state = state
    kind = _KINDS_BY_STATE.get(state, TransactionEvent)
    if kind is TransactionFailed:
        wire.fail_reason = _text(data, "failReason", "fail_reason")
        wire.fail_direction = _text(data, "failDirection", "fail_direction")
    return kind


def _text(data: dict[str, JSONValue], *spellings: str) -> str | None:
    return next((value for name in spellings if isinstance(value := data.get(name), str)), None)


def _each_once(events: Iterable[Event]) -> tuple[Event, ...]:
    """Drop repetitions from sorted events; which of two that contradict each other is true, nobody can tell."""
    by_id: dict[int, Event] = {}
    for event in events:
        if by_id.setdefault(event.id, event) != event:
            raise MalformedDeliveryError(Reason.CONFLICTING_EVENTS, {"event_id": event.id})
    return tuple(by_id.values())


def _unstructure_event(event: Event) -> dict[str, object]:
    return {"id": event.id, "createdAt": event.created_at.isoformat(), "type": event.type, "data": event.data}


def _unstructure_delivery(delivery: Delivery) -> dict[str, object]:
    return {"webhookId": delivery.webhook_id, "events": [_unstructure_event(event) for event in delivery.events]}


converter = cattrs.Converter()
"""Structures parsed JSON into `Delivery` and `Event` (of the right class), and unstructures them to what was sent."""
converter.register_structure_hook(Delivery, _structure_delivery)
converter.register_structure_hook(Event, _structure_event)
converter.register_unstructure_hook(Delivery, _unstructure_delivery)
converter.register_unstructure_hook(Event, _unstructure_event)
