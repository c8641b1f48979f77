"""The parts of an HTTP request that matter, whatever the framework has them in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import attrs

from jetpay_async.webhooks.errors import InvalidTokenError, Reason

__all__ = ["DeliveryRequest", "Headers", "authorization_of", "pairs_of", "values_of"]

Headers: TypeAlias = Mapping[str, str] | Mapping[str, Sequence[str]] | Iterable[tuple[str | bytes, str | bytes]]
"""The headers of a request, in the form of any framework."""


def _kept(headers: Headers | None) -> Headers | None:
    """Return headers that can be read more than once."""
    if headers is None or isinstance(headers, Mapping):
        return cast("Mapping[str, str] | None", headers)
    return tuple(headers)


@attrs.frozen
class DeliveryRequest:
    """What is known of an HTTP request, hidden from error reporters, which collect the local variables of frames."""

    body: Any = attrs.field(repr=False)
    """The raw bytes, or whatever else was passed as such."""
    authorization: str | bytes | None = attrs.field(repr=False)
    headers: Headers | None = attrs.field(repr=False, converter=_kept)

    def token(self) -> str | bytes | None:
        """Return the value of the ``Authorization`` header.

        Raises:
            InvalidTokenError: There are several that differ.
        """
        if self.authorization is None and self.headers is not None:
            return authorization_of(self.headers)
        return self.authorization


def authorization_of(headers: Headers) -> str | bytes | None:
    """Find the ``Authorization`` value in the headers of any framework, whatever the case of the names.

    Args:
        headers: A mapping (a plain dict, multidict, Django's, Starlette's; Lambda's with lists as values) or the list
            of pairs of ASGI.

    Returns:
        The value, for `WebhookVerifier.verify`; None if there is none.

    Raises:
        InvalidTokenError: There are several that differ (`Reason.SEVERAL_TOKENS`).
    """
    values = values_of(pairs_of(headers), "authorization")
    if len(values) > 1:
        del headers, values  # a traceback with local variables must not show them
        raise InvalidTokenError(Reason.SEVERAL_TOKENS)
    return values.pop() if values else None


def pairs_of(headers: Headers) -> list[tuple[str, str | bytes]]:
    """Return each header, by its name in lower case; a value that is a list counts as several."""
    items = cast("Mapping[str, str]", headers).items() if isinstance(headers, Mapping) else headers
    found: list[tuple[str, str | bytes]] = []
    for name, value in items:
        lower = (name.decode("latin-1") if isinstance(name, bytes) else name).lower()
        found.extend((lower, one) for one in ([value] if isinstance(value, str | bytes) else value))
    return found


def values_of(pairs: Sequence[tuple[str, str | bytes]], name: str) -> set[str | bytes]:
    return {value for found, value in pairs if found == name.lower()}
