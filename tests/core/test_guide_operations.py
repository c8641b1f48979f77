"""The operations of the guide: what is sent, what is refused before, and what the replies mean."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs
import pytest
from multidict import CIMultiDict

from jetpay_async import (
    APIError,
    BankAccountDetails,
    Charge,
    Contact,
    InvalidArgumentError,
    Payer,
    RawAnswer,
    TransactionFailedError,
    Webhook,
)
from jetpay_async._core import (
    account_operations,
    contract,
    link_operations,
    operations,
    raw_operation,
    responses,
    webhook_operations,
)
from jetpay_async._core.arguments import UNCHANGED
from jetpay_async._core.http import RawResponse
from jetpay_async._core.operations import Call, ReplaySafety
from jetpay_async._core.responses import Unanswered
from jetpay_async._core.webhook_operations import change_to, differences, find_webhook, same_url
from tests.guide import ACCOUNT_NUMBER, API_KEY, CALLBACK_URL, DETAILS
from tests.loopback import WEBHOOK

CARD_PAYMENT: dict[str, Any] = {
    "contact_id": "contact_123",
    "credit_card_id": "cc_456",
    "amount": "100.50",
    "to_bank_account_id": "bank_789",
    "statement": "Test statement",
}
CHARGED = {
    "debit_id": "debit_123",
    "amount": 100.50,
    "contact_id": "contact_123",
    "from_credit_card_id": "cc_456",
    "transaction_state": "paid",
}
DEBIT: dict[str, Any] = {
    "amount": "100.50",
    "to_bank_account_id": "bank_789",
    "statement": "Rent",
    "note": None,
    "contact_id": "contact_123",
    "payer": None,
    "unit": "major",
}
CREDIT: dict[str, Any] = {
    "amount": "100.50",
    "from_bank_account_id": "bank_789",
    "contact_id": "contact_123",
    "statement": "Refund",
    "note": "a longer note",
    "unit": "major",
}
REGISTRATION: dict[str, Any] = {
    "callback_api_key": None,
    "max_batch_size": 10,
    "max_wait_seconds": 60,
    "replay_from": None,
}
MOMENT = datetime(2026, 1, 22, 10, 15, 30, tzinfo=UTC)


def contact(**changes: Any) -> Call[Contact]:
    return account_operations.create_contact(
        **{"email": "a@example.com", "name": "A", "tags": (), "language": "en", **changes}
    )


def debit(**changes: Any) -> Call[Any]:
    return link_operations.create_debit(**{**DEBIT, **changes})


def register(url: str = CALLBACK_URL, **changes: Any) -> Call[Webhook]:
    return webhook_operations.register_webhook(url, **{**REGISTRATION, **changes})


def change(**settings: Any) -> Call[Webhook]:
    return webhook_operations.change_webhook("webhook_123", **settings)


def request(
    method: Any = "POST", path: Any = "/new", document: Any = None, replay_safety: Any = "never"
) -> Call[RawAnswer]:
    return raw_operation.request(method, path, document=document, replay_safety=replay_safety)


def read(call: Call[Any], status: int, document: Any) -> Any:
    """What a response means; bytes are its body."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    response = RawResponse(status, CIMultiDict({"X-One": "1"}), body, direct=True)
    return responses.read(call, response, attempts=2, elapsed=0.5, now=0.0)


# --- what is sent -----------------------------------------------------------------------------------------------------

