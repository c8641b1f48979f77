"""The HTTP server: it receives requests, injects faults and sends replies."""

from __future__ import annotations

import logging
import socket
import struct
import sys
from functools import partial
from typing import TYPE_CHECKING

import attrs
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from jetpay_async.sandbox import _responses
from jetpay_async.sandbox._access import host_name
from jetpay_async.sandbox._api import ReceivedRequest
from jetpay_async.sandbox._faults import ROUTES, FaultKind, damage
from jetpay_async.sandbox._responses import Broken, SandboxResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from ssl import SSLContext

    from aiohttp.typedefs import Handler

    from jetpay_async._core.clock import Clock
    from jetpay_async.sandbox._access import HostNames
    from jetpay_async.sandbox._api import Api, Route
    from jetpay_async.sandbox._faults import Fault, Faults
    from jetpay_async.sandbox._journal import Journal
    from jetpay_async.sandbox._timers import Timers

__all__ = ["CONTROL_PATH", "HEALTH_PATH", "Server"]

CONTROL_PATH = "/_sandbox/"
HEALTH_PATH = "/healthz"

# Closing a socket that has this option set sends RST instead of FIN. The structure is of ints; on Windows, of shorts.
_NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

_NOTHING_DONE = _responses.json(200, {})

# Slow and stalled requests have ended before aiohttp is asked to stop, so this is for a body that never arrives.
_SHUTDOWN_SECONDS = 0.1

# An address that stands for all of this machine's is one to listen on, not one to call.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only looked up

# More than any test has in flight: a refused connection must be a fault that was asked for.
_BACKLOG = 1024


_logger = logging.getLogger("jetpay_async.sandbox.server")
# What is no HTTP is the client's error: it is answered 400, and deserves no traceback.
_logger.addFilter(
    lambda record: (
        not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError))
    )
)


