"""Amounts: what is taken, what is refused, and that no digit is lost on the way to the wire."""

from __future__ import annotations

import decimal
import json
from decimal import Decimal
from enum import IntEnum, StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetpay_async import InvalidArgumentError
from jetpay_async._core import json as api_json
from jetpay_async._core import operations
from jetpay_async.money import to_amount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jetpay_async import Amount


class Price(IntEnum):
    DEPOSIT = 100


class Label(StrEnum):
    DEPOSIT = "100.50"


class Real(float):
    """A float that prints as something else, as those of numpy do."""

    def __repr__(self) -> str:
        return f"Real({float(self)})"


TAKEN = [
    ("a Decimal", Decimal("100.50"), "100.50"),
    ("one decimal", Decimal("100.5"), "100.50"),
    ("no decimals", Decimal(100), "100.00"),
    ("zeros behind the cent", Decimal("100.5000"), "100.50"),
    ("an exponent", Decimal("1.005E+2"), "100.50"),
    ("trailing zeros in the exponent", Decimal("1E+2"), "100.00"),
    ("a cent", Decimal("0.01"), "0.01"),
    ("the most", Decimal("9999999999999.99"), "9999999999999.99"),
    ("an int of dollars", 100, "100.00"),
    ("an int enumeration", Price.DEPOSIT, "100.00"),
    ("a str", "100.50", "100.50"),
    ("a str of dollars", "100", "100.00"),
    ("a str with one decimal", "0.5", "0.50"),
    ("a str with leading zeros", "007.10", "7.10"),
    ("a str of the most", "9999999999999.99", "9999999999999.99"),
    ("a str enumeration", Label.DEPOSIT, "100.50"),
    ("a short float", 100.5, "100.50"),
    ("a whole float", 100.0, "100.00"),
    ("a float that is no binary fraction", 0.1, "0.10"),
    ("a large float", 9999999999999.0, "9999999999999.00"),
    ("a float of a subclass", Real(19.99), "19.99"),
]

NO_AMOUNT = "is not an amount"
OUT_OF_RANGE = "is out of range"
TOO_FINE = "has more than two decimals"

