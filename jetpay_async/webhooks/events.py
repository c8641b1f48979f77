"""The events of a delivery, as frozen values: a class for each kind of event about money, one for all others.

::

    Event
     ├── TransactionEvent            a `transactions.*` event that names its transaction and its state
     │    ├── TransactionPaid
     │    │    ├── DebitPaid         a payment of a customer
     │    │    └── CreditPaid        a payout: money that was *sent*
     │    ├── TransactionCompleted
     │    │    ├── DebitCompleted
     │    │    └── CreditCompleted
     │    └── TransactionFailed
     │         ├── DebitFailed
     │         └── CreditFailed
     ├── CardTokenizationEvent       the result of a hosted card form [inferred]
     │    ├── CardTokenized
     │    └── CardTokenizationFailed
     └── UnknownEvent                any other: user actions, company updates, KYC, and future kinds

The vendor's list of event types is not public. What decides is ``data.state`` of a ``transactions.*`` event, or the
last segment of its type where ``data.state`` is missing [inferred]. Whether it is a debit or a credit is the second
segment of its type; an event whose type says neither is a `TransactionPaid`, for example, and no subclass of it. A
type, state or field that this release doesn't know never makes a delivery fail, and ``data`` always holds everything
that was sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, cast

import attrs
import cattrs
import msgspec

from jetpay_async._core import contract, json
from jetpay_async._core.draft import draft_of
from jetpay_async.models import TransactionState
from jetpay_async.webhooks.claims import Claims
from jetpay_async.webhooks.errors import MalformedDeliveryError, Reason, bare

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

    Payload: TypeAlias = JSONValue
    TransactionPayload: TypeAlias = Mapping[str, JSONValue]
    _WirePayload: TypeAlias = dict[str, JSONValue] | None  # or any other JSON, but then nothing of it is read
else:
    # The readers of annotations at run time (cattrs, msgspec) must pass the payload on unchanged.
    Payload = TransactionPayload = _WirePayload = Any

__all__ = [
    "CardTokenizationEvent",
    "CardTokenizationFailed",
    "CardTokenized",
    "CreditCompleted",
    "CreditFailed",
    "CreditPaid",
    "DebitCompleted",
    "DebitFailed",
    "DebitPaid",
    "Delivery",
    "Event",
    "TransactionCompleted",
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
    webhook_id: int | None = attrs.field(default=None, eq=False)
    """The webhook that delivered it; another webhook of the same account delivers the same event. None if unknown."""


@attrs.frozen(kw_only=True)
class TransactionEvent(Event):
    """A transaction (a debit or a credit) is in a new state."""

    data: TransactionPayload = attrs.field(repr=False, hash=False)
    """Everything else that was sent, untouched; numbers with a point are `decimal.Decimal`."""
    transaction_id: str
    """The debit's id for a debit: what `JetpayClient.capture` was called with."""
    state: TransactionState
    """Unknown states are kept as they are."""

    @property
    def kind(self) -> Literal["debit", "credit"] | None:
        """``debit`` for a payment of a customer, ``credit`` for a payout; None if the type says neither."""
        return _kind_of(self.type)

    @property
    def rank(self) -> int:
        """How far the transaction is: 0 requested, 1 on its way, 2 paid, 3 at its end (completed, failed, cancelled).

        A state that this release doesn't know counts as on its way.
        """
        return contract.state_rank(self.state)

    def supersedes(self, state: str | None, event_id: int | None = None) -> bool:
        """Say whether this event is newer than what is known of its transaction, so that a late one changes nothing.

        Between deliveries Jetpay promises no order: ``requested`` may come after ``paid``. Keep the state and the id of
        the event that set it, and let an event through only if this is true, in the transaction that writes both.

        Args:
            state: The state that is known; None if none is.
            event_id: The event that it came from; ids grow with time [docs], so the higher one is the newer. None if it
                came from elsewhere, such as `JetpayClient.capture`: then the higher `rank` is the newer.
        """
        if state is None:
            return True
        if event_id is not None:
            return self.id > event_id
        return self.rank > contract.state_rank(state)


