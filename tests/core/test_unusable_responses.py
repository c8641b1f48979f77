"""What is no usable answer, whatever comes."""

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
    Capture,
    JetpayError,
    Preauthorization,
    TransactionFailedError,
    TransactionStatus,
)
from jetpay_async._core import operations, responses
from jetpay_async._core.http import RawResponse, ResolveBound
from jetpay_async._core.operations import ResponseContext
from jetpay_async._core.responses import Unanswered
from tests.core.bodies import (
    CANCEL,
    CANCELLED,
    CAPTURE,
    CAPTURED,
    FAILED,
    GOOD,
    NOW,
    PREAUTHORIZE,
    PREAUTHORIZED,
    STATUS,
    SURE_REJECTIONS,
    AnyCall,
    every_call,
    read,
    without,
)

# --- nothing usable -------------------------------------------------------------------------------------------------


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
