"""What comes back: a value, the API's no, or nothing usable; and never anything else."""

from __future__ import annotations

import json
import time
from decimal import Decimal
from typing import Any

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multidict import CIMultiDict

from jetpay_async import (
    APIError,
    AuthenticationError,
    Capture,
    ConflictError,
    FieldError,
    InvalidRequestError,
    JetpayError,
    NotFoundError,
    PermissionDeniedError,
    Preauthorization,
    RateLimitedError,
    TransactionFailedError,
    TransactionState,
    TransactionStatus,
)
from jetpay_async._core import operations, responses
from jetpay_async._core.http import RawResponse, ResolveBound
from jetpay_async._core.operations import Call, ResponseContext
from jetpay_async._core.responses import Unanswered

AnyCall = Call[Any]

PREAUTHORIZE = operations.preauthorize(
    contact_id="contact_123",
    credit_card_id="cc_456",
    amount="100.50",
    to_bank_account_id="bank_789",
    statement="Test statement",
)
CAPTURE = operations.capture("debit_123")
STATUS = operations.transaction_status("debit_123")
CANCEL = operations.cancel_transaction("debit_123")
CALLS: list[AnyCall] = [PREAUTHORIZE, CAPTURE, STATUS, CANCEL]
every_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.operation.name)

# The replies of the guide.
PREAUTHORIZED: dict[str, Any] = {
    "debit_id": "debit_123",
    "amount": 100.5,
    "statement": "Test statement",
    "to_bank_account_id": "bank_789",
    "contact_id": "contact_123",
    "from_credit_card_id": "cc_456",
    "transaction_state": "preauthorized",
}
CAPTURED: dict[str, Any] = {"identifier": "debit_123", "state": "paid"}
FAILED: dict[str, Any] = {"state": "failed", "fail_reason": "account_frozen", "fail_direction": "pull"}
CANCELLED: dict[str, Any] = {"ok": True}
GOOD = {
    "preauthorize": PREAUTHORIZED,
    "capture": CAPTURED,
    "transaction_status": FAILED,
    "cancel_transaction": CANCELLED,
}

NOW = 784111777.0


def read(call: AnyCall, status: int, body: object, **headers: str) -> Any:
    """Read a reply; a body of bytes is taken as it is, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    return responses.read(call, RawResponse(status, fields, content), attempts=2, elapsed=1.5, now=NOW)


# --- the result -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 299])
def test_a_preauthorization_is_read(status: int) -> None:
    """The guide's reply becomes a value, the amount with its two decimals."""
    value = read(PREAUTHORIZE, status, PREAUTHORIZED)

    assert value == Preauthorization(
        debit_id="debit_123",
        amount=Decimal("100.50"),
        statement="Test statement",
        to_bank_account_id="bank_789",
        contact_id="contact_123",
        from_credit_card_id="cc_456",
        state=TransactionState.PREAUTHORIZED,
        raw={},
    )
    assert str(value.amount) == "100.50"
    assert value.raw == {**PREAUTHORIZED, "amount": Decimal("100.5")}
    assert (value.attempts, value.elapsed) == (2, 1.5)


@pytest.mark.parametrize("status", [200, 201, 299])
def test_a_capture_is_read(status: int) -> None:
    """The guide's reply becomes a value that says that the capture's own reply reported it."""
    value = read(CAPTURE, status, CAPTURED)

    assert value == Capture(debit_id="debit_123", state=TransactionState.PAID, confirmed_by_status=False, raw={})
    assert value.raw == CAPTURED
    assert (value.attempts, value.elapsed) == (2, 1.5)


def test_a_status_is_read() -> None:
    """The guide's reply becomes a value with the reason of the failure."""
    value = read(STATUS, 200, FAILED)

    assert value == TransactionStatus(
        transaction_id="debit_123",
        state=TransactionState.FAILED,
        fail_reason="account_frozen",
        fail_direction="pull",
        raw={},
    )
    assert value.raw == FAILED
    assert (value.attempts, value.elapsed) == (2, 1.5)


@pytest.mark.parametrize(
    "document",
    [{"state": "paid"}, {"state": "paid", "fail_reason": None, "fail_direction": None}],
    ids=["left out", "null"],
)
def test_a_status_needs_no_reason(document: dict[str, Any]) -> None:
    """A transaction that has not failed has no reason, left out or null."""
    value = read(STATUS, 200, document)

    assert value == TransactionStatus(transaction_id="debit_123", state=TransactionState.PAID, raw={})
    assert value.fail_reason is value.fail_direction is None


def test_a_cancellation_is_read() -> None:
    """The API's "ok" is all there is to say."""
    assert read(CANCEL, 200, CANCELLED) is None