@attrs.frozen(kw_only=True)
class TransactionPaid(TransactionEvent):
    """The state is ``paid``. **A payout is paid too**: use `DebitPaid` for the payments of customers."""


@attrs.frozen(kw_only=True)
class DebitPaid(TransactionPaid):
    """A payment of a customer is paid: ``transactions.debits.*`` in the state ``paid``.

    `DebitFailed` or `DebitCompleted` may follow [docs].
    """


@attrs.frozen(kw_only=True)
class CreditPaid(TransactionPaid):
    """A payout is paid: ``transactions.credits.*`` in the state ``paid``; money was sent, not received."""


@attrs.frozen(kw_only=True)
class TransactionCompleted(TransactionEvent):
    """The state is ``completed``: the end of a transaction.

    For links, EFT and credits it may be the only good news, without a ``paid`` before it [docs].
    """


@attrs.frozen(kw_only=True)
class DebitCompleted(TransactionCompleted):
    """A payment of a customer is completed: ``transactions.debits.*`` in the state ``completed``."""


@attrs.frozen(kw_only=True)
class CreditCompleted(TransactionCompleted):
    """A payout is completed: ``transactions.credits.*`` in the state ``completed``."""


@attrs.frozen(kw_only=True)
class TransactionFailed(TransactionEvent):
    """The state is ``failed``."""

    fail_reason: str | None = None
    """Why, for example ``account_frozen``; from ``failReason`` or ``fail_reason`` [inferred]."""
    fail_direction: str | None = None
    """``pull`` or ``push``; from ``failDirection`` or ``fail_direction`` [inferred]."""


@attrs.frozen(kw_only=True)
class DebitFailed(TransactionFailed):
    """A payment of a customer has failed: ``transactions.debits.*`` in the state ``failed``."""


@attrs.frozen(kw_only=True)
class CreditFailed(TransactionFailed):
    """A payout has failed: ``transactions.credits.*`` in the state ``failed``."""


@attrs.frozen(kw_only=True)
class CardTokenizationEvent(Event):
    """A card was entered in a hosted form; see `JetpayClient.card_form` [inferred]."""

    data: TransactionPayload = attrs.field(repr=False, hash=False)
    """Everything else that was sent, untouched; numbers with a point are `decimal.Decimal`."""
    credit_card_id: str
    """The card's id; from ``creditCardId`` or ``credit_card_id`` [inferred]."""
    contact_id: str | None = None
    """Whose card it is; from ``contactId`` or ``contact_id`` [inferred]."""


@attrs.frozen(kw_only=True)
class CardTokenized(CardTokenizationEvent):
    """The card is saved and can be charged."""


@attrs.frozen(kw_only=True)
class CardTokenizationFailed(CardTokenizationEvent):
    """The card was not saved."""

    fail_reason: str | None = None
    """Why; from ``failReason`` or ``fail_reason`` [inferred]."""


@attrs.frozen(kw_only=True)
class UnknownEvent(Event):
    """An event that this release has no class for. Read ``type`` and ``data``."""

    @property
    def family(self) -> str:
        """The first segment of the type: ``kyc`` of ``kyc.status.updated``."""
        return self.type.partition(".")[0]


@attrs.frozen(kw_only=True)
class Delivery:
    """One POST of Jetpay: up to 100 events of one webhook [docs]."""

    webhook_id: int
    """The webhook's number, as returned when it was registered."""
    events: tuple[Event, ...]
    """Ascending by id, each id once, whatever the order on the wire."""
    claims: Claims | None = None
    """The verified claims of its token; None if it was not verified (`decode` alone does not)."""


