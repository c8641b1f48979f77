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
from jetpay_async._core.http import RawResponse
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
    """The guide's reply becomes a value that says that the capture's own reply told it."""
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
        (PREAUTHORIZE, {**PREAUTHORIZED, "transaction_state": "settling"}),
        (CAPTURE, {**CAPTURED, "state": "settling"}),
        (STATUS, {"state": "settling"}),
    ],
    ids=["preauthorize", "capture", "status"],
)
def test_unknown_states_are_carried_through(call: AnyCall, document: dict[str, Any]) -> None:
    """A state that this release does not know is a value, not an error."""
    value = read(call, 200, document)

    assert not value.state.known
    assert value.state == "settling"


@pytest.mark.parametrize("digits", ["100.5", "100.50", "100.500", "1.005e2", "1.005E+2", "10050e-2"])
def test_an_amount_is_compared_by_its_value(digits: str) -> None:
    """However the API writes the amount, it is the one that was asked for, and is told to the cent."""
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


def test_a_status_can_settle_a_capture() -> None:
    """A capture learnt from a status says so, and has the status's raw reply."""
    assert CAPTURE.operation.goal is not None
    status = read(STATUS, 200, {"state": "completed", "more": 1})

    capture = CAPTURE.operation.goal.result(CAPTURE, status, ResponseContext(3, 2.5))

    assert capture == Capture(debit_id="debit_123", state=TransactionState.COMPLETED, confirmed_by_status=True, raw={})
    assert capture.raw == {"state": "completed", "more": 1}
    assert (capture.attempts, capture.elapsed) == (3, 2.5)


def test_a_status_can_settle_a_cancellation() -> None:
    """A cancellation has no result, learnt from a status or not."""
    assert CANCEL.operation.goal is not None

    assert (
        CANCEL.operation.goal.result(CANCEL, read(STATUS, 200, {"state": "cancelled"}), ResponseContext(1, 0.5)) is None
    )


# --- nothing usable -------------------------------------------------------------------------------------------------


def without(document: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}


WRONG_SHAPES: list[tuple[str, AnyCall, dict[str, Any], str]] = [
    *(
        (f"{call.operation.name} without {name}", call, without(document, name), f"required field missing @ $.{name}")
        for call, document in ((PREAUTHORIZE, PREAUTHORIZED), (CAPTURE, CAPTURED), (CANCEL, CANCELLED))
        for name in document
    ),
    ("status without state", STATUS, {}, "required field missing @ $.state"),
    *(
        (
            f"preauthorize, {name} a number",
            PREAUTHORIZE,
            {**PREAUTHORIZED, name: 7},
            f"expected a string, not a number @ $.{name}",
        )
        for name in ("debit_id", "statement", "to_bank_account_id", "contact_id", "from_credit_card_id")
    ),
    ("debit_id null", PREAUTHORIZE, {**PREAUTHORIZED, "debit_id": None}, "expected a string, not null @ $.debit_id"),
    ("debit_id empty", PREAUTHORIZE, {**PREAUTHORIZED, "debit_id": ""}, "the reply names no debit"),
    (
        "amount a string",
        PREAUTHORIZE,
        {**PREAUTHORIZED, "amount": "100.50"},
        "expected a number, not a string @ $.amount",
    ),
    ("amount true", PREAUTHORIZE, {**PREAUTHORIZED, "amount": True}, "expected a number, not a boolean @ $.amount"),
    ("amount null", PREAUTHORIZE, {**PREAUTHORIZED, "amount": None}, "expected a number, not null @ $.amount"),
    ("amount an array", PREAUTHORIZE, {**PREAUTHORIZED, "amount": [1]}, "expected a number, not an array @ $.amount"),
    ("state a number", CAPTURE, {**CAPTURED, "state": 1}, "expected a state, not a number @ $.state"),
    ("state empty", CAPTURE, {**CAPTURED, "state": ""}, "expected a state, not an empty string @ $.state"),
    ("state an object", STATUS, {"state": {}}, "expected a state, not an object @ $.state"),
    ("reason a list", STATUS, {**FAILED, "fail_reason": []}, "expected a string, not an array @ $.fail_reason"),
    (
        "identifier a boolean",
        CAPTURE,
        {**CAPTURED, "identifier": True},
        "expected a string, not a boolean @ $.identifier",
    ),
    ("ok a string", CANCEL, {"ok": "true"}, "expected true or false, not a string @ $.ok"),
    ("ok one", CANCEL, {"ok": 1}, "expected true or false, not a number @ $.ok"),
    ("ok false", CANCEL, {"ok": False}, "the reply says neither that it was cancelled nor why not"),
    ("another contact", PREAUTHORIZE, {**PREAUTHORIZED, "contact_id": "c"}, "about another contact or card"),
    ("another card", PREAUTHORIZE, {**PREAUTHORIZED, "from_credit_card_id": "c"}, "about another contact or card"),
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
        read(PREAUTHORIZE, 200, {**PREAUTHORIZED, "amount": "1", "statement": None})

    assert caught.value.reason == (
        "HTTP 200, expected a number, not a string @ $.amount; expected a string, not null @ $.statement"
    )


@pytest.mark.parametrize(
    ("named", "told"),
    [("debit_9", "debit_9"), ("", None), (7, None), (None, None)],
    ids=["named", "empty", "number", "null"],
)
def test_a_debit_is_not_lost_with_its_reply(named: object, told: str | None) -> None:
    """An unusable reply to a preauthorize may still name the debit, which is what a person needs."""
    with pytest.raises(Unanswered) as caught:
        read(PREAUTHORIZE, 200, {"debit_id": named, "amount": 3})

    assert caught.value.debit_id == told


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
    ("a byte order mark", b'\xef\xbb\xbf{"identifier": "debit_123", "state": "paid"}'),
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
        with pytest.raises(Unanswered, match=f"^HTTP {status}, not an answer to the request$"):
            read(call, status, GOOD[call.operation.name] if document is None else document)


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
    (409, ConflictError, "read the transaction's status: its state does not allow this"),
    (418, APIError, "nothing was done"),
    (422, InvalidRequestError, "correct the fields named"),
    (429, RateLimitedError, "slow down"),
    (499, APIError, "nothing was done"),
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


@pytest.mark.parametrize("status", range(400, 500))
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

    assert read_detail({"detail": nested(100_000)}) == ("", ())


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
        assert 400 <= status < 500
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
            assert document["contact_id"] == "contact_123"
            assert document["from_credit_card_id"] == "cc_456"
            assert value.amount == Decimal("100.50")
            assert value.debit_id == document["debit_id"] != ""
            assert value.state == document["transaction_state"]
        case Capture():
            assert document["identifier"] == value.debit_id == "debit_123"
            assert document["state"] == value.state
            assert value.state not in {"preauthorized", "failed", "cancelled"}
        case TransactionStatus():
            assert document["state"] == value.state
            assert document.get("fail_reason") == value.fail_reason
        case _:
            assert document["ok"] is True
