"""The variants of a capture that rest on aiohttp, and the floor under them."""
# ruff: noqa: SLF001 - private parts of the client are used to find out what each of its layers costs

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import orjson
from yarl import URL

from benchmarks.subjects import Contender, Site, Work, repeated
from jetpay_async import JetpayClient
from jetpay_async._core import operations, responses
from jetpay_async._core.aiohttp_guard import Credential, GuardedRequest, NoBody
from jetpay_async._core.clock import SYSTEM_CLOCK
from jetpay_async._core.connection_reset import OwnConnections
from jetpay_async._core.direct_request import DirectRequests
from jetpay_async._core.send_guard import ResponseTimer, SendGuard
from jetpay_async.telemetry import Operation

TOKEN = "benchmark"
TIMEOUT_SECONDS = 30.0


@asynccontextmanager
async def by_hand(site: Site) -> AsyncIterator[Work]:
    """What a careful user writes."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=site.in_flight)) as session:

        async def capture(debit_id: str) -> object:
            headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"}
            async with session.post(f"{site.url}/debit/{debit_id}/capture", headers=headers) as response:
                return orjson.loads(await response.read())

        yield repeated(capture, site.in_flight)


@asynccontextmanager
async def _tuned_session(site: Site) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=site.in_flight),
        headers={"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
    ) as session:
        yield session


@asynccontextmanager
async def tuned(site: Site) -> AsyncIterator[Work]:
    """What a specialist writes: whatever can be made once is, and a response is read without ``async with``."""
    base = URL(site.url)
    async with _tuned_session(site) as session:

        async def capture(debit_id: str) -> object:
            response = await session.post(base.with_path(f"/debit/{debit_id}/capture", encoded=True))
            return orjson.loads(await response.read())

        yield repeated(capture, site.in_flight)


@asynccontextmanager
async def one_url(site: Site) -> AsyncIterator[Work]:
    """aiohttp and nothing else: the same URL each time, and the reply is not parsed."""
    url = URL(f"{site.url}/debit/debit_1/capture")
    async with _tuned_session(site) as session:

        async def capture(_: str) -> object:
            response = await session.post(url)
            return await response.read()

        yield repeated(capture, site.in_flight)


def _fresh_guard() -> SendGuard:
    return SendGuard(SYSTEM_CLOCK.monotonic() + TIMEOUT_SECONDS, SYSTEM_CLOCK, TIMEOUT_SECONDS)


@asynccontextmanager
async def guarded(site: Site) -> AsyncIterator[Work]:
    """Tuned, by the connector, with the guard that knows whether the request began to leave, and times the whole."""
    base = URL(site.url)
    loop = asyncio.get_running_loop()
    connector = aiohttp.TCPConnector(limit=site.in_flight)
    headers = {"Accept": "application/json", "Accept-Encoding": "gzip, deflate", "User-Agent": "benchmark"}
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), request_class=GuardedRequest
    ) as session:
        direct = DirectRequests(session, connector, loop, base.host_port_subcomponent or "", headers)
        limits = aiohttp.ClientTimeout(total=None, connect=TIMEOUT_SECONDS)
        timer = ResponseTimer(loop)
        reset = OwnConnections(loop)
        credential = Credential(TOKEN, {})

        async def capture(debit_id: str) -> object:
            guard = _fresh_guard()
            guard.attach(timer, reset)
            url = base.with_path(f"/debit/{debit_id}/capture", encoded=True)
            response = await direct.post(url, NoBody(guard, credential), limits)
            content = await response.read()
            guard.complete()
            return orjson.loads(content)

        yield repeated(capture, site.in_flight)


def _client(
    site: Site,
    session: aiohttp.ClientSession | None = None,
    on_operation: Callable[[Operation], None] | None = None,
) -> JetpayClient:
    return JetpayClient(
        TOKEN,
        base_url=site.url,
        session=session,
        max_connections=site.in_flight,
        timeout=TIMEOUT_SECONDS,
        on_operation=on_operation,
    )


@asynccontextmanager
async def transport(site: Site) -> AsyncIterator[Work]:
    """The client's transport by itself, its own time limits included; the reply is parsed as by hand."""
    async with _client(site) as client:
        exchange = client._transport.exchange

        async def capture(debit_id: str) -> object:
            reply = await exchange("POST", f"/debit/{debit_id}/capture", b"", _fresh_guard(), within=TIMEOUT_SECONDS)
            return orjson.loads(reply.body)

        yield repeated(capture, site.in_flight)


@asynccontextmanager
async def typed(site: Site) -> AsyncIterator[Work]:
    """The transport, the checked arguments and the typed result, without the executor."""
    async with _client(site) as client:
        exchange = client._transport.exchange

        async def capture(debit_id: str) -> object:
            call = operations.capture(debit_id)
            reply = await exchange("POST", call.path, call.body, _fresh_guard(), within=TIMEOUT_SECONDS)
            return responses.read(call, reply, attempts=1, elapsed=0.0, now=0.0)

        yield repeated(capture, site.in_flight)