SENT: list[tuple[str, Call[Any], str, ReplaySafety, object]] = [
    (
        "charge",
        operations.charge(**CARD_PAYMENT),
        "POST /contact/contact_123/creditcards/cc_456/charge",
        ReplaySafety.NEVER,
        {"amount": 100.5, "to_bank_account_id": "bank_789", "statement": "Test statement"},
    ),
    (
        "create_contact",
        contact(tags=["vip", "b"], language="fr"),
        "PUT /contact",
        ReplaySafety.NEVER,
        {"email": "a@example.com", "name": "A", "language": "fr", "tags": ["vip", "b"]},
    ),
    (
        "card_form",
        account_operations.card_form("contact_123"),
        "POST /contact/contact_123/creditcards/url",
        ReplaySafety.IDEMPOTENT,
        None,
    ),
    (
        "create_bank_account",
        account_operations.create_bank_account(DETAILS, contact_id="contact_123"),
        "PUT /contact/bank_account",
        ReplaySafety.NEVER,
        {**attrs.asdict(DETAILS), "account_type": "chequing", "contact_id": "contact_123"},
    ),
    (
        "create_debit",
        debit(note="May\n\tand June", contact_id=None, payer=Payer(email="a@example.com", name="A")),
        "PUT /debit",
        ReplaySafety.NEVER,
        {
            "amount": 100.5,
            "statement": "Rent",
            "note": "May\n\tand June",
            "to_bank_account": "bank_789",
            "contact_email": "a@example.com",
            "contact_name": "A",
        },
    ),
    (
        "create_debit",
        debit(unit="minor"),
        "PUT /debit",
        ReplaySafety.NEVER,
        {"amount": 10050, "statement": "Rent", "to_bank_account": "bank_789", "contact_id": "contact_123"},
    ),
    (
        "create_credit",
        link_operations.create_credit(**CREDIT),
        "PUT /credit",
        ReplaySafety.NEVER,
        {
            "amount": 100.5,
            "statement": "Refund",
            "note": "a longer note",
            "from_bank_account": "bank_789",
            "contact_id": "contact_123",
        },
    ),
    (
        "send_credit",
        link_operations.send_credit(**CREDIT, to_bank_account_id="bank_790"),
        "PUT /credit",
        ReplaySafety.NEVER,
        {
            "amount": 100.5,
            "statement": "Refund",
            "note": "a longer note",
            "from_bank_account": "bank_789",
            "to_bank_account": "bank_790",
            "contact_id": "contact_123",
        },
    ),
    (
        "register_webhook",
        register(callback_api_key="key", replay_from=MOMENT),
        "POST /webhooks/",
        ReplaySafety.RESOLVE,
        {
            "callback_url": CALLBACK_URL,
            "callback_api_key": "key",
            "max_batch_size": 10,
            "max_wait_seconds": 60,
            "replay_from_timestamp": "2026-01-22T10:15:30+00:00",
        },
    ),
    ("list_webhooks", webhook_operations.list_webhooks(), "GET /webhooks/", ReplaySafety.IDEMPOTENT, None),
    (
        "webhook",
        webhook_operations.read_webhook("webhook_123"),
        "GET /webhooks/webhook_123",
        ReplaySafety.IDEMPOTENT,
        None,
    ),
    (
        "change_webhook",
        change(callback_url=f"{CALLBACK_URL}/2", callback_api_key=None, max_batch_size=5),
        "PATCH /webhooks/webhook_123",
        ReplaySafety.IDEMPOTENT,
        {"callback_url": f"{CALLBACK_URL}/2", "callback_api_key": None, "max_batch_size": 5},
    ),
    (
        "change_webhook",
        change(callback_api_key=UNCHANGED, max_wait_seconds=3600),
        "PATCH /webhooks/webhook_123",
        ReplaySafety.IDEMPOTENT,
        {"max_wait_seconds": 3600},
    ),
    (
        "replay_webhook",
        webhook_operations.replay_webhook("webhook_123", replay_from=7),
        "PATCH /webhooks/webhook_123",
        ReplaySafety.IDEMPOTENT,
        {"replay_from_event_id": 7},
    ),
    (
        "remove_webhook",
        webhook_operations.remove_webhook("webhook_123"),
        "DELETE /webhooks/webhook_123",
        ReplaySafety.IDEMPOTENT,
        None,
    ),
    (
        "request",
        request("PUT", "/new?a=b", {"x": [1, True, None, "é"], "y": (1.5, Decimal("0.25"))}),
        "PUT /new?a=b",
        ReplaySafety.NEVER,
        {"x": [1, True, None, "é"], "y": [1.5, 0.25]},
    ),
    ("request", request("GET", "/new"), "GET /new", ReplaySafety.IDEMPOTENT, None),
    ("request", request("POST", "/new", [], "idempotent"), "POST /new", ReplaySafety.IDEMPOTENT, []),
]


