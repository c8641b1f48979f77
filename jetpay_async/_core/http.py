"""What comes over the network, before anybody has said what it means. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum

import attrs


class ResolveBound(Enum):
    """Which time must pass after an unanswered request before a status that says "not done" is proof."""

    DIRECT = "direct"
    """`RetryPolicy.resolve_after`: no proxy is in between, and the other side lost the connection or answered, as the
    API, that it failed."""
    TIMEOUT = "timeout"
    """`RetryPolicy.resolve_after_timeout`: everything else; the request may still be on its way, or be worked on."""


@attrs.define
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
    """Seconds that the response spent in caches, from its ``Age`` header: what it says was true so long before."""


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


_SECONDS = re.compile(r"[0-9]{1,9}")


def read_retry_after(value: str | None, now: float) -> float | None:
    """Read ``Retry-After``: whole seconds or an HTTP date (RFC 9110, 10.2.3); None if it is neither."""
    if value is None:
        return None
    text = value.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # The oldest of the three forms of an HTTP date names no zone: it means UTC, not the zone of this machine.
        aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        return max(0.0, aware.timestamp() - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
