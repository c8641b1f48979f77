"""What FastAPI's models take for a number, a text, a URL or a moment, and how they word what they refuse. Pure.

The service is made with FastAPI [inferred], so these are the rules and the messages of its library pydantic, for the
types that such a service declares. They convert what is meant: ``"50"`` and ``50.0`` are integers. An amount alone is
strict: the guide has a JSON number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING

from yarl import URL

if TYPE_CHECKING:
    from jetpay_async.models import JSONValue

__all__ = ["FieldRejectedError", "read_amount", "read_integer", "read_moment", "read_text", "read_url"]

CENT = Decimal("0.01")
# Of the sandbox alone: what the process sets for its own decimals changes nothing here.
_EXACT = Context(prec=28, traps=[InvalidOperation])
_WHOLE_DIGITS = 26
_URL_LENGTH = 2083

_INTEGER_SIZE = 2**63
_INTEGER_LENGTH = 4300
_INTEGER = re.compile(r"([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?")
_TIMESTAMP = re.compile(r"[+-]?(?:[0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})")
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T t_](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?(?:([Zz])|([+-])(\d\d):?(\d\d))?)?", re.ASCII
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/*(.*)", re.DOTALL)
# Seconds up to here, milliseconds beyond it; and the last second of the year 9999.
_MOST_SECONDS = 20_000_000_000
_LAST_SECOND = 253_402_300_799


class FieldRejectedError(Exception):
    """A value is not what its field takes.

    Args:
        kind: Pydantic's name of the error.
        message: In pydantic's words.
        context: What the message was made with.
    """

    def __init__(self, kind: str, message: str, **context: JSONValue) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.context: Mapping[str, JSONValue] = context


def read_amount(value: JSONValue) -> Decimal:
    """Read a JSON number of major units, more than 0, with at most two decimals [guide]."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise FieldRejectedError("float_type", "Input should be a valid number")
    number = Decimal(value)
    if number <= 0:
        raise FieldRejectedError("greater_than", "Input should be greater than 0", gt=0)
    try:
        exact = number.quantize(CENT, context=_EXACT)
    except InvalidOperation:
        raise FieldRejectedError(
            "decimal_whole_digits",
            f"Decimal input should have no more than {_WHOLE_DIGITS} digits before the decimal point",
            whole_digits=_WHOLE_DIGITS,
        ) from None
    if exact != number:
        raise FieldRejectedError(
            "decimal_max_places", "Decimal input should have no more than 2 decimal places", decimal_places=2
        )
    return exact


def read_text(value: JSONValue, longest: int | None = None) -> str:
    """Read a text that is not empty."""
    if not isinstance(value, str):
        raise FieldRejectedError("string_type", "Input should be a valid string")
    if not value:
        raise FieldRejectedError("string_too_short", "String should have at least 1 character", min_length=1)
    if longest is not None and len(value) > longest:
        raise FieldRejectedError(
            "string_too_long", f"String should have at most {longest} characters", max_length=longest
        )
    return value


def read_integer(value: JSONValue, *, least: int, most: int | None) -> int:
    """Read an integer within limits."""
    number = _integer(value)
    if number < least:
        raise FieldRejectedError("greater_than_equal", f"Input should be greater than or equal to {least}", ge=least)
    if most is not None and number > most:
        raise FieldRejectedError("less_than_equal", f"Input should be less than or equal to {most}", le=most)
    return number


def _integer(value: JSONValue) -> int:
    if isinstance(value, int):
        return int(value)  # True is 1
    if isinstance(value, Decimal):
        if abs(value) >= _INTEGER_SIZE:
            raise _oversized()
        if value % 1:
            message = "Input should be a valid integer, got a number with a fractional part"
            raise FieldRejectedError("int_from_float", message)
        return int(value)
    if not isinstance(value, str):
        raise FieldRejectedError("int_type", "Input should be a valid integer")
    if len(value) > _INTEGER_LENGTH:
        raise _oversized()
    parts = _INTEGER.fullmatch(value.strip())
    if parts is None:
        message = "Input should be a valid integer, unable to parse string as an integer"
        raise FieldRejectedError("int_parsing", message)
    return int(parts[1])


def _oversized() -> FieldRejectedError:
    message = "Unable to parse input string as an integer, exceeded maximum size"
    return FieldRejectedError("int_parsing_size", message)


