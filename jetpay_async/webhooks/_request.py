"""The parts of an HTTP request that matter, whatever the framework has them in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import attrs

from jetpay_async.errors import InvalidArgumentError
from jetpay_async.webhooks.errors import InvalidTokenError, Reason

__all__ = ["DeliveryRequest", "Headers", "authorization_of", "pairs_of", "values_of"]

Headers: TypeAlias = Mapping[str, str] | Mapping[str, Sequence[str]] | Iterable[tuple[str | bytes, str | bytes]]
"""The headers of a request, in the form of any framework."""


def _kept(headers: Headers | None) -> Headers | None:
    """Return headers that can be read more than once."""
    if headers is None or isinstance(headers, Mapping) or not isinstance(headers, Iterable):
        return cast("Mapping[str, str] | None", headers)
    return tuple(headers)


@attrs.frozen
class DeliveryRequest:
    """What is known of an HTTP request, hidden from error reporters, which collect the local variables of frames."""

    body: Any = attrs.field(repr=False)
    """The raw bytes, or whatever else was passed as such."""
    authorization: Any = attrs.field(repr=False)
    """The value of that header, or a list of values, as Lambda has it; None to find it in the headers."""
    headers: Headers | None = attrs.field(repr=False, converter=_kept)

    def token(self) -> str | bytes | None:
        """Return the value of the ``Authorization`` header.

        Raises:
            InvalidTokenError: There are several that differ.
            InvalidArgumentError: What was passed is no text and no list of texts.
        """
        if self.authorization is None:
            return None if self.headers is None else authorization_of(self.headers)
        if isinstance(self.authorization, str | bytes):
            return self.authorization
        return authorization_of({"authorization": self.authorization})


def authorization_of(headers: Headers) -> str | bytes | None:
    """Find the ``Authorization`` value in the headers of any framework, whatever the case of the names.

    Args:
        headers: A mapping (a plain dict, multidict, Django's, Starlette's; Lambda's with lists as values) or the list
            of pairs of ASGI.

    Returns:
        The value, for `WebhookVerifier.verify`; None if there is none.

    Raises:
        InvalidTokenError: There are several that differ (`Reason.SEVERAL_TOKENS`).
        InvalidArgumentError: These are no headers, or a value is no text and no list of texts.
    """
    values = values_of(pairs_of(headers), "authorization")
    if len(values) > 1:
        del headers, values  # a traceback with local variables must not show them
        raise InvalidTokenError(Reason.SEVERAL_TOKENS)
    return values.pop() if values else None


def pairs_of(headers: Headers) -> list[tuple[str, str]]:
    """Return each header, by its name in lower case; a value that is a list counts as several, None as none.

    Raises:
        InvalidArgumentError: These are no headers.
    """
    try:
        return list(_pairs(headers))
    except (TypeError, ValueError):
        del headers  # as above
    raise InvalidArgumentError("headers: pass the request's headers: names with texts, or with lists of texts")


def _pairs(headers: Headers) -> Iterator[tuple[str, str]]:
    items = cast("Iterable[tuple[object, object]]", headers.items() if isinstance(headers, Mapping) else headers)
    for name, value in items:
        lower = _text(name).lower()
        for each in _values(value):
            yield lower, _text(each)


def values_of(pairs: Sequence[tuple[str, str]], name: str) -> set[str]:
    return {value for found, value in pairs if found == name.lower()}


def _values(value: object) -> Iterable[object]:
    if value is None:
        return ()
    return cast("Iterable[object]", value) if isinstance(value, list | tuple) else (value,)


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(cast("bytes", value)).decode("latin-1")
    raise TypeError
