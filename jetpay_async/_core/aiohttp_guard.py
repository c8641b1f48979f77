"""Bind a guard to the aiohttp request that it is for.

aiohttp hands ``data`` on untouched, whichever task or context makes the request and however often it is made; so the
guard travels in the payload, and nothing is looked up in ambient context.

- `GuardedRequest`, on the client's own session, takes the guard from its payload and asks it at the moment of sending.
  A request that has none is not sent.
- `GuardedBody`, on any session, asks its guard when aiohttp has the payload write itself.
- `InnermostMiddleware`, on a given session, notes that a read passes, and makes sure that a write is still the guarded
  one after all that may have changed it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import ClientRequest, __version__, hdrs
from aiohttp.payload import Payload
from multidict import CIMultiDict

from jetpay_async._core.send_guard import UNASKED, ReadGuard, SendGuard

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from aiohttp import ClientHandlerType, ClientResponse
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.connector import Connection

    from jetpay_async._core.http import RawResponse

FRESH: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache"}
"""Headers of a read: what a cache remembers proves nothing. ``Pragma`` is for caches that know HTTP/1.0 only."""


class Credential:
    """The API token, and the headers that carry it.

    Not a mapping, and with the ``repr`` of any object: it lies in the local variables and attributes that error
    reporters collect.

    Args:
        token: The API token, checked.
        common: The headers that every request of the client has.
        late: Leave ``Authorization`` out of `headers`, since it is set when aiohttp has made the request: with
            ``trust_env``, aiohttp looks for a password in ``.netrc``, and refuses to have both.
    """

    __slots__ = ("_common", "_headers", "_token", "authorization", "late")

    def __init__(self, token: str, common: Mapping[str, str], *, late: bool = False) -> None:
        self._token = token
        self._common = common
        self._headers: dict[bool, dict[str, str]] = {}
        self.authorization = f"Bearer {token}"
        self.late = late

    def headers(self, *, read: bool) -> Mapping[str, str]:
        """Return the headers of a request on a session that does not have them as its defaults."""
        if (made := self._headers.get(read)) is None:
            made = {**self._common, **FRESH} if read else dict(self._common)
            if not self.late:
                made["Authorization"] = self.authorization
            self._headers[read] = made
        return made

    def remove_from(self, response: RawResponse) -> None:
        """Take the token out of a response that is an error: some servers repeat what they reject."""
        token = self._token
        response.headers = CIMultiDict((name, value.replace(token, "***")) for name, value in response.headers.items())
        response.body = response.body.replace(token.encode(), b"***")


class GuardedBody(Payload):
    """A request's body that asks its guard before it is written.

    Args:
        content: What to send.
        guard: Of the request.
        credential: Of the request; `GuardedRequest` takes it from here.
    """

    def __init__(self, content: bytes, guard: SendGuard | ReadGuard, credential: Credential) -> None:
        # Not the base class's, which makes new headers for each payload: ours are always the same.
        self._content = content
        self.guard = guard
        self.credential = credential

    @property
    def size(self) -> int:
        """Bytes, for ``Content-Length``."""
        return len(self._content)

    @property
    def headers(self) -> CIMultiDict[str]:
        """What it adds to the request's headers."""
        return _JSON_HEADERS if self._content else _EMPTY_HEADERS

    @property
    def autoclose(self) -> bool:
        """Whether there is nothing to close."""
        return True

    @property
    def consumed(self) -> bool:
        """Whether it can't be sent again; aiohttp asks before it resends a request by itself. A read can."""
        return isinstance(self.guard, SendGuard) and self.guard.started

    def __deepcopy__(self, memo: dict[int, Any]) -> GuardedBody:
        # Whoever records what is asked of a session copies it, aioresponses for one; there is one guard to a request.
        return self

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return self._content.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send it, if it may leave."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002 - always all
        """Send it, if it may leave."""
        transport = writer.transport
        if transport is not None and holds_unasked(transport.get_protocol()):
            raise self.guard.refuse(UNASKED)
        self.guard.begin(transport)
        await writer.write(self._content)

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


