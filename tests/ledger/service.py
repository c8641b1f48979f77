"""A Jetpay in the test's own process that does as it is told, debit by debit, and does not protect itself."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

import attrs

from jetpay_async import JetpayClient, RetryPolicy

FAST = RetryPolicy(max_attempts=3, base_delay=0.005, max_delay=0.01, resolve_after=0.02, resolve_after_timeout=0.02)

Reply = tuple[int, object]
PAID = "paid"
"""Capture, and say so."""
LOSE = "lose"
"""Hang up, and do nothing."""
LOSE_AFTERWARDS = "lose afterwards"
"""Capture, and hang up."""
WAIT = "wait"
"""Capture when `Service.go` is set."""


@attrs.define
class Service:
    """What it does with each debit, and what it did."""

    captures: Counter[str] = attrs.Factory(Counter)
    requests: Counter[str] = attrs.Factory(Counter)
    """By debit, for captures; under ``"status"`` for all reads."""
    script: defaultdict[str, list[str | Reply]] = attrs.Factory(lambda: defaultdict(list))
    """What is done with the next capture requests of a debit, `PAID` when it is played."""
    always: str | Reply | None = None
    """What is done with every capture request instead."""
    states: dict[str, str | Reply] = attrs.Factory(dict)
    """What a debit's status says instead of the truth."""
    go: asyncio.Event = attrs.Factory(asyncio.Event)
    arrived: asyncio.Event = attrs.Factory(asyncio.Event)
    in_flight: int = 0
    peak: int = 0
    url: str = ""

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[Self]:
        """Serve on loopback."""
        connections: set[asyncio.StreamWriter] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(writer)
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    method, target, _ = head.decode().split(" ", 2)
                    debit_id = target.split("/")[2]
                    reply = self.status(debit_id) if method == "GET" else await self.capture(debit_id)
                    if reply is None:
                        break
                    body = json.dumps(reply[1]).encode()
                    writer.write(
                        b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                        % (reply[0], len(body), body)
                    )
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()
                connections.discard(writer)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.go.set()
            for writer in connections:
                writer.transport.abort()
            await asyncio.sleep(0)

    def status(self, debit_id: str) -> Reply:
        self.requests["status"] += 1
        said = self.states.get(debit_id, "paid" if self.captures[debit_id] else "preauthorized")
        return (200, {"state": said}) if isinstance(said, str) else said

    async def capture(self, debit_id: str) -> Reply | None:
        self.requests[debit_id] += 1
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        self.arrived.set()
        script = self.script[debit_id]
        act = self.always or (script.pop(0) if script else PAID)
        if act == WAIT:
            await self.go.wait()
        self.in_flight -= 1
        if isinstance(act, tuple):
            return act
        if act != LOSE:
            self.captures[debit_id] += 1
        return None if act in {LOSE, LOSE_AFTERWARDS} else (200, {"identifier": debit_id, "state": "paid"})


@asynccontextmanager
async def serving(*, timeout: float = 20.0, retry: RetryPolicy = FAST) -> AsyncIterator[tuple[Service, JetpayClient]]:
    """A service and a client to it."""
    async with (
        Service().listen() as service,
        JetpayClient("token-that-must-not-show", base_url=service.url, timeout=timeout, retry=retry) as client,
    ):
        yield service, client


def debits(count: int) -> list[str]:
    """Some ids."""
    return [f"debit_{number}" for number in range(count)]
