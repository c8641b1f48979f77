"""Decoding: the kinds of events, what is tolerated, and what is not a delivery."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, cast

import attrs
import cattrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetpay_async._core import json as api_json
from jetpay_async.models import TransactionState
from jetpay_async.webhooks import (
    CardTokenizationEvent,
    CardTokenizationFailed,
    CardTokenized,
    CreditCompleted,
    CreditFailed,
    CreditPaid,
    DebitCompleted,
    DebitFailed,
    DebitPaid,
    Delivery,
    Event,
    MalformedDeliveryError,
    Reason,
    TransactionCompleted,
    TransactionEvent,
    TransactionFailed,
    TransactionPaid,
    UnknownEvent,
    decode,
)
from jetpay_async.webhooks import events as events_module
from jetpay_async.webhooks.events import converter

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

TIME = "2026-01-22T10:15:30.123456Z"
ID = "41fc05d5-3148-4ee2-bfdf-9ad5ab7172c6"


def wire(**changes: JSONValue) -> dict[str, JSONValue]:
    """An event as it is on the wire; the vendor's own example but for the changes."""
    event: dict[str, JSONValue] = {
        "id": 45678,
        "createdAt": TIME,
        "type": "transactions.debits.created",
        "data": {"state": "requested", "transactionId": ID},
    }
    return {**event, **changes}


def body_of(*events: JSONValue, webhook_id: JSONValue = 123) -> bytes:
    return api_json.dump({"webhookId": webhook_id, "events": list(events)})


def decoded(**changes: JSONValue) -> Event:
    (event,) = decode(body_of(wire(**changes))).events
    return event


def test_the_example_of_the_docs() -> None:
    """The vendor's printed example becomes a delivery with a transaction's event."""
    delivery = decode(
        b'{"webhookId": 123, "events": [{"id": 45678, "createdAt": "2026-01-22T10:15:30.123456Z", '
        b'"type": "transactions.debits.created", "data": {"state": "requested", '
        b'"transactionId": "41fc05d5-3148-4ee2-bfdf-9ad5ab7172c6"}}]}'
    )

    assert delivery == Delivery(
        webhook_id=123,
        events=(
            TransactionEvent(
                id=45678,
                created_at=datetime(2026, 1, 22, 10, 15, 30, 123456, tzinfo=UTC),
                type="transactions.debits.created",
                data={"state": "requested", "transactionId": ID},
                transaction_id=ID,
                state=TransactionState.REQUESTED,
            ),
        ),
        claims=None,
    )
    assert type(delivery.events) is tuple