@every_call
def test_unknown_fields_are_kept(call: AnyCall) -> None:
    """Fields that this release does not know change nothing, and are kept in the raw reply."""
    document = {**GOOD[call.operation.name], "new": {"deep": [1, None]}, "détail": "é"}

    value = read(call, 200, document)

    if value is not None:
        assert value.raw["new"] == {"deep": [1, None]}
        assert value.raw["détail"] == "é"


@pytest.mark.parametrize(
    ("call", "document"),
    [
        (PREAUTHORIZE, {**PREAUTHORIZED, "transaction_state": "pondering"}),
        (CAPTURE, {**CAPTURED, "state": "pondering"}),
    ],
    ids=["preauthorize", "capture"],
)
def test_an_unknown_state_of_a_write_is_no_answer(call: AnyCall, document: dict[str, Any]) -> None:
    """A 2xx with a state that this release does not know says neither done nor not done; it names state and debit."""
    with pytest.raises(Unanswered, match="the response says that the transaction is pondering") as caught:
        read(call, 200, document, X_Request_ID="req_1")

    assert caught.value.state == "pondering"
    assert caught.value.debit_id == "debit_123"
    assert (caught.value.status, caught.value.request_id) == (200, "req_1")


def test_an_unknown_state_of_a_status_is_carried_through() -> None:
    """A state that this release does not know is a value, not an error, where the state is what was asked for."""
    value = read(STATUS, 200, {"state": "pondering"})

    assert not value.state.known
    assert value.state == "pondering"


@pytest.mark.parametrize("status", [200, 202])
@pytest.mark.parametrize("state", ["requested", "initiated", "processing"])
def test_what_is_in_progress_is_accepted(state: str, status: int) -> None:
    """A 2xx in a state of progress is a result that is not final, of a capture and of a preauthorization."""
    captured = read(CAPTURE, status, {**CAPTURED, "state": state})
    reserved = read(PREAUTHORIZE, status, {**PREAUTHORIZED, "transaction_state": state})

    assert (captured.state, captured.final, captured.confirmed_by_status) == (state, False, False)
    assert (reserved.state, reserved.final) == (state, False)


@pytest.mark.parametrize("state", ["paid", "completed"])
def test_only_what_is_done_is_final(state: str) -> None:
    """Paid and completed mean that the money was taken."""
    assert read(CAPTURE, 200, {**CAPTURED, "state": state}).final
    assert read(PREAUTHORIZE, 200, {**PREAUTHORIZED, "transaction_state": state}).final


UUID = "41FC05D5-3148-4ee2-bfdf-9ad5ab7172c6"
OTHER_SPELLINGS: list[tuple[str, dict[str, Any]]] = [
    ("no statement", {"statement": None}),
    ("a statement of another kind", {"statement": 7}),
    ("another bank account", {"to_bank_account_id": "bank_0"}),
    ("a bank account of another kind", {"to_bank_account_id": []}),
    ("a contact in another case", {"contact_id": UUID.lower()}),
    ("a contact without hyphens", {"contact_id": UUID.replace("-", "")}),
    ("a card in another case", {"from_credit_card_id": "CC_456"}),
    ("no contact", {"contact_id": None}),
    ("no card", {"from_credit_card_id": None}),
    ("no amount", {"amount": None}),
    ("an amount as a string", {"amount": "100.5"}),
]


@pytest.mark.parametrize("changes", [row[1] for row in OTHER_SPELLINGS], ids=[row[0] for row in OTHER_SPELLINGS])
@pytest.mark.parametrize("missing", [False, True], ids=["written", "left out"])
def test_what_is_not_needed_may_differ(changes: dict[str, Any], *, missing: bool) -> None:
    """A preauthorization needs its debit and its state; of the rest, only a real difference counts."""
    call = operations.preauthorize(
        contact_id=UUID,
        credit_card_id="cc_456",
        amount="100.50",
        to_bank_account_id="bank_789",
        statement="Test statement",
    )
    document = {**PREAUTHORIZED, "contact_id": UUID, **changes}
    if missing:
        document = without(document, next(iter(changes)))

    value = read(call, 200, document)

    assert (value.debit_id, value.state, value.amount) == ("debit_123", "preauthorized", Decimal("100.50"))
    assert (value.contact_id, value.from_credit_card_id) == (UUID, "cc_456")
    assert value.statement == "Test statement"
    assert isinstance(value.to_bank_account_id, str)


def test_a_byte_order_mark_is_no_part_of_the_json() -> None:
    """Some servers write one; the document behind it is the same."""
    body = b"\xef\xbb\xbf" + json.dumps(CAPTURED).encode()

    assert read(CAPTURE, 200, body).state == "paid"


def test_a_capture_is_of_the_debit_however_its_id_is_spelled() -> None:
    """A UUID in another case is the same debit."""
    value = read(operations.capture(UUID), 200, {"identifier": UUID.lower(), "state": "paid"})

    assert value.debit_id == UUID