@pytest.mark.parametrize(("name", "call", "line", "safety", "body"), SENT, ids=[row[0] for row in SENT])
def test_a_call_is_sent_as_the_guide_says(
    name: str, call: Call[Any], line: str, safety: ReplaySafety, body: object
) -> None:
    """Each call has its method, path and body, and says what sending it twice would mean."""
    assert call.operation.name == name
    assert f"{call.operation.method} {call.path}" == line
    assert call.operation.replay_safety is safety
    assert (json.loads(call.body) if call.body else None) == body
    assert "body=b" not in repr(call)


def test_every_endpoint_of_the_contract_has_a_call() -> None:
    """What the contract names is what the operations send."""
    sent = {(call.operation.method, call.path) for _, call, *_ in SENT}
    ids = {"contact_id": "contact_123", "credit_card_id": "cc_456", "debit_id": "d", "identifier": "webhook_123"}
    of_debits = {"preauthorize", "capture", "transaction_status", "cancel_transaction"}
    for name, endpoint in contract.ENDPOINTS.items():
        assert name in of_debits or (endpoint.method, endpoint.fill(**ids)) in sent, name


# --- what is refused before anything is sent --------------------------------------------------------------------------

INVALID: list[tuple[str, Callable[[], object]]] = [
    ("email", lambda: contact(email="")),
    ("name", lambda: contact(name=7)),
    ("tags", lambda: contact(tags="vip")),
    ("email", lambda: contact(email="payer@example.com\nBcc: other@example.com")),
    ("name", lambda: contact(name="\ud83d")),
    ("tags", lambda: contact(tags=["x" * 1001])),
    ("tags", lambda: contact(tags=["\x85"])),
    ("tags", lambda: contact(tags=None)),
    ("language", lambda: contact(language=None)),
    ("details", lambda: account_operations.create_bank_account({}, contact_id="c")),  # type: ignore[arg-type] # untyped
    ("contact_id", lambda: account_operations.create_bank_account(DETAILS, contact_id="a/b")),
    ("contact_id", lambda: account_operations.card_form("..")),
    ("contact_id", lambda: debit(contact_id=None)),
    ("contact_id", lambda: debit(payer=Payer(email="a@example.com", name="A"))),
    ("payer", lambda: debit(contact_id=None, payer={"email": "a"})),
    ("payer", lambda: debit(contact_id=None, payer=Payer(email="", name="A"))),
    ("amount", lambda: debit(amount=0)),
    ("statement", lambda: debit(statement="x" * 31)),
    ("note", lambda: debit(note=" ")),
    ("note", lambda: debit(note="first\x1b[2Jsecond")),
    ("note", lambda: debit(note="\udfff")),
    ("to_bank_account_id", lambda: debit(to_bank_account_id="")),
    ("callback_url", lambda: register(7)),  # type: ignore[arg-type] # untyped
    ("callback_url", lambda: register("shop.example.com")),
    ("callback_url", lambda: register("https://")),
    ("callback_url", lambda: register("https://shop.example.com:port/")),
    ("callback_url", lambda: register(f"https://shop.example.com/{'x' * 2000}")),
    ("callback_api_key", lambda: register(callback_api_key=" ")),
    ("callback_api_key", lambda: register(callback_api_key=b"key")),
    ("callback_api_key", lambda: register(callback_api_key="é")),
    ("callback_api_key", lambda: register(callback_api_key="a\nb")),
    ("max_batch_size", lambda: register(max_batch_size=101)),
    ("max_batch_size", lambda: register(max_batch_size=True)),
    ("max_wait_seconds", lambda: register(max_wait_seconds=59)),
    ("max_wait_seconds", lambda: register(max_wait_seconds=60.5)),
    ("replay_from", lambda: register(replay_from=0)),
    ("replay_from", lambda: register(replay_from=True)),
    ("replay_from", lambda: register(replay_from="7")),
    ("replay_from", lambda: register(replay_from=datetime(2026, 1, 22))),  # noqa: DTZ001 - it is refused
    ("callback_url", change),
    ("identifier", lambda: webhook_operations.remove_webhook("a/b")),
    ("method", lambda: request("get")),
    ("method", lambda: request("HEAD")),
    *(
        ("path", lambda path=path: request(path=path))  # type: ignore[misc] # its type is that of the table
        for path in (
            *("", "new", "//host/new", "/a//b", "/a/../b", "/.", "/a/..?x", "/a%2fb", "/a%5Cb", "/a\\b", "/a b"),
            *("/a#b", "/a?b#c", "/é", "/a%0", "/%00", "https://host/new", None),
        )
    ),
    *(
        ("json", lambda value=value: request(document={"a": [value]}))  # type: ignore[misc] # as for the paths
        for value in (
            *(object(), b"bytes", {1}, datetime(2026, 1, 22, tzinfo=UTC), uuid.UUID(int=1), {1: 2}, "\ud83d"),
            *(math.nan, -math.inf, Decimal("NaN"), Decimal("Infinity")),
        )
    ),
    ("json", lambda: request("GET", document={})),
    ("replay_safety", lambda: request(replay_safety="always")),
    *(
        ("replay_safety", lambda line=line: request(*line, None, "idempotent"))  # type: ignore[misc] # the same
        for line in (
            ("POST", "/debit/debit_123/capture"),
            ("PUT", "/debit"),
            ("PUT", "/credit/"),
            ("PUT", "/contact?x=1"),
            ("POST", "/webhooks"),
            ("DELETE", "/transaction/debit_123"),
            ("PUT", "/debi%74"),
            ("POST", "/contact/c1/creditcards/cc1/%63harge"),
        )
    ),
]


