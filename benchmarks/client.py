"""What does a capture cost on top of aiohttp? Against the code that a careful user writes, and a specialist's.

Client and server each have a core of their own, if there are two. The server answers from memory; its own count
confirms the number of requests.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import sys
from collections.abc import Awaitable, Callable, Coroutine
from multiprocessing.connection import Connection
from typing import Any, cast

import aiohttp
import orjson
import uvloop
from measuring import compare, show
from yarl import URL

from jetpay_async import JetpayClient

CAPTURES = 4000
IN_FLIGHT = 64
TOKEN = "benchmark"

Runner = Callable[[Coroutine[Any, Any, None]], None]


class Answer(asyncio.Protocol):
    """The guide's answer to a capture, at once."""

    requests = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        match = re.match(rb"POST /debit/([^/]+)/capture HTTP/1.1\r\n", data)
        assert match is not None
        assert data.endswith(b"\r\n\r\n")
        Answer.requests += 1
        body = b'{"identifier": "%b", "state": "paid"}' % match[1]
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )


def serve(pipe: Connection) -> None:
    """Serve until told to stop, then say how many requests came."""
    pin(-1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await loop.run_in_executor(None, pipe.recv)
        pipe.send(Answer.requests)

    uvloop.run(main())


def pin(index: int) -> None:
    """Stay on one core."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[index]})


async def crew(capture: Callable[[str], Awaitable[object]]) -> None:
    """Capture with a fixed number of workers."""
    numbers = iter(range(CAPTURES))

    async def work() -> None:
        for number in numbers:
            await capture(f"debit_{number}")

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


async def by_hand(url: str) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=IN_FLIGHT)) as session:

        async def capture(debit_id: str) -> object:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with session.post(f"{url}/debit/{debit_id}/capture", headers=headers) as response:
                return orjson.loads(await response.read())

        await crew(capture)


async def tuned(url: str) -> None:
    base = URL(url)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT),
        headers={"Authorization": f"Bearer {TOKEN}"},
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=30.0),
    ) as session:

        async def capture(debit_id: str) -> object:
            response = await session.post(base.with_path(f"/debit/{debit_id}/capture", encoded=True))
            return orjson.loads(await response.read())

        await crew(capture)


async def ours(url: str) -> None:
    async with JetpayClient(TOKEN, base_url=url, max_connections=IN_FLIGHT) as client:
        await crew(client.capture)


async def given(url: str) -> None:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        client = JetpayClient(TOKEN, base_url=url, session=session)
        await crew(client.capture)
        await client.aclose()


def main() -> None:
    """Print the table for asyncio and for uvloop."""
    pipe, other = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(other,))
    process.start()
    url = f"http://127.0.0.1:{pipe.recv()}"
    pin(0)
    expected = 0

    def variant(run: Runner, capture_all: Callable[[str], Coroutine[Any, Any, None]]) -> Callable[[], int]:
        def once() -> int:
            nonlocal expected
            expected += CAPTURES
            run(capture_all(url))
            return CAPTURES

        return once

    for name, run in (("asyncio", asyncio.run), ("uvloop", uvloop.run)):
        variants = {
            "aiohttp by hand": by_hand,
            "aiohttp tuned": tuned,
            "jetpay_async": ours,
            "..., a given session": given,
        }
        figures = compare({label: variant(run, capture_all) for label, capture_all in variants.items()})
        show(
            f"capture, {IN_FLIGHT} in flight, {name}, Python {sys.version.split()[0]}, aiohttp {aiohttp.__version__}",
            figures,
        )
        by_label = {figure.name: figure for figure in figures}
        layer = by_label["jetpay_async"].microseconds / by_label["aiohttp tuned"].microseconds
        print(f"jetpay_async / aiohttp tuned, of the medians: {layer:.2f}")
    pipe.send(None)
    answered = pipe.recv()
    process.join()
    print(f"\nrequests answered: {answered}, expected: {expected}")
    if answered != expected:
        sys.exit(1)


if __name__ == "__main__":
    main()