class NoBody(GuardedBody):
    """Stands for the body of a `GuardedRequest` that has none.

    aiohttp takes it for empty: it sends the headers by themselves, on Python 3.11 without a task to write the body, and
    `GuardedRequest` asks the guard.

    Args:
        guard: Of the request.
        credential: Of the request.
    """

    def __init__(self, guard: SendGuard | ReadGuard, credential: Credential) -> None:
        self._content = b""
        self.guard = guard
        self.credential = credential

    def __bool__(self) -> bool:
        return False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write nothing: aiohttp asks for it where the connection is busy, after `GuardedRequest` asked the guard."""


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


class GuardedRequest(ClientRequest):
    """A request that leaves with its guard's consent, or not at all."""

    _guarded: GuardedBody | None = None

    def update_headers(self, headers: Any) -> None:
        """Take the headers of the client's own session, which names no host, all at once: aiohttp adds one by one."""
        if isinstance(headers, CIMultiDict):
            self.headers: CIMultiDict[str] = CIMultiDict({hdrs.HOST: self.url.host_port_subcomponent or ""})
            self.headers.extend(cast("CIMultiDict[str]", headers))
        else:
            super().update_headers(headers)

    def update_auto_headers(self, skip_auto_headers: Any) -> None:
        """Add nothing where the session's headers have all that aiohttp adds, which it looks up one by one."""
        headers = self.headers
        if skip_auto_headers or not (
            hdrs.ACCEPT in headers and hdrs.ACCEPT_ENCODING in headers and hdrs.USER_AGENT in headers
        ):
            super().update_auto_headers(skip_auto_headers)

    def update_body_from_data(self, body: Any, *options: Any, **named: Any) -> None:
        """Take the guard from the ``data`` that the request is made with."""
        # By its type: that of a payload is abstract, and isinstance() asks such a one at length.
        if type(body) is NoBody and self.method == hdrs.METH_POST:
            # As if there were no data, which is quicker. Not for other methods, which aiohttp may send again with the
            # body that the first request had; so it asks that body whether it can be sent again.
            self.headers[hdrs.CONTENT_LENGTH] = "0"
            self._guarded = body
        else:
            super().update_body_from_data(body, *options, **named)
            self._guarded = body if isinstance(body, GuardedBody) else None

    # No coroutine of its own: it would cost more than the guard.
    def send(self, conn: Connection) -> Coroutine[Any, Any, ClientResponse]:  # pyright: ignore[reportIncompatibleMethodOverride] # aiohttp awaits it
        """Send it, if it may leave."""
        body = self._guarded
        if body is None:
            raise TypeError("a request without a guard is not sent")
        guard = body.guard
        if holds_unasked(conn.protocol):
            raise guard.refuse(UNASKED)
        guard.direct = self.proxy is None
        headers = self.headers
        # Set this late, it is in no local variable of aiohttp, and it replaces what aiohttp found in .netrc.
        headers[hdrs.AUTHORIZATION] = body.credential.authorization
        if type(body) is NoBody:
            if self.method in self.GET_METHODS:
                headers.popall(hdrs.CONTENT_LENGTH, None)
                headers.popall(hdrs.CONTENT_TYPE, None)
            guard.begin(conn.transport)
        return ClientRequest.send(self, conn)


def holds_unasked(protocol: object) -> bool:
    """Whether a connection has brought bytes that no request of it asked for, or has failed.

    aiohttp takes it from its pool all the same, and those bytes for the answer to the next request.
    """
    return bool(getattr(protocol, "should_close", False))


class InnermostMiddleware:
    """Sees a request of a given session after all that may change, answer or repeat it.

    Args:
        guard: Of the request.
        body: What a write must still have as its body; None for a read, which has none.
        credential: Of the request.
        direct: Whether the session connects by itself, but for a proxy that the request names.
    """

    __slots__ = ("_body", "_credential", "_direct", "_guard")

    def __init__(
        self, guard: SendGuard | ReadGuard, body: GuardedBody | None, credential: Credential, *, direct: bool
    ) -> None:
        self._guard = guard
        self._body = body
        self._credential = credential
        self._direct = direct

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Hand the request on to aiohttp."""
        guard = self._guard
        if self._credential.late:
            request.headers[hdrs.AUTHORIZATION] = self._credential.authorization
        guard.direct = self._direct and request.proxy is None
        if isinstance(guard, ReadGuard):
            guard.begin(None)
            # It has no body, which could ask the guard.
            request.send = partial(_send_read, guard, request.send)  # type: ignore[method-assign]
        elif request.body is not self._body:
            raise guard.refuse("the session, or a middleware of it, replaced the request's body")
        elif hdrs.EXPECT in request.headers:
            # The head would leave before the guard is asked, and of a capture it is all there is.
            raise guard.refuse("the session, or a middleware of it, sets Expect: 100-continue; take that out")
        else:
            guard.share_connection(partial(_holds_connection, request))
        response = await handler(request)
        if isinstance(guard, SendGuard) and not guard.started:
            raise guard.disown_response()
        return response


def _send_read(
    guard: ReadGuard, send: Callable[[Connection], Coroutine[Any, Any, ClientResponse]], conn: Connection
) -> Coroutine[Any, Any, ClientResponse]:
    if holds_unasked(conn.protocol):
        raise guard.refuse(UNASKED)
    return send(conn)


def _holds_connection(request: ClientRequest) -> bool:
    """Whether the request's connection is not back in the pool, where another request may have taken it."""
    response = request.response
    return response is None or response.connection is not None
