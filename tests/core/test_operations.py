"""What is sent: no id reaches another resource, and every byte of a body is as asked."""

from __future__ import annotations

import json
import re
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from jetpay_async import InvalidArgumentError, TransactionState
from jetpay_async._core import operations
from jetpay_async._core.contract import STATEMENT_LIMIT
from jetpay_async._core.operations import (
    CANCEL,
    CAPTURE,
    PREAUTHORIZE,
    STATUS,
    ApiOperation,
    Call,
    ReplaySafety,
    ResponseContext,
)

if TYPE_CHECKING:
    from collections.abc import Callable

AnyCall = Call[Any]


class Word(StrEnum):
    ID = "id_1"


class Name(str, Enum):  # noqa: UP042 - prints as its name where a StrEnum prints its value
    ID = "id_1"
    ODD = "an id"


class Loud(str):
    """A str that prints as something else, as those of some libraries do."""

    __slots__ = ()

    def __str__(self) -> str:
        return "other"

    def __format__(self, _: str) -> str:
        return "other"


def preauthorize(**changes: Any) -> AnyCall:
    """A preauthorize as in the guide, but for these arguments."""
    arguments: dict[str, Any] = {
        "contact_id": "contact_123",
        "credit_card_id": "cc_456",
        "amount": "100.50",
        "to_bank_account_id": "bank_789",
        "statement": "Test statement",
    }
    return operations.preauthorize(**{**arguments, **changes})


def by_contact(value: str) -> AnyCall:
    return preauthorize(contact_id=value)


def by_card(value: str) -> AnyCall:
    return preauthorize(credit_card_id=value)


def by_account(value: str) -> AnyCall:
    return preauthorize(to_bank_account_id=value)


# Field, how to make the call, the decoded segments of its path with None for the id.
PATHS: list[tuple[str, Callable[[str], AnyCall], list[str | None]]] = [
    ("contact_id", by_contact, ["contact", None, "creditcards", "cc_456", "preauthorize"]),
    ("credit_card_id", by_card, ["contact", "contact_123", "creditcards", None, "preauthorize"]),
    ("debit_id", operations.capture, ["debit", None, "capture"]),
    ("identifier", operations.transaction_status, ["transaction", None, "status"]),
    ("identifier", operations.cancel_transaction, ["transaction", None]),
]
PATH_NAMES = ["contact_id", "credit_card_id", "capture", "status", "cancel"]
every_path = pytest.mark.parametrize(("field", "make", "segments"), PATHS, ids=PATH_NAMES)
every_id = pytest.mark.parametrize(
    ("field", "make"),
    [*((field, make) for field, make, _ in PATHS), ("to_bank_account_id", by_account)],
    ids=[*PATH_NAMES, "to_bank_account_id"],
)


# --- the four operations ------------------------------------------------------------------------------------------

OPERATIONS: list[tuple[AnyCall, ApiOperation[Any], str, ReplaySafety]] = [
    (preauthorize(), PREAUTHORIZE, "POST /contact/contact_123/creditcards/cc_456/preauthorize", ReplaySafety.NEVER),
    (operations.capture("debit_123"), CAPTURE, "POST /debit/debit_123/capture", ReplaySafety.RESOLVE),
    (operations.transaction_status("debit_123"), STATUS, "GET /transaction/debit_123/status", ReplaySafety.IDEMPOTENT),
    (operations.cancel_transaction("debit_123"), CANCEL, "DELETE /transaction/debit_123", ReplaySafety.RESOLVE),
]
OPERATION_NAMES = ["preauthorize", "capture", "transaction_status", "cancel_transaction"]


@pytest.mark.parametrize(("call", "operation", "line", "resend"), OPERATIONS, ids=OPERATION_NAMES)
def test_an_operation_is_sent_as_the_guide_says(
    call: AnyCall, operation: ApiOperation[Any], line: str, resend: ReplaySafety
) -> None:
    """Each operation has its method and path, and says what sending it twice would mean."""
    assert call.operation is operation
    assert f"{operation.method} {call.path}" == line
    assert operation.replay_safety is resend
    assert call.debit_id == (None if operation is PREAUTHORIZE else "debit_123")