@pytest.mark.parametrize("reason", [None, [], {"code": 7}, 7], ids=str)
def test_a_status_needs_its_state_alone(reason: object) -> None:
    """A reason that is no text costs the reason, not the state; the raw reply has it."""
    value = read(STATUS, 200, {"state": "failed", "fail_reason": reason, "fail_direction": reason})

    assert (value.state, value.fail_reason, value.fail_direction) == ("failed", None, None)
    assert value.raw["fail_reason"] == reason


@pytest.mark.parametrize("digits", ["100.5", "100.50", "100.500", "1.005e2", "1.005E+2", "10050e-2"])
def test_an_amount_is_compared_by_its_value(digits: str) -> None:
    """However the API writes the amount, it is the one that was asked for, and is reported to the cent."""
    body = json.dumps(PREAUTHORIZED).replace("100.5", digits).encode()

    assert str(read(PREAUTHORIZE, 200, body).amount) == "100.50"


def test_a_whole_amount_may_come_as_an_integer() -> None:
    """A JSON number without a point is an amount too."""
    call = operations.preauthorize(
        contact_id="contact_123", credit_card_id="cc_456", amount=100, to_bank_account_id="b", statement="s"
    )

    assert str(read(call, 200, {**PREAUTHORIZED, "amount": 100}).amount) == "100.00"


@pytest.mark.parametrize("state", ["failed", "cancelled"])
@pytest.mark.parametrize(
    ("call", "document", "name"),
    [(PREAUTHORIZE, PREAUTHORIZED, "transaction_state"), (CAPTURE, CAPTURED, "state")],
    ids=["preauthorize", "capture"],
)
def test_a_transaction_that_is_over_is_an_error(call: AnyCall, document: dict[str, Any], name: str, state: str) -> None:
    """A 200 that says "failed" is no success."""
    with pytest.raises(TransactionFailedError, match=f"^the transaction is {state}, and final") as caught:
        read(call, 200, {**document, name: state}, X_Request_ID="req_1")

    error = caught.value
    assert error.state == state
    assert error.debit_id == "debit_123"
    assert (error.operation, error.status, error.request_id) == (call.operation.name, 200, "req_1")
    assert (error.attempts, error.elapsed) == (2, 1.5)


def test_the_reason_of_a_failure_is_told() -> None:
    """An error made from a status has its reason, in the message as well."""
    status = read(STATUS, 200, FAILED)

    error = operations.transaction_failed_error(CAPTURE, status, ResponseContext(1, 0.5))

    assert error.message == "the transaction is failed (account_frozen), and final"
    assert (error.state, error.fail_reason, error.fail_direction) == ("failed", "account_frozen", "pull")
    assert error.detail == "account_frozen"
    assert error.debit_id == "debit_123"


def test_a_status_can_confirm_a_capture() -> None:
    """A capture that a status confirms says so, and has the status's raw reply."""
    assert CAPTURE.operation.states is not None
    status = read(STATUS, 200, {"state": "completed", "more": 1})

    capture = CAPTURE.operation.states.result(CAPTURE, status, ResponseContext(3, 2.5))

    assert capture == Capture(debit_id="debit_123", state=TransactionState.COMPLETED, confirmed_by_status=True, raw={})
    assert capture.raw == {"state": "completed", "more": 1}
    assert (capture.attempts, capture.elapsed) == (3, 2.5)


def test_a_status_can_confirm_a_cancellation() -> None:
    """A cancellation has no result, confirmed by a status or not."""
    assert CANCEL.operation.states is not None

    assert (
        CANCEL.operation.states.result(CANCEL, read(STATUS, 200, {"state": "cancelled"}), ResponseContext(1, 0.5))
        is None
    )


def test_a_status_can_confirm_a_preauthorization() -> None:
    """One whose response left the state open has what was asked for, and the status's state."""
    assert PREAUTHORIZE.operation.states is not None
    status = read(STATUS, 200, {"state": "preauthorized", "more": 1})

    reserved = PREAUTHORIZE.operation.states.result(PREAUTHORIZE, status, ResponseContext(1, 2.5))

    assert reserved == Preauthorization(
        debit_id="debit_123",
        amount=Decimal("100.50"),
        statement="Test statement",
        to_bank_account_id="bank_789",
        contact_id="contact_123",
        from_credit_card_id="cc_456",
        state=TransactionState.PREAUTHORIZED,
        raw={},
    )
    assert reserved.raw == {"state": "preauthorized", "more": 1}
    assert (reserved.attempts, reserved.elapsed) == (1, 2.5)


# --- nothing usable -------------------------------------------------------------------------------------------------


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


