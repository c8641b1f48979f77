"""From the API's no to the right error."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from jetpay_async import (
    APIError,
    AuthenticationError,
    ConflictError,
    FieldError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
)
from jetpay_async._core import responses
from jetpay_async._core.responses import Unanswered
from tests.core.bodies import CAPTURE, PREAUTHORIZE, SURE_REJECTIONS, AnyCall, every_call, read

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
