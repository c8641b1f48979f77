"""Where keys may be fetched from, and the fetch over HTTP."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from jetpay_async.errors import ConfigurationError
from jetpay_async.webhooks import (
    KeysUnavailableError,
    RemoteKeySet,
)
from jetpay_async.webhooks.keyset import MAX_JWKS_BYTES
from tests.webhooks.signing import KID, OTHER, PRIVATE, jwk, jwks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

URL = "https://api.baselinepayments.com"
OLD = jwks(jwk(PRIVATE.public_key()))
NEW = jwks(jwk(PRIVATE.public_key()), jwk(OTHER.public_key(), "rotated"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.baselinepayments.com", "https://api.baselinepayments.com/.well-known/jwks.json"),
        ("https://api.baselinepayments.com/", "https://api.baselinepayments.com/.well-known/jwks.json"),
        ("https://api.baselinepayments.com:8443", "https://api.baselinepayments.com:8443/.well-known/jwks.json"),
        ("HTTPS://api.baselinepayments.com/keys.json", "HTTPS://api.baselinepayments.com/keys.json"),
        ("http://localhost:8080", "http://localhost:8080/.well-known/jwks.json"),
        ("http://127.0.0.1:8080/keys", "http://127.0.0.1:8080/keys"),
        ("http://127.8.9.1", "http://127.8.9.1/.well-known/jwks.json"),
        ("http://[::1]:8080", "http://[::1]:8080/.well-known/jwks.json"),
    ],
)
def test_addresses(url: str, expected: str) -> None:
    """The API's address leads to the well-known path; an address with a path is the key set's own."""
    assert RemoteKeySet(url).url == expected


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "must begin with https://"),
        ("api.example", "must begin with https://"),
        ("file:///etc/keys.json", "must begin with https://"),
        ("https://", "must begin with https://"),
        ("https://[::1", "is not a URL"),
        ("https://api.baselinepayments.com:port", "is not a URL"),
        ("https://user:hush-hush@api.example", "no credentials"),
        ("https://api.baselinepayments.com/?key=hush-hush", "no credentials"),
        ("https://api.baselinepayments.com/#hush-hush", "no credentials"),
        ("http://api.example", "without encryption"),
        ("http://localhost.evil.example", "without encryption"),
        ("http://127.0.0.1.evil.example", "without encryption"),
        ("http://2130706433", "without encryption"),
        ("http://10.0.0.1", "without encryption"),
        ("https://evil.example", "not a host of Jetpay"),
        ("https://baselinepayments.com.evil.example", "not a host of Jetpay"),
        ("https://evilbaselinepayments.com", "not a host of Jetpay"),
        ("https://evil.example\\.baselinepayments.com", "plain ASCII"),
        ("https://evil\u3002baselinepayments.com", "plain ASCII"),
    ],
)
def test_addresses_that_are_rejected(url: str, problem: str) -> None:
    """Keys come over https, or from this machine, and an address holds no secrets."""
    with pytest.raises(ConfigurationError, match=problem) as caught:
        RemoteKeySet(url)
    assert "hush-hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://gateway.example/keys", "https://gateway.example"),
        ("https://Gateway.example", "https://gateway.example/"),
        ("http://sandbox:8001", "http://sandbox:8001"),
    ],
)
def test_origins_that_are_trusted_besides_jetpay(url: str, origin: str) -> None:
    """Keys from another host, or an unencrypted network, are taken only where the user names that origin."""
    assert RemoteKeySet(url, trusted_origins=[origin]).url
    with pytest.raises(ConfigurationError, match="trusted_origins="):
        RemoteKeySet(url, trusted_origins=["https://another.example"])


@pytest.mark.parametrize(
    "numbers",
    [
        {"max_age": 0},
        {"max_age": -1},
        {"cooldown": 0},
        {"timeout": 0},
        {"max_stale": -1},
        {"max_age": float("inf")},
        {"timeout": float("nan")},
    ],
    ids=str,
)
def test_numbers_that_are_rejected(numbers: dict[str, float]) -> None:
    """A number of seconds that switches a protection off is rejected."""
    with pytest.raises(ConfigurationError, match="must be a number of seconds"):
        RemoteKeySet(URL, **numbers)  # type: ignore[arg-type] # by name


async def _serve(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> TestServer:
    app = web.Application()
    app.router.add_get("/.well-known/jwks.json", answer)
    server = TestServer(app)
    await server.start_server()
    return server


@pytest.mark.asyncio
async def test_the_default_fetch() -> None:
    """By default aiohttp fetches the well-known path, plainly."""
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=OLD, headers={"Set-Cookie": "a=b"})

    server = await _serve(answer)

    for _ in range(2):
        async with RemoteKeySet(str(server.make_url("/"))) as keys:
            assert (await keys.current()).kids == (KID,)
    await server.close()

    assert "Cookie" not in seen[1].headers
    assert seen[0].headers["Accept-Encoding"] == "identity"
    assert seen[0].headers["User-Agent"].startswith("jetpay-async/")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (web.Response(status=302, headers={"Location": "/elsewhere"}), "HTTP status 302"),
        (web.Response(status=404), "HTTP status 404"),
        (web.Response(status=503, body=OLD), "HTTP status 503"),
        (web.Response(status=204), "HTTP status 204"),
        (web.Response(text="<html>"), "not JSON"),
        (web.Response(body=b"x" * (MAX_JWKS_BYTES * 3)), "the key set is too large"),
        (web.Response(body=gzip.compress(OLD), headers={"Content-Encoding": "gzip"}), "not JSON"),
    ],
    ids=["redirect", "404", "503", "204", "HTML", "too large", "compressed"],
)
async def test_what_the_default_fetch_refuses(response: web.Response, problem: str) -> None:
    """A redirect, any other status, too much, or what isn't plain JSON is no key set."""

    async def answer(_: web.Request) -> web.Response:
        return response

    server = await _serve(answer)
    keys = RemoteKeySet(str(server.make_url("/")))

    with pytest.raises(KeysUnavailableError) as caught:
        await keys.current()
    await server.close()

    assert problem in str(caught.value.facts["problem"])


@pytest.mark.asyncio
async def test_an_endless_key_set() -> None:
    """No more is read than a key set may have."""
    chunks = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal chunks
        response = web.StreamResponse()
        await response.prepare(request)
        for chunks in range(1000):  # noqa: B007 - counted
            await response.write(b" " * 65536)
        return response

    server = await _serve(answer)
    keys = RemoteKeySet(str(server.make_url("/")))

    with pytest.raises(KeysUnavailableError):
        await keys.current()
    await server.close()

    assert chunks < 500
