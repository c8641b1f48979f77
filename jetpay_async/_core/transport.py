"""The one network line: a request in, a plain response out, and whether it began to leave."""

from __future__ import annotations

import asyncio
import errno
import math
import re
import socket
import types
from functools import lru_cache, partial
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import aiohttp
from aiohttp.hdrs import ACCEPT_ENCODING, AGE, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, METH_POST
from aiohttp.http_exceptions import ContentLengthError
from yarl import URL

from jetpay_async._core.aiohttp_guard import (
    FRESH,
    REQUESTS_CAN_BE_GUARDED,
    Credential,
    GuardedBody,
    GuardedRequest,
    InnermostMiddleware,
    NoBody,
)
from jetpay_async._core.connection_reset import OwnConnections, SharedConnections, to_milliseconds
from jetpay_async._core.direct_request import DirectRequests
from jetpay_async._core.endpoints import check_token, is_loopback, is_vendor
from jetpay_async._core.fork import ForkGuard, keep_for_parent
from jetpay_async._core.http import RawResponse, ResolveBound, read_age
from jetpay_async._core.responses import Unanswered
from jetpay_async._core.secret import Secret
from jetpay_async._core.send_guard import ReadGuard, ResponseTimer, SendGuard, no_whole_response
from jetpay_async._version import __version__
from jetpay_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence

    from jetpay_async._core.clock import Clock

ClientSession: TypeAlias = aiohttp.ClientSession
"""What the client may be given, for its annotations."""

RESPONSE_LIMIT = 1_048_576
"""Bytes of a response that are read; the API's are some hundred."""

# Uvicorn, which serves FastAPI applications as a rule, closes a connection after 5 idle seconds. A write on a
# connection that the server is just closing has an unknown outcome; so ours are given up a little earlier.
KEEPALIVE_SECONDS = 4.0

_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)