INVALID = [
    ("None", None, NO_AMOUNT),
    ("True", True, NO_AMOUNT),
    ("False", False, NO_AMOUNT),
    ("bytes", b"100.50", NO_AMOUNT),
    ("a fraction", Fraction(1, 2), NO_AMOUNT),
    ("a complex number", 1 + 0j, NO_AMOUNT),
    ("a list", [100], NO_AMOUNT),
    ("a tuple that Decimal would take", (0, (1, 0, 0), 0), NO_AMOUNT),
    ("a class", Decimal, NO_AMOUNT),
    ("an empty str", "", NO_AMOUNT),
    ("a word", "ten", NO_AMOUNT),
    ("a str with a thousand, or three decimals", "1.000", NO_AMOUNT),
    ("a decimal comma", "100,50", NO_AMOUNT),
    ("a thousands comma", "1,000.00", NO_AMOUNT),
    ("an underscore", "1_000", NO_AMOUNT),
    ("a currency", "$100.50", NO_AMOUNT),
    ("a sign", "+100.50", NO_AMOUNT),
    ("a str below zero", "-100.50", NO_AMOUNT),
    ("an exponent in a str", "1e2", NO_AMOUNT),
    ("a space before", " 100.50", NO_AMOUNT),
    ("a space behind", "100.50 ", NO_AMOUNT),
    ("a line break behind", "100.50\n", NO_AMOUNT),
    ("a point at the end", "100.", NO_AMOUNT),
    ("a point at the start", ".50", NO_AMOUNT),
    ("two points", "1.0.0", NO_AMOUNT),
    ("hexadecimal", "0x10", NO_AMOUNT),
    ("Arabic digits", "\u0661\u0660\u0660", NO_AMOUNT),
    ("full-width digits", "\uff11\uff10\uff10", NO_AMOUNT),
    ("a superscript", "10\u00b2", NO_AMOUNT),
    ("a lone surrogate", "\ud800", NO_AMOUNT),
    ("NaN in a str", "NaN", NO_AMOUNT),
    ("infinity in a str", "Infinity", NO_AMOUNT),
    ("a str that is too large", "10000000000000", NO_AMOUNT),
    ("a long str", "9" * 100_000, NO_AMOUNT),
    ("zero", 0, OUT_OF_RANGE),
    ("zero as a str", "0.00", OUT_OF_RANGE),
    ("zero as a Decimal", Decimal("0.00"), OUT_OF_RANGE),
    ("zero with an exponent", Decimal("0E+30"), OUT_OF_RANGE),
    ("minus zero", Decimal("-0"), OUT_OF_RANGE),
    ("minus zero as a float", -0.0, OUT_OF_RANGE),
    ("an int below zero", -1, OUT_OF_RANGE),
    ("a Decimal below zero", Decimal("-0.01"), OUT_OF_RANGE),
    ("a float below zero", -100.5, OUT_OF_RANGE),
    ("NaN", Decimal("NaN"), OUT_OF_RANGE),
    ("a signalling NaN", Decimal("sNaN"), OUT_OF_RANGE),
    ("infinity", Decimal("Infinity"), OUT_OF_RANGE),
    ("a float NaN", float("nan"), OUT_OF_RANGE),
    ("a float infinity", float("inf"), OUT_OF_RANGE),
    ("minus infinity", float("-inf"), OUT_OF_RANGE),
    ("one more than the most", 10**13, OUT_OF_RANGE),
    ("a huge int", 10**5000, OUT_OF_RANGE),
    ("a huge Decimal", Decimal("1E+999999"), OUT_OF_RANGE),
    ("a huge float", 1e22, OUT_OF_RANGE),
    ("a tenth of a cent", Decimal("100.505"), TOO_FINE),
    ("a little more than the most", Decimal("9999999999999.999"), TOO_FINE),
    ("many digits", Decimal("1." + "0" * 100 + "1"), TOO_FINE),
    ("a tiny Decimal", Decimal("1E-999999"), TOO_FINE),
    ("a float that shows its rounding", 0.1 + 0.2, TOO_FINE),
    ("a Decimal made from a float", Decimal(1 / 10), TOO_FINE),
    ("a third", 1 / 3, TOO_FINE),
    ("a tiny float", 5e-324, TOO_FINE),
]


@pytest.fixture(params=["usual", "two digits", "trapping", "deaf"])
def context(request: pytest.FixtureRequest) -> Iterator[decimal.Context]:
    """The decimal context of the caller's thread, and three that would spoil a careless calculation."""
    contexts = {
        "usual": decimal.Context(),
        "two digits": decimal.Context(prec=2, rounding=decimal.ROUND_UP, Emin=-1, Emax=1, capitals=0, clamp=1),
        "trapping": decimal.Context(traps=list(decimal.Context().flags)),
        "deaf": decimal.Context(prec=1, traps=[]),
    }
    with decimal.localcontext(contexts[request.param]) as current:
        yield current