@pytest.mark.parametrize(
    ("type_", "data", "kind"),
    [
        ("transactions.debits.updated", {"state": "paid", "transactionId": ID}, DebitPaid),
        ("transactions.credits.created", {"state": "paid", "transactionId": ID}, CreditPaid),
        ("transactions.links.created", {"state": "paid", "transactionId": ID}, TransactionPaid),
        ("transactions.debitsx.created", {"state": "paid", "transactionId": ID}, TransactionPaid),
        ("transactions.", {"state": "paid", "transactionId": ID}, TransactionPaid),
        ("transactions.paid", {"state": "failed", "transactionId": ID}, TransactionFailed),
        ("transactions.debits.failed", {"state": "paid", "transactionId": ID}, DebitPaid),
        ("transactions.debits.paid", {"transactionId": ID}, DebitPaid),
        ("transactions.debits", {"transactionId": ID, "state": "paid"}, DebitPaid),
        ("transactions.debits.paid", {"transactionId": ID, "state": None}, DebitPaid),
        ("transactions.debits.failed", {"transactionId": ID}, DebitFailed),
        ("transactions.credits.created", {"state": "failed", "transactionId": ID}, CreditFailed),
        ("transactions.debits.failed", {"state": "completed", "transactionId": ID}, DebitCompleted),
        ("transactions.credits.created", {"state": "completed", "transactionId": ID}, CreditCompleted),
        ("transactions.created", {"state": "completed", "transactionId": ID}, TransactionCompleted),
        ("transactions.debits.created", {"state": "preauthorized", "transactionId": ID}, TransactionEvent),
        ("transactions.debits.created", {"state": "clearing", "transactionId": ID}, TransactionEvent),
        ("transactions.debits.created", {"state": "PAID", "transactionId": ID}, TransactionEvent),
        ("transactions.debits.created", {"transactionId": ID}, UnknownEvent),
        ("transactions.debits.paid", {"state": "paid"}, UnknownEvent),
        ("transactions.debits.paid", {"state": "paid", "transactionId": 5}, UnknownEvent),
        ("transactions.debits.paid", {"state": 5, "transactionId": ID}, UnknownEvent),
        ("transactions.debits.paid", {"state": ["paid"], "transactionId": ID}, UnknownEvent),
        ("transactions.debits.paid", {}, UnknownEvent),
        ("transactions.debits.paid", None, UnknownEvent),
        ("transactions.debits.paid", [ID], UnknownEvent),
        ("transactions.debits.paid", "paid", UnknownEvent),
        ("transactions", {"state": "paid", "transactionId": ID}, UnknownEvent),
        ("transaction.debits.paid", {"state": "paid", "transactionId": ID}, UnknownEvent),
        ("user.actions.transactions.paid", {"state": "paid", "transactionId": ID}, UnknownEvent),
        ("kyc.status.updated", {"status": "approved"}, UnknownEvent),
        ("", {}, UnknownEvent),
    ],
)
def test_the_kind(type_: str, data: JSONValue, kind: type[Event]) -> None:
    """A transaction's event has the class of its state, or of its type's last segment; all others are unknown."""
    event = decoded(type=type_, data=data)

    assert type(event) is kind
    assert event.type == type_
    assert event.data == data
    if isinstance(event, TransactionEvent):
        assert event.transaction_id == ID
        assert event.state == (event.data.get("state") or type_.rpartition(".")[2])
        assert type(event.state) is TransactionState


@pytest.mark.parametrize(
    ("type_", "kind"),
    [
        ("transactions.debits.created", "debit"),
        ("transactions.credits.created", "credit"),
        ("transactions.created", None),
        ("transactions.", None),
    ],
)
@pytest.mark.parametrize("state", ["requested", "paid", "completed", "failed"])
def test_debit_or_credit(type_: str, kind: str | None, state: str) -> None:
    """Each transaction's event says whether it is a customer's payment or a payout, and its class agrees."""
    event = decoded(type=type_, data={"state": state, "transactionId": ID})

    assert isinstance(event, TransactionEvent)
    assert event.kind == kind
    assert isinstance(event, DebitPaid | DebitCompleted | DebitFailed) is (kind == "debit" and state != "requested")
    assert isinstance(event, CreditPaid | CreditCompleted | CreditFailed) is (kind == "credit" and state != "requested")


def test_an_event_made_by_hand_has_a_kind_too() -> None:
    """Whatever type a test writes, asking for the kind is no error."""
    made = TransactionPaid(id=1, created_at=datetime.now(UTC), type="x", data={}, transaction_id=ID, state="paid")  # type: ignore[arg-type] # as a test may

    assert made.kind is None