def decode(body: bytes | bytearray | memoryview) -> Delivery:
    """Decode the body of a delivery **without verifying it**; `WebhookVerifier.verify` does both.

    Args:
        body: The bytes as received: ``{"webhookId": ..., "events": [...]}`` [docs].

    Returns:
        The delivery, with ``claims`` None. An event that was sent twice in it is there once.

    Raises:
        MalformedDeliveryError: It isn't JSON or not of this shape (`Reason.MALFORMED_BODY`; ``facts["problem"]`` names
            the place), or two different events have the same id (`Reason.CONFLICTING_EVENTS`).
    """
    outcome = delivery_or_error(body)
    if isinstance(outcome, Delivery):
        return outcome
    try:
        raise outcome
    finally:
        # A traceback with local variables must not show the body; and an error that its own frame holds waits for the
        # garbage collector, with all that it leads to.
        del body, outcome


def delivery_or_error(
    body: bytes | bytearray | memoryview, claims: Claims | None = None
) -> Delivery | MalformedDeliveryError:
    """Decode as `decode` does, for a token whose claims were verified; return the error, which the caller raises."""
    try:
        return _delivery(_read(body), claims)
    except MalformedDeliveryError as error:
        return bare(error)


@attrs.frozen
class StoredDocument:
    """An event as an inbox has written it, its content hidden from error reporters, which collect local variables."""

    webhook_id: int | None
    document: bytes = attrs.field(repr=False)


def decode_stored(stored: Iterable[StoredDocument]) -> tuple[Event, ...]:
    """Read events that an inbox has stored, each with the webhook that delivered it."""
    return _typed((_event_decoder.decode(one.document), one.webhook_id) for one in stored)


# Ids end up in the users' databases: no more than a signed 64-bit column can hold.
_Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _WireEvent(msgspec.Struct, rename={"created_at": "createdAt"}, gc=False):
    id: _Id
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    type: str
    data: _WirePayload = None
    # Nothing is taken from these, which belong into ``data``. They are read and not skipped, since the parser lets pass
    # in what it skips a text that is not UTF-8 and a number that no `Decimal` can hold.
    webhook_id: object = None
    transaction_id: object = None
    state: object = None
    fail_reason: object = None
    fail_direction: object = None
    credit_card_id: object = None
    contact_id: object = None


class _WireDelivery(msgspec.Struct, rename={"webhook_id": "webhookId"}):
    webhook_id: _Id
    events: list[_WireEvent]


_new_delivery = draft_of(Delivery)
_new_unknown = draft_of(UnknownEvent)
_new_transaction = draft_of(TransactionEvent)
_new_failed = draft_of(TransactionFailed)

_KINDS: Mapping[str, Literal["debit", "credit"]] = {"debits": "debit", "credits": "credit"}
_Classes: TypeAlias = Mapping[str, tuple[TransactionState, type[TransactionEvent]]]
"""Each known state of a transaction, by its text, and the class of an event in it."""


def _classes(
    paid: type[TransactionPaid], completed: type[TransactionCompleted], failed: type[TransactionFailed]
) -> _Classes:
    own = {TransactionState.PAID: paid, TransactionState.COMPLETED: completed, TransactionState.FAILED: failed}
    return {state.value: (state, own.get(state, TransactionEvent)) for state in TransactionState}


_CLASSES: Mapping[Literal["debit", "credit"] | None, _Classes] = {
    "debit": _classes(DebitPaid, DebitCompleted, DebitFailed),
    "credit": _classes(CreditPaid, CreditCompleted, CreditFailed),
    None: _classes(TransactionPaid, TransactionCompleted, TransactionFailed),
}

# Card tokenization [inferred]: the vendor names the family and says that success and failure arrive as events, but
# prints neither a type nor a field. Whatever is not clearly one of the two stays an `UnknownEvent`.
_CARD_SUCCESS = frozenset({"created", "tokenized", "tokenised", "completed", "succeeded"})
_CARD_FAILURE = frozenset({"failed", "declined", "rejected"})


_decoder = msgspec.json.Decoder(_WireDelivery, float_hook=Decimal)
_event_decoder = msgspec.json.Decoder(_WireEvent, float_hook=Decimal)
_by_id = attrgetter("id")
_TIME_WITHOUT_OFFSET = re.compile(r"[0-9-]{10}[Tt ][0-9:.]+")


