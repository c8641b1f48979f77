"""Serve the documentation's apps, each behind a real server on loopback."""

from __future__ import annotations

import asyncio
import importlib
import re
import socket
import sys
from base64 import urlsafe_b64encode
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

import aiohttp
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa

from jetpay_async.webhooks import sign

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    import pytest
    import uvicorn

    from jetpay_async.models import JSONValue

ROOT = Path(__file__).parents[2]
PATH = "/webhooks/jetpay"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

Server: TypeAlias = "Callable[[object], AbstractAsyncContextManager[str]]"


def blocks() -> dict[str, str]:
    """Every Python block of the documentation whose first line names it, by that name."""
    found: dict[str, str] = {}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"^```python\n(# (\w+)\.py\n.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            assert found.setdefault(block[1], block[0]) == block[0], f"{page.name}: another {block[1]}.py"
    return found


class Pages:
    """The documentation's blocks, saved as their first lines say, in a folder that is the current one."""

    def __init__(self, folder: Path, patched: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._names = set(blocks())
        for name, text in blocks().items():
            (folder / f"{name}.py").write_text(text)
        patched.chdir(folder)
        patched.syspath_prepend(folder)

    def change(self, name: str, old: str, new: str) -> None:
        """Put something of this machine's, such as a free port, into a block."""
        block = self._folder / f"{name}.py"
        text = block.read_text()
        assert old in text
        block.write_text(text.replace(old, new))

    def load(self, name: str) -> ModuleType:
        """Run a block as a module."""
        return importlib.import_module(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let the next test run them anew."""
        for name in self._names & set(sys.modules):
            del sys.modules[name]


def _number(value: int) -> str:
    return urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big")).rstrip(b"=").decode()


_PUBLIC = KEY.public_key().public_numbers()
JWKS: dict[str, JSONValue] = {
    "keys": [
        {"kty": "RSA", "kid": "key-1", "use": "sig", "alg": "RS256", "n": _number(_PUBLIC.n), "e": _number(_PUBLIC.e)}
    ]
}


def authorization(body: bytes) -> str:
    return sign(body, KEY, kid="key-1")


@asynccontextmanager
async def key_server() -> AsyncGenerator[str]:
    """Publish `JWKS` as Jetpay does."""

    async def jwks(_: web.Request) -> web.Response:
        return web.json_response(JWKS)

    app = web.Application()
    app.router.add_get("/.well-known/jwks.json", jwks)
    async with aiohttp_web(app) as url:
        yield url


@asynccontextmanager
async def aiohttp_web(app: object) -> AsyncGenerator[str]:
    assert isinstance(app, web.Application)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    listening = listen()
    await web.SockSite(runner, listening).start()
    try:
        yield _url(listening)
    finally:
        await runner.cleanup()
        listening.close()


@asynccontextmanager
async def asgi(app: object, *, port: int = 0) -> AsyncGenerator[str]:
    import uvicorn

    config = uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1)  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    listening = listen(port)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        await _answering(server, serving)
        yield _url(listening)
    finally:
        server.should_exit = True
        await serving
        listening.close()


@asynccontextmanager
async def sanic(app: object) -> AsyncGenerator[str]:
    from sanic import Sanic

    assert isinstance(app, Sanic)
    listening = listen()
    app.config.TOUCHUP = False  # it rewrites methods of Sanic's own classes, which works once in a process
    server = await app.create_server(sock=listening, return_asyncio_server=True, access_log=False)
    assert server is not None
    try:
        await server.startup()
        await server.before_start()
        await server.after_start()
        await server.start_serving()
        yield _url(listening)
    finally:
        await server.before_stop()
        server.close()
        await server.wait_closed()
        await server.after_stop()
        Sanic.unregister_app(app)


async def post(url: str, body: bytes, token: str | None) -> int:
    headers = {"Content-Type": "application/json"} | ({} if token is None else {"Authorization": token})
    async with aiohttp.request("POST", url, data=BytesIO(body), headers=headers) as response:
        return response.status


async def _answering(server: uvicorn.Server, serving: asyncio.Task[None]) -> None:
    async with asyncio.timeout(5):
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)


def listen(port: int = 0) -> socket.socket:
    """Listen on loopback, on any free port unless told which."""
    listening = socket.create_server(("127.0.0.1", port))
    listening.setblocking(False)
    return listening


def _url(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"