@pytest.mark.parametrize(
    ("type_", "data", "kind"),
    [
        ("credit_cards.tokenization.created", {"creditCardId": "c", "contactId": "k"}, CardTokenized),
        ("card_tokenization.succeeded", {"credit_card_id": "c", "contact_id": "k"}, CardTokenized),
        ("card_tokenizations.created", {"creditCardId": "c", "contactId": "k", "state": "tokenized"}, CardTokenized),
        ("cards.tokenized", {"creditCardId": "c", "contactId": "k"}, CardTokenized),
        ("cards.tokenized", {"creditCardId": "c", "contactId": "k", "state": "failed"}, CardTokenizationFailed),
        ("card_tokenization.failed", {"creditCardId": "c", "contactId": "k"}, CardTokenizationFailed),
        ("card_tokenization.failed", {"contactId": "k"}, UnknownEvent),
        ("card_tokenization.created", {"creditCardId": 7}, UnknownEvent),
        ("card_tokenization.created", {"creditCardId": "c", "state": "pending"}, UnknownEvent),
        ("card_tokenization.created", {"creditCardId": "c", "state": 7}, UnknownEvent),
        ("card_tokenization.created", {"creditCardId": "c", "failReason": "declined"}, UnknownEvent),
        ("card_tokenization.created", None, UnknownEvent),
        ("cards.expired", {"creditCardId": "c"}, UnknownEvent),
        ("scorecards.tokenized", {"creditCardId": "c"}, UnknownEvent),
    ],
)
def test_card_tokenization(type_: str, data: JSONValue, kind: type[Event]) -> None:
    """The result of a card form has a class if it is clearly a success or a failure of a card that is named."""
    event = decoded(type=type_, data=data)

    assert type(event) is kind
    if isinstance(event, CardTokenizationEvent):
        assert (event.credit_card_id, event.contact_id) == ("c", "k")


def test_why_a_card_was_not_saved() -> None:
    """A failed tokenization keeps its reason."""
    event = decoded(type="card_tokenization.failed", data={"creditCardId": "c", "failReason": "declined"})

    assert isinstance(event, CardTokenizationFailed)
    assert (event.fail_reason, event.contact_id) == ("declined", None)


@pytest.mark.parametrize(("type_", "family"), [("kyc.status.updated", "kyc"), ("company", "company"), ("", "")])
def test_an_unknown_event_has_a_family(type_: str, family: str) -> None:
    """Events without a class of their own say which family of the vendor's they belong to."""
    event = decoded(type=type_)

    assert isinstance(event, UnknownEvent)
    assert event.family == family


def test_members_beside_data_do_not_count() -> None:
    """What a sender puts beside ``data`` is neither the transaction's id nor its state."""
    beside: dict[str, JSONValue] = {"transaction_id": "x", "transactionId": "x", "state": "paid", "fail_reason": "x"}
    beside |= {"credit_card_id": "x", "contact_id": "x", "kind": "credit"}

    assert type(decoded(**beside, data={"state": "paid"})) is UnknownEvent
    failed = decoded(**beside, data={"state": "failed", "transactionId": ID})
    assert isinstance(failed, TransactionFailed)
    assert (failed.transaction_id, failed.fail_reason) == (ID, None)


@pytest.mark.parametrize(
    ("data", "reason", "direction"),
    [
        ({"failReason": "account_frozen", "failDirection": "pull"}, "account_frozen", "pull"),
        ({"fail_reason": "account_frozen", "fail_direction": "push"}, "account_frozen", "push"),
        ({"failReason": "a", "fail_reason": "b"}, "a", None),
        ({"failReason": None, "fail_reason": "b"}, "b", None),
        ({"failReason": {"code": 5}, "failDirection": 7}, None, None),
        ({}, None, None),
    ],
)
def test_why_it_failed(data: dict[str, JSONValue], reason: str | None, direction: str | None) -> None:
    """The reason and the direction are read in both spellings; what is no text stays in the data only."""
    event = decoded(data={**data, "state": "failed", "transactionId": ID})

    assert isinstance(event, TransactionFailed)
    assert (event.fail_reason, event.fail_direction) == (reason, direction)
    assert event.data == {**data, "state": "failed", "transactionId": ID}