WRONG_SHAPES: list[tuple[str, AnyCall, dict[str, Any], str]] = [
    *(
        (f"{call.operation.name} without {name}", call, without(document, name), f"required field missing @ $.{name}")
        for call, document, names in (
            (PREAUTHORIZE, PREAUTHORIZED, ("debit_id", "transaction_state")),
            (CAPTURE, CAPTURED, CAPTURED),
            (CANCEL, CANCELLED, CANCELLED),
        )
        for name in names
    ),
    ("status without state", STATUS, {}, "required field missing @ $.state"),
    (
        "debit_id a number",
        PREAUTHORIZE,
        {**PREAUTHORIZED, "debit_id": 7},
        "expected a string, not a number @ $.debit_id",
    ),
    ("debit_id null", PREAUTHORIZE, {**PREAUTHORIZED, "debit_id": None}, "expected a string, not null @ $.debit_id"),
    ("debit_id empty", PREAUTHORIZE, {**PREAUTHORIZED, "debit_id": ""}, "the response names no debit"),
    ("state a number", CAPTURE, {**CAPTURED, "state": 1}, "expected a state, not a number @ $.state"),
    ("state empty", CAPTURE, {**CAPTURED, "state": ""}, "expected a state, not an empty string @ $.state"),
    ("state an object", STATUS, {"state": {}}, "expected a state, not an object @ $.state"),
    (
        "identifier a boolean",
        CAPTURE,
        {**CAPTURED, "identifier": True},
        "expected a string, not a boolean @ $.identifier",
    ),
    ("ok a string", CANCEL, {"ok": "true"}, "expected true or false, not a string @ $.ok"),
    ("ok one", CANCEL, {"ok": 1}, "expected true or false, not a number @ $.ok"),
    ("ok false", CANCEL, {"ok": False}, "the response says neither that it was cancelled nor why not"),
    ("another contact", PREAUTHORIZE, {**PREAUTHORIZED, "contact_id": "c"}, "about another contact"),
    ("a contact that is a number", PREAUTHORIZE, {**PREAUTHORIZED, "contact_id": 7}, "about another contact"),
    ("another card", PREAUTHORIZE, {**PREAUTHORIZED, "from_credit_card_id": "c"}, "about another card"),
    ("a card that is an array", PREAUTHORIZE, {**PREAUTHORIZED, "from_credit_card_id": []}, "about another card"),
    ("amount true", PREAUTHORIZE, {**PREAUTHORIZED, "amount": True}, "about another amount, True"),
    ("amount an array", PREAUTHORIZE, {**PREAUTHORIZED, "amount": [1]}, "about another amount, [1]"),
    ("amount words", PREAUTHORIZE, {**PREAUTHORIZED, "amount": "a lot"}, "about another amount, a lot"),
    ("amount no number", PREAUTHORIZE, {**PREAUTHORIZED, "amount": "sNaN"}, "about another amount, sNaN"),
    ("another amount as a string", PREAUTHORIZE, {**PREAUTHORIZED, "amount": "1"}, "about another amount, 1"),
    ("a larger amount", PREAUTHORIZE, {**PREAUTHORIZED, "amount": 100.51}, "about another amount, 100.51"),
    ("a smaller amount", PREAUTHORIZE, {**PREAUTHORIZED, "amount": 100.49}, "about another amount, 100.49"),
    ("a huge amount", PREAUTHORIZE, {**PREAUTHORIZED, "amount": 1e300}, "about another amount, 1E+300"),
    ("another debit", CAPTURE, {**CAPTURED, "identifier": "debit_9"}, "about another debit"),
    ("not captured", CAPTURE, {**CAPTURED, "state": "preauthorized"}, "still preauthorized"),
    ("the API's no with a 200", CAPTURE, {"detail": "no"}, "required field missing @ $.identifier"),
]


@pytest.mark.parametrize(
    ("call", "document", "reason"), [row[1:] for row in WRONG_SHAPES], ids=[row[0] for row in WRONG_SHAPES]
)
def test_a_reply_of_another_shape_is_no_answer(call: AnyCall, document: dict[str, Any], reason: str) -> None:
    """A 200 that does not say what it should leaves the outcome open, and the reason says where it differs."""
    with pytest.raises(Unanswered) as caught:
        read(call, 200, document, X_Request_ID="req_1")

    assert caught.value.reason.startswith("HTTP 200, ")
    assert reason in caught.value.reason
    assert caught.value.started
    assert (caught.value.status, caught.value.request_id) == (200, "req_1")


def test_every_difference_is_told() -> None:
    """Whoever looks for the cause sees all of it at once."""
    with pytest.raises(Unanswered) as caught:
        read(PREAUTHORIZE, 200, {"debit_id": 1, "transaction_state": None})

    assert caught.value.reason == (
        "HTTP 200, expected a string, not a number @ $.debit_id; expected a state, not null @ $.transaction_state"
    )


@pytest.mark.parametrize(
    ("named", "reported"),
    [("debit_9", "debit_9"), ("", None), (7, None), (None, None)],
    ids=["named", "empty", "number", "null"],
)
def test_a_debit_is_not_lost_with_its_reply(named: object, reported: str | None) -> None:
    """An unusable reply to a preauthorize may still name the debit, which is what a person needs."""
    with pytest.raises(Unanswered) as caught:
        read(PREAUTHORIZE, 200, {"debit_id": named, "amount": 3})

    assert caught.value.debit_id == reported