@pytest.mark.parametrize(("field", "make"), INVALID, ids=[f"{at}-{row[0]}" for at, row in enumerate(INVALID)])
def test_what_cannot_be_right_is_refused(field: str, make: Callable[[], object]) -> None:
    """A bad argument is an error that names it, before anything is sent."""
    with pytest.raises(InvalidArgumentError) as caught:
        make()

    assert caught.value.field == field


BAD_DETAILS = [
    ("transit_number", "1234"),
    ("transit_number", "1234a"),
    ("institution_number", "01"),
    ("account_number", "12 345"),
    ("account_number", "١٢٣٤٥٦٧"),
    ("holder_address_country", "Canada"),
    ("holder_address_postal_code", "A1A 1A1"),
    ("institution", ""),
    ("title", "a\x00b"),
    ("account_number", 1234567),
]


@pytest.mark.parametrize(("field", "value"), BAD_DETAILS)
def test_the_details_of_a_bank_account_are_checked(field: str, value: object) -> None:
    """Digits and lengths are checked when the details are made; what was typed is not repeated."""
    with pytest.raises(InvalidArgumentError) as caught:
        attrs.evolve(DETAILS, **{field: value})  # type: ignore[arg-type] # untyped

    assert caught.value.field == field
    assert value == "" or str(value) not in str(caught.value)


@pytest.mark.parametrize("field", ["institution", "title", "holder_name"])
@pytest.mark.parametrize(
    "number", [ACCOUNT_NUMBER, ACCOUNT_NUMBER.lstrip("0"), "-".join(ACCOUNT_NUMBER), " ".join(ACCOUNT_NUMBER)]
)
def test_what_errors_show_has_no_account_number_in_it(field: str, number: str) -> None:
    """The number is refused where it would be shown, as it is, without its leading zeros, and grouped."""
    with pytest.raises(InvalidArgumentError, match=f"{field}: has the account number in it") as caught:
        attrs.evolve(DETAILS, **{field: f"Savings {number}"})  # type: ignore[arg-type] # untyped

    assert caught.value.field == field
    assert number not in str(caught.value)


def test_an_account_number_of_zeros_is_looked_for_as_it_is() -> None:
    """What has nothing but zeros is not taken for an empty text, which everything has in it."""
    assert attrs.evolve(DETAILS, account_number="0000").title == "Savings"
    with pytest.raises(InvalidArgumentError, match="title: has the account number"):
        attrs.evolve(DETAILS, account_number="0000", title="Savings 0000")