@pytest.mark.parametrize("call", [row[0] for row in OPERATIONS], ids=OPERATION_NAMES)
def test_only_a_preauthorize_has_a_body(call: AnyCall) -> None:
    """DurableCaptures, reads and cancellations carry nothing besides their path."""
    assert bool(call.body) == (call.operation is PREAUTHORIZE)


@pytest.mark.parametrize("call", [row[0] for row in OPERATIONS], ids=OPERATION_NAMES)
def test_an_operation_is_named_as_its_method(call: AnyCall) -> None:
    """The name that errors and logs tell is the one that the user called."""
    assert call.operation.name in OPERATION_NAMES
    assert (call.operation.states is None) == (call.operation.replay_safety is ReplaySafety.IDEMPOTENT)


def test_every_state_has_one_meaning_for_an_operation() -> None:
    """No state says of the same operation that it is done and undone, and each mapping knows its end states."""
    for operation in (PREAUTHORIZE, CAPTURE, CANCEL):
        states = operation.states
        assert states is not None
        meanings = [states.done, states.in_progress, states.undone, states.over]
        assert sum(map(len, meanings)) == len(frozenset[TransactionState]().union(*meanings))
        assert all(state.known for meaning in meanings for state in meaning)


def test_a_capture_is_repeated_only_from_one_state() -> None:
    """Nothing but "preauthorized" proves that a capture did nothing, and only paid and completed that it is done."""
    assert CAPTURE.states is not None
    assert CAPTURE.states.undone == {"preauthorized"}
    assert CAPTURE.states.done == {"paid", "completed"}
    assert CAPTURE.states.in_progress == {"requested", "initiated", "processing"}
    assert CAPTURE.states.over == {"failed", "cancelled"}


def test_a_cancellation_never_contradicts_a_payment() -> None:
    """A paid transaction can't be cancelled any more, and a cancelled one is done."""
    assert CANCEL.states is not None
    assert CANCEL.states.done == {"cancelled"}
    assert CANCEL.states.undone == {"preauthorized", "requested", "initiated"}
    assert CANCEL.states.over == {"paid", "completed", "failed"}


def test_no_state_allows_to_preauthorize_again() -> None:
    """A preauthorization is never repeated: its mapping only says what became of a debit that the response named."""
    assert PREAUTHORIZE.states is not None
    assert PREAUTHORIZE.states.undone == frozenset()
    assert PREAUTHORIZE.states.done == {"preauthorized", "paid", "completed"}
    assert PREAUTHORIZE.states.over == {"failed", "cancelled"}


# --- ids ----------------------------------------------------------------------------------------------------------

NOT_A_STR = "an id is a str, not"
EMPTY = "is empty; pass the id that the API gave"
INVISIBLE = r"contains an invisible or undecodable character, U\+[0-9A-F]{4,6}; remove it"
NOT_AN_ID = "is not an id: .* pass it exactly as the API gave it, not encoded"

