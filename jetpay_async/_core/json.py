"""JSON in and out, the one way for the whole package.

Numbers with a point or an exponent become `decimal.Decimal` straight from their digits; a float is never in between.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


def parse(data: bytes) -> JSONValue:
    """Read one JSON document; raise `ValueError`, and nothing else, if it is none."""
    try:
        document: JSONValue = _decoder.decode(data)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise ValueError(f"not JSON: {error}") from None
    return document


def parse_object(data: bytes) -> dict[str, JSONValue]:
    """Read one JSON object; raise `ValueError`, and nothing else, if it is none."""
    try:
        document: JSONValue = _decoder.decode(data)
    except (ValueError, RecursionError, ArithmeticError) as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"not a JSON object but {type(document).__name__}")  # noqa: TRY004 - the input's fault
    return document


def dump(document: JSONValue) -> bytes:
    """Write JSON without spaces; a `Decimal` leaves as the number that it prints."""
    return _encoder.encode(document)
