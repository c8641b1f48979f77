"""Make a guarded POST of the client's own session without what `aiohttp.ClientSession` does for requests in general.

For each request a session merges headers and cookies, looks for passwords and proxies, and prepares redirects, retries,
timers, middlewares and trace hooks. A guarded POST of the client's own session has none of these, so it goes straight
to the session's connector, by the same steps of aiohttp otherwise: connect, send, start the response.

Whatever sees or answers what is asked of a session (trace hooks, middlewares, recorders and mocks that replace its
methods) is still asked: `DirectRequests.usable` is False as soon as there is any of it, and the session is used.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from aiohttp import ClientSession, ConnectionTimeoutError, client, hdrs
from aiohttp.helpers import TimerNoop
from multidict import CIMultiDict

from jetpay_async._core.aiohttp_guard import GuardedRequest

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Mapping

    from aiohttp import BaseConnector, ClientResponse, ClientTimeout
    from yarl import URL

    from jetpay_async._core.aiohttp_guard import GuardedBody

_NO_TIMER: Final = TimerNoop()


def own_method(session_class: type, name: str) -> object:
    """Return a method of `aiohttp.ClientSession` if it is aiohttp's own; what nothing is identical with if it is not.

    A tracer may have replaced it before this module was imported. What takes its place is a function of another module,
    or no plain function.
    """
    method = vars(session_class).get(name)
    own = type(method) is FunctionType and method.__globals__ is client.__dict__
    return method if own else object()


_REQUEST: Final = own_method(ClientSession, "request")
_REQUEST_STEPS: Final = own_method(ClientSession, "_request")


class DirectRequests:
    """Sends guarded POSTs by the connector of the client's own session.

    Args:
        session: The client's own, without a proxy.
        connector: The session's.
        loop: The event loop of both.
        host: The value of ``Host``.
        headers: The other headers, those that aiohttp would add included.
    """

    def __init__(
        self,
        session: ClientSession,
        connector: BaseConnector,
        loop: asyncio.AbstractEventLoop,
        host: str,
        headers: Mapping[str, str],
    ) -> None:
        self._session = session
        self._connector = connector
        self._loop = loop
        self._headers = CIMultiDict({hdrs.HOST: host, **headers})
        # The session's own list: what is appended to it later is noticed.
        self._trace_configs = session.trace_configs
        # What instruments aiohttp may have replaced the class, or given it middlewares.
        self._plain = type(session) is ClientSession and not getattr(session, "_middlewares", True)

    @property
    def usable(self) -> bool:
        """Whether nothing but the connector has to see a request."""
        return (
            self._plain
            and not self._trace_configs
            and ClientSession._request is _REQUEST_STEPS  # pyright: ignore[reportPrivateUsage] # noqa: SLF001 - what most recorders replace
            and ClientSession.request is _REQUEST
        )

    async def post(self, url: URL, body: GuardedBody, limits: ClientTimeout) -> ClientResponse:
        """Send a request, and read the head of its response, as the session's ``post`` does.

        Args:
            url: Where to, at the host.
            body: With the guard.
            limits: Of which those for the connection count.
        """
        request = DirectRequest(
            hdrs.METH_POST,
            url,
            headers=self._headers,
            data=body,
            loop=self._loop,
            timer=_NO_TIMER,
            session=self._session,
        )
        try:
            connection = await self._connector.connect(request, traces=[], timeout=limits)
        except TimeoutError as error:
            raise ConnectionTimeoutError(f"Connection timeout to host {url}") from error
        try:
            connection.protocol.set_response_params(timer=_NO_TIMER, read_until_eof=True)  # type: ignore[union-attr] # a new one has it
            response = await request.send(connection)
            try:
                return await response.start(connection)
            except BaseException:
                response.close()
                raise
        except BaseException:
            connection.close()
            raise


class DirectRequest(GuardedRequest):
    """A guarded POST whose headers are prepared: there is nothing to merge, to look up or to add."""

    def update_headers(self, headers: Any) -> None:
        """Copy the prepared headers."""
        self.headers = headers.copy()

    def update_auto_headers(self, skip_auto_headers: Any) -> None:
        """Add nothing, since the prepared headers have all of them."""

    def update_cookies(self, cookies: Any) -> None:
        """Add nothing, since there are no cookies."""

    def update_auth(self, auth: Any, trust_env: Any = None) -> None:
        """Add nothing, since the credential is added when the request is sent."""

    def update_transfer_encoding(self) -> None:
        """Add nothing, since a guarded body has a length."""

    def update_expect_continue(self, expect: Any = None) -> None:
        """Add nothing, since no such header is prepared."""