@asynccontextmanager
async def executed(site: Site) -> AsyncIterator[Work]:
    """All of the client but the sharing of one debit's capture between tasks."""
    async with _client(site) as client:
        runner, options = client._executor, client._options

        async def capture(debit_id: str) -> object:
            return await runner.execute(runner.begin(operations.capture(debit_id), options))

        yield repeated(capture, site.in_flight)


@asynccontextmanager
async def ours(site: Site) -> AsyncIterator[Work]:
    """The client, as the README shows it."""
    async with _client(site) as client:
        yield repeated(client.capture, site.in_flight)


@asynccontextmanager
async def given_session(site: Site) -> AsyncIterator[Work]:
    """The client on a session of the user's, which may not get the token into its defaults."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=site.in_flight), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        client = _client(site, session)
        yield repeated(client.capture, site.in_flight)
        await client.aclose()


@asynccontextmanager
async def observed(site: Site) -> AsyncIterator[Work]:
    """The client with a hook that counts outcomes and adds up their time."""
    outcomes: Counter[str] = Counter()
    seconds = 0.0

    def note(operation: Operation) -> None:
        nonlocal seconds
        outcomes[operation.outcome] += 1
        seconds += operation.duration

    async with _client(site, on_operation=note) as client:
        yield repeated(client.capture, site.in_flight)
    if outcomes.keys() != {"done"} or not seconds:
        raise AssertionError(f"not every capture was reported: {outcomes}")


@asynccontextmanager
async def traced(site: Site) -> AsyncIterator[Work]:
    """The client with OpenTelemetry's SDK: each span is recorded, and dropped where it would be exported."""
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - only the process that measures it needs it
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    from jetpay_async.opentelemetry import OpenTelemetry  # noqa: PLC0415

    hook = OpenTelemetry(tracer_provider=TracerProvider(), meter_provider=MeterProvider())
    async with _client(site, on_operation=hook) as client:
        yield repeated(client.capture, site.in_flight)


@asynccontextmanager
async def sdk_alone(site: Site) -> AsyncIterator[Work]:
    """The least that OpenTelemetry's SDK takes for what `traced` records: one span and one measurement in its context.

    All that is known before is made before, and nothing is remembered.
    """
    from opentelemetry import trace  # noqa: PLC0415 - only the process that measures it needs it
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    start_span = TracerProvider().get_tracer("benchmark").start_span
    record = MeterProvider().get_meter("benchmark").create_histogram("duration", unit="s").record
    kind, nowhere = trace.SpanKind.CLIENT, Context()
    labels = {"jetpay.operation": "capture", "jetpay.outcome": "done"}

    def note(operation: Operation) -> None:
        attributes = {**labels, "jetpay.debit_id": operation.debit_id or "", "http.response.status_code": 200}
        began = int(operation.started_at * 1e9)
        span = start_span("jetpay capture", kind=kind, attributes=attributes, start_time=began)
        span.end(began + int(operation.duration * 1e9))
        record(operation.duration, labels, trace.set_span_in_context(span, nowhere))

    async with _client(site, on_operation=note) as client:
        yield repeated(client.capture, site.in_flight)


class _Connection(asyncio.Protocol):
    """One request at a time, and as little HTTP as the server's replies need."""

    def __init__(self) -> None:
        self._received = b""
        self._reply: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def exchange(self, request: bytes) -> asyncio.Future[bytes]:
        self._reply = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self._reply

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        at = head.index(b"Content-Length: ") + 16
        end = head.find(b"\r\n", at)
        if len(body) == int(head[at : end if end > 0 else None]):
            self._received = b""
            self._reply.set_result(body)


@asynccontextmanager
async def floor(site: Site) -> AsyncIterator[Work]:
    """A raw asyncio protocol: the least that any client on this loop can cost."""
    url = URL(site.url)
    context = ssl.create_default_context() if url.scheme == "https" else None
    loop = asyncio.get_running_loop()
    idle = [
        (await loop.create_connection(_Connection, url.host, url.port, ssl=context))[1] for _ in range(site.in_flight)
    ]
    rest = f" HTTP/1.1\r\nHost: {url.authority}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n\r\n"

    async def capture(debit_id: str) -> object:
        connection = idle.pop()
        body = await connection.exchange(f"POST /debit/{debit_id}/capture{rest}".encode())
        idle.append(connection)
        return orjson.loads(body)

    yield repeated(capture, site.in_flight)
    for connection in idle:
        connection.transport.close()


FLOOR, BY_HAND, TUNED, OURS, GIVEN, OBSERVED, SDK, TRACED = (
    "raw asyncio protocol",
    "aiohttp by hand",
    "aiohttp tuned",
    "jetpay_async",
    "jetpay_async, a given session",
    "jetpay_async, a hook that counts",
    "OpenTelemetry's SDK by itself",
    "jetpay_async, OpenTelemetry's SDK",
)

CONTENDERS: Mapping[str, Contender] = {
    BY_HAND: by_hand,
    TUNED: tuned,
    OURS: ours,
    GIVEN: given_session,
    FLOOR: floor,
}

HOOKED: Mapping[str, Contender] = {OBSERVED: observed, SDK: sdk_alone, TRACED: traced}