NO_OBJECTS: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("a space", b" "),
    ("HTML", b"<html><body>Bad gateway, secret</body></html>"),
    ("text", b"upstream connect error, secret"),
    ("a string", b'"secret"'),
    ("a number", b"200"),
    ("null", b"null"),
    ("true", b"true"),
    ("an array", b"[]"),
    ("an array of objects", b'[{"identifier": "debit_123", "state": "paid"}]'),
    ("cut off", b'{"identifier": "debit_123", "state": "pa'),
    ("two documents", b'{"identifier": "debit_123", "state": "paid"}{}'),
    ("two byte order marks", b'\xef\xbb\xbf\xef\xbb\xbf{"identifier": "debit_123", "state": "paid"}'),
    ("another encoding", '{"identifier": "debit_123", "state": "paid"}'.encode("utf-16")),
    ("bytes that are no UTF-8", b'{"identifier": "debit_123", "state": "paid", "x": "\xff"}'),
    ("half of a surrogate pair", b'{"identifier": "debit_123", "state": "paid", "x": "\\ud800"}'),
    ("NaN", b'{"identifier": "debit_123", "state": "paid", "x": NaN}'),
    ("Infinity", b'{"identifier": "debit_123", "state": "paid", "x": -Infinity}'),
    ("a comment", b'{"identifier": "debit_123", "state": "paid" /* secret */}'),
    ("single quotes", b"{'identifier': 'debit_123', 'state': 'paid'}"),
    ("deep arrays", b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ("deep objects", b'{"x":' * 100_000 + b"1" + b"}" * 100_000),
    ("an integer without end", b'{"x": ' + b"9" * 100_000 + b"}"),
    ("an exponent without end", b'{"x": 1e' + b"9" * 100 + b"}"),
]


@every_call
@pytest.mark.parametrize("body", [row[1] for row in NO_OBJECTS], ids=[row[0] for row in NO_OBJECTS])
def test_what_is_no_json_object_is_no_answer(call: AnyCall, body: bytes) -> None:
    """Only a JSON object can be the API's word; a page of a proxy never is, whatever its status."""
    for status in (200, 204, 302, 400, 401, 404, 409, 422, 429, 500, 502):
        with pytest.raises(Unanswered, match=rf"^HTTP {status}, not (a )?JSON") as caught:
            read(call, status, body, Content_Type="application/json")

        assert caught.value.started
        assert caught.value.status == status
        assert "secret" not in caught.value.reason
        assert len(caught.value.reason) < 300


@every_call
@pytest.mark.parametrize("document", [None, {"detail": "no"}], ids=["the right JSON", "a refusal"])
def test_no_other_status_is_an_answer(call: AnyCall, document: dict[str, Any] | None) -> None:
    """A redirect, a 5xx or anything unheard of says nothing about the outcome, even with the right JSON."""
    for status in [*range(100, 200), *range(300, 400), *range(500, 1000)]:
        with pytest.raises(Unanswered, match=f"^HTTP {status}, which does not say what became of the request(: no)?$"):
            read(call, status, GOOD[call.operation.name] if document is None else document)


SURE_REJECTIONS = {400, 401, 402, 403, 404, 405, 409, 410, 413, 415, 422, 429}


@every_call
@pytest.mark.parametrize("status", sorted(set(range(400, 500)) - SURE_REJECTIONS))
def test_any_other_4xx_is_no_answer(call: AnyCall, status: int) -> None:
    """408, 425, 499 and others are said of requests that go on: they leave the outcome open, whatever the JSON."""
    with pytest.raises(
        Unanswered, match=f"^HTTP {status}, which does not say what became of the request: no$"
    ) as caught:
        read(call, status, {"detail": "no"}, X_Request_ID="req_1")

    assert caught.value.started
    assert caught.value.request_id == "req_1"
    assert caught.value.bound is ResolveBound.TIMEOUT


BOUNDS: list[tuple[str, int, object, bool, ResolveBound]] = [
    *(
        (f"{status} in the API's JSON, direct", status, {"detail": "no"}, True, ResolveBound.DIRECT)
        for status in (500, 503)
    ),
    ("503 in the API's JSON, through a proxy", 503, {"detail": "no"}, False, ResolveBound.TIMEOUT),
    ("503 in another's JSON", 503, {"message": "no"}, True, ResolveBound.TIMEOUT),
    ("503 in JSON without a word", 503, {}, True, ResolveBound.TIMEOUT),
    ("503 in HTML", 503, b"<html>", True, ResolveBound.TIMEOUT),
    *(
        (f"{status} in JSON", status, {"detail": "no"}, True, ResolveBound.TIMEOUT)
        for status in (408, 425, 501, 502, 504)
    ),
    ("a 200 of another shape", 200, {"detail": "no"}, True, ResolveBound.TIMEOUT),
    ("a 200 that is no JSON", 200, b"<html>", True, ResolveBound.TIMEOUT),
    ("a redirect", 302, {"detail": "no"}, True, ResolveBound.TIMEOUT),
]