def test_the_details_show_three_digits() -> None:
    """Leading zeros are sent, and the account number is not printed."""
    assert DETAILS.transit_number == "00001"
    assert ACCOUNT_NUMBER not in repr(DETAILS)
    assert "account_number=***678" in repr(DETAILS)
    assert not {"1 Road", "A1A1A1", "Town", "payee@example.com"} & set(repr(DETAILS).split("'"))
    assert isinstance(DETAILS, BankAccountDetails)


# --- what the replies mean --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "final"), [("paid", True), ("completed", True), ("processing", False)])
def test_a_charge_is_final_once_it_is_done(state: str, *, final: bool) -> None:
    """Only paid and completed mean that the money was taken."""
    charged = read(operations.charge(**CARD_PAYMENT), 200, {**CHARGED, "transaction_state": state})

    assert isinstance(charged, Charge)
    assert (charged.state, charged.final, charged.attempts, charged.elapsed) == (state, final, 2, 0.5)


def test_a_charge_that_is_only_preauthorized_is_not_done() -> None:
    """Its state decides nothing, so the status is asked; a failed one is an error."""
    with pytest.raises(Unanswered) as caught:
        read(operations.charge(**CARD_PAYMENT), 200, {**CHARGED, "transaction_state": "preauthorized"})
    with pytest.raises(TransactionFailedError):
        read(operations.charge(**CARD_PAYMENT), 200, {**CHARGED, "transaction_state": "failed"})

    assert (caught.value.state, caught.value.debit_id) == ("preauthorized", "debit_123")


UNUSABLE: list[tuple[Call[Any], object]] = [
    (contact(), {}),
    (contact(), {"identifier": 7}),
    (contact(), {"identifier": ""}),
    (account_operations.card_form("c"), {"credit_card_id": "cc_456"}),
    (account_operations.card_form("c"), {"url": "https://pay.example.com"}),
    (
        account_operations.create_bank_account(DETAILS, contact_id="c"),
        {"identifier": "bank_1", "contact_id": "another"},
    ),
    (debit(), {"link": "https://pay.example.com"}),
    (link_operations.send_credit(**CREDIT, to_bank_account_id="b"), []),
    (register(), {**WEBHOOK, "id": True}),
    (register(), {**WEBHOOK, "id": "123"}),
    (register(), {**WEBHOOK, "identifier": None}),
    (register(), []),
    (webhook_operations.list_webhooks(), {"a": [], "b": []}),
    (webhook_operations.list_webhooks(), {}),
    (webhook_operations.list_webhooks(), "text"),
    (webhook_operations.list_webhooks(), None),
    (webhook_operations.list_webhooks(), [WEBHOOK, 7]),
    (webhook_operations.list_webhooks(), b""),
    (request(), b"<html>"),
    (webhook_operations.remove_webhook("w"), b"<html>"),
]


