"""A server that breaks at any point of an exchange, on request: raw sockets, so that every byte is ours.

It keeps one debit, and knows what it did: `Loopback.captures` counts how often money was taken. Each route has a
script, a list of acts; when the script is played, or there is none, the route behaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ssl import SSLContext
from typing import Self

import attrs

DEBIT_ID = "debit_123"
FASTAPI = {
    400: {"detail": "Bad request"},
    401: {"detail": "Not authenticated"},
    403: {"detail": "Not enough permissions"},
    404: {"detail": "Not found"},
    409: {"detail": "Already captured"},
    422: {"detail": [{"loc": ["body", "amount"], "msg": "must be positive", "type": "value_error"}]},
    429: {"detail": "Too many requests"},
}
HTML = b"<html><body>a proxy speaks</body></html>"


@attrs.frozen
class Request:
    """What arrived."""

    method: str
    target: str
    headers: dict[str, str] = attrs.field(repr=False)
    body: bytes

    @property
    def route(self) -> str:
        """The operation it is for."""
        for name, pattern in ROUTES.items():
            if re.fullmatch(pattern, f"{self.method} {self.target}"):
                return name
        return "elsewhere"


ROUTES = {
    "preauthorize": "POST /contact/[^/]+/creditcards/[^/]+/preauthorize",
    "capture": "POST /debit/[^/]+/capture",
    "status": "GET /transaction/[^/]+/status",
    "cancel": "DELETE /transaction/[^/]+",
    "charge": "POST /contact/[^/]+/creditcards/[^/]+/charge",
    "card_form": "POST /contact/[^/]+/creditcards/url",
    "create_contact": "PUT /contact",
    "create_bank_account": "PUT /contact/bank_account",
    "create_debit": "PUT /debit",
    "credit": "PUT /credit",
    "register_webhook": "POST /webhooks/",
    "list_webhooks": "GET /webhooks/",
    "webhook": "GET /webhooks/[^/]+",
    "change_webhook": "PATCH /webhooks/[^/]+",
    "remove_webhook": "DELETE /webhooks/[^/]+",
}
WEBHOOK = {
    "id": 123,
    "identifier": "webhook_123",
    "callback_url": "https://shop.example.com/webhooks",
    "callback_api_key": None,
    "state": "active",
    "last_sent_event_id": None,
    "max_batch_size": 10,
    "max_wait_seconds": 60,
}


@attrs.define
class Exchange:
    """One request, and the wire to break."""

    server: Loopback
    request: Request
    writer: asyncio.StreamWriter

    def work(self) -> None:
        """Do what the request asks for."""
        self.server.work(self.request)

    async def reply(
        self, status: int, body: object = None, *, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        """Answer; a body of bytes is sent as HTML, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kind = "text/html" if isinstance(body, bytes) else "application/json"
        lines = [
            f"HTTP/1.1 {status} Some Reason",
            f"Content-Type: {kind}",
            f"Content-Length: {len(content) if length is None else length}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        await self.writer.drain()

    async def behave(self) -> None:
        """Do it, and answer as the guide says."""
        self.work()
        await self.reply(200, self.server.answer(self.request))

    def hang_up(self) -> None:
        """Close without another byte."""
        self.writer.close()

    def reset(self) -> None:
        """Abort the connection: the peer sees a reset."""
        self.writer.transport.abort()


Act = Callable[[Exchange], Awaitable[None]]


def _opened() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


@attrs.define
class Loopback:
    """The server; `url` is where it listens."""

    url: str = ""
    state: str = "preauthorized"
    captures: int = 0
    """How often money was taken; the server does not protect itself."""
    preauthorizations: int = 0
    worked: Counter[str] = attrs.Factory(Counter)
    """How often each route did its work."""
    webhooks: list[dict[str, object]] = attrs.Factory(list)
    """That are registered."""
    scripts: dict[str, list[Act]] = attrs.Factory(dict)
    requests: list[Request] = attrs.Factory(list)
    connections: int = 0
    refuse_to_read: int = 0
    """How many connections to reset before a byte of them is read."""
    arrived: asyncio.Event = attrs.Factory(asyncio.Event)
    """Set by each request."""
    gate: asyncio.Event = attrs.Factory(_opened)
    """Connections are served while it is set."""
    _tasks: set[asyncio.Task[None]] = attrs.Factory(set)

    def count(self, route: str) -> int:
        """How many requests for this operation arrived."""
        return sum(request.route == route for request in self.requests)

    def work(self, request: Request) -> None:
        """Change what the request asks to be changed."""
        self.worked[request.route] += 1
        match request.route:
            case "register_webhook":
                self.webhooks.append({**WEBHOOK, **json.loads(request.body)})
            case "remove_webhook":
                self.webhooks.clear()
            case "preauthorize":
                self.preauthorizations += 1
            case "capture":
                self.captures += 1
                self.state = "paid"
            case "cancel":
                self.state = "cancelled"

    def answer(self, request: Request) -> dict[str, object]:
        """The guide's answer."""
        match request.route:
            case "preauthorize" | "charge":
                asked = json.loads(request.body)
                _, _, contact_id, _, card_id, _ = request.target.split("/")
                return {
                    "debit_id": DEBIT_ID,
                    **asked,
                    "contact_id": contact_id,
                    "from_credit_card_id": card_id,
                    "transaction_state": "preauthorized" if request.route == "preauthorize" else "paid",
                }
            case "capture":
                return {"identifier": request.target.split("/")[2], "state": "paid"}
            case "cancel":
                return {"ok": True}
            case "status":
                return {"state": self.state}
            case _:
                return self._answer_of_the_guide(request)

    def _answer_of_the_guide(self, request: Request) -> dict[str, object]:
        asked = json.loads(request.body) if request.body else {}
        answers: dict[str, dict[str, object]] = {
            "card_form": {"url": "https://pay.example.com/form", "credit_card_id": "cc_456"},
            "create_contact": {"identifier": "new_123", **asked},
            "create_bank_account": {"identifier": "new_123", **asked},
            "create_debit": {"identifier": DEBIT_ID, "link": f"https://pay.example.com/{DEBIT_ID}"},
            "credit": {"identifier": DEBIT_ID, "link": f"https://pay.example.com/{DEBIT_ID}"},
            "register_webhook": {**WEBHOOK, **asked},
            "change_webhook": {**WEBHOOK, **asked},
            "webhook": WEBHOOK,
            "list_webhooks": {"items": self.webhooks},
            "remove_webhook": {"ok": True},
        }
        return answers.get(request.route, {"state": self.state})

    @asynccontextmanager
    async def listen(self, ssl: SSLContext | None = None, port: int = 0) -> AsyncIterator[Self]:
        """Serve on the loopback interface, on a free port if none is given."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=ssl)
        port = server.sockets[0].getsockname()[1]
        self.url = f"{'https' if ssl else 'http'}://127.0.0.1:{port}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            await self.gate.wait()
            if self.refuse_to_read > 0:
                self.refuse_to_read -= 1
                writer.transport.abort()
                return
            while not writer.is_closing():
                request = await _read_request(reader)
                self.requests.append(request)
                script = self.scripts.get(request.route, [])
                exchange = Exchange(self, request, writer)
                self.arrived.set()
                await (script.pop(0)(exchange) if script else exchange.behave())
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, target, _ = first.split(" ")
    return Request(method, target, headers, body)


@attrs.define(eq=False)
class RelayedConnection:
    """One connection of a client, as the first machine on its way sees it."""

    received: int = 0
    """Bytes that the client sent, without a CONNECT."""
    ended: asyncio.Future[str] = attrs.Factory(lambda: asyncio.get_running_loop().create_future())
    """How the client ended it: ``"EOF"`` or ``"reset"``."""


@attrs.define
class Relay:
    """Stands before a server, as a machine that hands on bytes or as an HTTP proxy that tunnels CONNECT."""

    url: str = ""
    to: str | None = None
    """The origin that bytes are handed on to; None for a proxy, which is told."""
    refuse: bool = False
    """Whether a proxy refuses to tunnel."""
    connections: list[RelayedConnection] = attrs.Factory(list)
    _tasks: set[asyncio.Task[None]] = attrs.Factory(set)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Self]:
        """Serve on the loopback interface."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        scheme = "http" if self.to is None else self.to.split(":")[0]
        self.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        with (
            contextlib.closing(writer.transport),
            contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError),
        ):
            if self.to is None:
                host, port = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode().split(":")
                if self.refuse:
                    writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                    await writer.drain()
                    return
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                host, port = self.to.split("://")[1].split(":")
            connection = RelayedConnection()
            self.connections.append(connection)
            upstream_reader, upstream_writer = await asyncio.open_connection(host, int(port))
            await asyncio.gather(
                self._receive(connection, reader, upstream_writer), self._send(upstream_reader, writer)
            )

    async def _receive(
        self, connection: RelayedConnection, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter
    ) -> None:
        ended = "EOF"
        try:
            while data := await reader.read(65536):
                connection.received += len(data)
                upstream.write(data)
        except ConnectionError:
            ended = "reset"
        finally:
            if not connection.ended.done():
                connection.ended.set_result(ended)
            upstream.transport.abort()

    async def _send(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await upstream.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()


@asynccontextmanager
async def connect_proxy(refuse: bool = False) -> AsyncIterator[str]:
    """Serve as an HTTP proxy that tunnels CONNECT, or refuses it."""
    async with Relay(refuse=refuse).listen() as relay:
        yield relay.url


# --- acts -----------------------------------------------------------------------------------------------------------


def work_then(act: Act) -> Act:
    """Do the work before the act breaks the exchange."""

    async def both(exchange: Exchange) -> None:
        exchange.work()
        await act(exchange)

    return both


async def behave(exchange: Exchange) -> None:
    """Do what is asked for, and answer as the guide says."""
    await exchange.behave()


async def hang_up(exchange: Exchange) -> None:
    """Read the request, close the connection."""
    exchange.hang_up()


async def reset(exchange: Exchange) -> None:
    """Read the request, reset the connection."""
    exchange.reset()


async def silence(_: Exchange) -> None:
    """Read the request, say nothing."""
    await asyncio.Event().wait()


async def cut_head(exchange: Exchange) -> None:
    """Stop in the middle of the head."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
    await exchange.writer.drain()
    exchange.hang_up()


async def cut_body(exchange: Exchange) -> None:
    """Stop in the middle of the body."""
    await exchange.reply(200, exchange.server.answer(exchange.request), length=1000)
    exchange.hang_up()


async def stall_body(exchange: Exchange) -> None:
    """Fall silent in the middle of the body."""
    await exchange.reply(200, exchange.server.answer(exchange.request), length=1000)
    await asyncio.Event().wait()


async def garbage(exchange: Exchange) -> None:
    """Answer what is not HTTP."""
    exchange.writer.write(b"\x00\xff no http at all\r\n\r\n")
    await exchange.writer.drain()
    exchange.hang_up()


async def endless(exchange: Exchange) -> None:
    """Answer with a body that does not end."""
    exchange.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(64):
        exchange.writer.write(b"10000\r\n" + b" " * 65536 + b"\r\n")
        await exchange.writer.drain()
    await asyncio.Event().wait()


def replies(status: int, body: object = None, **headers: str) -> Act:
    """Answer this, whatever was asked."""

    async def act(exchange: Exchange) -> None:
        await exchange.reply(status, body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return act


def held(server: Loopback) -> asyncio.Event:
    """Make the next capture wait for the event that is returned, then behave."""
    released = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        await released.wait()
        await exchange.behave()

    server.scripts["capture"] = [hold]
    return released
