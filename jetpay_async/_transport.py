"""The one network line: a request in, a plain reply out, and whether it began to leave.

aiohttp's exceptions do not tell whether a request began to leave: a deadline looks the same while it is queued for a
connection and after it was sent. `GuardedBody` tells, on any session: aiohttp calls its ``write_with_length`` at the
last moment at which nothing has left. There, and only there, is decided whether the request leaves at all.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.payload import Payload
from multidict import CIMultiDict
from yarl import URL

from jetpay_async._hosts import check_token
from jetpay_async._replies import Unanswered
from jetpay_async._version import __version__
from jetpay_async._wire import Reply
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from aiohttp.abc import AbstractStreamWriter

    from jetpay_async._clock import Clock

REPLY_LIMIT = 1_048_576
"""Bytes of a reply that are read; the API's are some hundred."""

# Uvicorn, which serves FastAPI applications as a rule, closes a connection after 5 idle seconds. A write on a
# connection that the server is just closing has an unknown outcome; so ours are given up a little earlier.
_KEEPALIVE = 4.0

Fence = Callable[[], str | None]
"""Says why nothing may leave any more, or None if it may."""

_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)


class GuardedBody(Payload):
    """A request's body that is written at most once, and not after its deadline.

    It is the single authority on whether the request began to leave: either `seal` comes first, and nothing can leave
    any more, or the write comes first. Both happen on the event loop, so there is no third case.

    Args:
        body: What to send.
        deadline: When it may not leave any more, on the monotonic clock.
        clock: That clock.
        patience: Seconds to wait for the whole reply, from when it leaves; the connection is aborted then, and at the
            deadline.
        fence: Asked at the last moment; what it returns is why nothing may leave any more, None if it may.
    """

    def __init__(
        self,
        body: bytes,
        *,
        deadline: float,
        clock: Clock,
        patience: float = math.inf,
        fence: Fence | None = None,
    ) -> None:
        # Not the base class's, which makes new headers for each payload: ours are always the same.
        self._body = body
        self._deadline = deadline
        self._monotonic = clock.monotonic
        self._patience = patience
        self._fence = fence
        self._alarm: asyncio.TimerHandle | None = None
        self._sealed = False
        self.started_at: float | None = None
        """When it began to leave, on the monotonic clock."""
        self.refusal: str | None = None
        """Why it was not sent, not sent again, or given up."""

    @property
    def started(self) -> bool:
        """Whether it began to leave."""
        return self.started_at is not None

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
        return self.started_at is not None

    def seal(self) -> bool:
        """End it: nothing leaves from now on, and no alarm goes off. Return whether it had begun to leave."""
        self._sealed = True
        if self._alarm is not None:
            self._alarm.cancel()
        return self.started_at is not None

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the body as text."""
        return self._body.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send it, if it may leave."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002 - always all
        """Send it, if it may leave."""
        now = self._monotonic()
        if self.started_at is not None:
            raise self._refuse("it was to be sent a second time")
        if self._sealed:
            raise self._refuse("it was to be sent after it had been given up")
        if now >= self._deadline:
            raise self._refuse("the deadline had passed before anything left")
        if self._fence is not None and (reason := self._fence()) is not None:
            raise self._refuse(reason)
        self.started_at = now
        patience = min(self._patience, self._deadline - now)
        self._alarm = asyncio.get_running_loop().call_later(patience, self._give_up, writer, patience)
        await writer.write(self._body)

    def _give_up(self, writer: AbstractStreamWriter, patience: float) -> None:
        self.refusal = f"no whole reply within {patience:.3g} s"
        if writer.transport is not None:
            writer.transport.abort()

    def _refuse(self, reason: str) -> _StopError:
        self.refusal = reason
        return _StopError(reason)


class _StopError(Exception):
    """The guard refuses to send."""


_JSON_HEADERS: Final = CIMultiDict({"Content-Type": "application/json"})
# aiohttp wants a content type of each payload; this is the one it gives to a POST without a body.
_EMPTY_HEADERS: Final = CIMultiDict({"Content-Type": "application/octet-stream"})


class Transport:
    """A session of aiohttp, our own or the caller's, bound to one API, one event loop and one process."""

    def __init__(
        self,
        api_token: str | Callable[[], Awaitable[str]],
        *,
        base_url: str,
        session: aiohttp.ClientSession | None,
        max_connections: int,
        user_agent_suffix: str | None,
        trust_env: bool,
        settle_after: float,
        clock: Clock,
    ) -> None:
        if session is not None and not isinstance(session, aiohttp.ClientSession):
            raise ConfigurationError(
                f"session: is an aiohttp.ClientSession, not {type(session).__name__}; a wrapper may send a write twice"
            )
        if type(max_connections) is not int or max_connections < 1:
            raise ConfigurationError(f"max_connections={max_connections!r} must be an int of at least 1")
        if user_agent_suffix is not None and not _AGENT.fullmatch(user_agent_suffix):
            raise ConfigurationError("user_agent_suffix: must be printable ASCII, for example 'rentals/2.1'")
        url = URL(base_url)
        self._origin = url.origin()
        self._prefix = url.raw_path.rstrip("/")
        self.base_url = base_url
        self._given = session is not None
        self._session = session
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._make_socket = _socket_factory(settle_after)
        self._clock = clock
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        agent = f"jetpay-async/{__version__}"
        self._common = {
            "Accept": "application/json",
            "User-Agent": f"{agent} {user_agent_suffix}" if user_agent_suffix else agent,
        }
        # Our own session has the headers as its defaults, which is quickest; a given one must not get the token.
        self._own_headers = _Headers()
        self._headers: _Headers | None = None
        self._provide: Callable[[], Awaitable[str]] | None = None
        if callable(api_token):
            self._provide = api_token
        else:
            headers = _Headers(self._common, Authorization=f"Bearer {check_token(api_token, base_url)}")
            if session is None:
                self._own_headers = headers
            else:
                self._headers = headers

    @property
    def closed(self) -> bool:
        """Whether it can't be used any more."""
        return self._closed or (self._session is not None and self._session.closed)

    async def exchange(self, method: str, path: str, body: GuardedBody | None, *, within: float) -> Reply:
        """Send one request and read its reply to the end.

        Args:
            method: The HTTP method.
            path: The percent-encoded path below the base URL.
            body: What to send; None for a request that may be repeated.
            within: Seconds for all of it.

        Raises:
            Unanswered: There is no whole reply; ``started`` says whether the request began to leave.
            ConfigurationError: The client can't be used here.
        """
        session = self._usable_session()
        headers = self._headers
        if self._provide is not None:
            asked = self._clock.monotonic()
            headers = await self._ask_for_token(self._provide, within)
            within -= self._clock.monotonic() - asked
        if within <= 0:  # to aiohttp that would mean no limit
            raise Unanswered("the deadline had passed before anything left", started=False)
        failure: Unanswered
        try:
            response = await session.request(
                method,
                self._origin.with_path(self._prefix + path, encoded=True),
                data=body,
                headers=headers,
                # Once it leaves, the guard watches the time. That is quicker than aiohttp's timer for the whole, which
                # is needed where something else can take time: a middleware or a trace hook of a given session.
                timeout=_total(within) if body is None or self._given else _until_sent(within),
                allow_redirects=False,
                raise_for_status=False,
            )
            reply = Reply(response.status, response.headers, await _read(response))
            if body is not None:
                body.seal()
            return reply if reply.status == 200 else _without_token(reply, headers or self._own_headers)
        except asyncio.CancelledError as cancel:
            # The frames of aiohttp hold the headers, and with them the token.
            raise cancel.with_traceback(None) from None
        except Exception as error:  # noqa: BLE001 - whatever happened, the guard knows whether it began to leave
            started = body.seal() if body is not None else not isinstance(error, _NEVER_SENT)
            reason = body.refusal if body is not None and body.refusal else _describe(error)
            failure = Unanswered(reason, started=started)
        # Raised out here so that the foreign exception, whose attributes and frames hold the headers, is let go.
        raise failure

    async def aclose(self) -> None:
        """Close our own session; a given one is left as it is."""
        if self._closed:
            return
        session = None if self._given else self._session
        if session is not None and self._pid != os.getpid():  # pragma: no cover - in a forked child, not measured
            # The sockets are the parent's too: closing them here would end its TLS connections.
            _inherited.append(session)
            session = None
        if session is not None and self._loop is not asyncio.get_running_loop():
            raise ConfigurationError("the client belongs to another event loop; close it there, where it was used")
        self._closed = True
        if session is not None:
            await session.close()

    def _usable_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ConfigurationError("the client is closed; make a new one")
        loop = asyncio.get_running_loop()
        pid = os.getpid()
        if self._loop is None:
            self._loop = loop
            self._pid = pid
        if self._pid != pid:  # pragma: no cover - in a forked child, not measured
            raise ConfigurationError("the client was used before this process was forked; make one in each process")
        if self._loop is not loop:
            raise ConfigurationError("the client belongs to another event loop; make one for each loop")
        if self._session is None:
            self._session = self._open_session()
        elif self._session.closed:
            raise ConfigurationError("the session given to the client is closed")
        return self._session

    def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._max_connections,
                keepalive_timeout=_KEEPALIVE,
                socket_factory=self._make_socket,
            ),
            headers=self._own_headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._trust_env,
        )

    async def _ask_for_token(self, provide: Callable[[], Awaitable[str]], within: float) -> _Headers:
        try:
            async with asyncio.timeout(within):
                return _Headers(self._common, Authorization=f"Bearer {check_token(await provide(), self.base_url)}")
        except ConfigurationError:
            raise
        except Exception as error:
            raise Unanswered(f"api_token() raised {type(error).__name__}", started=False) from error