REFUSED_IDS: list[tuple[str, Any, str]] = [
    ("None", None, f"{NOT_A_STR} NoneType"),
    ("an int", 123, f"{NOT_A_STR} int"),
    ("True", True, f"{NOT_A_STR} bool"),
    ("bytes", b"debit_123", f"{NOT_A_STR} bytes"),
    ("a list", ["debit_123"], f"{NOT_A_STR} list"),
    ("empty", "", EMPTY),
    ("a space", " ", NOT_AN_ID),
    ("a dot", ".", NOT_AN_ID),
    ("two dots", "..", NOT_AN_ID),
    ("a slash", "/", NOT_AN_ID),
    ("a slash within", "a/b", NOT_AN_ID),
    ("a way up", "../debit_456", NOT_AN_ID),
    ("a way down", "debit_456/capture", NOT_AN_ID),
    ("a backslash", "a\\b", NOT_AN_ID),
    ("an encoded slash", "a%2Fb", NOT_AN_ID),
    ("encoded dots", "%2e%2E", NOT_AN_ID),
    ("a slash encoded twice", "a%252Fb", NOT_AN_ID),
    ("a percent sign", "100%", NOT_AN_ID),
    ("a tab", "a\tb", NOT_AN_ID),
    ("a NUL", "a\x00b", NOT_AN_ID),
    ("a DEL", "a\x7fb", NOT_AN_ID),
    ("the last C0 control", "a\x1fb", NOT_AN_ID),
    ("a C1 control", "a\x85b", r"'a\\x85b' contains an invisible or undecodable character, U\+0085; remove it"),
    ("the last C1 control", "a\x9fb", INVISIBLE),
    ("a zero-width space", "deb\u200bit", r"'deb\\u200bit' contains an invisible .* U\+200B; remove it"),
    ("a byte order mark within", "deb\ufeffit", INVISIBLE),
    ("a soft hyphen", "deb\xadit", INVISIBLE),
    ("a mark of direction", "deb\u202ait", INVISIBLE),
    ("a no-break space within", "deb\xa0it", INVISIBLE),
    ("a filler of Hangul", "deb\u3164it", r"'deb\\u3164it' contains an invisible .* U\+3164; remove it"),
    ("a variation selector", "deb\ufe0fit", r"'deb\\ufe0fit' contains an invisible .* U\+FE0F; remove it"),
    ("an invisible character behind 60 others", f"{'a' * 60}\u200b", INVISIBLE),
    ("a header", "a HTTP/1.1\r\nX-Evil: 1", NOT_AN_ID),
    ("a line break behind", "debit_123\n", NOT_AN_ID),
    ("dots and a line break", "..\n", NOT_AN_ID),
    ("a space before", " debit_123", NOT_AN_ID),
    ("a space behind", "debit_123 ", NOT_AN_ID),
    ("a no-break space behind", "debit_123\xa0", NOT_AN_ID),
    ("a surrogate", "\ud800", INVISIBLE),
    ("a pair of surrogates", "a\ud83d\ude00", INVISIBLE),
    ("256 characters", "a" * 256, NOT_AN_ID),
    ("256 odd characters", "é" * 256, NOT_AN_ID),
    ("a str subclass of dots", Loud(".."), NOT_AN_ID),
]


@every_id
@pytest.mark.parametrize(("value", "reason"), [row[1:] for row in REFUSED_IDS], ids=[row[0] for row in REFUSED_IDS])
def test_what_is_no_id_is_refused(value: Any, reason: str, field: str, make: Callable[[str], AnyCall]) -> None:
    """An id that could reach another resource is refused, by an error that names the argument and stays short."""
    with pytest.raises(InvalidArgumentError, match=re.compile(f"^{field}: .*{reason}$", re.DOTALL)) as caught:
        make(value)

    assert caught.value.field == field
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


ENCODED_IDS: list[tuple[str, str, str]] = [
    ("a UUID", "41fc05d5-3148-4ee2-bfdf-9ad5ab7172c6", "41fc05d5-3148-4ee2-bfdf-9ad5ab7172c6"),
    ("underscores", "debit_123", "debit_123"),
    ("a space", "a b", "a%20b"),
    ("a question mark", "a?b", "a%3Fb"),
    ("a query", "?a=b&c", "%3Fa%3Db%26c"),
    ("a hash", "a#b", "a%23b"),
    ("a semicolon", "a;b", "a%3Bb"),
    ("a colon", "a:b", "a%3Ab"),
    ("a plus", "a+b", "a%2Bb"),
    ("an at sign", "a@b", "a%40b"),
    ("letters", "é😀", "%C3%A9%F0%9F%98%80"),
    ("quotes", "'\"", "%27%22"),
    ("dots within", "a..b", "a..b"),
    ("three dots", "...", "..."),
    ("a hidden file", ".a", ".a"),
    ("a tilde", "~", "~"),
    ("255 characters", "a" * 255, "a" * 255),
    ("255 odd characters", ":" * 255, "%3A" * 255),
    ("a str enumeration", Word.ID, "id_1"),
    ("an enumeration of strs", Name.ID, "id_1"),
    ("an enumeration of odd strs", Name.ODD, "an%20id"),
    ("a str subclass", Loud("id_1"), "id_1"),
    ("an odd str subclass", Loud("an id"), "an%20id"),
]


