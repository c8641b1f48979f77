"""The tree of errors: as drawn, and what each of them tells, shows and survives."""

from __future__ import annotations

import copy
import pickle
import re
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import jetpay_async
from jetpay_async import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FieldError,
    InvalidArgumentError,
    InvalidRequestError,
    JetpayError,
    NotFoundError,
    NotSentError,
    Outcome,
    OutcomeUnknownError,
    PermissionDeniedError,
    RateLimitedError,
    ServiceError,
    TransactionFailedError,
    TransactionState,
    errors,
)
from jetpay_async._core import operations, responses
from jetpay_async._core.http import RawResponse
from jetpay_async._text import printable

CONTEXT: dict[str, Any] = {
    "operation": "capture",
    "debit_id": "debit_123",
    "status": 409,
    "request_id": "req_1",
    "attempts": 2,
    "elapsed": 1.5,
}
API: dict[str, Any] = {
    **CONTEXT,
    "detail": "no",
    "fields": [FieldError(path="body.amount", message="must be positive", type="value_error")],
}
FAILED: dict[str, Any] = {
    **API,
    "state": TransactionState.FAILED,
    "fail_reason": "account_frozen",
    "fail_direction": "pull",
}
UNKNOWN: dict[str, Any] = {
    **CONTEXT,
    "arguments": {"debit_id": "debit_123"},
    "started_at": datetime(2026, 1, 22, 10, 15, 30, 123456, tzinfo=UTC),
    "state": TransactionState("clearing"),
    "reason": "TimeoutError: no answer in time",
    "next_step": "Read the status.",
    "moves_money": False,
}

# Class, what it says about the operation, whether calling again is safe and may help, all that it can be given.
TABLE: list[tuple[type[JetpayError], Outcome, bool, dict[str, Any]]] = [
    (JetpayError, Outcome.NOT_SENT, False, CONTEXT),
    (ConfigurationError, Outcome.NOT_SENT, False, CONTEXT),
    (InvalidArgumentError, Outcome.NOT_SENT, False, {**CONTEXT, "field": "amount"}),
    (NotSentError, Outcome.NOT_SENT, True, CONTEXT),
    (ServiceError, Outcome.NO_ANSWER, True, CONTEXT),
    (OutcomeUnknownError, Outcome.UNKNOWN, False, UNKNOWN),
    (APIError, Outcome.REJECTED, False, API),
    (InvalidRequestError, Outcome.REJECTED, False, API),
    (AuthenticationError, Outcome.REJECTED, False, API),
    (PermissionDeniedError, Outcome.REJECTED, False, API),
    (NotFoundError, Outcome.REJECTED, False, API),
    (ConflictError, Outcome.REJECTED, False, API),
    (RateLimitedError, Outcome.REJECTED, True, {**API, "retry_after": 3.0}),
    (TransactionFailedError, Outcome.REJECTED, False, FAILED),
]
every_class = pytest.mark.parametrize(
    ("cls", "outcome", "retryable", "arguments"), TABLE, ids=[row[0].__name__ for row in TABLE]
)
every_error = pytest.mark.parametrize(
    "error", [row[0]("it failed", **row[3]) for row in TABLE], ids=[row[0].__name__ for row in TABLE]
)

DRAWN = re.compile(r"^(?P<branch>[ │├└─]+)(?P<name>[A-Z]\w+Error)(?P<meaning>.*)$", re.MULTILINE)


def drawing() -> dict[str, tuple[str | None, str]]:
    """The tree of the module's docstring: name -> (parent, meaning)."""
    tree: dict[str, tuple[str | None, str]] = {}
    above: list[tuple[int, str]] = []
    for line in DRAWN.finditer(errors.__doc__ or ""):
        depth = len(line["branch"])
        above = [(column, name) for column, name in above if column < depth]
        tree[line["name"]] = (above[-1][1] if above else None, line["meaning"].strip())
        above.append((depth, line["name"]))
    return tree


def real_tree(cls: type[JetpayError], parent: str | None = None) -> dict[str, str | None]:
    """The classes of the module: name -> parent."""
    tree = {cls.__name__: parent}
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__:
            tree |= real_tree(child, cls.__name__)
    return tree


