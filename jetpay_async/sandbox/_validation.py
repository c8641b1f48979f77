"""Read a request's JSON body field by field, with errors as FastAPI writes them [inferred]. Pure and total."""

from __future__ import annotations

import json as standard_json
from typing import TYPE_CHECKING, TypeVar

from jetpay_async._core import json
from jetpay_async.sandbox._field_types import (
    CENT,
    FieldRejectedError,
    read_amount,
    read_integer,
    read_moment,
    read_text,
    read_url,
)
from jetpay_async.sandbox._state import RejectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from decimal import Decimal

    from jetpay_async.models import JSONValue

__all__ = ["Form"]

_T = TypeVar("_T")


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

    def add_error(self, name: str, message: str) -> None:
        """Record what a validator of the service's own says of a field."""
        self._errors.append(_value_error(["body", name], message, self._document[name]))

    def either(self, *groups: tuple[str, ...]) -> None:
        """Ask for all fields of one group; a model says so once each of its fields is valid."""
        if not self._errors and not any(all(name in self for name in group) for group in groups):
            wanted = ", or ".join(" and ".join(group) for group in groups)
            self._errors.append(_value_error(["body"], f"give {wanted}", self._document))

    def amount(self, name: str) -> Decimal:
        """Read an amount: a JSON number of major units, more than 0, with at most two decimals [guide]."""
        return self._required(name, read_amount, CENT)

    def text(self, name: str, *, longest: int | None = None) -> str:
        """Read a text that has to be there and not be empty."""
        return self._required(name, lambda value: read_text(value, longest), "")

    def optional_text(self, name: str) -> str | None:
        """Read a text that may be missing or null."""
        return self._optional(name, read_text)

    def url(self, name: str) -> str:
        """Read an address of HTTP that has to be there."""
        return self._required(name, read_url, "")

    def optional_integer(self, name: str, *, least: int, most: int | None = None) -> int | None:
        """Read an integer that may be missing or null."""
        return self._optional(name, lambda value: read_integer(value, least=least, most=most))

    def optional_moment(self, name: str) -> datetime | None:
        """Read an ISO 8601 moment that may be missing or null; without an offset it is UTC."""
        return self._optional(name, read_moment)

    def texts(self, name: str) -> list[str]:
        """Read a list of texts; missing means empty."""
        value = self._document.get(name, [])
        if not isinstance(value, list):
            self._errors.append(_error("list_type", ["body", name], "Input should be a valid list", value))
            return []
        return [self._read(["body", name, index], item, read_text, "") for index, item in enumerate(value)]

    def _required(self, name: str, read: Callable[[JSONValue], _T], placeholder: _T) -> _T:
        if name not in self._document:
            self._errors.append(_error("missing", ["body", name], "Field required", self._document))
            return placeholder
        return self._read(["body", name], self._document[name], read, placeholder)

    def _optional(self, name: str, read: Callable[[JSONValue], _T]) -> _T | None:
        value = self._document.get(name)
        return None if value is None else self._read(["body", name], value, read, None)

    def _read(
        self, location: list[str | int], value: JSONValue, read: Callable[[JSONValue], _T], placeholder: _T
    ) -> _T:
        try:
            return read(value)
        except FieldRejectedError as rejected:
            self._errors.append(_error(rejected.kind, location, rejected.message, value, rejected.context))
            return placeholder


def _read_object(body: bytes, content_type: str) -> Mapping[str, JSONValue]:
    if not body:
        raise RejectedError(422, [_error("missing", ["body"], "Field required", None)])
    document = _parse(body) if _is_json(content_type) else body.decode(errors="replace")
    if isinstance(document, dict):
        return document
    message = "Input should be a valid dictionary or object to extract fields from"
    raise RejectedError(422, [_error("model_attributes_type", ["body"], message, document)])


def _is_json(content_type: str) -> bool:
    kind, _, subtype = content_type.lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def _parse(body: bytes) -> JSONValue:
    """Parse as strictly as the client, and report an error as the standard library does, which FastAPI reads with."""
    try:
        return json.parse(body)
    except ValueError:
        position, reason = 0, "Out of range"  # the standard library takes NaN, which no JSON reply could repeat
    try:
        standard_json.loads(body)
    except standard_json.JSONDecodeError as error:
        position, reason = error.pos, error.msg
    except (ValueError, RecursionError):
        raise RejectedError(400, "There was an error parsing the body") from None
    raise RejectedError(422, [_error("json_invalid", ["body", position], "JSON decode error", {}, {"error": reason})])


def _value_error(location: list[str | int], message: str, value: JSONValue) -> JSONValue:
    """FastAPI writes the exception that a validator raised as an empty object."""
    return _error("value_error", location, f"Value error, {message}", value, {"error": {}})


def _error(
    kind: str,
    location: list[str | int],
    message: str,
    value: JSONValue,
    context: Mapping[str, JSONValue] | None = None,
) -> JSONValue:
    error: dict[str, JSONValue] = {"type": kind, "loc": location, "msg": message, "input": value}
    return {**error, "ctx": context} if context else error