@every_path
@pytest.mark.parametrize(("value", "encoded"), [row[1:] for row in ENCODED_IDS], ids=[row[0] for row in ENCODED_IDS])
def test_an_id_is_one_encoded_segment(
    value: str, encoded: str, field: str, make: Callable[[str], AnyCall], segments: list[str | None]
) -> None:
    """An id is percent-encoded into its own segment, and a str subclass by the characters it holds."""
    call = make(value)

    assert call.path == "/" + "/".join(encoded if segment is None else segment for segment in segments)
    assert call.arguments[field] == value
    assert type(call.arguments[field]) is str


def check_path(path: str, segments: list[str | None], value: str) -> None:
    """Check that a path has these segments, however often it is decoded on its way and whoever parses it."""
    expected = [value if segment is None else segment for segment in segments]
    assert path.isascii()
    assert path.isprintable()
    assert not set(path) & set(" ?#;\\")
    once = unquote(path, errors="strict")
    assert once.split("/")[1:] == expected
    assert unquote(once) == once
    assert not {".", ".."} & set(once.split("/"))
    assert URL("https://host").with_path(path, encoded=True).raw_path == path
    assert URL(f"https://host{path}").parts[1:] == tuple(expected)


ids = st.one_of(
    st.text(min_size=1, max_size=8),
    st.text(alphabet="./\\%2eEfF5cC?#;:@&=+ ~a\t", min_size=1, max_size=12),
    st.from_regex(r"\A[A-Za-z0-9_-]{1,40}\Z"),
)


@every_path
@given(value=ids)
@example(value="%2F")
@example(value="%252e%252e")
@example(value="a?b#c")
def test_no_id_reaches_another_resource(
    value: str, field: str, make: Callable[[str], AnyCall], segments: list[str | None]
) -> None:
    """Whatever id is taken, decoding its path once or twice gives the segments asked for, and no other."""
    try:
        call = make(value)
    except InvalidArgumentError as error:
        assert error.field == field
        return

    check_path(call.path, segments, value)


@given(contact=ids, card=ids)
def test_two_ids_can_not_trade_places(contact: str, card: str) -> None:
    """Two ids in one path stay apart: different pairs have different paths."""
    try:
        call = preauthorize(contact_id=contact, credit_card_id=card)
    except InvalidArgumentError:
        return

    check_path(call.path, ["contact", contact, "creditcards", card, "preauthorize"], "")


# --- statements ---------------------------------------------------------------------------------------------------

TAKEN_STATEMENTS = [
    ("one character", "x"),
    ("30 characters", "x" * 30),
    ("30 letters of two bytes", "é" * 30),
    ("an emoji", "Rent 😀"),
    ("spaces around", " Rent "),
    ("quotes and backslash", '"Rent" \\ 1'),
    ("a str enumeration", Word.ID),
    ("an enumeration of strs", Name.ODD),
    ("a str subclass", Loud("Rent")),
]

REFUSED_STATEMENTS: list[tuple[str, Any, str]] = [
    ("31 characters", "x" * 31, "has 31 characters; the API takes at most 30, so shorten it"),
    ("31 emoji", "😀" * 31, "has 31 characters"),
    ("empty", "", "is empty"),
    ("spaces", "   ", "is empty"),
    ("line breaks", "\r\n", "is empty"),
    ("a line break", "Rent\nMay", "has unprintable characters"),
    ("a NUL", "Rent\x00", "has unprintable characters"),
    ("an escape", "\x1b[31mRent", "has unprintable characters"),
    ("text from right to left", "Rent\u202e", "has unprintable characters"),
    ("a lone surrogate", "Rent \ud800", "has unprintable characters"),
    ("None", None, "is a str, not NoneType"),
    ("bytes", b"Rent", "is a str, not bytes"),
    ("an int", 30, "is a str, not int"),
]


