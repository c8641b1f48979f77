"""What comes over the network, before anybody has said what it means. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from jetpay_async._core.send_guard import SendGuard


class ResolveBound(Enum):
    """Which time must pass after an unanswered request before a status that says "not done" is proof."""

    DIRECT = "direct"
    """`RetryPolicy.resolve_after`: no proxy is in between, and the other side lost the connection or answered, as the
    API, that it failed."""
    TIMEOUT = "timeout"
    """`RetryPolicy.resolve_after_timeout`: everything else; the request may still be on its way, or be worked on."""


@attrs.define(eq=False)
class RawResponse:
    """A response, read to its end."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes = attrs.field(repr=False)
    left_at: float | None = None
    """When its request began to leave this process, on the client's monotonic clock; the first time, if aiohttp sent
    it twice. None if it never did: something in this process, such as a cache, answered."""
    age: float = 0.0
    """Seconds that the response to a read spent in caches, from ``Age``: what it says may be so much older."""
    direct: bool = False
    """Whether its request left on a connection of our own to the API, with no proxy known to be in between."""


class HttpTransport(Protocol):
    """What the executor sends requests by. The client's is `transport.Transport`; a simulation has another."""

    @property
    def token_changes(self) -> bool:
        """Whether the token is asked for before each request, so that the next one may have another."""
        ...

    def exchange(
        self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
    ) -> Awaitable[RawResponse]:
        """Send one request and read its response to the end.

        Args:
            method: The HTTP method.
            path: The percent-encoded path below the base URL.
            body: JSON to send, or nothing.
            guard: Of a write: ``guard.begin()`` is called right before the first byte leaves, and what it raises keeps
                the request from leaving; ``guard.response_timeout`` bounds the time from then on. None for a read,
                which may be repeated.
            within: Seconds for all of it.

        Raises:
            Unanswered: There is no whole response; ``started`` says whether the request began to leave, and ``bound``
                which time must pass before a status can prove that it did nothing.
            ConfigurationError: The client can't be used here.
        """
        ...


_REQUEST_ID_HEADERS = (
    "X-Request-ID",
    "Request-ID",
    "X-Correlation-ID",
    "X-Amzn-RequestId",
    "X-Amzn-Trace-Id",
    "X-Cloud-Trace-Context",
    "CF-Ray",
    "traceparent",
)
_REQUEST_ID_LIMIT = 200


def find_request_id(headers: Mapping[str, str]) -> str | None:
    """Find the service's id of this request; which header carries it is not documented."""
    for name in _REQUEST_ID_HEADERS:
        # What can't be printed is no id that anybody could ask about, and it would end up in the logs.
        if (value := headers.get(name)) and value.isascii() and value.isprintable():
            return value[:_REQUEST_ID_LIMIT]
    return None


_NUMBER_OF_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")


def read_retry_after(value: str | None, now: float) -> float | None:
    """Read ``Retry-After``: seconds or an HTTP date (RFC 9110, 10.2.3); None if it is neither.

    The RFC has whole seconds; some servers write a fraction, and mean it.
    """
    if value is None:
        return None
    text = value.strip()
    if _NUMBER_OF_SECONDS.fullmatch(text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # The oldest of the three forms of an HTTP date names no zone: it means UTC, not the zone of this machine.
        aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        return max(0.0, aware.timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def read_age(value: str | None) -> float:
    """Read ``Age`` (RFC 9111, 5.1): seconds; infinite if there is a value that can't be read, for who knows how old."""
    if value is None:
        return 0.0
    text = value.strip()
    return float(text) if _NUMBER_OF_SECONDS.fullmatch(text) else math.inf