@pytest.mark.parametrize(
    ("status", "body", "direct", "bound"), [row[1:] for row in BOUNDS], ids=[row[0] for row in BOUNDS]
)
def test_the_short_time_holds_only_for_the_apis_own_failure(
    status: int, body: object, bound: ResolveBound, *, direct: bool
) -> None:
    """Only a 500 or 503 in the API's own JSON, on a direct connection, says that the API is done with the request."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = RawResponse(status, CIMultiDict(), content, direct=direct)

    with pytest.raises(Unanswered) as caught:
        responses.read(CAPTURE, response, attempts=1, elapsed=0.0, now=NOW)

    assert caught.value.bound is bound


@pytest.mark.parametrize("text", ["\x1b[2Jno", "no\nroot: fine", "no\u202eoN", "no\x00", "no\u200b"], ids=ascii)
def test_what_is_quoted_is_printable(text: str) -> None:
    """Control characters, line breaks and marks of direction of the API's words reach no terminal and no log."""
    fields = {"detail": [{"loc": ["body", text], "msg": text, "type": text}]}
    with pytest.raises(APIError) as rejected:
        read(CAPTURE, 400, {"detail": text})
    with pytest.raises(APIError) as complained:
        read(CAPTURE, 422, fields)
    with pytest.raises(Unanswered) as unavailable:
        read(CAPTURE, 503, {"detail": text})
    with pytest.raises(Unanswered) as undecided:
        read(CAPTURE, 200, {**CAPTURED, "state": text})
    with pytest.raises(TransactionFailedError) as failed:
        raise operations.transaction_failed_error(
            CAPTURE, read(STATUS, 200, {"state": "failed", "fail_reason": text}), ResponseContext(1, 0.0)
        )

    assert all(str(error.value).isprintable() for error in (rejected, complained, failed))
    assert all(error.value.reason.isprintable() for error in (unavailable, undecided))
    assert rejected.value.detail.isprintable()
    assert all(part.isprintable() for part in attrs.astuple(complained.value.fields[0]))
    assert (undecided.value.state, failed.value.fail_reason) == (text, text)


def test_the_last_of_two_keys_counts() -> None:
    """Of a key that comes twice the last one counts, in our reader as in the API's own."""
    assert read(STATUS, 200, b'{"state": "failed", "state": "paid"}').state == "paid"


# --- the API's no ---------------------------------------------------------------------------------------------------

REFUSALS: list[tuple[int, type[APIError], str]] = [
    (400, InvalidRequestError, "correct the request"),
    (401, AuthenticationError, "check the API token: it may be wrong, expired or revoked"),
    (402, APIError, "nothing was done"),
    (403, PermissionDeniedError, "check the token's scopes, and that Jetpay has enabled this call for the account"),
    (404, NotFoundError, "check the ids, and that the token belongs to the account that made them"),
    (405, APIError, "nothing was done"),
    (410, APIError, "nothing was done"),
    (413, APIError, "nothing was done"),
    (415, APIError, "nothing was done"),
    (409, ConflictError, "read the transaction's status: its state does not allow this"),
    (422, InvalidRequestError, "correct the fields named"),
    (429, RateLimitedError, "slow down"),
]


@every_call
@pytest.mark.parametrize(("status", "cls", "hint"), REFUSALS, ids=[str(row[0]) for row in REFUSALS])
def test_a_refusal_is_the_error_of_its_status(call: AnyCall, status: int, cls: type[APIError], hint: str) -> None:
    """A 4xx with a JSON object is the API's no: its words, what to do, and everything known of the call."""
    with pytest.raises(APIError) as caught:
        read(call, status, {"detail": "The API's words"}, X_Request_ID="req_1")

    error = caught.value
    assert type(error) is cls
    assert error.message == f"the API answered {status}: The API's words; {hint}"
    assert (error.detail, error.fields) == ("The API's words", ())
    assert (error.status, error.request_id) == (status, "req_1")
    assert (error.attempts, error.elapsed) == (2, 1.5)
    assert error.operation == call.operation.name
    assert error.debit_id == (None if call is PREAUTHORIZE else "debit_123")


@pytest.mark.parametrize("status", sorted(SURE_REJECTIONS))
def test_a_refusal_needs_no_words(status: int) -> None:
    """An empty object is a refusal all the same, and says that there is no reason."""
    with pytest.raises(APIError, match=f"the API answered {status}: no reason given; ") as caught:
        read(CAPTURE, status, {})

    assert (caught.value.detail, caught.value.fields) == ("", ())