def test_data_is_exact() -> None:
    """Numbers in the data keep every digit, and nothing in it is renamed or dropped."""
    body = body_of(wire()).replace(
        b'"requested"', b'"x","amount":100.10,"big":12345678901234567890.000000000001,"n":null'
    )

    event = decode(body).events[0]

    data = cast("dict[str, JSONValue]", event.data)
    assert data["amount"] == Decimal("100.10")
    assert str(data["amount"]) == "100.10"
    assert data["big"] == Decimal("12345678901234567890.000000000001")
    assert data["n"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TIME, datetime(2026, 1, 22, 10, 15, 30, 123456, tzinfo=UTC)),
        ("2026-01-22T10:15:30Z", datetime(2026, 1, 22, 10, 15, 30, tzinfo=UTC)),
        ("2026-01-22T10:15:30.5+00:00", datetime(2026, 1, 22, 10, 15, 30, 500000, tzinfo=UTC)),
        ("2026-01-22T05:15:30-05:00", datetime(2026, 1, 22, 5, 15, 30, tzinfo=timezone(timedelta(hours=-5)))),
        ("2026-01-22T10:15:30.123456", datetime(2026, 1, 22, 10, 15, 30, 123456, tzinfo=UTC)),
        ("2026-01-22 10:15:30", datetime(2026, 1, 22, 10, 15, 30, tzinfo=UTC)),
    ],
)
def test_times(text: str, expected: datetime) -> None:
    """Times are aware, with microseconds; one without an offset is UTC."""
    event = decoded(createdAt=text)

    assert event.created_at == expected
    assert event.created_at.utcoffset() == expected.utcoffset()


def test_a_time_without_offset_among_others() -> None:
    """One such time neither changes the other events nor makes the delivery fail."""
    events = decode(body_of(wire(id=1), wire(id=2, createdAt="2026-01-22T10:15:30"), wire(id=3, data=None))).events

    assert [event.created_at.isoformat() for event in events] == [
        "2026-01-22T10:15:30.123456+00:00",
        "2026-01-22T10:15:30+00:00",
        "2026-01-22T10:15:30.123456+00:00",
    ]


def test_missing_data() -> None:
    """An event without data is an unknown one, with None for data."""
    event = wire()
    del event["data"]

    assert decode(body_of(event)).events[0] == decoded(data=None)


def test_the_order_of_ids() -> None:
    """Events come in the order of their ids, across kinds, whatever the order on the wire."""
    states = ["paid", "failed", "requested", "paid"]
    events = [wire(id=9 - index, data={"state": state, "transactionId": ID}) for index, state in enumerate(states)]

    delivery = decode(body_of(*events, wire(id=1, type="kyc")))

    assert [event.id for event in delivery.events] == [1, 6, 7, 8, 9]
    assert [type(event).__name__ for event in delivery.events] == [
        "UnknownEvent",
        "DebitPaid",
        "TransactionEvent",
        "DebitFailed",
        "DebitPaid",
    ]


def test_an_event_twice() -> None:
    """An event that is repeated in a delivery is there once."""
    assert [event.id for event in decode(body_of(wire(id=2), wire(id=1), wire(id=2))).events] == [1, 2]


@pytest.mark.parametrize("change", [{"type": "x"}, {"data": {"state": "paid", "transactionId": ID}}, {"data": None}])
def test_two_events_with_one_id(change: dict[str, JSONValue]) -> None:
    """Two different events with the same id are rejected: nobody can tell which of them is true."""
    with pytest.raises(MalformedDeliveryError) as caught:
        decode(body_of(wire(), wire(id=1), wire(**change)))

    assert caught.value.reason is Reason.CONFLICTING_EVENTS
    assert caught.value.facts == {"event_id": 45678}
    assert "45678" in caught.value.explain()