@pytest.mark.parametrize(("value", "expected"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_an_amount_is_taken_to_the_cent(value: Amount, expected: str, context: decimal.Context) -> None:
    """A taken amount has exactly two decimals, whatever the caller's decimal context says."""
    amount = to_amount(value)

    assert type(amount) is Decimal
    assert str(amount) == expected


@pytest.mark.parametrize(("value", "reason"), [row[1:] for row in INVALID], ids=[row[0] for row in INVALID])
def test_what_is_no_amount_is_refused(value: Amount, reason: str, context: decimal.Context) -> None:
    """A refusal is an InvalidArgumentError that names the field and the reason, and stays short."""
    with pytest.raises(InvalidArgumentError, match=f"^price: .*{reason}") as caught:
        to_amount(value, field="price")

    assert caught.value.field == "price"
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("value", "way_out"),
    [
        (True, "write Decimal('100.50'), '100.50' or an int of whole dollars"),
        ("1.000", "write Decimal('100.50'), '100.50' or an int of whole dollars"),
        (10**13, "more than 0 and less than 10000000000000, in dollars"),
        (0.1 + 0.2, "Decimal(value).quantize(Decimal('0.01')), so that the rounding is yours"),
    ],
    ids=["wrong type", "wrong form", "range", "rounding"],
)
def test_a_refusal_says_what_to_write_instead(value: Amount, way_out: str) -> None:
    """Whoever reads the error can correct the call without reading anything else."""
    with pytest.raises(InvalidArgumentError) as caught:
        to_amount(value)

    assert way_out in str(caught.value)
    assert str(caught.value).startswith("amount: ")


def test_the_way_out_of_a_rounding_error_leads_out() -> None:
    """The expression that the error suggests makes an amount."""
    value = 0.1 + 0.2

    assert to_amount(Decimal(value).quantize(Decimal("0.01"))) == Decimal("0.30")


def test_no_flag_of_the_callers_context_is_touched(context: decimal.Context) -> None:
    """A caller who watches the flags of its own context sees nothing of ours."""
    context.clear_flags()

    to_amount("100.5")
    with pytest.raises(InvalidArgumentError):
        to_amount(0.1 + 0.2)

    assert not any(context.flags.values())


cents = st.integers(min_value=1, max_value=10**15 - 1)


@given(cents)
def test_every_number_of_cents_survives_in_every_form(number: int) -> None:
    """Decimal, str and int of the same value become the same amount, equal to the input."""
    exact = Decimal(number).scaleb(-2)

    assert to_amount(exact) == exact
    assert str(to_amount(f"{exact:.2f}")) == f"{exact:.2f}"
    if number % 100 == 0:
        assert to_amount(number // 100) == exact


@given(cents)
def test_every_amount_survives_as_a_float(number: int) -> None:
    """An amount has at most 15 digits, which is what a double can hold and print back."""
    assert to_amount(number / 100) == Decimal(number).scaleb(-2)


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.fractions(),
    st.complex_numbers(),
    st.text(),
    st.from_regex(r"\A[-+ ]?[0-9]{1,15}[.,]?[0-9]{0,4}(e[0-9]+)?\s?\Z"),
    st.binary(),
    st.dates(),
    st.lists(st.integers()),
    st.dictionaries(st.text(), st.none()),
)


@given(anything)
def test_anything_ends_in_an_exact_amount_or_a_refusal(value: Amount) -> None:
    """Nothing but an InvalidArgumentError is raised, and nothing is ever rounded."""
    try:
        amount = to_amount(value)
    except InvalidArgumentError:
        return

    assert amount.as_tuple().exponent == -2
    assert 0 < amount < 10**13
    assert amount == (Decimal(repr(value)) if isinstance(value, float) else Decimal(value))


def leaves(amount: Amount) -> bytes:
    """The body of a preauthorize of this amount."""
    return operations.preauthorize(
        contact_id="c", credit_card_id="k", amount=amount, to_bank_account_id="b", statement="s"
    ).body


@pytest.mark.parametrize(("value", "digits"), [row[1:] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_an_amount_leaves_as_its_own_digits(value: Amount, digits: str, context: decimal.Context) -> None:
    """100.50 leaves as the JSON number 100.50: no float, no exponent, no quotes."""
    assert leaves(value) == b'{"amount":%s,"to_bank_account_id":"b","statement":"s"}' % digits.encode()


@given(cents)
def test_an_amount_comes_back_as_it_left(number: int) -> None:
    """Our reader and a reader of doubles both find the amount that was sent."""
    exact = Decimal(number).scaleb(-2)

    body = leaves(exact)

    assert api_json.parse_object(body)["amount"] == exact
    assert to_amount(json.loads(body)["amount"]) == exact