VALIDATION = [
    {"loc": ["body", "amount"], "msg": "must be positive", "type": "value_error"},
    {"loc": ["body", "items", 0, "id"], "msg": "field required", "type": "missing", "input": "secret", "ctx": {"x": 1}},
]
AMOUNT = FieldError(path="body.amount", message="must be positive", type="value_error")

DETAILS: list[tuple[str, Any, str, tuple[FieldError, ...]]] = [
    ("words", {"detail": "no"}, "no", ()),
    ("no words", {"detail": ""}, "", ()),
    ("null", {"detail": None}, "", ()),
    ("left out", {"other": "no"}, "", ()),
    ("message", {"message": "no"}, "no", ()),
    ("error", {"error": "no"}, "no", ()),
    ("detail before message", {"message": "m", "detail": "d"}, "d", ()),
    ("an object", {"detail": {"code": 7, "more": [1.50]}}, '{"code":7,"more":[1.5]}', ()),
    ("a number", {"detail": 7}, "7", ()),
    ("a boolean", {"detail": False}, "false", ()),
    ("an empty array", {"detail": []}, "[]", ()),
    ("an array of words", {"detail": ["a", "b"]}, '["a","b"]', ()),
    ("an array of arrays", {"detail": [[], [1]]}, "[[],[1]]", ()),
    (
        "FastAPI",
        {"detail": VALIDATION},
        "body.amount: must be positive; body.items.0.id: field required",
        (AMOUNT, FieldError(path="body.items.0.id", message="field required", type="missing")),
    ),
    ("complaints among others", {"detail": ["x", VALIDATION[0], 7]}, "body.amount: must be positive", (AMOUNT,)),
    (
        "a place in one word",
        {"detail": [{"loc": "body", "msg": "bad"}]},
        "body: bad",
        (FieldError(path="body", message="bad"),),
    ),
    ("no place", {"detail": [{"msg": "bad"}]}, ": bad", (FieldError(path="", message="bad"),)),
    ("place null", {"detail": [{"loc": None, "msg": "bad"}]}, ": bad", (FieldError(path="", message="bad"),)),
    ("nulls in the place", {"detail": [{"loc": ["a", None, "b"]}]}, "a.b: ", (FieldError(path="a.b", message=""),)),
    ("an empty complaint", {"detail": [{}]}, ": ", (FieldError(path="", message=""),)),
    (
        "no words where words are due",
        {"detail": [{"loc": [1, True, [2], {"a": 1}], "msg": {"a": 1}, "type": 7}]},
        "1.True..: ",
        (FieldError(path="1.True..", message="", type="7"),),
    ),
]


@pytest.mark.parametrize("status", [400, 404, 422])
@pytest.mark.parametrize(
    ("document", "detail", "fields"), [row[1:] for row in DETAILS], ids=[row[0] for row in DETAILS]
)
def test_the_reason_is_read_whatever_its_form(
    document: dict[str, Any], detail: str, fields: tuple[FieldError, ...], status: int
) -> None:
    """FastAPI's two forms become words and fields; any other JSON is kept as text."""
    with pytest.raises(APIError) as caught:
        read(PREAUTHORIZE, status, document)

    assert caught.value.detail == detail
    assert caught.value.fields == fields
    assert f": {detail or 'no reason given'}; " in caught.value.message


def test_what_was_sent_is_not_repeated() -> None:
    """FastAPI repeats the input in its complaints; errors do not."""
    with pytest.raises(InvalidRequestError) as caught:
        read(PREAUTHORIZE, 422, {"detail": VALIDATION})

    assert "secret" not in f"{caught.value} {vars(caught.value)}"


def nested(depth: int) -> Any:
    document: Any = 1
    for _ in range(depth):
        document = [document]
    return document


@pytest.mark.parametrize("name", ["loc", "msg", "type"])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
def test_depth_is_no_trouble(name: str, opening: str, closing: str) -> None:
    """However deep the JSON of a refusal is, it ends in an error of ours, also just below the limit of recursion."""
    for depth in range(900, 1010, 3):
        body = f'{{"detail": [{{"{name}": {opening * depth}1{closing * depth}}}]}}'
        with pytest.raises((APIError, Unanswered)):
            read(CAPTURE, 422, body.encode())


def test_a_detail_too_deep_to_be_written_is_left_out() -> None:
    """A detail that could be read but not be written again costs its text, not the error."""
    read_detail = responses._read_detail  # pyright: ignore[reportPrivateUsage]

    assert read_detail({"detail": nested(100_000)}, ()) == ("", ())