def test_the_tree_is_as_drawn() -> None:
    """The drawing at the top of the module shows every class, below its parent, and no other."""
    assert {name: parent for name, (parent, _) in drawing().items()} == real_tree(JetpayError)


def test_each_class_of_the_drawing_says_what_it_means() -> None:
    """Below the root, each name of the drawing has its meaning beside it."""
    assert [name for name, (_, meaning) in drawing().items() if not meaning] == ["JetpayError"]


def test_the_drawn_statuses_are_the_read_ones() -> None:
    """A status beside a class in the drawing is read as that class, another sure rejection as a plain APIError."""
    drawn = {
        int(status): name for name, (_, meaning) in drawing().items() for status in re.findall(r"\b4\d\d\b", meaning)
    }

    for status in {*drawn, 402, 405, 410, 413, 415}:
        with pytest.raises(APIError) as caught:
            responses.read(
                operations.capture("debit_123"), RawResponse(status, {}, b"{}"), attempts=1, elapsed=0.0, now=0.0
            )
        assert type(caught.value).__name__ == drawn.get(status, "APIError")


def test_every_error_is_public() -> None:
    """Each class of the tree can be imported from the package, and this file tests each."""
    names = set(real_tree(JetpayError))

    assert names == {row[0].__name__ for row in TABLE}
    assert names <= set(errors.__all__)
    for name in names:
        assert getattr(jetpay_async, name) is getattr(errors, name)
    assert set(errors.__all__) <= set(jetpay_async.__all__)


@every_class
def test_a_class_says_what_is_known_and_what_to_do(
    cls: type[JetpayError], outcome: Outcome, retryable: bool, arguments: dict[str, Any]
) -> None:
    """What happened to the operation, and whether to call again, is the same for every instance of a class."""
    for error in (cls("it failed"), cls("it failed", **arguments)):
        assert cls.outcome is error.outcome is outcome
        assert error.retryable is retryable
    assert issubclass(cls, JetpayError)
    assert issubclass(cls, ValueError) == (cls is InvalidArgumentError)


@every_class
def test_an_error_carries_what_it_was_given(
    cls: type[JetpayError], outcome: Outcome, retryable: bool, arguments: dict[str, Any]
) -> None:
    """Each argument is an attribute of the same name, and no attribute is a reference into the caller's data."""
    error = cls("it failed", **arguments)

    assert error.message == "it failed"
    assert error.args == ("it failed",)
    assert vars(error).keys() == {"message", *arguments}
    for name, value in arguments.items():
        given_back = getattr(error, name)
        assert given_back == (tuple(value) if name == "fields" else value)
        if isinstance(value, dict | list):
            assert given_back is not value


@every_class
def test_an_error_needs_no_more_than_a_message(
    cls: type[JetpayError], outcome: Outcome, retryable: bool, arguments: dict[str, Any]
) -> None:
    """Whatever is not known is None, or empty, never missing; that money may have moved is assumed."""
    error = cls("it failed")

    assert vars(error).keys() == {"message", *arguments}
    assert all(not value for name, value in vars(error).items() if name not in {"message", "moves_money"})
    assert getattr(error, "moves_money", True)
    assert str(error).startswith("it failed")


@every_class
def test_an_error_refuses_what_it_does_not_know(
    cls: type[JetpayError], outcome: Outcome, retryable: bool, arguments: dict[str, Any]
) -> None:
    """A second positional argument would not survive pickling, so it is refused."""
    make: Any = cls
    with pytest.raises(TypeError):
        make("it failed", "capture")


SHOWN = [
    (JetpayError("it failed"), "it failed"),
    (JetpayError("it failed", attempts=0, elapsed=3.0), "it failed"),
    (NotSentError("it failed", operation="capture", attempts=3), "it failed [operation=capture, attempts=3]"),
    (
        ConflictError("it failed", **API),
        "it failed [operation=capture, debit_id=debit_123, status=409, request_id=req_1, attempts=2]",
    ),
    (
        OutcomeUnknownError("it failed", **UNKNOWN),
        (
            "it failed [operation=capture, debit_id=debit_123, status=409, request_id=req_1, attempts=2] "
            "Asked at 2026-01-22T10:15:30.123+00:00: debit_id='debit_123'. Last known state: clearing. "
            "Cause: TimeoutError: no answer in time. Read the status."
        ),
    ),
    (OutcomeUnknownError("it failed"), "it failed Asked at an unknown time: nothing."),
    (
        OutcomeUnknownError("it failed", arguments={"amount": "1.00", "statement": "a 'b'"}),
        "it failed Asked at an unknown time: amount='1.00', statement=\"a 'b'\".",
    ),
]