@pytest.mark.parametrize("statement", [row[1] for row in TAKEN_STATEMENTS], ids=[row[0] for row in TAKEN_STATEMENTS])
def test_a_statement_leaves_as_it_is(statement: str) -> None:
    """A statement of up to 30 characters is sent without a change, a str subclass by the characters it holds."""
    call = preauthorize(statement=statement)

    assert json.loads(call.body)["statement"] == statement
    assert call.arguments["statement"] == statement
    assert type(call.arguments["statement"]) is str


@pytest.mark.parametrize(
    ("statement", "reason"), [row[1:] for row in REFUSED_STATEMENTS], ids=[row[0] for row in REFUSED_STATEMENTS]
)
def test_what_is_no_statement_is_refused(statement: Any, reason: str) -> None:
    """A statement that the API or a bank could cut or garble is refused before anything is sent."""
    with pytest.raises(InvalidArgumentError, match=f"^statement: {reason}") as caught:
        preauthorize(statement=statement)

    assert caught.value.field == "statement"
    assert str(caught.value).isprintable()


@given(st.text(max_size=40))
def test_any_text_is_sent_whole_or_refused(statement: str) -> None:
    """Nothing of a statement is ever lost, and a refusal is an InvalidArgumentError."""
    try:
        call = preauthorize(statement=statement)
    except InvalidArgumentError as error:
        assert error.field == "statement"
        return

    assert json.loads(call.body)["statement"] == statement
    assert 1 <= len(statement) <= STATEMENT_LIMIT


# --- the body, and what errors report -----------------------------------------------------------------------------


def test_the_body_is_the_guides_to_the_byte() -> None:
    """The body of a preauthorize has the guide's three keys, the amount as its own digits, and no space."""
    call = preauthorize(statement="Café 😀")

    assert call.body.decode() == '{"amount":100.50,"to_bank_account_id":"bank_789","statement":"Café 😀"}'


def test_the_account_is_no_part_of_the_path() -> None:
    """The bank account's id is sent in the body, where it needs no encoding."""
    call = preauthorize(to_bank_account_id="bank 789")

    assert json.loads(call.body)["to_bank_account_id"] == "bank 789"
    assert "bank" not in call.path


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (
            preauthorize(amount=100),
            {
                "contact_id": "contact_123",
                "credit_card_id": "cc_456",
                "amount": "100.00",
                "to_bank_account_id": "bank_789",
                "statement": "Test statement",
            },
        ),
        (operations.capture("debit_123"), {"debit_id": "debit_123"}),
        (operations.transaction_status("debit_123"), {"identifier": "debit_123"}),
        (operations.cancel_transaction("debit_123"), {"identifier": "debit_123"}),
    ],
    ids=OPERATION_NAMES,
)
def test_a_call_tells_what_was_asked(call: AnyCall, arguments: dict[str, str]) -> None:
    """The arguments that an error shows are those of the method, by name, the amount to the cent."""
    assert call.arguments == arguments


def test_the_first_bad_argument_is_named() -> None:
    """A bad amount is reported as such, and as the argument of that name."""
    with pytest.raises(InvalidArgumentError, match=r"^amount: ") as caught:
        preauthorize(amount="ten")

    assert caught.value.field == "amount"


def test_what_is_known_becomes_the_context_of_an_error() -> None:
    """An error learns the operation, the debit, the status, the request's id, the attempts and the time."""
    context = ResponseContext(3, 1.5, 409, {"X-Request-ID": "req_1"})

    assert context.error_context(operations.capture("debit_123")) == {
        "operation": "capture",
        "debit_id": "debit_123",
        "status": 409,
        "request_id": "req_1",
        "attempts": 3,
        "elapsed": 1.5,
    }
    assert context.error_context(preauthorize()).get("debit_id") is None
    assert context.error_context(preauthorize(), debit_id="debit_9").get("debit_id") == "debit_9"
