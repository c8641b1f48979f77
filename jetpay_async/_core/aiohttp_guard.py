"""Bring a guard to where aiohttp sends. There are two ways, both by what aiohttp documents.

- `GuardedBody`, on any session: aiohttp has a payload write itself;
- `GuardedRequest`, on the client's own session and for a request without a body: aiohttp sends it without a payload's
  headers, and on Python 3.11 without a task.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientRequest, __version__
from aiohttp.payload import Payload
from multidict import CIMultiDict

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from aiohttp import ClientResponse
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import Connection

    from jetpay_async._core.send_guard import SendGuard


class GuardedBody(Payload):
    """A request's body that its guard lets out.

    Args:
        body: What to send.
        guard: Its guard.
    """

    def __init__(self, body: bytes, guard: SendGuard) -> None:
        # Not the base class's, which makes new headers for each payload: ours are always the same.
        self._body = body
        self._guard = guard

    @property
    def size(self) -> int:
        """Bytes, for ``Content-Length``."""
        return len(self._body)

    @property
    def headers(self) -> CIMultiDict[str]:
        """What it adds to the request's headers."""
        return _JSON_HEADERS if self._body else _EMPTY_HEADERS

    @property
    def autoclose(self) -> bool:
        """Whether there is nothing to close."""
        return True

    @property
    def consumed(self) -> bool:
        """Whether it can't be sent again; aiohttp asks before it resends a request by itself."""
        return self._guard.started

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send it, if it may leave."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002 - always all
        """Send it, if it may leave."""
        self._guard.begin(writer.transport)
        await writer.write(self._body)


_JSON_HEADERS: Final = CIMultiDict({"Content-Type": "application/json"})
# aiohttp wants a content type of each payload; this is the one it gives to a POST without a body.
_EMPTY_HEADERS: Final = CIMultiDict({"Content-Type": "application/octet-stream"})


_KNOWN = (3, 14)


def is_known(release: str) -> bool:
    """Whether this aiohttp was seen to send requests as `GuardedRequest` expects.

    A later one may do it in another way, and a guard that nobody asks would take a request that left for one that
    didn't.
    """
    major, minor = release.split(".")[:2]
    return (int(major), int(minor)) <= _KNOWN


REQUESTS_CAN_BE_GUARDED: Final = is_known(__version__)

present: ContextVar[SendGuard | None] = ContextVar("jetpay_async guard", default=None)
"""Of the request that this task is making, or has made last, through a session of `GuardedRequest`."""


class GuardedRequest(ClientRequest):
    """A request without a body that its guard, the one that is `present`, lets out."""

    # No coroutine of its own: it would cost more than the guard.
    def send(self, conn: Connection) -> Coroutine[Any, Any, ClientResponse]:  # pyright: ignore[reportIncompatibleMethodOverride] # aiohttp awaits it
        """Send it, if it may leave."""
        if (guard := present.get()) is not None:
            guard.begin(conn.transport)
        return super().send(conn)