def _read(body: bytes | bytearray | memoryview) -> _WireDelivery:
    try:
        try:
            return _decoder.decode(body)
        except msgspec.ValidationError:
            # It is malformed, or a time lacks its offset: rare enough to parse it a second time.
            return msgspec.convert(_with_offsets(json.parse(bytes(body))), _WireDelivery)
    except (ValueError, ArithmeticError, RecursionError) as error:
        raise _malformed(error) from None


def _malformed(error: Exception) -> MalformedDeliveryError:
    return MalformedDeliveryError(Reason.MALFORMED_BODY, {"problem": str(error)})


def _structure_delivery(source: object, _: object) -> Delivery:
    return _delivery(_converted(source, _WireDelivery))


def _delivery(wire: _WireDelivery, claims: Claims | None = None) -> Delivery:
    delivery = _new_delivery()
    delivery.webhook_id = webhook_id = wire.webhook_id
    delivery.events = _typed(zip(wire.events, repeat(webhook_id)))
    delivery.claims = claims
    delivery.__class__ = Delivery
    return cast("Delivery", delivery)


def _structure_event(source: object, _: object) -> Event:
    return _typed([(_converted(source, _WireEvent), None)])[0]


_Wire = TypeVar("_Wire", _WireDelivery, _WireEvent)


def _converted(source: object, wire: type[_Wire]) -> _Wire:
    try:
        return msgspec.convert(_with_offsets(source), wire)
    except (ValueError, RecursionError) as error:
        raise _malformed(error) from None


def _with_offsets(document: object) -> object:
    """Add UTC where the time of an event, or of the events of a delivery, lacks its offset [inferred]."""
    if not isinstance(document, Mapping):
        return document
    members = cast("Mapping[str, object]", document)
    created_at, events = members.get("createdAt"), members.get("events")
    if isinstance(created_at, str) and _TIME_WITHOUT_OFFSET.fullmatch(created_at):
        return {**members, "createdAt": f"{created_at}Z"}
    if isinstance(events, list):
        return {**members, "events": [_with_offsets(event) for event in cast("list[object]", events)]}
    return members


def _typed(wires: Iterable[tuple[_WireEvent, int | None]]) -> tuple[Event, ...]:
    """Make the events, each of the class that it has by the rules of this module's docstring."""
    events: list[Event] = []
    last_id, is_ascending = -1, True
    # An assignment is several times faster where it always meets the same class: so each draft has its own lines.
    for wire, webhook_id in wires:
        event_id, event_type, data = wire.id, wire.type, wire.data
        event: Any = None
        rules = _rules_of[event_type]
        if rules is not None and isinstance(data, dict):
            state, transaction_id = data.get("state") or rules.state, data.get("transactionId")
            if rules is _CARD:
                event = _card_event(wire, data, webhook_id)
            elif isinstance(state, str) and isinstance(transaction_id, str):
                if state == "failed":
                    event = _failed_event(wire, data, webhook_id)
                else:
                    event = _new_transaction()
                    event.id = event_id
                    event.created_at = wire.created_at
                    event.type = event_type
                    event.data = data
                    event.webhook_id = webhook_id
                event.transaction_id = transaction_id
                event.state, event.__class__ = rules.classes.get(state) or (TransactionState(state), TransactionEvent)
        if event is None:
            event = _new_unknown()
            event.id = event_id
            event.created_at = wire.created_at
            event.type = event_type
            event.data = data
            event.webhook_id = webhook_id
            event.__class__ = UnknownEvent
        events.append(event)
        if event_id <= last_id:
            is_ascending = False
        last_id = event_id
    return tuple(events) if is_ascending else _each_once(sorted(events, key=_by_id))


def _failed_event(wire: _WireEvent, data: dict[str, JSONValue], webhook_id: int | None) -> Any:
    event = _new_failed()
    event.id = wire.id
    event.created_at = wire.created_at
    event.type = wire.type
    event.data = data
    event.webhook_id = webhook_id
    reason, direction = data.get("failReason"), data.get("failDirection")
    event.fail_reason = reason if isinstance(reason, str) else _text(data, "fail_reason")
    event.fail_direction = direction if isinstance(direction, str) else _text(data, "fail_direction")
    return event