def test_an_empty_delivery() -> None:
    """Jetpay sends none [docs]; if it did, there would be nothing wrong with it."""
    assert decode(b'{"webhookId":1,"events":[]}') == Delivery(webhook_id=1, events=())


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "truncated"),
        (b"\xff", "malformed"),
        (b"\xef\xbb\xbf{}", "malformed"),
        (b"webhookId=1&events=", "malformed"),
        (b"null", "Expected `object`, got `null`"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `webhookId`"),
        (b'{"webhookId":1}', "missing required field `events`"),
        (b'{"webhookId":1,"events":{}}', "Expected `array`, got `object` - at `$.events`"),
        (b'{"webhookId":1,"events":[1]}', "Expected `object`, got `int` - at `$.events[0]`"),
        (body_of(wire(), webhook_id="123"), "Expected `int`, got `str` - at `$.webhookId`"),
        (body_of(wire(), webhook_id=True), "Expected `int`, got `bool` - at `$.webhookId`"),
        (body_of(wire(), webhook_id=None), "Expected `int`, got `null` - at `$.webhookId`"),
        (body_of(wire(), wire(id=True)), "Expected `int`, got `bool` - at `$.events[1].id`"),
        (body_of(wire(id="1")), "Expected `int`, got `str` - at `$.events[0].id`"),
        (body_of(wire(id=Decimal("1.5"))), "Expected `int`"),
        (body_of(wire(id=-1)), "Expected `int` >= 0 - at `$.events[0].id`"),
        (body_of(wire(id=2**63)), "Expected `int` <= 9223372036854775807 - at `$.events[0].id`"),
        (body_of(wire(id=10**30)), "at `$.events[0].id`"),
        (body_of(wire(type=None)), "Expected `str`, got `null` - at `$.events[0].type`"),
        (body_of(wire(createdAt="yesterday")), "Invalid RFC3339 encoded datetime - at `$.events[0].createdAt`"),
        (
            body_of(wire(createdAt="9999-99-99T99:99:99")),
            "Invalid RFC3339 encoded datetime - at `$.events[0].createdAt`",
        ),
        (body_of(wire(createdAt=1_800_000_000)), "at `$.events[0].createdAt`"),
        (body_of({"id": 1}), "missing required field `createdAt` - at `$.events[0]`"),
        (body_of(wire()).replace(b"45678", b"1e99999999999999999999"), "InvalidOperation"),
        (body_of(wire()).replace(b'"requested"', b"1e99999999999999999999"), "InvalidOperation"),
        *(
            (body_of(wire(**{name: "x"})).replace(b'"x"', b"1e99999999999999999999"), "InvalidOperation")
            for name in ("webhook_id", "transaction_id", "state", "fail_reason", "fail_direction", "contact_id")
        ),
        (body_of(wire(credit_card_id="x")).replace(b'"x"', b'"\xff"'), "utf-8"),
        (body_of(wire()).replace(b'"requested"', b"1" * 5000), "out of range"),
        (body_of(wire()).replace(b'"requested"', b"[" * 100_000), "recursion"),
        (body_of(wire()).replace(b'"requested"', b"NaN"), "malformed"),
        (body_of(wire()).replace(b'"requested"', b'"\\ud800"'), ""),
        (body_of(wire()).replace(b'"requested"', b'"\xff"'), "utf-8"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_no_delivery(body: bytes, problem: str) -> None:
    """What isn't a delivery is rejected with 400, and the facts name the place without showing the content."""
    with pytest.raises(MalformedDeliveryError) as caught:
        decode(body)

    error = caught.value
    assert (error.reason, error.status_hint) == (Reason.MALFORMED_BODY, 400)
    assert problem.lower() in str(error.facts["problem"]).lower()
    assert error.__context__ is None
    assert error.explain() == f"The body is not a delivery: {error.facts['problem']}."


def _deep(depth: int, *leaves: int) -> bytes:
    """Return the body of a delivery whose events have one id, and data so deep around their leaves."""
    events = (
        b'{"id":1,"createdAt":"2026-01-22T10:15:30Z","type":"x","data":' + b"[" * depth + b"%d" % leaf
        for leaf in leaves
    )
    return b'{"webhookId":1,"events":[' + b",".join(event + b"]" * depth + b"}" for event in events) + b"]}"


def _is_readable(body: bytes) -> bool:
    try:
        decode(body)
    except MalformedDeliveryError as error:
        assert error.reason is Reason.MALFORMED_BODY
        return False
    return True


def test_events_too_deep_to_be_compared() -> None:
    """Two events of one id, deep enough to be read but not to be compared, are rejected like all that are too deep."""
    deepest, unreadable = 1, 1_000_000
    while unreadable - deepest > 1:
        middle = (deepest + unreadable) // 2
        deepest, unreadable = (middle, unreadable) if _is_readable(_deep(middle, 1)) else (deepest, middle)

    assert deepest > 100
    assert not _is_readable(_deep(deepest, 1, 2))


def test_events_are_values() -> None:
    """Events compare and hash by what they say, can't be changed, and survive pickling; data is not printed."""
    event = decoded(data={"state": "failed", "transactionId": ID, "failReason": "r", "holder": {"name": "hush-hush"}})
    same = decoded(data={"holder": {"name": "hush-hush"}, "failReason": "r", "state": "failed", "transactionId": ID})

    assert event == same
    assert hash(event) == hash(same)
    assert event != decoded()
    assert event != attrs.evolve(event, data={})
    assert pickle.loads(pickle.dumps(event)) == event
    assert "hush-hush" not in repr(event)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.id = 5  # type: ignore[misc] # on purpose


@pytest.mark.parametrize(
    ("type_", "data"),
    [
        ("kyc.status.updated", {"status": "approved"}),
        *(
            (f"transactions.{kind}.updated", {"state": state, "transactionId": ID, "failReason": "r"})
            for kind in ("debits", "credits", "links")
            for state in ("requested", "clearing", "paid", "completed", "failed")
        ),
        ("cards.tokenized", {"creditCardId": "c", "contactId": "k"}),
        ("cards.failed", {"creditCardId": "c", "failReason": "r"}),
    ],
)
def test_what_is_read_is_what_the_constructors_make(type_: str, data: JSONValue) -> None:
    """A delivery and its events have every attribute, as their constructors would set it, and none can be changed."""
    delivery = decode(body_of(wire(type=type_, data=data)))

    values: tuple[Delivery | Event, ...] = (delivery, *delivery.events)
    for value in values:
        members = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        assert type(value)(**members) == value
        assert type(value).__module__ == events_module.__name__
        assert type(value).__name__ in events_module.__all__
        for name, member in members.items():
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                setattr(value, name, member)
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                delattr(value, name)


def in_state(state: str, event_id: int = 7) -> TransactionEvent:
    (event,) = decode(body_of(wire(id=event_id, data={"state": state, "transactionId": ID}))).events
    assert isinstance(event, TransactionEvent)
    return event


@pytest.mark.parametrize(
    ("state", "rank"),
    [
        ("requested", 0),
        ("initiated", 1),
        ("preauthorized", 1),
        ("processing", 1),
        ("clearing", 1),
        ("paid", 2),
        ("completed", 3),
        ("failed", 3),
        ("cancelled", 3),
    ],
)
def test_how_far_a_transaction_is(state: str, rank: int) -> None:
    """Each state has a rank; one that this release doesn't know is on its way."""
    assert in_state(state).rank == rank


@pytest.mark.parametrize(
    ("state", "known", "event_id", "expected"),
    [
        ("requested", None, None, True),
        ("requested", "paid", 9, False),
        ("paid", "requested", 5, True),
        ("paid", "failed", 5, True),
        ("paid", "paid", 7, False),
        ("requested", "paid", None, False),
        ("paid", "paid", None, False),
        ("failed", "paid", None, True),
        ("clearing", "requested", None, True),
        ("clearing", "completed", None, False),
    ],
)
def test_what_is_newer(state: str, known: str | None, event_id: int | None, *, expected: bool) -> None:
    """The event of the higher id is the newer; without an id, the state of the higher rank is."""
    assert in_state(state, 7).supersedes(known, event_id) is expected


def test_matching() -> None:
    """A match statement takes events apart by class and attribute."""
    match decoded(data={"state": "paid", "transactionId": ID}):
        case TransactionPaid(transaction_id=transaction_id):
            assert transaction_id == ID
        case _:
            pytest.fail("no match")


_TEXTS = st.sampled_from(["paid", "failed", "requested", "clearing", "", "transactions.debits.paid", TIME, "kyc"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 5) | st.decimals(allow_nan=False, allow_infinity=False) | _TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["state", "transactionId", "failReason", "fail_direction", "x"]), inner)
    ),
    max_leaves=8,
)
_EVENTS = st.builds(wire, id=st.integers(0, 4), type=_TEXTS | _JSON, data=_JSON, createdAt=st.just(TIME) | _JSON)


