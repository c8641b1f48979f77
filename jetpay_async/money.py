"""Exact amounts: `decimal.Decimal` in major units with at most two decimals."""

from __future__ import annotations

import re
from decimal import Context, Decimal, Inexact, InvalidOperation

from jetpay_async.errors import InvalidArgumentError

__all__ = ["Amount", "to_amount"]

Amount = Decimal | int | str | float
"""What an amount may be given as; see `to_amount`."""

_CENT = Decimal("0.01")
# The receiver may read JSON numbers as doubles, which hold every number of 15 significant digits:
# 13 before the point and two behind it survive any parser.
_LIMIT = Decimal(10**13)
_PLAIN = re.compile(r"[0-9]{1,13}(?:\.[0-9]{1,2})?")
_EXACT = Context(prec=15, traps=[Inexact, InvalidOperation])


def to_amount(value: Amount, *, field: str = "amount") -> Decimal:
    """Turn an amount into a `Decimal` with exactly two decimals, or refuse it; never round.

    Args:
        value: Major units, more than 0 and less than 10 ** 13. A `Decimal`; an
            `int` (whole dollars, not cents); a `str` such as ``"100.50"``; or a `float` whose shortest form has at
            most two decimals: ``100.5`` is taken, ``0.1 + 0.2`` is not.
        field: What the error calls the argument.

    Returns:
        The amount, for example ``Decimal("100.50")``.

    Raises:
        InvalidArgumentError: It is none of these types (`bool` included), not finite, not positive, too large, or
            has a fraction of a cent.

    >>> to_amount("100.5")
    Decimal('100.50')
    >>> to_amount(0.1 + 0.2)
    Traceback (most recent call last):
    ...
    jetpay_async.errors.InvalidArgumentError: amount: 0.30000000000000004 has more than two decimals; ...
    """
    number: Decimal | None = None
    if isinstance(value, float):
        number = Decimal(float.__repr__(value))
    elif isinstance(value, str):
        number = Decimal(value) if _PLAIN.fullmatch(value) else None
    elif isinstance(value, Decimal | int) and not isinstance(value, bool):
        number = Decimal(value)
    if number is None:
        shown = repr(value) if isinstance(value, str | bool) else type(value).__name__
        raise InvalidArgumentError(
            f"{field}: {shown[:60]} is not an amount; write Decimal('100.50'), '100.50' or an int of whole dollars",
            field=field,
        )
    if not number.is_finite() or not 0 < number < _LIMIT:
        raise InvalidArgumentError(
            f"{field}: {_short(number)} is out of range; an amount is more than 0 and less than {_LIMIT:f}, in dollars",
            field=field,
        )
    try:
        return number.quantize(_CENT, context=_EXACT)
    except (Inexact, InvalidOperation):
        raise InvalidArgumentError(
            f"{field}: {_short(number)} has more than two decimals; round it yourself, for example "
            f"Decimal(value).quantize(Decimal('0.01')), so that the rounding is yours",
            field=field,
        ) from None


def _short(number: Decimal) -> str:
    return f"{number!s:.40}"