class Transport:
    """A session of aiohttp, our own or the caller's, bound to one API, one event loop and one process.

    Args:
        api_token: The API token, or an async function that returns it, hidden from error reporters.
        base_url: Where the API is; checked.
        session: The caller's session, or None for one of our own.
        max_connections: Of our own session.
        user_agent_suffix: Appended to ``User-Agent``.
        trust_env: Whether our own session uses the proxies of the environment.
        unacknowledged_timeout: Seconds for which the kernel may try to deliver a write that the other side does not
            acknowledge.
        clock: Whose monotonic time is noted.

    Raises:
        ConfigurationError: An argument can't work.
    """

    def __init__(
        self,
        api_token: Secret[str | Callable[[], Awaitable[str]]],
        *,
        base_url: str,
        session: aiohttp.ClientSession | None,
        max_connections: int,
        user_agent_suffix: str | None,
        trust_env: bool,
        unacknowledged_timeout: float,
        clock: Clock,
    ) -> None:
        if session is not None:
            _check_session(session)
        if type(max_connections) is not int or max_connections < 1:
            raise ConfigurationError(f"max_connections={max_connections!r} must be an int of at least 1")
        if user_agent_suffix is not None and not _AGENT.fullmatch(user_agent_suffix):
            raise ConfigurationError("user_agent_suffix: must be printable ASCII, for example 'rentals/2.1'")
        url = URL(base_url)
        self._origin = url.origin()
        self._prefix = url.raw_path.rstrip("/")
        self._host_parts = _host_parts(self._origin)
        self.base_url = base_url
        self._given = session is not None
        self._guards_requests = session is None and REQUESTS_CAN_BE_GUARDED
        self._session = session
        self._direct: DirectRequests | None = None
        self._max_connections = max_connections
        self._trust_env = trust_env
        self._make_socket = _socket_factory(unacknowledged_timeout)
        self._clock = clock
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fork_guard = ForkGuard()
        self._timer: ResponseTimer | None = None
        # The sockets of our own session have the timeout from the start.
        self._reset: OwnConnections | SharedConnections | None = (
            SharedConnections(unacknowledged_timeout) if self._given else None
        )
        agent = f"jetpay-async/{__version__}"
        self._common = {
            "Accept": "application/json",
            "User-Agent": f"{agent} {user_agent_suffix}" if user_agent_suffix else agent,
        }
        self._late_credential = session.trust_env if session is not None else trust_env
        self._token: Credential | Callable[[], Awaitable[str]] = self._credential_or_function(api_token)
        # What our own session can have between a request and its connection is a proxy of the environment.
        self._plain = not trust_env if session is None else _is_plain(session)
        # Other connectors may connect to a proxy or to a socket of this machine, and a subclass may do anything.
        self._connects_directly = session is None or (
            type(session) is aiohttp.ClientSession and type(session.connector) is aiohttp.TCPConnector
        )
        # Any other host that was trusted may be a gateway, which loses a request while the service works on it.
        self._reaches_api_itself = is_vendor(url.host or "") or is_loopback(url.host or "")

    @property
    def closed(self) -> bool:
        """Whether it can't be used any more."""
        return self._closed or (self._session is not None and self._session.closed)

    @property
    def token_changes(self) -> bool:
        """Whether the token is asked for before each request, so that the next one may have another."""
        return not isinstance(self._token, Credential)

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes,
        guard: SendGuard | None,
        *,
        within: float,
        credential: Credential | None = None,
    ) -> Awaitable[RawResponse]:
        """Send one request and read its response to the end; see `HttpTransport.exchange`."""
        session = self._usable_session()
        if credential is None:
            token = self._token
            if not isinstance(token, Credential):
                return self._ask_and_exchange(token, method, path, body, guard, within)
            credential = token
        if within <= 0:  # to aiohttp that would mean no limit
            raise Unanswered("the deadline had passed before anything left", started=False)
        noted: SendGuard | ReadGuard
        if guard is None:
            noted = ReadGuard(self._clock)
        else:
            noted = guard
            guard.attach(self._timer, self._reset)
        return self._carry_out(self._converse(session, noted, credential, method, path, body, within), noted, within)

    async def _ask_and_exchange(  # noqa: PLR0917 - as `exchange`
        self,
        provide: Callable[[], Awaitable[str]],
        method: str,
        path: str,
        body: bytes,
        guard: SendGuard | None,
        within: float,
    ) -> RawResponse:
        """Ask for the token, then do the same."""
        asked = self._clock.monotonic()
        credential = await self._ask_for_token(provide, within)
        within -= self._clock.monotonic() - asked
        return await self.exchange(method, path, body, guard, within=within, credential=credential)

    @types.coroutine
    def _carry_out(
        self, conversation: Coroutine[Any, Any, RawResponse], guard: SendGuard | ReadGuard, within: float
    ) -> Generator[Any, Any, RawResponse]:
        """Run the conversation, and abort a write's connection before aiohttp learns what interrupts it.

        At a cancellation, a timeout or an error, aiohttp would close the connection properly: over TLS that takes a
        farewell, which the other side may take for the end of a request that it should carry out.

        Raises:
            Unanswered: There is no whole response.
        """
        failure: Unanswered
        try:
            awaited = conversation.send(None)
            while True:
                try:
                    yield awaited
                except BaseException as error:  # noqa: BLE001 - all of it is handed on
                    if isinstance(guard, SendGuard):
                        guard.abort()
                    awaited = conversation.throw(error)
                else:
                    awaited = conversation.send(None)
        except StopIteration as end:
            result: RawResponse = end.value
            return result
        except Exception as error:  # noqa: BLE001 - whatever happened, the guard knows whether it began to leave
            failure = self._unanswered(error, guard, within)
        except BaseException as interruption:  # noqa: BLE001 - raised on
            if isinstance(guard, SendGuard):
                guard.seal()
            if not _is_cancelled_below(interruption):
                # The frames of aiohttp hold the headers, and with them the token.
                raise interruption.with_traceback(None) from None
            failure = self._unanswered(interruption, guard, within)
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
        if session is not None and self._loop is not _running_loop():
            raise ConfigurationError("the client belongs to another event loop; close it there, where it was used")
        self._closed = True
        if session is not None and isinstance(self._reset, OwnConnections):
            self._reset.sweep()
        if session is not None:
            await session.close()

    async def _converse(  # noqa: PLR0917 - names cost time, and each request comes this way
        self,
        session: aiohttp.ClientSession,
        guard: SendGuard | ReadGuard,
        credential: Credential,
        method: str,
        path: str,
        body: bytes,
        within: float,
    ) -> RawResponse:
        """Send the request, and read the response to its end."""
        read = isinstance(guard, ReadGuard)
        url = self._origin.with_path(self._prefix + path, encoded=True)
        # Once a write leaves, the guard watches the time. That is quicker than aiohttp's timer for the whole, which is
        # needed where something else can take time: a middleware or a trace hook of a given session.
        timeout = _total(within) if read or self._given else _until_sent(within)
        if self._guards_requests:
            response = await self._request_on_own(session, guard, credential, method, url, body, timeout)
        else:
            response = await self._request_on_shared(session, guard, credential, method, url, body, timeout)
        guard.status = response.status
        # aiohttp gives the connection back when the last byte comes, a moment before this task runs.
        released = response.connection is None
        if isinstance(guard, SendGuard):
            if released:
                guard.give_back()
            else:
                guard.share_connection(partial(_is_connected, response))
        headers = response.headers
        length = headers.get(CONTENT_LENGTH)
        if length is None or int(length) > RESPONSE_LIMIT or CONTENT_ENCODING in headers:
            content = await _read_up_to_limit(response)
        elif released and self._guards_requests and response.content.is_eof():
            # As a rule all of it came together, and there is nothing to wait for.
            content = response.content.read_nowait()
        else:
            content = await response.read()
        result = RawResponse(
            response.status, headers, content, guard.started_at, direct=guard.direct and self._reaches_api_itself
        )
        if isinstance(guard, SendGuard):
            guard.complete()
        else:
            result.age = read_age(headers.get(AGE))
        if result.status != 200:
            credential.remove_from(result)
        return result

    # No coroutine of its own: each of them is passed for every step of the request.
    def _request_on_own(  # noqa: PLR0917 - as `_converse`
        self,
        session: aiohttp.ClientSession,
        guard: SendGuard | ReadGuard,
        credential: Credential,
        method: str,
        url: URL,
        body: bytes,
        limits: aiohttp.ClientTimeout,
    ) -> Awaitable[aiohttp.ClientResponse]:
        """Make the request on a session whose requests are guarded by themselves."""
        if self._host_parts:
            url._cache.update(self._host_parts)  # type: ignore[typeddict-item] # noqa: SLF001 - see `_host_parts`
        data = GuardedBody(body, guard, credential) if body else NoBody(guard, credential)
        read = isinstance(guard, ReadGuard)
        direct = self._direct
        # What aiohttp sends again by itself where a connection was closed, it may: a read can leave twice.
        if method == METH_POST and not read and direct is not None and direct.usable:
            return direct.post(url, data, limits)
        return session.request(
            method, url, data=data, headers=FRESH if read else None, timeout=limits, allow_redirects=False
        )

    async def _request_on_shared(  # noqa: PLR0917 - as `_converse`
        self,
        session: aiohttp.ClientSession,
        guard: SendGuard | ReadGuard,
        credential: Credential,
        method: str,
        url: URL,
        body: bytes,
        limits: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        """Make the request on a session whose requests are not guarded by themselves."""
        read = isinstance(guard, ReadGuard)
        middlewares: Sequence[aiohttp.ClientMiddlewareType] | None = None  # the session's own
        data = None if read else GuardedBody(body, guard, credential)
        if read or session.trace_configs or not self._plain or EXPECT in session.headers:
            innermost = InnermostMiddleware(guard, data, credential, direct=self._connects_directly)
            middlewares = (*_middlewares(session), innermost)
        guard.direct = self._connects_directly
        response = await session.request(
            method,
            url,
            data=data,
            headers=credential.headers(read=read),
            timeout=limits,
            allow_redirects=False,
            raise_for_status=False,
            middlewares=middlewares,
        )
        if middlewares is None and isinstance(guard, SendGuard) and not guard.started and _came_on_connection(response):
            response.close()
            raise guard.disown_response()
        return response

    def _unanswered(self, error: BaseException, guard: SendGuard | ReadGuard, within: float) -> Unanswered:
        """Say what is known of a request that got no whole response."""
        if isinstance(guard, ReadGuard):
            started = guard.started and not isinstance(error, _NEVER_SENT)
            stalled = started and isinstance(error, TimeoutError)
            reason = guard.refusal or (no_whole_response(within) if stalled else _describe(error))
            return Unanswered(reason, started=started)
        # What we end ourselves, we may end while the request is still on its way.
        direct = guard.direct and self._reaches_api_itself
        lost = direct and guard.refusal is None and not self.closed and _is_lost(error, guard.status)
        return Unanswered(
            guard.refusal or _describe(error),
            started=guard.seal(),
            bound=ResolveBound.DIRECT if lost else ResolveBound.TIMEOUT,
        )

    def _usable_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ConfigurationError("the client is closed; make a new one")
        loop = _running_loop()
        if self._loop is None:
            self._loop = loop
            self._timer = ResponseTimer(loop)
            if self._reset is None:
                self._reset = OwnConnections(loop)
            self._fork_guard = ForkGuard()
        if self._fork_guard.forked:
            raise ConfigurationError("the client was used before this process was forked; make one in each process")
        if self._loop is not loop:
            raise ConfigurationError("the client belongs to another event loop; make one for each loop")
        if self._session is None:
            self._session = self._open_session(loop)
        elif self._given and self._session.closed:
            raise ConfigurationError("the session given to the client is closed")
        return self._session

    def _open_session(self, loop: asyncio.AbstractEventLoop) -> aiohttp.ClientSession:
        # With all that aiohttp would add to each request.
        headers = {**self._common, ACCEPT_ENCODING: aiohttp.ClientRequest.DEFAULT_HEADERS[ACCEPT_ENCODING]}
        connector = aiohttp.TCPConnector(
            limit=self._max_connections,
            keepalive_timeout=KEEPALIVE_SECONDS,
            socket_factory=self._make_socket,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            headers=headers,
            cookie_jar=_NoCookies(),
            request_class=GuardedRequest if self._guards_requests else aiohttp.ClientRequest,
            trust_env=self._trust_env,
        )
        if self._guards_requests and not self._trust_env:
            host = self._origin.host_port_subcomponent or ""
            self._direct = DirectRequests(session, connector, loop, host, headers)
        return session

    def _credential_or_function(
        self, secret: Secret[str | Callable[[], Awaitable[str]]]
    ) -> Credential | Callable[[], Awaitable[str]]:
        if callable(function := secret.reveal()):
            return function
        del function
        return self._make_credential(secret)

    def _make_credential(self, secret: Secret[Any]) -> Credential:
        return Credential(check_token(secret.reveal(), self.base_url), self._common, late=self._late_credential)

    async def _ask_for_token(self, provide: Callable[[], Awaitable[str]], within: float) -> Credential:
        try:
            async with asyncio.timeout(within):
                return self._make_credential(Secret(await provide()))
        except ConfigurationError:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # It awaited something that somebody cancelled, which cancels nobody here.
            raise Unanswered("api_token() was cancelled by itself", started=False) from error
        except Exception as error:
            raise Unanswered(f"api_token() raised {type(error).__name__}", started=False) from error


_HOST_PARTS: Final = ("raw_user", "raw_password", "raw_host", "explicit_port", "port", "host_port_subcomponent")


def _host_parts(origin: URL) -> dict[str, object]:
    """Return what yarl works out of each URL anew though all of one origin have it in common; nothing if it can't be.

    yarl keeps it in each URL, and has no public way to hand it on.
    """
    for part in _HOST_PARTS:
        getattr(origin, part)
    known = getattr(origin, "_cache", None)
    return {part: known[part] for part in _HOST_PARTS if part in known} if isinstance(known, dict) else {}


def _is_connected(response: aiohttp.ClientResponse) -> bool:
    """Whether the connection of a response is not back in the pool, where another request may have taken it."""
    return response.connection is not None


def _came_on_connection(response: aiohttp.ClientResponse) -> bool:
    """Whether a response was read from a connection, and not made by what stands in for a server."""
    return getattr(response, "_protocol", None) is not None


class _NoCookies(aiohttp.DummyCookieJar):
    """Has the same nothing for every request, where aiohttp's own makes one for each."""

    _NONE: Final = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> SimpleCookie:  # noqa: ARG002 - the same for all
        """Return no cookies."""
        return self._NONE


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigurationError(
            "no asyncio event loop is running here, and the client needs one: call it from asyncio.run(); under trio, "
            "from trio_asyncio; with AnyIO, on its asyncio backend"
        ) from None


def _check_session(session: aiohttp.ClientSession) -> None:
    if not isinstance(session, aiohttp.ClientSession):
        raise ConfigurationError(
            f"session: is an aiohttp.ClientSession, not {type(session).__name__}; a wrapper may send a write twice"
        )
    if session.auth is not None:
        raise ConfigurationError(
            "session: was made with auth=, which takes the place of the API token in Authorization; make it without "
            "(proxy_auth= may stay)"
        )


_ABSENT: Final = object()


def _middlewares(session: aiohttp.ClientSession) -> tuple[aiohttp.ClientMiddlewareType, ...]:
    """Return the session's own middlewares, which those of a request replace. aiohttp has no public name for them."""
    return tuple(getattr(session, "_middlewares", ()))


def _is_plain(session: aiohttp.ClientSession) -> bool:
    """Whether nothing stands between a request of this session and a connection to the API itself."""
    return (
        type(session) is aiohttp.ClientSession
        and not session.trust_env
        and not _middlewares(session)
        and getattr(session, "_request_class", None) is aiohttp.ClientRequest
        and getattr(session, "_default_proxy", _ABSENT) is None
    )


async def _read_up_to_limit(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > RESPONSE_LIMIT:
                raise aiohttp.ClientPayloadError(f"the response is larger than {RESPONSE_LIMIT} bytes")
    finally:
        response.close()
    return bytes(body)


# aiohttp rounds longer timeouts up to whole seconds; a deadline is a deadline.
_NEVER_ROUND_SECONDS = math.inf


@lru_cache(maxsize=16)
def _total(within: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=within, ceil_threshold=_NEVER_ROUND_SECONDS)


@lru_cache(maxsize=16)
def _until_sent(within: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=within, ceil_threshold=_NEVER_ROUND_SECONDS)


def _socket_factory(unacknowledged_timeout: float) -> Callable[[tuple[Any, ...]], socket.socket] | None:
    """Make sockets whose kernel does not deliver a request any more that the other side left unacknowledged so long."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:  # pragma: no cover - Linux has it
        return None
    milliseconds = to_milliseconds(unacknowledged_timeout)

    def make(address: tuple[Any, ...]) -> socket.socket:
        made = socket.socket(*address[:3])
        made.setsockopt(socket.IPPROTO_TCP, option, milliseconds)
        return made

    return make


# What the kernel reports once the other side has reset the connection. ETIMEDOUT and the like are no such report: then
# the request may be held back on its way.
_RESET_BY_PEER = (errno.ECONNRESET, errno.EPIPE)


def _is_cancelled_below(interruption: BaseException) -> bool:
    """Whether it was not this task that was cancelled, but what it waited for.

    aiohttp cancels what waits for a connection, or for a name, when the session is closed. As a cancellation it would
    end the caller's task without a word.
    """
    if not isinstance(interruption, asyncio.CancelledError):
        return False
    try:
        task = asyncio.current_task()
    except RuntimeError:  # the event loop has ended
        return False
    return task is not None and not task.cancelling()


def _is_lost(error: BaseException, status: int | None) -> bool:
    """Whether the other side ended the connection of a write, by itself, before its response was whole."""
    if status is not None:
        # A gateway's own page, cut off, says nothing of the service behind it, which may be at work still.
        return 200 <= status < 300 and isinstance(error.__cause__, ContentLengthError)
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
        return True
    return isinstance(error, OSError) and error.errno in _RESET_BY_PEER


_SAFE_TO_SHOW = (aiohttp.ClientConnectorError, aiohttp.ClientPayloadError, aiohttp.ConnectionTimeoutError)
_AGENT = re.compile(r"[ -~]{1,200}")
_USERINFO = re.compile(r"//[^/@\s]*@")


def _describe(error: BaseException) -> str:
    """Say what happened; of foreign texts, only those that can't hold a header or a proxy's password."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        text = f"{error.status} {error.message}"
    elif isinstance(error, _SAFE_TO_SHOW):
        text = str(error)
    elif isinstance(error, TimeoutError):
        text = "no response in time"
    elif isinstance(error, OSError):
        text = error.strerror or "connection lost"
    elif isinstance(error, aiohttp.ClientError):
        text = "connection lost"
    else:
        text = "raised below the client, by its session, a middleware or a trace hook"
    return f"{name}: {_USERINFO.sub('//***@', text)[:300]}"