@settings(max_examples=30)
@given(st.lists(_EVENTS, max_size=6), st.integers(0, 3) | _JSON)
def test_any_delivery(events: list[dict[str, JSONValue]], webhook_id: JSONValue) -> None:
    """Any JSON of this shape is decoded into the events it has, in order, data untouched, or is rejected as a whole."""
    body = body_of(*events, webhook_id=webhook_id)
    try:
        delivery = decode(body)
    except MalformedDeliveryError as error:
        assert error.reason in {Reason.MALFORMED_BODY, Reason.CONFLICTING_EVENTS}
        return

    read = {event["id"]: event for event in json.loads(body, parse_float=Decimal)["events"]}
    assert [event.id for event in delivery.events] == sorted(read)
    for event in delivery.events:
        assert event.data == read[event.id]["data"]
        assert event.type == read[event.id]["type"]
        assert event.created_at.tzinfo is not None
    assert converter.structure(api_json.parse(body), Delivery) == delivery
    assert converter.structure(api_json.parse(api_json.dump(converter.unstructure(delivery))), Delivery) == delivery


def test_cattrs_is_the_front_door() -> None:
    """The converter structures parsed JSON into the right class of event, and unstructures it to what was sent."""
    event = converter.structure(wire(data={"state": "paid", "transactionId": ID}), Event)

    assert type(event) is DebitPaid
    assert converter.unstructure(event) == {
        **wire(data={"state": "paid", "transactionId": ID}),
        "createdAt": "2026-01-22T10:15:30.123456+00:00",
    }
    assert converter.structure(converter.unstructure(event), Event) == event
    with pytest.raises(MalformedDeliveryError):
        converter.structure({"id": 1}, Event)
    with pytest.raises(MalformedDeliveryError):
        converter.structure(5, Delivery)