def read_url(value: JSONValue) -> str:
    """Read an address of HTTP."""
    if not isinstance(value, str):
        raise FieldRejectedError("url_type", "URL input should be a string or URL")
    if len(value) > _URL_LENGTH:
        message = f"URL should have at most {_URL_LENGTH} characters"
        raise FieldRejectedError("url_too_long", message, max_length=_URL_LENGTH)
    parts = _SCHEME.fullmatch(value)
    if parts is None:
        raise _unreadable_url("relative URL without a base" if value else "input is empty")
    if parts[1].lower() not in {"http", "https"}:
        schemes = "'http' or 'https'"
        raise FieldRejectedError("url_scheme", f"URL scheme should be {schemes}", expected_schemes=schemes)
    authority = re.split(r"[/?#]", parts[2])[0].rpartition("@")[2]
    host, _, port = authority.partition("]:") if authority.startswith("[") else authority.partition(":")
    if not host:
        raise _unreadable_url("empty host")
    if port and not (port.isascii() and port.isdecimal() and int(port) < 65_536):
        raise _unreadable_url("invalid port number")
    try:
        known = URL(value).host
    except ValueError:
        known = None
    if not known or " " in known:
        raise _unreadable_url("invalid IPv6 address" if host.startswith("[") else "invalid international domain name")
    return value


def _unreadable_url(reason: str) -> FieldRejectedError:
    return FieldRejectedError("url_parsing", f"Input should be a valid URL, {reason}", error=reason)


def read_moment(value: JSONValue) -> datetime:
    """Read an ISO 8601 moment, or a number of seconds since 1970; without an offset it is UTC."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise FieldRejectedError("datetime_type", "Input should be a valid datetime")
    if not isinstance(value, str):
        return _from_timestamp(Decimal(value), "datetime_parsing", "datetime")
    if _TIMESTAMP.fullmatch(value):
        return _from_timestamp(Decimal(value), "datetime_from_date_parsing", "datetime or date")
    parts = _MOMENT.fullmatch(value)
    if parts is not None:
        date, hour, minute, second, fraction, utc, sign, hours, minutes = parts.groups()
        text = f"{date}T{hour or '00'}:{minute or '00'}:{second or '00'}.{(fraction or '')[:6]:0<6}"
        try:
            moment = datetime.fromisoformat(text)
            offset = UTC if utc or not sign else timezone(_offset(sign, hours, minutes))
        except ValueError:
            pass
        else:
            return moment.replace(tzinfo=offset)
    reason = _why_no_date(value.encode())
    if reason is None:
        reason = "year 0 is out of range"
        raise FieldRejectedError("datetime_parsing", f"Input should be a valid datetime, {reason}", error=reason)
    raise FieldRejectedError(
        "datetime_from_date_parsing", f"Input should be a valid datetime or date, {reason}", error=reason
    )


def _offset(sign: str, hours: str, minutes: str) -> timedelta:
    if int(minutes) > 59:
        raise ValueError("an hour has 60 minutes")
    offset = timedelta(hours=int(hours), minutes=int(minutes))
    return -offset if sign == "-" else offset


def _from_timestamp(number: Decimal, kind: str, wanted: str) -> datetime:
    seconds = number if abs(number) <= _MOST_SECONDS else number / 1000
    if seconds > _LAST_SECOND:
        reason = "dates after 9999 are not supported as unix timestamps"
    else:
        try:
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(seconds))
        except OverflowError:
            reason = "dates before 0000 are not supported as unix timestamps"
    raise FieldRejectedError(kind, f"Input should be a valid {wanted}, {reason}", error=reason)


def _why_no_date(text: bytes) -> str | None:
    """Say what is wrong with the ten characters of a date, or with what follows them; None for a year 0."""
    if len(text) < 10:
        return "input is too short"
    for part, begin, end in (("year", 0, 4), ("month", 5, 7), ("day", 8, 10)):
        if begin and text[begin - 1 : begin] != b"-":
            return "invalid date separator, expected `-`"
        if not text[begin:end].isdigit():
            return f"invalid character in {part}"
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    if not 1 <= month <= 12:
        return "month value is outside expected range of 1-12"
    try:
        # The year 0, which Python does not have, has a leap day.
        datetime(year or 4, month, day, tzinfo=UTC)
    except ValueError:
        return "day value is outside expected range"
    return (
        None
        if not year and _MOMENT.fullmatch(text.decode(errors="replace"))
        else ("unexpected extra characters at the end of the input")
    )