def test_errors_stay_small() -> None:
    """However much the API says, an error keeps a readable part of it."""
    long = "x" * 2_000
    complaint = {"loc": [long], "msg": long, "type": long}
    for document in ({"detail": long}, {"detail": {"long": long}}, {"detail": [complaint] * 200}):
        with pytest.raises(APIError) as caught:
            read(CAPTURE, 422, document)

        assert len(caught.value.detail) == 500
        assert len(caught.value.fields) in {0, 100}
        assert all(len(part) == 500 for field in caught.value.fields for part in attrs.astuple(field))
        assert len(str(caught.value)) < 1000


# --- headers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0), ("soon", None)],
    ids=["seconds", "a date", "nonsense"],
)
def test_the_wait_that_the_api_asks_for_is_told(header: str, seconds: float | None) -> None:
    """Retry-After is read from a 429, and from a 503 that is no answer."""
    with pytest.raises(RateLimitedError) as limited:
        read(CAPTURE, 429, {"detail": "slow"}, retry_after=header)
    with pytest.raises(Unanswered) as unavailable:
        read(CAPTURE, 503, b"<html>", retry_after=header)
    with pytest.raises(Unanswered) as unreadable:
        read(CAPTURE, 200, {}, retry_after=header)

    assert limited.value.retry_after == seconds
    assert unavailable.value.retry_after == seconds
    assert unreadable.value.retry_after == seconds


# --- whatever comes ---------------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True),
    st.text(),
    st.sampled_from(["debit_123", "contact_123", "cc_456", "paid", "failed", "preauthorized", 100.5]),
)
names = st.one_of(
    st.sampled_from([*PREAUTHORIZED, *CAPTURED, *FAILED, *CANCELLED, "detail", "message", "loc", "msg", "type"]),
    st.text(),
)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=6)),
    max_leaves=12,
)


def changed(good: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {**good, **changes}


def written(document: object, start: int = 0, stop: int = 0) -> bytes:
    """A document as JSON, without some bytes at either end; a lone surrogate is written as its three bytes."""
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return body[start : len(body) - stop]


nearly = st.builds(changed, st.sampled_from(list(GOOD.values())), st.dictionaries(names, documents, max_size=2))
bodies = st.one_of(
    st.binary(),
    st.builds(written, st.one_of(documents, nearly)),
    st.builds(written, nearly, st.integers(0, 2), st.integers(0, 9)),
)
headers = st.dictionaries(
    st.one_of(st.sampled_from(["Retry-After", "X-Request-ID", "CF-Ray", "traceparent", "Content-Type"]), st.text()),
    st.text(),
    max_size=4,
).map(CIMultiDict[str])
RESULTS = {
    "preauthorize": Preauthorization,
    "capture": Capture,
    "transaction_status": TransactionStatus,
    "cancel_transaction": type(None),
}


@every_call
@given(status=st.integers(100, 999), headers=headers, body=bodies)
@example(status=422, headers=CIMultiDict[str](), body=b'{"detail":' + b"[" * 990 + b"]" * 990 + b"}")
@example(status=200, headers=CIMultiDict[str](), body=b'{"amount":1e999999,"debit_id":"d"}')
def test_whatever_comes_is_a_value_a_no_or_no_answer(
    call: AnyCall, status: int, headers: CIMultiDict[str], body: bytes
) -> None:
    """Any status, headers and bytes end in the result, an APIError or Unanswered, of the statuses where each may be."""
    began = time.perf_counter()
    try:
        value = responses.read(call, RawResponse(status, headers, body), attempts=1, elapsed=0.0, now=NOW)
    except TransactionFailedError as error:
        assert 200 <= status < 300
        assert str(error)
    except APIError as error:
        assert status in SURE_REJECTIONS
        assert isinstance(error, JetpayError)
        assert len(str(error)) < 2000
    except Unanswered as error:
        assert error.started
        assert error.status == status
        assert error.debit_id != ""
    else:
        assert 200 <= status < 300
        assert type(value) is RESULTS[call.operation.name]
    assert time.perf_counter() - began < 5


@every_call
@given(status=st.sampled_from([200, 201, 299]), document=nearly)
def test_a_result_is_always_what_the_reply_said(call: AnyCall, status: int, document: dict[str, Any]) -> None:
    """Where there is a result, the reply names the same subject and a state that fits; it is never made up."""
    try:
        value = read(call, status, document)
    except (Unanswered, TransactionFailedError):
        return

    match value:
        case Preauthorization():
            assert str(document.get("contact_id") or "contact_123").lower() == "contact_123"
            assert str(document.get("from_credit_card_id") or "cc_456").lower() == "cc_456"
            assert value.amount == Decimal("100.50")
            assert value.debit_id == document["debit_id"] != ""
            assert value.state == document["transaction_state"]
        case Capture():
            assert document["identifier"].lower() == value.debit_id == "debit_123"
            assert document["state"] == value.state
            assert value.state in {"paid", "completed", "requested", "initiated", "processing"}
        case TransactionStatus():
            assert document["state"] == value.state
            assert value.fail_reason is None or value.fail_reason == document["fail_reason"]
        case _:
            assert document["ok"] is True
