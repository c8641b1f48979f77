"""JSON in and out: exact numbers, strict forms, one kind of error."""

from __future__ import annotations

import decimal
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetpay_async import TransactionState
from jetpay_async._core.json import dump, parse, parse_object

if TYPE_CHECKING:
    from jetpay_async import JSONValue


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100.50", Decimal("100.50")),
        ("0.1", Decimal("0.1")),
        ("1e2", Decimal("1E+2")),
        ("-0.0", Decimal("-0.0")),
        ("0.30000000000000004", Decimal("0.30000000000000004")),
        ("123456789012345678.90", Decimal("123456789012345678.90")),
        ("100", 100),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("-9223372036854775809", -9223372036854775809),
    ],
)
def test_a_number_is_read_from_its_digits(text: str, value: Decimal | int) -> None:
    """A number with a point or an exponent is the Decimal of its digits, and one without is an int."""
    number = parse(text.encode())

    assert type(number) is type(value)
    assert str(number) == str(value)


def test_the_callers_decimal_context_does_not_matter() -> None:
    """No digit is lost to the context of the caller's thread."""
    with decimal.localcontext(decimal.Context(prec=1, traps=[])):
        assert str(parse(b"123.456")) == "123.456"
        assert dump({"amount": Decimal("123.45")}) == b'{"amount":123.45}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nope",
        b"NaN",
        b"[1,]",
        b"{'a': 1}",
        b"01",
        b"{}{}",
        b"\xff",
        b'"\\ud800"',
        b"[" * 100_000,
        b"9" * 9999,
        b"1e" + b"9" * 99,
    ],
    ids=repr,
)
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    """Whatever is wrong with a document, it is a ValueError that shows nothing of it."""
    with pytest.raises(ValueError, match=r"^not JSON: ") as caught:
        parse(data)

    assert type(caught.value) is ValueError
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b"[]", "list"), (b'"a"', "str"), (b"1", "int"), (b"1.5", "Decimal"), (b"true", "bool"), (b"null", "NoneType")],
)
def test_what_is_no_object_is_a_value_error(data: bytes, kind: str) -> None:
    """Where an object is due, another document is refused by its kind."""
    with pytest.raises(ValueError, match=f"^not a JSON object but {kind}$"):
        parse_object(data)


def test_an_object_is_read() -> None:
    """An object is a dict, its last value where a key comes twice."""
    assert parse_object(b' {"a": 1, "a": [true, null, "x"]} ') == {"a": [True, None, "x"]}


def test_what_is_written_has_no_spaces() -> None:
    """Keys keep their order, text its characters, and a state is its string."""
    document: JSONValue = {"b": "é", "a": [1, True, None], "state": TransactionState("clearing")}

    assert dump(document).decode() == '{"b":"é","a":[1,true,null],"state":"clearing"}'


@given(st.binary() | st.text(alphabet='[]{}":,0123456789.eE+-truefalsnu \\', max_size=12).map(str.encode))
def test_any_bytes_are_a_document_or_a_value_error(data: bytes) -> None:
    """Nothing but a ValueError is raised, whatever comes."""
    try:
        document = parse(data)
    except ValueError:
        return

    assert json.loads(data, parse_float=Decimal) == document


numbers = st.decimals(allow_nan=False, allow_infinity=False) | st.integers(-(10**30), 10**30)
documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
)


@given(documents)
def test_a_document_comes_back_as_it_left(document: Any) -> None:
    """Writing and reading loses nothing, and other readers read the same."""
    data = dump(document)

    assert parse(data) == document
    assert json.loads(data, parse_float=Decimal) == document