class Server:
    """The API on a socket.

    Args:
        api: The calls.
        faults: The faults to inject.
        timers: For slow requests and replies.
        clock: For the age of cached replies.
        journal: Records the requests.
        host_names: The names under which it may be called.
        additions: Add routes that are not the API's.
        latency: Seconds that pass before each request is worked on.
        host: The address to listen on.
        port: The port, 0 for a free one.
        ssl_context: To serve https.
    """

    def __init__(
        self,
        api: Api,
        *,
        faults: Faults[Fault],
        timers: Timers,
        clock: Clock,
        journal: Journal,
        host_names: HostNames,
        additions: Sequence[Callable[[web.UrlDispatcher], None]],
        latency: float,
        host: str,
        port: int,
        ssl_context: SSLContext | None,
    ) -> None:
        self._api = api
        self._faults = faults
        self._timers = timers
        self._clock = clock
        self._journal = journal
        self._host_names = host_names
        self._additions = additions
        self._cached: dict[str, tuple[float, SandboxResponse]] = {}
        self._latency = latency
        self._host = host
        self._port = port
        self._ssl_context = ssl_context
        self._runner: web.AppRunner | None = None

    @property
    def running(self) -> bool:
        """Whether it listens."""
        return self._runner is not None

    @property
    def url(self) -> str:
        """Where this machine reaches it; ask once it has been started."""
        host = _LOOPBACK.get(self._host, self._host)
        return str(URL.build(scheme="https" if self._ssl_context else "http", host=host, port=self._port))

    async def start(self) -> None:
        """Listen."""
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            logger=_logger,
            handler_cancellation=False,
            shutdown_timeout=_SHUTDOWN_SECONDS,
        )
        await runner.setup()
        site = web.TCPSite(runner, self._host, self._port, ssl_context=self._ssl_context, backlog=_BACKLOG)
        await site.start()
        self._runner = runner
        # The port that was found is kept, so that clients find a restarted sandbox again.
        self._host, self._port = runner.addresses[0][:2]

    async def stop(self) -> None:
        """Stop listening, then end every timer, then close every connection."""
        runner, self._runner = self._runner, None
        if runner is not None:
            for site in runner.sites:
                await site.stop()
            await self._timers.stop()
            await runner.cleanup()

    def requests(self, route: str | None, identifier: str | None) -> int:
        """Return how many requests have arrived whole."""
        if route is not None and route not in ROUTES:
            raise ValueError(f"no route is called {route!r}; there are {', '.join(ROUTES)}")
        return self._journal.total if route is None else self._journal.by_route[route, identifier]

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._answer_unrouted, self._check_host])
        application.router.add_get(HEALTH_PATH, _answer_health)
        application.router.add_route("*", "/", _lead_to_page)
        for add in self._additions:
            add(application.router)
        for route in self._api.routes():
            application.router.add_route(
                route.method, route.path, self._handler(route), expect_handler=_answer_expectation
            )
        return application

    def _handler(self, route: Route) -> Handler:
        async def serve(request: web.Request) -> web.StreamResponse:
            return await self._serve(route, request)

        return serve

    async def _serve(self, route: Route, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read() if request.body_exists else b""
        except ConnectionError:
            return _end(request, Broken())
        identifiers = tuple(request.match_info.values())
        record, began = self._journal.begin(request.method, request.path, route.name, identifiers)
        reply: SandboxResponse | Broken = Broken()
        try:
            if self._latency:
                await self._timers.wait(self._latency)
            fault = self._faults.match(lambda fault: fault.fits(route.name, identifiers))
            received = ReceivedRequest(identifiers, body, request.content_type)
            work = partial(self._api.respond, route, request.headers.get("Authorization", ""))
            if fault is None:
                reply = work(received)
            else:
                record.fault = fault.kind.value
                reply = await self._inject(fault, received, work, request.path_qs)
        finally:
            self._journal.end(record, began, None if isinstance(reply, Broken) else reply.status)
        return _send(request, reply, record.request_id)

    async def _inject(
        self, fault: Fault, received: ReceivedRequest, work: Callable[[ReceivedRequest], SandboxResponse], path: str
    ) -> SandboxResponse | Broken:
        """Do the work when the fault says, if at all, and return what it leaves of the reply."""
        match fault.kind:
            case FaultKind.STALE_STATUS:
                return work(attrs.evolve(received, seconds_ago=fault.seconds))
            case FaultKind.CACHED_REPLY:
                return self._from_cache(path, partial(work, received))
            case FaultKind.SLOW_BEFORE:
                await self._timers.wait(fault.seconds)
                return work(received)
            case FaultKind.PROCESS_LATE | FaultKind.RETRANSMIT:
                self._timers.later(fault.seconds, partial(work, received))
            case _:
                pass
        reply = work(received) if fault.kind.after_work else _NOTHING_DONE
        match fault.kind.effect:
            case "slow":
                await self._timers.wait(fault.seconds)
            case "stall":
                await self._timers.wait(None)
            case _:
                return damage(fault, reply, path=path, identifier=next(iter(received.identifiers), ""))
        return reply

    def _from_cache(self, path: str, work: Callable[[], SandboxResponse]) -> SandboxResponse:
        now = self._clock.time()
        if path not in self._cached:
            self._cached[path] = (now, work())
        stored_at, reply = self._cached[path]
        return attrs.evolve(reply, headers={**reply.headers, "Age": str(int(now - stored_at))})

    @web.middleware
    async def _answer_unrouted(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer as FastAPI does where aiohttp would: no such path, method not allowed, body too large or damaged."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            allow = error.headers.get("Allow")
            reply = _responses.json(error.status, {"detail": error.reason}, {"Allow": allow} if allow else None)
        except web.RequestPayloadError:
            # aiohttp closes the connection, since it can't know where the next request begins.
            reply = _responses.json(400, {"detail": "There was an error parsing the body"}, {"Connection": "close"})
        if request.path.startswith(CONTROL_PATH):
            return web.Response(status=reply.status, body=reply.body, headers=reply.headers)
        record, began = self._journal.begin(request.method, request.path, None)
        self._journal.end(record, began, reply.status)
        return _send(request, reply, record.request_id)

    @web.middleware
    async def _check_host(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a name that is not the sandbox's: a page may let its own name resolve to this machine."""
        if request.version < HttpVersion10:
            raise web.HTTPBadRequest(reason="A request has a version, such as HTTP/1.1")
        name = request.headers.get("Host", "")
        if request.path == HEALTH_PATH or self._host_names.allow(name):
            return await handler(request)
        message = f"The sandbox is not called {host_name(name)!r}; start it with --allow-host if that is its name"
        reply = _responses.json(403, {"detail": message})
        record, began = self._journal.begin(request.method, request.path, None)
        self._journal.end(record, began, reply.status)
        return _send(request, reply, record.request_id)


async def _answer_expectation(request: web.Request) -> None:
    """Let the body come, as servers of FastAPI do; aiohttp would reject every other expectation, and not in JSON."""
    if request.headers["Expect"].lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # A reply that has no body yet counts from here.
        request.writer.output_size = 0


async def _answer_health(_: web.Request) -> web.StreamResponse:
    """Say that it answers: for the health checks of containers, which may call it by any name."""
    return web.json_response({"status": "ok"})


async def _lead_to_page(request: web.Request) -> web.StreamResponse:
    """Send who opens the bare address to the page; the API itself has nothing there."""
    if request.method not in {"GET", "HEAD"}:
        raise web.HTTPNotFound
    return web.Response(status=302, headers={"Location": CONTROL_PATH})


def _send(request: web.Request, reply: SandboxResponse | Broken, request_id: str) -> web.StreamResponse:
    if isinstance(reply, Broken):
        return _end(request, reply)
    return web.Response(status=reply.status, body=reply.body, headers={**reply.headers, "x-request-id": request_id})


def _end(request: web.Request, broken: Broken) -> web.StreamResponse:
    """End the connection. The response is for aiohttp, which finds that it can't be sent any more."""
    transport = request.transport
    if transport is not None:
        if broken.sent:
            transport.write(broken.sent)
        if broken.reset:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()
        else:
            transport.close()
    return web.Response()
