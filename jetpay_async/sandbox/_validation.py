"""Read a request's JSON body field by field, with errors in FastAPI's form [inferred]. Pure and total."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING

from jetpay_async._core import json
from jetpay_async.sandbox._state import RejectedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jetpay_async.models import JSONValue

__all__ = ["Form"]

_CENT = Decimal("0.01")
# Of the sandbox alone: what the process sets for its own decimals changes nothing here.
_EXACT = Context(prec=28, traps=[InvalidOperation])


class Form:
    """One JSON object, being read.

    Each reading method returns the field's value. If that is invalid, it records an error and returns a placeholder of
    the right type, so that one reply names every error: call `check` before using any value.

    Args:
        body: The bytes as received.
        content_type: As received, without its parameters.

    Raises:
        RejectedError: The body is missing, is no JSON, or is no object.
    """

    def __init__(self, body: bytes, content_type: str) -> None:
        self._errors: list[JSONValue] = []
        self._document = _read_object(body, content_type)

    def __contains__(self, name: str) -> bool:
        return self._document.get(name) is not None

    def clears(self, name: str) -> bool:
        """Return whether a field is given as null."""
        return name in self._document and self._document[name] is None

    def check(self) -> None:
        """Reject the request if there was any error."""
        if self._errors:
            raise RejectedError(422, self._errors)

    def add_error(self, name: str, message: str, kind: str) -> None:
        """Record an error of a field."""
        self._errors.append(_error(["body", name], message, kind))

    def amount(self, name: str) -> Decimal:
        """Read an amount: a JSON number of major units, more than 0, with at most two decimals [guide]."""
        value = self._required(name)
        if value is None:
            return _CENT
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            self.add_error(name, "Input should be a valid number", "decimal_type")
            return _CENT
        number = Decimal(value)
        if number <= 0:
            self.add_error(name, "Input should be greater than 0", "greater_than")
            return _CENT
        try:
            exact = number.quantize(_CENT, context=_EXACT)
        except InvalidOperation:
            self.add_error(
                name, "Decimal input should have no more than 26 digits before the point", "decimal_max_digits"
            )
            return _CENT
        if exact != number:
            self.add_error(name, "Decimal input should have no more than 2 decimal places", "decimal_max_places")
        return exact

    def text(self, name: str, *, longest: int | None = None) -> str:
        """Read a text that has to be there and not be empty."""
        value = self._required(name)
        return "" if value is None else self._text(name, value, longest)

    def optional_text(self, name: str) -> str | None:
        """Read a text that may be missing or null."""
        value = self._document.get(name)
        return None if value is None else self._text(name, value, None)

    def optional_integer(self, name: str, *, least: int, most: int | None = None) -> int | None:
        """Read an integer that may be missing or null."""
        value = self._document.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.add_error(name, "Input should be a valid integer", "int_type")
        elif value < least:
            self.add_error(name, f"Input should be greater than or equal to {least}", "greater_than_equal")
        elif most is not None and value > most:
            self.add_error(name, f"Input should be less than or equal to {most}", "less_than_equal")
        else:
            return value
        return None

    def optional_moment(self, name: str) -> datetime | None:
        """Read an ISO 8601 moment that may be missing or null; without an offset it is UTC."""
        value = self.optional_text(name)
        if not value:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.add_error(name, "Input should be a valid datetime", "datetime_parsing")
            return None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def texts(self, name: str) -> list[str]:
        """Read a list of texts; missing means empty."""
        value = self._document.get(name, ())
        if isinstance(value, str) or not isinstance(value, list | tuple):
            self.add_error(name, "Input should be a valid list", "list_type")
            return []
        return [self._text(name, item, None, index) for index, item in enumerate(value)]

    def _required(self, name: str) -> JSONValue:
        value = self._document.get(name)
        if value is None:
            self.add_error(name, "Field required", "missing")
        return value

    def _text(self, name: str, value: JSONValue, longest: int | None, *index: int) -> str:
        if not isinstance(value, str):
            error = ("Input should be a valid string", "string_type")
        elif not value:
            error = ("String should have at least 1 character", "string_too_short")
        elif longest is not None and len(value) > longest:
            error = (f"String should have at most {longest} characters", "string_too_long")
        else:
            return value
        self._errors.append(_error(["body", name, *index], *error))
        return ""


def _read_object(body: bytes, content_type: str) -> Mapping[str, JSONValue]:
    if not body:
        raise RejectedError(422, [_error(["body"], "Field required", "missing")])
    if content_type == "application/json":
        try:
            document = json.parse(body)
        except ValueError:
            raise RejectedError(422, [_error(["body"], "JSON decode error", "json_invalid")]) from None
        if isinstance(document, dict):
            return document
    message = "Input should be a valid dictionary or object to extract fields from"
    raise RejectedError(422, [_error(["body"], message, "model_attributes_type")])


def _error(location: list[str | int], message: str, kind: str) -> JSONValue:
    return {"loc": location, "msg": message, "type": kind}