@pytest.mark.parametrize(
    ("error", "text"),
    SHOWN,
    ids=["bare", "nothing known", "a little", "an answer", "unknown outcome", "bare unknown outcome", "arguments"],
)
def test_an_error_shows_its_circumstances(error: JetpayError, text: str) -> None:
    """The text has the message and what is known of the call, and leaves out what is not."""
    assert str(error) == text


COPIES: list[tuple[str, Callable[[Any], Any]]] = [
    *((f"pickle {protocol}", lambda value, p=protocol: pickle.loads(pickle.dumps(value, p))) for protocol in range(6)),
    ("copy", copy.copy),
    ("deepcopy", copy.deepcopy),
]
every_copy = pytest.mark.parametrize("duplicate", [row[1] for row in COPIES], ids=[row[0] for row in COPIES])


@every_copy
@every_class
def test_an_error_survives_copying(
    cls: type[JetpayError],
    outcome: Outcome,
    retryable: bool,
    arguments: dict[str, Any],
    duplicate: Callable[[JetpayError], JetpayError],
) -> None:
    """An error sent to another process keeps its class, its attributes and its notes."""
    error = cls("it failed", **arguments)
    error.add_note("while the night job ran")

    again = duplicate(error)

    assert type(again) is cls
    assert vars(again) == vars(error)
    assert again.args == error.args
    assert str(again) == str(error)
    assert again.__notes__ == ["while the night job ran"]
    assert again.outcome is outcome


@every_error
def test_an_error_works_in_a_group(error: JetpayError) -> None:
    """except* finds an error by its class and by the root, and leaves the others."""
    other = KeyError("other")
    found: list[BaseException] = []

    with pytest.raises(ExceptionGroup) as caught:
        try:
            raise ExceptionGroup("batch", [error, ExceptionGroup("inner", [error, other])])
        except* type(error) as group:
            found.extend(group.exceptions)

    assert found[0] is error
    assert caught.group_contains(KeyError)
    assert not caught.group_contains(JetpayError)
    assert ExceptionGroup("batch", [error]).subgroup(JetpayError) is not None


@every_error
def test_a_group_of_errors_survives_pickling(error: JetpayError) -> None:
    """A group that crosses a process keeps its errors with all they tell."""
    group = pickle.loads(pickle.dumps(ExceptionGroup("batch", [error])))

    assert vars(group.exceptions[0]) == vars(error)


@every_error
def test_an_error_shows_its_text_in_a_traceback(error: JetpayError) -> None:
    """The last line of a traceback is the qualified class and the text, with each note below."""
    again = copy.copy(error)
    again.add_note("a note")

    lines = traceback.format_exception_only(again)

    assert lines == [f"jetpay_async.errors.{type(error).__name__}: {error}\n", "a note\n"]


@given(st.text(), st.dictionaries(st.text(), st.text()), st.text(), st.text())
def test_any_text_can_be_told(message: str, arguments: dict[str, str], reason: str, next_step: str) -> None:
    """Whatever was asked and whatever went wrong, an error can be made, shown and pickled."""
    error = OutcomeUnknownError(message, arguments=arguments, reason=reason, next_step=next_step)

    again = pickle.loads(pickle.dumps(error))

    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert str(error).startswith(printable(message, None, keep="\n"))


def test_a_field_error_is_a_value() -> None:
    """Complaints compare, hash and show all they have."""
    field = FieldError(path="body.amount", message="must be positive")

    assert field == FieldError(path="body.amount", message="must be positive", type="")
    assert len({field, FieldError(path="body.amount", message="must be positive", type="value_error")}) == 2
    assert repr(field) == "FieldError(path='body.amount', message='must be positive', type='')"


def test_outcomes_print_as_their_words() -> None:
    """An outcome can be written to a log or a database as it is."""
    assert [f"{outcome}" for outcome in Outcome] == ["not_sent", "rejected", "no_answer", "unknown"]
