"""The one network line: a request in, a plain reply out, and whether it began to leave."""

from __future__ import annotations

import asyncio
import math
import re
import socket
from functools import lru_cache
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp.hdrs import CONTENT_ENCODING, CONTENT_LENGTH
from multidict import CIMultiDict
from yarl import URL

from jetpay_async._core.aiohttp_guard import REQUESTS_CAN_BE_GUARDED, GuardedBody, GuardedRequest, present
from jetpay_async._core.endpoints import check_token
from jetpay_async._core.fork import ForkGuard, keep_for_parent
from jetpay_async._core.http import RawResponse
from jetpay_async._core.responses import Unanswered
from jetpay_async._core.send_guard import ResponseTimer
from jetpay_async._version import __version__
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from jetpay_async._core.clock import Clock
    from jetpay_async._core.send_guard import SendGuard

REPLY_LIMIT = 1_048_576
"""Bytes of a reply that are read; the API's are some hundred."""

# Uvicorn, which serves FastAPI applications as a rule, closes a connection after 5 idle seconds. A write on a
# connection that the server is just closing has an unknown outcome; so ours are given up a little earlier.
_KEEPALIVE = 4.0

_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)


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
        resolve_after: float,
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
        self._guards_requests = session is None and REQUESTS_CAN_BE_GUARDED
        self._session = session
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._make_socket = _socket_factory(resolve_after)
        self._clock = clock
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fork_guard = ForkGuard()
        self.watch = ResponseTimer()
        """Gives up what takes too long."""
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

    async def exchange(
        self, method: str, path: str, body: bytes, guard: SendGuard | None, *, within: float
    ) -> RawResponse:
        """Send one request and read its reply to the end.

        Args:
            method: The HTTP method.
            path: The percent-encoded path below the base URL.
            body: JSON to send, or nothing.
            guard: What the request may leave by; None for one that may be repeated.
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
        data: GuardedBody | None = None
        if guard is not None and (body or not self._guards_requests):
            data = GuardedBody(body, guard)
        # Each request sets its own, so none is taken back: a guard that was left behind lets nothing out any more.
        present.set(guard if data is None else None)
        try:
            response = await session.request(
                method,
                self._origin.with_path(self._prefix + path, encoded=True),
                data=data,
                headers=headers,
                # Once it leaves, the guard watches the time. That is quicker than aiohttp's timer for the whole, which
                # is needed where something else can take time: a middleware or a trace hook of a given session.
                timeout=_total(within) if guard is None or self._given else _until_sent(within),
                allow_redirects=False,
                raise_for_status=False,
            )
            headers_received = response.headers
            length = headers_received.get(CONTENT_LENGTH)
            if length is None or int(length) > REPLY_LIMIT or CONTENT_ENCODING in headers_received:
                content = await _read_up_to_limit(response)
            else:
                content = await response.read()
            reply = RawResponse(response.status, headers_received, content)
            if guard is not None:
                guard.seal()
            return reply if reply.status == 200 else _without_token(reply, headers or self._own_headers)
        except asyncio.CancelledError as cancel:
            # The frames of aiohttp hold the headers, and with them the token.
            raise cancel.with_traceback(None) from None
        except Exception as error:  # noqa: BLE001 - whatever happened, the guard knows whether it began to leave
            started = guard.seal() if guard is not None else not isinstance(error, _NEVER_SENT)
            reason = guard.refusal if guard is not None and guard.refusal else _describe(error)
            failure = Unanswered(reason, started=started)
        # Raised out here so that the foreign exception, whose attributes and frames hold the headers, is let go.
        raise failure

    async def aclose(self) -> None:
        """Close our own session; a given one is left as it is."""
        if self._closed:
            return
        session = None if self._given else self._session
        if session is not None and self._fork_guard.forked:
            # The sockets are the parent's too: closing them here would end its TLS connections.
            keep_for_parent(session)
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
        if self._loop is None:
            self._loop = loop
            self._fork_guard = ForkGuard()
        if self._fork_guard.forked:
            raise ConfigurationError("the client was used before this process was forked; make one in each process")
        if self._loop is not loop:
            raise ConfigurationError("the client belongs to another event loop; make one for each loop")
        if self._session is None:
            self._session = self._open_session()
        elif self._given and self._session.closed:
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
            cookie_jar=_NoCookies(),
            request_class=GuardedRequest,
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


class _NoCookies(aiohttp.DummyCookieJar):
    """Has the same nothing for every request, where aiohttp's own makes one for each."""

    _NONE: Final = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> SimpleCookie:  # noqa: ARG002 - the same for all
        """Return no cookies."""
        return self._NONE


class _Headers(dict[str, str]):
    """Headers that do not show the token where locals are printed."""

    def __repr__(self) -> str:
        return f"<{len(self)} headers>"


def _without_token(reply: RawResponse, sent: Mapping[str, str]) -> RawResponse:
    """Take the token out of a reply that ends in an error: some servers repeat what they refuse."""
    token = sent["Authorization"].removeprefix("Bearer ")
    headers = CIMultiDict((name, value.replace(token, "***")) for name, value in reply.headers.items())
    return RawResponse(reply.status, headers, reply.body.replace(token.encode(), b"***"))


async def _read_up_to_limit(response: aiohttp.ClientResponse) -> bytes:
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


def _socket_factory(resolve_after: float) -> Callable[[tuple[Any, ...]], socket.socket] | None:
    """Make sockets whose kernel stops resending a request once it counts as no longer on its way."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:  # pragma: no cover - Linux has it
        return None
    milliseconds = round(max(1.0, resolve_after) * 1000)

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
