"""Bad input, slow clients and idle connections leave the sandbox answering."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from io import BytesIO
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from jetpay_async.sandbox import _control

from .calling import Caller

if TYPE_CHECKING:
    from jetpay_async.sandbox import Sandbox

CONNECTIONS = 200


async def connect(sandbox: Sandbox) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = urlsplit(sandbox.url)
    return await asyncio.open_connection(url.hostname, url.port)


async def answers(caller: Caller) -> bool:
    return (await caller.capture(await caller.reserve())).document["state"] == "paid"


@pytest.mark.asyncio
async def test_idle_and_slow_clients(caller: Caller) -> None:
    """Connections without a request, with half a head and with half a body hold up nobody, and end with the sandbox."""
    began = [
        b"",
        b"POST /debit/x/capture HT",
        b"PUT /contact HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{",
    ]
    opened = [await connect(caller.sandbox) for _ in range(CONNECTIONS)]
    for number, (_, writer) in enumerate(opened):
        writer.write(began[number % len(began)])
        await writer.drain()

    assert await answers(caller)
    async with asyncio.timeout(20):
        await caller.sandbox.stop()
        for reader, _ in opened:
            with suppress(ConnectionResetError):
                await reader.read()
    for _, writer in opened:
        writer.close()


GARBAGE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
    "no version": b"GET /\r\n\r\n",
    "NUL in a header": b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n",
    "a head without an end": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "two lengths": b"PUT /contact HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a length and chunks": (
        b"PUT /contact HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "a broken chunk": b"PUT /contact HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.asyncio
async def test_what_is_no_http(caller: Caller, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is no HTTP is answered 4xx or not at all, is no error of the sandbox, and the next client is served."""
    reader, writer = await connect(caller.sandbox)
    writer.write(GARBAGE[name])
    async with asyncio.timeout(20):
        try:
            reply = await reader.read()
        except ConnectionResetError:
            reply = b""
    writer.close()

    assert reply == b"" or b" 4" in reply.splitlines()[0]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert await answers(caller)


@pytest.mark.parametrize("path", ["/contact", "/nope", "/_sandbox/api/faults", "/_sandbox/api/restore"])
@pytest.mark.asyncio
async def test_a_body_that_is_not_compressed_as_it_says(
    caller: Caller, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A body that can't be decompressed is answered 4xx in JSON, is no error of the sandbox, and is recorded."""
    method = "PUT" if path == "/contact" else "POST"
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}

    reply = await caller.call(method, path, data=BytesIO(b"not compressed at all"), headers=headers)

    assert (reply.status, reply.headers["Content-Type"]) == (404 if path == "/nope" else 400, "application/json")
    assert (reply.headers.get("Connection") == "close") is (path != "/nope")
    assert caller.sandbox.requests() == (0 if path.startswith("/_sandbox/") else 1)
    assert caplog.records == []


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("expectation", [b"100-continue", b"a miracle"])
@pytest.mark.asyncio
async def test_expectations(caller: Caller, expectation: bytes, version: bytes) -> None:
    """Who waits for it is told to continue, what else is expected makes no difference, and the body is read."""
    reader, writer = await connect(caller.sandbox)
    writer.write(
        b"PUT /contact HTTP/"
        + version
        + b"\r\nHost: localhost\r\nAuthorization: Bearer "
        + caller.sandbox.api_token.encode()
        + b"\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\nExpect: "
        + expectation
        + b"\r\n\r\n{}"
    )
    async with asyncio.timeout(20):
        reply = await reader.read()
    writer.close()

    heads = [line.split()[:2] for line in reply.split(b"\r\n") if line.startswith(b"HTTP/")]
    continued = [[b"HTTP/1.1", b"100"]] if (expectation, version) == (b"100-continue", b"1.1") else []
    assert heads == [*continued, [b"HTTP/" + version, b"422"]]


@pytest.mark.asyncio
async def test_an_error_of_the_sandbox_itself_is_logged(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of its own code is answered 500, and its traceback is logged."""
    monkeypatch.setattr(caller.sandbox._account, "capture", lambda _: 1 / 0)

    reply = await caller.capture("x")

    assert reply.status == 500
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


def _bodies(random: Random) -> list[bytes]:
    """Bodies of every kind: bytes, broken JSON, and JSON with wrong values in the right fields."""
    values: list[object] = [None, True, -1, 0, 10**400, 1.5, "", "a" * 100_000, "\x00\u202e\ud83d", [], {}, [[]]]
    names = [
        "amount",
        "statement",
        "to_bank_account_id",
        "to_bank_account",
        "contact_id",
        "email",
        "tags",
        "callback_url",
    ]
    names += ["max_batch_size", "replay_from_event_id", "replay_from_timestamp", "callback_api_key", "name", "note"]
    made = [b"", b"\xff\xfe", b"{", b"[" * 100_000, b'{"amount": 1e999999999}', b'{"a": NaN}', b'"\\ud800"', b"{}" * 9]
    made += [random.randbytes(random.randrange(1, 200)) for _ in range(10)]
    for _ in range(20):
        fields = {name: random.choice(values) for name in random.sample(names, 8)}
        made.append(json.dumps(fields).encode(errors="surrogatepass"))
    return made


@pytest.mark.asyncio
async def test_bad_bodies(caller: Caller) -> None:
    """No body makes any call of the API, or of the control API, answer 5xx."""
    random = Random(1)
    paths = [(route.method, route.path) for route in caller.sandbox._api.routes()]
    control = (await caller.call("GET", "/_sandbox/api/openapi.json")).document["paths"]
    paths += [(method.upper(), path) for path, methods in control.items() for method in methods if "drain" not in path]
    statuses: set[int] = set()
    for body in _bodies(random):
        for method, path in random.sample(paths, 12):
            reply = await caller.call(method, path, data=body, headers={"Content-Type": "application/json"})
            statuses.add(reply.status)

    assert statuses <= {200, 201, 400, 401, 404, 409, 413, 415, 422}
    assert {404, 422} <= statuses
    caller.sandbox.reset()
    assert await answers(caller)


@pytest.mark.asyncio
async def test_a_body_that_is_too_large(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a megabyte is answered 413, but for a snapshot, which may be much larger."""
    headers = {"Content-Type": "application/json"}

    async def send(method: str, path: str, body: bytes) -> int:
        return (await caller.call(method, path, data=BytesIO(body), headers=headers)).status

    assert await send("PUT", "/contact", b" " * 2_000_000) == 413
    assert await send("POST", "/_sandbox/api/faults", b" " * 2_000_000) == 413
    snapshot = json.dumps((await caller.call("GET", "/_sandbox/api/snapshot")).document).encode()
    assert await send("POST", "/_sandbox/api/restore", snapshot + b" " * 2_000_000) == 200
    monkeypatch.setattr(_control, "_MOST_BYTES", 1000)
    assert await send("POST", "/_sandbox/api/restore", snapshot) == 413