_inherited: list[aiohttp.ClientSession] = []
"""Sessions of the parent process, kept from the garbage collector, which would close them."""


class _Headers(dict[str, str]):
    """Headers that do not show the token where locals are printed."""

    def __repr__(self) -> str:
        return f"<{len(self)} headers>"


def _without_token(reply: Reply, sent: Mapping[str, str]) -> Reply:
    """Take the token out of a reply that ends in an error: some servers repeat what they refuse."""
    token = sent["Authorization"].removeprefix("Bearer ")
    headers = CIMultiDict((name, value.replace(token, "***")) for name, value in reply.headers.items())
    return Reply(reply.status, headers, reply.body.replace(token.encode(), b"***"))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    length = response.content_length
    if length is not None and length <= REPLY_LIMIT and "Content-Encoding" not in response.headers:
        return await response.read()
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > REPLY_LIMIT:
                raise aiohttp.ClientPayloadError(f"the reply is larger than {REPLY_LIMIT} bytes")
    finally:
        response.close()
    return bytes(body)


# aiohttp rounds longer timeouts up to whole seconds; a deadline is a deadline.
_NEVER_ROUND = math.inf


@lru_cache(maxsize=16)
def _total(within: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=within, ceil_threshold=_NEVER_ROUND)


@lru_cache(maxsize=16)
def _until_sent(within: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=within, ceil_threshold=_NEVER_ROUND)