def test_other_converters() -> None:
    """A user's own cattrs converter can take the classes apart: their annotations can be read at run time."""
    event = decoded()
    mine = cattrs.Converter()

    assert mine.unstructure(event)["transaction_id"] == ID
    assert attrs.fields(attrs.resolve_types(TransactionEvent)).state.type is TransactionState


def test_what_is_kept_of_types_is_bounded() -> None:
    """Whoever sends deliveries chooses the types: few are kept, no long ones, and all are read by the same rules."""
    types = [f"transactions.debits.{number}" for number in range(600)]
    types += [f"transactions.credits.{'x' * length}" for length in (100, 100_000)]
    body = api_json.dump(
        {
            "webhookId": 1,
            "events": [
                {
                    "id": number,
                    "createdAt": "2026-01-22T10:15:30Z",
                    "type": event_type,
                    "data": {"state": "paid", "transactionId": "a"},
                }
                for number, event_type in enumerate(types)
            ],
        }
    )

    for _ in range(2):
        classes = [type(event) for event in decode(body).events]

        assert classes == [DebitPaid] * 600 + [CreditPaid] * 2
        assert len(events_module._rules_of) <= events_module._MAX_TYPES
        assert max(map(len, events_module._rules_of)) <= events_module._MAX_TYPE_CHARACTERS


def test_a_type_that_comes_again_is_known_after_many_others() -> None:
    """However many types came before, the rules of one that does come are read from its text once."""
    for number in range(600):
        decoded(type=f"transactions.debits.{number}")

    decoded(type="transactions.debits.updated")

    assert "transactions.debits.updated" in events_module._rules_of