def _card_event(wire: _WireEvent, data: dict[str, JSONValue], webhook_id: int | None) -> CardTokenizationEvent | None:
    credit_card_id = _text(data, "creditCardId", "credit_card_id")
    contact_id = _text(data, "contactId", "contact_id")
    fail_reason = _text(data, "failReason", "fail_reason")
    result = data.get("state") or wire.type.rpartition(".")[2]
    if credit_card_id is None or not isinstance(result, str):
        return None
    members: dict[str, Any] = {
        "id": wire.id,
        "created_at": wire.created_at,
        "type": wire.type,
        "data": data,
        "webhook_id": webhook_id,
        "credit_card_id": credit_card_id,
        "contact_id": contact_id,
    }
    if result in _CARD_FAILURE:
        return CardTokenizationFailed(**members, fail_reason=fail_reason)
    return CardTokenized(**members) if result in _CARD_SUCCESS and fail_reason is None else None


@attrs.frozen(eq=False)
class _Rules:
    """What the type of an event says of its class, before its data are read."""

    state: str | None
    """The state of a transaction whose data name none."""
    classes: _Classes


_CARD = _Rules(None, {})


class _RulesByType(dict[str, _Rules | None]):
    """The rules of each type, read from its text once. Senders choose the types: so many are kept, and no long ones.

    When there are too many, all are dropped, so that the types that do come are soon known again.
    """

    def __missing__(self, event_type: str) -> _Rules | None:
        rules = _read_type(event_type)
        if len(event_type) <= _MAX_TYPE_CHARACTERS:
            if len(self) >= _MAX_TYPES:
                self.clear()
            self[event_type] = rules
        return rules


_MAX_TYPES = 256
_MAX_TYPE_CHARACTERS = 128
_rules_of = _RulesByType()


def _read_type(event_type: str) -> _Rules | None:
    """Return the rules of a type; None if no class but `UnknownEvent` has events of it."""
    if event_type.startswith(contract.TRANSACTION_EVENTS):
        return _Rules(_state_in_type(event_type), _CLASSES[_kind_of(event_type)])
    return _CARD if contract.CARD_EVENTS.fullmatch(event_type) else None


def _kind_of(event_type: str) -> Literal["debit", "credit"] | None:
    return _KINDS.get(event_type.partition(".")[2].partition(".")[0])


def _state_in_type(event_type: str) -> str | None:
    last = event_type.rpartition(".")[2]
    return last if last in {"paid", "failed"} else None


def _text(data: dict[str, JSONValue], *names: str) -> str | None:
    return next((value for name in names if isinstance(value := data.get(name), str)), None)


def _each_once(events: Iterable[Event]) -> tuple[Event, ...]:
    """Drop repetitions from sorted events; two that contradict each other are an error."""
    by_id: dict[int, Event] = {}
    for event in events:
        known = by_id.setdefault(event.id, event)
        try:
            is_conflicting = known is not event and known != event
        except RecursionError as error:
            # Comparing takes a little more of the stack than reading.
            raise _malformed(error) from None
        if is_conflicting:
            raise MalformedDeliveryError(Reason.CONFLICTING_EVENTS, {"event_id": event.id})
    return tuple(by_id.values())


def _unstructure_event(event: Event) -> dict[str, object]:
    return {"id": event.id, "createdAt": event.created_at.isoformat(), "type": event.type, "data": event.data}


def _unstructure_delivery(delivery: Delivery) -> dict[str, object]:
    return {"webhookId": delivery.webhook_id, "events": [_unstructure_event(event) for event in delivery.events]}


converter: cattrs.Converter = cattrs.Converter()
"""Structures parsed JSON into `Delivery` and `Event` (of the right class), and unstructures them to what was sent."""
converter.register_structure_hook(Delivery, _structure_delivery)
converter.register_structure_hook(Event, _structure_event)
converter.register_unstructure_hook(Delivery, _unstructure_delivery)
converter.register_unstructure_hook(Event, _unstructure_event)