def _socket_factory(settle_after: float) -> Callable[[tuple[Any, ...]], socket.socket] | None:
    """Make sockets whose kernel stops resending a request once it counts as no longer on its way."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:  # pragma: no cover - Linux has it
        return None
    milliseconds = round(max(1.0, settle_after) * 1000)

    def make(address: tuple[Any, ...]) -> socket.socket:
        made = socket.socket(*address[:3])
        made.setsockopt(socket.IPPROTO_TCP, option, milliseconds)
        return made

    return make


_SAFE_TO_SHOW = (aiohttp.ClientConnectorError, aiohttp.ClientPayloadError, aiohttp.ConnectionTimeoutError)
_AGENT = re.compile(r"[ -~]{1,200}")
_USERINFO = re.compile(r"//[^/@\s]*@")


def _describe(error: Exception) -> str:
    """Say what happened; of foreign texts, only those that can't hold a header or a proxy's password."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        text = f"{error.status} {error.message}"
    elif isinstance(error, _SAFE_TO_SHOW):
        text = str(error)
    elif isinstance(error, TimeoutError):
        text = "no answer in time"
    elif isinstance(error, OSError):
        text = error.strerror or "connection lost"
    elif isinstance(error, aiohttp.ClientError):
        text = "connection lost"
    else:
        text = "raised below the client, by its session, a middleware or a trace hook"
    return f"{name}: {_USERINFO.sub('//***@', text)[:300]}"