@pytest.mark.parametrize(("call", "document"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_a_reply_that_lacks_what_is_needed_is_no_answer(call: Call[Any], document: object) -> None:
    """A 2xx without the id is never taken for a result, and names no transaction where there is none."""
    with pytest.raises(Unanswered) as caught:
        read(call, 200, document)

    assert caught.value.started
    assert caught.value.debit_id is None


def test_an_unusable_link_still_names_its_transaction() -> None:
    """Where the link is missing, the unknown outcome has the id to look for."""
    with pytest.raises(Unanswered) as caught:
        read(debit(), 201, {"identifier": "debit_123"})

    assert caught.value.debit_id == "debit_123"


@pytest.mark.parametrize("document", [[WEBHOOK], {"items": [WEBHOOK], "total": 1}], ids=["array", "object"])
def test_a_list_is_an_array_or_holds_one(document: object) -> None:
    """The shape of the list is not published: both forms are read, and what is missing of a webhook is None."""
    (webhook,) = read(webhook_operations.list_webhooks(), 200, document)
    (least,) = read(webhook_operations.list_webhooks(), 200, [{"id": 1, "identifier": "w", "callback_url": "u"}])

    assert (webhook.id, webhook.identifier, webhook.max_batch_size) == (123, "webhook_123", 10)
    assert not webhook.confirmed_by_list
    assert (least.state, least.max_batch_size, least.last_sent_event_id) == ("", None, None)
    assert read(webhook_operations.list_webhooks(), 200, []) == ()


@pytest.mark.parametrize("body", [b"", b" ", b"null", b'{"ok":true}', b"[]"])
def test_any_2xx_says_that_a_webhook_is_removed(body: bytes) -> None:
    """What the reply to a removal carries is not published."""
    assert read(webhook_operations.remove_webhook("w"), 200, body) is None


def test_a_raw_answer_has_all_of_it() -> None:
    """Status, JSON with exact numbers, and headers."""
    answer = read(request(), 201, b'{"amount": 1.50}')
    empty = read(request(), 204, b"")

    assert (answer.status, str(answer.json["amount"]), answer.headers) == (201, "1.50", {"x-one": "1"})
    assert (empty.status, empty.json) == (204, None)


@pytest.mark.parametrize("shown", [ACCOUNT_NUMBER, ACCOUNT_NUMBER.lstrip("0")])
@pytest.mark.parametrize(
    "detail",
    [
        "no account {}",
        {"input": "{}"},
        [{"loc": ["body", "{}"], "msg": "bad {}", "type": "{}", "input": "{}"}],
    ],
    ids=["text", "object", "fields"],
)
def test_no_error_repeats_an_account_number(detail: object, shown: str) -> None:
    """Some services repeat what they reject: the number is replaced wherever it stands, at 4xx and 5xx."""
    document = json.loads(json.dumps({"detail": detail}).replace("{}", shown))
    call = account_operations.create_bank_account(DETAILS, contact_id="contact_123")

    with pytest.raises(APIError) as rejected:
        read(call, 422, document)
    with pytest.raises(Unanswered) as unanswered:
        read(call, 500, document)

    assert shown not in f"{rejected.value} {vars(rejected.value)} {unanswered.value.reason}"
    assert "***" in str(rejected.value)
    assert ACCOUNT_NUMBER not in repr(call)
    assert call.arguments["account_number"] == "***678"


def test_no_error_repeats_a_callback_key() -> None:
    """The secret of a webhook is neither among the arguments nor in what the API repeats."""
    call = register(callback_api_key=API_KEY)

    with pytest.raises(APIError) as rejected:
        read(call, 400, {"detail": f"bad key {API_KEY}"})

    assert API_KEY not in f"{rejected.value} {call!r} {call.arguments}"
    assert repr(UNCHANGED) == "UNCHANGED"


# --- webhooks compared ------------------------------------------------------------------------------------------------

SAME = [
    ("https://shop.example.com", "https://shop.example.com/", True),
    ("https://Shop.example.com:443/a", "https://shop.example.com/a", True),
    ("http://shop.example.com/a", "http://shop.example.com:80/a", True),
    ("https://shop.example.com/a", "https://shop.example.com/A", False),
    ("https://shop.example.com/a", "https://shop.example.com/a?b", False),
    ("https://shop.example.com/a", "http://shop.example.com/a", False),
]


@pytest.mark.parametrize(("one", "other", "same"), SAME)
def test_urls_are_compared_by_what_they_reach(one: str, other: str, *, same: bool) -> None:
    """The spelling of host, port and an empty path makes no other webhook; the path's does."""
    assert same_url(one, other) is same


def test_the_settings_of_a_webhook_are_compared() -> None:
    """What differs is named and changed; what a reply leaves out, or is equal, is not."""
    (webhook,) = read(webhook_operations.list_webhooks(), 200, [{**WEBHOOK, "max_batch_size": 20}])
    (sparse,) = read(webhook_operations.list_webhooks(), 200, [{"id": 1, "identifier": "w", "callback_url": "u"}])
    asked = register(callback_api_key="key")

    assert differences(webhook, json.loads(asked.body)) == ["callback_api_key", "max_batch_size"]
    assert differences(sparse, json.loads(asked.body)) == []
    changed = change_to(webhook, asked)
    assert changed is not None
    assert json.loads(changed.body) == {"callback_api_key": "key", "max_batch_size": 10}
    assert change_to(webhook, register(max_batch_size=20)) is None
    assert find_webhook([sparse, webhook], CALLBACK_URL.replace("shop", "SHOP")) is webhook
    assert find_webhook([sparse], CALLBACK_URL) is None
