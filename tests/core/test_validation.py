"""Numbers that users give, and the pauses that grow with each attempt."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from jetpay_async import ConfigurationError, InvalidArgumentError
from jetpay_async._core.backoff import exponential_backoff
from jetpay_async._core.validation import check_seconds, is_number


@pytest.mark.parametrize("value", [1, 0.001, 10**9, 1e308])
def test_a_number_of_seconds_is_returned_as_a_float(value: float) -> None:
    """Ints and floats above 0 are taken as they are."""
    seconds = check_seconds("timeout", value)

    assert seconds == value
    assert type(seconds) is float


@pytest.mark.parametrize(
    "value",
    [0, 0.0, -1, math.inf, -math.inf, math.nan, 10**400, True, "15", None, Decimal(1), 1j],
    ids=repr,
)
def test_what_is_no_number_of_seconds_is_refused(value: Any) -> None:
    """Zero, less, infinity, NaN and other types are refused, and the argument is named."""
    with pytest.raises(InvalidArgumentError, match=r"^timeout=.* must be a number of seconds, more than 0$") as caught:
        check_seconds("timeout", value)

    assert caught.value.field == "timeout"


def test_zero_may_be_allowed() -> None:
    """Where 0 has a meaning it is taken, and the message says so."""
    assert check_seconds("pause", 0, zero=True) == 0.0
    with pytest.raises(InvalidArgumentError, match=r"pause=-1 must be a number of seconds, 0 or more$"):
        check_seconds("pause", -1, zero=True)


def test_there_may_be_a_largest_number() -> None:
    """A limit is part of the message."""
    assert check_seconds("leeway", 300, zero=True, most=300) == 300.0
    with pytest.raises(InvalidArgumentError, match=r"leeway=301 .* 0 or more, 300 at most$"):
        check_seconds("leeway", 301, zero=True, most=300)


def test_a_setting_is_refused_as_a_configuration_error() -> None:
    """What configures a client raises the error of configuration."""
    with pytest.raises(ConfigurationError, match=r"timeout=0 must be"):
        check_seconds("timeout", 0, configuration=True)


def test_a_number_has_limits_on_both_sides() -> None:
    """Both limits belong to the range."""
    assert [is_number(value, least=1, most=3) for value in (0.9, 1, 3, 3.1)] == [False, True, True, False]


@pytest.mark.parametrize(("attempt", "pause"), [(1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (6, 8.0), (5000, 8.0)], ids=str)
def test_a_pause_doubles_up_to_its_limit(attempt: int, pause: float) -> None:
    """However many attempts there were, the pause is a number of at most its limit."""
    assert exponential_backoff(attempt, base=0.5, longest=8.0) == pause
